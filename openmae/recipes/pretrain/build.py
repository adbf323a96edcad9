"""The model of a pre-training's settings."""

import torch

from openmae.data.views.crop import Augmentation
from openmae.errors import of_user
from openmae.masking import Masking
from openmae.model import Architecture, MaskedAutoencoder, create_model
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.settings import pair


def build(settings: "Pretrain") -> MaskedAutoencoder:
    """The model of resolved settings, its weights drawn from the seed. Raises UserError for what cannot be built."""
    model = _made(settings)
    model.initialize(torch.Generator().manual_seed(settings.seed))
    return model


def architecture_of(settings: "Pretrain") -> Architecture:
    """Of resolved settings, without weights. Raises UserError for what cannot be built."""
    with torch.device("meta"):
        return _made(settings).architecture


def _made(settings: "Pretrain") -> MaskedAutoencoder:
    try:
        model = create_model(
            settings.model or "vit_base",
            img_size=pair(settings.img_size),
            patch_size=pair(settings.patch_size),
            in_chans=in_chans_of(settings),
            embed_dim=settings.embed_dim,
            depth=settings.depth,
            num_heads=settings.num_heads,
            class_tokens=settings.class_tokens,
            decoder=settings.decoder or "self",
            decoder_embed_dim=512 if settings.decoder_embed_dim is None else settings.decoder_embed_dim,
            decoder_depth=8 if settings.decoder_depth is None else settings.decoder_depth,
            decoder_num_heads=16 if settings.decoder_num_heads is None else settings.decoder_num_heads,
            decoder_layers=settings.decoder_layers,
            encoder_mask_token=settings.encoder_mask_token,
            target=settings.target,
            norm_pix_loss=settings.norm_pix_loss,
            masking=masking_of(settings),
        )
        Augmentation(settings.crop_scale, settings.hflip)
        if settings.mask_ratio_end is not None:
            model.masking.counts(model.encoder.grid, settings.mask_ratio_end)
    except ValueError as error:
        raise of_user(error) from error
    return model


def masking_of(settings: "Pretrain") -> Masking:
    """Raises UserError for values that are out of range or do not go together."""
    try:
        return Masking(
            settings.mask_ratio,
            settings.mask,
            settings.mask_unit,
            settings.mask_schedule,
            settings.mask_ratio_end,
            1.0 if settings.predict_fraction is None else settings.predict_fraction,
        )
    except ValueError as error:
        raise of_user(error) from error


def in_chans_of(settings: "Pretrain") -> int:
    """Channels of resolved settings."""
    assert settings.in_chans is not None
    return settings.in_chans
