"""What `pretrain` measures as training goes on: a nearest-neighbour figure where there are labels, and RankMe always.

Both are taken of the last layer's mean-pooled features of a bounded sample, the same every time, so they show whether
the features get better, which the loss does not. Training does not feel it: nothing random is drawn, no weight changes.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from openmae.commandline.flags import with_flags
from openmae.data.loading.in_order import CentredImages, KeptImages
from openmae.data.sources.source import Source
from openmae.data.tasks import Answers, answers, task_of
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.evaluate.features import centred_images, extract, pooled
from openmae.evaluate.knn import knn_predict
from openmae.evaluate.metrics import accuracy
from openmae.evaluate.rank import rankme
from openmae.heads import Encoder
from openmae.machine.memory import ram
from openmae.model import MaskedAutoencoder, ViT
from openmae.randomness import some
from openmae.recipes.training.kind import Here
from openmae.recipes.training.schedule import Course

MOST_REFERENCES, MOST_QUERIES = 5000, 1000
FEWEST = 600  # images of a sample, however short the run
_SHARE = 0.05  # of the images that training sees, at most, are looked at for this
_FEW = 1000
_MOST_BYTES = 2**28  # of a sample that stays decoded in memory


def most_looked_at(passes: float) -> int:
    """Images that a look takes, where there are enough: training sees `passes` between two looks."""
    return min(MOST_REFERENCES + MOST_QUERIES, max(FEWEST, int(passes * _SHARE)))


class Watch:
    """Measures the features of a model in training."""

    def __init__(
        self,
        encoder: ViT,
        statistics: Statistics,
        images: tuple[Source, Source | None],
        passes: int,
        course: Course,
        here: Here,
    ) -> None:
        """Chooses the sample; images are read when they are first asked for.

        images: (train, val), where the queries are from val; None: from train, apart from the references.
        passes: images that training sees between two looks, which bounds the sample. All ranks have to ask for the
        figures together.
        """
        self.statistics, self.here, self.precision = statistics, here, course.schedule.precision
        (train, val), seed = images, course.seed
        most = most_looked_at(passes)
        queries = min(MOST_QUERIES, most // 3)
        references = min(MOST_REFERENCES, most - queries)
        queries = queries if val is not None else min(queries, len(train) // 5)
        order = some(seed, "watch", len(train), references + queries, index=0)
        if val is None:
            asked, order = train.take(order[:queries]), order[queries:]
        else:
            asked = val.take(some(seed, "watch", len(val), queries, index=1))
        self.sources = [train.take(order[:references]), asked]
        # Starting processes takes longer than reading few images.
        self.workers = here.workers if sum(map(len, self.sources)) > _FEW else 0
        self.labels: list[Answers] = []
        try:
            self.labels = self._labels(train)
        except UserError as error:
            here.console.print(
                f"No kNN figure during training, for want of labels ({with_flags(str(error))}); RankMe is logged",
                soft_wrap=True,
            )
        self.images = [_small_or_not(centred_images(encoder, statistics, source)) for source in self.sources]

    def _labels(self, train: Source) -> list[Answers]:
        """The classes of references and queries. Raises UserError where there are none of use."""
        task = task_of(train)
        if task != "classification":
            raise UserError(f"its labels are for {task}", "measure that with openmae probe")
        names = train.class_names
        found = [answers(source, task, names) for source in self.sources]
        if len(found[1].values) == 0:
            raise UserError("too few images to ask about")
        return found

    def __call__(self, model: MaskedAutoencoder | Encoder) -> dict[str, Any]:
        """{"rankme": ..., "eval/knn_top1": ...}; less where that cannot be measured."""
        was_training = model.training
        model.eval()
        try:
            features, indices = self._features(model, 0)
            figures = {"rankme": round(rankme(features), 3)}
            if self.labels:
                asked, asked_indices = self._features(model, 1)
                right, wanted = (
                    replace(labels, values=labels.values[rows.numpy()])
                    for labels, rows in zip(self.labels, (indices, asked_indices), strict=True)
                )
                scores = knn_predict(features, right, asked)
                figures["eval/knn_top1"] = accuracy(scores, torch.from_numpy(wanted.values))
        except (UserError, OSError) as error:  # the run does not end for want of a figure
            self.here.console.print(
                f"warning: the features are not measured: {with_flags(str(error))}", style="yellow", soft_wrap=True
            )
            return {}
        finally:
            model.train(was_training)
        return figures

    def _features(self, model: MaskedAutoencoder | Encoder, which: int) -> tuple[Tensor, Tensor]:
        """(n, D) of the references (0) or the queries (1), and which of them these are."""
        function = pooled(model.encoder, self.statistics, "mean", precision=self.precision)
        return extract(self.images[which], function, self.here.device, self.workers, ranks=self.here.ranks)


def _small_or_not(images: CentredImages) -> CentredImages:
    """The images, kept in memory where they are small."""
    kept = KeptImages(images.source, images.pixels, images.img_size, images.patch_size)
    return kept if kept.nbytes <= min(_MOST_BYTES, ram() // 32) else images
