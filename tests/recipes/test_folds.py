"""`finetune --folds`: ways to fine-tune, compared by folds of the training labels alone."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, log_loss

from openmae.data.tasks import Answers
from openmae.evaluate.probe import folds_of
from openmae.recipes.finetune import choose, folds, job
from openmae.recipes.finetune.build import Finetuning
from openmae.recipes.finetune.folds import BEHIND, LEAST_TOLD, NEAR, Trials, calibrated, in_race, least_changed, why_not
from openmae.recipes.finetune.labelled import Labelled
from openmae.recipes.finetune.settings import Finetune
from openmae.train.run import read_config
from tests.commands import Run, finetune, refused
from tests.distributed.by_hand import together
from tests.images import picture


def quick(settings: Finetune, plain: Finetuning) -> dict[str, Finetune]:
    return {
        "the probe as it is": replace(settings, epochs=0.0),
        "gently": replace(settings, epochs=2.0, blr=1e-4),
        "as usual": replace(settings, epochs=9.0, blr=0.1),
    }


def test_smaller_crops_are_a_way_of_their_own_where_the_usual_ones_are_large() -> None:
    settings = Finetune("model", "data", "out")
    for least, names in ((0.7, ["the probe as it is", "gently", "as usual", "with smaller crops"]), (0.4, None)):
        plain = SimpleNamespace(config={"epochs": 80.0, "blr": 3e-3, "crop_scale": (least, 1.0)})
        ways = folds._ways(settings, plain)  # type: ignore[arg-type]
        assert [*ways] == (names or ["the probe as it is", "gently", "as usual"])
        asked = [(way.epochs, way.crop_scale) for way in ways.values()]
        assert asked[:3] == [(0.0, None), (30.0, (0.7, 1.0)), (None, None)]
        assert asked[3:] == [(None, (0.4, 1.0))] * (least > 0.4)


def open_words(model: Path, data: Path, out: Path, *more: object) -> list[str]:
    """Without what says the way."""
    words = finetune(model, data, out, *more)
    for name in ("--epochs", "--batch-size"):
        at = words.index(name)
        del words[at : at + 2]
    return words


def test_the_best_way_on_held_out_labels_is_taken(
    finished: Path, colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures are scikit-learn's of scores that no model has learnt, one that is behind is not tried on all folds, and
    nothing of what was tried stays in the run."""
    monkeypatch.setattr(folds, "_ways", quick)
    monkeypatch.setattr(folds, "LEAST_TOLD", 12)
    told: list[tuple[np.ndarray, Answers]] = []
    row_of = folds._row

    def heard(name: str, found: list[folds.Told], right: Answers, run: Finetuning) -> dict[str, Any]:
        scores, asked, _ = folds._at_best(found, right)
        told.append((scores.softmax(1).numpy(), asked))
        return row_of(name, found, right, run)

    monkeypatch.setattr(folds, "_row", heard)
    out = tmp_path / "run"
    code, shown, errors = run(*open_words(finished, colours, out, "--folds 4 --evaluations 1"))
    assert code == 0, errors
    assert "Which way, by 4 folds of the 24 training labels" in shown
    found = json.loads((out / "cross-validation.json").read_text())
    assert [row["name"] for row in found["ways"]] == ["the probe as it is", "gently", "as usual"]
    for row, (shares, asked) in zip(found["ways"], told, strict=True):
        assert len(asked.values) == 6 * row["folds"]
        assert row["figure"] == pytest.approx(accuracy_score(asked.values, shares.argmax(1)))
        assert row["loss"] == pytest.approx(log_loss(asked.values, shares, labels=[0, 1, 2]), rel=1e-3, abs=1e-6)
    assert {row["folds"] for row in found["ways"]} == {2}
    assert "as usual (2 of 4 folds)" in shown
    assert "clearly behind" in shown
    assert found["taken"] == min(found["ways"], key=lambda row: row["loss"])["name"] == "as usual"
    assert "Taken: as usual" in shown
    assert "Which way to fine-tune" in (out / "report.html").read_text()
    config = read_config(out)
    assert (config["folds"], config["epochs"], config["blr"]) == (4, 9.0, 0.1)

    same = tmp_path / "same"
    code, _, errors = run(*open_words(finished, colours, same, "--epochs 9 --blr 0.1 --evaluations 1"))
    assert code == 0, errors
    assert read_config(same)["folds"] == 0
    assert not (same / "cross-validation.json").exists()
    weights, again = (load_file(place / "model.safetensors") for place in (out, same))
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    code, shown, errors = run("finetune", "--out", out, "--resume")
    assert code == 0, errors
    assert "is complete" in shown
    assert "Which way" not in shown


