"""What `knn` and `probe` share: open the model and the data, evaluate, print the table, keep it in the run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from openmae.commandline.flags import with_flags
from openmae.console.notebook import shown_in_cell
from openmae.console.terminal import make_console
from openmae.console.words import several, size_of
from openmae.data.fewer_labels import asked_labels
from openmae.data.held_out import answers_to_learn, split_for
from openmae.data.opening import open_data
from openmae.data.sources.selection import WHOLE
from openmae.data.sources.source import Source
from openmae.data.tasks import Taken, answers
from openmae.distributed.ranks import Ranks, joined
from openmae.errors import UserError, said_once
from openmae.evaluate import knn
from openmae.evaluate.baselines import values as baseline_values
from openmae.evaluate.evaluation import Evaluation, How, Kind, evaluate
from openmae.evaluate.features import Readout, readouts
from openmae.evaluate.suited import suited
from openmae.files.address import whole_address
from openmae.heads import Pool
from openmae.machine.device import choose_device, choose_precision, device_of
from openmae.machine.memory import ram
from openmae.machine.workers import workers_for
from openmae.model import ViT
from openmae.recipes.learnt import label_column
from openmae.recipes.levels import check_levels
from openmae.recipes.opened import say_unreadable, tell
from openmae.recipes.probe.bank import check_bank, check_room, keep_bank
from openmae.recipes.probe.keep import keep
from openmae.recipes.probe.settings import Proof
from openmae.recipes.probe.table import draw_layers, show_advice, show_table
from openmae.weights import load_model
from openmae.weights.loaded import say_origin

_MOST_OF_RAM = 0.5  # for features
_TIMEOUT = 3600.0  # seconds for which ranks wait for each other, the lead's classifiers among it


def prove(
    settings: Proof,
    kinds: Sequence[Kind],
    k: int = knn.K,
    temperature: float = knn.TEMPERATURE,
    out: Path | None = None,
) -> list[Evaluation]:
    """Evaluates, prints the table, and, where MODEL is a run folder, keeps the figures in its evaluations.json.

    out: a run folder for the nearest neighbours as a classifier; None for none.
    """
    with said_once():
        device = choose_device(settings.device)
        if not 0 <= settings.seed < 2**63:
            raise UserError(f"--seed is {settings.seed}", "give a number from 0 and below 2**63")
    with joined(device.type, _TIMEOUT) as ranks:
        return _prove(settings, kinds, (k, temperature), out, ranks, device_of(device, ranks))


def _prove(
    settings: Proof,
    kinds: Sequence[Kind],
    vote: tuple[int, float],
    out: Path | None,
    ranks: Ranks,
    device: torch.device,
) -> list[Evaluation]:
    k, temperature = vote
    console = make_console()
    console.quiet = not ranks.leads
    with ranks.together():
        loaded = load_model(settings.model, **settings.heads)
        say_origin(loaded, console)
        places = _places(settings, loaded.encoder)
        if out is not None:
            check_bank(out, settings, places)
        column = label_column(settings.label_column, settings.data, settings.model, loaded, console)
        settings = replace(settings, label_column=column)
    taken, train, val = ranks.each_in_turn(lambda: _split(settings, console))
    ranks.agree(f"{train.fingerprint} {val.fingerprint}", f"{settings.data} holds other images")
    workers = workers_for(settings.workers, device, ranks)
    with ranks.together():
        console.print(with_flags(str(taken)), soft_wrap=True)
        loaded = suited(loaded, train, settings.reading, workers, console)
        right = answers_to_learn(train, taken.task, settings.selection)
        asked = answers(val, taken.task, right.names)
        if out is not None:
            check_room(len(train), loaded.encoder.embed_dim)
        _check_memory(len(train) + len(val), len(places), loaded.encoder, settings.baselines)
    if "knn" in kinds and k > len(train):
        console.print(f"--k {k} is more than the {len(train):,} training images: all of them vote", style="yellow")
    with ranks.together():
        for source in dict.fromkeys((train, val)) if ranks.leads else ():
            check_levels(loaded.name, loaded.statistics, source, workers, console)
    how = How(
        kinds,
        places,
        settings.baselines,
        k,
        temperature,
        choose_precision(device)[0] if settings.precision == "auto" else settings.precision,
        device,
        workers,
        settings.seed,
        ranks,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar, shown_in_cell(console) as cell:
        shown = bar.add_task("reading", total=None)

        def say(what: str, done: int, of: int) -> None:
            bar.update(shown, description=what, completed=done, total=of or None)
            if cell is not None:
                cell.show(what, done / of if of else 0.0)

        what = whole_address(settings.data) + settings.selection.beside(WHOLE)
        what += "" if settings.labels is None else f" (--labels {settings.labels})"
        known: list[knn.Bank] = []
        left_out: list[tuple[Source, Sequence[int]]] = []
        evaluations = evaluate(
            loaded,
            (train, val),
            (right, asked),
            what,
            how,
            say,
            lambda *found: known.append(knn.Bank(*found)),
            lambda *found: left_out.append(found),
        )
    ranks.gather(None)  # the others stay until the lead has its figures
    if not ranks.leads:
        return []
    for source, unreadable in left_out:
        names = [source.name(index) for index in unreadable]
        say_unreadable(names, f"{several(len(source), 'image')} of {source.location}", settings.data, console)
    show_table(evaluations, console)
    show_advice(evaluations, console)
    if (settings.model / "config.toml").exists():  # a run, not a folder of another library's
        pictures = draw_layers(evaluations, settings.model)
        keep(evaluations, settings.model)
        console.print(f"Kept in {settings.model}: {', '.join(['evaluations.json', *pictures, 'report.html'])}")
    if out is not None:
        console.print(keep_bank(settings, out, loaded, known[0], (train, val), asked, how), soft_wrap=True)
    return evaluations


def _split(settings: Proof, console: Console) -> tuple[Taken, Source, Source]:
    """What labels are taken for, and the images to learn from and to be judged by. Raises UserError."""
    data = open_data(settings.data, settings.selection, settings.reading)
    taken, train, val = split_for(data, settings.task, settings.seed)
    tell(data, console, train, val)
    return taken, asked_labels(train, settings.labels, taken.task, settings.seed, settings.selection), val


def _places(settings: Proof, encoder: ViT) -> list[Readout]:
    """Where --layer and --pool say that features are taken. Raises UserError."""
    pools: list[Pool] = []
    for word in (settings.pool or "mean").split(","):
        if word not in get_args(Pool):
            raise UserError(f"--pool is '{settings.pool}'", "give mean, class, or mean,class")
        pools.append("class" if word == "class" else "mean")
    if settings.layer is None:
        return readouts(encoder, None, list(dict.fromkeys(pools)))
    if settings.layer == "all":
        layers = list(range(1, encoder.depth + 1))
    else:
        words = settings.layer.split(",")
        if not all(word.strip().isdecimal() for word in words):
            raise UserError(
                f"--layer is '{settings.layer}'",
                f"give a number from 1 to {encoder.depth}, several with commas, or all",
            )
        layers = sorted({int(word) for word in words})
    return readouts(encoder, layers, list(dict.fromkeys(pools)))


def _check_memory(images: int, places: int, encoder: ViT, baselines: bool) -> None:
    """Raises UserError where the features would not fit, before an hour of encoding."""
    values, advice = places * encoder.embed_dim, "compare fewer layers at once, or give fewer images"
    if baselines:
        pixels, histograms = baseline_values(encoder.img_size, encoder.in_chans)
        values = 2 * values + 2 * pixels + histograms  # an untrained encoder beside it, and pixels whitened as well
        advice += ", or measure the model alone by --no-baselines"
    needed = 4 * images * values
    if needed > _MOST_OF_RAM * ram():
        raise UserError(
            f"features of {images:,} images take {size_of(needed)} ({places} of the model's own each), and the machine "
            f"has {size_of(ram())} of memory",
            advice,
        )
