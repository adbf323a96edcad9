"""What a fine-tuning begins with: an encoder that exists or a fresh one, and the classifier made of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from openmae.data.sources.source import Source
from openmae.data.survey.sample import survey
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError, of_user
from openmae.heads import Classifier, learn_last_blocks
from openmae.model import SIZES, ViT, create_model, initialize
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.training.settings import pair
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


def build(settings: Finetune, encoder: ViT, outputs: int) -> Classifier:
    """The model of resolved settings: head, and fresh weights where asked, from the seed. Raises UserError."""
    draws = torch.Generator().manual_seed(settings.seed)
    try:
        if pair(settings.img_size) != encoder.img_size:
            encoder = encoder.resized(pair(settings.img_size))
        if settings.from_scratch:
            initialize(encoder, draws)
        model = Classifier(encoder, outputs, settings.pool or "mean", settings.batch_norm, settings.drop_path or 0.0)
        model.initialize(0.01 if settings.batch_norm else 2e-5, draws)
        depth = encoder.depth
        learn_last_blocks(model, depth if settings.blocks == "all" else float(settings.blocks))
    except ValueError as error:
        raise of_user(error) from error
    return model


def _loaded(settings: Finetune, console: Console) -> Loaded | None:
    """MODEL; None where it is the name of a size."""
    assert settings.model is not None
    if settings.model not in SIZES:
        model = settings.model
        if model.startswith("vit_") and not Path(model).exists() and not is_timm_name(model):
            raise UserError(
                f"{settings.model} is no size, nor a run folder", f"give one of {', '.join(SIZES)}, or a run"
            )
        loaded = load_model(Path(settings.model))
        say_origin(loaded, console)
        if isinstance(loaded.model, Classifier) and not settings.from_scratch:
            console.print(f"{settings.model} was fine-tuned before: its encoder is kept, and its head made anew")
        if settings.patch_size is not None and pair(settings.patch_size) != loaded.encoder.patch_size:
            raise UserError(f"--patch-size is for fresh weights; {settings.model} has its own", "leave it out")
        return loaded
    if not settings.from_scratch:
        raise UserError(
            f"{settings.model} has fresh weights", "add --from-scratch if that is meant, or give a run folder"
        )
    return None


def _pretrained(settings: Finetune, loaded: Loaded) -> Start:
    if settings.from_scratch:
        return Start(loaded.encoder, loaded.statistics, None, is_new=False)
    info = loaded.info
    target = info["architecture"].get("target", "pixel")
    return Start(loaded.encoder, loaded.statistics, target, False, info["provenance"], info.get("licence"))


def _fresh(settings: Finetune, train: Source, workers: int) -> Start:
    """An encoder of the named size for these images."""
    assert settings.model is not None
    look = survey(train, settings.seed, None, None, workers)
    side = min(224, *look.size)
    patch = pair(settings.patch_size or (16 if side >= 128 else 8 if side >= 64 else 4))
    size = pair(settings.img_size) if settings.img_size else tuple(max(1, side // p) * p for p in patch)
    try:
        in_chans = look.statistics.pixels.in_chans
        encoder = create_model(settings.model, img_size=size, patch_size=patch, in_chans=in_chans).encoder
    except ValueError as error:
        raise of_user(error) from error
    return Start(encoder, look.statistics, None, is_new=True)
