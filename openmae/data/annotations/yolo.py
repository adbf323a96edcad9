"""YOLO's boxes and polygons: a .txt for each image, a line an object, in shares of the image's sides.

    data.yaml               names of the classes, and where train and val are
    images/train/a.jpg      labels/train/a.txt: class x y width height, or class x1 y1 x2 y2 x3 y3 ...
    train/images/a.jpg      train/labels/a.txt, the other way up

An image without a .txt, or with an empty one, shows nothing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from openmae.console.words import in_a_line
from openmae.data.annotations.classes import find_class_list
from openmae.data.annotations.found import Found, images_of
from openmae.data.annotations.listed import Listing, listed
from openmae.data.annotations.splits import by_folders
from openmae.data.annotations.tally import Tally
from openmae.data.sources import listing as files
from openmae.data.sources.selection import Selection
from openmae.data.sources.splits import Kind
from openmae.errors import UserError

_MOST_BYTES = 2**24  # of a .yaml, of a .txt
_MOST_CLASSES = 65_000
_LOOKED_AT = 8  # texts that tell
_BEYOND = 0.01  # of a side that a box or a point may lie outside the image without a word
_SPLITS: tuple[Kind, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Described:
    """What a data.yaml says. places: where the images of each split are, as it has them, relative to root."""

    file: Path
    root: Path
    names: tuple[str, ...]
    places: Mapping[Kind, Sequence[str]]


def yaml_files(root: Path) -> list[Path]:
    """The files in a folder that may be YOLO's."""
    return sorted(file for file in (*root.glob("*.yaml"), *root.glob("*.yml")) if file.is_file())


def read_yaml(file: Path) -> Described | None:
    """None where it names no classes. Raises UserError where it cannot be read, or means nothing."""
    try:
        import yaml
    except ImportError as error:
        raise UserError(f"reading {file} needs PyYAML", "pip install pyyaml") from error
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than such files are")
        found = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})", "check its permissions") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged YAML ({in_a_line(' '.join(str(error).split()))})", "mend it") from error
    if not isinstance(found, dict) or "names" not in found:
        return None
    places: dict[Kind, list[str]] = {}
    for kind in _SPLITS:
        place = found.get(kind) or (found.get("valid") if kind == "val" else None)
        if isinstance(place, str):
            place = [place]
        if place is not None:
            if not isinstance(place, list) or not all(isinstance(one, str) for one in place):
                raise UserError(f"{file} has a {kind} that is no folder", "write the folder of its images there")
            places[kind] = place
    root = found.get("path")
    inside = file.parent / root if isinstance(root, str) else file.parent
    return Described(file, inside if inside.is_dir() else file.parent, _names(file, found["names"]), places)


def _names(file: Path, value: Any) -> tuple[str, ...]:
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise UserError(f"{file} has names whose numbers are not 0, 1, 2, ...", "mend them")
        value = [value[number] for number in range(len(value))]
    if not isinstance(value, list) or not value or not all(isinstance(name, str | int | float) for name in value):
        raise UserError(f"{file} has names that are no list of names", "write names: [cat, dog]")
    if len(value) > _MOST_CLASSES:
        raise UserError(f"{file} has {len(value):,} names", "keep those that are learnt")
    names = tuple(map(str, value))
    if twice := next((name for name in names if names.count(name) > 1), None) if len({*names}) < len(names) else None:
        raise UserError(f"{file} has two classes that are called {in_a_line(twice)}", "rename one")
    return names


def open_yolo(root: Path, described: Described | None, listing: files.Listing, selection: Selection) -> Found | None:
    """None where nothing is described and no image has a .txt of labels. Raises UserError."""
    tally, names = Tally(), listing.names[:]
    split_names: dict[Kind, list[str]] = {}
    if described is not None and not selection.is_one_set and selection.pair is None:
        split_names = {kind: _inside(described, root, places, names) for kind, places in described.places.items()}
        if empty := next((kind for kind, found in split_names.items() if not found), None):
            raise UserError(
                f"{described.file} says that {empty} is {in_a_line(', '.join(described.places[empty]))}, where no "
                "image is",
                "mend the path; it counts from the folder of the file, or from its path",
            )
        if len(split_names) > 1 and "train" in split_names:
            names = [name for kind in split_names for name in split_names[kind]]
        elif split_names:
            names, split_names = next(iter(split_names.values())), {}
    labels = [_labels_of(root, name) for name in names]
    has_labels = [path.is_file() for path in labels]
    there = [path for path, is_there in zip(labels, has_labels, strict=True) if is_there]
    if described is None and not _is_yolo(there[:_LOOKED_AT]):
        return None
    if not there:
        raise UserError(f"no image of {root} has a .txt of labels", "put them into labels/, beside images/")
    classes = described.names if described is not None else _unnamed(root, labels)
    objects = Listing()
    for path, is_there in zip(labels, has_labels, strict=True):
        if is_there:
            _add(objects, path, classes, tally)
        objects.end_image((0, 0))
    if without := has_labels.count(False):
        tally.add("{n} image{s} {have} no .txt, and count{s} as showing nothing".replace("count{s}", "count"),
                  names[has_labels.index(False)], "", without)  # fmt: skip
    _tell_lost(root, labels, tally)
    start, places = 0, dict[Kind, Any]()
    for kind, found in split_names.items():
        places[kind], start = np.arange(start, start + len(found)), start + len(found)
    taken = ", ".join(f"{', '.join(described.places[kind])} for {kind}" for kind in places) if described else ""
    if not places:
        folders = [tuple(p for p in PurePosixPath(name).parts[:-1] if p.lower() != "images") for name in names]
        shown, taken = by_folders(str(root), folders, selection)
        return Found("YOLO", images_of(root, listing, names), listed(str(root), classes, objects, tally, True), shown,
                     taken, tally)  # fmt: skip
    right = listed(str(root), classes, objects, tally, relative=True)
    return Found("YOLO", images_of(root, listing, names), right, places, taken, tally)


