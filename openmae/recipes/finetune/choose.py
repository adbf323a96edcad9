"""What `finetune` chooses where a setting was left open, the paper's or what fits the data; and what follows."""

import math
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from openmae.console.words import size_of
from openmae.data.tasks import Task
from openmae.data.views.augment import Finish
from openmae.data.views.crop import BEFORE_CROP_FIT, Augmentation
from openmae.data.views.mixing import GROUP, Mixing
from openmae.data.views.statistics import Statistics
from openmae.errors import of_user
from openmae.machine.device import choose_precision
from openmae.machine.kinds import Precision
from openmae.machine.lanes import Lanes
from openmae.model import ViT
from openmae.recipes.finetune.build import Finetuning, Head, Rule
from openmae.recipes.finetune.folds import why_not
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.training.encoder import NORMALISED, Start, first_rate
from openmae.recipes.training.memory import usable_memory
from openmae.recipes.training.open import Values, fill, filled, kept_whole
from openmae.recipes.training.schedule import course_of
from openmae.recipes.training.settings import given, pair, sides_of
from openmae.train.classifier_cost import rough_step_bytes, step_bytes

_SCRATCH = {  # Table 11
    "batch_size": 4096,
    "blr": 1e-4,
    "weight_decay": 0.3,
    "layer_decay": 1.0,
    "warmup_epochs": 20.0,
    "random_erase": 0.0,
    "ema_decay": 0.9999,
}
_FINETUNE = {  # Table 9
    "batch_size": 1024,
    "weight_decay": 0.05,
    "warmup_epochs": 5.0,
    "random_erase": 0.25,
    "ema_decay": 0.0,
}
_FEW_AT_ONCE = 8  # images; where fewer fit, blocks are computed again instead of kept
_LEAST_STEPS, _MOST_EPOCHS = 500, 200.0  # of auto
_GENTLE_CROP = 0.4  # share of an image's area that a crop has at least, where auto does not augment
_GENTLEST_CROP, _FEWEST = 0.7, 100  # likewise, of so few labels (measured at 60: docs/log.md)
_FEW_EPOCHS = 10  # of auto, which does not augment in as few; ten times as many call for all of the paper's
_FEW_VIEWS, _MANY_VIEWS = 3e4, 1e7  # likewise; what lies between is in proportion to the logarithm
_FEW_LABELS = 10_000  # up to which the head is fitted first: it takes the time of an epoch without learning
LINEAR_PROBE = {  # Table 10; what `openmae probe --recipe paper` sets
    "blocks": "0",
    "positions": "fixed",
    "pool": "class",
    "batch_norm": True,
    "optimizer": "lars",
    "batch_size": 16384,
    "blr": 0.1,
    "weight_decay": 0.0,
    "layer_decay": 1.0,
    "warmup_epochs": 10.0,
    "drop_path": 0.0,
    "ra_magnitude": 0.0,
    "crop_fit": "clamp",  # the released code's, as the rate at the end
    "min_lr": 0.0,
    "random_erase": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
}


def choose(
    settings: Finetune,
    start: Start,
    task: Task,
    images: int,
    device: torch.device,
    console: Console,
    memory: int | None = None,
) -> Finetune:
    """The settings with everything that was left open chosen, for so many images; each choice printed with its
    reason. memory: bytes that a CPU has for this process; None where that is no bound."""
    encoder, target = start.encoder, start.target
    values = _paper(encoder, target, settings.optimizer == "lars")
    values["head_from"] = ("fresh", "as the paper")
    if settings.recipe == "auto":
        values |= _head(settings, images)
        values |= _auto(settings, values, encoder, target, images, device)
    values["folds"] = (0, why_not(settings, images) or "fresh weights know nothing to be kept")
    epochs = values["epochs"][0] if settings.epochs is None else settings.epochs
    if settings.epochs == 0:
        values["head_from"] = ("probe", "nothing else learns in --epochs 0")
    if values["warmup_epochs"][0] >= epochs:
        values["warmup_epochs"] = (epochs / 20, "5% of the epochs")
    batch_size = settings.batch_size or values["batch_size"][0]
    values["img_size"] = (sides_of(encoder.img_size), "the model's")
    values["patch_size"] = (sides_of(encoder.patch_size), "the model's")
    values |= _impossible(start.statistics, task)
    if settings.blocks != "all":
        values["positions"] = ("fixed", "the embedding does not learn")
    if settings.optimizer == "lars":
        values |= {"weight_decay": (0.0, "LARS takes none"), "layer_decay": (1.0, "LARS takes none")}
    values["precision"] = choose_precision(device)
    values |= _for_machine(filled(settings, values), encoder, batch_size, device, memory)
    return fill(settings, values, console)


