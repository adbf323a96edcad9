"""How other libraries show an exported model its images: as `openmae evaluate` does, or told where they cannot."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openmae.data.bundled import bundled_pictures
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.reading import Reading
from openmae.data.sources.selection import Selection
from openmae.data.views.crop import centred_view, covering_sides
from openmae.data.views.statistics import Statistics
from openmae.heads import Classifier, Encoder
from openmae.model import ViT
from openmae.recipes.export.formats import timm as export_timm
from openmae.recipes.export.outputs import order
from openmae.recipes.export.views import KEY, of_model_size, read_otherwise
from openmae.weights import Loaded, load_model, model_json, serialize
from tests.commands import Run
from tests.weights import foreign

STATISTICS = Statistics((0.4, 0.45, 0.5), (0.2, 0.25, 0.3), PixelFormat(3))
TEN = ["0", "1", "10", "11", "2", "3"]


def classifier(file: Path, names: list[str], side: int = 32, **provenance: Any) -> Loaded:
    """A small classifier that is sensitive to what it sees, as a file of ours."""
    model = Classifier(ViT((side, side), (8, 8), 3, 24, 2, 3), len(names))
    foreign.randomize(model)
    info = model_json(model.eval(), STATISTICS, provenance, task="classification", class_names=names)
    file.write_bytes(serialize(model, info))
    return load_model(file)


def images_of(folder: Path, names: list[str], size: tuple[int, int]) -> Path:
    """Cuts of photographs, in a folder for each class."""
    for number, (name, (_, picture)) in enumerate(zip(names, bundled_pictures(), strict=False)):
        (folder / name).mkdir(parents=True)
        part = Image.fromarray(picture[: size[0] * 2, : size[1] * 2])
        part.resize((size[1], size[0])).save(folder / name / f"{number}.png")
    return folder


def printed(run: Run, *words: object) -> tuple[Any, str]:
    """(timm's model by the line that is printed, all that is printed)."""
    code, said, errors = run("export", *words)
    assert (code, errors) == (0, "")
    line = said.strip().splitlines()[-1].strip()
    return eval(line, {"timm": timm, "torch": torch}).eval(), said


def seen_by_timm(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return {str(file): transform(Image.open(file).convert("RGB")) for file in sorted(folder.rglob("*.png"))}


def seen_by_us(loaded: Loaded, folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.rglob("*.png")):
        view = centred_view(np.array(Image.open(file).convert("RGB")), loaded.encoder.img_size)
        pixels = torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1)))[None]
        found[str(file)] = loaded.statistics.normalize(pixels)[0]
    return found


@pytest.mark.parametrize(
    ("size", "how"), [((32, 32), "own"), ((32, 32), "data"), ((64, 64), "own"), ((100, 75), "data")]
)
def test_timms_transform_shows_what_evaluate_does(size: tuple[int, int], how: str, tmp_path: Path, run: Run) -> None:
    names = ["a", "b", "c", "d"]
    folder = images_of(tmp_path / "data", names, size)
    loaded = classifier(tmp_path / "in.safetensors", names, data=str(folder) if how == "own" else "data")
    words = (tmp_path / "in.safetensors", "--to", "timm", "--out", tmp_path / "out.safetensors")
    theirs, said = printed(run, *words, *(["--data", folder] if how == "data" else []))
    ours, found = seen_by_us(loaded, folder), seen_by_timm(theirs, folder)
    for file, expected in ours.items():
        # Pillow's kernel, which timm's transform has, rounds between its two passes.
        assert (found[file] - expected).abs().max() < (1e-6 if size == (32, 32) else 0.05)
        with torch.no_grad():
            torch.testing.assert_close(theirs(expected[None]), loaded.model(expected[None]), rtol=0, atol=1e-5)
    is_whole = size == (32, 32)
    assert ("takes images of 32 x 32 pixels as they are" in said) == is_whole
    assert ("enlarges and crops images of exactly 32 x 32" in said) == (not is_whole)
    assert f"give crop_pct={'0.888' if is_whole else '1'}" in said
    assert load_model(tmp_path / "out.safetensors").info["class_names"] == names
    about = json.loads((tmp_path / "out.json").read_text())
    assert about.get(KEY) == (True if is_whole else None)


@pytest.mark.parametrize("size", [(32, 32), (64, 64)])
def test_transformers_processor_shows_what_evaluate_does(size: tuple[int, int], tmp_path: Path, run: Run) -> None:
    names = ["a", "b", "c"]
    folder = images_of(tmp_path / "data", names, size)
    loaded = classifier(tmp_path / "in.safetensors", names, data=str(folder))
    code, said, _ = run("export", tmp_path / "in.safetensors", "--to", "hf-vit", "--out", tmp_path / "out")
    assert code == 0
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    for file, expected in seen_by_us(loaded, folder).items():
        pixels = processor(images=Image.open(file), return_tensors="pt").pixel_values[0]
        assert (pixels - expected).abs().max() < 0.02
    assert ("takes images of 32 x 32 pixels as they are" in said) == (size == (32, 32))


