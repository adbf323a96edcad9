"""Pre-train a Vision Transformer on a folder of images by masked autoencoding.

    openmae pretrain your/images --out runs/first

With --model vit_base --batch-size 4096 --epochs 800 this is the paper's recipe (Table 8): AdamW (0.9, 0.95),
base rate 1.5e-4 per 256 images, weight decay 0.05, 5% of warm-up, random resized crop and flip; on ImageNet-1K
such an encoder fine-tunes to 83.6% (ViT-B, 1600 epochs, Table 3). What is left open is chosen from the images
and the machine, and printed with the reason.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from openmae.commandline.flags import with_flags
from openmae.console.terminal import make_console
from openmae.console.words import several
from openmae.data.dividing import check_apart, together
from openmae.data.loading.stream import Batch, Stream
from openmae.data.opening import Data, open_data
from openmae.data.sources.groups import groups_of
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.survey.bands import band_numbers
from openmae.data.survey.levels import apart, check_given
from openmae.data.survey.sample import Survey, survey
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.evaluate.suited import say_notes
from openmae.machine.device import memory_of
from openmae.model import MaskedAutoencoder, patchify
from openmae.randomness import generator, some
from openmae.recipes.levels import say_apart
from openmae.recipes.nodata import say_missing, warn_of_suspects
from openmae.recipes.opened import tell
from openmae.recipes.pretrain.build import Images, Pretraining, build, stream_of
from openmae.recipes.pretrain.choose import check_compiles, choose, most_minutes, one_channel, settle
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.pretrain.start import (
    Start,
    architecture_from,
    channels_of,
    check_same_start,
    keep_start,
    kept_start,
    open_start,
    say_images,
)
from openmae.recipes.pretrain.watch import FEWEST, Watch, most_looked_at
from openmae.recipes.training.blocks import block_for
from openmae.recipes.training.broken import BrokenFiles
from openmae.recipes.training.job import begun
from openmae.recipes.training.kind import Here, Job, JobKind, Look
from openmae.recipes.training.schedule import FEW_STEPS, evenly
from openmae.recipes.training.settings import given
from openmae.report.page.run import write_report
from openmae.report.sheets.panel import draw_panel
from openmae.targets import PCA
from openmae.train.checkpoint import save_model
from openmae.train.compiling import compiled
from openmae.train.cost import flops
from openmae.train.loop import Rest, fit
from openmae.train.muon import Muon
from openmae.train.optimizers import adamw, layer_scale
from openmae.weights import model_json

_LOOK_SHARE = 0.1  # of the computing: what measuring the features takes at most,
_LOOK_FLOPS = 1e11  # but for so much, a few seconds


def run(settings: Pretrain) -> None:
    """Trains, and says what to do with the result. Raises UserError, Interrupted, NotWritten, RankLost."""
    console = make_console(outlives_terminal=True)
    pretrain(settings, console)
    before = "" if settings.from_ is None else f"\n  what MODEL's knew:         openmae knn {settings.from_} LABELLED"
    console.print(
        f"\nThe encoder is in {settings.out}. Look at:   {settings.out}/report.html\n"
        f"  what it fills in:          openmae reconstruct {settings.out} IMAGE --out picture.png\n"
        f"  what its features know:    openmae knn {settings.out} LABELLED{before}\n"
        f"  what to learn with it:     openmae finetune {settings.out} LABELLED --out RUN\n"
        "                             (classes; the same with segment for masks, with detect for boxes and outlines)\n"
        f"  in Python:                 openmae.load('{settings.out}').encode(images)",
        soft_wrap=True,
    )


def pretrain(settings: Pretrain, console: Console) -> None:
    """Trains, or goes on training, and leaves a whole run folder; alone, or with the processes that torchrun started.
    Raises as `run` does."""
    with begun(PRETRAIN, settings, console) as run:
        fit(run.training)


# ---------------------------------------------------------------- images


def open_images(settings: Pretrain, here: Here) -> Images:
    """DATA, looked at on the lead where the run begins. Raises UserError."""
    data, console = given(settings.data), here.console
    with here.ranks.together():
        if settings.compile == "on":
            check_compiles(here.device)
    began = _start(settings, here)
    train, val, shown = here.ranks.each_in_turn(lambda: _opened(data, settings, console))
    console.print(f"{len(train):,} images in {train.location}; {len(shown)} shown in the pictures")
    bands = None
    if settings.from_bands is not None:
        with here.ranks.together():
            bands = band_numbers(settings.from_bands, "from_bands", train)
    look = None
    if here.ranks.leads and not here.folder.has_begun:
        say_images(settings, train, console)
        console.print("Reading a sample of them: sizes, mean and standard deviation")
        look = survey(
            train,
            settings.seed,
            settings.in_chans,
            settings.bands,
            here.workers,
            depth=settings.pixel_type,
            reading=settings.reading,
        )
        say_notes(look.choice, console)
        look = one_channel(settings, look)
        _say_look(settings, look, console)
        say_missing(look.missing, settings.max_nodata, console)
        warn_of_suspects(look.suspected, look.statistics.pixels.reading.nodata, console)
    return Images(train, val, shown, look, began, bands)


def _say_look(settings: Pretrain, look: Survey, console: Console) -> None:
    """What the images suggest that is not chosen by itself."""
    if look.grey and settings.in_chans is None and look.statistics.pixels.in_chans == 3:
        every = look.grey == len(look.sizes)
        said = "All" if every else f"{look.grey:,} of {len(look.sizes):,} images looked at"
        use = "trains on the one channel that they have" if every else "reads all as grey, if colour does not matter"
        console.print(f"{said} are grey and stored as colour: --in-chans 1 {use}", soft_wrap=True)
    if (found := look.directions) is None:
        return
    if settings.hflip and found.mirror_matters:
        console.print(
            f"Left and right differ ({found.said_of_mirror()}): if that means something, as in text and digits, "
            "--no-hflip leaves them as they are",
            soft_wrap=True,
        )
    is_open = settings.vflip is None and settings.rotate90 is None
    if is_open and found.may_mean_nothing and (settings.recipe == "paper" or not found.mean_nothing):
        console.print(
            f"Directions seem to mean little ({found}): if up, down, left and right mean nothing here, "
            "--vflip on --rotate90 on show the images every way",
            soft_wrap=True,
        )


def _start(settings: Pretrain, here: Here) -> Start | None:
    """What the run began from, or begins from. Raises UserError."""
    with here.ranks.together():
        began = None
        if here.folder.has_begun:
            check_same_start(settings, here.folder.path)
            began = kept_start(here.folder.path)
    began = here.ranks.from_lead(began)
    if began is not None:
        return began
    with here.ranks.together():
        return open_start(settings, here.console)


def _opened(data: str, settings: Pretrain, console: Console) -> tuple[Source, Source | None, Source]:
    opened = open_data(data, settings.selection, settings.reading)
    sources = sources_of(opened, settings.seed)
    train, val, _ = sources
    if val is not None and groups_of(train, settings.selection) is not None:
        check_apart(opened, train, val)
    tell(opened, console, *([train, val] if val is not None else []))
    return sources


def sources_of(data: Data, seed: int) -> tuple[Source, Source | None, Source]:
    """(what is learnt from, val where there are splits, those that are shown as it learns: of val, else set aside
    where there are enough)."""
    source = data.train
    if data.has_splits:
        val = data.val
        return source, val, val.take(some(seed, "held out", len(val), 8))
    aside = held_out(len(source))
    if aside == 0:  # too few to set any aside
        return source, None, source.take(some(seed, "held out", len(source), 8))
    if (groups := together(data)) is not None:
        order = generator(seed, "held out").permutation(len(source))
        return _whole_groups_aside(source, groups, order, aside)
    chosen = some(seed, "held out", len(source), aside)
    return source.without(chosen), None, source.take(chosen)


def _whole_groups_aside(
    source: Source, groups: NDArray[np.int64], order: NDArray[np.int64], aside: int
) -> tuple[Source, Source | None, Source]:
    """As many images set aside, and with them all of their groups, as long as these are a fifth of all at most."""
    sizes = np.bincount(groups)
    chosen: list[int] = []
    for group in dict.fromkeys(groups[order].tolist()):
        if sizes[chosen].sum() >= aside:
            break
        if sizes[[*chosen, group]].sum() <= len(source) // 5:
            chosen.append(group)
    if not chosen:  # each is too large to do without
        return source, None, source.take(order[:aside])
    away = np.isin(groups, chosen)
    return source.take(np.flatnonzero(~away)), None, source.take(np.flatnonzero(away)[:aside])


def held_out(images: int) -> int:
    """How many of so many images are set aside for the pictures where there are no splits."""
    return min(8, images // 10)


# ---------------------------------------------------------------- the job


class PretrainJob(Job[MaskedAutoencoder]):
    """Learns to fill in what is hidden; draws held-out reconstructions, and measures the features."""

    def __init__(self, run: Pretraining, images: Images, here: Here) -> None:
        """Raises UserError where too many of the images are of no use."""
        self.run, self.images, self.here, self.course = run, images, here, run.course
        self.model, began = build(run, images.start)
        self.in_lanes = not run.compile
        if began:
            said = "\n  ".join(map(with_flags, began))
            here.console.print(f"Going on from {given(run.origin).model}:\n  {said}", soft_wrap=True)
        if run.freeze_encoder:
            rests = [one for name, one in self.model.named_parameters() if not name.startswith("decoder.")]
            steps = round(run.course.first_steps * run.freeze_encoder)
            self.rest = Rest(steps, rests, self.model.rest_encoder)
        self.broken = BrokenFiles(images.train, here.folder, run.course.max_broken)
        if images.look is not None:
            down, across = run.architecture.patch_size
            self.broken.note_survey(images.look, (down, across))

    def begin(self) -> None:
        """Keeps what it began from, so that it can go on where that is gone; nothing of a start that was given up."""
        if self.here.ranks.leads:
            keep_start(self.here.folder.path, self.run.origin, self.run.architecture)

    def stream(self) -> Stream:
        """Views with patches hidden; a target that is fitted is fitted to the first of them."""
        stream = stream_of(self.run, self.images.train, self.here.workers, self.here.console)
        if isinstance(self.model.target, PCA):
            self.model.target.fit(_sample_patches(stream, self.run.statistics, self.model.encoder.patch_size))
        return stream

    def loss(self) -> Callable[[MaskedAutoencoder, Batch], Tensor]:
        """Of the hidden patches that are asked for."""
        model, statistics = self.model, self.run.statistics

        def loss(images: Tensor, visible: Tensor, queries: Tensor) -> Tensor:
            result: Tensor = model(statistics.normalize(images), visible, queries).loss
            return result

        if self.run.compile:
            self.here.console.print(
                "The first step waits for the compiler, a minute or two; later starts take its work from a cache"
            )
            loss = compiled(loss)
        return lambda _, batch: loss(batch.images, batch.visible, batch.queries)

    def optimizer(self) -> torch.optim.Optimizer:
        """The paper's, or Muon; with layer-wise decay where it goes on from weights."""
        run, betas = self.run, (0.9, 0.95)
        scale = layer_scale(run.layer_decay, run.architecture.depth)
        if run.optimizer == "adamw":
            return adamw(self.model, betas, run.weight_decay, scale, run.decay_tokens)
        products = torch.bfloat16 if self.course.schedule.precision == "bf16" else torch.float32
        return Muon(self.model, betas, run.weight_decay, scale, run.decay_tokens, products)

    def looks(self) -> Mapping[int, Look[MaskedAutoencoder]]:
        """Panels and measurements, evenly over the run."""
        run, steps = self.run, self.course.schedule.steps
        views = steps * self.course.schedule.batch_size
        times = self._measured(views)
        pictured, measured = evenly(steps, run.pictures), evenly(steps, times)
        if times < run.evaluations:
            self.here.console.print(
                f"The features are measured {several(times, 'time')} instead of {run.evaluations}, so that it takes no "
                f"more than {_LOOK_SHARE:.0%} of the run",
                soft_wrap=True,
            )
        watch = None
        if measured:
            seen = views // times  # images from one look to the next
            watch = Watch(
                self.model.encoder, run.statistics, (self.images.train, self.images.val), seen, run.course, self.here
            )

        def look(whole: MaskedAutoencoder, step: int) -> dict[str, Any]:
            if step in pictured and self.here.ranks.leads:
                self._draw(whole, step)
            return watch(whole) if watch is not None and step in measured else {}

        return dict.fromkeys(pictured | measured, look)

    def beside(self, views: float) -> float:
        """Features of whole images, as many as are measured."""
        times = self._measured(views)
        seen = len(self.images.train) + (0 if self.images.val is None else len(self.images.val))
        return times * min(seen, most_looked_at(views / times)) * self._look_work if times else 0.0

    @cached_property
    def _look_work(self) -> float:
        """Of an image whose features are measured, in those that are trained on."""
        whole = flops(self.run.architecture, math.prod(self.model.encoder.grid), 0)
        return whole.encoder / flops(self.run.architecture).step

    def _measured(self, views: float) -> int:
        """How often the features are, in a training of so many images."""
        most = max(_LOOK_SHARE * views, _LOOK_FLOPS / flops(self.run.architecture).step)
        return min(self.run.evaluations, max(1, int(most / (FEWEST * self._look_work))))

    def _draw(self, whole: MaskedAutoencoder, step: int) -> None:
        """A panel, and the weights that it is of; not the last ones, which are left when a checkpoint stands for them.
        The run does not end for want of a picture."""
        shown = self.images.shown
        pictures = [(shown.name(index), partial(shown.read, index)) for index in range(len(shown))]
        file = self.here.folder.path / "pictures" / f"step-{step:08d}.png"
        try:
            draw_panel(whole, self.run.statistics, pictures, file, seed=self.course.seed)
            if step < self.course.schedule.steps:
                self.save(whole, step)
        except (UserError, OSError) as error:
            said = f"warning: no picture at step {step}: {with_flags(str(error))}"
            self.here.console.print(said, style="yellow", soft_wrap=True)

    def save(self, whole: MaskedAutoencoder, step: int) -> None:
        """With the input statistics, and where they are from."""
        provenance = {"job": "pretrain", "data": self.course.data, "step": step, "seed": self.course.seed}
        asked = Selection.from_dict(self.run.config)
        if tiles := Selection(tile=asked.tile, tile_min_detail=asked.tile_min_detail).to_dict():
            provenance["selection"] = tiles
        origin, licence = self.run.origin, None
        if origin is not None:
            provenance |= {"model": origin.model, "pre-training": origin.provenance}
            licence = origin.licence
        save_model(self.here.folder.path, whole, model_json(whole, self.run.statistics, provenance, licence=licence))

    def finish(self, whole: MaskedAutoencoder) -> None:
        """The report; and, as the last thing seen, that so few steps are of no use."""
        if not self.here.ranks.leads:
            return
        write_report(self.here.folder.path)
        if 0 < (steps := self.course.schedule.steps) < FEW_STEPS:
            self.here.console.print(
                f"This encoder had {several(steps, 'step')} to learn in, too few to be of use: a larger "
                "--epochs makes the run longer",
                style="yellow",
                soft_wrap=True,
            )


