"""Images -> a table of vectors (path, label, vector), and what lies near what in it.

    openmae embed runs/first your/images --out features.parquet
    openmae embed runs/first your/images --out features.parquet --search photo.jpg --duplicates --outliers

The second command embeds nothing again: it finds the table, sees that it is of this model and these images, and looks.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console

from openmae.console.terminal import make_console
from openmae.console.words import encodable, several, size_of
from openmae.data.loading.in_order import CentredImages
from openmae.data.opening import open_data
from openmae.data.sources.source import Source
from openmae.data.survey.sample import levels_of
from openmae.distributed.share import Share, share_here
from openmae.errors import BrokenImage, UserError
from openmae.evaluate.embedding import Embedder, embedder_of
from openmae.evaluate.features import centred_images
from openmae.evaluate.indexed import require_index
from openmae.evaluate.suited import suited
from openmae.files.disk import check_out, room_on_disk
from openmae.machine.device import choose_device, choose_precision, device_of
from openmae.machine.kinds import Precision
from openmae.machine.workers import workers_for
from openmae.recipes.embed.components import draw_components
from openmae.recipes.embed.file import FEATURES, Columns, require_writer, write_features
from openmae.recipes.embed.labels import LabelTexts
from openmae.recipes.embed.neighbours import Findings
from openmae.recipes.embed.settings import Embed
from openmae.recipes.embed.vectors import Vectors
from openmae.recipes.in_parts.about import digest
from openmae.recipes.in_parts.work import PART_BYTES, Work, batch_size_for, list_broken, worked_through
from openmae.recipes.learnt import label_column
from openmae.recipes.levels import check_expected, check_levels
from openmae.recipes.opened import images_said, part_of, tell
from openmae.recipes.places import place_columns, place_of
from openmae.version import __version__
from openmae.weights import Loaded, load_model
from openmae.weights.loaded import say_origin

_MUCH = 1e8  # bytes of grids, from which on it is said how many they are


def run(settings: Embed) -> None:
    """Embeds what is not embedded yet, and looks for what is asked. Raises UserError."""
    _check(settings)
    share = share_here(settings.part)
    console = make_console()
    console.quiet = not share.speaks
    loaded = load_model(settings.model, **settings.heads)
    say_origin(loaded, console)
    device = device_of(choose_device(settings.device), share.start)
    workers = workers_for(settings.workers, device, share.start)
    column = label_column(settings.label_column, settings.data, settings.model, loaded, console)
    settings = replace(settings, label_column=column)
    data = open_data(settings.data, settings.selection, settings.reading)
    source = part_of(data, settings.split)
    tell(data, console)
    loaded = suited(loaded, source, settings.reading, workers, console)
    labels = LabelTexts(source)
    images = centred_images(loaded.encoder, loaded.statistics, source)
    queries = [(path, _query(images, path)) for path in settings.search]
    check_levels(loaded.name, loaded.statistics, source, workers, console)
    for path in settings.search:
        levels = levels_of([path.read_bytes()], loaded.statistics.pixels)
        check_expected(loaded.name, loaded.statistics, levels, str(path), console)
    precision = _precision(settings, device)
    embedder = embedder_of(loaded, settings.layer, settings.pool, precision, device)
    about = _about(settings, loaded, embedder, source, labels)
    classes = f", {labels.classes:,} labels" if labels.classes else ", without labels"
    console.print(
        f"{images_said(len(source), settings.data, settings.split)}{classes}", highlight=False, soft_wrap=True
    )
    if settings.out.exists():
        about = _there_already(settings.out, about)
        console.print(f"{settings.out} has their features already: {_of_what(about)}")
    else:
        with room_on_disk(settings.out.parent):
            done = _embed(settings, images, embedder, about, labels, workers, share, console)
        if done is None:
            return
        about = done
    if settings.pool == "patches":
        picture = settings.picture or settings.out.with_name(f"{settings.out.stem}-pca.png")
        draw_components(settings.out, images, about["left_out"], picture, console)
        return
    with Vectors(settings.out, len(source) - len(about["left_out"]), about["width"]) as vectors:
        findings = Findings(settings.out, images, labels, about["left_out"], vectors, device, console)
        if queries:
            found = embedder(torch.stack([_tensor(pixels) for _, pixels in queries])).cpu().numpy()
            picture = settings.picture or findings.beside("search", ".png")
            findings.search([path for path, _ in queries], [p for _, p in queries], found, settings.nearest, picture)
        if settings.index == "faiss":
            findings.index(settings.nearest if settings.outliers else 1)
        if settings.duplicates:
            findings.duplicates(settings.threshold)
        if settings.outliers:
            findings.outliers(settings.nearest)


def _precision(settings: Embed, device: torch.device) -> Precision:
    """As asked for; else as what is there was begun, perhaps on another machine; else as the device suits."""
    if settings.precision != "auto":
        return settings.precision
    chosen, _ = choose_precision(device)
    return "bf16" if FEATURES.there_already(settings.out).get("precision", chosen) == "bf16" else "fp32"


def _check(settings: Embed) -> None:
    check_out(settings.out, ".parquet", ".npy")
    require_writer(settings.out)
    if settings.index == "faiss":
        if not (settings.duplicates or settings.outliers):
            raise UserError("--index is of --duplicates and --outliers", "give one of them too")
        require_index()
    if settings.nearest < 1:
        raise UserError(f"--nearest is {settings.nearest}", "give 1 or more")
    if settings.threshold is not None and not 0 <= settings.threshold <= 1:
        raise UserError(f"--threshold is {settings.threshold:g}", "give a similarity from 0 to 1")
    if settings.batch_size is not None and settings.batch_size < 1:
        raise UserError(f"--batch-size is {settings.batch_size}", "give 1 or more")
    if settings.pool == "patches":
        looks = {"--search": settings.search, "--duplicates": settings.duplicates, "--outliers": settings.outliers}
        if asked := next((flag for flag, given in looks.items() if given), None):
            raise UserError(
                f"{asked} compares whole images, and --pool patches gives a grid of vectors of each",
                "embed them with --pool mean into another --out",
            )
    if settings.picture is not None:
        if not settings.search and settings.pool != "patches":
            raise UserError("--picture is of a search", "give --search IMAGE too")
        _check_picture(settings.picture)


def _check_picture(picture: Path) -> None:
    """Raises UserError where the picture could not be written there."""
    if picture.suffix.lower() != ".png":
        raise UserError(f"--picture is {picture}", "give a name that ends in .png")
    if picture.is_dir():
        raise UserError(f"--picture is {picture}, which is a folder", "give a file")


def _query(images: CentredImages, path: Path) -> NDArray[Any]:
    try:
        return images.view(path.read_bytes())
    except OSError as error:
        raise UserError(f"--search {path} cannot be read ({error.strerror})", "give an image file") from error
    except BrokenImage as error:
        raise UserError(f"--search {path} cannot be used ({error})", "give another image") from error


def _tensor(pixels: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


# ---------------------------------------------------------------- what the features are


def _there_already(out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What the file that is there says of itself. Raises UserError where it is of something else, or has labels that
    the images do not have any more; those of an embedding that goes on are written when it ends."""
    before = FEATURES.fitting(out, about)
    if before.get("labels", about["labels"]) != about["labels"]:
        raise UserError(
            f"{out} has the labels that {about['data']} had then, and not those it has now",
            "choose another --out, or move it away",
        )
    return before


