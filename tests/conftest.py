"""Settings that all tests share."""

import os

import pytest
from hypothesis import settings

from openmae.cli import main
from openmae.commandline.flags import with_flags
from tests.commands import Run

# One thread for models this small: on a busy machine, threads that wait for each other take ten times as long.
# Set before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: a slow or busy machine is no failure. Derandomized: a commit passes or fails alike everywhere.
settings.register_profile("openmae", deadline=None, derandomize=True)
settings.load_profile("openmae")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        for said in (captured.out, captured.err):
            assert with_flags(said) == said, "a setting has its Python name"
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Listings that tests keep are not the user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
