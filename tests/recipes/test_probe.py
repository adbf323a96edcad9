"""The exact linear probe against scikit-learn, and the commands knn and probe."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from openmae.data.tasks import Answers, Task
from openmae.evaluate import probe
from openmae.evaluate.evaluation import Evaluation
from openmae.evaluate.linear import Directions, fit
from openmae.evaluate.metrics import accuracy
from openmae.evaluate.probe import STRENGTHS, linear_predict
from openmae.recipes.probe.keep import keep
from openmae.train.run import read_config, read_metrics
from tests.commands import Run, refused
from tests.images import picture
from tests.runs import copy


def clusters(count: int, dim: int, classes: int, seed: int, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Features of very unequal spread, and their classes."""
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    found = centres[labels] + noise * torch.randn(count, dim, generator=draws, dtype=torch.float64)
    return found * torch.logspace(1, -2, dim, dtype=torch.float64) + 5, labels


def right(labels: Tensor, classes: int) -> Answers:
    return Answers("classification", tuple(f"c{i}" for i in range(classes)), labels.numpy())


# ---------------------------------------------------------------- against scikit-learn


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("dim", [6, 120])  # fewer and more features than images
@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_weights_are_scikit_learns(classes: int, dim: int, strength: float) -> None:
    train, labels = clusters(90, dim, classes, seed=3, noise=3)
    test, _ = clusters(40, dim, classes, seed=4, noise=3)
    scaler = StandardScaler().fit(train.numpy())
    oracle = LogisticRegression(C=strength, max_iter=10_000, tol=1e-10).fit(
        scaler.transform(train.numpy()), labels.numpy()
    )
    directions = Directions.of(train)
    model = fit(directions(train), labels, "classification", strength, directions.variance, tolerance=1e-11)
    weight = (directions.basis @ model.weight).T.numpy()
    if classes == 2:  # it keeps the difference
        weight = weight[1:] - weight[:1]
    np.testing.assert_allclose(weight, oracle.coef_, atol=1e-6)
    log_shares = model(directions(test)).log_softmax(1)
    np.testing.assert_allclose(log_shares.numpy(), oracle.predict_log_proba(scaler.transform(test.numpy())), rtol=1e-5)


@hypothesis_settings(max_examples=15)
@given(st.integers(12, 60), st.integers(1, 80), st.integers(2, 5), st.sampled_from([1e-5, 1e-3, 0.1]))
def test_single_precision_and_a_start_elsewhere_end_there_too(
    count: int, dim: int, classes: int, strength: float
) -> None:
    train, labels = clusters(count, dim, classes, seed=1, noise=3)
    scaler = StandardScaler().fit(train.numpy())
    oracle = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8)
    oracle.fit(scaler.transform(train.numpy()), labels.numpy())
    directions = Directions.of(train.float())
    x = directions(train.float())
    strong = fit(x, labels, "classification", 1e-6, directions.variance)
    model = fit(x, labels, "classification", strength, directions.variance, start=strong)
    found = model(x).log_softmax(1)
    np.testing.assert_allclose(found.numpy(), oracle.predict_log_proba(scaler.transform(train.numpy())), atol=1e-3)


def test_several_labels_are_one_against_the_rest_and_numbers_are_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = clusters(90, 12, 3, seed=5, noise=2)
    hot = (train[:, :3] + torch.randn(90, 3, generator=torch.Generator().manual_seed(1)) > 5).double()
    directions = Directions.of(train)
    standard = StandardScaler().fit_transform(train.numpy())
    model = fit(directions(train), hot, "multi-label", 0.01, directions.variance, tolerance=1e-11)
    oracle = OneVsRestClassifier(LogisticRegression(C=0.01, tol=1e-10, max_iter=1000)).fit(standard, hot.numpy())
    np.testing.assert_allclose(model(directions(train)).sigmoid(), oracle.predict_proba(standard), atol=1e-6)
    model = fit(directions(train), hot * 100, "regression", 0.02, directions.variance)
    ridge = Ridge(alpha=50).fit(standard, hot.numpy() * 100)
    np.testing.assert_allclose(model(directions(train)), ridge.predict(standard), atol=1e-8)
    monkeypatch.setattr("openmae.evaluate.linear.MOST_SCORES", 16)  # rows in several pieces make no difference
    again = fit(directions(train), hot, "multi-label", 0.01, directions.variance, tolerance=1e-11)
    np.testing.assert_allclose(again(directions(train)).sigmoid(), oracle.predict_proba(standard), atol=1e-6)


