"""What the images are like: channels, depth, usual size, and the mean and standard deviation of each channel."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.header import Depth
from openmae.data.formats.reading import Reading

DEPTHS: tuple[Depth, ...] = ("uint8", "uint16", "float32")  # each holds what those before it hold
WHITE: dict[Depth, float] = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}  # what is scaled to 1


@dataclass(frozen=True)
class Statistics:
    """Per-channel mean and standard deviation of scaled pixels, and which pixels these are; they travel with the
    weights.

    Scaled means 8- and 16-bit pixels divided by 255 and 65535, and float pixels as they are. What is missing of an
    image that is decoded to these pixels becomes the mean, which normalises to 0.
    Raises ValueError unless mean and std have a number for each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: PixelFormat

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.pixels.in_chans:
            raise ValueError(
                f"statistics of {len(self.mean)} means and {len(self.std)} deviations do not fit "
                f"{self.pixels.in_chans} channels"
            )
        fill = tuple(mean * WHITE[self.pixels.depth] for mean in self.mean)
        object.__setattr__(self, "pixels", replace(self.pixels, fill=fill))

    def normalize(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8, uint16 or float32 -> float32, each channel of mean 0 and standard deviation 1 over the
        data."""
        mean, std = self._as_tensors(images)
        return (to_float(images) - mean) / std

    def denormalize(self, images: Tensor) -> Tensor:
        """Normalised (B, C, H, W) -> float32 scaled pixels, 0..1 for what an 8- or 16-bit image can hold."""
        mean, std = self._as_tensors(images)
        return images * std + mean

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and TOML: mean, std, in_chans, pixel_type, bands where some were chosen, and what is
        said of how files are read."""
        pixels = self.pixels
        values = {"in_chans": pixels.in_chans, "pixel_type": pixels.depth, "mean": [*self.mean], "std": [*self.std]}
        bands = {} if pixels.bands is None else {"bands": [*pixels.bands]}
        return {**values, **bands, **pixels.reading.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Statistics":
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for values that are none."""
        bands, depth = values.get("bands"), values["pixel_type"]
        if depth not in DEPTHS:
            raise ValueError(f"pixel_type is {depth!r}, not {', '.join(DEPTHS)}")
        reading = Reading.from_dict(values)
        chosen = None if bands is None else tuple(map(int, bands))
        pixels = PixelFormat(int(values["in_chans"]), chosen, depth, reading)
        if pixels.bands is not None and (len(pixels.bands) != pixels.in_chans or min(pixels.bands, default=0) < 1):
            raise ValueError(f"bands are {bands} for {pixels.in_chans} channels")
        return cls(tuple(map(float, values["mean"])), tuple(map(float, values["std"])), pixels)

    def _as_tensors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[1] != len(self.mean):
            raise ValueError(f"statistics of {len(self.mean)} channels do not fit images of {images.shape[1]}")
        of_channels = torch.tensor((self.mean, self.std))[:, None, :, None, None]
        mean, std = of_channels.to(images.device, non_blocking=True)  # nobody waits for a GPU
        return mean, std


def to_float(images: Tensor) -> Tensor:
    """uint8, uint16 or float32 of any shape -> float32, what is white in 8 or 16 bits scaled to 1."""
    white = {torch.uint8: WHITE["uint8"], torch.uint16: WHITE["uint16"]}.get(images.dtype)
    return images.float() if white is None else images.float() / white
