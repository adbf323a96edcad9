"""A training that is given its time: how many epochs that makes, and that the run is the same as if they were given."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file

from openmae.errors import UserError
from openmae.recipes.pretrain.choose import most_minutes
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training import job as training_job
from openmae.recipes.training.minutes import Budget, Plan, Punctual, epochs_of, kept_plan
from openmae.train import pace as measuring
from openmae.train.pace import Pace
from openmae.train.run import read_config, read_metrics
from tests.commands import TINY, Run, finetune, refused

PLAIN = Pace(images=1, seconds=1.0, waited=0.0)  # an image a second


@given(
    st.floats(0.5, 600),
    st.integers(1, 100_000),
    st.integers(1, 300),
    st.floats(0.01, 1e4),
    st.floats(0, 3),
    st.booleans(),
)
def test_what_is_planned_fits_and_hardly_more_would(
    minutes: float, images: int, batch_size: int, rate: float, share: float, is_bound: bool
) -> None:
    budget = Budget(minutes, is_bound, 800, images, lambda views: share * views)
    pace, used = Pace(1, 1 / rate, 0), 10.0
    room, step = minutes * 60 - used, batch_size * (1 + share) / rate
    if not is_bound and step > room * 0.97:
        if step > room:
            with pytest.raises(UserError, match="are over before the first step") as refused:
                budget.planned(batch_size, pace, used)
            least = re.search(r"give ([0-9.e+]+) at the least", str(refused.value))
            assert least is not None
            assert replace(budget, minutes=float(least[1])).planned(batch_size, pace, used)[0].steps >= 1
        return
    plan, said = budget.planned(batch_size, pace, used)
    assert plan.steps == round(plan.epochs * images / batch_size)
    if plan.epochs == 800 and is_bound:
        assert "take about" in said
    elif plan.steps > 1:
        assert plan.seconds <= room + step / 2
        assert plan.seconds >= 0.95 * room - 2.5 * step
        assert ("800 epochs would take" in said) == (800 * images > plan.steps * batch_size + batch_size)
    assert plan.seconds * rate * 0.98 == pytest.approx(plan.steps * batch_size * (1 + share))


@given(st.integers(1, 10**6), st.integers(1, 4096), st.integers(1, 10**7))
def test_epochs_are_written_short(steps: int, batch_size: int, images: int) -> None:
    epochs = epochs_of(steps, batch_size, images)
    made = round(epochs * images / batch_size)
    assert 1 <= made <= steps
    assert steps - made <= 0.001 * steps + 1
    assert float(f"{epochs:.4g}") == epochs or steps == 1


def test_an_hour_is_for_a_cpu_that_nobody_told_how_long() -> None:
    assert most_minutes(Pretrain(), torch.device("cpu")) == 60
    assert most_minutes(Pretrain(recipe="paper"), torch.device("cpu")) is None
    assert most_minutes(Pretrain(), torch.device("cuda")) is None


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Pace]:
    """What trials really found; they are then said to have found an image a second, on whatever machine."""
    found: list[Pace] = []

    def measure(training: Any, seconds: float, is_enough: Callable[[Pace], bool]) -> Pace:
        assert seconds == 12
        found.append(measuring.measure(training, 0.01, is_enough))
        return PLAIN

    monkeypatch.setattr(training_job, "measure", measure)
    return found


def test_a_run_of_minutes_is_one_of_epochs(tmp_path: Path, data: Path, run: Run, measured: list[Pace]) -> None:
    words = ["pretrain", data, "--out", tmp_path / "run", *TINY, "--workers", 0, "--keep", 100]
    words += "--pictures 2 --evaluations 1 --mask-schedule linear --mask-ratio-end 0.5".split()
    timed = [*words, "--minutes", 10]
    code, output, errors = run(*timed)
    assert code == 0, errors
    assert len(measured) == 1
    assert measured[0].images >= 5
    assert 0 <= measured[0].waited <= measured[0].seconds
    assert "1 images/s: 10 min 00 s are enough for" in output
    config, plan = read_config(tmp_path / "run"), kept_plan(tmp_path / "run")
    assert plan is not None
    assert (plan.epochs, plan.steps) == (config["epochs"], config["steps"])
    assert 6 < config["steps"] < 600 / 8
    assert "minutes" not in config
    assert read_metrics(tmp_path / "run")[-1]["lr"] < 0.05 * max(line["lr"] for line in read_metrics(tmp_path / "run"))

    # The same command goes on with what was planned, and measures nothing.
    last = load_file(tmp_path / "run" / "model.safetensors")
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    shutil.rmtree(newest)
    assert "step-" in newest.name
    code, output, _ = run(*timed)
    assert code == 0
    assert "Going on with the run" in output
    assert len(measured) == 1
    again = load_file(tmp_path / "run" / "model.safetensors")
    assert all(again[name].equal(weight) for name, weight in last.items())
    refused(run(*words, "--minutes", 11), "was planned for 10 minutes, and --minutes is 11")

    # Nothing of the trial is left in the weights.
    words[3] = tmp_path / "epochs"
    assert run(*words, "--epochs", config["epochs"])[0] == 0
    plain = load_file(tmp_path / "epochs" / "model.safetensors")
    assert all(plain[name].equal(weight) for name, weight in last.items())
    assert kept_plan(tmp_path / "epochs") is None
    refused(run(*words, "--minutes", 10), "was planned by --epochs, and --minutes is 10")
    refused(run(*words, "--minutes", 10, "--epochs", 3, "--out", tmp_path / "no/run"), "both say how long", "one of")
    assert not (tmp_path / "no").exists()

    # A run's own file has the epochs that it took; minutes take their place.
    file = tmp_path / "epochs/config.toml"
    code, _, errors = run("pretrain", "--config", file, "--minutes", 10, "--out", tmp_path / "again", "--workers", 0)
    assert code == 0, errors
    assert f"--minutes takes the place of --epochs {config['epochs']} in {file}" in errors
    assert kept_plan(tmp_path / "again") is not None


def test_fine_tunings_of_minutes(tmp_path: Path, data: Path, finished: Path, run: Run, measured: list[Pace]) -> None:
    out = tmp_path / "sweep"
    words = [word for word in finetune(finished, data, out, "--evaluations 1") if word not in ("--epochs", "2")]
    code, output, errors = run(*words, "--minutes", 10, "--blocks", "0.5,0")
    assert code == 0, errors
    assert len(measured) == 1
    assert "10 min 00 s are enough for" in output
    steps = read_config(out / "blocks-0.5")["steps"]
    assert 6 < steps < 600 / 8

    # A part that comes later is as long as the others, whichever is first.
    code, _, errors = run(*words, "--blocks", "1,0")
    assert code == 0, errors
    assert [read_config(out / f"blocks-{part}")["steps"] for part in ("0", "1")] == [steps, steps]
    refused(run(*words, "--minutes", 11, "--blocks", "all,0"), "was planned for 10 minutes, and --minutes is 11")
    assert run(*words, "--minutes", 10, "--blocks", "0,0.5")[0] == 0
    assert len(measured) == 1


def test_a_slower_or_faster_machine_is_told_of() -> None:
    shown, now = StringIO(), [0.0]
    punctual = Punctual(Plan(60, 1000.0, 5, 1000), Console(file=shown, width=10_000), lambda: now[0])
    punctual.begin(100)
    now[0] = 30.0
    punctual.tell(109)  # few steps tell nothing
    now[0] = 110.0
    punctual.tell(200)
    assert shown.getvalue() == ""
    punctual.begin(100)  # in smaller micro-batches
    now[0] = 300.0
    punctual.tell(300)
    assert "slower than when it was measured: all 1,000 steps take about 25 min 00 s rather than 16 min 40 s" in (
        shown.getvalue()
    )
    now[0] = 420.0
    punctual.tell(400)  # no news
    assert shown.getvalue().count("\n") == 1
    now[0] = 450.0
    punctual.tell(900)
    assert "faster than when it was measured" in shown.getvalue()
    nobody = Punctual(None, Console(file=shown), lambda: now[0])
    nobody.begin(0)
    nobody.tell(500)
    assert shown.getvalue().count("\n") == 2
