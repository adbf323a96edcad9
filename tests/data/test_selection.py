"""--include and --exclude: which names a pattern fits, by Python's own pathlib where it can tell."""

from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openmae.data.opening import open_data
from openmae.data.sources.selection import Patterns, Selection
from openmae.errors import UserError

PARTS = st.text("ab_.", min_size=1, max_size=4).filter(lambda part: part not in (".", ".."))
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
GLOBS = st.lists(
    st.text("ab_.*?", min_size=1, max_size=4).filter(lambda p: p not in (".", "..")), max_size=3, min_size=1
)


@given(PATHS, GLOBS.map("/".join))
def test_a_pattern_fits_a_path_or_a_folder_on_it_as_pathlib_matches(path: str, pattern: str) -> None:
    if "**" in pattern:
        return  # any number of folders here, which pathlib's match does not know
    place = PurePosixPath(path)
    wanted = any(part.match(pattern) for part in [place, *place.parents][:-1])
    assert Patterns([pattern], []).takes(path) == wanted
    assert Patterns([], [pattern]).takes(path) != wanted


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("masks", "masks/1.png cat/masks/2/3.png", "masks2/1.png cat/1_masks.png"),
        ("masks/", "masks/1.png", "mask/1.png"),
        ("*_mask.*", "a_mask.png cat/a_mask.gif", "a_mask/1.png mask.png"),
        ("/cat/*", "cat/1.png cat/masks/1.png", "train/cat/1.png"),
        ("cat/**/x", "cat/x/1.png cat/a/b/x", "dog/x"),
        ("**/x", "x/1.png a/b/x/1.png", "xx"),
        ("[ab]1.png", "a1.png c/b1.png", "c1.png"),
        ("[!a]1.png", "b1.png", "a1.png"),
        ("[1.png", "[1.png", "1.png"),
        ("a+(b).png", "a+(b).png", "aab.png"),
    ],
)
def test_patterns(pattern: str, fits: str, does_not: str) -> None:
    patterns = Patterns([pattern], [])
    assert [name for name in fits.split() if not patterns.takes(name)] == []
    assert [name for name in does_not.split() if patterns.takes(name)] == []


def test_what_is_included_may_be_excluded() -> None:
    names = ["a.png", "b.png", "c.jpg", "masks/a.png"]
    assert [*Patterns(["*.png"], ["masks", "b.*"]).taken(names)] == [True, False, False, False]


@pytest.mark.parametrize("pattern", ["", "/"])
def test_no_pattern(pattern: str) -> None:
    with pytest.raises(UserError, match="no pattern"):
        Patterns([pattern], [])


def test_patterns_choose_among_files(tmp_path) -> None:
    for name in ("a.png", "b_mask.png", "masks/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    source = open_data(str(tmp_path), Selection(exclude=("*_mask.*", "masks"))).all
    assert [source.name(i) for i in range(len(source))] == ["a.png"]
    with pytest.raises(UserError, match="leave none of 3 images"):
        _ = open_data(str(tmp_path), Selection(include=("*.jpg",))).all
