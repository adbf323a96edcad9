"""The commands knn and probe: their tables, what they keep, and what they refuse."""

import io
import json
import multiprocessing
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from openmae.data.tasks import Task
from openmae.errors import UserError
from openmae.evaluate.baselines import values
from openmae.evaluate.evaluation import Evaluation
from openmae.evaluate.probe import STRENGTHS
from openmae.recipes.probe.bank import check_room
from openmae.recipes.probe.keep import keep
from openmae.recipes.probe.table import show_advice, show_table
from openmae.train.run import read_config, read_metrics
from openmae.weights import load_model
from tests.commands import Run, refused
from tests.images import picture
from tests.runs import copy

# ---------------------------------------------------------------- the commands


def entries(run: Path) -> list[dict[str, object]]:
    return json.loads((run / "evaluations.json").read_text())  # type: ignore[no-any-return]


def test_knn_and_probe_print_a_table_and_keep_it(
    finished: Path, data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy(finished, tmp_path / "run")
    monkeypatch.chdir(data.parent)
    for command, place in (("knn", data), ("probe", data), ("knn", data.name)):
        code, output, errors = run(command, model, place, "--workers", "0")
        assert code == 0, errors
        assert all(name in output for name in ("raw pixels", "histograms", "untrained", "pre-trained"))
    kept = json.loads((model / "evaluations.json").read_text())
    assert [(e["kind"], e["features"]) for e in kept] == [
        (kind, features)
        for kind in ("linear", "knn")
        for features in ("raw pixels", "histograms", "untrained", "pre-trained")
    ]
    assert all(e["val_images"] == 8 for e in kept)
    assert "pre-trained" in (model / "report.html").read_text()
    assert run("knn", model, data, "--workers", "0", "--labels", "8", "--no-baselines")[0] == 0
    few = json.loads((model / "evaluations.json").read_text())[-1]
    assert (few["train_images"], few["val_images"], "--labels 8" in few["data"]) == (8, 8, True)
    code, output, _ = run("knn", model / "model.safetensors", data, "--no-baselines", "--pool", "class", "--layer", "1")
    assert code == 0
    assert "untrained" not in output


def test_the_probe_is_kept_as_a_run(finished: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    """What was printed of it is what evaluate finds; it exports as any classifier."""
    out, words = tmp_path / "probe", ("--workers", "0", "--no-baselines")
    code, output, errors = run(
        "probe", finished / "model.safetensors", colours, *words, "--out", out, "--pool", "class"
    )
    assert code == 0, errors
    info = json.loads((out / "model.json").read_text())
    assert (info["kind"], info["class_names"], info["provenance"]["step"]) == (
        "classifier",
        ["blue", "green", "red"],
        0,
    )
    code, _, errors = run("evaluate", out, colours, "--workers", "0")
    assert code == 0, errors
    (clean,) = [entry["clean"]["figures"] for entry in json.loads((out / "results.json").read_text()).values()]
    assert f"on val: top-1 {clean['top1']:.2%}" in output.replace("\n", " ")
    (row,) = [line for line in output.splitlines() if "pre-trained" in line and "│" in line]
    assert f"{clean['top1']:.1%}" in row  # of the class token the table has the same
    assert (load_model(out).encoder.state_dict()["blocks.0.attn.qkv.weight"]).equal(
        load_model(finished).encoder.state_dict()["blocks.0.attn.qkv.weight"]
    )
    assert run("export", out, "--to", "safetensors", "--out", tmp_path / "e.safetensors")[0] == 0
    refused(run("probe", finished, colours, *words, "--out", out), "holds a model already", "choose another --out")


def test_nearest_neighbours_are_kept_as_a_run(finished: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    """What was printed of them is what evaluate finds, of a layer before the last too; they go to ONNX."""
    out, words = tmp_path / "knn", ("--workers", "0", "--no-baselines")
    few = ("--layer", "1", "--k", "3", "--labels", "6")
    model = copy(finished, tmp_path / "run")
    code, output, errors = run("knn", model, colours, *words, *few, "--out", out)
    assert code == 0, errors
    info = json.loads((out / "model.json").read_text())
    shape = info["architecture"]
    assert (info["kind"], info["class_names"], info["task"]) == (
        "neighbours",
        ["blue", "green", "red"],
        "classification",
    )
    assert (shape["images"], shape["k"], shape["encoder"]["depth"]) == (6, 3, 1)
    (out / "results.json").unlink()
    code, _, errors = run("evaluate", out, colours, "--workers", "0")
    assert code == 0, errors
    (clean,) = [entry["clean"]["figures"] for entry in json.loads((out / "results.json").read_text()).values()]
    assert clean["top1"] == entries(model)[-1]["top1"]
    said = output.replace("\n", " ")
    assert f"on val: top-1 {clean['top1']:.2%}" in said
    assert "a bank of 6 images with 24 numbers each" in said
    code, output, errors = run("export", out, "--to", "onnx", "--out", tmp_path / "e.onnx")
    assert code == 0, errors
    refused(
        run("export", out, "--to", "timm", "--out", tmp_path / "t.safetensors"), "timm has no layer", "openmae probe"
    )
    refused(run("knn", model, colours, *words, "--out", out), "holds a model already", "choose another --out")
    refused(
        run("knn", model, colours, *words, "--out", tmp_path / "o", "--layer", "all"), "one layer and pool", "--pool"
    )


def test_a_bank_is_bounded() -> None:
    check_room(349_525, 768)
    with pytest.raises(UserError, match="--labels 349525 or fewer"):
        check_room(1_281_167, 768)


@pytest.mark.parametrize("command", ["knn", "probe"])
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
    ours = [e for e in entries(model) if e["features"] == "pre-trained"]  # baselines may stand in the same place
    (again,) = [e for e in ours if (e["layer"], e["pool"]) == (1, "class")]
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


def test_features_that_memory_has_no_room_for(
    finished: Path, data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copy(finished, tmp_path / "run")
    encoder = load_model(out).encoder
    width, (pixels, histograms) = encoder.embed_dim, values(encoder.img_size, encoder.in_chans)
    for flags, each in (("", 2 * width + 2 * pixels + histograms), ("--no-baselines", width)):
        words, needed = ["knn", out, data, "--workers", 0, *flags.split()], 40 * 4 * each
        monkeypatch.setattr("openmae.recipes.probe.job.ram", lambda needed=needed: 2 * needed)
        assert run(*words)[0] == 0
        monkeypatch.setattr("openmae.recipes.probe.job.ram", lambda needed=needed: 2 * needed - 1)
        refused(run(*words), "features of 40 images take", "fewer images")


@pytest.mark.parametrize(("rival", "bold"), [(0.85, True), (0.89, False), (0.95, False)])
def test_nothing_is_bold_that_is_not_better_by_more_than_its_error(rival: float, bold: bool) -> None:
    one = replace(
        an_evaluation(0), task="classification", top1=0.9, error=0.02, val_images=225, train_images=9, majority=0.7,
        classes=2, auroc=0.93, balanced_accuracy=0.8,
    )  # fmt: skip
    other = replace(one, features="histograms", top1=rival)
    console = Console(file=io.StringIO(), force_terminal=True, width=100, markup=False)
    show_table([one, other], console)
    show_advice([one, other], console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("\x1b[1m90.0% ± 2.0" in said) is bold
    assert ("not better than histograms" in said) is not bold
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    for words in ("chance 50.0%, always the commonest 70.0%", "kNN AUROC", "93.0%", "kNN balanced", "± 2.0% (standard"):
        assert words in plain
    assert "val images are right" not in plain
    show_advice([replace(one, top1=1.0, error=0.0, val_images=4)], console)
    said = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())  # type: ignore[attr-defined]
    assert "All 4 val images are right by the kNN figure, which one of 47% reaches" in " ".join(said.split())


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
    words = ("--recipe", "paper", "--epochs", "3", "--batch-size", "8", "--workers", "0", "--alpha", "white")
    code, output, errors = run("probe", finished, data, *words, "--out", tmp_path / "p")
    assert code == 0, errors
    assert "hardly enough to learn anything" in output
    config = read_config(tmp_path / "p")
    expected = {
        "blocks": "0", "pool": "class", "batch_norm": True, "optimizer": "lars", "epochs": 3.0, "batch_size": 8,
        "blr": 0.1, "weight_decay": 0.0, "mixup": 0.0, "ra_magnitude": 0.0, "alpha": "white",
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert config["warmup_epochs"] < 3
    assert "eval/top1" in read_metrics(tmp_path / "p")[-1]
    plain, bank = ("--workers", "0", "--no-baselines"), tmp_path / "bank"
    for model, more in ((tmp_path / "p", ("--out", bank)), (bank, ())):  # a classifier has features too
        code, output, errors = run("knn", model, data, *plain, *more)
        assert code == 0, errors
        assert "fine-tuned" in output


def test_one_image_tells_nothing(finished: Path, tmp_path: Path, run: Run) -> None:
    rows = []
    for number in range(6):
        picture(number, (16, 16)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{number}.5,{'val' if number == 5 else 'train'}")
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    model = copy(finished, tmp_path / "run")
    code, output, errors = run("probe", model, tmp_path / "table.csv", "--workers", "0", "--no-baselines")
    assert code == 0, errors
    assert "1 image, judged by" in output
    assert "So few cannot tell how good that is" in output


def test_settings_that_do_not_go_together(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    refused(run("probe", finished, data, "--recipe", "paper"), "add --out RUN")
    refused(run("probe", finished, data, "--epochs", "3"), "--epochs is for --recipe paper")
    refused(run("probe", finished, data, "--out", tmp_path / "p", "--layer", "1"), "leave out --layer, or --out")
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
    images(*(f"half/a/{i}.png" for i in range(6)))
    images(*(f"half/b/{i}.png" for i in range(6)), size=(3, 3))
    wanted = f"of the train images of {tmp_path / 'half'} those of one class can be read, 'a'"
    refused(run("knn", finished, tmp_path / "half", "--workers", "0"), wanted)
    images(*(f"some/{c}/{i}.png" for c in "ab" for i in range(6)))
    (tmp_path / "some/a/2.png").write_bytes(b"no image")
    model = copy(finished, tmp_path / "run")
    code, output, errors = run("knn", model, tmp_path / "some", "--workers", "0")
    assert code == 0, errors
    assert f"of {tmp_path / 'some'} cannot be read and are left out (a/2.png): see openmae check" in output
    images(*(f"masks/{kind}/{i}.png" for kind in ("images", "masks") for i in range(6)))
    wanted = f"of the class folders of {tmp_path / 'masks'} (images, masks) masks is called like masks of the images"
    for command, *more in (("knn",), ("finetune", "--out", tmp_path / "out")):
        refused(run(command, finished, tmp_path / "masks", *more), wanted, "openmae segment", "--task classification")
    assert run("knn", model, tmp_path / "masks", "--workers", "0", "--task", "classification")[0] == 0
