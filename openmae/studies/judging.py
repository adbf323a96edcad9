"""How the models of a study are judged: by labels, where there are some, else by figures that need none."""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.progress import counting
from openmae.data.formats.reading import Reading
from openmae.data.held_out import answers_to_learn, split_for
from openmae.data.opening import Data, open_data
from openmae.data.sources.groups import groups_of
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source, Subset
from openmae.data.tasks import Answers, Task, answers
from openmae.errors import UserError
from openmae.evaluate.agreement import agreement, two_views
from openmae.evaluate.features import centred_images, extract, pooled
from openmae.evaluate.knn import knn_predict
from openmae.evaluate.predict import predict
from openmae.evaluate.probe import linear_predict
from openmae.evaluate.rank import rankme
from openmae.evaluate.suited import suited
from openmae.heads import Pool
from openmae.machine.device import choose_device, choose_precision
from openmae.machine.kinds import Device, Precision
from openmae.machine.workers import workers_for
from openmae.randomness import generator
from openmae.recipes.opened import tell
from openmae.studies.figures import AGREEMENT, FINETUNED, RANKME, RANKME_WITHOUT
from openmae.studies.outcomes import Outcome, outcome_of, save_outcomes
from openmae.weights import Loaded, load_model

MOST_UNLABELLED = 2000  # images of which neighbours are looked for
JACKKNIFE = 10  # groups of images, of which RankMe leaves one out
FEW = 20  # labels a class, where the smallest class has as many
FEW_SHARE = "10%"


@dataclass(frozen=True)
class Means:
    """By what models are judged, all of a study alike. device, workers: where features are computed, and processes that
    load. selection, reading: of the judging images. task: of their labels, None for what they say. pool: what is a
    feature. seed: of what is drawn. heads: attention heads of a model that does not say them, by its path."""

    device: torch.device
    workers: int
    precision: Precision
    console: Console
    selection: Selection
    reading: Reading
    task: Task | None
    pool: Pool
    seed: int
    heads: Mapping[Path, dict[str, int | None]]


class Asked(Protocol):
    """What every study is asked of how it judges."""

    # ruff: noqa: D102
    @property
    def device(self) -> Device: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def precision(self) -> Literal["auto", "bf16", "fp32"]: ...
    @property
    def selection(self) -> Selection: ...
    @property
    def reading(self) -> Reading: ...
    @property
    def task(self) -> Task | None: ...
    @property
    def pool(self) -> Pool: ...
    @property
    def seed(self) -> int: ...


def means_of(asked: Asked, console: Console, heads: Mapping[Path, dict[str, int | None]]) -> Means:
    """By what the models of a study are judged. Raises UserError."""
    device = choose_device(asked.device)
    return Means(
        device,
        workers_for(asked.workers, device),
        choose_precision(device)[0] if asked.precision == "auto" else asked.precision,
        console,
        asked.selection,
        asked.reading,
        asked.task,
        asked.pool,
        asked.seed,
        heads,
    )


@dataclass(frozen=True)
class Labelled:
    """Images with labels: to learn from, and to judge by; what is right for both."""

    data: str
    task: Task
    train: Source
    val: Source
    right: Answers
    asked: Answers
    units: NDArray[np.int64]
    """(n,) of the val images, as an Outcome has them."""

    @property
    def fingerprint(self) -> str:
        """Of both, without their labels."""
        return f"{self.train.fingerprint} {self.val.fingerprint}"

    @property
    def answers(self) -> str:
        """A digest of the labels of both."""
        digest = hashlib.sha256("\n".join(self.right.names).encode(errors="surrogateescape"))
        for half in (self.right, self.asked):
            digest.update(half.values.tobytes())
        return digest.hexdigest()

    def few(self, asked: str | None) -> str | None:
        """How many labels fine-tuning gets; None for no fine-tuning."""
        if asked is not None:
            return None if asked == "none" else asked
        if self.task != "classification":
            return FEW_SHARE
        return f"{min(FEW, int(np.bincount(self.right.values)[np.unique(self.right.values)].min()))}-per-class"


def open_labelled(data: str, means: Means, seed: int, console: Console) -> Labelled:
    """seed: of what is held out where there are no splits. Raises UserError where there are no labels of use."""
    opened = open_data(data, means.selection, means.reading)
    taken, train, val = split_for(opened, means.task, seed)
    tell(opened, console, train, val)
    console.print(with_flags(str(taken)), soft_wrap=True)
    right = answers_to_learn(train, taken.task, means.selection)
    asked = answers(val, taken.task, right.names)
    return Labelled(data, taken.task, train, val, right, asked, units_of(val, means.selection))


