"""Ranges of settings."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from openmae.commandline.flags import flag
from openmae.errors import UserError
from openmae.recipes.training.settings import Settings, shown

Bounds = Mapping[str, tuple[Callable[[Any], bool], str]]
"""Of each setting: whether a value will do, and what to give instead."""

MOST = 1e12  # of any number: more is a slip, and makes figures that nothing can hold
ABOVE_0: tuple[Callable[[Any], bool], str] = (lambda n: 0 < n <= MOST, f"give a number above 0, at most {MOST:g}")
FROM_0: tuple[Callable[[Any], bool], str] = (lambda n: 0 <= n <= MOST, f"give 0 or more, at most {MOST:g}")
SHARE: tuple[Callable[[Any], bool], str] = (lambda n: 0 <= n <= 1, "give a share from 0 to 1")
BELOW_1: tuple[Callable[[Any], bool], str] = (lambda n: 0 <= n < 1, "give a number from 0 and below 1")
BLOCK: tuple[Callable[[Any], bool], str] = (lambda n: 1 <= n <= 1 << 16, "give a number from 1 to 65,536")
SEED: tuple[Callable[[Any], bool], str] = (lambda n: 0 <= n < 2**63, "give a number from 0 and below 2**63")


def check(settings: Settings, bounds: Bounds) -> None:
    """`within`, of a training: the warm-up is shorter than the whole, too."""
    within(settings, bounds)
    if settings.epochs and settings.warmup_epochs is not None and settings.warmup_epochs >= settings.epochs:
        refuse(settings, "warmup_epochs", f"it is not below --epochs {settings.epochs:g}, so lower it")


def within(settings: Any, bounds: Bounds) -> None:
    """Raises UserError for a number out of its bounds; settings left open pass. settings: a dataclass."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            refuse(settings, field.name, "give a finite number")
        if value is not None and field.name in bounds and not bounds[field.name][0](value):
            refuse(settings, field.name, bounds[field.name][1])


def refuse(settings: Any, name: str, advice: str) -> None:
    """Raises UserError that says what the setting is and what to do."""
    raise UserError(f"{flag(name)} is {shown(getattr(settings, name))}", advice)
