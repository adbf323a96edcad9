"""Who is taken for whom, as a part of a page: a table of counts, each of which leads to its images."""

import base64
import binascii
from typing import Any

from openmae.report.page.html import details, escaped
from openmae.report.page.left import as_list
from openmae.report.plots.curves import is_number

_SHADES = 10


def mistakes_part(found: Any, place: str) -> str:
    """The table, and the images of each pair; "" where there are none. found: what `sheets/mistakes.py` keeps; place:
    different for different sets of images."""
    if not isinstance(found, dict):
        return ""
    pairs = [pair for pair in as_list(found.get("pairs")) if isinstance(pair, dict) and is_number(pair.get("times"))]
    ids = {(str(pair.get("label")), str(pair.get("predicted"))): f"{place}-{n}" for n, pair in enumerate(pairs)}
    groups = "".join(_group(pair, f"{place}-{number}") for number, pair in enumerate(pairs))
    table = _table(found, ids)
    if not groups:
        return table
    listed = "" if table else _list(pairs, place)
    return f'<div class="mistakes">{table}{listed}{details("Images that are taken for another class", groups)}</div>'


def _table(found: dict[str, Any], ids: dict[tuple[str, str], str]) -> str:
    """True classes in rows, predicted in columns; shaded by the share of the row."""
    names, counts = as_list(found.get("names")), as_list(found.get("counts"))
    whole = [row for row in counts if isinstance(row, list) and len(row) == len(names) and all(map(is_number, row))]
    if not names or len(whole) != len(names):
        return ""
    names = [str(name) for name in names]
    head = "".join(f"<th><span>{escaped(name)}</span></th>" for name in names)
    rows = ""
    for name, row in zip(names, whole, strict=True):
        cells = ""
        for other, count in zip(names, row, strict=True):
            shade = min(_SHADES, round(_SHADES * count / max(1, sum(row)) + 0.4999)) if count > 0 else 0
            said = f"{count:,}" if count else ""
            if (name, other) in ids:
                title = f"{name} taken for {other}"
                said = f'<a href="#{ids[name, other]}" title="{escaped(title)}">{said}</a>'
            cells += f'<td class="shade-{shade}">{said}</td>'
        rows += f"<tr><th>{escaped(name)}</th>{cells}</tr>"
    caption = "<caption>Images of each class, in rows, by the class that they are taken for</caption>"
    body = f"{caption}<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table class="confusion">{body}</table></div>'


def _list(pairs: list[dict[str, Any]], place: str) -> str:
    """Of many classes, in the place of the table."""
    links = "".join(f'<li><a href="#{place}-{number}">{_said(pair)}</a></li>' for number, pair in enumerate(pairs))
    return f'<ul class="pairs">{links}</ul>'


def _group(pair: dict[str, Any], name: str) -> str:
    images = [image for image in as_list(pair.get("images")) if isinstance(image, dict)]
    tiles = "".join(map(_tile, images))
    some = f", the {len(images)} surest" if len(images) < pair["times"] else ""
    return f'<div class="pair" id="{name}"><h3>{_said(pair)}{some}</h3><div class="tiles">{tiles}</div></div>'


def _said(pair: dict[str, Any]) -> str:
    times = {1: "once", 2: "twice"}.get(pair["times"], f"{pair['times']:,} times")
    return escaped(f"{pair.get('label')} taken for {pair.get('predicted')}: {times}")


def _tile(image: dict[str, Any]) -> str:
    name, sure, jpeg = escaped(image.get("name")), image.get("confidence"), image.get("jpeg")
    if not isinstance(jpeg, str) or not _is_base64(jpeg):
        return ""
    said = f"{100 * sure:.0f}%" if is_number(sure) else ""
    shown = f'<img alt="{name}" src="data:image/jpeg;base64,{jpeg}">'
    return f"<figure>{shown}<figcaption>{said} <small>{name}</small></figcaption></figure>"


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