def units_of(source: Source, selection: Selection) -> NDArray[np.int64]:
    """(n,) the same number for the same image of DATA in whatever split, or for its group where there are such."""
    if (groups := groups_of(source, selection)) is not None:
        return np.array([zlib.crc32(group.encode(errors="surrogateescape")) for group in groups], np.int64)
    if (together := source.together) is not None:
        return together
    return source.indices if isinstance(source, Subset) else np.arange(len(source))


def unlabelled(data: Data, seed: int) -> Source:
    """Images of which neighbours are looked for: of val where there is one."""
    source = data.val
    if len(source) <= MOST_UNLABELLED:
        return source
    return source.take(np.sort(generator(seed, "few").permutation(len(source))[:MOST_UNLABELLED]))


def judge_by_labels(model: Path, labelled: Labelled, means: Means, file: Path) -> dict[str, Any]:
    """kNN and a linear classifier on its frozen features, as `openmae knn` and `openmae probe` judge them; gives the
    figures, and keeps what was said of each image in `file`."""
    loaded = loaded_for(model, labelled.train, means)
    (train, train_rows), (val, val_rows) = (
        _features(loaded, source, means, said)
        for source, said in ((labelled.train, "train features"), (labelled.val, "val features"))
    )
    right, asked = labelled.right.at(train_rows), labelled.asked.at(val_rows)
    units = labelled.units[val_rows]
    scores = {
        "knn": knn_predict(train, right, val, device=means.device),
        "linear": linear_predict(train, right, val, means.seed, means.device)[0],
    }
    outcomes = {kind: outcome_of(found, asked, units) for kind, found in scores.items()}
    save_outcomes(file, outcomes)
    return {**{kind: one.figure() for kind, one in outcomes.items()}, RANKME.name: rankme(train)}


def frozen_features(model: Path, source: Source, means: Means, said: str) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """(n, D) of a model, of the images that can be read, and which these are."""
    return _features(loaded_for(model, source, means), source, means, said)


def judge_finetuned(run: Path, labelled: Labelled, means: Means, file: Path, figure: str = FINETUNED) -> dict[str, Any]:
    """What a fine-tuned model says of the val images that its seed holds out."""
    loaded = loaded_for(run, labelled.val, means)
    model = loaded.classifier
    images = centred_images(loaded.encoder, loaded.statistics, labelled.val)
    with counting("val images", len(labelled.val), means.console) as say:
        scores, rows = predict(
            model.to(means.device), loaded.statistics, images, means.device, means.workers, progress=say
        )
    asked = answers(labelled.val, labelled.task, tuple(loaded.info["class_names"])).at(rows)
    outcome = outcome_of(scores, asked, labelled.units[rows])
    save_outcomes(file, {figure: outcome})
    return {figure: outcome.figure()}


def judge_without_labels(model: Path, source: Source, means: Means, file: Path) -> dict[str, Any]:
    """Neighbour agreement, of which each image has a share, and RankMe, with each of some groups of images left out."""
    loaded = loaded_for(model, source, means)
    vectors, _ = _features(loaded, source, means, "features")
    function = pooled(loaded.encoder, loaded.statistics, means.pool, precision=means.precision)
    with counting("two crops of each image", len(source), means.console) as say:
        views = two_views(
            loaded.encoder, loaded.statistics, source, function, means.device, means.workers, means.seed, say
        )
    shares = agreement(views)
    nothing = np.zeros((len(shares), 0), np.float32)
    outcome = Outcome("share", shares[:, None], nothing, units_of(source, means.selection)[views.indices])
    save_outcomes(file, {AGREEMENT.name: outcome})
    group = torch.arange(len(vectors)) % JACKKNIFE
    without = [rankme(vectors[group != number]) for number in range(JACKKNIFE)]
    return {AGREEMENT.name: outcome.figure(), RANKME.name: rankme(vectors), RANKME_WITHOUT: without}


def loaded_for(model: Path, source: Source, means: Means) -> Loaded:
    """The model for these images, on the device."""
    loaded = load_model(model, **means.heads.get(model, {}))
    loaded = suited(loaded, source, means.reading, means.workers, Console(quiet=True))
    loaded.encoder.eval().to(means.device)
    return loaded


def _features(loaded: Loaded, source: Source, means: Means, said: str) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """(n, D) of the images that can be read, and which these are."""
    function = pooled(loaded.encoder, loaded.statistics, means.pool, precision=means.precision)
    images = centred_images(loaded.encoder, loaded.statistics, source)
    with counting(said, len(source), means.console) as say:
        found, rows = extract(images, function, means.device, means.workers, progress=say)
    return found, rows.numpy()


def no_labels(error: UserError, console: Console) -> None:
    """Says why figures that need none judge."""
    console.print(
        f"No labels to judge by ({with_flags(error.what)}): neighbour agreement and RankMe, which need none, judge; "
        "--labels LABELLED would tell more",
        soft_wrap=True,
    )
