"""Images -> a table of vectors (path, label, vector), and what lies near what in it.

    openmae embed runs/first your/images --out features.parquet
    openmae embed runs/first your/images --out features.parquet --search photo.jpg --duplicates --outliers

The second command embeds nothing again: it finds the table, sees that it is of this model and these images, and looks.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.progress import Say, counting
from openmae.console.terminal import make_console
from openmae.console.words import encodable, on_one_line, pace, several
from openmae.data.loading.in_order import CentredImages
from openmae.data.opening import Data, open_data
from openmae.data.sources.source import Source
from openmae.data.survey.sample import levels_of
from openmae.errors import BrokenImage, Interrupted, UserError
from openmae.evaluate.embedding import Embedded, Embedder, embed_each, embedder_of, reasons
from openmae.evaluate.features import centred_images
from openmae.evaluate.suited import suited
from openmae.files.disk import check_out, room_on_disk
from openmae.files.whole import write_file
from openmae.machine.device import choose_device, choose_precision
from openmae.machine.kinds import Precision
from openmae.machine.workers import workers_for
from openmae.model import ViT
from openmae.recipes.embed.file import companions, read_about, require_writer, write_features
from openmae.recipes.embed.labels import LabelTexts
from openmae.recipes.embed.neighbours import Findings
from openmae.recipes.embed.parts import PartsFolder, opened_parts, parts_folder, read_job
from openmae.recipes.embed.settings import Embed
from openmae.recipes.levels import check_expected, check_levels
from openmae.recipes.opened import tell
from openmae.version import __version__
from openmae.weights import Loaded, load_model
from openmae.weights.loaded import say_origin

PART_SECONDS = 20.0  # of work that a kill may cost
PART_BYTES = 2**26  # of vectors in memory


def run(settings: Embed) -> None:
    """Embeds what is not embedded yet, and looks for what is asked. Raises UserError."""
    console = make_console()
    _check(settings)
    loaded = load_model(settings.model, **settings.heads)
    say_origin(loaded, console)
    device = choose_device(settings.device)
    workers = workers_for(settings.workers, device)
    data = open_data(settings.data, settings.selection)
    source = _source(settings, data)
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
    about = _about(settings, loaded, embedder, source)
    classes = f", {labels.classes:,} labels" if labels.classes else ", without labels"
    console.print(f"{several(len(source), 'image')} in {settings.data}{classes}")
    if settings.out.exists():
        about = _fitting(settings, about, console)
    else:
        with room_on_disk(settings.out.parent):
            about = _embed(settings, images, embedder, about, labels, workers, console)
    findings = Findings(settings.out, images, labels, about["left_out"], device, console)
    if queries:
        vectors = embedder(torch.stack([_tensor(pixels) for _, pixels in queries])).cpu().numpy()
        picture = settings.picture or findings.beside("search", ".png")
        findings.search([path for path, _ in queries], [p for _, p in queries], vectors, settings.nearest, picture)
    if settings.duplicates:
        findings.duplicates(settings.threshold)
    if settings.outliers:
        findings.outliers(settings.nearest)


def _precision(settings: Embed, device: torch.device) -> Precision:
    """As asked for; else as what is there was begun, perhaps on another machine; else as the device suits."""
    if settings.precision != "auto":
        return settings.precision
    chosen, _ = choose_precision(device)
    return "bf16" if _there_already(settings.out).get("precision", chosen) == "bf16" else "fp32"


def _check(settings: Embed) -> None:
    check_out(settings.out, ".parquet", ".npy")
    require_writer(settings.out)
    if settings.nearest < 1:
        raise UserError(f"--nearest is {settings.nearest}", "give 1 or more")
    if not 0 <= settings.threshold <= 1:
        raise UserError(f"--threshold is {settings.threshold:g}", "give a similarity from 0 to 1")
    if settings.batch_size is not None and settings.batch_size < 1:
        raise UserError(f"--batch-size is {settings.batch_size}", "give 1 or more")
    if settings.picture is not None:
        if not settings.search:
            raise UserError("--picture is of a search", "give --search IMAGE too")
        _check_picture(settings.picture)


def _check_picture(picture: Path) -> None:
    """Raises UserError where the picture could not be written there."""
    if picture.suffix.lower() != ".png":
        raise UserError(f"--picture is {picture}", "give a name that ends in .png")
    if picture.is_dir():
        raise UserError(f"--picture is {picture}, which is a folder", "give a file")


def _source(settings: Embed, data: Data) -> Source:
    if settings.split == "all":
        return data.all
    if not data.has_splits:
        raise UserError(f"{settings.data} has no splits", f"leave --split {settings.split} out")
    return data.split(settings.split)


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


def _about(settings: Embed, loaded: Loaded, embedder: Embedder, source: Source) -> dict[str, Any]:
    """What is known before the images are read, as it is kept in the file."""
    return {
        "openmae": __version__,
        "model": str(settings.model),
        "step": loaded.info["provenance"].get("step"),
        "encoder": _digest(embedder.encoder),
        "layer": embedder.layer,
        "pool": embedder.pool,
        "precision": embedder.precision,
        "statistics": loaded.statistics.to_dict(),
        "data": settings.data,
        "split": settings.split,
        "data_fingerprint": source.fingerprint,
        "images": len(source),
    }


def _digest(encoder: ViT) -> str:
    """Of the weights and the shape, which are the same wherever the model lies."""
    digest = hashlib.sha256(json.dumps(encoder.arguments()).encode())
    for name, value in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _there_already(out: Path) -> dict[str, Any]:
    """What was embedded, or is being, for this file; empty for a new one."""
    return read_about(out) if out.exists() else read_job(parts_folder(out))


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How two descriptions differ in what decides the vectors; empty where they do not."""
    others = {
        "encoder": "another model, or the same at another step",
        "statistics": "other input statistics",
        "data_fingerprint": "other images (another DATA or --split, or files added, removed or changed)",
    }
    others |= {key: f"--{key} {before.get(key)}, not {now[key]}" for key in ("layer", "pool", "precision")}
    return "; ".join(what for key, what in others.items() if before.get(key) != now[key])


