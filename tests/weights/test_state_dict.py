"""`torch.save(model.state_dict(), file)` of our own models: read as what they are."""

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import openmae
from openmae import create_model
from openmae.errors import UserError
from openmae.heads import Classifier, Encoder
from openmae.model import ViT
from openmae.weights import load_model
from tests.commands import Run
from tests.models import TINY, randomize

MODELS: dict[str, Callable[[], nn.Module]] = {
    "self": lambda: create_model(**TINY),
    "cross, several class tokens": lambda: create_model(
        **{**TINY, "num_heads": 3, "decoder": "cross", "class_tokens": 3, "in_chans": 5, "img_size": (32, 48)}
    ),
    "encoder": lambda: Encoder(create_model(**TINY).encoder.resized((48, 32))),
    "ViT": lambda: create_model(**TINY).encoder,
    "learned": lambda: Encoder(ViT((16, 16), (4, 4), 1, 24, 2, 6, learned_positions=True, norm_eps=1e-5)),
    "classifier": lambda: Classifier(create_model(**TINY).encoder, 7, "class", batch_norm=True),
    "compiled": lambda: nn.ModuleDict({"_orig_mod": create_model(**TINY)}),
    "of several processes": lambda: nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": create_model(**TINY)})}),
}


@pytest.mark.parametrize("nest", [None, "model"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_saved_state_dict_is_read_as_what_it_is(kind: str, nest: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    randomize(model)
    weights = model.state_dict()
    torch.save(weights if nest is None else {nest: weights, "epoch": 3}, tmp_path / "a.pth")
    loaded = load_model(tmp_path / "a.pth")
    while isinstance(model, nn.ModuleDict):
        (model,) = model.values()
    assert type(loaded.model) is (Encoder if isinstance(model, ViT) else type(model))
    encoder = model if isinstance(model, ViT) else model.encoder
    assert isinstance(encoder, ViT)
    assert loaded.encoder.arguments() == encoder.arguments()
    images = torch.randn(2, encoder.in_chans, *encoder.img_size)
    with torch.no_grad():
        expected, found = (
            one(images) if isinstance(one, Classifier | ViT) else one.encode(images)
            for one in (model, openmae.load(tmp_path / "a.pth"))
        )
    assert expected.equal(found)
    assert loaded.origin.startswith("licence of these weights: not stated; assumed, since nothing says it: input")
    if hasattr(model, "architecture"):
        assert loaded.autoencoder.architecture == model.architecture


def test_the_state_dict_itself_is_as_it_was() -> None:
    """No more entries; it loads, is copied and is pickled as before."""
    model = create_model(**TINY)
    weights = model.state_dict()
    assert set(weights) == {name for name, _ in model.named_parameters()}
    copy.deepcopy(model).load_state_dict(pickle.loads(pickle.dumps(weights)))
    again = pickle.loads(pickle.dumps(model))
    assert again.state_dict()._metadata[""] == weights._metadata[""]


def test_bare_weights_need_the_model_json_of_their_run(finished: Path, tmp_path: Path, run: Run, data: Path) -> None:
    weights = load_file(finished / "model.safetensors")
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(dict(weights), tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        with pytest.raises(UserError, match="is a state dict of openmae's own that does not say"):
            load_model(tmp_path / name)
    shutil.copy(finished / "model.json", tmp_path / "model.json")
    expected = load_model(finished)
    for name in ("a.safetensors", "a.pth"):
        loaded = load_model(tmp_path / name)
        assert loaded.info == expected.info
        assert loaded.statistics == expected.statistics
        images = torch.randn(1, loaded.encoder.in_chans, *loaded.encoder.img_size)
        with torch.no_grad():
            assert loaded.encoder(images).equal(expected.encoder(images))
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(UserError, match="describes a model that this version of openmae cannot build"):
        load_model(tmp_path / "a.pth")
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="is missing"):
        load_model(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "described",
    [
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps({"kind": "encoder", "architecture": {"encoder": {"in_chans": 10**12}}}),
        json.dumps({"kind": "vit", "architecture": {"encoder": {"in_chans": 3}}}),
    ],
)
def test_a_description_that_lies(described: str, tmp_path: Path) -> None:
    weights = create_model(**TINY).state_dict()
    weights._metadata[""]["openmae"] = described
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(UserError, match="cannot build"):
        load_model(tmp_path / "a.pth")
    weights._metadata[""]["openmae"] = 3
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(UserError, match="does not say its model's sizes"):
        load_model(tmp_path / "a.pth")
