"""The commands as a user types them: the main job from end to end, and every kind of bad input."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import openmae
from openmae.cli import COMMANDS, main
from openmae.commandline.help import field_texts
from openmae.data.opening import open_data
from openmae.data.tasks import answers, split_for
from openmae.errors import UserError
from openmae.evaluate.evaluation import How, evaluate, untrained_twin
from openmae.evaluate.features import centred_images, pooled, readouts
from openmae.randomness import generator
from openmae.recipes import quickstart
from openmae.train.run import RunFolder, read_metrics
from openmae.weights import load_model
from tests.commands import Run, refused
from tests.images import TINY, picture, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), 40)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests only read it."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert main(["pretrain", str(data), "--out", str(out), *TINY, "--epochs", "3", "--workers", "0"]) == 0
    return out


# ---------------------------------------------------------------- the main job


def test_help_comes_without_torch() -> None:
    check = (
        "import sys; from openmae.cli import main; main(['--help']); "
        "heavy = {'torch', 'numpy', 'PIL', 'matplotlib', 'tyro'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_setting_whole(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words run on where a line of the source ends, and what is left open has no 'None' to give."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([command, "DATA", "--help"])
    said = capsys.readouterr().out
    shown = "".join(said.replace("│", " ").split())  # lines are broken at some commas too
    module, name, _ = COMMANDS[command]
    settings = getattr(importlib.import_module(f"openmae.recipes.{module}"), name)
    for field, text in field_texts(settings).items():
        assert "".join(text.split()) in shown, field
    assert not re.search(r"\{None|default:(None|\))", shown)
    assert [line for line in said.splitlines() if line.startswith("│") and len(line) > 100] == []


def test_run_folder_holds_what_is_promised(finished: Path, data: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
        "model.json",
        "pictures",
        "report.html",
    }
    config = tomllib.loads((finished / "config.toml").read_text())
    assert (config["model"], config["mask_ratio"], config["batch_size"], config["blr"]) == (
        "vit_tiny",
        0.75,
        8,
        1.5e-4 * 512**0.5,
    )
    metrics = read_metrics(finished)
    assert [line["step"] for line in metrics] == list(range(1, config["steps"] + 1))
    start = json.loads((finished / "environment.json").read_text())["starts"][0]
    assert (
        start["versions"]["torch"] == torch.__version__.split("+")[0] or start["versions"]["torch"] == torch.__version__
    )
    info = json.loads((finished / "model.json").read_text())
    assert info["statistics"]["mean"] == config["mean"]
    assert len(list((finished / "pictures").glob("*.png"))) >= 2
    assert "data:image/png" in (finished / "report.html").read_text()


def test_load_gives_the_trained_model(finished: Path) -> None:
    model = openmae.load(finished)
    again = openmae.load(finished / "model.safetensors")
    images = torch.randn(2, 3, 16, 16)
    features = model.encode(images)
    assert features.shape == (2, 17, 24)
    assert torch.equal(features, again.encode(images))
    assert not torch.equal(features, untrained_twin(model.encoder)(images))
    assert not model.training


def test_a_finished_run_without_its_checkpoints_does_not_begin_anew(
    finished: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "checkpoints")
    before = (copy / "model.safetensors").read_bytes()
    words = ("pretrain", data, "--out", copy, *TINY)
    refused(run(*words), "a finished run whose checkpoints are gone")
    assert (copy / "model.safetensors").read_bytes() == before
    (copy / "model.safetensors").unlink()
    assert run(*words, "--epochs", 1)[0] == 0


def test_the_same_command_again_finds_the_run_complete(finished: Path, data: Path, run: Run) -> None:
    before = (finished / "model.safetensors").read_bytes()
    code, _, errors = run("pretrain", data, "--out", finished, *TINY, "--epochs", "3", "--workers", "0")
    assert code == 0, errors
    assert (finished / "model.safetensors").read_bytes() == before


def test_resume_takes_data_and_settings_from_the_run(finished: Path, tmp_path: Path, run: Run) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    (copy / "model.safetensors").unlink()
    newest = max((copy / "checkpoints").iterdir())
    shutil.rmtree(newest)
    code, _, errors = run("pretrain", "--resume", "--out", copy)
    assert code == 0, errors
    assert (copy / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    refused(run("pretrain", "--resume", "--out", copy, "--mask-ratio", "0.5"), "mask_ratio = 0.75, not 0.5")


def test_config_file_gives_settings_and_the_command_line_wins(data: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        f'data = "{data}"\nmask-ratio = 0.5\nimg_size = [16, 24]\npatch-size = 8\nhflip = false\nseed = 3\n'
    )
    out = tmp_path / "run"
    words = TINY[TINY.index("--embed-dim") :]  # without img_size and patch_size, which the file gives
    code, _, errors = run("pretrain", "--config", file, "--out", out, *words, "--seed", "4", "--epochs", "0.5")
    assert code == 0, errors
    config = tomllib.loads((out / "config.toml").read_text())
    expected = {"mask_ratio": 0.5, "img_size": [16, 24], "patch_size": 8, "hflip": False, "seed": 4}
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    "flags",
    [
        "--decoder cross --decoder_layers 2 --predict-fraction 0.5",
        "--mask block --mask-unit 2 --class-tokens 3 --in-chans 1",
        "--mask-schedule cosine --mask-ratio-end 0.5 --encoder-mask-token",
        "--target pca --mask uniform --clip-grad 1",
        "--target hog --mask grid --precision bf16 --crop-scale 1 1 --no-hflip",
        "--no-norm-pix-loss --mask crop --workers 1",
    ],
)
def test_every_option_trains_and_loads(data: Path, tmp_path: Path, run: Run, flags: str) -> None:
    out = tmp_path / "run"
    code, _, errors = run("pretrain", data, "--out", out, *TINY, "--epochs", "0.6", "--workers", "0", *flags.split())
    assert code == 0, errors
    assert all(line["loss"] > 0 for line in read_metrics(out))
    openmae.load(out)


def test_learning_lowers_the_loss(data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    assert run("pretrain", data, "--out", out, *TINY, "--epochs", "40", "--blr", "0.1", "--workers", "0")[0] == 0
    losses = [line["loss"] for line in read_metrics(out)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


# ---------------------------------------------------------------- seeing that it worked


def test_reconstruct(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    for stats in ("true", "visible"):
        code, output, errors = run(
            "reconstruct", finished, data, "--out", tmp_path / f"{stats}.png", "--patch-stats", stats
        )
        assert code == 0, errors
        assert str(tmp_path / f"{stats}.png") in output
        Image.open(tmp_path / f"{stats}.png").verify()
    assert (tmp_path / "true.png").read_bytes() != (tmp_path / "visible.png").read_bytes()
    one = data / "class0/000.jpg"
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    code, output, _ = run("reconstruct", finished, one, bad, "--out", tmp_path / "one.png", "--mask-ratio", "0.5")
    assert code == 0
    assert "left out" in output


def test_knn_and_probe_print_a_table_and_keep_it(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    for command in ("knn", "probe", "knn"):
        code, output, errors = run(command, copy, data, "--workers", "0")
        assert code == 0, errors
        assert all(name in output for name in ("raw pixels", "untrained", "pre-trained"))
    kept = json.loads((copy / "evaluations.json").read_text())
    assert [(e["kind"], e["features"]) for e in kept] == [
        (kind, features) for kind in ("linear", "knn") for features in ("raw pixels", "untrained", "pre-trained")
    ]
    assert all(e["val_images"] == 8 for e in kept)
    assert "pre-trained" in (copy / "report.html").read_text()
    code, output, _ = run("knn", copy / "model.safetensors", data, "--no-baselines", "--pool", "class", "--layer", "1")
    assert code == 0
    assert "untrained" not in output


def test_evaluation_reads_its_labels_by_name(finished: Path, tmp_path: Path) -> None:
    """A val set that lacks the first class must not shift the others' numbers (pain 18)."""
    for split, classes in (("train", "abc"), ("val", "bc")):
        for number, name in enumerate("abc"):
            if name in classes:
                place = tmp_path / split / name
                place.mkdir(parents=True)
                for copy in range(3):
                    Image.new("RGB", (16, 16), [(250, 0, 0), (0, 250, 0), (0, 0, 250)][number]).save(
                        place / f"{copy}.png"
                    )
    _, train, val = split_for(open_data(str(tmp_path)), "classification", 0)
    right = answers(train, "classification")
    asked = answers(val, "classification", right.names)
    loaded = load_model(finished)
    how = How(["knn", "linear"], readouts(loaded.encoder, None, ["mean"]), k=3)
    found = [e for e in evaluate(loaded, (train, val), (right, asked), "colours", how) if e.features == "raw pixels"]
    assert [e.top1 for e in found] == [1.0, 1.0]


