"""The 15 kinds of corruption of ImageNet-C, at 5 severities, made of any images as they are read.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
arXiv 1903.12261, and the code released with it, whose every step is taken here: the short side resized to 256/224,
bilinear, the middle cut out, corrupted, and saved as JPEG. Most corruptions are those of imagecorruptions (a fork that
is kept up, imagecorruptions-imaug), which equal the authors'; `imagenet_c` has those that do not.
"""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.sources.source import Remade, Source
from openmae.data.views.centred import centred
from openmae.errors import UserError
from openmae.evaluate import imagenet_c
from openmae.randomness import generator

KINDS = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
SEVERITIES = (1, 2, 3, 4, 5)
LEAST_SIDE = 32  # pixels, for the library
DEFINITION = 2  # of the corruptions; figures of another one are measured anew
_QUALITY = 85  # of the published set's files

ALEXNET = dict(
    zip(
        KINDS,
        (0.886428, 0.894468, 0.92264, 0.81988, 0.826268, 0.785948, 0.79836, 0.866816, 0.826572, 0.819324, 0.564592,
         0.853204, 0.646056, 0.71784, 0.6065),
        strict=True,
    )
)  # fmt: skip
"""AlexNet's error on ImageNet-C, 0..1, mean over the severities, as the benchmark's authors published it."""

_OWN_SEED = ("impulse_noise", "glass_blur")  # do not draw from numpy's global generator, but take a seed

Errors = dict[str, dict[int, float]]
"""Top-1 error, 0..1, by kind and severity."""


class Corrupted(Remade):
    """Another source's images as the model sees them, corrupted: `read` gives the bytes of a JPEG file of that size.

    Image i is a function of (kind, severity, seed, i). pixels, img_size, patch_size: as the model takes them.
    """

    def __init__(
        self,
        source: Source,
        pixels: PixelFormat,
        img_size: tuple[int, int],
        patch_size: tuple[int, int],
        kind: str,
        severity: int,
        seed: int,
    ) -> None:
        super().__init__(source)
        self.pixels, self.img_size, self.patch_size = pixels, img_size, patch_size
        self.kind, self.severity, self.seed = kind, severity, seed

    def read(self, index: int) -> bytes:
        """The corrupted view. Raises as the source and `decode` do."""
        view = centred(self.source.read(index), self.pixels, self.img_size, self.patch_size, "bilinear")
        draws = generator(self.seed, "corruption", epoch=KINDS.index(self.kind), index=index, view=self.severity)
        changed, file = corrupt(view, self.kind, self.severity, draws), io.BytesIO()
        Image.fromarray(changed if changed.shape[2] == 3 else changed[..., 0]).save(
            file, "JPEG", quality=_QUALITY, optimize=True
        )
        return file.getvalue()


def corrupt(view: NDArray[np.uint8], kind: str, severity: int, draws: np.random.Generator) -> NDArray[Any]:
    """(H, W, 1 or 3) uint8 -> the same shape, corrupted; severity 1 to 5. numpy's global generator is left as it was.

    Of an image with one channel one with three is made; the first of them is taken.
    """
    library = imported()
    if kind in imagenet_c.KINDS:
        colours = np.broadcast_to(view, (*view.shape[:2], 3))
        made = imagenet_c.KINDS[kind](colours, severity, draws)
        return np.ascontiguousarray(made[..., : view.shape[2]].astype(np.uint8))  # cut to whole levels, as theirs
    own, shared = draws.integers(2**31, size=2).tolist()
    extra = {"seed": own} if kind in _OWN_SEED else {}
    before = np.random.get_state()  # noqa: NPY002 (the library draws from numpy's global generator)
    try:
        np.random.seed(shared)  # noqa: NPY002
        changed = library.corrupt(np.ascontiguousarray(view), severity, kind, **extra)
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return np.ascontiguousarray(changed[..., : view.shape[2]])


def check_corruptible(pixels: PixelFormat, img_size: tuple[int, int]) -> None:
    """Raises UserError unless views are such as ImageNet-C's corruptions are defined for, and the library is there."""
    if pixels.depth != "uint8" or pixels.in_chans not in (1, 3):
        raise UserError(
            f"`corruptions` is defined for grey and colour images of 8 bits, and this model takes {pixels.in_chans} "
            f"channels of {pixels.depth}",
            "leave it out",
        )
    if min(img_size) < LEAST_SIDE:
        raise UserError(
            f"`corruptions` needs views of {LEAST_SIDE} pixels a side or more, and this model's are {img_size[0]} x "
            f"{img_size[1]}",
            "leave it out",
        )
    # Compiled here once, before the loader processes begin, and not in each of them.
    corrupt(np.zeros((LEAST_SIDE, LEAST_SIDE, 3), np.uint8), "glass_blur", 1, generator(0, "corruption"))


def kinds_of(asked: str) -> tuple[str, ...]:
    """Those that `corruptions` names: all, or some with commas between them. Raises UserError for others."""
    words = [word.strip() for word in asked.split(",")]
    if words == ["all"]:
        return KINDS
    if not set(words) <= set(KINDS):
        raise UserError(f"`corruptions` is '{asked}'", f"give all, or some of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in words)


def kind_errors(errors: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Of each kind the mean over its severities."""
    return {kind: sum(of.values()) / len(of) for kind, of in errors.items()}


def mean_corruption_error(errors: Mapping[str, Mapping[int, float]], relative_to: Mapping[str, float] | None) -> float:
    """Mean over the kinds of their errors, or of their errors over another model's (arXiv 1903.12261, section 4)."""
    found = kind_errors(errors)
    return sum(error / (relative_to[kind] if relative_to else 1) for kind, error in found.items()) / len(found)


def is_complete(errors: Mapping[str, Mapping[int, float]]) -> bool:
    """Whether all kinds were measured at all severities."""
    return all(set(errors.get(kind, ())) == set(SEVERITIES) for kind in KINDS)


def is_imagenet(names: Sequence[str], img_size: tuple[int, int], in_chans: int) -> bool:
    """Whether AlexNet's errors are of the same task: ImageNet's 1000 classes, by WordNet id, colours at 224 pixels."""
    ids = all(len(name) == 9 and name[0] == "n" and name[1:].isdecimal() for name in names)
    return len(names) == 1000 and ids and img_size == (224, 224) and in_chans == 3


@cache
def imported() -> ModuleType:
    """The library. Raises UserError where it is not installed."""
    try:
        import cv2
        import imagecorruptions
    except ImportError as error:
        raise UserError(
            "`corruptions` needs imagecorruptions", f"pip install imagecorruptions-imaug (it says: {error})"
        ) from error
    cv2.setNumThreads(1)  # its threads do not survive a fork, and every loader process has a core of its own
    return imagecorruptions
