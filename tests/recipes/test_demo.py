"""`openmae demo`: what its page is told of a model, over HTTP; beside `openmae reconstruct` and torch's own."""

import base64
import io
import json
import signal
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from rich.console import Console
from torch.nn import functional as F

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.reading import UNSAID
from openmae.data.sources.selection import WHOLE
from openmae.data.views.crop import centred_view
from openmae.data.views.statistics import Statistics
from openmae.evaluate.attention import attention_of
from openmae.evaluate.occlusion import windows
from openmae.model import ViT, create_model, initialize, patchify
from openmae.recipes.demo import viewing
from openmae.recipes.demo.answers import Answers
from openmae.recipes.demo.others import neighbours_in, samples_of
from openmae.recipes.demo.viewing import view
from openmae.report.sheets import panel as panels
from openmae.report.sheets.pictures import columns
from openmae.web.server import PageServer
from openmae.weights import Loaded, load_model, model_json
from tests.commands import Run, refused
from tests.images import encoded, picture
from tests.processes import started_openmae, wait_for
from tests.web.test_server import served

CPU = torch.device("cpu")
Ask = Callable[..., dict[str, Any]]


def answers_of(run: Path, data: Path | None = None) -> Answers:
    loaded = load_model(run)
    near = data and neighbours_in(str(data), WHOLE, UNSAID, loaded, CPU, Console(quiet=True))
    return Answers(loaded, UNSAID, CPU, samples_of(run, loaded, UNSAID), near)


def asking(server: PageServer) -> Ask:
    """Asks it as its page does; {"wrong": sentence} where it refuses."""

    def ask(path: str, body: object = None) -> dict[str, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(server.address + path, data)) as answer:
                found = answer.read()
        except urllib.error.HTTPError as error:
            found = error.read()
        return {"bytes": found} if found.startswith(b"\x89PNG") else json.loads(found)

    return ask


@pytest.fixture(scope="module")
def ask(finished: Path, data: Path) -> Iterator[Ask]:
    with served() as server:
        server.routes = answers_of(finished, data).routes
        yield asking(server)


@pytest.fixture(scope="module")
def ask_classifier(classes: Path) -> Iterator[Ask]:
    with served() as server:
        server.routes = answers_of(classes).routes
        yield asking(server)


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")).astype(int)


