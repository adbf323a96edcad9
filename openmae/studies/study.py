"""A study: a table of parts, each of which is done once; the same command again goes on where it was, and several
processes share the parts.

A part is an ordinary run, or what is measured of one. A process takes a part that is not done and that no other is at;
what it needs done before it is named with it. Where nothing is left to take, it waits for the others, or leaves.
"""

import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.words import duration, on_one_line, several
from openmae.errors import Interrupted, NotWritten, RankLost, UserError
from openmae.files.study import PARTS
from openmae.studies.kept import Found, Kept, PartLock
from openmae.train.environment import source

_PAUSE = 0.5  # seconds, before a process that waits looks again


@dataclass(frozen=True)
class Part:
    """name: unlike all others'; what lies below the study's folder is called so. kind: parts of one kind take about as
    long. said: in the line that it begins with. do: does it, or goes on with it, and gives its figures, plain values.
    seconds: that it is expected to take, where something tells. after: parts that have to be done before."""

    name: str
    kind: str
    said: str
    do: Callable[[], dict[str, Any]]
    seconds: float | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Share:
    """Of a process that works beside others: the `number`-th of `of`, from 1. It begins with another part than they do,
    and leaves where the others are enough for what is left."""

    number: int
    of: int

    def first(self, parts: Sequence[Part]) -> list[Part]:
        """The parts, from this process's own share on."""
        start = len(parts) * (self.number - 1) // self.of
        return [*parts[start:], *parts[:start]]


@dataclass(frozen=True)
class Progress:
    """Of all parts. failed: of those that are done. running: by whomever."""

    of: int
    done: int
    failed: int
    running: int
    seconds_left: float | None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {duration(self.seconds_left)} left"
        failed = f" ({self.failed} failed)" if self.failed else ""
        return f"{self.done} of {several(self.of, 'part')} done{failed}, {self.running} running{left}"


