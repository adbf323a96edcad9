"""Images that lie one after the other, read at once: one request for a block instead of one for each image."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from openmae.data.loading.order import LANE, Order
from openmae.data.sources.source import Remade, Source
from openmae.errors import BrokenImage

_OVER = 2  # lanes beside its own that a process may share with others


class InBlocks(Remade):
    """Another source's images, of which a process keeps the blocks that it is in, without those that were asked for:
    an epoch asks for each once.

    most: blocks that it keeps; the one that was read first goes.
    """

    def __init__(self, source: Source, block: int, most: int) -> None:
        super().__init__(source)
        self.block, self.most = block, most
        self._kept: OrderedDict[int, dict[int, bytes | OSError | BrokenImage]] = OrderedDict()

    @property
    def singly(self) -> Source:
        """The source: what stands in for a broken image is read without its neighbours."""
        return self.source

    def read(self, index: int) -> bytes:
        """As the source reads it."""
        return self.source.read(index)

    def read_many(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        """The blocks that they are in are read at the same time, where they are not there yet."""
        missing = {
            index // self.block: None for index in indices if index not in self._kept.get(index // self.block, ())
        }
        wanted = [index for block in missing for index in self._images(block)]
        for index, data in zip(wanted, self.source.read_many(wanted), strict=True):
            self._kept.setdefault(index // self.block, {})[index] = data
        found = [self._kept[index // self.block][index] for index in indices]
        for index in set(indices):
            self._forget(index)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return found

    def read_each(self, indices: Sequence[int]) -> Iterator[bytes | OSError | BrokenImage]:
        """All at once."""
        return iter(self.read_many(indices))

    def _images(self, block: int) -> range:
        return range(block * self.block, min((block + 1) * self.block, len(self)))

    def _forget(self, index: int) -> None:
        kept = self._kept[index // self.block]
        del kept[index]
        if not kept:
            del self._kept[index // self.block]


def in_blocks(source: Source, order: Order, share: int, workers: int) -> Source:
    """The source as the order reads it. share: visits of a step that this process takes, by so many loaders."""
    if order.block is None or not order.in_blocks:
        return source
    lanes = -(-share // (LANE * max(1, workers))) + _OVER
    return InBlocks(source, order.block, lanes * (order.window // order.block + 2))
