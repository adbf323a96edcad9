"""Bands that a user calls by their names, of images whose files name them."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from openmae.console.words import in_a_line
from openmae.data.formats.bands import band_names
from openmae.data.formats.window import is_window, window_in
from openmae.data.sources.source import Source
from openmae.errors import BrokenImage, UserError

_ASKED = 8  # images


def names_of(source: Source) -> tuple[str, ...]:
    """What the bands of its images are called, "" for one without a name; empty where none of some images says so.
    Raises UserError where they are called otherwise in others."""
    found: dict[tuple[str, ...], str] = {}
    for index in dict.fromkeys(np.linspace(0, len(source) - 1, _ASKED).astype(int).tolist()):
        with suppress(OSError, BrokenImage):
            data = source.read(index)
            if names := band_names(window_in(data)[1] if is_window(data) else data):
                found.setdefault(names, source.shown(index))
    if len(found) > 1:
        (one, of_one), (other, of_other), *_ = found.items()
        raise UserError(
            f"the bands of {of_one} are called {said(one)}, those of {of_other} {said(other)}",
            "give numbers, where these are the same in all images",
        )
    return next(iter(found), ())


def said(names: Sequence[str]) -> str:
    """The names with their numbers."""
    return ", ".join(f"{number} {in_a_line(name)}" for number, name in enumerate(names, 1) if name)


def band_numbers(asked: Sequence[int | str], setting: str, source: Source) -> tuple[int, ...]:
    """The numbers, from 1, of bands that are called by number or name, several names with commas too. Raises UserError
    for a name that no band has, or several have."""
    words = [word.strip() for one in asked for word in str(one).split(",")]
    if all(word.isdecimal() for word in words):
        return tuple(map(int, words))
    names = names_of(source)
    if not names:
        raise UserError(
            f"`{setting}` has '{next(word for word in words if not word.isdecimal())}', and the images of "
            f"{source.location} do not say what their bands are called",
            "give numbers, counted from 1",
        )
    found = []
    for word in words:
        places = [place for place, name in enumerate(names, 1) if name.casefold() == word.casefold()]
        if len(places) != 1 and not (word.isdecimal() and not places):
            has = "several bands have" if places else "no band has"
            raise UserError(f"`{setting}` has '{word}', a name that {has}", f"give of {said(names)}")
        found.append(places[0] if places else int(word))
    return tuple(found)
