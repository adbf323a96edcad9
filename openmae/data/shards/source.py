"""Images in tar shards, local or remote, read at random."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.shards.index import ShardIndex
from openmae.data.sources.labels import LabelledSource, class_name
from openmae.data.sources.open_file import MOST_BYTES, OpenFile
from openmae.data.sources.remote import Span, fetch_together, is_remote
from openmae.data.sources.source import Names
from openmae.errors import BrokenImage
from openmae.files import address

_MOST_OPEN = 64  # shards kept open by one process
_MOST_TOGETHER = 1 << 24  # bytes of images that one request fetches
_MOST_APART = 1 << 20  # bytes between two of them: headers, labels, captions
_SAMPLE = 4096  # images whose sizes tell the mean of all


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

    @property
    def bytes_far(self) -> float | None:
        """By the index."""
        if not self._is_far:
            return None
        return float(self.index.size[:: max(1, len(self) // _SAMPLE)].mean())

    def read(self, index: int) -> bytes:
        """The image's bytes. Raises OSError where its shard cannot be read, BrokenImage where they are not whole."""
        data = self.read_many([index])[0]
        if isinstance(data, Exception):
            raise data
        return data

    def read_many(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        """Each image's bytes, or what was raised instead; of remote shards, at the same time, and by one request those
        that follow each other."""
        read = self._read_far if self._is_far else self._read_near
        return [self._checked(index, data) for index, data in zip(indices, read(indices), strict=True)]

    def read_each(self, indices: Sequence[int]) -> Iterator[bytes | OSError | BrokenImage]:
        """Remote shards at the same time, local ones in turn."""
        return iter(self.read_many(indices)) if self._is_far else super().read_each(indices)

    @cached_property
    def _is_far(self) -> bool:
        return any(is_remote(shard.url) for shard in self.index.shards)

    def _read_far(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        found: dict[int, bytes | OSError | BrokenImage] = {}
        groups: list[list[tuple[int, Span]]] = []
        for index in sorted({*indices}):
            span = self._span(index)
            if refusal := self._refusal(span, self.index.shards[self.index.shard[index]].bytes):
                found[index] = refusal
            elif groups and _follows(index, span, groups[-1]):
                groups[-1].append((index, span))
            else:
                groups.append([(index, span)])
        fetched = fetch_together([[span for _, span in group] for group in groups])
        for group, read in zip(groups, fetched, strict=True):
            found |= zip((index for index, _ in group), read, strict=True)
        return [found[index] for index in indices]

    def _read_near(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        return [self._read_local(self._span(index)) for index in indices]

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


def _follows(index: int, span: Span, group: Sequence[tuple[int, Span]]) -> bool:
    """Whether an image is read by one request with those before it."""
    (_, first), (before, last) = group[0], group[-1]
    gap, length = span.start - (last.start + last.length), span.start + span.length - first.start
    is_next = index == before + 1 and span.url == last.url
    return is_next and 0 <= gap <= _MOST_APART and length <= _MOST_TOGETHER