@given(sides=st.tuples(st.integers(1, 600), st.integers(1, 600)), whole=st.booleans())
def test_timm_finds_our_sides(sides: tuple[int, int], whole: bool) -> None:
    encoder = Encoder(ViT((4, 4), (4, 4), 3, 8, 1, 1))
    encoder.encoder.img_size = sides
    info = {**model_json(encoder, STATISTICS, {}), KEY: whole}
    part = export_timm.crop_pct(Loaded(encoder, STATISTICS, info, "it"))
    cover = sides if whole else covering_sides(sides)
    kept = [int(np.floor(side / part)) for side in sides]
    assert 0 < part <= 1
    if sides[0] == sides[1]:
        assert kept == [*cover]
    else:
        assert np.abs(np.subtract(kept, cover)).max() <= 1


def test_windows_that_a_model_learnt_from_are_what_it_is_for(tmp_path: Path) -> None:
    folder = images_of(tmp_path / "data", ["a", "b"], (64, 64))
    tiles = Selection(tile="32").to_dict()
    whole, windows = (
        classifier(tmp_path / f"{number}.safetensors", ["a", "b"], data=str(folder), selection=selection)
        for number, selection in enumerate(({}, tiles))
    )
    assert not of_model_size(whole, None)
    assert of_model_size(windows, None)


def test_data_that_is_not_there_any_more(tmp_path: Path, run: Run) -> None:
    classifier(tmp_path / "in.safetensors", ["a", "b"], data=str(tmp_path / "gone"))
    theirs, said = printed(run, tmp_path / "in.safetensors", "--to", "timm", "--out", tmp_path / "out.safetensors")
    assert "enlarges and crops images of exactly 32 x 32" in said
    assert theirs.pretrained_cfg["crop_pct"] < 1


def test_no_word_where_the_views_are_the_same(tmp_path: Path, run: Run) -> None:
    classifier(tmp_path / "in.safetensors", ["a", "b"], side=232)
    theirs, said = printed(run, tmp_path / "in.safetensors", "--to", "timm", "--out", tmp_path / "out.safetensors")
    assert "images of exactly" not in said
    assert theirs.pretrained_cfg["crop_pct"] == 1.0


# ---------------------------------------------------------------- what the outputs stand for


def test_the_order_of_the_classes_is_said_and_travels(tmp_path: Path, run: Run) -> None:
    classifier(tmp_path / "in.safetensors", TEN)
    theirs, said = printed(run, tmp_path / "in.safetensors", "--to", "timm", "--out", tmp_path / "out.safetensors")
    assert "Outputs: 0 0, 1 1, 2 10, 3 11, 4 2, 5 3." in said
    assert "timm's reader of folders would number these classes otherwise (0 0, 1 1, 2 2, 3 3, 4 10, 5 11)" in said
    assert list(theirs.pretrained_cfg["label_names"]) == TEN
    code, said, _ = run("export", tmp_path / "in.safetensors", "--to", "hf-vit", "--out", tmp_path / "hf")
    assert code == 0
    assert "Outputs: 0 0, 1 1, 2 10" in said
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert [config.id2label[number] for number in range(6)] == TEN


def test_orders_are_those_of_the_readers(tmp_path: Path) -> None:
    from timm.data.readers.reader_image_folder import find_images_and_targets
    from torchvision.datasets import ImageFolder

    loaded = classifier(tmp_path / "in.safetensors", ["x"])
    folder = images_of(tmp_path / "data", ["B", "a", "1", "10", "9", "b2", "b10"], (8, 8))
    _, by_timm = find_images_and_targets(str(folder))
    by_torchvision = ImageFolder(str(folder)).classes
    for names, other in ((sorted(by_timm, key=by_timm.__getitem__), "torchvision"), (by_torchvision, "timm")):
        sentences = order(replace(loaded, info={**loaded.info, "class_names": names}))
        assert len(sentences) == 2
        assert sentences[1].startswith(other)


def test_many_classes_are_not_all_in_a_line(tmp_path: Path, run: Run) -> None:
    names = [f"class{number:03}" for number in range(40)]
    classifier(tmp_path / "in.safetensors", names)
    theirs, said = printed(run, tmp_path / "in.safetensors", "--to", "timm", "--out", tmp_path / "out.safetensors")
    assert "8 class008, 9 class009, ..., 39 class039." in said
    assert theirs.pretrained_cfg.get("label_names") is None
    assert json.loads((tmp_path / "out.json").read_text())["class_names"] == names


def test_what_other_readers_do_not_do_is_said(tmp_path: Path) -> None:
    loaded = classifier(tmp_path / "model.safetensors", ["a", "b"])
    assert read_otherwise(loaded) == read_otherwise(loaded.reading(Reading("ignore", "hwc", "frames", None, ()))) == []
    (said,) = read_otherwise(loaded.reading(Reading("white", "hwc", nodata=(0.0, -9999.0))))
    assert "with --alpha white --nodata 0 -9999;" in said
