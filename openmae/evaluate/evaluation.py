"""Did pre-training teach anything? The encoder's features beside an untrained encoder's, histograms and raw pixels."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from openmae.data.sources.source import Source
from openmae.data.tasks import Answers, Task
from openmae.distributed.ranks import ALONE, Ranks
from openmae.errors import UserError
from openmae.evaluate import knn
from openmae.evaluate.baselines import histograms, raw_pixels, whitened
from openmae.evaluate.features import Function, Readout, centred_images, extract_each, pooled_at
from openmae.evaluate.knn import knn_predict
from openmae.evaluate.metrics import accuracy, are_unequal, balanced_accuracy
from openmae.evaluate.predict import HEADLINE, mean_auroc, measure, standard_error
from openmae.evaluate.probe import linear_predict
from openmae.evaluate.rank import rankme
from openmae.heads import Pool
from openmae.machine.kinds import Precision
from openmae.model import ViT, initialize
from openmae.weights import Loaded

Kind = Literal["knn", "linear"]
Features = Literal["pre-trained", "fine-tuned", "untrained", "raw pixels", "histograms"]
BASELINES: tuple[Features, ...] = ("raw pixels", "histograms", "untrained")


@dataclass(frozen=True)
class Evaluation:
    """How well a kind of classifier does on a kind of features.

    top1 and top5 accuracy, balanced_accuracy, mean_ap and auroc are 0..1, r2 is at most 1, mae is in the label's unit;
    None where the task has no such figure, and where it would say nothing: top5 with fewer than 6 classes,
    balanced_accuracy where the classes of val are about as large. error: standard error of the headline, over the val
    images; None where it has none. majority: share of the val images of the class that train has most of. rankme:
    effective rank of the training features; of an encoder's alone. strength: inverse regularisation that a linear one
    chose. step: of the training that the weights are from.
    """

    kind: Kind
    features: Features
    task: Task
    top1: float | None
    top5: float | None
    balanced_accuracy: float | None
    auroc: float | None
    mean_ap: float | None
    r2: float | None
    mae: float | None
    error: float | None
    majority: float | None
    rankme: float | None
    data: str
    pool: Pool | None
    layer: int | None
    k: int | None
    temperature: float | None
    strength: float | None
    precision: Precision
    step: int | None
    train_images: int
    val_images: int
    classes: int | None
    time: str

    @property
    def headline(self) -> float:
        """The figure that it is judged by; more is better. -inf where val cannot tell."""
        found = getattr(self, HEADLINE[self.task])
        return -math.inf if found is None else float(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for evaluations.json."""
        return asdict(self)


@dataclass(frozen=True)
class How:
    """What to measure and by what means. places: where the model's features are taken."""

    kinds: Sequence[Kind]
    places: Sequence[Readout]
    baselines: bool = True
    k: int = knn.K
    temperature: float = knn.TEMPERATURE
    precision: Precision = "fp32"
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (it cannot change)
    workers: int = 0
    seed: int = 0
    ranks: Ranks = ALONE
    """Who share the encoding; the figures are the lead's."""


def untrained_twin(encoder: ViT, seed: int = 0) -> ViT:
    """The same architecture with fresh weights, what pre-training started from."""
    twin = ViT(**encoder.arguments())
    initialize(twin, torch.Generator().manual_seed(seed))
    return twin.eval()


def evaluate(
    loaded: Loaded,
    sources: tuple[Source, Source],
    right: tuple[Answers, Answers],
    data: str,
    how: How,
    say: Callable[[str, int, int], None] = lambda what, done, of: None,
    learnt: Callable[[Readout, Tensor, Answers], None] = lambda place, features, right: None,
    left_out: Callable[[Source, Sequence[int]], None] = lambda source, indices: None,
) -> list[Evaluation]:
    """Figures of every kind of classifier on every kind of features, fitted on train and measured on val.

    sources, right: (train, val) and the answers to them, of the same names. The untrained encoder's features are
    judged where the model's own do best. `say(what, done, of)` hears of the progress; `learnt` gets the model's
    features of the training images (m, D) at each place, and the answers to these; `left_out` which images of a source
    cannot be read, where there are any. [] on a rank that does not lead.
    Raises UserError where no image can be read, or those of one class alone.
    """
    functions, named = _functions(loaded, how)
    tables: list[list[Tensor]] = []
    answered: list[Answers] = []
    for split, source, answers in zip(("train", "val"), sources, right, strict=True):

        def hear(done: int, what: str = f"{split} features", total: int = len(source)) -> None:
            say(what, done, total)

        images = centred_images(loaded.encoder, loaded.statistics, source)
        found, indices = extract_each(images, functions, how.device, how.workers, progress=hear, ranks=how.ranks)
        tables.append(found)
        answered.append(answers.at(indices.numpy()))
        if how.ranks.leads and len(indices) < len(source):
            left_out(source, np.setdiff1d(np.arange(len(source)), indices.numpy()).tolist())
    if not how.ranks.leads:
        return []
    for split, source, readable in zip(("train", "val"), sources, answered, strict=True):
        _check_classes(readable, source, split)
    for number, own in enumerate(how.places):
        learnt(own, tables[0][-1][:, number], answered[0])
    evaluations: dict[Features, list[Evaluation]] = {}
    # The model first, since its best place is where the untrained encoder is asked too.
    for train, val, (features, places) in reversed(list(zip(*tables, named, strict=True))):
        found_here = []
        rankmes: dict[int, float] = {}  # by place, the same for every kind
        for kind in how.kinds:
            asked = places
            if features == "untrained":
                asked = [_best_place(evaluations[named[-1][0]], kind)]
            for place in asked:
                number = places.index(place)
                rows = (train[:, number], val[:, number]) if place else (train, val)
                if place and number not in rankmes:
                    rankmes[number] = rankme(rows[0].to(how.device))
                what = f"{kind}: {features}" + (f", layer {place.layer}, {place.pool}" if place else "")
                if kind == "knn" and place is None:
                    rows = whitened(*rows)
                figures = _figures(kind, rows, (answered[0], answered[1]), how, partial(say, what))
                found_here.append(
                    Evaluation(
                        kind=kind,
                        features=features,
                        task=right[0].task,
                        **figures,
                        rankme=rankmes.get(number),
                        data=data,
                        pool=place.pool if place else None,
                        layer=place.layer if place else None,
                        k=how.k if kind == "knn" else None,
                        temperature=how.temperature if kind == "knn" else None,
                        precision=how.precision if place else "fp32",
                        step=loaded.info["provenance"].get("step") if features not in BASELINES else None,
                        train_images=len(train),
                        val_images=len(val),
                        classes=None if right[0].task == "regression" else len(right[0].names),
                        time=time.strftime("%Y-%m-%dT%H:%M:%S"),
                    )
                )
        evaluations[features] = found_here
    return [one for features, _ in named for one in evaluations[features]]


