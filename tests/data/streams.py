"""A small stream, and what comes of one."""

import resource
from collections.abc import Iterator
from pathlib import Path

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.stream import Batch, Stream
from openmae.data.sources.source import Source
from openmae.data.views.crop import Augmentation, View
from openmae.masking import Masking

Row = tuple[object, ...]


def stream_of(source: Source, batch_size: int = 6, steps: int = 9, repeats: int = 1, **masking: object) -> Stream:
    pixels = PixelFormat()
    masks = Masking(**masking)  # type: ignore[arg-type]
    return Stream(source, View(pixels, (16, 16), (4, 4), Augmentation()), masks, batch_size, steps, 5, repeats)


def rows(batches: Iterator[Batch]) -> list[Row]:
    """Every view: index, pixels, visible patches, queries."""
    found: list[Row] = []
    for batch in batches:
        for i in range(len(batch)):
            parts = (batch.images[i], batch.visible[i], batch.queries[i])
            found.append((int(batch.indices[i]), *(part.numpy().tobytes() for part in parts)))
    return found


def in_use() -> int:
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
