"""Text that is safe to show: names of files and classes come from people who may mean harm."""

import re
from collections import Counter

_MOST_KINDS = 4  # of formats, modes and the like that are named

# What terminals take for commands (C0 but for tab and line end, DEL, C1), what turns the direction of writing, and
# halves of characters, by which Python stands for bytes that are no text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_BREAKS = {ord(mark): ascii(mark)[1:-1] for mark in "\t\n\u2028\u2029"}


def printable(text: str) -> str:
    """Safe on a terminal, line ends kept: what is not is written out, as \\x1b."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def on_one_line(text: str) -> str:
    """Safe in a list of one line a file: printable, without tabs and line ends."""
    return printable(" ".join(text.split()))


def in_a_line(name: str) -> str:
    """A name as it is shown in a sentence or a table: printable, its line ends and tabs written out, so that it cannot
    be taken for several, nor for anything that the program says."""
    return name if name.isprintable() else printable(name.translate(_BREAKS))


def encodable(text: str) -> str:
    """Safe in what is kept as UTF-8, such as JSON and parquet: bytes that are no text are written out, all else
    stays."""
    return text.encode(errors="backslashreplace").decode()


def drawable(text: str, instead: str = "?") -> str:
    """Safe in a picture or a line of a page: what shows nothing, such as line ends, is `instead`."""
    return "".join(letter if letter.isprintable() else instead for letter in text)


def si(number: float) -> str:
    """Three digits and a prefix: 5.53 M, 86.6 G."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "


def pace(images: int, seconds: float) -> str:
    """250 images in 3 s, 86 images/s."""
    took = duration(seconds) if seconds >= 1 else "less than a second"
    return f"{several(images, 'image')} in {took}, {images / max(1e-9, seconds):,.0f} images/s"


def counted(counts: Counter[str] | Counter[int]) -> str:
    """The most frequent ones, `JPEG: 246, PNG: 4`; `JPEG` where there is one kind."""
    kinds = [(str(kind).replace(",", ""), count) for kind, count in counts.most_common()]
    if len(kinds) == 1:
        return kinds[0][0]
    more = f", and {len(kinds) - _MOST_KINDS:,} more kinds" if len(kinds) > _MOST_KINDS else ""
    return ", ".join(f"{kind}: {count:,}" for kind, count in kinds[:_MOST_KINDS]) + more


def several(count: int, what: str) -> str:
    """1 shard, 2,000 shards, 3 classes."""
    ending = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{count:,} {what}{ending}"


def images(count: int) -> str:
    """1 image, 2,000 images."""
    return several(count, "image")


def size_of(count: float) -> str:
    """Bytes as 12 MB, 3.4 GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 4 h 05 min, 3 d 07 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, small, size, step in (("min", "s", 60, 1), ("h", "min", 3600, 60), ("d", "h", 86400, 3600)):
        if whole < {"min": 3600, "h": 86400, "d": float("inf")}[unit]:
            return f"{whole // size} {unit} {whole % size // step:02d} {small}"
    raise AssertionError("unreachable")
