"""Did pre-training teach anything? The encoder's features beside an untrained encoder's and the raw pixels."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from openmae.data.source import Source
from openmae.evaluate.features import Pool, centred_images, extract, pooled, raw_pixels
from openmae.evaluate.knn import accuracy, knn_predict
from openmae.evaluate.probe import linear_predict
from openmae.model import MaskedAutoencoder
from openmae.weights import Loaded

Kind = Literal["knn", "linear"]
Features = Literal["pre-trained", "untrained", "raw pixels"]


@dataclass(frozen=True)
class Evaluation:
    """One figure: top-1 and top-5 accuracy, 0..1, of a kind of classifier on a kind of features.

    top5 is None with fewer than 6 classes, where it would say nothing.
    """

    kind: Kind
    features: Features
    top1: float
    top5: float | None
    data: str
    pool: str | None
    layer: int | None
    train_images: int
    val_images: int
    classes: int
    time: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for evaluations.json."""
        return asdict(self)


def untrained_twin(model: MaskedAutoencoder, seed: int = 0) -> MaskedAutoencoder:
    """The same architecture with fresh weights, what pre-training started from."""
    twin = model.architecture.build()
    twin.initialize(torch.Generator().manual_seed(seed))
    return twin.eval()


def evaluate(
    loaded: Loaded,
    train: Source,
    val: Source,
    data: str,
    kinds: Sequence[Kind],
    which: Sequence[Features],
    *,
    pool: Pool,
    layer: int | None,
    k: int,
    device: torch.device,
    workers: int,
    seed: int,
    say: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> list[Evaluation]:
    """Top-1 and top-5 of every kind of classifier on every kind of features, fitted on train, measured on val.

    Labels are matched between the splits by name. `say(what, done, of)` hears of the progress.
    Raises UserError where images or labels are missing.
    """
    names = train.class_names
    labels_of = {"train": _labels_by_name(train, names), "val": _labels_by_name(val, names)}
    evaluations = []
    for features in which:
        model = loaded.model if features != "untrained" else untrained_twin(loaded.model, seed)
        function = raw_pixels if features == "raw pixels" else pooled(model.to(device), loaded.statistics, pool, layer)
        rows, labels = {}, {}
        for split, source in (("train", train), ("val", val)):
            total = len(source)
            what = f"{features}: {split} features"

            def hear(done: int, what: str = what, total: int = total) -> None:
                say(what, done, total)

            images = centred_images(model, loaded.statistics, source)
            rows[split], indices = extract(images, function, device, workers, progress=hear)
            labels[split] = labels_of[split][indices]
        for kind in kinds:
            say(f"{features}: {kind}", 0, 0)
            if kind == "knn":
                scores = knn_predict(rows["train"], labels["train"], rows["val"], len(names), k)
            else:
                scores, _ = linear_predict(rows["train"], labels["train"], rows["val"], len(names), seed)
            evaluations.append(
                Evaluation(
                    kind,
                    features,
                    accuracy(scores, labels["val"]),
                    accuracy(scores, labels["val"], 5) if len(names) > 5 else None,
                    data,
                    None if features == "raw pixels" else pool,
                    None if features == "raw pixels" else layer or loaded.model.encoder.depth,
                    len(rows["train"]),
                    len(rows["val"]),
                    len(names),
                    time.strftime("%Y-%m-%dT%H:%M:%S"),
                )
            )
    return evaluations


def _labels_by_name(source: Source, names: Sequence[str]) -> torch.Tensor:
    """(n,) labels in the numbering of `names`, whatever classes this split happens to hold."""
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[name] for name in source.class_names])[torch.from_numpy(source.labels.copy())]
