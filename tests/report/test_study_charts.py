"""Charts of studies: what lies where, and that they are told of when a reader points at them."""

import json
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from openmae.report.page.study import charts_of
from openmae.report.plots.chart import HEIGHT
from openmae.report.plots.study import said_of_charts, study_charts, study_picture

SVG = "{http://www.w3.org/2000/svg}"
FIGURE = {"name": "linear", "said": "linear <top-1>", "in_points": True}


def a_row(name: str, at: float | None, values: list[float], low: float, high: float, **more: Any) -> dict[str, Any]:
    against = {"linear": {"difference": (low + high) / 2, "low": low, "high": high}}
    return {"name": name, "at": at, "of": {"linear": values}, "against": against, **more}


def results(**more: Any) -> dict[str, Any]:
    usual = a_row("0.75", 0.75, [0.7, 0.72], 0, 0, paper={"linear": 73.5}) | {"against": {}}
    rows = [a_row("0.5", 0.5, [0.6, 0.64], -0.12, -0.06, paper={"linear": 69.9}), usual]
    curve = [{"at": at, "linear": 60 + 20 * at} for at in (0.4, 0.6, 0.9)]
    return {"axis": "mask ratio", "usual": "0.75", "figures": [FIGURE], "rows": rows, "curve": curve} | more


def drawn(found: dict[str, Any]) -> ElementTree.Element:
    (svg,) = study_charts(found).values()
    assert not re.search(r"\b(nan|inf)\b", svg)
    return ElementTree.fromstring(svg)


def lines(root: ElementTree.Element) -> dict[str, list[tuple[float, float, ElementTree.Element]]]:
    """By its name, the values of each line's points, as page.js reads them."""
    (plot,) = root.iter(f"{SVG}g")
    found: dict[str, list[tuple[float, float, ElementTree.Element]]] = {}
    for line in plot.iter(f"{SVG}polyline"):
        if line.get("class") == "line":
            places = np.array([point.split(",") for point in line.get("points", "").split()], np.float64)
            x, y = (value(axis, part) for axis, part in ((plot.get("data-across"), places[:, 0]), (line.get("data-up"),
                    places[:, 1])))  # fmt: skip
            found.setdefault(line.get("data-name", ""), []).extend((*each, line) for each in zip(x, y, strict=True))
    return found


def value(axis: str | None, places: Any) -> Any:
    low, high, start, end = map(float, (axis or "").split(" ")[:4])
    values = low + (places - start) / (end - start) * (high - low)
    return 2**values if (axis or "").endswith("log") else values


def test_seeds_means_bounds_and_the_papers_curve_lie_where_their_axes_say() -> None:
    root = drawn(results())
    found = lines(root)
    seeds = sorted((round(x, 3), round(y, 3)) for x, y, _ in found["a seed"])
    assert seeds == [(0.5, 0.6), (0.5, 0.64), (0.75, 0.7), (0.75, 0.72)]
    means = [(round(x, 3), round(y, 3)) for x, y, _ in found["mean"]]
    assert means == [(0.5, 0.62), (0.75, 0.71)]
    paper = [(round(x, 2), round(y, 3)) for x, y, _ in found["paper"]]
    assert paper == [(0.4, 0.68), (0.5, 0.699), (0.6, 0.72), (0.75, 0.735), (0.9, 0.78)]
    mean = found["mean"][0][2]
    assert json.loads(mean.get("data-told", "")) == ["62.0%, -9.0 points (-12.0 to -6.0)", "71.0%"]
    bars = [one for one in root.iter(f"{SVG}polyline") if one.get("stroke-width") == "1.2"]
    (ends,) = [[float(point.split(",")[1]) for point in one.get("points", "").split()] for one in bars]
    assert value(mean.get("data-up"), np.array(ends)) == pytest.approx([0.59, 0.65], abs=2e-3)
    (level,) = [one for one in root.iter(f"{SVG}polyline") if one.get("stroke-dasharray")]
    at = float(level.get("points", "").split(",")[1].split(" ")[0])
    assert value(mean.get("data-up"), at) == pytest.approx(0.71, abs=2e-3)
    words = {"".join(one.itertext()) for one in root.iter(f"{SVG}text")}
    assert {"0.5", "0.75", "mask ratio", "linear <top-1>", "70%"} <= words


