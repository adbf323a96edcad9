"""Features of layers, how many directions they fill, and what is asked of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.held_out import split_for
from openmae.data.loading.in_order import CentredImages, KeptImages
from openmae.data.opening import open_data
from openmae.data.tasks import answers
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.evaluate.evaluation import How, evaluate
from openmae.evaluate.features import Readout, centred_images, extract, extract_each, pooled, pooled_at, readouts
from openmae.evaluate.rank import rankme
from openmae.model import ViT, initialize
from openmae.weights import load_model
from tests.images import write_images

GREY = Statistics((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), PixelFormat(3))


@pytest.fixture
def encoder() -> ViT:
    vit = ViT((16, 16), (4, 4), 3, 24, 3, 2, class_tokens=2)
    initialize(vit, torch.Generator().manual_seed(0))
    return vit.eval()


def test_one_pass_gives_what_each_layer_and_pool_gives_alone(encoder: ViT) -> None:
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    places = readouts(encoder, [1, 3], ["mean", "class"])
    assert places == [Readout(1, "mean"), Readout(1, "class"), Readout(3, "mean"), Readout(3, "class")]
    found = pooled_at(encoder, GREY, places)(images)
    assert found.shape == (5, 4, 24)
    for number, place in enumerate(places):
        tokens = encoder(GREY.normalize(images), place.layer)
        expected = (tokens[:, :2] if place.pool == "class" else tokens[:, 2:]).mean(1)
        torch.testing.assert_close(found[:, number], expected)
        torch.testing.assert_close(pooled(encoder, GREY, place.pool, place.layer)(images), expected)
    rough = pooled_at(encoder, GREY, places, "bf16")(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, found)
    torch.testing.assert_close(rough, found, atol=0.05, rtol=0.05)


def test_places_that_a_model_lacks(encoder: ViT) -> None:
    with pytest.raises(UserError, match="no layer 4: give 1 to 3"):
        readouts(encoder, [1, 4], ["mean"])
    with pytest.raises(UserError, match="no class token"):
        readouts(ViT((16, 16), (4, 4), 3, 24, 1, 2, class_tokens=0), None, ["class"])


def test_images_are_read_once_for_all_functions(encoder: ViT, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "bad.png").write_bytes(b"none")
    images = centred_images(encoder, GREY, open_data(str(write_images(tmp_path, 9))).all)
    heard: list[int] = []
    (one, two), indices = extract_each(
        images,
        [lambda batch: batch.float().mean((2, 3)), lambda batch: batch.float().amax((1, 2, 3))],
        torch.device("cpu"),
        0,
        progress=heard.append,
    )
    names = [images.source.name(index) for index in indices.tolist()]
    assert len(names) == len(one) == len(two) == heard[-1] == 9
    assert not any(name.endswith("bad.png") for name in names)
    alone, _ = extract(images, lambda batch: batch.float().mean((2, 3)), torch.device("cpu"), 0)
    torch.testing.assert_close(one, alone)
    kept = KeptImages(images.source, images.pixels, images.img_size, images.patch_size)
    first, _ = extract(kept, lambda batch: batch.float().mean((2, 3)), torch.device("cpu"), 0)
    extract(kept, lambda batch: batch.float().mean((2, 3)), torch.device("cpu"), 0)
    for path in tmp_path.rglob("*.*g"):
        path.unlink()
    again, _ = extract(kept, lambda batch: batch.float().mean((2, 3)), torch.device("cpu"), 0)
    assert torch.equal(first, alone)
    assert torch.equal(again, alone)


def test_why_no_image_is_good(encoder: ViT, tmp_path) -> None:  # type: ignore[no-untyped-def]
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "small.png")
    four = CentredImages(open_data(str(tmp_path)).all, PixelFormat(5), (16, 16), (4, 4))
    with pytest.raises(UserError, match=r"none of the 2 images in .* \(the first is .*grey\.png: .*channel"):
        extract(four, lambda batch: batch.float(), torch.device("cpu"), 0)
    good = CentredImages(open_data(str(tmp_path)).all, PixelFormat(1), (16, 16), (4, 4))
    with pytest.raises(UserError, match="not finite"):
        extract(good, lambda batch: batch.float().mean((2, 3)) / 0, torch.device("cpu"), 0)


# ---------------------------------------------------------------- effective rank


@given(st.integers(2, 40), st.integers(1, 20), st.integers(0, 9))
def test_rankme_is_the_entropy_of_numpys_singular_values(count: int, dim: int, seed: int) -> None:
    features = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * torch.logspace(0, -3, dim)
    singular = np.linalg.svd(features.double().numpy(), compute_uv=False)
    shares = singular / np.abs(singular).sum() + 1e-7
    assert rankme(features) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_rankme_of_what_is_known() -> None:
    assert rankme(torch.eye(12).repeat(5, 1)) == pytest.approx(12, rel=1e-4)
    assert rankme(torch.randn(50, 1) @ torch.randn(1, 12)) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.randn(30_000, 4)) == pytest.approx(4, rel=0.01)  # of more rows than are looked at
    assert rankme(3 * torch.eye(12)) == rankme(torch.eye(12))


def test_evaluation_reads_its_labels_by_name(finished: Path, tmp_path: Path) -> None:
    """A val set that lacks the first class must not shift the others' numbers."""
    for split, classes in (("train", "abc"), ("val", "bc")):
        for number, name in enumerate("abc"):
            if name in classes:
                place = tmp_path / split / name
                place.mkdir(parents=True)
                for copy in range(3):
                    Image.new("RGB", (16, 16), [(250, 0, 0), (0, 250, 0), (0, 0, 250)][number]).save(
                        place / f"{copy}.png"
                    )
    opened = open_data(str(tmp_path))
    train, val = opened.train, opened.val
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
