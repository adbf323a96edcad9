"""What lies in the folder of a study, and where there may be one."""

from pathlib import Path

from openmae.errors import UserError

ASKED = "study.toml"
PARTS = "parts"
STUDY = "study.json"
"""What kept all of a study once, in the place of these two."""
RESULTS = "results.json"
_OF_NO_STUDY_YET = {"lock", ASKED, STUDY, PARTS, "slurm"}
"""What a start that came to nothing leaves, or a job that waits for its turn."""


def is_study(folder: Path) -> bool:
    """Whether it is the folder of a study."""
    return (folder / ASKED).exists() or (folder / STUDY).exists()


def check_place(path: Path) -> None:
    """Raises UserError where something else lies there."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file", "choose another `out`")
    if (path / "config.toml").exists():
        raise UserError(f"{path} is a run, and a study is a folder of runs", "choose another `out`")
    if path.is_dir() and not is_study(path):
        found = [name for name in (place.name for place in path.iterdir()) if name not in _OF_NO_STUDY_YET]
        if any(not name.startswith(".") for name in found):
            raise UserError(f"{path} is not empty and is not a study", "choose another `out`")
