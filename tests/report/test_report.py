"""report.html: one file that needs nothing else, shows the run's numbers, and trusts no text from outside."""

import base64
import hashlib
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
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.header import Depth
from openmae.data.loading.in_order import CentredImages
from openmae.data.opening import open_data
from openmae.errors import UserError
from openmae.evaluate.metrics import calibration, calibration_error
from openmae.report.page.beside import write_beside
from openmae.report.page.pictures import MOST_EARLIER
from openmae.report.page.run import MOST_BROKEN_FILES, write_report
from openmae.report.plots import curves
from openmae.report.plots.chart import Line, Plot
from openmae.report.plots.figures import corruptions_picture, overview_picture, scatter_picture
from openmae.report.plots.results import (
    MOST_NAMED,
    confusion_picture,
    reliability_picture,
    shares_picture,
)
from openmae.report.plots.style import BLUE
from openmae.report.sheets.gallery import Group, Tile, gallery, view_tiles

NASTY = "<script>alert('x')</script>&\"quoted\".png"
VOID = {"meta", "img"}
SVG = "{http://www.w3.org/2000/svg}"


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
        if self.open[-1:] not in (["script"], ["style"]):
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


def an_evaluation(kind: str, features: str, top1: float | None, **values: Any) -> dict[str, Any]:
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
    assert len(page.sources()) == 3  # pictures
    assert all(source.startswith("data:image/") for source in page.sources())
    assert sum(tag == "svg" for tag, _ in page.tags) == 5
    assert "http:" not in html.replace("http://www.w3.org/2000/svg", "")  # that is a name alone
    assert "https:" not in html
    assert "url(" not in html
    assert not {"link", "iframe"} & {tag for tag, _ in page.tags}


def test_the_page_allows_its_own_script_and_no_other(full_run: Path) -> None:
    """A browser that keeps to the policy runs nothing that a name brought in."""
    page_of(full_run)
    html = (full_run / "report.html").read_text()
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed["default-src"] == "'none'"
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"
    assert " style=" not in html  # the policy does not let it have an effect


def test_settings_that_the_user_set_come_first(full_run: Path) -> None:
    starts = json.loads((full_run / "environment.json").read_text())["starts"]
    starts[0]["asked"], starts[1]["asked"] = ["batch_size", "no longer there"], ["data"]
    (full_run / "environment.json").write_text(json.dumps({"starts": starts}))
    text = page_of(full_run).text
    assert "2 more, at their default or chosen for these images" in text
    assert text.index("batch_size") < text.index("2 more") < text.index("vit_tiny")


def test_text_from_outside_stays_text(full_run: Path) -> None:
    page = page_of(full_run)
    assert page.text.count(NASTY) == 3  # data, broken file, evaluation
    assert (full_run / "report.html").read_text().count("<script") == 1


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


def test_runs_stand_side_by_side(full_run: Path, tmp_path: Path) -> None:
    """What differs, common charts, figures, pictures; the loss where it says nothing is said to."""
    other = a_run(tmp_path, "other", mask_ratio=0.5, data=f"images/{NASTY}")
    write_metrics(other, [a_line(step) for step in range(10, 501, 10)])
    (other / "evaluations.json").write_text(json.dumps([an_evaluation("knn", "pre-trained", 0.55, step=400)]))
    file = tmp_path / "pages" / "compare.html"
    write_beside([full_run, other], file)
    page = Page(file.read_text())
    rows = dict(re.findall("<tr><th>(.*?)</th>(.*?)</tr>", file.read_text()))
    cells = {name: re.findall("<td>(.*?)</td>", row) for name, row in rows.items()}
    assert cells["Status"] == ["complete", "at step 500 of 1,000"]
    assert cells["mask_ratio"] == ["", "0.5"]
    assert [cell[:5] for cell in cells["kNN, pre-trained (layer 12, mean) on flowers"]] == ["61.2%", "55.0%"]
    assert cells["kNN, pre-trained (layer 12, mean) on flowers"][1].endswith(" (after 400 steps)")
    assert "data" not in re.findall("<th>(.*?)</th>", file.read_text()[: file.read_text().index("that all share")])
    assert "the runs differ in mask_ratio" in page.text
    lines = re.findall('class="line" data-name="([^"]*)"', file.read_text())
    assert [*dict.fromkeys(lines)] == [full_run.name, "other"]
    assert page.text.count(NASTY) == 1
    assert "xray, step 1,000" in page.text
    again = tmp_path / "again" / full_run.name
    again.parent.mkdir()
    (tmp_path / full_run.name).rename(again)
    write_beside([again, a_run(tmp_path, full_run.name, data=f"images/{NASTY}")], file)
    assert f"again/{full_run.name}" in Page(file.read_text()).text
    with pytest.raises(UserError, match="named twice"):
        write_beside([again, again], file)