def _for_machine(settings: Finetune, encoder: ViT, batch_size: int, device: torch.device, memory: int | None) -> Values:
    """What changes speed and memory and not the result: what goes through the model at once, and what is kept of it."""
    most, why = min(batch_size, 128 if device.type != "cpu" else 64), "what goes through the model at once"
    kept = ("off", "a quarter faster, where there is memory enough")
    if device.type != "cpu" or memory is None or settings.batch_norm:  # which sees a micro-batch: it decides
        return {"micro_batch": (most, why), "grad_checkpointing": kept}
    usable = usable_memory(memory, "cpu", settings.workers)
    averages = (1 if settings.optimizer == "lars" else 2) + bool(settings.ema_decay)
    precision: Precision = "bf16" if settings.precision == "bf16" else "fp32"
    sides = pair(settings.img_size) if settings.img_size is not None else encoder.img_size
    try:
        with torch.device("meta"):
            seen = ViT(**{**encoder.arguments(), "img_size": sides, "position_grid": None})
    except ValueError as error:
        raise of_user(error) from error
    lanes = Lanes.here(device)
    if rough_step_bytes(seen, settings.micro_batch or most, averages, lanes) <= usable:
        return {"micro_batch": (most, why), "grad_checkpointing": kept}

    def needed(size: int, again: bool) -> int:
        return step_bytes(seen, precision, size, averages, again, lanes)

    def fitting(again: bool) -> int:
        """The most at once, 0 where even the least is too much."""
        sizes = [size for size in (most, 32, 16, 8, 4, 2, 1) if least <= size <= most]
        sizes = sizes if settings.micro_batch is None else [settings.micro_batch]
        return next((size for size in sizes if needed(size, again) <= usable), 0)

    least = min(most, GROUP if settings.mixup or settings.cutmix else 1)  # views are mixed in groups
    again = settings.grad_checkpointing == "on"
    at_once = fitting(again)
    if settings.grad_checkpointing == "auto" and at_once < min(most, _FEW_AT_ONCE):
        kept = ("on", f"only {at_once} images fit in the memory at once without")
        again, at_once = True, fitting(again=True)
    why = f"{why}, in {size_of(memory)} of memory"
    if not at_once:
        takes = size_of(needed(settings.micro_batch or least, again))
        why = f"{why}, which may be too little: a step may take {takes}; a smaller --img-size or model takes less"
    return {"micro_batch": (at_once or least, why), "grad_checkpointing": kept}


def settle(settings: Finetune, images: int, console: Console) -> Finetuning:
    """What follows from settings that are chosen, for so many images. Says so where the steps are few.

    Raises UserError for what cannot be trained.
    """
    config = kept_whole(settings)
    if settings.crop_fit is None and (settings.ra_magnitude or settings.random_erase):
        console.print(
            "warning: this run began with an older openmae, whose RandAugment was weaker and which erased a little "
            "less: views are drawn as they are now from here on",
            style="yellow",
            soft_wrap=True,
        )
    try:
        return Finetuning(
            model=given(settings.model),
            head=Head(
                pair(settings.img_size),
                settings.pool or "mean",
                settings.batch_norm,
                settings.drop_path or 0.0,
                settings.blocks,
                settings.from_scratch,
                settings.grad_checkpointing == "on",
                settings.positions == "learned",
                settings.head_from == "probe",
            ),
            rule=Rule(
                settings.optimizer or "adamw",
                settings.weight_decay or 0.0,
                settings.layer_decay or 1.0,
                settings.ema_decay or 0.0,
            ),
            augmentation=Augmentation(
                given(settings.crop_scale),
                settings.hflip,
                settings.crop_fit or BEFORE_CROP_FIT,
                settings.vflip == "on",
                settings.rotate90 == "on",
            ),
            ra_magnitude=settings.ra_magnitude or 0.0,
            random_erase=settings.random_erase or 0.0,
            mixing=Mixing(settings.mixup or 0.0, settings.cutmix or 0.0),
            label_smoothing=settings.label_smoothing or 0.0,
            balance=settings.balance,
            evaluations=settings.evaluations,
            keep_best=None if settings.keep_best == "none" else settings.keep_best,
            patience=settings.patience,
            course=replace(
                course_of(settings, images, console, least_micro_batch(settings), settings.min_lr or 0.0),
                shuffle_block=settings.shuffle_block,
            ),
            config=config,
        )
    except ValueError as error:
        raise of_user(error) from error


def _paper(encoder: ViT, target: str | None, is_probe: bool) -> Values:
    """Table 9, or Table 11 from fresh weights. Of a probe, what Table 10 has is set already."""
    is_base = encoder.embed_dim <= 768
    drop_path = 0.1 if is_base else 0.2 if encoder.embed_dim <= 1024 else 0.3
    source = "the paper's (Table 9)" if target is not None else "the paper's from scratch (Table 11)"
    if target is None:
        values: dict[str, Any] = {**_SCRATCH, "epochs": 300.0 if is_base else 200.0, "drop_path": min(0.2, drop_path)}
    else:
        finer = is_base and target in NORMALISED
        values = {
            **_FINETUNE,
            "epochs": 100.0 if is_base else 50.0,
            "blr": 5e-4 if finer else 1e-3,
            "layer_decay": 0.65 if finer else 0.75,
            "drop_path": drop_path,
        }
    if is_probe:
        source = "the paper's linear probe (Table 10)"
    values |= {
        "optimizer": "adamw",
        "pool": "mean",
        "crop_scale": (0.08, 1.0),
        "ra_magnitude": 9.0,
        "mixup": 0.8,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
    }
    released: dict[str, Any] = {"crop_fit": "retry", "min_lr": 1e-6, "positions": "learned"}
    reason = "as the released code"
    if target is None:
        released |= {"min_lr": 0.0, "positions": "fixed"}
        reason = "no code was released for training from scratch"
    return {name: (value, source) for name, value in values.items()} | {
        name: (value, reason) for name, value in released.items()
    }


