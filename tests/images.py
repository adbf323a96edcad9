"""Small real image files for the tests."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

TINY = (  # a model that trains in milliseconds a step
    "--img-size 16 --patch-size 4 --embed-dim 24 --depth 1 --num-heads 2 --decoder-embed-dim 16 --decoder-depth 1 "
    "--decoder-num-heads 2 --batch-size 8 --micro-batch 5 --precision fp32 --device cpu"
).split()


def picture(seed: int, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Image.Image:
    """A smooth random image, (height, width), the same for the same seed."""
    draws = np.random.default_rng(seed)
    coarse = Image.fromarray(draws.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize(size[::-1], Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as a file of this kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def write_images(folder: Path, count: int, classes: int = 2, first: int = 0) -> Path:
    """`count` PNG and JPEG files in class folders."""
    for number in range(first, first + count):
        place = folder / f"class{number % classes}"
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number:03d}.{'png' if number % 2 else 'jpg'}")
    return folder
