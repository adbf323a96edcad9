"""How good a fine-tuned model is on labelled images: accuracy, class by class, calibration, and under corruptions.

    openmae evaluate runs/classes labelled/                                   val, where there are splits
    openmae evaluate runs/classes others/ --save predictions.csv
    openmae evaluate runs/classes labelled/ --corruptions all                 ImageNet-C's 15 kinds, 5 severities
    openmae evaluate runs/imagenet imagenet-a/                                200 classes: their outputs alone

After the paper's fine-tuning on ImageNet-1K, ViT-B / L / H reach 83.6 / 85.9 / 86.9% (Table 3); on ImageNet-A
35.9 / 57.1 / 68.2%, -R 48.3 / 59.9 / 64.4%, -Sketch 34.5 / 45.3 / 49.6%; mean corruption error on ImageNet-C, relative
to AlexNet's, 51.7 / 41.8 / 33.8% (Table 13).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from openmae.console.progress import counting
from openmae.console.terminal import make_console
from openmae.console.words import in_a_line, several
from openmae.data.held_out import split_for
from openmae.data.loading.in_order import CentredImages
from openmae.data.opening import Data, open_data
from openmae.data.sources.folder import ImageFolder
from openmae.data.sources.joined import Joined
from openmae.data.sources.selection import WHOLE
from openmae.data.sources.source import Source
from openmae.data.tasks import Task
from openmae.errors import UserError
from openmae.evaluate.corruptions import SEVERITIES, check_corruptible, kinds_of
from openmae.evaluate.features import centred_images
from openmae.evaluate.judge import Judged, judge
from openmae.evaluate.predict import predict
from openmae.evaluate.subsets import question
from openmae.evaluate.suited import suited
from openmae.files.address import whole_address
from openmae.machine.device import choose_device
from openmae.machine.workers import workers_for
from openmae.recipes.evaluate.corruptions import measure_corruptions
from openmae.recipes.evaluate.keep import check_results, keep_result, set_name
from openmae.recipes.evaluate.part import MAY_BE_LEARNT, check_held_out, may_be_learnt, part_for
from openmae.recipes.evaluate.predictions import check_save, save_predictions
from openmae.recipes.evaluate.settings import AskedSplit, Evaluate
from openmae.recipes.learnt import as_learnt, learnt_from, selected_then
from openmae.recipes.levels import check_levels
from openmae.recipes.opened import say_unreadable, tell
from openmae.report.page.results import shown_figures
from openmae.weights import Loaded, load_model
from openmae.weights.loaded import say_origin

_MOST_ROWS = 20  # of the table of classes; of more, the best and the worst
_BEST, _WORST = 5, 10
_FEW = 5  # names in a sentence


def run(settings: Evaluate) -> None:
    """Prints the figures, and keeps them in the run. Raises UserError."""
    evaluate(settings)


def evaluate(settings: Evaluate) -> dict[str, Any]:
    """Does so, and gives them as results.json has them."""
    console = make_console()
    kinds, severities = () if settings.corruptions is None else kinds_of(settings.corruptions), _severities(settings)
    _check_numbers(settings)
    check_save(settings.save, settings.data)
    loaded = load_model(settings.model, **settings.heads)
    say_origin(loaded, console)
    if loaded.outlines == "segmentation":
        from openmae.recipes.evaluate.segmenter import evaluate_segmenter  # with torchvision, which takes a while

        return evaluate_segmenter(settings, loaded, console)
    if loaded.outlines == "detection":
        from openmae.recipes.evaluate.detector import evaluate_detector

        return evaluate_detector(settings, loaded, console)
    model = loaded.classifier
    task: Task = loaded.info["task"]
    device = choose_device(settings.device)
    model.to(device)
    workers = workers_for(settings.workers, device)
    selection = as_learnt(settings.selection, settings.data, settings.model, loaded, console)
    data = open_data(settings.data, selection, settings.reading)
    source, split = judged_images(data, settings.split, settings.model, loaded, task)
    tell(data, console)
    loaded = suited(loaded, source, settings.reading, workers, console)
    asked = question(source, task, loaded.info["class_names"], settings.classes)
    images = centred_images(model.encoder, loaded.statistics, source)
    check_levels(loaded.name, loaded.statistics, source, workers, console)
    if kinds:
        _check_corruptible(task, images)
    run_folder = settings.model if (settings.model / "config.toml").exists() else None
    known, then = learnt_from(settings.model, loaded), selected_then(loaded)
    beside = data.selection.beside(then if whole_address(settings.data) == known else WHOLE)
    if run_folder is not None:
        check_results(run_folder)
    console.print(_said_of_set(task, asked.right.names, source, settings.data, split))
    is_recognized = not known and _is_recognized(data, loaded, task)
    if may_be_learnt(settings.data, split, known, then) or (is_recognized and split in ("train", "all")):
        console.print(MAY_BE_LEARNT, style="yellow")
    elif not known and not is_recognized:
        console.print(
            f"{settings.model} does not say which images it learnt from: if some of these are among them, it will do "
            "worse on others",
            style="yellow",
            soft_wrap=True,
        )
    outputs = "present" if len(asked.outputs) < len(loaded.info["class_names"]) else "all"
    if asked.absent:
        console.print(_said_of_absent(asked.absent, outputs), style="yellow")

    def scores_of(shown: CentredImages, say: Callable[[int], None]) -> tuple[Tensor, NDArray[np.int64]]:
        try:
            scores, indices = predict(model, loaded.statistics, shown, device, workers, settings.batch_size, say)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{device} ran out of memory", f"give a --batch-size below {settings.batch_size}"
            ) from error
        return scores[:, torch.from_numpy(asked.outputs)], indices

    with counting("classifying", len(images), console) as say:
        judged = Judged(images, *scores_of(images, say), asked.right, outputs, asked.absent)
    if names := judged.unreadable():
        say_unreadable(names, several(len(images), "image"), settings.data, console)
    found = judge(judged)
    show_result(found, console)
    if run_folder is not None:
        keep_result(run_folder, judged, found, settings.data, split, beside)
    if settings.save is not None:
        save_predictions(settings.save, judged, workers)
        console.print(f"\nPredictions are in {settings.save}")
    if kinds:
        wanted = [(kind, severity) for kind in kinds for severity in severities]
        place = None if run_folder is None else (run_folder, set_name(settings.data, split, beside))
        measure_corruptions(judged, found, scores_of, wanted, settings.seed, place, workers, console)
    if run_folder is not None:
        console.print(f"\nKept in {run_folder}/results.json; pictures in {run_folder}/report.html")
    else:
        console.print(f"\n{settings.model} is no run folder, so nothing was kept; pictures need one.")
    return found


def _check_numbers(settings: Evaluate) -> None:
    if settings.batch_size < 1:
        raise UserError(f"--batch-size is {settings.batch_size}", "give 1 or more")
    if not 0 <= settings.seed < 2**63:
        raise UserError(f"--seed is {settings.seed}", "give a number from 0 and below 2**63")


def _check_corruptible(task: Task, images: CentredImages) -> None:
    if task != "classification":
        raise UserError(f"--corruptions is for classification, and this model's task is {task}", "leave it out")
    check_corruptible(images.pixels, images.img_size)


def show_result(found: dict[str, Any], console: Console) -> None:
    """Prints the figures of a result, and, of classes or labels, the best and the worst."""
    for name, value in shown_figures(found["figures"], found["images"], found["errors"]).items():
        console.print(f"  {name:<28}{value:>16}")
    if rows := found.get("classes"):
        table = Table("class", "images", "accuracy", "precision", "mostly taken for")
        for one in _ends(rows):
            precision = "-" if one["precision"] is None else f"{one['precision']:.1%}"
            taken = f"{one['taken_for']} ({one['times']})" if one["taken_for"] is not None else "-"
            table.add_row(one["name"], f"{one['images']:,}", f"{one['accuracy']:.1%}", precision, taken)
        _show(table, len(rows), console)
    if rows := found.get("labels"):
        table = Table("label", "images", "average precision", "AUROC", "F1")
        for one in _ends(rows):
            areas = ("-" if one[name] is None else f"{one[name]:.1%}" for name in ("average_precision", "auroc"))
            table.add_row(one["name"], f"{one['images']:,}", *areas, f"{one['f1']:.1%}")
        _show(table, len(rows), console)


def _show(table: Table, rows: int, console: Console) -> None:
    for column in table.columns[1:5]:
        column.justify = "right"
    console.print(table)
    if rows > _MOST_ROWS:
        console.print(f"The {_BEST} best and the {_WORST} worst of {rows:,}.")


def _ends(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(rows) if len(rows) <= _MOST_ROWS else [*rows[:_BEST], *rows[-_WORST:]]


def judged_images(
    data: Data, split: AskedSplit | None, model: Path, loaded: Loaded, task: Task
) -> tuple[Source, AskedSplit]:
    """The images to judge by, and what part of DATA they are. split: what is asked for; None: what suits."""
    is_recognized = not learnt_from(model, loaded) and _is_recognized(data, loaded, task)
    part, is_drawn = part_for(data, split, model, loaded, is_recognized)
    if is_drawn:
        _, train, val = split_for(data, task, loaded.info["provenance"].get("seed", 0))
        check_held_out(data.location, val, model, loaded)
        return (train, "train") if part == "train" else (val, "val")
    if part != "all":
        return data.split(part), part
    everything = data.all
    if data.has_splits and isinstance(everything, ImageFolder):  # whose classes are then in the splits, not below it
        everything = Joined(data.location, [data.train, data.val])
    return everything, "all"


def _is_recognized(data: Data, loaded: Loaded, task: Task) -> bool:
    """Whether DATA's val images are those that were held out when a model learnt that does not say from where."""
    held_out = loaded.info["provenance"].get("held_out")
    if held_out is None:
        return False
    try:
        _, _, val = split_for(data, task, loaded.info["provenance"].get("seed", 0))
        return bool(val.fingerprint == held_out)
    except UserError:  # of images that could not have been learnt from
        return False


