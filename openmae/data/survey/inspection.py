"""What every file of a data set is: one pass that reads and decodes each image once, in columns of few bytes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import open_image
from openmae.data.formats.header import Depth, Header
from openmae.data.formats.missing import Missing
from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.loading.pool import Hand, ordered
from openmae.data.sources.source import Source
from openmae.data.survey.as_arrays import Arrays, ends_of, headers_of, of_ends, of_headers
from openmae.data.survey.directions import MOST, Directions, Thumbnail, directions, thumbnail
from openmae.data.survey.frames import some_frames
from openmae.data.survey.moments import image_moments, is_grey, scale_of
from openmae.data.survey.nodata import Ends, Suspect, ends, suspects
from openmae.errors import BrokenImage
from openmae.randomness import generator

_CHUNK = 16  # files a worker reads in one go
_SCALE_SIDE = 256  # pixels a side of which the scale of the values is measured
_FEW = 64  # images that tell whether a value looks like no-data
_NOTHING = Header("", 0, 0, 0, "uint8", "", 0)  # of a file that gives no image

ROW = np.dtype(
    [
        ("digest", "V16"),  # of the file's bytes (BLAKE2b); zeros where they cannot be read
        ("bytes", "i8"),
        ("height", "i4"),
        ("width", "i4"),
        ("channels", "i4"),
        ("frames", "i4"),
        ("kind", "i4"),  # number of its (format, mode, depth)
        ("missing", "f4"),  # share of its values
        ("scale", "f4"),  # the root of the mean square of its scaled pixels
        ("blank", "?"),  # whether all its pixels are the same
        ("grey", "?"),  # whether it is grey and stored as colour
    ]
)


@dataclass(frozen=True)
class Inspection:
    """rows (n,) of ROW, in the order of the source, all 0 from `height` on where a file gives no image; kinds: (format,
    mode, depth, whether its numbers stay what they are in every depth) by their number; reasons: why a file gives no
    image, by its index; suspected: values that look like no-data though nobody says so; nodata: those that somebody
    does."""

    rows: NDArray[Any]
    kinds: list[tuple[str, str, str, bool]]
    reasons: dict[int, str]
    suspected: tuple[Suspect, ...]
    nodata: tuple[float, ...] | None = None
    directions: Directions | None = None

    @property
    def good(self) -> NDArray[np.bool_]:
        """(n,) whether the file gives an image."""
        found: NDArray[np.bool_] = self.rows["height"] > 0
        return found


@dataclass(frozen=True)
class Looked:
    """What was found of a file, in the words of ROW; ends: of its values; reason: why it gives no image."""

    header: Header
    digest: bytes
    size: int
    missing: float = 0.0
    scale: float = 0.0
    blank: bool = False
    grey: bool = False
    ends: Ends | None = None
    reason: str = ""
    small: Thumbnail | None = None


def inspect(
    source: Source, workers: int, say: Callable[[int], None] = lambda done: None, reading: Reading = UNSAID
) -> Inspection:
    """Reads and decodes every image; `say` hears how many are done. The result does not depend on `workers`."""

    def told() -> Iterator[Looked]:
        done = 0
        for some in looked_at(source, range(len(source)), workers, reading):
            yield from some
            done += len(some)
            say(done)

    return inspection(told(), len(source), reading)


def looked_at(source: Source, numbers: range, workers: int, reading: Reading) -> Iterator[list[Looked]]:
    """Reads and decodes these images of the source, a few at a time, in order."""
    some = frozenset(generator(0, "few").permutation(len(source))[:MOST].tolist())
    chunks = (numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK))
    return ordered(partial(_inspect, source, reading, some), chunks, workers)


def inspection(found: Iterable[Looked], count: int, reading: Reading) -> Inspection:
    """Of all `count` images of a source, in order."""
    rows = np.zeros(count, ROW)
    numbers: dict[tuple[str, str, str, bool], int] = {}
    reasons: dict[int, str] = {}
    outermost: dict[Depth, list[Ends]] = {}
    smaller: list[Thumbnail] = []
    for index, one in enumerate(found):
        header = one.header
        kind = numbers.setdefault((header.format, header.mode, header.depth, header.exact), len(numbers))
        shape = (header.height, header.width, header.channels, header.frames)
        rows[index] = (one.digest, one.size, *shape, kind, one.missing, one.scale, one.blank, one.grey)
        if one.reason:
            reasons[index] = one.reason
        if one.ends is not None:
            outermost.setdefault(header.depth, []).append(one.ends)
        if one.small is not None:
            smaller.append(one.small)
    none = reading.nodata == ()  # as somebody says
    suspected = () if none else tuple(chain.from_iterable(map(suspects, outermost.values())))
    return Inspection(rows, list(numbers), reasons, suspected, reading.nodata, directions(smaller))


def of_looked(found: Sequence[Looked]) -> Arrays:
    """As plain arrays, without the reasons."""
    small = [(index, one.small) for index, one in enumerate(found) if one.small is not None]
    return {
        **of_headers([one.header for one in found]),
        **of_ends([one.ends for one in found if one.ends is not None]),
        "digest": np.array([one.digest for one in found], "V16"),
        "bytes": np.array([one.size for one in found], np.int64),
        "facts": np.array([(one.missing, one.scale, one.blank, one.grey) for one in found], np.float64).reshape(-1, 4),
        "small": np.array([picture for _, picture in small], np.uint8),
        "small_of": np.array([index for index, _ in small], np.int64),
    }


def looked_of(arrays: Arrays, reasons: Mapping[int, str]) -> Iterator[Looked]:
    """The same again. reasons: why one gives no image, by its place."""
    outermost = iter(ends_of(arrays))
    small = dict(zip(arrays["small_of"].tolist(), arrays["small"], strict=True))
    each = zip(headers_of(arrays), arrays["digest"], arrays["bytes"].tolist(), arrays["facts"].tolist(), strict=True)
    for index, (header, digest, size, (missing, scale, blank, grey)) in enumerate(each):
        reason = reasons.get(index, "")
        end = None if reason else next(outermost)
        picture = small.get(index)
        yield Looked(header, digest.tobytes(), size, missing, scale, bool(blank), bool(grey), end, reason, picture)


def suspected_of(source: Source, workers: int, reading: Reading) -> tuple[Suspect, ...]:
    """Values that look like no-data, in a few of the images."""
    few = np.sort(generator(0, "few").permutation(len(source))[:_FEW])
    return inspect(source.take(few), workers, reading=reading).suspected


def _inspect(source: Source, reading: Reading, some: frozenset[int], chunk: Sequence[int], hand: Hand) -> list[Looked]:
    """some: of which a small picture is kept."""
    found = []
    for index, data in zip(chunk, hand.read_each(source, chunk), strict=True):
        digest, size = bytes(16), 0
        try:
            hand.take(index)
            if not isinstance(data, bytes):
                raise data
            digest, size = hashlib.blake2b(data, digest_size=16).digest(), len(data)
            opened = open_image(data, reading)
            header = opened.header
            depth: Depth = "float32" if header.exact else header.depth  # of which numbers one scale is measured
            image, missing = some_frames(opened, PixelFormat(header.channels, None, depth, reading))
            gaps = 0.0 if missing is None else float(missing.mean())
            facts = (digest, size, gaps, _scale(image, missing), _is_blank(image), is_grey(image))
            small = thumbnail(image, missing, header.height) if index in some else None
            found.append(Looked(header, *facts, ends=ends(image, missing), small=small))
        except (OSError, BrokenImage) as error:
            found.append(Looked(_NOTHING, digest, size, reason=str(error) or type(error).__name__))
    return found


def _scale(image: NDArray[Any], missing: Missing | None) -> float:
    """The root of the mean square of some of the scaled pixels."""
    down, across = (slice(None, None, max(1, side // _SCALE_SIDE)) for side in image.shape[:2])
    gaps = None if missing is None else missing[down, across]
    return scale_of(image_moments(np.ascontiguousarray(image[down, across]), gaps))


def _is_blank(image: NDArray[Any]) -> bool:
    return bool((image[0] == image[0, 0]).all()) and bool((image == image[0, 0]).all())  # most end at the first row
