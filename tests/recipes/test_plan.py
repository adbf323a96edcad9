"""What a plan says: its arithmetic by hand, where its speed comes from, what it refuses."""

import json
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from openmae.console.words import si, size_of
from openmae.data.formats.channels import PixelFormat
from openmae.data.survey.sample import Survey
from openmae.data.views.statistics import Statistics
from openmae.masking import Masking
from openmae.model import Architecture, create_model
from openmae.recipes.plan import job as plan_recipe
from openmae.recipes.plan.estimate import Estimate
from openmae.recipes.plan.settings import DERIVED, Plan
from openmae.recipes.plan.speed import Speed, read_measured
from openmae.recipes.plan.tables import time_of
from openmae.recipes.pretrain.build import Pretraining, architecture_of
from openmae.recipes.pretrain.choose import choose, settle
from openmae.recipes.pretrain.settings import DERIVED as RUN_DERIVED
from openmae.recipes.pretrain.settings import Pretrain
from openmae.train.cost import flops, parameters
from tests.commands import TINY, Run, refused
from tests.images import write_images

SIZES = TINY[: TINY.index("--batch-size")]
SHORT = [*SIZES, "--precision", "fp32", "--device", "cpu", "--seconds", "0.5", "--epochs", "4", "--batch-size", "8"]


def estimate(**different: Any) -> Estimate:
    """ViT-B of 1000 images, 8 epochs, in batches of 64 and 16 at once: 125 steps."""
    return replace(USUAL, **different)


SETTINGS = Pretrain(
    "data",
    model="vit_base",
    img_size=224,
    patch_size=16,
    in_chans=3,
    pixel_type="uint8",
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    decoder="self",
    decoder_embed_dim=512,
    decoder_depth=8,
    decoder_num_heads=16,
    blr=1.5e-4,
    epochs=8,
    batch_size=64,
    micro_batch=16,
    precision="bf16",
    grad_checkpointing="off",
)
SPEED = Speed(1e14, "measured")


def planned(settings: Pretrain) -> Pretraining:
    return settle(settings, 1000, Console(quiet=True))


USUAL = Estimate(SETTINGS, 1000, planned(SETTINGS), SPEED, None, "cuda", 80 * 10**9, 1, 12.5 * 10**9)


def bench(file: Path, *entries: dict[str, Any], **different: Any) -> Path:
    """A file as `openmae bench` writes it."""
    usual = {"contender": "openmae", "model": "vit_base", "img_size": 224, "patch_size": 16, "precision": "bf16"}
    usual |= {"micro_batch": 256, "images_per_second": 3500.0, "tflops": 200.0, "matmul_tflops": 600.0}
    usual |= {"peak_memory": 40 * 10**9}
    results = [{**usual, **entry} for entry in entries or ({},)]
    found = {"machine": "GPU of a test", "device": "cuda", "torch": "2.9", "commit": None, "results": results}
    file.write_text(json.dumps({**found, **different}))
    return file


def test_hours_by_hand() -> None:
    found = estimate()
    each = flops(found.architecture).step
    assert found.views == 8000
    assert found.images_per_second == pytest.approx(1e14 / each)
    alone = found.scaled(1)
    assert alone.step == pytest.approx(64 * each / 1e14)
    assert alone.hours == pytest.approx(125 * 64 * each / 1e14 / 3600)
    assert alone.hours * 3600 * found.images_per_second == pytest.approx(found.views)
    assert (alone.efficiency, alone.device_hours) == (1, alone.hours)


def test_scaling_by_hand() -> None:
    """8 GPUs, 8 images each in one micro-batch: 2/3 of the step hide the exchange."""
    found = estimate(link=1e9)
    computing = 64 * flops(found.architecture).step / 1e14 / 8
    exchange = 2 * 7 / 8 * 4 * sum(parameters(found.architecture)) / 1e9
    assert exchange > computing
    eight = found.scaled(8)
    assert eight.step == pytest.approx(computing + exchange - 2 / 3 * computing)
    assert eight.efficiency == pytest.approx(computing / eight.step)
    assert eight.device_hours == pytest.approx(8 * eight.hours)
    # On 2, each takes two micro-batches: only the second one's backward pass hides anything.
    two = found.scaled(2)
    assert two.step == pytest.approx(computing * 4 + exchange * 4 / 7 - 2 / 3 * computing * 4 / 2)