def test_features_are_the_pooled_tokens(finished: Path, data: Path) -> None:
    loaded = load_model(finished)
    images = centred_images(loaded.encoder, loaded.statistics, split_for(open_data(str(data)), "classification", 0)[2])
    batch, _ = next(images.batches(4, 0))
    tokens = loaded.encoder(loaded.statistics.normalize(batch))
    torch.testing.assert_close(pooled(loaded.encoder, loaded.statistics, "mean")(batch), tokens[:, 1:].mean(1))
    torch.testing.assert_close(pooled(loaded.encoder, loaded.statistics, "class")(batch), tokens[:, 0])


# ---------------------------------------------------------------- bad input


def test_unknown_words_get_a_suggestion(data: Path, tmp_path: Path, run: Run) -> None:
    refused(run("pretrian", data), "did you mean pretrain?")
    refused(
        run("pretrain", data, "--out", tmp_path / "r", "--mask-ratoi", "0.5"),
        "--mask-ratoi",
        "did you mean --mask-ratio?",
    )
    file = tmp_path / "c.toml"
    file.write_text("mask_ratoi = 0.5\n")
    refused(
        run("pretrain", data, "--out", tmp_path / "r", "--config", file), "'mask_ratoi'", "did you mean mask_ratio?"
    )
    file.write_text("mask_ratio = \n")
    refused(run("pretrain", data, "--out", tmp_path / "r", "--config", file), "is not TOML")
    refused(run("pretrain", data, "--config", tmp_path / "none.toml"), "cannot be read")
    assert run("pretrain", data, "--out", tmp_path / "r", "--mask-ratio", "many")[0] == 2
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("check", "DATA is missing: openmae check DATA (see"),
        ("knn", "MODEL and DATA are missing: openmae knn MODEL DATA (see"),
        ("reconstruct m a.png", "--out PNG is missing: openmae reconstruct MODEL IMAGE --out PNG (see"),
        ("pretrain a b --out r", "'b' is one word too many"),
        ("pretrain a --out r -q", "there is no flag -q"),
        ("pretrain a --img-size abc", "--img-size is abc: give a number of pixels, such as 224, or height x width"),
        ("pretrain a --img-size 0", "--img-size is 0: give a number of pixels"),
        ("pretrain a --patch-size 4x4x4", "--patch-size is 4x4x4: give a number of pixels"),
        ("pretrain a --model vit_hugo", "--model is vit_hugo: give one of vit_tiny, vit_small, vit_base"),
        ("pretrain a --epochs", "--epochs is without a value: give a number"),
        ("pretrain a --epochs many", "--epochs is many: give a number"),
        ("pretrain a --crop_scale 1", "--crop-scale is 1: give 2 numbers"),
        ("bench --precision fp16", "--precision is fp16: give one of bf16, fp32, several with spaces between them"),
        ("pretrain --bands 1 2 a", "--bands is 1 2 a: give numbers with spaces between them, and DATA before the flag"),
        ("stats a --workers=1.5", "--workers is 1.5: give a whole number"),
    ],
)
def test_words_that_make_no_settings(run: Run, command: str, sentence: str) -> None:
    refused(run(*command.split()), sentence)


