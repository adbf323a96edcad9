"""Weights of other libraries, read: the same outputs as theirs, or one sentence that says what does not fit."""

import json
import os
import random
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, load_file, save_file
from torch.nn import functional as F

import openmae
from openmae import create_model
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.heads import Classifier, Encoder
from openmae.model import sincos_positions
from openmae.train.optimizers import adamw, layer_scale
from openmae.weights import load_model, model_json, serialize
from tests.commands import Run, refused
from tests.mutations import bounded, damaged, tried
from tests.weights import foreign
from tests.weights.foreign import CLOSE


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# ---------------------------------------------------------------- transformers


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("sincos", [True, False])
def test_vit_mae_for_pre_training(tmp_path: Path, kind: str, sincos: bool) -> None:
    theirs = foreign.mae(sincos=sincos, num_channels=4, norm_pix_loss=kind == "bin", mask_ratio=0.5)
    loaded = load_model(foreign.save_transformers(theirs, tmp_path / "hf", kind))
    ours = loaded.autoencoder
    assert not ours.training
    assert ours.architecture.norm_eps == 1e-12
    assert ours.architecture.target == ("norm_pix" if kind == "bin" else "pixel")
    assert ours.masking.mask_ratio == 0.5
    assert ours.encoder.learned_positions == (not sincos)
    foreign.same_autoencoder(ours, theirs)


def test_names_of_transformers_5_are_read_too(tmp_path: Path) -> None:
    theirs = foreign.mae()
    folder = foreign.save_transformers(theirs, tmp_path / "hf")
    in_memory = {key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}
    assert "vit.layers.0.attention.q_proj.weight" in in_memory
    save_file(in_memory, folder / "model.safetensors")
    foreign.same_autoencoder(load_model(folder).autoencoder, theirs)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTMAEModel", "ViTForImageClassification"])
def test_encoders_and_classifiers_of_transformers(tmp_path: Path, kind: str) -> None:
    import transformers

    config = (transformers.ViTMAEConfig if "MAE" in kind else transformers.ViTConfig)(**foreign.VIT, qkv_bias=False)
    config.image_size = 32
    config.num_labels = 3
    config.id2label = {0: "cat", 1: "dog", 2: "cow"}
    theirs = foreign.randomize(getattr(transformers, kind)(config))
    loaded = load_model(foreign.save_transformers(theirs, tmp_path / "hf"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        if kind == "ViTForImageClassification":
            assert isinstance(loaded.model, Classifier)
            assert loaded.info["class_names"] == ["cat", "dog", "cow"]
            assert loaded.classifier.pool == "class"
            torch.testing.assert_close(loaded.model(images), theirs(images).logits, **CLOSE)
            return
        assert isinstance(loaded.model, Encoder)
        if kind == "ViTModel":
            torch.testing.assert_close(loaded.model(images), theirs(images).last_hidden_state, **CLOSE)
            assert loaded.info["provenance"]["left_out"] == ["pooler.dense.weight", "pooler.dense.bias"]
        else:
            theirs.config.mask_ratio = 0.0
            order = torch.arange(16.0).expand(2, -1) / 16  # which keeps the patches in their order
            expected = theirs(images, noise=order).last_hidden_state
            torch.testing.assert_close(openmae.load(tmp_path / "hf").encode(images), expected, **CLOSE)


def test_an_image_processor_gives_the_statistics_and_the_card_the_licence(tmp_path: Path) -> None:
    folder = foreign.save_transformers(foreign.mae(), tmp_path / "hf")
    assert load_model(folder).info["provenance"]["assumed"] == ["input statistics: ImageNet's"]
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 65535}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "README.md").write_text("---\ntags:\n- vision\nlicense: cc-by-nc-4.0\n---\nlicense: mit\n")
    loaded = load_model(folder)
    assert loaded.statistics.mean == (0.1, 0.2, 0.3)
    assert loaded.statistics.std == (0.5, 0.6, 0.7)
    assert loaded.statistics.pixels.depth == "uint16"
    assert loaded.info["licence"] == "cc-by-nc-4.0"
    assert loaded.info["provenance"]["assumed"] == []


