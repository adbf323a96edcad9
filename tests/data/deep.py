"""Images of any channels and depths, encoded in memory, and their moments by torch."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from openmae.data.sources.source import Source
from openmae.errors import BrokenImage

WHITE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


class Files(Source):
    """Encoded images in memory."""

    location = "files"

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return f"file {index}"

    def read(self, index: int) -> bytes:
        if not self.files[index]:
            raise BrokenImage("there is nothing")
        return self.files[index]

    @property
    def fingerprint(self) -> str:
        return ""

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.empty(0, np.int64)


def tiff(image: NDArray[Any]) -> bytes:
    """(H, W, C)"""
    file = io.BytesIO()
    colour = image.shape[2] == 3
    tifffile.imwrite(
        file, image if image.shape[2] > 1 else image[..., 0], photometric="rgb" if colour else "minisblack",
        **({"planarconfig": "contig"} if image.shape[2] > 1 else {}),
    )  # fmt: skip
    return file.getvalue()


def images_of(depth: str, channels: int, count: int = 9, seed: int = 0) -> list[NDArray[Any]]:
    """Images of different sizes, dark ones and bright ones."""
    draws = np.random.default_rng(seed)
    images: list[NDArray[Any]] = []
    for number in range(count):
        shape = (int(draws.integers(9, 30)), int(draws.integers(9, 30)), channels)
        values = draws.beta(1 + number % 9, 3, shape)
        images.append((values * WHITE[depth]).astype(depth) if depth != "float32" else values.astype(depth) * 20 + 280)
    return images


def torch_moments(images: Sequence[NDArray[Any]], depth: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (C,) of all pixels, each image weighing the same."""
    scaled = [torch.from_numpy(image.astype(np.float64) / WHITE[depth]) for image in images]
    mean = torch.stack([image.mean((0, 1)) for image in scaled]).mean(0)
    squares = torch.stack([((image - mean) ** 2).mean((0, 1)) for image in scaled]).mean(0)
    return mean, squares.sqrt()
