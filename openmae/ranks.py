"""Which process this is of those that train together, and what they tell each other.

`torchrun` starts the processes and says so in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ...); one
that was started alone is the only rank, and nothing here costs it anything. Rank 0 leads: it alone touches the run
folder.

Nobody waits for a dead or hung process for long. Every rank's heart beats in a store that all of them reach: how often
it beat, and whether it works or waits for the others. The lead looks at all, the others at the lead. Whoever has not
been heard of, or has worked on one thing, for longer than the timeout is named, and all end with exit code 75.
"""

import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from openmae.errors import RUN_AGAIN, Interrupted, NotWritten, RankLost, UserError, said_once

T = TypeVar("T")

_BEATS = 10  # within a timeout
_LONGEST_BEAT = 5.0  # seconds between two
_PATIENCE = 10.0  # seconds for what should take none
_LAST_WORDS_SECONDS = 1.0  # for whoever says why all stop
_MOST = 10**6  # ranks
_GLANCE = 0.05  # seconds from one look at the store to the next
_MOST_NAMED = 8  # ranks in a sentence


@dataclass(frozen=True)
class Ranks:
    """rank: 0 to size - 1; local_rank, local_size: among those of this machine. heart: None where this one is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    heart: "_Heart | None" = field(default=None, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this one writes and talks for all."""
        return self.rank == 0

    def share(self, count: int, unit: int = 1) -> range:
        """This rank's part of 0..count: runs that differ by at most one `unit`, whole units but for the end."""
        units = -(-count // unit)
        first, last = (min(count, rank * units // self.size * unit) for rank in (self.rank, self.rank + 1))
        return range(first, last)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of the ranks' tensors of this shape, on every rank."""
        if self.size > 1:
            with self.waiting():
                dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks, on every rank. Pickled: for numbers and words of our own."""
        found: list[Any] = [value]
        if self.size > 1:
            found = [None] * self.size
            with self.waiting():
                dist.all_gather_object(found, value)
        return found

    def rows(self, mine: Tensor | None) -> Tensor | None:
        """Every rank's rows (n, ...), on the CPU and of any number, below each other in the order of the ranks, on all
        of them. None is no rows."""
        if self.size == 1:
            return mine
        kinds = self.gather(None if mine is None else (len(mine), tuple(mine.shape[1:]), mine.dtype))
        known = [kind for kind in kinds if kind is not None]
        if not known:
            return None
        counts = [0 if kind is None else kind[0] for kind in kinds]
        padded = torch.zeros(max(counts), *known[0][1], dtype=known[0][2])
        if mine is not None:
            padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in counts]
        with self.waiting():
            dist.all_gather(found, padded)
        return torch.cat([rows[:count] for rows, count in zip(found, counts, strict=True)])

    def from_lead(self, value: T) -> T:
        """The lead's value, on every rank, likewise pickled."""
        box = [value]
        if self.size > 1:
            with self.waiting():
                dist.broadcast_object_list(box, src=0)
        return box[0]

    def spread(self, tensor: Tensor) -> Tensor:
        """Fills the tensor, of the same shape on every rank, with the lead's values."""
        if self.size > 1:
            with self.waiting():
                dist.broadcast(tensor, src=0)
        return tensor

    def at(self, place: str) -> None:
        """Notes that this one has got on with its work."""
        if self.heart is not None:
            self.heart.move(place)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within, this one waits for others, who may be slow. Raises RankLost where one of them is gone."""
        if self.heart is None:
            yield
            return
        self.heart.is_waiting = True
        try:
            yield
        except RuntimeError as error:
            if not _is_of_the_network(error):
                raise
            raise self.heart.loss() from error
        finally:
            self.heart.is_waiting = False
            self.heart.move(self.heart.place)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What raises UserError on one rank raises it on all, so that none is left waiting; only the first one of those
        that had a complaint makes it (the others' message is empty)."""
        complaint: str | None = None
        try:
            yield
        except UserError as error:
            if self.size == 1:
                raise
            complaint = str(error)
        complaints = self.gather(complaint) if self.size > 1 else []
        if any(one is not None for one in complaints):
            # An empty one is of a rank that let another speak before.
            first = next((rank for rank, one in enumerate(complaints) if one), 0)
            raise UserError(complaints[first] or "" if self.rank == first else "")

    @contextmanager
    def opening(self, open_it: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
        """Within what `open_it` gives; where it raises UserError on one rank, it does on all."""
        with self.together():
            opened = open_it()
        with opened as value:
            yield value

    def agree(self, value: str, otherwise: str) -> None:
        """Raises UserError, on all ranks, where one has another value than the lead."""
        values = self.gather(value)
        differing = [rank for rank, one in enumerate(values) if one != values[0]]
        with self.together():
            if self.leads and differing:
                raise UserError(
                    f"{otherwise} where rank {differing[0]} runs than where rank 0 does: give all machines the same"
                )


ALONE = Ranks()


@contextmanager
def joined(device: str, timeout: float) -> Iterator[Ranks]:
    """Joins the others that torchrun (or whoever sets RANK and WORLD_SIZE) has started, and leaves them at the end.

    device: the type that tensors lie on, cpu (gloo) or cuda (NCCL, and gloo for what lies on the CPU).
    timeout: seconds after which a rank that does not answer, or does not get on, is given up.
    Raises UserError where the environment does not make sense, RankLost where the others do not come.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield ALONE
        return
    rank, local_rank = _number("RANK"), _number("LOCAL_RANK", 0)
    if rank >= size:  # nobody would ever answer it
        raise UserError(
            f"RANK is {rank} and WORLD_SIZE {size} in the environment: start several processes with torchrun"
        )
    local_size = _number("LOCAL_WORLD_SIZE", 1)
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"{local_size} processes were started on a machine with {torch.cuda.device_count()} GPUs: give "
                "torchrun --nproc-per-node as many as there are, or --device cpu"
            )
        torch.cuda.set_device(local_rank)
    elif device != "cpu":
        raise UserError(f"several processes cannot share an {device} device: start one, or give --device cpu")
    try:
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        patience = timedelta(seconds=timeout)
        store, _, _ = next(rendezvous("env://", timeout=patience))
        store = _of_this_start(store, rank, size, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
        heart = _Heart(rank, size, timeout)
        heart.start()
    except ValueError as error:
        raise UserError(f"{_first_line(error)}: start several processes with torchrun") from error
    except RuntimeError as error:  # it may be over when they are started again
        raise RankLost(f"the {size} processes do not find each other ({_first_line(error)})") from error
    try:
        yield Ranks(rank, size, local_rank, local_size, heart)
    except RankLost:  # no farewell, which would wait for whoever is lost
        heart.stop()
        raise
    except RuntimeError as error:  # of an exchange that is torch's own, as DDP's when it begins
        if not _is_of_the_network(error):
            raise
        loss = heart.loss()
        heart.stop()
        raise loss from error
    except (UserError, Interrupted, NotWritten) as error:  # of all ranks alike, or of one that others notice
        if isinstance(error, UserError):
            heart.complain()
        elif rank > 0:
            error.args = ("",)  # the lead says it
        heart.stop()
        if not str(error):  # torchrun ends the others as soon as one has left, which may be before they have said it
            time.sleep(_LAST_WORDS_SECONDS)
        dist.destroy_process_group()
        raise
    heart.stop()
    heart.see_all_end()
    dist.destroy_process_group()


def _of_this_start(store: Store, rank: int, size: int, timeout: float) -> Store:
    """The store without what other starts have left in it. torchrun's outlives its restarts, and dead processes'
    addresses, farewells and complaints with it; how often it restarted is not the same on all machines.

    Rank 0 names the start and answers each of the others, which knows by its own mark that the answer is no old one.
    """
    mark, deadline = uuid.uuid4().hex, time.monotonic() + timeout
    store.set(f"came/{rank}", mark)
    name, missing = "", list(range(1, size)) if rank == 0 else [0]
    while missing:
        if time.monotonic() > deadline:
            said = ", ".join(f"rank {other}" for other in missing[:_MOST_NAMED])
            said += ", ..." * (len(missing) > _MOST_NAMED)
            raise RankLost(f"the {size} processes do not find each other ({said} did not come)")
        if rank == 0:
            missing = [other for other in missing if not store.check([f"met/{mark}/{other}"])]
            for other in missing:
                if store.check([f"came/{other}"]):
                    store.set(f"answer/{other}", f"{store.get(f'came/{other}').decode()} {mark}")
        elif store.check([f"answer/{rank}"]):
            mine, name = store.get(f"answer/{rank}").decode().split()
            missing = [] if mine == mark else [0]
        time.sleep(_GLANCE if missing else 0)
    if rank > 0:
        store.set(f"met/{name}/{rank}", "")
    return PrefixStore(name or mark, store)


@said_once()
def refuse_ranks(what: str) -> None:
    """Raises UserError where several processes were started."""
    if _number("WORLD_SIZE", 1) > 1:
        raise UserError(
            f"{what} is for one process, and WORLD_SIZE is {os.environ['WORLD_SIZE']} in the environment: start it "
            "without torchrun"
        )


def _number(name: str, default: int | None = None) -> int:
    given = os.environ.get(name)
    if given is None and default is not None:
        return default
    if given is None or not given.isdecimal() or int(given) > _MOST:
        raise UserError(f"{name} is {given or 'not set'} in the environment: start several processes with torchrun")
    return int(given)


def _is_of_the_network(error: RuntimeError) -> bool:
    """Whether gloo or NCCL says that a connection broke or the timeout passed."""
    words = ("gloo", "nccl", "connection", "socket", "timed out")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class _Heart:
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
        self._beat()  # so that all keys are there before anyone looks
        dist.barrier()
        self._heard = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
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


def each_in_turn(ranks: Ranks, work: Callable[[], T]) -> T:
    """The work done by the first rank of each machine, then by its others, who find what it left in a cache."""
    found: list[T] = []
    for turn in (True, False):
        with ranks.together():
            if (ranks.local_rank == 0) is turn:
                found.append(work())
    return found[0]
