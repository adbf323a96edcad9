"""Small files made to hurt, most of them valid: what a decoder writes beyond its buffer, or takes minutes for."""

import io
import math
import struct
import zipfile

import imagecodecs
import numpy as np
import pyarrow
import pyarrow.parquet
from pydicom.encaps import encapsulate

from tests.data.bad_files import dicom, put, tiff


def noise(height: int, width: int, channels: int = 3, most: int = 255) -> np.ndarray:  # type: ignore[type-arg]
    """(H, W, C) of any values, uint8 or uint16."""
    dtype = np.uint8 if most < 256 else np.uint16
    return np.random.default_rng(0).integers(0, most + 1, (height, width, channels)).astype(dtype)


def lossless_jpeg(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """SOF3, (H, W) or (H, W, 3), which no decoder can make smaller as it decodes."""
    return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True))


def hidden_frames() -> dict[str, bytes]:
    """Lossless JPEGs before whose frame header a marker stands that has no length, where one who believes in a length
    would find a baseline frame header instead."""
    lossless, place = lossless_jpeg(noise(400, 600)), 0x4000
    baseline = imagecodecs.jpeg8_encode(np.zeros((400, 600, 3), np.uint8))
    at = baseline.index(b"\xff\xc0")
    found = {}
    for marker in (b"\xff\x00", b"\xff\xd0", b"\xff\x01", b"\xff\xd8", b"\xff\xff\xff\x00"):
        data = lossless[:2] + marker + struct.pack(">H", place) + lossless[2:]
        there = 2 + len(marker) + place
        found[marker.hex()] = data[:there] + baseline[at : at + 19] + data[there:]
    return found


def many_scans(side: int, scans: int) -> bytes:
    """A valid progressive grey JPEG of side x side pixels: scans in which nothing comes, each gone over all of it."""
    blocks = math.ceil(side / 8) ** 2
    runs = math.ceil(blocks / 32767)  # of blocks; each may be of 16,384 to 32,767
    bits = "".join(f"0{(blocks * (n + 1) // runs - blocks * n // runs) - 16384:014b}" for n in range(runs))
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    tables = b"".join(
        _segment(marker, content)
        for marker, content in (
            (0xDB, bytes(1) + b"\x01" * 64),
            (0xC4, b"\0\x01" + bytes(15) + b"\0"),  # of the levels: a bit says that it is the last one's
            (
                0xC4,
                b"\x10\x01" + bytes(15) + b"\xe0",
            ),  # of the rest: a bit and 14 say for how many blocks there is none
        )
    )
    frame = _segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\0")
    levels = _segment(0xDA, b"\x01\x01\0\0\0\0") + bytes(math.ceil(blocks / 8))
    return (
        b"\xff\xd8" + tables + frame + levels + (_segment(0xDA, b"\x01\x01\0\x01\x3f\0") + coded) * scans + b"\xff\xd9"
    )


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def animated_avif(bits: int, frames: int = 4) -> bytes:
    """Of noise, 64 x 64."""
    images = noise(64 * frames, 64, 3, 2**bits - 1).reshape(frames, 64, 64, 3)
    return bytes(imagecodecs.avif_encode(images, level=100, bitspersample=bits))


def with_clap(avif: bytes, numbers: tuple[int, ...]) -> bytes:
    """A still AVIF whose clean aperture these eight numbers give: width, height, and offsets of its centre from the
    picture's to the right and down, each as a fraction."""
    clap = struct.pack(">I4sIIIIiIiI", 40, b"clap", *numbers)
    ipco, ipma, iloc = avif.index(b"ipco") - 4, avif.index(b"ipma") - 4, avif.index(b"iloc") - 4
    (ipco_size,), (ipma_size,), (iloc_size,) = (struct.unpack_from(">I", avif, at) for at in (ipco, ipma, iloc))
    inside, count, place = avif[ipco + 8 : ipco + ipco_size], 0, 0
    while place < len(inside):
        place, count = place + struct.unpack_from(">I", inside, place)[0], count + 1
    many = avif[ipma + 18]  # properties of the first item
    entries = bytes([many + 1]) + avif[ipma + 19 : ipma + 19 + many] + bytes([0x80 | (count + 1)])
    listed = (
        struct.pack(">I", ipma_size + 1)
        + avif[ipma + 4 : ipma + 18]
        + entries
        + avif[ipma + 19 + many :][: ipma_size - 19 - many]
    )
    content = struct.pack(">I4s", ipco_size + 40, b"ipco") + inside + clap + listed
    data = bytearray(avif[:ipco] + content + avif[ipma + ipma_size :])
    for name in (b"meta", b"iprp"):
        at = avif.index(name) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", avif, at)[0] + 41)
    first = struct.pack(">I", avif.index(b"mdat") + 4)  # where the only item begins
    at = data.index(first, iloc, iloc + iloc_size)
    struct.pack_into(">I", data, at, int.from_bytes(first, "big") + 41)
    return bytes(data)


def repeated(column: str, value: bytes | str, rows: int, **others: object) -> bytes:
    """A parquet file in which one value stands for all rows, and others beside."""
    indices = pyarrow.array(np.zeros(rows, np.int32))
    columns = {column: pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([value]))}
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({**columns, **others}), file, compression="zstd")
    return file.getvalue()


