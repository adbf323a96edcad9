"""The encoder that a training on labels begins with: one that exists, a fresh one of its shape, or of a named size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from openmae.data.formats.reading import Reading
from openmae.data.sources.source import Source
from openmae.data.survey.levels import Levels
from openmae.data.survey.sample import survey
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError, of_user
from openmae.evaluate.suited import say_choice
from openmae.heads import Classifier, Neighbours
from openmae.model import SIZES, ViT, create_model
from openmae.recipes.nodata import say_taken, warn_of_suspects
from openmae.recipes.training.settings import given, pair
from openmae.weights import Loaded, is_timm_name, load_model
from openmae.weights.loaded import say_origin

NORMALISED = ("norm_pix", "norm_pix_by_channel")
"""Targets after which the paper fine-tunes ViT-B otherwise than after pixels."""


class AskedEncoder(Protocol):
    """What a training on labels is asked of its encoder."""

    # ruff: noqa: D102
    @property
    def model(self) -> str | None: ...
    @property
    def from_scratch(self) -> bool: ...
    @property
    def img_size(self) -> int | tuple[int, int] | None: ...
    @property
    def patch_size(self) -> int | tuple[int, int] | None: ...
    @property
    def num_heads(self) -> int | None: ...
    @property
    def heads(self) -> dict[str, int | None]: ...
    @property
    def reading(self) -> Reading: ...
    @property
    def seed(self) -> int: ...


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


def first_rate(encoder: ViT, target: str | None) -> float:
    """The learning rate at batch 1024 where labels are learnt: the paper's; for encoders narrower than any in it, twice
    ViT-B's. target: of `Start`."""
    is_narrow = encoder.embed_dim < 768
    if target is None:
        return 2e-3 if is_narrow else 8e-4
    return 2e-3 if encoder.embed_dim == 768 and target in NORMALISED else 4e-3


def loaded_model(settings: AskedEncoder, console: Console) -> Loaded | None:
    """MODEL; None where it is the name of a size. Raises UserError."""
    model = given(settings.model)
    if model not in SIZES:
        if model.startswith("vit_") and not Path(model).exists() and not is_timm_name(model):
            raise UserError(f"{model} is no size, nor a run folder", f"give one of {', '.join(SIZES)}, or a run")
        loaded = load_model(Path(model), **settings.heads)
        say_origin(loaded, console)
        if not settings.from_scratch:
            loaded.check_numbers("give others, or add --from-scratch")
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


def pretrained(settings: AskedEncoder, loaded: Loaded) -> Start:
    """The encoder of a model that exists, whose weights may be wanted or its architecture alone."""
    if settings.from_scratch:
        return Start(loaded.encoder, loaded.statistics, None, is_new=False)
    info = loaded.info
    target = info["architecture"].get("target", "pixel")
    return Start(loaded.encoder, loaded.statistics, target, False, info["provenance"], info.get("licence"))


def fresh(settings: AskedEncoder, train: Source, workers: int, console: Console) -> Start:
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
