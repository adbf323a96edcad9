"""Models on the Hugging Face Hub."""

from dataclasses import replace
from pathlib import Path

from openmae.errors import UserError
from openmae.weights.loaded import Loaded

PREFIX = "hub:"


def fetched(name: str) -> Path:
    """The folder, in the Hub's cache, with the files of `hub:user/name`. Raises UserError."""
    raise UserError(f"{name} cannot be fetched yet")


def renamed(loaded: Loaded, name: str) -> Loaded:
    """Called as the user called it, not as the cache does."""
    provenance = {**loaded.info["provenance"], "hub": name.removeprefix(PREFIX)}
    return replace(loaded, name=name, info={**loaded.info, "provenance": provenance})
