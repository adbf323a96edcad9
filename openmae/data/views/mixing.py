"""Mixup and cutmix of a batch, by torchvision.

torchvision draws from torch's global generator. Here it is seeded for each group from the group's own generator and put
back afterwards.

Views are mixed within groups of GROUP that follow each other in a step's batch, each group with its own draw. So the
micro-batch and the number of processes change nothing, as long as they do not cut groups apart.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from openmae.errors import BadValue
from openmae.randomness import generator

GROUP = 32  # views


@dataclass(frozen=True)
class Mixing:
    """mixup, cutmix: alpha of the Beta distribution that the shares are drawn from, 0 for none; with both, a group has
    either (paper, Table 9: 0.8 and 1)."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0:
            raise BadValue(f"mixup {self.mixup:g} and cutmix {self.cutmix:g}", "give 0 or more")

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, images: Tensor, targets: Tensor, seed: int, step: int, start: int) -> tuple[Tensor, Tensor]:
        """images (B, C, H, W) float, targets (B, K) float -> both mixed.

        start: the first one's place in the batch of the step. Raises ValueError where that is within a group.
        """
        if not self:
            return images, targets
        if start % GROUP:
            raise ValueError(f"a micro-batch begins at {start}: only whole groups of {GROUP} are mixed")
        mixed = []
        for group, (some, wanted) in enumerate(
            zip(images.split(GROUP), targets.split(GROUP), strict=True), start // GROUP
        ):
            draws = generator(seed, "mix", epoch=step, index=group)
            use_mixup = self.cutmix == 0 or (self.mixup > 0 and draws.random() < 0.5)
            with seeded(int(draws.integers(2**63))):
                mixed.append((_mixup(self.mixup) if use_mixup else _cutmix(self.cutmix))(some, wanted))
        pictures, answers = zip(*mixed, strict=True)
        return torch.cat(pictures), torch.cat(answers)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's global generator on the CPU starts at `seed`; afterwards it is as it was."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@lru_cache(maxsize=8)
def _mixup(alpha: float) -> Any:
    from torchvision.transforms import v2

    return v2.MixUp(alpha=alpha)


@lru_cache(maxsize=8)
def _cutmix(alpha: float) -> Any:
    from torchvision.transforms import v2

    return v2.CutMix(alpha=alpha)
