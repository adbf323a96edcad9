"""The demo's page in a real browser: hands, views, files, widths, and a server that has stopped."""

import base64
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmae.web.server import PageServer
from tests.browser import Tab, browser, needs_browser
from tests.images import encoded, picture
from tests.recipes.test_demo import answers_of, asking, pixels
from tests.web.test_server import served

__all__ = ["browser"]  # a fixture
pytestmark = needs_browser


@pytest.fixture(scope="module")
def server(finished: Path, data: Path) -> Iterator[PageServer]:
    with served() as server:
        server.routes = answers_of(finished, data).routes
        yield server


class DemoTab(Tab):
    """The demo's page."""

    def canvas(self, name: str) -> np.ndarray:
        """(H, W, 3) what stands on it."""
        address = self.page.evaluate(f"document.querySelector('#{name}').toDataURL()")
        return pixels(address)

    def drop(self, *files: tuple[str, bytes]) -> None:
        named = [(name, base64.b64encode(data).decode()) for name, data in files]
        self.page.evaluate(
            """files => {
              const dropped = new DataTransfer();
              for (const [name, data] of files) {
                dropped.items.add(new File([Uint8Array.from(atob(data), letter => letter.charCodeAt(0))], name));
              }
              document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true }));
            }""",
            named,
        )

    def held(self, address: str) -> Callable[[], Any]:
        """Holds the next request of such an address; what it returns waits for it and gives it, to let it go on."""
        late: list[Any] = []

        def hold(route: Any) -> None:
            late.append(route)

        def asked() -> Any:
            for _ in range(3000):  # the browser asks when it gets to it: at most 30 seconds
                if late:
                    break
                self.page.wait_for_timeout(10)
            return late[0]

        self.page.route(address, hold, times=1)
        return asked

    def cell(self, patch: int) -> Any:
        return self.page.locator("[role=gridcell]").nth(patch)

    def paint(self) -> None:
        """Hides, of 4 x 4 patches, the first row by the mouse and two of the second by keys."""
        self.page.get_by_role("button", name="Show all").click()
        self.sees("#made-said", "Nothing is hidden")
        boxes = [self.cell(patch).bounding_box() for patch in (0, 3)]
        middles = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
        self.page.mouse.move(*middles[0])
        self.page.mouse.down()
        self.page.mouse.move(*middles[1])  # in one go: what lies between is painted too
        self.page.mouse.up()
        self.sees("#status", "4 of 16")
        for key in ("Home", "ArrowDown", "ArrowRight", " ", "Shift+ArrowRight"):
            self.page.keyboard.press(key)
        self.sees("#status", "6 of 16")


@pytest.fixture
def tab(browser: Any, server: PageServer) -> Iterator[DemoTab]:
    tab = DemoTab(browser, server.address)
    tab.sees("#made-said", "Error")
    yield tab
    tab.close()
    assert tab.errors == []
    assert all(url.startswith((server.address, "data:")) for url in tab.asked)


