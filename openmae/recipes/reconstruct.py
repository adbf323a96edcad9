"""What the model fills in: masked | reconstruction | original.

openmae reconstruct runs/first photo.jpg another.jpg --out picture.png
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from openmae.commandline.flags import with_flags
from openmae.console.terminal import make_console
from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.opening import open_data
from openmae.data.sources.selection import Selection
from openmae.data.survey.sample import evidence, levels_of, seen_of
from openmae.errors import BrokenImage, UserError, of_user
from openmae.evaluate.suited import suited_to
from openmae.machine.device import choose_device
from openmae.own import is_lacking
from openmae.recipes.asked import MODEL, AskedDecoderHeads, AskedDevice, AskedFiles, AskedReading
from openmae.recipes.levels import check_expected
from openmae.report.sheets.panel import draw_panel
from openmae.weights import load_model
from openmae.weights.loaded import say_origin

MOST_IMAGES = 16
MANY_IMAGES = (".csv", ".parquet", ".tar", ".npy", ".npz")  # files that are DATA, not one image


@dataclass(frozen=True)
class Reconstruct(AskedDecoderHeads, AskedFiles, AskedReading):
    """Draw what the model makes of images of which it sees a part."""

    model: Positional[Annotated[Path, MODEL]]
    images: Positional[Annotated[tuple[str, ...], arg(metavar="IMAGE")]]
    """Image files, or folders and other DATA, of which the first images are taken, of val where there are splits; 16
    at most."""
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
    device: AskedDevice = "auto"


def run(settings: Reconstruct) -> None:
    """Writes the picture. Raises UserError."""
    reconstruct(settings, make_console())


def reconstruct(settings: Reconstruct, console: Console) -> None:
    """Writes the picture. Raises UserError for images that cannot be read, and for a ratio out of range."""
    if settings.out.suffix.lower() != ".png":
        raise UserError(f"--out is {settings.out}", "the picture is a PNG, so give a name that ends in .png")
    loaded = load_model(settings.model, **settings.heads)
    say_origin(loaded, console)
    model = loaded.autoencoder.to(choose_device(settings.device))
    if not settings.images:
        raise UserError("name the images to look at", "openmae reconstruct MODEL IMAGE... --out PNG")
    pictured = _pictured(settings.images, settings.selection, settings.reading)
    sample = evidence(seen_of(data, UNSAID) for data in _read(pictured))
    loaded = suited_to(loaded, sample, settings.reading, console)
    levels = levels_of(_read(pictured), loaded.statistics.pixels)
    check_expected(loaded.name, loaded.statistics, levels, "the images", console)
    if is_lacking(model.masking.mask):
        said = f"warning: hidden at random, for the mask of {loaded.name} ({model.masking.mask}) is not kept with it"
        console.print(said, style="yellow", soft_wrap=True)
        model.masking = replace(model.masking, mask="random")
    try:
        model.masking.counts(model.encoder.grid, settings.mask_ratio)
    except ValueError as error:  # patches and size are the model's
        raise UserError(of_user(error).what, "choose a ratio further from 0 and 1") from error
    try:
        complaints = draw_panel(
            model,
            loaded.statistics,
            pictured,
            settings.out,
            seed=settings.seed,
            mask_ratio=settings.mask_ratio,
            patch_stats=settings.patch_stats,
        )
    except OSError as error:
        raise UserError(f"{settings.out} cannot be written ({error.strerror})", "choose another --out") from error
    for complaint in complaints:
        console.print(f"left out: {with_flags(complaint)}", style="yellow")
    console.print(f"{settings.out}")


def _pictured(given: tuple[str, ...], selection: Selection, reading: Reading) -> list[tuple[str, Callable[[], bytes]]]:
    """Name and reader of the files named, and of the first images of other DATA (of its val), MOST_IMAGES in all."""
    found: list[tuple[str, Callable[[], bytes]]] = []
    sets = [word for word in given if "://" in word or Path(word).is_dir() or word.endswith(MANY_IMAGES)]
    if len(given) > MOST_IMAGES and not sets:
        raise UserError(f"{len(given)} images are more than fit one picture", f"give {MOST_IMAGES} or fewer")
    for word in given:
        if word in sets:
            source = open_data(word, selection, reading).val
            found += [(source.name(i), partial(source.read, i)) for i in range(min(MOST_IMAGES, len(source)))]
        else:
            found.append((word, Path(word).read_bytes))
    return _short(found[:MOST_IMAGES])


def _read(pictured: Sequence[tuple[str, Callable[[], bytes]]]) -> Iterator[bytes | OSError | BrokenImage]:
    for _, read in pictured:
        try:
            yield read()
        except (OSError, BrokenImage) as error:
            yield error


def _short(found: list[tuple[str, Callable[[], bytes]]]) -> list[tuple[str, Callable[[], bytes]]]:
    """Names without their folders where these are not needed to tell them apart."""
    for parts in (1, 2):
        names = ["/".join(Path(name).parts[-parts:]) for name, _ in found]
        if len(set(names)) == len(names):
            return [(name, read) for name, (_, read) in zip(names, found, strict=True)]
    return found