def test_data_that_is_none(tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    refused(run("pretrain", tmp_path / "empty", "--out", tmp_path / "r"), "holds no images")
    refused(run("pretrain", tmp_path / "nowhere", "--out", tmp_path / "r"), "does not exist")
    refused(run("pretrain"), "openmae pretrain DATA --out RUN")
    refused(run("pretrain", "--resume", "--out", tmp_path / "none"), "is not a run folder")


def test_folder_of_broken_files(tmp_path: Path, run: Run) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8\xffnot a photograph")
    refused(run("pretrain", tmp_path, "--out", tmp_path / "r", *TINY), "none of 5 images", "check the files")


def test_more_broken_files_than_allowed_are_listed(data: Path, tmp_path: Path, run: Run) -> None:
    mixed = Path(shutil.copytree(data, tmp_path / "mixed"))
    (mixed / "class0/cut.jpg").write_bytes((data / "class0/000.jpg").read_bytes()[:200])
    (mixed / "class1/empty.png").write_bytes(b"")
    words = ("pretrain", mixed, "--out", tmp_path / "r", *TINY, "--epochs", "1", "--workers", "0")
    refused(run(*words), "2 of 38 files", "--max-broken", "broken.txt")
    listed = (tmp_path / "r/broken.txt").read_text()
    assert "class0/cut.jpg" in listed
    assert "class1/empty.png\tthe file is empty" in listed
    code, _, errors = run(*words, "--max-broken", "0.1")
    assert code == 0, errors
    assert (tmp_path / "r/broken.txt").read_text().count("\n") == 2


def test_images_smaller_than_a_patch(tmp_path: Path, run: Run) -> None:
    for number in range(12):
        picture(number, (6, 30)).save(tmp_path / f"{number}.png")
    refused(
        run("pretrain", tmp_path, "--out", tmp_path / "r", "--img-size", "32", "--patch-size", "8"),
        "less than one patch of 8 x 8",
        "smaller patch_size",
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--img-size 30", ("30", "whole patches", "multiple")),
        ("--bands 2 1 0", ("numbered from 1", "GDAL")),
        ("--bands 1 1", ("names channel 1 more than once",)),
        ("--bands 1 2 --mean 1 2 3", ("--bands 2, --mean 3", "openmae stats DATA --bands 1 2", "leave --bands out")),
        ("--mean 0.5", ("--mean 1, --std 3, --in-chans 3", "for each channel")),
        ("--mask-ratio 0", ("mask_ratio is 0", "above 0 and below 1")),
        ("--mask-ratio 1", ("mask_ratio is 1",)),
        ("--mask-ratio 0.99", ("leaves 0 visible",)),
        ("--mask-schedule linear", ("mask_ratio_end",)),
        ("--mask-unit 3", ("mask_unit",)),
        ("--embed-dim 25", ("embed_dim 25",)),
        ("--crop-scale 0 1", ("crop_scale",)),
        ("--batch-size 0", ("--batch-size is 0",)),
        ("--epochs -1", ("--epochs",)),
        ("--epochs nan", ("--epochs is nan", "finite")),
        ("--seed 9223372036854775808", ("--seed", "2**63")),
        ("--decoder-depth 0", ("decoder_depth is 0",)),
        ("--warmup-epochs 9", ("--warmup-epochs is 9", "below --epochs")),
        ("--max-broken 2", ("--max-broken",)),
        ("--workers -1", ("--workers is -1",)),
        ("--device cuda", ("no cuda device",)),
        ("--decoder cross --encoder-mask-token", ("encoder_mask_token",)),
    ],
)
def test_values_out_of_range(data: Path, tmp_path: Path, run: Run, flags: str, words: tuple[str, ...]) -> None:
    if "cuda" in flags and torch.cuda.is_available():
        flags, words = "--device mps", ("no mps device",)
    refused(run("pretrain", data, "--out", tmp_path / "r", *TINY, "--epochs", "2", *flags.split()), *words)


