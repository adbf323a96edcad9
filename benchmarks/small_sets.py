"""The sets of benchmarks/small.py: small images, a table of labels each, and what pre-trains an encoder for them.

Each set is a table (path, label, split); several may share the images that one encoder learns from, unlabelled. From
the start they are divided: choices are made by those that are `tuned`, and reported on the others.
"""

import csv
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.files.whole import whole_folder
from openmae.recipes.quickstart import write_images

PAIRS = (("cat", "dog"), ("automobile", "truck"), ("airplane", "bird"))
WINDOW, SIDE = 128, 64  # of micrographs: what is cut out of them, and how large it is shown
EACH_TRAIN, EACH_TEST = 2500, 500  # images of a class of CIFAR-10

Rows = Iterator[tuple[Image.Image, str, dict[str, str]]]  # an image, its split, its label in each set


@dataclass(frozen=True)
class Encoder:
    """Images that one encoder learns from, in FOLDER/train and FOLDER/val, and its sides. rows: of archives' folder."""

    img_size: int
    patch_size: int
    epochs: int
    rows: Callable[[Path], Rows]
    batch_size: int = 64


@dataclass(frozen=True)
class Set:
    """Labels of the images of an encoder. tuned: whether choices were made by it."""

    encoder: str
    tuned: bool
    task: str = "classification"


def nuclei(archives: Path) -> Rows:
    """Windows of SIDE pixels."""
    return windows(archives, SIDE)


def windows(archives: Path, side: int) -> Rows:
    """Of micrographs: four of each, those of a val image in val, shown with so many pixels a side; how many nuclei lie
    in it, and whether that is more than in half of all."""
    found: list[tuple[Image.Image, str, int]] = []
    with tarfile.open(archives / "nuclei.tar") as tar:
        members = {member.name: member for member in tar.getmembers() if member.isfile()}
        for name in sorted(name for name in members if "/images/" in name):
            image = np.asarray(Image.open(tar.extractfile(members[name])).convert("RGB"))
            mask = np.asarray(Image.open(tar.extractfile(members[name.replace("/images/", "/masks/")])))
            draws = np.random.default_rng(len(found))
            for _ in range(4):
                top, left = (int(draws.integers(0, length - WINDOW + 1)) for length in mask.shape)
                cut = np.s_[top : top + WINDOW, left : left + WINDOW]
                numbers, pixels = np.unique(mask[cut], return_counts=True)
                count = int(((numbers > 0) & (pixels >= 20)).sum())
                window = Image.fromarray(image[cut]).resize((side, side), Image.Resampling.BOX)
                found.append((window, name.split("/")[1], count))
    middle = np.median([count for _, split, count in found if split == "train"])
    for window, split, count in found:
        yield window, split, {"density": "many" if count > middle else "few", "counts": str(count)}


def cifar(archives: Path) -> Rows:
    """Photographs of six classes, in three pairs."""
    names = {name: f"{a}-{b}" for a, b in PAIRS for name in (a, b)}
    for split, most in (("train", EACH_TRAIN), ("val", EACH_TEST)):
        for image, file in of_cifar(archives / f"cifar10-{'train' if split == 'train' else 'test'}.tar.gz"):
            if (label := file.parent.name) in names and int(file.stem) < most:
                yield image.convert("RGB"), split, {names[label]: label}


def photographs(archives: Path) -> Rows:
    """All 50,000 of CIFAR-10 that are there to learn from, without labels."""
    for image, _ in of_cifar(archives / "cifar10-train.tar.gz"):
        yield image.convert("RGB"), "train", {}


def of_cifar(archive: Path) -> Iterator[tuple[Image.Image, Path]]:
    """Its images, not decoded yet, and CLASS/NUMBER.png of each."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                yield Image.open(tar.extractfile(member)), Path(member.name)


def crops(archives: Path) -> Rows:
    """The quickstart's: from which of 19 pictures is a crop?"""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        write_images(Path(folder) / "images")
        for file in sorted((Path(folder) / "images").rglob("*.png")):
            split, name = file.parts[-3:-1]
            yield Image.open(file).convert("RGB"), split, {"crops": name}


def _in_two(images: NDArray[np.uint8], labels: list[str], name: str, train: int) -> Rows:
    """Shuffled; the first `train` are learnt from."""
    for place, index in enumerate(np.random.default_rng(0).permutation(len(images))):
        yield Image.fromarray(images[index]), "train" if place < train else "val", {name: labels[index]}


def digits(archives: Path) -> Rows:
    """Scikit-learn's, of 8 x 8 pixels, enlarged twice."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.kron(np.clip(found.images * 16, 0, 255).astype(np.uint8), np.ones((1, 2, 2), np.uint8))
    return _in_two(images, [str(label) for label in found.target], "digits", 1297)


def faces(archives: Path) -> Rows:
    """Scikit-image's 100 faces and 100 others of 25 x 25 pixels; scikit-learn's own would have to be downloaded."""
    from skimage.data import lfw_subset

    images = np.round(255 * lfw_subset()[:, :24, :24]).astype(np.uint8)
    return _in_two(images, ["face"] * 100 + ["other"] * 100, "faces", 120)


ENCODERS = {
    "nuclei": Encoder(SIDE, 8, 150, nuclei),
    "cifar": Encoder(32, 4, 40, cifar),
    "crops": Encoder(64, 8, 150, crops),
    "digits": Encoder(16, 2, 150, digits),
    "faces": Encoder(24, 3, 800, faces),
    "photographs": Encoder(32, 4, 20, photographs, batch_size=256),
}
SETS = {
    "density": Set("nuclei", tuned=True),
    "cat-dog": Set("cifar", tuned=True),
    "digits": Set("digits", tuned=True),
    "counts": Set("nuclei", tuned=False, task="regression"),
    "automobile-truck": Set("cifar", tuned=False),
    "airplane-bird": Set("cifar", tuned=False),
    "crops": Set("crops", tuned=False),
    "faces": Set("faces", tuned=False),
}


def write_set(encoder: str, archives: Path, folder: Path) -> None:
    """FOLDER/ENCODER/{train,val}/NNNNN.png, and a table FOLDER/ENCODER/SET.csv for each set; all or nothing."""
    place = folder / encoder
    if place.exists():
        return
    with whole_folder(place) as aside:
        tables: dict[str, list[tuple[str, str, str]]] = {}
        for number, (image, split, labels) in enumerate(ENCODERS[encoder].rows(archives)):
            file = aside / split / f"{number:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
            for name, label in labels.items():
                tables.setdefault(name, []).append((f"{split}/{file.name}", label, split))
        for name, rows in tables.items():
            with (aside / f"{name}.csv").open("w", newline="") as out:
                csv.writer(out).writerows([("path", "label", "split"), *rows])
