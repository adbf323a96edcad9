"""What `pretrain --from` chooses of the weights that it goes on from."""

from openmae.commandline.flags import flag
from openmae.data.survey.sample import Survey
from openmae.errors import UserError
from openmae.model import SIZES, MaskedAutoencoder
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.pretrain.start import Start
from openmae.recipes.training.open import Values
from openmae.recipes.training.settings import given, shown
from openmae.weights import Loaded

_SHAPE = ("embed_dim", "depth", "num_heads", "class_tokens")


def going_on(settings: Pretrain, look: Survey, start: Start) -> Values:
    """What follows from the weights for settings that are open. Raises UserError where their shape is not the one that
    is asked for."""
    loaded = given(start.loaded)
    _check_shape(settings, loaded)
    encoder, its = loaded.encoder, f"of {start.origin.model}"
    shape = (encoder.embed_dim, encoder.depth, encoder.num_heads)
    model = min(SIZES, key=lambda name: abs(SIZES[name][0] - encoder.embed_dim))
    values: Values = {"model": (model, its if SIZES[model] == shape else f"the nearest to the shape {its}")}
    values |= {name: (getattr(encoder, name), its) for name in _SHAPE}
    values |= {name: (_sides(getattr(encoder, name)), its) for name in ("img_size", "patch_size")}
    if isinstance(loaded.model, MaskedAutoencoder):
        names = ("decoder", "decoder_embed_dim", "decoder_depth", "decoder_num_heads")
        values |= {name: (getattr(loaded.model.architecture, name), its) for name in names}
        values["freeze_encoder"] = (0.0, "the decoder is not fresh")
    else:
        values["freeze_encoder"] = (0.1, "the decoder is fresh")
    values["layer_decay"] = (0.75, "lower blocks need less of a change")
    return values


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
    if settings.model is not None and SIZES[settings.model] != shape:
        raise UserError(
            f"--model is {settings.model}, and {loaded.name} has {encoder.depth} blocks of width {encoder.embed_dim} "
            f"with {encoder.num_heads} heads",
            "leave it out",
        )


def _sides(sides: tuple[int, ...]) -> int | tuple[int, ...]:
    return sides[0] if len(set(sides)) == 1 else sides
