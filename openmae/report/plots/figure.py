"""How a figure of matplotlib's becomes text."""

import io
import warnings

from matplotlib.figure import Figure

from openmae.report.plots.style import printable


def svg_text(figure: Figure) -> str:
    """The figure as SVG, the same for the same figure."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():  # of letters that our font lacks: text stays text, and the reader's fonts have them
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = printable(buffer.getvalue())
    return text[text.index("<svg") :]  # the XML prolog names a file on the web
