"""Settings that all tests share."""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from openmae.cli import main
from openmae.commandline.flags import with_flags
from tests.commands import Run
from tests.runs import Runs

# What pytest-xdist starts has told all by the time it ends, and does not take itself apart, which takes seconds of a
# process that has imported what all tests do. Registered first, so that all else that is to be done at the end is done.
if "PYTEST_XDIST_WORKER" in os.environ:
    atexit.register(os._exit, 0)

# A shell that starts the tests in the background has Ctrl-C ignored, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a slow or busy machine is no failure. Derandomized: a commit passes or fails alike everywhere.
settings.register_profile("openmae", deadline=None, derandomize=True)
settings.load_profile("openmae")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What all tests import is most of a million objects: none is garbage, and the collector does not look at them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # what is left then is freed as ever


_imported = [0]  # modules, when the collector was last told to look no more at what there is


def pytest_runtest_logfinish() -> None:
    """What a test is the first to import, such as transformers, is as much again, and likewise no garbage: commands
    collect some at their end, in a tenth of a second each time."""
    if len(sys.modules) > _imported[0] + 50:
        gc.collect()
        gc.freeze()
        _imported[0] = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def _parsers_made_once() -> Iterator[None]:
    """tyro takes 35 ms to learn a command's eighty settings, once in each process that a user starts, and thousands of
    times here: what it has learnt is kept. Not for --help, which comes with rules of its own."""
    from tyro._parsers import ParserSpecification
    from tyro.constructors import ConstructorRegistry

    learn, learnt = ParserSpecification.from_callable_or_type, dict[Any, ParserSpecification]()

    def once(f: Any, **given: Any) -> ParserSpecification:
        if given["parent_classes"] or len(ConstructorRegistry._active_registries) > 1:
            return learn(f, **given)
        if f not in learnt:
            learnt[f] = learn(f, **given)
        return learnt[f]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParserSpecification, "from_callable_or_type", staticmethod(once))
        yield


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


@pytest.fixture
def threads() -> Iterator[None]:
    """Two of torch's, where tests have one."""
    import torch

    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def brief_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What doctor measures is measured for less long."""
    monkeypatch.setattr("openmae.recipes.doctor.disk.MOST_BYTES", 20 * 10**6)
    monkeypatch.setattr("openmae.recipes.doctor.decoding.SECONDS", 0.2)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Listings that tests keep are not the user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """What is made once for all tests, and looked at in the end."""
    own = tmp_path_factory.getbasetemp()
    made = Runs((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made-once")
    yield made
    made.check()


@pytest.fixture(scope="session")
def data(runs: Runs) -> Path:
    return runs.data()


@pytest.fixture(scope="session")
def colours(runs: Runs) -> Path:
    return runs.colours()


@pytest.fixture(scope="session")
def finished(runs: Runs) -> Path:
    return runs.finished()


@pytest.fixture(scope="session")
def evaluated(runs: Runs) -> Path:
    return runs.evaluated()


@pytest.fixture(scope="session")
def classes(runs: Runs) -> Path:
    return runs.classes()


@pytest.fixture(scope="session")
def shards(runs: Runs) -> Path:
    return runs.shards()
