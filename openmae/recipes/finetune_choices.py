"""What `finetune` chooses where the user left a setting open: the paper's values, or such as fit the data."""

import math
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from openmae.data.augment import Finish
from openmae.data.mixing import GROUP
from openmae.data.statistics import Statistics
from openmae.data.tasks import Task
from openmae.errors import UserError
from openmae.model import ViT
from openmae.recipes.choices import (
    ABOVE_0,
    BELOW_1,
    FROM_0,
    SEED,
    SHARE,
    Bounds,
    Values,
    check,
    choose_precision,
    fill,
)

if TYPE_CHECKING:
    from openmae.recipes.finetune import Finetune

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
LINEAR_PROBE = {  # Table 10; what `openmae probe --recipe paper` sets
    "blocks": "0",
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
    "random_erase": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
}


def choose(
    settings: "Finetune",
    encoder: ViT,
    statistics: Statistics,
    target: str | None,
    task: Task,
    images: int,
    device: torch.device,
    console: Console,
) -> "Finetune":
    """The settings with everything that was left open chosen; each choice printed with its reason.

    target: what the pre-training predicted; None from fresh weights.
    """
    values = _paper(encoder, target, settings.optimizer == "lars")
    if settings.recipe == "auto":
        values |= _auto(encoder, target, images, device)
    epochs = settings.epochs or values["epochs"][0]
    if values["warmup_epochs"][0] >= epochs:
        values["warmup_epochs"] = (epochs / 20, "5% of the epochs")
    batch_size = settings.batch_size or values["batch_size"][0]
    values["micro_batch"] = (
        min(batch_size, 128 if device.type != "cpu" else 64),
        "what goes through the model at once",
    )
    values["img_size"] = (_sides(encoder.img_size), "the model's")
    values["patch_size"] = (_sides(encoder.patch_size), "the model's")
    values |= _impossible(statistics, task)
    if settings.optimizer == "lars":
        values |= {"weight_decay": (0.0, "LARS takes none"), "layer_decay": (1.0, "LARS takes none")}
    values["precision"] = choose_precision(device)
    result = fill(settings, values, console)
    if (
        (result.mixup or result.cutmix)
        and result.batch_size != result.micro_batch
        and (result.micro_batch or 0) % GROUP
    ):
        raise UserError(f"--micro-batch {result.micro_batch} with mixup or cutmix: give a multiple of {GROUP}")
    return result


def _sides(sides: tuple[int, ...]) -> int | tuple[int, ...]:
    return sides[0] if len(set(sides)) == 1 else sides


def _paper(encoder: ViT, target: str | None, is_probe: bool) -> Values:
    """Table 9, or Table 11 from fresh weights. Of a probe, what Table 10 has is set already."""
    is_base = encoder.embed_dim <= 768
    drop_path = 0.1 if is_base else 0.2 if encoder.embed_dim <= 1024 else 0.3
    source = "the paper's (Table 9)" if target is not None else "the paper's from scratch (Table 11)"
    if target is None:
        values: dict[str, Any] = {**_SCRATCH, "epochs": 300.0 if is_base else 200.0, "drop_path": min(0.2, drop_path)}
    else:
        finer = is_base and target == "norm_pix"
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
    return {name: (value, source) for name, value in values.items()}


def _auto(encoder: ViT, target: str | None, images: int, device: torch.device) -> Values:
    """What small data and small machines need in place of the paper's 1.28 million images."""
    most = 1024 if device.type != "cpu" else 256
    batch_size = min(most, max(32, 2 ** round(math.log2(max(1, images / 40)))))
    fine = target is not None
    rate = (2e-3 if fine else 1e-3) * math.sqrt(batch_size / 1024)
    epochs = float(min(200, max(20, round(100 * math.sqrt(10_000 / images)))))
    values: Values = {
        "batch_size": (batch_size, f"for {images:,} images; between 32 and {most} on this machine"),
        "blr": (
            rate * 256 / batch_size,
            "a rate of 2e-3 at batch 1024, or half of that from scratch, times the square root of the batch's share",
        ),
        "epochs": (epochs, f"fewer for more images; {images:,} make {epochs * images / batch_size:,.0f} steps"),
        "warmup_epochs": (epochs / 20, "5% of the epochs"),
    }
    return values


def _impossible(statistics: Statistics, task: Task) -> Values:
    """Settings that these images or labels rule out."""
    values: Values = {}
    if complaint := Finish.why_not_ra(statistics):
        values["ra_magnitude"] = (0.0, complaint.split(":")[0])
    if task == "regression":
        values |= dict.fromkeys(("mixup", "cutmix"), (0.0, "for classes, not for numbers"))
    if task != "classification":
        values["label_smoothing"] = (0.0, "for classes alone")
    return values


_BOUNDS: Bounds = {
    **dict.fromkeys(("batch_size", "micro_batch", "epochs", "blr", "clip_grad"), ABOVE_0),
    **dict.fromkeys(("warmup_epochs", "weight_decay", "evaluations", "checkpoint_minutes", "mixup", "cutmix"), FROM_0),
    **dict.fromkeys(("max_broken", "random_erase"), SHARE),
    **dict.fromkeys(("drop_path", "ema_decay", "label_smoothing"), BELOW_1),
    "layer_decay": (lambda n: 0 < n <= 1, "give a number above 0 and up to 1"),
    "ra_magnitude": (lambda n: 0 <= n <= 10, "give a number from 0 to 10"),
    "crop_scale": (lambda pair: 0 < pair[0] <= pair[1] <= 1, "give two ascending numbers above 0 and up to 1"),
    "seed": SEED,
    "blocks": (
        lambda text: all(part in ("all", "0.5") or part.isdecimal() for part in text.split(",")),
        "give all, a whole number, or 0.5; several with commas between them",
    ),
}


def check_ranges(settings: "Finetune") -> None:
    """Raises UserError for a number out of its range; settings left open pass."""
    check(settings, _BOUNDS)
    if settings.optimizer == "lars" and (settings.weight_decay or settings.layer_decay not in (None, 1.0)):
        raise UserError("--optimizer lars takes neither --weight-decay nor --layer-decay: leave them out, or use adamw")
