"""What a pre-training goes on from: weights that exist, and what a run keeps of where they came from."""

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from openmae.data.formats.channels import PixelFormat
from openmae.data.sources.source import Source
from openmae.errors import UserError, of_user
from openmae.files.address import whole_address
from openmae.files.parsing import read_json
from openmae.files.whole import write_file
from openmae.heads import Answering, Neighbours
from openmae.model import Architecture, MaskedAutoencoder, ViT
from openmae.own import is_own
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.settings import given
from openmae.train.checkpoint import newest_record
from openmae.train.run import read_config
from openmae.weights import Channels, Fitted, Loaded, fitted, fitted_autoencoder, is_timm_name, load_model
from openmae.weights.hub import PREFIX
from openmae.weights.loaded import say_origin

FILE = "start.json"
"""Of the run folder: what it began from, so that it goes on where MODEL is gone."""


Wanted = tuple[tuple[int, ...], tuple[int, ...], Channels]
"""What an encoder is fitted to: sides of an image and of a patch, and channels."""


@dataclass(frozen=True)
class Origin:
    """Where the first weights came from. model: as it is called from anywhere. provenance, licence: as its own
    model.json or file has them."""

    model: str
    provenance: dict[str, Any]
    licence: str | None


@dataclass(frozen=True)
class Start:
    """What a run began from. architecture: of the run, once that is settled. loaded: the weights, where they are still
    to be taken. fits: the encoder as it was fitted, from when that is first asked for until its weights are taken."""

    origin: Origin
    architecture: Architecture | None = None
    loaded: Loaded | None = None
    fits: dict[Wanted, tuple[ViT, list[str]]] = field(default_factory=dict, repr=False, compare=False)


def open_start(settings: Pretrain, console: Console) -> Start | None:
    """MODEL, whose weights are taken; None without --from. Raises UserError."""
    if settings.from_ is None:
        return None
    loaded = _loaded(settings)
    say_origin(loaded, console)
    loaded.check_numbers("go on from others")
    if isinstance(loaded.model, Answering):
        is_bank = isinstance(loaded.model, Neighbours)
        said = (
            "is a kNN: its encoder is taken, and its bank left"
            if is_bank
            else ("was fine-tuned: its encoder is taken, and its head left")
        )
        console.print(f"{settings.from_} {said}", soft_wrap=True)
    _say_unfinished(loaded, Path(settings.from_), console)
    return Start(Origin(address(settings.from_), loaded.info["provenance"], loaded.info.get("licence")), loaded=loaded)


def _loaded(settings: Pretrain) -> Loaded:
    """With the heads that are given, where MODEL does not say them itself."""
    model = given(settings.from_)
    loaded = load_model(model, num_heads=settings.num_heads)
    heads = settings.decoder_num_heads
    assumed = loaded.info["provenance"].get("assumed", ())
    if heads is not None and any(one.startswith("decoder's attention heads") for one in assumed):
        return load_model(model, num_heads=settings.num_heads, decoder_num_heads=heads)
    return loaded


def _say_unfinished(loaded: Loaded, run: Path, console: Console) -> None:
    """Says so where MODEL is a run that has not reached its last step."""
    if not (run / "config.toml").is_file():
        return
    step, steps = loaded.info["provenance"].get("step"), read_config(run).get("steps")
    if isinstance(step, int) and isinstance(steps, int) and step < steps:
        console.print(
            f"warning: the run in {run} is not finished: these are its weights of step {step:,} of {steps:,}",
            style="yellow",
            soft_wrap=True,
        )


def say_images(settings: Pretrain, train: Source, console: Console) -> None:
    """Says so where MODEL is a run that learnt from the same place: of the same images, or of what has changed."""
    run = Path(settings.from_ or "")
    if settings.from_ is None or not (run / "config.toml").is_file():
        return
    config, before = read_config(run), newest_record(run / "checkpoints").get("data_fingerprint")
    data = given(settings.data)
    if before is None or is_own(data) or whole_address(str(config.get("data", ""))) != whole_address(data):
        return
    if before == train.fingerprint:
        said = "MODEL learnt from these images already: they are gone on with, under a new schedule"
    else:
        count = config.get("image_count")
        then = f", {count:,} then" if isinstance(count, int) else ""
        said = f"The images have changed since MODEL learnt from them: {len(train):,} to learn from now{then}"
    console.print(said, soft_wrap=True)


