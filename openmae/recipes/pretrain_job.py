"""One pre-training run, everything chosen and opened: the model, its batches, its pictures, its weights."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from openmae.data.memory import in_memory
from openmae.data.source import Source
from openmae.data.statistics import Statistics
from openmae.data.stream import Batch, Stream
from openmae.data.views import Augmentation
from openmae.errors import Interrupted, NotWritten, UserError
from openmae.evaluate.features import Precision
from openmae.model import MaskedAutoencoder, patchify
from openmae.ranks import Ranks
from openmae.recipes.broken import BrokenFiles
from openmae.recipes.choices import pair
from openmae.recipes.compiling import compiled
from openmae.recipes.machine import written
from openmae.recipes.panel import draw_panel
from openmae.recipes.schedule import evenly, plan_of
from openmae.recipes.watch import Watch
from openmae.report.page import write_report
from openmae.targets import PCA
from openmae.train.checkpoint import save_model
from openmae.train.learner import Learner
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
    ranks: Ranks,
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
        part = ranks.share(stream.batch_size)
        return broken.watch(stream.batches(step, micro_batch, workers, pin=device.type == "cuda", part=part))

    def loss(images: Tensor, visible: Tensor, queries: Tensor) -> Tensor:
        result: Tensor = model(statistics.normalize(images), visible, queries).loss
        return result

    if settings.compile == "on":
        console.print("The first step waits for the compiler, a minute or two; later starts take its work from a cache")
        loss = compiled(loss)
    model.checkpoint_blocks(settings.grad_checkpointing == "on")

    def loss_of(_: MaskedAutoencoder, batch: Batch) -> Tensor:
        return loss(batch.images, batch.visible, batch.queries)

    learner = Learner(model, loss_of, ranks, shard=settings.shard)
    optimizer = adamw(model, (0.9, 0.95), settings.weight_decay)
    pictured = [(shown.name(index), partial(shown.read, index)) for index in range(len(shown))]

    def keep_weights(whole: MaskedAutoencoder, step: int) -> None:
        provenance = {"job": "pretrain", "data": settings.data, "step": step, "seed": settings.seed}
        save_model(folder.path, whole, model_json(whole, statistics, provenance))

    def show(whole: MaskedAutoencoder, step: int) -> None:
        picture = folder.path / "pictures" / f"step-{step:08d}.png"
        try:
            draw_panel(whole, statistics, pictured, picture, seed=settings.seed)
            keep_weights(whole, step)
        except (UserError, OSError) as error:  # the run does not end for want of a picture
            console.print(f"warning: no picture at step {step}: {error}", style="yellow", soft_wrap=True)

    precision: Precision = "bf16" if settings.precision == "bf16" else "fp32"
    picture_steps, watch_steps = (evenly(steps, count) for count in (settings.pictures, settings.evaluations))
    seen = steps * settings.batch_size // max(1, settings.evaluations)  # images from one look to the next
    watch = None
    if watch_steps:
        watch = Watch(
            model.encoder, source, val, statistics, settings.seed, seen, workers, device, precision, console, ranks
        )

    def observe(step: int) -> dict[str, Any]:
        broken.tell(ranks)
        whole = learner.whole()
        if step in picture_steps and ranks.leads:
            show(whole, step)
        return watch(whole) if watch is not None and step in watch_steps else {}

    def leave(step: int) -> None:
        """The weights and the report, of all ranks together."""
        whole = learner.whole()
        if ranks.leads:
            with written(folder.path, steps, step):
                keep_weights(whole, step)
                write_report(folder.path)

    try:
        fit(
            learner,
            batches_from,
            optimizer,
            folder,
            plan_of(settings, steps),
            device=device,
            precision=precision,
            console=console,
            name_of=source.name,
            after={step: partial(observe, step) for step in picture_steps | watch_steps | {steps}},
            profile=settings.profile,
        )
    except Interrupted as stopped:
        with suppress(NotWritten):
            leave(stopped.step)
        said = f"{stopped}; the same command goes on from there"
        raise Interrupted(said, stopped.step, stopped.code) from None
    leave(steps)


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