@pytest.mark.parametrize(
    "flags", ["--img-size 33 --patch-size 8", "--mean 0.5 --std 1 1", "--bands 1 1", "--mask-ratio 1", "--in-chans 0"]
)
def test_settings_are_refused_before_images_are_looked_for(tmp_path: Path, run: Run, flags: str) -> None:
    _, _, errors = run("pretrain", tmp_path / "nowhere", "--out", tmp_path / "r", *flags.split())
    assert "does not exist" not in errors
    assert errors.startswith("openmae pretrain: ")
    assert not (tmp_path / "r").exists()


def test_damaged_checkpoints_do_not_begin_the_run_anew(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    for weights in copy.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"damaged")
    before = (copy / "metrics.jsonl").read_bytes()
    for _ in range(2):
        refused(run("pretrain", "--resume", "--out", copy), "every checkpoint", "is damaged", "another --out")
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_a_start_that_learnt_nothing_does_not_bind_its_folder(data: Path, tmp_path: Path, run: Run) -> None:
    mixed = Path(shutil.copytree(data, tmp_path / "mixed"))
    (mixed / "class0/bad.png").write_bytes(b"")
    words = ("pretrain", mixed, "--out", tmp_path / "r", *TINY, "--epochs", "1", "--workers", "0")
    refused(run(*words, "--max-broken", "0"), "cannot be used")
    (mixed / "class0/bad.png").unlink()
    code, _, errors = run(*words, "--mask-ratio", "0.5")
    assert code == 0, errors
    assert not (tmp_path / "r/broken.txt").exists()


