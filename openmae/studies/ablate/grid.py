"""The rows of a study: of one that has a name, or of a grid of one's own. What is no setting of pretrain, or none of
its values, is refused before anything is trained."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any

from openmae.errors import UserError
from openmae.recipes.pretrain.settings import Pretrain
from openmae.studies.ablate.named import STUDIES, Named, Row
from openmae.studies.ablate.settings import Ablate
from openmae.studies.given import halves, read

_MOST = 100  # rows


def study_of(settings: Ablate) -> Named:
    """What varies. Raises UserError for what is no setting of pretrain, or none of its values."""
    given: dict[str, list[str]] = {}
    for word in settings.vary:
        name, values = halves(word, "--vary")
        if name in given:
            raise UserError(f"--vary gives {name} twice", "give all of its values at once")
        given[name] = [value.strip() for value in values.split(",")]
        if len(set(given[name])) < len(given[name]):
            raise UserError(f"--vary {word} has a value twice", "give each once")
    clash = sorted({*given} & {halves(word, "--set")[0] for word in settings.set})
    if clash:
        raise UserError(f"{clash[0]} is in --vary and in --set", "give it in one of them")
    varied = read(given)
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
    rows = tuple(_as_named(named, value) for value in sorted(varied[named.varies]))
    _check_several(len(rows))
    names = [row.name for row in rows]
    return replace(named, rows=rows, usual=named.usual if named.usual in names else names[0])


def _as_named(named: Named, value: Any) -> Row:
    known = {row.changes[named.varies]: row for row in named.rows}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    name = f"{value:g}" if is_number else str(value)
    return known.get(value) or Row(name, {named.varies: value}, value, named.curve.get(value, {}))


def _check_several(count: int) -> None:
    if count < 2:
        raise UserError("--vary has one setting, and nothing to compare it with", "give several values with commas")


def _own(given: dict[str, list[str]], varied: dict[str, list[Any]]) -> Named:
    """The grid of all values with all others. The usual row is the one with pretrain's defaults, or the first."""
    count = math.prod(map(len, varied.values()))
    if count > _MOST:
        raise UserError(f"--vary makes {count:,} settings", f"give at most {_MOST}")
    _check_several(count)
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


def folder_name(row: Row) -> str:
    """Of the runs of a row: safe in a shell."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in row.name).replace("--", "-")


def check_names(rows: Sequence[Row]) -> None:
    """Raises UserError where two rows would have one folder."""
    names = [folder_name(row) for row in rows]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise UserError(f"two settings would be kept in one folder, {name}", "leave one of them out")
