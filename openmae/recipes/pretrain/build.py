"""A pre-training with nothing left open, and what is built of it: the model, and the stream that it learns from."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.console import Console

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.memory import in_memory
from openmae.data.loading.stream import Stream
from openmae.data.sources.source import Source
from openmae.data.survey.sample import Survey
from openmae.data.views.crop import Augmentation, View
from openmae.data.views.photometric import Photometric
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError, of_user
from openmae.model import Architecture, MaskedAutoencoder, create_model, grid_of
from openmae.own import is_lacking
from openmae.randomness import generator
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.pretrain.start import Origin, Start, take_weights
from openmae.recipes.training.schedule import Course
from openmae.recipes.training.settings import given, pair
from openmae.weights import Channels

_MASKS = 4  # that tell one from another


@dataclass(frozen=True)
class Pretraining:
    """What follows from settings that are chosen, as `config` has them.

    colour_jitter: strength, 0 for none. repeat_aug: views of an image once it is decoded. max_nodata: share of a patch
    and of a view. freeze_encoder: share of the steps in which the decoder learns alone. pictures, evaluations: how many
    of each, evenly over the run.
    origin, channels: of the weights that it begins with, and what its channels are to them; None of fresh ones.
    """

    config: dict[str, Any]
    course: Course
    architecture: Architecture
    statistics: Statistics
    augmentation: Augmentation
    colour_jitter: float
    repeat_aug: int
    max_nodata: float
    optimizer: Literal["adamw", "muon"]
    weight_decay: float
    layer_decay: float
    decay_tokens: bool
    freeze_encoder: float
    grad_checkpointing: bool
    compile: bool
    pictures: int
    evaluations: int
    origin: Origin | None = None
    channels: Channels | None = None


@dataclass(frozen=True)
class Images:
    """DATA, opened. val: None where there is none. shown: up to 8 held out for the panel: of val, else set aside.
    look: at a sample of those that are learnt from; None where a run goes on. start: what it begins from, None of fresh
    weights. from_bands: the numbers of those bands that these were trained with, where the user says it."""

    train: Source
    val: Source | None
    shown: Source
    look: Survey | None
    start: Start | None = None
    from_bands: tuple[int, ...] | None = None

    @property
    def fingerprint(self) -> str:
        """Of the images that are learnt from."""
        return self.train.fingerprint

    @property
    def count(self) -> int:
        """Of the images that are learnt from."""
        return len(self.train)


def build(run: Pretraining, start: Start | None = None) -> tuple[MaskedAutoencoder, list[str]]:
    """(the model, a line for each thing that was adapted of the weights that it begins with), what has no weights yet
    drawn from the seed."""
    draws, lines = torch.Generator().manual_seed(run.course.seed), list[str]()
    if start is None or start.loaded is None:
        model = run.architecture.build()
        model.initialize(draws)
    else:
        found, lines = take_weights(start, run.architecture, given(run.channels), draws)
        model = found.model
    model.checkpoint_blocks(run.grad_checkpointing)
    return model, lines


def stream_of(run: Pretraining, source: Source, workers: int, console: Console) -> Stream:
    """What the model learns from: random crops of the images, and which of their patches hide."""
    height, width = run.architecture.img_size
    down, across = run.architecture.patch_size
    loaded, pixels = in_memory(source, run.statistics.pixels, (height, width), workers, console)
    return Stream(
        loaded,
        View(pixels, (height, width), (down, across), run.augmentation, _jitter(run)),
        run.architecture.masking,
        run.course.schedule.batch_size,
        run.course.schedule.steps,
        run.course.seed,
        run.repeat_aug,
        run.max_nodata,
        run.course.shuffle_block,
    )


def _jitter(run: Pretraining) -> Photometric | None:
    """Hues turn by a quarter of what the others change by, as in SimCLR's proportions."""
    strength = run.colour_jitter
    if not strength:
        return None
    return Photometric(run.statistics, strength, strength, strength, strength / 4, blur=0.0, grey=0.0)


def architecture_of(settings: Pretrain) -> Architecture:
    """Of settings that are chosen. Raises UserError for what cannot be built."""
    try:
        with torch.device("meta"):  # without weights
            model = create_model(
                given(settings.model),
                img_size=pair(settings.img_size),
                patch_size=pair(settings.patch_size),
                in_chans=given(settings.in_chans),
                embed_dim=settings.embed_dim,
                depth=settings.depth,
                num_heads=settings.num_heads,
                class_tokens=1 if settings.class_tokens is None else settings.class_tokens,
                decoder=given(settings.decoder),
                decoder_embed_dim=given(settings.decoder_embed_dim),
                decoder_depth=given(settings.decoder_depth),
                decoder_num_heads=given(settings.decoder_num_heads),
                decoder_layers=settings.decoder_layers,
                encoder_mask_token=settings.encoder_mask_token,
                target=settings.target,
                norm_pix_loss=settings.norm_pix_loss,
                norm_pix_by=settings.norm_pix_by or "patch",
                masking=settings.masking,
            )
        if settings.mask_ratio_end is not None:
            model.masking.counts(model.encoder.grid, settings.mask_ratio_end)
    except ValueError as error:
        raise of_user(error) from error
    return model.architecture


def statistics_of(settings: Pretrain) -> Statistics:
    """Of settings that are chosen. Raises UserError for an old run's, which may lack the pixel type."""
    if settings.mean is None or settings.std is None or settings.pixel_type is None:
        raise UserError(
            "the run is of an older openmae, which did not keep its pixel type", "begin anew in another --out"
        )
    pixels = PixelFormat(given(settings.in_chans), settings.bands, settings.pixel_type, settings.reading)
    return Statistics(settings.mean, settings.std, pixels)


def check_own(settings: Pretrain) -> None:
    """Raises UserError where the run was begun with a mask or a target that its caller made, and they are not here."""
    for name in ("mask", "target"):
        if is_lacking(word := getattr(settings, name)):
            raise UserError(
                f"the run was begun from Python with a {name} of its caller's, {word.split()[0]}, which is not kept",
                f"make the same call of openmae.pretrain again, with that {name}",
            )


def mask_digest(settings: Pretrain, console: Console) -> str:
    """What a caller's own mask does, in 8 letters: by what it draws from the same generators. Says so where that is not
    the same twice. Raises UserError where it draws no masks."""
    grid = grid_of(pair(settings.img_size), pair(settings.patch_size))

    def drawn() -> str:
        digest = hashlib.sha256()
        for index in range(_MASKS):
            for part in settings.masking.draw(generator(0, "panel", index=index), grid):
                digest.update(part.tobytes())
        return digest.hexdigest()[:8]

    first, second = drawn(), drawn()
    if first == second:
        return first
    console.print(
        f"warning: {settings.mask} gives another mask for the same generator, so the run cannot be gone on with "
        "exactly: draw from the generator alone",
        style="yellow",
        soft_wrap=True,
    )
    return "changing"
