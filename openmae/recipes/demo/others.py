"""Images beside the user's own: some of those that the model is of, and the nearest of a set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from openmae.console import words
from openmae.console.progress import counting
from openmae.data.formats.reading import Reading
from openmae.data.held_out import split_for
from openmae.data.opening import Data, open_data
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.errors import BrokenImage, UserError
from openmae.evaluate.features import centred_images, extract, pooled
from openmae.evaluate.neighbours import nearest
from openmae.evaluate.suited import suited
from openmae.machine.workers import workers_for
from openmae.recipes.demo.viewing import Viewed, view
from openmae.recipes.learnt import learnt_from, selected_then
from openmae.recipes.opened import tell
from openmae.recipes.pretrain.job import sources_of
from openmae.weights import Loaded

SAMPLES = 12
NEAREST = 8


@dataclass(frozen=True)
class Others:
    """Images by their numbers, read when they are asked for. said: what they are, a clause; empty of none."""

    loaded: Loaded
    asked: Reading
    source: Source | None = None
    chosen: Sequence[int] = ()
    said: str = ""

    def name(self, number: int) -> str:
        """What it is called, safe to show."""
        source, index = self._of(number)
        return words.drawable("/".join(Path(source.name(index)).parts[-2:]))

    def view(self, number: int) -> Viewed:
        """What the model sees of it. Raises UserError where it cannot be read any more."""
        source, index = self._of(number)
        try:
            data = source.read(index)
        except (OSError, BrokenImage) as error:
            raise UserError(f"{self.name(number)} cannot be read ({error})", "choose another") from error
        return view(self.loaded, self.asked, self.name(number), data)

    def _of(self, number: int) -> tuple[Source, int]:
        if self.source is None or not 0 <= number < len(self.chosen):
            raise UserError("there is no such image", "open one of yours")
        return self.source, self.chosen[number]


def samples_of(model: Path, loaded: Loaded, asked: Reading) -> Others:
    """Some of the images that the model is of, spread over them: those held out from its training, where it had any.
    None where these are not there, or not said."""
    try:
        if not (place := learnt_from(model, loaded)):
            return Others(loaded, asked)
        data = open_data(place, selected_then(loaded))
        source, is_held_out = _held_out(data, loaded)
    except (UserError, OSError):
        return Others(loaded, asked)
    chosen = np.unique(np.linspace(0, len(source) - 1, SAMPLES).round().astype(int)).tolist()
    said = "images that its training has not seen" if is_held_out else "some of the images that it learnt from"
    return Others(loaded, asked, source, chosen, said)


def _held_out(data: Data, loaded: Loaded) -> tuple[Source, bool]:
    """The images that a training set aside, and whether it did; all where it did not, or does not say how. Raises
    UserError where DATA is not as it was."""
    provenance, task = loaded.info["provenance"], loaded.info["task"]
    seed = provenance.get("seed")
    if data.has_splits:
        return data.val, True
    if provenance.get("job") == "pretrain" and seed is not None:
        train, _, shown = sources_of(data, seed)
        return (shown, True) if len(train) < len(data.train) else (data.all, False)
    if provenance.get("job") == "finetune" and seed is not None and task is not None:
        return split_for(data, task, seed)[2], True
    return data.all, False


@dataclass(frozen=True)
class Neighbours:
    """The images of a set, and a vector (n, D) of each that can be read."""

    others: Others
    vectors: Tensor
    device: torch.device

    def of(self, viewed: Viewed) -> list[tuple[int, float]]:
        """(number, cosine similarity) of the nearest, nearest first."""
        embed = pooled(self.others.loaded.encoder, viewed.statistics, "mean")
        query = embed(viewed.image.to(self.device)).float().cpu()
        similarity, number = nearest(query, [self.vectors], NEAREST)
        return list(zip(number[0].tolist(), similarity[0].tolist(), strict=True))


def neighbours_in(
    data: str, selection: Selection, asked: Reading, loaded: Loaded, device: torch.device, console: Console
) -> Neighbours:
    """Embeds all images of DATA: the mean of the patch tokens after the last block. Raises UserError."""
    opened = open_data(data, selection, asked)
    source = opened.all
    tell(opened, console)
    workers = workers_for(None, device)
    fitted = suited(loaded, source, asked, workers, console)
    loaded.encoder.to(device).eval()
    seen = centred_images(fitted.encoder, fitted.statistics, source)
    with counting("embedding", len(source), console) as say:
        vectors, indices = extract(
            seen, pooled(fitted.encoder, fitted.statistics, "mean"), device, workers, progress=say
        )
    if len(indices) < len(source):
        missing = words.images(len(source) - len(indices))
        console.print(f"{missing} of {opened.location} could not be read, and are left out", style="yellow")
    said = f"{words.images(len(indices))} in {opened.location}"
    return Neighbours(Others(fitted, asked, source, indices.tolist(), said), vectors, device)
