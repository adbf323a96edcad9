"""`openmae pretrain --from`: going on from weights that exist, of any kind, for the same images or for others."""

import json
import shutil
import tomllib
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

import openmae
from openmae.data.formats.bands import band_names
from openmae.errors import UserError
from openmae.recipes.pretrain import start
from openmae.recipes.pretrain.job import PRETRAIN, PretrainJob
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.job import Run as Ready
from openmae.recipes.training.job import begun
from openmae.train.checkpoint import newest_checkpoint
from openmae.train.run import read_config, read_metrics
from openmae.weights import fitted, load_model
from tests.commands import Run, pretrain, refused
from tests.distributed.by_hand import together
from tests.distributed.test_ranks import assert_close
from tests.images import picture
from tests.processes import started_openmae, steps_saved, wait_for
from tests.recipes.test_pretrain import deep_bands
from tests.runs import copy
from tests.train.test_kills import assert_same_run
from tests.weights import foreign, test_dino

QUICK = "--batch-size 8 --micro-batch 8 --precision fp32 --device cpu --workers 0 --evaluations 0 --pictures 1"


def going_on(model: object, data: object, out: object, *more: str) -> list[str]:
    """The words of a pre-training that goes on from a model, in one process."""
    words = ["pretrain", str(data), "--from", str(model), "--out", str(out)]
    return [*words, *" ".join((QUICK, "--epochs 1", *more)).split()]


class Enough(Exception):
    """Of a run that has been looked at."""


def at_its_start(
    look: Callable[[Ready[PretrainJob]], None], model: object, data: object, out: Path, **more: object
) -> str:
    """Looks at a run before its first step; what was printed until then."""
    asked: dict[str, object] = {"batch_size": 8, "epochs": 1.0, "precision": "fp32", "device": "cpu", "workers": 0}
    settings = Pretrain(data=str(data), out=out, from_=str(model), **{**asked, **more})  # type: ignore[arg-type]
    said = StringIO()
    with suppress(Enough), begun(PRETRAIN, settings, Console(file=said, width=500)) as run:
        look(run)
        raise Enough
    return said.getvalue()


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---------------------------------------------------------------- the same images


def test_a_run_begins_where_the_other_ended(finished: Path, data: Path, tmp_path: Path) -> None:
    """The same loss on the same views, all of the weights, the statistics, and no rest."""

    def look(run: Ready[PretrainJob]) -> None:
        loaded = load_model(finished)
        assert equal(run.job.model, loaded.autoencoder)
        batch = next(run.training.batches_from(0, 8))
        theirs = loaded.autoencoder(loaded.statistics.normalize(batch.images), batch.visible, batch.queries).loss
        assert run.training.learner.loss(batch).item() == theirs.item()
        assert run.job.rest is None

    assert "decoder: kept" in at_its_start(look, finished, data, tmp_path / "run")


