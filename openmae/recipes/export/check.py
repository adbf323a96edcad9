"""What every export is judged by: the same real images through the model and through what was written of it."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from openmae.data.bundled import bundled_pictures
from openmae.data.opening import Data
from openmae.data.views.statistics import WHITE
from openmae.errors import UserError
from openmae.evaluate.features import centred_images
from openmae.heads import Answering, Classifier, Encoder, Neighbours
from openmae.model import MaskedAutoencoder
from openmae.weights import Loaded, Model

TOLERANCE = 1e-4
"""Largest difference in float32 that an export may have; of outputs above 10, of which float32 holds fewer decimals, a
hundred-thousandth of the largest."""
IMAGES = 8


@dataclass(frozen=True)
class Compared:
    """How far the other library's outputs are from ours.

    difference: the largest, of any output of any image. largest: of our outputs' sizes. by: the library that computed
    the others, with its version. outputs: what was compared.
    """

    difference: float
    largest: float
    by: str
    outputs: str

    @property
    def allowed(self) -> float:
        """The largest difference that is taken for rounding."""
        return TOLERANCE * max(1.0, self.largest / 10)


def compared(ours: Tensor, theirs: Tensor, by: str, outputs: str) -> Compared:
    """Of two tensors. Raises UserError where their shapes differ, or ours are no numbers."""
    if ours.shape != theirs.shape:
        raise UserError(
            f"{by} gives outputs of shape {tuple(theirs.shape)} where the model gives {tuple(ours.shape)}",
            "nothing was written; please report this, with the command",
        )
    if not ours.isfinite().all():
        raise UserError(
            f"the model's {outputs} of real images are not finite numbers, so nothing was written: its weights are "
            "damaged, or too large"
        )
    difference = (ours.double() - theirs.double()).abs().max().item()
    return Compared(float("inf") if np.isnan(difference) else difference, ours.abs().max().item(), by, outputs)


def exported(model: Model) -> Encoder | Classifier:
    """What formats for layers hold of it; a classifier's batch norm becomes a part of its linear layer."""
    return model.without_batch_norm() if isinstance(model, Classifier) else Encoder(model.encoder)


def served(model: Model) -> nn.Module:
    """What graphs hold of it, which may compare with labelled images too, or give the class of each pixel."""
    return model if gives_scores(model) and not isinstance(model, Classifier) else exported(model)


def gives_scores(model: Model) -> bool:
    """Whether its outputs have names: those of whole images (B, K), or of each pixel (B, K, H, W)."""
    if isinstance(model, Answering | MaskedAutoencoder | Encoder):
        return isinstance(model, Answering)
    from openmae.transfer.segmenter import Segmenter  # with torchvision, which takes a while

    return isinstance(model, Segmenter)


def check_layers(loaded: Loaded, library: str) -> None:
    """Raises UserError where the library's models are layers alone, and this one compares with labelled images."""
    if isinstance(loaded.model, Neighbours):
        raise UserError(
            f"{loaded.name} answers by its nearest neighbours among {len(loaded.model.bank):,} labelled images, for "
            f"which {library} has no layer",
            "export it to onnx or pt2, which hold them too; or make a linear layer of them: openmae probe MODEL DATA "
            "--out RUN",
        )


@torch.no_grad()
def reference(model: Model, images: Tensor) -> Tensor:
    """Normalised images (B, C, H, W) -> a classifier's scores (B, K), a segmenter's (B, K, H, W), or the encoder's
    features (B, T + N, D)."""
    scores: Tensor = model(images) if gives_scores(model) else model.encoder(images)
    return scores


def what_is_compared(model: Model) -> str:
    """Scores, or features."""
    return "scores" if gives_scores(model) else "features"


def real_images(loaded: Loaded, data: Data | None) -> Tensor:
    """(B, C, H, W), normalised, of the model's size: the first of DATA that can be read, or photographs that come with
    the installation, their colours repeated for the channels that they do not have. Raises UserError."""
    if data is None:
        pixels = torch.from_numpy(np.stack(_bundled(loaded)))
        return loaded.statistics.normalize(pixels)
    source = data.all
    images = centred_images(loaded.encoder, loaded.statistics, source.take(np.arange(min(len(source), 4 * IMAGES))))
    for batch, indices in images.batches(IMAGES, 1):
        if indices:
            return loaded.statistics.normalize(batch[:IMAGES])
    raise images.why_none()


def _bundled(loaded: Loaded) -> list[NDArray[np.float32]]:
    """Squares from the middle of IMAGES pictures, as float32 (C, H, W) on the scale of the model's pixels."""
    height, width = loaded.encoder.img_size
    channels = loaded.encoder.in_chans
    found = []
    for _, picture in islice(bundled_pictures(), IMAGES):
        resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        repeated = np.take(resized, np.arange(channels) % 3, axis=2)
        found.append((repeated / WHITE["uint8"]).astype(np.float32).transpose(2, 0, 1))
    return found
