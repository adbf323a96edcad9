"""Files that give no image: cut off, huge by their headers, inflating without end. And small whole ones."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

from tests.data.heic import EIGHT_BITS
from tests.images import encoded, picture

HUGE = 50_000  # a side


def npy(array: NDArray[Any]) -> bytes:
    """The array as numpy saves it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(array: NDArray[Any], **options: Any) -> bytes:
    """The array as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def png(pixels: NDArray[Any], bits: int, colour_type: int, *, interlaced: bool = False, chunks: bytes = b"") -> bytes:
    """Samples (H, W, C) of `bits` each, written by the letter of the specification; `chunks` come before the pixels."""
    height, width = pixels.shape[:2]
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = starts if interlaced else ((0, 0, 1, 1),)
    rows = b"".join(
        b"\0" + _packed(row, bits)
        for top, left, down, across in passes
        for row in pixels[top::down, left::across]
        if row.size
    )
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunks
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _packed(row: NDArray[Any], bits: int) -> bytes:
    if bits == 16:
        return row.astype(">u2").tobytes()
    digits = row.reshape(-1, 1).astype(np.uint8) >> np.arange(bits - 1, -1, -1, dtype=np.uint8) & 1
    return np.packbits(digits.reshape(-1)).tobytes()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def dicom(pixels: NDArray[Any], syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """Pixels (H, W) or (H, W, 3) as DICOM. elements: by keyword, over what follows from the pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.itemsize * 8
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        if isinstance(value, DataElement):
            dataset.add(value)
        else:
            setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def whole_files() -> dict[str, bytes]:
    """A small whole file of every format, by name."""
    photo, deep = picture(1, (40, 48)), np.arange(40 * 48, dtype=np.uint16).reshape(40, 48) * 30
    return {
        "photo.jpg": encoded(photo, "JPEG"),
        "progressive.jpg": encoded(photo, "JPEG", progressive=True),
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        "colour.png": encoded(photo, "PNG"),
        "deep.png": png(np.dstack([deep] * 3), 16, 2),
        "photo.webp": encoded(photo, "WEBP"),
        "photo.bmp": encoded(photo, "BMP"),
        "photo.gif": encoded(photo, "GIF"),
        "photo.avif": encoded(photo, "AVIF"),
        "deep.avif": imagecodecs.avif_encode(np.dstack([deep & 1023] * 3), level=90, bitspersample=10),
        "photo.heic": EIGHT_BITS,
        "plain.tif": encoded(photo, "TIFF", compression="tiff_lzw"),
        "deep.tif": tiff(deep, compression="zlib"),
        "flat.tif": tiff(deep),
        "pages.tif": tiff(np.stack([deep] * 3), compression="lzw", tile=(16, 16), photometric="minisblack"),
        "tiles.tif": tiff(np.asarray(photo), compression="jpeg", tile=(16, 16), photometric="rgb", bigtiff=True),
        "scan.dcm": dicom(deep),
        "array.npy": npy(np.asarray(photo)),
    }