def test_equal_factors_are_equally_far_apart_and_names_stand_at_their_places() -> None:
    rows = [a_row(f"{at:g}", at, [0.5 + at / 100], -0.01, 0.01, paper={}) for at in (2, 4, 8)]
    root = drawn(results(rows=rows, usual="4", is_log=True, curve=[]))
    assert [round(x, 2) for x, _, _ in lines(root)["mean"]] == [2, 4, 8]
    (plot,) = root.iter(f"{SVG}g")
    (two, _), (four, _), (eight, name) = json.loads(plot.get("data-named", ""))
    assert four - two == pytest.approx(eight - four)
    assert name == "8"


def test_names_that_have_no_room_are_turned_and_dots_are_not_joined() -> None:
    names = ["mae", "a method <with> a long name", "/some/where/vit_small_patch16_224_released.pth", "dino"]
    rows = [a_row(name, None, [0.5, 0.6, 0.7], -1.0, 1.0) for name in names]
    root = drawn(results(rows=rows, usual="mae"))
    turned = [one for one in root.iter(f"{SVG}text") if "rotate" in one.get("transform", "")]
    assert len(turned) == 4
    assert float(root.get("viewBox", "").split(" ")[3]) > HEIGHT
    assert {line.get("stroke-width") for _, _, line in lines(root)["mean"]} == {"0"}
    (plot,) = root.iter(f"{SVG}g")
    assert json.loads(plot.get("data-named", ""))[2][1] == "/some/where/vit_small_patch16_224_released.pth"
    assert "vit_small_patc....pth" not in turned[2].text
    assert turned[2].text == "vit_small_patc...d.pth"
    low, high = (float(point) for point in lines(root)["mean"][0][2].get("data-up", "").split(" ")[:2])
    assert (low, high) == pytest.approx((0.4, 0.8))  # bounds of +-100 points leave the frame


def test_two_seeds_and_encoders() -> None:
    """Of `adapt`; a difference of two seeds has no bar, and tells what each gave."""
    each = {"difference": 0.02, "low": None, "high": None, "each": [0.01, 0.03]}
    over = {"difference": 0.1, "low": 0.05, "high": 0.15}
    of = {"released": [0.5], "gone-on": [0.51, 0.53], "scratch": [0.4, 0.4]}
    figure = {**FIGURE, "of": of, "gain": each, "released_over_scratch": over}
    encoders = {"released": "as released", "gone-on": "gone on with", "scratch": "from scratch"}
    found = {"encoders": encoders, "figures": [figure]}
    mean = lines(drawn(found))["mean"][0][2]
    told = json.loads(mean.get("data-told", ""))
    assert told == ["50.0%", "52.0%, +2.0 points (seeds: +1.0, +3.0)", "40.0%, -10.0 points (-15.0 to -5.0)"]
    assert "Dashed: that of as released" in said_of_charts(found)
    assert "Bars" not in said_of_charts({**found, "figures": [{**figure, "released_over_scratch": each}]})


def test_a_picture_has_all_figures_and_what_is_to_be_known() -> None:
    two = results(figures=[FIGURE, {"name": "knn", "said": "kNN", "in_points": True}])
    for row in two["rows"]:
        row["of"]["knn"] = [0.5]
    root = ElementTree.fromstring(study_picture(two))
    assert len([*root.iter(f"{SVG}g")]) == 2
    words = " ".join("".join(one.itertext()) for one in root.iter(f"{SVG}text"))
    assert said_of_charts(two) in words
    assert "signs are to be compared, not values" in words
    assert 'aria-label="linear &lt;top-1&gt; of each"' in charts_of(two)
    for nothing in ({}, {"rows": []}, results(rows=[]), {"figures": [], "encoders": {}}):
        assert study_picture(nothing) == ""
        assert charts_of(nothing) == ""
