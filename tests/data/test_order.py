"""Which image a visit shows: computed orders beside numpy's permutations, and images that are read in blocks."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare, kstest

from openmae.data.loading import order as orders
from openmae.data.loading.blocks import InBlocks, in_blocks
from openmae.data.loading.order import LANE, Order
from openmae.data.opening import open_data
from openmae.data.sources.folder import ImageFolder
from openmae.data.sources.source import Source
from openmae.distributed.ranks import Ranks
from openmae.permutation import ROUNDS, shuffled
from openmae.randomness import epoch_order
from tests.data.streams import rows, stream_of
from tests.images import write_images

# ---------------------------------------------------------------- a shuffle that is computed


def whole(length: int, keys: NDArray[np.uint64], which: int = 0) -> NDArray[np.int64]:
    return shuffled(np.arange(length), np.array([length]), keys, np.array([which]))


def keys_of(seed: int) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(2**64, size=ROUNDS, dtype=np.uint64)


@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 2**62))
def test_everything_comes_once(length: int, seed: int, which: int) -> None:
    assert np.array_equal(np.sort(whole(length, keys_of(seed), which)), np.arange(length))


@given(st.lists(st.integers(1, 2**62), min_size=1, max_size=9), st.integers(0, 2**32), st.data())
def test_a_place_does_not_depend_on_what_else_is_asked(sizes: list[int], seed: int, data: st.DataObject) -> None:
    """Nor on where it is asked: sets that no memory holds, and many shuffles at once."""
    at = [data.draw(st.integers(0, size - 1)) for size in sizes]
    which, keys = list(range(len(sizes))), keys_of(seed)
    together = shuffled(np.array(at), np.array(sizes), keys, np.array(which))
    assert ((together >= 0) & (together < sizes)).all()
    for number, one in enumerate(zip(at, sizes, which, strict=True)):
        place, size, shuffle = (np.array([n]) for n in one)
        assert shuffled(place, size, keys, shuffle)[0] == together[number]


def of_numpy(length: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(length)


@pytest.mark.parametrize("kind", ["computed", "numpy"])
@pytest.mark.parametrize("length", [97, 1024, 5000])
def test_orders_are_as_uniform_as_numpys(kind: str, length: int) -> None:
    """p-values of what a fair shuffle gives: where things come, what follows what, how far neighbours are apart, and
    whether two shuffles know of each other."""
    number = 400_000 // length
    drawn = [whole(length, keys_of(s)) if kind == "computed" else of_numpy(length, s) for s in range(number)]
    found = np.stack(drawn)  # (shuffles, places)
    cells = np.linspace(0, length, 8).astype(int)[1:-1]
    of_place, of_thing = np.digitize(np.arange(length), cells), np.digitize(found, cells)
    counts = np.zeros((7, 7))
    np.add.at(counts, (np.broadcast_to(of_place, found.shape), of_thing), 1)
    shares = np.bincount(of_place) / length
    p_places = chisquare(counts.ravel(), (np.outer(shares, shares) * found.size).ravel(), ddof=12).pvalue
    pairs = Counter(zip(of_thing[:, :-1].ravel().tolist(), of_thing[:, 1:].ravel().tolist(), strict=True))
    sizes = np.bincount(of_place).astype(float)
    expected = np.outer(sizes, sizes) - np.diag(sizes)  # no thing follows itself
    expected *= (length - 1) * number / expected.sum()
    observed = np.array([[pairs[a, b] for b in range(7)] for a in range(7)])
    p_pairs = chisquare(observed.ravel(), expected.ravel(), ddof=12).pvalue
    steps = np.bincount((found[:, 1:] - found[:, :-1]).ravel() % length, minlength=length)[1:]
    p_steps = chisquare(steps).pvalue
    alike = (found[1:] == found[:-1]).sum(1)  # about one, as Poisson's
    p_alike = chisquare(
        [(alike == n).sum() for n in range(3)] + [(alike > 2).sum()],
        np.array([0.36788, 0.36788, 0.18394, 0.0803]) * len(alike),
    ).pvalue
    assert min(p_places, p_pairs, p_steps, p_alike) > 1e-4


def test_of_a_billion_things_any_part_is_uniform() -> None:
    length, keys = 10**9, keys_of(3)
    found = shuffled(np.arange(500_000_000, 500_200_000), np.array([length]), keys, np.zeros(1, np.int64))
    assert len(np.unique(found)) == len(found)
    assert kstest(found / length, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.01


# ---------------------------------------------------------------- orders


@settings(max_examples=60)
@given(
    images=st.integers(1, 900),
    block=st.sampled_from([None, 1, 2, 7, 84, 2000]),
    batch=st.sampled_from([1, 7, 8, 32, 100, 256, 3000]),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 10**6),
    data=st.data(),
)
def test_an_epoch_shows_every_image_once_however_it_is_cut(
    images: int, block: int | None, batch: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    order = Order(seed, images, block, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "MOST_DRAWN", 50)
        patch.setattr(orders, "_CHUNK", 64)
        visits = range(epoch * images, (epoch + 1) * images)
        found = order.of(visits)
        assert sorted(found) == list(range(images))
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, images)] * 2)))
        assert order.of(range(visits.start + start, visits.start + stop)) == found[start:stop]
        beyond = order.of(range(visits.stop - 1, visits.stop + 1))  # over the end of the epoch
        assert beyond == found[-1:] + order.of(range(visits.stop, visits.stop + 1))
        if images > 50 and block in (None, 1, 2, 7):
            assert found != order.of(range(visits.stop, visits.stop + images))
            assert found != replace(order, seed=(seed + 1) % 2**63).of(visits)
    orders._chunk.cache_clear()


def test_up_to_four_million_images_and_in_old_runs_the_order_is_numpys() -> None:
    assert Order(7, 6).of(range(18, 24)) == epoch_order(7, 3, 6).tolist() == [1, 3, 5, 2, 4, 0]
    many = orders.MOST_DRAWN + 1
    old, new = Order(7, many, None), Order(7, many)
    assert old.of(range(many, many + 3)) == epoch_order(7, 1, many)[:3].tolist()
    assert new.of(range(many, many + 3)) != old.of(range(many, many + 3))
    orders._drawn.cache_clear()


def test_the_order_of_a_seed_stays() -> None:
    """Of runs that were begun with it."""
    visits = range(3 * 10**9 - 2, 3 * 10**9 + 2)
    assert Order(7, 10**9).of(visits) == [752882970, 227878347, 732426602, 345395956]
    assert Order(7, 10**9, 84, 256).of(visits) == [308546206, 282183977, 191959691, 191959668]


# ---------------------------------------------------------------- blocks


def blocks_of(order: Order, visits: range, size: int, rank: int) -> tuple[int, int]:
    """(blocks that a process reads for its part of these steps, images that it takes) with the cache that it has."""
    part = Ranks(rank, size).share(order.batch)
    counted = Counted(order.images)
    source = in_blocks(counted, order, len(part), 1)
    for step in range(visits.start // order.batch, visits.stop // order.batch):
        source.read_many(order.of(range(step * order.batch + part.start, step * order.batch + part.stop)))
    return counted.blocks, counted.blocks * (order.block or 1)


class Counted(ImageFolder):
    """Images that are numbers, and how often their blocks were read."""

    def __init__(self, length: int) -> None:
        self.length, self.location = length, "numbers"
        self.blocks = 0

    def __len__(self) -> int:
        return self.length

    def read_many(self, indices: object) -> list[bytes]:  # type: ignore[override]
        read = [*indices]  # type: ignore[misc]
        self.blocks += sum(number != before + 1 for before, number in itertools.pairwise([-2, *read]))
        return [str(index).encode() for index in read]


@pytest.mark.parametrize("size", [1, 4])
def test_every_process_reads_the_blocks_of_its_own_part(size: int) -> None:
    """About once each: what several processes read of them together is hardly more than what one does."""
    order = Order(3, 64_000, 40, 256)
    epoch = range(0, 64_000 - 64_000 % 256)
    read = sum(blocks_of(order, epoch, size, rank)[0] for rank in range(size))
    assert 1500 < read < 1.1 * 1600


def test_a_batch_is_mixed_from_many_places() -> None:
    """At most a few images of it are neighbours; a full shuffle has next to none."""
    order = Order(3, 1_000_000, 84, 256)
    blocks = [Counter(index // 84 for index in order.of(range(at, at + 256))) for at in range(25_600, 51_200, 256)]
    distinct = np.mean([len(count) for count in blocks])
    assert 60 < distinct < 100
    assert max(max(count.values()) for count in blocks) <= 2 * LANE


def test_blocks_are_kept_until_their_images_are_taken() -> None:
    source = InBlocks(Counted(100), 10, most=2)
    assert source.read_many([3, 25, 4]) == [b"3", b"25", b"4"]
    assert [len(kept) for kept in source._kept.values()] == [8, 9]
    assert source.read_many([0, 1, 2, 5, 6, 7, 8, 9]) == [str(i).encode() for i in (0, 1, 2, 5, 6, 7, 8, 9)]
    assert list(source._kept) == [2]
    source.read_many([31, 99, 51])
    assert list(source._kept) == [9, 5]  # the ones that were read last
    assert source.read_many([51]) == [b"51"]  # again, as when its work is done once more
    assert source.singly.read_many([7]) == [b"7"]
    assert 9 in source._kept


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    data = write_images(tmp_path_factory.mktemp("blocks"), 23)
    (data / "class0/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    return open_data(str(data)).all


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("block", [3, 8])
def test_streams_in_blocks_are_the_same_for_any_processes_and_restarts(
    source: Source, workers: int, block: int
) -> None:
    stream = replace(stream_of(source, batch_size=20, steps=6, repeats=2), shuffle_block=block)
    whole_stream = rows(stream.batches(0, 20, 0))
    assert rows(stream.batches(0, 7, workers)) == whole_stream
    assert rows(stream.batches(4, 20, workers)) == whole_stream[80:]
    parts = [Ranks(rank, 3).share(20) for rank in range(3)]
    shares = [rows(stream.batches(0, 4, workers, part=part)) for part in parts]
    assert list(_interleaved(shares, parts)) == whole_stream


def _interleaved(shares: list[list[tuple[object, ...]]], parts: list[range]) -> Iterator[tuple[object, ...]]:
    for step in range(6):
        for part, share in zip(parts, shares, strict=True):
            yield from share[step * len(part) : (step + 1) * len(part)]


def test_a_stream_in_blocks_shows_every_image_and_names_the_broken(source: Source) -> None:
    stream = replace(stream_of(source, batch_size=24, steps=1), shuffle_block=5)
    (batch,) = stream.batches(0, 24, 0)
    assert {source.name(index) for index, _ in batch.broken} == {"class0/broken.jpg"}
    assert len({*batch.indices.tolist()}) == 23


def test_an_old_order_is_that_of_a_stream_without_a_block(source: Source) -> None:
    """With whatever number of images."""
    stream = stream_of(source)
    before = rows(stream.batches(0, 6, 0))
    orders._chunk.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "MOST_DRAWN", 10)
        old, new = (rows(replace(stream, shuffle_block=block).batches(0, 6, 0)) for block in (None, 1))
    assert old == before != new
    orders._chunk.cache_clear()
