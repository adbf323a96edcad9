"""What every training is asked, and how its settings are written."""

from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from openmae.data.views.kinds import CropFit
from openmae.machine.kinds import Device

Hflip = Annotated[bool, arg(help="Mirror half of the views. Switch off where left and right differ in meaning.")]
Vflip = Annotated[
    Literal["on", "off"] | None,
    arg(
        help="Show half of the views upside down, for images in which up and down mean nothing. Default: off; "
        "pre-training turns it on where no direction means anything."
    ),
]
Rotate90 = Annotated[
    Literal["on", "off"] | None,
    arg(
        help="Turn views by 0, 90, 180 or 270 degrees, each as often, for images in which no direction means anything. "
        "Default: as --vflip."
    ),
]
AskedCropFit = Annotated[
    CropFit | None,
    arg(
        help="What is done with a random crop that does not fit into the image: retry draws another, up to ten times, "
        "as torchvision and timm; clamp cuts it off, so that crops are larger. Default: retry; clamp in the paper's "
        "linear probe."
    ),
]
ShuffleBlock = Annotated[
    int | None,
    arg(
        metavar="IMAGES",
        help="Images that lie one after the other in DATA and are read at once; blocks come in any order, and the "
        "images of those that are open are shuffled (docs/scale.md). 1: any image may follow any other. Default: 1; of "
        "many images on a server, as many as make 4 MB.",
    ),
]
MaxBroken = Annotated[
    float,
    arg(help="Stop when more than this share of the files cannot be read; up to it they are replaced and listed."),
]
ClipGrad = Annotated[float | None, arg(help="Bound on the norm of the whole gradient. Default: none, as the paper.")]
CheckpointMinutes = Annotated[
    float, arg(help="Time between checkpoints; one more comes at the end, on Ctrl-C and on a scheduler's signal.")
]
Minutes = Annotated[
    float | None,
    arg(
        help="Time for the whole command, in place of --epochs: a short trial at its start measures how fast this "
        "machine is, the epochs follow, and the schedule ends when the time does (Lightning's max_time cuts it off)."
    ),
]
Keep = Annotated[
    int, arg(help="Checkpoints that stay on the disk, 1 or more; an older one goes when a newer one is safe.")
]
Sharded = Annotated[
    bool,
    arg(help="Under torchrun: each process keeps a part of weights, gradients and averages, instead of all of them."),
]
TimeoutMinutes = Annotated[
    float,
    arg(help="Under torchrun: a process that does not answer or get on for so long is given up, and the run with it."),
]
Log = Annotated[
    str | None,
    arg(
        metavar="LOGGER",
        help="Show the run elsewhere too: tensorboard, wandb, mlflow or trackio; several with commas; none to stop it. "
        "It never holds up the training (docs/logging.md).",
    ),
]
Profile = Annotated[
    bool,
    arg(
        help="Record where the time of five early steps goes: RUN/profile/trace.json.gz for ui.perfetto.dev, and a "
        "table."
    ),
]


class Asked(Protocol):
    """What every training is asked; the settings of a job have these among others. What is None or "auto" is open."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    # ruff: noqa: D102
    @property
    def data(self) -> str | None: ...
    @property
    def out(self) -> Path | None: ...
    @property
    def resume(self) -> bool: ...
    @property
    def epochs(self) -> float | None: ...
    @property
    def minutes(self) -> float | None: ...
    @property
    def warmup_epochs(self) -> float | None: ...
    @property
    def batch_size(self) -> int | None: ...
    @property
    def micro_batch(self) -> int | None: ...
    @property
    def blr(self) -> float | None: ...
    @property
    def clip_grad(self) -> float | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def max_broken(self) -> float: ...
    @property
    def precision(self) -> Literal["auto", "bf16", "fp32"]: ...
    @property
    def device(self) -> Device: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def checkpoint_minutes(self) -> float: ...
    @property
    def keep(self) -> int: ...
    @property
    def shard(self) -> bool: ...
    @property
    def timeout_minutes(self) -> float: ...
    @property
    def log(self) -> str | None: ...
    @property
    def profile(self) -> bool: ...


Settings = TypeVar("Settings", bound=Asked)
T = TypeVar("T")
Recipe = Literal["auto", "paper"]
Switch = Literal["auto", "on", "off"]
DERIVED = ("steps", "image_count", "earlier")  # entries of a run's config.toml beside its settings: see longer.py


def _parse_sides(words: list[str]) -> int | tuple[int, int]:
    sides = words[0].lower().split("x")
    numbers = [int(side) for side in sides if side.isdecimal() and int(side)]
    if len(numbers) != len(sides) or len(sides) > 2:
        raise ValueError("give a number of pixels, such as 224, or height x width, such as 224x160")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _write_sides(sides: int | tuple[int, int]) -> list[str]:
    return ["x".join(map(str, sides)) if isinstance(sides, tuple) else str(sides)]


# One word on the command line, so that DATA may follow it.
Sides = Annotated[
    int | tuple[int, int],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PIXELS|HxW",
        instance_from_str=_parse_sides,
        is_instance=lambda value: isinstance(value, int | tuple),
        str_from_instance=_write_sides,
    ),
]


def given(value: T | None) -> T:
    """A setting that is given or chosen by now."""
    assert value is not None
    return value


def pair(sides: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of sides that are chosen by now."""
    if isinstance(sides, tuple):
        return sides
    side = given(sides)
    return side, side


def sides_of(sides: tuple[int, ...]) -> int | tuple[int, ...]:
    """One number for equal sides: the inverse of `pair`."""
    return sides[0] if len(set(sides)) == 1 else sides


def shown(value: Any) -> str:
    """A setting as it is written on the command line, numbers short."""
    if isinstance(value, tuple):
        return " ".join(shown(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
