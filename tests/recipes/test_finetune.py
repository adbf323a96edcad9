"""`openmae finetune` from the command line: every way to train, what it leaves behind, kills, and what it refuses."""

import json
import os
import re
import shlex
import shutil
import signal
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import openmae
from openmae.cli import main
from openmae.data.tasks import Answers
from openmae.heads import Classifier
from openmae.model import ViT
from openmae.recipes.finetune import frozen, learning
from openmae.recipes.finetune.build import Head, build
from openmae.recipes.finetune.loss import balanced
from openmae.train.checkpoint import newest_checkpoint
from openmae.train.run import read_metrics
from openmae.weights import load_model
from tests.commands import QUICK, Run, finetune, refused
from tests.images import picture, write_colours, write_images
from tests.models import randomize
from tests.processes import run_openmae, started_openmae, steps_saved, wait_for

ONCE = "--evaluations 1 --head-from fresh".split()


@pytest.fixture
def model(finished: Path) -> Path:
    return finished


@pytest.fixture
def data(colours: Path) -> Path:
    return colours


def test_it_learns_and_leaves_a_whole_run(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    plain = "--ra-magnitude 0 --random-erase 0 --mixup 0 --cutmix 0 --drop-path 0 --head-from fresh"
    code, shown, errors = run(*finetune(model, data, out, "--epochs 16 --blr 0.1", plain))
    assert code == 0, errors
    assert "classification: 3 classes; learnt from 24 images, judged by 24 others" in shown
    metrics = read_metrics(out)
    assert metrics[-1]["eval/top1"] > 0.9
    assert metrics[-1]["loss"] < metrics[0]["loss"] / 2
    assert f"top-1 {metrics[-1]['eval/top1']:.2%}" in shown
    assert "top5" not in " ".join(metrics[-1])
    for name in ("config.toml", "environment.json", "report.html", "model.json", "model.safetensors"):
        assert (out / name).stat().st_size > 0
    info = json.loads((out / "model.json").read_text())
    assert info["class_names"] == ["blue", "green", "red"]
    assert (info["kind"], info["task"], info["provenance"]["job"]) == ("classifier", "classification", "finetune")
    assert info["provenance"]["pre-training"]["job"] == "pretrain"
    assert info["statistics"] == load_model(model).info["statistics"]

    classifier = openmae.load(out)
    assert isinstance(classifier, Classifier)
    red = sorted((data / "val/red").iterdir())
    loaded = load_model(out)
    view = torch.stack([torch.from_numpy(np.array(Image.open(path).resize((16, 16)))) for path in red])
    scores = classifier(loaded.statistics.normalize(view.permute(0, 3, 1, 2)))
    assert (scores.argmax(1) == 2).float().mean() > 0.8


def test_it_begins_with_the_pre_trained_weights(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    """At a rate of nothing, the encoder is the pre-trained one, and with --from-scratch another."""
    pretrained = openmae.load(model).encoder.state_dict()
    for more, same in (("", True), ("--from-scratch", False)):
        out = tmp_path / f"run{more}"
        code, _, errors = run(*finetune(model, data, out, "--blr 1e-30 --head-from fresh", more))
        assert code == 0, errors
        encoder = openmae.load(out).encoder.state_dict()
        assert torch.equal(encoder["blocks.0.attn.qkv.weight"], pretrained["blocks.0.attn.qkv.weight"]) == same


def test_it_begins_with_the_probe_of_the_features(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    """The linear probe is scikit-learn's, of what the head reads; at a rate of nothing what comes out is the same but
    for a head that is fitted to views."""
    out = tmp_path / "run"
    code, shown, errors = run(*finetune(model, data, out, "--blr 1e-30 --epochs 1"))
    assert code == 0, errors
    assert "--head-from probe: " in shown
    whole, probe = load_model(out).classifier, load_model(out / "probe").classifier
    for name, value in whole.encoder.state_dict().items():
        torch.testing.assert_close(value, probe.encoder.state_dict()[name], rtol=0, atol=1e-20)
    apart, norm = (whole.head.weight - probe.head.weight).norm(), probe.head.weight.norm()
    assert 0.01 * norm < apart < norm
    info, statistics = json.loads((out / "probe/model.json").read_text()), load_model(out).statistics

    def features(split: str) -> tuple[np.ndarray, list[int]]:
        images, labels = [], []
        for path in sorted((data / split).rglob("*.png")):
            images.append(torch.from_numpy(np.array(Image.open(path).resize((16, 16)))).permute(2, 0, 1))
            labels.append(["blue", "green", "red"].index(path.parent.name))
        with torch.no_grad():
            return probe.features(statistics.normalize(torch.stack(images))).numpy(), labels

    train, right = features("train")
    val, asked = features("val")
    scaler = StandardScaler().fit(train)
    oracle = LogisticRegression(C=info["provenance"]["strength"], max_iter=10_000).fit(scaler.transform(train), right)
    scores = torch.from_numpy(val) @ probe.head.weight.detach().T + probe.head.bias.detach()
    np.testing.assert_allclose(scores.softmax(1), oracle.predict_proba(scaler.transform(val)), atol=2e-3)
    found = json.loads((out / "compared.json").read_text())
    assert [row["name"] for row in found["rows"]] == [
        "linear probe on raw pixels", "linear probe on histograms",
        "kNN on frozen features", "linear probe on frozen features", "fine-tuned",
    ]  # fmt: skip
    assert found["rows"][3]["figure"] == oracle.score(scaler.transform(val), asked)
    code, told, errors = run("probe", out / "probe", data, "--workers", 0)
    assert code == 0, errors
    for row in found["rows"][:2]:  # what `probe` has beside a model
        name = row["name"].removeprefix("linear probe on ")
        line = next(line for line in told.splitlines() if line.startswith(f"│ {name} "))
        assert f"{row['figure']:.1%}" in line
    assert "differ by less than chance does on 24 images" in shown.replace("\n", " ")
    assert "Fine-tuning and what is simpler" in (out / "report.html").read_text()
    refused(run(*finetune(model, data, tmp_path / "x", "--head-from probe --from-scratch")), "leave one of them out")

    # Without any step it is the same, and whole when it is asked for again.
    words = finetune(model, data, tmp_path / "none", "--epochs 0")
    code, shown, errors = run(*words)
    assert code == 0, errors
    assert "(top-1 accuracy on val)" in shown.replace("\n", " ")
    weights = (tmp_path / "none/model.safetensors").read_bytes()
    for again in (words, ["finetune", "--resume", "--out", tmp_path / "none"]):
        code, shown, errors = run(*again)
        assert code == 0, errors
        assert "is complete: 0 of 0 steps are taken" in shown.replace("\n", " ")
        assert (tmp_path / "none/model.safetensors").read_bytes() == weights
    kept = load_model(tmp_path / "none").classifier.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in probe.state_dict().items())
    refused(run(*words, "--epochs", 1), "no steps, which cannot be made longer", "choose another --out")


def test_a_run_shorter_than_an_epoch_begins_with_a_head_that_knows_all_classes(
    model: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "run"
    words = finetune(model, data, out, "--evaluations 1 --blr 1e-30 --head-from probe")
    for name, value in (("--epochs", "0.04"), ("--batch-size", "1")):  # one step of one image
        words[words.index(name) + 1] = value
    code, _, errors = run(*words)
    assert code == 0, errors
    assert read_metrics(out)[-1]["step"] == 1
    rows = {row["name"]: row["figure"] for row in json.loads((out / "compared.json").read_text())["rows"]}
    assert rows["fine-tuned"] == rows[frozen.PROBE] == 1
    # Stopped before its first step it may begin otherwise, and nothing of the other start stays.
    for place in (out / "checkpoints", out / "metrics.jsonl", out / "model.safetensors"):
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    code, _, errors = run(*words, "--head-from", "fresh")
    assert code == 0, errors
    assert [row["name"] for row in json.loads((out / "compared.json").read_text())["rows"]] == ["fine-tuned"]
    assert not (out / "probe").exists()


def test_nearest_neighbours_are_kept_where_they_are_ahead(
    model: Path, data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a probe that knows nothing; evaluate finds of them what the table has."""
    nothing = SimpleNamespace(strength=1e-9, layer=lambda: (torch.zeros(3, 24), torch.tensor([9.0, 0, 0])))
    for name in ("linear_probe", "probe_of_strength"):
        monkeypatch.setattr(frozen, name, lambda *asked: nothing)
    monkeypatch.setattr(learning, "MOST_PLAIN", 0)
    out = tmp_path / "run"
    code, shown, errors = run(*finetune(model, data, out, "--blr 1e-30 --epochs 1"))
    assert code == 0, errors
    assert f"Use {out}/knn: the kNN on frozen features is ahead" in shown.replace("\n", " ")
    row = json.loads((out / "compared.json").read_text())["rows"][0]
    assert (row["weights"], load_model(out / "knn").info["kind"]) == ("knn", "neighbours")
    code, shown, errors = run("evaluate", out / "knn", data, "--workers", "0")
    assert code == 0, errors
    assert f"{row['figure']:.2%}" in shown


@pytest.mark.parametrize(
    "flags",
    [
        "--blocks 0",
        "--blocks 0.5",
        "--blocks 1 --pool class",
        "--from-scratch --ema-decay 0.9",
        "--img-size 24",
        "--img-size 24x32 --pool class",
        "--batch-norm --optimizer lars --blocks 0 --pool class --weight-decay 0",
        "--balance weights",
        "--balance sampling",
        "--labels 50% --head-from fresh",
        "--labels 3-per-class --no-hflip --vflip on --rotate90 on",
        "--recipe paper --batch-size 8",
        "--task multi-label",
        "--layer-decay 1 --clip-grad 0.1 --crop-scale 1 1 --evaluations 0",
        "--batch-size 64 --micro-batch 32",
    ],
)
def test_every_option_trains_and_loads(model: Path, data: Path, tmp_path: Path, run: Run, flags: str) -> None:
    code, _, errors = run(*finetune(model, data, tmp_path / "run", flags))
    assert code == 0, errors
    assert isinstance(openmae.load(tmp_path / "run"), Classifier)
    assert "eval/top1" in read_metrics(tmp_path / "run")[-1] or "multi-label" in flags


def test_only_the_last_blocks_change(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    assert run(*finetune(model, data, tmp_path / "run", "--blocks 1 --blr 1 --head-from fresh"))[0] == 0
    before, after = (openmae.load(path).encoder.state_dict() for path in (model, tmp_path / "run"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("blocks.1.")}


def test_a_new_vit_takes_its_size_from_the_images(data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    words = "--from-scratch --labels 4-per-class --epochs 1"
    code, shown, errors = run(*finetune("vit_tiny", data, out, words))
    assert code == 0, errors
    assert "Table 11" in shown
    assert openmae.load(out).encoder.img_size == (20, 20)
    refused(run("finetune", "vit_tiny", data, "--out", tmp_path / "other"), "fresh weights: add --from-scratch")


def test_another_resolution_keeps_the_weights(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    assert run(*finetune(model, data, out, "--img-size 32 --blr 1e-30 --head-from fresh"))[0] == 0
    encoder = openmae.load(out).encoder
    assert (encoder.img_size, encoder.grid, encoder.position_grid) == ((32, 32), (8, 8), (4, 4))
    expected = openmae.load(model).encoder.resized((32, 32))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(images), expected(images))


# ---------------------------------------------------------------- several labels, numbers


def table(folder: Path, labels: dict[str, str]) -> Path:
    for number, name in enumerate(labels):
        picture(number).save(folder / name)
    file = folder / "labels.csv"
    file.write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in labels.items()))
    return file


def test_several_labels_at_once(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    marks = ("big", "loud", "wet")
    labels = {f"{n:02d}.png": ";".join(m for b, m in enumerate(marks) if n >> b & 1) or "wet" for n in range(30)}
    out = tmp_path / "run"
    code, shown, errors = run(*finetune(model, table(tmp_path, labels), out))
    assert code == 0, errors
    assert "multi-label: 3 labels" in shown
    assert "mean average precision" in shown
    assert load_model(out).info["class_names"] == ["big", "loud", "wet"]


def test_a_number_is_predicted_in_its_own_unit(model: Path, tmp_path: Path, run: Run) -> None:
    """Brightness, as a thousand and a part: the head learns it standardised and is saved for the label's unit."""
    labels = {}
    for n in range(40):
        level = 5 * n + 20
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(tmp_path / f"{n:02d}.png")
        labels[f"{n:02d}.png"] = f"{1000 + level / 10 + 0.05:.2f}"
    file = tmp_path / "labels.csv"
    file.write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in labels.items()))
    out = tmp_path / "run"
    words = "--epochs 40 --blr 0.3 --ra-magnitude 0 --random-erase 0 --drop-path 0"
    code, shown, errors = run(*finetune(model, file, out, words))
    assert code == 0, errors
    assert "regression: a number" in shown
    last = read_metrics(out)[-1]
    assert last["val_r2"] > 0.9
    assert last["val_mae"] < 3
    loaded = load_model(out)
    bright = torch.full((1, 3, 16, 16), 120, dtype=torch.uint8)
    assert loaded.classifier(loaded.statistics.normalize(bright)).item() == pytest.approx(1012, abs=4)


# ---------------------------------------------------------------- classes of unequal size


def unequal(folder: Path) -> Path:
    """24 red, 8 green and 2 blue images to learn from."""
    data = write_colours(folder, 72, ("train",))
    for name, count in (("green", 8), ("blue", 2)):
        for path in sorted((data / "train" / name).iterdir())[count:]:
            path.unlink()
    return write_colours(data, 9, ("val",))


def test_sampling_shows_each_class_as_often(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And every image of the largest class once, each of a smaller one as often as the others, or once more."""
    labels: list[int] = []
    cross_entropy = torch.nn.functional.cross_entropy

    def hear(scores: torch.Tensor, wanted: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        if wanted.ndim == 2:  # a training step, not the judging of val
            labels.extend(wanted.argmax(1).tolist())
        return cross_entropy(scores, wanted, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", hear)
    words = "--balance sampling --mixup 0 --cutmix 0 --head-from fresh --batch-size 12 --micro-batch 12"
    out = tmp_path / "run"
    assert main(finetune(model, unequal(tmp_path / "data"), out, words)) == 0
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["steps"] == round(2 * 34 / 12) == len(labels) // 12  # as many as without
    assert len(labels) == 72
    assert np.bincount(labels).tolist() == [24, 24, 24]
    order = balanced(Answers("classification", ("a", "b", "c"), np.repeat([0, 1, 2], [2, 8, 24])), 0)
    seen = np.bincount(order, minlength=34).tolist()
    assert seen == [12] * 2 + [3] * 8 + [1] * 24


def test_sampling_names_the_broken_file(model: Path, tmp_path: Path, run: Run) -> None:
    data = unequal(tmp_path / "data")
    broken = sorted((data / "train/blue").iterdir())[0]
    broken.write_bytes(b"nothing")
    words = "--balance sampling --max-broken 0.5 --epochs 4 --head-from fresh"
    code, _, errors = run(*finetune(model, data, tmp_path / "run", words))
    assert code == 0, errors
    (line,) = (tmp_path / "run/broken.txt").read_text().splitlines()
    assert line.split("\t")[0].endswith(f"blue/{broken.name}")


def test_labels_that_cannot_be_balanced_so(model: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    (tmp_path / "numbers").mkdir()
    (tmp_path / "labels").mkdir()
    numbers = table(tmp_path / "numbers", {f"{n}.png": f"{n}.5" for n in range(10)})
    labels = table(tmp_path / "labels", {f"{n}.png": "a;b" if n % 2 else "b" for n in range(10)})
    for balance in ("weights", "sampling"):
        refused(run(*finetune(model, numbers, out, "--balance", balance)), "these labels are numbers: leave it out")
    refused(run(*finetune(model, labels, out, "--balance sampling")), "give --balance weights")
    assert run(*finetune(model, labels, out, "--balance weights --head-from fresh"))[0] == 0


# ---------------------------------------------------------------- what does not go together


def test_batches_that_cannot_be_divided_so(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    """Also where a run goes on with another micro-batch."""
    out = ["--out", tmp_path / "run", "--epochs", 20, "--batch-size", 64, "--workers", 0, "--mixup", 0.8, *ONCE]
    assert run("finetune", model, data, *out, "--micro-batch", 32)[0] == 0
    refused(run("finetune", model, data, *out, "--micro-batch", 20), "mixup or cutmix: give a multiple of 32")
    alone = ["--out", tmp_path / "other", "--batch-norm", "--batch-size", 9, "--micro-batch", 8]
    refused(run("finetune", model, data, *alone), "leaves one image alone", "another --micro-batch")


def test_steps_that_are_too_few(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    words = ["finetune", model, data, "--out", tmp_path / "run", "--workers", 0, *ONCE, "--epochs", 2]
    refused(run(*words, "--batch-size", 1000), "24 images seen 2 times are 48 views", "lower it, or raise --epochs")
    code, shown, errors = run(*words, "--batch-size", 32)
    assert code == 0, errors
    assert "2 steps in batches of 32, which is hardly enough to learn anything" in shown


def test_a_run_goes_on_with_the_labels_it_began_with(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    words = finetune(model, data, tmp_path / "run")
    assert run(*words, "--labels", "50%")[0] == 0
    code, shown, errors = run(*words)
    assert code == 0, errors
    assert "learnt from 12 images" in shown
    assert "is complete: 3 of 3 steps are taken" in shown
    code, shown, errors = run(*finetune(tmp_path / "run", data, tmp_path / "again"))
    assert "was fine-tuned before: its encoder is kept, and its head made anew" in shown
    refused(run("finetune", "vit_b", data, "--out", tmp_path / "x"), "vit_b is no size", "vit_tiny, vit_small")


# ---------------------------------------------------------------- kills


def test_a_killed_run_resumes_to_the_same_bits(model: Path, data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = "--epochs 8 --ema-decay 0.9 --checkpoint-minutes 0 --evaluations 4"
    assert main(finetune(model, data, whole, flags)) == 0
    with started_openmae(
        finetune(model, data, killed, flags, "--workers 2"), tmp_path / "log", session=True
    ) as process:
        wait_for(lambda: steps_saved(killed) >= 8, process)
        os.killpg(process.pid, signal.SIGKILL)
    done = run_openmae(finetune(model, data, killed, flags, "--workers 1"))
    assert done.returncode == 0, done.stderr
    assert len(json.loads((killed / "environment.json").read_text())["starts"]) == 2
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    keys = ("step", "loss", "lr", "grad_norm", "eval/top1", "val_loss")
    lines = [[[line.get(key) for key in keys] for line in read_metrics(path)] for path in (whole, killed)]
    assert lines[0] == lines[1]
    one, other = (newest_checkpoint(path / "checkpoints")[0] for path in (whole, killed))
    assert one is not None
    assert other is not None
    assert all(torch.equal(one.optimizer[key], other.optimizer[key]) for key in one.optimizer)
    assert any(key.endswith(":average") for key in one.optimizer)


def test_the_micro_batch_changes_nothing_but_rounding(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    """With mixing, drop path and all: what is mixed with what does not follow the micro-batch."""
    losses = []
    for micro in (64, 32):
        out = tmp_path / str(micro)
        words = f"--batch-size 64 --micro-batch {micro} --epochs 8 --head-from fresh"
        assert run(*finetune(model, data, out, words))[0] == 0
        losses.append([line["loss"] for line in read_metrics(out)])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_resume_takes_everything_from_the_run(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    assert run(*finetune(model, data, out, "--label-smoothing 0.2 --head-from fresh"))[0] == 0
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["label_smoothing"] == 0.2
    code, shown, errors = run("finetune", "--resume", "--out", out)
    assert code == 0, errors
    assert "is complete: " in shown
    refused(run(*finetune(model, data, out, "--label-smoothing 0.3")), "holds a run with label_")


def test_the_weights_kept_are_the_average(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    assert run(*finetune(model, data, out, "--ema-decay 0.5 --blr 1 --head-from fresh"))[0] == 0
    newest = newest_checkpoint(out / "checkpoints")[0]
    assert newest is not None
    kept = openmae.load(out).state_dict()
    assert torch.equal(kept["head.weight"], newest.optimizer["head.weight:average"])
    assert not torch.equal(kept["head.weight"], newest.weights["head.weight"])


def test_the_pages_commands_run(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/first").symlink_to(model)
    (tmp_path / "labelled").symlink_to(data)
    page = (Path(__file__).parents[2] / "docs/finetune.md").read_text()
    commands = re.findall(r"^openmae .*$", page, re.MULTILINE)
    assert len(commands) == 8
    for command in commands:
        small = ["--evaluations", "1", *([] if "10%" in command else ["--epochs", "1"])]
        small += ["--labels", "2-per-class"] if "vit_tiny" in command else []
        assert main([*shlex.split(command)[1:], *QUICK, "--workers", "0", *small]) == 0
    capsys.readouterr()
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(snippet, "docs/finetune.md", "exec"), {})
    assert re.fullmatch(r"\[('(red|green|blue)'(, )?){4}\]\n", capsys.readouterr().out)


# ---------------------------------------------------------------- sweeps


def test_a_sweep_over_the_blocks(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "sweep"
    code, shown, errors = run(*finetune(model, data, out, "--blocks all,1,0.5,0 --head-from fresh"))
    assert code == 0, errors
    kept = json.loads((out / "sweep.json").read_text())
    assert "sweep" in shown
    assert (out / "blocks-0.5/model.safetensors").exists()
    for part in ("all", "1", "0.5", "0"):
        last = read_metrics(out / f"blocks-{part}")[-1]["eval/top1"]
        assert str(part) in shown
        assert json.dumps(kept).count(part) >= 1
        assert f"{last:.2%}" in shown


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--blocks 3", ("blocks is 3", "up to this encoder's 2")),
        ("--blocks half", ("--blocks is half", "give all, a whole number, or 0.5")),
        ("--labels 100-per-class", ("class 'blue' has 8 images in train", "8-per-class or less")),
        ("--labels 5%%", ("--labels is '5%%'", "10%")),
        ("--img-size 30", ("whole patches",)),
        ("--patch-size 8", ("--patch-size is for fresh weights",)),
        ("--drop-path 1", ("--drop-path is 1", "below 1")),
        ("--mixup -1", ("--mixup is -1", "0 or more")),
        ("--layer-decay 1.5", ("--layer-decay is 1.5", "up to 1")),
        ("--ra-magnitude 12", ("--ra-magnitude is 12", "0 to 10")),
        ("--epochs -1", ("--epochs is -1", "0 or more")),
        ("--epochs 0 --head-from fresh", ("--epochs 0 learns nothing",)),
        ("--warmup-epochs 9 --epochs 3", ("not below --epochs 3",)),
        ("--batch-size 64 --micro-batch 20 --mixup 0.8", ("--micro-batch 20 with mixup", "multiple of 32")),
        ("--optimizer lars --weight-decay 0.1", ("lars takes neither",)),
        ("--task regression", ("the label 'blue'", "no number to predict")),
        ("--seed -1", ("--seed is -1",)),
    ],
)
def test_values_out_of_range(
    model: Path, data: Path, tmp_path: Path, run: Run, flags: str, words: tuple[str, ...]
) -> None:
    refused(run("finetune", model, data, "--out", tmp_path / "run", *flags.split()), *words)
    assert not (tmp_path / "run/config.toml").exists()


def test_labels_that_do_not_do(model: Path, tmp_path: Path, run: Run) -> None:
    out = ["--out", tmp_path / "run"]
    one = write_images(tmp_path / "one", 4, classes=1)
    refused(run("finetune", model, one, *out), "are of one class, its folder class0", "two classes or more")
    flat = tmp_path / "flat"
    flat.mkdir()
    picture(0).save(flat / "a.png")
    refused(run("finetune", model, flat, *out), "has no labels", "CLASS")
    extra = write_colours(tmp_path / "extra")
    (extra / "val/pink").mkdir()
    picture(9).save(extra / "val/pink/a.png")
    refused(run("finetune", model, extra, *out), "has classes that", "lacks (pink)")
    refused(run("finetune", model, *out), "DATA")
    refused(run("finetune", tmp_path / "nothing", extra, *out), "does not exist")


def test_a_decoder_that_is_gone(model: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    assert run(*finetune(model, data, out, "--head-from fresh"))[0] == 0
    image = next((data / "val/red").iterdir())
    refused(
        run("reconstruct", out, image, "--out", tmp_path / "p.png"), "was fine-tuned and has no decoder", str(model)
    )


def test_too_many_broken_files(model: Path, tmp_path: Path, run: Run) -> None:
    data = write_colours(tmp_path / "data")
    for path in sorted((data / "train/red").iterdir())[:4]:
        path.write_bytes(b"nothing")
    refused(run(*finetune(model, data, tmp_path / "run")), "cannot be used", "--max-broken")


# ---------------------------------------------------------------- the order of classes


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images in each of the folders 0 to 11."""
    root = tmp_path_factory.mktemp("dozen")
    for number in range(24):
        (root / str(number % 12)).mkdir(exist_ok=True)
        picture(number).save(root / f"{number % 12}/{number}.png")
    return root


def names_in(run_folder: Path) -> list[str]:
    return list(json.loads((run_folder / "model.json").read_bytes())["class_names"])


def test_classes_are_in_the_order_that_people_count_and_a_run_of_before_keeps_its_own(
    model: Path, dozen: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "run"
    assert run(*finetune(model, dozen, out, "--epochs 1 --head-from fresh"))[0] == 0
    assert names_in(out) == [str(number) for number in range(12)]
    assert run("finetune", "--resume", "--out", out)[0] == 0
    assert names_in(out) == [str(number) for number in range(12)]
    environment = out / "environment.json"
    environment.write_text(re.sub(r" labels:\w+", "", environment.read_text()))
    for file in out.glob("checkpoints/*/checksums.json"):  # as version 0.1 leaves them
        checksums = json.loads(file.read_bytes())
        checksums.pop("run.json")
        file.write_text(json.dumps(checksums))
    code, _, errors = run("finetune", "--resume", "--out", out)
    assert code == 0, errors
    assert names_in(out) == sorted(str(number) for number in range(12))


def test_labels_that_changed_are_noticed_where_a_run_goes_on(model: Path, tmp_path: Path, run: Run) -> None:
    lines = []
    for number in range(20):
        picture(number).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]}")
    table, out = tmp_path / "t.csv", tmp_path / "run"
    table.write_text("\n".join(["path,label", *lines]))
    assert run(*finetune(model, table, out, "--epochs 1 --head-from fresh"))[0] == 0
    table.write_text("\n".join(["path,label", *lines[:-1], "19.png,a"]))
    refused(run("finetune", "--resume", "--out", out), "the images have changed", "or other labels")


def test_from_scratch_nothing_that_was_trained_stays() -> None:
    """Norms, scales, tokens and positions of the weights whose shape is taken."""
    shape = {"registers": 1, "layer_scale": True, "learned_positions": True, "class_tokens": 2}
    trained = ViT((32, 32), (8, 8), 3, 24, 2, 2, **shape)  # type: ignore[arg-type]
    randomize(trained)
    head = Head((32, 32), "mean", False, 0.0, "all", True, False, False, False)
    fresh = build(head, trained, 2, seed=0).encoder
    assert fresh.arguments() == trained.arguments()
    for name, weights in fresh.state_dict().items():
        assert not torch.equal(weights, trained.state_dict()[name])
    assert torch.equal(fresh.blocks[0].norm1.weight, torch.ones(24))
    assert torch.equal(fresh.positions, ViT((32, 32), (8, 8), 3, 24, 2, 2).positions)
