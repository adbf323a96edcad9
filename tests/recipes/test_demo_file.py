"""`openmae demo --to-file`: the graph beside torch's own, the runtime that is taken once, the file, what is refused."""

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from openmae.data.formats.channels import PixelFormat
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.evaluate.attention import attention_of
from openmae.model import MaskedAutoencoder
from openmae.recipes.demo import file, runtime
from openmae.recipes.demo.graph import Page, Runner, graph_of, rounded
from openmae.recipes.demo.others import samples_of
from openmae.recipes.demo.settings import Demo
from openmae.report.sheets.pictures import PatchStats, fill
from openmae.weights import Loaded, load_model, model_json
from tests.commands import Run, refused
from tests.models import randomize, tiny
from tests.runs import Runs
from tests.servers import serve

SCRIPT = "/*! ONNX */var a=1,b=2;export{a as InferenceSession,b as env};\n//# sourceMappingURL=x.map\n"


def levels_of(model: MaskedAutoencoder, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, model.encoder.in_chans, *model.encoder.img_size), generator=draws).to(torch.uint8)


def statistics_of(model: MaskedAutoencoder) -> Statistics:
    channels = model.encoder.in_chans
    return Statistics((0.4,) * channels, (0.3,) * channels, PixelFormat(channels))


def check(
    run: Callable[..., Any], model: MaskedAutoencoder, statistics: Statistics, levels: Tensor, count: int
) -> None:
    """Errors, pictures and attention are those of torch's own, for so many visible patches."""
    patches = len(model.encoder.positions)
    order = np.random.default_rng(count).permutation(patches)
    visible, hidden = sorted(order[:count].tolist()), sorted(order[count:].tolist())
    everywhere = [*range(patches)]
    for stats in ("true", "visible") if hidden else ():
        known: PatchStats = stats
        found = fill(model, statistics, levels, torch.tensor([visible]), known)
        picture, errors, attention = run(levels, visible, hidden, stats == "visible")
        np.testing.assert_allclose(errors, found.errors.numpy(), atol=2e-5, rtol=2e-5)
        assert found.predicted is not None
        off = np.abs(picture.astype(int) - found.predicted.numpy().astype(int))[found.hidden.numpy()]
        assert off.max() <= 1
        np.testing.assert_allclose(attention.sum(1), 1, atol=1e-5)
    asked = int(order[0])
    _, _, attention = run(levels, everywhere, [0], False, asked)
    for layer in range(1, model.encoder.depth + 1):
        expected = attention_of(model.encoder, statistics.normalize(levels), asked, layer).mean(dim=1)[0]
        np.testing.assert_allclose(attention[layer - 1], expected.numpy(), atol=1e-6)


def by_torch(model: MaskedAutoencoder, statistics: Statistics) -> Callable[..., Any]:
    @torch.no_grad()
    def run(levels: Tensor, visible: list[int], hidden: list[int], estimate: bool = False, asking: int = 0) -> Any:
        numbers = [torch.tensor([some], dtype=torch.int32) for some in (visible, hidden)]
        rest = (torch.tensor([0.0, 1.0]), torch.tensor([float(estimate)]), torch.tensor([asking], dtype=torch.int32))
        return [one.numpy() for one in Page(model, statistics)(levels, *numbers, *rest)]

    return run


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target": "pixel", "in_chans": 1},
        {"target": "norm_pix_by_channel", "class_tokens": 2},
        {"target": "pca", "decoder": "cross", "decoder_layers": 2, "patch_size": (8, 4)},
    ],
)
def test_what_is_computed_is_what_the_served_page_shows(settings: dict[str, Any]) -> None:
    model = tiny(**settings).eval()
    randomize(model)
    statistics = statistics_of(model)
    for count in (1, 5, 15):
        check(by_torch(model, statistics), model, statistics, levels_of(model), count)
    grey = levels_of(model)[:, :1].expand(-1, model.encoder.in_chans, -1, -1).contiguous()
    check(by_torch(model, statistics), model, statistics, grey, 4)


