"""The trainings of a study, ordinary runs: going on, from scratch with the same model and as many steps, fine-tuning.

Equal means: the same model of the same sizes, the same images a step, and the same number of steps, so the same
computing but for the share of the steps in which an encoder that goes on rests while a fresh decoder learns, which are
cheaper. The seconds that the steps of each took are measured and shown.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from openmae.errors import UserError
from openmae.model import nearest_size
from openmae.own import is_own
from openmae.recipes.asked import asked_of_data
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain.job import pretrain
from openmae.recipes.pretrain.settings import Pretrain
from openmae.studies.adapt.settings import Adapt
from openmae.train.run import read_config, read_metrics
from openmae.weights import load_model

_SHORT = 16  # steps of the largest batch, at most, of the training that measures the speed
_LARGEST_BATCH = {"cpu": 256}
_OF_SHAPE = (
    "embed_dim depth num_heads class_tokens decoder decoder_embed_dim decoder_depth decoder_num_heads decoder_layers"
).split()
OF_MODEL = ["model", "img_size", "patch_size", *_OF_SHAPE]
"""Settings that follow from the released weights, whoever goes on with them."""
OF_ENCODER = "model num_heads img_size patch_size blr layer_decay drop_path micro_batch grad_checkpointing".split()
"""Settings of a fine-tuning that follow from what it begins with."""
_OF_TARGET = ("norm_pix_loss", "norm_pix_by", "target")
"""What a run that is gone on with has learnt to predict, and goes on to."""
_ALIKE = (  # in a run that went on and in one from scratch
    "batch_size img_size patch_size in_chans bands pixel_type crop_scale crop_fit hflip vflip rotate90 "
    "colour_jitter mask_ratio repeat_aug max_nodata epochs precision"
).split()


def going_on(settings: Adapt, run: Path, seed: int, epochs: float | None) -> Pretrain:
    """The settings of a training that goes on with the released weights."""
    return replace(
        _pretraining(settings, run, seed),
        from_=str(settings.model),
        num_heads=settings.num_heads,
        epochs=epochs,
        batch_size=settings.batch_size,
        precision=settings.precision,
    )


def from_scratch(settings: Adapt, run: Path, seed: int, gone_on: Path) -> Pretrain:
    """The same with fresh weights, of the model that one `gone_on` has become, and of as many steps; rates, warm-up and
    input statistics as a fresh start has them."""
    config, shape = read_config(gone_on), load_model(gone_on).autoencoder.architecture
    own = {name: getattr(shape, name) for name in _OF_SHAPE}
    own |= {name: config[name] for name in _ALIKE if name in config}
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
    model = nearest_size(shape.embed_dim)
    return replace(_pretraining(settings, run, seed), model=model, **own)  # type: ignore[arg-type]  # a name of these


def _pretraining(settings: Adapt, run: Path, seed: int) -> Pretrain:
    """What both pre-trainings of a seed have in common, whatever they begin with."""
    its = read_config(settings.model) if (settings.model / "config.toml").exists() else {}
    return Pretrain(
        data=settings.data,
        out=run,
        seed=seed,
        pictures=2,
        evaluations=0,
        device=settings.device,
        workers=settings.workers,
        **{name: its[name] for name in _OF_TARGET if name in its and not is_own(str(its[name]))},
        **{**asked_of_data(settings), "label_column": None},
    )


def measure_speed(settings: Adapt, run: Path, images: int, device: str, console: Console) -> dict[str, Any]:
    """A short training that goes on: images a second, as real steps reach them here."""
    most = settings.batch_size or _LARGEST_BATCH.get(device, 4096)
    asked = going_on(settings, run, settings.seed, min(1.0, _SHORT * most / images))
    pretrain(replace(asked, pictures=0), console)
    speeds = [line["images_per_second"] for line in read_metrics(run) if line.get("images_per_second")]
    if not speeds:
        raise UserError(f"{run / 'metrics.jsonl'} tells of no speed", "give --epochs in place of --minutes")
    later = speeds[1:] or speeds  # the first waits for processes and memory
    return {"images_per_second": float(len(later) / np.sum(1 / np.array(later)))}


def few_labels_of(model: Path, settings: Adapt, run: Path, labels: str, seed: int) -> Finetune:
    """The settings of a fine-tuning of all of an encoder with few labels."""
    return Finetune(
        model=str(model),
        data=settings.labels or settings.data,
        out=run,
        labels=labels,
        folds=0,
        keep_best="none",
        task=settings.task,
        pool=settings.pool,
        seed=seed,
        evaluations=1,
        num_heads=settings.num_heads if model == settings.model else None,
        precision=settings.precision,
        device=settings.device,
        workers=settings.workers,
        **asked_of_data(settings),
    )
