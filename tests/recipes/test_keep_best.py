"""`finetune --keep-best`: the best look's weights beside the last ones, whatever kills the run."""

import json
import math
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from openmae.data.tasks import Answers, Task
from openmae.evaluate.predict import FIGURES, measure, standard_error
from openmae.recipes.evaluate.keep import read_results
from openmae.recipes.finetune.compared import put_rows
from openmae.report.page.compared import BEST, FINETUNED
from openmae.train.run import read_metrics
from openmae.weights import load_model
from tests.commands import Run, finetune, refused
from tests.distributed.by_hand import together
from tests.processes import started_openmae, wait_for

KEPT = "--epochs 3 --evaluations 3 --blr 0.05 --keep-best"


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "best/model.json").read_text())["provenance"]["best"]


def looks(run: Path, name: str) -> dict[int, float]:
    return {line["step"]: line[name] for line in read_metrics(run) if line.get(name) is not None}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, finished: Path, colours: Path) -> Path:
    """A run that keeps its best look by the loss."""
    from openmae.cli import main

    out = tmp_path_factory.mktemp("kept") / "run"
    assert main(finetune(finished, colours, out, KEPT, "loss --ema-decay 0.9")) == 0
    return out


@pytest.fixture(scope="module")
def finished(runs: Any) -> Path:
    return runs.finished()


