"""What a smaller graph loses on a user's images: figures of both graphs, computed from the same pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from openmae.commandline.flags import with_flags
from openmae.console.progress import counting
from openmae.data.held_out import split_for
from openmae.data.opening import Data
from openmae.data.sources.source import Source
from openmae.data.tasks import Answers, Task, answers
from openmae.errors import UserError
from openmae.evaluate.features import centred_images, extract_each
from openmae.evaluate.knn import knn_predict
from openmae.evaluate.predict import HEADLINE, measure
from openmae.evaluate.subsets import question
from openmae.heads import Answering
from openmae.machine.workers import workers_for
from openmae.randomness import generator
from openmae.recipes.evaluate.job import judged_images
from openmae.weights import Loaded

Graph = Callable[[Tensor], Tensor]  # images (B, C, H, W), normalised -> scores (B, K) or features (B, T + N, D)

MOST_IMAGES = 2000  # of a set; both graphs see the same ones, so that small differences show
_CPU = torch.device("cpu")
_BATCH = 32


@dataclass(frozen=True)
class Judgement:
    """Figures of the exact graph and of the smaller one on the same images.

    agreement: how alike their outputs are, see `agreement`. figure: the name of the task's figure, such as top1, by kNN
    on the features where there is no head; values: of the exact graph and of the smaller one. why_none: why there is
    no such figure.
    """

    data: str
    images: int
    agreement: float | None
    figure: str | None = None
    values: tuple[float, float] | None = None
    why_none: str | None = None


def judge(loaded: Loaded, model: Path, graphs: Sequence[Graph], data: Data, console: Console) -> Judgement:
    """Both graphs on DATA: its val split, or what the model held out of it, or all of it, MOST_IMAGES at most.

    Raises UserError where none of the images can be read."""
    try:
        references, (source, right, outputs) = _labelled(loaded, model, data)
    except UserError as error:
        both, _ = _outputs(loaded, graphs, _few(data.val), console)
        return Judgement(data.location, len(both[0]), agreement(loaded, *both), why_none=with_flags(str(error)))
    both, indices = _outputs(loaded, graphs, source, console)
    right = _at(right, indices)
    if references is None:
        scores = [one[:, outputs] for one in both]
    else:
        reference_features, seen = _outputs(loaded, graphs, references[0], console)
        known = _at(references[1], seen)
        scores = [knn_predict(one, known, two) for one, two in zip(reference_features, both, strict=True)]
    figure = HEADLINE[right.task]
    exact, smaller = (measure(one, right)[figure] for one in scores)
    return Judgement(data.location, len(indices), agreement(loaded, *both), figure, (exact, smaller))


def agreement(loaded: Loaded, ours: Tensor, theirs: Tensor) -> float | None:
    """Of scores (n, K), the share of equal answers, None where they are numbers; of pooled features (n, D), the mean
    cosine similarity."""
    if not isinstance(loaded.model, Answering):
        return F.cosine_similarity(ours.double(), theirs.double()).mean().item()
    task: Task | None = loaded.info["task"]
    if task == "regression":
        return None
    if task == "multi-label":
        return ((ours > 0) == (theirs > 0)).double().mean().item()
    return (ours.argmax(dim=1) == theirs.argmax(dim=1)).double().mean().item()


def one_vector_each(loaded: Loaded, outputs: Tensor) -> Tensor:
    """Scores as they are; of features (B, T + N, D) the mean of the patch tokens."""
    return outputs if outputs.ndim == 2 else outputs[:, loaded.encoder.class_tokens :].mean(dim=1)


def _labelled(
    loaded: Loaded, model: Path, data: Data
) -> tuple[tuple[Source, Answers] | None, tuple[Source, Answers, NDArray[np.int64]]]:
    """(what kNN knows, for an encoder; the images to judge by, their answers, which outputs these are of).

    Raises UserError where DATA has no labels that this model could be judged by."""
    if isinstance(loaded.model, Answering):
        _ = loaded.classifier  # which says where it does not know what its outputs stand for
        source, _ = judged_images(data, None, model, loaded, loaded.info["task"])
        asked = question(source, loaded.info["task"], loaded.info["class_names"])
        return None, (*_few_labelled(source, asked.right), asked.outputs)
    taken, train, val = split_for(data, None, 0)
    known = answers(train, taken.task)
    right = answers(val, taken.task, known.names)
    return _few_labelled(train, known), (*_few_labelled(val, right), np.arange(len(known.names)))


def _few(source: Source) -> Source:
    return source if len(source) <= MOST_IMAGES else source.take(_chosen(len(source)))


def _few_labelled(source: Source, right: Answers) -> tuple[Source, Answers]:
    if len(source) <= MOST_IMAGES:
        return source, right
    chosen = _chosen(len(source))
    return source.take(chosen), _at(right, chosen)


def _chosen(count: int) -> NDArray[np.int64]:
    return np.sort(generator(0, "few").permutation(count)[:MOST_IMAGES])


def _at(right: Answers, indices: NDArray[np.int64]) -> Answers:
    return replace(right, values=right.values[indices])


def _outputs(
    loaded: Loaded, graphs: Sequence[Graph], source: Source, console: Console
) -> tuple[list[Tensor], NDArray[np.int64]]:
    """A vector of each graph for each image that can be read (n, K or D), and which images these are."""

    def vectors(graph: Graph) -> Graph:
        return lambda images: one_vector_each(loaded, graph(loaded.statistics.normalize(images)))

    images = centred_images(loaded.encoder, loaded.statistics, source)
    with counting("comparing", len(images), console) as say:
        both, indices = extract_each(images, [vectors(g) for g in graphs], _CPU, workers_for(None, _CPU), _BATCH, say)
    return both, indices.numpy()
