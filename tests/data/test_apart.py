"""Decoders that crash, hang or grow: the image is a broken file, and from then on its kind is decoded apart."""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from openmae.data.formats import apart, decode
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.header import Depth
from openmae.data.formats.reading import Reading
from openmae.data.loading import pool
from openmae.data.loading.in_order import CentredImages
from openmae.data.opening import open_data
from openmae.data.shards.packing import Packed, Packing
from openmae.data.survey.inspection import inspect
from openmae.data.survey.sample import survey
from openmae.data.views.statistics import Statistics
from openmae.errors import BrokenImage, UserError
from openmae.evaluate.suited import suited
from openmae.heads import Encoder
from openmae.model import create_model
from openmae.recipes.demo.answers import Answers
from openmae.recipes.demo.others import Others
from openmae.recipes.pack.job import _pack_chunk
from openmae.web.server import Request
from openmae.weights import Loaded, model_json
from tests.data import crashing
from tests.data.bad_files import whole_files
from tests.data.test_pool import children
from tests.images import encoded, picture
from tests.processes import run_openmae

REASON = "decoding it ended a process (SIGSEGV, a fault in the decoder)"


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing has crashed before; and files that end with one of crashing.MARKS do what it says."""
    monkeypatch.setattr(decode, "open_here", crashing.open_here)
    monkeypatch.setattr(apart, "SERVE", f"from tests.data import crashing; crashing.install(); {apart.SERVE}")
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield
    forget()


def forget() -> None:
    apart._crashed[:] = bytes(len(apart.KINDS))
    apart._remember.cache_clear()
    apart._place.cache_clear()
    apart._server.cache_clear()


def folder_of(folder: Path, **marked: bytes) -> Path:
    """Twelve GIFs, and others which end as is said."""
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.gif").write_bytes(encoded(picture(number), "GIF"))
    for name, end in marked.items():
        (folder / f"{name}.gif").write_bytes(encoded(picture(0), "GIF") + end)
    return folder


def test_an_image_whose_decoder_crashes_is_broken_by_name_and_its_kind_is_decoded_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_data(str(folder_of(tmp_path / "data", bad=b"crashes"))).all
    names = [source.name(index) for index in range(len(source))]
    with caplog.at_level(logging.WARNING, "openmae"):
        first = inspect(source, 2)
    assert first.reasons == {names.index("bad.gif"): REASON}
    assert caplog.text.count("a loader process died") == 1
    caplog.clear()
    images = CentredImages(source, PixelFormat(), (16, 16), (8, 8))
    with caplog.at_level(logging.WARNING, "openmae"):
        ((batch, good),) = images.batches(64, 2)
    assert "died" not in caplog.text  # nobody has to, any more
    assert [names[index] for index in good] == [f"{number:02d}.gif" for number in range(12)]
    expected = np.stack([images.view(source.read(index)) for index in good])
    np.testing.assert_array_equal(batch.permute(0, 2, 3, 1).numpy(), expected)
    packed = next(pool.ordered(partial(_pack_chunk, source, Packing()), [np.arange(len(source))], 1))
    assert [isinstance(one, Packed) for one in packed] == [name != "bad.gif" for name in names]
    with pytest.raises(BrokenImage, match="SIGSEGV"):  # in this process too, which lives
        decode.decode(source.read(names.index("bad.gif")), PixelFormat())


def test_what_crashed_is_known_to_the_next_start(tmp_path: Path) -> None:
    source = open_data(str(folder_of(tmp_path / "data", bad=b"crashes"))).all
    inspect(source, 1)
    (place,) = (tmp_path / "cache/openmae" / apart.FOLDER).iterdir()
    assert [file.name for file in place.iterdir()] == ["GIF"]
    forget()
    with pytest.raises(BrokenImage, match="SIGSEGV"):
        decode.decode(encoded(picture(0), "GIF") + b"crashes", PixelFormat())
    forget()
    place.rename(place.with_name("other versions"))
    apart._remember()
    assert not any(apart._crashed[:])


MARKED = [
    (b"hangs", "decoding it takes more than 1 s"),
    (b"grows", "it does not fit into memory"),
    (b"crashes", REASON),
    (b"crashes as it is opened", REASON),
]


@pytest.fixture
def suspect() -> Iterator[None]:
    """The image in hand has ended another process."""
    apart.IN_HAND.is_suspect = True
    yield
    apart.IN_HAND.is_suspect = False


@pytest.mark.parametrize(("mark", "reason"), MARKED)
@pytest.mark.usefixtures("suspect")
def test_a_suspect_image_harms_nobody(monkeypatch: pytest.MonkeyPatch, mark: bytes, reason: str) -> None:
    monkeypatch.setattr(apart, "SECONDS", 1 if mark == b"hangs" else 120)
    monkeypatch.setattr(apart, "MOST_BYTES", 2**28)
    with pytest.raises(BrokenImage) as refused:
        decode.decode(encoded(picture(0), "GIF") + mark, PixelFormat())
    assert str(refused.value) == reason


@pytest.mark.usefixtures("suspect")
def test_the_server_runs_nothing_of_the_folder_that_we_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    (tmp_path / "json.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    assert decode.read_header(encoded(picture(0), "GIF")).format == "GIF"
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("suspect")
def test_a_server_that_was_killed_is_started_anew() -> None:
    data, before = encoded(picture(0), "GIF"), set(children(os.getpid()))
    first = decode.decode(data, PixelFormat())
    (server,) = set(children(os.getpid())) - before
    os.kill(server, signal.SIGKILL)
    np.testing.assert_array_equal(decode.decode(data, PixelFormat()), first)
    forget()
    assert not set(children(os.getpid())) - before


@pytest.mark.parametrize(("mark", "reason"), MARKED)
def test_loader_processes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: bytes, reason: str) -> None:
    monkeypatch.setattr(apart, "SECONDS", 1)
    monkeypatch.setattr(pool, "STALLED_SECONDS", 4.0 if mark == b"hangs" else 300.0)
    monkeypatch.setattr(pool, "ram", lambda: 2**30)
    monkeypatch.setattr(pool, "LEAST_BOUND", 2**28)
    source = open_data(str(folder_of(tmp_path / "data", bad=mark))).all
    found = inspect(source, 2)
    assert found.reasons.keys() == {12}
    assert found.reasons[12] == reason or (mark == b"hangs" and "ended 2 processes" in found.reasons[12])
    assert found.good.sum() == 12


def test_one_that_corrupts_what_crashes_with_the_next_costs_no_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path / "data")
    (folder / "03b.gif").write_bytes(encoded(picture(0), "GIF") + b"corrupts")
    source = open_data(str(folder)).all
    with caplog.at_level(logging.WARNING, "openmae"):
        found = inspect(source, 2)
    assert found.reasons == {}
    assert caplog.text.count("a loader process died") >= 2, caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "openmae"):
        assert inspect(source, 2).reasons == {}
    assert "died" not in caplog.text


@pytest.mark.parametrize("mark", [b"crashes", b"crashes as it is opened"])
@pytest.mark.parametrize("can", [True, False])  # off Linux, processes cannot be forked
def test_a_survey_ends_whatever_an_image_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: bytes, can: bool
) -> None:
    monkeypatch.setattr(apart, "CAN", can)
    folder = folder_of(tmp_path / "data")
    deep = np.arange(24 * 20, dtype=np.uint16).reshape(24, 20) * 100
    (folder / "deep.png").write_bytes(encoded(Image.fromarray(deep), "PNG") + mark)
    seen = survey(open_data(str(folder)).all, 0, workers=2)
    ((index, reason),) = seen.broken
    assert index == 12
    assert ("SIGSEGV" if can else "ended 2 processes") in reason


def test_what_is_looked_at_for_a_model_does_not_end_the_command(tmp_path: Path) -> None:
    """Of transparent images the pixels are looked at."""
    folder = folder_of(tmp_path / "data")
    (folder / "clear.png").write_bytes(encoded(Image.new("RGBA", (20, 20), (9, 9, 9, 9)), "PNG") + b"crashes")
    statistics = Statistics((0.5,) * 3, (0.2,) * 3, PixelFormat(3, reading=Reading(alpha="white")))
    encoder = Encoder(create_model("vit_tiny", depth=1, img_size=32).encoder)
    loaded = Loaded(encoder, statistics, model_json(encoder, statistics, {}), "a model")
    found = suited(loaded, open_data(str(folder)).all, Reading(), 1, Console(quiet=True))
    assert found.statistics.pixels.reading.alpha == "white"


def test_pixels_that_were_decoded_apart_are_the_same() -> None:
    images: list[tuple[bytes, Depth]] = [(data, "uint16") for data in whole_files().values()]
    images[-1] = (images[-1][0], "float32")
    for data, depth in images:
        expected = decode.decode(data, PixelFormat(3, None, depth))
        apart.IN_HAND.is_suspect = True
        found = decode.decode(data, PixelFormat(3, None, depth))
        apart.IN_HAND.is_suspect = False
        np.testing.assert_array_equal(found, expected)


ALONE = """
import sys
from tests.data import crashing
from openmae.data.formats import apart
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode
from openmae.errors import BrokenImage, UserError
from tests.images import encoded, picture

