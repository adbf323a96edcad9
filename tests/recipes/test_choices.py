"""What is chosen where a setting was left open: the paper's tables, and what fits small data."""

import functools
import io
from dataclasses import fields, replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from openmae.data.formats.channels import PixelFormat
from openmae.data.sources.joined import Joined
from openmae.data.sources.source import Source
from openmae.data.survey.directions import Directions
from openmae.data.survey.sample import Survey
from openmae.data.views.mixing import GROUP
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.model import SIZES, ViT, create_model
from openmae.recipes.finetune import choose as finetune_choices
from openmae.recipes.finetune.build import finish_of
from openmae.recipes.finetune.labelled import say_turned
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain import choose as pretrain_choices
from openmae.recipes.pretrain.build import architecture_of
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.blocks import block_for
from openmae.recipes.training.encoder import Start
from openmae.recipes.training.memory import usable_memory

STATISTICS = Statistics((0.5,) * 3, (0.2,) * 3, PixelFormat())
CPU = torch.device("cpu")
GPU = torch.device("cuda")  # named only
QUIET = Console(quiet=True)


def look(side: int = 256) -> Survey:
    return Survey(STATISTICS, (side, side), {0: (side, side)}, {3: 1}, "most have 3", 1, ())


def test_views_are_turned_where_no_direction_means_anything() -> None:
    def chosen(share: float, images: int = 1024, **given_: object) -> tuple[str | None, str | None]:
        seen = replace(look(), directions=Directions(0.5, share, 0.5, images))
        asked = Pretrain("data", Path("out"), precision="fp32", **given_)  # type: ignore[arg-type]
        found = pretrain_choices.choose(asked, seen, 1000, CPU, 16 * 10**9, QUIET)
        return found.vflip, found.rotate90

    assert chosen(0.52) == ("on", "on")
    assert chosen(0.6) == chosen(0.52, images=150) == (None, None)
    assert chosen(0.52, recipe="paper") == (None, None)
    assert chosen(0.52, vflip="off") == ("off", "on")


def test_finetune_proposes_turned_views_after_a_run_that_had_them(tmp_path: Path) -> None:
    def said(**given_: object) -> str:
        console = Console(file=io.StringIO())
        say_turned(Finetune(str(tmp_path), "data", Path("out"), **given_), console)  # type: ignore[arg-type]
        return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    assert said() == ""
    (tmp_path / "config.toml").write_text('rotate90 = "on"\n')
    assert "--vflip on --rotate90 on" in said()
    assert said(vflip="off") == said(rotate90="on") == ""
    (tmp_path / "config.toml").write_text('rotate90 = "off"\n')
    assert said() == ""


def test_grey_images_take_one_channel_unless_something_speaks_for_three() -> None:
    grey = replace(look(), grey=1)
    asked = functools.partial(Pretrain, "data", Path("out"))
    assert pretrain_choices.one_channel(asked(), grey).statistics.pixels.in_chans == 1
    assert "grey" in pretrain_choices.one_channel(asked(), grey).why_channels
    for given_ in ({"in_chans": 3}, {"recipe": "paper"}, {"from_": "m"}, {"mean": (0.5,) * 3}, {"bands": (1, 2, 3)}):
        assert pretrain_choices.one_channel(asked(**given_), grey) is grey
    assert pretrain_choices.one_channel(asked(), look()).statistics.pixels.in_chans == 3


def pretraining(
    images: int, device: torch.device = CPU, side: int = 256, memory: int = 16 * 10**9, **given_: object
) -> Pretrain:
    settings = Pretrain("data", Path("out"), precision="fp32", **given_)  # type: ignore[arg-type]
    return pretrain_choices.choose(settings, look(side), images, device, memory, QUIET)


@functools.cache
def encoder_of(model: str) -> ViT:
    """Of this size, without its weights."""
    with torch.device("meta"):
        return create_model(model).encoder


def finetuning(
    images: int = 50_000, model: str = "vit_base", target: str | None = "norm_pix", **given_: object
) -> Finetune:
    settings = Finetune("model", "data", Path("out"), precision="fp32", **given_)  # type: ignore[arg-type]
    encoder = encoder_of(model)
    start = Start(encoder, STATISTICS, target, is_new=False)
    return finetune_choices.choose(settings, start, "classification", images, CPU, QUIET)


