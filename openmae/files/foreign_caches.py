"""Where the libraries that we use keep what can be made anew. They insist on a place; a cache is optional all the same.

Of torch.compile it is the user's cache folder, for it outlives the machine's next start, which torch's own choice, a
folder in /tmp, does not. Where a home is missing or cannot be written, as in a container under another user, all of
them get a folder of this process alone, which ends with it.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from openmae.errors import UserError
from openmae.files.cache import cache_folder


def place_foreign_caches() -> None:
    """Sets the environment variables by which libraries find their caches, where the user has not; to be called before
    they are imported. Raises UserError where there is no place at all."""
    wanted = {
        "TORCHINDUCTOR_CACHE_DIR": cache_folder() / "compiled",
        "MPLCONFIGDIR": _home("XDG_CONFIG_HOME", ".config") / "matplotlib",
        "HF_HUB_CACHE": Path(os.environ.get("HF_HOME") or _home("XDG_CACHE_HOME", ".cache") / "huggingface") / "hub",
    }
    open_ones = {name: place for name, place in wanted.items() if not os.environ.get(name)}
    refused = [name for name, place in open_ones.items() if not _can_be_written(place)]
    if open_ones.get("HF_HUB_CACHE", Path()).is_dir():  # models are there, which can be read
        refused = [name for name in refused if name != "HF_HUB_CACHE"]
    if refused:
        try:
            own = Path(tempfile.mkdtemp(prefix="openmae-"))
        except OSError as error:
            raise UserError("there is no folder that can be written", "set TMPDIR to one") from error
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        os.environ.update({name: str(own / name.lower()) for name in refused})
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(wanted["TORCHINDUCTOR_CACHE_DIR"])


def _home(variable: str, folder: str) -> Path:
    return Path(os.environ.get(variable) or os.path.expanduser(f"~/{folder}"))  # noqa: PTH111 (never raises)


def _can_be_written(place: Path) -> bool:
    """Whether it is a folder for us, or could be made one. What the path begins with may be no folder at all."""
    if not place.is_absolute():  # "~" that stands for nobody's home
        return False
    while not os.path.lexists(place):
        place = place.parent
    try:
        Path(tempfile.mkdtemp(prefix=".openmae-", dir=place)).rmdir()  # permissions alone do not tell
    except OSError:
        return False
    return True