def _sample_patches(stream: Stream, statistics: Statistics, patch_size: tuple[int, ...]) -> Tensor:
    """Patches (n, P) of the first 512 training views, and of more where they hold few patches: enough for the
    principal components, and the same for any batch size."""
    patches: list[Tensor] = []
    for position in count():
        batch = stream.views(position, position + 1)
        used = torch.cat([batch.visible[0], batch.queries[0]]).unique()  # the others may be no-data
        patches.append(patchify(statistics.normalize(batch.images), patch_size)[0, used])
        if len(patches) >= 512 and sum(map(len, patches)) >= 10 * patches[0].shape[1]:
            return torch.cat(patches)
    raise AssertionError("count() never ends")


# ---------------------------------------------------------------- the kind


def _choose(settings: Pretrain, images: Images, here: Here) -> Pretrain:
    memory, look = memory_of(here.device, here.ranks), given(images.look)
    check_given(settings.mean, settings.std, look.levels, look.statistics)
    say_apart(apart(look.levels.sizes, look.levels.depths), here.console)
    block = settings.shuffle_block or block_for(images.train, here.console)
    settings = replace(settings, from_bands=images.from_bands, shuffle_block=block)
    return choose(settings, look, len(images.train), here.device, memory, here.console, images.start)


def _settle(settings: Pretrain, images: Images, console: Console) -> Pretraining:
    settings = replace(settings, from_bands=images.from_bands)
    run, began = settle(settings, images.count, console), images.start
    if began is None:
        return run
    channels = channels_of(began, run.statistics.pixels, images.from_bands)
    architecture = architecture_from(began, run.architecture, channels)
    return replace(run, architecture=architecture, origin=began.origin, channels=channels)


PRETRAIN = JobKind(
    needs=("data", "out"),
    usage="openmae pretrain DATA --out RUN",
    may_differ=("pictures", "compile"),
    open=open_images,
    choose=_choose,
    settle=_settle,
    job=PretrainJob,
    most_minutes=most_minutes,
)
