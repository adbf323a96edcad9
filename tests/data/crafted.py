"""Small files made to hurt, most of them valid: what a decoder writes beyond its buffer, or takes minutes for."""

import math
import struct

import imagecodecs
import numpy as np


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
    bits = "".join(f"0{min(left, 32767) - 16384:014b}" for left in range(blocks, 16383, -32767))
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
