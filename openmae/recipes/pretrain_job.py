"""One pre-training run, everything chosen and opened: the model, its batches, its pictures, its weights."""

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from openmae.data.memory import in_memory
from openmae.data.source import Source
from openmae.data.statistics import Statistics
from openmae.data.stream import Batch, Stream
from openmae.data.views import Augmentation
from openmae.errors import Interrupted, UserError
from openmae.evaluate.features import Precision
from openmae.model import MaskedAutoencoder, patchify
from openmae.recipes.broken import BrokenFiles
from openmae.recipes.choices import pair
from openmae.recipes.compiling import compiled
from openmae.recipes.panel import draw_panel
from openmae.recipes.schedule import evenly, plan_of
from openmae.recipes.watch import Watch
from openmae.report.page import write_report
from openmae.targets import PCA
from openmae.train.checkpoint import save_model
from openmae.train.loop import fit
from openmae.train.optimizers import adamw
from openmae.train.run import RunFolder
from openmae.weights import model_json

if TYPE_CHECKING:
    from openmae.recipes.pretrain import Pretrain


def train(
    settings: "Pretrain",
    folder: RunFolder,
    model: MaskedAutoencoder,
    source: Source,
    val: Source | None,
    shown: Source,
    statistics: Statistics,
    broken: BrokenFiles,
    steps: int,
    workers: int,
    device: torch.device,
    console: Console,
) -> None:
    """Trains to the end, drawing and measuring as it goes; leaves weights and report. Raises as `fit` does."""
    assert settings.batch_size is not None
    loaded, pixels = in_memory(source, statistics.pixels, pair(settings.img_size), workers)
    stream = Stream(
        loaded,
        pixels,
        pair(settings.img_size),
        pair(settings.patch_size),
        Augmentation(settings.crop_scale, settings.hflip),
        model.masking,
        settings.batch_size,
        steps,
        settings.seed,
        settings.repeat_aug,
    )
    if isinstance(model.target, PCA):
        model.target.fit(_sample_patches(stream, statistics, model.encoder.patch_size))

    def batches_from(step: int, micro_batch: int) -> Iterator[Batch]:
        return broken.watch(stream.batches(step, micro_batch, workers, pin=device.type == "cuda"))

    def loss(images: Tensor, visible: Tensor, queries: Tensor) -> Tensor:
        result: Tensor = model(statistics.normalize(images), visible, queries).loss
        return result

    if settings.compile == "on":
        console.print("The first step waits for the compiler, a minute or two; later starts take its work from a cache")
        loss = compiled(loss)
    model.checkpoint_blocks(settings.grad_checkpointing == "on")

    def loss_of(_: MaskedAutoencoder, batch: Batch) -> Tensor:
        return loss(batch.images, batch.visible, batch.queries)

    pictured = [(shown.name(index), partial(shown.read, index)) for index in range(len(shown))]

    def show(step: int) -> None:
        picture = folder.path / "pictures" / f"step-{step:08d}.png"
        try:
            draw_panel(model, statistics, pictured, picture, seed=settings.seed)
        except UserError as error:  # the run does not end for want of a picture
            console.print(f"warning: no picture at step {step}: {error}", style="yellow", soft_wrap=True)
        save_weights(model, statistics, settings, folder.path, step)

    precision: Precision = "bf16" if settings.precision == "bf16" else "fp32"
    picture_steps, watch_steps = (evenly(steps, count) for count in (settings.pictures, settings.evaluations))
    seen = steps * settings.batch_size // max(1, settings.evaluations)  # images from one look to the next
    watch = None
    if watch_steps:
        watch = Watch(model.encoder, source, val, statistics, settings.seed, seen, workers, device, precision, console)

    def observe(step: int) -> dict[str, Any]:
        if step in picture_steps:
            show(step)
        return watch(model) if watch is not None and step in watch_steps else {}

    try:
        fit(
            model,
            loss_of,
            batches_from,
            adamw(model, (0.9, 0.95), settings.weight_decay),
            folder,
            plan_of(settings, steps),
            device=device,
            precision=precision,
            console=console,
            name_of=source.name,
            after={step: partial(observe, step) for step in picture_steps | watch_steps},
            profile=settings.profile,
        )
    except Interrupted as stopped:
        save_weights(model, statistics, settings, folder.path, stopped.step)
        write_report(folder.path)
        raise Interrupted(f"{stopped}; the same command goes on from there", stopped.step) from None
    save_weights(model, statistics, settings, folder.path, steps)
    write_report(folder.path)


def _sample_patches(stream: Stream, statistics: Statistics, patch_size: tuple[int, ...]) -> Tensor:
    """Patches (n, P) of the first 512 training views, and of more where they hold few patches: enough for the
    principal components, and the same for any batch size."""
    patches: list[Tensor] = []
    for position in count():
        batch = stream.views(position, position + 1)
        patches.append(patchify(statistics.normalize(batch.images), patch_size)[0])
        if len(patches) >= 512 and sum(map(len, patches)) >= 10 * patches[0].shape[1]:
            return torch.cat(patches)
    raise AssertionError("count() never ends")


def save_weights(model: MaskedAutoencoder, statistics: Statistics, settings: "Pretrain", run: Path, step: int) -> None:
    """model.safetensors and model.json of the run, each complete or as it was before."""
    provenance = {"job": "pretrain", "data": settings.data, "step": step, "seed": settings.seed}
    save_model(run, model, model_json(model, statistics, provenance))
