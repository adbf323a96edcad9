"""The error on corrupted images: measured kind by kind, kept as it comes, so that stopping loses one kind at most."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from openmae.console.progress import counting
from openmae.data.loading.in_order import CentredImages
from openmae.data.loading.memory import in_memory
from openmae.evaluate.corruptions import (
    ALEXNET,
    DEFINITION,
    KINDS,
    Corrupted,
    Errors,
    is_complete,
    is_imagenet,
    kind_errors,
    mean_corruption_error,
)
from openmae.evaluate.judge import Judged
from openmae.evaluate.metrics import accuracy
from openmae.recipes.evaluate.keep import earlier_corruptions, result_picture, update_results
from openmae.report.plots.figures import corruptions_picture

Scores = Callable[[CentredImages, Callable[[int], None]], tuple[Tensor, NDArray[np.int64]]]
"""Classifies images, telling how many are done -> scores (n, K), and the indices (n,) of those that could be read."""


def measure_corruptions(
    judged: Judged,
    clean: dict[str, Any],
    scores_of: Scores,
    wanted: Sequence[tuple[str, int]],
    seed: int,
    place: tuple[Path, str] | None,
    workers: int,
    console: Console,
) -> None:
    """Measures the error at each (kind, severity) wanted, and prints the table.

    clean: the result on the images as they are. place: the run, and what the set is called in its results.json, which
    is written anew after each kind; what it holds of this model, set and seed is not measured again. None keeps
    nothing.
    """
    images = judged.images
    source, pixels = in_memory(images.source, images.pixels, images.img_size, workers, console)
    errors = {} if place is None else earlier_corruptions(*place, clean, seed)
    missing = [(kind, severity) for kind, severity in wanted if severity not in errors.get(kind, {})]
    if len(missing) < len(wanted):
        console.print(f"\n{len(wanted) - len(missing)} of {len(wanted)} corruptions were measured at an earlier time")
    right = torch.from_numpy(judged.answers.values)
    with counting("corrupting", len(missing) * len(images), console) as say:
        for number, (kind, severity) in enumerate(missing):

            def hear(done: int, number: int = number, what: str = f"{kind} {severity}") -> None:
                say(number * len(images) + done, what)

            corrupted = Corrupted(source, pixels, images.img_size, images.patch_size, kind, severity, seed)
            shown = replace(images, source=corrupted, pixels=replace(pixels, bands=None))
            scores, indices = scores_of(shown, hear)
            errors.setdefault(kind, {})[severity] = 1 - accuracy(scores, right[torch.from_numpy(indices)])
            errors = {name: dict(sorted(errors[name].items())) for name in KINDS if name in errors}
            is_last_of_kind = number + 1 == len(missing) or missing[number + 1][0] != kind
            if place is not None and is_last_of_kind:
                _keep(place, judged, clean, errors, seed)
    _show({kind: errors[kind] for kind in errors if kind in dict(wanted)}, 1 - clean["figures"]["top1"], console)
    if not _is_comparable(judged):
        return
    console.print(_said_relative(errors))


def _keep(place: tuple[Path, str], judged: Judged, clean: dict[str, Any], errors: Errors, seed: int) -> None:
    run, name = place
    error = 1 - clean["figures"]["top1"]
    relative = mean_corruption_error(errors, ALEXNET) if _is_comparable(judged) and is_complete(errors) else None
    heat = result_picture(run, name, "heat", corruptions_picture(errors, error))
    value = {
        "definition": DEFINITION,
        "seed": seed,
        "images": clean["images"],
        "outputs": clean["outputs"],
        "clean_loss": clean["figures"]["loss"],
        "clean_error": error,
        "errors": errors,
        "mean_error": mean_corruption_error(errors, None),
        "relative_error": relative,
        "pictures": {"heat": heat},
    }
    update_results(run, name, "corruptions", value)


def _is_comparable(judged: Judged) -> bool:
    return is_imagenet(judged.answers.names, judged.images.img_size, judged.images.pixels.in_chans)


def _said_relative(errors: Errors) -> str:
    if not is_complete(errors):
        return "The error relative to AlexNet's, as published figures are, needs all kinds at all severities."
    relative = mean_corruption_error(errors, ALEXNET)
    return f"Relative to AlexNet's errors {relative:.1%} (the paper: ViT-B 51.7%, L 41.8%, H 33.8%)"


def _show(errors: Errors, clean: float, console: Console) -> None:
    severities = sorted({severity for of in errors.values() for severity in of})
    table = Table("top-1 error under", *(f"severity {severity}" for severity in severities), "mean")
    for kind, mean in kind_errors(errors).items():
        cells = [f"{errors[kind][severity]:.1%}" if severity in errors[kind] else "-" for severity in severities]
        table.add_row(kind, *cells, f"{mean:.1%}")
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
    mean = mean_corruption_error(errors, None)
    console.print(f"Mean corruption error {mean:.1%}, against {clean:.1%} on the images as they are")
