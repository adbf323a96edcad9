"""What DINOv2's and DINOv3's encoders have beside the paper's: the outputs of timm and transformers, whole and masked;
exports that those read again; and what no encoder here has, refused by its name."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from openmae.errors import UserError
from openmae.evaluate.features import Readout, pooled_at
from openmae.heads import Classifier, Encoder, learn_last_blocks
from openmae.model import Architecture, ViT, patchify, rotations
from openmae.recipes.export.formats import hf as export_hf
from openmae.recipes.export.formats import timm as export_timm
from openmae.train.optimizers import adamw, layer_scale
from openmae.weights import Loaded, load_model, model_json, serialize, timm
from openmae.weights.fitting import Channels, fitted
from openmae.weights.shapes import photo_statistics
from tests.commands import Run, finetune
from tests.mutations import bounded
from tests.weights import foreign
from tests.weights.foreign import CLOSE

WIDE = {"rtol": 1e-5, "atol": 1e-4}  # of sums over thousands of numbers
SMALL = {"embed_dim": 48, "num_heads": 3, "num_classes": 0}
KINDS: dict[str, dict[str, Any]] = {
    "vit_small_patch14_dinov2": {},
    "vit_small_patch14_reg4_dinov2": {},
    "vit_giant_patch14_dinov2": {},
    "vit_giant_patch14_reg4_dinov2": {"img_size": (32, 48)},
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_dinov3_qkvb": {"img_size": (32, 48)},
    "vit_small_plus_patch16_dinov3": {},
    "vit_small_plus_patch16_dinov3_qkvb": {},
    "deit3_small_patch16_224": {},
    "vit_tiny_patch16_224": {"qkv_bias": False},
    "vit_base_patch16_siglip_gap_224": {},
    "vit_small_patch16_224": {"reg_tokens": 2},  # with positions for registers too
}


def theirs(kind: str, **changes: Any) -> Any:
    return foreign.vit(kind, **{**SMALL, **KINDS[kind], **changes})


def by_name(kind: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Any, Loaded]:
    """(timm's model, what `load_name` makes of it)."""
    import timm as library

    model = theirs(kind, **changes)
    monkeypatch.setattr(library, "create_model", lambda name, pretrained: model)
    return model, timm.load_name(kind)


def images_for(vit: ViT, count: int = 2) -> Tensor:
    return torch.randn(count, vit.in_chans, *vit.img_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_timms(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, loaded = by_name(kind, monkeypatch)
    images = images_for(loaded.encoder)
    assert isinstance(loaded.model, Encoder)
    with torch.no_grad():
        expected = model.forward_features(images)
        torch.testing.assert_close(loaded.model(images), expected, **CLOSE)
        # written as our own, and read again
        (tmp_path / "ours.safetensors").write_bytes(b"".join([serialize(loaded.model, loaded.info)]))
        again = load_model(tmp_path / "ours.safetensors")
        assert torch.equal(again.model(images), loaded.model(images))
        # torch.save of the model, and of its state dict
        torch.save(loaded.model.state_dict(), tmp_path / "state.pth")
        assert torch.equal(load_model(tmp_path / "state.pth").model(images), loaded.model(images))
    assert (again.encoder.registers > 0) == ("reg" in kind or "dinov3" in kind or "reg_tokens" in KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", [None, "mean", "class"])
def test_an_export_to_timm_comes_back(kind: str, pool: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The check of every export, by the line of Python that it prints, and our own reading."""
    _, loaded = by_name(kind, monkeypatch)
    if pool == "class" and loaded.encoder.read_classes == 0:
        pool = "mean"
    if pool is not None:
        model = Classifier(loaded.encoder, 3, pool).eval()
        model.initialize(0.5)
        info = model_json(model, loaded.statistics, {}, task="classification", class_names=["a", "b", "c"])
        loaded = Loaded(model, loaded.statistics, info, "it")
    monkeypatch.undo()
    file = tmp_path / "timm.safetensors"
    assert export_timm.write(loaded, file) == []
    images = images_for(loaded.encoder)
    found = export_timm.compare(loaded, file, images)
    assert found.difference < 1e-4
    with torch.no_grad():
        torch.testing.assert_close(load_model(file).model(images), loaded.model(images), **CLOSE)


# ---------------------------------------------------------------- visible patches alone


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_rotations_of_visible_patches_are_those_of_their_places(data: st.DataObject) -> None:
    """timm's blocks on a subset, its rotations taken by hand."""
    model = theirs("vit_small_plus_patch16_dinov3_qkvb")
    loaded = load_from(model)
    visible = torch.tensor([data.draw(st.permutations(range(16)))[:5] for _ in range(2)])
    images = images_for(loaded.encoder)
    vit = loaded.encoder
    with torch.no_grad():
        tokens, turns = model._pos_embed(model.patch_embed(images))
        expected = []
        for row, places in enumerate(visible):
            x = torch.cat([tokens[row : row + 1, :5], tokens[row : row + 1, 5 + places]], dim=1)
            for block in model.blocks:
                x = block(x, rope=turns[places])
            expected.append(model.norm(x))
        patches = patchify(images, vit.patch_size)
        shown = vit.embed(patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[-1])), visible)
        *_, last = vit.states(shown, places=visible)
        torch.testing.assert_close(vit.norm(last), torch.cat(expected), **CLOSE)


def load_from(model: Any, **stated: Any) -> Loaded:
    block, size = model.blocks[0], model.patch_embed.img_size
    rope = 100.0 if getattr(model, "rope", None) is not None else None
    given = timm.Stated(block.attn.num_heads, tuple(size), block.norm1.eps, rope=rope, **stated)
    return timm.load_weights(model.state_dict(), "it", given)


@pytest.mark.parametrize("kind", ["vit_small_patch14_reg4_dinov2", "vit_small_plus_patch16_dinov3_qkvb"])
@pytest.mark.parametrize("mask_token", [False, True])
def test_an_autoencoder_around_one_encodes_what_it_shows(kind: str, mask_token: bool) -> None:
    vit = load_from(theirs(kind)).encoder
    architecture = Architecture(
        **vit.arguments(),
        **{"decoder": "self", "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2},
        **{"decoder_layers": 1, "encoder_mask_token": mask_token, "target": "norm_pix"},  # type: ignore[arg-type]
        masking=Architecture.from_dict(tiny_architecture()).masking,
    )
    again = Architecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
    assert again == architecture
    model = again.build()
    model.encoder.load_state_dict(vit.state_dict())
    images = images_for(vit)
    everything = torch.arange(16).expand(2, -1)
    patches = patchify(images, vit.patch_size)
    with torch.no_grad():
        states, _ = model.encode_visible(patches, everything, everything[:, :0], torch.zeros(2, 16, dtype=torch.bool))
        torch.testing.assert_close(states[-1], vit(images), **CLOSE)
        order = torch.stack([torch.randperm(16) for _ in range(2)])  # the order that patches are shown in says nothing
        shown = patches.gather(1, order[..., None].expand_as(patches))
        states, _ = model.encode_visible(patches, order, order[:, :0], torch.zeros(2, 16, dtype=torch.bool))
        found = states[-1][:, vit.class_tokens :]
        expected = vit(images)[:, vit.class_tokens :].gather(1, order[..., None].expand_as(found))
        torch.testing.assert_close(found, expected, **CLOSE)
        assert shown.shape == patches.shape
    out = model(images, visible=everything[:, :4])
    out.loss.backward()
    learnt = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learnt == {name for name, _ in model.named_parameters()}


def tiny_architecture() -> dict[str, Any]:
    from tests.models import tiny

    return tiny().architecture.to_dict()


def test_a_key_without_a_bias_never_gets_one() -> None:
    vit = load_from(theirs("vit_small_patch16_dinov3_qkvb", img_size=32)).encoder
    model = Classifier(vit, 2).train()
    optimizer = adamw(model, (0.9, 0.95), 0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for _ in range(3):
        optimizer.zero_grad()
        model(images_for(vit)).square().sum().backward()
        optimizer.step()
    for block in vit.blocks:
        query, key, value = block.attn.qkv.bias.chunk(3)
        assert query.any()
        assert value.any()
        assert not key.any()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([4, 8, 16]))
def test_rotations_are_timms_for_every_grid(rows: int, columns: int, dim: int) -> None:
    from timm.layers import RotaryEmbeddingDinoV3

    expected = RotaryEmbeddingDinoV3(dim, feat_shape=[rows, columns]).get_embed()
    angles = rotations((rows, columns), dim, 100.0)
    ours = torch.cat([angles.sin(), angles.sin(), angles.cos(), angles.cos()], dim=1)
    torch.testing.assert_close(ours, expected, **CLOSE)


# ---------------------------------------------------------------- used as others are


@pytest.mark.parametrize("kind", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_registers_are_no_features(kind: str) -> None:
    model = theirs(kind)
    loaded = load_from(model)
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    normal = loaded.statistics.normalize(images)
    features = pooled_at(loaded.encoder, loaded.statistics, [Readout(2, "class"), Readout(2, "mean")])(images)
    with torch.no_grad():
        expected = model.forward_features(normal)
        torch.testing.assert_close(features[:, 0], expected[:, 0], **CLOSE)
        torch.testing.assert_close(features[:, 1], expected[:, 5:].mean(dim=1), **CLOSE)
        classifier = Classifier(loaded.encoder, 3, "class").eval()
        torch.testing.assert_close(classifier.features(normal), expected[:, 0], **CLOSE)


def test_every_parameter_has_its_rate_and_scales_do_not_decay() -> None:
    vit = load_from(theirs("vit_small_plus_patch16_dinov3_qkvb")).encoder
    model = Classifier(vit, 3)
    groups = adamw(model, (0.9, 0.999), 0.05, layer_scale(0.5, vit.depth)).param_groups
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    names = {name: found[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {names[f"encoder.blocks.0.scale{n}.scale"]["lr_scale"] for n in (1, 2)} == {0.25}
    assert names["encoder.blocks.1.scale1.scale"]["lr_scale"] == 0.5
    assert {names[name]["weight_decay"] for name in names if "scale" in name or "bias" in name} == {0.0}
    assert names["encoder.class_token"]["lr_scale"] == 0.125
    learn_last_blocks(model, 0.5)
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "encoder.blocks.1.scale2.scale" in learns
    assert "encoder.blocks.1.scale1.scale" not in learns


@pytest.mark.parametrize("kind", ["vit_small_patch14_reg4_dinov2", "vit_small_plus_patch16_dinov3"])
def test_other_images(kind: str) -> None:
    """timm's own resizing of positions; rotations need none."""
    model = theirs(kind, dynamic_img_size=True)
    vit = load_from(model).encoder
    new, lines = fitted(vit, img_size=(48, 64), patch_size=vit.patch_size, channels=Channels(3))
    assert new.rare_parts() == vit.rare_parts()
    how = "interpolated (bicubic)" if vit.rope is None else "by rotations, which follow from the place in the image"
    assert lines == [f"positions: 4 x 4 to 6 x 8, {how}"]
    images = images_for(new)
    with torch.no_grad():
        if vit.rope is not None:
            torch.testing.assert_close(new(images), model.forward_features(images), **CLOSE)
        assert torch.isfinite(new(images)).all()


def test_the_commands_take_one(run: Run, colours: Path, tmp_path: Path) -> None:
    """A folder of timm's through kNN, fine-tuning with layer decay, and out again."""
    model = theirs("vit_small_plus_patch16_dinov3_qkvb", img_size=16, patch_size=4)
    folder = tmp_path / "dinov3"
    folder.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "model.safetensors")
    told = {"model_args": {"img_size": 16, "num_heads": 3}, "pretrained_cfg": {"license": "dinov3-license"}}
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_small_plus_patch16_dinov3_qkvb", **told}))
    code, out, errors = run("knn", folder, colours, "--pool", "class", "--workers", "0", "--device", "cpu")
    assert code == 0, errors
    assert "dinov3-license" in out + errors
    code, _, errors = run(*finetune(folder, colours, tmp_path / "run", "--epochs 1 --layer-decay 0.5 --img-size 32"))
    assert code == 0, errors
    loaded = load_model(tmp_path / "run")
    assert (loaded.licence, loaded.encoder.img_size) == ("dinov3-license", (32, 32))
    assert loaded.encoder.rare_parts() == load_model(folder).encoder.rare_parts()
    assert not load_model(folder).encoder.blocks[1].attn.qkv.bias.chunk(3)[1].any()
    file = tmp_path / "back.safetensors"
    code, _, errors = run("export", tmp_path / "run", "--to", "timm", "--out", file)
    assert code == 0, errors
    images = images_for(loaded.encoder)
    with torch.no_grad():
        torch.testing.assert_close(load_model(file).model(images), loaded.model(images), **CLOSE)


# ---------------------------------------------------------------- other files of them


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_theta": "100"}, "has rope_theta as '100'"),
        ({"rope_theta": None, "rope_parameters": ["x"]}, "has rope_theta as None"),
        ({"num_attention_heads": 0}, "has num_attention_heads as 0"),
        ({"num_attention_heads": 5}, "is no multiple of its 5 heads"),
        ({"hidden_act": "relu"}, "computes with relu"),
        ({"key_bias": True}, "has biases of keys beside its rotations"),
        ({"image_size": 2**19}, "img_size is"),
        ({"image_size": [3, 3]}, "cannot build"),
    ],
)
def test_folders_whose_config_does_not_go_with_them(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    import transformers

    small: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "patch_size": 8}
    model = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**small, intermediate_size=40, image_size=32))
    folder = foreign.save_transformers(model, tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with bounded(), pytest.raises(UserError, match=said):
        load_model(folder)


def test_bare_weights_of_timms_dinov3_say_what_is_assumed(tmp_path: Path) -> None:
    model = foreign.vit("vit_small_patch16_dinov3", num_classes=0, img_size=256, patch_size=64)
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    assert "rotations of base 100 and a norm_eps of 1e-05, as DINOv3 has" in loaded.info["provenance"]["assumed"]
    assert "img_size: 256, which is DINOv3's; rotations fit any" in loaded.info["provenance"]["assumed"]
    images = images_for(loaded.encoder)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), model.forward_features(images), **WIDE)


@pytest.mark.parametrize(
    "kind",
    ["vit_small_patch16_dinov3", "vit_large_patch16_dinov3", "vit_huge_plus_patch16_dinov3", "vit_7b_patch16_dinov3"],
)
def test_heads_of_bare_weights_are_those_of_dinov3(kind: str) -> None:
    import timm as library

    with torch.device("meta"):  # whose weights are shapes
        model = library.create_model(kind, depth=1, num_classes=0)
    arguments, _ = timm.vit_arguments(model.state_dict(), timm.Stated(), "it")
    assert arguments["num_heads"] == model.blocks[0].attn.num_heads


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters", "DINOv3ViT"])
@pytest.mark.parametrize("gated", [False, True])
def test_folders_of_transformers(kind: str, gated: bool, tmp_path: Path) -> None:
    import transformers

    small: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    small |= {"image_size": 32, "patch_size": 8, "num_labels": 2}
    if kind == "DINOv3ViT":
        small |= {
            "intermediate_size": 40,
            "use_gated_mlp": gated,
            "hidden_act": "silu" if gated else "gelu",
            "num_register_tokens": 4,
            "rope_theta": 50.0,
        }
    else:
        small |= {"use_swiglu_ffn": gated, "qkv_bias": not gated}
    config = getattr(transformers, f"{kind}Config")(**small)
    model = foreign.randomize(getattr(transformers, f"{kind}Model")(config))
    folder = foreign.save_transformers(model, tmp_path / "hf")
    loaded = load_model(folder)
    images = images_for(loaded.encoder)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), model(images).last_hidden_state, **CLOSE)
    assert loaded.encoder.registers == (0 if kind == "Dinov2" else 4)
    if kind == "Dinov2":
        classifier = transformers.Dinov2ForImageClassification(config)
        with pytest.raises(UserError, match="classifies by its class token beside the patches' mean"):
            load_model(foreign.save_transformers(classifier, tmp_path / "classifier"))
    else:
        with pytest.raises(UserError, match=r"ViT is a plainer one, and .* has 4 register tokens, LayerScale"):
            export_hf.write_vit(loaded, tmp_path / "out")


