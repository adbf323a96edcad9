"""Which number or colour of a mask is which class: lists that lie beside the masks, and what they make of pixels.

classes.csv     name and colour (name,r,g,b or name,#rrggbb), or number and name (index,name), by its first line
classes.txt     a name a line, the first is 0
classes.json    ["road", "car"], {"0": "road"} or {"road": 0}
labelmap.txt    CVAT's: name:r,g,b::
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.annotations.annotations import index_type
from openmae.data.annotations.label_images import grey_of
from openmae.data.sources.table import columns_of
from openmae.errors import BrokenImage, UserError
from openmae.files.parsing import read_json

FILES = ("classes.csv", "_classes.csv", "class_dict.csv", "classes.json", "classes.txt", "codes.txt", "labelmap.txt")
_IGNORED = frozenset("ignore ignored ignored_index ignore_index void unlabeled unlabelled dontcare".split())
_MOST_BYTES = 2**24
_MOST_CLASSES = 65_000
_NAMES = ("name", "class", "label", "classname", "category")
_INDICES = ("index", "id", "value", "number", "pixelvalue", "pixel", "classid", "labelid")
_COLOURS = ("color", "colour", "hex", "rgb")
_SHARES = (("r", "g", "b"), ("red", "green", "blue"))
_SHOWN = 5


@dataclass(frozen=True)
class ClassList:
    """names: of the classes that are learnt, in order. indices, colours (packed as 0xrrggbb): which class each is, -1
    where pixels of it are ignored; empty where the list does not say."""

    file: str
    names: tuple[str, ...]
    indices: Mapping[int, int]
    colours: Mapping[int, int]


def find_class_list(folders: Iterable[Path]) -> ClassList | None:
    """The list that lies in one of the folders. Raises UserError where there are several that differ, or one that
    cannot be read."""
    found: list[ClassList] = []
    for folder in dict.fromkeys(folders):
        for name in FILES:
            if (folder / name).is_file() and not _names_images(folder / name):
                found.append(read_class_list(folder / name))
                break
    for other in found[1:]:
        if (other.names, other.indices, other.colours) != (found[0].names, found[0].indices, found[0].colours):
            raise UserError(f"{found[0].file} and {other.file} name different classes", "keep one of them")
    return found[0] if found else None


def _names_images(file: Path) -> bool:
    """Whether it is a table of images and their labels, which somebody called so too."""
    return "path" in (name.lower() for name in columns_of(file))


def read_class_list(file: Path) -> ClassList:
    """Raises UserError where it is no list of classes."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than lists of classes are")
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".json":
            rows = _of_json(read_json(text))
        elif file.name == "labelmap.txt":
            rows = _of_labelmap(text)
        elif file.suffix == ".csv":
            rows = _of_csv(text)
        else:
            rows = [_Row(line.strip()) for line in text.splitlines() if line.strip()]
        return _made(str(file), rows)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})", "check its permissions") from error
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is one
        raise UserError(f"{file} is no list of classes ({error})", "see docs/labels.md for how to write one") from error


@dataclass(frozen=True)
class _Row:
    name: str
    index: int | None = None
    colour: int | None = None


def _made(file: str, rows: list[_Row]) -> ClassList:
    if not rows:
        raise ValueError("it has no rows")
    if len(rows) > _MOST_CLASSES:
        raise ValueError(f"it has {len(rows):,} rows")
    if nameless := next((number for number, row in enumerate(rows, 1) if not row.name), None):
        raise ValueError(f"row {nameless} has no name")
    said = [re.sub(r"[\W_]+", "_", row.name.lower()).strip("_") for row in rows]
    names = [*dict.fromkeys(row.name for row, word in zip(rows, said, strict=True) if word not in _IGNORED)]
    place = {name: number for number, name in enumerate(names)}
    has_colours = [row.colour is not None for row in rows]
    numbers = [row.index if row.index is not None else place_of for place_of, row in enumerate(rows)]
    if any(row.index is None for row in rows) and any(row.index is not None for row in rows):
        raise ValueError("some of its rows have a number and some have none")
    if any(has_colours) and not all(has_colours):
        raise ValueError("some of its rows have a colour and some have none")
    if twice := _twice(numbers):
        raise ValueError(f"the number {twice[0]} is there twice")
    if all(has_colours) and (twice := _twice([row.colour for row in rows])):
        raise ValueError(f"the colour #{twice[0]:06x} is there twice")
    if len(names) < 1:
        raise ValueError("all of its classes are ignored")
    to = [place.get(row.name, -1) for row in rows]
    to = [-1 if word in _IGNORED else where for word, where in zip(said, to, strict=True)]
    colours = {int(row.colour): where for row, where in zip(rows, to, strict=True) if row.colour is not None}
    return ClassList(file, tuple(names), dict(zip(numbers, to, strict=True)), colours)


def _twice(values: list[Any]) -> list[Any]:
    return [value for number, value in enumerate(values) if value in values[:number]][:1]


def _of_csv(text: str) -> list[_Row]:
    rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True, strict=True) if any(row)]
    if not rows:
        return []
    header = [re.sub(r"[\W_]+", "", cell.lower()) for cell in rows[0]]
    name = next((header.index(word) for word in _NAMES if word in header), None)
    if name is None:
        raise ValueError(f"its first line names no column 'name' but {', '.join(rows[0])}")
    index = next((header.index(word) for word in _INDICES if word in header), None)
    shares = next(([header.index(word) for word in words] for words in _SHARES if {*words} <= {*header}), None)
    colour = next((header.index(word) for word in _COLOURS if word in header), None)
    found = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} cells where the first has {len(header)}")
        packed = None
        if shares is not None:
            packed = _packed([row[place] for place in shares], number)
        elif colour is not None:
            packed = _colour(row[colour], number)
        found.append(_Row(row[name].strip(), None if index is None else _index(row[index], number), packed))
    return found