def _check_classes(readable: Answers, source: Source, split: str) -> None:
    """Raises UserError where some cannot be read and the others are of one class, so that any classifier is right."""
    found = {*readable.values.tolist()} if readable.task == "classification" else set()
    if len(readable.values) < len(source) and len(found) == 1:
        (only,) = found
        raise UserError(
            f"of the {split} images of {source.location} those of one class can be read, '{readable.names[only]}'",
            "mend the others, or give other images",
        )


def _best_place(own: Sequence[Evaluation], kind: Kind) -> Readout:
    """Where the model's own features do best."""
    best = max((one for one in own if one.kind == kind), key=lambda one: one.headline)
    assert best.layer is not None
    assert best.pool is not None
    return Readout(best.layer, best.pool)


def _functions(loaded: Loaded, how: How) -> tuple[list[Function], list[tuple[Features, Sequence[Readout | None]]]]:
    """What gives the features of a batch, and of each: what they are called, and where they are taken."""
    own: Features = "fine-tuned" if loaded.encoder_saw_labels else "pre-trained"
    encoder = loaded.encoder.to(how.device)
    functions: list[Function] = [pooled_at(encoder, loaded.statistics, how.places, how.precision)]
    named: list[tuple[Features, Sequence[Readout | None]]] = [(own, how.places)]
    if how.baselines:
        twin = untrained_twin(loaded.encoder, how.seed).to(how.device)
        untrained = pooled_at(twin, loaded.statistics, how.places, how.precision)
        functions = [raw_pixels, histograms(loaded.statistics), untrained, *functions]
        named = [("raw pixels", [None]), ("histograms", [None]), ("untrained", how.places), *named]
    return functions, named


def _figures(
    kind: Kind,
    rows: tuple[Tensor, Tensor],
    right: tuple[Answers, Answers],
    how: How,
    progress: Callable[[int, int], None],
) -> Mapping[str, Any]:
    """The figures and the strength, by the names that an Evaluation has for them."""
    # What an Apple GPU lacks (float64, eigenvalues) is done on the CPU.
    device = how.device if how.device.type != "mps" else torch.device("cpu")
    progress(0, 0)
    strength = None
    if kind == "knn":
        scores = knn_predict(rows[0], right[0], rows[1], how.k, how.temperature, device)
    else:
        scores, strength = linear_predict(rows[0], right[0], rows[1], how.seed, device, progress)
    names = ("top1", "top5", "balanced_accuracy", "auroc", "mean_ap", "r2", "mae", "majority")
    figures: dict[str, float | None] = dict.fromkeys(names)
    figures["auroc"] = mean_auroc(scores, right[1])
    if right[0].task == "classification":
        labels, known = right[1].values.astype(np.int64), right[0].values.astype(np.int64)
        figures["top1"] = accuracy(scores, torch.from_numpy(labels))
        figures["top5"] = accuracy(scores, torch.from_numpy(labels), 5) if len(right[0].names) > 5 else None
        figures["majority"] = float((labels == np.bincount(known).argmax()).mean())
        if are_unequal(labels):
            figures["balanced_accuracy"] = balanced_accuracy(labels, scores.argmax(1).numpy())
    else:
        found = measure(scores, right[1])
        figures.update({name: found[name] for name in figures if name in found})
    figures["error"] = standard_error(HEADLINE[right[0].task], scores, right[1])
    defined = {name: value if value is None or math.isfinite(value) else None for name, value in figures.items()}
    return {**defined, "strength": strength}
