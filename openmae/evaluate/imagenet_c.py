"""The kinds of ImageNet-C that imagecorruptions does not make as the benchmark's authors do.

Parameters and steps are those of the code released with arXiv 1903.12261 (ImageNet-C/create_c/make_imagenet_c.py in
hendrycks/robustness). At 224 x 224 pixels it is that code's result, to a level of 255 where it calls ImageMagick;
for other sizes, of which it says nothing, lengths that it gives in parts of the side are in proportion.

Shapes: H, W pixels. A view is (H, W, 3) uint8; severity 1 to 5; draws: the view's own generator. What comes back is
(H, W, 3), 0..255, not yet cut to whole levels.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_SIDE = 224  # pixels of the benchmark's images
_FROSTS = (
    "frost1.png",
    "frost2.png",
    "frost3.png",
    "frost4.jpg",
    "frost5.jpg",
)  # the authors' code never draws the 6th


def motion_blur(view: NDArray[np.uint8], severity: int, draws: np.random.Generator) -> Floats:
    """Dragged along a line within 45 degrees of the rows."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    return _dragged(view, radius, sigma, draws.uniform(-45, 45))


def snow(view: NDArray[np.uint8], severity: int, draws: np.random.Generator) -> Floats:
    """Flakes that fall from both sides, on a picture that has lost colour."""
    import cv2

    mean, deviation, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    flakes = _zoomed(draws.normal(mean, deviation, view.shape[:2]), zoom)
    flakes = np.where(flakes < least, 0, flakes).clip(0, 1)
    falling = _dragged((flakes * 255).astype(np.uint8)[..., None], radius, sigma, draws.uniform(-135, -45)) / 255
    image = view.astype(np.float32) / 255
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    paler = kept * image + (1 - kept) * np.maximum(image, grey * 1.5 + 0.5)
    return 255 * np.clip(paler + falling + falling[::-1, ::-1], 0, 1)


def frost(view: NDArray[np.uint8], severity: int, draws: np.random.Generator) -> Floats:
    """A part of one of five pictures of frost laid over it."""
    kept, added = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width = view.shape[:2]
    picture = _frost(_FROSTS[draws.integers(len(_FROSTS))], (height, width))
    top, left = (int(draws.integers(0, have - side)) for have, side in zip(picture.shape[:2], view.shape, strict=False))
    part = picture[top : top + height, left : left + width]
    return np.clip(kept * view.astype(np.float64) + added * part, 0, 255)


def elastic_transform(view: NDArray[np.uint8], severity: int, draws: np.random.Generator) -> Floats:
    """An affine map of three random points, then a smooth displacement of every pixel."""
    import cv2

    strength, smoothness, affine = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02),
                                    (0.12, 0.01, 0.02))[severity - 1]  # fmt: skip
    size = height, width = view.shape[:2]
    unit = 244 * min(size) / _SIDE  # the authors' slip, which their images have
    middle, reach = np.array([width // 2, height // 2], np.float32), min(size) // 3
    before = np.stack([middle + reach, middle + np.array([reach, -reach]), middle - reach]).astype(np.float32)
    after = before + draws.uniform(-affine * unit, affine * unit, before.shape).astype(np.float32)
    rows, columns = np.mgrid[:height, :width]
    # As cv2.warpAffine does from OpenCV 5 on; older ones round places to 1/32 of a pixel, up to 4 levels at edges.
    back = cv2.getAffineTransform(after, before)
    x, y = (a * columns + b * rows + c for a, b, c in back)
    image = _moved(view.astype(np.float32) / 255, [y, x], "mirror")
    along, across = (_smoothing(side, smoothness * unit) for side in size)
    right, down = (strength * unit * (along @ draws.uniform(-1, 1, size) @ across.T) for _ in range(2))
    return 255 * _moved(image, [rows + down, columns + right], "reflect").clip(0, 1)


KINDS = {kind.__name__: kind for kind in (motion_blur, snow, frost, elastic_transform)}


def _dragged(image: NDArray[np.uint8], radius: int, sigma: float, degrees: float) -> Floats:
    """(H, W, C) blurred along a line by one half of a Gaussian, as ImageMagick's motion blur does it: neighbours on
    whole pixels, of which those outside are the nearest inside; levels of 65535, of which whole ones of 255 are kept.
    """
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle, reach = math.radians(degrees), len(taps)
    down, right = (np.ceil(taps * part - 0.5).astype(int) + reach for part in (math.sin(angle), math.cos(angle)))
    height, width = image.shape[:2]
    wide = np.pad(image.astype(np.float64), ((reach, reach), (reach, reach), (0, 0)), "edge")
    blurred = np.zeros(image.shape)
    for weight, top, left in zip(weights.tolist(), down.tolist(), right.tolist(), strict=True):
        blurred += weight * wide[top : top + height, left : left + width]
    return np.floor(np.floor(257 * blurred + 0.5) / 257)


def _moved(image: Floats, places: list[Floats], mode: str) -> Floats:
    """(H, W, C) -> the image at these rows and columns (H, W) of it, between pixels linearly."""
    from scipy.ndimage import map_coordinates

    return np.stack([map_coordinates(image[..., at], places, order=1, mode=mode) for at in range(image.shape[2])], -1)


def _zoomed(plane: Floats, factor: float) -> Floats:
    """(H, W) -> its middle, enlarged to the same size."""
    from scipy.ndimage import zoom

    parts = [math.ceil(side / factor) for side in plane.shape]
    starts = [(side - part) // 2 for side, part in zip(plane.shape, parts, strict=True)]
    middle = plane[starts[0] : starts[0] + parts[0], starts[1] : starts[1] + parts[1]]
    larger = zoom(middle, factor, order=1)
    top, left = ((have - side) // 2 for have, side in zip(larger.shape, plane.shape, strict=True))
    return larger[top : top + plane.shape[0], left : left + plane.shape[1]]


@lru_cache(maxsize=2 * len(_FROSTS))
def _frost(name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture (h, w, 3), enlarged where it is not larger than `size`."""
    import cv2
    import imagecorruptions

    # Read by the same decoder as the authors', whose JPEGs another might read a level apart.
    read = cv2.imread(str(Path(imagecorruptions.__file__).parent / "frost" / name))
    assert read is not None
    picture = read[..., ::-1]
    factor = max((side + 1) / have for side, have in zip(size, picture.shape, strict=False))
    if factor > 1:
        sides = [math.ceil(have * factor) for have in picture.shape[:2]]
        picture = cv2.resize(picture, (sides[1], sides[0]), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(picture)


@lru_cache(maxsize=16)
def _smoothing(side: int, sigma: float) -> Floats:
    """(side, side): the matrix that smooths `side` numbers by a Gaussian, mirrored at the ends."""
    from scipy.ndimage import gaussian_filter1d

    found: Floats = gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=3)
    return found
