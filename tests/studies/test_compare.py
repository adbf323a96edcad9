"""`openmae compare`: ways to pre-train beside each other, what they leave and cost; a collapse; what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import openmae
from openmae.baselines.method import Collapsed
from openmae.errors import UserError
from openmae.studies import trainings
from openmae.studies.compare import trainings as job
from openmae.studies.compare.named import NAMES, PUBLISHED
from openmae.studies.compare.settings import Compare
from openmae.train.run import read_config
from openmae.weights import load_model
from tests.commands import Run, refused, words
from tests.runs import Runs, copy, done

SIZES = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 2,
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
    "batch_size": 8,
}
QUICK = "--workers 0 --device cpu --precision fp32"


def compare(data: object, out: object, *more: object) -> list[str]:
    sizes = [f"{name}={value}" for name, value in SIZES.items()]
    return ["compare", str(data), "--out", str(out), *words(QUICK, *more), "--set", *sizes]


ASKED = "--epochs 2 --seeds 2"


@pytest.fixture(scope="module")
def study(runs: Runs, colours: Path) -> Path:
    """Three methods, two seeds, judged by classes."""
    return runs.once("compared", lambda out: done(compare(colours, out, ASKED, "--methods mae,simclr,random")))


def results(study: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((study / "results.json").read_text())
    return found


def test_mae_is_pretrains_bit_for_bit(study: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    sizes = words(" ".join(f"--{name.replace('_', '-')} {value}" for name, value in SIZES.items()))
    code, _, errors = run("pretrain", colours, "--out", tmp_path / "run", *words(QUICK, "--epochs 2"), *sizes)
    assert code == 0, errors
    theirs, ours = (load_model(at).model.state_dict() for at in (tmp_path / "run", study / "mae/seed-0"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_all_begin_with_the_same_weights_and_see_as_many_images(study: Path) -> None:
    configs = [read_config(study / name) for name in ("mae/seed-0", "simclr/seed-0", "mae/seed-1", "simclr/seed-1")]
    assert [one["seed"] for one in configs] == [0, 0, 1, 1]
    for name in (*SIZES, "epochs", "blr", "mean", "std", "warmup_epochs", "weight_decay"):
        assert len({str(one[name]) for one in configs}) == 1, name
    first, other = (load_model(study / f"random/seed-{seed}").encoder.state_dict() for seed in (0, 1))
    assert not torch.equal(first["patch_embed.weight"], other["patch_embed.weight"])
    learnt = load_model(study / "simclr/seed-0").encoder.state_dict()
    apart = {seed: (learnt["patch_embed.weight"] - one["patch_embed.weight"]).norm() for seed, one in
             ((0, first), (1, other))}  # fmt: skip
    assert apart[0] < 0.1 * apart[1]


def test_the_table_has_figures_bounds_and_costs(study: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    found = results(study)
    rows = {row["name"]: row for row in found["rows"]}
    assert [*rows] == ["mae", "simclr", "random"]
    assert (found["usual"], found["complete"]) == ("mae", True)
    assert rows["mae"]["against"] == {}
    assert rows["simclr"]["cost"] | {"seconds": 0.0} == {
        "passes": pytest.approx(6.0),
        "published": 6.0,
        "images": 48.0,  # of 24 images twice
        "operations": pytest.approx(48 * 6 * rows["mae"]["cost"]["operations"] / 48 / rows["mae"]["cost"]["passes"]),
        "seconds": 0.0,
    }
    assert rows["random"]["cost"] == {"passes": 0.0, "published": 0.0}
    for figure in ("knn", "linear"):
        means = {name: float(np.mean(row["of"][figure])) for name, row in rows.items()}
        assert rows["random"]["against"][figure]["difference"] == pytest.approx(means["random"] - means["mae"])
    model = copy(study / "simclr/seed-1", tmp_path / "run")
    code, _, errors = run("knn", model, colours, *words("--no-baselines --workers 0 --precision fp32"))
    assert code == 0, errors
    assert rows["simclr"]["of"]["knn"][1] == pytest.approx(
        json.loads((model / "evaluations.json").read_text())[0]["top1"]
    )
    page = (study / "report.html").read_text()
    for part in ("passes an image", "<td>6.0</td>", 'href="simclr/seed-1/report.html"', "data:image/svg"):
        assert part in page
    table = openmae.Study(study).table.to_dict("records")
    assert [(row["method"], row["figure"]) for row in table][:3] == [
        ("mae", "knn"),
        ("mae", "linear"),
        ("simclr", "knn"),
    ]


def test_more_methods_models_and_a_collapse_may_come(
    study: Path, finished: Path, colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, real = copy(study, tmp_path / "study"), trainings.baseline

    def baseline(asked: Any, method: str, console: Console) -> None:
        if asked.seed == 1:
            raise Collapsed("the <projections> of all images point the same way", "a smaller rate may help")
        real(asked, method, console)

    monkeypatch.setattr(trainings, "baseline", baseline)
    more = compare(colours, mine, ASKED, "--methods mae,simclr,random,byol", "--also", finished)
    code, output, errors = run(*more)
    assert code == 0, errors
    assert "byol/seed-1 has collapsed: the <projections>" in output
    assert "mae, seed" not in output.partition("byol, seed 0")[2]
    *known, byol, beside = results(mine)["rows"]
    assert [one["of"] for one in known] == [one["of"] for one in results(study)["rows"]]
    assert [len(byol["of"]["knn"]), len(beside["of"]["knn"])] == [1, 1]
    assert [(one["part"], one["collapsed"]) for one in byol["failed"]] == [("byol/seed-1", True)]
    assert beside["name"] == str(finished)
    assert beside["cells"][-1] == "not stated"
    assert "difference" in beside["against"]["knn"]
    monkeypatch.setattr(trainings, "baseline", None)  # what has collapsed is not tried again
    code, output, errors = run(*more)
    assert code == 0, errors
    assert " of 13: " not in output
    found = results(mine)
    found["rows"][3] |= {"of": {}, "against": {}}
    (mine / "results.json").write_text(json.dumps(found))
    assert run("report", mine)[0] == 0
    assert "<td>collapsed</td>" in (mine / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--methods mae,simclear", ["no method is called 'simclear' (did you mean simclr?)", "mocov3"]),
        ("--methods mae,mae", ["has mae twice"]),
        ("--methods ,", ["--methods names none"]),
        ("--budget soon", ["--budget is 'soon'", "20m"]),
        ("--budget 3s", ["--budget 3s is over before the speed of a method is measured"]),
        ("--budget 20m --epochs 2", ["--budget and --epochs both say how long"]),
        ("--seeds 0", ["--seeds is 0"]),
        ("--part 9/8", ["--part is '9/8'"]),
        ("--methods mae,simclr --set repeat_aug=2", ["simclr has its own views", "--repeat-aug"]),
        ("--set mask_ration=0.5", ["no setting 'mask_ration' of pretrain (did you mean mask_ratio?)"]),
        ("--also nowhere.pth", ["nowhere.pth"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    more: str, said: list[str], colours: Path, tmp_path: Path, run: Run
) -> None:
    refused(run(*compare(colours, tmp_path / "s", more)), *said)
    assert not (tmp_path / "s").exists()


def test_supervised_wants_labels_that_do_not_judge(data: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(colours.rglob("*.png"))[:30]):
        shutil.copy(file, flat / f"{number}.png")
    asked = "--epochs 1 --methods mae,supervised"
    refused(run(*compare(flat, tmp_path / "s", asked)), "supervised cannot be compared: DATA has no labels", "leave")
    refused(run(*compare(data, tmp_path / "s", asked)), "the labels of the judging images", "splits train and val")
    assert not (tmp_path / "s").exists()


def test_another_question_in_the_same_folder_is_refused(study: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    mine = copy(study, tmp_path / "study")
    refused(run(*compare(colours, mine, "--epochs 3 --methods mae")), "epochs = 2.0, not 3.0")
    assert results(mine) == results(study)


def test_budgets() -> None:
    found = [Compare("d", Path("s"), budget=one).minutes for one in ("90s", "20m", "2h", "7", None)]
    assert found == [1.5, 20, 120, 7, 20]
    assert Compare("d", Path("s"), epochs=2.0).minutes is None
    assert PUBLISHED.keys() == {*NAMES}


def test_a_budget_that_is_over_before_the_first_step(
    colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = []

    def train(asked: Any, console: Console, method: str) -> dict[str, Any]:
        asked_for.append((method, asked.minutes, asked.epochs, asked.batch_size))
        raise UserError("--minutes 0.1 are over before the first step: opening took 7 s", "give more")

    monkeypatch.setattr(job, "train", train)
    asked = "--budget 6s --seeds 1 --methods mae,dino,random"
    said = "every training failed (the first: the budget is over before the first step: opening took 7 s"
    refused(run(*compare(colours, tmp_path / "s", asked)), said, "give --budget more")
    assert asked_for == [("mae", 0.1, None, 8), ("dino", 0.1, None, 8)]


@pytest.mark.slow
def test_all_seeds_are_as_long_as_the_first_and_cheaper_methods_see_more(
    colours: Path, tmp_path: Path, run: Run
) -> None:
    code, _, errors = run(*compare(colours, tmp_path / "s", "--budget 12s --seeds 2 --methods mae,dino"))
    assert code == 0, errors
    steps = {one["name"]: one["steps"] for one in results(tmp_path / "s")["runs"]}
    assert steps["mae/seed-0"] == steps["mae/seed-1"] > 2 * steps["dino/seed-0"] == 2 * steps["dino/seed-1"]
