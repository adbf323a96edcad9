"""Supervised: the ViT from scratch on the labels of the images that the others learn from without (MAE, Table 11)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.baselines.method import Method, Size
from openmae.data.loading.stream import Batch
from openmae.data.tasks import Answers
from openmae.data.views.mixing import GROUP, Mixing
from openmae.errors import UserError
from openmae.heads import Classifier, Encoder
from openmae.model import ViT

SMOOTHING = 0.1
MIXING = Mixing(mixup=0.8, cutmix=1.0)


class Supervised(Method):
    """A linear layer on the mean of the patches; mixup, cutmix and label smoothing."""

    betas = (0.9, 0.95)
    least_micro_batch = GROUP
    values: Tensor

    def __init__(self, encoder: ViT, size: Size, right: Answers | None = None) -> None:
        """Raises UserError without labels, or with numbers for labels."""
        super().__init__(encoder, size)
        if right is None or right.task == "regression":
            raise UserError(
                "the method supervised learns classes, and DATA has " + ("no labels" if right is None else "numbers"),
                "leave it out, or give images in class folders or a table with labels",
            )
        self.task, self.names = right.task, right.names
        self.classifier = Classifier(encoder, len(right.names))
        self.register_buffer("values", torch.from_numpy(right.values), persistent=False)

    def loss(self, views: Sequence[Tensor], batch: Batch) -> Tensor:
        """Cross entropy; of several labels at once, a binary one for each."""
        wanted = self.values[batch.indices.to(self.values.device)]
        if self.task == "classification":
            wanted = F.one_hot(wanted, len(self.names))
        step, place = divmod(batch.start, self.size.batch_size)
        images, wanted = MIXING(views[0], wanted.float(), self.size.seed, step, place)
        scores = self.classifier(images).float()
        if self.task == "multi-label":
            return F.binary_cross_entropy_with_logits(scores, wanted)
        return F.cross_entropy(scores, wanted, label_smoothing=SMOOTHING)

    def left(self) -> Classifier | Encoder:
        """The whole classifier, so that who reads it knows that it has seen labels."""
        return self.classifier

    def said(self) -> dict[str, Any]:
        """What its outputs stand for."""
        return {"task": self.task, "class_names": self.names}