QUICKLY = """
import runpy
from openmae.recipes.finetune import folds
from tests.recipes.test_folds import quick

folds._ways = quick
runpy.run_module("openmae", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_two_processes_take_the_way_that_one_takes(
    finished: Path, colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "_ways", quick)
    words = ["--folds", "2", "--evaluations", "1"]
    assert run(*open_words(finished, colours, tmp_path / "one", *words))[0] == 0
    said, other = together(2, open_words(finished, colours, tmp_path / "two", *words), tmp_path, QUICKLY)
    assert "Which way, by 2 folds" in said
    assert "Which way" not in other
    one, two = (json.loads((tmp_path / name / "cross-validation.json").read_text()) for name in ("one", "two"))
    assert two["taken"] == one["taken"]
    for mine, theirs in zip(one["ways"], two["ways"], strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-2)


def test_ways_are_compared_at_their_best_temperatures() -> None:
    """However sure they are of themselves; the likelihood is that of scipy's best temperature."""
    draws = np.random.default_rng(1)
    values = draws.integers(0, 3, 60)
    scores = torch.from_numpy(draws.normal(size=(60, 3)) + 1.5 * np.eye(3)[values])
    right = Answers("classification", ("a", "b", "c"), values)
    found = [calibrated(scores * factor, right) for factor in (1.0, 3.0, 16.0)]

    def loss(told: torch.Tensor) -> float:
        return log_loss(values, told.softmax(1).numpy(), labels=[0, 1, 2])

    best = minimize_scalar(lambda power: loss(scores * np.exp(power)), bounds=(-3, 3), method="bounded").fun
    for told in found:
        assert torch.equal(told.argmax(1), scores.argmax(1))
        assert loss(told) == pytest.approx(best, rel=2e-3)
    numbers = Answers("regression", (), draws.normal(size=(60, 1)).astype(np.float32))
    assert torch.equal(calibrated(scores[:, :1], numbers), scores[:, :1])


def test_features_are_changed_where_that_is_clearly_better() -> None:
    draws = np.random.default_rng(0)
    plain = draws.gamma(1.0, size=60)
    noise = draws.normal(size=60)
    noise -= noise.mean()
    error = NEAR * noise.std(ddof=1) / np.sqrt(60)
    assert least_changed([plain, plain + noise - 0.9 * error]) == 0
    assert least_changed([plain, plain + noise - 1.1 * error]) == 1
    assert least_changed([plain, plain + 1, plain + noise - 0.9 * error]) == 0
    assert least_changed([plain, plain - 1, plain - 2 + noise]) == 2
    unread = plain.copy()
    unread[:5] = np.nan
    assert least_changed([unread, plain]) == 0


def test_a_way_that_is_clearly_behind_is_out_of_the_race() -> None:
    draws = np.random.default_rng(0)
    best = draws.gamma(1.0, size=LEAST_TOLD)
    noise = draws.normal(size=LEAST_TOLD)
    noise -= noise.mean()
    error = BEHIND * noise.std(ddof=1) / np.sqrt(LEAST_TOLD)
    losses = {"behind": best + noise + 1.1 * error, "best": best, "near": best + noise + 0.9 * error}
    assert [*in_race(losses)] == ["best", "near"]
    unread = best.copy()
    unread[0] = np.nan
    assert [*in_race({**losses, "best": unread})] == ["behind", "best", "near"]  # of too few to tell
    assert [*in_race({"best": best})] == ["best"]


