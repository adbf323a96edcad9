"""What `knn` and `probe` share: open the model and the data, evaluate, print the table, keep it in the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tyro.conf import Positional, arg

from openmae.data.memory import ram
from openmae.data.source import Source
from openmae.data.tasks import Task, answers, split_for
from openmae.errors import UserError, said_once
from openmae.evaluate import knn
from openmae.evaluate.features import Readout, readouts
from openmae.evaluate.predict import HEADLINE
from openmae.evaluate.probe import STRENGTHS
from openmae.evaluate.proof import BASELINES, Evaluation, How, Kind, evaluate
from openmae.heads import Pool
from openmae.model import ViT
from openmae.ranks import Ranks, joined
from openmae.recipes.choices import choose_precision
from openmae.recipes.keeping import keep
from openmae.recipes.machine import Device, choose_device, device_of, make_console, workers_for
from openmae.recipes.reading import say_origin
from openmae.report.layers import layers_curve
from openmae.report.results import standard_error
from openmae.train.checkpoint import write_file
from openmae.weights import load_model

SAID: dict[str, str] = {"knn": "kNN", "linear": "linear"}
FIGURES = {"top1": "top-1", "top5": "top-5", "mean_ap": "mean AP", "r2": "R²"}
_TITLES: dict[str, str] = {"knn": "kNN", "linear": "Linear probe's"}
_MOST_OF_RAM = 0.5  # for features
_LARGE_ERROR = 0.01  # of an accuracy
_TIMEOUT = 3600.0  # seconds for which ranks wait for each other, the lead's classifiers among it


@dataclass(frozen=True)
class Proof:
    """Settings of an evaluation of frozen features."""

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """A run folder, or whatever else openmae.load takes: see docs/weights.md."""
    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Labelled images: a folder with a folder for each class, a table, shards, parquet or an array. With splits train
    and val these are used; otherwise a fifth of each class is held out, the same images every time."""
    layer: Annotated[str | None, arg(metavar="N")] = None
    """Take the features after this block, 1 to depth. Default: the last. The best one is often earlier: several with
    commas, such as 6,9,12, or all, are compared, from one pass over the images."""
    pool: Annotated[str | None, arg(metavar="mean|class")] = None
    """Feature of an image: the mean of its patch tokens, or its class token; mean,class compares them. Default: mean,
    and class in the paper's probe."""
    task: Task | None = None
    """What labels are. Default: what they say: classes; several at once where they have ; or | between them; numbers
    where not all are whole."""
    baselines: bool = True
    """Measure raw pixels and an untrained encoder beside the model."""
    seed: int = 0
    """Decides what is held out where there are no splits, and the untrained encoder's weights."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the encoder's products. auto: bfloat16 where the processor has them."""
    device: Device = "auto"
    """auto: a GPU if there is one."""
    workers: int | None = None
    """Processes that load images."""


def prove(
    settings: Proof, kinds: Sequence[Kind], k: int = knn.K, temperature: float = knn.TEMPERATURE
) -> list[Evaluation]:
    """Evaluates, prints the table, and, where MODEL is a run folder, keeps the figures in its evaluations.json."""
    with said_once():
        device = choose_device(settings.device)
        if not 0 <= settings.seed < 2**63:
            raise UserError(f"--seed is {settings.seed}: give a number from 0 and below 2**63")
    with joined(device.type, _TIMEOUT) as ranks:
        return _prove(settings, kinds, k, temperature, ranks, device_of(device, ranks))


