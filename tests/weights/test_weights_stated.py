"""What is stated beside the weights: followed, or refused where openmae would compute something else."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from openmae.data.formats.channels import PixelFormat
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.heads import Encoder
from openmae.model import ViT
from openmae.recipes.export.formats import timm as export_timm
from openmae.weights import Loaded, load_model, model_json, serialize
from tests.weights import foreign


def folder_of_timm(folder: Path, arguments: dict[str, Any], config: dict[str, Any], model: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    model = foreign.vit(**arguments) if model is None else model
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "model.safetensors")
    described = {"architecture": "vit_tiny_patch16_224", "model_args": arguments, **config}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"global_pool": "avg", "fc_norm": False}, "pools by 'avg', without a norm"),
        ({"global_pool": "token", "fc_norm": True}, "pools by 'token', with a norm"),
        ({"global_pool": "max"}, "pools by 'max'"),
        ({"global_pool": "avg", "pool_include_prefix": True}, "pools by 'avg of all tokens'"),
        ({"act_layer": "quick_gelu"}, "computes with quick_gelu"),
    ],
)
def test_what_the_weights_of_timms_models_do_not_tell(
    arguments: dict[str, Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    model = foreign.vit(**arguments)
    with pytest.raises(UserError, match=complaint):
        load_model(folder_of_timm(tmp_path, arguments, {}, model))
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: model)
    with pytest.raises(UserError, match="another activation" if "act_layer" in arguments else complaint):
        load_model("vit_tiny_patch16_224")


@pytest.mark.parametrize(
    "config",
    [
        {"pretrained_cfg": {"license": ["mit"]}},
        {"norm_eps": -1},
        {"norm_eps": float("nan")},
        {"task": "sorting"},
        {"position_grid": [2]},
        {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "pixel_type": "int4"}},
        {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "bands": [0, 1, 2]}},
    ],
)
def test_a_config_of_timms_that_lies(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be"):
        load_model(folder_of_timm(tmp_path, {}, config))


def test_the_licence_of_a_folder_is_its_cards_where_the_config_has_none(tmp_path: Path) -> None:
    folder_of_timm(tmp_path, {}, {"pretrained_cfg": {}})
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert load_model(tmp_path).licence == "cc-by-nc-4.0"
    folder_of_timm(tmp_path, {}, {"pretrained_cfg": {"license": "mit"}})
    assert load_model(tmp_path).licence == "mit"


def test_bands_and_positions_between_those_of_another_grid_come_back_from_timm(tmp_path: Path) -> None:
    encoder = ViT((16, 16), (8, 8), 2, 24, 1, 3).resized((24, 16))
    statistics = Statistics((0.2, 0.3), (0.4, 0.5), PixelFormat(2, (3, 1), "uint16"))
    model = Encoder(encoder)
    foreign.randomize(model)
    loaded = Loaded(model, statistics, model_json(model, statistics, {}), "it")
    export_timm.write(loaded, tmp_path / "a.safetensors")
    again = load_model(tmp_path / "a.safetensors")
    assert again.statistics == statistics
    assert again.encoder.arguments() == encoder.arguments()
    assert again.encoder.positions.equal(encoder.positions)


def test_our_header_with_a_licence_that_is_no_text(tmp_path: Path) -> None:
    model = Encoder(ViT((8, 8), (8, 8), 1, 8, 1, 1))
    statistics = Statistics((0.5,), (0.5,), PixelFormat(1, None, "uint8"))
    info = {**model_json(model, statistics, {}), "licence": ["mit"]}
    (tmp_path / "a.safetensors").write_bytes(serialize(model, info))
    with pytest.raises(UserError, match="its licence is"):
        load_model(tmp_path / "a.safetensors")


def folder_of_transformers(folder: Path, config: dict[str, Any], processor: dict[str, Any]) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    model = foreign.randomize(ViTForImageClassification(ViTConfig(**foreign.VIT, num_labels=4)))
    foreign.save_transformers(model, folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, **config}))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def test_names_of_other_outputs_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 4 outputs and names 2 classes"):
        load_model(folder_of_transformers(tmp_path, {"id2label": {"0": "a", "1": "b"}}, {"do_normalize": False}))


def test_a_processor_that_does_not_normalise(tmp_path: Path) -> None:
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_normalize": False}
    statistics = load_model(folder_of_transformers(tmp_path, {}, processor)).statistics
    assert (statistics.mean, statistics.std) == ((0.0,) * 3, (1.0,) * 3)
