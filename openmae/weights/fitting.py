"""Weights that exist, made to fit other images: of other sides, of other channels, cut into other patches.

Each thing that is adapted follows one rule, and is told in a line.
Shapes: D encoder width, C channels, N patches, P values in a patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.errors import BadValue, UserError
from openmae.model import Architecture, MaskedAutoencoder, ViT, grid_of, interpolated, patchify, unpatchify
from openmae.weights.loaded import Model

_STAYS = "the response to grey stays"
_OF_DECODER = (  # by which a decoder's weights have their shapes and their meaning
    *("decoder", "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "decoder_layers"),
    *("embed_dim", "mlp_ratio", "norm_eps", "encoder_mask_token", "decoder_learned_positions"),
)


@dataclass(frozen=True)
class Channels:
    """What the channels of the new images are.

    bands: their numbers in the files, from 1; None: 1, 2, 3 ... encoder_bands: the numbers, in these same files, of the
    channels that the encoder was trained with, in its order (red, green and blue are 4, 3, 2 of Sentinel-2's); None
    where nothing is known of that.
    """

    in_chans: int
    bands: tuple[int, ...] | None = None
    encoder_bands: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Fitted:
    """A model that training can go on with.

    lines: what was kept of the decoder and what begins afresh, in plain words. fresh: names of the parameters that no
    training has seen; empty where all were trained.
    """

    model: MaskedAutoencoder
    lines: list[str]
    fresh: frozenset[str]


def fitted(
    encoder: ViT, *, img_size: tuple[int, ...], patch_size: tuple[int, ...], channels: Channels
) -> tuple[ViT, list[str]]:
    """(a copy for such images, a line for each thing that was adapted); itself where it fits as it is.

    Positions: as `ViT.resized` has them. Patches: see `resized_kernels`. Channels: see `kernels_for`.
    Raises UserError for channels that do not go together, ValueError for sides that the patches do not cut.
    """
    lines = []
    kernels = unpatchify(encoder.patch_embed.weight.detach()[:, None], (1,) * len(img_size), encoder.patch_size)
    if patch_size != encoder.patch_size:
        kernels = resized_kernels(kernels, patch_size)
        said = f"{_by(encoder.patch_size)} to {_by(patch_size)} pixels"
        lines.append(f"patches: {said}, by the pseudo-inverse of resizing (FlexiViT)")
    kernels, said_of_channels = kernels_for(kernels, channels)
    lines += said_of_channels
    grid = grid_of(img_size, patch_size)
    placed = encoder
    if grid != encoder.grid:
        placed = encoder.resized(tuple(g * p for g, p in zip(grid, encoder.patch_size, strict=True)))
        how = "interpolated (bicubic)" if encoder.learned_positions else "computed between those it was trained at"
        how = how if encoder.rope is None else "by rotations, which follow from the place in the image"
        lines.append(f"positions: {_by(encoder.grid)} to {_by(grid)}, {how}")
    if not lines:
        return encoder, []
    arguments = {**placed.arguments(), "img_size": img_size, "patch_size": patch_size, "in_chans": channels.in_chans}
    if arguments["position_grid"] == grid:
        arguments["position_grid"] = None
    copy = ViT(**arguments)
    copy.load_state_dict({**placed.state_dict(), "patch_embed.weight": patchify(kernels, patch_size)[:, 0]})
    copy.grad_checkpointing = encoder.grad_checkpointing
    return copy.to(encoder.class_token.device).train(encoder.training), lines


def resized_kernels(kernels: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """(D, C, rows, columns) for patches of another size, (height, width).

    With B the matrix that resizes a patch (bicubic, antialiased), the new kernel is the pseudo-inverse of B' times the
    old one: of all kernels the one whose responses to resized patches are nearest to those of the old one to the
    patches themselves, in the mean over patches of white noise, and equal to them where patches are enlarged (FlexiViT,
    arXiv 2212.08013, section 3.4).
    Raises ValueError for patches of other than two axes.
    """
    old = tuple(kernels.shape[2:])
    if len(old) != 2 or len(patch_size) != 2:
        raise BadValue("patches of another size are for images, which have two axes", "keep the patch_size")
    count = old[0] * old[1]
    each = torch.eye(count, dtype=torch.float64).view(count, 1, *old)
    resize = F.interpolate(each, patch_size, mode="bicubic", antialias=True, align_corners=False).flatten(1).T
    flat = kernels.flatten(2).double() @ torch.linalg.pinv(resize).to(kernels.device)  # (D, C, old) @ (old, new)
    return flat.unflatten(2, patch_size).to(kernels.dtype)


def kernels_for(kernels: Tensor, channels: Channels) -> tuple[Tensor, list[str]]:
    """((D, C, ...) for other channels, a line where that changes anything).

    In all cases the kernels' sum stays, and so does what the encoder makes of an image whose (normalised) channels are
    all alike. Fewer channels: each takes the sum of those that fall to it in turn (3 to 1: of all). More: they are
    repeated in turn, each shared evenly by its copies (1 to 3: a third each; 3 to 4: red/2, green, blue, red/2). Where
    it is known which of the images' channels the encoder's are, these take its kernels and the others the mean of them,
    all times C / (new channels).
    Raises UserError where the bands given are of another number, or not among the images'.
    """
    count, wanted = kernels.shape[1], channels.in_chans
    if channels.encoder_bands is not None:
        return _placed(kernels, channels)
    if count == wanted:
        return kernels, []
    if wanted < count:
        new = torch.stack([kernels[:, start::wanted].sum(dim=1) for start in range(wanted)], dim=1)
        return new, [f"channels: {count} to {wanted}, kernels summed{'' if wanted == 1 else ' in turn'}: {_STAYS}"]
    turn = torch.arange(wanted) % count
    shares = 1 / turn.bincount(minlength=count)[turn].to(kernels)  # of each copy
    new = kernels[:, turn] * shares.view(-1, *(1,) * (kernels.ndim - 2))
    return new, [f"channels: {count} to {wanted}, kernels repeated, each shared by its copies: {_STAYS}"]


def _placed(kernels: Tensor, channels: Channels) -> tuple[Tensor, list[str]]:
    """Where it is known which of the images' channels the encoder's are."""
    count, wanted, given = kernels.shape[1], channels.in_chans, channels.encoder_bands or ()
    bands = channels.bands or tuple(range(1, wanted + 1))
    if len(given) != count or len(set(given)) < count:
        raise UserError(
            f"the encoder was trained with {count} channels, and its bands are given as {_listed(given)}",
            f"give {count} different numbers, in the order in which it was trained with them",
        )
    if strange := [band for band in given if band not in bands]:
        raise UserError(
            f"band {strange[0]} of the encoder's is none of the images', which are {_listed(bands)}",
            "give numbers of those, or leave the encoder's bands out",
        )
    if bands == given:
        return kernels, []
    new = kernels.mean(dim=1, keepdim=True).repeat(1, wanted, *(1,) * (kernels.ndim - 2))
    new[:, [bands.index(band) for band in given]] = kernels
    said = f"channels: the encoder's {count} are bands {_listed(given)}"
    if wanted == count:
        return new, [said]
    rest = f"the other {wanted - count} begin with their mean, all times {count}/{wanted}: {_STAYS}"
    return new * (count / wanted), [f"{said} of {_listed(bands)}; {rest}"]


def fitted_autoencoder(
    source: Model, encoder: ViT, architecture: Architecture, generator: torch.Generator | None = None
) -> Fitted:
    """An autoencoder around a fitted encoder, with what the source has of a decoder for it; the rest is drawn anew.

    architecture: what is wanted; its encoder part must be `encoder.arguments()`. Of a decoder of the same shape all is
    kept but, where a patch holds other values or the target is another, its last layer. A decoder's fixed positions are
    computed for the grid, learned ones interpolated.
    """
    model = architecture.build()
    model.initialize(generator)
    model.encoder.load_state_dict(encoder.state_dict())
    kept, lines = _of_decoder(source, model)
    model.load_state_dict(kept, strict=False)
    fresh = frozenset(
        name for name, _ in model.named_parameters() if not name.startswith("encoder.") and name not in kept
    )
    return Fitted(model, lines, fresh)


def _of_decoder(source: Model, model: MaskedAutoencoder) -> tuple[dict[str, Tensor], list[str]]:
    """(the weights of the source's that the model takes beside its encoder's, what became of the decoder)."""
    if not isinstance(source, MaskedAutoencoder):
        return {}, ["decoder: begins afresh, there is none to go on with"]
    had, wanted = source.architecture, model.architecture
    if differing := [name for name in _OF_DECODER if getattr(had, name) != getattr(wanted, name)]:
        said = ", ".join(f"`{name}` was {getattr(had, name)} and is {getattr(wanted, name)}" for name in differing)
        return {}, [f"decoder: begins afresh, {said}"]
    kept = {name: value for name, value in source.state_dict().items() if not name.startswith("encoder.")}
    if had.decoder_learned_positions and source.encoder.grid != model.encoder.grid:
        kept["decoder.positions"] = interpolated(source.decoder.positions, source.encoder.grid, model.encoder.grid)
    if not _same_patches(source.encoder, model.encoder):
        why = "patches hold other values"
    elif (had.target, had.target_values) != (wanted.target, wanted.target_values):
        why = f"`target` was {had.target} and is {wanted.target}"
    else:
        return kept, ["decoder: kept"]
    head = [name for name in kept if name.startswith("decoder.head.")]
    said = f"decoder: kept, but for its last layer, which begins afresh: {why}"
    return {name: value for name, value in kept.items() if name not in head}, [said]


def _same_patches(one: ViT, other: ViT) -> bool:
    """Whether both see the same patches, so that what predicts those of one predicts those of the other."""
    return one.patch_size == other.patch_size and torch.equal(
        one.patch_embed.weight.cpu(), other.patch_embed.weight.cpu()
    )


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))


def _listed(bands: Sequence[int]) -> str:
    return ", ".join(map(str, bands))
