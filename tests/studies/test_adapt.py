"""`openmae adapt`: a whole study of small encoders, what it leaves, and what it refuses."""

import json
import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import openmae
from openmae.studies.adapt.settings import Adapt
from openmae.studies.adapt.trainings import few_labels_of, from_scratch, going_on
from openmae.train.run import read_config
from openmae.weights import load_model
from tests.commands import Run, refused, words
from tests.images import picture
from tests.processes import run_openmae, started_openmae, wait_for
from tests.runs import Runs, copy, done

SMALL = "--epochs 3 --batch-size 8 --workers 0 --device cpu --precision fp32 --seeds 2"


def adapt(model: object, data: object, out: object, *more: object) -> list[str]:
    return ["adapt", str(model), str(data), "--out", str(out), *words(SMALL, *more)]


@pytest.fixture(scope="module")
def study(runs: Runs, finished: Path, data: Path) -> Path:
    """Judged by the classes of what it goes on with, and fine-tuned by so many labels that `finetune` of itself would
    compare ways, for as few steps as may be."""

    def make(out: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("openmae.recipes.finetune.choose._LEAST_STEPS", 1)
            patch.setattr("openmae.recipes.finetune.choose._MOST_EPOCHS", 40.0)
            done(adapt(finished, data, out, "--few-labels 6-per-class"))

    return runs.once("adapted", make)


def results(study: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((study / "results.json").read_text())
    return found


def parts(study: Path) -> dict[str, Any]:
    """What each part found, by its name."""
    files = (study / "parts").rglob("*.json")
    return {str(file.relative_to(study / "parts").with_suffix("")): json.loads(file.read_text()) for file in files}


def test_it_is_a_folder_of_ordinary_runs_with_equal_steps(study: Path, finished: Path) -> None:
    runs = [study / encoder / f"seed-{seed}" for encoder in ("gone-on", "scratch") for seed in (0, 1)]
    configs = [read_config(run) for run in runs]
    assert [(one["steps"], one["batch_size"], one["seed"]) for one in configs] == [(14, 8, 0), (14, 8, 1)] * 2
    assert configs[0]["from"] == str(finished)
    assert "from" not in configs[2]
    first, *others = [load_model(run) for run in runs]
    assert all(one.autoencoder.architecture == first.autoencoder.architecture for one in others)
    assert first.encoder.embed_dim == load_model(finished).encoder.embed_dim
    assert {one["name"] for one in results(study)["runs"]} >= {"gone-on/seed-0", "finetuned/released-seed-1"}
    same = [read_config(run) for run in sorted((study / "finetuned").iterdir())]
    assert len(same) == 6
    assert {one["labels"] for one in same} == {"6-per-class"}
    assert len({(one["epochs"], one["batch_size"], one["weight_decay"]) for one in same}) == 1


def test_encoders_are_judged_as_knn_and_probe_judge_them(study: Path, data: Path, tmp_path: Path, run: Run) -> None:
    model = copy(study / "scratch/seed-1", tmp_path / "run")
    for command in ("knn", "probe"):
        code, _, errors = run(command, model, data, *words("--no-baselines --workers 0 --precision fp32"))
        assert code == 0, errors
    said = {e["kind"]: e["top1"] for e in json.loads((model / "evaluations.json").read_text())}
    found = {one["name"]: one["of"]["scratch"][1] for one in results(study)["figures"]}
    assert (found["knn"], found["linear"]) == (pytest.approx(said["knn"]), pytest.approx(said["linear"]))
    tuned = json.loads((study / "finetuned/scratch-seed-1/results.json").read_text()).popitem()[1]["clean"]["figures"]
    assert found["finetuned"] == pytest.approx(tuned["top1"])


def test_the_page_says_it(study: Path, tmp_path: Path, run: Run) -> None:
    found = results(study)
    assert found["verdict"]["kind"] in ("undecided", "gain", "worse", "mixed")  # 8 images rule nothing out
    assert [one["name"] for one in found["figures"]] == ["knn", "linear", "finetuned"]
    assert "DATA has no splits" in found["notes"][0]
    assert found["notes"][1].startswith("8 labelled images judged;")
    assert [len(one["of"]["released"]) for one in found["figures"]] == [1, 1, 2]
    page = (study / "report.html").read_text()
    assert found["verdict"]["sentence"].split(";")[0].replace("'", "&#x27;") in page
    assert 'href="gone-on/seed-0/report.html"' in page
    assert "<svg" in (study / "study.svg").read_text()
    same = openmae.Study(study)
    assert same.verdict.startswith(found["verdict"]["sentence"])
    assert same.is_complete
    for row, one in zip(same.table.to_dict("records"), found["figures"], strict=True):
        means = {name: np.mean(values) for name, values in one["of"].items()}
        assert row == pytest.approx({"figure": one["name"], **means, "gain": one["gain"]["difference"], **{
            name: one["gain"][name] for name in ("low", "high")
        }})  # fmt: skip
    assert same.runs["gone-on/seed-0"].is_complete
    shown = same._repr_mimebundle_()
    assert shown["text/plain"] == f"Study({str(study)!r}): {same.verdict}"
    for part in ("data:image/svg+xml;base64,", "<td>finetuned</td>", same.verdict.split("'")[0].split(";")[0]):
        assert part in shown["text/html"]
    with pytest.raises(openmae.UserError, match="holds no study"):
        openmae.Study(study / "gone-on/seed-0")
    again = copy(study, tmp_path / "again")
    (again / "report.html").unlink()
    assert run("report", again)[0] == 0
    assert (again / "report.html").read_text().count("from scratch") == page.count("from scratch")


@pytest.mark.slow
def test_the_same_command_does_nothing_twice_and_more_seeds_are_added(
    study: Path, finished: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    mine = copy(study, tmp_path / "study")
    before = parts(mine)
    same = ("--few-labels", "6-per-class")
    code, output, errors = run(*adapt(finished, data, mine, *same))
    assert code == 0, errors
    assert " of 15: " not in output
    assert results(mine) == results(study)
    refused(run(*adapt(finished, data, mine, *same, "--epochs 4")), "epochs = 3.0, not 4.0", "choose another --out")
    refused(run(*adapt(finished, data, mine)), "few_labels = 6-per-class, not")
    other = copy(finished, tmp_path / "other")
    refused(run(*adapt(other, data, mine, *same)), "holds a study with model = ", "choose another --out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openmae.recipes.finetune.choose._LEAST_STEPS", 1)
        patch.setattr("openmae.recipes.finetune.choose._MOST_EPOCHS", 40.0)
        code, output, errors = run(*adapt(finished, data, mine, *same, "--seeds 3 --no-scratch --worth 0.5"))
    assert code == 0, errors
    after = parts(mine)
    assert {*after} - {*before} == {
        "gone-on/seed-2", "judged/gone-on-seed-2", "finetuned/released-seed-2", "finetuned/gone-on-seed-2",
    }  # fmt: skip
    assert {name: after[name] for name in before} == before
    assert results(mine)["verdict"]["kind"] == "no gain"
    assert results(mine)["verdict"]["beside"] == ""


def test_without_labels_and_by_the_clock(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(24):
        (tmp_path / "x").mkdir(exist_ok=True)
        picture(number).save(tmp_path / f"x/{number}.png")
    quick = {"batch_size": 8, "workers": 0, "device": "cpu", "precision": "fp32", "seeds": 2}
    made = openmae.adapt(finished, tmp_path / "x", out=tmp_path / "s", scratch=False, minutes=0.005, **quick)
    output = capsys.readouterr().out
    assert made.path == tmp_path / "s"
    assert list(made.table["figure"]) == ["agreement", "rankme"]
    assert "No labels to judge by" in output
    assert "1 of 6: how fast a training is here" in output
    found = results(tmp_path / "s")
    assert [one["name"] for one in found["figures"]] == ["agreement", "rankme"]
    assert "No labels judged" in found["notes"][0]
    speed = parts(tmp_path / "s")["speed"]["figures"]["images_per_second"]
    epochs = read_config(tmp_path / "s/gone-on/seed-0")["epochs"]
    assert epochs == pytest.approx(0.005 * 60 * speed / (24 - 2), rel=0.15)  # 2 are set aside for the pictures
    assert read_config(tmp_path / "s/gone-on/seed-1")["epochs"] == epochs


def test_images_are_learnt_from_as_they_are_judged() -> None:
    """Windows, patterns, readings: each training is asked all that the study was; the labels' column where labels
    are."""
    asked = Adapt(
        model=Path("m"),
        data="d",
        out=Path("s"),
        labels="t.csv",
        label_column="diagnosis",
        tile="64:8",
        tile_min_detail=0.2,
        include=("*.png",),
        group_by="folder",
        alpha="white",
    )
    going = going_on(asked, Path("run"), 0, None)
    tuned = few_labels_of(Path("m"), asked, Path("run"), "10%", 0)
    assert tuned.selection == asked.selection
    assert going.selection == replace(asked.selection, label_column=None)
    assert going.reading == tuned.reading == asked.reading


def test_it_goes_on_to_predict_what_the_run_did(finished: Path, tmp_path: Path) -> None:
    model = copy(finished, tmp_path / "run")
    asked = Adapt(model=model, data="d", out=tmp_path / "s")
    assert going_on(asked, tmp_path / "s", 0, None).norm_pix_loss
    config = (model / "config.toml").read_text()
    (model / "config.toml").write_text(config.replace("norm_pix_loss = true", "norm_pix_loss = false"))
    assert not going_on(asked, tmp_path / "s", 0, None).norm_pix_loss
    assert not from_scratch(asked, tmp_path / "s", 0, model).norm_pix_loss


def test_the_column_of_labels_is_that_of_the_labelled_images(
    finished: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    """DATA is a folder, and has no columns."""
    table = tmp_path / "t.csv"
    rows = "\n".join(f"{file},x,{file.parent.name}" for file in sorted(data.rglob("*.*")))
    table.write_text(f"path,label,finding\n{rows}\n")
    asked = adapt(finished, data, tmp_path / "s", "--labels", table, "--label-column finding --few-labels 99-per-class")
    refused(run(*asked), "class 'class0' has", "--few-labels")


def test_what_is_refused(finished: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    out, flat = tmp_path / "s", tmp_path / "flat"
    flat.mkdir()
    for number in range(8):
        Image.fromarray(np.full((16, 16, 3), 20 * number, np.uint8)).save(flat / f"{number}.png")
    refused(run(*adapt(finished, colours, out, "--seeds 1")), "--seeds is 1: give 2 or more")
    refused(run(*adapt(finished, colours, out, "--minutes 1")), "--minutes and --epochs both say how long")
    refused(run(*adapt(finished, colours, out, "--worth 2")), "--worth is 2: give a share")
    refused(
        run(*adapt(finished, colours, out, "--few-labels 9-per-class")), "has 8 images in train", "8-per-class or less"
    )
    refused(run(*adapt(finished, colours, out, "--few-labels many")), "--few-labels is 'many'", "10%")
    refused(run(*adapt(finished, colours, out, "--labels", flat)), "flat has no labels")
    refused(run(*adapt(finished, flat, out)), "flat has 8 images: give 20 or more")
    refused(run(*adapt(finished, flat, out, "--labels", colours)), "flat has 8 images")
    refused(run(*adapt(tmp_path / "none", colours, out)), "none")
    refused(
        run(*adapt(finished, colours, copy(finished, tmp_path / "run"))), "is a run, and a study is a folder of runs"
    )
    refused(run(*adapt(finished, colours, colours)), "is not empty and is not a study")
    refused(run(*adapt(finished, colours, colours / "train/red/000.png")), "is a file")
    assert not out.exists()
    out.mkdir()
    (out / "study.json").write_text("{")
    refused(run(*adapt(finished, colours, out)), "study.json is damaged", "begin anew")


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_to_the_same_figures(finished: Path, colours: Path, tmp_path: Path) -> None:
    more = "--few-labels none --epochs 20"
    whole = run_openmae(adapt(finished, colours, tmp_path / "whole", more))
    assert whole.returncode == 0, whole.stderr
    asked, draws, kills = adapt(finished, colours, tmp_path / "killed", more), random.Random(0), 0

    def files() -> int:
        return len([*(tmp_path / "killed").rglob("*")])

    for _ in range(4):
        most = files() + draws.randint(2, 10)
        with started_openmae(asked, tmp_path / "log", session=True) as process:
            wait_for(lambda most=most, process=process: files() > most or process.poll() is not None)
            if process.poll() is not None:
                break
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
    assert kills >= 2
    last = run_openmae(asked)
    assert last.returncode == 0, last.stderr
    found, expected = (results(tmp_path / name) for name in ("killed", "whole"))
    assert found["figures"] == expected["figures"]
    assert found["verdict"]["kind"] == expected["verdict"]["kind"]
