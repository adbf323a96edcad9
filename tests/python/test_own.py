"""What a researcher changes without forking: a mask, a target, a data set of his own."""

import signal
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

import openmae
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode
from openmae.data.opening import open_data
from openmae.data.sources.own import OwnImages
from openmae.errors import UserError
from openmae.masking import MASKS, Masking
from openmae.model import create_model
from openmae.own import Own
from openmae.python.kinds import data_of
from openmae.targets import OwnTarget
from tests.commands import TINY, Run
from tests.processes import run_openmae, started_openmae, steps_saved, wait_for
from tests.python.test_calls import SMALL

OWN = """
import sys
import numpy as np
import openmae

class Squares:
    targets = [0, 1] * 20
    def __len__(self):
        return 40
    def __getitem__(self, index):
        return np.random.default_rng(index).integers(0, 255, (20, 24, 3), np.uint8), index % 2

edges = lambda images, patches: patches[..., 1:13] - patches[..., :12]

def rows(generator, grid, num_visible):
    hidden = np.ones(grid, bool)
    hidden[generator.integers(grid[0])] = False
    return hidden

out, settings = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
sides = {name: int(value) if value.isdecimal() else value for name, value in settings.items()}
quick = dict(workers=2, epochs=2, checkpoint_minutes=1e-6, pictures=0, evaluations=0)
run = openmae.pretrain(Squares(), out=out, mask=rows, target=edges, **quick, **sides)
print(run)
"""


def test_what_a_model_says_of_ones_own_images(classes: Path) -> None:
    pixels = [np.random.default_rng(index).integers(0, 255, (20, 24, 3), np.uint8) for index in range(3)]
    rows = openmae.predict(classes, pixels, device="cpu", workers=0)
    files = [row["path"] for row in rows] if isinstance(rows, list) else list(rows["path"])
    assert files == ["data[0]", "data[1]", "data[2]"]


