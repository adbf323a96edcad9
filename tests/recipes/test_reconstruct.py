"""`openmae reconstruct`: masked, reconstruction, original; and what cannot be drawn."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.commands import Run, refused
from tests.images import picture, write_images


def test_reconstruct(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    for stats in ("true", "visible"):
        code, output, errors = run(
            "reconstruct", finished, data, "--out", tmp_path / f"{stats}.png", "--patch-stats", stats
        )
        assert code == 0, errors
        assert str(tmp_path / f"{stats}.png") in output
        Image.open(tmp_path / f"{stats}.png").verify()
    assert (tmp_path / "true.png").read_bytes() != (tmp_path / "visible.png").read_bytes()
    one = data / "class0/000.jpg"
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    code, output, _ = run("reconstruct", finished, one, bad, "--out", tmp_path / "one.png", "--mask-ratio", "0.5")
    assert code == 0
    assert "left out" in output


def test_pictures_are_of_val_and_complaints_name_no_flag_of_training(finished: Path, tmp_path: Path, run: Run) -> None:
    write_images(tmp_path / "data/train", 2)
    write_images(tmp_path / "data/val", 2)
    for broken in (tmp_path / "data/train").rglob("*.*"):
        broken.write_bytes(b"no image")
    out = tmp_path / "made/picture.png"
    code, said, errors = run("reconstruct", finished, tmp_path / "data", "--out", out)
    assert (code, "left out" in said) == (0, False), errors
    Image.open(out).verify()
    np.save(tmp_path / "bands.npy", np.zeros((2, 20, 20, 5), np.uint8))
    picture(0, (2, 30)).save(tmp_path / "thin.png")
    for image, reason in (("bands.npy", "5 channels and 3 are wanted"), ("thin.png", "less than one patch")):
        result = run("reconstruct", finished, tmp_path / image, "--out", out)
        refused(result, reason, "give others")
        assert "--" not in result[2]
        assert "patch_size" not in result[2]
    for ratio in ("0.99", "-1", "inf", "nan"):
        result = run("reconstruct", finished, tmp_path / "data", "--out", out, "--mask-ratio", ratio)
        refused(result, f"a mask_ratio of {ratio} on 16 mask units leaves ", "choose a ratio further from 0 and 1.")
    assert "size" not in result[2]


def test_names_are_printed_as_they_are(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "a[b][/b].png"
    code, output, errors = run("reconstruct", finished, data, "--out", out)
    assert code == 0, errors
    assert str(out) in output


def test_what_makes_no_picture_is_refused(finished: Path, tmp_path: Path, run: Run) -> None:
    picture(0).save(tmp_path / "a.png")
    words = ("reconstruct", finished, tmp_path / "a.png", "--out")
    refused(run(*words, tmp_path / "p.jpg"), "ends in .png")
    refused(run(*words, tmp_path / "p.png", "--mask-ratio", "1"), "mask_ratio")
    missing = run("reconstruct", finished, tmp_path / "none.png", "--out", tmp_path / "p.png")
    refused(missing, "none of the images can be read")
    refused(run("reconstruct", tmp_path / "none", tmp_path / "a.png", "--out", tmp_path / "p.png"), "does not exist")
    assert not (tmp_path / "p.png").exists()
