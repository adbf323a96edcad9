"""`openmae embed --pool patches`: the grids as torch makes them, the files that others read, and their picture."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.decomposition import PCA

import openmae
from openmae.evaluate.embedding import embed
from openmae.recipes.embed import file as files
from openmae.recipes.embed.components import components
from openmae.recipes.embed.file import read_grids
from openmae.weights import load_model
from tests.commands import Run
from tests.images import write_images
from tests.recipes.test_embed import array_images, save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.safetensors", tokens=2)


@pytest.mark.parametrize("layer", [None, 1])
def test_grids_are_the_encoders_patch_tokens(
    layer: int | None, model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_GROUP_BYTES", 20_000)  # several groups of parquet
    pixels = array_images(tmp_path / "data.npz", 33)
    with torch.no_grad():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        tokens = load_model(model).encoder((images - 0.4) / 0.2, layer)
    expected = tokens[:, 2:].unflatten(1, (4, 4)).numpy()  # behind the class tokens
    flags = [] if layer is None else ["--layer", layer]
    words = ("embed", model, tmp_path / "data.npz", *flags, "--pool", "patches", "--precision", "fp32", "--workers", 0)
    for kind in ("parquet", "npy"):
        out = tmp_path / f"f.{kind}"
        code, said, errors = run(*words, "--out", out, "--batch-size", 10)
        assert code == 0, errors
        assert "33 grids of 4 x 4 patches, 24 values each" in said
        np.testing.assert_allclose(read_grids(out, [0, 7, 32]), expected[[0, 7, 32]], atol=1e-5)
        with Image.open(tmp_path / "f-pca.png") as picture:
            assert min(picture.size) > 300
    stored = np.load(tmp_path / "f.npy")
    assert stored.shape == (33, 4, 4, 24)
    np.testing.assert_allclose(stored, expected, atol=1e-5)
    assert json.loads((tmp_path / "f.json").read_text())["grid"] == [4, 4]
    table = pq.read_table(tmp_path / "f.parquet")
    assert pq.ParquetFile(tmp_path / "f.parquet").num_row_groups > 2
    assert table.schema.names == ["path", "label", "rows", "columns", "vectors"]
    rows = table.to_pylist()
    found = np.array([np.reshape(row["vectors"], (row["rows"], row["columns"], 24)) for row in rows], np.float32)
    np.testing.assert_array_equal(found, stored)
    assert "has their features already" in run(*words, "--out", tmp_path / "f.npy")[1]


def test_broken_images_are_left_out(model: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_images(tmp_path / "data", 9)
    (data / "class0/000.jpg").write_bytes(b"broken")
    words = ("--pool", "patches", "--picture", tmp_path / "new.png", "--workers", 0)
    assert run("embed", model, data, "--out", tmp_path / "f.npy", *words)[0] == 0
    assert len(np.load(tmp_path / "f.npy")) == 8
    assert (tmp_path / "new.png").stat().st_size > 10_000
    grids, names = embed(model, str(data), pool="patches")
    assert grids.shape == (8, 4, 4, 24)
    assert "class0/000.jpg" not in names
    for out in (None, tmp_path / "g.parquet"):
        found = openmae.embed(model, data, pool="patches", precision="fp32", workers=0, out=out)
        assert found.vectors.shape == (8, 4, 4, 24)
        np.testing.assert_allclose(found.vectors, grids, atol=1e-5)
        assert found.paths == names
        assert found.places is None
    assert "not kept (give picture='patches.png')" in capsys.readouterr().out


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6))
def test_components_are_scikit_learns(seed: int, width: int, images: int) -> None:
    draws = np.random.default_rng(seed)
    grids = (draws.normal(size=(images, 3, 4, width)) * np.arange(1, width + 1)).astype(np.float32)
    colours, shares = components(grids)
    assert colours.shape == (images, 3, 4, 3)
    kept = min(3, width)
    oracle = PCA(kept).fit(grids.reshape(-1, width).astype(np.float64))
    assert shares == pytest.approx(oracle.explained_variance_ratio_.tolist(), abs=1e-6)
    values = oracle.transform(grids.reshape(-1, width).astype(np.float64))
    for place in range(kept):
        own = colours.reshape(-1, 3)[:, place].astype(float)
        assert abs(np.corrcoef(own, values[:, place])[0, 1]) > 0.98  # the sign is nobody's
    assert (colours[..., kept:] == 128).all()


def test_vectors_that_are_all_the_same_are_grey() -> None:
    colours, shares = components(np.ones((2, 3, 3, 5), np.float32))
    assert (colours == 128).all()
    assert shares == [0, 0, 0]
