"""What a kind of training has to state; job.py does all else.

A `JobKind` states how a training is opened and chosen, a `Job` what it trains, by which loss, what it looks at and what
it leaves.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from rich.console import Console
from torch import Tensor

from openmae.distributed.ranks import Ranks
from openmae.recipes.training.broken import BrokenFiles
from openmae.recipes.training.schedule import Course
from openmae.recipes.training.settings import Settings
from openmae.train.learner import M
from openmae.train.loop import Rest
from openmae.train.run import RunFolder


@dataclass(frozen=True)
class Here:
    """Where a training takes place, and by whom. workers: processes that load images."""

    folder: RunFolder
    device: torch.device
    workers: int
    console: Console
    ranks: Ranks


class Batches(Protocol):
    """A stream of batches, such as `Stream`."""

    def batches(
        self, first_step: int, micro_batch: int, workers: int, *, pin: bool = False, part: range | None = None
    ) -> Iterator[Any]:
        """Of the steps from the first on, in micro-batches; what the loop and `BrokenFiles` take."""
        ...


class Job(ABC, Generic[M]):
    """A training of one kind with everything chosen and opened. Its methods are called on all ranks together, in this
    order, but for `save`, which is the lead's.

    broken: counts the files of the images that are learnt from. averages: that the optimizer keeps of a weight. rest:
    what does not learn in the first steps. ended_at: the step after which the training ended before its time. in_lanes:
    whether micro-batches may be computed at the same time: the loss is a mean over the images, and changes nothing.
    """

    model: M
    course: Course
    broken: BrokenFiles
    averages: int = 2
    rest: Rest | None = None
    ended_at: int | None = None
    in_lanes: bool = False

    def begin(self) -> None:
        """What a run leaves before its first step, beside its settings; the lead alone writes. Raises OSError."""

    def prepare(self) -> None:
        """What is done to the model, which is on the device by now, before a run begins to learn; nothing."""

    @abstractmethod
    def stream(self) -> Batches:
        """The images that are learnt from, in batches; asked for once the model is on the device."""

    @abstractmethod
    def loss(self) -> Callable[[M, Any], Tensor]:
        """The mean loss over a batch, a scalar."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """For the model's parameters, which are sharded by now where they ever are."""

    @abstractmethod
    def looks(self) -> Mapping[int, "Look[M]"]:
        """What is looked at after which steps."""

    def beside(self, views: float) -> float:
        """What all looks of a training of so many images cost, in images trained on in the same time; grows with
        them."""
        return 0.0 * views

    def is_enough(self, step: int) -> bool:
        """Whether the training ends after this step, at which it was looked; the lead is asked."""
        return False

    @abstractmethod
    def save(self, whole: M, step: int) -> None:
        """The weights, each file complete or as it was before. Raises OSError."""

    @abstractmethod
    def finish(self, whole: M) -> None:
        """What a complete run leaves beside its weights, its report among it; the lead alone writes. Raises OSError."""


class Look(Protocol[M]):  # type: ignore[misc]  # whose model is only read
    """Looks at a model in training, whole and with its weights averaged where they are."""

    def __call__(self, whole: M, step: int) -> dict[str, Any]:
        """The figures that the lead logs."""


class Opened(Protocol):
    """DATA, and MODEL where there is one."""

    @property
    def fingerprint(self) -> str:
        """Of the images."""

    @property
    def count(self) -> int:
        """Of the images that are learnt from."""


class Chosen(Protocol):
    """What follows from settings that are chosen, none of it open: a dataclass. Sent from the lead to the others."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def course(self) -> Course:
        """How the training goes."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings as config.toml has them."""


O = TypeVar("O", bound=Opened)  # noqa: E741
C = TypeVar("C", bound=Chosen)
J = TypeVar("J", bound=Job[Any])


@dataclass(frozen=True)
class JobKind(Generic[Settings, O, C, J]):
    """How one kind of training gets from what it was asked to its job.

    needs: settings without which nothing begins; usage: the command, for where one is missing.
    may_differ: settings of its own, beside MAY_DIFFER, that do not change the result.
    open: DATA and MODEL, on all ranks. choose: everything that was left open, printed with its reason, on the lead.
    settle: what follows from settings that are chosen, on the lead. job: what is trained.
    compare: what was left open and is chosen by trying, before the rest is chosen, where a run begins; all ranks
    together; gives the settings, and what was opened with what is to be kept of it.
    most_minutes: where epochs and minutes are both left open, what a run may take at most; None where the epochs that
    are chosen are taken, whatever they take.
    """

    needs: tuple[str, ...]
    usage: str
    may_differ: Collection[str]
    open: Callable[[Settings, Here], O]
    choose: Callable[[Settings, O, Here], Settings]
    settle: Callable[[Settings, O, Console], C]
    job: Callable[[C, O, Here], J]
    compare: Callable[[Settings, O, Here], tuple[Settings, O]] = lambda settings, opened, here: (settings, opened)
    most_minutes: Callable[[Settings, torch.device], float | None] = lambda settings, device: None