def test_folds_leave_out_whole_groups(
    finished: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a patient whose other images were learnt a model knows more than of a stranger."""
    for number in range(36):
        place = tmp_path / "data" / "ab"[number % 2] / f"patient{number // 3}-{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (16, 16)).save(place)
    seen: list[Labelled] = []
    monkeypatch.setattr(
        job, "with_ways", lambda settings, labelled, here, trials: (seen.append(labelled), (settings, labelled))[1]
    )
    words = finetune(finished, tmp_path / "data", tmp_path / "run", "--group-by", "name:patient[0-9]+")
    words[words.index("--epochs") + 1] = "0"
    code, _, errors = run(*words)
    assert code == 0, errors
    (labelled,) = seen
    for rest, held_out in folds_of(labelled.right, 0, 3, most_for_all=labelled.count):
        learnt, told = ({labelled.train.name(index).split("-")[0][2:] for index in part} for part in (rest, held_out))
        assert learnt
        assert told
        assert not learnt & told


def test_who_says_the_way_is_asked_no_more(finished: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    for more, said in (("--epochs 3", "--epochs"), ("--blr 1e-3", "--blr"), ("--from-scratch", "begins fresh")):
        refused(run(*open_words(finished, colours, out, "--folds 3", more)), "--folds 3", said, "leave one of them out")
    refused(run(*open_words(finished, colours, out, "--folds 1")), "give 2 or more, or 0")
    asked = Finetune("m", "d", out)
    assert why_not(asked, 60) is None
    for settings, images in (
        (asked, 100_000), (asked, 5), (replace(asked, recipe="paper"), 60), (replace(asked, epochs=3), 60),
        (replace(asked, blocks="1"), 60), (replace(asked, from_scratch=True), 60), (replace(asked, minutes=2), 60),
    ):  # fmt: skip
        assert why_not(settings, images)


def test_what_takes_long_is_done_where_it_is_asked_for(
    finished: Path, colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ways or the two farthest apart, as the time allows, or none. At an image a second 3 folds of 9 epochs of 24
    images take 10 min 48 s or more, and 2 epochs 2 min 24 s."""
    monkeypatch.setattr(folds, "_ways", quick)
    monkeypatch.setattr(job, "Trials", lambda chosen, told, speed: Trials(chosen, told, lambda *of: 1.0))
    monkeypatch.setattr(folds, "_MOST_SECONDS", 700.0)
    code, shown, errors = run(*open_words(finished, colours, tmp_path / "two", "--evaluations 1"))
    assert code == 0, errors
    assert "--folds 3 tries all 3 ways in" in shown
    found = json.loads((tmp_path / "two/cross-validation.json").read_text())
    assert [row["name"] for row in found["ways"]] == ["the probe as it is", "as usual"]
    assert read_config(tmp_path / "two")["folds"] == 3

    monkeypatch.setattr(folds, "_MOST_SECONDS", 100.0)
    monkeypatch.setattr(choose, "_LEAST_STEPS", 1)
    monkeypatch.setattr(choose, "_MOST_EPOCHS", 10.0)
    code, shown, errors = run(*open_words(finished, colours, tmp_path / "run", "--evaluations 1"))
    assert code == 0, errors
    assert "by 3 folds of the 24 training labels: left out, for it would take" in shown
    assert read_config(tmp_path / "run")["folds"] == 0


def test_a_run_that_is_the_probe_is_complete(
    finished: Path, colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {"the probe as it is": {"epochs": 0.0}, "as usual": {"epochs": 40.0, "blr": 1e-30}}
    monkeypatch.setattr(
        folds, "_ways", lambda asked, plain: {name: replace(asked, **way) for name, way in ways.items()}
    )
    # As if 6 labels were more than 1,000, of which the probe takes one fold; those that are asked for are all taken.
    monkeypatch.setattr(folds_of, "__defaults__", (3, 5))
    out = tmp_path / "run"
    words = open_words(finished, colours, out, "--folds 3 --labels 2-per-class")  # which make two folds
    code, shown, errors = run(*words)
    assert code == 0, errors
    assert "Taken: the probe as it is" in shown
    assert (json.loads((out / "cross-validation.json").read_text())["folds"], read_config(out)["folds"]) == (2, 3)
    assert "kNN on frozen features" in shown
    weights = (out / "model.safetensors").read_bytes()
    for again in (words, ["finetune", "--out", out, "--resume"]):
        code, shown, errors = run(*again)
        assert code == 0, errors
        assert "is complete: 0 of 0 steps are taken" in shown.replace("\n", " ")
        assert "Which way" not in shown
    assert (out / "model.safetensors").read_bytes() == weights
    words = open_words(finished, colours, tmp_path / "x", "--folds 3 --labels 1-per-class")
    refused(run(*words), "--folds 3", "no class has two labels")


def test_fresh_weights_learn_beside(finished: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    """In a run that is complete, too: what --from-scratch alone trains, as a row of the table."""
    out, plain = tmp_path / "run", tmp_path / "plain"
    words = finetune(finished, colours, out, "--evaluations 1 --blr 0.01 --vflip on --exclude nothing")
    assert run(*words)[0] == 0
    code, shown, errors = run(*words, "--with-scratch")
    assert code == 0, errors
    assert "is complete" in shown
    rows = {row["name"]: row for row in json.loads((out / "compared.json").read_text())["rows"]}
    assert list(rows) == [
        "linear probe on raw pixels", "linear probe on histograms",
        "kNN on frozen features", "linear probe on frozen features", "fine-tuned", "from scratch",
    ]  # fmt: skip
    more = "--evaluations 1 --blr 0.01 --from-scratch --vflip on --exclude nothing"
    assert run(*finetune(finished, colours, plain, more))[0] == 0
    (alone,) = json.loads((plain / "compared.json").read_text())["rows"]
    assert rows["from scratch"] == {**alone, "name": "from scratch", "weights": "scratch"}
    weights, again = (load_file(place / "model.safetensors") for place in (out / "scratch", plain))
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    assert "from scratch" in shown
    assert "from scratch" in (out / "report.html").read_text()
    refused(run(*words, "--with-scratch", "--from-scratch"), "--with-scratch", "leave it out")
    refused(run(*words, "--with-scratch", "--epochs", 0, "--out", tmp_path / "x"), "--epochs 0 learns nothing")
    refused(
        run(*words, "--with-scratch", "--blocks", "1,0", "--out", tmp_path / "x"),
        "asks for several",
        "leave one of them out",
    )
