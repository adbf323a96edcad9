"""What a pre-training goes on from: weights that exist, and what a run keeps of where they came from."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.errors import UserError
from openmae.files.address import whole_address
from openmae.files.parsing import read_json
from openmae.files.whole import write_file
from openmae.heads import Classifier
from openmae.model import Architecture, MaskedAutoencoder
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.settings import given
from openmae.train.run import read_config
from openmae.weights import Loaded, is_timm_name, load_model
from openmae.weights.hub import PREFIX
from openmae.weights.loaded import say_origin

FILE = "start.json"
"""Of the run folder: what it began from, so that it goes on where MODEL is gone."""


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
    to be taken."""

    origin: Origin
    architecture: Architecture | None = None
    loaded: Loaded | None = None


def open_start(settings: Pretrain, console: Console) -> Start | None:
    """MODEL, whose weights are taken; None without --from. Raises UserError."""
    if settings.from_ is None:
        return None
    loaded = _loaded(settings)
    say_origin(loaded, console)
    if isinstance(loaded.model, Classifier):
        console.print(f"{settings.from_} was fine-tuned: its encoder is taken, and its head left", soft_wrap=True)
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


def address(model: str) -> str:
    """The same for the same MODEL, from wherever it is named."""
    is_name = not Path(model).exists() and (model.startswith(PREFIX) or is_timm_name(model))
    return model if is_name else whole_address(model)


def keep_start(run: Path, origin: Origin, architecture: Architecture) -> None:
    """Notes it in the run folder. Raises OSError."""
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


def fitted(start: Start, wanted: Architecture) -> Architecture:
    """The architecture of a run that begins with these weights: what is wanted of sizes and decoder, and the encoder's
    own of all else. Raises UserError where its weights do not fit that."""
    encoder = given(start.loaded).encoder
    own = encoder.arguments()
    for name, what in (("img_size", "images"), ("patch_size", "patches"), ("in_chans", "channels")):
        if own[name] != getattr(wanted, name):
            raise UserError(f"{start.origin.model} is for other {what}: {own[name]}, not {getattr(wanted, name)}")
    if encoder.position_grid not in (None, encoder.grid):
        raise UserError(f"{start.origin.model} was fine-tuned for images of another size than it was trained with")
    names = {field.name for field in fields(Architecture)} & own.keys()
    return replace(wanted, **{name: own[name] for name in names})


def has_decoder(loaded: Loaded, architecture: Architecture) -> bool:
    """Whether the weights have the decoder that is wanted."""
    had = loaded.model
    return (
        isinstance(had, MaskedAutoencoder) and replace(had.architecture, masking=architecture.masking) == architecture
    )


def take_weights(model: MaskedAutoencoder, loaded: Loaded) -> str:
    """Puts the weights into a fresh model, those of the decoder where it is the same; says what becomes of that."""
    if has_decoder(loaded, model.architecture):
        model.load_state_dict(loaded.model.state_dict())
        return "decoder: kept"
    model.encoder.load_state_dict(loaded.encoder.state_dict())
    return "decoder: begins afresh"