@given(st.integers(1, 64), st.floats(1e6, 1e12), st.floats(1.1, 100))
def test_efficiency_is_never_above_1_and_falls_with_a_slow_link(count: int, link: float, slower: float) -> None:
    fast, slow = estimate(link=link).scaled(count), estimate(link=link / slower).scaled(count)
    assert 0 < slow.efficiency <= fast.efficiency <= 1
    assert fast.device_hours >= estimate().scaled(1).device_hours * (1 - 1e-9)


def test_the_table_ends_where_a_gpu_would_have_no_image() -> None:
    assert [s.count for s in estimate().scaling()] == [1, 8, 16, 32, 64]
    assert [s.count for s in estimate(gpus=4).scaling()] == [1, 4, 8, 16, 32, 64]
    few = estimate(planned=planned(replace(SETTINGS, batch_size=20)))
    assert [s.count for s in few.scaling()] == [1, 8, 16]


def test_what_changes() -> None:
    found = estimate(other=Speed(5e13, "measured"))

    def of_model(name: str) -> Pretrain:
        return replace(found.settings, model=name)  # type: ignore[arg-type]

    changes = dict(found.changes(of_model))

    def hours(what: str) -> float:
        return changes[what].scaled(1).hours

    here = found.scaled(1).hours
    base = flops(found.architecture).step
    assert set(changes) == {
        "--decoder cross --decoder-depth 4 --predict-fraction 0.25",
        "--decoder-depth 1",
        "--mask-ratio 0.5",
        "--mask-ratio 0.9",
        "--grad-checkpointing on",
        "--precision fp32",
        "--model vit_small",
        "--model vit_large",
    }
    assert hours("--precision fp32") == pytest.approx(2 * here)
    large = flops(architecture("vit_large")).step
    assert hours("--model vit_large") == pytest.approx(here * large / base)
    assert hours("--decoder-depth 1") < here < hours("--mask-ratio 0.5")
    assert hours("--grad-checkpointing on") > here
    assert changes["--grad-checkpointing on"].memory.total < found.memory.total
    custom = replace(found, settings=replace(found.settings, depth=3))
    assert not any("--model" in what for what, _ in custom.changes(of_model))


def said(output: str, label: str) -> str:
    """The line of the output that begins with this word."""
    return next(line for line in output.splitlines() if line.startswith(f"{label} "))


