"""A model on the Hugging Face Hub, with a card that says what it is, in one commit.

    openmae push runs/first user/xray-mae --dry-run look/        what would be uploaded, into a folder
    openmae push runs/first user/xray-mae --licence apache-2.0 --private

Anybody who may see it then has it by openmae.load("hub:user/xray-mae").
"""

import json
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from tyro.conf import Positional, arg

from openmae.console.terminal import make_console
from openmae.errors import UserError
from openmae.files.disk import room_on_disk
from openmae.recipes.asked import AskedDecoderHeads
from openmae.recipes.export.job import described
from openmae.report.card.card import PANEL, PICTURES, is_as_written, make_card
from openmae.report.card.text import public
from openmae.weights import Loaded, load_model, serialize
from openmae.weights.hub import address, explained, library, parsed

_ASKS_LITTLE = {  # of whoever gives on what was made of the weights: nothing, or to say whose they were
    **dict.fromkeys(("cc0-1.0", "unlicense", "wtfpl"), 0),
    **dict.fromkeys(("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc-by-4.0"), 1),
}
_MOST_LETTERS = 60  # of a licence's name


@dataclass(frozen=True)
class Push(AskedDecoderHeads):
    """Upload a model, and a card that says what it is, to the Hugging Face Hub."""

    model: Positional[Annotated[Path, arg(metavar="RUN")]]
    """A run folder, or whatever else openmae.load takes: see docs/weights.md."""
    repository: Positional[Annotated[str, arg(metavar="USER/NAME")]]
    """What it is called on the Hub; made where it is not there."""
    licence: Annotated[str | None, arg(metavar="NAME")] = None
    """Licence of the weights, such as apache-2.0 or cc-by-nc-4.0. Default: that of the weights which this model began
    from; without those, none is stated."""
    private: bool = False
    """Make a repository that only you can see."""
    pictures: bool = True
    """Show the run's last panel on the card: images of your data, with their names."""
    dry_run: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Write what would be uploaded into this folder, and send nothing."""
    force: bool = False
    """Write over a card that was edited by hand."""


def run(settings: Push) -> None:
    """Uploads, or writes a folder, and says what. Raises UserError."""
    push(settings)


def push(settings: Push) -> str:
    """Does so, and gives where it is. Raises UserError; nothing is uploaded by half."""
    console = make_console()
    repository, revision = parsed(settings.repository)
    if revision is not None:
        raise UserError(f"{settings.repository} names a revision", f"give {repository}, whose main branch is written")
    if settings.dry_run is None:
        _check_login(repository)
    else:
        _check_new(settings.dry_run)
    loaded = load_model(settings.model, **settings.heads)
    loaded = replace(loaded, info={**loaded.info, "licence": _licence(settings, loaded)})
    console.print(f"{settings.model}: {described(loaded)}")
    files = _files(settings, repository, loaded)
    _say_what_is_shown(loaded, files, console)
    if settings.dry_run is not None:
        _write(files, settings.dry_run)
        _say_files(files, console)
        console.print(f"Nothing was sent. Look at {settings.dry_run}/README.md")
        return str(settings.dry_run)
    place, commit = _upload(settings, repository, files, console)
    _say_files(files, console)
    console.print(f'It is at {place} (commit {commit[:7]}). Use it:\n\n  openmae.load("hub:{repository}")')
    return place


def _check_login(repository: str) -> None:
    """Raises UserError where there is no token, before anything long begins."""
    hub = library(f"pushing to {repository}")
    if not hub.get_token():
        raise UserError(
            "pushing needs a token of the Hub",
            "log in with hf auth login, or set HF_TOKEN to one with the right to "
            f"write, of {address()}/settings/tokens",
        )


def _check_new(folder: Path) -> None:
    """Raises UserError for a folder that holds something."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--dry-run {folder} is there already", "give a new folder")


