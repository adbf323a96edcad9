"""report.html: one file that needs nothing else, shows the run's numbers, and trusts no text from outside."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tomli_w
from PIL import Image

from openmae.errors import UserError
from openmae.report import curves
from openmae.report.page import MOST_BROKEN_FILES, MOST_EARLIER_PICTURES, write_report

NASTY = "<script>alert('x')</script>&\"quoted\".png"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page: its text, its tags with their attributes, whether they are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def sources(self) -> list[str]:
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name in ("src", "href")]


def a_line(step: int, **values: Any) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 0.4 + 1 / step,
        "lr": 1e-4,
        "grad_norm": 0.5,
        "images_per_second": 200.0,
        "data_wait": 0.02,
        "dropped": 0,
        "time": 1.79e9 + step,
        **values,
    }


def an_evaluation(kind: str, features: str, top1: float, **values: Any) -> dict[str, Any]:
    numbers = {"train_images": 400, "val_images": 100, "classes": 20, "top5": None}
    return {
        "kind": kind,
        "features": features,
        "top1": top1,
        "data": "flowers",
        "pool": "mean",
        "layer": 12,
        **numbers,
        **values,
    }


def a_run(tmp_path: Path, name: str = "xray", **config: Any) -> Path:
    run = tmp_path / name
    run.mkdir()
    (run / "config.toml").write_text(tomli_w.dumps({"model": "vit_tiny", "batch_size": 64, "steps": 1000, **config}))
    return run


def write_metrics(run: Path, lines: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_pictures(run: Path, steps: list[int]) -> None:
    (run / "pictures").mkdir()
    for step in steps:
        noise = np.random.default_rng(step).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(run / "pictures" / f"step-{step:08d}.png")


@pytest.fixture
def full_run(tmp_path: Path) -> Path:
    run = a_run(tmp_path, data=f"images/{NASTY}")
    write_metrics(run, [a_line(step, **({"eval/knn": 0.3} if step % 100 == 0 else {})) for step in range(10, 1001, 10)])
    starts = [
        {"started": started, "command": ["openmae", "pretrain", NASTY], "processor": "A CPU", "cores": 8, "gpus": []}
        for started in ("2030-01-01T10:00:00", "2030-01-02T10:00:00")
    ]
    (run / "environment.json").write_text(json.dumps({"starts": starts}))
    (run / "model.json").write_text(json.dumps({"architecture": {"img_size": [96, 96]}, "licence": None}))
    evaluations = [
        an_evaluation("knn", "pre-trained", 0.612),
        an_evaluation("linear", "pre-trained", 0.7),
        an_evaluation("knn", "raw pixels", 0.2214, pool=None, layer=None),
        an_evaluation("knn", "pre-trained", 0.5, data=NASTY, top5=0.912),
    ]
    (run / "evaluations.json").write_text(json.dumps(evaluations))
    (run / "broken.txt").write_text(f"a/{NASTY}\tthe file is empty\nb.jpg\ttruncated\n")
    write_pictures(run, [100, 500, 1000])
    return run


def page_of(run: Path) -> Page:
    file = write_report(run)
    assert file == run / "report.html"
    return Page(file.read_text())


# ---------------------------------------------------------------- the page


def test_the_page_shows_the_run(full_run: Path) -> None:
    page = page_of(full_run)
    assert ("title", {}) in page.tags
    for said in (
        "xray", "complete", "0.4010", "5 min 20 s", "A CPU, 8 cores",  # headline
        "61.2%", "70.0%", "22.1%", "kNN", "linear probe", "flowers", "400 labelled images", "guessing gives 5.0%",
        "top-5 91.2%", "ranks features poorly",
        "step 1,000", "step 100", "Earlier in training",
        "vit_tiny", "2 files were left out", "the file is empty", "architecture.img_size", "96, 96", "not stated",
        "start 1 of 2: 2030-01-01T10:00:00", "start 2 of 2: 2030-01-02T10:00:00",
    ):  # fmt: skip
        assert said in page.text


def test_the_page_needs_nothing_else(full_run: Path) -> None:
    page = page_of(full_run)
    html = re.sub(r"data:image/[a-z+]+;base64,[\w+/=]+", "", (full_run / "report.html").read_text())
    assert len(page.sources()) == 5 + 3  # curves and pictures
    assert all(source.startswith("data:image/") for source in page.sources())
    assert "http" not in html
    assert "url(" not in html
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}


def test_text_from_outside_stays_text(full_run: Path) -> None:
    page = page_of(full_run)
    assert page.text.count(NASTY) == 3  # data, broken file, evaluation
    assert "<script" not in (full_run / "report.html").read_text()


@pytest.mark.parametrize("name", ["<b>run & co", 'a "b"', "{braces}", "Größe"])
def test_the_title_is_the_runs_name(tmp_path: Path, name: str) -> None:
    assert page_of(a_run(tmp_path, name)).text.count(name) == 2


def test_a_lone_surrogate_does_not_lose_the_page(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    (run / "evaluations.json").write_text(json.dumps([an_evaluation("knn", "bad \udc80 name", 0.5)]))
    (run / "broken.txt").write_bytes(b"bad \xff name.png\tthe file is empty\n")
    text = page_of(run).text
    assert "bad ? name" in text
    assert "1 file was left out" in text


def test_config_alone_gives_a_page(tmp_path: Path) -> None:
    page = page_of(a_run(tmp_path))
    assert "at step 0 of 1,000" in page.text
    assert "vit_tiny" in page.text
    for absent in ("Curves", "Reconstructions", "Environment", "Broken", "Model", "features know", "loss"):
        assert absent not in page.text


def test_a_run_under_way_says_how_far_it_is(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    write_metrics(run, [a_line(10), a_line(20, loss=None, grad_norm=None, dropped=3)])
    text = page_of(run).text
    assert "at step 20 of 1,000" in text
    assert "Steps dropped" in text
    assert "Final loss" not in text
    assert "0.5000" in text


def test_gpus_are_counted(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    start = {"processor": "A CPU", "cores": 8, "gpus": ["A GPU", "A GPU"]}
    (run / "environment.json").write_text(json.dumps({"starts": [start]}))
    assert "2 x A GPU" in page_of(run).text


def test_the_best_of_a_column_is_bold_and_the_latest_figure_counts(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    entries = [
        an_evaluation("knn", "pre-trained", 0.9),
        an_evaluation("knn", "untrained", 0.3),
        an_evaluation("knn", "pre-trained", 0.6),
    ]
    (run / "evaluations.json").write_text(json.dumps(entries))
    write_report(run)
    html = (run / "report.html").read_text()
    assert "<b>60.0%</b>" in html
    assert "<td>30.0%</td>" in html
    assert "90.0%" not in html


def test_odd_evaluations_are_left_out(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    entries = ["text", {"kind": "knn"}, an_evaluation("knn", "pre-trained", math.nan), {"kind": "knn", "top1": 0.25}]
    (run / "evaluations.json").write_text(json.dumps(entries))
    text = page_of(run).text
    assert "25.0%" in text
    assert "nan" not in text


def test_long_lists_are_cut_and_say_so(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    write_pictures(run, list(range(1, 41)))
    (run / "broken.txt").write_text("".join(f"{i}.png\tthe file is empty\n" for i in range(MOST_BROKEN_FILES + 7)))
    page = page_of(run)
    assert len(page.sources()) == MOST_EARLIER_PICTURES + 1
    assert f"{MOST_EARLIER_PICTURES} of 39" in page.text
    assert "step 40" in page.text
    assert "207 files were left out" in page.text
    assert "and 7 more" in page.text


def test_a_damaged_picture_is_left_out(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    write_pictures(run, [1, 2])
    file = run / "pictures" / "step-00000001.png"
    file.write_bytes(file.read_bytes()[:200])
    assert len(page_of(run).sources()) == 1


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)
    run = a_run(tmp_path)
    (run / "evaluations.json").write_text("{")
    with pytest.raises(UserError, match=r"evaluations\.json cannot be read"):
        write_report(run)
    assert not (run / "report.html").exists()


# ---------------------------------------------------------------- curves


def test_curves_are_svg_with_text_and_the_same_every_time() -> None:
    lines = [a_line(step, **{"eval/$knn$ <raw>": step / 2000}) for step in range(10, 500, 10)]
    drawn = curves.curves(lines)
    assert list(drawn) == [
        "Training loss", "Evaluations during training", "Learning rate", "Gradient norm", "Speed",
    ]  # fmt: skip
    assert drawn == curves.curves(lines)
    for svg in drawn.values():
        root = ElementTree.fromstring(svg)
        words = {"".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")}
        assert "step" in words
    assert "$knn$ &lt;raw&gt;" in drawn["Evaluations during training"]


@pytest.mark.parametrize("lines", [[], [{}], [{"step": 1}], [{"step": 1, "loss": None}], [{**a_line(1), "step": None}]])
def test_nothing_is_drawn_of_nothing(lines: list[dict[str, Any]]) -> None:
    assert curves.curves(lines) == {}


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "text", True])
def test_what_is_no_number_is_no_point(value: object) -> None:
    steps, values = curves.series([a_line(1), a_line(2, loss=value), a_line(3)], "loss")
    assert steps.tolist() == [1, 3]
    assert len(values) == 2


def test_one_point_and_one_constant_can_be_drawn() -> None:
    assert len(curves.curves([a_line(1)])) == 4
    assert len(curves.curves([a_line(step, loss=1.0, data_wait=0.0) for step in range(1, 30)])) == 4


@pytest.mark.parametrize("count", [1, 2, 3, 50, 400])
def test_smoothing_keeps_length_and_constants(count: int) -> None:
    assert curves.smoothed(np.full(count, 3.0)) == pytest.approx(np.full(count, 3.0))
    rising = np.arange(count, dtype=float)
    inside = slice(count // 20 + 2, max(count - count // 20 - 2, 0))
    assert curves.smoothed(rising)[inside] == pytest.approx(rising[inside])