@pytest.mark.parametrize("stats", ["true", "visible"])
def test_the_page_shows_what_reconstruct_draws(
    stats: str, ask: Ask, finished: Path, data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    def noted(*given: Any) -> Image.Image:
        drawn.append(given)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(panels, "panel", noted)
    file = data / "class0/000.jpg"
    words = ("--seed", 3, "--mask-ratio", 0.5, "--patch-stats", stats, "--out", tmp_path / "p.png")
    assert run("reconstruct", finished, file, *words)[0] == 0
    model, statistics, images, visible, _, patch_stats = drawn[0]
    (_, pasted, original), (error,) = columns(model, statistics, images, visible, patch_stats)

    opened = ask("open?name=a.jpg", file.read_bytes())
    hidden = ask("mask?mask=random&ratio=0.5&seed=3")["hidden"]
    assert sorted({*range(16)} - {*visible[0].tolist()}) == hidden
    found = ask("fill", {"image": opened["image"], "hidden": hidden, "patch_stats": stats})
    assert found["hidden"] == hidden
    assert found["error"] == pytest.approx(error, rel=1e-4)
    assert np.mean(found["errors"]) == pytest.approx(error, rel=1e-4)
    mine = pixels(opened["picture"])
    assert np.abs(mine - np.asarray(original.tiles[0]).astype(int)).max() <= 1
    predicted = pixels(found["predicted"])
    for patch in hidden:
        where = np.s_[patch // 4 * 4 : patch // 4 * 4 + 4, patch % 4 * 4 : patch % 4 * 4 + 4]
        mine[where] = predicted[where]
    assert np.abs(mine - np.asarray(pasted.tiles[0]).astype(int)).max() <= 1
    assert ("visible patches around" in found["caption"]) == (stats == "visible")


def test_masks_are_those_of_training(ask: Ask) -> None:
    for mask in ask("about")["masks"]:
        hidden = ask(f"mask?mask={mask}&ratio=0.75&seed=0")["hidden"]
        assert len(hidden) == 12
        assert hidden == sorted({*hidden})
    assert "further from 0 and 1" in ask("mask?mask=random&ratio=0.99&seed=0")["wrong"]
    assert "choose one of random" in ask("mask?mask=own&ratio=0.5&seed=0")["wrong"]


def test_what_the_page_is_told_of_a_run(ask: Ask, data: Path) -> None:
    told = ask("about")
    assert (told["grid"], told["size"], told["fills"], told["missing"]) == ([4, 4], [16, 16], "pixels", "")
    assert len(told["samples"]) == 4  # of 40, which pretrain set aside
    assert told["samples_said"] == "images that its training has not seen"
    assert told["neighbours"] == f"40 images in {data}"
    opened = ask("sample?number=0", {})
    assert opened["name"] == told["samples"][0]
    assert opened["picture"] == ask("open?name=a", (data / opened["name"]).read_bytes())["picture"]
    assert Image.open(io.BytesIO(ask("sample.png?number=1")["bytes"])).size == (16, 16)
    assert "no such image" in ask("sample?number=99", {})["wrong"]


def test_the_nearest_image_of_a_set_is_itself(ask: Ask, data: Path) -> None:
    opened = ask("open?name=a", (data / "class1/007.png").read_bytes())
    found = ask("nearest", {"image": opened["image"]})["nearest"]
    assert found[0]["name"] == "class1/007.png"
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    near = [one["similarity"] for one in found]
    assert near == sorted(near, reverse=True)
    assert ask(f"neighbour?number={found[0]['number']}", {})["picture"] == opened["picture"]


def test_bad_images_get_a_sentence_each(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    bands = io.BytesIO()
    np.save(bands, np.zeros((20, 20, 5), np.uint8))
    header = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    vast = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    whole = encoded(picture(0), "PNG")
    for name, file, words in (
        ("text", b"no image", "its first bytes are of no image format"),
        ("nothing", b"", "the file is empty"),
        ("half.png", whole[: len(whole) // 2], "half.png: "),
        ("bands.npy", bands.getvalue(), "5 channels and 3 are wanted"),
        ("thin.png", encoded(picture(0, (2, 30)), "PNG"), "less than one patch"),
        ("vast.png", b"\x89PNG\r\n\x1a\n" + vast, "more than is decoded"),
    ):
        said = ask(f"open?name={name}", file)["wrong"]
        assert words in said
        assert "--" not in said
        assert "`" not in said
    for asked in ({}, {"image": 1, "hidden": [99]}, {"image": 1, "hidden": ["a"]}, {"image": "x", "hidden": [0]}):
        assert ask("fill", asked)["wrong"]
    number = ask("open?name=a", whole)["image"]
    assert "no patch is hidden" in ask("fill", {"image": number, "hidden": []})["wrong"]
    assert "all patches are hidden" in ask("fill", {"image": number, "hidden": [*range(16)]})["wrong"]
    monkeypatch.setattr(viewing, "MOST_KEPT", 1)
    ask("open?name=b", whole)
    assert "open it again" in ask("fill", {"image": number, "hidden": [0]})["wrong"]


def test_sixteen_bits_are_seen_as_in_training(ask: Ask) -> None:
    model = create_model("vit_tiny", img_size=16, patch_size=4, in_chans=1, embed_dim=24, depth=1, num_heads=2)
    statistics = Statistics((0.5,), (0.25,), PixelFormat(1, None, "uint16"))
    loaded = Loaded(model, statistics, model_json(model, statistics, {}), "deep")
    levels, deep = np.asarray(picture(2, mode="L")).astype(np.uint16) * 257, io.BytesIO()
    tifffile.imwrite(deep, levels)
    viewed = view(loaded, UNSAID, "deep.tif", deep.getvalue())
    assert viewed.notes == ("Of 20 x 24 pixels the model sees the middle, at 16 x 16.",)
    expected = centred_view(levels[..., None], (16, 16))
    assert np.array_equal(viewed.image[0, 0].numpy(), expected[..., 0])
    assert "16-bit pixels where 8-bit ones are expected" in ask("open?name=deep.tif", deep.getvalue())["wrong"]


def test_attention_is_that_of_torchs_own_multi_head_attention(ask: Ask, data: Path) -> None:
    torch.manual_seed(0)
    encoder = create_model("vit_tiny", img_size=24, patch_size=8, embed_dim=32, depth=2, num_heads=4).encoder.eval()
    images = torch.randn(2, 3, 24, 24)
    found = attention_of(encoder, images, 5)
    state = [*encoder.states(encoder.embed(patchify(images, (8, 8))))][1]
    block: Any = encoder.blocks[1]
    x = block.norm1(state).transpose(0, 1)
    _, expected = F.multi_head_attention_forward(
        x, x, x, 32, 4, block.attn.qkv.weight, block.attn.qkv.bias, None, None, False, 0.0,
        block.attn.proj.weight, block.attn.proj.bias, training=False, average_attn_weights=False,
    )  # fmt: skip
    assert expected is not None
    torch.testing.assert_close(found, expected[:, :, 1 + 5])
    opened = ask("open?name=a", (data / "class0/000.jpg").read_bytes())
    told = ask("attention", {"image": opened["image"], "patch": 3, "layer": 1})
    assert sum(told["weights"]) + told["classes"] == pytest.approx(1, abs=1e-5)
    for asked in ({"patch": 16}, {"patch": -1}, {"patch": 0, "layer": 9}):
        assert ask("attention", {"image": opened["image"], **asked})["wrong"]


def test_attention_with_rotations_is_what_the_block_itself_attends_by() -> None:
    torch.manual_seed(0)
    encoder = ViT((24, 16), (8, 8), 3, 32, 2, 2, class_tokens=3, registers=2, rope=100.0).eval()
    initialize(encoder)
    images = torch.randn(2, 3, 24, 16)
    state = next(encoder.states(encoder.embed(patchify(images, (8, 8)))))
    block: Any = encoder.blocks[0]
    normed = block.norm1(state)
    value = block.attn.qkv(normed).view(2, 9, 3, 2, 16)[:, :, 2]  # (B, T + N, heads, D / heads)
    for patch in range(6):
        weights = attention_of(encoder, images, patch, layer=1)
        read = torch.einsum("bhn,bnhd->bhd", weights, value).flatten(1)
        expected = block.attn(normed, turns=encoder.turns(None))[:, 3 + patch]
        torch.testing.assert_close(block.attn.proj(read), expected)


def test_what_a_classifier_says_and_where_covering_changes_it(ask_classifier: Ask, classes: Path, data: Path) -> None:
    ask, loaded = ask_classifier, load_model(classes)
    told = ask("about")
    assert told["fills"] is None
    assert "no decoder" in told["missing"]
    assert "covering a patch" in told["missing"]
    assert told["task"] == "classification"
    opened = ask("open?name=a", (data / "class0/000.jpg").read_bytes())
    image = Image.open(io.BytesIO(base64.b64decode(opened["picture"].partition(",")[2])))
    seen = loaded.statistics.normalize(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None])
    rows, columns = loaded.encoder.grid
    down, across = loaded.encoder.patch_size

    def covered(patches: list[int]) -> dict[int, float]:
        other = seen.clone()
        for patch in patches:
            top, left = patch // columns * down, patch % columns * across
            other[..., top : top + down, left : left + across] = 0
        with torch.no_grad():
            return dict(enumerate(loaded.classifier.eval()(other).softmax(1)[0].tolist()))

    for hidden in ([], [0, 5]):
        says = ask("says", {"image": opened["image"], "hidden": hidden})["says"]
        assert {one["output"]: pytest.approx(one["value"], abs=1e-4) for one in says} == covered(hidden)
    top = ask("says", {"image": opened["image"], "hidden": []})["says"][0]
    assert top["name"] in ("class0", "class1")
    found = ask("occlude", {"image": opened["image"], "output": top["output"], "first": 0, "last": 16})["changes"]
    assert told["windows"] == [[patch] for patch in range(rows * columns)]
    expected = [covered(cover)[top["output"]] - covered([])[top["output"]] for cover in told["windows"]]
    assert found == pytest.approx(expected, abs=1e-4)
    for route in ("fill", "nearest"):
        assert ask(route, {"image": opened["image"], "hidden": [0]})["wrong"]


def test_windows_tile_the_grid() -> None:
    for grid, most in (((14, 14), 64), ((3, 5), 64), ((16, 9), 10), ((1, 1), 1)):
        found = windows(grid, most)
        assert len(found) <= most
        assert sorted(patch for window in found for patch in window) == [*range(grid[0] * grid[1])]


def test_the_command(finished: Path, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(server: PageServer) -> None:
        assert asking  # the routes are there before anybody is told the address
        assert server.routes
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupted)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    code, said, errors = run("demo", finished, "--neighbours", data, "--device", "cpu")
    assert (code, errors) == (130, "openmae demo: stopped.\n")
    assert "http://127.0.0.1:" in said
    assert "open the address in one" in said
    with PageServer(0) as other:
        port = other.server_address[1]
        refused(run("demo", finished, "--no-open", "--port", port), f"port {port} cannot be had", "another --port")
    refused(run("demo", finished, "--no-open", "--port", "0"), "--port is 0")
    refused(run("demo", tmp_path / "none"), "does not exist")
    refused(run("demo", finished, "--no-open", "--neighbours", tmp_path / "none"), "does not exist")


def test_a_process_that_serves_ends_at_ctrl_c(finished: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started_openmae(["demo", str(finished), "--no-open", "--device", "cpu"], log) as process:
        wait_for(lambda: "Ctrl-C" in log.read_text(), process)
        address = log.read_text().split()[0]
        with urllib.request.urlopen(address + "about") as answer:
            assert json.load(answer)["model"] == str(finished)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "Traceback" not in log.read_text()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=5)