def _prove(
    settings: Proof, kinds: Sequence[Kind], k: int, temperature: float, ranks: Ranks, device: torch.device
) -> list[Evaluation]:
    console = make_console()
    console.quiet = not ranks.leads
    with ranks.together():
        loaded = load_model(settings.model)
        say_origin(loaded, console)
        places = _places(settings, loaded.encoder)
    task, train, val = ranks.each_in_turn(lambda: split_for(settings.data, settings.task, settings.seed))
    ranks.agree(f"{train.fingerprint} {val.fingerprint}", f"{settings.data} holds other images")
    encoders = 2 if settings.baselines else 1  # the untrained one is asked in the same places
    with ranks.together():
        right = answers(train, task)
        asked = answers(val, task, right.names)
        _check_memory(len(train) + len(val), encoders * len(places), loaded.encoder.embed_dim)
    if "knn" in kinds and k > len(train):
        console.print(f"--k {k} is more than the {len(train):,} training images: all of them vote", style="yellow")
    how = How(
        kinds,
        places,
        settings.baselines,
        k,
        temperature,
        choose_precision(device)[0] if settings.precision == "auto" else settings.precision,
        device,
        workers_for(settings.workers, device, ranks),
        settings.seed,
        ranks,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("reading", total=None)

        def say(what: str, done: int, of: int) -> None:
            bar.update(shown, description=what, completed=done, total=of or None)

        evaluations = evaluate(loaded, (train, val), (right, asked), settings.data, how, say)
    ranks.gather(None)  # the others stay until the lead has its figures
    if not ranks.leads:
        return []
    _say_what_is_left_out(train, val, evaluations[0], console)
    show_table(evaluations, console)
    show_advice(evaluations, console)
    if (settings.model / "config.toml").exists():  # a run, not a folder of another library's
        pictures = _draw_layers(evaluations, settings.model)
        keep(evaluations, settings.model)
        console.print(f"Kept in {settings.model}: {', '.join(['evaluations.json', *pictures, 'report.html'])}")
    return evaluations


def show_table(evaluations: Sequence[Evaluation], console: Console) -> None:
    """Rows are features and where they were taken, columns the figures of each kind of classifier, in percent."""
    first = evaluations[0]
    chance = f" (chance {1 / first.classes:.1%})" if first.task == "classification" and first.classes else ""
    what = {"classification": f" of {first.classes} classes", "multi-label": f" with {first.classes} labels"}
    console.print(
        f"{first.val_images:,} images{what.get(first.task, '')}, judged by the features of {first.train_images:,} "
        f"others{chance}"
    )
    kinds = list(dict.fromkeys(e.kind for e in evaluations))
    columns = [
        (name, kind)
        for name in FIGURES
        for kind in kinds
        if any(getattr(e, name) is not None for e in evaluations if e.kind == kind)
    ]
    is_sweep = len(_own(evaluations, kinds[0])) > 1
    table = Table(
        *("features", "layer", "pool")[: 3 if is_sweep else 1],
        *(f"{SAID[kind]} {FIGURES[name]}" for name, kind in columns),
        "RankMe",
    )
    best = _best(evaluations)
    rows: dict[tuple[str, int | None, str | None], dict[str, Evaluation]] = {}
    for e in evaluations:
        rows.setdefault((e.features, e.layer, e.pool), {})[e.kind] = e
    for (features, layer, pool), row in rows.items():
        one = next(iter(row.values()))
        where = [str(layer or "-"), pool or "-"] if is_sweep else []
        said = [_percent(getattr(row[kind], name), name) for name, kind in columns]
        rank = "-" if one.rankme is None else f"{one.rankme:.1f}"
        is_best = any(e in best for e in row.values())
        mark = " (best)" if is_best and is_sweep else ""
        table.add_row(features + mark, *where, *said, rank, style="bold" if is_best else None)
    console.print(table)


def show_advice(evaluations: Sequence[Evaluation], console: Console) -> None:
    """What to mind about these figures, where there is something."""
    if len(_own(evaluations, evaluations[0].kind)) > 1:
        console.print(
            "The best row was chosen on the val images themselves, so its figure flatters: fix the layer, then judge "
            "it on images that had no say.",
            soft_wrap=True,
        )
    for e in _best(evaluations):
        if e.top1 is not None and (error := standard_error(e.top1, e.val_images)) > _LARGE_ERROR:
            console.print(
                f"Of so few val images the {SAID[e.kind]} figure is known to ± {error:.1%} (standard error): smaller "
                "differences mean nothing.",
                soft_wrap=True,
            )
        if e.strength in (STRENGTHS[0], STRENGTHS[-1]):
            which = "strongest" if e.strength == STRENGTHS[0] else "weakest"
            console.print(
                f"The {which} regularisation of those tried ({e.strength:g}) was chosen: a better one may lie beyond.",
                soft_wrap=True,
            )


def _own(evaluations: Sequence[Evaluation], kind: Kind) -> list[Evaluation]:
    """Those of the model itself."""
    return [e for e in evaluations if e.features not in BASELINES and e.kind == kind]


def _best(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Of each kind, the model's best."""
    kinds = dict.fromkeys(e.kind for e in evaluations)
    return [max(_own(evaluations, kind), key=lambda e: e.headline) for kind in kinds]


def _percent(value: float | None, name: str) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if name == "r2" else f"{value:.1%}"


def _draw_layers(evaluations: Sequence[Evaluation], run: Path) -> list[str]:
    """Writes RUN/layers-knn.svg (or -linear) where several layers were compared; gives the names."""
    written = []
    for kind in dict.fromkeys(e.kind for e in evaluations):
        own = _own(evaluations, kind)
        if len({e.layer for e in own}) < 2:
            continue
        pools = dict.fromkeys(e.pool for e in own)
        lines = {
            f"{pool} pooling" if pool == "mean" else "class token": [
                (e.layer or 0, e.headline) for e in own if e.pool == pool
            ]
            for pool in pools
        }
        levels: dict[str, float] = {
            e.features: e.headline for e in evaluations if e.features in BASELINES and e.kind == kind
        }
        title = f"{_TITLES[kind]} {FIGURES[HEADLINE[own[0].task]]} on features of each layer"
        name = f"layers-{kind}.svg"
        write_file(run / name, layers_curve(title, lines, levels).encode())
        written.append(name)
    return written


def _places(settings: Proof, encoder: ViT) -> list[Readout]:
    """Where --layer and --pool say that features are taken. Raises UserError."""
    pools: list[Pool] = []
    for word in (settings.pool or "mean").split(","):
        if word not in get_args(Pool):
            raise UserError(f"--pool is '{settings.pool}': give mean, class, or mean,class")
        pools.append("class" if word == "class" else "mean")
    if settings.layer is None:
        return readouts(encoder, None, list(dict.fromkeys(pools)))
    if settings.layer == "all":
        layers = list(range(1, encoder.depth + 1))
    else:
        words = settings.layer.split(",")
        if not all(word.strip().isdecimal() for word in words):
            raise UserError(
                f"--layer is '{settings.layer}': give a number from 1 to {encoder.depth}, several with commas, or all"
            )
        layers = sorted({int(word) for word in words})
    return readouts(encoder, layers, list(dict.fromkeys(pools)))


def _check_memory(images: int, places: int, width: int) -> None:
    """Raises UserError where the features would not fit, before an hour of encoding."""
    needed = images * places * width * 4
    if needed > _MOST_OF_RAM * ram():
        raise UserError(
            f"features of {images:,} images in {places} places take {needed / 1e9:,.0f} GB, and the machine has "
            f"{ram() / 1e9:,.0f} GB of memory: compare fewer layers at once, or give fewer images"
        )


def _say_what_is_left_out(train: Source, val: Source, found: Evaluation, console: Console) -> None:
    if unreadable := len(train) + len(val) - found.train_images - found.val_images:
        console.print(f"{unreadable} images cannot be read and are left out", style="yellow")
