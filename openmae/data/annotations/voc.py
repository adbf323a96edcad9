"""Pascal VOC's boxes: an .xml for each image, in Annotations/ beside JPEGImages/, or beside the image.

Pixels are counted from 1 in them, and the last one belongs to the box. What is `difficult` is neither learnt nor
judged.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from openmae.console.words import in_a_line
from openmae.data.annotations.found import Found, images_of
from openmae.data.annotations.listed import Listing, listed
from openmae.data.annotations.splits import by_folders, by_lists
from openmae.data.annotations.tally import Tally
from openmae.data.sources import listing as files
from openmae.data.sources.selection import Selection
from openmae.errors import UserError

_MOST_BYTES = 2**24
_DEEPEST = 16
_MOST_CLASSES = 65_000
_BEYOND = 1  # pixels that a box may reach outside the image without a word


@dataclass(frozen=True)
class _Read:
    """size: (H, W), (0, 0) where it does not say. objects: (name, box from 0 on, whether it is difficult)"""

    size: tuple[int, int]
    objects: list[tuple[str, tuple[float, float, float, float], bool]]


def xml_files(root: Path) -> list[Path]:
    """The files below a folder that may be VOC's: of the first folders that have any."""
    found: list[Path] = []
    for pattern in ("*.xml", "*/*.xml", "*/*/*.xml"):
        found += [file for file in root.glob(pattern) if not file.name.endswith(".aux.xml")]  # those are GDAL's
    return sorted(found)


def open_voc(root: Path, paths: Sequence[Path], listing: files.Listing, selection: Selection) -> Found:
    """paths: of files that are VOC's. Raises UserError."""
    tally = Tally()
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in listing.names:
        by_stem[name.rpartition("/")[2].rpartition(".")[0]].append(name)
    pairs: list[tuple[str, Path]] = []
    for path in paths:
        names = by_stem.get(path.stem, [])
        if len(names) > 1:
            folder = str(path.parent.relative_to(root)).removeprefix(".")
            names = [max(names, key=lambda name: _common(name, folder))]
        if names:
            pairs.append((names[0], path))
        else:
            tally.add("{n} .xml file{s} {are} of no image, and left out", str(path.relative_to(root)))
    if not pairs:
        raise UserError(
            f"none of the {len(paths):,} .xml files of {root} is called as an image is",
            "call each as its image, with .xml behind it",
        )
    if without := len(listing.names) - len({name for name, _ in pairs}):
        first = min({*listing.names} - {name for name, _ in pairs})
        tally.add("{n} image{s} {have} no .xml, and {are} left out", first, "", without)
    read = [_read(path) for _, path in pairs]
    classes = tuple(sorted({name for one in read for name, _, _ in one.objects}))
    if not classes:
        raise UserError(f"the .xml files of {root} have no object at all", "give annotations that have some")
    if len(classes) > _MOST_CLASSES:
        raise UserError(f"the .xml files of {root} have {len(classes):,} classes", "mend the names")
    numbers = {name: number for number, name in enumerate(classes)}
    objects = Listing()
    for (_, path), one in zip(pairs, read, strict=True):
        for name, box, is_difficult in one.objects:
            if (inside := _cut(box, one.size, path.name, tally)) is not None:
                objects.add(numbers[name], inside, crowd=is_difficult)
        objects.end_image(one.size)
    names = [name for name, _ in pairs]
    stems = [path.stem for _, path in pairs]
    places = {} if selection.is_one_set else by_lists(root / "ImageSets" / "Main", stems)
    taken = "as ImageSets/Main lists them" if places else ""
    if not places:
        folders = [tuple(part for part in name.split("/")[:-1] if "image" not in part.lower()) for name in names]
        places, taken = by_folders(str(root), folders, selection)
    right = listed(str(root), classes, objects, tally)
    return Found("Pascal VOC", images_of(root, listing, names), right, places, taken, tally)


def _common(name: str, folder: str) -> int:
    """How many folders two paths have in common."""
    return len({*name.split("/")[:-1]} & {*folder.split("/")})


def is_voc(path: Path) -> bool:
    """Whether an .xml is an annotation of VOC's, by its first tag."""
    try:
        with path.open("rb") as file:
            return b"<annotation" in file.read(2_048)
    except OSError:
        return False


def _cut(
    box: tuple[float, float, float, float], size: tuple[int, int], where: str, tally: Tally
) -> tuple[float, float, float, float] | None:
    left, top, right, bottom = box
    if all(size):
        if max(-left, -top, right - size[1], bottom - size[0]) > _BEYOND:
            tally.add("{n} of the boxes reach beyond the image, and {are} cut to it", where)
        left, top, right, bottom = max(0.0, left), max(0.0, top), min(size[1], right), min(size[0], bottom)
    if right <= left or bottom <= top:
        tally.add("{n} of the boxes {are} empty or negative, and left out", where)
        return None
    return left, top, right, bottom


def _read(path: Path) -> _Read:
    """Raises UserError where it is no annotation of VOC's."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than such files are")
        fields = [*_fields(path.read_bytes())]
        return _annotation(fields)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", "check its permissions") from error
    except (ValueError, expat.ExpatError) as error:
        raise UserError(f"{path} is no annotation of Pascal VOC's ({in_a_line(str(error))})", "mend it") from error


def _annotation(fields: Sequence[tuple[tuple[str, ...], str, int]]) -> _Read:
    size = {"height": 0, "width": 0}
    objects: dict[int, dict[str, str]] = {}
    for path, text, number in fields:
        if path[:2] == ("annotation", "size") and path[-1] in size and len(path) == 3:
            size[path[-1]] = _pixels(text)
        elif path[:2] == ("annotation", "object"):
            own = objects.setdefault(number, {})
            if path[2:] in (("name",), ("difficult",)):
                own[path[2]] = text
            elif path[2:3] == ("bndbox",) and len(path) == 4:
                own[path[3]] = text
    found = []
    for own in objects.values():
        if missing := next((key for key in ("name", "xmin", "ymin", "xmax", "ymax") if not own.get(key)), None):
            raise ValueError(f"an object has no {missing}")
        left, top, right, bottom = (float(own[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise ValueError("a box has no finite numbers")
        found.append((own["name"], (left - 1, top - 1, right, bottom), own.get("difficult") == "1"))
    sides = (size["height"], size["width"])
    return _Read(sides if all(sides) else (0, 0), found)


def _pixels(text: str) -> int:
    side = float(text or 0)
    return int(side) if 0 < side < 1e6 else 0


def _fields(data: bytes) -> Iterator[tuple[tuple[str, ...], str, int]]:
    """(tags from the root on, text, number of the object) of each element that has no other in it. Raises ValueError
    for what declares entities, which can be made to fill the memory, and ExpatError for what is no XML."""
    parser = expat.ParserCreate()
    path: list[str] = []
    texts: list[list[str]] = []
    found: list[tuple[tuple[str, ...], str, int]] = []
    number = 0

    def start(name: str, _: dict[str, str]) -> None:
        nonlocal number
        path.append(name)
        texts.append([])
        number += path == ["annotation", "object"]
        if len(path) > _DEEPEST:
            raise ValueError("it is nested too deeply")

    def end(_: str) -> None:
        found.append((tuple(path), "".join(texts.pop()).strip(), number))
        path.pop()

    def say(text: str) -> None:
        if texts:
            texts[-1].append(text)

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type, which annotations do not")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, say
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(data, True)
    yield from found
