"""Mixup and cutmix: what is mixed with what does not follow the micro-batch."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from openmae.data.views.mixing import GROUP, Mixing


@settings(max_examples=25)
@given(
    count=st.integers(1, 3 * GROUP),
    micro=st.sampled_from([GROUP, 2 * GROUP, 3 * GROUP]),
    alphas=st.sampled_from([(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)]),
    step=st.integers(0, 5),
)
def test_mixing_does_not_depend_on_the_micro_batch(
    count: int, micro: int, alphas: tuple[float, float], step: int
) -> None:
    images = torch.rand(count, 1, 6, 5, generator=torch.Generator().manual_seed(count))
    targets = F.one_hot(torch.arange(count) % 4, 4).float()
    mix = partial(Mixing(*alphas), seed=7, step=step)
    whole = mix(images, targets, start=0)
    parts = [mix(images[at : at + micro], targets[at : at + micro], start=at) for at in range(0, count, micro)]
    assert torch.equal(whole[0], torch.cat([part[0] for part in parts]))
    assert torch.equal(whole[1], torch.cat([part[1] for part in parts]))
    torch.testing.assert_close(whole[1].sum(1), torch.ones(count))


def test_groups_and_steps_are_mixed_apart() -> None:
    images, targets = torch.eye(2 * GROUP)[:, None, None], torch.eye(2 * GROUP)
    mix = partial(Mixing(0.8), seed=0)
    shares = []
    for step in range(3):
        _, mixed = mix(images, targets, step=step, start=0)
        for group in (0, GROUP):
            shares.append(mixed[group, group].item())
            assert mixed[group : group + GROUP, :group].sum() == 0  # with its own group alone
    assert len(set(shares)) == 6


def test_pixels_and_answers_are_mixed_alike() -> None:
    """With mixup an image of the same number everywhere holds its share; with cutmix the share is its area."""
    images = torch.arange(GROUP).float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    targets = torch.eye(GROUP)
    values = torch.arange(GROUP).float()
    for alphas in ((0.8, 0.0), (0.0, 1.0)):
        mixed, answers = Mixing(*alphas)(images, targets, 1, 2, 0)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), answers @ values, atol=1e-4, rtol=1e-4)


def test_a_group_cut_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="only whole groups of 32"):
        Mixing(0.8)(torch.rand(4, 1, 2, 2), torch.rand(4, 2), 0, 0, 8)
