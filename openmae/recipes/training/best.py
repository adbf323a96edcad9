"""The weights that did best on the val images, kept beside the last ones: RUN/best, which is loaded as any model is."""

import math
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.files.parsing import read_json
from openmae.files.whole import whole_folder
from openmae.report.page.results import called, shown_value

FOLDER = "best"
LESS_IS_BETTER = ("loss", "mae", "rmse")
ENOUGH_TO_TELL = 200  # val images


class BestWeights:
    """RUN/best: model.safetensors and model.json, together complete or as they were before.

    What is best so far is read from what lies there, and a look after a step is taken anew by a start that was killed
    in it: so it is the same whatever happened in between. A run that begins anew takes away what another has left.
    """

    def __init__(self, run: Path, metric: str, has_begun: bool, console: Console) -> None:
        self.folder, self.metric, self.console = run / FOLDER, metric, console
        if not has_begun:
            shutil.rmtree(self.folder, ignore_errors=True)

    def look(self, now: dict[str, Any], save: Callable[[Path, dict[str, Any]], None]) -> None:
        """Keeps the weights of a step where they are the best so far. now: what was found of them, as `found` makes it.
        save: writes them into a folder, with what to say of them in their model.json. A disk that does not take them is
        said, and no reason to stop."""
        step, before = now["step"], self.record()
        if not math.isfinite(now["figure"]):
            return
        if before is not None and before["step"] < step and not self._is_better(now["figure"], before["figure"]):
            return
        try:
            with whole_folder(self.folder) as aside:
                save(aside, now)
        except OSError as error:
            said = f"warning: the best weights, of step {step}, are not kept: {error}"
            self.console.print(said, style="yellow", soft_wrap=True)

    def found(self, step: int, figure: float, error: float | None, images: int) -> dict[str, Any]:
        """What is kept of a look: which figure, how large, its standard error (None where it has none), of how many
        images."""
        return {"step": step, "metric": self.metric, "figure": figure, "error": error, "images": images}

    def record(self) -> dict[str, Any] | None:
        """What is kept of the best look so far; None where there is nothing, or nothing whole, of this figure."""
        try:
            found = read_json((self.folder / "model.json").read_bytes())["provenance"]["best"]
            is_whole = (self.folder / "model.safetensors").exists() and found["metric"] == self.metric
            return {**found, "step": int(found["step"]), "figure": float(found["figure"])} if is_whole else None
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def looks_since(self, looks: Collection[int], step: int) -> int:
        """How many of the looks, up to the one at `step`, came after the best one."""
        best = self.record()
        return sum(1 for look in looks if (0 if best is None else best["step"]) < look <= step)

    def is_enough(self, patience: int, looks: Collection[int], step: int, steps: int) -> bool:
        """Whether the run of so many steps ends after this one, and says so: so many looks came after the best one."""
        if self.looks_since(looks, step) < patience:
            return False
        self.console.print(
            f"Ended after step {step:,} of {steps:,}: {patience} look{'s' * (patience > 1)} at val without a better "
            "one than the best (--patience)",
            soft_wrap=True,
        )
        return True

    def said(self, last: dict[str, Any]) -> str:
        """The best beside the last, as `found` gives it."""
        best = self.record()
        if best is None:
            return f"No weights are kept as the best by {called(self.metric)}"
        shown, by = shown_value(self.metric, best["figure"], best["error"]), called(self.metric)
        if best["step"] == last["step"]:
            return f"The last step is the best by {by}: {shown}; {self.folder} has the same weights"
        apart, noise = abs(best["figure"] - last["figure"]), math.hypot(best["error"] or 0, last["error"] or 0)
        also = " (chance alone makes such figures differ by more)" if apart < noise else ""
        return (
            f"The best by {by} was step {best['step']:,}: {shown}; the last, step {last['step']:,}, has "
            f"{shown_value(self.metric, last['figure'], last['error'])}{also}. The weights of step {best['step']:,} "
            f"are in {self.folder}; they were chosen by these very images, which flatters them"
        )

    def _is_better(self, one: float, other: float) -> bool:
        return one < other if self.metric in LESS_IS_BETTER else one > other
