"""Pre-train on real images that come with the installation, and show that it worked.

    openmae quickstart

4 to 5 minutes on 2 CPU cores. The images are crops of 19 photographs and micrographs that scikit-image and
scikit-learn install. A classifier on frozen features has to tell from which picture a crop comes; train and val
crops come from different squares of each picture, so that no pixel of the one is in the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tyro.conf import arg

from openmae.console.terminal import make_console
from openmae.data.bundled import bundled_names, bundled_pictures
from openmae.files.whole import whole_folder
from openmae.randomness import generator
from openmae.recipes.pretrain.job import pretrain
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.probe.job import prove
from openmae.recipes.probe.settings import Proof
from openmae.recipes.reconstruct import Reconstruct, reconstruct

SQUARE = 80  # pixels; the squares of a picture's chessboard belong to train and val in turn
CROP = 64
CROPS = {"train": 100, "val": 40}  # of each picture
_HIDDEN = (
    0.5  # of the picture's patches: what is filled in of three quarters, as in training, takes longer than minutes
)


@dataclass(frozen=True)
class Quickstart:
    """Pre-train on real images that come along, and show that it worked; 4 to 5 minutes on 2 cores."""

    out: Annotated[Path, arg(metavar="FOLDER")] = Path("openmae-quickstart")
    """Folder to write: images/, and run/, an ordinary run folder."""
    epochs: float = 50.0
    """Times that every image is seen."""


def run(settings: Quickstart) -> None:
    """Makes the images, pre-trains, draws held-out reconstructions, and prints one table."""
    console = make_console()
    images, run_folder, picture = (settings.out / name for name in ("images", "run", "reconstruction.png"))
    if not images.exists():
        write_images(images)
    console.print(
        f"1. Images: {len(bundled_names())} photographs and micrographs from scikit-image and scikit-learn, cut into "
        f"crops of {CROP} x {CROP} pixels in {images}\n\n2. Pre-training: no labels are used"
    )
    pretrain(
        Pretrain(
            data=str(images),
            out=run_folder,
            model="vit_tiny",
            img_size=CROP,
            patch_size=8,
            embed_dim=128,
            depth=4,
            num_heads=4,
            decoder_embed_dim=64,
            decoder_depth=1,
            decoder_num_heads=4,
            crop_scale=(0.3, 1.0),
            epochs=settings.epochs,
            batch_size=64,
            micro_batch=64,
            blr=8e-3,
            pictures=4,
        ),
        console,
    )
    console.print("\n3. What it fills in where half is hidden, on images that it has never seen")
    shown = tuple(map(str, _one_of_each(images / "val", 8)))
    reconstruct(Reconstruct(run_folder, shown, picture, mask_ratio=_HIDDEN), console)
    console.print("\n4. What its features know: from which picture is a crop?")
    prove(Proof(run_folder, str(images)), ["knn", "linear"])
    console.print(
        f"\nLook at {run_folder}/report.html and {picture}. Now your own images:\n\n"
        "  openmae pretrain your/images --out runs/first      on a CPU an hour at most; --minutes sets its length\n"
    )


def write_images(folder: Path) -> None:
    """Writes `folder/{train,val}/PICTURE/NNN.png`, all or nothing. Raises UserError where a picture is missing."""
    with whole_folder(folder) as aside:
        for number, (name, picture) in enumerate(bundled_pictures()):
            for split, count in CROPS.items():
                place = aside / split / Path(name).stem
                place.mkdir(parents=True)
                draws = generator(0, "bundled crops", index=number, view=int(split == "val"))
                for i, crop in enumerate(crops(picture, split, count, draws)):
                    Image.fromarray(crop).save(place / f"{i:03d}.png")


def crops(picture: NDArray[np.uint8], split: str, count: int, draws: np.random.Generator) -> list[NDArray[np.uint8]]:
    """`count` crops (CROP, CROP, 3) of a picture (H, W, 3), each wholly inside a square of this split."""
    rows, columns = picture.shape[0] // SQUARE, picture.shape[1] // SQUARE
    squares = [(r, c) for r in range(rows) for c in range(columns) if (r + c) % 2 == (split == "val")]
    found = []
    for _ in range(count):
        row, column = squares[draws.integers(len(squares))]
        down, right = draws.integers(0, SQUARE - CROP + 1, 2)
        top, left = row * SQUARE + down, column * SQUARE + right
        found.append(picture[top : top + CROP, left : left + CROP])
    return found


def _one_of_each(folder: Path, count: int) -> Sequence[Path]:
    """The first image of `count` classes, evenly chosen."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [classes[i] / "000.png" for i in np.linspace(0, len(classes) - 1, count).round().astype(int)]
