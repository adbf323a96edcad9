"""Photographs and micrographs that scikit-image and scikit-learn install: real images that are always there."""

from collections.abc import Iterator
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.errors import UserError

PICTURES = {
    "skimage.data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "cell.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "page.png",
        "retina.jpg",
        "rocket.jpg",
        "text.png",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}
LONGEST_SIDE = 640  # pixels; larger pictures are reduced to it


def bundled_names() -> list[tuple[str, str]]:
    """(package, file name) of each."""
    return [(package, name) for package, names in PICTURES.items() for name in names]


def bundled_pictures() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(name, pixels (H, W, 3)) of each, in the order of their names. Raises UserError where one is missing."""
    for package, name in bundled_names():
        try:
            with resources.files(package).joinpath(name).open("rb") as file:
                image = Image.open(file).convert("RGB")
        except (OSError, ModuleNotFoundError) as error:
            raise UserError(f"{name} of {package} is missing", "install scikit-image and scikit-learn anew") from error
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        yield name, np.array(image)