def test_the_graph_answers_as_torch_does(runs: Runs) -> None:
    loaded = load_model(runs.finished())
    model = loaded.autoencoder.eval()
    graph = runs.graph().read_bytes()
    run = Runner(graph)
    for count in (1, 4, 15, 16):
        levels = levels_of(model, count)
        check(run, model, loaded.statistics, levels, count)
    check(run, model, loaded.statistics, levels[:, :1].expand_as(levels).contiguous(), 4)
    assert str(Path(__file__).parent.parent.parent).encode() not in graph  # no path of whoever made it
    smaller = rounded(graph)
    assert len(smaller) < len(graph)
    image = levels_of(model)
    exact, about = (one(image, [0, 5, 10], [1, 2, 3])[1].mean() for one in (run, Runner(smaller)))
    assert 0 < abs(exact - about) < 0.01 * exact


@pytest.mark.slow
def test_a_graph_of_other_parts() -> None:
    model = tiny(target="pca", decoder="cross", decoder_layers=2, in_chans=1, patch_size=(16, 8)).eval()
    randomize(model)
    check(Runner(graph_of(model, statistics_of(model))), model, statistics_of(model), levels_of(model), 3)


# ---------------------------------------------------------------- onnxruntime-web


@pytest.fixture
def tarball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of this name that holds nearly nothing, and is the one that is asked for."""
    place = tmp_path / "registry/onnxruntime-web/-" / runtime.NAME
    place.parent.mkdir(parents=True)
    with tarfile.open(place, "w:gz") as archive:
        for name, data in ((runtime._SCRIPT, SCRIPT.encode()), (runtime._WASM, b"\0asm")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    monkeypatch.setattr(runtime, "SHA256", hashlib.sha256(place.read_bytes()).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place


def test_the_runtime_is_taken_once_and_is_the_one_that_is_known(
    tarball: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Console(quiet=True)
    found = runtime.runtime(tarball, quiet)
    assert found.script == "/*! ONNX */var a=1,b=2;globalThis.ort={InferenceSession:a,env:b};"
    assert found.wasm == b"\0asm"
    assert not runtime.kept().exists()
    with serve(tmp_path / "registry") as registry:
        monkeypatch.setenv("npm_config_registry", registry.url + "/")
        assert runtime.runtime(None, quiet) == found
        assert runtime.runtime(None, quiet) == found
        assert len(registry.requests) == 1
        runtime.kept().write_bytes(b"half of it")
        assert runtime.runtime(None, quiet) == found
        assert runtime.kept().read_bytes() == tarball.read_bytes()
        tarball.write_bytes(b"something else")
        runtime.kept().unlink()
        with pytest.raises(UserError, match=r"is not onnxruntime-web .* SHA-256 .* --runtime onnxruntime-web"):
            runtime.runtime(None, quiet)
    with pytest.raises(UserError, match=r"cannot be had .* \(npm pack onnxruntime-web@.*--runtime"):
        runtime.runtime(None, quiet)  # nobody serves it any more
    assert not runtime.kept().exists()
    with pytest.raises(UserError, match="SHA-256"):
        runtime.runtime(tarball, quiet)
    with pytest.raises(UserError, match="cannot be read"):
        runtime.runtime(tmp_path / "none.tgz", quiet)
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    with pytest.raises(UserError, match="npm_config_registry"):
        runtime.runtime(None, quiet)


# ---------------------------------------------------------------- the command


def given_in(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="given">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def packed_in(page: str, name: str) -> bytes:
    found = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', page)
    assert found is not None
    return gzip.decompress(base64.b64decode(found[1]))


def test_the_command_writes_one_file(
    finished: Path, runs: Runs, tarball: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = runs.graph().read_bytes()
    monkeypatch.setattr(file, "graph_of", lambda model, statistics: graph)
    out = tmp_path / "new/demo.html"
    words = ("demo", finished, "--to-file", out, "--runtime", tarball)
    code, said, errors = run(*words)
    assert (code, errors) == (0, "")
    assert "4 images of yours" in said
    assert "8 bits" not in said
    page = out.read_text()
    assert packed_in(page, "graph") == graph
    assert packed_in(page, "runtime") == b"\0asm"
    assert "MIT License" in page
    given = given_in(page)
    assert given["about"]["model"] == finished.name
    assert given["about"]["samples"] == ["image 1", "image 2", "image 3", "image 4"]
    assert len(given["samples"]) == 4
    loaded = load_model(finished)
    names = [samples_of(finished, loaded, Demo(finished).reading).name(number) for number in range(4)]
    for name in (*names, str(finished.parent), str(Path.home())):  # nothing of where and whose the images are
        assert name not in page

    monkeypatch.setattr(file, "EXACT", 0.0)
    code, said, errors = run(*words, "--no-samples")  # written over, as reports are
    assert (code, errors) == (0, "")
    assert "of yours" not in said
    page = out.read_text()
    assert "rounded to 8 bits: over 8 images the error goes from" in said
    assert "rounded to 8 bits" in given_in(page)["about"]["limits"]
    assert given_in(page)["samples"] == []
    assert packed_in(page, "graph") == rounded(graph)

    before = out.read_bytes()
    monkeypatch.setattr("openmae.recipes.export.check.TOLERANCE", -1.0)
    refused(run(*words), "from torch's", "nothing was written")
    assert out.read_bytes() == before
    assert [*out.parent.iterdir()] == [out]


def test_what_cannot_be_a_file_is_refused_before_anything_is_made(
    finished: Path, classes: Path, tmp_path: Path, tarball: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo.html"
    refused(run("demo", classes, "--to-file", out), "no decoder", f"openmae demo {classes}")
    refused(run("demo", finished, "--to-file", tmp_path / "demo.pdf"), "--to-file is", "ends in .html")
    (tmp_path / "folder.html").mkdir()
    refused(run("demo", finished, "--to-file", tmp_path / "folder.html"), "a folder")
    refused(run("demo", finished, "--to-file", out, "--port", 8000), "--port needs a server")
    refused(run("demo", finished, "--to-file", out, "--neighbours", "x"), "--neighbours needs a server")
    refused(run("demo", finished, "--runtime", tarball), "--runtime is for a page that is a file")
    refused(run("demo", finished, "--no-samples"), "--no-samples is for a page that is a file")
    refused(run("demo", finished, "--to-file", out, "--runtime", classes / "model.json"), "SHA-256", "--runtime")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")  # where nobody answers
    refused(run("demo", finished, "--to-file", out), "cannot be had", "npm pack", "--runtime")
    monkeypatch.setattr(file, "MOST", 1000)
    refused(run("demo", finished, "--to-file", out), "weights", f"openmae demo {finished}")
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "pixels", "words"),
    [
        ({"in_chans": 5}, PixelFormat(5), "5 channels"),
        ({"in_chans": 1}, PixelFormat(1, None, "uint16"), "uint16 pixels"),
        ({}, PixelFormat(3, (3, 2, 1)), "chosen bands (3, 2, 1)"),
        ({"target": "hog"}, PixelFormat(3), "predicts no pixels"),
        ({"encoder_mask_token": True}, PixelFormat(3), "encodes mask tokens"),
    ],
)
def test_models_of_what_browsers_do_not_open(settings: dict[str, Any], pixels: PixelFormat, words: str) -> None:
    model = tiny(**settings)
    channels = pixels.in_chans
    statistics = Statistics((0.5,) * channels, (0.2,) * channels, pixels)
    loaded = Loaded(model, statistics, model_json(model, statistics, {}), "runs/x")
    with pytest.raises(UserError, match=re.escape(words)) as error:
        file._fitting(loaded, Path("runs/x"))
    assert "openmae demo runs/x" in str(error.value)
