"""Classifiers that were never trained and tell images apart, and what they say of these."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import openmae
from openmae.data.formats.channels import PixelFormat
from openmae.data.tasks import Task
from openmae.data.views.statistics import Statistics
from openmae.heads import Classifier
from openmae.model import ViT, initialize
from openmae.weights import model_json, serialize
from tests.images import picture

RGB = PixelFormat(3)
NAMES = ("class0", "class1", "class2")


def a_model(
    folder: Path,
    names: Sequence[str] = NAMES,
    task: Task = "classification",
    side: int = 32,
    pixels: PixelFormat = RGB,
    **provenance: object,
) -> Path:
    """A run folder with a model that was never trained, but tells images apart."""
    draws = torch.Generator().manual_seed(1)
    encoder = ViT(
        img_size=(side, side), patch_size=(8, 8), in_chans=pixels.in_chans, embed_dim=16, depth=1, num_heads=2
    )
    initialize(encoder, draws)
    model = Classifier(encoder, len(names), "mean")
    model.initialize(2.0, draws)
    statistics = Statistics((0.5,) * pixels.in_chans, (0.25,) * pixels.in_chans, pixels)
    folder.mkdir(parents=True, exist_ok=True)
    info = model_json(model, statistics, {"job": "finetune", "seed": 0, **provenance}, task=task, class_names=names)
    (folder / "model.safetensors").write_bytes(serialize(model, info))
    (folder / "model.json").write_text(json.dumps(info))
    (folder / "config.toml").write_text('model = "first"\nsteps = 1\n')
    return folder


def images(folder: Path, count: int = 24, classes: int = 3, side: int = 32) -> Path:
    """PNG files of the model's size in class folders, so that the model sees them as they are."""
    for number in range(count):
        place = folder / f"class{number % classes}"
        place.mkdir(parents=True, exist_ok=True)
        picture(number, (side, side)).save(place / f"{number:03d}.png")
    return folder


def scores_of(model: Path, files: Sequence[Path]) -> np.ndarray:
    """(n, K) softmax, image by image, without any of our loading."""
    classifier = openmae.load(model)
    rows = [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255 for file in files]
    with torch.no_grad():
        return torch.cat([classifier((row[None] - 0.5) / 0.25) for row in rows]).double().softmax(1).numpy()
