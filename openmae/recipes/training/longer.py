"""A run that is complete, and made longer: more epochs, with a new schedule from its last weights.

config.toml has `earlier`, the steps and epochs after which the run was complete before, and with that the whole of it
is again a function of its settings, wherever it is stopped and gone on with.
"""

from pathlib import Path
from typing import Any

from openmae.console.words import several
from openmae.errors import UserError
from openmae.recipes.training.settings import Settings, given, shown
from openmae.train.checkpoint import has_checkpoint
from openmae.train.run import read_config

EARLIER = "earlier"
CHANGES = (EARLIER, "epochs", "steps")
"""Entries of config.toml that differ where a run is made longer."""
Ends = list[tuple[int, float]]


def ends_of(run: Path) -> Ends:
    """(steps, epochs) after which a run was complete before. Raises UserError where it is no run."""
    try:
        return [(int(steps), float(epochs)) for steps, epochs in read_config(run).get(EARLIER, [])]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{run / 'config.toml'} cannot be read ({error})", "restore it, or choose another run"
        ) from error


def made_longer(settings: Settings, run: Path) -> tuple[Ends, str]:
    """(the ends of a run that goes on, what is said where it is made longer now, or nothing). Raises UserError."""
    config, ends = read_config(run), ends_of(run)
    epochs, asked = config.get("epochs"), given(settings.epochs)
    if not isinstance(epochs, int | float) or not has_checkpoint(run / "checkpoints", config.get("steps")):
        return ends, ""
    if asked <= epochs:
        return ends, ""
    if not config["steps"]:
        raise UserError(f"{run} holds a run of no steps, which cannot be made longer", "choose another --out")
    said = (
        f"The run in {run} was complete after {shown(float(epochs))} epochs, {several(config['steps'], 'step')}: "
        f"{shown(asked - epochs)} more begin with its last weights, a new warm-up and a new cosine"
    )
    return [*ends, (config["steps"], float(epochs))], said


def entries(steps: int, ends: Ends, images: int) -> dict[str, Any]:
    """What config.toml has beside the settings."""
    return {"steps": steps, "image_count": images, **({EARLIER: [list(end) for end in ends]} if ends else {})}
