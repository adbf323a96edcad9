"""What the model fills in: masked | reconstruction | original.

openmae reconstruct runs/first photo.jpg another.jpg --out picture.png
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from openmae.data.folder import open_folder
from openmae.errors import UserError
from openmae.recipes.machine import Device, choose_device, make_console
from openmae.recipes.panel import draw_panel
from openmae.weights import load_native

MOST_IMAGES = 16


@dataclass(frozen=True)
class Reconstruct:
    """Draw what the model makes of images of which it sees a part."""

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """A run folder, or a .safetensors file of openmae."""
    images: Positional[Annotated[tuple[Path, ...], arg(metavar="IMAGE")]]
    """Image files, or folders, of which the first images are taken; 16 at most."""
    out: Annotated[Path, arg(metavar="PNG")]
    """Picture to write."""
    mask_ratio: float | None = None
    """Share of the patches hidden. Default: as in training."""
    patch_stats: Literal["true", "visible"] = "true"
    """For normalised targets, where a hidden patch's brightness and contrast come from: true takes the original's
    (shows the predicted pattern, but gives away more than the model knows), visible estimates them from the
    visible patches around (gives nothing away)."""
    seed: int = 0
    """Decides the masks."""
    device: Device = "auto"
    """auto: a GPU if there is one."""


def run(settings: Reconstruct) -> None:
    """Writes the picture. Raises UserError."""
    reconstruct(settings, make_console())


def reconstruct(settings: Reconstruct, console: Console) -> None:
    """Writes the picture. Raises UserError for images that cannot be read, and for a ratio out of range."""
    if settings.out.suffix.lower() != ".png":
        raise UserError(f"--out is {settings.out}: the picture is a PNG, so give a name that ends in .png")
    loaded = load_native(settings.model)
    model = loaded.model.to(choose_device(settings.device))
    files = _files(settings.images)
    try:
        model.masking.counts(model.encoder.grid, settings.mask_ratio)
        complaints = draw_panel(
            model,
            loaded.statistics,
            files,
            _names(files),
            settings.out,
            seed=settings.seed,
            mask_ratio=settings.mask_ratio,
            patch_stats=settings.patch_stats,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{settings.out} cannot be written ({error.strerror}): choose another --out") from error
    for complaint in complaints:
        console.print(f"left out: {complaint}", style="yellow")
    console.print(f"{settings.out}")


def _files(given: tuple[Path, ...]) -> list[Path]:
    """The files named, and the first ones of the folders named."""
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            folder = open_folder(path)
            files += [folder.path(index) for index in range(min(MOST_IMAGES, len(folder)))]
        else:
            files.append(path)
    if len(files) > MOST_IMAGES and not all(path.is_dir() for path in given):
        raise UserError(f"{len(files)} images are more than fit one picture: give {MOST_IMAGES} or fewer")
    return files[:MOST_IMAGES]


def _names(files: Sequence[Path]) -> list[str]:
    """The files' names, with their folder's where two are called the same."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else [f"{file.parent.name}/{file.name}" for file in files]