def test_sets_of_one_name_are_told_apart_side_by_side(tmp_path: Path) -> None:
    """Where they lie in other folders; and no two of many runs have one line."""
    runs = [a_run(tmp_path, f"run{number}", mask_ratio_end=0.9 if number else 0.5) for number in range(8)]
    for run, figures in zip(runs, ({"h1": 0.5, "h2": 0.25}, {"h2": 0.75}), strict=False):
        write_metrics(run, [a_line(10), a_line(20)])
        entry = {
            f"/d/{name}/test": {"clean": {"images": 40, "figures": {"top1": one}}} for name, one in figures.items()
        }
        (run / "results.json").write_text(json.dumps(entry))
        (run / "evaluations.json").write_text(json.dumps([an_evaluation("knn", "pre-trained", 0.5, data="/e/h1/test")]))
    for run in runs[2:]:
        write_metrics(run, [a_line(10), a_line(20)])
    write_beside(runs, tmp_path / "beside.html")
    text = (tmp_path / "beside.html").read_text()
    rows = dict(re.findall("<tr><th>(.*?)</th>(.*?)</tr>", text))
    cells = {name: [cell[:5] for cell in re.findall("<td>(.*?)</td>", row)] for name, row in rows.items()}
    assert cells["Top-1 accuracy on d/h1/test"][:2] == ["50.00", ""]
    assert cells["Top-1 accuracy on d/h2/test"][:2] == ["25.00", "75.00"]
    assert cells["kNN, pre-trained (layer 12, mean) on e/h1/test"][:2] == ["50.0%", "50.0%"]
    assert "the runs differ in mask_ratio_end" in text
    drawn = re.findall('<polyline [^>]*class="line"[^>]*>', text)
    lines = [dict(re.findall(r'([\w-]+)="([^"]*)"', line)) for line in drawn]
    seen = {(line["data-name"], line["stroke"], line.get("stroke-dasharray", "")) for line in lines}
    assert len(seen) == len({(colour, dashes) for _, colour, dashes in seen}) == 8


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
    start["processes"] = 16
    (run / "environment.json").write_text(json.dumps({"starts": [start]}))
    assert "2 x A GPU, 16 processes" in page_of(run).text


