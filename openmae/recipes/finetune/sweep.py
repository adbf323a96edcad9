"""Partial fine-tuning side by side: what each further block that learns gains (paper, Figure 9)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from openmae.console.words import duration
from openmae.distributed.started import refuse_ranks
from openmae.errors import UserError
from openmae.evaluate.predict import said
from openmae.files.parsing import read_json, to_json
from openmae.files.whole import write_file
from openmae.heads import Classifier, learn_last_blocks
from openmae.model import SIZES
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.training.minutes import check_same, kept_plan
from openmae.recipes.training.open import stored
from openmae.report.page.headline import training_seconds
from openmae.report.page.run import write_report
from openmae.report.page.sweep import SWEEP, by_blocks
from openmae.train.run import has_begun, read_config
from openmae.weights import load_model


def sweep(
    settings: Finetune,
    parts: Sequence[str],
    console: Console,
    finetune: Callable[[Finetune, Console], dict[str, float]],
) -> None:
    """Trains OUT/blocks-N for each of the parts, and writes OUT/sweep.json and report.html anew after each.

    The same command again, after a crash or Ctrl-C, goes on where it was; other parts come beside those that are there.
    Raises UserError, Interrupted.
    """
    refuse_ranks("a sweep over --blocks")
    if settings.with_scratch:
        raise UserError("--with-scratch is for one fine-tuning, and --blocks asks for several", "leave one of them out")
    if settings.out is None:
        raise UserError("say where the runs go", "openmae finetune MODEL DATA --out RUN")
    if (settings.out / "config.toml").exists():
        raise UserError(f"{settings.out} is a run, and a sweep is a folder of runs", "choose another --out")
    out, found = settings.out, _kept(settings.out)
    _check(settings, parts)
    settings = settings if settings.folds else replace(settings, folds=0)  # all parts learn in one way
    settings = _as_begun(settings, [out / f"blocks-{part}" for part in dict.fromkeys((*parts, *found))])
    for number, part in enumerate(parts, 1):
        console.print(f"\n{number} of {len(parts)}: --blocks {part}")
        run = out / f"blocks-{part}"
        figures = finetune(replace(settings, blocks=part, out=run), console)
        # What is chosen once is said once, and the epochs that minutes were enough for are all the parts'.
        settings = stored(replace(settings, minutes=None), read_config(run), defaults_too=False)
        found[part] = {"figures": figures, "parameters": _learning(run, part), "seconds": training_seconds(run)}
        found = dict(sorted(found.items(), key=by_blocks))
        write_file(out / SWEEP, to_json(found, indent=1))
        write_report(out)
    _show(found, console)
    console.print(f"Kept in {out}/{SWEEP}. Look at: {out}/report.html")


def _as_begun(settings: Finetune, runs: Sequence[Path]) -> Finetune:
    """The settings with what is left open taken from the parts that have begun, by any command: each trains as long as
    the others. Raises UserError where they were not planned for the minutes that are asked for."""
    begun = [run for run in runs if has_begun(run)]
    if not begun or settings.epochs is not None:
        return settings
    planned = next((run for run in begun if kept_plan(run)), begun[0])
    check_same(settings.minutes, planned)
    return stored(replace(settings, minutes=None), read_config(planned), defaults_too=False)


def _check(settings: Finetune, parts: Sequence[str]) -> None:
    """Raises UserError, before anything is trained, where one of the parts is more than the encoder has."""
    if settings.model is None:  # --resume
        return
    if settings.model in SIZES:
        depth = SIZES[settings.model][1]
    else:
        depth = load_model(Path(settings.model), **settings.heads).encoder.depth
    if too_many := [part for part in parts if part != "all" and float(part) > depth]:
        raise UserError(f"--blocks has {too_many[0]}, and this encoder has {depth}", f"give at most {depth}, or all")


def _show(found: dict[str, Any], console: Console) -> None:
    table = Table("last blocks that learn", "parameters that learn", "on the val images", "training time")
    for part, one in found.items():
        time = "-" if one["seconds"] is None else duration(one["seconds"])
        table.add_row(part, f"{one['parameters']:,}", said(one["figures"]), time)
    for number in (1, 3):
        table.columns[number].justify = "right"
    console.print(table)


def _kept(out: Path) -> dict[str, Any]:
    """What earlier starts found. Raises UserError where it is damaged."""
    file = out / SWEEP
    try:
        found = read_json(file.read_bytes()) if file.exists() else {}
        return {part: one for part, one in found.items() if {"figures", "parameters", "seconds"} <= set(one)}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error})", "move it away, and run the same command again") from error


def _learning(run: Path, blocks: str) -> int:
    """How many parameters learnt in a run."""
    model = load_model(run).model
    assert isinstance(model, Classifier)
    model.requires_grad_(True)
    if model.norm is not None:
        model.encoder.norm.requires_grad_(False)
    learn_last_blocks(model, model.encoder.depth if blocks == "all" else float(blocks))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