def test_a_run_inside_its_data_does_not_learn_its_own_pictures(data: Path, tmp_path: Path, run: Run) -> None:
    own = Path(shutil.copytree(data, tmp_path / "own"))
    words = ("pretrain", own, "--out", own / "run", *TINY, "--epochs", "1", "--workers", "0")
    for _ in range(2):
        code, output, errors = run(*words)
        assert code == 0, errors
        assert "36 images" in output


def test_a_runs_own_config_gives_its_settings_again(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "again"
    code, _, errors = run("pretrain", "--config", finished / "config.toml", "--out", out, "--workers", "0")
    assert code == 0, errors
    assert (out / "model.safetensors").read_bytes() != b""
    one, other = (tomllib.loads((path / "config.toml").read_text()) for path in (finished, out))
    assert one == other


def test_flags_may_come_before_the_images(data: Path, tmp_path: Path, run: Run) -> None:
    words = [*TINY, "--epochs", "0.3", "--workers", "0", "--img-size", "16x24", data, "--out", tmp_path / "r"]
    code, _, errors = run("pretrain", *words)
    assert code == 0, errors
    assert tomllib.loads((tmp_path / "r/config.toml").read_text())["img_size"] == [16, 24]


def test_splits_by_another_name_are_not_classes(finished: Path, tmp_path: Path, run: Run) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "test", 4)
    refused(run("knn", finished, tmp_path), "test and train, which are no classes")
    words = ("--out", tmp_path / "r", *TINY, "--epochs", "0.1", "--workers", "0")
    assert "folders called test and train are no splits" in run("pretrain", tmp_path, *words)[1]


def test_pictures_are_of_val_and_complaints_name_no_flag_of_training(finished: Path, tmp_path: Path, run: Run) -> None:
    write_images(tmp_path / "data/train", 2)
    write_images(tmp_path / "data/val", 2)
    for broken in (tmp_path / "data/train").rglob("*.*"):
        broken.write_bytes(b"no image")
    out = tmp_path / "made/picture.png"
    code, said, errors = run("reconstruct", finished, tmp_path / "data", "--out", out)
    assert (code, "left out" in said) == (0, False), errors
    Image.open(out).verify()
    np.save(tmp_path / "bands.npy", np.zeros((2, 20, 20, 5), np.uint8))
    picture(0, (2, 30)).save(tmp_path / "thin.png")
    for image, reason in (("bands.npy", "5 channels and 3 are wanted"), ("thin.png", "less than one patch")):
        result = run("reconstruct", finished, tmp_path / image, "--out", out)
        refused(result, reason, "give others")
        assert "--" not in result[2]
        assert "patch_size" not in result[2]
    for ratio in ("0.99", "-1", "inf", "nan"):
        result = run("reconstruct", finished, tmp_path / "data", "--out", out, "--mask-ratio", ratio)
        refused(result, f"a mask_ratio of {ratio} on 16 mask units leaves ", "choose a ratio further from 0 and 1.")
    assert "size" not in result[2]


