"""The commands as functions: their keywords are the settings, their sentences Python's, what they give is a Run."""

import inspect
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import openmae
from openmae.own import Own
from openmae.python import kinds
from openmae.python.keywords import settings_of, with_keywords
from openmae.python.kinds import at_home
from openmae.python.run import Run
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pack.settings import Pack
from openmae.recipes.pretrain.settings import Pretrain
from openmae.studies.adapt.settings import Adapt
from openmae.train.run import read_metrics
from openmae.train.stop import Stop
from tests.commands import TINY
from tests.processes import started_openmae, steps_saved, wait_for
from tests.python import stub
from tests.runs import copy

Values = dict[str, Any]
SMALL: Values = {name.lstrip("-").replace("-", "_"): value for name, value in zip(TINY[::2], TINY[1::2], strict=True)}
SMALL = {name: int(value) if value.isdecimal() else value for name, value in SMALL.items()}
SMALL |= {"workers": 0, "pictures": 1, "evaluations": 1}


def test_what_type_checkers_are_told_is_what_the_settings_are() -> None:
    assert stub.FILE.read_text() == stub.text(), "run make format, or python -m tests.python.stub"


@pytest.mark.slow
def test_a_type_checker_knows_the_keywords(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(
        "import openmae\n"
        "run = openmae.pretrain('images/', out='runs/first', epochs=100, img_size=(32, 16), nodata=-9999)\n"
        "openmae.finetune(run, 'labelled/', out='runs/classes', blocks=4)\n"
        "openmae.pretrain('images/', epoch=1)\n"
        "openmae.pretrain('images/', epochs='ten')\n"
        "openmae.pretrain('images/', mask='blok')\n"
    )
    words = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent", "calls.py"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert [line.split(":")[1] for line in said.splitlines() if "error" in line and ":" in line] == ["4", "5", "6"]
    assert 'Unexpected keyword argument "epoch"' in said


def test_the_signature_and_the_help_are_the_settings() -> None:
    calls = {openmae.pretrain: Pretrain, openmae.finetune: Finetune, openmae.adapt: Adapt, openmae.pack: Pack}
    for call, kind in calls.items():
        known = [field.name for field in fields(kind)]
        assert sorted(inspect.signature(call).parameters) == sorted(known)
        for name in known:
            assert f"    {name}: " in (call.__doc__ or "")
    assert inspect.signature(openmae.pretrain).parameters["mask_ratio"].default == 0.75
    for name, kind in (("mask", kinds.Mask), ("target", kinds.Target)):  # or one's own
        assert get_type_hints(Pretrain)[name] == get_args(kind)[0]
    assert {"pretrain", "Run", "load"} <= set(dir(openmae))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, "openmae.pretrain has no setting 'epoch' (did you mean epochs?): see help(openmae.pretrain)"),
        ({"epochs": "ten"}, "epochs is 'ten': give a number or None"),
        ({"epochs": True}, "epochs is True: give a number or None"),
        ({"in_chans": 2.5}, "in_chans is 2.5: give a whole number or None"),
        ({"mask": "blok"}, "mask is 'blok': give one of 'random', 'block', 'grid', 'crop', 'uniform'"),
        ({"img_size": (1, 2, 3)}, "img_size is (1, 2, 3): give a whole number or a tuple of 2 numbers or None"),
        ({"data": ""}, "data is empty: give a value"),
        ({"hflip": 1}, "hflip is 1: give True or False"),
        ({"epochs": -1}, "epochs is -1: give a number above 0, at most 1e+12"),
        ({"mask_ratio": 1.0}, "mask_ratio is 1, but some patches must hide and some must stay"),
    ],
)
def test_a_slip_is_one_sentence(values: Values, said: str, tmp_path: Path) -> None:
    with pytest.raises(openmae.UserError) as refused:
        openmae.pretrain(**{"data": "images", "out": tmp_path / "run", **values})
    assert str(refused.value).startswith(said)
    assert "--" not in str(refused.value)
    assert len(refused.traceback) == 2  # the caller's line, and the call's own
    assert not (tmp_path / "run").exists()


def test_a_call_needs_a_place() -> None:
    with pytest.raises(openmae.UserError, match="out is missing: say where the run goes"):
        openmae.pretrain("images")


@given(
    epochs=st.one_of(st.integers(1, 10**6), st.floats(0.1, 1e6), st.integers(1, 1000).map(np.int64)),
    sides=st.integers(1, 20).map(lambda side: side * 16),
    mean=st.lists(st.floats(-1, 1), min_size=1, max_size=4),
)
def test_numbers_may_be_of_any_kind(epochs: float, sides: int, mean: list[float]) -> None:
    values = {"epochs": epochs, "img_size": [sides, np.int32(sides)], "patch_size": 16}
    for given_mean in (mean, tuple(mean), np.array(mean)):
        made = settings_of("pretrain", Pretrain, {**values, "mean": given_mean})
        assert made == Pretrain(epochs=float(epochs), img_size=(sides, sides), patch_size=16, mean=tuple(mean))
        assert all(type(side) is int for side in made.img_size or ())
    assert settings_of("finetune", Finetune, {"blocks": 4}).blocks == "4"
    assert settings_of("finetune", Finetune, {"blocks": 0.5}).blocks == "0.5"


def test_sentences_are_worded_as_python_has_it() -> None:
    assert with_keywords("`in_chans` is 2, --img-size 3: give --bands") == "in_chans is 2, img_size 3: give bands"
    assert with_keywords("--no-pictures leaves them out") == "pictures=False leaves them out"
    for whole in ("run openmae pretrain DATA --out RUN", "Logged to tensorboard: tensorboard --logdir runs"):
        assert with_keywords(whole) == whole