def test_the_papers_pre_training_is_table_8() -> None:
    found = pretraining(1_281_167, recipe="paper")
    assert (found.model, found.img_size, found.patch_size) == ("vit_base", 224, 16)
    assert (found.epochs, found.warmup_epochs, found.batch_size, found.blr) == (800, 40, 4096, 1.5e-4)
    assert (found.weight_decay, found.mask_ratio, found.crop_scale) == (0.05, 0.75, (0.2, 1.0))
    assert (found.decoder_embed_dim, found.decoder_depth, found.decoder_num_heads) == (512, 8, 16)
    assert pretraining(10, recipe="paper", model="vit_huge").patch_size == 14


def test_where_the_released_code_differs_from_the_tables() -> None:
    """main_pretrain.py, main_finetune.py and main_linprobe.py: crops, tokens' decay, the last rate, positions."""
    found = pretraining(1_281_167, recipe="paper")
    assert (found.crop_fit, found.decay_tokens) == ("retry", "on")
    assert pretrain_choices.settle(found, 1_281_167, QUIET).decay_tokens
    assert pretraining(1000).decay_tokens == "off"

    tuned = finetuning(recipe="paper")
    assert (tuned.crop_fit, tuned.min_lr, tuned.positions) == ("retry", 1e-6, "learned")
    run = finetune_choices.settle(tuned, 50_000, QUIET)
    assert run.head.learned_positions
    assert run.course.schedule.lr(run.course.schedule.steps) == pytest.approx(1e-6)
    for other in (finetuning(recipe="paper", target=None), finetuning(), finetuning(recipe="paper", blocks="1")):
        assert other.positions == "fixed"
    assert finetuning().min_lr == 0

    probe = finetuning(recipe="paper", **finetune_choices.LINEAR_PROBE)
    assert (probe.crop_fit, probe.min_lr, probe.positions) == ("clamp", 0, "fixed")
    assert finetune_choices.settle(probe, 50_000, QUIET).augmentation.crop_fit == "clamp"


def test_a_run_that_began_before_crops_could_be_chosen_goes_on_with_its_own() -> None:
    before = replace(pretraining(1000), crop_fit=None, decay_tokens=None)
    run = pretrain_choices.settle(before, 1000, QUIET)
    assert (run.augmentation.crop_fit, run.decay_tokens) == ("clamp", False)
    assert "crop_fit" not in {name for name, value in run.config.items() if value is not None}
    shown = StringIO()
    tuned = replace(finetuning(ra_magnitude=9.0), crop_fit=None, min_lr=None, positions=None)
    old = finetune_choices.settle(tuned, 50_000, Console(file=shown, width=10_000))
    assert (old.augmentation.crop_fit, old.head.learned_positions) == ("clamp", False)
    assert "whose RandAugment was weaker" in shown.getvalue()


class Far(Source):
    """So many images of so many bytes on a server; nobody reads them."""

    fingerprint, class_names, labels = "far", (), np.zeros(0, np.int64)  # type: ignore[assignment]

    def __init__(self, images: int, size: float | None) -> None:
        self.images, self.size, self.location = images, size, "far"

    def __len__(self) -> int:
        return self.images

    @property
    def bytes_far(self) -> float | None:
        return self.size

    def name(self, index: int) -> str:
        raise NotImplementedError

    def read(self, index: int) -> bytes:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("images", "size", "block"),
    [(10**9, None, 1), (10**9, 50_000.0, 84), (10**6, 2e7, 1), (20_000, 50_000.0, 20), (900, 50_000.0, 1), (9, 0.0, 1)],
)
def test_how_many_images_are_read_at_once(images: int, size: float | None, block: int) -> None:
    shown = StringIO()
    source = Far(images, size)
    parts = Joined("both", [Far(3, None), source]) if size else source
    for one in (source, parts):
        assert block_for(one, Console(file=shown, width=10_000)) == block
    assert ("come from a server" in shown.getvalue()) == (block > 1)
    if block == 84:
        assert "84 that lie one after the other are read at once, 4 MB" in shown.getvalue()