def _fitting(settings: Embed, about: dict[str, Any], console: Console) -> dict[str, Any]:
    """What the file that is there says of itself. Raises UserError where it is of something else."""
    before = read_about(settings.out)
    if differing := _differing(before, about):
        raise UserError(f"{settings.out} holds features of {differing}", "choose another --out, or move it away")
    if parts_folder(settings.out).exists():  # of a process that was killed when all was done
        with opened_parts(settings.out) as parts:
            parts.remove()
    console.print(f"{settings.out} has their features already: {_of_what(before)}")
    return before


def _of_what(about: dict[str, Any]) -> str:
    tokens = "mean of the patch tokens" if about["pool"] == "mean" else "class token"
    vectors = several(about["images"] - len(about["left_out"]), "vector")
    return f"{vectors} of {about['width']:,} values ({tokens} after block {about['layer']}, {about['precision']})"


# ---------------------------------------------------------------- embedding


def _embed(
    settings: Embed,
    images: CentredImages,
    embedder: Embedder,
    about: dict[str, Any],
    labels: LabelTexts,
    workers: int,
    console: Console,
) -> dict[str, Any]:
    """Embeds all images, writes the file, and says so; returns what it says of itself."""
    out = settings.out
    with opened_parts(out) as parts:
        _settle(parts, settings, about)
        if parts.stop:
            console.print(f"Resuming: {parts.stop:,} of {several(len(images), 'image')} are done")
        started, before = time.monotonic(), parts.stop
        try:
            with counting("embedding", len(images), console, before) as say:
                _embed_rest(settings.batch_size, images, embedder, parts, workers, say)
        except KeyboardInterrupt:
            raise Interrupted("stopped; the same command goes on where it was") from None
        seconds = time.monotonic() - started
        left_out = [entry for part in parts.finished for entry in part.left_out]
        count = len(images) - len(left_out)
        if not count:
            index, reason = left_out[0]
            parts.remove()
            raise UserError(
                f"none of the {len(images)} images in {settings.data} can be read (the first: "
                f"{images.source.shown(index)}: {reason})",
                "check the files",
            )
        width = embedder.encoder.embed_dim
        about = {**about, "width": width, "left_out": [index for index, _ in left_out]}
        broken = _list_broken(out, images.source, left_out)

        def describe(index: int) -> tuple[str, str | None]:
            return encodable(images.source.name(index)), labels[index]

        rows = ((part.indices, part.vectors()) for part in parts.finished)
        write_features(out, parts.folder, about, count, width, rows, describe)
        parts.remove()
    console.print(f"{pace(len(images) - before, seconds)}\n{out}: {_of_what(about)}")
    if broken is not None:
        are = "is" if len(left_out) == 1 else "are"
        console.print(f"{len(left_out):,} that could not be read {are} left out: {broken}", style="yellow")
    return about