def test_a_training_gives_its_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = openmae.pretrain(str(data), out=str(tmp_path / "run"), epochs=1, **SMALL)
    said = capsys.readouterr().out
    assert "Chosen for you (any keyword overrides)" in said
    assert "--" not in said
    assert repr(run) == f"Run({str(tmp_path / 'run')!r}): complete"
    assert run.is_complete
    assert run.step == run.steps == 4
    lines = read_metrics(tmp_path / "run")
    assert isinstance(run.metrics, pd.DataFrame)
    assert run.metrics["loss"].tolist() == [line["loss"] for line in lines]
    assert isinstance(run.model, openmae.MaskedAutoencoder)
    assert run.model is run.model
    assert openmae.load(run).encoder.img_size == (16, 16)
    assert run.report.read_text().startswith("<!doctype html>")

    again = openmae.pretrain(data, out=tmp_path / "run", epochs=1, **SMALL)
    assert "is complete" in capsys.readouterr().out
    assert again.step == 4
    classes = openmae.finetune(run, data, out=tmp_path / "classes", epochs=1, batch_size=8, workers=0)
    (found,) = classes.results.values()
    assert 0 <= found["clean"]["figures"]["top1"] <= 1


def test_a_run_shows_itself(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(evaluated)
    shown = run._repr_mimebundle_()
    assert shown["text/plain"] == repr(run)
    assert shown["text/html"].count("data:image/svg+xml;base64,") >= 2
    assert "http" not in shown["text/html"]
    assert Path(run) == evaluated
    assert run.config["depth"] == 2
    assert len(run.evaluations) == 4
    assert [place.suffix for place in run.pictures] == [".png"] * len(run.pictures)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # without pandas
    assert run.metrics == read_metrics(evaluated)
    with pytest.raises(openmae.UserError, match="is not a run folder"):
        Run(tmp_path)


def test_a_run_that_was_stopped_is_not_taken_for_a_model(finished: Path, tmp_path: Path) -> None:
    out = copy(finished, tmp_path / "run")
    config = (out / "config.toml").read_text()
    (out / "config.toml").write_text(config.replace("steps = ", "steps = 1"))
    run = Run(out)
    assert run.state.startswith("stopped at step ")
    with pytest.raises(openmae.UserError, match=r"has taken .* of its .* steps: make its call again"):
        openmae.finetune(run, tmp_path, out=tmp_path / "classes")


def test_importing_it_is_light() -> None:
    code = (
        "import sys, openmae; assert 'pretrain' in dir(openmae); sys.exit(str({'torch', 'numpy'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ})
    assert said.stderr.strip() == "set()"


def test_what_the_other_calls_give(finished: Path, classes: Path, data: Path, tmp_path: Path) -> None:
    model, few = Run(copy(finished, tmp_path / "first")), {"workers": 0}
    figures = openmae.stats(data, **few)
    settings_of("pretrain", Pretrain, figures)
    features = openmae.embed(model, data, precision="fp32", **few)
    assert features.vectors.shape == (40, 24)
    assert sorted(features.labels.tolist()) == ["class0"] * 20 + ["class1"] * 20
    assert all((data / path).exists() for path in features.paths)
    kept = openmae.embed(model, data, out=tmp_path / "features.parquet", precision="fp32", **few)
    assert np.array_equal(kept.vectors, features.vectors)
    assert kept.paths == features.paths
    assert kept.labels.tolist() == features.labels.tolist()
    found = openmae.knn(model, data, **few)
    assert found["features"].tolist() == ["raw pixels", "histograms", "untrained", "pre-trained"]
    judged = openmae.evaluate(Run(copy(classes, tmp_path / "classes")), data, **few)
    assert judged["figures"]["top1"] == pytest.approx(float(np.mean([one["accuracy"] for one in judged["classes"]])))
    picture = openmae.reconstruct(model, sorted(data.rglob("*.*"))[0])
    assert openmae.reconstruct(model, data, out=tmp_path / "picture.png").size > picture.size
    assert (tmp_path / "picture.png").exists()
    assert openmae.export(model, to="safetensors", out=tmp_path / "e.safetensors") == tmp_path / "e.safetensors"
    assert len(openmae.check(data, **few)) == 0
    with pytest.raises(openmae.UserError, match="is pre-trained and has not learnt any labels"):
        openmae.evaluate(model, data)


def test_a_second_ctrl_c_is_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that is not a command's: it goes on, and its signals are as they were."""
    monkeypatch.setattr("openmae.train.stop.GRACE", 0.0)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def twice() -> None:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            while not stop.code:
                time.sleep(0.001)
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


SCRIPT = """
import sys
import openmae
try:
    openmae.pretrain(sys.argv[1], out=sys.argv[2], epochs=10000, **eval(sys.argv[3]))
except openmae.Interrupted as stopped:
    print(stopped)
    sys.exit(stopped.code)
"""


def test_a_script_hears_that_it_was_stopped(data: Path, tmp_path: Path) -> None:
    words, log = [str(data), str(tmp_path / "run"), repr(SMALL)], tmp_path / "log"
    with started_openmae(words, log, code=SCRIPT) as process:
        wait_for((tmp_path / "run/metrics.jsonl").exists, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    step = steps_saved(tmp_path / "run")
    assert step > 0
    assert f"stopped at step {step} of 45000, which is saved; the same call goes on from there\n" in log.read_text()
    assert openmae.Run(tmp_path / "run").step == step


def test_what_is_ones_own_stays_here_where_processes_are_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"data": Own.of([1, 2, 3])}
    assert at_home(own, {}) == {}
    monkeypatch.setattr("openmae.python.kinds.START", "spawn")
    assert at_home(own, {}) == {"workers": 0}
    assert at_home(own, {"workers": 2}) == {}
    assert at_home({"data": "images"}, {}) == {}