def repeated_in_lists(column: str, value: str, rows: int) -> bytes:
    """Likewise, in a list of two for each row, beside paths."""
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(2 * rows, np.int32)), pyarrow.array([value]))
    lists = pyarrow.ListArray.from_arrays(pyarrow.array(np.arange(0, 2 * rows + 1, 2), pyarrow.int32()), texts)
    file = io.BytesIO()
    table = pyarrow.table({"path": [f"{number}.png" for number in range(rows)], column: lists})
    pyarrow.parquet.write_table(table, file, compression="zstd", store_schema=False)
    return file.getvalue()


def promising_tiffs() -> dict[str, bytes]:
    """TIFFs of one or two pages whose descriptions promise any number of them."""
    page = np.zeros((8, 8), np.uint16)
    pixels = 'SizeX="8" SizeY="8" SizeC="1" SizeZ="1" SizeT="{}" DimensionOrder="XYZCT" Type="uint16"'
    ome = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" {}>{}</Pixels></Image>{}</OME>'
    )
    modulo = '<ModuloAlongT Type="lifetime" Start="0" End="1e12" Step="1"/>'
    descriptions = {
        "times": ome.format(pixels.format(2 * 10**9), '<TiffData IFD="0"/>', ""),
        "entity": ome.format(pixels.format("&#50;000000000"), '<TiffData IFD="0"/>', ""),
        "planes": ome.format(pixels.format(1), '<TiffData IFD="0" PlaneCount="100000000"/>', ""),
        "modulo": ome.format(pixels.format(1), '<TiffData IFD="0"/>', modulo),
    }
    found = {name: tiff(page, metadata=None, description=text) for name, text in descriptions.items()}
    frames = '{"shape": [2000000000, 8, 8], "axes": "ZYX"}'
    for name, options in (("shaped", {}), ("deflated", {"compression": "zlib"})):
        found[name] = tiff(page, metadata=None, description=frames, **options)
    return found


def components() -> dict[str, bytes]:
    """DICOM of small pixels whose codestreams say that they have hundreds of components."""
    small = np.zeros((8192, 8192), np.uint8)[:16, :16]
    ls = imagecodecs.jpegls_encode(small)
    at = ls.index(b"\xff\xf7")
    frame = struct.pack(">BBHBHHB", 0xFF, 0xF7, 8 + 3 * 255, 16, 8192, 8192, 255) + b"\1\x11\0" * 255
    j2k = bytes(imagecodecs.jpeg2k_encode(small, codecformat="j2k"))
    sizes = struct.pack(">II", 8192, 8192)
    claims = {
        "jpegls": (
            "1.2.840.10008.1.2.4.80",
            ls[:at] + frame + ls[at + 2 + int.from_bytes(ls[at + 2 : at + 4], "big") :],
        ),
        "jpeg2000": (
            "1.2.840.10008.1.2.4.90",
            put(put(j2k, b"\xff\x4f\xff\x51", 8, sizes), b"\xff\x4f\xff\x51", 40, b"\x40\0"),
        ),
    }
    return {
        name: dicom(small, syntax, PixelData=encapsulate([bytes(code)]), Rows=8192, Columns=8192)
        for name, (syntax, code) in claims.items()
    }


def npz_of_large_labels() -> bytes:
    """An .npz of four images and labels that, so says their header, are texts of a hundred million letters."""
    images, labels = io.BytesIO(), io.BytesIO()
    np.save(images, np.zeros((4, 8, 8), np.uint8))
    np.lib.format.write_array_header_1_0(labels, {"descr": "<U100000000", "fortran_order": False, "shape": (4,)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", images.getvalue())
        archive.writestr("labels.npy", labels.getvalue())
    return file.getvalue()


def run_length_bmp(pixels: np.ndarray, bits: int, palette: np.ndarray, *, padded: bool, delta: bool = False) -> bytes:  # type: ignore[type-arg]
    """Indices (H, W) as a BMP of run lengths, by the letter of Microsoft's description. padded: rows of an odd width
    go on for a pixel beyond their end, as of writers that think in bytes of two; delta: blank rows are jumped over."""
    coded = b""
    for number, row in enumerate(pixels[::-1]):
        if delta and number % 5 == 3 and number + 1 < len(pixels):
            coded += b"\0\2\0\1"
            continue
        whole = np.append(row, 7) if padded and len(row) % 2 else row
        for kind, start in enumerate(range(0, len(whole), 9)):
            part = whole[start : start + 9]
            if kind % 3 == 2 and (part == part[0]).all():
                coded += bytes((len(part), part[0] if bits == 8 else part[0] * 17))
            elif len(part) < 3:
                coded += b"".join(bytes((1, value if bits == 8 else value * 16)) for value in part)
            else:
                stored = part if bits == 8 else np.append(part, [0] * (len(part) % 2)).reshape(-1, 2) @ [16, 1]
                stored = bytes(stored.astype(np.uint8))
                coded += bytes((0, len(part))) + stored + bytes(len(stored) % 2)
        coded += b"\0\0"
    coded += b"\0\1"
    colours = np.zeros((2**bits, 4), np.uint8)
    colours[: len(palette), 2::-1] = palette
    start = 54 + colours.size
    header = struct.pack("<IiiHHIIiiII", 40, *pixels.shape[::-1], 1, bits, 3 - bits // 4, len(coded), 0, 0, 2**bits, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(coded), 0, 0, start) + header + colours.tobytes() + coded
