"""What DATA is divided into: what opens each part, and what was taken for it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from openmae.data.sources.joined import Joined
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.sources.splits import split_in_path, split_of
from openmae.errors import UserError

File = TypeVar("File", str, Path)
Openers = dict[str, Callable[[], Source]]
"""What opens "all", and "train", "val" and "test" where DATA has them."""

_SHOWN = 4  # names in a sentence
_LETTERS = re.compile("[A-Za-z]+")


@dataclass(frozen=True)
class Parts:
    """taken: what was taken for which split, in words; empty where there is none. is_odd: whether they are called
    otherwise than train and val, so that it is better said."""

    openers: Openers
    taken: str = ""
    is_odd: bool = False


def by_split(
    location: str, files: Sequence[File], name_of: Callable[[File], str], selection: Selection
) -> dict[str, list[File]]:
    """The files by the split that their names tell; all of them together where any tells none; nothing where the two
    that are asked for are not told. Raises UserError where some tell a train and a val, and others nothing."""
    if selection.is_one_set:
        return {"all": list(files)}
    groups: dict[str, list[File]] = {}
    for file in files:
        which = _named(name_of(file), selection.pair) if selection.pair else split_in_path(name_of(file))
        groups.setdefault(which or "all", []).append(file)
    if selection.pair and not {"train", "val"} <= groups.keys():
        return {}
    if "all" not in groups:
        return groups
    untold = groups["all"]
    if "train" not in groups or not {"val", "test"} & groups.keys():
        return {"all": list(files)}
    if selection.splits is None:
        told = [name_of(group[0]) for which, group in groups.items() if which != "all"]
        raise unsaid(location, "files", told, [name_of(file) for file in untold])
    return {which: group for which, group in groups.items() if which != "all"}


def called_otherwise(location: str, what: str, selection: Selection) -> UserError:
    """What to say where nothing is called as is asked for."""
    words = " and ".join(selection.pair) if selection.pair else "as splits are"
    return UserError(f"{location} has no {what} called {words}", "mend `splits`, or leave it out")


def of_files(groups: Mapping[str, Sequence[File]], name_of: Callable[[File], str]) -> tuple[str, bool]:
    """(what was taken for which split, whether they are called otherwise) of files by their splits."""
    if not {"val", "test"} & groups.keys() or "train" not in groups:
        return "", False
    first = {which: name_of(groups[which][0]) for which in ("train", "val", "test") if which in groups}
    shown = {which: name if len(groups[which]) == 1 else f"{name}, ..." for which, name in first.items()}
    return said(shown), any(which not in _LETTERS.findall(name) for which, name in first.items())


def with_all(location: str, openers: Openers) -> Openers:
    """The openers, and "all": what they open joined, train before val before test."""
    if "all" in openers:
        return openers
    known: Openers = {which: cache(openers[which]) for which in ("train", "val", "test") if which in openers}
    if len(known) == 1:
        return {"all": known.popitem()[1]}
    return {**known, "all": lambda: Joined(location, [opener() for opener in known.values()])}


def unsaid(location: str, what: str, alike: Sequence[str], others: Sequence[str]) -> UserError:
    """What to say of names that look like splits and may be something else."""
    beside = f" beside {_some(others)}" if others else ""
    rest = [*others, "OTHER"]
    train = next((name for name in alike if split_of(name) == "train"), rest[0])
    val = next((name for name in alike if split_of(name) in ("val", "test")), rest[0])
    return UserError(
        f"{location} has {what} called {_some(alike)}{beside}, which may be splits or not",
        "say by `splits` what they are: folders (splits), classes, none (all is one set), or the names of the two for "
        f"train and val, such as {train},{val}",
    )


def said(names: Mapping[Any, str], after: str = "") -> str:
    """What was taken for which split: "Training/ for train, Testing/ for val". after: what stands behind each name."""
    return ", ".join(
        f"{name}{after} for {'val' if kind == 'test' and 'val' not in names else kind}" for kind, name in names.items()
    )


def _named(name: str, pair: tuple[str, str]) -> str | None:
    """`train` or `val` by whose word is in the name, on its own."""
    for which, word in zip(("train", "val"), pair, strict=True):
        if re.search(rf"(?<![^\W\d_]){re.escape(word)}(?![^\W\d_])", name):
            return which
    return None


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
