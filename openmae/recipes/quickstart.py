"""Pre-train on real images that come with the installation, and show that it worked.

    openmae quickstart
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.data.order import generator

# Photographs and micrographs that scikit-image and scikit-learn install, one class each.
PICTURES = {
    "skimage": (
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
    "sklearn": ("china.jpg", "flower.jpg"),
}
LONGEST_SIDE = 640  # larger pictures are reduced to it
BLOCK = 80  # pixels; blocks of the chessboard belong to train and val in turn
CROP = 64


def make_crops(picture: NDArray[np.uint8], split: str, count: int, draws: np.random.Generator) -> list[NDArray[np.uint8]]:
    """`count` crops that lie wholly inside blocks of one colour of the chessboard, so that no pixel of val is in train."""
    rows, columns = picture.shape[0] // BLOCK, picture.shape[1] // BLOCK
    blocks = [(r, c) for r in range(rows) for c in range(columns) if (r + c) % 2 == (split == "val")]
    crops = []
    for _ in range(count):
        row, column = blocks[draws.integers(len(blocks))]
        top, left = (BLOCK * np.array([row, column]) + draws.integers(0, BLOCK - CROP + 1, 2)).tolist()
        crops.append(picture[top : top + CROP, left : left + CROP])
    return crops


def pictures() -> dict[str, NDArray[np.uint8]]:
    """name -> (H, W, 3)."""
    import skimage
    import sklearn

    folders = {
        "skimage": Path(skimage.__file__).parent / "data",
        "sklearn": Path(sklearn.__file__).parent / "datasets/images",
    }
    found = {}
    for package, names in PICTURES.items():
        for name in names:
            image = Image.open(folders[package] / name).convert("RGB")
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
            found[Path(name).stem] = np.asarray(image)
    return found
