"""What the formats for serving share: the model as a graph for any number of images, and how one is judged."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from openmae.heads import Encoder, Neighbours
from openmae.model import ViT
from openmae.recipes.export.check import Compared, compared, gives_scores, reference, what_is_compared
from openmae.weights import Loaded

INPUT = "images"
_TRACED = 2  # images; with 1, torch would take the number of images for a constant
_MOST = 2**31 - 1  # images at once; torch 2.6 refuses a number without a bound, of which it rules out the largest one
_ROUNDING = 1e-5  # of a similarity
_BATCHES = (1, 3)  # images at once that a graph is tried with, beside all


def traced(model: nn.Module, encoder: ViT) -> ExportedProgram:
    """The model's graph for images (B, C, H, W) with any B from 1 on, without the paths of this machine's files."""
    example = torch.zeros(_TRACED, encoder.in_chans, *encoder.img_size)
    batch = Dim("batch", min=1, max=_MOST)
    with quiet(), torch.no_grad():
        program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def compared_in_batches(loaded: Loaded, graph: Callable[[Tensor], Tensor], images: Tensor, by: str) -> Compared:
    """The graph's outputs beside the model's, for one image, for three, and for all at once. Images whose last
    neighbour rounding may change for the next one are left out where there are others: labels jump with it."""
    if isinstance(loaded.model, Neighbours):
        with torch.no_grad():
            clear = loaded.model.margin(images) > _ROUNDING
        images = images[clear] if clear.any() else images
    batches = [images[torch.arange(count) % len(images)] for count in (*_BATCHES, len(images))]
    ours = torch.cat([reference(loaded.model, batch) for batch in batches])
    theirs = torch.cat([graph(batch) for batch in batches])
    return compared(ours, theirs, by, what_is_compared(loaded.model))


def shape_said(loaded: Loaded) -> str:
    """(B, 3, 224, 224), what the graph is given."""
    return f"(B, {', '.join(map(str, (loaded.encoder.in_chans, *loaded.encoder.img_size)))})"


def left_out(loaded: Loaded) -> list[str]:
    """What a graph has no use for."""
    is_whole = gives_scores(loaded.model) or isinstance(loaded.model, Encoder)
    return [] if is_whole else ["The decoder is left out: the graph gives the encoder's features"]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps to itself what exporters warn their own authors of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
