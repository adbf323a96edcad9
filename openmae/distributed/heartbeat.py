"""Who of the processes that train together is alive: so that nobody waits for a dead or hung one for long.

Every rank's heart beats in a store that all of them reach: how often it beat, and whether it works or waits for the
others. The lead looks at all, the others at the lead. Whoever has not been heard of, or has worked on one thing, for
longer than the timeout is named, and all end with exit code 75.
"""

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from openmae.errors import RUN_AGAIN, RankLost, UserError

_BEATS = 10  # within a timeout
_LONGEST_BEAT = 5.0  # seconds between two
_PATIENCE = 10.0  # seconds for what should take none


class Heart:
    """Beats for this rank, and looks after the others'."""

    def __init__(self, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.every = min(_LONGEST_BEAT, timeout / _BEATS)
        self.place, self.moves, self.beats, self.is_waiting = "the start", 0, 0, False
        self.where = f"process {os.getpid()} on {socket.gethostname()}"
        self._store: Any = PrefixStore("heart", dist.distributed_c10d._get_default_store())
        self._ended = threading.Event()
        self._seen: dict[int, _Seen] = {}
        self._heard = 0.0
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._live, self._watch)]

    def start(self) -> None:
        """Begins, of all ranks together."""
        self._beat()  # so that all keys are there before anyone looks
        dist.barrier()
        self._heard = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Lets the others know that this one leaves in order."""
        self._ended.set()
        for thread in self._threads:  # one that is inside torch as Python ends would abort the process
            thread.join(_PATIENCE)
        with suppress(RuntimeError):
            self._store.set(f"ended/{self.rank}", "")

    def see_all_end(self) -> None:
        """Waits a little for the others, who may still be reading what this one has sent them last."""
        with suppress(RuntimeError):
            self._store.wait([f"ended/{rank}" for rank in range(self.size)], timedelta(seconds=_PATIENCE))

    def move(self, place: str) -> None:
        """Notes that this one has got on with its work, and where it is."""
        self.place, self.moves = place, self.moves + 1

    def complain(self) -> None:
        """Lets the others know that this one leaves for a reason that it says."""
        with suppress(RuntimeError):
            self._store.set("complaint", "")

    def somebody_complained(self) -> bool:
        """Whether another one did."""
        with suppress(RuntimeError):
            return bool(self._store.check(["complaint"]))
        return False

    def loss(self) -> UserError | RankLost:
        """What to raise where an exchange broke off."""
        return UserError("") if self.somebody_complained() else RankLost(self.who_is_lost())

    def who_is_lost(self) -> str:
        """Looks at all ranks for a few beats: who does not beat any more."""
        found = ["rank 0, which keeps what the others look at, does not answer"]
        looking = threading.Thread(target=lambda: found.append(self._look_around()), daemon=True)
        looking.start()
        looking.join(8 * self.every)
        return found[-1]

    def _look_around(self) -> str:
        try:
            began = {rank: self._look(rank) for rank in range(self.size) if rank != self.rank}
            deadline = time.monotonic() + 4 * self.every
            still = set(began)
            while still and time.monotonic() < deadline:
                time.sleep(self.every / 2)
                still = {rank for rank in still if self._look(rank) == began[rank]}
            gone = [rank for rank in sorted(still) if not self._has_ended(rank)]
        except RuntimeError:
            return "rank 0, or torchrun where it runs, has left"
        if not gone:
            return "the connection to another rank broke"
        return _said(gone, "is gone", {rank: began[rank] for rank in gone})

    def _live(self) -> None:
        while not self._ended.wait(self.every):
            try:
                self._beat()
                lost = self._verdict()
            except RuntimeError:  # the store is gone, and with it whoever kept it
                continue
            self._heard = time.monotonic()
            if lost is not None:
                self._give_up(lost)

    def _watch(self) -> None:
        """Whether the one who keeps the store answers; the thread that asks it waits for that."""
        while not self._ended.wait(self.every):
            if time.monotonic() - self._heard > self.timeout + 2 * self.every:
                self._give_up(f"rank 0, or torchrun where it runs, has not answered for {self.timeout:.0f} s")

    def _give_up(self, lost: str) -> None:
        if not self._ended.is_set():
            print(f"openmae: {RankLost(lost)}.", file=sys.stderr, flush=True)
            os._exit(RUN_AGAIN)

    def _beat(self) -> None:
        self.beats += 1
        state = "waits" if self.is_waiting else "works"
        self._store.set(f"{self.rank}", f"{self.beats} {self.moves} {state} {self.where}, last at {self.place}")

    def _verdict(self) -> str | None:
        now = time.monotonic()
        late = {}
        for rank in range(self.size) if self.rank == 0 else [0]:
            found = self._look(rank)
            seen = self._seen.get(rank)
            beats, moves, state, _ = found
            if seen is None or beats != seen.found[0]:
                moved = now if seen is None or moves != seen.found[1] or state == "waits" else seen.moved
                seen = self._seen[rank] = _Seen(found, now, moved)
            if now - min(seen.heard, seen.moved) > self.timeout and not self._has_ended(rank):
                late[rank] = found
        return _said(sorted(late), f"has not got on for {self.timeout:.0f} s", late) if late else None

    def _look(self, rank: int) -> "_Found":
        beats, moves, state, where = self._store.get(f"{rank}").decode(errors="replace").split(" ", 3)
        return int(beats), int(moves), state, where

    def _has_ended(self, rank: int) -> bool:
        return bool(self._store.check([f"ended/{rank}"]))


_Found = tuple[int, int, str, str]
"""Beats, moves, "works" or "waits", and where that is."""


@dataclass(frozen=True)
class _Seen:
    found: _Found
    heard: float
    moved: float


def _said(ranks: list[int], what: str, found: dict[int, _Found]) -> str:
    return " and ".join(f"rank {rank} ({found[rank][3]}) {what}" for rank in ranks)