PIXELS = np.random.default_rng(0).integers(0, 255, (7, 20, 24, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (5, "the images are 5: give an address, or a data set"),
        (
            np.zeros((30, 3, 32, 24), np.uint8),
            r"arrays \(3, 32, 24\), whose channels come first: give arrays \(H, W, C\)",
        ),
        ({}, "data is empty: call them train and val, and maybe test; or give one data set that is no dict"),
        ({1: [PIXELS]}, "the data sets are called 1: call them"),
        ({"train": 5, "val": PIXELS}, "data.train is 5: give a data set, which has an item for each image"),
        ({"train": "a", "val": "b"}, "data.train is .a.: give a data set"),
        ({"train": {}, "val": {}}, "data.train is {}: give a data set"),
        (b"images", "is b'images': give a data set"),
        (dict, "is <class 'dict'>: give a data set"),
        (np.array(5), r"is array\(5\): give a data set"),
        (np.float32(5), r"5.*: give a data set"),
        (PIXELS[0], "which looks like one image: put it into a list"),
        (torch.zeros(3, 32, 32), r"Tensor is one array \(3, 32, 32\), which looks like one image"),
    ],
)
def test_what_is_no_data_set_or_channels_first_is_refused(data: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        openmae.pretrain(data, out=tmp_path / "run")


WORDS = [word.lstrip("-").replace("-", "_") for word in TINY]


def test_a_run_of_ones_own_goes_on_exactly(tmp_path: Path, run: Run) -> None:
    """Killed as hard as it goes, from a script without a guard around its call; its target is a lambda."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run_openmae([str(whole), *WORDS], code=OWN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Run({str(whole)!r}): complete\n")
    with started_openmae([str(killed), *WORDS], tmp_path / "log", code=OWN) as process:
        wait_for(lambda: steps_saved(killed) >= 3, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    assert steps_saved(killed) < 9
    code, _, said = run("pretrain", "--resume", "--out", killed)  # of what it cannot have
    assert code == 2
    assert "own:Squares, which is not kept: make the same call from Python again" in said
    assert run_openmae([str(killed), *WORDS], code=OWN).returncode == 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    config = openmae.Run(whole).config
    assert (config["data"], config["target"]) == ("own:Squares", "own:_lambda_")


@given(name=st.sampled_from(sorted(MASKS)), seed=st.integers(0, 2**32), as_map=st.booleans())
def test_a_mask_of_ones_own_is_as_good_as_a_known_one(name: str, seed: int, as_map: bool) -> None:
    def mine(generator: np.random.Generator, grid: tuple[int, ...], num_visible: int) -> Any:
        order = MASKS[name](generator, grid, num_visible)
        return np.isin(np.arange(len(order)), order[num_visible:]).reshape(grid) if as_map else order

    for unit in (1, 2):
        known, own = Masking(0.5, name, unit), Masking(0.5, Own.of(mine), unit)
        pair = [one.draw(np.random.default_rng(seed), (4, 6)) for one in (known, own)]
        for expected, found in zip(*pair, strict=True):
            assert np.array_equal(expected, found)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (lambda *_: np.zeros((4, 4), bool), "hides 0 of 16 patches, and 12 have to hide"),
        (lambda *_: np.zeros(16, int), r"gives an array \(16,\) of int64"),
        (lambda *_: [0.5], r"gives an array \(1,\) of float64: give a boolean map of the 4 x 4 patches"),
        (lambda *_: np.arange(15), r"gives an array \(15,\)"),
    ],
)
def test_what_is_no_mask_is_refused(mask: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Masking(mask=Own.of(mask)).draw(np.random.default_rng(0), (4, 4))


def test_a_target_of_ones_own_is_as_good_as_a_known_one() -> None:
    """The same loss and gradients as the target that it repeats."""

    def pixels(images: Tensor, patches: Tensor) -> Tensor:
        return patches

    sizes: dict[str, Any] = {"img_size": 16, "patch_size": 4, "depth": 1, "decoder_depth": 1}
    images, visible = torch.randn(3, 3, 16, 16), torch.arange(4).expand(3, 4)
    found = []
    for target in ("pixel", Own.of(pixels)):
        model = create_model("vit_tiny", **sizes, target=target, norm_pix_loss=False)
        model.initialize(torch.Generator().manual_seed(0))
        loss = model(images, visible).loss
        loss.backward()
        found.append((loss, *(weight.grad for weight in model.parameters())))
    for expected, own in zip(*found, strict=True):
        assert torch.equal(expected, own)


def test_a_module_as_a_target_neither_learns_nor_is_kept() -> None:
    teacher = torch.nn.Sequential(torch.nn.Linear(48, 5), torch.nn.Dropout(0.5))

    class Teacher(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = teacher

        def forward(self, images: Tensor, patches: Tensor) -> Tensor:
            return self.inner(patches)

    model = create_model("vit_tiny", img_size=16, patch_size=4, depth=1, target=Own.of(Teacher()))
    assert isinstance(model.target, OwnTarget)
    assert model.target.values == 5
    assert not [name for name in model.state_dict() if "target" in name]
    model.train()
    images = torch.randn(2, 3, 16, 16)
    model(images).loss.backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert not teacher.training
    with pytest.raises(UserError, match=r"the target .* gives \(16, 48\) for 2 images of 16 patches"):
        create_model("vit_tiny", img_size=16, patch_size=4, target=Own.of(lambda images, patches: patches[0]))


def test_what_was_trained_with_ones_own_is_loaded_and_used(tmp_path: Path, data: Path, run: Run) -> None:
    def first(generator: np.random.Generator, grid: tuple[int, ...], num_visible: int) -> Any:
        return np.arange(16)

    def means(images: Tensor, patches: Tensor) -> Tensor:
        return patches.mean(-1, keepdim=True)

    trained = openmae.pretrain(data, out=tmp_path / "run", mask=first, target=means, epochs=1, **SMALL)
    assert trained.config["mask"].startswith("own:first ")
    assert trained.config["target"] == "own:means"
    images = torch.randn(2, 3, 16, 16)
    assert trained.model.encode(images).shape == (2, 17, 24)
    with pytest.raises(UserError, match=r"the mask of this model was made by whoever trained it \(own:first\)"):
        trained.model(images)
    with pytest.raises(UserError, match=r"the target of this model was made by whoever trained it \(own:means\)"):
        trained.model(images, torch.arange(4).expand(2, 4))
    model = openmae.load(trained, mask=first, target=means)
    assert model(images).loss == model(images, torch.arange(4).expand(2, 4)).loss
    with pytest.raises(UserError, match="own:means, not pixel"):
        openmae.pretrain(data, out=tmp_path / "run", mask=first, epochs=1, **SMALL)
    with pytest.raises(UserError, match="mask = own:first"):  # of the same name, and another
        openmae.pretrain(data, out=tmp_path / "run", mask=_first(first), target=means, epochs=1, **SMALL)
    code, _, said = run("pretrain", "--resume", "--out", tmp_path / "run")
    assert code == 2
    assert "with a mask of its caller's, own:first, which is not kept" in said
    picture = run("reconstruct", tmp_path / "run", data, "--out", tmp_path / "picture.png")
    assert picture[0] == 2
    assert "the target of this model was made by whoever trained it" in picture[2]
    assert "hidden at random" in picture[1]


def _first(mask: Any) -> Any:
    def first(generator: np.random.Generator, grid: tuple[int, ...], num_visible: int) -> Any:
        return mask(generator, grid, num_visible)[::-1]

    return first


def test_a_mask_that_is_not_its_generators_is_said(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    any_mask = np.random.default_rng()
    out = tmp_path / "run"
    trained = openmae.pretrain(data, out=out, mask=lambda g, s, n: any_mask.permutation(16), epochs=1, **SMALL)
    assert "gives another mask for the same generator" in capsys.readouterr().out
    assert trained.config["mask"] == "own:_lambda_ changing"


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        list(PIXELS),
        iter(PIXELS),
        [Image.fromarray(one) for one in PIXELS],
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2),
        TensorDataset(torch.from_numpy(PIXELS).permute(0, 3, 1, 2)),
        [{"image": one} for one in PIXELS],
    ],
    ids=["array", "list", "iterable", "pillow", "tensor", "torch", "dicts"],
)
def test_a_data_set_of_any_kind_gives_the_same_bytes(images: Any) -> None:
    source = open_data(data_of(images)).all
    assert len(source) == 7
    for index in range(7):
        assert source.read(index) == OwnImages(PIXELS, "pixels").read(index)
        assert np.array_equal(np.load(BytesIO(source.read(index))), PIXELS[index])
    with pytest.raises(UserError, match="has no labels"):
        _ = source.labels


def test_labels_come_from_targets_or_from_pairs() -> None:
    class WithTargets:
        targets = torch.tensor([0, 1, 2] * 2 + [0])
        classes = ("cat", "dog", "emu")

        def __len__(self) -> int:
            return 7

        def __getitem__(self, index: int) -> Any:
            return PIXELS[index], int(self.targets[index])

    named = open_data(data_of(WithTargets())).all
    assert named.class_names == ("cat", "dog", "emu")
    assert named.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]

    class Changed(WithTargets):
        """As torchvision's with a target_transform."""

        def __getitem__(self, index: int) -> Any:
            return PIXELS[index], int(self.targets[index] > 0)

    changed = open_data(data_of(Changed())).all
    assert changed.class_names == ("0", "1")
    assert changed.labels.tolist() == [0, 1, 1, 0, 1, 1, 0]
    pairs = open_data(data_of([(one, f"class {index % 2}") for index, one in enumerate(PIXELS)])).all
    assert pairs.class_names == ("class 0", "class 1")
    assert pairs.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_a_data_set_is_packed(tmp_path: Path) -> None:
    pairs = [(image, "dark" if number < 3 else "light") for number, image in enumerate(PIXELS)]
    place = openmae.pack({"train": pairs, "val": pairs[2:4]}, tmp_path / "shards", workers=0)
    assert place == tmp_path / "shards"
    found = open_data(str(place))
    assert (len(found.train), len(found.val)) == (7, 2)
    assert found.train.class_names == ("dark", "light")
    assert sorted(found.train.labels) == [0, 0, 0, 1, 1, 1, 1]
    seen = sorted(decode(found.train.read(index), PixelFormat(3)).tobytes() for index in range(7))
    assert seen == sorted(image.tobytes() for image in PIXELS)


def test_several_data_sets_are_splits() -> None:
    data = open_data(data_of({"train": PIXELS[:5], "val": PIXELS[5:]}))
    assert (len(data.train), len(data.val), len(data.all)) == (5, 2, 7)
    with pytest.raises(UserError, match="the data sets are called a, b: call them train and val"):
        open_data(data_of({"a": PIXELS, "b": PIXELS}))


def test_a_fingerprint_tells_data_sets_apart() -> None:
    changed = PIXELS.copy()
    changed[0, 0, 0, 0] ^= 1
    first, other, fewer = (OwnImages(one, "same").fingerprint for one in (PIXELS, changed, PIXELS[:6]))
    assert first == OwnImages(PIXELS.copy(), "same").fingerprint
    assert len({first, other, fewer}) == 3


def test_what_is_no_data_set_is_refused() -> None:
    class Changing:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return np.random.default_rng().integers(0, 255, (8, 8), np.uint8)

    for images, said in (([], "data is empty"), ([None], "the first item of data cannot be used")):
        with pytest.raises(UserError, match=said):
            _ = open_data(data_of(images)).all
    with pytest.raises(UserError, match="give a text or a path"):
        openmae.stats(["a.png"])  # type: ignore[arg-type]
    (note,) = open_data(data_of(Changing())).all.notes
    assert "gives another image each time" in note
