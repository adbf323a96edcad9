"""Models on the Hugging Face Hub, by huggingface_hub: its cache, its log-in, its HF_... settings of the environment.

What is fetched is a description and weights, never code, and weights only once the description is one that is read.
"""

import errno
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.weights import dino, hf
from openmae.weights.loaded import Loaded

PREFIX = "hub:"
_DESCRIPTION = ["config.json", "model.json", "preprocessor_config.json", "README.md"]
_SAFE = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
_PICKLED = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"]
_PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([\w./-]+))?", re.ASCII)
_LONGEST = 96  # letters of user/name
_MOST_SAID = 300  # letters of what a server says


def fetched(name: str) -> Path:
    """The folder, in the Hub's cache, with the files of `hub:user/name` or `hub:user/name@revision`. Raises UserError.

    Without a network, what was fetched before is found there.
    """
    repository, revision = parsed(name)
    hub = library(name)

    def fetch(revision: str | None, patterns: list[str]) -> Path:
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))

    with explained(name, "read"):
        folder = fetch(revision, _DESCRIPTION)
        is_ours = _check_kind(folder, name)
        commit = folder.name  # the same files, whatever is pushed meanwhile
        folder = fetch(commit, _SAFE)
        if not is_ours and not any(folder.glob("model*.safetensors")):
            folder = fetch(commit, _PICKLED)
    if not any(folder.glob("model*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise UserError(f"{name} has no weights that openmae reads, such as model.safetensors", "choose another model")
    return folder


def renamed(loaded: Loaded, name: str) -> Loaded:
    """Called as the user called it, not as the cache does. loaded: of the folder that `fetched` gave."""
    folder = Path(loaded.name)
    provenance = {**loaded.info["provenance"], "hub": name.removeprefix(PREFIX), "commit": folder.name}
    if "file" in provenance:
        provenance["file"] = name
    licence = _of_model_json(folder) or loaded.info.get("licence") or hf.licence_of(folder)
    return replace(loaded, name=name, info={**loaded.info, "provenance": provenance, "licence": licence})


def _of_model_json(folder: Path) -> str | None:
    """The licence that model.json states, which an export to another library's format has too."""
    try:
        licence = read_json((folder / "model.json").read_bytes())["licence"]
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return licence if isinstance(licence, str) else None


def parsed(name: str) -> tuple[str, str | None]:
    """(user/name, the revision if one is given) of such a name, with or without `hub:`. Raises UserError."""
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    if found is None or len(found[1]) > _LONGEST or "--" in found[1] or ".." in name or found[1].endswith(".git"):
        raise UserError(
            f"{name} names no repository of the Hub",
            "write user/name, and to read one hub:user/name or "
            "hub:user/name@revision, such as hub:facebook/vit-mae-base",
        )
    return found[1], found[2]


def library(name: str) -> Any:
    """huggingface_hub. Raises UserError where it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"{name} needs huggingface_hub", "pip install huggingface_hub") from error
    return huggingface_hub


def address() -> str:
    """Of the Hub's server."""
    from huggingface_hub import constants

    return constants.ENDPOINT


@contextmanager
def explained(name: str, what: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence, and keeps its notes and progress bars from where nobody
    watches. what: the right that is needed, "read" or "write to"."""
    from huggingface_hub.errors import HfHubHTTPError

    # Of its HTTP client too, which changed from version to version.
    kinds: Any = (OSError, RuntimeError, ValueError, *HfHubHTTPError.__bases__)
    try:
        with _quiet():
            yield
    except kinds as error:
        raise _complaint(error, name, what) from error


def _check_kind(folder: Path, name: str) -> bool:
    """Whether the model is of openmae's own format. Raises UserError where none that is read is described there."""
    if not (folder / "config.json").exists():
        if (folder / "model.json").exists():
            return True
        raise UserError(f"{name} holds no model that openmae reads: it has neither a model.json nor a config.json")
    try:
        config = read_json((folder / "config.json").read_bytes())
    except ValueError:
        return False  # which is complained of where it is loaded
    config = config if isinstance(config, dict) else {}
    kind = config.get("model_type")
    if kind not in (*hf.KINDS, *dino.KINDS) and not (kind is None and "architecture" in config):
        said = "has a config.json that names no kind of model" if kind is None else f"is of the kind '{str(kind)[:40]}'"
        raise UserError(
            f"{name} {said}, and of the Hub openmae reads its own models, timm's, and transformers' "
            f"{', '.join((*hf.KINDS, *dino.KINDS))}",
            "choose one of those",
        )
    return False


def _complaint(error: BaseException, name: str, what: str) -> UserError:
    """What went wrong and what to do about it."""
    from huggingface_hub import constants, errors

    (name, _, revision), place = name.removeprefix(PREFIX).partition("@"), address()
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, errors.OfflineModeIsEnabled):
            missing = ", which was not fetched before" if what == "read" else ""
            return UserError(f"HF_HUB_OFFLINE forbids to ask {place} for {name}{missing}", "unset it")
        if isinstance(cause, errors.RevisionNotFoundError):
            return UserError(
                f"{name} has no revision {revision or 'main'}", f"give a branch, tag or commit of {place}/{name}"
            )
        if isinstance(cause, errors.GatedRepoError):
            return UserError(
                f"{name} is gated",
                f"ask for access at {place}/{name}, then set HF_TOKEN to your token, or log in with hf auth login",
            )
        if isinstance(cause, errors.RepositoryNotFoundError):
            return UserError(
                f"{place} has no {name}, or it is private",
                "check the name, or set HF_TOKEN to the token of somebody who may see it, or log in with hf auth login",
            )
        if getattr(cause, "response", None) is not None:  # an answer, whatever the HTTP client
            return _of_status(cause, name, place, what, error)
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        where = error.filename or constants.HF_HUB_CACHE
        return UserError(f"{where} cannot be used for the Hub's cache ({error.strerror})", "mend that, or set HF_HOME")
    said = str(causes[-1]).strip().split("\n", 1)[0] or type(causes[-1]).__name__
    return UserError(f"{place} cannot be reached for {name} ({said})", "see that there is a network, and try again")


def _of_status(error: Any, name: str, place: str, what: str, raised: BaseException) -> UserError:
    """Of an answer of the server that is an error. raised: what the library made of it."""
    status = error.response.status_code
    if status == 401:
        return UserError(
            f"{place} does not accept the token", f"set HF_TOKEN to a valid one of {place}/settings/tokens"
        )
    if status == 403:
        return UserError(
            f"the token has no right to {what} {name}", f"set HF_TOKEN to one that has, of {place}/settings/tokens"
        )
    if status in (409, 412):
        return UserError(f"{name} was changed by somebody else meanwhile", f"look at {place}/{name}, and try again")
    if status == 429:
        return UserError(f"{place} has had too many requests from here", "wait some minutes, and try again")
    if status >= 500:
        return UserError(f"{place} is in trouble (it answers {status})", "try again later")
    said = str(raised) if isinstance(raised, ValueError) else getattr(error, "server_message", None) or str(error)
    return UserError(f"{place} refuses {name} ({status}: {' '.join(said.split())[:_MOST_SAID]})", "mend that")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came of, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars but on a terminal, and no notes: what matters of them becomes an error."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    is_left_to_us = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    hides = is_left_to_us and not sys.stderr.isatty()
    verbosity = logging.get_verbosity()
    if hides:
        disable_progress_bars()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if hides:
            enable_progress_bars()
