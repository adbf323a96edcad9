"""`openmae export`: what every format shares, timm's and our own file, and round trips that lose nothing."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openmae import create_model
from openmae.data.formats.channels import PixelFormat
from openmae.data.opening import open_data
from openmae.data.views.statistics import Statistics
from openmae.heads import Classifier, Encoder
from openmae.model import ViT
from openmae.recipes.export.check import real_images
from openmae.recipes.export.formats import timm as export_timm
from openmae.recipes.export.job import FORMATS
from openmae.weights import Loaded, load_model, model_json, serialize
from tests.commands import Run, refused
from tests.images import write_images
from tests.weights import foreign


def loaded_of(model: Any, licence: str | None = None, names: list[str] | None = None) -> Loaded:
    """As `load_model` gives it."""
    in_chans = model.encoder.in_chans
    statistics = Statistics((0.25,) * in_chans, (0.5,) * in_chans, PixelFormat(in_chans, None, "uint8"))
    task = None if names is None else "classification"
    info = model_json(
        model,
        statistics,
        {"job": "test", "data": "/home/somebody/secret/xray"},
        licence=licence,
        class_names=names,
        task=task,
    )
    return Loaded(model.eval(), statistics, json.loads(json.dumps(info)), "a model")


def keep(loaded: Loaded, file: Path) -> Path:
    file.write_bytes(serialize(loaded.model, loaded.info))
    return file


def vit(**settings: Any) -> ViT:
    return ViT(
        **{
            "img_size": (16, 16),
            "patch_size": (8, 8),
            "in_chans": 3,
            "embed_dim": 24,
            "depth": 1,
            "num_heads": 3,
            **settings,
        }
    )


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = create_model("vit_tiny", img_size=32, patch_size=8, depth=2, decoder_depth=1, decoder_embed_dim=32)
    foreign.randomize(model)
    return keep(loaded_of(model, licence="CC-BY-NC-4.0"), tmp_path_factory.mktemp("model") / "mae.safetensors")


def same(ours: Loaded, again: Loaded) -> None:
    """Every weight to the bit, and what travels with it."""
    assert type(ours.model) is type(again.model)
    before, after = ours.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys()
    assert [key for key in before if not before[key].equal(after[key])] == []
    assert ours.encoder.arguments() == again.encoder.arguments()
    assert ours.encoder.positions.equal(again.encoder.positions)
    assert ours.statistics == again.statistics
    for key in ("class_names", "task", "licence"):
        assert ours.info[key] == again.info[key]


# ---------------------------------------------------------------- round trips


@settings(max_examples=10)
@given(
    side=st.integers(1, 3),
    patch=st.sampled_from([4, 6]),
    in_chans=st.sampled_from([1, 2, 3, 4, 12]),
    depth=st.integers(1, 2),
    decoder=st.tuples(st.sampled_from([32, 64]), st.integers(1, 2)),
    norm_pix=st.booleans(),
    sincos=st.booleans(),
)
def test_meta_to_ours_to_transformers_to_ours_to_timm(
    tmp_path_factory: pytest.TempPathFactory,
    side: int,
    patch: int,
    in_chans: int,
    depth: int,
    decoder: tuple[int, int],
    norm_pix: bool,
    sincos: bool,
) -> None:
    place = tmp_path_factory.mktemp("trip")
    side += 1  # one patch alone could not be hidden
    shape = {**foreign.STANDARD, "image_size": side * patch, "patch_size": patch, "num_channels": in_chans}
    shape |= {"num_hidden_layers": depth, "decoder_hidden_size": decoder[0], "decoder_num_hidden_layers": decoder[1]}
    shape["decoder_intermediate_size"] = 4 * decoder[0]
    origin = foreign.mae(**shape, layer_norm_eps=1e-6, norm_pix_loss=norm_pix, sincos=sincos)
    weights = foreign.meta_weights(origin)
    foreign.save_training(place / "meta.pth", weights, norm_pix_loss=norm_pix, mask_ratio=0.5)
    first = load_model(place / "meta.pth")
    images = torch.randn(2, in_chans, *first.encoder.img_size)
    steps = [("safetensors", "ours.safetensors"), ("hf-mae", "hf"), ("safetensors", "again.safetensors")]
    latest = first
    for to, name in steps:
        FORMATS[to].write(latest, place / name)
        assert FORMATS[to].compare(latest, place / name, images).difference < 1e-5
        latest = load_model(place / name)
        same(first, latest)
        assert latest.autoencoder.architecture.to_dict() == first.autoencoder.architecture.to_dict()
    FORMATS["timm"].write(latest, place / "timm.safetensors")
    assert FORMATS["timm"].compare(latest, place / "timm.safetensors", images).difference < 1e-5
    same(loaded_of(Encoder(first.encoder)), encoder_of(load_model(place / "timm.safetensors")))
    theirs = origin.vit.state_dict()  # and transformers' own weights at the end of it
    assert load_model(place / "timm.safetensors").encoder.norm.weight.equal(theirs["layernorm.weight"])


def encoder_of(loaded: Loaded) -> Loaded:
    """With the statistics that `loaded_of` gives, to be compared."""
    return loaded_of(loaded.model)


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    patch=st.tuples(st.sampled_from([2, 4]), st.sampled_from([3, 4])),
    in_chans=st.sampled_from([1, 2, 3, 4, 12]),
    width=st.sampled_from([(24, 3), (192, 3), (36, 2)]),
    depth=st.integers(1, 3),
    mlp_ratio=st.sampled_from([4.0, 2.0, 8 / 3]),
    class_tokens=st.sampled_from([0, 1]),
    learned=st.booleans(),
    eps=st.sampled_from([1e-6, 1e-12]),
    head=st.sampled_from([None, "mean", "class", "batch norm"]),
    licence=st.sampled_from([None, "mit"]),
)
def test_timm_and_back(
    tmp_path_factory: pytest.TempPathFactory,
    size: tuple[int, int],
    patch: tuple[int, int],
    in_chans: int,
    width: tuple[int, int],
    depth: int,
    mlp_ratio: float,
    class_tokens: int,
    learned: bool,
    eps: float,
    head: str | None,
    licence: str | None,
) -> None:
    img_size = (size[0] * patch[0], size[1] * patch[1])
    encoder = ViT(img_size, patch, in_chans, width[0], depth, width[1], mlp_ratio, class_tokens, None, eps, learned)
    model: Encoder | Classifier = Encoder(encoder)
    if head is not None:
        pool = "class" if head == "class" and class_tokens else "mean"
        model = Classifier(encoder, 3, pool, head == "batch norm")
    foreign.randomize(model)
    if isinstance(model, Classifier) and model.batch_norm is not None:
        assert model.batch_norm.running_mean is not None
        assert model.batch_norm.running_var is not None
        model.batch_norm.running_mean.normal_()
        model.batch_norm.running_var.uniform_(0.5, 2)
    loaded = loaded_of(model, licence, None if head is None else ["a", "b", "c"])
    out = tmp_path_factory.mktemp("timm") / "a.safetensors"
    assert export_timm.write(loaded, out) == []
    images = torch.randn(2, in_chans, *img_size)
    assert export_timm.compare(loaded, out, images).difference < 1e-5
    again = load_model(out)
    if head == "batch norm":
        assert isinstance(model, Classifier)
        loaded = Loaded(model.without_batch_norm(), loaded.statistics, loaded.info, loaded.name)
    unasked = isinstance(again.model, Classifier) and again.model.pool == "mean"
    if unasked:  # timm has no norm in front of the mean
        again.encoder.norm.load_state_dict(loaded.encoder.norm.state_dict())
    same(loaded, again)


def test_a_batch_norm_becomes_part_of_the_linear_layer() -> None:
    model = Classifier(vit(), 3, "class", batch_norm=True)
    foreign.randomize(model)
    assert model.batch_norm is not None
    model.train()
    for _ in range(3):
        model(torch.randn(8, 3, 16, 16))
    model.eval()
    plain = model.without_batch_norm()
    assert plain.batch_norm is None
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(plain(images), model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("to", ["timm", "hf-mae", "hf-vit"])
def test_several_class_tokens(to: str, tmp_path: Path, run: Run) -> None:
    model = create_model("vit_tiny", img_size=16, patch_size=8, depth=1, decoder_depth=1, class_tokens=4)
    file = keep(loaded_of(model), tmp_path / "a.safetensors")
    refused(run("export", file, "--to", to, "--out", tmp_path / "out.safetensors"), "4")
    assert sorted(tmp_path.iterdir()) == [file]


# ---------------------------------------------------------------- the command


def test_timm_takes_the_file_by_the_line_that_is_printed(autoencoder: Path, tmp_path: Path, run: Run) -> None:
    import timm

    out = tmp_path / "deep/er/vit.safetensors"
    code, output, errors = run("export", autoencoder, "--to", "timm", "--out", out)
    assert code == 0, errors
    assert "licence of these weights: CC-BY-NC-4.0" in output
    assert "Checked with timm " in output
    assert "The decoder is left out" in output
    line = output.strip().splitlines()[-1].strip()
    assert line.startswith("timm.create_model(")
    theirs = eval(line, {"timm": timm, "torch": torch}).eval()
    loaded = load_model(autoencoder)
    prepared = timm.data.resolve_model_data_config(theirs)
    assert (prepared["input_size"], prepared["crop_pct"]) == ((3, 32, 32), 32 / 36)
    assert (prepared["mean"], prepared["std"]) == (loaded.statistics.mean, loaded.statistics.std)
    images = real_images(loaded, None)
    assert images.shape == (8, 3, 32, 32)
    with torch.no_grad():
        expected = loaded.encoder(images)
        torch.testing.assert_close(theirs.forward_features(images), expected, rtol=0, atol=1e-5)
    about = json.loads((tmp_path / "deep/er/vit.json").read_text())
    assert about["licence"] == "CC-BY-NC-4.0"
    assert about["export"]["images"] == 8
    assert about["export"]["largest_difference"] < 1e-5 < about["export"]["largest_output"]
    assert about["export"]["checked_with"].startswith("timm ")
    assert {place.name for place in out.parent.iterdir()} == {"vit.safetensors", "vit.json"}
    assert about["provenance"]["data"] == "xray"  # not where it lies
    assert out.stat().st_mode & 0o777 == (tmp_path / "deep/er/vit.json").stat().st_mode & 0o777


def test_nothing_is_overwritten_without_force(autoencoder: Path, tmp_path: Path, run: Run) -> None:
    words = ("export", autoencoder, "--to", "timm", "--out", tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text("mine")
    refused(run(*words), "a.json is there already", "--force")
    (tmp_path / "a.json").unlink()
    (tmp_path / "a.safetensors").symlink_to("nowhere")
    refused(run(*words), "a.safetensors is there already")
    assert run(*words, "--force")[0] == 0
    assert load_model(tmp_path / "a.safetensors").encoder.depth == 2
    refused(run(*words), "is there already")
    folder = tmp_path / "hf"
    (folder / "mine").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    into = ("export", autoencoder, "--to", "hf-vit", "--out", folder)
    refused(run(*into), "hf is there already")
    refused(run(*into, "--force"), "holds more than an export (mine)")
    (folder / "mine").rmdir()
    within = shutil.copy(autoencoder, folder / "model.safetensors")
    refused(run("export", within, *into[2:], "--force"), "would write over a part of")
    assert run(*into, "--force")[0] == 0
    assert load_model(folder).encoder.depth == 2
    (folder / "config.json").unlink()
    refused(run(*into, "--force"), "which no export to hf-vit has written")
    copy = shutil.copy(autoencoder, tmp_path / "model.safetensors")
    before = Path(copy).read_bytes()
    refused(run("export", copy, "--to", "timm", "--out", copy, "--force"), "would write over a part of")
    refused(run("export", tmp_path, "--to", "timm", "--out", copy, "--force"), "would write over a part of")
    assert Path(copy).read_bytes() == before


def test_what_was_there_comes_back_where_it_cannot_all_be_replaced(
    autoencoder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.safetensors", "a.json"):
        (tmp_path / name).write_text("before")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "a.safetensors" and ".part" in self.parent.name:  # a.json is in its place by then
            raise PermissionError(1, "Operation not permitted", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    refused(run("export", autoencoder, "--to", "timm", "--out", tmp_path / "a.safetensors", "--force"), "not permitted")
    assert {place.name: place.read_text() for place in tmp_path.iterdir()} == {
        "a.safetensors": "before",
        "a.json": "before",
    }


def test_a_model_that_computes_no_numbers(tmp_path: Path, run: Run) -> None:
    model = Encoder(vit())
    torch.nn.init.constant_(model.encoder.norm.bias, float("nan"))
    file = keep(loaded_of(model), tmp_path / "a.safetensors")
    refused(run("export", file, "--to", "timm", "--out", tmp_path / "b.safetensors"), "not finite numbers", "damaged")
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk(autoencoder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)  # by which all of it is written: torch's writer aborts the process
    refused(run("export", autoencoder, "--to", "pt2", "--out", tmp_path / "a.pt2"), "is full")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_there_at_every_moment(
    autoencoder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.safetensors"
    out.write_text("before")
    there, rename = [], Path.rename

    def watched(self: Path, target: Path) -> Path:
        there.append(out.exists())
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    assert run("export", autoencoder, "--to", "timm", "--out", out, "--force")[0] == 0
    assert there == [True, True]
    assert load_model(out).encoder.depth == 2


def test_what_came_meanwhile_is_not_written_over(
    autoencoder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export_timm.write_weights

    def slow(model: Any, entries: Any) -> dict[str, torch.Tensor]:
        (tmp_path / "a.safetensors").write_text("of another export")
        return write(model, entries)

    monkeypatch.setattr(export_timm, "write_weights", slow)
    refused(run("export", autoencoder, "--to", "timm", "--out", tmp_path / "a.safetensors"), "is there already")
    assert [(place.name, place.read_text()) for place in tmp_path.iterdir()] == [("a.safetensors", "of another export")]


def test_what_does_not_agree_is_not_written(
    autoencoder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export_timm.write_weights

    def off(model: Any, entries: Any) -> dict[str, torch.Tensor]:
        weights = write(model, entries)
        weights["blocks.0.norm1.weight"] = weights["blocks.0.norm1.weight"] * 1.01
        return weights

    monkeypatch.setattr(export_timm, "write_weights", off)
    (tmp_path / "a.safetensors").write_bytes(b"before")
    words = ("export", autoencoder, "--to", "timm", "--out", tmp_path / "a.safetensors", "--force")
    refused(run(*words), "gives features that differ by", "nothing was written")
    assert (tmp_path / "a.safetensors").read_bytes() == b"before"
    assert [place.name for place in tmp_path.iterdir()] == ["a.safetensors"]


def test_bad_input(autoencoder: Path, tmp_path: Path, run: Run) -> None:
    out = ("--out", tmp_path / "a.safetensors")
    refused(run("export", autoencoder, "--to", "tim", *out), "--to is tim", "timm")
    refused(run("export", autoencoder, "--to", "timm", "--out", tmp_path / "a.pth"), "ends in .safetensors")
    refused(run("export", autoencoder, "--to", "timm", "--out", tmp_path / "a.SAFETENSORS"), "ends in .safetensors")
    refused(run("export", autoencoder, "--to", "hf-vit", "--out", tmp_path / "a/.."), "give the name")
    refused(run("export", tmp_path / "none", "--to", "timm", *out), "does not exist")
    refused(run("export", autoencoder, "--to", "timm", *out, "--data", tmp_path / "none"), "none")
    refused(run("export", autoencoder, "--to", "timm", "--out", "/proc/x/a.safetensors"), "/proc/x cannot be")
    refused(run("export", autoencoder, "--to", "timm", *out, "--quantize", "int8"), "--quantize is for --to onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("in_chans", "size"), [(1, (16, 24)), (2, (24, 16)), (12, (16, 16))])
def test_real_images_for_any_model(in_chans: int, size: tuple[int, int], tmp_path: Path) -> None:
    loaded = loaded_of(Encoder(vit(in_chans=in_chans, img_size=size)))
    images = real_images(loaded, None)
    assert images.shape == (8, in_chans, *size)
    assert images.isfinite().all()
    assert (images.flatten(1).std(dim=1) > 0.01).all()  # not blank
    if in_chans == 1:
        of_data = real_images(loaded, open_data(str(write_images(tmp_path / "data", 3))))
        assert of_data.shape == (3, 1, *size)


def test_a_missing_timm_is_named(autoencoder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    refused(run("export", autoencoder, "--to", "timm", "--out", tmp_path / "a.safetensors"), "pip install timm")
    assert list(tmp_path.iterdir()) == []


def test_our_own_file_of_anothers(tmp_path: Path, run: Run) -> None:
    folder = foreign.save_transformers(foreign.mae(sincos=False), tmp_path / "hf")
    assert run("export", folder, "--to", "safetensors", "--out", tmp_path / "a.safetensors")[0] == 0
    same(load_model(folder), load_model(tmp_path / "a.safetensors"))