def test_weights_in_several_files(tmp_path: Path) -> None:
    theirs = foreign.mae()
    folder = foreign.save_transformers(theirs, tmp_path / "hf")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: file for file, keys in parts.items() for key in keys}}))
    foreign.same_autoencoder(load_model(folder).autoencoder, theirs)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(UserError, match="points out of its folder"):
        load_model(folder)
    (folder / "model-2.safetensors").unlink()
    index.write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    with pytest.raises(UserError, match="model-2"):
        load_model(folder)


# ---------------------------------------------------------------- Meta


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_training_checkpoint_of_metas(tmp_path: Path, norm_pix: bool) -> None:
    theirs = foreign.mae(**foreign.STANDARD, layer_norm_eps=1e-6, norm_pix_loss=norm_pix, mask_ratio=0.5)
    arguments = {"norm_pix_loss": norm_pix, "mask_ratio": 0.5, "model": "mae_vit_tiny_patch8", "output_dir": "x"}
    file = foreign.save_training(tmp_path / "checkpoint-3.pth", foreign.meta_weights(theirs), **arguments)
    loaded = load_model(file)
    assert loaded.autoencoder.architecture.target == ("norm_pix" if norm_pix else "pixel")
    assert loaded.info["provenance"]["assumed"] == [
        "attention heads: 3, as a model of this width mostly has",
        "decoder's attention heads: 16, as Meta's code has",
        "input statistics: ImageNet's",
    ]
    assert loaded.info["licence"] is None  # whoever trained it has to say
    assert not loaded.encoder.learned_positions
    foreign.same_autoencoder(loaded.autoencoder, theirs)


@pytest.mark.parametrize(
    ("name", "target"), [("mae_visualize_vit_large.pth", "pixel"), ("mae_pretrain_vit_base_full.pth", "norm_pix")]
)
def test_released_files_with_a_decoder(tmp_path: Path, name: str, target: str) -> None:
    theirs = foreign.mae(**foreign.STANDARD, layer_norm_eps=1e-6, norm_pix_loss=target == "norm_pix", mask_ratio=0.75)
    torch.save({"model": foreign.meta_weights(theirs)}, tmp_path / name)
    loaded = load_model(tmp_path / name)
    foreign.same_autoencoder(loaded.autoencoder, theirs)
    assert loaded.info["licence"] == "CC-BY-NC-4.0"
    assert loaded.info["provenance"]["assumed"][0] == f"target: {target}, by the file's name"


def test_an_encoder_alone_never_fills_in_patches(tmp_path: Path, run: Run, data: Path) -> None:
    theirs = foreign.mae(**foreign.STANDARD, layer_norm_eps=1e-6)
    weights = {k: v for k, v in foreign.meta_weights(theirs).items() if not k.startswith(("decoder_", "mask_"))}
    file = tmp_path / "renamed.pth"
    torch.save({"model": weights}, file)
    image = next(data.rglob("*.png"))
    refused(run("reconstruct", file, image, "--out", tmp_path / "x.png"), "holds an encoder alone, without the decoder")
    assert not (tmp_path / "x.png").exists()
    theirs.config.mask_ratio = 0.0
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.vit(images, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    torch.testing.assert_close(openmae.load(file).encode(images), expected, **CLOSE)
    code, output, _ = run("knn", file, data, "--no-baselines")
    assert code == 0
    assert "licence of these weights: not stated; assumed, since nothing says it: attention heads: 3" in output


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_a_fine_tuned_file_of_metas(tmp_path: Path, pool: str) -> None:
    theirs = foreign.vit(global_pool="avg" if pool == "mean" else "token")
    assert ("fc_norm.weight" in theirs.state_dict()) == (pool == "mean")
    torch.save({"model": theirs.state_dict()}, tmp_path / "mae_finetuned_vit_base.pth")
    loaded = load_model(tmp_path / "mae_finetuned_vit_base.pth")
    assert isinstance(loaded.model, Classifier)
    assert loaded.model.pool == pool
    assert loaded.info["licence"] == "CC-BY-NC-4.0"
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), theirs(images), **CLOSE)