def test_a_dry_run_and_its_numbers_agree(run: Run, tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", 40)
    code, output, errors = run("plan", data, *SHORT)
    assert code == 0, errors
    length = "36 images x 4 epochs in batches of 8: 18 steps"  # of 40, of which 4 are set aside for the pictures
    assert length in said(output, "length")
    rate = float(re.search(r"([\d.,]+) images/s", said(output, "speed"))[1].replace(",", ""))  # type: ignore[index]
    seconds = float(re.search(r"([\d.]+) s,", said(output, "time"))[1])  # type: ignore[index]
    assert rate * seconds == pytest.approx(144, rel=0.02)
    assert "in fp32 on this CPU" in said(output, "speed")
    assert "fits in the" in output
    command = shlex.split(output.strip().splitlines()[-1])
    assert command[:4] == ["openmae", "pretrain", str(data), "--out"]


def test_every_setting_of_a_pre_training_is_planned_with_or_known_to_change_nothing() -> None:
    asked, planned = ({field.name.rstrip("_") for field in fields(kind)} for kind in (Pretrain, Plan))
    assert set(DERIVED) == asked - planned | set(RUN_DERIVED)


def test_the_files_of_stats_and_of_a_run_are_settings(run: Run, tmp_path: Path, data: Path, finished: Path) -> None:
    stats = tmp_path / "stats.toml"
    assert run("stats", data, "--out", stats, "--workers", "0")[0] == 0
    code, output, errors = run("plan", data, "--config", stats, *SHORT)
    assert code == 0, errors
    assert "--pixel-type uint8" in output
    code, output, errors = run("plan", "--config", finished / "config.toml", "--seconds", "0.5")
    assert code == 0, errors
    assert f"openmae pretrain {data} --out RUN" in output
    assert "--depth 2 --num-heads 2" in output
    assert "--epochs 3" in output


def test_the_command_makes_the_run_that_was_planned(run: Run, tmp_path: Path) -> None:
    """Whatever is chosen where it is run: here for a CPU what was planned for a GPU."""
    _, output, _ = run("plan", "--images", 5000, "--measured", bench(tmp_path / "bench.json"), "--mask-ratio", 0.6)
    words = shlex.split(output.strip().splitlines()[-1])
    settings = tyro.cli(Pretrain, args=words[2:])
    look = Survey(Statistics((0.5,) * 3, (0.2,) * 3, PixelFormat()), (64, 64), {}, {}, "", 0, ())
    console = Console(quiet=True)
    chosen = choose(settings, look, 5000, torch.device("cpu"), 64 * 10**9, console)
    assert architecture_of(chosen) == architecture("vit_base", masking=Masking(0.6))
    assert (chosen.epochs, chosen.batch_size, chosen.precision) == (1600, 128, "bf16")


def test_the_command_is_typed_as_it_is_read() -> None:
    chosen = replace(
        Pretrain(), nodata=(-9999.0, -3.4e38), bands=(3, 2, 1), img_size=(32, 64), exclude=("*_a.*", "b c")
    )
    for settings in (chosen, replace(chosen, nodata=(-1.0,)), replace(chosen, nodata=())):
        words = shlex.split(plan_recipe.command(Plan(), settings))
        assert tyro.cli(Pretrain, args=words[3:]) == replace(settings, out=Path("RUN"))


def architecture(name: str, **different: Any) -> Architecture:
    with torch.device("meta"):
        return create_model(name, **different).architecture


def test_what_was_measured_elsewhere_is_used_and_nothing_is_run_here(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a dry run")

    monkeypatch.setattr(plan_recipe, "dry_run", fail)
    file = bench(tmp_path / "bench.json")
    words = ["plan", "--images", 1_281_167, "--recipe", "paper", "--measured", file, "--gpus", 8, "--price", 2]
    code, output, errors = run(*words)
    assert code == 0, errors
    rate = 200e12 / flops(architecture("vit_base")).step
    assert f"{rate:,.0f} images/s, 200 TFLOP/s: as vit_base in bf16 reached on GPU of a test" in said(output, "speed")
    hours = 250_228 * 4096 / rate / 3600
    assert f"{hours:,.3g} GPU hours, which cost {2 * hours:,.2f}" in said(output, "time")
    assert "on 8 GPUs" in said(output, "time")
    assert "The run that this is of, by 8 processes under torchrun" in output
    _, output, _ = run(*words, "--link", 0.01)
    assert f"{hours:,.3g} GPU hours" not in said(output, "time")


def test_the_nearest_that_was_measured(tmp_path: Path) -> None:
    entries = [
        {"model": "vit_small", "tflops": 100.0},
        {"model": "vit_large", "tflops": 300.0, "precision": "fp32"},
        {"contender": "transformers", "model": "vit_huge", "tflops": 999.0},
        {"contender": "openmae, fast settings", "tflops": 999.0},
    ]
    found = read_measured(bench(tmp_path / "bench.json", *entries))
    assert found.speed("vit_small", "bf16") == Speed(1e14, "as vit_small in bf16 reached on GPU of a test")
    huge = found.speed("vit_huge", "bf16")
    assert huge.rate == 1e14  # the precision matters more
    assert "vit_small in bf16" in huge.said
    assert "for want of vit_huge in bf16" in huge.said
    assert found.speed("vit_huge", "fp32").rate == 3e14
    assert read_measured(tmp_path).precision == "bf16"  # a folder will do


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "cannot be read"),
        ("[]", "is not of openmae bench"),
        ("{}", "results"),
        ('{"machine": "m", "device": "cpu", "results": []}', "no result of openmae"),
        ('{"machine": "m", "device": "cpu", "results": [{"contender": "openmae"}]}', "is not of openmae bench"),
        ('{"machine": "m", "device": "cpu", "results": 3}', "is not of openmae bench"),
        ("[" * 200_000, "cannot be read"),
    ],
)
def test_foreign_files_are_refused(run: Run, tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "bench.json").write_text(text)
    refused(run("plan", "--images", 100, "--measured", tmp_path / "bench.json"), "--measured", word)


