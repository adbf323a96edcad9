"""examples/serve_onnx.py in processes that have neither torch nor openmae, beside openmae's own answers."""

import importlib.util
import json
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.views.centred import centred
from openmae.data.views.statistics import Statistics
from openmae.heads import Classifier
from openmae.model import ViT
from openmae.recipes.export.formats import onnx as export_onnx
from openmae.weights import Loaded, model_json
from tests.images import picture

SCRIPT = Path(__file__).parents[1] / "examples" / "serve_onnx.py"
ALONE = (
    "import runpy, sys; sys.modules.update(torch=None, openmae=None); sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
SIZE = (32, 48)
ROTATED = 6  # of EXIF: rows of the file are columns of the picture


@pytest.fixture(scope="module")
def model() -> Loaded:
    draws = torch.Generator().manual_seed(0)
    classifier = Classifier(ViT(SIZE, (16, 16), 3, 32, 1, 2), 3, "class").eval()
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=0.2)
    statistics = Statistics((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), PixelFormat())
    named = {"task": "classification", "class_names": ["ant", "bee", "cat"]}
    return Loaded(classifier, statistics, model_json(classifier, statistics, {}, **named), "a")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def graph(model: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("serving") / "model.onnx"
    export_onnx.write(model, out)
    out.with_suffix(".json").write_text(json.dumps(model.info))
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of exactly the model's size, larger, smaller, long, huge, turned, grey, with alpha, with a palette."""
    folder = tmp_path_factory.mktemp("images")
    turned = Image.Exif()
    turned[274] = ROTATED
    picture(0, SIZE).save(folder / "exact.png")
    picture(1, (90, 70)).save(folder / "larger.jpg", quality=95)
    picture(2, (20, 24)).save(folder / "smaller.png")
    picture(3, (40, 900)).save(folder / "long.png")
    picture(4, (700, 900)).save(folder / "huge.jpg", quality=95)
    picture(5, (500, 220)).save(folder / "turned.jpg", quality=95, exif=turned)
    picture(6, (60, 60), "L").save(folder / "grey.jpg", quality=95)
    picture(7, (60, 90), "RGBA").save(folder / "alpha.png")
    picture(8, (60, 90), "P").save(folder / "palette.png")
    return sorted(folder.iterdir())


def ours(model: Loaded, file: Path) -> NDArray[np.float32]:
    view = centred(file.read_bytes(), model.statistics.pixels, SIZE)
    return model.statistics.normalize(torch.from_numpy(view).permute(2, 0, 1)[None]).numpy()[0]


def module(graph: Path) -> Any:
    return script().Model(graph)


def script() -> Any:
    spec = importlib.util.spec_from_file_location("serve_onnx", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_images_are_prepared_as_openmae_prepares_them(model: Loaded, graph: Path, files: list[Path]) -> None:
    served = module(graph)
    level = 1 / 255 / min(model.statistics.std)
    for file in files:
        difference = np.abs(served.prepare(file.read_bytes()) - ours(model, file))
        assert difference.max() <= 2.01 * level, file.name  # two libraries round the same interpolation
        assert difference.mean() <= 0.1 * level, file.name


@pytest.mark.parametrize(
    ("depth", "mode"), [("uint16", "I;16"), ("float32", "F"), ("uint16", "L"), ("float32", "I;16")]
)
def test_deep_grey_images(depth: Any, mode: str, graph: Path, tmp_path: Path) -> None:
    pixels = np.asarray(picture(0, (70, 90), "L")).astype(np.float32) / 255
    scaled = {"L": (pixels * 255).astype(np.uint8), "I;16": (pixels * 65535).astype(np.uint16), "F": pixels}[mode]
    file = tmp_path / ("image.tif" if mode == "F" else "image.png")
    Image.fromarray(scaled).save(file)
    statistics = Statistics((0.5,), (0.25,), PixelFormat(1, None, depth))
    deep = tmp_path / "deep.onnx"
    deep.write_bytes(graph.read_bytes())
    deep.with_suffix(".json").write_text(
        json.dumps({**json.loads(graph.with_suffix(".json").read_text()), "statistics": statistics.to_dict()})
    )
    view = centred(file.read_bytes(), statistics.pixels, SIZE)
    expected = statistics.normalize(torch.from_numpy(view).permute(2, 0, 1)[None]).numpy()[0]
    assert np.abs(module(deep).prepare(file.read_bytes()) - expected).max() < 2e-4


def test_script_answers_without_torch(model: Loaded, graph: Path, files: list[Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone.onnx"  # without model.json, which the file holds too
    alone.write_bytes(graph.read_bytes())
    said = ran(alone, *files)
    assert said.returncode == 0, said.stderr
    ran(graph, *files, "--out", tmp_path / "scores.npy")
    scores = np.load(tmp_path / "scores.npy")
    for file, line, row in zip(files, said.stdout.splitlines(), scores, strict=True):
        answer = json.loads(line)
        with torch.no_grad():
            expected = model.model(torch.from_numpy(ours(model, file))[None])[0]
        assert np.abs(row - expected.numpy()).max() < 0.05, file.name
        shares = dict(zip(["ant", "bee", "cat"], expected.softmax(0).tolist(), strict=True))
        assert answer["image"] == str(file)
        assert answer["classes"] == pytest.approx(shares, abs=0.02)
        assert list(answer["classes"].values()) == sorted(answer["classes"].values(), reverse=True)
    refused = ran(graph, graph)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give images, or --serve PORT"),
        (["a.png", "--out", "features"], "ends in .npy"),
        (["a.png", "--out", "nowhere/features.npy"], "a folder that is there"),
        (["--serve", "70000"], "--serve 70000"),
    ],
)
def test_bad_words_to_the_script(
    words: list[str], said: str, graph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses(said, [str(graph), *words], monkeypatch, capsys)


def test_what_is_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (tmp_path / "nothing.onnx", SCRIPT):
        refuses(f"{file} is not a graph", [str(file), "a.png"], monkeypatch, capsys)


def refuses(said: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["serve_onnx.py", *words])
    with pytest.raises(SystemExit) as caught:
        script().main()
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_server_answers_what_the_script_does(graph: Path, files: list[Path], address: str) -> None:
    lines = ran(graph, *files[:3]).stdout.splitlines()
    for file, line in zip(files[:3], lines, strict=True):
        with urllib.request.urlopen(address, file.read_bytes(), timeout=60) as answer:
            assert json.loads(answer.read()) == {"classes": json.loads(line)["classes"]}
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(address, b"no image", timeout=60)
    with caught.value as answer:
        assert (answer.code, list(json.loads(answer.read()))) == (400, ["error"])


def test_outputs_of_one_name_do_not_hide_each_other(graph: Path) -> None:
    served = module(graph)
    served.info["class_names"] = ["crane", "bee", "crane"]
    answer = served.answer(np.log(np.array([0.7, 0.2, 0.1], np.float32)))
    assert answer == {"classes": {"crane (0)": 0.7, "bee": 0.2, "crane (2)": 0.1}}


def test_whatever_a_decoder_raises_is_answered(address: str) -> None:
    header = struct.pack("<7I44xI", 124, 0x1007, 4, 4, 0, 0, 0, 32) + struct.pack("<I4x", 0xFF00)
    with pytest.raises(urllib.error.HTTPError) as caught:  # a DDS of an unknown kind: NotImplementedError
        urllib.request.urlopen(address, b"DDS " + header.ljust(200, b"\0"), timeout=60)
    with caught.value as answer:
        assert (answer.code, list(json.loads(answer.read()))) == (400, ["error"])


@pytest.fixture
def address(graph: Path) -> Iterator[str]:
    command = [sys.executable, "-c", ALONE, str(SCRIPT), str(graph), "--serve", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]
        server.terminate()


def ran(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
