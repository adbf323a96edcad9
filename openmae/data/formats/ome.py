"""OME-XML in a TIFF: how many planes it promises, before they are believed in."""

from typing import Any
from xml.etree import ElementTree

from openmae.errors import BrokenImage

_MOST_TEXT = 2**26  # characters
_LEAST_REFUSED = 2**20  # planes
_PLANES_A_PAGE = 4  # a file may hold a part of a set of files, and describe all of it


def check_ome(text: str, pages: int) -> None:
    """Raises BrokenImage where it promises far more planes than there are pages: tifffile makes room for each, or
    counts to it."""
    if len(text) > _MOST_TEXT:
        raise BrokenImage(f"its OME-XML of {len(text):,} characters is too long")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise BrokenImage(f"its OME-XML cannot be read ({error})") from error
    promised = sum(map(_promised, root.iter()))
    if promised > max(_LEAST_REFUSED, _PLANES_A_PAGE * pages):
        raise BrokenImage(f"its OME-XML promises {promised:,.0f} planes where it has {pages:,} pages")


def _promised(element: Any) -> float:
    """How many planes, or places along an axis, an element speaks of."""
    name = str(element.tag).rpartition("}")[2]
    if name == "Pixels":
        sizes = [_number(element, f"Size{axis}", 1) for axis in "ZCT"]
        return sizes[0] * sizes[1] * sizes[2]
    if name == "TiffData":
        return _number(element, "PlaneCount", 1)
    if name.startswith("ModuloAlong"):
        start, end, step = (_number(element, key, number) for key, number in (("Start", 0), ("End", 0), ("Step", 1)))
        return abs(end - start) / (abs(step) or 1)
    return 0


def _number(element: Any, name: str, default: float) -> float:
    """Of an attribute; the default where it is missing or none."""
    try:
        return float(element.get(name, default))
    except ValueError:
        return default
