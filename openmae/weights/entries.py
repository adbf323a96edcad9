"""Two names for one weight: a table of what a weight of ours is called and how it lies in another format.

A format is such a table, from which reading, writing and the list of what does not fit all follow.
Shapes: T class tokens, N patches, D encoder width, C channels, P values in a patch.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from openmae.errors import UserError
from openmae.model import patchify

Tensors = tuple[Tensor, ...]
M = TypeVar("M", bound=nn.Module)
_MOST_LISTED = 8


@dataclass(frozen=True)
class Entry:
    """Weights that mean the same under two sets of names.

    read: theirs -> ours. write: ours -> theirs, from which the shapes that a file must have follow too.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Callable[..., Tensors] = lambda *tensors: tensors
    write: Callable[..., Tensors] = lambda *tensors: tensors


def layer(ours: str, theirs: str) -> list[Entry]:
    """The weight and the bias of a linear layer or a LayerNorm, under another name."""
    return [Entry((f"{ours}.{part}",), (f"{theirs}.{part}",)) for part in ("weight", "bias")]


def patch_projection(ours: str, theirs: str, patch_size: tuple[int, ...], in_chans: int) -> list[Entry]:
    """Of patches (D, P), values in the order row, column, channel; theirs is a convolution's (D, C, rows, columns)."""
    weight = Entry(
        (f"{ours}.weight",),
        (f"{theirs}.weight",),
        lambda kernel: (patchify(kernel, patch_size)[:, 0],),
        lambda matrix: (matrix.unflatten(1, (*patch_size, in_chans)).movedim(-1, 1),),
    )
    return [weight, Entry((f"{ours}.bias",), (f"{theirs}.bias",))]


def made(ours: str, make: Callable[[], Tensor]) -> Entry:
    """A weight that theirs has not, with a value that changes nothing."""
    return Entry((ours,), (), lambda: (make(),), lambda weight: ())


def decoder_inputs(embed: str, mask_token: str, positions: str) -> list[Entry]:
    """What the decoder makes its tokens of: a linear layer (E, D), the mask token (E,), theirs (1, 1, E), and positions
    (N, E); theirs, (1, 1 + N, E), have one for the class token.

    That is zero until somebody trains it, as transformers does. Ours has none, and needs none: what is added to the
    class token may be added to all, in the layer's bias and the mask token, and taken from the patches' positions.
    """
    ours = ("decoder.embed.bias", "decoder.mask_token", "decoder.positions")
    return [
        Entry(("decoder.embed.weight",), (f"{embed}.weight",)),
        Entry(
            ours,
            (f"{embed}.bias", mask_token, positions),
            lambda bias, token, places: (bias + places[0, 0], token[0, 0] + places[0, 0], places[0, 1:] - places[0, 0]),
            lambda bias, token, places: (
                bias,
                token[None, None],
                torch.cat([torch.zeros_like(places[:1]), places])[None],
            ),
        ),
    ]


def filled(
    build: Callable[[], M],
    entries: Callable[[M], Iterable[Entry]],
    weights: Mapping[str, Tensor],
    name: str,
    left_out: Callable[[M], Iterable[str]] = lambda model: (),
) -> M:
    """The model that `build` makes, with a file's weights; nothing is made that the file has no weights for.

    left_out: see `read_weights`. Raises UserError where it cannot be built, and as `read_weights` does.
    """
    try:
        with torch.device("meta"):  # which takes no memory, whatever sizes it says
            blank = build()
        read = read_weights(blank, entries(blank), weights, name, left_out(blank))
        model = build()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{name} describes a model that openmae cannot build ({error})") from error
    model.load_state_dict(read)
    return model


def read_weights(
    blank: nn.Module, entries: Iterable[Entry], weights: Mapping[str, Tensor], name: str, left_out: Iterable[str] = ()
) -> dict[str, Tensor]:
    """The model's weights, float32, out of a file's.

    blank: a model of that shape on the meta device. left_out: names of the file's that no model of ours has a place
    for, knowingly.
    Raises UserError that lists, under the file's names, what is missing, unexpected or misshapen.
    """
    entries = list(entries)
    ours = named(blank)
    shapes = {
        key: tuple(tensor.shape)
        for entry in entries
        for key, tensor in zip(entry.theirs, entry.write(*(ours[key] for key in entry.ours)), strict=True)
    }
    problems = [f"{key} is missing" for key in shapes if key not in weights]
    problems += [f"{key} is unexpected" for key in weights if key not in shapes and key not in set(left_out)]
    for key, shape in shapes.items():
        if key in weights and tuple(weights[key].shape) != shape:
            problems.append(f"{key} is {tuple(weights[key].shape)}, not {shape}")
        elif key in weights and not weights[key].is_floating_point():
            problems.append(f"{key} is of {weights[key].dtype}, not of floating point")
    complain(problems, name)
    kept = blank.state_dict()
    return {
        key: tensor.contiguous()
        for entry in entries
        for key, tensor in zip(entry.ours, entry.read(*(weights[key].float() for key in entry.theirs)), strict=True)
        if key in kept
    }


def complain(problems: list[str], name: str) -> None:
    """Raises UserError with the first of these, where there are any."""
    if problems:
        rest = f" and {len(problems) - _MOST_LISTED} more" if len(problems) > _MOST_LISTED else ""
        raise UserError(f"{name} does not fit its model: {', '.join(problems[:_MOST_LISTED])}{rest}")


def write_weights(model: nn.Module, entries: Iterable[Entry]) -> dict[str, Tensor]:
    """The model's weights under the other names, on the CPU."""
    ours = named(model)
    return {
        key: tensor.detach().cpu().contiguous()
        for entry in entries
        for key, tensor in zip(entry.theirs, entry.write(*(ours[key] for key in entry.ours)), strict=True)
    }


def named(model: nn.Module) -> dict[str, Any]:
    """Parameters and buffers by their names; the fixed positions too, which a state dict leaves out."""
    return dict(model.named_parameters()) | dict(model.named_buffers())
