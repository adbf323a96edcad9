"""Train an encoder on labels: all of its blocks, its last ones, or a linear layer alone.

    openmae finetune runs/first labelled/ --out runs/classes                    chosen from the data and the machine
    openmae finetune runs/first labelled/ --out runs/classes --recipe paper     the paper's (Table 9)
    openmae finetune runs/first labelled/ --out runs/sweep --blocks all,4,1,0.5,0       Figure 9
    openmae finetune runs/first labelled/ --out runs/scratch --from-scratch     the same ViT without pre-training

On ImageNet-1K the paper's recipe gives 83.6 / 85.9 / 86.9% (ViT-B/L/H, Table 3), from scratch 82.3 / 82.6 / 83.1%;
of ViT-L's last blocks none 73.5, half a block 79.1, one 81.0, all 84.9% (Figure 9). Full fine-tuning, the last blocks
and the linear probe are one job: they differ in settings alone.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from tyro.conf import Positional, arg

from openmae.data.augment import Finish
from openmae.data.memory import in_memory
from openmae.data.mixing import Mixing
from openmae.data.order import generator
from openmae.data.source import Source
from openmae.data.statistics import Statistics, survey
from openmae.data.stream import Batch, Stream
from openmae.data.tasks import Answers, Task, answers, fewer_labels, split_for
from openmae.data.views import Augmentation
from openmae.errors import Interrupted, UserError
from openmae.evaluate.features import centred_images
from openmae.evaluate.predict import SHARES, measure, predict
from openmae.heads import Classifier, Pool, learn_last_blocks
from openmae.model import SIZES, ViT, create_model, initialize
from openmae.recipes.broken import BrokenFiles
from openmae.recipes.choices import Sides, pair, stored
from openmae.recipes.finetune_choices import check_ranges, choose
from openmae.recipes.machine import Device, check_room, choose_device, make_console, room_on_disk, workers_for
from openmae.report.page import write_report
from openmae.train.checkpoint import write_file
from openmae.train.loop import Plan, fit
from openmae.train.optimizers import adamw, averaged, keep_average, lars, layer_scale, warmup_cosine
from openmae.train.run import RunFolder, read_config
from openmae.weights import load_native, model_json, serialize

_HARMLESS = ("data", "max_broken", "micro_batch", "workers", "device", "checkpoint_minutes", "evaluations")
DERIVED = ("steps",)  # entries of a run's config.toml that follow from the others and the images
MOST_VALIDATED = 256  # images at once


@dataclass(frozen=True)
class Finetune:
    """Train an encoder on labels. The same command again, after a crash or Ctrl-C, goes on where the run was."""

    model: Positional[Annotated[str | None, arg(metavar="MODEL")]] = None
    """A run folder or a .safetensors file of openmae; or, to begin with fresh weights, vit_tiny, vit_small, vit_base,
    vit_large or vit_huge."""
    data: Positional[Annotated[str | None, arg(metavar="DATA")]] = None
    """Labelled images: a folder with a folder for each class, a table, shards, parquet or an array. With splits train
    and val these are used; otherwise a fifth of each class is held out, the same images every time."""
    out: Annotated[Path | None, arg(metavar="RUN")] = None
    """Run folder to write."""
    resume: bool = False
    """Take MODEL, DATA and all settings from the run in --out and go on with it."""
    recipe: Literal["auto", "paper"] = "auto"
    """What is left open below: auto chooses it from the number of images, the model and the machine; paper takes
    Table 9's, or, from scratch, Table 11's."""

    blocks: Annotated[str, arg(metavar="N")] = "all"
    """How many of the last blocks learn (Figure 9): all, a number, 0.5 (the last block's MLP), or 0 (the head alone).
    Several with commas, such as all,4,1,0.5,0, are trained one after the other and compared."""
    from_scratch: bool = False
    """Begin with fresh weights in MODEL's architecture: what pre-training is worth."""
    labels: Annotated[str | None, arg(metavar="PART")] = None
    """Use fewer labels: a share of each class such as 1%, or a number such as 20-per-class."""
    task: Task | None = None
    """What labels are. Default: what they say: classes; several at once where they have ; or | between them; numbers
    where not all are whole."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """For classes of unequal size: weigh the loss by one over the size of the class, or show each class as often."""

    pool: Pool | None = None
    """What the head reads: the mean of the patch tokens, or the class token. Default: mean, as the paper."""
    batch_norm: bool = False
    """Normalise features by their (micro-)batch before the head, as the paper's linear probe does."""
    img_size: Sides | None = None
    """Pixels a side, 448 or 448x320. Default: the model's; for another the positions are interpolated."""
    patch_size: Sides | None = None
    """Pixels of a patch a side, for fresh weights of a vit_...; otherwise the model's."""

    optimizer: Literal["adamw", "lars"] | None = None
    """Default: adamw. lars is for the paper's linear probe."""
    epochs: float | None = None
    """Times that every image is seen. Paper: 100, and 50 for large models."""
    warmup_epochs: float | None = None
    """Epochs over which the learning rate rises from 0. Paper: 5."""
    batch_size: int | None = None
    """Images an optimizer step: always the effective batch. Paper: 1024."""
    micro_batch: int | None = None
    """Images that go through the model at once. Default: 128 on a GPU, 64 on a CPU."""
    blr: float | None = None
    """Base learning rate; the rate is blr x batch_size / 256. Paper: 1e-3, ViT-B after norm_pix 5e-4."""
    layer_decay: float | None = None
    """Rate of a block over that of the one above it. Paper: 0.75, ViT-B after norm_pix 0.65; from scratch 1."""
    weight_decay: float | None = None
    """On matrices only. Paper: 0.05, from scratch 0.3."""
    drop_path: float | None = None
    """Chance to leave out a branch of the last block; less in those below. Paper: 0.1 (B), 0.2 (L), 0.3 (H)."""
    ema_decay: float | None = None
    """Keep an average of the weights, and use it in the end. 0 for none. Paper: 0.9999 from scratch."""
    clip_grad: float | None = None
    """Bound on the norm of the whole gradient. Default: none, as the paper."""

    crop_scale: tuple[float, float] | None = None
    """Least and most share of an image's area in a random crop. Default: 0.08 1, as the released code."""
    hflip: bool = True
    """Mirror half of the views. Switch off where left and right differ in meaning."""
    ra_magnitude: float | None = None
    """RandAugment's strength, 0 (off) to 10. Paper: 9."""
    random_erase: float | None = None
    """Chance that a rectangle of a view is replaced by noise. Paper: 0.25, from scratch 0."""
    mixup: float | None = None
    """Alpha of mixup, 0 for none. Paper: 0.8."""
    cutmix: float | None = None
    """Alpha of cutmix, 0 for none. Paper: 1."""
    label_smoothing: float | None = None
    """Share of the answer that is spread over all classes. Paper: 0.1."""

    seed: int = 0
    """Decides the fresh weights, what is held out, order, crops and augmentation."""
    max_broken: float = 0.01
    """Stop when more than this share of the files cannot be read; up to it they are replaced and listed."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bfloat16 products where the processor has them."""
    device: Device = "auto"
    """auto: a GPU if there is one."""
    workers: int | None = None
    """Processes that load images; 0 loads in this one. Does not change the result."""
    evaluations: int = 10
    """How many times the val images are classified, evenly over the run."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints; one more comes at the end and on Ctrl-C."""


@dataclass(frozen=True)
class _Start:
    """What training begins with."""

    encoder: ViT
    statistics: Statistics
    target: str | None
    """What the pre-training predicted; None for fresh weights."""
    provenance: dict[str, Any] | None = None
    licence: str | None = None


def run(settings: Finetune) -> None:
    """Trains, and says what came out. Raises UserError, Interrupted."""
    console = make_console()
    parts = settings.blocks.split(",")
    if len(parts) > 1:
        from openmae.recipes.sweep import sweep

        sweep(settings, parts, console)
        return
    finetune(settings, console)
    console.print(
        f"\nThe model is in {settings.out}. Look at:   {settings.out}/report.html\n"
        f"  on other images:    openmae evaluate {settings.out} DATA\n"
        f"  in Python:          openmae.load('{settings.out}')(images)"
    )


def finetune(settings: Finetune, console: Console) -> dict[str, float]:
    """Trains, or goes on training, and leaves a whole run folder; gives the final figures on val, as `measure` names
    them. Raises UserError, Interrupted."""
    if settings.resume and settings.out is not None:
        settings = stored(settings, read_config(settings.out), defaults_too=True)
    if settings.model is None or settings.data is None or settings.out is None:
        raise UserError("say what to train, on what, and where the run goes: openmae finetune MODEL DATA --out RUN")
    device = choose_device(settings.device)
    check_ranges(settings)
    with room_on_disk(settings.out), RunFolder(settings.out) as folder:
        task, train, val = split_for(settings.data, settings.task, settings.seed)
        if settings.labels is not None:
            train = fewer_labels(train, settings.labels, settings.seed)
        right = answers(train, task)
        asked = answers(val, task, right.names)
        workers = workers_for(settings.workers, device)
        start = _start(settings, train, workers)
        console.print(f"{task}: {_what(right)}; learnt from {len(train):,} images, judged by {len(val):,} others")
        if folder.has_begun:
            console.print(f"Going on with the run in {folder.path}")
            settings = stored(settings, read_config(folder.path), defaults_too=False)
        else:
            settings = choose(
                settings, start.encoder, start.statistics, start.target, task, len(train), device, console
            )
            check_ranges(settings)
        model = build(settings, start.encoder, len(right.names))
        check_room(folder.path, needed=sum(p.numel() for p in model.parameters()) * 4 * 12)
        folder.settle({**_flat(settings), "steps": _steps(settings, len(train))}, _fingerprint(train, val), _HARMLESS)
        job = _Job(settings, folder, model.to(device), start, train, val, right, asked, workers, device, console)
        try:
            return job.train()
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            raise UserError(
                "the machine ran out of memory: run the same command again with a smaller --micro-batch, which leaves "
                "the batch as it is; the run goes on from its last checkpoint"
            ) from error


@dataclass(frozen=True)
class _Job:
    """One run, everything chosen and opened."""

    settings: Finetune
    folder: RunFolder
    model: Classifier
    start: _Start
    train_images: Source
    val_images: Source
    right: Answers
    asked: Answers
    workers: int
    device: torch.device
    console: Console

    def train(self) -> dict[str, float]:
        """Trains to the end and gives the final figures."""
        settings, model = self.settings, self.model
        assert settings.batch_size is not None
        assert settings.epochs is not None
        assert settings.blr is not None
        steps = _steps(settings, len(self.train_images))
        optimizer = self._optimizer()
        warmup = steps * (settings.warmup_epochs or 0.0) / settings.epochs
        lr = settings.blr * settings.batch_size / 256
        plan = Plan(
            steps,
            settings.batch_size,
            lambda step: warmup_cosine(step, steps, warmup, lr),
            settings.clip_grad,
            settings.checkpoint_minutes * 60,
            log_every=max(1, min(50, steps // 200)),
        )
        broken = BrokenFiles(self.train_images, self.folder, settings.max_broken)
        stream = self._stream(steps)
        val, val_pixels = in_memory(
            self.val_images, self.start.statistics.pixels, pair(settings.img_size), self.workers
        )
        judged = replace(centred_images(model.encoder, self.start.statistics, val), pixels=val_pixels)
        figures: dict[str, float] = {}

        def validate(step: int) -> dict[str, Any]:
            with averaged(optimizer):
                scores, indices = predict(
                    model, self.start.statistics, judged, self.device, self.workers, MOST_VALIDATED
                )
                self._save(step)
            figures.clear()
            figures.update(measure(self._in_units(scores), replace(self.asked, values=self.asked.values[indices])))
            return {("eval/" if name in SHARES else "val_") + name: value for name, value in figures.items()}

        def batches_from(step: int) -> Iterator[Batch]:
            assert settings.micro_batch is not None
            return broken.watch(
                stream.batches(step, settings.micro_batch, self.workers, pin=self.device.type == "cuda")
            )

        count = max(1, settings.evaluations)
        ends = {max(1, round(steps * i / count)) for i in range(1, count + 1)}
        try:
            fit(
                model,
                self._loss(stream),
                batches_from,
                optimizer,
                self.folder,
                plan,
                device=self.device,
                precision="bf16" if settings.precision == "bf16" else "fp32",
                console=self.console,
                name_of=self.train_images.name,
                after={step: partial(validate, step) for step in ends},
            )
        except Interrupted as stopped:
            with averaged(optimizer):
                self._save(stopped.step or 0)
            write_report(self.folder.path)
            raise Interrupted(f"{stopped}; the same command goes on from there", stopped.step) from None
        if not figures:  # the run had ended before
            validate(steps)
        self.console.print(f"On the val images: {said(figures)}")
        write_report(self.folder.path)
        return figures

    def _stream(self, steps: int) -> Stream:
        settings = self.settings
        assert settings.batch_size is not None
        statistics = self.start.statistics
        assert settings.crop_scale is not None
        images = self.train_images
        if settings.balance == "sampling":
            images = images.take(_balanced(self.right, settings.seed))
        loaded, pixels = in_memory(images, statistics.pixels, pair(settings.img_size), self.workers)
        return Stream(
            loaded,
            pixels,
            pair(settings.img_size),
            (self.model.encoder.patch_size[0], self.model.encoder.patch_size[1]),
            Augmentation(settings.crop_scale, settings.hflip),
            None,
            settings.batch_size,
            steps,
            settings.seed,
            finish=Finish(statistics, settings.ra_magnitude or 0.0, settings.random_erase or 0.0),
            noise=2 * self.model.encoder.depth if settings.drop_path else 0,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "lars":
            optimizer = lars(self.model)
        else:
            scale = layer_scale(settings.layer_decay or 1.0, self.model.encoder.depth)
            betas = (0.9, 0.95) if self.start.target is None else (0.9, 0.999)
            optimizer = adamw(self.model, betas, settings.weight_decay or 0.0, scale)
        if settings.ema_decay:
            keep_average(optimizer, settings.ema_decay)
        return optimizer

    def _loss(self, stream: Stream) -> Callable[[Classifier, Batch], Tensor]:
        """The mean loss of a batch."""
        settings, right = self.settings, self.right
        values = torch.from_numpy(right.values)
        if settings.balance == "sampling":
            values = values[torch.from_numpy(_balanced(right, settings.seed))]
        values = values.to(self.device)
        mixing = Mixing(settings.mixup or 0.0, settings.cutmix or 0.0)
        weights = _class_weights(right) if settings.balance == "weights" else None
        weights = None if weights is None else weights.to(self.device)
        shift, scale = (torch.tensor(number, device=self.device) for number in self._unit())
        classes = len(right.names)

        def loss_of(model: Classifier, batch: Batch) -> Tensor:
            images = self.start.statistics.normalize(batch.images)
            wanted = values[batch.indices.to(self.device)]
            if right.task == "classification":
                wanted = F.one_hot(wanted, classes).float()
            step, place = divmod(batch.start, stream.batch_size)
            images, wanted = mixing(images, wanted, settings.seed, step, place)
            scores = model(images, batch.noise if settings.drop_path else None).float()
            if right.task == "regression":
                return F.mse_loss(scores, (wanted - shift) / scale)
            if right.task == "multi-label":
                return F.binary_cross_entropy_with_logits(scores, wanted, pos_weight=weights)
            return F.cross_entropy(scores, wanted, weights, label_smoothing=settings.label_smoothing or 0.0)

        return loss_of

    def _unit(self) -> tuple[float, float]:
        """(mean, standard deviation) of the numbers of a regression, which the model learns in that unit."""
        if self.right.task != "regression":
            return 0.0, 1.0
        return float(self.right.values.mean()), float(self.right.values.std()) or 1.0

    def _in_units(self, scores: Tensor) -> Tensor:
        shift, scale = self._unit()
        return scores * scale + shift

    def _save(self, step: int) -> None:
        """model.safetensors and model.json of the run, each complete or as it was before."""
        settings = self.settings
        provenance = {
            "job": "finetune",
            "data": settings.data,
            "step": step,
            "seed": settings.seed,
            "model": settings.model,
            "pre-training": self.start.provenance,
        }
        head = self.model.head
        shift, scale = self._unit()
        with torch.no_grad():  # a regression's head is saved for the labels' own unit
            weight, bias = head.weight.clone(), head.bias.clone()
            head.weight.mul_(scale)
            head.bias.mul_(scale).add_(shift)
            info = model_json(
                self.model,
                self.start.statistics,
                provenance,
                task=self.right.task,
                class_names=self.right.names,
                licence=self.start.licence,
            )
            data = serialize(self.model, info)
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        write_file(self.folder.path / "model.safetensors", data)
        write_file(self.folder.path / "model.json", json.dumps(info, indent=1).encode())


def build(settings: Finetune, encoder: ViT, outputs: int) -> Classifier:
    """The model of resolved settings: head, and fresh weights where asked, from the seed. Raises UserError."""
    draws = torch.Generator().manual_seed(settings.seed)
    try:
        if pair(settings.img_size) != encoder.img_size:
            encoder = encoder.resized(pair(settings.img_size))
        if settings.from_scratch:
            initialize(encoder, draws)
        model = Classifier(
            encoder, outputs, settings.pool or "mean", settings.batch_norm, settings.drop_path or 0.0
        )
        model.initialize(0.01 if settings.batch_norm else 2e-5, draws)
        depth = encoder.depth
        learn_last_blocks(model, depth if settings.blocks == "all" else float(settings.blocks))
    except ValueError as error:
        raise UserError(str(error)) from error
    return model


def said(figures: dict[str, float]) -> str:
    """top-1 93.2%, top-5 99.0%; or mean average precision, or R2, and the mean error."""
    names = {
        "top1": "top-1 {:.2%}",
        "top5": "top-5 {:.2%}",
        "mean_ap": "mean average precision {:.2%}",
        "r2": "R² {:.4f}",
        "mae": "mean absolute error {:.4g}",
        "rmse": "root mean squared error {:.4g}",
    }
    return ", ".join(text.format(figures[name]) for name, text in names.items() if name in figures)


def _start(settings: Finetune, train: Source, workers: int) -> _Start:
    """The encoder that MODEL stands for, fresh for the name of a size."""
    assert settings.model is not None
    if settings.model in SIZES:
        if not settings.from_scratch:
            raise UserError(
                f"{settings.model} has fresh weights: add --from-scratch if that is meant, or give a run folder"
            )
        look = survey(train, settings.seed, None, None, workers)
        side = min(224, *look.size)
        patch = pair(settings.patch_size or (16 if side >= 128 else 8 if side >= 64 else 4))
        size = pair(settings.img_size) if settings.img_size else tuple(max(1, side // p) * p for p in patch)
        try:
            encoder = create_model(
                settings.model, img_size=size, patch_size=patch, in_chans=look.statistics.pixels.in_chans
            ).encoder
        except ValueError as error:
            raise UserError(str(error)) from error
        return _Start(encoder, look.statistics, None)
    loaded = load_native(Path(settings.model))
    if settings.patch_size is not None and pair(settings.patch_size) != loaded.encoder.patch_size:
        raise UserError(f"--patch-size is for fresh weights; {settings.model} has its own: leave it out")
    if settings.from_scratch:
        return _Start(loaded.encoder, loaded.statistics, None)
    info = loaded.info
    target = info["architecture"].get("target", "pixel")
    return _Start(loaded.encoder, loaded.statistics, target, info["provenance"], info.get("licence"))


def _balanced(right: Answers, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices of as many images of each class as the largest has, those of smaller ones several times."""
    classes, counts = np.unique(right.values, return_counts=True)
    most = int(counts.max())
    parts = []
    for label in classes.tolist():
        members = generator(seed, "split", index=label, view=2).permutation(np.flatnonzero(right.values == label))
        parts.append(np.resize(members, most))
    return np.concatenate(parts).astype(np.int64)


def _class_weights(right: Answers) -> Tensor:
    """(K,) one over the size of the class, of mean 1 over the images; of labels, the images without over those with."""
    values = right.values
    if right.task == "multi-label":
        having = values.sum(axis=0)
        return torch.from_numpy((len(values) - having) / np.maximum(having, 1)).float()
    counts = np.bincount(values, minlength=len(right.names))
    present = counts > 0
    return torch.from_numpy(np.where(present, len(values) / (present.sum() * np.maximum(counts, 1)), 0.0)).float()


def _what(right: Answers) -> str:
    return {
        "classification": f"{len(right.names)} classes",
        "multi-label": f"{len(right.names)} labels",
        "regression": "a number",
    }[right.task]


def _fingerprint(train: Source, val: Source) -> str:
    return f"{train.fingerprint} {val.fingerprint}"


def _steps(settings: Finetune, images: int) -> int:
    assert settings.epochs is not None
    assert settings.batch_size is not None
    return max(1, round(settings.epochs * images / settings.batch_size))


def _flat(settings: Finetune) -> dict[str, Any]:
    """For config.toml. MODEL and DATA are kept as whole paths, so that the run can be resumed from any folder."""
    assert settings.data is not None
    assert settings.model is not None
    values = asdict(settings)
    del values["resume"], values["out"]
    model = settings.model if settings.model in SIZES else str(Path(settings.model).absolute())
    data = settings.data if "://" in settings.data else str(Path(settings.data).absolute())
    return {**values, "model": model, "data": data}