def _settle(parts: PartsFolder, settings: Embed, about: dict[str, Any]) -> None:
    """Finds what was done before. Raises UserError where it was of something else."""
    if settings.out.exists():
        parts.remove()
        raise UserError(f"another process has just written {settings.out}", "run the same command again to use it")
    before = read_job(parts.folder)
    if not before:
        for beside in companions(settings.out):
            if beside.exists():
                parts.remove()
                raise UserError(f"{beside} exists and would be written anew", "choose another --out, or move it away")
        parts.begin(about)
    elif differing := _differing(before, about):
        raise UserError(
            f"an embedding that was not finished, {parts.folder}, is of {differing}",
            "finish it with its own settings, delete that folder, or choose another --out",
        )
    parts.read()


def _embed_rest(
    batch_size: int | None, images: CentredImages, embedder: Embedder, parts: PartsFolder, workers: int, say: Say
) -> None:
    """Adds parts up to the last image."""
    batch_size = batch_size or (64 if embedder.device.type == "cpu" else 256)
    before = parts.stop
    batches = embed_each(images, embedder, batch_size, workers, before)
    waiting = _Waiting(parts, images, workers)
    try:
        for batch in batches:
            if not np.isfinite(batch.vectors).all():
                raise UserError(
                    f"the model gives values that are not numbers for images among {batch.start + 1:,} to "
                    f"{batch.stop:,}",
                    "try --precision fp32, or a model whose training went well",
                )
            waiting.take(batch)
            say(batch.stop - before)
    finally:
        batches.close()
        waiting.keep()


class _Waiting:
    """Batches that are not in a part yet."""

    def __init__(self, parts: PartsFolder, images: CentredImages, workers: int) -> None:
        self.parts, self.images, self.workers = parts, images, workers
        self.batches: list[Embedded] = []
        self.since = time.monotonic()

    def take(self, batch: Embedded) -> None:
        """Holds a batch, and keeps all that are held where there are enough."""
        self.batches.append(batch)
        size = sum(batch.vectors.nbytes for batch in self.batches)
        if time.monotonic() - self.since >= PART_SECONDS or size >= PART_BYTES:
            self.keep()

    def keep(self) -> None:
        """Makes a part of what is held."""
        if self.batches and self.batches[-1].stop > self.parts.stop:  # a Ctrl-C may come when it has just been made
            missing = [index for batch in self.batches for index in batch.missing]
            left_out = reasons(self.images, missing, self.workers) if missing else []
            indices = np.concatenate([batch.indices for batch in self.batches])
            vectors = np.concatenate([batch.vectors for batch in self.batches])
            self.parts.add(self.batches[-1].stop, indices, vectors, left_out)
        self.batches, self.since = [], time.monotonic()


def _list_broken(out: Path, source: Source, left_out: list[tuple[int, str]]) -> Path | None:
    """Writes `path<TAB>reason` of each image that is left out beside the features; None where there is none."""
    file = out.with_name(f"{out.stem}-broken.txt")
    if not left_out:
        file.unlink(missing_ok=True)
        return None
    lines = (f"{on_one_line(source.name(index))}\t{on_one_line(with_flags(reason))}\n" for index, reason in left_out)
    write_file(file, "".join(lines).encode())
    return file
