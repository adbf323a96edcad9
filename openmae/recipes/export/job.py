"""A model in another library's format, checked with that library on real images before it is there.

openmae export runs/first --to timm --out first-timm.safetensors
openmae export runs/first --to hf-mae --out first-hf
openmae export runs/classifier --to onnx --out serving/model.onnx
openmae export runs/classifier --to onnx --quantize int8 --data labelled/ --out serving/small.onnx
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from openmae.console.terminal import make_console
from openmae.data.annotated import find_annotated
from openmae.data.annotations.holding import MasksHold
from openmae.data.formats.reading import Reading
from openmae.data.opening import Data, open_data
from openmae.data.sources.selection import Selection
from openmae.errors import UserError
from openmae.evaluate.suited import suited
from openmae.files.disk import room_on_disk
from openmae.files.whole import folder_beside
from openmae.recipes.export import views
from openmae.recipes.export.check import Compared, real_images
from openmae.recipes.export.formats import hf as export_hf
from openmae.recipes.export.formats import native as export_native
from openmae.recipes.export.formats import onnx as export_onnx
from openmae.recipes.export.formats import pt2 as export_pt2
from openmae.recipes.export.formats import timm as export_timm
from openmae.recipes.export.outputs import order
from openmae.recipes.export.quantize import Cost, quantize, show_cost
from openmae.recipes.export.settings import Export
from openmae.recipes.learnt import as_learnt
from openmae.recipes.levels import check_levels
from openmae.recipes.opened import tell
from openmae.report.card.text import public
from openmae.weights import Loaded, load_model
from openmae.weights.loaded import say_origin


@dataclass(frozen=True)
class Format:
    """One of the formats.

    suffixes: what a file of it ends in; none where it is a folder. write: gives sentences on what it cannot hold.
    notes: others, on how the other library prepares images.
    """

    suffixes: tuple[str, ...]
    write: Callable[[Loaded, Path], list[str]]
    compare: Callable[[Loaded, Path, Tensor], Compared]
    usage: Callable[[Loaded, Path], str]
    notes: Callable[[Loaded, Path], list[str]] = lambda loaded, out: []


_IN_FOLDERS = {"config.json", "model.safetensors", "model.json", "preprocessor_config.json", "README.md"}

FORMATS: dict[str, Format] = {
    "safetensors": Format((".safetensors",), export_native.write, export_native.compare, export_native.usage),
    "timm": Format((".safetensors",), export_timm.write, export_timm.compare, export_timm.usage, export_timm.notes),
    "hf-mae": Format((), export_hf.write_mae, export_hf.compare_mae, export_hf.usage_mae),
    "hf-vit": Format((), export_hf.write_vit, export_hf.compare_vit, export_hf.usage_vit),
    "onnx": Format((".onnx",), export_onnx.write, export_onnx.compare, export_onnx.usage),
    "pt2": Format((".pt2",), export_pt2.write, export_pt2.compare, export_pt2.usage),
}


def run(settings: Export) -> None:
    """Writes, reads it again with the other library, compares, and only then puts it in its place. Raises UserError."""
    console = make_console()
    _check_out(settings, FORMATS[settings.to])
    loaded = load_model(settings.model, **settings.heads).reading(settings.reading)
    _check_format(settings, loaded)
    form = _form_of(settings, loaded)
    console.print(f"{settings.model}: {described(loaded)}")
    say_origin(loaded, console)
    data = None
    if settings.data is not None:
        selection = as_learnt(settings.selection, settings.data, settings.model, loaded, console)
        data = _opened(settings.data, selection, settings.reading, loaded)
    seen = loaded if data is None else suited(loaded, data.val, settings.reading, 1, console)
    images = real_images(seen, data)
    if data is not None:
        tell(data, console)
        check_levels(seen.name, seen.statistics, data.val, 1, console)
    if views.of_model_size(seen, data):
        loaded, seen = (replace(one, info={**one.info, views.KEY: True}) for one in (loaded, seen))
    with room_on_disk(settings.out.parent), _aside(settings.out) as part:
        notes = [*form.write(loaded, part), *form.notes(loaded, settings.out)]
        found = form.compare(loaded, part, images)
        if not found.difference <= found.allowed:
            raise UserError(
                f"{found.by} gives {found.outputs} that differ by {found.difference:.1e} from the model's, more than "
                f"{found.allowed:.0e}, on {len(images)} images",
                "nothing was written; please report this",
            )
        cost = None
        if settings.quantize is not None:
            cost = quantize(seen, settings.model, settings.quantize, part, images, data, console)
            notes = export_onnx.notes(loaded, part)
        if settings.to != "safetensors":
            notes += views.read_otherwise(loaded)
        _describe(settings, loaded, part, found, len(images), notes, cost)
        _put(part, settings, form)
    for note in [*notes, *order(loaded)]:
        console.print(f"{note}.", style="yellow", soft_wrap=True)
    before = f" before {settings.quantize}" if settings.quantize else ""
    console.print(
        f"Checked{before} with {found.by} on {len(images)} images: {found.outputs} differ by at most "
        f"{found.difference:.1e} (they reach {found.largest:.3g}; {found.allowed:.0e} is allowed)"
    )
    if cost is not None:
        show_cost(cost, loaded, console)
    console.print(f"It is in {settings.out}. Use it:\n")
    console.print(f"  {form.usage(loaded, settings.out)}", soft_wrap=True, highlight=False)


def _form_of(settings: Export, loaded: Loaded) -> Format:
    """The format, as it holds this model."""
    if settings.to == "onnx" and loaded.outlines == "detection":
        from openmae.recipes.export.formats import detections  # with torchvision, which takes a while

        return Format((".onnx",), detections.write_objects, detections.compare_objects, detections.usage_objects)
    return FORMATS[settings.to]


def _check_format(settings: Export, loaded: Loaded) -> None:
    """Raises UserError where the format cannot hold what the model has learnt."""
    if loaded.outlines is None:
        return
    kinds = ("safetensors", "onnx", "pt2") if loaded.outlines == "segmentation" else ("safetensors", "onnx")
    if settings.to not in kinds:
        has_no = {"onnx": "is not written for", "pt2": "is not written for"}.get(settings.to, "has no layers for")
        raise UserError(
            f"{settings.to} {has_no} {loaded.outlines}, which {loaded.name} has learnt",
            f"give --to {' or '.join(kinds)}, or export the model that it was begun from",
        )
    if settings.quantize is not None:
        raise UserError(
            f"--quantize is for models of whole images, and {loaded.name} has learnt {loaded.outlines}", "leave it out"
        )


def _opened(data: str, selection: Selection, reading: Reading, loaded: Loaded) -> Data:
    """DATA; of what outlines, without the masks that lie beside the images."""
    if loaded.outlines is not None and Path(data).is_dir():
        with suppress(UserError):  # images alone do as well
            held: MasksHold | None = loaded.info["provenance"].get("masks_hold")
            found = find_annotated(data, None, reading, selection, held)
            if found is not None:
                return found.data
    return open_data(data, selection, reading)


def described(loaded: Loaded) -> str:
    """autoencoder, 12 blocks of width 768, images of 224 x 224 with 3 channels, patches of 16 x 16."""
    vit = loaded.encoder
    size, patch = (" x ".join(map(str, sides)) for sides in (vit.img_size, vit.patch_size))
    channels = "1 channel" if vit.in_chans == 1 else f"{vit.in_chans} channels"
    return (
        f"{loaded.info.get('kind', 'autoencoder')}, {vit.depth} blocks of width {vit.embed_dim}, images of {size} with "
        f"{channels}, patches of {patch}"
    )


def sidecar(out: Path, is_folder: bool) -> Path:
    """What says how to prepare images: model.json in the folder, or NAME.json beside the file."""
    return out / "model.json" if is_folder else out.with_suffix(".json")


def _check_out(settings: Export, form: Format) -> None:
    out = settings.out
    if settings.quantize is not None and settings.to != "onnx":
        raise UserError(f"--quantize is for --to onnx, not {settings.to}", "leave it out")
    if out.name in ("", ".."):
        raise UserError(f"--out is {out}", "give the name of what is written")
    if form.suffixes and out.suffix not in form.suffixes:  # by which timm, too, tells what a file is
        raise UserError(f"--out is {out}", f"give a file that ends in {' or '.join(form.suffixes)}")
    taken = [place for place in _places(out, form) if os.path.lexists(place)]
    if taken and not settings.force:
        raise UserError(f"{taken[0]} is there already", "give another --out, or --force to write over it")
    if form.suffixes and out.is_dir():
        raise UserError(f"--out is {out}, which is a folder", "give a file")
    if not form.suffixes and out.exists() and not (out.is_dir() and (out / "config.json").exists()):
        raise UserError(f"--out is {out}, which no export to {settings.to} has written", "give another")
    if not form.suffixes and (others := sorted({one.name for one in out.glob("*")} - _IN_FOLDERS)):
        raise UserError(
            f"--out is {out}, which holds more than an export ({others[0]}), and all would go", "give another"
        )
    model = settings.model.resolve()
    if any(model.is_relative_to(place.resolve()) or model == place.resolve().parent for place in taken):
        raise UserError(f"--out is {out}, which would write over a part of {settings.model}", "give another")


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A place beside `out` of the same name, in a folder that is gone afterwards."""
    with ExitStack() as until_then:
        try:
            folder = until_then.enter_context(folder_beside(out))
        except OSError as error:
            raise UserError(f"{out.parent} cannot be written to ({error.strerror})", "choose another --out") from error
        yield folder / out.name


