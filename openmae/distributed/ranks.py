"""Which process this is of those that train together, and what they tell each other.

`torchrun` starts the processes and says so in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ...); one
that was started alone is the only rank, and nothing here costs it anything. Rank 0 leads: it alone touches the run
folder. Nobody waits for a dead or hung process for long: see `heart`.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from openmae.distributed.heartbeat import Heart
from openmae.distributed.share import Share
from openmae.distributed.started import started
from openmae.errors import Interrupted, NotWritten, RankLost, UserError

T = TypeVar("T")

_LAST_WORDS_SECONDS = 1.0  # for whoever says why all stop
_GLANCE = 0.05  # seconds from one look at the store to the next
_MOST_NAMED = 8  # ranks in a sentence


@dataclass(frozen=True)
class Ranks:
    """rank: 0 to size - 1; local_rank, local_size: among those of this machine. heart: None where this one is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    heart: Heart | None = field(default=None, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this one writes and talks for all."""
        return self.rank == 0

    def share(self, count: int, unit: int = 1) -> range:
        """This rank's part of 0..count: runs that differ by at most one `unit`, whole units but for the end."""
        return Share(self.rank + 1, self.size).span(count, unit)

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
        complaint: UserError | None = None
        try:
            yield
        except UserError as error:
            if self.size == 1:
                raise
            complaint = error
        complaints = self.gather(complaint) if self.size > 1 else []
        if any(one is not None for one in complaints):
            # An empty one is of a rank that let another speak before.
            first = next((rank for rank, one in enumerate(complaints) if one is not None and one.what), 0)
            raise complaint if complaint is not None and self.rank == first else UserError("")

    @contextmanager
    def opening(self, open_it: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
        """Within what `open_it` gives; where it raises UserError on one rank, it does on all."""
        with self.together():
            opened = open_it()
        with opened as value:
            yield value

    def each_in_turn(self, work: Callable[[], T]) -> T:
        """The work done by the first rank of each machine, then by its others, who find what it left in a cache."""
        found: list[T] = []
        for turn in (True, False):
            with self.together():
                if (self.local_rank == 0) is turn:
                    found.append(work())
        return found[0]

    def agree(self, value: str, otherwise: str) -> None:
        """Raises UserError, on all ranks, where one has another value than the lead."""
        values = self.gather(value)
        differing = [rank for rank, one in enumerate(values) if one != values[0]]
        with self.together():
            if self.leads and differing:
                raise UserError(
                    f"{otherwise} where rank {differing[0]} runs than where rank 0 does", "give all machines the same"
                )


ALONE = Ranks()


@contextmanager
def joined(device: str, timeout: float) -> Iterator[Ranks]:
    """Joins the others that torchrun (or whoever sets RANK and WORLD_SIZE) has started, and leaves them at the end.

    device: the type that tensors lie on, cpu (gloo) or cuda (NCCL, and gloo for what lies on the CPU).
    timeout: seconds after which a rank that does not answer, or does not get on, is given up.
    Raises UserError where the environment does not make sense, RankLost where the others do not come.
    """
    rank, size, local_rank, local_size = started()
    if size == 1:
        yield ALONE
        return
    if device == "cuda":
        require_gpu(local_rank, local_size)
        torch.cuda.set_device(local_rank)
    elif device != "cpu":
        raise UserError(f"several processes cannot share an {device} device", "start one, or give `device='cpu'`")
    try:
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        patience = timedelta(seconds=timeout)
        store, _, _ = next(rendezvous("env://", timeout=patience))
        store = of_this_start(store, rank, size, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
        heart = Heart(rank, size, timeout)
        heart.start()
    except ValueError as error:
        raise UserError(_first_line(error), "start several processes with torchrun") from error
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


def of_this_start(store: Store, rank: int, size: int, timeout: float) -> Store:
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


def require_gpu(local_rank: int, local_size: int) -> None:
    """Raises UserError where this machine has none for a process of this number, of so many that run here."""
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"{local_size} processes were started on a machine with {torch.cuda.device_count()} GPUs",
            "give torchrun --nproc-per-node as many as there are, or `device='cpu'`",
        )


def _is_of_the_network(error: RuntimeError) -> bool:
    """Whether gloo or NCCL says that a connection broke or the timeout passed."""
    words = ("gloo", "nccl", "connection", "socket", "timed out")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
