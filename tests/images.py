"""Small real image files for the tests."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


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


def write_colours(folder: Path, count: int = 24, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """Classes that a glance tells apart: red, green and blue images."""
    for split in splits:
        for number in range(count):
            shade = np.asarray(picture(number + 1000 * (split == "val"))).astype(int) // 3
            shade[..., number % 3] += 150
            place = folder / split / ("red", "green", "blue")[number % 3]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shade.astype(np.uint8)).save(place / f"{number:03d}.png")
    return folder
