"""The page as one file: the model as a graph for browsers, checked here, with some images of the run."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from openmae.commandline.flags import flag
from openmae.console.words import drawable, images, si
from openmae.data.views.statistics import WHITE
from openmae.errors import UserError
from openmae.files.disk import check_out, room_on_disk
from openmae.files.whole import write_file
from openmae.masking import MASKS
from openmae.model import MaskedAutoencoder
from openmae.randomness import generator
from openmae.recipes.demo.about import about
from openmae.recipes.demo.graph import Runner, graph_of, rounded
from openmae.recipes.demo.others import Others, samples_of
from openmae.recipes.demo.pictures import address_of
from openmae.recipes.demo.runtime import LICENCE, runtime
from openmae.recipes.demo.settings import Demo
from openmae.recipes.export.check import Compared, compared, real_images
from openmae.recipes.export.formats.onnx import import_packages
from openmae.report.sheets.pictures import fill, footer, tiles
from openmae.targets import HOG, OwnTarget
from openmae.web.single import single_page
from openmae.weights import Loaded

EXACT = 25e6
"""Bytes of weights up to which they stay as they are."""
MOST = 150e6
"""Numbers of a model: more, at a byte each, is more than browsers open without complaint."""
LIMITS = (
    "This page is one file: the model runs in your browser, without a network, and no image leaves your machine. What "
    "you open is decoded by the browser (JPEG, PNG, WebP and what else it shows); TIFF, DICOM and 16 bits need openmae "
    "demo, which also finds the nearest images. Random masks are this page's own, not those of openmae reconstruct."
)


def write_page(out: Path, settings: Demo, loaded: Loaded, console: Console) -> None:
    """Writes the file, whole or not at all. Raises UserError."""
    check_out(out, ".html", ".htm", setting="to_file")
    model = _fitting(loaded, settings.model)
    import_packages()  # what is missing is said before anything is fetched
    browsers = runtime(settings.runtime, console)
    samples = samples_of(settings.model, loaded, settings.reading)
    shown = _views(samples) if settings.samples else []
    tried = shown or _photographs(loaded)
    graph = graph_of(model, loaded.statistics)
    found = _tried(graph, model, loaded, tried)
    if not found.compared.difference <= found.compared.allowed:
        raise UserError(
            f"onnxruntime gives errors of patches that differ by {found.compared.difference:.1e} from torch's, more "
            f"than {found.compared.allowed:.0e}",
            "nothing was written; please report this",
        )
    cost = ""
    if 4 * _numbers(model) > EXACT:
        graph = rounded(graph)
        after = _tried(graph, model, loaded, tried).theirs
        over = images(len(tried))
        cost = f"The weights are rounded to 8 bits: over {over} the error goes from {found.ours:.4g} to {after:.4g}."
    limits = f"{LIMITS} {cost}".strip()
    given = _given(loaded, model, samples, shown, limits)
    packed = {"runtime": browsers.wasm, "graph": graph}
    page = single_page("file/file.js", [browsers.script], given, packed, LICENCE)
    try:
        with room_on_disk(out):
            write_file(out, page)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})", f"choose another {flag('to_file')}") from error
    checked = f"Checked with onnxruntime on {images(len(tried))}: errors of patches differ from torch's by at most "
    console.print(f"{checked}{found.compared.difference:.1e}", soft_wrap=True)
    if cost:
        console.print(cost, soft_wrap=True)
    if shown:
        inside = f"{images(len(shown))} of yours are in it, {samples.said}"
        advice = "--no-samples leaves them out, where others may not see them"
        console.print(f"{inside}: {advice}", style="yellow", soft_wrap=True)
    console.print(f"{out}: {len(page) / 1e6:,.1f} MB, open it in any browser", soft_wrap=True)


# ---------------------------------------------------------------- what can be a file


def _fitting(loaded: Loaded, run: Path) -> MaskedAutoencoder:
    """The model. Raises UserError for one that a page without a server cannot show."""
    serves = f"openmae demo {run} shows what is left of it, served"
    try:
        model = loaded.autoencoder
    except UserError as error:
        raise UserError(f"{error.what}, which is what the file shows", f"{error.advice}; {serves}") from error
    pixels, why = loaded.statistics.pixels, ""
    if pixels.in_chans not in (1, 3):
        why = f"learnt from {pixels.in_chans} channels, and a browser opens images of 1 and 3"
    elif pixels.depth != "uint8":
        why = f"learnt from {pixels.depth} pixels, and a browser opens those of 8 bits"
    elif pixels.bands is not None:
        why = f"learnt from chosen bands ({', '.join(map(str, pixels.bands))}), which a browser cannot choose"
    elif isinstance(model.target, HOG | OwnTarget):
        why = "predicts no pixels, which are what the file shows"
    elif model.encoder_mask_token is not None:
        why = "encodes mask tokens, which the file is not written for"
    elif (numbers := _numbers(model)) > MOST:
        why = f"has {si(numbers)} weights, and a page that browsers open holds {si(MOST)} at most"
    if why:
        raise UserError(f"{loaded.name} {why}", f"have it served: openmae demo {run}")
    return model.cpu().eval()


def _numbers(model: MaskedAutoencoder) -> int:
    return sum(weight.numel() for weight in model.state_dict().values())


# ---------------------------------------------------------------- what is tried, and what is told


@dataclass(frozen=True)
class _Tried:
    """Mean errors over some images, by torch and by the graph; and how far those of patches are from each other."""

    ours: float
    theirs: float
    compared: Compared


def _views(samples: Others) -> list[Tensor]:
    """(1, C, H, W) uint8 each, without those that cannot be read any more."""
    found = []
    for number in range(len(samples.chosen)):
        with suppress(UserError):
            found.append(samples.view(number).image)
    return found


def _photographs(loaded: Loaded) -> list[Tensor]:
    """The same of photographs that come with the installation."""
    levels = loaded.statistics.denormalize(real_images(loaded, None)) * WHITE["uint8"]
    return [*levels.round().clamp(0, 255).to(torch.uint8).split(1)]


def _tried(graph: bytes, model: MaskedAutoencoder, loaded: Loaded, levels: Sequence[Tensor]) -> _Tried:
    """Each image with a mask of its own, of the ratio and kind that the model learnt with. Raises UserError for errors
    that are no numbers."""
    run, ours, theirs = Runner(graph), [], []
    masking = model.masking if model.masking.mask in MASKS else replace(model.masking, mask="random")
    for number, image in enumerate(levels):
        visible, _ = masking.draw(generator(0, "panel", index=number), model.encoder.grid)
        filled = fill(model, loaded.statistics, image, torch.from_numpy(visible)[None])
        ours.append(filled.errors[0].numpy())
        theirs.append(run(image, visible.tolist(), filled.output.queries[0].tolist())[1][0])
    before, after = (torch.from_numpy(np.stack(some)) for some in (ours, theirs))
    found = compared(before, after, "onnxruntime", "errors of patches")
    return _Tried(before.mean().item(), after.mean().item(), found)


def _given(
    loaded: Loaded, model: MaskedAutoencoder, samples: Others, shown: Sequence[Tensor], limits: str
) -> dict[str, Any]:
    """What page/file/file.js is told. Images have numbers: their names may say whom they are of."""
    return {
        "about": {
            **about(loaded, samples, None),
            "model": drawable(Path(loaded.name).name),
            "limits": limits,
            "samples": [f"image {number + 1}" for number in range(len(shown))],
            "samples_said": samples.said,
        },
        "captions": {"true": footer(model, "true"), "visible": footer(model, "visible")},
        "samples": [address_of(tiles(image)[0]) for image in shown],
        "channels": loaded.statistics.pixels.in_chans,
        "alpha": loaded.statistics.pixels.reading.alpha,
        "patch": list(model.encoder.patch_size),
        "unit": model.masking.mask_unit,
        "classes": model.encoder.class_tokens,
    }
