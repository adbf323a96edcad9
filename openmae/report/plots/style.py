"""What all plots have in common: colours, fonts, and what may stand in them."""

import re
from typing import Any

BLUE, GREY, INK = "#1f5fa8", "#c3cbd6", "#333333"
FONT = "'DejaVu Sans', Verdana, Geneva, Arial, Helvetica, sans-serif"  # of SVG that is written without matplotlib
LETTER = 0.6  # about as wide as high
_NO_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
STYLE: Any = {  # matplotlib types its keys one by one
    "text.parse_math": False,  # names come from outside
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "openmae",  # ids do not change from one drawing to the next
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e9ebee",
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def percent(share: float, _: float = 0) -> str:
    """0.25 -> 25%, for the labels of an axis."""
    return f"{100 * share:g}%"


def printable(text: str) -> str:
    """The text without the characters that no SVG can hold."""
    return _NO_XML.sub("\ufffd", text)
