"""Figures of a study and their differences, in words."""

from collections.abc import Mapping
from typing import Any

from openmae.report.plots.curves import is_number


def shown_value(one: Mapping[str, Any], value: float) -> str:
    """A figure: a share in percent."""
    return f"{100 * value:.1f}%" if one.get("in_points") else f"{value:.3g}"


def shown_difference(one: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """A difference within its bounds; - where there is none."""
    in_points = bool(one.get("in_points"))
    said = said_bounds(found, in_points)
    if not said or not is_number(found.get("difference")):
        return "-"
    return f"{signed(found['difference'], in_points)}{' points' * in_points} ({said})"


def said_bounds(found: Mapping[str, Any], in_points: bool) -> str:
    """+1.9 to +4.7; of two seeds, which have no bounds, "seeds: +1.9, +4.7", what each gave; "" where neither is."""
    if has_bounds(found):
        return f"{signed(found['low'], in_points)} to {signed(found['high'], in_points)}"
    each = found.get("each") or ()
    return f"seeds: {', '.join(signed(one, in_points) for one in each)}" if each and all(map(is_number, each)) else ""


def has_bounds(found: Mapping[str, Any]) -> bool:
    """Whether a difference has some."""
    return all(is_number(found.get(key)) for key in ("low", "high"))


def signed(value: float, in_points: bool) -> str:
    """A difference, in points of a hundred where it is one of shares."""
    shown = f"{100 * value:+.1f}" if in_points else f"{value:+.3g}"
    return "0.0" if shown in ("-0.0", "+0.0") else shown
