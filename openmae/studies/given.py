"""What --set says: any settings of pretrain, as they are typed. What is none, or none of its values, is refused."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

import tyro

from openmae.commandline.flags import flag
from openmae.commandline.refusal import is_switch, why_refused
from openmae.commandline.words import suggestion
from openmae.errors import UserError
from openmae.recipes.asked import OF_DATA
from openmae.recipes.pretrain.settings import Pretrain

_NOT_HERE = {  # settings of pretrain that a study has its own way to say, and which
    **dict.fromkeys(("epochs", "minutes", "seed", "precision", "device", "workers", "data", "out"), ""),
    **dict.fromkeys(
        ("resume", "log", "shard", "profile", "keep", "pictures", "evaluations", "checkpoint_minutes"),
        "a study's trainings are alike in that",
    ),
    **dict.fromkeys(
        OF_DATA,
        "images are learnt from as they are judged",
    ),
}
_YES, _NO = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


def in_common(words: Sequence[str]) -> dict[str, Any]:
    """What --set says. Raises UserError."""
    given: dict[str, str] = {}
    for word in words:
        name, value = halves(word, "--set")
        if name in given:
            raise UserError(f"--set gives {name} twice", "give it once")
        given[name] = value
    return {name: value for name, (value,) in read({name: [one] for name, one in given.items()}).items()}


def halves(word: str, of: str) -> tuple[str, str]:
    """name, value of NAME=VALUE. Raises UserError for what is no setting of pretrain, or not one of a study."""
    name, equals, value = word.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    known = [field.name for field in fields(Pretrain) if field.name not in _NOT_HERE]
    if not equals or not value.strip():
        raise UserError(f"{of} is '{word}'", f"give SETTING=VALUE, such as {of} mask_ratio=0.5")
    name = f"{name}_" if f"{name}_" in known else name
    if name in _NOT_HERE:
        why = _NOT_HERE[name] or f"that is {flag(name)} of the study itself"
        raise UserError(f"{of} has {name}", f"leave it out: {why}")
    if name not in known:
        raise UserError(
            f"there is no setting '{name}' of pretrain{suggestion(name, known)}", "see openmae pretrain --help"
        )
    return name, value.strip()


def read(given: dict[str, list[str]]) -> dict[str, list[Any]]:
    """The values as pretrain's settings have them. Raises UserError where one is none of its values."""
    hints = get_type_hints(Pretrain, include_extras=True)
    found: dict[str, list[Any]] = {}
    for name, texts in given.items():
        found[name] = []
        for text in texts:
            words = list(_words(name, text, is_switch(hints[name])))
            made = _made(words, _BESIDE.get(name, ()))
            found[name].append(getattr(made, name))
    return found


def _made(words: list[str], beside: tuple[str, ...]) -> Pretrain:
    """What pretrain makes of the words, beside others where it refuses them alone. Raises UserError."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(Pretrain, args=["DATA", *words])
    except SystemExit:
        raise why_refused("pretrain", ["DATA", *words], Pretrain) from None
    except UserError:
        if not beside:
            raise
    return _made([*words, *beside], ())


_BESIDE = {
    "mask_schedule": ("--mask-ratio-end", "0.9"),
    "mask_ratio_end": ("--mask-schedule", "linear"),
    "freeze_encoder": ("--from", "MODEL"),
    "from_bands": ("--from", "MODEL"),
}
"""What goes with a setting that is not good alone: whether it does is seen when all are together."""


def _words(name: str, text: str, switch: bool) -> Iterator[str]:
    """As they are typed for pretrain. Raises UserError for a switch that is neither on nor off."""
    if switch:
        if text.lower() not in _YES + _NO:
            raise UserError(f"{name} is '{text}'", "give true or false")
        yield flag(name if text.lower() in _YES else f"no_{name}")
        return
    yield flag(name)
    yield from text.split()
