"""Measure a whole pre-training step here, beside other implementations.

    openmae bench --out bench

Every contender trains the same sizes on the same random images (docs/bench.md); they take turns, so that a machine
that is slower for a while is so for all of them. A few minutes; with --compile some more.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table as RichTable

from openmae.commandline.flags import flag
from openmae.console.progress import PLAIN_SECONDS
from openmae.console.terminal import make_console
from openmae.console.words import duration, several
from openmae.errors import UserError, of_user
from openmae.files.disk import room_on_disk
from openmae.files.whole import write_file
from openmae.machine.device import choose_device, has_fast_bf16
from openmae.machine.kinds import Precision
from openmae.masking import Masking
from openmae.model import PAPERS_DECODER, Architecture, create_model
from openmae.recipes.bench.peers import Peer, file_peer, installed
from openmae.recipes.bench.rounds import PRODUCT, Contender, SayTurns, measure, table_of
from openmae.recipes.bench.settings import Bench
from openmae.recipes.bench.steps import Ours, Where
from openmae.recipes.pretrain.choose import FAST_DEPTH, FAST_FRACTION
from openmae.report.plots.bench import Table, bench_picture, failures, head, markdown, rows
from openmae.train.compiling import missing_compiler
from openmae.train.environment import environment

REFERENCE = "transformers"
_LARGEST_FILE = 100_000  # bytes, of what it writes


def run(settings: Bench) -> None:
    """Measures, prints the tables, keeps them. Raises UserError."""
    console = make_console()
    device = choose_device(settings.device)
    _check_ranges(settings, device)
    contenders = contenders_of(settings, device)
    title = f"{contenders[0].model}, {settings.img_size} pixels"
    machine = environment()
    tables: list[Table] = []
    if settings.out is not None:
        _check_writable(settings.out)
    for precision in precisions_of(settings.precision, device):
        where = Where(device.type, precision)
        tables.append(measured(title, contenders, where, settings.micro_batch, settings.rounds, console))
        if len(tables) == 1:
            console.print(machine_line(machine, device))
        show(tables[-1], console)
        if settings.out is not None:
            with room_on_disk(settings.out):
                keep(settings.out, tables, machine, device)
    if settings.out is not None:
        console.print(f"Kept in {settings.out}: bench.json, bench.md, bench.svg")
    check_measured(tables, contenders[0].name)


def contenders_of(settings: Bench, device: torch.device) -> list[Contender]:
    """Who is measured, in the table's order, the matrix product last. Raises UserError for what cannot be built."""
    model = settings.model or ("vit_small" if device.type == "cpu" else "vit_base")
    try:
        paper = architecture_of(model, settings.img_size, settings.mask_ratio, settings.decoder_depth)
    except ValueError as error:
        bad = of_user(error)
        raise UserError(f"this model cannot be built: {bad.what}", bad.advice) from error
    fast = replace(
        paper,
        decoder="cross",
        decoder_depth=min(settings.decoder_depth, FAST_DEPTH),
        masking=Masking(settings.mask_ratio, predict_fraction=FAST_FRACTION),
    )
    found = [
        Contender("openmae", Ours(paper), model, paper),
        Contender("openmae, fast settings", Ours(fast), model, fast),
    ]
    if settings.compile:
        found.append(Contender("openmae, compiled", Ours(paper, compiled=True), model, paper, compiled=True))
    for name in installed():
        found.append(Contender(name, Peer(name, paper), model, paper))
        if settings.compile and name == REFERENCE:
            work = Peer(name, paper, compiled=True)
            found.append(Contender(f"{name}, compiled", work, model, paper, compiled=True))
    for given in settings.peer:
        work_of_file = file_peer(given, paper.in_chans, paper.img_size)
        found.append(Contender(Path(given).name, work_of_file, model, paper, must_load=True))
    return [*found, PRODUCT]


def architecture_of(
    model: str, img_size: int = 224, mask_ratio: float = 0.75, decoder_depth: int = 8, encoder_mask_token: bool = False
) -> Architecture:
    """The paper's settings but for these. Raises ValueError for what cannot be built."""
    masking, (width, _, heads) = Masking(mask_ratio), PAPERS_DECODER
    with torch.device("meta"):
        return create_model(
            model,
            img_size=img_size,
            decoder_embed_dim=width,
            decoder_depth=decoder_depth,
            decoder_num_heads=heads,
            encoder_mask_token=encoder_mask_token,
            masking=masking,
        ).architecture


def precisions_of(wanted: Sequence[Precision] | None, device: torch.device) -> list[Precision]:
    """Those asked for, each once; or all that the processor has products for."""
    if wanted:
        return list(dict.fromkeys(wanted))
    return ["bf16", "fp32"] if has_fast_bf16(device) else ["fp32"]