def _inside(described: Described, root: Path, places: Sequence[str], names: Sequence[str]) -> list[str]:
    """The images that lie in these folders, or that these lists name."""
    found: list[str] = []
    for place in places:
        for base in (described.root, described.file.parent):
            path = base / place
            if not path.exists():  # which some tools write as if the file lay in one of them
                path = base / re.sub(r"^(\.\./)+", "", place)
            if path.exists():
                break
        try:
            prefix = str(path.resolve().relative_to(root.resolve())).removeprefix(".")
        except ValueError:
            continue
        if path.is_file():
            listed_here = {line.strip().removeprefix("./") for line in _text(path).splitlines()}
            found += [name for name in names if name in listed_here or str(root / name) in listed_here]
        else:
            found += [name for name in names if not prefix or name.startswith(f"{prefix}/")]
    return found


def _labels_of(root: Path, name: str) -> Path:
    """The .txt of an image: in labels/ where it lies in images/, otherwise beside it."""
    path = PurePosixPath(name)
    parts = [*path.parts[:-1], f"{path.stem}.txt"]
    places = [number for number, part in enumerate(parts[:-1]) if part.lower() == "images"]
    if places:
        parts[places[-1]] = "labels"
    elif (root / "labels" / PurePosixPath(*parts)).is_file():
        parts.insert(0, "labels")
    return root.joinpath(*parts)


def _is_yolo(paths: Sequence[Path]) -> bool:
    """Whether texts beside images are labels, and no captions: all that is said in a few of them are numbers."""
    lines = [line for path in paths for line in _text(path).splitlines() if line.strip()]
    return bool(lines) and all(re.fullmatch(r"\d{1,5}(\s+[-+.\deE]+){4,}\s*", line) for line in lines)


def _unnamed(root: Path, labels: Sequence[Path]) -> tuple[str, ...]:
    """Names from classes.txt, where there is one, or the numbers that occur."""
    if (lists := find_class_list([root, root / "labels", *(root / kind for kind in _SPLITS)])) is not None:
        return lists.names
    highest = -1
    for path in labels:
        if path.is_file():
            for line in _text(path).splitlines():
                if (first := line.split()[:1]) and re.fullmatch(r"\d{1,5}", first[0]):
                    highest = max(highest, int(first[0]))
    if not 0 <= highest < _MOST_CLASSES:
        raise UserError(f"no line of the labels of {root} begins with the number of a class", "see docs/labels.md")
    return tuple(map(str, range(highest + 1)))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is larger than labels of an image are", "see docs/labels.md")
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", "check its permissions") from error


def _add(objects: Listing, path: Path, names: Sequence[str], tally: Tally) -> None:
    """The objects of one image. Raises UserError for a line that is none, and for a class that has no name."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not (cells := line.split()):
            continue
        try:
            label, values = float(cells[0]), [float(cell) for cell in cells[1:]]
        except ValueError:
            label, values = -1.0, []
        if (
            not label.is_integer()
            or label < 0
            or len(values) % 2
            or len(values) < 4
            or not all(map(math.isfinite, values))
        ):
            raise UserError(
                f"line {number} of {path} is no object of YOLO's ({in_a_line(line[:60])})",
                "write class x y width height, or class and three points or more, x1 y1 x2 y2 x3 y3",
            )
        if label >= len(names):
            raise UserError(
                f"line {number} of {path} has the class {label:.0f}, and there are {len(names)}, from 0 on",
                "add its name to data.yaml, or mend the line",
            )
        where = f"{path.name}, line {number}"
        points = np.array(values).reshape(-1, 2)
        if len(points) == 2:
            (x, y), (width, height) = points
            corners = np.array([[x - width / 2, y - height / 2], [x + width / 2, y + height / 2]])
        else:
            corners = np.stack([points.min(0), points.max(0)])
        if corners.min() > 1 or corners.max() > 2:
            raise UserError(
                f"line {number} of {path} has numbers up to {corners.max():g}, and shares of the image's sides are at "
                "most 1",
                "divide them by the image's width and height",
            )
        if corners.min() < -_BEYOND or corners.max() > 1 + _BEYOND:
            tally.add("{n} object{s} reach{es} beyond the image, and {are} cut to it".replace("{es}", ""), where)
        left, top, right, bottom = corners.clip(0, 1).ravel().tolist()
        if right <= left or bottom <= top:
            tally.add("{n} object{s} {are} empty or negative, and {are} left out", where)
            continue
        objects.add(int(label), (left, top, right, bottom), [points] if len(points) > 2 else [])


def _tell_lost(root: Path, labels: Sequence[Path], tally: Tally) -> None:
    """Counts .txt files beside those that were read which are of no image."""
    known = {*labels}
    for folder in sorted({path.parent for path in known if "labels" in path.relative_to(root).parts}):
        lost = sorted({*folder.glob("*.txt")} - known - {folder / "classes.txt"}) if folder.is_dir() else []
        if lost:
            where = str(lost[0].relative_to(root))
            tally.add("{n} .txt file{s} {are} of no image, and left out", where, "", len(lost))