def test_names_are_printed_as_they_are(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "a[b][/b].png"
    code, output, errors = run("reconstruct", finished, data, "--out", out)
    assert code == 0, errors
    assert str(out) in output


def test_a_run_of_other_settings_is_not_touched(finished: Path, data: Path, run: Run) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    words = ("pretrain", data, "--out", finished, *TINY, "--epochs", "3", "--workers", "0")
    refused(run(*words, "--mask-ratio", "0.5"), "mask_ratio = 0.75, not 0.5", "choose another --out")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_images_that_changed_since_the_run_began(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    moved = Path(shutil.copytree(data, tmp_path / "data"))
    words = ("pretrain", moved, "--out", tmp_path / "r", *TINY, "--epochs", "1", "--workers", "0")
    assert run(*words)[0] == 0
    picture(99).save(moved / "class0/000.jpg", quality=30)
    refused(run(*words), "images have changed")


def test_a_folder_of_something_else_is_not_touched(data: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    refused(run("pretrain", data, "--out", tmp_path, *TINY), "is not empty and is not a run")
    refused(run("pretrain", data, "--out", tmp_path / "thesis.txt", *TINY), "is a file")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_runs_in_one_folder(data: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "openmae", "pretrain", data, "--out", tmp_path / "r", *TINY, "--epochs", "2000"]
    log = tmp_path / "log"
    with log.open("w") as file:
        first = subprocess.Popen([*words, "--workers", "1"], stdout=file)
    try:
        while "step 1/" not in log.read_text():
            assert first.poll() is None
            time.sleep(0.05)
        second = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
        refused((second.returncode, second.stdout, second.stderr), "another process trains in", "choose another --out")
        assert first.poll() is None
    finally:
        first.terminate()
        assert first.wait(timeout=60) == 75
    # The first one saved on SIGTERM, and its lock went with it.
    assert list((tmp_path / "r/checkpoints").glob("step-*"))
    with RunFolder(tmp_path / "r"):
        pass


FULL_DISK = """
import resource, sys
from openmae.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    "bytes_left", [pytest.param(3000, marks=pytest.mark.slow), 40_000, pytest.param(130_000, marks=pytest.mark.slow)]
)
def test_a_write_that_the_system_refuses(data: Path, tmp_path: Path, bytes_left: int) -> None:
    """The system's bound on the size of a file stands in for a full disk: the write fails as it does there, at
    the log, at a checkpoint or at a picture; ENOSPC itself needs a disk of one's own (make test-slow)."""
    words = [
        "pretrain",
        data,
        "--out",
        tmp_path / "r",
        *TINY,
        "--epochs",
        "12",
        "--workers",
        "0",
        "--checkpoint-minutes",
        "0",
    ]
    # matplotlib keeps a list of fonts at its first import, which complains of the disk in words of its own.
    subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=True)
    full = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(bytes_left), *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert full.returncode == 74, full.stderr  # trained to the end, and could not write all of it
    assert "warning: " in full.stdout
    assert "step 54/54" in full.stdout
    assert len(full.stderr.splitlines()) == 1, full.stderr
    assert "run the same command again" in full.stderr
    assert not list((tmp_path / "r").rglob("*.part"))
    assert main([str(word) for word in words]) == 0
    whole = tmp_path / "whole"
    assert main([str(whole if word == tmp_path / "r" else word) for word in words]) == 0
    assert (tmp_path / "r/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk of its own needs root")
def test_a_really_full_disk(data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    try:
        words = [
            sys.executable,
            "-m",
            "openmae",
            "pretrain",
            data,
            "--out",
            disk / "r",
            *TINY,
            "--checkpoint-minutes",
            "0",
        ]
        filler = disk / "filler"
        filler.write_bytes(b"x" * (6 * 1024 * 1024 - 800_000))  # room to begin, not to end
        full = subprocess.run([*words, "--epochs", "3"], check=False, capture_output=True, text=True, timeout=120)
        assert full.returncode == 74, full.stderr
        assert "no checkpoint of step" in full.stdout
        assert "run the same command again" in full.stderr
        assert list((disk / "r/checkpoints").glob("step-*"))
        filler.unlink()
        again = subprocess.run([*words, "--epochs", "3"], check=False, capture_output=True, text=True, timeout=120)
        assert again.returncode == 0, again.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_run_whose_checkpoints_are_elsewhere_does_not_begin_anew(data: Path, tmp_path: Path, run: Run) -> None:
    """As where they were moved to another disk, which is not mounted."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.toml").touch()
    (tmp_path / "r/checkpoints").symlink_to("/nowhere")
    refused(run("pretrain", data, "--out", tmp_path / "r", *TINY), "a link that leads nowhere", "give another --out")


def test_a_run_folder_that_is_removed_meanwhile(tmp_path: Path) -> None:
    """What was written to it from then on would neither be a run nor let one begin."""
    with RunFolder(tmp_path / "r") as folder:
        folder.log({"step": 1})
        folder.sync()
        shutil.rmtree(folder.path)
        folder.log({"step": 2})
        with pytest.raises(UserError, match="was removed while it was trained in"):
            folder.sync()


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["pretrain", "", "--out", "r"], "empty word:"),
        (["pretrain", "data", "--out", ""], "after --out:"),
        (["pretrain", "data", "--out="], "in --out=:"),
        (["plan", ""], "empty word:"),
        (["plan", "--images", "5", "--measured", ""], "after --measured:"),
        (["knn", "", "data"], "empty word:"),
        (["doctor", "--data", ""], "after --data:"),
    ],
)
def test_a_variable_that_is_not_set_is_not_this_folder(run: Run, words: list[str], where: str) -> None:
    refused(run(*words), where)


def test_folder_that_cannot_be_written(data: Path, run: Run) -> None:
    refused(run("pretrain", data, "--out", "/proc/openmae-run", *TINY), "cannot be written", "choose another --out")


def test_a_refused_start_leaves_no_folder(data: Path, tmp_path: Path, run: Run) -> None:
    refused(run("pretrain", tmp_path / "none", "--out", tmp_path / "new", *TINY), "none")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    refused(run("pretrain", tmp_path / "none", "--out", tmp_path / "mine", *TINY), "none")
    assert (tmp_path / "mine").exists()


def test_models_that_are_none(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = ("--out", tmp_path / "p.png")
    refused(run("reconstruct", tmp_path / "none", data, *out), "does not exist")
    refused(run("knn", tmp_path, data), "give a run folder whose run has saved weights")
    cut = tmp_path / "cut.safetensors"
    weights = (finished / "model.safetensors").read_bytes()
    cut.write_bytes(weights[: len(weights) // 2])
    refused(run("knn", cut, data), "not a whole safetensors file")
    cut.write_bytes(b"\x80\x04\x95 a pickle")
    refused(run("knn", cut, data), "copy or make it anew")
    from safetensors.torch import load, save_file

    tensors = load(weights)
    save_file(tensors, cut)
    refused(run("knn", cut, data), "patch_embed.proj.weight is missing")
    metadata = {"openmae": (finished / "model.json").read_text()}
    extra = {"extra": torch.zeros(1), **{k: v for k, v in tensors.items() if k != "encoder.norm.weight"}}
    extra["encoder.norm.bias"] = torch.zeros(3)
    save_file(extra, cut, metadata)
    refused(
        run("knn", cut, data),
        "encoder.norm.weight is missing",
        "extra is unexpected",
        "encoder.norm.bias is (3,), not (24,)",
    )
    assert not (tmp_path / "p.png").exists()


def test_evaluation_and_pictures_refuse_what_they_cannot_use(
    finished: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    picture(0).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.png")
    refused(run("knn", finished, tmp_path), "has no labels")
    refused(run("knn", finished, data, "--layer", "9"), "no layer 9", "1 to 1")
    refused(run("knn", finished, data, "--k", "0"), "--k is 0")
    refused(run("reconstruct", finished, tmp_path / "a.png", "--out", tmp_path / "p.jpg"), "ends in .png")
    refused(
        run("reconstruct", finished, tmp_path / "a.png", "--out", tmp_path / "p.png", "--mask-ratio", "1"), "mask_ratio"
    )
    refused(
        run("reconstruct", finished, tmp_path / "none.png", "--out", tmp_path / "p.png"),
        "none of the images can be read",
    )
    refused(run("report", tmp_path), "is not a run folder")


def test_quickstart_does_its_steps(tmp_path: Path, run: Run) -> None:
    code, output, errors = run("quickstart", "--out", tmp_path / "q", "--epochs", "0.2")
    assert code == 0, errors
    assert all(f"\n{number}. " in f"\n{output}" for number in (1, 2, 3, 4))
    assert "openmae pretrain your/images --out runs/first" in output
    Image.open(tmp_path / "q/reconstruction.png").verify()
    kept = json.loads((tmp_path / "q/run/evaluations.json").read_text())
    assert len(kept) == 6
    assert {e["classes"] for e in kept} == {19}


def test_quickstart_crops_share_no_pixel_between_splits() -> None:
    places = np.arange(400 * 640).reshape(400, 640)
    seen = {}
    for split in ("train", "val"):
        found = quickstart.crops(np.stack([places] * 3, -1), split, 300, generator(0, "bundled crops"))
        assert all(crop.shape == (64, 64, 3) for crop in found)
        seen[split] = set(np.concatenate([crop[..., 0].reshape(-1) for crop in found]).tolist())
    assert seen["train"]
    assert seen["val"]
    assert not seen["train"] & seen["val"]


@pytest.mark.slow
def test_quickstart_shows_that_pre_training_worked(tmp_path: Path, run: Run) -> None:
    assert run("quickstart", "--out", tmp_path / "q")[0] == 0
    kept = json.loads((tmp_path / "q/run/evaluations.json").read_text())
    top1 = {(e["kind"], e["features"]): e["top1"] for e in kept}
    assert top1["knn", "pre-trained"] > top1["knn", "untrained"] + 0.08
    assert top1["linear", "pre-trained"] > top1["linear", "untrained"] + 0.03
    assert top1["knn", "pre-trained"] > top1["knn", "raw pixels"] + 0.3


# ---------------------------------------------------------------- images that are not 3 x 8 bits


def deep_bands(count: int = 20) -> np.ndarray:
    """(count, 24, 20, 5) smooth 12-bit values in 16 bits, no two bands alike."""
    grey = np.stack([np.array(picture(number, mode="L"), np.uint16) for number in range(count)])
    return np.stack([(grey + 1) * factor for factor in (1, 3, 7, 11, 15)], axis=-1)


def test_bands_and_depth_go_with_the_run(tmp_path: Path, run: Run) -> None:
    data = tmp_path / "bands.npy"
    np.save(data, deep_bands())
    words = (*TINY, "--epochs", "1", "--workers", "0")
    code, output, errors = run("pretrain", data, "--out", tmp_path / "all", *words)
    assert code == 0, errors
    assert "--in-chans 5: as many as the images have" in output
    assert "--pixel-type uint16" in output
    code, _, errors = run("pretrain", data, "--out", tmp_path / "two", *words, "--bands", "4", "1")
    assert code == 0, errors
    pixels = deep_bands() / 65535
    for name, bands in (("all", [0, 1, 2, 3, 4]), ("two", [3, 0])):
        statistics = json.loads((tmp_path / name / "model.json").read_text())["statistics"]
        assert statistics["pixel_type"] == "uint16"
        # 2 of the 20 images are kept aside.
        np.testing.assert_allclose(statistics["mean"], pixels[..., bands].mean(axis=(0, 1, 2)), rtol=0.1)
        model = openmae.load(tmp_path / name)
        assert model.encoder.in_chans == len(bands)
        assert run("reconstruct", tmp_path / name, data, "--out", tmp_path / "x.png")[0] == 0
    refused(run("pretrain", data, "--out", tmp_path / "three", *words, "--in-chans", "3"), "has 5 channels", "--bands")
    refused(run("pretrain", data, "--out", tmp_path / "no", *words, "--bands", "1", "2", "--mean", "0.5"), "--mean")


def test_statistics_of_all_images_are_taken_from_stats(data: Path, tmp_path: Path, run: Run) -> None:
    found, out = tmp_path / "stats.toml", tmp_path / "run"
    assert run("stats", data, "--out", found, "--workers", "0")[0] == 0
    words = (*TINY, "--epochs", "0.2", "--workers", "0", "--config", found)
    assert run("pretrain", data, "--out", out, *words)[0] == 0
    measured = tomllib.loads(found.read_text())
    used = json.loads((out / "model.json").read_text())["statistics"]
    assert used == measured
    assert tomllib.loads((out / "config.toml").read_text())["mean"] == measured["mean"]


def test_repeated_augmentation_trains_and_resumes(data: Path, tmp_path: Path, run: Run) -> None:
    words = (*TINY, "--epochs", "1", "--workers", "0", "--repeat-aug", "4")
    assert run("pretrain", data, "--out", tmp_path / "r", *words)[0] == 0
    assert tomllib.loads((tmp_path / "r/config.toml").read_text())["repeat_aug"] == 4
    refused(run("pretrain", data, "--out", tmp_path / "r", *words[:-1], "2"), "repeat_aug")
    refused(run("pretrain", data, "--out", tmp_path / "s", *words[:-1], "0"), "--repeat-aug is 0")
