"""The methods' losses against lightly's, moving averages and centres by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss
from torch import Tensor, nn

from openmae.baselines.byol import spread_of, unlikeness
from openmae.baselines.dino import cross_entropy, moved_centre, prototypes_for, watch
from openmae.baselines.method import Average, first_momentum, momentum_at
from openmae.baselines.mocov3 import contrast
from openmae.baselines.simclr import nt_xent

SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws, dtype=torch.float64) for shape in shapes]


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=1e-6)


@given(SEEDS, st.integers(2, 9), st.floats(0.05, 1))
def test_nt_xent_is_lightlys(seed: int, batch: int, temperature: float) -> None:
    first, second = drawn(seed, (batch, 7), (batch, 7))
    same(nt_xent(first, second, temperature), NTXentLoss(temperature)(first, second))


@given(SEEDS, st.integers(1, 9))
def test_byols_is_lightlys_negative_cosine_twice_from_2_on(seed: int, batch: int) -> None:
    told, wanted = drawn(seed, (batch, 7), (batch, 7))
    same(unlikeness(told, wanted), 2 + 2 * NegativeCosineSimilarity()(told, wanted))


@given(SEEDS, st.integers(1, 6), st.integers(0, 3))
def test_dinos_is_lightlys_with_local_crops_and_a_centre(seed: int, batch: int, local: int) -> None:
    *views, centre = drawn(seed, *[(batch, 11)] * (4 + local), (11,))
    said, told = views[:2], views[2:]
    theirs = DINOLoss(11, teacher_temp=0.07, student_temp=0.2).double()
    theirs.center = centre.clone()[None, None]
    same(cross_entropy(said, told, centre, 0.2, 0.07), theirs(said, told, teacher_temp=0.07))
    same(moved_centre(centre, torch.cat(said).mean(0)), theirs.center[0, 0])  # which has moved by now


def test_moco_v3s_by_hand() -> None:
    queries, keys = drawn(0, (5, 3), (5, 3))
    total = 0.0
    for i, query in enumerate(queries):
        alike = [float(query @ key / query.norm() / key.norm()) / 0.2 for key in keys]
        total -= alike[i] - math.log(sum(map(math.exp, alike)))
    assert float(contrast(queries, keys, 0.2)) == pytest.approx(2 * 0.2 * total / 5)


def test_an_average_follows_where_a_step_was_taken() -> None:
    learner, average = nn.Linear(2, 2), Average(nn.Linear(2, 2))
    before = average.parts[0].weight.clone()
    average.follow([learner], 0.9, torch.zeros(()))
    assert torch.equal(average.parts[0].weight, before)
    average.follow([learner], 0.9, torch.ones(()))
    same(average.parts[0].weight, 0.9 * before + 0.1 * learner.weight)
    assert not any(weight.requires_grad for weight in average.parameters())


def test_momentum_rises_to_1_and_is_more_in_large_batches() -> None:
    assert momentum_at(0.99, 0, 100) == pytest.approx(0.99)
    assert momentum_at(0.99, 50, 100) == pytest.approx(0.995)
    assert momentum_at(0.99, 100, 100) == 1
    assert [first_momentum(size) for size in (8, 64, 1024, 4096)] == pytest.approx([0.99, 0.99, 0.996, 0.996])
    assert first_momentum(256) == pytest.approx(0.993)
    assert [prototypes_for(images) for images in (1, 2000, 20000, 10**6)] == [1024, 1024, 2048, 4096]


def test_what_is_watched() -> None:
    apart = torch.eye(4).mul(100).log_softmax(1)  # each image its own prototype
    one = apart[:1].expand(4, -1)
    alike = torch.zeros(4, 4).log_softmax(1)
    for sure, entropy, information in ((apart, 0, math.log(4)), (one, 0, 0), (alike, math.log(4), 0)):
        found = watch(sure, alike)
        assert [float(value) for value in found] == pytest.approx(
            [entropy, math.log(4) - entropy, information], abs=1e-5
        )  # against a student that knows nothing
        assert float(watch(sure, sure)[1]) == pytest.approx(0, abs=1e-6)
    assert float(spread_of(torch.ones(5, 3))) == pytest.approx(0, abs=1e-6)
    assert float(spread_of(torch.cat([torch.eye(3), -torch.eye(3)]))) == pytest.approx(1)
