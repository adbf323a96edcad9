"""What a fine-tuning of a study is chosen to be, and how long it takes here."""

import math
from dataclasses import replace

import torch
from rich.console import Console

from openmae.machine.device import memory_of
from openmae.model import Architecture, ViT, grid_of
from openmae.recipes.finetune.choose import choose
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain.build import Pretraining
from openmae.recipes.training.encoder import Start
from openmae.recipes.training.settings import given
from openmae.studies.judging import Labelled
from openmae.train.cost import flops

_QUIET = Console(quiet=True)


def forward(architecture: Architecture) -> float:
    """Floating-point operations of the encoder's forward pass over a whole image."""
    return flops(architecture, math.prod(grid_of(architecture.img_size, architecture.patch_size)), 0).encoder


def chosen(asked: Finetune, planned: Pretraining, labelled: Labelled, images: int, device: torch.device) -> Finetune:
    """With nothing open that is not the model's own or the machine's. Raises UserError for what cannot be."""
    with torch.device("meta"):
        encoder: ViT = planned.architecture.build().encoder
    start = Start(encoder, planned.statistics, "pixel", is_new=False)
    full = choose(asked, start, labelled.task, images, device, _QUIET, memory_of(device))
    return replace(full, micro_batch=None, grad_checkpointing="auto")  # which a start chooses for its machine


def seconds_of(full: Finetune, architecture: Architecture, images: int, rate: float) -> float:
    """Of its steps, at so many operations a second: a forward pass over all blocks, and twice as much backward over
    those that learn."""
    depth = architecture.depth
    learning = depth if full.blocks == "all" else min(depth, float(given(full.blocks)))
    return given(full.epochs) * images * (1 + 2 * learning / depth) * forward(architecture) / rate


def fitting(
    asked: Finetune,
    planned: Pretraining,
    labelled: Labelled,
    images: int,
    device: torch.device,
    rate: float,
    most: float | None,
) -> tuple[Finetune, float, bool]:
    """(what is chosen, the seconds that it takes, whether it has fewer epochs than asked to take `most` seconds); a
    step at least."""
    full = chosen(asked, planned, labelled, images, device)
    seconds = seconds_of(full, planned.architecture, images, rate)
    if most is None or seconds <= most:
        return full, seconds, False
    epochs = max(float(f"{given(full.epochs) * most / seconds:.3g}"), given(full.batch_size) / images)
    full = chosen(replace(asked, epochs=epochs), planned, labelled, images, device)
    return full, seconds_of(full, planned.architecture, images, rate), True