def test_it_keeps_where_it_came_from_and_goes_on_without_it(
    finished: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    model, out = copy(finished, tmp_path / "model"), tmp_path / "run"
    info = json.loads((model / "model.json").read_text())
    info["licence"] = "cc-by-4.0"
    trained = load_model(model)
    (model / "model.safetensors").write_bytes(openmae.weights.serialize(trained.model, info))
    words = going_on(model, data, out, "--checkpoint-minutes 0")
    code, said, errors = run(*words)
    assert code == 0, errors
    assert "licence of these weights: cc-by-4.0" in said
    left = json.loads((out / "model.json").read_text())
    assert left["licence"] == "cc-by-4.0"
    assert left["provenance"]["model"] == str(model)
    assert left["provenance"]["pre-training"]["data"] == info["provenance"]["data"]
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["from"] == str(model)
    assert (config["embed_dim"], config["img_size"], config["patch_size"]) == (24, 16, 4)
    before = (out / "model.safetensors").read_bytes()
    shutil.rmtree(max((out / "checkpoints").iterdir()))
    model.rename(tmp_path / "elsewhere")
    for again in (words, ["pretrain", "--resume", "--out", str(out)]):  # to its last step, and once more
        code, said, errors = run(*again)
        assert code == 0, errors
        assert (out / "model.safetensors").read_bytes() == before
    config_again = tmp_path / "again"
    (tmp_path / "elsewhere").rename(model)
    code, _, errors = run("pretrain", "--config", out / "config.toml", "--out", config_again)
    assert code == 0, errors
    assert (config_again / "config.toml").read_bytes() == (out / "config.toml").read_bytes()
    assert run("report", out)[0] == 0


# ---------------------------------------------------------------- the decoder alone at first


@pytest.fixture(scope="module")
def encoder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of `finished`, alone, as timm has it."""
    file = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    assert openmae.cli.main(["export", str(finished), "--to", "timm", "--out", str(file)]) == 0
    return file


RESTS = "--epochs 4 --freeze-encoder 0.5 --checkpoint-minutes 0 --keep 100"  # 18 steps, 9 of them of the decoder alone


@pytest.fixture(scope="module")
def rested(encoder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rested") / "run"
    assert openmae.cli.main(going_on(encoder, data, out, RESTS)) == 0
    return out


def test_the_encoder_rests_and_then_learns(rested: Path, encoder: Path) -> None:
    first = {f"encoder.{name}": value for name, value in openmae.load(encoder).encoder.state_dict().items()}

    def moved(step: int) -> set[str]:
        weights = at(rested, step).weights
        return {name for name, value in first.items() if not torch.equal(weights[name], value)}

    assert all(name.startswith("decoder.") for name in at(rested, 9).optimizer)
    assert moved(9) == set()
    assert moved(10) == first.keys()
    decoders = [at(rested, step).weights["decoder.head.weight"] for step in (2, 9, 10)]
    assert not torch.equal(decoders[0], decoders[1])
    assert not torch.equal(decoders[1], decoders[2])


def at(run: Path, step: int) -> "openmae.train.checkpoint.Checkpoint":
    place = run / "checkpoints" / f"step-{step:08d}"
    found = openmae.train.checkpoint._read(place)
    assert found.step == step
    return found


@pytest.mark.parametrize("last", [8, 9, 10])
def test_it_goes_on_across_the_boundary_to_the_same_bits(
    rested: Path, encoder: Path, data: Path, tmp_path: Path, run: Run, last: int
) -> None:
    """As if killed after some step, before, at and after the first one in which the encoder learns; without MODEL."""
    out = copy(rested, tmp_path / "run")
    for place in (out / "checkpoints").iterdir():
        if int(place.name[5:]) > last:
            shutil.rmtree(place)
    code, _, errors = run(*going_on(tmp_path / "gone", data, out, RESTS))
    refused((code, "", errors), f"began from {encoder}, and --from is")
    if last == 10:  # it is found there again
        (out / "start.json").write_text("{")
    code, _, errors = run("pretrain", "--resume", "--out", out)
    assert code == 0, errors
    assert_same_run(rested, out)


def test_a_start_that_was_given_up_says_nothing_of_the_run_that_followed_it(
    encoder: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    """Killed before its first checkpoint, and begun anew without --from in the same folder."""
    out = tmp_path / "run"
    at_its_start(lambda _: None, encoder, data, out)
    assert (out / "start.json").exists()
    code, _, errors = run(*pretrain(data, out))
    assert code == 0, errors
    for _ in range(2):  # once more, as a run that goes on
        assert "pre-training" not in json.loads((out / "model.json").read_text())["provenance"]
        assert not (out / "start.json").exists()
        code, _, errors = run("pretrain", "--resume", "--out", out)
        assert code == 0, errors


def test_weights_that_are_no_numbers_are_refused(encoder: Path, data: Path, tmp_path: Path, run: Run) -> None:
    weights = load_file(encoder)
    weights["blocks.0.attn.qkv.weight"] = weights["blocks.0.attn.qkv.weight"] * torch.nan
    save_file(weights, file := tmp_path / "nan.safetensors")
    refused(
        run(*going_on(file, data, tmp_path / "run", "--num-heads 2")),
        "weights that are not numbers",
        "go on from others",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_processes_go_on_to_the_same_bits(rested: Path, encoder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [*going_on(encoder, data, out, RESTS), "--workers", "1"]
    for step in (3, 8, 9, 12):
        with started_openmae(words, tmp_path / "log") as process:
            wait_for(lambda step=step: steps_saved(out) >= step, process)
            process.kill()
    assert openmae.cli.main(words) == 0
    assert_same_run(rested, out)


# ---------------------------------------------------------------- weights of all kinds


def metas(folder: Path, *, has_decoder: bool) -> Path:
    weights = foreign.meta_weights(foreign.mae(**foreign.STANDARD, layer_norm_eps=1e-6))
    if not has_decoder:
        weights = {name: one for name, one in weights.items() if not name.startswith(("decoder_", "mask_"))}
    file = folder / ("mae_full.pth" if has_decoder else "mae.pth")
    torch.save({"model": weights}, file)
    return file


def timms(folder: Path) -> Path:
    torch.save(foreign.vit(num_classes=0).state_dict(), folder / "timm.pth")
    return folder / "timm.pth"


@pytest.mark.parametrize(
    ("kind", "decoder"),
    [
        ("meta with decoder", "decoder: kept"),
        ("meta", "decoder: begins afresh, there is none"),
        ("timm", "decoder: begins afresh, there is none"),
        ("transformers", "decoder: kept"),
        ("classes", "decoder: begins afresh, there is none"),
    ],
)
def test_it_goes_on_from_whatever_is_a_model(
    kind: str, decoder: str, data: Path, classes: Path, tmp_path: Path
) -> None:
    make: dict[str, Callable[[], Path]] = {
        "meta with decoder": lambda: metas(tmp_path, has_decoder=True),
        "meta": lambda: metas(tmp_path, has_decoder=False),
        "timm": lambda: timms(tmp_path),
        "transformers": lambda: foreign.save_transformers(foreign.mae(norm_pix_loss=True), tmp_path / "mae"),
        "classes": lambda: classes,
    }
    model = make[kind]()
    loaded = load_model(model)

    def look(run: Ready[PretrainJob]) -> None:
        ours = run.job.model.encoder
        assert equal(
            ours, loaded.encoder if ours.grid == loaded.encoder.grid else loaded.encoder.resized(ours.img_size)
        )
        assert (run.job.rest is not None) is ("afresh" in decoder)
        assert run.training.learner.loss(next(run.training.batches_from(0, 8))).isfinite()

    said = at_its_start(look, model, data, tmp_path / "run", epochs=8.0)
    assert decoder in said
    assert ("was fine-tuned" in said) is (kind == "classes")


@pytest.mark.parametrize("kind", ["vit_small_patch14_reg4_dinov2", "vit_small_plus_patch16_dinov3_qkvb"])
def test_it_goes_on_from_dino(kind: str, data: Path, tmp_path: Path, run: Run) -> None:
    """Registers, scaled layers, gated MLPs, rotations, fixed biases of keys: the run has them, also when it goes on."""
    model = test_dino.theirs(kind, img_size=16, patch_size=4)
    folder, out = tmp_path / "dino", tmp_path / "run"
    folder.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "model.safetensors")
    told = {"model_args": {"img_size": 16, "num_heads": 3}, "pretrained_cfg": {"license": "dinov3-license"}}
    (folder / "config.json").write_text(json.dumps({"architecture": kind, **told}))
    code, _, errors = run(*going_on(folder, data, out, "--checkpoint-minutes 0 --freeze-encoder 0.5 --img-size 32"))
    assert code == 0, errors
    before, loaded = (out / "model.safetensors").read_bytes(), load_model(out)
    assert loaded.encoder.rare_parts() == load_model(folder).encoder.rare_parts()
    assert (loaded.licence, loaded.encoder.img_size) == ("dinov3-license", (32, 32))
    shutil.rmtree(max((out / "checkpoints").iterdir()))
    shutil.rmtree(folder)
    assert run("pretrain", "--resume", "--out", out)[0] == 0
    assert (out / "model.safetensors").read_bytes() == before


# ---------------------------------------------------------------- other images


def test_other_channels_sizes_and_patches_are_adapted_and_said(finished: Path, tmp_path: Path, run: Run) -> None:
    data, out = tmp_path / "bands", tmp_path / "run"
    write_tiffs(data, deep_bands(), "blue", "green", "red", "", "near infrared")
    code, said, errors = run(*going_on(finished, data, out, "--patch-size 8 --img-size 32 --from-bands Red,green blue"))
    assert code == 0, errors
    assert read_config(out)["from_bands"] == [3, 2, 1]
    for line in (
        "patches: 4 x 4 to 8 x 8 pixels",
        "channels: the encoder's 3 are bands 3, 2, 1 of 1, 2, 3, 4, 5",
        "decoder: kept, but for its last layer",
        "--freeze-encoder 0.1: what is fresh of the decoder learns alone",
        "--mean",
    ):
        assert line in said
    assert "MODEL's: the images have such values" not in said
    model = openmae.load(out)
    assert (model.encoder.img_size, model.encoder.patch_size, model.encoder.in_chans) == ((32, 32), (8, 8), 5)
    assert at_least_one_step(out)
    assert run("pretrain", "--resume", "--out", out)[0] == 0


def write_tiffs(folder: Path, images: np.ndarray, *names: str) -> None:
    """Files of several bands that are called so, as GDAL describes them."""
    folder.mkdir(exist_ok=True)
    items = [f'<Item name="DESCRIPTION" sample="{n}" role="description">{name}</Item>' for n, name in enumerate(names)]
    text = f"<GDALMetadata>{''.join(item for item in items if '><' not in item)}</GDALMetadata>".encode() + b"\0"
    for number, image in enumerate(images):
        tifffile.imwrite(
            folder / f"{names[0]}{number}.tif",
            image,
            photometric="minisblack",
            planarconfig="contig",
            extratags=[(42112, "s", len(text), text, True)],
        )


def test_bands_are_known_by_their_names(finished: Path, tmp_path: Path, run: Run) -> None:
    data, images = tmp_path / "d", deep_bands()[:4]
    words = going_on(finished, data, tmp_path / "run", "--patch-size 8 --img-size 32")
    write_tiffs(data, images, "blue", "green", "red", "swir", "swir")
    _, said, errors = run("check", data, "--workers", 0)
    assert "Bands: 1 blue, 2 green, 3 red, 4 swir, 5 swir\n" in said, errors
    known = "give of 1 blue, 2 green, 3 red, 4 swir, 5 swir"
    refused(run(*words, "--from-bands", "red,green,nir"), f"--from-bands has 'nir', a name that no band has: {known}")
    refused(run(*words, "--from-bands", "red", "swir"), "'swir', a name that several bands have")
    with pytest.raises(openmae.UserError, match="from_bands has 'nir', a name that no band has"):
        openmae.pretrain(data, out=tmp_path / "run", from_=finished, from_bands=("red", "nir", 1))
    write_tiffs(data, images, "a", "b", "c", "d", "e")
    differ = "the bands of a0.tif are called 1 a, 2 b, 3 c, 4 d, 5 e, those of blue"
    assert differ in run("check", data, "--workers", 0)[1]
    refused(run(*words, "--from-bands", "red"), differ)
    np.save(tmp_path / "d.npy", images)
    words[words.index(str(data))] = str(tmp_path / "d.npy")
    refused(run(*words, "--from-bands", "red"), "do not say what their bands are called: give numbers")
    ome = tmp_path / "x.ome.tif"
    tifffile.imwrite(ome, images[0].transpose(2, 0, 1), metadata={"axes": "CYX", "Channel": {"Name": [*"vwxyz"]}})
    assert band_names(ome.read_bytes()) == tuple("vwxyz")
    assert band_names(ome.read_bytes()[:200]) == ()


def at_least_one_step(run: Path) -> bool:
    found, _ = newest_checkpoint(run / "checkpoints")
    return found is not None and len(read_metrics(run)) > 0


def test_grey_images_and_smaller_ones(tmp_path: Path, run: Run) -> None:
    """What is chosen by the images: their channels, and a size that MODEL's patches cut into 8 x 8."""
    model = foreign.vit("vit_tiny_patch16_224", img_size=224, patch_size=16, depth=1, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    data = tmp_path / "grey"
    data.mkdir()
    for number in range(10):
        picture(number, mode="L").save(data / f"{number}.png")
    code, said, errors = run(*going_on(tmp_path / "timm.pth", data, tmp_path / "run"))
    assert code == 0, errors
    assert "--img-size 128: MODEL's is 224, images have 20, and 8 x 8 patches are wanted" in said
    assert "channels: 3 to 1, kernels summed: the response to grey stays" in said
    assert "positions: 14 x 14 to 8 x 8" in said


def test_a_classifier_for_other_channels(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen, settled and built of it, with one fitting."""
    fits: list[object] = []

    def fitted_once(*args: Any, **more: Any) -> Any:
        fits.append(args)
        return fitted(*args, **more)

    monkeypatch.setattr(start, "fitted", fitted_once)
    data = tmp_path / "grey"
    data.mkdir()
    for number in range(10):
        picture(number, mode="L").save(data / f"{number}.png")

    def look(run: Ready[PretrainJob]) -> None:
        grey, own = torch.rand(2, 1, 16, 16), load_model(classes).encoder
        torch.testing.assert_close(run.job.model.encode(grey), own(grey.expand(-1, 3, -1, -1)), rtol=0, atol=1e-5)

    said = at_its_start(look, classes, data, tmp_path / "run")
    assert "was fine-tuned: its encoder is taken, and its head left" in said
    assert "channels: 3 to 1" in said
    assert len(fits) == 1


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--model vit_large", "--model is vit_large, and"),
        ("--depth 3", "--depth is 3, and"),
        ("--embed-dim 48", "--embed-dim is 48"),
        ("--num-heads 4", "says that its --num-heads is 2, not 4"),
        ("--class-tokens 2", "--class-tokens is 2"),
        ("--patch-size 5 --img-size 16", "16"),
        ("--from-bands 1 2", "3 channels"),
        ("--freeze-encoder 1", "--freeze-encoder is 1"),
        ("--layer-decay 0", "--layer-decay is 0"),
    ],
)
def test_what_contradicts_the_model_is_refused(
    finished: Path, data: Path, tmp_path: Path, run: Run, flags: str, words: str
) -> None:
    refused(run(*going_on(finished, data, tmp_path / "run", flags)), words)
    assert not (tmp_path / "run").exists()


def test_models_and_folders_that_are_none_are_refused(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    refused(run(*going_on(tmp_path / "nothing", data, out)), "does not exist")
    other = tmp_path / "swin"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "swin"}')
    refused(run(*going_on(other, data, out)), "is of the kind 'swin'")
    ours = copy(finished, tmp_path / "ours")
    refused(run(*going_on(ours, data, ours)), "that is the run in --out")
    refused(run(*going_on(ours / "model.safetensors", data, ours)), "that is the run in --out")
    other = copy(finished, tmp_path / "other")
    refused(run(*going_on(finished, data, other)), "began from fresh weights, and --from is")
    refused(run(*pretrain(data, out, "--freeze-encoder 0.1")), "the encoder's weights are fresh")
    refused(run(*pretrain(data, out, "--from-bands 1")), "--from-bands is for")


def test_a_decoder_of_another_size_is_fresh_and_an_unfinished_run_is_said(
    finished: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    half = copy(finished, tmp_path / "half")
    info = json.loads((half / "model.json").read_text())
    info["provenance"]["step"] = 7
    (half / "model.safetensors").write_bytes(openmae.weights.serialize(openmae.load(half), info))
    code, said, errors = run(*going_on(half, data, tmp_path / "run", "--decoder-depth 2 --target hog"))
    assert code == 0, errors
    assert "is not finished: these are its weights of step 7 of 14" in said
    assert "decoder: begins afresh, --decoder-depth was 1 and is 2" in said


def test_a_setting_called_by_a_word_of_pythons(tmp_path: Path, run: Run, data: Path) -> None:
    file = tmp_path / "it.toml"
    file.write_text('from = "nowhere"\n')
    refused(run("pretrain", data, "--out", tmp_path / "run", "--config", file), "nowhere")
    refused(run("pretrain", data, "--out", tmp_path / "run", "--form", "x"), "did you mean --from?")
    with pytest.raises(UserError, match="--from is r"):
        Pretrain(data="x", from_="r", out=Path("r"))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("more", ["", "--shard --grad-checkpointing on --micro-batch 3"])
def test_two_processes_let_it_rest_as_one_does(
    encoder: Path, data: Path, tmp_path: Path, run: Run, more: str, optimizer: str
) -> None:
    """Replicated and sharded, each with its own way to have no gradient; and a run of two goes on as one."""
    always = "--epochs 4 --freeze-encoder 0.5 --batch-size 10 --micro-batch 4 --evaluations 2 --optimizer"
    flags = (f"{always} {optimizer}", more)
    one, two = tmp_path / "one", tmp_path / "two"
    code, _, errors = run(*going_on(encoder, data, one, flags[0]))
    assert code == 0, errors
    together(2, going_on(encoder, data, two, *flags), tmp_path)
    assert_close(one, two)
    found, _ = newest_checkpoint(two / "checkpoints")
    assert found is not None
    assert {name.rsplit(":", 1)[0] for name in found.optimizer} == found.weights.keys()
