"""Settings that the user left open: taken from what was chosen, or from the run that goes on."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.commandline.flags import flag, with_flags
from openmae.errors import UserError
from openmae.files.address import whole_address
from openmae.recipes.training.settings import DERIVED, Settings, shown
from openmae.train.run import read_config

OF_A_START = ("resume", "out", "profile", "minutes")
"""Settings that config.toml does not have: those of a start alone, and the minutes, since it has their epochs."""

_COMMANDS = {"mask_ratio": "pretrain", "label_smoothing": "finetune", "auxiliary": "segment", "most_objects": "detect"}
"""By a setting that runs of no other command have: which one began a run."""

Values = dict[str, tuple[Any, str]]
"""Of each setting: what it is set to, and why."""


def fill(settings: Settings, values: Values, console: Console) -> Settings:
    """The settings with those that are open taken from the values; each printed with its reason."""
    chosen = _open(settings, values)
    if chosen:
        reasons = [f"  {flag(name)} {shown(value)}: {with_flags(reason)}" for name, (value, reason) in chosen.items()]
        console.print("Chosen for you (any flag overrides):\n" + "\n".join(reasons), soft_wrap=True)
    return filled(settings, values)


def filled(settings: Settings, values: Values) -> Settings:
    """The settings with those that are open taken from the values."""
    return replace(settings, **{name: value for name, (value, _) in _open(settings, values).items()})


def _open(settings: Settings, values: Values) -> Values:
    return {name: entry for name, entry in values.items() if getattr(settings, name) in (None, "auto")}


def kept(settings: Settings) -> dict[str, Any]:
    """The settings as config.toml has them: by the names of their flags, without those of one start alone."""
    values = {field.name.rstrip("_"): getattr(settings, field.name) for field in fields(settings)}
    return {name: value for name, value in values.items() if name not in OF_A_START}


def kept_whole(settings: Settings) -> dict[str, Any]:
    """As `kept`, MODEL and DATA as whole addresses, so that the run can be gone on with from any folder."""
    values = kept(settings)
    model = values["model"]
    model = whole_address(model) if Path(model).exists() else model  # else a name of the Hub's, of timm's, of a size
    return {**values, "model": model, "data": whole_address(values["data"])}


def asked_for(settings: Settings) -> list[str]:
    """Names of the settings that are not at their default, as `kept` has them."""
    names = [field.name for field in fields(settings) if getattr(settings, field.name) != field.default]
    return [name.rstrip("_") for name in names if name not in OF_A_START]


def own_config(settings: Settings, run: Path) -> dict[str, Any]:
    """config.toml of a run that goes on by these settings. Raises UserError where another command began it."""
    config = read_config(run)
    foreign = set(config) - {*kept(settings), *DERIVED, "method"}  # the last of baselines
    if by := [command for name, command in _COMMANDS.items() if name in foreign]:
        raise UserError(
            f"{run} holds a run of openmae {by[0]}, which another command cannot go on with", "choose another `out`"
        )
    return config


def stored(settings: Settings, config: dict[str, Any], defaults_too: bool) -> Settings:
    """The settings with those that were left open taken from a run's config.toml, and, where `defaults_too`, those
    that stand at their default."""
    values: dict[str, Any] = {}
    for field in fields(settings):
        given = getattr(settings, field.name)
        is_open = given is None or given == "auto" or (defaults_too and given == field.default)
        key = field.name.rstrip("_")  # as `kept` has it
        if is_open and key in config:
            value = config[key]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return replace(settings, **values)
