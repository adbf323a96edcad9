"""What the images are like: per-channel mean and standard deviation, and their usual size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openmae.data.decode import BrokenImage, decode, patch_complaint
from openmae.data.folder import ImageFolder
from openmae.data.order import generator
from openmae.errors import UserError


@dataclass(frozen=True)
class Statistics:
    """Per-channel mean and standard deviation of pixels scaled to 0..1; they travel with the weights."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32, each channel of mean 0 and standard deviation 1 over the data."""
        mean, std = self._as_tensors(images)
        return (images.float() / 255 - mean) / std

    def denormalize(self, images: Tensor) -> Tensor:
        """Normalised (B, C, H, W) -> float32 pixels, 0..1 for what an image can hold."""
        mean, std = self._as_tensors(images)
        return images * std + mean

    def _as_tensors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[1] != len(self.mean):
            raise ValueError(f"statistics of {len(self.mean)} channels do not fit images of {images.shape[1]}")
        mean, std = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return mean, std


@dataclass(frozen=True)
class Survey:
    """A look at a sample of the data: `statistics`, median (height, width), the size of every image by its index,
    and (index, reason) of broken files."""

    statistics: Statistics
    size: tuple[int, int]
    sizes: dict[int, tuple[int, int]]
    looked_at: int
    broken: tuple[tuple[int, str], ...]

    def smaller_than(self, patch_size: tuple[int, int]) -> list[tuple[int, str]]:
        """(index, reason) of images that do not cover one patch."""
        found = ((index, patch_complaint(size, patch_size)) for index, size in self.sizes.items())
        return [(index, complaint) for index, complaint in found if complaint]


def survey(source: ImageFolder, in_chans: int, seed: int, most: int = 2048) -> Survey:
    """Decodes up to `most` images, chosen by the seed, each image weighing the same.

    Raises UserError where none of them can be read.
    """
    count = min(most, len(source))
    chosen: Sequence[int] = np.sort(generator(seed, "split").permutation(len(source))[:count]).tolist()
    first, second = np.zeros(in_chans), np.zeros(in_chans)
    sizes: dict[int, tuple[int, int]] = {}
    broken: list[tuple[int, str]] = []
    for index in chosen:
        try:
            pixels = decode(source.read(index), in_chans)
        except (OSError, BrokenImage) as error:
            broken.append((index, str(error)))
            continue
        sizes[index] = pixels.shape[:2]
        # A histogram gives exact moments of 8-bit pixels without a float copy of the image.
        for channel in range(in_chans):
            counts = np.bincount(pixels[..., channel].reshape(-1), minlength=256) / (pixels.shape[0] * pixels.shape[1])
            first[channel] += counts @ _LEVELS
            second[channel] += counts @ _LEVELS**2
    if not sizes:
        raise UserError(
            f"none of {count} images tried in {source.root} can be read (the first: {source.paths[broken[0][0]]}: "
            f"{broken[0][1]}): check the files"
        )
    mean = first / len(sizes)
    std = np.sqrt(np.maximum(second / len(sizes) - mean**2, 0))
    std = np.where(std < 1e-3, 1.0, std)  # a constant channel stays constant
    statistics = Statistics(tuple(mean.round(6).tolist()), tuple(std.round(6).tolist()))
    median = tuple(int(np.median([size[axis] for size in sizes.values()])) for axis in (0, 1))
    return Survey(statistics, (median[0], median[1]), sizes, count, tuple(broken))


_LEVELS = np.arange(256) / 255