@pytest.mark.parametrize(
    ("model", "target", "expected"),
    [
        ("vit_base", "norm_pix", {"blr": 5e-4, "layer_decay": 0.65, "epochs": 100, "drop_path": 0.1}),
        ("vit_base", "pixel", {"blr": 1e-3, "layer_decay": 0.75, "epochs": 100, "drop_path": 0.1}),
        ("vit_large", "norm_pix", {"blr": 1e-3, "layer_decay": 0.75, "epochs": 50, "drop_path": 0.2}),
        ("vit_huge", "norm_pix", {"blr": 1e-3, "layer_decay": 0.75, "epochs": 50, "drop_path": 0.3}),
    ],
)
def test_the_papers_fine_tuning_is_table_9(model: str, target: str, expected: dict[str, float]) -> None:
    found = finetuning(model=model, target=target, recipe="paper")
    assert {name: getattr(found, name) for name in expected} == expected
    common = {"batch_size": 1024, "weight_decay": 0.05, "warmup_epochs": 5, "ra_magnitude": 9, "random_erase": 0.25}
    common |= {"mixup": 0.8, "cutmix": 1, "label_smoothing": 0.1, "ema_decay": 0, "pool": "mean"}
    assert {name: getattr(found, name) for name in common} == common


@pytest.mark.parametrize(("model", "epochs", "drop_path"), [("vit_base", 300, 0.1), ("vit_large", 200, 0.2)])
def test_the_papers_training_from_scratch_is_table_11(model: str, epochs: int, drop_path: float) -> None:
    found = finetuning(model=model, target=None, recipe="paper", from_scratch=True)
    assert (found.epochs, found.drop_path, found.warmup_epochs) == (epochs, drop_path, 20)
    assert (found.blr, found.weight_decay, found.batch_size, found.layer_decay) == (1e-4, 0.3, 4096, 1)
    assert (found.random_erase, found.ema_decay, found.ra_magnitude) == (0, 0.9999, 9)
    assert (found.mixup, found.cutmix, found.label_smoothing) == (0.8, 1, 0.1)


@settings(max_examples=40)
@given(st.integers(1, 3_000_000), st.integers(8, 3000), st.sampled_from([CPU, GPU]))
def test_what_is_chosen_can_be_trained(images: int, side: int, device: torch.device) -> None:
    found = pretraining(images, device, side, micro_batch=16)  # what fits in the memory is another test's
    assert found.batch_size is not None
    assert found.epochs is not None
    assert found.warmup_epochs is not None
    assert 32 <= found.batch_size <= 4096
    assert 0 < found.warmup_epochs < found.epochs
    assert isinstance(found.img_size, int)
    assert isinstance(found.patch_size, int)
    assert found.img_size % found.patch_size == 0
    assert found.img_size // found.patch_size >= 2
    tuned = finetuning(images)
    assert tuned.batch_size is not None
    assert tuned.micro_batch is not None
    assert tuned.micro_batch in (tuned.batch_size,) or tuned.micro_batch % GROUP == 0


@settings(max_examples=25)
@given(st.integers(1, 1_000_000), st.integers(1, 1_000_000))
def test_more_images_are_seen_no_more_often_each(fewer: int, more: int) -> None:
    fewer, more = sorted((fewer, more))
    for device in (CPU, GPU):
        few, many = (pretraining(images, device, micro_batch=16) for images in (fewer, more))
        assert (few.epochs or 0) >= (many.epochs or 0)
        assert (few.batch_size or 0) <= (many.batch_size or 0)
    assert (finetuning(fewer).epochs or 0) >= (finetuning(more).epochs or 0)


@settings(max_examples=25)
@given(st.integers(1, 1_000_000), st.floats(0.01, 100))
def test_a_short_pre_training_takes_small_batches_for_more_steps(images: int, epochs: float) -> None:
    for device in (CPU, GPU):
        long, short = (pretraining(images, device, micro_batch=16, epochs=times) for times in (1e6, epochs))
        assert long.batch_size is not None
        assert short.batch_size is not None
        assert 32 <= short.batch_size <= long.batch_size
        assert short.batch_size in (32, long.batch_size) or epochs * images / short.batch_size >= 800
        if short.batch_size < long.batch_size:
            assert epochs * images / (2 * short.batch_size) < 800


