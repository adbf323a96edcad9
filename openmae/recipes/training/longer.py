"""A run that is complete, and made longer: more epochs, with a new schedule from its last weights.

config.toml has `earlier`, the steps and epochs after which the run was complete before, and with that the whole of it
is again a function of its settings, wherever it is stopped and gone on with.
"""

import math
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
    epochs, asked = complete_after(run), given(settings.epochs)
    if epochs is None or asked <= epochs:
        return ends, ""
    if not config["steps"]:
        raise UserError(f"{run} holds a run of no steps, which cannot be made longer", "choose another --out")
    said = (
        f"The run in {run} was complete after {shown(epochs)} epochs, {several(config['steps'], 'step')}: "
        f"{shown(asked - epochs)} more begin with its last weights, a new warm-up and a new cosine"
    )
    warmup = config.get("warmup_epochs") or 0.0
    if asked - epochs <= warmup:
        said += (
            f". The warm-up alone takes {shown(warmup)}, so the rate only rises, and the run ends at its height: "
            f"--epochs {shown(math.ceil(epochs + 5 * warmup))} lets it fall"
        )
    return [*ends, (config["steps"], epochs)], said


def complete_after(run: Path) -> float | None:
    """How many epochs a run took that is complete; None where it is not. Raises UserError where it is no run."""
    config = read_config(run)
    epochs = config.get("epochs")
    if isinstance(epochs, int | float) and has_checkpoint(run / "checkpoints", config.get("steps")):
        return float(epochs)
    return None


def entries(steps: int, ends: Ends, images: int) -> dict[str, Any]:
    """What config.toml has beside the settings."""
    return {"steps": steps, "image_count": images, **({EARLIER: [list(end) for end in ends]} if ends else {})}