def _index(cell: str, line: int) -> int:
    if not re.fullmatch(r"\d{1,9}", cell.strip()):
        raise ValueError(f"line {line} has the number {cell!r}")
    return int(cell)


def _colour(cell: str, line: int) -> int:
    if found := re.fullmatch(r"#?([0-9a-fA-F]{6})", cell.strip()):
        return int(found[1], 16)
    return _packed(re.findall(r"[^\s,;()\[\]]+", cell), line)


def _packed(shares: list[str], line: int) -> int:
    if len(shares) != 3 or not all(re.fullmatch(r"\d{1,3}", share.strip()) and int(share) < 256 for share in shares):
        raise ValueError(f"line {line} has the colour {', '.join(shares)!r}, not three of 0 to 255 or #rrggbb")
    red, green, blue = map(int, shares)
    return red << 16 | green << 8 | blue


def _of_json(value: Any) -> list[_Row]:
    if isinstance(value, dict) and all(isinstance(number, int) for number in value.values()):
        return [_Row(name, number) for name, number in value.items()]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        return [_Row(name, _index(number, line)) for line, (number, name) in enumerate(value.items(), 1)]
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return [_Row(name) for name in value]
    raise ValueError('it is neither ["name", ...] nor {"0": "name", ...} nor {"name": 0, ...}')


def _of_labelmap(text: str) -> list[_Row]:
    lines = [(number, line.split(":")) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [(number, cells) for number, cells in lines if not cells[0].startswith("#")]
    if bad := next((number for number, cells in lines if len(cells) < 2), None):
        raise ValueError(f"line {bad} is not name:r,g,b::")
    return [_Row(cells[0].strip(), None, _colour(cells[1], number)) for number, cells in lines]


@dataclass(frozen=True)
class Values:
    """What the numbers or colours of masks are. values (k,) ascending; classes (k,) of each, -1 where pixels of it are
    ignored. is_colour: whether they are colours, packed as 0xrrggbb. count: of the classes."""

    values: NDArray[np.int64]
    classes: NDArray[np.int64]
    is_colour: bool
    count: int
    table: NDArray[np.uint16] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Makes the table of what every number below 65,536 is: a class, ignored, or nothing."""
        table = np.full(65_536, _NOTHING, np.uint16)
        small = self.values < len(table)
        table[self.values[small]] = np.where(self.classes[small] < 0, _IGNORE, self.classes[small])
        object.__setattr__(self, "table", table)

    @classmethod
    def of(cls, classes: Mapping[int, int], count: int, is_colour: bool = False) -> "Values":
        """From what each value is; 255 and 65535 are ignored, where they are nothing else."""
        ignored = {} if is_colour else {255: -1, 65_535: -1}
        found = {**ignored, **classes}
        values = sorted(found)
        return cls(np.array(values, np.int64), np.array([found[v] for v in values], np.int64), is_colour, count)

    def mask(self, pixels: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """(H, W) the class of each pixel. pixels: as `label_image` gives them. Raises BrokenImage for a value that is
        no class."""
        mask: NDArray[Any] = np.empty(pixels.shape[:2], index_type(self.count))
        unknown = list[NDArray[Any]]()
        for top in range(0, len(pixels), _ROWS):
            mask[top : top + _ROWS] = self._rows(pixels[top : top + _ROWS], unknown)
        if unknown:
            raise self._unknown(np.concatenate(unknown))
        return mask

    def _rows(self, pixels: NDArray[Any], unknown: list[NDArray[Any]]) -> NDArray[Any]:
        """Some rows of it, so that what is between numbers and classes takes little memory. unknown: gets the values
        that are no class."""
        if self.is_colour:
            if pixels.ndim != 3:
                raise BrokenImage("it has no colours, which name the classes of the others")
            packed = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        else:
            packed = grey_of(pixels)
            if packed.ndim != 2:
                raise BrokenImage("it is in colour, and no list says which colour is which class")
        if packed.dtype.itemsize <= 2 and not self.is_colour:
            found = self.table[packed]
        else:
            places = np.minimum(np.searchsorted(self.values, packed), len(self.values) - 1)
            classes = np.where(self.classes[places] < 0, _IGNORE, self.classes[places]).astype(np.uint16)
            found = np.where(self.values[places] == packed, classes, np.uint16(_NOTHING))
        if (nothing := found == _NOTHING).any():
            unknown.append(packed[nothing])
        mask = found.astype(index_type(self.count))
        mask[found == _IGNORE] = np.iinfo(mask.dtype).max
        return mask

    def _unknown(self, values: NDArray[Any]) -> BrokenImage:
        kinds = np.unique(values)
        shown = [f"#{kind:06x}" if self.is_colour else f"{kind}" for kind in kinds[:_SHOWN].tolist()]
        more = f" and {len(kinds) - _SHOWN:,} more" if len(kinds) > _SHOWN else ""
        what = "colour" if self.is_colour else "value"
        pixels = "1 pixel has" if len(values) == 1 else f"{len(values):,} pixels have"
        return BrokenImage(
            f"{pixels} the {what}{'s' * (len(kinds) > 1)} {', '.join(shown)}{more}, which "
            f"{'are' if len(kinds) > 1 else 'is'} no class"
        )


_NOTHING, _IGNORE = 65_534, 65_535
_ROWS = 1024  # of a mask, at once