def metas(third: bool, gated: bool, width: int = 192, patch: int = 64) -> tuple[Any, dict[str, Tensor]]:
    """(timm's model, its weights under the names that the two repositories' code has)."""
    plus = "plus_" if gated else ""
    kind = f"vit_small_{plus}patch16_dinov3_qkvb" if third else "vit_small_patch14_reg4_dinov2"
    kind = "vit_giant_patch14_reg4_dinov2" if gated and not third else kind
    sides = {"img_size": 256, "patch_size": patch} if third else {"img_size": 32, "patch_size": 8}
    model = foreign.vit(kind, embed_dim=width, num_heads=3, num_classes=0, **sides)
    weights = {}
    for key, tensor in model.state_dict().items():
        named = key.replace("reg_token", "storage_tokens" if third else "register_tokens")
        named = named.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        named = named.replace("fc1_g", "w1").replace("fc1_x", "w2")
        if gated:
            named = named.replace("mlp.fc1.", "mlp.w12.").replace("mlp.fc2.", "mlp.w3.")
        weights[named] = tensor
    for number in range(2 if third else 0):
        query, value = (weights.pop(f"blocks.{number}.attn.{which}_bias") for which in "qv")
        weights[f"blocks.{number}.attn.qkv.bias"] = torch.cat([query, torch.full_like(query, torch.nan), value])
        weights[f"blocks.{number}.attn.qkv.bias_mask"] = torch.zeros(3 * width)
    weights["mask_token"] = torch.randn(1, width)
    if third:
        weights["rope_embed.periods"] = torch.randn(width // 3 // 4)
    else:  # the class token has a position there, and registers have none
        weights["pos_embed"] = torch.cat([torch.full((1, 1, width), 0.5), weights["pos_embed"]], dim=1)
        weights["cls_token"] = weights["cls_token"] - 0.5
    return model, weights


@cache
def small_metas(third: bool, gated: bool) -> dict[str, Tensor]:
    return metas(third, gated, 24, 128)[1]


@pytest.mark.parametrize("third", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_files_of_metas(third: bool, gated: bool, tmp_path: Path) -> None:
    model, weights = metas(third, gated)
    torch.save(weights, tmp_path / "dino.pth")
    loaded = load_model(tmp_path / "dino.pth")
    images = images_for(loaded.encoder, 1)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), model.forward_features(images), **WIDE)