WIDTHS = st.integers(1, 40).map(lambda times: 48 * times)


def test_few_steps_from_a_fitted_head_have_a_lower_rate() -> None:
    """In proportion below 500 steps (docs/log.md has the curve); a head that knows nothing yet needs all of it."""

    def rate(steps: float, **more: object) -> float:
        return finetuning(3200, batch_size=32, epochs=steps / 100, **more).blr or 0.0

    whole = rate(500)
    assert rate(5000) == whole
    assert [rate(steps) / whole for steps in (250, 70)] == pytest.approx([0.5, 0.14])
    assert rate(70, head_from="fresh") == rate(500, head_from="fresh") == whole
    assert rate(70, recipe="paper") == rate(5000, recipe="paper")


@settings(max_examples=20)
@given(st.integers(1, 8192), WIDTHS, WIDTHS)
def test_narrower_encoders_learn_at_a_higher_rate(batch_size: int, narrow: int, wide: int) -> None:
    """As the inverse of the width, up to the paper's own rate; those of vit_small's width and wider at the paper's."""
    narrow, wide = sorted((narrow, wide))
    found = [
        pretraining(1000, batch_size=batch_size, embed_dim=width, num_heads=3, micro_batch=1).blr or 0.0
        for width in (narrow, wide)
    ]
    low, high = 1.5e-4 * (4096 / batch_size) ** 0.5, max(1.5e-4 * (4096 / batch_size) ** 0.5, 2.4e-3 * 256 / batch_size)
    assert low * (1 - 1e-12) <= found[1] <= found[0] <= high * (1 + 1e-12)
    for width, blr in zip((narrow, wide), found, strict=True):
        assert blr == pytest.approx(low if width >= 384 else min(high, low * 384 / width))
    assert pretraining(1000, recipe="paper", model="vit_tiny", micro_batch=1).blr == 1.5e-4


