"""What a fine-tuning begins with: an encoder that exists or a fresh one, and the classifier made of it."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from openmae.data.views.augment import Finish
from openmae.data.views.crop import Augmentation
from openmae.data.views.mixing import Mixing
from openmae.data.views.statistics import Statistics
from openmae.errors import of_user
from openmae.heads import Classifier, Pool, learn_last_blocks
from openmae.model import ViT, initialize
from openmae.recipes.training.schedule import Course


@dataclass(frozen=True)
class Head:
    """How the classifier is made of the encoder.

    img_size: (height, width). blocks: of the last ones that learn, "all" or a number. fresh: the encoder's weights are
    drawn anew. learned_positions: positions that were fixed learn from now on. from_probe: the linear layer begins as
    a probe of the features as they are.
    """

    img_size: tuple[int, int]
    pool: Pool
    batch_norm: bool
    drop_path: float
    blocks: str
    fresh: bool
    grad_checkpointing: bool
    learned_positions: bool
    from_probe: bool


@dataclass(frozen=True)
class Rule:
    """How the weights are learnt. ema_decay: of the average that is kept of them, 0 for none."""

    optimizer: Literal["adamw", "lars"]
    weight_decay: float
    layer_decay: float
    ema_decay: float


@dataclass(frozen=True)
class Finetuning:
    """What follows from settings that are chosen, as `config` has them. evaluations: how many times val is looked at,
    evenly over the run; keep_best: the figure by which the best weights are kept, None for none; patience: looks after
    the best one that end the run, None for no end."""

    config: dict[str, Any]
    course: Course
    model: str
    head: Head
    rule: Rule
    augmentation: Augmentation
    ra_magnitude: float
    random_erase: float
    mixing: Mixing
    label_smoothing: float
    balance: Literal["none", "weights", "sampling"]
    evaluations: int
    keep_best: str | None
    patience: int | None


def finish_of(run: Finetuning, statistics: Statistics) -> Finish:
    """What is done to views of such pixels. Raises UserError where that is for others."""
    try:
        return Finish(statistics, run.ra_magnitude, run.random_erase)
    except ValueError as error:
        raise of_user(error) from error


def build(head: Head, encoder: ViT, outputs: int, seed: int) -> Classifier:
    """The model: head, and fresh weights where asked, from the seed. Raises UserError."""
    draws = torch.Generator().manual_seed(seed)
    try:
        if head.img_size != encoder.img_size:
            encoder = encoder.resized(head.img_size)
        if head.learned_positions:
            encoder = encoder.with_learned_positions()
        if head.fresh:
            encoder = ViT(**encoder.arguments())  # its norms, scales and positions are fresh too
            initialize(encoder, draws)
        model = Classifier(encoder, outputs, head.pool, head.batch_norm, head.drop_path)
        model.initialize(0.01 if head.batch_norm else 2e-5, draws)
        learn_last_blocks(model, encoder.depth if head.blocks == "all" else float(head.blocks))
        encoder.grad_checkpointing = head.grad_checkpointing
    except ValueError as error:
        raise of_user(error) from error
    return model
