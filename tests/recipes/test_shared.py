"""Work that several processes share by `--part K/N` or under torchrun: equal to that of one, whoever ends last."""

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmae.distributed.share import Share, share_here, share_of
from openmae.errors import UserError
from openmae.recipes.in_parts.folder import opened_parts, parts_folder
from tests.commands import Run, refused
from tests.processes import start_openmae
from tests.runs import Runs

Words = Callable[[Path], list[object]]


@given(st.integers(0, 2000), st.integers(1, 40), st.integers(1, 300))
def test_shares_are_all_of_it_in_whole_units(count: int, of: int, unit: int) -> None:
    spans = [share.span(count, unit) for share in Share(1, of).all()]
    assert [number for span in spans for number in span] == [*range(count)]
    assert all(span.start % unit == 0 for span in spans if span)
    units = [-(-len(span) // unit) for span in spans]
    assert max(units) - min(units) <= 1


def test_who_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (share_of("3/16").number, share_of("3/16").of) == (3, 16)
    for wrong in ("0/3", "4/3", "3", "a/b", "1/", "-1/3"):
        with pytest.raises(UserError, match="give K/N"):
            share_of(wrong)
    assert share_here(None).is_whole
    for name, value in {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    here = share_here(None)
    assert (str(here), here.speaks, here.start.local_size) == ("3/4", False, 2)
    with pytest.raises(UserError, match="`part` is for one process"):
        share_here("1/2")


@pytest.fixture(scope="module")
def images(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in train/ and val/, and one of each that cannot be read."""
    folder = tmp_path_factory.mktemp("shared") / "images"
    shutil.copytree(runs.colours(), folder)
    for split in ("train", "val"):
        place = next((folder / split).iterdir())
        (place / "zz.png").write_bytes(b"no image")
    return folder


def commands(runs: Runs, images: Path, scenes: Path) -> dict[str, tuple[str, Words]]:
    """What is written, and what is typed."""
    return {
        "embed": ("f.npy", lambda out: ["embed", runs.finished(), images, "--out", out, "--batch-size", 5]),
        "predict": ("f.csv", lambda out: ["predict", runs.classes(), images, "--out", out, "--batch-size", 5]),
        "masks": ("masks", lambda out: ["predict", runs.segmenter(), scenes, "--out", out, "--split", "all"]),
        "objects": ("objects", lambda out: ["predict", runs.detector(), scenes, "--out", out, "--split", "all"]),
        "pack": ("shards", lambda out: ["pack", images, out, "--shard-size", 7, "--max-broken", 0.5]),
        "stats": ("f.toml", lambda out: ["stats", images, "--out", out]),
        "check": ("f.csv", lambda out: ["check", images, "--out", out]),
    }


@pytest.mark.parametrize("kind", ["embed", "predict", "masks", "objects", "pack", "stats", "check"])
def test_parts_make_the_whole(kind: str, images: Path, runs: Runs, tmp_path: Path, run: Run) -> None:
    scenes = runs.scenes() / "val" / "images"
    name, words_for = commands(runs, images, scenes)[kind]
    one, three = tmp_path / "one" / name, tmp_path / "three" / name

    def typed(out: Path, *more: object) -> tuple[int, str, str]:
        return run(*words_for(out), "--workers", 0, *more)

    for out in (one, three):
        out.parent.mkdir()
    code, alone, _ = typed(one)
    assert typed(three, "--part", "3/3")[0] == 0
    assert typed(three, "--part", "1/3")[0] == 0
    assert not three.exists() or three.is_dir()
    refused(typed(three), "of 3 parts 1 is not done: 2/3")
    refused(typed(three, "--part", "1/2"), "shared among 3 processes, not 2")
    last = typed(three, "--part", "2/3")
    assert last[0] == code, last
    assert "Part 2/3 is done. All others are too" in last[1]
    assert written(three.parent) == written(one.parent)  # no list of a part is left
    told = [line for line in alone.replace(str(one.parent), "OUT").splitlines() if "images/s" not in line]
    assert set(told) <= set(
        last[1].replace(str(three.parent), "OUT").splitlines()
    )  # the last one reports as one alone does
    assert not parts_folder(three).exists()
    shutil.rmtree(one.parent)
    one.parent.mkdir()
    for part in ("2/2", "1/2"):  # a number of images that shares cannot be equal of
        assert typed(one, "--part", part)[0] in (0, code)
    assert written(one.parent) == written(three.parent)


def written(folder: Path) -> dict[str, bytes]:
    """Every file that is not hidden; what it says of where it lies is left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def test_what_cannot_be_shared(images: Path, runs: Runs, tmp_path: Path, run: Run) -> None:
    refused(run("stats", images, "--part", "1/2"), "--out")
    (tmp_path / "there.csv").write_text("")
    refused(run("check", images, "--out", tmp_path / "there.csv", "--part", "1/2"), "is there already")
    words = ("embed", runs.finished(), images, "--out", tmp_path / "f.npy", "--workers", 0)
    assert run(*words, "--batch-size", 5, "--part", "1/2")[0] == 0
    refused(run(*words, "--batch-size", 7, "--part", "2/2"), "multiples of 5 images", "--batch-size")
    folder = parts_folder(tmp_path / "alone.npy")
    with opened_parts(tmp_path / "alone.npy") as alone, alone.settling():
        alone.begin({"of": "something"})
    refused(run(*words[:4], tmp_path / "alone.npy", "--part", "1/2"), str(folder), "one process that does everything")


def test_no_data_that_nobody_names_is_asked_for(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "heights"
    folder.mkdir()
    for number in range(40):
        image = np.random.default_rng(number).normal(100, 10, (12, 12)).astype(np.float32)
        image[0] = -9999
        np.save(folder / f"{number}.npy", image)
    words = ("stats", folder, "--out", tmp_path / "f.toml", "--workers", 0)
    assert run(*words, "--part", "1/2")[0] == 0
    refused(run(*words, "--part", "2/2"), "-9999", "--nodata -9999")
    shutil.rmtree(parts_folder(tmp_path / "f.toml"))
    for part in ("1/2", "2/2"):
        assert run(*words, "--part", part, "--nodata", "-9999")[0] == 0
    shared = (tmp_path / "f.toml").read_bytes()
    assert run(*words, "--nodata", "-9999")[0] == 0
    assert (tmp_path / "f.toml").read_bytes() == shared


def test_processes_that_start_and_end_together(images: Path, runs: Runs, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "f.npy"
    words = [str(word) for word in ("embed", runs.finished(), images, "--out", out, "--batch-size", 5, "--workers", 0)]
    with (tmp_path / "log").open("w") as log:
        ranks = [
            start_openmae(words, log, environment={**os.environ, "RANK": str(rank), "WORLD_SIZE": "3"})
            for rank in range(3)
        ]
        assert [rank.wait(240) for rank in ranks] == [0, 0, 0], (tmp_path / "log").read_text()
    alone = tmp_path / "alone" / "f.npy"
    alone.parent.mkdir()
    assert run(*words[:4], alone, *words[5:])[0] == 0
    assert out.read_bytes() == alone.read_bytes()
    assert (tmp_path / "log").read_text().count("f.npy: ") == 1  # one of them has put it together, and says so


def _does_a_part(out: Path, number: int, of: int, at_once: Any, told: Any) -> None:
    with opened_parts(out, Share(number, of)) as parts:
        with parts.settling() as before:
            if not before:
                parts.begin({"of": "something"})
        parts.read(of)
        at_once.wait()
        parts.add(parts.stop + 1, np.array([parts.stop]), np.zeros((1, 1), np.float32), [])
        parts.end()
        with parts.together(of) as whole:
            told.put(None if whole is None else len(whole.finished))
            if whole is not None:
                whole.remove()


def test_of_those_that_end_at_once_one_finds_all(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("fork")
    for attempt in range(8):
        at_once, told, out = forked.Barrier(4), forked.Queue(), tmp_path / f"{attempt}"
        processes = [
            forked.Process(target=_does_a_part, args=(out, number, 4, at_once, told)) for number in range(1, 5)
        ]
        for process in processes:
            process.start()
        found = [told.get(timeout=120) for _ in processes]
        for process in processes:
            process.join()
        assert sorted(found, key=str) == [4, None, None, None]
