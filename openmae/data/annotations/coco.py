"""COCO's JSON: images, categories, and annotations with polygons or run lengths.

What does not make sense is left out and counted, where what is left still says what the images show; what would make
all of it doubtful (a category that is not listed, an id of two images) is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.console.words import in_a_line
from openmae.data.annotations.drawing import decompressed
from openmae.data.annotations.listed import Listing
from openmae.data.annotations.tally import Tally
from openmae.data.formats.header import MAX_PIXELS
from openmae.errors import UserError
from openmae.files.parsing import read_json

_MOST_BYTES = 2**31
_FIRST = 2**16  # bytes that tell what a file is
_MOST_CLASSES = 65_000
_SHOWN = 3
_FAR = 1e6  # no image has so many pixels a side


@dataclass(frozen=True)
class Coco:
    """images: (id, file name, (H, W)) of each. names: of the categories, by their ids. by_image: the annotations of
    each image id, in their order."""

    file: Path
    images: list[tuple[Any, str, tuple[int, int]]]
    names: dict[Any, str]
    by_image: dict[Any, list[dict[str, Any]]]


def looks_like_coco(file: Path) -> bool:
    """Whether a JSON file begins as such a list may: an object with some of its keys early on."""
    try:
        with file.open("rb") as opened:
            first = opened.read(_FIRST)
    except OSError:
        return False
    has = [f'"{key}"'.encode() in first for key in ("images", "annotations", "categories")]
    return first.lstrip()[:1] == b"{" and (sum(has) > 1 or (any(has) and len(first) == _FIRST) or b'"info"' in first)


def read_coco(file: Path, tally: Tally) -> Coco | None:
    """What a file says, without outlines decoded; None where it is JSON of another kind. Raises UserError where it
    cannot be read, or contradicts itself."""
    try:
        if (size := file.stat().st_size) > _MOST_BYTES:
            raise UserError(f"{file} has {size:,} bytes, more than is read", "divide it")
        found = read_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})", "check its permissions") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged JSON ({in_a_line(str(error))})", "copy or export it anew") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(found, dict) or not all(isinstance(found.get(key), list) for key in lists):
        return None
    if not all(isinstance(entry, dict) for key in lists for entry in found[key]):
        raise UserError(f"{file} has images, annotations or categories that are no objects", "export it anew")
    images = _images(file, found["images"], tally)
    names = _categories(file, found["categories"], found["annotations"])
    by_image: dict[Any, list[dict[str, Any]]] = {image[0]: [] for image in images}
    ids: set[Any] = set()
    for number, one in enumerate(found["annotations"]):
        own = one.get("id", number)
        if isinstance(own, int | str):
            if own in ids:
                tally.add("{n} annotation{s} {have} an id that another one has", f"{own}", "number them anew")
            ids.add(own)
        image = one.get("image_id")
        if not isinstance(image, int | str) or image not in by_image:
            tally.add("{n} object{s} {are} of an image that is not listed, and left out", f"{image}")
            continue
        category = one.get("category_id")
        if not isinstance(category, int | str) or category not in names:
            raise UserError(
                f"{file} has an object of the category {in_a_line(repr(category))}, which it does not list",
                "add it to its categories, or take the object out",
            )
        by_image[image].append(one)
    return Coco(file, images, names, by_image)


def _images(file: Path, entries: Sequence[Mapping[str, Any]], tally: Tally) -> list[tuple[Any, str, tuple[int, int]]]:
    images: list[tuple[Any, str, tuple[int, int]]] = []
    ids: set[Any] = set()
    for entry in entries:
        own, name = entry.get("id"), entry.get("file_name")
        if not isinstance(own, int | str) or not isinstance(name, str) or not name or "\0" in name:
            raise UserError(f"{file} has an image without id or file_name", "export it anew")
        if own in ids:
            raise UserError(f"{file} has two images of the id {own}", "number them anew")
        ids.add(own)
        height, width = entry.get("height"), entry.get("width")
        sides = [side if isinstance(side, int) and 0 < side < _FAR else 0 for side in (height, width)]
        if 0 in sides and (height or width):
            tally.add("{n} image{s} {have} a size that is none, which is not looked at", name)
        images.append((own, name, (sides[0], sides[1]) if all(sides) else (0, 0)))
    if not images:
        raise UserError(f"{file} lists no images", "export it anew")
    return images


def _categories(
    file: Path, entries: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]
) -> dict[Any, str]:
    """Names by id, in the order of the ids."""
    names: dict[Any, str] = {}
    for entry in entries:
        own, name = entry.get("id"), entry.get("name")
        if not isinstance(own, int | str) or not isinstance(name, str) or not name:
            raise UserError(f"{file} has a category without id or name", "export it anew")
        if own in names:
            raise UserError(f"{file} has two categories of the id {own}", "number them anew")
        names[own] = name
    if not names:
        raise UserError(f"{file} lists no categories", "export it anew")
    if len(names) > _MOST_CLASSES:
        raise UserError(f"{file} lists {len(names):,} categories", "keep those that are learnt")
    above = {name for entry in entries if isinstance(name := entry.get("supercategory"), str)}
    used = {one.get("category_id") for one in annotations if isinstance(one.get("category_id"), int | str)}
    for entry in entries:  # the name of the whole set, which some tools list as a category of its own
        own = entry["id"]
        if entry.get("supercategory") == "none" and entry["name"] in above and own not in used and len(names) > 1:
            del names[own]
    if len({*names.values()}) < len(names):
        twice = next(name for name in names.values() if [*names.values()].count(name) > 1)
        raise UserError(f"{file} has two categories that are called {in_a_line(twice)}", "rename one")
    return {own: names[own] for own in sorted(names, key=lambda own: (isinstance(own, str), own))}


def add_objects(listing: Listing, coco: Coco, image: int, numbers: Mapping[str, int], tally: Tally) -> None:
    """Those of one of its images. numbers: of the classes, by their names."""
    own, name, size = coco.images[image]
    for one in coco.by_image[own]:
        where = f"{name}, annotation {one.get('id')}"
        box = _box(one.get("bbox"), size, where, tally)
        try:
            rings, counts = _outline(one.get("segmentation"), size, where, tally)
        except ValueError as error:
            tally.add(f"{{n}} object{{s}} {{are}} left out: {error}", where)
            continue
        if box is None and not rings and counts is None:
            tally.add("{n} object{s} {have} neither an outline nor a box, and {are} left out", where)
            continue
        crowd = one.get("iscrowd") in (1, True)
        listing.add(numbers[coco.names[one["category_id"]]], box, rings, counts, crowd)
    listing.end_image(size)


def _box(value: Any, size: tuple[int, int], where: str, tally: Tally) -> tuple[float, float, float, float] | None:
    """left, top, right, bottom, cut to the image; None where there is none."""
    if not value:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        tally.add("{n} box{s} {are} not four numbers, and not looked at".replace("box{s}", "of the boxes"), where)
        return None
    left, top, width, height = map(float, value)
    right, bottom = left + width, top + height
    if all(size):
        inside = max(0.0, left), max(0.0, top), min(float(size[1]), right), min(float(size[0]), bottom)
        if max(-left, -top, right - size[1], bottom - size[0]) > 1:
            tally.add(
                "{n} of the boxes reach{s} beyond the image, and {are} cut to it".replace("reach{s}", "reach"), where
            )
        left, top, right, bottom = inside
    if right <= left or bottom <= top:
        tally.add("{n} of the boxes {are} empty or negative", where)
        return None
    return left, top, right, bottom


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # NaN is not


def _outline(
    value: Any, size: tuple[int, int], where: str, tally: Tally
) -> tuple[list[NDArray[np.float64]], NDArray[np.int64] | None]:
    """(polygons, None), or (none, run lengths). Raises ValueError with the reason why it is no outline."""
    if not value:
        return [], None
    if isinstance(value, dict):
        return [], _runs(value, size)
    if not isinstance(value, list):
        raise ValueError("their outline is neither polygons nor run lengths")
    if all(map(_is_number, value)):  # one polygon that is in no list
        value = [value]
    rings = []
    for ring in value:
        if not isinstance(ring, list) or len(ring) % 2 or not all(map(_is_number, ring)):
            raise ValueError("their polygon is no list of x and y")
        if len(ring) < 6:
            tally.add("{n} polygon{s} of fewer than three points {are} left out", where)
            continue
        points = np.array(ring, np.float64).reshape(-1, 2)
        if (np.ptp(points, axis=0) == 0).any():
            tally.add("{n} polygon{s} without an area {are} left out", where)
            continue
        rings.append(points)
    if not rings:
        raise ValueError("none of their polygons has three points and an area")
    return rings, None


def _runs(value: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.int64]:
    own, counts = value.get("size"), value.get("counts")
    if not isinstance(own, list) or len(own) != 2 or not all(isinstance(side, int) and 0 < side < _FAR for side in own):
        raise ValueError("their run lengths have no size")
    if size != (0, 0) and tuple(own) != size:
        raise ValueError("their run lengths are of another size than the image")
    if own[0] * own[1] > MAX_PIXELS:
        raise ValueError("their run lengths are of more pixels than images have")
    if isinstance(counts, str):
        found = decompressed(counts)
    elif isinstance(counts, list) and all(isinstance(count, int) for count in counts):
        found = np.array([max(-1, min(count, MAX_PIXELS + 1)) for count in counts], np.int64)
    else:
        raise ValueError("their run lengths are neither numbers nor COCO's short form")
    if not len(found) or found.min() < 0 or int(found.sum()) != own[0] * own[1]:
        raise ValueError("their run lengths do not make up the image")
    if not found[1::2].any():
        raise ValueError("their run lengths have no pixel inside")
    return found


def same_classes(first: Sequence[str], other: Sequence[str], names: tuple[str, str]) -> None:
    """Raises UserError where two splits have different classes. names: of the files that list them."""
    if {*first} != {*other}:
        odd = sorted({*first} ^ {*other})
        shown = in_a_line(", ".join(odd[:_SHOWN])) + (", ..." if len(odd) > _SHOWN else "")
        count = "1 class is" if len(odd) == 1 else f"{len(odd):,} classes are"
        raise UserError(
            f"{names[0]} and {names[1]} list different classes ({count} in one of them alone: {shown})",
            "give both the same list",
        )
