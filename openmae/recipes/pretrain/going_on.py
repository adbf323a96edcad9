"""What `pretrain --from` chooses by the weights that it goes on from."""

import math

from openmae.commandline.flags import flag
from openmae.data.survey.levels import unlike
from openmae.data.survey.sample import Survey
from openmae.errors import UserError
from openmae.model import SIZES, Architecture, MaskedAutoencoder, ViT, nearest_size
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.pretrain.start import Start, channels_of, has_decoder
from openmae.recipes.training.open import Values
from openmae.recipes.training.settings import given, pair, shown, sides_of
from openmae.weights import Loaded

_SHAPE = ("embed_dim", "depth", "num_heads", "class_tokens")
_DECODER = ("decoder", "decoder_embed_dim", "decoder_depth", "decoder_num_heads")
_SMALLER = 0.75  # images of fewer pixels than this share of MODEL's are seen smaller: else nothing of it is adapted
_LEAST_GRID = 8  # patches a side
_EPOCHS = 0.25  # of a fresh start's: going on takes a fraction of the steps (HPT, arXiv 2103.12718)
_RATE = 0.5  # of the paper's, also for narrow encoders, whose fresh start is faster: measured so (docs/log.md)
_LAYER_DECAY, _FREEZE = 0.75, 0.1


def going_on(settings: Pretrain, look: Survey, start: Start) -> Values:
    """What the weights say of settings that are open. Raises UserError where they are of another shape than is asked
    for."""
    loaded = given(start.loaded)
    _check_shape(settings, loaded)
    encoder, model, its = loaded.encoder, loaded.model, "MODEL's"
    shape = (encoder.embed_dim, encoder.depth, encoder.num_heads)
    nearest = nearest_size(encoder.embed_dim)
    is_named = SIZES[nearest] == shape
    values: Values = {
        "model": (nearest, its if is_named else "the nearest to MODEL's shape"),
        "patch_size": (sides_of(encoder.patch_size), its),
        "img_size": _img_size(settings, look, encoder),
        **{name: (getattr(encoder, name), its) for name in _SHAPE if encoder.class_tokens != 1 or not is_named},
        **_statistics(look, loaded),
    }
    if isinstance(model, MaskedAutoencoder):
        kind = settings.decoder or ("cross" if settings.recipe == "fast" else model.architecture.decoder)
        if kind == model.architecture.decoder:
            values |= {name: (getattr(model.architecture, name), its) for name in _DECODER}
    return values


def fewer(epochs: float, why: str) -> tuple[float, str]:
    """Epochs to go on for, of those of a fresh start."""
    return max(1.0, round(epochs * _EPOCHS)), f"a quarter of a fresh start's {epochs:g} ({why})"


def lower(blr: float, why: str) -> tuple[float, str]:
    """The rate to go on with, of the paper's for the batch."""
    return blr * _RATE, f"half of {why}"


def schedule(settings: Pretrain, architecture: Architecture, start: Start, look: Survey) -> Values:
    """How it goes on, for a model that is chosen."""
    if settings.recipe == "paper":
        return {"layer_decay": (1.0, "as the paper's"), "freeze_encoder": (0.0, "as the paper's")}
    channels = channels_of(start, look.statistics.pixels, settings.from_numbers)
    is_kept = has_decoder(start, architecture, channels)
    return {
        "layer_decay": (_LAYER_DECAY, "what lies lower is of more general use, and changes less"),
        "freeze_encoder": (0.0, "the decoder is MODEL's too")
        if is_kept
        else (_FREEZE, "what is fresh of the decoder learns alone in a tenth of the steps"),
    }


def _check_shape(settings: Pretrain, loaded: Loaded) -> None:
    """Raises UserError where the encoder is of another shape than is asked for."""
    encoder = loaded.encoder
    for name in _SHAPE:
        if getattr(settings, name) not in (None, getattr(encoder, name)):
            raise UserError(
                f"{flag(name)} is {shown(getattr(settings, name))}, and {loaded.name} has {getattr(encoder, name)}",
                "leave it out",
            )
    shape = (encoder.embed_dim, encoder.depth, encoder.num_heads)
    asked = (settings.embed_dim, settings.depth, settings.num_heads)
    if settings.model is not None and shape != tuple(
        own or usual for own, usual in zip(asked, SIZES[settings.model], strict=True)
    ):
        raise UserError(
            f"--model is {settings.model}, and {loaded.name} has {encoder.depth} blocks of width {encoder.embed_dim} "
            f"with {encoder.num_heads} heads",
            "leave it out",
        )


def _img_size(settings: Pretrain, look: Survey, encoder: ViT) -> tuple[int | tuple[int, ...], str]:
    """MODEL's, or less where images are much smaller."""
    units, side = pair(settings.patch_size) if settings.patch_size else encoder.patch_size, min(look.size)
    own = tuple(max(1, size // unit) * unit for size, unit in zip(encoder.img_size, units, strict=True))
    unit = math.lcm(*units)
    smaller = unit * max(-(-side // unit), _LEAST_GRID)
    if side >= _SMALLER * min(own) or smaller >= min(own):
        return sides_of(own), f"MODEL's; images have {side}" if own == encoder.img_size else "nearest to MODEL's"
    return smaller, f"MODEL's is {shown(sides_of(own))}, images have {side}, and 8 x 8 patches are wanted"


def _statistics(look: Survey, loaded: Loaded) -> Values:
    """MODEL's, where they are of such pixels and the images have such values."""
    own, its = look.statistics.pixels, loaded.statistics.pixels
    if (own.in_chans, own.bands, own.depth) != (its.in_chans, its.bands, its.depth):
        return {}
    if unlike(look.levels, loaded.statistics) is not None:
        return {}
    return {
        "mean": (loaded.statistics.mean, "MODEL's: the images have such values"),
        "std": (loaded.statistics.std, "likewise"),
    }
