"""Which of DATA's files are meant, what divides them, and which must stay together: as a user asks for it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.errors import UserError


@dataclass(frozen=True)
class Selection:
    """What is asked of DATA beside its address; everything None or empty asks for nothing.

    splits: "folders" (what looks like a split is one), "classes" (such folders are classes), "none" (all is one set),
        or the names of the two for train and val, as "seg_train,seg_test"; None: as the names plainly say.
    include, exclude: patterns of names, as `Patterns` reads them.
    image_key: of shards, which of a sample's files is its image (shards.samples.scan).
    label_column: of a table, that of the labels. group_column: of a table; group_by: "folder", "folder:N" or
        "name:REGEX": images of one group stay on one side of every split.
    tile, tile_min_detail: into which windows images are cut, as `windows.Tiling.asked` reads it; None: they are whole.
    """

    splits: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    image_key: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    group_by: str | None = None
    tile: str | None = None
    tile_min_detail: float | None = None
    prefix: str = ""
    """What stands before the names that patterns are held against: of a folder in DATA, with a slash at the end."""

    def __post_init__(self) -> None:
        """Raises UserError for what means nothing."""
        if self.splits is not None and self.splits not in _WORDS and self.pair is None:
            raise UserError(
                f"`splits` is '{self.splits}'",
                "give folders, classes, none, or the names of two splits with a comma between them",
            )

    @cached_property
    def pair(self) -> tuple[str, str] | None:
        """The names of what is train and what is val, where they are given."""
        words = [word.strip().strip("/") for word in (self.splits or "").split(",")]
        return (words[0], words[1]) if len(words) == 2 and all(words) and words[0] != words[1] else None

    def to_dict(self) -> dict[str, Any]:
        """What is asked for, as JSON and a run's config have it."""
        found = {name: value for name in _ASKED if (value := getattr(self, name)) or value == 0}
        return {
            name: [*value] if isinstance(value, tuple) else value
            for name, value in found.items()
            if value or value == 0
        }

    def beside(self, then: "Selection") -> str:
        """What is asked for and was not then, to stand behind the name of a set: ` [exclude masks]`; empty for nothing.
        Figures of a part of DATA are not those of all of it."""
        before = then.to_dict()
        asked = {name: value for name, value in self.to_dict().items() if before.get(name) != value}
        said = (f"{name.replace('_', ' ')} {_listed(value)}" for name, value in asked.items())
        return f" [{'; '.join(said)}]" if asked else ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Selection":
        """The inverse of `to_dict`; other entries are not looked at."""
        found: dict[str, Any] = {name: value for name in _ASKED if (value := values.get(name)) or value == 0}
        found.update({name: tuple(found[name]) for name in ("include", "exclude") if name in found})
        return cls(**found)

    def inside(self, folder: str) -> "Selection":
        """The same of a folder in it."""
        return replace(self, prefix=f"{self.prefix}{folder}/")

    @property
    def is_one_set(self) -> bool:
        """Whether nothing is to be a split."""
        return self.splits in ("classes", "none")

    @cached_property
    def patterns(self) -> "Patterns | None":
        """What include and exclude ask for; None where they ask for nothing."""
        return Patterns(self.include, self.exclude) if self.include or self.exclude else None


WHOLE = Selection()
_WORDS = ("folders", "classes", "none")
_ASKED = (
    *("splits", "include", "exclude", "image_key", "label_column", "group_column", "group_by"),
    *("tile", "tile_min_detail"),
)


def _listed(value: str | float | list[str]) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def none_taken(count: int, first: str) -> UserError:
    """What to say where patterns take none of so many names."""
    return UserError(
        f"`include` and `exclude` leave none of {count:,} images", f"mend the patterns; one of them is called {first}"
    )


class Patterns:
    """Which names are taken: those that one of `include` fits (any, where there is none) and none of `exclude`.

    As in a shell `*` and `?` stand for what has no slash, `[ab]` for one of these, `**` for any number of folders. A
    pattern is held against the end of a path and of the folders on it: `masks` is every file in a folder or of the
    name masks, `*_mask.png` such files anywhere, `cat/*` what lies in any folder cat; one that begins with a slash is
    held against the whole.
    """

    def __init__(self, include: Iterable[str], exclude: Iterable[str]) -> None:
        self._include, self._exclude = _regex(include), _regex(exclude)

    def takes(self, name: str) -> bool:
        """Whether the image of this name is."""
        if self._include is not None and not self._include.search(name):
            return False
        return self._exclude is None or not self._exclude.search(name)

    def taken(self, names: Iterable[str], prefix: str = "") -> NDArray[np.bool_]:
        """(n,) of each name behind a prefix."""
        return np.fromiter((self.takes(f"{prefix}{name}") for name in names), np.bool_)

    def excludes(self, folder: str) -> bool:
        """Whether nothing in a folder is taken."""
        return self._exclude is not None and self._exclude.search(folder) is not None


def _regex(patterns: Iterable[str]) -> re.Pattern[str] | None:
    found = [_one(pattern) for pattern in patterns]
    return re.compile("|".join(found), re.DOTALL) if found else None


def _one(pattern: str) -> str:
    """A pattern as a regular expression that is searched for in a path."""
    start = r"\A" if pattern.startswith("/") else r"(?:\A|/)"
    inner = "".join(_pieces(pattern.strip("/")))
    if not inner:
        raise UserError(f"'{pattern}' is no pattern of names", "give one such as '*_mask.png' or 'masks'")
    return rf"{start}(?:{inner})(?:/|\Z)"


def _pieces(pattern: str) -> Iterator[str]:
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            yield "(?:[^/]+/)*"
            at += 3
        elif pattern.startswith("**", at):
            yield ".*"
            at += 2
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            yield f"[^/{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"
            at = end + 1
        else:
            yield {"*": "[^/]*", "?": "[^/]"}.get(pattern[at]) or re.escape(pattern[at])
            at += 1
