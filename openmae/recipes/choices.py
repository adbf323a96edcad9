"""What `pretrain` chooses where the user left a setting open, and the ranges of those that were given."""

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import torch
from rich.console import Console
from tyro.constructors import PrimitiveConstructorSpec

from openmae.data.channels import check_bands
from openmae.data.statistics import Survey
from openmae.errors import UserError
from openmae.model import grid_of
from openmae.train.loop import has_fast_bf16

if TYPE_CHECKING:
    from openmae.recipes.finetune import Finetune
    from openmae.recipes.pretrain import Pretrain

Settings = TypeVar("Settings", "Pretrain", "Finetune")


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


def choose(settings: "Pretrain", look: Survey, images: int, device: torch.device, console: Console) -> "Pretrain":
    """The settings with everything that was left open chosen; each choice printed with its reason."""
    chosen: dict[str, Any] = {}
    reasons: list[str] = []

    def fill(name: str, value: Any, reason: str) -> None:
        if getattr(settings, name) is None or getattr(settings, name) == "auto":
            chosen[name] = value
            reasons.append(f"  --{name.replace('_', '-')} {shown(value)}: {reason}")

    pixels = look.statistics.pixels
    fill("in_chans", pixels.in_chans, look.why_channels)
    fill("pixel_type", pixels.depth, "the deepest that the images have")
    fill("mean", look.statistics.mean, f"over {len(look.sizes):,} of the images")
    fill("std", look.statistics.std, "likewise")

    kind = device.type.upper()
    on_gpu = device.type != "cpu"
    model = settings.model or ("vit_base" if on_gpu else "vit_tiny")
    fill("model", model, f"on a {kind}")

    largest = 14 if model == "vit_huge" else 16
    if settings.img_size is None:
        side = min(look.size)
        patch = largest if side >= 128 else 8 if side >= 64 else 4
        fill("patch_size", patch, f"the median image is {look.size[0]} x {look.size[1]} pixels")
        unit = math.lcm(*pair(settings.patch_size or patch))
        fill(
            "img_size",
            unit * max(2, min(224, side) // unit),
            f"a multiple of the patch; images have {side}, and 224 do",
        )
    else:
        sides = pair(settings.img_size)
        fitting = [p for p in (largest, 8, 4, 2) if all(s % p == 0 and s // p >= 8 for s in sides)]
        fill(
            "patch_size", fitting[0] if fitting else largest, f"cuts {sides[0]} x {sides[1]} pixels into 8 x 8 or more"
        )

    small = model in ("vit_tiny", "vit_small")
    why = "light beside the encoder" if small else "the paper's"
    fill("decoder_embed_dim", 128 if small else 512, why)
    fill("decoder_depth", 4 if small else 8, why)
    fill("decoder_num_heads", 4 if small else 16, why)

    epochs = settings.epochs or (800.0 if on_gpu else 100.0)
    fill("epochs", epochs, "the paper's" if on_gpu else "on a CPU")
    fill("warmup_epochs", epochs * 0.05, "5% of the epochs, as the paper")
    most = 4096 if on_gpu else 256
    batch_size = settings.batch_size or min(most, max(32, 2 ** int(math.log2(max(1, images / 25)))))
    fill("batch_size", batch_size, f"for {images:,} images; between 32 and {most} on a {kind}")
    fill("micro_batch", min(batch_size, 256 if on_gpu else 64), "what goes through the model at once")
    fill("blr", 1.5e-4 * math.sqrt(4096 / batch_size), "the paper's 1.5e-4 at batch 4096, square-root scaling below")
    fill("precision", *choose_precision(device))
    if reasons:
        console.print("Chosen for you (any flag overrides):\n" + "\n".join(reasons), soft_wrap=True)
    return replace(settings, **chosen)


def choose_precision(device: torch.device) -> tuple[Literal["bf16", "fp32"], str]:
    """The precision that suits the device, and why."""
    bf16 = has_fast_bf16(device)
    why = f"the processor has {'fast' if bf16 else 'no fast'} bfloat16 products"
    return "bf16" if bf16 else "fp32", why


def check_ranges(settings: "Pretrain") -> None:
    """Raises UserError for a number out of its range, and for numbers that do not go together; what is left open
    passes."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise UserError(f"--{field.name.replace('_', '-')} is {value}: give a finite number")
    for name in ("batch_size", "micro_batch", "epochs", "blr", "clip_grad", "repeat_aug", "in_chans"):
        if (value := getattr(settings, name)) is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')} is {value}: give a number above 0")
    for name in ("warmup_epochs", "weight_decay", "pictures", "checkpoint_minutes", "seed"):
        if (value := getattr(settings, name)) is not None and value < 0:
            raise UserError(f"--{name.replace('_', '-')} is {value}: give 0 or more")
    if settings.std is not None and min(settings.std) <= 0:
        raise UserError(f"--std is {shown(settings.std)}: give numbers above 0")
    if settings.seed >= 2**63:
        raise UserError(f"--seed is {settings.seed}: give a number below 2**63")
    if not 0 <= settings.max_broken <= 1:
        raise UserError(f"--max-broken is {settings.max_broken}: give a share from 0 to 1")
    if settings.epochs is not None and settings.warmup_epochs is not None and settings.warmup_epochs >= settings.epochs:
        raise UserError(f"--warmup-epochs {settings.warmup_epochs} is not below --epochs {settings.epochs}: lower it")
    if settings.img_size is not None and settings.patch_size is not None:
        try:
            grid_of(pair(settings.img_size), pair(settings.patch_size))
        except ValueError as error:
            raise UserError(str(error)) from error
    _check_channels(settings)


def _check_channels(settings: "Pretrain") -> None:
    """Raises UserError where --in-chans, --bands, --mean and --std are of different numbers of channels."""
    bands = settings.bands
    if bands is not None:
        check_bands(bands)
    lists = {"--bands": bands, "--mean": settings.mean, "--std": settings.std}
    counts = {flag: len(values) for flag, values in lists.items() if values is not None}
    if settings.in_chans is not None:
        counts["--in-chans"] = settings.in_chans
    if len(set(counts.values())) < 2:
        return
    said = ", ".join(f"{flag} {count}" for flag, count in counts.items())
    advice = (
        f"openmae stats DATA --bands {shown(bands)} --out stats.toml measures these bands; or leave --bands out"
        if bands is not None
        else "give a mean and a deviation for each channel"
    )
    raise UserError(f"the numbers of channels differ, on the command line or in the --config file ({said}): {advice}")


def stored(settings: Settings, config: dict[str, Any], defaults_too: bool) -> Settings:
    """The settings with those that were left open taken from a run's config.toml, and, where `defaults_too`, those
    that stand at their default."""
    values: dict[str, Any] = {}
    for field in fields(settings):
        given = getattr(settings, field.name)
        is_open = given is None or given == "auto" or (defaults_too and given == field.default)
        if is_open and field.name in config:
            value = config[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return replace(settings, **values)


def pair(sides: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of sides that are chosen by now."""
    assert sides is not None
    return sides if isinstance(sides, tuple) else (sides, sides)


def shown(value: Any) -> str:
    """A setting as it is written on the command line, numbers short."""
    if isinstance(value, tuple):
        return " ".join(shown(entry) for entry in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
