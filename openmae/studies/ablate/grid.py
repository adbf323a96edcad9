"""The rows of a study: of one that has a name, or of a grid of one's own. What is no setting of pretrain, or none of
its values, is refused before anything is trained."""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any, get_type_hints

import tyro

from openmae.commandline.flags import flag
from openmae.commandline.refusal import is_switch, why_refused
from openmae.commandline.words import suggestion
from openmae.errors import UserError
from openmae.recipes.asked import AskedGroups, AskedReading
from openmae.recipes.pretrain.settings import Pretrain
from openmae.studies.ablate.named import STUDIES, Named, Row
from openmae.studies.ablate.settings import Ablate

_MOST = 100  # rows
_NOT_HERE = {  # settings of pretrain that a study has its own way to say, and which
    **dict.fromkeys(("epochs", "minutes", "seed", "precision", "device", "workers", "data", "out"), ""),
    **dict.fromkeys(
        ("resume", "log", "shard", "profile", "keep", "pictures", "evaluations", "checkpoint_minutes"),
        "a study's trainings are alike in that",
    ),
    **dict.fromkeys(
        [field.name for asked in (AskedGroups, AskedReading) for field in fields(asked)],
        "images are learnt from as they are judged",
    ),
}
_YES, _NO = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


def in_common(settings: Ablate) -> dict[str, Any]:
    """What --set says. Raises UserError."""
    given: dict[str, str] = {}
    for word in settings.set:
        name, value = _halves(word, "--set")
        if name in given:
            raise UserError(f"--set gives {name} twice", "give it once")
        given[name] = value
    return {name: value for name, (value,) in _read({name: [one] for name, one in given.items()}).items()}


def study_of(settings: Ablate) -> Named:
    """What varies. Raises UserError for what is no setting of pretrain, or none of its values."""
    given: dict[str, list[str]] = {}
    for word in settings.vary:
        name, values = _halves(word, "--vary")
        if name in given:
            raise UserError(f"--vary gives {name} twice", "give all of its values at once")
        given[name] = [value.strip() for value in values.split(",")]
        if len(set(given[name])) < len(given[name]):
            raise UserError(f"--vary {word} has a value twice", "give each once")
    clash = sorted({*given} & {_halves(word, "--set")[0] for word in settings.set})
    if clash:
        raise UserError(f"{clash[0]} is in --vary and in --set", "give it in one of them")
    varied = _read(given)
    if settings.study is None:
        return _own(given, varied)
    named = STUDIES[settings.study]
    if not given:
        return named
    if list(given) != [named.varies] or not all(row.changes.keys() == {named.varies} for row in named.rows):
        raise UserError(
            f"--study {settings.study} and --vary {' --vary '.join(given)} are two studies",
            "leave one of them out",
        )
    return replace(named, rows=tuple(_as_named(named, value) for value in sorted(varied[named.varies])))


def _as_named(named: Named, value: Any) -> Row:
    known = {row.changes[named.varies]: row for row in named.rows}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    name = f"{value:g}" if is_number else str(value)
    return known.get(value) or Row(name, {named.varies: value}, value, named.curve.get(value, {}))


def _own(given: dict[str, list[str]], varied: dict[str, list[Any]]) -> Named:
    """The grid of all values with all others. The usual row is the one with pretrain's defaults, or the first."""
    count = math.prod(map(len, varied.values()))
    if count > _MOST:
        raise UserError(f"--vary makes {count:,} settings", f"give at most {_MOST}")
    if count < 2:
        raise UserError("--vary has one setting, and nothing to compare it with", "give several values with commas")
    names = list(varied)
    rows, defaults = [], {field.name: field.default for field in fields(Pretrain)}
    single = len(names) == 1 and all(type(value) in (int, float) for value in varied[names[0]])
    for values in product(*(range(len(varied[name])) for name in names)):
        changes = {name: varied[name][at] for name, at in zip(names, values, strict=True)}
        texts = [given[name][at] for name, at in zip(names, values, strict=True)]
        said = texts[0] if len(names) == 1 else ", ".join(f"{n} {t}" for n, t in zip(names, texts, strict=True))
        rows.append(Row(said, changes, float(changes[names[0]]) if single else None))
    if single:
        rows.sort(key=lambda row: row.at or 0.0)
    usual = next((row for row in rows if all(defaults[n] == v for n, v in row.changes.items())), rows[0])
    return Named(names[0] if len(names) == 1 else "", "", " and ".join(names), usual.name, tuple(rows))


def _halves(word: str, of: str) -> tuple[str, str]:
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


def _read(given: dict[str, list[str]]) -> dict[str, list[Any]]:
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


def folder_name(row: Row) -> str:
    """Of the runs of a row: safe in a shell."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in row.name).replace("--", "-")


def check_names(rows: Sequence[Row]) -> None:
    """Raises UserError where two rows would have one folder."""
    names = [folder_name(row) for row in rows]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise UserError(f"two settings would be kept in one folder, {name}", "leave one of them out")
