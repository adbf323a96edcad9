"""What the first bytes of a file say that it is, whatever it is called."""

from typing import Literal

Format = Literal["dicom", "jpeg", "png", "gif", "bmp", "tiff", "npy", "webp", "avif", "heic"]

ENOUGH = 160
"""Bytes of a file that tell."""

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
}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes of the header that follows, by version
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
    return None
