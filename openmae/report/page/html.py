"""The pieces that pages are made of. Everything from outside is escaped here."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any


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
    """Names and short values, side by side in boxes."""
    cells = "".join(f"<div><dt>{escaped(key)}</dt><dd>{escaped(value)}</dd></div>" for key, value in values.items())
    return f'<dl class="facts">{cells}</dl>'


def settings_table(values: Mapping[str, Any]) -> str:
    """Nested settings, a row each."""
    return pairs_table(_flat(values))


def pairs_table(pairs: Iterable[tuple[str, str]]) -> str:
    """A row for each name and text; "" where there are none."""
    rows = "".join(f"<tr><th>{escaped(key)}</th><td>{escaped(value)}</td></tr>" for key, value in pairs)
    return f'<div class="scroll"><table>{rows}</table></div>' if rows else ""


def numbers_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a row's name in the first column and its numbers in the others; "" where there are no rows."""
    body = "".join(
        f"<tr><th>{escaped(row[0])}</th>{''.join(f'<td>{escaped(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    titles = "".join(f"<th>{escaped(title)}</th>" for title in head)
    table = f'<table class="numbers"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>' if body else ""


def picture(data: bytes, kind: str, alt: str) -> str:
    """An image inside the page; kind: image/png, image/jpeg or image/svg+xml."""
    return f'<img class="card" alt="{escaped(alt)}" src="{data_uri(data, kind)}">'


def data_uri(data: bytes, kind: str) -> str:
    """A file inside the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def page(title: str, body: Iterable[str]) -> bytes:
    """A whole page that needs nothing else. A title that is no text (a lone surrogate) does not lose it."""
    parts = "\n".join(filter(None, body))
    return _PAGE.format(title=escaped(title), style=_STYLE, body=parts).encode("utf-8", "replace")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of nested settings: {"a": {"b": 1}} gives a.b, 1. What is null or empty is left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
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


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --faint: #666; --page: #fff; --box: #f4f5f7; --rule: #dfe2e6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --faint: #a0a4aa; --page: #16181b; --box: #212428; --rule: #383c42; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 3rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .4rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
.scroll + p { margin-top: 1.4rem; }
p { max-width: 44rem; margin: .6rem 0; }
.faint, small, dt, figcaption { color: var(--faint); font-size: .875rem; font-weight: normal; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 0; }
.facts div { background: var(--box); border-radius: .5rem; padding: .6rem .8rem; }
dd { margin: 0; font-size: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; }
th { font-weight: normal; color: var(--faint); min-width: 7rem; }
.numbers { font-size: 1rem; }
.numbers th { overflow-wrap: break-word; }
.numbers td { white-space: nowrap; }
.numbers thead th:not(:first-child) { min-width: 0; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; }
.numbers tbody th { color: var(--ink); }
.card { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--rule);
  border-radius: .5rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .8rem; }
.curves .card { width: 100%; padding: .4rem; }
figure { margin: 1rem 0; }
.curves figure { margin: 0; }
.curves + * { margin-top: 1.4rem; }
@media (max-width: 40rem) { .wide { overflow-x: auto; } .wide .card { max-width: none; }
  .wide .card[src^="data:image/jpeg"] { width: 44rem; } }
@media (max-width: 40rem) { .numbers { font-size: .9rem; } .numbers th, .numbers td { padding-right: .7rem; } }
figcaption { margin-bottom: .3rem; }
details { border: 1px solid var(--rule); border-radius: .5rem; padding: .5rem .8rem; margin: .6rem 0; }
summary { cursor: pointer; }
details > :not(summary) { margin-top: .7rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · openmae</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