class Study:
    """An open study folder.

    endures: a part that fails is noted as such, and the others go on; the next start of the command tries it once more.
    Otherwise what it raises is raised.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        asked: dict[str, Any],
        console: Console,
        *,
        endures: bool = False,
        other_code: bool = False,
    ) -> None:
        """Takes the folder, or makes it. kind: the command that asks; asked: what decides the figures, plain values;
        other_code: whether other code may go on than has begun.

        Raises UserError where it belongs to something else or to a study of something else, or cannot be written.
        """
        self.path, self.kind, self.console, self._endures = path, kind, console, endures
        self.kept = Kept(path, kind, asked, other_code=other_code)
        self.parts: dict[str, Found] = {}
        self._began = time.time()

    def figures(self, name: str) -> dict[str, Any] | None:
        """Of a part; None where it is not done, or failed."""
        found = self.parts.get(name)
        return None if found is None or "failed" in found else dict(found["figures"])

    def why_failed(self, name: str) -> str | None:
        """A sentence; None where it did not."""
        found = self.parts.get(name)
        return None if found is None or "failed" not in found else str(found["failed"])

    def notes(self) -> list[str]:
        """What is to be known of the figures: a sentence where not all parts that are done were done by one code."""
        codes = {found["code"] for found in self.parts.values() if "code" in found}
        if len(codes) < 2:
            return []
        return [
            f"Parts were done by {len(codes)} different states of openmae's code (--other-code), which may differ too."
        ]

    def look(self, parts: Iterable[Part]) -> None:
        """Takes note of what is done by now, by whomever."""
        for part in parts:
            is_open = part.name not in self.parts or "failed" in self.parts[part.name]
            if is_open and (found := self.kept.part(part.name)) is not None:
                self.parts[part.name] = found

    def is_done(self, name: str) -> bool:
        """Whether nothing is left to do of it: what failed before this start is to be tried once more."""
        found = self.parts.get(name)
        return found is not None and not ("failed" in found and float(found["at"]) < self._began)

    def do(
        self,
        parts: Sequence[Part],
        whole: Sequence[Part],
        share: Share | None = None,
        after_each: Callable[[], object] = lambda: None,
    ) -> bool:
        """Does those of the parts that are not done, one after the other; says which of the `whole` study's is under
        way, and how long those that are left may take. Gives whether it did any.

        share: of a process that does not wait for others. after_each: called when a part is done. Raises what a part
        raises, but where the study endures it; those before it are done.
        """
        did, is_told = False, False
        while True:
            self.look(whole)
            undone = [part for part in parts if not self.is_done(part.name)]
            if not undone:
                return did
            if self._give_up(undone):
                continue
            ready = [part for part in undone if all(map(self.is_done, part.after))]
            taken = self._take(ready if share is None else share.first(ready))
            if taken is None:
                if share is not None and self._is_in_hand(undone):
                    return did
                if not is_told:
                    self.console.print(f"\nOther processes are at {several(len(undone), 'part')}: waiting for them")
                is_told = True
                time.sleep(_PAUSE)
                continue
            part, lock = taken
            try:
                self._do(part, whole)
            finally:
                lock.let_go()
            did = True
            after_each()

    def progress(self, whole: Sequence[Part]) -> Progress:
        """Of all processes together."""
        self.look(whole)
        done = [part for part in whole if self.is_done(part.name)]
        running = sum(not self.is_done(part.name) and self.kept.is_under_way(part.name) for part in whole)
        failed = sum(self.why_failed(part.name) is not None for part in done)
        known, unknown = self._left(whole)
        left = None if unknown and not known else known / max(1, running)
        return Progress(len(whole), len(done), failed, running, left)

    def _take(self, parts: Iterable[Part]) -> tuple[Part, PartLock] | None:
        """The first part that no other process is at, nor has just done."""
        for part in parts:
            if (lock := self.kept.take(part.name)) is None:
                continue
            self.look([part])
            if not self.is_done(part.name):
                return part, lock
            lock.let_go()
        return None

    def _is_in_hand(self, undone: Sequence[Part]) -> bool:
        """Whether the processes that are at some of the parts are enough for what they will leave to do."""
        running = sum(self.kept.is_under_way(part.name) for part in undone)
        return 0 < running >= len(undone) - running

    def _give_up(self, undone: Sequence[Part]) -> bool:
        """Notes that parts cannot be done, for want of one that failed; gives whether there were any."""
        given_up = False
        for part in undone:
            lacking = next((name for name in part.after if self.is_done(name) and self.why_failed(name)), None)
            if lacking is not None:
                self._keep(part, 0.0, {}, f"{lacking} failed, which it needs")
                given_up = True
        return given_up

    def _do(self, part: Part, whole: Sequence[Part]) -> None:
        number = [one.name for one in whole].index(part.name) + 1
        known, unknown = self._left(whole)
        left = f" ({'at least' if unknown else 'about'} {duration(known)} left)" if known else ""
        self.console.print(f"\n{number} of {len(whole)}: {part.said}{left}", soft_wrap=True, style="bold")
        began, failed = time.monotonic(), None
        figures: dict[str, Any] = {}
        try:
            figures = part.do()
        except (Interrupted, NotWritten, RankLost, OSError):  # which the next part would meet too
            raise
        except Exception as error:
            if not self._endures:
                raise
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            failed = on_one_line(with_flags(said))
            if not isinstance(error, UserError):
                file = self.path / PARTS / f"{part.name}.txt"
                file.write_text(traceback.format_exc(), encoding="utf-8")
            self.console.print(f"{part.name} failed: {failed}; the others go on", style="yellow", soft_wrap=True)
        self._keep(part, round(time.monotonic() - began, 1), figures, failed)

    def _keep(self, part: Part, seconds: float, figures: dict[str, Any], failed: str | None) -> None:
        found: Found = {"kind": part.kind, "seconds": seconds, "figures": figures, "code": source()}
        if part.seconds is not None:
            found["expected"] = float(f"{part.seconds:.4g}")  # of tiny models less than 0.1
        if failed is not None:
            found |= {"failed": failed, "at": time.time()}
        self.kept.keep(part.name, found)
        self.parts[part.name] = found

    def _left(self, parts: Sequence[Part]) -> tuple[float, int]:
        """(about how many seconds the parts that are not done take, of what those of their kind took and of what was
        expected; how many of them nothing tells of)."""
        took: dict[str, list[float]] = {}
        expected: dict[str, list[float]] = {}
        for one in self.parts.values():
            if "failed" not in one:
                took.setdefault(str(one.get("kind")), []).append(float(one["seconds"]))
                if "expected" in one:
                    expected.setdefault(str(one.get("kind")), []).append(float(one["expected"]))
        known, unknown = 0.0, 0
        for part in parts:
            if self.is_done(part.name):
                continue
            before = took.get(part.kind, [])
            told = expected.get(part.kind, [])
            if part.seconds is not None and len(told) == len(before) and (not told or sum(told) > 0):
                known += part.seconds * (sum(before) / sum(told) if told else 1.0)
            elif before:
                known += sum(before) / len(before)
            elif part.seconds is not None:
                known += part.seconds
            else:
                unknown += 1
        return known, unknown
