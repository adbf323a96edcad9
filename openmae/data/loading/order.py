"""Which image each visit of a training shows: every image once an epoch, a function of (seed, visit) alone.

Visit v is position v % n of epoch v // n. An order is one of three:

drawn       numpy's permutation of all images, kept in memory: 8 bytes an image. Of up to MOST_DRAWN images, and of all
            runs that began before there was another.
computed    of more images: `shuffled`, for any position by itself, and nothing is kept.
in blocks   of images that are far away: a block is so many images that lie one after the other, read by one request.
            Blocks come in a computed order, and the images of those that are open at once are shuffled.

In blocks, a batch is divided into lanes of LANE visits, each of which goes through blocks of its own. Whoever takes a
run of the batch - a process of many, one of its loaders - reads the blocks of its lanes and no others, while what a
batch holds does not depend on who takes what. A lane shuffles windows, so many images in a row of its blocks; those of
different lanes end at different times, so that requests are spread.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from openmae.permutation import ROUNDS, Keys, Numbers, shuffled
from openmae.randomness import MOST_DRAWN, epoch_order, generator

LANE = 8  # visits of a batch that read the same blocks
LEAST_OPEN = 64  # blocks that a batch is mixed from
_A_LANE = 2  # blocks that are open in it, or more where lanes are few
_CHUNK = 4096  # positions that are computed at once: fewer cost more each
_ALL = np.zeros(1, np.int64)  # of one shuffle alone


@dataclass(frozen=True)
class Order:
    """The order in which the epochs of a training visit so many images.

    block: images that lie one after the other and are read at once; 1 of images that are read by themselves; None of a
    run that began when all orders were drawn. batch: visits of a step, all processes together; for blocks alone.
    """

    seed: int
    images: int
    block: int | None = 1
    batch: int = 1

    def of(self, visits: range) -> list[int]:
        """The index of the image of each visit."""
        found: list[int] = []
        for epoch, at in self._epochs(visits):
            for chunk in range(at.start // _CHUNK, -(-at.stop // _CHUNK)):
                first = chunk * _CHUNK
                found += _chunk(self, epoch, first)[max(at.start - first, 0) : at.stop - first].tolist()
        return found

    def _epochs(self, visits: range) -> Iterator[tuple[int, range]]:
        """(epoch, positions in it), one epoch after the other."""
        start = visits.start
        while start < visits.stop:
            epoch, at = divmod(start, self.images)
            stop = min(visits.stop, (epoch + 1) * self.images)
            yield epoch, range(at, at + stop - start)
            start = stop

    def at(self, epoch: int, positions: range) -> Numbers:
        """(n,) the images at some positions of an epoch."""
        if self.block is None or (self.block == 1 and self.images <= MOST_DRAWN):
            return _drawn(self.seed, epoch, self.images)[positions.start : positions.stop].copy()
        keys, places = _keys(self.seed, epoch), np.arange(positions.start, positions.stop)
        if self.block == 1:
            return shuffled(places, np.array([self.images]), keys[:ROUNDS], _ALL)
        return self._of_blocks(self._in_lanes(epoch, places, keys[:ROUNDS]), keys[ROUNDS:])

    @property
    def in_blocks(self) -> bool:
        """Whether images are read with their neighbours."""
        return self.block is not None and self.block > 1

    @cached_property
    def window(self) -> int:
        """Images that a lane shuffles together."""
        return max(_A_LANE, -(-LEAST_OPEN // self.lanes)) * (self.block or 1)

    @cached_property
    def lanes(self) -> int:
        """Of a batch."""
        return -(-self.batch // LANE)

    def _in_lanes(self, epoch: int, places: Numbers, keys: Keys) -> Numbers:
        """Where in the row of all blocks the images at these positions are: each lane goes through a stretch of it."""
        first, last = epoch * self.images, (epoch + 1) * self.images
        visits = first + places
        lane = visits % self.batch // LANE
        place = self._before(visits, lane + 1) - self._before(visits, lane)  # in its lane, of all epochs
        start, stop = (self._before(end, lane + 1) - self._before(end, lane) for end in (first, last))
        place, length = place - start, stop - start
        shift = lane * self.window // self.lanes
        number = (place + shift) // self.window
        begin = np.maximum(number * self.window - shift, 0)
        end = np.minimum((number + 1) * self.window - shift, length)
        stretch = self._before(last, lane) - self._before(first, lane)
        windows = lane + number * self.lanes
        return stretch + begin + shuffled(place - begin, end - begin, keys, windows)

    def _before(self, visit: Numbers | int, lane: Numbers) -> Numbers:
        """Visits before this one that are of lanes before that one."""
        return visit // self.batch * np.minimum(lane * LANE, self.batch) + np.minimum(visit % self.batch, lane * LANE)

    def _of_blocks(self, places: Numbers, keys: Keys) -> Numbers:
        """The images at these places of the row of all blocks. What is left over of them, less than a block, would end
        every row, so the row begins anywhere."""
        assert self.block is not None
        whole = self.images // self.block
        turned = (places + int(keys[-1]) % self.images) % self.images
        block, image = np.divmod(turned, self.block)
        is_whole = block < whole
        moved = block.copy()
        if whole:
            moved[is_whole] = shuffled(block[is_whole], np.array([whole]), keys[:ROUNDS], _ALL)
        return moved * self.block + image


@lru_cache(maxsize=4)
def _chunk(order: Order, epoch: int, first: int) -> Numbers:
    return order.at(epoch, range(first, min(first + _CHUNK, order.images)))


@lru_cache(maxsize=1)
def _drawn(seed: int, epoch: int, images: int) -> Numbers:
    return epoch_order(seed, epoch, images)


@lru_cache(maxsize=4)
def _keys(seed: int, epoch: int) -> Keys:
    """(2 ROUNDS + 1,) of the images or windows, of the blocks, and where their row begins."""
    return generator(seed, "order", epoch=epoch).integers(2**64, size=2 * ROUNDS + 1, dtype=np.uint64)
