"""The folder of a study: a table of parts, each of which is done once; the same command again goes on where it was.

A part is an ordinary run, or what is measured of one. study.json says what was asked and which parts are done, with
their figures and the seconds that they took.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console

from openmae.console.words import duration
from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.files.whole import take_lock, write_file
from openmae.report.page.study import STUDY
from openmae.train.run import differences


@dataclass(frozen=True)
class Part:
    """name: unlike all others'; what lies below the study's folder is called so. kind: parts of one kind take about as
    long. said: in the line that it begins with. do: does it, or goes on with it, and gives its figures, plain values.
    seconds: that it is expected to take, where something tells."""

    name: str
    kind: str
    said: str
    do: Callable[[], dict[str, Any]]
    seconds: float | None = None


class Study:
    """An open study folder, locked against a second process until closed; a context manager."""

    def __init__(self, path: Path, kind: str, asked: dict[str, Any], console: Console) -> None:
        """Takes the folder, or makes it. kind: the command that asks; asked: what decides the figures, plain values.

        Raises UserError where it belongs to something else or to a study of something else, another process works in
        it, or it cannot be written.
        """
        self.path, self.kind, self.asked, self.console = path, kind, json.loads(json.dumps(asked)), console
        _check_place(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] | None = take_lock(path / "lock")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})", "choose another `out`") from error
        if self._lock is None:
            raise UserError(f"another process works in {path}", "wait for it, or choose another `out`")
        try:
            self.parts = self._begun()
        except UserError:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.close()

    def figures(self, name: str) -> dict[str, Any] | None:
        """Of a part; None where it is not done."""
        found = self.parts.get(name)
        return None if found is None else dict(found["figures"])

    def do(self, parts: Sequence[Part], whole: Sequence[Part]) -> bool:
        """Does those of the parts that are not done, one after the other; says which of the `whole` study's is under
        way, and how long those that are left may take. Gives whether there were any.

        Raises what a part raises; those before it are done.
        """
        undone = [part for part in parts if part.name not in self.parts]
        for part in undone:
            number = [one.name for one in whole].index(part.name) + 1
            self.console.print(
                f"\n{number} of {len(whole)}: {part.said}{self._left(whole)}", soft_wrap=True, style="bold"
            )
            began = time.monotonic()
            figures = part.do()
            seconds = round(time.monotonic() - began, 1)
            self.parts[part.name] = {"kind": part.kind, "seconds": seconds, "figures": figures}
            self._keep()
        return bool(undone)

    def _left(self, parts: Sequence[Part]) -> str:
        """About how long these take, of what those of their kind took; "" where nothing tells."""
        took: dict[str, list[float]] = {}
        for one in self.parts.values():
            took.setdefault(str(one.get("kind")), []).append(float(one["seconds"]))
        known, unknown = 0.0, 0
        for part in parts:
            if part.name in self.parts:
                continue
            if part.kind in took:
                known += sum(took[part.kind]) / len(took[part.kind])
            elif part.seconds is not None:
                known += part.seconds
            else:
                unknown += 1
        if not known:
            return ""
        return f" ({'at least' if unknown else 'about'} {duration(known)} left)"

    def _begun(self) -> dict[str, dict[str, Any]]:
        """The parts that are done. Raises UserError where the folder is of another study, or study.json is damaged."""
        file = self.path / STUDY
        if not file.exists():
            return {}
        try:
            found = read_json(file.read_bytes())
            kind, asked, parts = found["kind"], dict(found["asked"]), dict(found["parts"])
            _ = [(float(one["seconds"]), dict(one["figures"])) for one in parts.values()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error!r})", "begin anew in another `out`") from error
        if kind != self.kind:
            raise UserError(f"{self.path} holds a study of openmae {kind}", "choose another `out`")
        differing = [name for name in {**asked, **self.asked} if asked.get(name) != self.asked.get(name)]
        if differing:
            said = differences(asked, self.asked, differing)
            raise UserError(f"{self.path} holds a study with {said}", "choose another `out`, or ask the same again")
        return parts

    def _keep(self) -> None:
        values = {"kind": self.kind, "asked": self.asked, "parts": self.parts}
        try:
            write_file(self.path / STUDY, json.dumps(values, indent=1).encode())
        except OSError as error:
            raise UserError(f"{self.path / STUDY} cannot be written ({error.strerror})", "make room") from error


def _check_place(path: Path) -> None:
    """Raises UserError where something else lies there."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file", "choose another `out`")
    if (path / "config.toml").exists():
        raise UserError(f"{path} is a run, and a study is a folder of runs", "choose another `out`")
    if path.is_dir() and not (path / STUDY).exists():
        found = [place.name for place in path.iterdir() if place.name != "lock" and not place.name.startswith(".")]
        if found:
            raise UserError(f"{path} is not empty and is not a study", "choose another `out`")
