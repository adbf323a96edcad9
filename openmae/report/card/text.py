"""The pieces of a model card: Markdown in which everything from outside is escaped, the head, and what is public."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from openmae.console.words import drawable
from openmae.files.address import shown
from openmae.weights.hub import PREFIX

_MARKS = re.compile(r"([\\`*_\[\]<>|#~&$])")
# Of model.json.
_PUBLIC = "format openmae kind architecture statistics task class_names as_they_are provenance licence".split()
_PLACES = ("data", "model", "file")  # entries of a provenance that may say where something lies
_PLACE = re.compile(r"[/~\\]|[A-Za-z]:[/\\]|[a-zA-Z][a-zA-Z0-9+.-]*://")
_KNOWN = frozenset(  # what the Hub has a name for: https://huggingface.co/docs/hub/repositories-licenses
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl mpl-2.0 odc-by odbl "
    "openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown other".split()
)


def escaped(value: Any) -> str:
    """Anything from outside, on one line, as Markdown that shows it and does nothing else."""
    text = drawable(shown(str(value)), " ")
    return _MARKS.sub(r"\\\1", text)


def section(title: str, *parts: str) -> str:
    """The parts, Markdown each, under a heading; "" where there are none."""
    body = "\n\n".join(part for part in parts if part)
    return f"## {title}\n\n{body}" if body else ""


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A row for each of the rows; "" where there are none."""
    lines = [f"| {' | '.join(map(escaped, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}", *lines]) if lines else ""


def listing(rows: Iterable[tuple[str, str]]) -> str:
    """A line for each of the rows."""
    return "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in rows)


def place_name(place: str) -> str:
    """What something is called, without where it lies: the last part of a path or an address. Names of the Hub stay,
    and what was asked of a set of images, in brackets behind it."""
    if place.endswith("]") and " [" in place:
        place, mark, asked = place.rpartition(" [")
        return f"{place_name(place)}{mark}{asked}"
    if place.startswith(PREFIX):
        return place
    if "://" in place:
        place = place.split("?", 1)[0]
    name = PureWindowsPath(place.rstrip("/\\")).name  # which knows both kinds of slash
    home = Path(os.path.expanduser("~")).name  # noqa: PTH111 (never raises)
    return "a home folder" if name == home else name or "unnamed"


def public(info: dict[str, Any]) -> dict[str, Any]:
    """model.json without what tells where things lie on the machine that it comes from."""
    provenance = _public(info["provenance"])
    if "hub" in provenance and "model" not in provenance:  # what it will be called itself there takes that place
        provenance["model"] = PREFIX + provenance.pop("hub")
    return {**{key: info[key] for key in _PUBLIC if key in info}, "provenance": provenance}


def _public(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _public(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_public(one, key) for one in value]
    return place_name(value) if isinstance(value, str) and (key in _PLACES or _PLACE.match(value)) else value


def head(info: dict[str, Any]) -> str:
    """The YAML that the Hub reads. It has no figures: they are of the user's own images, which nobody else can ask."""
    lines = []
    if licence := info.get("licence"):
        known = re.sub(r"[^\w.+-]+", "-", str(licence).lower())
        lines += [f"license: {known}"] if known in _KNOWN else ["license: other", f"license_name: {known}"]
    is_classifier = info.get("kind") in ("classifier", "neighbours") and info.get("task") in (
        "classification",
        "multi-label",
    )
    lines += [
        "library_name: openmae",
        f"pipeline_tag: {'image-classification' if is_classifier else 'image-feature-extraction'}",
        "tags:",
        *(f"- {tag}" for tag in ("openmae", "masked-autoencoder", "mae", "vision-transformer", "self-supervised")),
    ]
    if base := _base_model(info["provenance"]):
        lines.append(f"base_model: {base}")
    return "\n".join(["---", *lines, "---", ""])


def licence_lines(info: dict[str, Any]) -> list[str]:
    """What the card says of the licence."""
    licence = info.get("licence")
    if not licence:
        return ["No licence is stated for these weights: ask whoever trained them before you use them."]
    return [f"The licence of these weights is {escaped(licence)}."]


def _base_model(provenance: dict[str, Any]) -> str | None:
    """The repository of the Hub that the model was made of."""
    model = str(provenance.get("model") or "")
    name = model.removeprefix(PREFIX).split("@", 1)[0]
    return name if model.startswith(PREFIX) and re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) else None
