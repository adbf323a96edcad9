"""What the first bytes of a file say that it is, whatever it is called."""

from typing import Literal

Format = Literal["dicom", "jpeg", "png", "gif", "bmp", "tiff", "npy", "webp", "avif", "heic", "window"]

ENOUGH = 160
"""Bytes of a file that tell."""

WINDOW = b"\x89OMWIN\r\n"
"""Of a window of a larger image, in memory (formats/window.py)."""
_JPEG = b"\xff\xd8\xff"
_STARTS: dict[bytes, Format] = {
    _JPEG: "jpeg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",  # BigTIFF
    b"MM\0+": "tiff",
    b"\x93NUMPY": "npy",
    WINDOW: "window",
}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes of the header that follows, by version
_FIRST_GROUPS = (0x0002, 0x0008)
_LAST_FIRST_ELEMENT = 0x0100  # a file begins with the lowest of its elements
_REPRESENTATIONS = frozenset((b"UL", b"OB", b"UI", b"CS", b"SH", b"DA", b"TM", b"DT"))  # of values of these elements
_IMPLICIT = frozenset((0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0014, 0x0016, 0x0018))  # that such a file begins with
_SHORTEST = 132  # bytes of a file with an image
_LONGEST_FIRST = 256  # bytes of one of them
_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 miaf MiHE MiHB".split())


def format_of(first: bytes) -> Format | None:
    """The format of a file that begins so, ENOUGH bytes or all; None for none that is read here."""
    if first[128:132] == b"DICM" and first[:3] != _JPEG:  # what comes before may be anything, a TIFF's header too
        return "dicom"
    for start, form in _STARTS.items():
        if first.startswith(start):
            return form
    if first[:2] == b"BM" and int.from_bytes(first[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return "webp"
    if first[4:8] == b"ftyp":  # films too
        brands = {first[at : at + 4] for at in range(8, min(64, int.from_bytes(first[:4], "big") or 64), 4)}
        if brands & {b"avif", b"avis"}:
            return "avif"
        return "heic" if brands & _HEIF_BRANDS else None
    return "dicom" if _lacks_preamble(first) else None


def _lacks_preamble(data: bytes) -> bool:
    """Whether these are DICOM's elements from the first byte on: of group 0002, which describes the file, or 0008."""
    order: Literal["little", "big"] = "big" if data[:1] == b"\0" else "little"
    group, element = (int.from_bytes(data[at : at + 2], order) for at in (0, 2))
    if len(data) < _SHORTEST or group not in _FIRST_GROUPS or element > _LAST_FIRST_ELEMENT:
        return False
    if data[4:6] in _REPRESENTATIONS:
        return True
    length = int.from_bytes(data[4:8], "little")  # where no representation is written, as is only done in group 0008
    return (group, order) == (8, "little") and element in _IMPLICIT and length % 2 == 0 < length <= _LONGEST_FIRST