def _describe(
    settings: Export,
    loaded: Loaded,
    part: Path,
    found: Compared,
    images: int,
    notes: list[str],
    cost: Cost | None,
) -> None:
    """Keeps with the weights what they are, how images are prepared for them, and how far the check found them off."""
    about: dict[str, Any] = {
        "to": settings.to,
        "checked_with": found.by,
        "compared": found.outputs,
        "images": images,
        "largest_difference": found.difference,
        "allowed_difference": found.allowed,
        "largest_output": found.largest,
        "notes": notes,
        **({} if cost is None else {"quantized": cost.to_dict()}),
    }
    place = sidecar(part, part.is_dir())
    # openmae's own file keeps where its data lies, by which `evaluate` knows what it has learnt; others go to others.
    info = loaded.info if settings.to == "safetensors" else public(loaded.info)
    place.write_text(json.dumps({**info, "export": about}, indent=1))


def _places(out: Path, form: Format) -> tuple[Path, ...]:
    """What an export may write: PATH, its model.json, and weights too large for one ONNX file."""
    return (out, sidecar(out, not form.suffixes), *([export_onnx.beside(out)] if ".onnx" in form.suffixes else []))


def _put(part: Path, settings: Export, form: Format) -> None:
    """Moves what is whole into its place; what was there goes with the folder aside, or comes back where that fails.

    Raises UserError where something has come there meanwhile that may not be written over.
    """
    _check_out(settings, form)
    out = settings.out
    whole = sorted(part.parent.iterdir())
    before = part.parent / ".before"
    before.mkdir()
    try:
        for place in _places(out, form)[: 1 if not form.suffixes else None]:  # a folder holds its model.json
            if os.path.lexists(place):
                _keep(place, before / place.name)
        for place in whole:
            place.rename(out.parent / place.name)
        for name in {place.name for place in before.iterdir()} - {place.name for place in whole}:
            _remove(out.parent / name)
    except BaseException:
        for place in before.iterdir():
            _remove(out.parent / place.name)
            place.rename(out.parent / place.name)
        raise


def _keep(place: Path, name: Path) -> None:
    """Gives what is there another name too: a file stays until the next takes its place, whenever it all ends."""
    try:
        os.link(place, name, follow_symlinks=False)
    except OSError:  # a folder, or a disk without links
        place.rename(name)


def _remove(place: Path) -> None:
    """What of an export is there already, file or folder, or nothing."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
