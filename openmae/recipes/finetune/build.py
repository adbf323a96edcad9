"""What a fine-tuning begins with: an encoder that exists or a fresh one, and the classifier made of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from openmae.data.sources.source import Source
from openmae.data.survey.levels import Levels
from openmae.data.survey.sample import survey
from openmae.data.views.augment import Finish
from openmae.data.views.crop import Augmentation
from openmae.data.views.mixing import Mixing
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError, of_user
from openmae.evaluate.suited import say_choice
from openmae.heads import Classifier, Neighbours, Pool, learn_last_blocks
from openmae.model import SIZES, ViT, create_model, initialize
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.nodata import say_taken, warn_of_suspects
from openmae.recipes.training.schedule import Course
from openmae.recipes.training.settings import given, pair
from openmae.weights import Loaded, is_timm_name, load_model
from openmae.weights.loaded import say_origin


@dataclass(frozen=True)
class Start:
    """What training begins with."""

    encoder: ViT
    statistics: Statistics
    target: str | None
    """What the pre-training predicted; None for fresh weights."""
    is_new: bool
    """Whether MODEL is the name of a size, not of weights."""
    provenance: dict[str, Any] | None = None
    licence: str | None = None
    levels: Levels | None = None
    """Of the images that are learnt from, where they had to be looked at for fresh weights."""


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


def loaded_model(settings: Finetune, console: Console) -> Loaded | None:
    """MODEL; None where it is the name of a size. Raises UserError."""
    model = given(settings.model)
    if model not in SIZES:
        if model.startswith("vit_") and not Path(model).exists() and not is_timm_name(model):
            raise UserError(f"{model} is no size, nor a run folder", f"give one of {', '.join(SIZES)}, or a run")
        loaded = load_model(Path(model), **settings.heads)
        say_origin(loaded, console)
        if isinstance(loaded.model, Classifier) and not settings.from_scratch:
            console.print(f"{model} was fine-tuned before: its encoder is kept, and its head made anew")
        if isinstance(loaded.model, Neighbours) and not settings.from_scratch:
            console.print(f"{model} is a kNN: its encoder is kept, and its bank left")
        if settings.patch_size is not None and pair(settings.patch_size) != loaded.encoder.patch_size:
            raise UserError(f"--patch-size is for fresh weights; {model} has its own", "leave it out")
        return loaded
    if not settings.from_scratch:
        raise UserError(f"{model} has fresh weights", "add --from-scratch if that is meant, or give a run folder")
    if settings.num_heads is not None:
        raise UserError(f"--num-heads is for weights that do not say it; {model} has its own", "leave it out")
    return None


def pretrained(settings: Finetune, loaded: Loaded) -> Start:
    """The encoder of a model that exists, whose weights may be wanted or its architecture alone."""
    if settings.from_scratch:
        return Start(loaded.encoder, loaded.statistics, None, is_new=False)
    info = loaded.info
    target = info["architecture"].get("target", "pixel")
    return Start(loaded.encoder, loaded.statistics, target, False, info["provenance"], info.get("licence"))


def fresh(settings: Finetune, train: Source, workers: int, console: Console) -> Start:
    """An encoder of the named size for these images. Raises UserError."""
    look = survey(train, settings.seed, workers=workers, reading=settings.reading)
    say_choice(look.choice, console)
    say_taken(look.no_data, console)
    warn_of_suspects(look.suspected, look.statistics.pixels.reading.nodata, console)
    side = min(224, *look.size)
    patch = pair(settings.patch_size or (16 if side >= 128 else 8 if side >= 64 else 4))
    size = pair(settings.img_size) if settings.img_size else tuple(max(1, side // p) * p for p in patch)
    try:
        in_chans = look.statistics.pixels.in_chans
        encoder = create_model(given(settings.model), img_size=size, patch_size=patch, in_chans=in_chans).encoder
    except ValueError as error:
        raise of_user(error) from error
    return Start(encoder, look.statistics, None, is_new=True, levels=look.levels)