def address(model: str) -> str:
    """The same for the same MODEL, from wherever it is named."""
    is_name = not Path(model).exists() and (model.startswith(PREFIX) or is_timm_name(model))
    return model if is_name else whole_address(model)


def check_same_start(settings: Pretrain, run: Path) -> None:
    """Raises UserError where a run that goes on is said to have begun from something else than it did."""
    began = read_config(run).get("from")
    if settings.from_ is not None and address(settings.from_) != began:
        raise UserError(
            f"{run} holds a run that began from {began or 'fresh weights'}, and --from is {settings.from_}",
            "leave --from out to go on with it, or choose another --out",
        )


def keep_start(run: Path, origin: Origin | None, architecture: Architecture) -> None:
    """Notes it in the run folder; None for fresh weights, of which there is nothing to note. Raises OSError."""
    if origin is None:
        (run / FILE).unlink(missing_ok=True)
        return
    values = {
        "model": origin.model,
        "provenance": origin.provenance,
        "licence": origin.licence,
        "architecture": architecture.to_dict(),
    }
    write_file(run / FILE, json.dumps(values, indent=1).encode())


def kept_start(run: Path) -> Start | None:
    """What the run folder says; None where it does not, or is damaged."""
    try:
        values = read_json((run / FILE).read_bytes())
        origin = Origin(str(values["model"]), dict(values["provenance"]), values["licence"])
        return Start(origin, Architecture.from_dict(values["architecture"]))
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def encoder_for(start: Start, wanted: Architecture, channels: Channels) -> tuple[ViT, list[str]]:
    """(the encoder for images of the sizes that are wanted, a line for each thing that was adapted). Raises
    UserError."""
    asked = wanted.img_size, wanted.patch_size, channels
    if asked not in start.fits:
        encoder = given(start.loaded).encoder
        try:
            start.fits[asked] = fitted(
                encoder, img_size=wanted.img_size, patch_size=wanted.patch_size, channels=channels
            )
        except ValueError as error:
            raise of_user(error) from error
    return start.fits[asked]


def architecture_from(start: Start, wanted: Architecture, channels: Channels) -> Architecture:
    """The architecture of a run that begins with these weights: what is wanted of sizes and decoder, and the encoder's
    own of all else. Raises UserError where its weights cannot be made to fit that."""
    if start.architecture is not None:  # of a run that goes on; a mask and a target may be a caller's own
        own = {name: getattr(wanted, name) for name in ("masking", "target", "target_values")}
        return replace(start.architecture, **own)
    encoder, _ = encoder_for(start, wanted, channels)
    own = encoder.arguments()
    names = {field.name for field in fields(Architecture)} & own.keys()
    model = given(start.loaded).model
    learned = isinstance(model, MaskedAutoencoder) and model.architecture.decoder_learned_positions
    return replace(
        wanted,
        **{name: own[name] for name in names},
        decoder_learned_positions=learned and wanted.decoder == "self",
    )


def has_decoder(start: Start, architecture: Architecture, channels: Channels) -> bool:
    """Whether the weights have all of the decoder that is wanted."""
    model = given(start.loaded).model
    if not isinstance(model, MaskedAutoencoder):
        return False
    same = ("masking", "img_size", "position_grid")  # whatever these are, its weights are for them
    had = replace(model.architecture, **{name: getattr(architecture, name) for name in same})
    encoder, _ = encoder_for(start, architecture, channels)
    return had == architecture and torch.equal(encoder.patch_embed.weight, model.encoder.patch_embed.weight)


def take_weights(
    start: Start, architecture: Architecture, channels: Channels, draws: torch.Generator
) -> tuple[Fitted, list[str]]:
    """(the model to begin with, a line for each thing that was adapted, and what became of the decoder). Raises
    UserError."""
    encoder, lines = encoder_for(start, architecture, channels)
    found = fitted_autoencoder(given(start.loaded).model, encoder, architecture, draws)
    start.fits.clear()
    return found, [*lines, *found.lines]


def channels_of(start: Start, pixels: PixelFormat, asked: tuple[int, ...] | None) -> Channels:
    """What the images' channels are to the encoder. asked: which of them its own are, where the user says it; else
    those that it learnt from itself, where it was told so and the images have them."""
    bands = None if start.loaded is None else start.loaded.statistics.pixels.bands
    there = pixels.bands or range(1, pixels.in_chans + 1)
    if asked is None and bands is not None and set(bands) <= set(there):
        asked = bands
    return Channels(pixels.in_chans, pixels.bands, asked)
