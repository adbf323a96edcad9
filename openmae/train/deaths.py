"""What a start of a run had begun when it was killed, as by a system without free memory: the third one that comes to
the same place goes on without it, where it can.

It stands in `.deaths.json` of the run folder while it is under way; one line a death would be too late.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from openmae.distributed.ranks import Ranks
from openmae.errors import RankLost
from openmae.files.parsing import read_json
from openmae.files.whole import write_file

ENOUGH = 2  # deaths at the same place


class Deaths:
    """Of the starts before this one. All ranks know the same; the lead alone writes.

    micro_batch: as many images at once are known to be too many; None where none are.
    """

    def __init__(self, run: Path, ranks: Ranks) -> None:
        self._file, self._leads = run / ".deaths.json", ranks.leads
        found = ranks.from_lead(self._read() if ranks.leads else {})
        self._place, self._times = (found.get("doing"), found.get("step")), int(found.get("times", 0))
        self._left_out: list[int] = list(found.get("left_out", []))
        self.micro_batch: int | None = found.get("micro_batch")

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, TypeError, LookupError):
            found = read_json(self._file.read_bytes())
            whole = [found.get("times", 0), *found.get("left_out", []), found.get("micro_batch") or 1]
            return dict(found) if all(type(number) is int for number in whole) else {}
        return {}

    def at(self, doing: str, step: int) -> bool:
        """Whether ENOUGH starts in a row were killed there."""
        return (doing, step) == self._place and self._times >= ENOUGH

    def is_left_out(self, step: int) -> bool:
        """Whether what is looked at after this step is: it was deadly, or two others were."""
        if step not in self._left_out and self.at("look", step):
            self._left_out.append(step)
            self._forget()
        return step in self._left_out or len(self._left_out) >= ENOUGH

    def too_many(self, micro_batch: int) -> None:
        """Notes that so many images at once were deadly."""
        self.micro_batch = micro_batch
        self._forget()

    @contextmanager
    def under_way(self, doing: str, step: int) -> Iterator[None]:
        """Within, a kill is noted. What ends otherwise was no death, but where another rank's may have been."""
        times = self._times if (doing, step) == self._place else 0
        self._write(doing=doing, step=step, times=times + 1)
        try:
            yield
        except RankLost:
            raise
        except BaseException:
            self._forget()
            raise
        self._forget()

    def _forget(self) -> None:
        self._place, self._times = (None, None), 0
        self._write()

    def _write(self, **under_way: Any) -> None:
        """A disk that refuses it is no reason to end."""
        if not self._leads:
            return
        lasting = {"left_out": self._left_out, "micro_batch": self.micro_batch}
        with suppress(OSError):
            if under_way or any(lasting.values()):
                write_file(self._file, json.dumps({**under_way, **lasting}).encode())
            else:
                self._file.unlink(missing_ok=True)
