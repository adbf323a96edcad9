"""The pieces that pages are made of. Everything from outside is escaped here."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from openmae.files.policy import policy


def escaped(value: Any) -> str:
    """Anything from outside, safe between tags and in quoted attributes."""
    return escape(str(value), quote=True)


def small(text: str) -> str:
    """The text in small print; "" for none."""
    return f" <small>{escaped(text)}</small>" if text else ""


def paragraph(text: str) -> str:
    """The text as a paragraph; "" for none."""
    return f"<p>{escaped(text)}</p>" if text else ""


def section(title: str, *parts: str) -> str:
    """The parts, HTML each, under a heading; "" where there are none."""
    body = "".join(parts)
    return f"<section><h2>{escaped(title)}</h2>{body}</section>" if body else ""


def details(summary: str, body: str) -> str:
    """HTML that a click unfolds; "" where there is none."""
    return f"<details><summary>{escaped(summary)}</summary>{body}</details>" if body else ""


def facts(values: Mapping[str, str]) -> str:
    """Names and short values, side by side in boxes, without those that have none; "" for none."""
    known = {key: value for key, value in values.items() if value}
    cells = "".join(f"<div><dt>{escaped(key)}</dt><dd>{escaped(value)}</dd></div>" for key, value in known.items())
    return f'<dl class="facts">{cells}</dl>' if cells else ""


def settings_table(values: Mapping[str, Any]) -> str:
    """Nested settings, a row each."""
    return pairs_table(flat(values))


def pairs_table(pairs: Iterable[tuple[str, str]]) -> str:
    """A row for each name and text; "" where there are none."""
    rows = "".join(f"<tr><th>{escaped(key)}</th><td>{escaped(value)}</td></tr>" for key, value in pairs)
    return f'<div class="scroll"><table>{rows}</table></div>' if rows else ""


def numbers_table(head: Sequence[str], rows: Iterable[Sequence[str]], more: str = "") -> str:
    """A table with a row's name in the first column and its numbers in the others; "" where there are no rows.

    more: "wrapped" for cells that may be long.
    """
    body = "".join(
        f"<tr><th>{escaped(row[0])}</th>{''.join(f'<td>{escaped(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    titles = "".join(f"<th>{escaped(title)}</th>" if title else "<td></td>" for title in head)
    table = f'<table class="{f"numbers {more}".strip()}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>' if body else ""


def picture(data: bytes, kind: str, alt: str) -> str:
    """An image inside the page; kind: image/png, image/jpeg or image/svg+xml."""
    return f'<img class="card" alt="{escaped(alt)}" src="{data_uri(data, kind)}">'


def drawn(svg: str, title: str) -> str:
    """A chart of `plots/chart.py` as a part of the page: in its colours, and it answers to the mouse."""
    return f'<figure class="chart" aria-label="{escaped(title)}">{svg}</figure>'


def data_uri(data: bytes, kind: str) -> str:
    """A file inside the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def page(title: str, body: Iterable[str]) -> bytes:
    """A whole page that needs nothing else. A title that is no text (a lone surrogate) does not lose it."""
    parts = "\n".join(filter(None, body))
    filled = _PAGE.format(title=escaped(title), policy=_POLICY, style=_STYLE, body=parts, script=_SCRIPT)
    return filled.encode("utf-8", "replace")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of nested settings: {"a": {"b": 1}} gives a.b, 1. What is null or empty is left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif value not in (None, []):
            yield f"{prefix}{key}", _said(value)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_said(entry)}" for key, entry in value.items())
    if isinstance(value, int) and value.bit_length() > 1000:  # Python declines to write the digits of the largest
        return f"a number of {value.bit_length():,} bits"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_HERE = Path(__file__)
_STYLE, _SCRIPT = (_HERE.with_name(name).read_text("utf-8") for name in ("page.css", "page.js"))


# No script but ours runs, whatever a file or a class is called, and nothing is fetched from anywhere.
_POLICY = policy(_STYLE, [_SCRIPT])

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · openmae</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""
