"""Images in tar shards, local or remote, read at random."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.shards.index import ShardIndex
from openmae.data.sources.labels import LabelledSource, class_name
from openmae.data.sources.open_file import MOST_BYTES, OpenFile
from openmae.data.sources.remote import Span, fetch_spans, is_remote
from openmae.data.sources.source import Names
from openmae.errors import BrokenImage
from openmae.files import address

_MOST_OPEN = 64  # shards kept open by one process


class ShardSource(LabelledSource):
    """The images of an index of shards: shard by shard, in the order in which they lie there.

    Bytes are checked against the index's checksums where it has them.
    """

    label_advice = "give each sample a .cls file with the number of its class"

    def __init__(self, location: str, index: ShardIndex) -> None:
        self.location, self.index = location, index
        self.numbers = index.label if (index.label >= 0).any() else None
        self.classes, self.kind = tuple(map(class_name, index.class_names)), index.label_kind
        self._open = lru_cache(_MOST_OPEN)(OpenFile)

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "index": self.index, "secrets": address.secrets()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        address.know(state["secrets"])
        self.__init__(state["location"], state["index"])  # type: ignore[misc]

    def name(self, index: int) -> str:
        """The name that the index gives it; the member of the tar file where there was no index."""
        return self.index.names[index]

    @property
    def all_names(self) -> Names:
        """The index's."""
        return self.index.names

    @property
    def notes(self) -> tuple[str, ...]:
        """Of samples without an image, and such as lie apart."""
        return self.index.notes

    @property
    def together(self) -> NDArray[np.int64] | None:
        """Of images of one sample, where each image is taken for a sample of its own."""
        return self.index.group

    @property
    def fingerprint(self) -> str:
        """Of names and sizes; that of a folder which holds the same."""
        return self.index.fingerprint

    @property
    def packed_as(self) -> Mapping[str, Any]:
        """As the index says."""
        return self.index.packed_as

    def read(self, index: int) -> bytes:
        """The image's bytes. Raises OSError where its shard cannot be read, BrokenImage where they are not whole."""
        data = self.read_many([index])[0]
        if isinstance(data, Exception):
            raise data
        return data

    def read_many(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        """Each image's bytes, or what was raised instead; of remote shards, at the same time."""
        spans = [self._span(index) for index in indices]
        found: list[bytes | OSError | BrokenImage]
        if any(is_remote(span.url) for span in spans):
            ends = [self.index.shards[self.index.shard[index]].bytes for index in indices]
            refusals = [self._refusal(span, end) for span, end in zip(spans, ends, strict=True)]
            whole = [span for span, refusal in zip(spans, refusals, strict=True) if refusal is None]
            fetched = iter(fetch_spans(whole))
            found = [next(fetched) if refusal is None else refusal for refusal in refusals]
        else:
            found = [self._read_local(span) for span in spans]
        return [self._checked(index, data) for index, data in zip(indices, found, strict=True)]

    def read_each(self, indices: Sequence[int]) -> Iterator[bytes | OSError | BrokenImage]:
        """Remote shards at the same time, local ones in turn."""
        if any(is_remote(shard.url) for shard in self.index.shards):
            return iter(self.read_many(indices))
        return super().read_each(indices)

    def _span(self, index: int) -> Span:
        shard = self.index.shards[self.index.shard[index]]
        return Span(shard.url, int(self.index.offset[index]), int(self.index.size[index]))

    def _read_local(self, span: Span) -> bytes | OSError | BrokenImage:
        try:
            shard = self._open(span.url)
            return self._refusal(span, shard.bytes) or shard.read(span.start, span.length)
        except OSError as error:
            return error

    def _refusal(self, span: Span, end: int) -> BrokenImage | None:
        """Why an image is not read, before so much memory is asked for: the shard ends too early, and how many it has
        in common with it; or it is larger than images are."""
        if span.start + span.length <= end:
            if span.length <= MOST_BYTES:
                return None
            return BrokenImage(f"its {span.length:,} bytes are more than an image has")
        number = next(i for i, shard in enumerate(self.index.shards) if shard.url == span.url)
        ends = (self.index.offset + self.index.size)[self.index.shard == number]
        return BrokenImage(
            f"{span.url} is cut off after {end:,} bytes: {int((ends > end).sum()):,} of its {len(ends):,} images "
            "are lost"
        )

    def _checked(self, index: int, data: bytes | OSError | BrokenImage) -> bytes | OSError | BrokenImage:
        if isinstance(data, Exception) or self.index.crc32 is None or zlib.crc32(data) == self.index.crc32[index]:
            return data
        return BrokenImage(f"its bytes in {self._span(index).url} are not those that were packed (wrong checksum)")