def test_mouse_and_keyboard_paint_and_the_page_shows_what_comes_of_it(tab: DemoTab, server: PageServer) -> None:
    tab.sees("#status", "12 of 16 patches hidden (75%)")
    tab.paint()
    for key in ("End", "ArrowDown", " ", " "):
        tab.page.keyboard.press(key)
    tab.sees("#status", "6 of 16")
    assert tab.page.locator("[role=gridcell][tabindex='0']").count() == 1
    assert tab.page.locator("[role=gridcell]:focus").get_attribute("aria-label") == "row 3, column 4"
    hidden = [patch for patch in range(16) if tab.cell(patch).get_attribute("aria-selected") == "true"]
    assert hidden == [0, 1, 2, 3, 5, 6]

    tab.page.get_by_role("radio", name="reconstruction").check()
    tab.sees("#made-title", "Reconstruction alone")
    ask = asking(server)
    opened = ask("sample?number=0", {})
    found = ask("fill", {"image": opened["image"], "hidden": hidden})
    tab.sees("#made-said", f"Error {found['error']:.3g}"[:9])
    expected = pixels(found["predicted"])
    tab.page.get_by_role("radio", name="pasted in").check()
    shown, original = tab.canvas("made"), pixels(opened["picture"])
    for patch in range(16):
        where = np.s_[patch // 4 * 4 : patch // 4 * 4 + 4, patch % 4 * 4 : patch % 4 * 4 + 4]
        assert np.abs(shown[where] - (expected if patch in hidden else original)[where]).max() <= 1
    assert (tab.canvas("seen")[:4] == 128).all()


def test_each_view_mask_and_neighbour(tab: DemoTab, server: PageServer) -> None:
    from playwright.sync_api import expect

    seen = {"pasted in": tab.canvas("made").tobytes()}
    for view, said in (("error map", "Error"), ("original", "The original"), ("attention", "row 1, column 1")):
        tab.page.get_by_role("radio", name=view).check()
        tab.sees("#made-said", said)
        seen[view] = tab.canvas("made").tobytes()
    assert len({*seen.values()}) == 4
    tab.cell(6).click()
    tab.sees("#made-said", "row 2, column 3")
    assert tab.violations() == []
    tab.page.get_by_role("radio", name="error map").check()
    tab.page.get_by_label("Hide by").select_option("block")
    tab.page.locator("#ratio").fill("50")
    tab.sees("#status", "8 of 16")
    late = tab.held("**/mask?mask=grid*")  # what is wished for before comes after
    tab.page.get_by_label("Hide by").select_option("grid")
    grid = late()
    tab.page.get_by_label("Hide by").select_option("random")
    with tab.page.expect_response("**/mask?mask=random*"):
        grid.continue_()
    wished = asking(server)("mask?mask=random&ratio=0.5&seed=0", None)["hidden"]
    for patch in range(16):
        expect(tab.cell(patch)).to_have_attribute("aria-selected", str(patch in wished).lower())
    tab.page.get_by_role("button", name="Play over the ratio").click()
    tab.sees("#status", "15 of 16")
    tab.page.locator("#samples button").last.click()
    tab.sees("#nearest", "1.000")


def test_files_that_are_dropped(tab: DemoTab) -> None:
    good = encoded(picture(3, (30, 40)), "PNG")
    tab.page.wait_for_selector("#nearest button")
    late = tab.held("**/nearest")  # the first file's neighbours come after all of the second's
    tab.drop(("mine.png", good))
    tab.sees("#seen-title", "mine.png, masked")
    tab.sees("#notes", "Of 40 x 30 pixels the model sees the middle, at 16 x 16.")
    first = late()
    tab.drop(*[(f"{number}.png", good) for number in range(50)])
    said = "50 files were dropped, and one is shown at a time: the first, 0.png."
    tab.sees("#alarm", said)
    with tab.page.expect_response("**/nearest") as answered:
        first.continue_()
    answered.value.finished()
    tab.page.evaluate("new Promise(done => setTimeout(done))")
    tab.sees("#alarm", said)
    tab.errors.clear()
    tab.drop(("<img src=x onerror=alert(1)>", b"no image"))
    tab.sees("#alarm", "<img src=x onerror=alert(1)>: its first bytes are of no image format")
    assert len(tab.errors) == 1  # Chromium notes each answer that is no 200
    tab.errors.clear()
    tab.sees("#seen-title", "0.png, masked")  # what was there stays
    tab.page.set_input_files("#file", {"name": "chosen.png", "mimeType": "image/png", "buffer": good})
    tab.sees("#seen-title", "chosen.png, masked")
    tab.page.wait_for_selector("#alarm", state="hidden")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (3840, "light")])
def test_a_page_of_any_width(width: int, scheme: str, browser: Any, server: PageServer) -> None:
    how = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "has_touch": True}
    tab = DemoTab(browser, server.address, **how)
    tab.sees("#made-said", "Error")
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    paper = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    for name in ("seen", "made"):
        assert tab.page.locator(f"#{name}").bounding_box()["width"] >= 300
    before = tab.page.locator("#status").inner_text()
    tab.cell(5).tap()
    from playwright.sync_api import expect

    expect(tab.page.locator("#status")).not_to_have_text(before)
    assert tab.errors == []
    tab.close()


def test_what_a_classifier_says_and_what_matters(browser: Any, classes: Path) -> None:
    with served() as server:
        server.routes = answers_of(classes).routes
        tab, other = DemoTab(browser, server.address), DemoTab(browser, server.address)
        for one in (tab, other):
            one.sees("#missing", "no decoder")
            one.sees("#says", "class1")
        tab.page.get_by_role("radio", name="what matters").check()
        tab.sees("#made-said", "Where covering a part changes most")
        tab.page.get_by_text("so far").wait_for(state="detached")
        assert tab.violations() == []
        tab.cell(0).click()
        tab.sees("#status", "1 of 16")
        other.sees("#status", "0 of 16")
        assert tab.errors == other.errors == []
        other.close()
        gone = threading.Thread(target=server.shutdown)
        gone.start()
        gone.join()
    tab.sees("#alarm", "The server has stopped")
    tab.close()
