"""What a classifier says of images, and how right it is."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from openmae.data.loading.in_order import CentredImages
from openmae.data.tasks import Answers, Task
from openmae.data.views.statistics import Statistics
from openmae.distributed.ranks import ALONE, Ranks
from openmae.evaluate.features import extract
from openmae.evaluate.metrics import accuracy, balanced_error
from openmae.evaluate.ranking import auroc, auroc_influence, error_of_mean, precision_influence
from openmae.heads import Answering
from openmae.machine.device import autocast
from openmae.machine.kinds import Precision

HEADLINE: dict[Task, str] = {"classification": "top1", "multi-label": "mean_ap", "regression": "r2"}
"""The figure that a model is judged by; more is better."""
FIGURES: dict[Task, tuple[str, ...]] = {
    "classification": ("top1", "top5", "loss"),
    "multi-label": ("mean_ap", "loss"),
    "regression": ("r2", "mae", "rmse"),
}
"""What `measure` gives of each task."""
SHARES = ("top1", "top5", "mean_ap")  # figures from 0 to 1


def predict(
    model: Answering,
    statistics: Statistics,
    images: CentredImages,
    device: torch.device,
    workers: int,
    batch_size: int = 256,
    progress: Callable[[int], None] = lambda done: None,
    precision: Precision = "fp32",
    ranks: Ranks = ALONE,
) -> tuple[Tensor, NDArray[np.int64]]:
    """Scores (n, K) float32 on the CPU, and the indices (n,) of the images they are of; broken ones are left out.

    ranks: who share the work; all get the whole result.
    Raises UserError where nothing is left, or scores are not finite.
    """

    def scores_of(batch: Tensor) -> Tensor:
        with autocast(device, precision):
            return model(statistics.normalize(batch))

    was_training = model.training
    model.eval()
    try:
        scores, indices = extract(images, scores_of, device, workers, batch_size, progress, ranks)
    finally:
        model.train(was_training)
    return scores, indices.numpy()


def measure(scores: Tensor, right: Answers) -> dict[str, float]:
    """Figures of scores (n, K) against the answers of the same n images.

    classification: loss (cross-entropy, nats), top1 and (with 6 classes or more) top5 accuracy, 0..1;
    multi-label: loss, mean_ap (average precision, mean over the labels that occur), 0..1;
    regression: r2 (1 is perfect, 0 is guessing the mean), mae and rmse in the label's unit.
    """
    values = torch.from_numpy(right.values)
    if right.task == "regression":
        from sklearn.metrics import r2_score  # takes more than a second, and classes do not need it

        error = scores - values
        r2 = float(r2_score(values.numpy(), scores.numpy())) if len(values) > 1 else float("nan")
        return {"r2": r2, "mae": error.abs().mean().item(), "rmse": error.square().mean().sqrt().item()}
    if right.task == "multi-label":
        loss = F.binary_cross_entropy_with_logits(scores, values).item()
        occurring = values.any(dim=0) & ~values.all(dim=0)
        mean_ap = float("nan")
        if occurring.any():
            from sklearn.metrics import average_precision_score

            mean_ap = float(average_precision_score(values[:, occurring].numpy(), scores[:, occurring].numpy()))
        return {"loss": loss, "mean_ap": mean_ap}
    figures = {"loss": F.cross_entropy(scores, values).item(), "top1": accuracy(scores, values)}
    return figures if scores.shape[1] <= 5 else {**figures, "top5": accuracy(scores, values, 5)}


def ranked(scores: Tensor, right: Answers) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Of each label that some of the images have and some have not: their scores (n,), and which have it. Of two
    classes the second counts as one label; of other tasks there are none."""
    if right.task == "classification" and len(right.names) == 2:
        found = [((scores[:, 1] - scores[:, 0]).numpy(), right.values == 1)]
    elif right.task == "multi-label":
        found = [(scores[:, at].numpy(), right.values[:, at] > 0) for at in range(scores.shape[1])]
    else:
        found = []
    return [(own, has) for own, has in found if has.any() and not has.all()]


def mean_auroc(scores: Tensor, right: Answers) -> float | None:
    """Area under the ROC curve, 0..1, 0.5 for guessing: of two classes, or the mean over the labels that occur. None of
    other tasks, and where all images are alike."""
    found = [auroc(own, has) for own, has in ranked(scores, right)]
    return float(np.mean(found)) if found else None


def standard_error(name: str, scores: Tensor, right: Answers) -> float | None:
    """Of a figure that `measure` gives, of balanced_accuracy or auroc, by the deviation of the images from each other;
    r2 and rmse by that of their squared errors, areas under curves by each image's influence. None of one image."""
    values, count = torch.from_numpy(right.values), len(scores)
    if count < 2:
        return None
    if name in ("mean_ap", "auroc"):
        influence = precision_influence if name == "mean_ap" else auroc_influence
        return error_of_mean([influence(own, has) for own, has in ranked(scores, right)])
    if name == "balanced_accuracy":
        return balanced_error(right.values.astype(np.int64), scores.argmax(1).numpy())
    if right.task == "regression":
        error = (scores - values).double()[:, 0]
        of_squares = (error.square().std() / math.sqrt(count)).item()
        if name == "mae":
            return (error.abs().std() / math.sqrt(count)).item()
        if name == "rmse":
            return of_squares / max(1e-300, 2 * error.square().mean().sqrt().item())
        return of_squares / max(1e-300, values.double().var(correction=0).item())
    if name == "loss":
        if right.task == "multi-label":
            each = F.binary_cross_entropy_with_logits(scores, values, reduction="none").mean(dim=1)
        else:
            each = F.cross_entropy(scores, values, reduction="none")
        return (each.double().std() / math.sqrt(count)).item()
    share = accuracy(scores, values, 5 if name == "top5" else 1)
    return math.sqrt(share * (1 - share) / count)


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