# ---------------------------------------------------------------- the choice of the strength


def test_what_the_whole_probe_says_is_scikit_learns_at_the_strength_it_chose() -> None:
    train, labels = clusters(120, 10, 4, seed=6, noise=4)
    test, _ = clusters(50, 10, 4, seed=7, noise=4)
    scores, strength = linear_predict(train.float(), right(labels, 5), test.float())
    scaler = StandardScaler().fit(train.numpy())
    oracle = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(
        scaler.transform(train.numpy()), labels.numpy()
    )
    expected = oracle.predict_log_proba(scaler.transform(test.numpy()))
    np.testing.assert_allclose(scores[:, :4].numpy(), expected, atol=1e-3)
    assert (scores[:, 4] == -torch.inf).all()  # no training image


def test_it_finds_what_is_linear_and_not_what_is_noise() -> None:
    train, labels = clusters(300, 20, 4, seed=5, noise=0.5)
    test, expected = clusters(100, 20, 4, seed=6, noise=0.5)
    assert accuracy(linear_predict(train, right(labels, 4), test)[0], expected) > 0.95
    draws = torch.Generator().manual_seed(0)
    noises = [torch.randn(count, 20, generator=draws) for count in (300, 100)]
    noise, strength = linear_predict(noises[0], right(labels, 4), noises[1])
    assert 0.05 < accuracy(noise, expected) < 0.5
    assert strength < 1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.3])
def test_a_rare_class_is_found_too(share: float) -> None:
    """Strong regularisation always says the larger class, all alike: a plateau that the search has to leave."""
    draws = torch.Generator().manual_seed(0)
    labels = (torch.rand(400, generator=draws) < share).long()
    features = torch.randn(400, 16, generator=draws) + 1.2 * labels[:, None]
    scores, _ = linear_predict(features[:300], right(labels[:300], 2), features[300:])
    expected = LogisticRegression(C=0.1).fit(features[:300], labels[:300]).score(features[300:], labels[300:])
    assert accuracy(scores, labels[300:]) >= expected - 0.02 > 1 - share


@pytest.mark.parametrize(("count", "dim"), [(40, 8), (30, 60), (200, 20)])
def test_the_strength_for_numbers_leaves_one_out(count: int, dim: int) -> None:
    """Equal to scikit-learn's RidgeCV, which does so by default, on standardised features."""
    draws = np.random.default_rng(count)
    features = draws.normal(size=(count, dim)).astype(np.float32)
    values = (features[:, :3].sum(1) + draws.normal(size=count)).astype(np.float32)
    scaled = StandardScaler().fit(features)
    theirs = RidgeCV([1 / strength for strength in STRENGTHS]).fit(scaled.transform(features), values)
    answered = Answers("regression", ("value",), values[:, None])
    scores, strength = linear_predict(torch.from_numpy(features), answered, torch.from_numpy(features))
    assert 1 / strength == pytest.approx(theirs.alpha_)
    np.testing.assert_allclose(scores[:, 0], theirs.predict(scaled.transform(features)), rtol=1e-3, atol=1e-3)


