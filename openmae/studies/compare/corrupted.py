"""What corruption costs each model: its mean error over kinds and severities of ImageNet-C's corruptions, of the same
images corrupted in the same way."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openmae.console.progress import counting
from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.in_order import CentredImages
from openmae.data.loading.memory import in_memory
from openmae.data.sources.source import Source
from openmae.data.tasks import answers
from openmae.errors import BrokenImage
from openmae.evaluate.corruptions import SEVERITIES, Corrupted
from openmae.evaluate.features import centred_images, extract, pooled
from openmae.evaluate.predict import predict
from openmae.evaluate.probe import linear_probe
from openmae.model import Architecture
from openmae.studies.figures import Figure
from openmae.studies.judging import Labelled, Means, frozen_features, loaded_for
from openmae.studies.outcomes import Outcome, save_outcomes
from openmae.weights import Loaded

_LOOKED_AT = 20  # images, of which one can be read
Scores = Callable[[CentredImages, Callable[[int], None]], tuple[Tensor, NDArray[np.int64]]]


@dataclass(frozen=True)
class Corruptions:
    """kinds: of ImageNet-C's, at all severities. figure: that tells. seconds: that judging a model takes here; None
    where nothing tells."""

    kinds: Sequence[str]
    figure: Figure
    seconds: float | None = None

    @property
    def sets(self) -> list[tuple[str, int]]:
        """Kind and severity of each corrupted copy of the val images."""
        return [(kind, severity) for kind in self.kinds for severity in SEVERITIES]


def measure_corrupting(kind: str, source: Source, architecture: Architecture, pixels: PixelFormat) -> float:
    """Seconds that an image takes in this process to be corrupted so, at all severities, by the first one that can be
    read."""
    (down, across), (high, wide) = architecture.img_size, architecture.patch_size
    corrupted = Corrupted(source, pixels, (down, across), (high, wide), kind, SEVERITIES[-1], 0)
    for index in range(min(_LOOKED_AT, len(source))):
        with suppress(OSError, BrokenImage):
            began = time.perf_counter()
            corrupted.read(index)
            return len(SEVERITIES) * (time.perf_counter() - began)
    return 0.0


def judge_corrupted(
    model: Path, labelled: Labelled, means: Means, file: Path, asked: Corruptions, *, is_finetuned: bool
) -> dict[str, Any]:
    """The mean error of a fine-tuned model, or of a linear classifier of frozen features; each image's share of it is
    kept in `file`. Raises UserError."""
    loaded = loaded_for(model, labelled.val, means)
    scores_of = _finetuned(loaded, means) if is_finetuned else _linear(model, loaded, labelled, means)
    images = centred_images(loaded.encoder, loaded.statistics, labelled.val)
    source, pixels = in_memory(images.source, images.pixels, images.img_size, means.workers, means.console)
    names = tuple(loaded.info["class_names"]) if is_finetuned else labelled.right.names
    right = answers(labelled.val, labelled.task, names).values
    wrong, seen, count = np.zeros(len(right)), np.zeros(len(right)), len(images)
    with counting("corrupting", len(asked.sets) * count, means.console) as say:
        for number, (kind, severity) in enumerate(asked.sets):

            def hear(done: int, before: int = number * count, what: str = f"{kind} {severity}") -> None:
                say(before + done, what)

            made = Corrupted(source, pixels, images.img_size, images.patch_size, kind, severity, means.seed)
            scores, rows = scores_of(replace(images, source=made, pixels=replace(pixels, bands=None)), hear)
            wrong[rows] += scores.numpy().argmax(1) != right[rows]
            seen[rows] += 1
    rows = np.flatnonzero(seen == len(asked.sets))
    shares = (wrong[rows] / len(asked.sets)).astype(np.float32)
    outcome = Outcome("share", shares[:, None], np.zeros((len(rows), 0), np.float32), labelled.units[rows])
    save_outcomes(file, {asked.figure.name: outcome})
    return {asked.figure.name: outcome.figure()}


def _finetuned(loaded: Loaded, means: Means) -> Scores:
    model = loaded.classifier.to(means.device)
    return lambda images, say: predict(model, loaded.statistics, images, means.device, means.workers, progress=say)


def _linear(model: Path, loaded: Loaded, labelled: Labelled, means: Means) -> Scores:
    train, rows = frozen_features(model, labelled.train, means, "train features")
    probe = linear_probe(train, labelled.right.at(rows), means.seed, means.device)
    function = pooled(loaded.encoder, loaded.statistics, means.pool, precision=means.precision)

    def scores(images: CentredImages, say: Callable[[int], None]) -> tuple[Tensor, NDArray[np.int64]]:
        features, indices = extract(images, function, means.device, means.workers, progress=say)
        return probe(features), indices.numpy()

    return scores