@settings(max_examples=20)
@given(st.integers(2, 120).map(lambda half: 2 * half), st.booleans(), st.sampled_from(["vit_tiny", "vit_huge"]))
def test_patches_are_the_largest_that_cut_enough(side: int, is_given: bool, model: str) -> None:
    """By one rule, whether the size is asked for or follows from the images."""
    largest = 14 if model == "vit_huge" else 16
    patches = [patch for patch in (largest, 8, 4, 2) if not is_given or side % patch == 0]
    found = pretraining(1000, side=side, model=model, img_size=side if is_given else None, micro_batch=1, memory=10**12)
    assert isinstance(found.img_size, int)
    assert found.img_size == side if is_given else found.img_size <= max(side, 4)
    enough = [patch for patch in patches if side // patch >= (8 if patch > 4 else 4)]
    assert found.patch_size == max(enough, default=2)


@settings(max_examples=50)
@given(st.integers(10, 2_000_000), st.floats(0.1, 1000))
def test_a_short_training_augments_less_than_the_paper(images: int, epochs: float) -> None:
    """None in a very short one, all of it in one as long as the paper's, never more, and all settings alike."""
    found, paper = finetuning(images, epochs=epochs), finetuning(images, epochs=epochs, recipe="paper")
    names = ("mixup", "cutmix", "ra_magnitude", "random_erase", "drop_path")
    shares = [getattr(found, name) / getattr(paper, name) for name in names]
    assert min(shares) == pytest.approx(max(shares))
    assert 0 <= shares[0] <= 1
    assert found.crop_scale is not None
    gentle = 0.7 if images <= 100 else 0.4
    assert found.crop_scale[0] == pytest.approx(gentle - shares[0] * (gentle - 0.08))
    if epochs <= 10 or epochs * images <= 30_000:
        assert shares[0] == 0
    if epochs >= 100 and epochs * images >= 10_000_000:
        assert shares[0] == 1
    if epochs > 11 and epochs * images > 40_000:
        assert shares[0] > 0


@given(st.integers(1, 2_000_000), st.sampled_from([None, 32, 100, 4096]))
def test_enough_steps_are_taken(images: int, batch_size: int | None) -> None:
    found = finetuning(images, batch_size=batch_size)
    assert found.epochs is not None
    assert found.batch_size is not None
    assert found.epochs * images / found.batch_size >= 500


def test_the_memory_decides_how_many_images_go_through_at_once() -> None:
    sizes = []
    for gigabytes in (150.0, 16.0, 7.5):
        found = pretraining(1_281_167, GPU, recipe="paper", model="vit_large", memory=int(gigabytes * 10**9))
        sizes.append((found.micro_batch or 0, found.grad_checkpointing))
    assert [again for _, again in sizes] == ["off", "off", "on"]
    assert sizes[0][0] > 8 * sizes[1][0] >= 8 * 16
    assert sizes[2][0] >= 8
    with pytest.raises(UserError, match=r"vit_large takes more than the 5.0 GB of this CUDA: choose a smaller --model"):
        pretraining(1_281_167, GPU, recipe="paper", model="vit_large", memory=5 * 10**9)
    assert pretraining(50_000, GPU, side=32, model="vit_tiny", memory=150 * 10**9).micro_batch == 1024  # the batch
    assert pretraining(50_000, CPU, side=32).micro_batch == 64


@pytest.mark.usefixtures("threads")
def test_each_lane_has_so_many_where_that_takes_little() -> None:
    small = {"embed_dim": 128, "depth": 4, "num_heads": 4}
    assert pretraining(50_000, CPU, side=32, **small).micro_batch == 128
    assert pretraining(50_000, CPU, side=32, batch_size=96, **small).micro_batch == 96
    assert pretraining(50_000, CPU, recipe="paper", model="vit_base", memory=64 * 10**9).micro_batch == 64


@pytest.mark.parametrize("model", SIZES)
def test_create_model_makes_what_pretrain_makes(model: str) -> None:
    chosen = architecture_of(pretraining(10_000, model=model))
    with torch.device("meta"):
        made = create_model(model, img_size=chosen.img_size, patch_size=chosen.patch_size).architecture
    assert made == chosen


def test_a_light_decoder_is_one_word() -> None:
    given_: dict[str, Any] = {"model": "vit_base", "micro_batch": 8}
    fast, auto = pretraining(9000, recipe="fast", **given_), pretraining(9000, **given_)
    assert (fast.decoder, fast.predict_fraction, fast.decoder_depth) == ("cross", 0.25, 4)
    assert replace(fast, recipe="auto", decoder="self", predict_fraction=1.0, decoder_depth=8) == auto
    kept = pretraining(9000, recipe="fast", decoder="self", predict_fraction=0.5, micro_batch=8)
    assert (kept.decoder, kept.predict_fraction) == ("self", 0.5)


def test_compiling_is_for_long_runs_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "g++").write_text("")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    settings: dict[str, Any] = {"recipe": "paper", "micro_batch": 256}
    assert pretraining(1_281_167, GPU, **settings).compile == ("on" if find_spec("triton") else "off")
    assert pretraining(1_281_167, GPU, compile="off", **settings).compile == "off"
    assert pretraining(2_000, GPU, epochs=10, **settings).compile == "off"
    assert pretraining(1_281_167, GPU, mask_schedule="linear", mask_ratio_end=0.9, **settings).compile == "off"
    assert pretraining(1_281_167, CPU, **settings).compile == "off"
    (tmp_path / "g++").unlink()
    assert pretraining(1_281_167, GPU, **settings).compile == "off"


def test_what_was_given_is_kept() -> None:
    given_ = {"epochs": 7.0, "batch_size": 96, "blr": 0.5, "warmup_epochs": 1.0, "micro_batch": 32}
    for recipe in ("auto", "paper"):
        for found in (pretraining(1000, recipe=recipe, **given_), finetuning(1000, recipe=recipe, **given_)):
            assert {name: getattr(found, name) for name in given_} == given_