def _about(settings: Embed, loaded: Loaded, embedder: Embedder, source: Source, labels: LabelTexts) -> dict[str, Any]:
    """What is known before the images are read, as it is kept in the file."""
    return {
        "openmae": __version__,
        "model": str(settings.model),
        "step": loaded.info["provenance"].get("step"),
        "encoder": digest(embedder.encoder, embedder.encoder.arguments()),
        "layer": embedder.layer,
        "pool": embedder.pool,
        "precision": embedder.precision,
        "statistics": loaded.statistics.to_dict(),
        "data": settings.data,
        "split": settings.split,
        "label_column": settings.label_column,
        "labels": labels.fingerprint,
        "data_fingerprint": source.fingerprint,
        "images": len(source),
    }


def _of_what(about: dict[str, Any]) -> str:
    count = about["images"] - len(about["left_out"])
    how = f"after block {about['layer']}, {about['precision']}"
    if about["pool"] == "patches":
        rows, columns = about["grid"]
        return f"{several(count, 'grid')} of {rows} x {columns} patches, {about['width']:,} values each ({how})"
    tokens = "mean of the patch tokens" if about["pool"] == "mean" else "class token"
    return f"{several(count, 'vector')} of {about['width']:,} values ({tokens} {how})"


# ---------------------------------------------------------------- embedding


def _embed(
    settings: Embed,
    images: CentredImages,
    embedder: Embedder,
    about: dict[str, Any],
    labels: LabelTexts,
    workers: int,
    share: Share,
    console: Console,
) -> dict[str, Any] | None:
    """Embeds this process's share of the images; where all are then embedded, writes the file, says so, and returns
    what it says of itself."""
    out, source = settings.out, images.source
    *grid, width = embedder.shape
    batch_size = batch_size_for(settings.batch_size, embedder.device)
    if grid:
        about = {**about, "grid": grid}
        size = 4 * math.prod(embedder.shape)
        if size * len(images) > _MUCH:
            console.print(f"About {size_of(size * len(images))}, and as much again until it is done")
        if settings.batch_size is None:
            batch_size = min(batch_size, max(1, PART_BYTES // size))
    work = Work(out, "embedding", images, embedder, batch_size, workers, share=share)
    with worked_through(work, partial(FEATURES.settle, out, about), console) as done:
        if done is None:
            return None
        count = len(images) - len(done.left_out)
        about = {**about, "width": width, "left_out": [index for index, _ in done.left_out]}
        broken = list_broken(out, source, done.left_out)

        rows = ((part.indices, part.rows()) for part in done.finished if len(part.indices))
        columns = _columns(source, labels)
        write_features(out, done.parts.folder, about, count, embedder.shape, rows, columns)
    console.print(f"{out}: {_of_what(about)}")
    if broken is not None:
        are = "is" if len(done.left_out) == 1 else "are"
        console.print(f"{len(done.left_out):,} that could not be read {are} left out: {broken}", style="yellow")
    return about


def _columns(source: Source, labels: LabelTexts) -> Columns:
    path, *place = place_columns(source)

    def cells(index: int) -> tuple[str | int | None, ...]:
        name, *where = place_of(source.name(index)) if place else (encodable(source.name(index)),)
        return name, labels[index], *where

    return Columns((path, "label", *place), cells)
