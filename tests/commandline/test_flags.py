"""Below recipes a setting has its Python name; whoever types commands reads its flag."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openmae.commandline.flags import with_flags
from openmae.data.formats.channels import PixelFormat, check_bands
from openmae.data.formats.decode import decode, open_image
from openmae.errors import UnfitImage, UserError
from openmae.machine.workers import reading_workers
from tests.commands import Run, refused


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("`in_chans` is 0: give 1 or more", "--in-chans is 0: give 1 or more"),
        ("choose another `out`", "choose another --out"),
        ("choose one by `in_chans`, or `bands`; `out`: (`k`)", "choose one by --in-chans, or --bands; --out: (--k)"),
        ("`bands=(3, 2, 1)`, or `bands=(4,)`", "--bands 3 2 1, or --bands 4"),
        ("give `device='cpu'`", "give --device cpu"),
        ("more than `max_broken=1e-05`", "more than --max-broken 1e-05"),
        ("`labels='20-per-class'` asks for", "--labels 20-per-class asks for"),
        ("--in-chans is said already", "--in-chans is said already"),
    ],
)
def test_a_setting_is_called_by_its_flag(sentence: str, said: str) -> None:
    assert with_flags(sentence) == said
    assert with_flags(said) == said


@pytest.mark.parametrize("name", ["`out`.png", "a/`out`/b", "a`out`", "``out``", "`Out`", "`a b`", "`", "``", "`x`y`"])
def test_a_file_of_such_a_name_keeps_it(name: str) -> None:
    assert with_flags(f"{name} cannot be read ({name}: cut off)") == f"{name} cannot be read ({name}: cut off)"


def test_the_same_sentence_for_whoever_calls_a_function_and_whoever_types(run: Run, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(UserError, match=r"^`workers` is -1: give 0 or more$"):
        reading_workers(-1)
    refused(run("stats", tmp_path, "--workers", -1), "openmae stats: --workers is -1: give 0 or more.")
    with pytest.raises(UserError, match=r"^`bands=\(0, 2\)`: channels are numbered from 1, as in GDAL: the first"):
        check_bands((0, 2))
    refused(run("stats", tmp_path, "--bands", 0, 2), "--bands 0 2: channels are numbered from 1, as in GDAL: the first")


def test_also_where_it_is_the_reason_of_a_file(run: Run, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        np.save(images / f"{number}.npy", np.full((16, 16, 5), number, np.uint8))
    np.save(images / "other.npy", np.full((16, 16, 4), 7, np.uint8))
    with pytest.raises(UnfitImage, match="are wanted: give `in_chans=4`, or choose with `bands`"):
        decode(open_image((images / "other.npy").read_bytes()), PixelFormat(5))
    said = "it has 4 channels and 5 are wanted: give --in-chans 4, or choose with --bands"
    tiny = ["--model", "vit_tiny", "--depth", 1, "--img-size", 16, "--patch-size", 4, "--batch-size", 8]
    code, _, errors = run(
        "pretrain", images, "--out", tmp_path / "run", *tiny, "--epochs", 1, "--workers", 0, "--in-chans", 5
    )
    assert code == 0, errors
    assert (tmp_path / "run/broken.txt").read_text() == f"other.npy\t{said}\n"
    vectors = tmp_path / "vectors.npy"
    code, _, errors = run("embed", tmp_path / "run", images, "--out", vectors, "--workers", 0)
    assert code == 0, errors
    assert (tmp_path / "vectors-broken.txt").read_text() == f"other.npy\t{said}\n"
    code, output, errors = run("stats", images, "--in-chans", 5, "--workers", 0)
    assert code == 0, errors
    assert f"other.npy: {said}" in output
