"""report.html in a real browser: charts that answer, the slider, counts that lead to images, and no script of names."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openmae.report.page.run import write_report
from tests.browser import Tab, browser, needs_browser
from tests.report.test_report import a_line, a_run, write_metrics, write_pictures

__all__ = ["browser"]  # a fixture
pytestmark = needs_browser

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>' onmouseover=alert(3) \""


def _jpeg() -> str:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All names in it are evil."""
    run = a_run(tmp_path_factory.mktemp("run"), data=EVIL)
    lines = [a_line(step, **({f"eval/{EVIL}": step / 2000} if step % 100 == 0 else {})) for step in range(10, 1001, 10)]
    write_metrics(run, lines)
    write_pictures(run, [100, 500, 1000])
    (run / "broken.txt").write_text(f"{EVIL}\tit is {EVIL}\n")
    names = [EVIL, "b", "c"]
    images = [{"name": f"{number} {EVIL}", "confidence": 0.9 - number / 10, "jpeg": _jpeg()} for number in range(2)]
    pairs = [
        {"label": EVIL, "predicted": "b", "times": 3, "images": images},
        {"label": "b", "predicted": "c", "times": 1, "images": images[:1]},
    ]
    folder = run / "results" / "set-1"
    folder.mkdir(parents=True)
    kept = {"names": names, "counts": [[5, 3, 0], [0, 7, 1], [0, 0, 8]], "pairs": pairs}
    (folder / "mistakes.json").write_text(json.dumps(kept))
    clean = {"images": 24, "figures": {"top1": 0.8}, "pictures": {"mistakes": "results/set-1/mistakes.json"}}
    (run / "results.json").write_text(json.dumps({f"set {EVIL}": {"clean": clean}}))
    return write_report(run)


@pytest.fixture
def tab(browser: Any, run: Path) -> Iterator[Tab]:
    tab = Tab(browser, run.as_uri())
    tab.page.on("dialog", lambda dialog: pytest.fail(f"a script of a name ran: {dialog.message}"))
    yield tab
    assert tab.errors == []
    assert all(url.startswith((run.as_uri(), "data:")) for url in tab.asked)
    tab.close()


def test_charts_answer_to_mouse_and_keyboard(tab: Tab) -> None:
    """With the values that were logged."""
    chart = tab.page.locator(".chart").first
    chart.locator("svg").focus()
    tab.page.keyboard.press("End")
    said = chart.locator(".pointed")
    tab.sees(".chart .pointed >> nth=0", "step 1,000")
    logged = re.search(r"as logged ([\d.]+)", said.inner_text())
    assert logged is not None
    assert float(logged[1]) == pytest.approx(0.4 + 1 / 1000, abs=1e-3)
    tab.page.keyboard.press("ArrowLeft")
    tab.sees(".chart .pointed >> nth=0", "step 990")
    tab.page.keyboard.press("Escape")
    said.wait_for(state="hidden")
    box = chart.locator("svg").bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    said.wait_for(state="visible")
    words = re.search(r"step (\d+)", said.inner_text())
    assert words is not None
    assert 300 < int(words[1]) < 700
    shares = tab.page.locator(".chart", has_text="Evaluations").first
    shares.locator("svg").focus()
    tab.page.keyboard.press("Home")
    assert f"{EVIL} 5.0%" in shares.locator(".pointed").inner_text()


def test_charts_of_a_study_answer_with_names_and_bounds(browser: Any, tmp_path: Path) -> None:
    """By touch, too; what they say is the row's name, its figure and its bounds."""
    (tmp_path / "study.toml").write_text('study = "compare"\n[asked]\n')
    figure = {"name": "knn", "said": "kNN top-1", "in_points": True}
    apart = {"knn": {"difference": -0.1, "low": -0.12, "high": -0.08}}
    rows = [
        {"name": "mae", "of": {"knn": [0.6, 0.62, 0.61]}, "against": {}},
        {"name": EVIL, "of": {"knn": [0.5, 0.52, 0.51]}, "against": apart},
    ]
    found = {"study": "compare", "axis": "method", "usual": "mae", "figures": [figure], "rows": rows}
    found["seeds"] = 3  # the one fact that it kept: there are no empty boxes
    (tmp_path / "results.json").write_text(json.dumps(found))
    tab = Tab(browser, write_report(tmp_path).as_uri(), viewport={"width": 420, "height": 800}, has_touch=True)
    chart = tab.page.locator(".chart")
    assert tab.page.locator(".facts div").count() == 1
    chart.locator("svg").focus()
    tab.page.keyboard.press("End")
    tab.sees(".chart .pointed", f"method {EVIL}")
    tab.sees(".chart .pointed", "mean 51.0%, -10.0 points (-12.0 to -8.0)")
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").bounding_box()
    tab.page.touchscreen.tap(box["x"] + 0.25 * box["width"], box["y"] + 0.3 * box["height"])
    tab.sees(".chart .pointed", "method mae")
    tab.sees(".chart .pointed", "a seed 62.0%")
    assert tab.errors == []
    assert tab.violations() == []
    tab.close()


def test_the_slider_goes_through_training(tab: Tab) -> None:
    shown = tab.page.locator(".slides figure:visible")
    assert shown.count() == 1
    tab.sees(".slider output", "step 1,000")
    last = shown.locator("img").get_attribute("src")
    tab.page.locator(".slider input").focus()
    tab.page.keyboard.press("Home")
    tab.sees(".slider output", "step 100")
    assert shown.count() == 1
    assert shown.locator("img").get_attribute("src") != last


def test_counts_lead_to_their_images(tab: Tab) -> None:
    shown = tab.page.locator(".pair:visible")
    assert shown.locator("h3").inner_text() == f"{EVIL} taken for b: 3 times, the 2 surest"
    assert shown.locator("img").count() == 2
    tab.page.locator(".confusion a", has_text="1").click()
    assert shown.locator("h3").inner_text() == "b taken for c: once"
    before = shown.locator("img").bounding_box()["width"]
    shown.locator("img").press("Enter")
    assert shown.locator("img").bounding_box()["width"] > 2 * before
    assert [cell.inner_text() for cell in tab.page.locator(".chosen").all()] == ["1"]


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_for_everybody(width: int, scheme: str, browser: Any, run: Path) -> None:
    """No sideways scrolling, and nothing that axe-core finds."""
    tab = Tab(browser, run.as_uri(), viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    assert tab.violations() == []
    fills = [f"getComputedStyle(document.querySelector('{place}')).{what}" for place, what in
             ((".chart g > rect", "fill"), ("body", "backgroundColor"))]  # fmt: skip
    assert tab.page.evaluate(fills[0]) == tab.page.evaluate(fills[1])  # of a legend, whose words are light on dark
    tab.page.emulate_media(media="print", color_scheme=scheme)
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.page.locator(".slider").is_hidden()
    tab.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.page.locator(".pair:visible").count() == 2
    tab.close()


def test_without_scripts_everything_is_there(browser: Any, run: Path) -> None:
    tab = Tab(browser, run.as_uri(), java_script_enabled=False)
    for fold in tab.page.locator("details > summary").all():
        fold.click()
    assert tab.page.locator(".slides img:visible").count() == 3
    assert tab.page.locator(".pair:visible").count() == 2
    assert np.all([chart.is_visible() for chart in tab.page.locator(".chart svg").all()])
    tab.close()