def cut_off() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every format, cut at several places."""
    for name, data in whole_files().items():
        for eighths in (0, 1, 3, 4):
            yield f"{eighths}/8 of {name}", data[: len(data) * eighths // 8]
    yield "tiles.tif but for its last bytes", whole_files()["tiles.tif"][:-20]  # within a JPEG, of which some is left


def huge_headers() -> dict[str, bytes]:
    """Small files that claim 50,000 x 50,000 pixels, or as many as their format can say."""
    files = whole_files()
    side = struct.pack("<I", HUGE)
    huge = {
        "photo.jpg": put(files["photo.jpg"], b"\xff\xc0", 5, struct.pack(">HH", HUGE, HUGE)),
        "progressive.jpg": put(files["progressive.jpg"], b"\xff\xc2", 5, struct.pack(">HH", HUGE, HUGE)),
        "photo.webp": put(encoded(picture(1), "WEBP", exif=b"II*\0"), b"VP8X", 12, b"\xff\x3f\0\xff\x3f\0"),
        "photo.bmp": files["photo.bmp"][:18] + side * 2 + files["photo.bmp"][26:],
        "photo.gif": files["photo.gif"][:6] + struct.pack("<HH", HUGE, HUGE) + files["photo.gif"][10:],
        "array.npy": files["array.npy"].replace(b"(40, 48, 3)", b"(50000,50000,3)"),
        "scan.dcm": dicom(np.zeros((8, 8), np.uint16), Rows=HUGE, Columns=HUGE),
        "frames.dcm": dicom(np.zeros((8, 8), np.uint16), Rows=HUGE, Columns=HUGE, NumberOfFrames=HUGE),
    }
    for name in ("photo.avif", "deep.avif", "photo.heic"):
        huge[name] = put(files[name], b"ispe", 8, struct.pack(">II", HUGE, HUGE))
    for name, bits in (("colour.png", 8), ("deep.png", 16)):
        huge[name] = _with_png_header(files[name], struct.pack(">IIBBBBB", HUGE, HUGE, bits, 2, 0, 0, 0))
    for name in ("plain.tif", "deep.tif", "flat.tif", "pages.tif"):
        huge[name] = _with_tiff_size(files[name])
    return huge


def bombs() -> dict[str, bytes]:
    """Small files of small images that would inflate to hundreds of megabytes, or hold larger images than they say."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    raw = deflater.compress(bytes(300_000_000)) + deflater.flush()
    zeros = b"\x78\xda" + raw + struct.pack(">I", zlib.adler32(bytes(300_000_000)))
    small = np.zeros((16, 16, 1), np.uint8)
    deflated = dicom(small[..., 0], "1.2.840.10008.1.2.1.99")
    tiles = tiff(np.zeros((2, 16, 16, 3), np.uint8), compression="jpeg", tile=(16, 16), photometric="rgb")
    jpeg = put(imagecodecs.jpeg8_encode(np.zeros((16, 16, 3), np.uint8)), b"\xff\xc0", 5, b"\xff\xf0" * 2)
    jpeg_2000 = put(
        imagecodecs.jpeg2k_encode(small[..., 0], codecformat="j2k"), b"\xff\x4f\xff\x51", 8, b"\0\0\xff\xff" * 2
    )
    lossless = "1.2.840.10008.1.2.4.90"
    return {
        "text.png": png(small, 8, 0, chunks=chunk(b"zTXt", b"Comment\0\0" + zeros)),
        "profile.png": png(small, 8, 0, chunks=chunk(b"iCCP", b"name\0\0" + zeros)),
        "strip.tif": _with_strip(tiff(np.zeros((16, 16), np.uint16), compression="zlib"), zeros),
        "tile.tif": tiles.replace(b"\xff\xc0\0\x11\x08\0\x10\0\x10", b"\xff\xc0\0\x11\x08\xff\xf0\xff\xf0"),
        "deflated.dcm": deflated[: 144 + struct.unpack_from("<I", deflated, 140)[0]] + raw,
        "jpeg.dcm": dicom(np.zeros((16, 16, 3), np.uint8), "1.2.840.10008.1.2.4.50", PixelData=encapsulate([jpeg])),
        "jpeg2000.dcm": dicom(small[..., 0], lossless, PixelData=encapsulate([jpeg_2000])),
        "circle.tif": b"II*\0\x08\0\0\0" + b"\0\0\x08\0\0\0" + bytes(1000),
    }


def _with_strip(data: bytes, strip: bytes) -> bytes:
    """A TIFF whose only strip, at its end, is another one."""
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    changed = bytearray(data[: page.dataoffsets[0]] + strip)
    at = page.tags[279].offset
    changed[at + 2 : at + 12] = struct.pack("<HII", 4, 1, len(strip))
    return bytes(changed)


def put(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    """The file with `value` written `offset` bytes behind where `mark` begins."""
    at = data.index(mark) + offset
    return data[:at] + value + data[at + len(value) :]


def _with_png_header(data: bytes, header: bytes) -> bytes:
    return data[:8] + chunk(b"IHDR", header) + data[33:]


def _with_tiff_size(data: bytes) -> bytes:
    """Every page's width and length, whatever type they are written in."""
    changed = bytearray(data)
    for page in tifffile.TiffFile(io.BytesIO(data)).pages:
        for tag in (page.tags[256], page.tags[257]):  # type: ignore[union-attr]
            changed[tag.offset + 2 : tag.offset + 4] = struct.pack("<H", 4)
            changed[tag.offset + 8 : tag.offset + 12] = struct.pack("<I", HUGE)
    return bytes(changed)
