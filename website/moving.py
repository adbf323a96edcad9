"""The moving picture at the top of README: the demo page as a hand would use it, recorded in a browser.

    python website/moving.py RUN docs/pictures/demo.webp

RUN is a run of `openmae quickstart`, whose images may be shown to anybody. Needs what the tests need, and Chromium.
"""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.browser import CHROMIUM, SECONDS

SIZE = {"width": 760, "height": 1400}
SAMPLES = (1, 6, 0)  # which of those that the page offers
RATIOS = (25, 35, 45, 55, 65, 75, 85)
LOOK, STEP = 1400, 220  # ms that a frame stands
ANSWER = 1000  # ms in which a small model has answered
Frame = tuple[Image.Image, int]


def recorded(page: Page) -> Iterator[Frame]:
    """Frames, and how long each stands, in ms."""
    page.locator("#made-said", has_text="Error").wait_for()
    for sample in SAMPLES:
        answered(page, lambda sample=sample: page.locator("#samples button").nth(sample).click())
        yield shot(page, LOOK)
        for ratio in RATIOS:
            answered(page, lambda ratio=ratio: page.locator("#ratio").fill(str(ratio)))
            yield shot(page, STEP)
        yield shot(page, LOOK)
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("Brush").select_option("2")
    page.locator("#made-said", has_text="Nothing is hidden").wait_for()
    yield shot(page, 3 * STEP)
    yield from painted(page)


def painted(page: Page) -> Iterator[Frame]:
    """A stroke to and fro over the middle, as far as it has come."""
    box: Any = page.locator("#patches").bounding_box()
    places = [(0.2 + 0.6 * across, down) for down in (0.3, 0.55) for across in (0, 0.25, 0.5, 0.75, 1)]
    page.mouse.move(box["x"] + places[0][0] * box["width"], box["y"] + places[0][1] * box["height"])
    page.mouse.down()
    for across, down in places[1:]:
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        page.wait_for_timeout(ANSWER)  # on the way nothing new may hide, which no answer follows
        yield shot(page, STEP)
    page.mouse.up()
    yield shot(page, 2 * LOOK)


def answered(page: Page, act: Any) -> None:
    """What a hand does, until the page shows what the model says to it."""
    with page.expect_response(lambda response: "/fill" in response.url):
        act()
    page.wait_for_timeout(150)


def shot(page: Page, milliseconds: int) -> Frame:
    """What stands side by side on the page."""
    png = page.locator("#stage").screenshot()
    return Image.open(io.BytesIO(png)).convert("RGB"), milliseconds


def main() -> None:
    """Serves the page, and closes it."""
    run, out = sys.argv[1:]
    command = [sys.executable, "-m", "openmae", "demo", run, "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        try:
            lines = iter(server.stdout or ())
            address = next(word for line in lines for word in line.split() if word.startswith("http://"))
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE, device_scale_factor=1)
            page.set_default_timeout(SECONDS)
            page.goto(address)
            frames = list(recorded(page))
            browser.close()
        finally:
            server.terminate()
    first, *others = [image for image, _ in frames]
    how = {"duration": [time for _, time in frames], "loop": 0, "quality": 80, "method": 6}
    first.save(out, save_all=True, append_images=others, **how)
    print(f"{out}: {len(frames)} frames, {Path(out).stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main()
