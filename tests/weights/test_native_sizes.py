"""model.json with sizes that no weights bound, or numbers that make none: refused by name, and soon."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openmae import create_model
from openmae.data.formats.channels import PixelFormat
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.heads import Classifier, Encoder
from openmae.weights import load_model, model_json, serialize
from tests.models import TINY, tiny
from tests.mutations import bounded

STATISTICS = Statistics((0.5,) * 3, (0.25,) * 3, PixelFormat(3))


def changed(file: Path, change: Callable[[dict[str, Any]], None], kind: str = "autoencoder") -> Path:
    """A small model's file whose description is changed, its weights as they were."""
    mae = tiny()
    model = {"autoencoder": mae, "encoder": Encoder(mae.encoder), "classifier": Classifier(mae.encoder, 2)}[kind]
    info = json.loads(json.dumps(model_json(model, STATISTICS, {})))
    change(info)
    file.write_bytes(serialize(model, info))
    return file


def encoder_of(info: dict[str, Any]) -> dict[str, Any]:
    return info["architecture"].get("encoder", info["architecture"])


@pytest.mark.parametrize("kind", ["autoencoder", "encoder", "classifier"])
@pytest.mark.parametrize("side", [2048, 16384, 2**20, 2**40, 10**30])
def test_images_that_are_absurdly_large(side: int, kind: str, tmp_path: Path) -> None:
    file = changed(tmp_path / "a.safetensors", lambda info: encoder_of(info).update(img_size=[side, side]), kind)
    assert file.stat().st_size < 200_000
    with bounded(), pytest.raises(UserError, match=f"its img_size is .{side}, {side}"):
        load_model(file)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"img_size": [32, 2**30]}, "img_size"),
        ({"img_size": [-32, 32]}, "img_size"),
        ({"img_size": [32.0, 32]}, "img_size"),
        ({"img_size": "32"}, "img_size"),
        ({"img_size": [33, 32]}, "img_size"),
        ({"patch_size": [0, 8]}, "patch_size"),
        ({"patch_size": [1, 192]}, "patch_size"),
        ({"position_grid": [-1, 4]}, "position_grid"),
        ({"position_grid": [10**400, 4]}, "position_grid"),
        ({"num_heads": 10**9}, "heads"),
        ({"num_heads": 0}, "num_heads"),
        ({"depth": 10**9}, "blocks"),
        ({"embed_dim": 2**40}, "."),
        ({"mlp_ratio": 1e300}, "."),
        ({"class_tokens": 2**40}, "."),
    ],
)
def test_sizes_that_do_not_go_with_the_weights(changes: dict[str, Any], name: str, tmp_path: Path) -> None:
    file = changed(tmp_path / "a.safetensors", lambda info: encoder_of(info).update(changes), "encoder")
    with bounded(), pytest.raises(UserError, match=name):
        load_model(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"std": [0.0, 0.1, 0.1]},
        {"std": [-0.1, 0.1, 0.1]},
        {"mean": [float("nan"), 0.1, 0.1]},
        {"mean": [1e999, 0.1, 0.1]},
        {"mean": [0.1]},
        {"std": []},
    ],
)
def test_statistics_that_make_no_numbers(changes: dict[str, Any], tmp_path: Path) -> None:
    file = changed(tmp_path / "a.safetensors", lambda info: info["statistics"].update(changes))
    with pytest.raises(UserError, match=r"mean|deviation"):
        load_model(file)


def test_large_images_of_a_model_that_was_trained_with_them(tmp_path: Path) -> None:
    for name, model in {
        "small": tiny(img_size=512),
        "many": create_model(**{**TINY, "img_size": 1024}),
    }.items():
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(serialize(model, model_json(model, STATISTICS, {})))
        assert load_model(file).encoder.img_size == model.encoder.img_size