def test_the_strength_is_the_best_on_folds_of_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As cross-validation by scikit-learn over the same folds finds it."""
    monkeypatch.setattr(probe, "PATIENCE", 99)
    train, labels = clusters(100, 40, 3, seed=8, noise=6)
    _, strength = linear_predict(train, right(labels, 3), train[:5])
    standard = StandardScaler().fit_transform(train.numpy())
    figures = []
    for c in STRENGTHS:
        scores = [
            LogisticRegression(C=c, max_iter=5000).fit(standard[rest], labels[rest]).score(standard[out], labels[out])
            for rest, out in probe.folds_of(right(labels, 3), 0)
        ]
        figures.append(np.mean(scores))
    assert figures[STRENGTHS.index(strength)] >= max(figures) - 0.011  # one image of a hundred


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_folds_hold_out_a_share_of_each_class_and_never_all_of_it(labels: list[int]) -> None:
    values = np.array(labels)
    folds = probe.folds_of(Answers("classification", tuple("abcde"), values), 3)
    held_out = [index for _, part in folds for index in part.tolist()]
    assert len(set(held_out)) == len(held_out)
    for rest, part in folds:
        assert set(rest.tolist()) | set(part.tolist()) == set(range(len(values)))
        assert set(values[part]) <= set(values[rest])
    counts = np.bincount(values)
    assert len(held_out) == counts[counts > 1].sum()


# ---------------------------------------------------------------- the commands


def entries(run: Path) -> list[dict[str, object]]:
    return json.loads((run / "evaluations.json").read_text())  # type: ignore[no-any-return]


def test_knn_and_probe_print_a_table_and_keep_it(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    model = copy(finished, tmp_path / "run")
    for command in ("knn", "probe", "knn"):
        code, output, errors = run(command, model, data, "--workers", "0")
        assert code == 0, errors
        assert all(name in output for name in ("raw pixels", "untrained", "pre-trained"))
    kept = json.loads((model / "evaluations.json").read_text())
    assert [(e["kind"], e["features"]) for e in kept] == [
        (kind, features) for kind in ("linear", "knn") for features in ("raw pixels", "untrained", "pre-trained")
    ]
    assert all(e["val_images"] == 8 for e in kept)
    assert "pre-trained" in (model / "report.html").read_text()
    code, output, _ = run("knn", model / "model.safetensors", data, "--no-baselines", "--pool", "class", "--layer", "1")
    assert code == 0
    assert "untrained" not in output


@pytest.mark.parametrize("command", ["knn", "probe"])
@pytest.mark.usefixtures("drawn")
def test_a_sweep_is_one_table_its_best_marked_and_drawn(
    command: str, finished: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    model = copy(finished, tmp_path / "run")
    code, output, errors = run(command, model, data, "--layer", "all", "--pool", "mean,class", "--workers", "0")
    assert code == 0, errors
    own = [e for e in entries(model) if e["features"] == "pre-trained"]
    assert [(e["layer"], e["pool"]) for e in own] == [(1, "mean"), (1, "class"), (2, "mean"), (2, "class")]
    marked = [line for line in output.splitlines() if "(best)" in line]
    best = max(own, key=lambda e: e["top1"])  # type: ignore[arg-type, return-value]
    assert len(marked) == 1
    assert [word for word in marked[0].split() if word in ("1", "2", "mean", "class")] == [
        str(best["layer"]),
        best["pool"],
    ]
    assert "chosen on the val images" in output
    kind = {"knn": "knn", "probe": "linear"}[command]
    assert "features are taken" in (model / f"layers-{kind}.svg").read_text()
    alone = run(command, model, data, "--layer", "1", "--pool", "class", "--no-baselines", "--workers", "0")
    assert alone[0] == 0
    assert len([e for e in entries(model) if e["features"] == "pre-trained"]) == 4
    (again,) = [e for e in entries(model) if (e["layer"], e["pool"]) == (1, "class")]
    assert again["top1"] == own[1]["top1"]
    assert again["rankme"] == pytest.approx(own[1]["rankme"], rel=1e-5)
    assert "chosen on the val images" not in alone[1]


def test_what_is_kept_says_how_it_came_about(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    model = copy(finished, tmp_path / "run")
    words = ("--workers", "0", "--precision", "fp32")
    for more in ((), ("--k", "3", "--temperature", "0.5")):
        assert run("knn", model, data, *words, *more)[0] == 0
    assert run("probe", model, data, *words)[0] == 0
    own = [e for e in entries(model) if e["features"] == "pre-trained"]
    assert [(e["kind"], e["k"], e["temperature"]) for e in own] == [
        ("knn", 20, 0.07), ("knn", 3, 0.5), ("linear", None, None),
    ]  # fmt: skip
    assert own[2]["strength"] in STRENGTHS
    steps = read_config(model)["steps"]
    assert all((e["step"], e["precision"], e["task"]) == (steps, "fp32", "classification") for e in own)
    assert all(1 <= e["rankme"] <= 24 for e in own)  # type: ignore[operator]
    assert [e["step"] for e in entries(model) if e["features"] == "untrained"] == [None] * 3


def an_evaluation(number: int) -> Evaluation:
    values = dict.fromkeys(Evaluation.__dataclass_fields__)
    return replace(Evaluation(**values), kind="knn", features="pre-trained", data=str(number), top1=0.5, k=20)  # type: ignore[arg-type]


def _keep_one(number: int, run: Path) -> None:
    for part in range(5):
        keep([an_evaluation(100 * number + part)], run)


def test_commands_at_the_same_time_lose_no_figure(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openmae.recipes.probe.keep.write_report", lambda run: None)  # a second each
    model = copy(finished, tmp_path / "run")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_keep_one, args=(number, model)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(entries(model)) == 20
    keep([replace(an_evaluation(0), top1=0.75)], model)
    assert len(entries(model)) == 20
    assert entries(model)[-1]["top1"] == 0.75
    (model / "evaluations.json").write_text('{"a": 1}')
    with pytest.raises(Exception, match="damaged"):
        keep([an_evaluation(0)], model)


@pytest.mark.parametrize(
    ("task", "labels", "figure"),
    [("multi-label", ["a;b", "b", "a", ";"], "mean AP"), ("regression", ["0.5", "1.5", "2.25", "7"], "R²")],
)
def test_labels_that_are_no_classes(
    task: Task, labels: list[str], figure: str, finished: Path, tmp_path: Path, run: Run
) -> None:
    rows = ["path,label"]
    for number in range(24):
        picture(number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{labels[number % 4]}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    model = copy(finished, tmp_path / "run")
    for command in ("knn", "probe"):
        code, output, errors = run(command, model, tmp_path / "table.csv", "--workers", "0")
        assert code == 0, errors
        assert figure in output
    name = {"multi-label": "mean_ap", "regression": "r2"}[task]
    assert all(e["task"] == task and isinstance(e[name], float) and e["top1"] is None for e in entries(model))


def test_the_papers_probe_trains_a_linear_layer_by_lars(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    words = ("--recipe", "paper", "--epochs", "3", "--batch-size", "8", "--workers", "0")
    code, output, errors = run("probe", finished, data, *words, "--out", tmp_path / "p")
    assert code == 0, errors
    assert "hardly enough to learn anything" in output
    config = read_config(tmp_path / "p")
    expected = {
        "blocks": "0", "pool": "class", "batch_norm": True, "optimizer": "lars", "epochs": 3.0, "batch_size": 8,
        "blr": 0.1, "weight_decay": 0.0, "mixup": 0.0, "ra_magnitude": 0.0,
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert config["warmup_epochs"] < 3
    assert "eval/top1" in read_metrics(tmp_path / "p")[-1]
    code, output, errors = run("knn", tmp_path / "p", data, "--workers", "0")  # a classifier has features too
    assert code == 0, errors
    assert "fine-tuned" in output


def test_settings_that_do_not_go_together(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    refused(run("probe", finished, data, "--recipe", "paper"), "add --out RUN")
    refused(run("probe", finished, data, "--out", tmp_path / "p"), "--out is for --recipe paper")
    refused(run("probe", finished, data, "--recipe", "paper", "--out", tmp_path / "p", "--layer", "1"), "--layer")
    refused(run("knn", finished, data, "--layer", "3"), "no layer 3: give 1 to 2")
    refused(run("knn", finished, data, "--layer", "last"), "--layer is 'last'", "1 to 2")
    refused(run("knn", finished, data, "--pool", "max"), "--pool is 'max'")
    refused(run("knn", finished, data, "--temperature", "0"), "--temperature is 0")
    refused(run("knn", finished, data, "--k", "0"), "--k is 0")
    assert not (tmp_path / "p").exists()


def test_labels_and_images_that_are_of_no_use(finished: Path, tmp_path: Path, run: Run) -> None:
    def images(*places: str, size: tuple[int, int] = (16, 16)) -> None:
        for number, place in enumerate(places):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (20 * number, 9, 9)).save(tmp_path / place)

    images("none/a.png", "none/b.png")
    refused(run("knn", finished, tmp_path / "none"), "has no labels")
    images("one/a/0.png", "one/a/1.png")
    refused(run("probe", finished, tmp_path / "one"), "two classes or more")
    images(*(f"new/{s}/{c}/{i}.png" for s, names in (("train", "ab"), ("val", "ac")) for c in names for i in range(2)))
    refused(run("knn", finished, tmp_path / "new"), "has classes that", "lacks (c)")
    images(*(f"few/{s}/{c}/{i}.png" for s, names in (("train", "abc"), ("val", "ab")) for c in names for i in range(2)))
    refused(run("knn", finished, tmp_path / "few"), "no image of the class c")
    images(*(f"tiny/{c}/{i}.png" for c in "ab" for i in range(3)), size=(3, 3))
    refused(run("knn", finished, tmp_path / "tiny", "--workers", "0"), "can be read (the first is", "pixels")