crashing.install()
apart.SERVE = f"from tests.data import crashing; crashing.install(); {apart.SERVE}"
data = encoded(picture(0), "GIF")
assert decode(data, PixelFormat()).any()
try:
    decode(data + sys.argv[1].encode(), PixelFormat())
except BrokenImage as error:
    print(error)
"""


def test_a_crash_that_nobody_sees_is_known_to_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "cache/openmae" / apart.FOLDER

    def start(mark: str) -> tuple[int, str]:
        ran = run_openmae([mark], code=ALONE, environment={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")})
        return ran.returncode, ran.stdout

    assert start("nothing") == (0, "")
    assert list(folder.iterdir()) == []
    assert start("is killed")[0] == -signal.SIGKILL  # by anybody, for any reason
    assert start("faults")[0] == -signal.SIGSEGV
    assert start("faults") == (0, f"{REASON}\n")
    (place,) = folder.iterdir()
    assert [file.name for file in place.iterdir()] == ["GIF"]


def test_what_is_dropped_on_a_page_cannot_end_it() -> None:
    model = create_model("vit_tiny", img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
    statistics = Statistics((0.5,) * 3, (0.25,) * 3, PixelFormat())
    loaded = Loaded(model, statistics, model_json(model, statistics, {}), "a")
    answers = Answers(loaded, Reading(), torch.device("cpu"), Others(loaded, Reading()))
    opened = answers.routes["POST", "open"]
    with pytest.raises(UserError, match=r"bad\.gif: decoding it ended a process"):
        opened(Request({"name": "bad.gif"}, encoded(picture(0), "GIF") + b"crashes"))
    found = json.loads(opened(Request({"name": "good.gif"}, encoded(picture(0), "GIF"))).body)
    assert (found["name"], apart.IN_HAND.is_suspect) == ("good.gif", False)
