"""What the encoder knows before it learns: the linear probe that a fine-tuning may begin with, and the figures of that,
of nearest neighbours, and of what needs no encoder, to judge the fine-tuning by.

Head first, then all blocks: Kumar et al., arXiv 2202.10054 (LP-FT). A fresh head's first gradients turn features that
were good; one that fits them already leaves them as they are but for what labels ask for. What training begins with is
fitted to views, as they are learnt from: a layer that is fitted to a few dozen whole images is so steep that their own
crops have a loss of 9 where one fitted to crops has 0.5 (measured: docs/log.md).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openmae.data.loading.in_order import CentredImages
from openmae.data.loading.stream import Batch
from openmae.data.tasks import Answers
from openmae.data.views.statistics import Statistics
from openmae.distributed.ranks import Ranks
from openmae.evaluate.baselines import histograms, raw_pixels
from openmae.evaluate.features import Function, Readout, extract_each, pooled
from openmae.evaluate.knn import MOST_BYTES, Bank, bank_bytes, knn_predict
from openmae.evaluate.predict import HEADLINE, measure, standard_error
from openmae.evaluate.probe import USUAL, linear_probe, probe_of_strength
from openmae.heads import Classifier
from openmae.report.page.compared import PLAIN

FOLDER = "probe"  # of a run, for the encoder as it was with that head: a MODEL
KNN_FOLDER = "knn"  # the same with nearest neighbours
KNN, PROBE = "kNN on frozen features", "linear probe on frozen features"
MOST_PLAIN = 2_000  # training images, of which raw pixels are fitted in 13 s on two cores
_AT_ONCE = 256  # images
_VIEWS, _MOST_VIEWS = 8, 2048  # of an image, and of fewer images together, that the layer is fitted to
Labelled = tuple[CentredImages, Answers]


@dataclass(frozen=True)
class Frozen:
    """What was found of an encoder. weight (K, D), bias (K,): of the linear probe as a layer on what the head reads;
    of numbers in their own unit. strength: of its regularisation. rows: figures on val, as compared.json has them, the
    probe's the last.
    bank: what nearest neighbours know, where they do better than the probe and it is not too large to be kept; on the
    lead alone."""

    weight: Tensor
    bias: Tensor
    strength: float
    rows: list[dict[str, Any]]
    bank: Bank | None = None


def look_at(
    model: Classifier,
    statistics: Statistics,
    train: Labelled,
    val: Labelled,
    seed: int,
    workers: int,
    ranks: Ranks,
    plain: bool = False,
) -> Frozen:
    """The best linear classifier of what the model's head reads of whole images, as `openmae probe` fits it; how good
    it is on val, and how good nearest neighbours are, as `openmae knn` finds them. The same on all ranks, which share
    the encoding. The model is left in evaluation. plain: linear probes on the pixels themselves and on histograms of
    colours and texture have rows too, the first ones.

    Raises UserError where no image can be read.
    """
    model.eval()
    device = next(model.parameters()).device
    functions: list[Function] = [lambda images: model.features(statistics.normalize(images))]
    functions.append(pooled(model.encoder, statistics, model.pool))
    if plain:
        functions += [raw_pixels, histograms(statistics)]
    tables: list[list[Tensor]] = []
    answered: list[Answers] = []
    for images, answers in (train, val):
        found, indices = extract_each(images, functions, device, workers, _AT_ONCE, ranks=ranks)
        tables.append(found)
        answered.append(answers.at(indices.numpy()))
    place = Readout(model.encoder.depth, model.pool)
    judged = _judged(tables, answered, place, seed, device) if ranks.leads else None
    shared = ranks.from_lead(None if judged is None else replace(judged, bank=None))
    return shared if judged is None else judged  # type: ignore[return-value]


def views_of(images: int) -> int:
    """How many `layer_of_views` takes: of few images _VIEWS of each, of any one."""
    return max(images, min(_VIEWS * images, _MOST_VIEWS))


def layer_of_views(
    model: Classifier, statistics: Statistics, views: Iterable[Batch], right: Answers, found: Frozen
) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of the linear layer that fits several views of each image, as strongly regularised as
    the probe is beside its images. views: `views_of` so many images at least, each in its turn. The model is left in
    evaluation.

    Of classes and labels, no weaker than USUAL: the probe's is chosen by what it tells right, which a head many times
    as steep may do as well, and what then is mixed or smoothed costs so much that the features are torn first: of 500
    labels the end was 3 points below that of a fresh head (docs/log.md)."""
    model.eval()
    device = next(model.parameters()).device
    enough = views_of(len(right.values))
    features: list[Tensor] = []
    indices: list[Tensor] = []
    with torch.no_grad():
        for batch in views:
            features.append(model.features(statistics.normalize(batch.images.to(device))).float().cpu())
            indices.append(batch.indices)
            if sum(map(len, indices)) >= enough:
                break
    asked = right.at(torch.cat(indices).numpy())
    most = math.inf if right.task == "regression" else USUAL
    strength = min(found.strength, most) * len(right.values) / len(asked.values)
    return probe_of_strength(torch.cat(features), asked, strength).layer()


def _judged(
    tables: list[list[Tensor]], answered: list[Answers], place: Readout, seed: int, device: torch.device
) -> Frozen:
    """Of (train, val): features of the head and of nearest neighbours, and, where they are asked for, of PLAIN."""
    device = device if device.type != "mps" else torch.device("cpu")  # which lacks float64 and eigenvalues
    (of_head, to_compare, *plain), (val_of_head, val_to_compare, *val_plain) = tables
    right, asked = answered
    probe = linear_probe(of_head, right, seed, device)
    weight, bias = probe.layer()
    scores = {
        KNN: knn_predict(to_compare, right, val_to_compare, device=device),
        PROBE: val_of_head @ weight.T + bias,
    }
    for name, learnt, judging in zip(PLAIN, plain, val_plain, strict=False):  # of none there are no features
        scores[name] = linear_probe(learnt, right, seed, device)(judging)
    metric = HEADLINE[asked.task]
    figures = {name: measure(found, asked)[metric] for name, found in scores.items()}
    rows = [
        {
            "name": name,
            "figure": figures[name],
            "error": standard_error(metric, scores[name], asked),
            "weights": FOLDER if name == PROBE else None,
        }
        for name in (*PLAIN, KNN, PROBE)
        if name in scores
    ]
    is_best = figures[KNN] > figures[PROBE] and bank_bytes(len(to_compare), to_compare.shape[1]) <= MOST_BYTES
    return Frozen(weight, bias, probe.strength, rows, Bank(place, to_compare, right) if is_best else None)