def _check_ranges(settings: Bench, device: torch.device) -> None:
    for name in ("micro_batch", "rounds", "img_size"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"{flag(name)} is {value}", "give 1 or more")
    if settings.precision == ():
        raise UserError("--precision is without a value", "give bf16, fp32 or both")
    if settings.compile and (missing := missing_compiler(device)):
        raise UserError(f"--compile needs {missing}", "install it, or leave --compile out")


def check_measured(tables: Sequence[Table], ours: str) -> None:
    """Raises UserError where what this is about is missing."""
    advice = "mend it, or try a smaller --micro-batch"
    if not any(table.results for table in tables):
        raise UserError("nothing could be measured, for the reason above", advice)
    for table in tables:
        if ours not in [result.contender for result in table.results]:
            raise UserError(f"{ours} itself could not be measured in {table.title}, for the reason above", advice)


def _check_writable(out: Path) -> None:
    """Raises UserError, before minutes of measuring."""
    if (out / "bench.json").exists():
        raise UserError(f"{out} holds an earlier benchmark", "choose another --out, or remove that one")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out) as file:
            file.write(bytes(_LARGEST_FILE))
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})", "choose another --out") from error


# ---------------------------------------------------------------- measuring and saying


def measured(
    title: str,
    contenders: Sequence[Contender],
    where: Where,
    micro_batch: int | None,
    rounds: int,
    console: Console,
    reference: str = REFERENCE,
) -> Table:
    """The contenders' table, with ratios to the reference, or to the first one. Raises UserError as `measure` does."""
    with _progress(where.precision, console) as say:
        micro_batch, booths = measure(contenders, where, micro_batch, rounds, say)
    title = f"{title}, {where.precision}, micro-batch {micro_batch}, {several(rounds, 'round')}"
    return table_of(title, micro_batch, booths, reference)


@contextmanager
def _progress(precision: str, console: Console) -> Iterator[SayTurns]:
    """Gives a function to be told how far it is: a bar on a terminal, plain lines now and then elsewhere, with the
    time left. Its redrawing takes next to nothing from those that are measured."""
    began, said = 0.0, -PLAIN_SECONDS
    columns = (TextColumn(precision), BarColumn(), TextColumn("{task.description}"))
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet, refresh_per_second=1) as bar:
        task = bar.add_task("", total=None)

        def say(what: str, done: int, of: int) -> None:
            nonlocal began, said
            now = time.monotonic()
            line = what
            if done == 0:
                began = now
            else:
                line += f" · turn {done + 1} of {of} · {duration((now - began) / done * (of - done))} left"
            bar.update(task, completed=done, total=of if done else None, description=line)
            if quiet and now - said >= PLAIN_SECONDS:
                said = now
                console.print(f"{precision}: {line}")

        yield say


def machine_line(machine: dict[str, Any], device: torch.device) -> str:
    """What it was measured on."""
    gpu = f"{machine['gpus'][0]}; " if device.type == "cuda" else ""
    commit = machine["commit"]
    at = "" if commit is None else f"; commit {commit[:7]}{'+' if commit.endswith('+') else ''}"
    return (
        f"{gpu}{machine['processor']}, {several(machine['cores'], 'core')}, {several(machine['threads'], 'thread')}; "
        f"torch {torch.__version__}{at}"
    )


def show(table: Table, console: Console) -> None:
    """Prints it."""
    shown = RichTable(*head(table), title=table.title, title_justify="left")
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows(table):
        shown.add_row(*row)
    console.print()
    console.print(shown)
    for sentence in failures(table):
        console.print(sentence, style="yellow", soft_wrap=True)


def keep(out: Path, tables: Sequence[Table], machine: dict[str, Any], device: torch.device) -> None:
    """Writes bench.json, bench.md and bench.svg. Raises OSError where they cannot be written."""
    line = machine_line(machine, device)
    found = {
        "machine": line,
        "device": device.type,
        "torch": torch.__version__,
        "commit": machine["commit"],
        "threads": machine["threads"],
        "matmul": [{"table": table.title, "tflops": table.matmul_tflops} for table in tables],
        "results": [asdict(result) for table in tables for result in table.results],
        "failed": [
            {"contender": name, "reason": reason, "table": table.title}
            for table in tables
            for name, reason in table.failed
        ],
    }
    write_file(out / "bench.json", json.dumps(found, indent=1).encode())
    write_file(out / "bench.md", "\n".join([f"{line}\n", *map(markdown, tables)]).encode())
    write_file(out / "bench.svg", bench_picture(tables).encode())