def test_what_images_and_labels_rule_out() -> None:
    deep = Statistics((0.5,), (0.2,), PixelFormat(1, None, "uint16"))
    with torch.device("meta"):
        encoder = create_model("vit_tiny", in_chans=1).encoder
    settings = Finetune("model", "data", Path("out"), precision="fp32")
    found = finetune_choices.choose(
        settings, Start(encoder, deep, "norm_pix", is_new=False), "regression", 100, CPU, QUIET
    )
    assert (found.ra_magnitude, found.mixup, found.cutmix, found.label_smoothing) == (0, 0, 0, 0)
    several = finetune_choices.choose(
        settings, Start(encoder, STATISTICS, "norm_pix", is_new=False), "multi-label", 100, CPU, QUIET
    )
    assert several.label_smoothing == 0


def test_randaugment_of_deep_images_is_refused_in_a_sentence() -> None:
    deep = Statistics((0.5,), (0.2,), PixelFormat(1, None, "uint16"))
    run = finetune_choices.settle(finetuning(1000, ra_magnitude=9.0), 1000, QUIET)
    assert finish_of(run, STATISTICS).ra_magnitude == 9
    with pytest.raises(UserError, match="RandAugment is for 8-bit images"):
        finish_of(run, deep)


def test_what_a_step_may_take_leaves_room_for_the_rest() -> None:
    assert usable_memory(80 * 10**9, "cuda", None) == 64 * 10**9
    assert usable_memory(64 * 10**9, "cpu", 1) == int(0.8 * 64e9)
    for limit in (10**9, 2 * 10**9, 6 * 10**9):  # a container's
        with_one, with_four = (usable_memory(limit, "cpu", workers) for workers in (1, 4))
        assert with_four < with_one <= limit - 550 * 2**20
    assert usable_memory(10**8, "cpu", 1) == 0


@pytest.mark.parametrize("mixing", [0.0, 0.8])
def test_a_fine_tuning_takes_what_fits_a_container(mixing: float) -> None:
    start = Start(encoder_of("vit_small"), STATISTICS, "norm_pix", is_new=False)
    settings = Finetune(
        "model", "data", Path("out"), precision="bf16", batch_size=64, mixup=mixing, cutmix=mixing, workers=1
    )
    found = []
    for memory in (None, 16 * 10**9, 3 * 10**9, 2 * 10**9):
        chosen = finetune_choices.choose(settings, start, "classification", 1000, CPU, QUIET, memory)
        found.append((chosen.micro_batch, chosen.grad_checkpointing))
    fitting = [(64, "on"), (32, "on")] if mixing else [(16, "off"), (8, "off")]  # mixed in groups of 32
    assert found == [(64, "off"), (64, "off"), *fitting]
    given_ = replace(settings, micro_batch=64, grad_checkpointing="off")
    chosen = finetune_choices.choose(given_, start, "classification", 1000, CPU, QUIET, 2 * 10**9)
    assert (chosen.micro_batch, chosen.grad_checkpointing) == (64, "off")


def test_each_choice_is_printed_with_its_reason() -> None:
    shown = StringIO()
    settings = Finetune("model", "data", Path("out"), precision="fp32", epochs=3)
    encoder = create_model("vit_tiny", img_size=32, patch_size=8, depth=1).encoder
    console = Console(file=shown, width=10_000)
    found = finetune_choices.choose(
        settings, Start(encoder, STATISTICS, None, is_new=False), "classification", 999, CPU, console
    )
    lines = shown.getvalue().splitlines()
    flags = [line.split(":")[0] for line in lines[1:]]
    asked = [field.name for kind in Finetune.__bases__ for field in fields(kind)]  # of every command, and not chosen
    turns = ("vflip", "rotate90")  # off where they are left open: they are proposed, not chosen
    turns += ("shuffle_block",)  # chosen with the images, and said where it is more than 1
    open_before = [
        name
        for name in vars(found)
        if (
            getattr(settings, name) is None
            and name not in ("labels", "task", "minutes", "workers", "log", "keep_best", "patience", *turns, *asked)
        )
        or name == "grad_checkpointing"
    ]
    assert {flag.split()[0] for flag in flags} == {f"--{n.replace('_', '-')}" for n in open_before} - {"--clip-grad"}
    assert all(line.split(": ", 1)[1] for line in lines[1:])
    assert replace(found, **{name: getattr(settings, name) for name in open_before}) == settings