def _auto(
    settings: Finetune, paper: Values, encoder: ViT, target: str | None, images: int, device: torch.device
) -> Values:
    """What small data, small models and small machines need in place of the paper's 1.28 million images."""
    most = 1024 if device.type != "cpu" else 256
    fitting = min(most, max(32, 2 ** round(math.log2(max(1, images / 40)))))
    batch_size = settings.batch_size or fitting
    rule = min(_MOST_EPOCHS, max(20.0, round(100 * math.sqrt(10_000 / images))))
    enough = float(math.ceil(_LEAST_STEPS * batch_size / images))
    epochs = max(rule, enough) if settings.epochs is None else settings.epochs
    at_1024 = first_rate(encoder, target)
    rate = at_1024 * math.sqrt(batch_size / 1024)
    reason = f"{at_1024:g} at batch 1024, square-root scaling below"
    steps = epochs * images / batch_size
    if 0 < steps < _LEAST_STEPS and (settings.head_from or paper["head_from"][0]) == "probe":
        # A head that fits already is steep: at the whole rate the loss rises up to a hundredfold, and so few steps do
        # not bring it back (docs/log.md).
        rate *= steps / _LEAST_STEPS
        reason += f", and a part of it for {steps:,.0f} steps from a head that fits already"
    return {
        "batch_size": (fitting, f"for {images:,} images; between 32 and {most} on this machine"),
        "epochs": (
            max(rule, enough),
            f"fewer for more images; {images:,} make {steps:,.0f} steps",
        ),
        "warmup_epochs": (epochs / 20, "5% of the epochs"),
        "blr": (rate * 256 / batch_size, f"a rate of {rate:.2g}: {reason}"),
        "min_lr": (0.0, "the cosine's own end"),
        "positions": ("fixed", "sines of the place, which are exact for any image size"),
        **_augmentation(paper, epochs, images),
    }


def _head(settings: Finetune, images: int) -> Values:
    """Where the linear layer begins."""
    if settings.from_scratch:
        return {"head_from": ("fresh", "from scratch no features are to be kept")}
    if settings.batch_norm:
        return {"head_from": ("fresh", "--batch-norm normalises what it reads by the batch")}
    if images > _FEW_LABELS:
        return {"head_from": ("fresh", f"{images:,} labels teach it on the way")}
    return {"head_from": ("probe", f"the features as they are, then all that learns, for {images:,} labels")}


def _augmentation(paper: Values, epochs: float, images: int) -> Values:
    """As much of the paper's as the training calls for, which sees each image often, and can afford, since learning
    becomes slower before it becomes better (measured: docs/log.md)."""
    views, gentle = epochs * images, _GENTLEST_CROP if images <= _FEWEST else _GENTLE_CROP
    called_for = math.log10(max(1.0, epochs / _FEW_EPOCHS))
    affordable = math.log10(max(1.0, views / _FEW_VIEWS)) / math.log10(_MANY_VIEWS / _FEW_VIEWS)
    share = min(1.0, called_for, affordable)
    reason = f"{share:.0%} of the paper's, for {epochs:g} epoch{'s' * (epochs != 1)} and {views:,.0f} views"
    scaled = ("mixup", "cutmix", "ra_magnitude", "random_erase", "drop_path")
    values: Values = {name: (share * paper[name][0], reason) for name in scaled}
    least = share * paper["crop_scale"][0][0] + (1 - share) * gentle
    return {**values, "crop_scale": ((least, 1.0), reason)}


def _impossible(statistics: Statistics, task: Task) -> Values:
    """Settings that these images or labels rule out."""
    values: Values = {}
    if complaint := Finish.why_not_ra(statistics):
        values["ra_magnitude"] = (0.0, complaint.what)
    if task == "regression":
        values |= dict.fromkeys(("mixup", "cutmix"), (0.0, "for classes, not for numbers"))
    if task != "classification":
        values["label_smoothing"] = (0.0, "for classes alone")
    return values


def least_micro_batch(settings: Finetune) -> int:
    """What micro-batches may be whole multiples of without a change of the result, where memory runs out."""
    if settings.batch_norm:  # it sees one micro-batch
        return given(settings.micro_batch)
    return GROUP if settings.mixup or settings.cutmix else 1