def _said_of_set(task: Task, names: Sequence[str], source: Source, data: str, split: AskedSplit) -> str:
    what = {"classification": f", {len(names):,} classes", "multi-label": f", {len(names):,} labels"}
    part = "" if split == "all" else f" ({split})"
    return f"{task}, as the model was trained for{what.get(task, '')}; {len(source):,} images of {data}{part}"


def _said_of_absent(absent: Sequence[str], outputs: str) -> str:
    if len(absent) == 1:
        return f"No image is of the model's class {absent[0]}: its output {_treated(outputs, 'is', 'counts')}"
    return (
        f"No image is of {len(absent):,} of the model's classes ({_some(absent)}): their outputs "
        f"{_treated(outputs, 'are', 'count')}"
    )


def _treated(outputs: str, verb: str, count: str) -> str:
    return f"{verb} left out (--classes all keeps them)" if outputs == "present" else f"{count} all the same"


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(in_a_line, names[:_FEW])) + (", ..." if len(names) > _FEW else "")


def _severities(settings: Evaluate) -> tuple[int, ...]:
    if settings.corruptions is None and settings.severities != Evaluate.severities:
        raise UserError("--severities is for --corruptions", "give both, or neither")
    words = [word.strip() for word in settings.severities.split(",")]
    if not set(words) <= set(map(str, SEVERITIES)):
        raise UserError(f"--severities is '{settings.severities}'", "give numbers from 1 to 5 with commas between them")
    return tuple(sorted({int(word) for word in words}))
