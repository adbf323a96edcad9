"""What the jobs share of choosing settings that were left open, and of refusing those out of range."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import torch
from rich.console import Console
from tyro.constructors import PrimitiveConstructorSpec

from openmae.errors import UserError
from openmae.train.step import has_fast_bf16

if TYPE_CHECKING:
    from openmae.recipes.finetune import Finetune
    from openmae.recipes.pretrain import Pretrain

Settings = TypeVar("Settings", "Pretrain", "Finetune")
Values = dict[str, tuple[Any, str]]
"""Of each setting: what it is set to, and why."""
Bounds = Mapping[str, tuple[Callable[[Any], bool], str]]
"""Of each setting: whether a value will do, and what to give instead."""
Recipe = Literal["auto", "paper"]
Switch = Literal["auto", "on", "off"]

MOST = 1e12  # of any number: more is a slip, and makes figures that nothing can hold
ABOVE_0: tuple[Callable[[Any], bool], str] = (lambda n: 0 < n <= MOST, f"give a number above 0, at most {MOST:g}")
FROM_0: tuple[Callable[[Any], bool], str] = (lambda n: 0 <= n <= MOST, f"give 0 or more, at most {MOST:g}")
SHARE: tuple[Callable[[Any], bool], str] = (lambda n: 0 <= n <= 1, "give a share from 0 to 1")
BELOW_1: tuple[Callable[[Any], bool], str] = (lambda n: 0 <= n < 1, "give a number from 0 and below 1")
SEED: tuple[Callable[[Any], bool], str] = (lambda n: 0 <= n < 2**63, "give a number from 0 and below 2**63")


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


def fill(settings: Settings, values: Values, console: Console) -> Settings:
    """The settings with those that are open taken from the values; each printed with its reason."""
    chosen = _open(settings, values)
    if chosen:
        reasons = [f"  --{name.replace('_', '-')} {shown(value)}: {reason}" for name, (value, reason) in chosen.items()]
        console.print("Chosen for you (any flag overrides):\n" + "\n".join(reasons), soft_wrap=True)
    return filled(settings, values)


def filled(settings: Settings, values: Values) -> Settings:
    """The settings with those that are open taken from the values."""
    return replace(settings, **{name: value for name, (value, _) in _open(settings, values).items()})


def _open(settings: Settings, values: Values) -> Values:
    return {name: entry for name, entry in values.items() if getattr(settings, name) in (None, "auto")}


def check(settings: Settings, bounds: Bounds) -> None:
    """Raises UserError for a number out of its bounds; settings left open pass."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            refuse(settings, field.name, "give a finite number")
        if value is not None and field.name in bounds and not bounds[field.name][0](value):
            refuse(settings, field.name, bounds[field.name][1])
    if settings.epochs is not None and settings.warmup_epochs is not None and settings.warmup_epochs >= settings.epochs:
        refuse(settings, "warmup_epochs", f"it is not below --epochs {settings.epochs:g}, so lower it")


def refuse(settings: Settings, name: str, advice: str) -> None:
    """Raises UserError that says what the setting is and what to do."""
    raise UserError(f"--{name.replace('_', '-')} is {shown(getattr(settings, name))}: {advice}")


def choose_precision(device: torch.device) -> tuple[Literal["bf16", "fp32"], str]:
    """The precision that suits the device, and why."""
    bf16 = has_fast_bf16(device)
    why = f"the processor has {'fast' if bf16 else 'no fast'} bfloat16 products"
    return "bf16" if bf16 else "fp32", why


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
    return f"{value:.4g}" if isinstance(value, float) else str(value)
