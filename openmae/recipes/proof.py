"""What `knn` and `probe` share: open the model and the data, evaluate, print the table, keep it in the run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tyro.conf import Positional, arg

from openmae.data.opening import labelled_splits
from openmae.errors import UserError
from openmae.evaluate.features import Pool
from openmae.evaluate.proof import Evaluation, Features, Kind, evaluate
from openmae.recipes.machine import Device, choose_device, make_console, workers_for
from openmae.report.page import write_report
from openmae.train.checkpoint import write_file
from openmae.weights import load_native


@dataclass(frozen=True)
class Proof:
    """Settings of an evaluation of frozen features."""

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """A run folder, or a .safetensors file of openmae."""
    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Labelled images: a folder with a folder for each class, a table, shards, parquet or an array. With splits train
    and val these are used; otherwise a fifth of each class is held out, the same images every time."""
    pool: Pool = "mean"
    """Feature of an image: the mean of its patch tokens, or its class token."""
    layer: int | None = None
    """Take the features after this block, 1 to depth. Default: the last. The best one is often earlier."""
    baselines: bool = True
    """Measure raw pixels and an untrained encoder beside the model."""
    seed: int = 0
    """Decides what is held out where there are no splits, and the untrained encoder's weights."""
    device: Device = "auto"
    """auto: a GPU if there is one."""
    workers: int | None = None
    """Processes that load images."""


def prove(settings: Proof, kinds: Sequence[Kind], k: int = 20) -> list[Evaluation]:
    """Evaluates, prints the table, and, where MODEL is a run folder, keeps the figures in its evaluations.json."""
    console = make_console()
    if not 0 <= settings.seed < 2**63:
        raise UserError(f"--seed is {settings.seed}: give a number from 0 and below 2**63")
    loaded = load_native(settings.model)
    train, val = labelled_splits(settings.data, settings.seed)
    device = choose_device(settings.device)
    which: tuple[Features, ...] = ("raw pixels", "untrained", "pre-trained") if settings.baselines else ("pre-trained",)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)

        def say(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of or None)

        evaluations = evaluate(
            loaded,
            train,
            val,
            settings.data,
            kinds,
            which,
            pool=settings.pool,
            layer=settings.layer,
            k=k,
            device=device,
            workers=workers_for(settings.workers, device),
            seed=settings.seed,
            say=say,
        )
    if unreadable := len(train) + len(val) - evaluations[0].train_images - evaluations[0].val_images:
        console.print(f"{unreadable} images cannot be read and are left out", style="yellow")
    show_table(evaluations, console)
    if settings.model.is_dir():
        keep(evaluations, settings.model)
        console.print(f"Kept in {settings.model}/evaluations.json and report.html")
    return evaluations


def show_table(evaluations: Sequence[Evaluation], console: Console) -> None:
    """Rows are features, columns classifiers; accuracy in percent."""
    first = evaluations[0]
    console.print(
        f"{first.val_images:,} images of {first.classes} classes, classified from the features of "
        f"{first.train_images:,} others (chance {1 / first.classes:.1%})"
    )
    headers = {"knn": "kNN", "linear": "linear"}
    kinds = list(dict.fromkeys(e.kind for e in evaluations))
    table = Table(
        "features", *(f"{headers[kind]} top-1" for kind in kinds), *(f"{headers[kind]} top-5" for kind in kinds)
    )
    for features in dict.fromkeys(e.features for e in evaluations):
        row = [next(e for e in evaluations if e.features == features and e.kind == kind) for kind in kinds]
        best = [f"{e.top1:.1%}" for e in row] + [f"{e.top5:.1%}" if e.top5 is not None else "-" for e in row]
        table.add_row(features, *best, style="bold" if features == "pre-trained" else None)
    console.print(table)


def keep(evaluations: Sequence[Evaluation], run: Path) -> None:
    """Adds the figures to the run's evaluations.json, in place of earlier ones of the same question; new report."""
    file = run / "evaluations.json"
    question = ("kind", "features", "data", "pool", "layer")
    new = [evaluation.to_dict() for evaluation in evaluations]
    try:
        old = json.loads(file.read_bytes()) if file.exists() else []
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is damaged ({error}): move it away") from error
    asked = [[entry[key] for key in question] for entry in new]
    kept = [entry for entry in old if [entry[key] for key in question] not in asked]
    write_file(file, json.dumps(kept + new, indent=1).encode())
    write_report(run)
