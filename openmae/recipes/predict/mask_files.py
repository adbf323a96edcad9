"""What is written of one image that was outlined: a mask; where it lies on the ground, that too, and polygons."""

import csv
import io
import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from openmae.console.words import encodable
from openmae.data.annotations.annotations import BACKGROUND
from openmae.data.annotations.tracing import areas
from openmae.data.formats.geotiff import DOUBLES, MATRIX, SCALE, TEXTS, TIEPOINTS, Placed
from openmae.data.sources.listing import EXTENSIONS
from openmae.data.sources.source import Source
from openmae.files.spreadsheets import cells
from openmae.files.whole import write_file
from openmae.recipes.predict.geojson import POLYGONS, collection, feature
from openmae.report.sheets.outlines import colours

MASKS = "masks"
"""The folder."""
_ASCII, _SHORT, _DOUBLE = 2, 3, 12  # TIFF's numbers of types


def mask_places(source: Source) -> list[str]:
    """Where the mask of each image is to lie below MASKS, without its ending: the image's own path without that, or,
    where several images would have one mask, with it."""
    plains = [_plain(source.name(index)) for index in range(len(source))]
    stems = [_stem(plain) for plain in plains]
    counts = Counter(map(str.casefold, stems))
    taken: set[str] = set()
    for number, (plain, stem) in enumerate(zip(plains, stems, strict=True)):
        place = stem if counts[stem.casefold()] == 1 else plain
        while place.casefold() in taken:
            place = f"{place}-{number + 1}"
        taken.add(place.casefold())
        stems[number] = place
    return stems


def write_mask(
    folder: Path,
    place: str,
    rows: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    names: Sequence[str],
    where: Placed | None,
) -> None:
    """Writes what there is of one image of that size (H, W). rows: (r, W) class indices, from top to bottom, which are
    written as they come; of an image that lies on the ground all are held, a byte a pixel. Raises OSError."""
    file = folder / mask_name(place, where is not None)
    file.parent.mkdir(parents=True, exist_ok=True)
    if where is None:
        write_file(file, _png(rows, size, _palette(names)))
        return
    mask = np.concatenate([*rows])
    picture = Image.frombytes("P", (mask.shape[1], mask.shape[0]), mask.tobytes())
    picture.putpalette(_palette(names).tobytes())
    encoded = io.BytesIO()
    picture.save(encoded, "TIFF", compression="tiff_adobe_deflate", tiffinfo=_tags(where))
    polygons = json.dumps(_polygons(mask, names, where)).encode()
    _write(folder / POLYGONS / f"{place}.geojson", polygons)
    write_file(file, encoded.getvalue())


def as_png(mask: NDArray[np.uint8]) -> bytes:
    """(H, W), grey."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


_INDEXED = struct.pack("5B", 8, 3, 0, 0, 0)  # 8 bits, a palette, deflate, one filter a row, not interlaced
_MOST_CHUNK = 2**20  # bytes of a chunk of pixels


def _png(rows: Iterable[NDArray[np.uint8]], size: tuple[int, int], palette: NDArray[np.uint8]) -> Iterator[bytes]:
    """A PNG (ISO/IEC 15948) piece by piece: no library that is at hand writes one whose pixels are not all there."""
    yield b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">2I", size[1], size[0]) + _INDEXED)
    yield _chunk(b"PLTE", palette.tobytes())
    deflate, held = zlib.compressobj(), b""
    for part in rows:
        held += deflate.compress(np.pad(part, ((0, 0), (1, 0))).tobytes())  # 0 before each row: it is as it is
        if len(held) >= _MOST_CHUNK:
            yield _chunk(b"IDAT", held)
            held = b""
    yield _chunk(b"IDAT", held + deflate.flush()) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def mask_name(place: str, is_placed: bool) -> str:
    """Of the mask's file."""
    return f"{MASKS}/{place}{'.tif' if is_placed else '.png'}"


def write_classes(file: Path, names: Sequence[str]) -> None:
    """classes.csv: index, name and colour, as `openmae segment` reads it beside masks. Raises OSError."""
    rows = [("index", "name", "colour")]
    for index, (name, colour) in enumerate(zip(names, _palette(names).tolist(), strict=True)):
        rows.append((str(index), encodable(name), "#{:02x}{:02x}{:02x}".format(*colour)))
    write_file(file, _csv(rows))


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(map(cells, rows))
    return text.getvalue().encode()


def _palette(names: Sequence[str]) -> NDArray[np.uint8]:
    return colours(len(names), names[0] == BACKGROUND)


def _plain(name: str) -> str:
    """A path that stays below the folder, of letters that file systems have."""
    parts = encodable(name).replace("\0", "_").split("/")
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "image"


def _stem(plain: str) -> str:
    path = PurePosixPath(plain)
    return str(path.with_suffix("")) if path.suffix.lower() in EXTENSIONS and path.stem else plain


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, data)


def _tags(where: Placed) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Those that say where it lies, as the image has them."""
    found = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in where.tags.items():
        if tag == TEXTS:
            found[tag] = bytes(values).rstrip(b"\0").decode("latin-1")
        else:
            found[tag] = values
        found.tagtype[tag] = _DOUBLE if tag in (SCALE, TIEPOINTS, MATRIX, DOUBLES) else _SHORT
        if tag == TEXTS:
            found.tagtype[tag] = _ASCII
    return found


def _polygons(mask: NDArray[np.uint8], names: Sequence[str], where: Placed) -> dict[str, Any]:
    """A polygon for each area of one class, all but the background's."""
    features = []
    for index, name in enumerate(names):
        if index == 0 and name == BACKGROUND:
            continue
        for area in areas(mask == index):
            about = {"class": encodable(name), "index": index, "pixels": area.pixels}
            features.append(feature(about, [area], where))
    return collection(features, where)
