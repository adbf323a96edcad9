"""Caches are optional: a home that cannot be written, or none, costs a slower start and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openmae.files.cache import cache_folder
from openmae.files.foreign_caches import place_foreign_caches
from openmae.report.card.text import place_name
from tests.commands import pretrain

VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR", "HF_HUB_CACHE")
HOMES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME")


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A process that has none of the variables."""
    for name in (*VARIABLES, *HOMES):
        monkeypatch.setenv(name, "")  # to be put back
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr("atexit.register", lambda *_, **__: None)
    return monkeypatch


def test_a_home_is_used(placed: pytest.MonkeyPatch, tmp_path: Path) -> None:
    placed.setenv("HOME", str(tmp_path / "home"))  # which can be made
    place_foreign_caches()
    assert [os.environ[name] for name in VARIABLES] == [str(tmp_path / "home/.cache/openmae/compiled"), "", ""]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("home", ["/proc/none", "/dev/null", "/dev/null/x", "~nobody-of-this-name"])
def test_a_home_that_cannot_be_written(placed: pytest.MonkeyPatch, tmp_path: Path, home: str) -> None:
    placed.setenv("HOME", home)
    place_foreign_caches()
    for name in VARIABLES:
        assert Path(os.environ[name]).is_relative_to(tmp_path / "tmp")
        Path(os.environ[name]).mkdir()


def test_what_the_user_has_set_stays(placed: pytest.MonkeyPatch) -> None:
    placed.setenv("HOME", "/proc/none")
    for name in VARIABLES:
        placed.setenv(name, f"/proc/{name}")
    place_foreign_caches()
    assert [os.environ[name] for name in VARIABLES] == [f"/proc/{name}" for name in VARIABLES]


def test_models_that_are_there_and_cannot_be_added_to_are_read(placed: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hub").symlink_to("/proc/self/fd")  # where root cannot write either
    placed.setenv("HF_HOME", str(tmp_path))
    place_foreign_caches()
    assert os.environ["HF_HUB_CACHE"] == ""


def test_nobodys_home(placed: pytest.MonkeyPatch) -> None:
    """In a container under a number that no name belongs to; "~" is then no folder of the working directory."""
    placed.setattr(os.path, "expanduser", lambda path: path)
    assert not cache_folder().parent.is_dir()
    assert place_name("data/images") == "images"


def test_a_run_in_a_container_of_another_user(data: Path, tmp_path: Path) -> None:
    """The libraries themselves, in a process that has not imported them; and a notebook's setting of matplotlib."""
    inherited = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, *HOMES)}
    environment = {**inherited, "HOME": "/proc/none", "TMPDIR": str(tmp_path), "MPLBACKEND": "module://of.a.notebook"}
    code = (  # a training has no need of matplotlib, which takes half a second; what comes after it may
        "import sys; from openmae.cli import main; ended = main(sys.argv[1:]); assert 'matplotlib' not in sys.modules; "
        "import matplotlib.font_manager; sys.exit(ended)"
    )
    words = [sys.executable, "-c", code, *pretrain(data, tmp_path / "run")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
