"""The page as one file in a real browser, opened from a disk without a network: the parts that do what openmae does,
and all of it with a model, beside openmae's own answers."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openmae.cli import main
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.views.centred import centred
from openmae.data.views.crop import centred_view
from openmae.evaluate.attention import attention_of
from openmae.masking import MASKS, Masking
from openmae.recipes.demo import file as pages
from openmae.recipes.demo.others import samples_of
from openmae.recipes.demo.viewing import view
from openmae.report.sheets.pictures import PatchStats, fill
from openmae.web.single import bundled
from openmae.weights import Loaded, load_model
from tests.browser import browser, needs_browser
from tests.images import encoded, picture
from tests.runs import Runs
from tests.runtime import RUNTIME, needs_runtime
from tests.web.test_page import DemoTab

__all__ = ["browser"]  # a fixture
pytestmark = needs_browser


# ---------------------------------------------------------------- what the page does in the place of openmae


@pytest.fixture(scope="module")
def modules(browser: Any) -> Iterator[Any]:
    """A page that has what reads files and what draws masks."""
    page = browser.new_context(offline=True).new_page()
    for name in ("reading", "masks"):
        script = f"(() => {{ {bundled(f'file/{name}.js')} return modules; }})()"
        page.evaluate(f"globalThis.modules = {{ ...globalThis.modules, ...{script} }}; null")
    yield page
    page.context.close()


@pytest.mark.parametrize(
    ("size", "view_size"),
    [
        ((300, 400), (224, 224)),
        ((61, 47), (224, 224)),
        ((513, 300), (256, 256)),
        ((40, 900), (32, 32)),
        ((100, 77), (64, 32)),
        ((24, 20), (16, 16)),
        ((16, 16), (16, 16)),
    ],
)
def test_views_are_those_of_training_to_the_last_bit(
    size: tuple[int, int], view_size: tuple[int, int], modules: Any
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = modules.evaluate(
        """([letters, height, width, size]) => {
          const data = Uint8ClampedArray.from(atob(letters), letter => letter.charCodeAt(0));
          const image = { height, width, channels: 3, data };
          return [...modules["file/resize.js"].centredView(image, size).data];
        }""",
        [base64.b64encode(pixels.tobytes()).decode(), *size, view_size],
    )
    assert np.array_equal(np.array(found).reshape(*view_size, 3), centred_view(pixels, view_size))


def read_by_browser(page: Any, name: str, data: bytes, channels: int = 3, alpha: str | None = None) -> Any:
    """(C, 16, 16), and what is said; a sentence where it is refused."""
    found = page.evaluate(
        """async ([name, letters, channels, alpha]) => {
          const data = Uint8Array.from(atob(letters), letter => letter.charCodeAt(0));
          const how = { size: [16, 16], patch: [4, 4], channels, alpha };
          try {
            const { levels, notes } = await modules["file/reading.js"].read(new File([data], name), how);
            return { levels: [...levels], notes };
          } catch (error) {
            return { wrong: error.message };
          }
        }""",
        [name, base64.b64encode(data).decode(), channels, alpha],
    )
    return found.get("wrong") or (np.array(found["levels"]).reshape(channels, 16, 16), found["notes"])


def test_files_are_read_as_in_training(modules: Any) -> None:
    image = picture(1, (30, 50))
    through = image.copy()
    through.putalpha(Image.linear_gradient("L").resize(image.size))
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, file, most, channels, alpha in (
        ("a.png", encoded(image, "PNG"), 0, 3, None),
        ("a.png", encoded(image, "PNG"), 0, 1, None),
        ("grey.png", encoded(image.convert("L"), "PNG"), 0, 3, None),
        ("palette.png", encoded(image.quantize(32), "PNG"), 0, 3, None),
        ("a.jpg", encoded(image, "JPEG", quality=90), 1, 3, None),
        ("turned.jpg", encoded(image, "JPEG", quality=90, exif=turned), 1, 3, None),
        ("a.webp", encoded(image, "WEBP", lossless=True), 0, 3, None),
        ("white.png", encoded(through, "PNG"), 1, 3, "white"),
        ("black.png", encoded(through, "PNG"), 1, 3, "black"),
    ):
        pixels = PixelFormat(channels, None, "uint8", Reading(alpha=alpha))
        expected = centred(file, pixels, (16, 16), (4, 4)).transpose(2, 0, 1).astype(int)
        found, notes = read_by_browser(modules, name, file, channels, alpha)
        assert np.abs(found - expected).max() <= most, name
        width, height = (30, 50) if name == "turned.jpg" else (50, 30)
        assert notes == [f"Of {width} x {height} pixels the model sees the middle, at 16 x 16."]
    assert read_by_browser(modules, "same.png", encoded(picture(1, (16, 16)), "PNG"))[1] == []


def test_what_a_browser_cannot_read_gets_a_sentence(modules: Any) -> None:
    deep = encoded(Image.fromarray(np.zeros((20, 20), np.uint16)), "PNG")
    for name, file, words in (
        ("a.tif", encoded(picture(0), "TIFF"), "a.tif: this browser cannot decode it"),
        ("none.jpg", b"", "none.jpg: this browser cannot decode it"),
        ("deep.png", deep, "deep.png has 16 bits a channel"),
        ("thin.png", encoded(picture(0, (2, 30)), "PNG"), "less than one patch"),
    ):
        assert words in read_by_browser(modules, name, file)
    assert "openmae demo" in read_by_browser(modules, "a.tif", encoded(picture(0), "TIFF"))


def test_masks_are_of_the_kinds_of_training(modules: Any) -> None:
    for grid, unit in (((14, 14), 1), ((6, 10), 2), ((4, 4), 1)):
        masking, ratios = Masking(mask_unit=unit), (0.2, 0.5, 0.75)
        for name, mask in MASKS.items():
            for ratio in ratios:
                asked = [{"mask": name, "ratio": ratio, "seed": 3}, grid, unit]
                hidden = modules.evaluate("asked => modules['file/masks.js'].drawMask(...asked)", asked)
                visible = masking.counts(grid, ratio)[0]
                assert hidden == sorted({*hidden})
                assert len(hidden) == grid[0] * grid[1] - visible
                shown = np.ones(grid, bool)
                shown.flat[hidden] = False
                units = shown.reshape(grid[0] // unit, unit, grid[1] // unit, unit)
                assert (units.all((1, 3)) == units.any((1, 3))).all()
                coarse = units.any((1, 3))
                if name == "grid":  # which draws nothing
                    order = mask(np.random.default_rng(0), coarse.shape, visible // unit**2)
                    assert sorted(order[: visible // unit**2]) == np.flatnonzero(coarse).tolist()
                if name == "crop":  # one window
                    rows, columns = (np.flatnonzero(coarse.any(axis)) for axis in (1, 0))
                    assert np.ptp(rows) + 1 == len(rows)
                    assert np.ptp(columns) + 1 == len(columns)
                    assert len(rows) * len(columns) - coarse.sum() < max(len(rows), len(columns))
    of_seeds = [
        modules.evaluate(
            "seed => modules['file/masks.js'].drawMask({ mask: 'random', ratio: 0.75, seed }, [14, 14], 1)", seed
        )
        for seed in range(40)
    ]
    assert len({*map(tuple, of_seeds)}) == 40
    often = np.bincount(np.concatenate(of_seeds), minlength=196)
    assert 15 < often.min() < 30 < often.max() <= 40  # of 40, 30 are expected


# ---------------------------------------------------------------- all of it


@pytest.fixture(scope="module")
def loaded(finished: Path) -> Loaded:
    return load_model(finished)


def write_page(run: Path, runs: Runs, out: Path, exact: float) -> None:
    """What `demo --to-file` writes of it."""
    graph = runs.graph().read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "graph_of", lambda model, statistics: graph)
        patch.setattr(pages, "EXACT", exact)
        assert main(["demo", str(run), "--to-file", str(out), "--runtime", str(RUNTIME)]) == 0


@pytest.fixture(scope="module")
def page(finished: Path, runs: Runs) -> str:
    return runs.once("demo.html", lambda out: write_page(finished, runs, out, pages.EXACT)).as_uri()


@pytest.fixture
def tab(browser: Any, page: str) -> Iterator[DemoTab]:
    tab = DemoTab(browser, page, offline=True)
    tab.sees("#made-said", "Error")
    yield tab
    tab.close()
    assert tab.errors == []
    assert all(url.startswith((page, "data:")) for url in tab.asked)


def hidden_in(tab: DemoTab) -> list[int]:
    return [patch for patch in range(16) if tab.cell(patch).get_attribute("aria-selected") == "true"]


def check_shown(tab: DemoTab, loaded: Loaded, image: torch.Tensor, stats: PatchStats, within: float) -> None:
    """The canvas and the error that is said are those of `openmae.reconstruct`."""
    hidden = hidden_in(tab)
    visible = torch.tensor([[patch for patch in range(16) if patch not in hidden]])
    found = fill(loaded.autoencoder.eval(), loaded.statistics, image, visible, stats)
    assert found.predicted is not None
    error = f"Error {found.errors.mean().item():.3g}"
    tab.sees("#made-said", error[: 8 if within else 9])
    pasted = found.original.where(~found.hidden, found.predicted)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(tab.canvas("made") - pasted).max() <= max(1, 255 * within)


@needs_runtime
def test_hands_paint_and_the_file_shows_what_openmae_does(tab: DemoTab, loaded: Loaded, finished: Path) -> None:
    image = samples_of(finished, loaded, UNSAID).view(0).image
    tab.sees("#status", "12 of 16 patches hidden (75%)")
    tab.sees("#limits", "need openmae demo")
    assert tab.page.locator("#nearest").is_hidden()
    check_shown(tab, loaded, image, "true", 0)
    tab.paint()
    assert hidden_in(tab) == [0, 1, 2, 3, 5, 6]
    check_shown(tab, loaded, image, "true", 0)
    tab.page.get_by_label("Take the brightness and contrast").check()
    tab.sees("#made-said", "visible patches around")
    check_shown(tab, loaded, image, "visible", 0)


@needs_runtime
def test_views_masks_and_attention_of_the_file(tab: DemoTab, loaded: Loaded, finished: Path) -> None:
    seen = {"pasted in": tab.canvas("made").tobytes()}
    for name, said in (("reconstruction", "Error"), ("error map", "Error"), ("original", "The original")):
        tab.page.get_by_role("radio", name=name).check()
        tab.sees("#made-said", said)
        seen[name] = tab.canvas("made").tobytes()
    assert len({*seen.values()}) == 4
    image = samples_of(finished, loaded, UNSAID).view(0)
    assert np.array_equal(tab.canvas("made"), image.image[0].permute(1, 2, 0).numpy())
    tab.page.get_by_role("radio", name="attention").check()
    tab.cell(6).click()
    expected = attention_of(loaded.encoder.eval(), image.normalised, 6)[0].mean(0)
    classes = loaded.encoder.class_tokens
    tab.sees("#made-said", "row 2, column 3 attends to in block 2, nothing hidden")
    tab.sees("#made-said", f"Class tokens get {100 * expected[:classes].sum():.1f}"[:-2])
    tab.sees("#legend", f"{100 * expected[classes:].max():.0f}"[:1])
    assert tab.violations() == []
    tab.page.get_by_role("radio", name="error map").check()
    for mask in ("block", "grid", "crop", "uniform"):
        tab.page.get_by_label("Hide by").select_option(mask)
        tab.page.locator("#ratio").fill("50")
        tab.sees("#status", "8 of 16")
    tab.page.get_by_role("button", name="Play over the ratio").click()
    tab.sees("#status", "15 of 16")
    assert tab.violations() == []


@needs_runtime
def test_files_that_are_dropped_on_the_file(tab: DemoTab, loaded: Loaded) -> None:
    good = encoded(picture(3, (30, 40)), "PNG")
    tab.drop(("mine.png", good))
    tab.sees("#seen-title", "mine.png, masked")
    tab.sees("#notes", "Of 40 x 30 pixels the model sees the middle, at 16 x 16.")
    tab.sees("#made-said", "Error")
    check_shown(tab, loaded, view(loaded, UNSAID, "mine.png", good).image, "true", 0)
    dark = encoded(picture(3, (16, 16)).point(lambda level: level // 5), "PNG")
    tab.drop(("dark.png", dark))
    tab.sees("#seen-title", "dark.png, masked")
    tab.sees("#made-said", "less than half of the range")
    check_shown(tab, loaded, view(loaded, UNSAID, "dark.png", dark).image, "true", 0)
    tab.drop(("<img src=x onerror=alert(1)>.tif", encoded(picture(3), "TIFF")))
    tab.sees("#alarm", "<img src=x onerror=alert(1)>.tif: this browser cannot decode it")
    tab.sees("#seen-title", "dark.png, masked")  # what was there stays
    tab.page.set_input_files("#file", {"name": "chosen.png", "mimeType": "image/png", "buffer": good})
    tab.sees("#seen-title", "chosen.png, masked")
    tab.page.wait_for_selector("#alarm", state="hidden")


@needs_runtime
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (3840, "light")])
def test_a_file_of_any_width(width: int, scheme: str, browser: Any, page: str) -> None:
    how = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "has_touch": True, "offline": True}
    tab = DemoTab(browser, page, **how)
    tab.sees("#made-said", "Error")
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    before = tab.page.locator("#status").inner_text()
    tab.cell(5).tap()
    from playwright.sync_api import expect

    expect(tab.page.locator("#status")).not_to_have_text(before)
    assert tab.violations() == []
    assert tab.errors == []
    tab.close()


@needs_runtime
def test_a_file_of_rounded_weights(browser: Any, finished: Path, loaded: Loaded, runs: Runs, tmp_path: Path) -> None:
    write_page(finished, runs, tmp_path / "demo.html", 0)
    tab = DemoTab(browser, (tmp_path / "demo.html").as_uri(), offline=True)
    tab.sees("#made-said", "Error")
    tab.sees("#limits", "rounded to 8 bits")
    check_shown(tab, loaded, samples_of(finished, loaded, UNSAID).view(0).image, "true", 0.02)
    assert tab.errors == []
    tab.close()