# ---------------------------------------------------------------- what no encoder here has


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("vit_tiny_patch16_224", {"qk_norm": True}, r"normalised queries and keys \(QK-norm\)"),
        ("vit_base_patch16_clip_224", {}, "a norm before its blocks, as CLIP has"),
        ("vit_base_patch16_siglip_224", {}, "attention pooling, as SigLIP has, .* whose name has gap in it"),
        ("eva02_small_patch14_224", {}, "has other rotations than DINOv3's"),
        ("eva02_base_patch14_224", {}, "norms inside attention or MLP, as EVA-02 has"),
        ("eva_giant_patch14_224", {}, "is an EVA with other rotations than DINOv3's"),
        ("vit_small_patch16_rope_224", {}, "has other rotations than DINOv3's"),
        ("vit_small_patch16_rope_mixed_224", {}, "rotations whose periods are learned"),
        ("vit_relpos_small_patch16_224", {}, "is no plain Vision Transformer"),
        ("vit_small_patch16_36x1_224", {"act_layer": "quick_gelu"}, "another activation"),
        ("vit_small_patch16_18x2_224", {}, "attention and MLP in parallel"),
        ("deit_small_distilled_patch16_224", {}, "a token for distillation"),
    ],
)
def test_what_is_not_held_is_named(
    kind: str, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm as library

    model = foreign.vit(kind, **{"embed_dim": 48, "num_heads": 3, **changes})
    monkeypatch.setattr(library, "create_model", lambda name, pretrained: model)
    with pytest.raises(UserError, match=said) as found:
        timm.load_name(kind)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", ["vit_small_patch16_rope_224", "vit_betwixt_patch16_rope_reg4_gap_256"])
def test_positions_that_nothing_stands_for(kind: str) -> None:
    model = foreign.vit(kind, **SMALL)
    with pytest.raises(UserError, match="has no positions"):
        timm.load_weights(model.state_dict(), "it", timm.Stated(3))


@pytest.mark.parametrize("side", [4096 * 8, 2**40, 10**30])
def test_images_that_no_weights_bound(side: int) -> None:
    model = theirs("vit_small_patch16_dinov3")
    with bounded(), pytest.raises(UserError, match="img_size is"):
        timm.load_weights(model.state_dict(), "it", timm.Stated(3, (side, side), rope=100.0))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Weights of Meta's names left out, doubled, cut, turned into other shapes or types."""
    place = tmp_path_factory.mktemp("damaged")
    weights = dict(small_metas(data.draw(st.booleans()), data.draw(st.booleans())))
    for key in data.draw(st.lists(st.sampled_from(sorted(weights)), min_size=1, max_size=3, unique=True)):
        how = data.draw(st.sampled_from(["gone", "cut", "flat", "whole numbers", "empty", "scalar", "longer"]))
        tensor = weights[key]
        changes = {
            "cut": lambda one=tensor: one[:, 1:] if one.ndim > 1 else one[1:],
            "flat": lambda one=tensor: one.flatten(),
            "whole numbers": lambda one=tensor: one.long(),
            "empty": lambda one=tensor: one[:0],
            "scalar": lambda: torch.zeros(()),
            "longer": lambda one=tensor: torch.cat([one, one]),
        }
        weights.pop(key)
        if how != "gone":
            weights[key] = changes[how]().clone()
    torch.save(weights, place / "a.pth")
    try:
        loaded = load_model(place / "a.pth", num_heads=3)
    except UserError:
        return
    assert torch.isfinite(loaded.model(images_for(loaded.encoder, 1))).all()


@pytest.mark.parametrize(
    "changes",
    [
        *({"registers": value} for value in (99, -1, "4")),
        *({"rope": value} for value in (0.5, "100", float("inf"), True)),
        *({"layer_scale": 1}, {"swiglu": "yes"}, {"qkv_bias": []}),
    ],
)
def test_descriptions_that_make_none(changes: dict[str, Any], tmp_path: Path) -> None:
    vit = load_from(theirs("vit_small_patch16_dinov3")).encoder
    info = model_json(Encoder(vit), photo_statistics(3)[0], {})
    info["architecture"]["encoder"].update(changes)
    (tmp_path / "a.safetensors").write_bytes(serialize(Encoder(vit), info))
    with pytest.raises(UserError, match=next(iter(changes))):
        load_model(tmp_path / "a.safetensors")