def test_the_licence_goes_on_to_what_is_made_of_the_weights(tmp_path: Path, run: Run, data: Path) -> None:
    theirs = foreign.vit(num_classes=0, depth=1)
    torch.save({"model": theirs.state_dict()}, tmp_path / "mae_pretrain_vit_base.pth")
    words = "--epochs 1 --batch-size 8 --img-size 16 --device cpu --precision fp32".split()
    code, output, errors = run(
        "finetune", tmp_path / "mae_pretrain_vit_base.pth", data, "--out", tmp_path / "r", *words
    )
    assert code == 0, errors
    assert "licence of these weights: CC-BY-NC-4.0" in output
    made = load_model(tmp_path / "r")
    assert made.info["licence"] == "CC-BY-NC-4.0"
    assert made.encoder.learned_positions
    assert made.encoder.img_size == (16, 16)


# ---------------------------------------------------------------- timm


@settings(max_examples=12)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    patch=st.tuples(st.sampled_from([2, 4]), st.sampled_from([2, 3])),
    in_chans=st.sampled_from([1, 2, 3, 4, 12]),
    classes=st.sampled_from([0, 3]),
    pool=st.sampled_from(["token", "avg"]),
    kind=st.sampled_from(["pth", "safetensors", "folder"]),
)
def test_timm(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    columns: int,
    patch: tuple[int, int],
    in_chans: int,
    classes: int,
    pool: str,
    kind: str,
) -> None:
    place = tmp_path_factory.mktemp("timm")
    size = (rows * patch[0], columns * patch[1])
    pool = pool if classes else "token"
    theirs = foreign.vit(img_size=size, patch_size=patch, in_chans=in_chans, num_classes=classes, global_pool=pool)
    weights = {key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}
    if kind == "folder":
        place.mkdir(exist_ok=True)
        save_file(weights, place / "model.safetensors")
        cfg = {"mean": [0.25] * in_chans, "std": [0.5] * in_chans, "input_size": [in_chans, *size], "license": "mit"}
        (place / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": cfg}))
        file = place
    elif kind == "pth":
        file = place / "a.pth"
        torch.save({"state_dict": weights}, file)
    else:
        file = place / "a.safetensors"
        save_file(weights, file)
    if kind != "folder" and rows != columns:  # learned positions do not tell their grid
        known = {1: (1, 1), 4: (2, 2), 9: (3, 3)}.get(rows * columns)
        if known is None:
            with pytest.raises(UserError, match="does not say how many rows"):
                load_model(file)
            return
    loaded = load_model(file)
    assert loaded.encoder.img_size == size
    assert loaded.info["licence"] == ("mit" if kind == "folder" else None)
    assert loaded.statistics.mean[0] == (0.25 if kind == "folder" else 0.485 if in_chans == 3 else 0.5)
    images = torch.randn(2, in_chans, *size)
    with torch.no_grad():
        expected = theirs(images) if classes else theirs.forward_features(images)
        torch.testing.assert_close(loaded.model(images), expected, **CLOSE)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"qk_norm": True}, "has normalised queries and keys"),
        ({"embed_dim": 96}, "96 is no standard width"),
    ],
)
def test_what_openmaes_vit_is_not(tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    torch.save(foreign.vit(**settings).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=complaint):
        load_model(tmp_path / "a.pth")


def test_a_model_name_without_its_weights(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(name: str, pretrained: bool) -> None:
        raise OSError("no network\nmore")

    assert pretrained_name("vit_tiny_patch16_224")
    monkeypatch.setattr(timm, "create_model", offline)
    refused(run("knn", "vit_tiny_patch16_224", data), "timm has no weights for vit_tiny_patch16_224 here (no network)")
    refused(run("knn", "vit_tniy_patch16_224", data), "does not exist")


def pretrained_name(name: str) -> bool:
    """Whether openmae takes it for a model of timm's, whose weights are elsewhere."""
    from openmae.weights import is_timm_name

    return is_timm_name(name)


# ---------------------------------------------------------------- another resolution


def test_sine_cosine_positions_are_computed_for_another_size_and_learned_ones_interpolated(tmp_path: Path) -> None:
    fixed = load_model(foreign.save_transformers(foreign.mae(), tmp_path / "fixed")).encoder
    learned = load_model(foreign.save_transformers(foreign.mae(sincos=False), tmp_path / "learned"))
    with torch.no_grad():
        learned.encoder.positions.normal_()
    expected = sincos_positions((6, 8), 24, counted_in=(4, 4))
    torch.testing.assert_close(fixed.resized((48, 64)).positions, expected)
    larger = learned.encoder.resized((48, 64)).positions  # as interpolate_pos_embed in Meta's util/pos_embed.py
    planes = learned.encoder.positions.reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    expected = F.interpolate(planes, size=(6, 8), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(larger[None], expected)
    assert learned.encoder.resized((32, 32)).positions.equal(learned.encoder.positions)


def test_learned_positions_are_trained_as_the_embedding_is() -> None:
    encoder = foreign_encoder(learned_positions=True)
    model = Classifier(encoder, 2)
    optimizer = adamw(model, (0.9, 0.999), 0.05, layer_scale(0.5, encoder.depth))
    (group,) = [g for g in optimizer.param_groups if any(p is encoder.positions for p in g["params"])]
    assert group["weight_decay"] == 0
    assert group["lr_scale"] == 0.5 ** (encoder.depth + 1)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert encoder.positions.grad is not None


def foreign_encoder(**settings: Any) -> Any:
    """An encoder as `openmae.load` makes it of others' weights."""
    from openmae.model import ViT

    return ViT((32, 32), (8, 8), 3, 24, 2, 3, **settings)


# ---------------------------------------------------------------- our own


def statistics(in_chans: int = 3) -> Statistics:
    return Statistics.from_dict(
        {"in_chans": in_chans, "pixel_type": "uint8", "mean": [0.5] * in_chans, "std": [0.25] * in_chans}
    )


@pytest.mark.parametrize("kind", ["autoencoder", "classifier", "encoder"])
def test_what_is_read_can_be_kept_as_ours(tmp_path: Path, kind: str) -> None:
    encoder = foreign_encoder(learned_positions=True, norm_eps=1e-12)
    model = {"classifier": Classifier(encoder, 2), "encoder": Encoder(encoder)}.get(kind)
    if model is None:
        model = load_model(foreign.save_transformers(foreign.mae(sincos=False), tmp_path / "hf")).autoencoder
    info = model_json(model, statistics(), {"format": "timm"}, licence="mit")
    (tmp_path / "a.safetensors").write_bytes(serialize(model, info))
    again = load_model(tmp_path / "a.safetensors")
    assert again.info == json.loads(json.dumps(info))
    assert type(again.model) is type(model)
    assert again.encoder.norm_eps == 1e-12
    for key, tensor in model.state_dict().items():
        assert again.model.state_dict()[key].equal(tensor)


@pytest.mark.parametrize("kind", ["autoencoder", "classifier"])
def test_a_file_of_before_there_were_others(tmp_path: Path, kind: str) -> None:
    """Without the fields that came with others' weights."""
    mae = create_model("vit_tiny", img_size=32, patch_size=8, depth=1, decoder_depth=1)
    model = mae if kind == "autoencoder" else Classifier(mae.encoder, 2)
    info = json.loads(json.dumps(model_json(model, statistics(), {})))
    for part in (info["architecture"], info["architecture"].get("encoder", {})):
        for name in ("norm_eps", "learned_positions", "decoder_learned_positions"):
            part.pop(name, None)
    (tmp_path / "old.safetensors").write_bytes(serialize(model, info))
    old = openmae.load(tmp_path / "old.safetensors")
    assert old.encoder.norm_eps == 1e-6
    assert not old.encoder.learned_positions


def test_the_first_byte_of_a_safetensors_file_may_be_a_pickles(tmp_path: Path) -> None:
    """It is the length of the header, which may be anything."""
    model = Encoder(foreign_encoder())
    for padding in range(256):
        data = serialize(model, {**model_json(model, statistics(), {}), "padding": " " * padding})
        if data[0] == 0x80:
            (tmp_path / "a.safetensors").write_bytes(data)
            assert openmae.load(tmp_path / "a.safetensors").encoder.depth == 2
            return
    raise AssertionError("none of the headers has such a length")


# ---------------------------------------------------------------- bad input


class Executes:
    """Pickled, it makes whoever unpickles it run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, run: Run, data: Path, legacy: bool) -> None:
    bait = Executes(f"touch {tmp_path}/ran")
    for content in (bait, {"model": bait}, {"model": foreign.vit().state_dict(), "args": bait}):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        refused(run("knn", tmp_path / "a.pth", data), "holds more than weights (posix.system)", "nothing of it was run")
    folder = foreign.save_transformers(foreign.mae(), tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    shutil.copy(tmp_path / "a.pth", folder / "pytorch_model.bin")
    refused(run("knn", folder, data), "posix.system")
    assert not (tmp_path / "ran").exists()


def test_files_of_ours_that_are_not_whole(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    refused(run("knn", tmp_path, data), "give a run folder whose run has saved weights", "MODEL first")
    cut = tmp_path / "cut.safetensors"
    weights = (finished / "model.safetensors").read_bytes()
    cut.write_bytes(weights[: len(weights) // 2])
    refused(run("knn", cut, data), "not a whole safetensors file")
    cut.write_bytes(b"\x80\x04\x95 a pickle")
    refused(run("knn", cut, data), "copy or make it anew")
    tensors = load(weights)
    save_file(tensors, cut)
    refused(run("knn", cut, data), "is a state dict of openmae's own that does not say its model's sizes")
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


def test_other_files(tmp_path: Path, run: Run, data: Path) -> None:
    def of(name: str, content: Any) -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    refused(run("knn", of("a.pth", foreign.vit()), data), "holds more than weights (timm.models.vision_transformer")
    refused(run("knn", of("b.pth", [1, 2]), data), "holds no weights")
    refused(run("knn", of("c.pth", {"model": {"a": 1}}), data), "holds no weights")
    refused(run("knn", of("d.pth", torch.nn.Linear(2, 2).state_dict()), data), "patch_embed.proj.weight is missing")
    hf = {f"vit.{key}": tensor for key, tensor in foreign.mae().vit.state_dict().items()}
    refused(run("knn", of("e.pth", hf), data), "whose config.json says its shape")
    (tmp_path / "f.pth").write_bytes(b"PK not a zip")
    refused(run("knn", tmp_path / "f.pth", data), "f.pth is no")
    (tmp_path / "g.onnx").write_bytes(b"x")
    refused(run("knn", tmp_path / "g.onnx", data), "a graph of ONNX for serving")
    (tmp_path / "h.pth").write_bytes(b"")
    refused(run("knn", tmp_path / "h.pth", data), "not a whole safetensors file")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "i.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refused(run("knn", tmp_path / "i.safetensors", data), "not a whole safetensors file")
    weights = foreign.vit().state_dict()
    del weights["blocks.1.norm1.weight"]
    weights["extra"] = torch.zeros(2)
    weights["blocks.0.attn.qkv.bias"] = torch.zeros(7)
    refused(
        run("knn", of("j.pth", weights), data),
        "blocks.1.norm1.weight is missing, extra is unexpected, blocks.0.attn.qkv.bias is (7,), not (576,)",
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "bert"}, "of the kind 'bert'"),
        ({"hidden_act": "relu"}, "computes with relu"),
        ({"num_hidden_layers": 3}, "config.json says 3 layers, and there are 2"),
        ({"hidden_size": "24"}, "hidden_size as '24'"),
        ({"hidden_size": 2**60}, "hidden_size as"),
        ({"image_size": [32, 32, 32]}, "image_size as"),
        ({"image_size": 48}, "position_embeddings is (1, 17, 24), not (1, 37, 24)"),
        ({"layer_norm_eps": -1}, "layer_norm_eps as -1"),
        ({"num_attention_heads": 5}, "no multiple of its 5 heads"),
        ({"decoder_intermediate_size": 32}, "one ratio"),
        ({"num_channels": 2**30}, "projection.weight is (24, 3, 8, 8)"),
    ],
)
def test_a_config_that_lies(tmp_path: Path, run: Run, data: Path, changes: dict[str, Any], complaint: str) -> None:
    folder = foreign.save_transformers(foreign.mae(), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with bounded():
        refused(run("knn", folder, data), complaint)


def test_a_folder_without_its_parts(tmp_path: Path, run: Run, data: Path) -> None:
    folder = foreign.save_transformers(foreign.mae(), tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    refused(run("knn", folder, data), "no model.safetensors or pytorch_model.bin")
    (folder / "config.json").write_text("[" * 5000)
    refused(run("knn", folder, data), "config.json is damaged")


def test_compressed_parts_are_not_taken_for_weights(tmp_path: Path) -> None:
    torch.save(foreign.vit(num_classes=0).state_dict(), tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as parts, zipfile.ZipFile(tmp_path / "b.pth", "w") as again:
        for part in parts.infolist():  # two that are read without complaint, as what follows them makes up the bytes
            packed = part.filename.endswith(("data/2", "data/3"))
            again.writestr(part.filename, parts.read(part), zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    with pytest.raises(UserError, match="a zip with compressed parts"):
        openmae.load(tmp_path / "b.pth")


@pytest.mark.filterwarnings("ignore")  # torch deprecates quantized tensors
def test_tensors_without_all_of_their_numbers(tmp_path: Path) -> None:
    weights = foreign.vit(num_classes=0, depth=1).state_dict()
    wide = {"mlp.fc1.weight": (2**16, 192), "mlp.fc1.bias": (2**16,), "mlp.fc2.weight": (192, 2**16)}
    repeated = {f"blocks.0.{name}": torch.zeros(()).expand(shape) for name, shape in wide.items()}
    quantized = torch.quantize_per_tensor(torch.zeros(192), 0.1, 0, torch.qint8)
    for changes, complaint in (
        (repeated, "repeats the same few numbers"),
        ({"norm.bias": quantized}, r"holds more than weights \(torch._utils._rebuild_qtensor\)"),
        ({"pos_embed": torch.zeros(1, 17, 192, device="meta")}, "holds no weights"),
    ):
        torch.save({**weights, **changes}, tmp_path / "a.pth")
        with pytest.raises(UserError, match=complaint):
            load_model(tmp_path / "a.pth")


def test_a_zip_in_several_parts(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    whole = bytearray((tmp_path / "a.pth").read_bytes())
    whole[whole.rindex(b"PK\x06\x07") + 16] = 2  # disks
    (tmp_path / "a.pth").write_bytes(whole)
    with pytest.raises(UserError, match="no whole file of torch"):
        load_model(tmp_path / "a.pth")


def test_an_old_file_that_ends_in_a_number(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "a.pth").read_bytes()
    for end in range(2, 200):
        (tmp_path / "a.pth").write_bytes(whole[:end])
        with pytest.raises(UserError):
            load_model(tmp_path / "a.pth")


def test_pipes_and_endless_descriptions_are_not_read(tmp_path: Path, run: Run, data: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    refused(run("knn", tmp_path / "pipe.pth", data), "pipe.pth is a pipe or a device")
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "vit"}')
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        refused(run("knn", folder, data), f"{name} is a pipe or a device")
    (tmp_path / "README.md").touch()
    os.truncate(tmp_path / "README.md", 2**40)
    refused(run("knn", tmp_path, data), "README.md is too large")


SEEDS = [
    pytest.param(range(12), id="few"),
    pytest.param(range(1_000_000, 1_000_400), id="many", marks=pytest.mark.slow),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seeds", SEEDS)
def test_damaged_files_are_refused(tmp_path: Path, seeds: range) -> None:
    """Damaged at random: refused in a sentence, or read where the damage is in a weight; never another error."""
    theirs = foreign.vit(depth=1, num_classes=0)
    torch.save({"model": theirs.state_dict()}, tmp_path / "new.pth")
    torch.save(theirs.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(theirs.state_dict(), tmp_path / "a.safetensors")
    originals = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def case(draws: random.Random) -> bool:
        name = draws.choice(sorted(originals))
        (tmp_path / name).write_bytes(damaged(draws, originals[name]))
        try:
            load_model(tmp_path / name)
        except UserError as error:
            if "\n" in str(error):
                raise AssertionError(f"{error} is more than a sentence") from error
            raise
        return True

    assert tried(seeds, case) < len(seeds)