def test_what_is_better_by_more_than_its_error_is_bold_and_the_latest_figure_counts(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    entries = [
        an_evaluation("knn", "pre-trained", 0.9, step=1000),
        an_evaluation("knn", "untrained", 0.3),
        an_evaluation("knn", "pre-trained", 0.6, step=1000),
    ]
    (run / "evaluations.json").write_text(json.dumps(entries))
    write_report(run)
    html = (run / "report.html").read_text()
    assert "<b>60.0% ± 4.9</b>" in html  # the root of 0.6 x 0.4 / 100
    assert "<td>30.0% ± 4.6</td>" in html
    assert "90.0%" not in html
    assert " steps<" not in html
    entries += [
        an_evaluation("knn", "pre-trained", 0.123, step=800),  # the run has gone on since
        an_evaluation("linear", "pre-trained", 0.9),
        an_evaluation("linear", "histograms", 0.87, balanced_accuracy=0.81, auroc=0.95),
        an_evaluation("knn", "pre-trained", None, task="regression", data="ages", r2=0.5, error=0.1),
        an_evaluation("knn", "untrained", None, task="regression", data="ages", r2=0.3, error=0.1),
        an_evaluation("knn", "raw pixels", None, task="regression", data="ages", r2=0.3),
    ]
    (run / "evaluations.json").write_text(json.dumps(entries))
    write_report(run)
    html = (run / "report.html").read_text()
    assert ", after 800 steps<" in html
    for said in ("<td>90.0% ± 3.0</td>", "balanced 81.0%", "AUROC 95.0%", "<td>0.500 ± 0.100</td>", "<td>0.300</td>"):
        assert said in html
    assert html.count("<b>") == 1


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
    assert len(page.sources()) == MOST_EARLIER + 1
    assert f"{MOST_EARLIER} of 39" in page.text
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


# ---------------------------------------------------------------- classifiers, sweeps


def a_classifier(tmp_path: Path, task: str = "classification", **provenance: Any) -> Path:
    run = a_run(tmp_path, "classes")
    info = {"kind": "classifier", "task": task, "class_names": ["a", "b", NASTY], "provenance": provenance}
    (run / "model.json").write_text(json.dumps(info))
    return run


def test_a_fine_tuned_run_says_what_it_learnt_from_what_and_how_well(tmp_path: Path) -> None:
    run = a_classifier(tmp_path, model="runs/first", **{"pre-training": {"job": "pretrain"}})
    write_metrics(
        run, [a_line(10, **{"eval/top1": 0.5, "val_loss": 2.0}), a_line(20, **{"eval/top1": 0.75}), a_line(30)]
    )
    page = page_of(run)
    for said in ("classification, 3 classes", "Top-1 accuracy on val", "75.00%", "Began with", "runs/first"):
        assert said in page.text
    assert "ranks features poorly" not in page.text
    assert "the training loss may stay far above" in page.text


@pytest.mark.parametrize(
    ("task", "figures", "said"),
    [
        ("multi-label", {"eval/mean_ap": 0.5}, ("multi-label, 3 labels", "Mean average precision on val", "50.00%")),
        ("regression", {"val_r2": 0.87654, "val_mae": 2.0}, ("regression", "R² on val", "0.8765")),
    ],
)
def test_every_task_has_its_own_headline(
    tmp_path: Path, task: str, figures: dict[str, float], said: tuple[str, ...]
) -> None:
    run = a_classifier(tmp_path, task, model="vit_tiny")
    write_metrics(run, [a_line(10, **figures)])
    page = page_of(run)
    for words in (*said, "fresh weights"):
        assert words in page.text


def test_evaluations_of_every_task_and_the_rank_are_shown(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    entries = [
        an_evaluation("knn", "pre-trained", None, task="multi-label", mean_ap=0.625, rankme=40.25),
        an_evaluation("linear", "pre-trained", None, task="regression", r2=-0.25, classes=None, data="ages"),
        an_evaluation("linear", "raw pixels", None, task="regression", data="nothing"),
    ]
    (run / "evaluations.json").write_text(json.dumps(entries))
    text = page_of(run).text
    for said in ("Mean average precision on flowers", "62.5%", "RankMe", "40.2", "R² on ages", "-0.250"):
        assert said in text
    assert "guessing" not in text
    assert "nothing" not in text


def test_val_figures_are_drawn() -> None:
    lines = [a_line(step, val_loss=2 / step, val_r2=-1.0, val_mae=3.0, val_rmse=4.0) for step in range(1, 5)]
    drawn = curves.curves(lines)
    assert {"Val loss", "R² on val", "Mean absolute error on val", "Root mean squared error on val"} < set(drawn)
    assert curves.validation_curves([a_line(1)]) == {}


def test_a_sweep_has_a_page_of_its_own(tmp_path: Path) -> None:
    one = {"figures": {"top1": 0.5, "loss": 1.0}, "parameters": 1000, "seconds": 61.0}
    parts = {
        "all": one,
        "0": {**one, "seconds": None},
        "0.5": {"figures": {"top1": 0.25}},
        "4": {"figures": {}},
        "2": 3,
        "odd": one,
    }
    (tmp_path / "sweep.json").write_text(json.dumps(parts))
    page = page_of(tmp_path)
    text = page.text[page.text.index("Partial fine-tuning") :]
    assert text.index("0 (head alone)") < text.index("0.5") < text.index("all")
    for said in ("Top-1 accuracy", "25.00%", "1,000", "1 min 01 s"):
        assert said in page.text
    assert len(page.sources()) == 1
    (tmp_path / "sweep.json").write_text("{}")
    assert "No run of this sweep is complete yet" in page_of(tmp_path).text


def test_the_curve_of_a_sweep_goes_from_none_to_all() -> None:
    svg = curves.blocks_curve(
        [("all", 0.849), ("0.5", 0.791), ("0", 0.735), ("12", 0.83)], "top-1 on <val>", is_share=True
    )
    words = ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    ticks = [word for word in words if word in ("0", "0.5", "12", "all")]
    assert ticks == ["0", "0.5", "12", "all"]
    assert {"73.5", "79.1", "83.0", "84.9", "top-1 on <val>"} <= set(words)
    assert "0.123" in curves.blocks_curve([("0", 0.1234), ("all", 0.25)], "R²", is_share=False)


# ---------------------------------------------------------------- pictures of results


def words_of(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_a_small_confusion_matrix_shows_every_class_and_count() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1, 0])
    names = ["cat", NASTY, "$x$", "never seen"]
    svg = confusion_picture(labels, predicted, names)
    words = words_of(svg)
    assert [word for word in words if word.isdigit()] == ["1", "2", "2", "1"]  # 0-0, 0-1, 1-1, 2-0
    assert words.count("cat") == words.count("$x$") == 2
    assert "never seen" not in words
    _, nothing, *cells = [one.get("fill", "") for one in ElementTree.fromstring(svg).iter(f"{SVG}rect")]
    third, two_thirds, *whole = [int(cell[1:3], 16) for cell in cells]  # the redness of what is blue
    assert int(nothing[1:3], 16) > third > two_thirds > whole[0] == whole[1]
    shown = {one.text: one.get("fill") for one in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    assert (shown["2"], shown["cat"]) == ("#ffffff", None)  # on dark, beside the cells
    assert overview_picture(labels, predicted) == ""


def test_objects_that_are_all_missed_are_shares_of_nothing() -> None:
    missed = np.zeros((82, 82), np.int64)
    missed[:81, 81] = np.arange(81) + 1
    for names, counts in ((("disc", "nothing"), missed[-2:, -2:]), ([*map(str, range(81)), "nothing"], missed)):
        words = words_of(shares_picture(counts, names, "objects"))
        assert words.count("nothing") == 2
        assert words.count("100%") == min(len(names), MOST_NAMED) - 1


def test_of_many_classes_the_most_confused_are_named_side_by_side_and_all_are_drawn() -> None:
    labels = np.repeat(np.arange(200), 10)
    predicted = labels.copy()
    for pair in range(12):  # of the 200 classes, 12 pairs are mixed up
        predicted[labels == pair] = np.where(np.arange(10) < 4 + pair % 3, pair + 100, pair)
    svg = confusion_picture(labels, predicted, [f"name{number:03d}" for number in range(200)])
    rows = list(dict.fromkeys(word for word in words_of(svg) if word.startswith("name")))
    assert set(rows) == {f"name{number:03d}" for pair in range(12) for number in (pair, pair + 100)}
    assert MOST_NAMED >= 24
    assert "The 24 classes most often confused, of 200" in svg
    for one in rows[::2]:
        number = int(one.removeprefix("name"))
        beside = rows[rows.index(one) + 1]
        assert int(beside.removeprefix("name")) in (number + 100, number - 100)
    assert "All 200 classes" in overview_picture(labels, predicted)
    assert "No mistakes; 30 of 200" in confusion_picture(labels, labels, [f"name{n}" for n in range(200)])


def test_other_pictures_say_their_figures() -> None:
    bins = calibration(np.array([0.9, 0.8, 0.3]), np.array([True, False, True]))
    svg = reliability_picture(bins, calibration_error(bins))
    assert "Accuracy; calibration error 53.3% (hatched)" in svg
    bars = [one for one in ElementTree.fromstring(svg).iter(f"{SVG}rect") if one.get("fill") == BLUE]
    places = [(round(float(bar.get("x", "")) - 62), float(bar.get("height", ""))) for bar in bars]
    wide = 284 / 15  # a bin; the one of 0.8 is right in no case, the one of 0.3 and the one of 0.9 in all
    assert [place for place, _ in places] == [round(4 * wide), round(13 * wide)]
    assert places[0][1] == places[1][1]
    words = words_of(corruptions_picture({"fog": {1: 0.25, 3: 0.75}, "motion_blur": {3: 0.5}}, 0.125))
    for said in ("25.0", "75.0", "50.0", "motion blur", "mean", "Top-1 error in %, 12.5 without corruption"):
        assert said in words
    values = np.arange(5, dtype=np.float32)
    assert "predicted" in words_of(scatter_picture(values, values**2))


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_a_gallery_shows_the_images_that_were_asked_for(tmp_path: Path, depth: Depth) -> None:
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[depth]
    for number in range(4):
        ramp = np.linspace(0, number / 3, 256).reshape(16, 16) * white
        np.save(tmp_path / f"{number}.npy", ramp.astype(depth)[..., None])
    images = CentredImages(open_data(str(tmp_path)).all, PixelFormat(1, None, depth), (16, 16), (8, 8))
    tiles = view_tiles(images, [3, 1])
    brightest = [int(np.asarray(tile).max()) for tile in tiles]
    assert brightest == ([255, 85] if depth == "uint8" else [255, 255])
    sheet = gallery([Group("nothing", []), Group("a group", [Tile(tile, "said", NASTY) for tile in tiles])], (16, 16))
    assert sheet.width > 2 * 128
    pixels = np.asarray(sheet)
    first = pixels[48:176, 20:148].astype(int)  # below the margin and the title
    np.testing.assert_array_equal(first[::8, ::8, 0], np.asarray(tiles[0]))
    assert view_tiles(images, []) == []
    with pytest.raises(ValueError, match="one image or more"):
        gallery([Group("nothing", [])], (16, 16))


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
        words = {"".join(element.itertext()) for element in root.iter(f"{SVG}text")}
        assert "step" in words
    assert "$knn$ &lt;raw&gt;" in drawn["Evaluations during training"]


def test_lines_lie_where_their_ticks_say() -> None:
    """The scale is read off the ticks' words and places, as a reader does; of many points the outermost stay."""
    steps = np.arange(0, 40_000, dtype=np.float64)
    values = 1000 + np.sin(steps / 3000)
    values[12_345] = 1003.0
    root = ElementTree.fromstring(curves.chart([Plot("one", [Line(steps, values, "#000000")])]))
    texts = [(element.text or "", element.get("x", ""), element.get("y", "")) for element in root.iter(f"{SVG}text")]
    ticks = [(float(said.replace(",", "")), float(x), float(y)) for said, x, y in texts if said[0].isdigit()]
    bottom = max(y for _, _, y in ticks)
    across = np.polyfit(*np.array([(x, said) for said, x, y in ticks if y == bottom]).T, 1)
    up = np.polyfit(*np.array([(y - 3.6, said) for said, _, y in ticks if y < bottom]).T, 1)
    (line,) = (one.get("points", "") for one in root.iter(f"{SVG}polyline") if one.get("stroke") == "#000000")
    x, y = np.array([point.split(",") for point in line.split()], dtype=np.float64).T
    assert len(x) < 4000
    drawn = np.interp(steps, np.polyval(across, x), np.polyval(up, y))
    assert np.abs(np.delete(drawn - values, slice(12_200, 12_500))).max() < 0.03
    assert np.polyval(up, y).max() == pytest.approx(1003, abs=0.02)
    assert np.polyval(across, x[y.argmin()]) == pytest.approx(12_345, abs=60)


_NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(-9e99, 9e99), st.sampled_from([5e-324, 1 + 2**-52]))


@settings(max_examples=60)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(("step", "loss", "data_wait", "eval/a"), _NUMBERS)), max_size=4))
def test_any_numbers_can_be_drawn(lines: list[dict[str, Any]]) -> None:
    for svg in curves.curves(lines).values():
        ElementTree.fromstring(svg)
        assert not re.search(r"\b(nan|inf)\b", svg)


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
