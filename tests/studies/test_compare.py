"""`openmae compare`: ways to pre-train beside each other, what they leave and cost; a collapse; what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.neighbors import KNeighborsClassifier

import openmae
from openmae.baselines.method import Collapsed
from openmae.errors import UserError
from openmae.recipes.finetune import choose
from openmae.studies import trainings
from openmae.studies.compare import rates
from openmae.studies.compare import trainings as job
from openmae.studies.compare.conclude import at_the_edge
from openmae.studies.compare.named import NAMES, PUBLISHED
from openmae.studies.compare.rates import Tried, best_of
from openmae.studies.compare.settings import Compare
from openmae.studies.compare.trainings import Aside
from openmae.studies.judging import frozen_features, means_of, open_labelled
from openmae.train.loop import Training
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


ASKED = "--epochs 2 --seeds 2 --finetune none --rates 1,3"


@pytest.fixture(scope="module")
def study(runs: Runs, colours: Path) -> Path:
    """Three methods, two seeds, two rates tried, judged by classes."""
    return runs.once("compared", lambda out: done(compare(colours, out, ASKED, "--methods mae,simclr,random")))


def results(study: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((study / "results.json").read_text())
    return found


def test_mae_is_pretrains_bit_for_bit(study: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    sizes = words(" ".join(f"--{name.replace('_', '-')} {value}" for name, value in SIZES.items()))
    rate = read_config(study / "mae/seed-0")["blr"]
    again = words(QUICK, f"--epochs 2 --blr {rate} --pictures 0 --evaluations 0")
    code, _, errors = run("pretrain", colours, "--out", tmp_path / "run", *again, *sizes)
    assert code == 0, errors
    theirs, ours = (load_model(at).model.state_dict() for at in (tmp_path / "run", study / "mae/seed-0"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_all_begin_with_the_same_weights_and_see_as_many_images(study: Path) -> None:
    configs = [read_config(study / name) for name in ("mae/seed-0", "simclr/seed-0", "mae/seed-1", "simclr/seed-1")]
    assert [one["seed"] for one in configs] == [0, 0, 1, 1]
    for name in (*SIZES, "epochs", "mean", "std", "warmup_epochs", "weight_decay"):
        assert len({str(one[name]) for one in configs}) == 1, name
    first, other = (load_model(study / f"random/seed-{seed}").encoder.state_dict() for seed in (0, 1))
    assert not torch.equal(first["patch_embed.weight"], other["patch_embed.weight"])
    learnt = load_model(study / "simclr/seed-0").encoder.state_dict()
    apart = {seed: (learnt["patch_embed.weight"] - one["patch_embed.weight"]).norm() for seed, one in
             ((0, first), (1, other))}  # fmt: skip
    assert apart[0] < 0.1 * apart[1]


def test_each_method_has_the_rate_that_told_held_out_training_labels_best(
    study: Path, colours: Path, tmp_path: Path
) -> None:
    found, usual = results(study)["rates"], read_config(study / "rates/mae/x1")["blr"]
    assert [one["method"] for one in found["methods"]] == ["mae", "simclr"]
    for one in found["methods"]:
        tried = {trial["times"]: trial for trial in one["tried"]}
        assert {times: trial["blr"] for times, trial in tried.items()} == {1: usual, 3: 3 * usual}
        best = max(tried, key=lambda times: (tried[times]["figure"], -times))
        assert one["chosen"] == best
        assert {read_config(study / one["method"] / f"seed-{seed}")["blr"] for seed in (0, 1)} == {best * usual}
    means = means_of(Compare(str(colours), tmp_path, workers=0), Console(quiet=True), {})
    labelled = open_labelled(str(colours), means, 0, Console(quiet=True))
    rest, away = rates.held_out(labelled, 0) or ([], [])
    assert {*rest, *away} == {*range(len(labelled.train))}  # val has no part in it
    features, _ = frozen_features(study / "rates/simclr/x3", labelled.train, means, "")
    right = labelled.right.values
    near = KNeighborsClassifier(min(20, len(rest)), metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    figure = near.fit(features[rest], right[rest]).score(features[away], right[away])
    assert found["methods"][1]["tried"][1]["figure"] == pytest.approx(figure)


def test_the_table_has_figures_bounds_and_costs(study: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    found = results(study)
    rows = {row["name"]: row for row in found["rows"]}
    assert [*rows] == ["mae", "simclr", "random"]
    assert (found["usual"], found["complete"]) == ("mae", True)
    assert rows["mae"]["against"] == {}
    assert rows["simclr"]["cost"] | {"seconds": 0.0} == {
        "blr": read_config(study / "simclr/seed-0")["blr"],
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
    for part in (
        "passes an image",
        "<td>6.0</td>",
        'href="simclr/seed-1/report.html"',
        "Two seeds give no bounds",
        'class="chart"',
    ):
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
    mine, real = copy(study, tmp_path / "study"), trainings.fit

    def fit(training: Training[Any, Any]) -> None:
        if training.run.path.parent.name == "byol" and training.run.path.name in ("seed-1", "x1"):
            raise Collapsed("the <projections> of all images point the same way", "a smaller rate may help")
        real(training)

    monkeypatch.setattr(trainings, "fit", fit)
    monkeypatch.setattr(rates, "fit", fit)
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
    monkeypatch.setattr(trainings, "fit", None)  # what has collapsed is not tried again
    monkeypatch.setattr(rates, "fit", None)
    code, output, errors = run(*more)
    assert code == 0, errors
    assert not re.search(r"\d of \d+: ", output)
    found = results(mine)
    *_, tried = found["rates"]["methods"]
    assert (tried["method"], tried["chosen"]) == ("byol", 3.0)
    assert "point the same way" in tried["tried"][0]["why"]
    assert read_config(mine / "byol/seed-0")["blr"] == 3 * read_config(mine / "rates/mae/x1")["blr"]
    found["rows"][3] |= {"of": {}, "against": {}}
    (mine / "results.json").write_text(json.dumps(found))
    assert run("report", mine)[0] == 0
    page = (mine / "report.html").read_text()
    assert "<td>collapsed</td>" in page
    assert "byol at 1x is out: the &lt;projections&gt;" in page


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
        ("--also vit.pth,num_heads=x", ["--also is 'vit.pth,num_heads=x'", "vit.pth,num_heads=12"]),
        ("--rates 1,fast", ["--rates is '1,fast'", "1/3,1,3"]),
        ("--rates 1/0", ["--rates is '1/0'"]),
        ("--finetune 10%,90-per-class", ["class 'blue' has 8 images in train", "--finetune 90-per-class"]),
        ("--finetune few", ["--finetune is 'few'"]),
        ("--corruptions fogg", ["--corruptions is 'fogg'", "fog, brightness"]),
        ("--corruptions fog", ["--corruptions needs views of 32 pixels", "16 x 16"]),
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
    files = sorted(colours.rglob("*.png"))
    rows = "\n".join(f"{file},{at / 7},{'val' if at % 4 == 0 else 'train'}" for at, file in enumerate(files))
    (tmp_path / "t.csv").write_text(f"path,label,split\n{rows}\n")
    refused(run(*compare(tmp_path / "t.csv", tmp_path / "s", asked)), "DATA's labels are numbers", "leave supervised")
    assert not (tmp_path / "s").exists()


def test_another_question_in_the_same_folder_is_refused(study: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    mine = copy(study, tmp_path / "study")
    refused(run(*compare(colours, mine, "--epochs 3 --methods mae")), "epochs = 2.0, not 3.0")
    assert results(mine) == results(study)


ONE = "--epochs 1 --seeds 1 --rates 1 --methods mae,random"


def test_all_are_fine_tuned_alike(colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_LEAST_STEPS", 1)
    monkeypatch.setattr(choose, "_MOST_EPOCHS", 40.0)
    study = tmp_path / "study"
    code, output, errors = run(*compare(colours, study, ONE, "--finetune 50%"))
    assert code == 0, errors
    assert "Each method has the rate that pretrain would choose" in output
    assert "All are fine-tuned on 50% (12 labels, 40 epochs)" in output
    assert re.search(r"By the speed of this machine it takes about: trainings \d+ s, fine-tunings \d+ s", output)
    rows = {row["name"]: row["of"] for row in results(study)["rows"]}
    mine, other = (read_config(study / f"finetuned/50%/{name}-seed-0") for name in ("mae", "random"))
    assert {name for name in mine if mine[name] != other[name]} == {"model"}
    model = copy(study / "finetuned/50%/random-seed-0", tmp_path / "model")
    code, _, errors = run("evaluate", model, colours, *words("--workers 0 --device cpu"))
    assert code == 0, errors
    (found,) = json.loads((model / "results.json").read_text()).values()
    assert rows["random"]["finetuned-50%"] == [pytest.approx(found["clean"]["figures"]["top1"])]


@pytest.mark.slow
def test_corrupted_images_judge_what_was_fine_tuned_or_the_linear_classifier(
    colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_LEAST_STEPS", 1)
    monkeypatch.setitem(SIZES, "img_size", 32)
    study = tmp_path / "study"
    asked = compare(colours, study, ONE, "--corruptions pixelate")
    code, output, errors = run(*asked, "--finetune", "none")
    assert code == 0, errors
    assert re.search(r"By the speed of this machine it takes about: trainings \d+ s, corrupted images \d+ s", output)
    linear = {row["name"]: row["of"] for row in results(study)["rows"]}
    (name,) = (one for one in linear["mae"] if one.startswith("corrupted"))
    assert 0 <= linear["mae"][name][0] <= 1
    others = compare(colours, study, ONE, "--corruptions pixelate,fog --finetune none")
    code, output, errors = run(*others)  # which nothing was judged by
    assert code == 0, errors
    assert "corrupting images for mae, seed 0" in output
    assert name not in results(study)["rows"][0]["of"]
    code, _, errors = run(*asked, "--finetune", "50%")  # the same study: what there is stays
    assert code == 0, errors
    rows = {row["name"]: row["of"] for row in results(study)["rows"]}
    for name in ("mae", "random"):
        assert rows[name]["knn"] == linear[name]["knn"]
        model = copy(study / f"finetuned/50%/{name}-seed-0", tmp_path / name)
        code, _, errors = run(
            "evaluate", model, colours, "--corruptions", "pixelate", *words("--workers 0 --device cpu")
        )
        assert code == 0, errors
        (found,) = json.loads((model / "results.json").read_text()).values()
        (figure,) = (one for one in rows[name] if one.startswith("finetuned-corrupted-50%"))
        assert rows[name][figure] == [pytest.approx(found["corruptions"]["mean_error"])]


def test_without_labels_rates_are_chosen_by_the_loss_on_images_that_no_trial_has_seen(
    colours: Path, tmp_path: Path, run: Run
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(colours.rglob("*.png"))[:30]):
        shutil.copy(file, flat / f"{number}.png")
    code, output, errors = run(*compare(flat, tmp_path / "s", "--epochs 1 --seeds 1 --methods mae,dino --rates 1,9"))
    assert code == 0, errors
    assert "each method's own loss on images that a trial has not seen" in output
    found = results(tmp_path / "s")["rates"]
    assert found["is_loss"]
    for one in found["methods"]:
        losses = {trial["times"]: trial["figure"] for trial in one["tried"]}
        assert one["chosen"] == min(losses, key=losses.__getitem__)
        counts = [read_config(tmp_path / "s" / one["method"] / "seed-0")["image_count"]]
        counts += [read_config(tmp_path / "s/rates" / one["method"] / f"x{n}")["image_count"] for n in (1, 9)]
        assert counts == [27, 22, 22]  # a fifth is not seen, beside the three of the pictures


@given(st.dictionaries(st.floats(0.01, 100), st.none() | st.floats(-1, 1), min_size=1, max_size=5), st.booleans())
def test_the_best_rate_is_of_those_that_have_a_figure(figures: dict[float, float | None], is_loss: bool) -> None:
    best = best_of([Tried(times, None, figure) for times, figure in figures.items()], is_loss)
    known = [figure for figure in figures.values() if figure is not None]
    if known:
        assert figures[best] == (min if is_loss else max)(known)
    else:
        assert abs(np.log(best)) == min(abs(np.log(times)) for times in figures)


def test_a_rate_beyond_those_tried_is_named_where_the_best_is_the_last_one() -> None:
    def tried(method: str, chosen: float | None, *figures: float) -> dict[str, Any]:
        told = [{"times": times, "figure": one} for times, one in zip((1.0, 3.0), figures, strict=False)]
        return {"method": method, "tried": told or [{"times": 1.0, "why": "it collapsed"}], "chosen": chosen}

    methods = [tried("mae", 3.0, 0.1, 0.2), tried("dino", 1.0), tried("byol", None, 0.3), tried("dae", 1.0, 0.4, 0.3)]
    high, low = at_the_edge((1.0, 3.0), methods)
    assert "The highest rate tried was the best one for mae:" in high
    assert "The lowest rate tried was the best one for dae:" in low
    assert at_the_edge((), methods) == []


@given(st.lists(st.integers(0, 6), min_size=5, max_size=60), st.integers(0, 3))
def test_groups_stay_together_when_images_are_held_out(groups: list[int], seed: int) -> None:
    seen, away = Aside(None, seed).of(len(groups), np.array(groups))
    assert sorted([*seen, *away]) == [*range(len(groups))]
    assert len(seen)
    assert len(away)
    if len(set(groups)) > 1:
        assert not {groups[index] for index in seen} & {groups[index] for index in away}
    alone = Aside(None, seed).of(len(groups), None)[1]
    assert np.array_equal(Aside(None, seed).of(len(groups), np.arange(len(groups)))[1], alone)
    assert len(alone) == len(groups) // 5


def test_supervised_learns_no_label_that_chooses_its_rate(colours: Path, tmp_path: Path, run: Run) -> None:
    asked = "--epochs 1 --seeds 1 --methods mae,supervised --rates 1,3 --finetune none"
    code, _, errors = run(*compare(colours, tmp_path / "s", asked))
    assert code == 0, errors
    counts = {name: read_config(tmp_path / "s/rates" / name / "x3")["image_count"] for name in ("mae", "supervised")}
    assert counts == {"mae": 24, "supervised": 18}  # two of each class of 8 are held out


def test_budgets() -> None:
    found = [Compare("d", Path("s"), budget=one).minutes for one in ("90s", "20m", "2h", "7", None)]
    assert found == [1.5, 20, 120, 7, 20]
    assert Compare("d", Path("s"), epochs=2.0).minutes is None
    assert PUBLISHED.keys() == {*NAMES}


def test_a_budget_that_is_over_before_the_first_step(
    colours: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = []

    def train(asked: Any, console: Console, kind: Any) -> dict[str, Any]:
        asked_for.append((asked.out.parent.name, asked.minutes, asked.epochs, asked.batch_size))
        raise UserError("--minutes 0.1 are over before the first step: opening took 7 s", "give more")

    monkeypatch.setattr(job, "train", train)
    asked = "--budget 6s --seeds 1 --methods mae,dino,random --rates 1 --finetune none"
    said = "every training failed (the first: the budget is over before the first step: opening took 7 s"
    refused(run(*compare(colours, tmp_path / "s", asked)), said, "give --budget more")
    assert asked_for == [("mae", 0.1, None, 8), ("dino", 0.1, None, 8)]


@pytest.mark.slow
def test_all_seeds_are_as_long_as_the_first_and_cheaper_methods_see_more(
    colours: Path, tmp_path: Path, run: Run
) -> None:
    code, _, errors = run(
        *compare(colours, tmp_path / "s", "--budget 12s --seeds 2 --methods mae,dino", "--finetune none")
    )
    assert code == 0, errors
    steps = {one["name"]: one["steps"] for one in results(tmp_path / "s")["runs"]}
    assert steps["rates/dino/x0.333"] == steps["rates/dino/x3"] < steps["dino/seed-0"]
    assert steps["mae/seed-0"] == steps["mae/seed-1"] > 2 * steps["dino/seed-0"] == 2 * steps["dino/seed-1"]
