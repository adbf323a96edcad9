"""One fine-tuning run, everything chosen and opened: its batches, its loss, its figures, its weights."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from openmae.data.augment import Finish
from openmae.data.memory import in_memory
from openmae.data.mixing import Mixing
from openmae.data.order import generator
from openmae.data.source import Source
from openmae.data.statistics import Statistics
from openmae.data.stream import Batch, Stream
from openmae.data.tasks import Answers
from openmae.data.views import Augmentation
from openmae.errors import Interrupted, NotWritten
from openmae.evaluate.features import Precision, centred_images
from openmae.evaluate.predict import SHARES, measure, predict
from openmae.heads import Classifier
from openmae.model import ViT
from openmae.ranks import ALONE, Ranks
from openmae.recipes.broken import BrokenFiles
from openmae.recipes.choices import pair
from openmae.recipes.finetune_choices import least_micro_batch
from openmae.recipes.machine import written
from openmae.recipes.results import Judged, judge, keep_result, whole_address
from openmae.recipes.schedule import evenly, plan_of
from openmae.report.page import write_report
from openmae.train.checkpoint import save_model
from openmae.train.learner import Learner
from openmae.train.loop import fit
from openmae.train.optimizers import adamw, averaged, keep_average, lars, layer_scale
from openmae.train.run import RunFolder
from openmae.weights import model_json

if TYPE_CHECKING:
    from openmae.recipes.finetune import Finetune

MOST_VALIDATED = 256  # images at once


@dataclass(frozen=True)
class Start:
    """What training begins with."""

    encoder: ViT
    statistics: Statistics
    target: str | None
    """What the pre-training predicted; None for fresh weights."""
    is_new: bool
    """Whether MODEL is the name of a size, not of weights."""
    provenance: dict[str, Any] | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Job:
    """One run, everything chosen and opened."""

    settings: "Finetune"
    folder: RunFolder
    model: Classifier
    start: Start
    train_images: Source
    val_images: Source
    right: Answers
    asked: Answers
    steps: int
    workers: int
    device: torch.device
    console: Console
    ranks: Ranks = ALONE

    def train(self) -> dict[str, float]:
        """Trains to the end and gives the final figures."""
        settings, model, steps, ranks = self.settings, self.model, self.steps, self.ranks
        model.encoder.grad_checkpointing = settings.grad_checkpointing == "on"
        order = balanced(self.right, settings.seed) if settings.balance == "sampling" else None
        shown = self.train_images if order is None else self.train_images.take(order)
        broken = BrokenFiles(shown, self.folder, settings.max_broken)
        stream = self._stream(order)
        learner = Learner(model, self._loss(stream.batch_size, order), ranks, shard=settings.shard)
        optimizer = self._optimizer()
        unit = least_micro_batch(settings)
        val, val_pixels = in_memory(
            self.val_images, self.start.statistics.pixels, pair(settings.img_size), self.workers
        )
        judged = replace(centred_images(model.encoder, self.start.statistics, val), pixels=val_pixels)
        precision: Precision = "bf16" if settings.precision == "bf16" else "fp32"
        figures: dict[str, float] = {}
        last: list[Judged] = []

        def validate(step: int) -> dict[str, Any]:
            broken.tell(ranks)
            with averaged(optimizer):
                whole = learner.whole()
                scores, indices = predict(
                    whole,
                    self.start.statistics,
                    judged,
                    self.device,
                    self.workers,
                    MOST_VALIDATED,
                    precision="fp32" if step == steps else precision,  # the last as `evaluate` will find it
                    ranks=ranks,
                )
                try:
                    self._save(whole, step)
                except OSError as error:
                    self.console.print(f"warning: no weights at step {step}: {error}", style="yellow", soft_wrap=True)
            last[:] = [Judged(judged, self._in_units(scores), indices, self.asked)]
            figures.clear()
            figures.update(measure(last[0].scores, last[0].right))
            return {("eval/" if name in SHARES else "val_") + name: value for name, value in figures.items()}

        def batches_from(step: int, micro_batch: int) -> Iterator[Batch]:
            part = ranks.share(stream.batch_size, unit)
            pin = self.device.type == "cuda"
            return broken.watch(stream.batches(step, micro_batch, self.workers, pin=pin, part=part))

        try:
            fit(
                learner,
                batches_from,
                optimizer,
                self.folder,
                plan_of(settings, steps, unit),
                device=self.device,
                precision=precision,
                console=self.console,
                name_of=shown.name,
                after={step: partial(validate, step) for step in evenly(steps, max(1, settings.evaluations))},
                profile=settings.profile,
            )
        except Interrupted as stopped:
            with averaged(optimizer):
                whole = learner.whole()
                if ranks.leads:
                    with suppress(NotWritten), written(self.folder.path, steps, stopped.step):
                        self._save(whole, stopped.step)
                        write_report(self.folder.path)
            said_so = f"{stopped}; the same command goes on from there"
            raise Interrupted(said_so, stopped.step, stopped.code) from None
        if not figures:  # the run had ended before
            validate(steps)
        if ranks.leads:
            assert settings.data is not None
            self.console.print(f"On the val images: {said(figures)}")
            with written(self.folder.path, steps, steps):
                keep_result(self.folder.path, last[0], judge(last[0]), whole_address(settings.data), "val")
        return figures

    def _stream(self, order: NDArray[np.int64] | None) -> Stream:
        """order: which of the images are shown, several times or not at all; None for each once."""
        settings = self.settings
        assert settings.batch_size is not None
        statistics = self.start.statistics
        assert settings.crop_scale is not None
        loaded, pixels = in_memory(self.train_images, statistics.pixels, pair(settings.img_size), self.workers)
        return Stream(
            loaded if order is None else loaded.take(order),
            pixels,
            pair(settings.img_size),
            (self.model.encoder.patch_size[0], self.model.encoder.patch_size[1]),
            Augmentation(settings.crop_scale, settings.hflip),
            None,
            settings.batch_size,
            self.steps,
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

    def _loss(self, batch_size: int, order: NDArray[np.int64] | None) -> Callable[[Classifier, Batch], Tensor]:
        """The mean loss of a batch."""
        settings, right = self.settings, self.right
        values = torch.from_numpy(right.values if order is None else right.values[order]).to(self.device)
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
            step, place = divmod(batch.start, batch_size)
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

    def _save(self, model: Classifier, step: int) -> None:
        """model.safetensors and model.json of the run, each complete or as it was before. Raises OSError."""
        if not self.ranks.leads:
            return
        settings = self.settings
        assert settings.model is not None
        assert settings.data is not None
        is_name = self.start.is_new or not Path(settings.model).exists()  # of a size, of the Hub's, of timm's
        provenance = {
            "job": "finetune",
            "data": whole_address(settings.data),
            "step": step,
            "seed": settings.seed,
            "held_out": self.val_images.fingerprint,
            "model": settings.model if is_name else whole_address(settings.model),
            "pre-training": self.start.provenance,
        }
        head = model.head
        shift, scale = self._unit()
        with torch.no_grad():  # a regression's head is saved for the labels' own unit
            weight, bias = head.weight.clone(), head.bias.clone()
            head.weight.mul_(scale)
            head.bias.mul_(scale).add_(shift)
            info = model_json(
                model,
                self.start.statistics,
                provenance,
                task=self.right.task,
                class_names=self.right.names,
                licence=self.start.licence,
            )
            try:
                save_model(self.folder.path, model, info)
            finally:
                head.weight.copy_(weight)
                head.bias.copy_(bias)


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


def balanced(right: Answers, seed: int) -> NDArray[np.int64]:
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
