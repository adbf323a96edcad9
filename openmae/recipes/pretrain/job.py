"""Pre-train a Vision Transformer on a folder of images by masked autoencoding.

    openmae pretrain your/images --out runs/first

With --model vit_base --batch-size 4096 --epochs 800 this is the paper's recipe (Table 8): AdamW (0.9, 0.95),
base rate 1.5e-4 per 256 images, weight decay 0.05, 5% of warm-up, random resized crop and flip; on ImageNet-1K
such an encoder fine-tunes to 83.6% (ViT-B, 1600 epochs, Table 3). What is left open is chosen from the images
and the machine, and printed with the reason.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from openmae.commandline.flags import with_flags
from openmae.console.terminal import make_console
from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.memory import in_memory
from openmae.data.loading.stream import Batch, Stream
from openmae.data.opening import Data, open_data
from openmae.data.sources.folder import misnamed_splits
from openmae.data.sources.source import Source
from openmae.data.survey.sample import survey
from openmae.data.views.crop import Augmentation
from openmae.data.views.statistics import Statistics
from openmae.distributed.ranks import Ranks, joined
from openmae.errors import Interrupted, NotWritten, UserError, said_once
from openmae.files.disk import room_on_disk
from openmae.machine.device import Precision, choose_device, device_of, memory_of
from openmae.machine.heap import keep_freed_memory
from openmae.machine.workers import workers_for
from openmae.model import MaskedAutoencoder, patchify
from openmae.randomness import generator
from openmae.recipes.pretrain.build import build, in_chans_of, masking_of
from openmae.recipes.pretrain.choose import check_compiles, check_ranges, choose
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.pretrain.watch import Watch
from openmae.recipes.training.broken import BrokenFiles
from openmae.recipes.training.open import stored
from openmae.recipes.training.room import check_room, check_shares, enough_memory, tell_ranks, written
from openmae.recipes.training.schedule import evenly, plan_of, steps_of
from openmae.recipes.training.settings import pair
from openmae.report.page.run import write_report
from openmae.report.sheets.panel import draw_panel
from openmae.targets import PCA
from openmae.train.checkpoint import save_model
from openmae.train.compiling import compiled
from openmae.train.learner import Learner
from openmae.train.loop import fit
from openmae.train.optimizers import adamw
from openmae.train.run import RunFolder, read_config
from openmae.train.stop import Stop
from openmae.weights import model_json

_HARMLESS = (
    "data",
    "max_broken",
    "pictures",
    "evaluations",
    "micro_batch",
    "grad_checkpointing",
    "compile",
    "workers",
    "device",
    "checkpoint_minutes",
    "keep",
    "shard",
    "timeout_minutes",
)  # may differ between the starts of a run
DERIVED = ("steps",)  # entries of a run's config.toml that follow from the others and the images


def run(settings: Pretrain) -> None:
    """Trains, and says what to do with the result. Raises UserError, Interrupted, NotWritten, RankLost."""
    console = make_console(outlives_terminal=True)
    pretrain(settings, console)
    console.print(
        f"\nThe encoder is in {settings.out}. Look at:   {settings.out}/report.html\n"
        f"  what it fills in:          openmae reconstruct {settings.out} IMAGE --out picture.png\n"
        f"  what its features know:    openmae knn {settings.out} LABELLED_FOLDER\n"
        f"  in Python:                 openmae.load('{settings.out}').encode(images)",
        soft_wrap=True,
    )


def pretrain(settings: Pretrain, console: Console) -> None:
    """Trains, or goes on training, and leaves a whole run folder; alone, or with the processes that torchrun started.
    Raises as `run` does."""
    with said_once():
        device = choose_device(settings.device)
        check_ranges(settings)
        masking_of(settings)  # raises
        if settings.compile == "on":
            check_compiles(settings, device)
    with Stop(at_once=True), joined(device.type, settings.timeout_minutes * 60) as ranks:
        console.quiet = not ranks.leads
        _pretrain(settings, ranks, device_of(device, ranks), console)


def _pretrain(settings: Pretrain, ranks: Ranks, device: torch.device, console: Console) -> None:
    with ranks.together():
        if settings.resume and settings.out is not None and ranks.leads:
            settings = stored(settings, read_config(settings.out), defaults_too=True)
        if settings.out is None or settings.data is None:
            raise UserError("say which images to learn from and where the run goes", "openmae pretrain DATA --out RUN")
    settings = ranks.from_lead(settings)
    out, data, seed = settings.out, settings.data, settings.seed
    assert out is not None
    assert data is not None
    tell_ranks(ranks, settings, console)
    keep_freed_memory()
    with room_on_disk(out), ranks.opening(lambda: RunFolder(out, leads=ranks.leads)) as folder:
        source, val, shown = ranks.each_in_turn(lambda: _sources(open_data(data), seed))
        ranks.agree(source.fingerprint, f"{settings.data} holds other images")
        console.print(f"{len(source):,} images in {source.location}; {len(shown)} shown in the pictures")
        _warn_of_splits(source, console)
        workers = workers_for(settings.workers, device, ranks)
        look = None
        with ranks.together():
            if folder.has_begun:  # it goes on with what was chosen then
                settings = stored(settings, read_config(folder.path), defaults_too=False)
            elif settings.batch_size is not None:
                check_shares(settings, ranks)
            if not folder.has_begun and ranks.leads:
                console.print("Reading a sample of them: sizes, mean and standard deviation")
                look = survey(
                    source, settings.seed, settings.in_chans, settings.bands, workers, depth=settings.pixel_type
                )
                settings = choose(settings, look, len(source), device, memory_of(device, ranks), console)
        settings = ranks.from_lead(settings)
        with ranks.together():
            check_ranges(settings)
            check_shares(settings, ranks)
            if settings.compile == "on":
                check_compiles(settings, device)
            statistics = _statistics(settings)
            model = build(settings)
            steps = steps_of(settings, len(source), console)
            if ranks.leads:
                check_room(folder.path, model, settings.keep)
                folder.settle({**_flat(settings), "steps": steps}, source.fingerprint, _HARMLESS)
            broken = BrokenFiles(source, folder, settings.max_broken)
            if look is not None:
                broken.note_survey(look, pair(settings.patch_size))
        with enough_memory():
            model.to(device)
            train(
                settings, folder, model, source, val, shown, statistics, broken, steps, workers, device, console, ranks
            )


def _flat(settings: Pretrain) -> dict[str, Any]:
    """For config.toml. DATA is kept as a whole path, so that the run can be resumed from any folder."""
    assert settings.data is not None
    values = asdict(settings)
    del values["resume"], values["out"], values["profile"]
    return {**values, "data": settings.data if "://" in settings.data else str(Path(settings.data).absolute())}


def _statistics(settings: Pretrain) -> Statistics:
    """Of settings that are chosen by now."""
    if settings.mean is None or settings.std is None or settings.pixel_type is None:
        raise UserError(
            "the run is of an older openmae, which did not keep its pixel type", "begin anew in another --out"
        )
    return Statistics(
        settings.mean, settings.std, PixelFormat(in_chans_of(settings), settings.bands, settings.pixel_type)
    )


# ---------------------------------------------------------------- images


def _sources(data: Data, seed: int) -> tuple[Source, Source | None, Source]:
    """(training images, val where there is one, up to 8 held out for the panel: of val, else set aside)."""
    source = data.train
    if data.has_splits:
        val = data.val
        return source, val, val.take(generator(seed, "held out").permutation(len(val))[:8])
    order = generator(seed, "held out").permutation(len(source))
    aside = held_out(len(source))
    if aside == 0:  # too few to set any aside
        return source, None, source.take(order[:8])
    return source.take(np.sort(order[aside:])), None, source.take(order[:aside])


def held_out(images: int) -> int:
    """How many of so many images are set aside for the pictures where there are no splits."""
    return min(8, images // 10)


def _warn_of_splits(source: Source, console: Console) -> None:
    """Says so where images that may be meant for measuring are trained on."""
    if len(folders := misnamed_splits(source)) > 1:
        console.print(
            f"warning: folders called {' and '.join(folders)} are no splits, and all of them are trained on: rename "
            "them to train and val to keep val apart",
            style="yellow",
            soft_wrap=True,
        )


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
            console.print(
                f"warning: no picture at step {step}: {with_flags(str(error))}", style="yellow", soft_wrap=True
            )

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