def _licence(settings: Push, loaded: Loaded) -> str | None:
    """The licence to state. Raises UserError for one that takes back what that of the weights asks for."""
    had, wanted = loaded.info.get("licence"), settings.licence
    if wanted is None:
        return had
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", wanted, re.ASCII) or len(wanted) > _MOST_LETTERS:
        raise UserError(f"--licence is '{wanted}'", "give a short name, such as apache-2.0, mit or cc-by-nc-4.0")
    if had is None or str(had).lower() == wanted.lower():
        return wanted
    asked, given = _ASKS_LITTLE.get(str(had).lower()), _ASKS_LITTLE.get(wanted.lower(), 2)
    if asked is None or given < asked:
        raise UserError(
            f"{settings.model} holds, or began from, weights under {had}, and --licence {wanted} would not keep what "
            f"that asks for",
            f"leave --licence out, and {had} is stated",
        )
    return wanted


def _files(settings: Push, repository: str, loaded: Loaded) -> dict[str, bytes]:
    """What to upload, by its place in the repository."""
    run = settings.model if (settings.model / "config.toml").exists() else None
    info = public(loaded.info)
    card = make_card(repository, loaded, run, settings.pictures)
    return {
        "README.md": card.text.encode(),
        "model.json": json.dumps(info, indent=1).encode(),
        "model.safetensors": serialize(loaded.model, info),
        **card.pictures,
    }


def _say_what_is_shown(loaded: Loaded, files: Collection[str], console: Console) -> None:
    if loaded.info["licence"] is None:
        said = "No licence is stated, so others may not use these weights: --licence states one."
        console.print(said, style="yellow", soft_wrap=True)
    else:
        console.print(f"Licence of the weights: {loaded.licence}")
    if PANEL in files:
        said = f"The card shows images of your data and their names ({PANEL}): --no-pictures leaves them out."
        console.print(said, style="yellow", soft_wrap=True)


def _say_files(files: dict[str, bytes], console: Console) -> None:
    for name, content in files.items():
        size = f"{len(content) / 1e6:,.1f} MB" if len(content) >= 1e5 else f"{len(content) / 1e3:,.1f} kB"
        console.print(f"  {name:<32}{size:>12}")


def _write(files: dict[str, bytes], folder: Path) -> None:
    """Writes them into the folder, all or none. Raises UserError."""
    try:
        with room_on_disk(folder), _taken_back(folder):
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
    except OSError as error:
        raise UserError(f"--dry-run {folder} cannot be written ({error.strerror})", "give another folder") from error


@contextmanager
def _taken_back(folder: Path) -> Iterator[None]:
    """Removes the folder, new or empty before, where not all could be written: the same command then runs again."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _upload(settings: Push, repository: str, files: dict[str, bytes], console: Console) -> tuple[str, str]:
    """(its address, the commit). Takes out of `files` what is left as it is there. Raises UserError."""
    hub = library(f"pushing to {repository}")
    with explained(repository, "write to"):
        api = hub.HfApi(library_name="openmae")
        place = api.create_repo(repository, private=settings.private or None, exist_ok=True)
        there = api.model_info(repository)
        _check_repository(settings, repository, there)
        names = {file.rfilename for file in there.siblings or ()}
        if "README.md" in names and not settings.force and not _may_replace_card(hub, repository, there.sha):
            del files["README.md"]
            said = f"The card of {repository} was edited by hand and stays as it is: --force writes over it."
            console.print(said, style="yellow", soft_wrap=True)
        operations = [hub.CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [hub.CommitOperationDelete(name) for name in PICTURES if name in names and name not in files]
        found = api.create_commit(
            repository, operations, commit_message="Upload by openmae push", parent_commit=there.sha
        )
    if found.oid == there.sha:
        console.print(f"{repository} holds all of this already.")
    return str(place), str(found.oid)


def _check_repository(settings: Push, repository: str, there: Any) -> None:
    """Raises UserError where the model would be seen by more than was asked for, or not be found beside another."""
    if settings.private and not there.private:
        raise UserError(
            f"{repository} is there already, and public", "make it private in its settings, or give another"
        )
    if any(file.rfilename == "config.json" for file in there.siblings or ()):
        raise UserError(f"{repository} holds a model of another library (config.json)", "give another name")


def _may_replace_card(hub: Any, repository: str, commit: str) -> bool:
    file = Path(hub.hf_hub_download(repository, "README.md", revision=commit))
    return is_as_written(file.read_text(encoding="utf-8", errors="replace"))
