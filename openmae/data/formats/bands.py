"""What the bands of an image are called, where its file says so: in a TIFF the descriptions that GDAL keeps of them,
and the names of OME's channels."""

import io
import warnings
from xml.etree import ElementTree

from openmae.data.signatures import ENOUGH, format_of

_GDAL = 42112  # GDAL_METADATA, XML
_MOST_TEXT = 2**20  # characters
_MOST_BANDS = 4096


def band_names(file: bytes) -> tuple[str, ...]:
    """Of the bands as they are counted, from the first on; "" for one without a name. Empty where the file names none.

    https://gdal.org/en/stable/drivers/raster/gtiff.html (metadata), the OME data model (Channel, Name).
    """
    if format_of(file[:ENOUGH]) != "tiff":
        return ()
    try:
        import tifffile
    except ImportError:
        return ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with tifffile.TiffFile(io.BytesIO(file)) as opened:
                kept = opened.pages.first.tags.valueof(_GDAL)
                if isinstance(kept, str) and len(kept) <= _MOST_TEXT:
                    return _described(ElementTree.fromstring(kept.strip("\0 \n")))
                if opened.is_ome and len(kept := opened.ome_metadata or "") <= _MOST_TEXT:
                    return _channels(ElementTree.fromstring(kept))
    except Exception:  # whatever a broken file makes of a parser: who reads its pixels says so
        return ()
    return ()


def _described(root: ElementTree.Element) -> tuple[str, ...]:
    """`<Item name="DESCRIPTION" sample="0" role="description">red</Item>`, counted from 0."""
    found: dict[int, str] = {}
    for item in root.iter("Item"):
        number = item.get("sample", "")
        if item.get("role") == "description" and number.isdecimal() and int(number) < _MOST_BANDS:
            found[int(number)] = (item.text or "").strip()
    return tuple(found.get(number, "") for number in range(max(found, default=-1) + 1))


def _channels(root: ElementTree.Element) -> tuple[str, ...]:
    """Of the first image, where one channel is one band."""
    image = next((one for one in root.iter() if one.tag.rpartition("}")[2] == "Image"), None)
    found = [] if image is None else [one for one in image.iter() if one.tag.rpartition("}")[2] == "Channel"]
    if any(one.get("SamplesPerPixel", "1") != "1" for one in found) or len(found) > _MOST_BANDS:
        return ()
    names = tuple((one.get("Name") or "").strip() for one in found)
    return names if any(names) else ()