def test_the_best_look_is_kept(kept: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    figures = looks(kept, "val_loss")
    assert len(figures) == 3
    best = record(kept)
    assert best["step"] == min(figures, key=lambda step: (figures[step], step))
    assert best["figure"] == pytest.approx(figures[best["step"]])
    assert best["images"] == 24
    assert load_model(kept / "best").info["provenance"]["step"] == best["step"]
    (clean,) = [entry["clean"] for entry in read_results(kept).values()]
    assert clean["figures"]["loss"] == pytest.approx(figures[max(figures)], rel=1e-5)  # those of the last step
    page = (kept / "report.html").read_text()
    assert f"at step {best['step']:,}: its weights are in best/" in page
    code, said, errors = run("evaluate", kept / "best", colours, "--workers", 0)  # as any model is
    assert code == 0, errors
    (found,) = re.findall(r"Negative log-likelihood +([0-9.]+)", said)
    assert float(found) == pytest.approx(best["figure"], abs=2e-4)
    words = ("predict", kept / "best", colours / "val", "--out", tmp_path / "p.csv", "--workers", 0)
    assert run(*words)[0] == 0
    assert run("embed", kept / "best", colours, "--out", tmp_path / "e.npy", "--workers", 0)[0] == 0


def test_killed_and_gone_on_with_it_is_the_same(kept: Path, colours: Path, finished: Path, tmp_path: Path) -> None:
    """Killed after every look: what is kept in the end is what an unbroken run keeps, to the bit."""
    out = tmp_path / "run"
    words = finetune(finished, colours, out, KEPT, "loss --ema-decay 0.9")
    for look in sorted(looks(kept, "val_loss"))[:-1]:
        with started_openmae(words, tmp_path / "log") as process:
            wait_for(lambda look=look: (out / f"checkpoints/step-{look:08d}").exists() or process.poll() is not None)
            process.send_signal(signal.SIGKILL)
            process.wait(60)
    with started_openmae(words, tmp_path / "log") as process:
        assert process.wait(240) == 0, (tmp_path / "log").read_text()
    assert record(out) == record(kept)
    for place in ("", "best"):
        mine, theirs = (load_model(folder / place).model.state_dict() for folder in (out, kept))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not list(out.glob(".best*"))


def test_a_best_look_that_is_the_last_has_no_row_of_its_own(tmp_path: Path) -> None:
    """A run that was made longer had one. What is not finite is null, which all read."""
    about, row = {"metric": "r2", "images": 9}, {"figure": 0.8, "error": 0.1, "weights": ""}
    put_rows(tmp_path, about, [{**row, "name": "kNN on frozen features", "figure": float("nan")}])
    put_rows(tmp_path, about, [{**row, "name": FINETUNED}, {**row, "name": BEST}], instead_of=(FINETUNED, BEST))
    put_rows(tmp_path, about, [{**row, "name": FINETUNED, "figure": 0.9}], instead_of=(FINETUNED, BEST))
    found = json.loads((tmp_path / "compared.json").read_text(), parse_constant=pytest.fail)
    assert [(one["name"], one["figure"]) for one in found["rows"]] == [
        ("kNN on frozen features", None), (FINETUNED, 0.9),
    ]  # fmt: skip


def test_patience_ends_a_run(colours: Path, finished: Path, tmp_path: Path, run: Run) -> None:
    """Also one that was killed in that look: nothing is better where nothing is learnt."""
    out, words = tmp_path / "run", "--epochs 4 --evaluations 4 --blr 1e-30 --keep-best top1 --patience 2"
    code, said, errors = run(*finetune(finished, colours, out, words))
    assert code == 0, errors
    assert "Ended after step 9 of 12: 2 looks at val without a better one" in said.replace("\n", " ")
    assert list(looks(out, "val_loss")) == [3, 6, 9]
    info = json.loads((out / "model.json").read_text())["provenance"]
    assert (info["step"], info["ended_early"]) == (9, True)
    assert "ended early, after step 9 of 12" in (out / "report.html").read_text()
    log = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(log[:-1]))  # as if killed before its last line
    for name in ("model.json", "model.safetensors"):
        (out / name).unlink()
    code, said, errors = run(*finetune(finished, colours, out, words))
    assert code == 0, errors
    assert "Ended after step 9 of 12" in said.replace("\n", " ")
    assert (out / "metrics.jsonl").read_text().count("\n") == len(log)
    assert json.loads((out / "model.json").read_text())["provenance"] == info
    refused(run(*finetune(finished, colours, out, words, "--patience 3")), "patience = 2, not 3")
    refused(run(*finetune(finished, colours, tmp_path / "x", "--patience 3 --keep-best none")), "add --keep-best top1")


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "--shard"])
def test_several_processes_keep_what_one_does(more: str, colours: Path, finished: Path, tmp_path: Path) -> None:
    words = finetune(finished, colours, tmp_path / "two", KEPT, "loss --micro-batch 4", more)
    assert "best by loss" in together(2, words, tmp_path)[0]
    single = finetune(finished, colours, tmp_path / "one", KEPT, "loss --micro-batch 4")
    with started_openmae(single, tmp_path / "log") as process:
        assert process.wait(240) == 0
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    assert two["step"] == one["step"]
    assert two["figure"] == pytest.approx(one["figure"], rel=1e-3)
    theirs = load_model(tmp_path / "two/best").model.state_dict()
    for name, mine in load_model(tmp_path / "one/best").model.state_dict().items():
        torch.testing.assert_close(theirs[name], mine, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_run_that_begins_anew_forgets_what_was_kept(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    assert run(*finetune(finished, data, out, "--epochs 1 --keep-best top1"))[0] == 0
    said = run(*finetune(finished, data, out, "--epochs 1 --keep-best top1"))[1]
    assert "is complete" in said
    assert "best by top-1 accuracy" in said.replace("\n", " ")
    assert "± " in said
    refused(run(*finetune(finished, data, out, "--epochs 1 --keep-best loss")), "keep_best = top1, not loss")
    for name in ("checkpoints", "model.safetensors"):
        os.rename(out / name, tmp_path / name)  # noqa: PTH104
    left = json.loads((out / "best/model.json").read_text())
    left["provenance"]["best"].update(step=1, figure=2.0)
    (out / "best/model.json").write_text(json.dumps(left))
    assert run(*finetune(finished, data, out, "--epochs 1 --keep-best top1"))[0] == 0
    assert record(out)["figure"] <= 1


@pytest.mark.parametrize("metric", ["top5", "mean_ap", "accuracy"])
def test_a_figure_that_the_task_lacks_is_refused(
    metric: str, finished: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    refused(run(*finetune(finished, data, tmp_path / "run", "--keep-best", metric)), "--keep-best", "give one of")
    assert not (tmp_path / "run").exists()


@settings(max_examples=6)
@given(st.sampled_from(["classification", "multi-label", "regression"]), st.integers(0, 2**32 - 1))
def test_standard_errors_are_those_of_means(task: Task, seed: int) -> None:
    """Against numpy for means; the others by the deviation over many draws of the images."""
    draws = np.random.default_rng(seed)
    count, outputs = 400, 1 if task == "regression" else 7
    scores = torch.from_numpy(draws.normal(0, 2, (count, outputs)).astype(np.float32))
    values = {
        "classification": draws.integers(0, outputs, count),
        "multi-label": draws.integers(0, 2, (count, outputs)).astype(np.float32),
        "regression": (scores.numpy() + draws.normal(0, 1, (count, 1))).astype(np.float32),
    }[task]
    wanted = torch.from_numpy(values)
    right = Answers(task, tuple("abcdefg"[:outputs]), values)
    each: dict[str, torch.Tensor] = {}  # of every image
    if task == "classification":
        each["loss"] = F.cross_entropy(scores, wanted, reduction="none")
        each["top1"] = (scores.argmax(1) == wanted).float()
    elif task == "multi-label":
        each["loss"] = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").mean(1)
    else:
        each["mae"] = (scores - wanted).abs()[:, 0]
    for name in FIGURES[task]:
        found = standard_error(name, scores, right)
        assert found is not None
        if name in each:
            assert found == pytest.approx(each[name].double().std().item() / math.sqrt(count), rel=5e-3)
        else:
            rows = [draws.integers(0, count, count) for _ in range(60)]
            again = [measure(scores[row], right.at(row))[name] for row in rows]
            assert found == pytest.approx(np.std(again), rel=0.5)