@pytest.mark.parametrize(
    "different",
    [
        *({"tflops": value} for value in (0, "much", 1e-320, 10**400)),
        *({"peak_memory": value} for value in (-5, float("inf"), 10**400)),
        {"model": "resnet"},
        {"precision": "fp8"},
    ],
)
def test_foreign_results_are_refused(run: Run, tmp_path: Path, different: dict[str, Any]) -> None:
    file = bench(tmp_path / "bench.json", different)
    refused(run("plan", "--images", 100, "--measured", file), "is not of openmae bench")


def test_missing_files_and_memory_are_refused(run: Run, tmp_path: Path) -> None:
    refused(run("plan", "--images", 100, "--measured", tmp_path / "none.json"), "none.json", "cannot be read")
    file = bench(tmp_path / "bench.json", {"peak_memory": None})
    refused(run("plan", "--images", 100, "--measured", file), "--memory")
    file.write_text(file.read_text().replace('"cuda"', '"meta"'))
    refused(run("plan", "--images", 100, "--measured", file), "is not of openmae bench", "device meta")


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("", "--images 5000"),
        ("somewhere --images 5", "either"),
        ("nowhere", "nowhere does not exist"),
        ("--images 0", "--images is 0"),
        ("--images -3", "--images is -3"),
        ("--images 100 --gpus 0", "--gpus is 0"),
        ("--images 100 --link 0", "--link is 0"),
        ("--images 100 --price nan", "--price is nan"),
        ("--images 100 --seconds -1", "--seconds is -1"),
        ("--images 100 --epochs 0", "--epochs is 0"),
        ("--images 100 --epochs 1e308", "--epochs is 1e+308: give a number above 0, at most 1e+12"),
        ("--images 100 --memory 1e300", "--memory is 1e+300"),
        ("--images 100 --decoder-depth 1000000000", "decoder_depth is 1000000000; give at most 10,000"),
        ("--images 100 --img-size 100000000", "more than 4,194,304 patches"),
        ("--images 1 --epochs 1", "1 image seen 1 time are 1 view, and"),
        ("--images 100 --batch-size 0", "--batch-size is 0"),
        ("--images 100 --micro-batch 0", "--micro-batch is 0"),
        ("--images 100 --mask-ratio 1", "mask_ratio is 1"),
        ("--images 100 --predict-fraction 2", "predict_fraction is 2"),
        ("--images 100 --img-size 100 --patch-size 16", "100"),
        ("--images 100 --embed-dim 100 --num-heads 3", "embed_dim 100"),
        ("--images 100 --epochs 1 --batch-size 4096", "--batch-size 4,096"),
        ("--images 100 --batch-size 8 --gpus 16", "--gpus is 16"),
        ("--images 100 --memory 0.01", "takes more than the 10 MB of this CPU"),
        ("--images 100 --modle vit_base", "--model"),
    ],
)
def test_what_makes_no_plan_is_refused(run: Run, words: str, word: str) -> None:
    refused(run("plan", *words.split(), "--device", "cpu"), word)


def test_a_device_to_measure_on_is_not_ignored(run: Run, tmp_path: Path) -> None:
    words = ("plan", "--images", 100, "--measured", bench(tmp_path / "bench.json"))
    refused(run(*words, "--device", "cpu"), "--device cpu", "leave one of them out")


def test_numbers_for_people() -> None:
    assert [time_of(hours) for hours in (0.0125, 0.5, 3.25, 300)] == ["45 s", "30 min", "3.25 h", "12.5 days"]
    assert [size_of(count) for count in (12.4e6, 3.44e9)] == ["12 MB", "3.4 GB"]
    assert [si(number) for number in (5_530_000, 8.66e10, 999, 4e18)] == ["5.53 M", "86.6 G", "999 ", "4 E"]
