"""A run that is complete and made longer, one whose folder has more images by now, and one of another command."""

import shutil
from pathlib import Path

from safetensors.torch import load_file

from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.longer import made_longer
from openmae.train.optimizers import WarmupCosine
from openmae.train.run import read_config, read_metrics
from tests.commands import Run, detect, finetune, pretrain, refused, segment
from tests.images import picture
from tests.runs import Runs, copy


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").iterdir())


def test_a_complete_run_is_made_longer_and_stays_exact(tmp_path: Path, data: Path, run: Run) -> None:
    out = tmp_path / "run"
    words = pretrain(data, out, "--checkpoint-minutes 0 --keep 100 --pictures 1 --evaluations 0 --warmup-epochs 0.5")
    code, said, errors = run(*words, "--epochs", 1)
    assert code == 0, errors
    assert "This encoder had 4 steps to learn in, too few to be of use: a larger --epochs" in said
    first = read_config(out)
    assert "earlier" not in first
    assert first["image_count"] == 36
    unfinished = copy(out, tmp_path / "unfinished")
    shutil.rmtree(checkpoints(unfinished)[-1])
    (unfinished / "model.safetensors").unlink()
    before = (out / "checkpoints" / f"step-{first['steps']:08d}" / "model.safetensors").read_bytes()

    code, said, errors = run(*words, "--epochs", 3)
    assert code == 0, errors
    assert "was begun with" not in said
    assert "was complete after 1 epochs, 4 steps: 2 more begin with its last weights" in said
    assert "The warm-up alone" not in said
    _, said = made_longer(Pretrain(epochs=3.25), out)
    assert "The warm-up alone takes 0.5, so the rate only rises" in said
    assert "--epochs 6 lets it fall" in said
    code, said, errors = run("pretrain", "--resume", "--out", out)
    assert code == 0, errors
    assert "This run is complete after 3 epochs: a larger --epochs makes it longer" in said
    assert (out / "checkpoints" / f"step-{first['steps']:08d}" / "model.safetensors").read_bytes() == before
    config, lines = read_config(out), read_metrics(out)
    assert (config["steps"], config["epochs"], config["earlier"]) == (14, 3.0, [[4, 1.0]])
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 15))
    highest = first["blr"] * 8 / 256
    parts = WarmupCosine(4, 4 * 0.5, highest), WarmupCosine(10, 10 * 0.5 / 2, highest)
    wanted = [*map(parts[0], range(4)), *map(parts[1], range(10))]
    assert [line["lr"] for line in lines] == wanted

    code, said, errors = run("pretrain", data, "--out", out)
    assert code == 0, errors
    assert f"The run in {out} was begun with --img-size 16" in said
    assert "--warmup-epochs 0.5" in said

    # Wherever it is gone on with: within the new part, and before it.
    last = load_file(out / "model.safetensors")
    for left, again in ((9, ["pretrain", "--resume", "--out", str(out)]), (2, [*words, "--epochs", "3"])):
        for place in checkpoints(out)[left:]:
            shutil.rmtree(place)
        code, _, errors = run(*again)
        assert code == 0, errors
        assert all(weight.equal(last[name]) for name, weight in load_file(out / "model.safetensors").items())
        assert [line["lr"] for line in read_metrics(out)] == wanted

    refused(run(*words, "--epochs", 2), "epochs = 3.0, not 2.0")
    refused(run(*words, "--epochs", 4, "--mask-ratio", 0.5), "mask_ratio = 0.75, not 0.5")
    refused(run(*words, "--epochs", 2, "--out", unfinished), "epochs = 1.0, not 2.0")


def test_more_images_are_gone_on_with(tmp_path: Path, data: Path, run: Run) -> None:
    images = copy(data, tmp_path / "images")
    words = pretrain(images, tmp_path / "first", "--pictures 1 --evaluations 0")
    assert run(*words)[0] == 0
    going_on = [*words, "--from", tmp_path / "first", "--out"]
    code, said, errors = run(*going_on, tmp_path / "same")
    assert code == 0, errors
    assert "MODEL learnt from these images already" in said
    for number in range(10):
        picture(100 + number).save(images / f"new-{number}.png")
    refused(run(*words), "the images have changed since the run", "--from")
    code, said, errors = run(*going_on, tmp_path / "more")
    assert code == 0, errors
    assert "The images have changed since MODEL learnt from them: 45 to learn from now, 36 then" in said
    assert read_config(tmp_path / "more")["image_count"] == 45


def test_a_run_of_another_command_is_not_gone_on_with(runs: Runs, tmp_path: Path, run: Run) -> None:
    data, scenes, encoder = runs.data(), runs.scenes(), runs.finished()
    pretrained, classes = copy(encoder, tmp_path / "pretrained"), copy(runs.classes(), tmp_path / "classes")
    outlines, boxes = copy(runs.segmenter(), tmp_path / "outlines"), copy(runs.detector(), tmp_path / "boxes")
    (pretrained / "model.json").unlink()  # as of one killed before it was looked at
    refused(run(*finetune(encoder, data, pretrained)), f"{pretrained} holds a run of openmae pretrain, which another")
    refused(run(*segment(encoder, scenes, pretrained)), "a run of openmae pretrain", "choose another --out")
    refused(run(*pretrain(data, classes)), f"{classes} holds a run of openmae finetune")
    refused(run("pretrain", "--out", classes, "--resume"), f"{classes} holds a run of openmae finetune")
    refused(run(*detect(encoder, runs.objects(), outlines)), f"{outlines} holds a run of openmae segment")
    refused(run(*segment(encoder, scenes, boxes)), f"{boxes} holds a run of openmae detect")
