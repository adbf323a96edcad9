"""report.html of a run: one file that needs nothing else, built from the run folder alone."""

import base64
import io
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openmae.errors import UserError
from openmae.report.curves import curves, is_number, series
from openmae.train.checkpoint import write_file
from openmae.train.console import duration
from openmae.train.run import read_config, read_metrics

MOST_EARLIER_PICTURES = 12
MOST_BROKEN_FILES = 200
KINDS = {"knn": "kNN", "linear": "linear probe"}


def write_report(run: Path) -> Path:
    """Writes run/report.html, complete or as it was before, from what the run folder holds; gives its path.

    What the folder lacks is left out. Raises UserError where the folder is no run, one of its files is damaged, or
    the page cannot be written.
    """
    config = read_config(run)
    metrics = read_metrics(run)
    starts = _starts(run)
    name = run.resolve().name
    sections = [
        _headline(config, metrics, starts),
        _evaluations(run),
        _curves(metrics),
        _pictures(run / "pictures"),
        _broken_files(run / "broken.txt"),
        _section("Settings", _table(config)),
        _model(run),
        _environment(starts),
    ]
    page = _PAGE.format(title=_text(name), style=_STYLE, body="\n".join(filter(None, sections)))
    file = run / "report.html"
    try:
        # A name that is no text (a lone surrogate) must not lose the page.
        write_file(file, page.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}): make room or choose another folder") from error
    return file


# ---------------------------------------------------------------- sections


def _headline(config: dict[str, Any], metrics: list[dict[str, Any]], starts: list[dict[str, Any]]) -> str:
    facts = {"Status": _status(config, metrics)}
    _, losses = series(metrics, "loss")
    if len(losses):
        facts["Final loss" if facts["Status"] == "complete" else "Loss"] = f"{losses[-1]:.4f}"
    if seconds := _training_seconds(config, metrics):
        facts["Training time"] = duration(seconds)
    if device := _device(config, starts):
        facts["Device"] = device
    _, dropped = series(metrics, "dropped")
    if len(dropped) and dropped[-1]:
        facts["Steps dropped, not finite"] = f"{dropped[-1]:,.0f}"
    cells = "".join(f"<div><dt>{_text(key)}</dt><dd>{_text(value)}</dd></div>" for key, value in facts.items())
    return f'<dl class="facts">{cells}</dl>'


def _status(config: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    steps, _ = series(metrics, "step")
    reached = int(steps.max()) if len(steps) else 0
    total = config.get("steps")
    if not isinstance(total, int):
        return f"at step {reached:,}"
    return "complete" if reached >= total else f"at step {reached:,} of {total:,}"


def _training_seconds(config: dict[str, Any], metrics: list[dict[str, Any]]) -> float | None:
    """Time spent in steps, from their speed: pauses between the starts of a run do not count."""
    steps, speeds = series(metrics, "images_per_second")
    batch_size = config.get("batch_size", 0)
    if not len(steps) or not is_number(batch_size) or not (speeds > 0).all():
        return None
    return float((np.diff(steps, prepend=0) * batch_size / speeds).sum())


def _device(config: dict[str, Any], starts: list[dict[str, Any]]) -> str:
    if not starts:
        return ""
    last = starts[-1]
    gpus = [str(gpu) for gpu in last.get("gpus") or []]
    if gpus and config.get("device") != "cpu":
        return ", ".join(f"{gpus.count(gpu)} x {gpu}" if gpus.count(gpu) > 1 else gpu for gpu in dict.fromkeys(gpus))
    cores = f", {last['cores']} cores" if last.get("cores") else ""
    return f"{last['processor']}{cores}" if last.get("processor") else ""


def _evaluations(run: Path) -> str:
    found = _read_json(run / "evaluations.json")
    found = [entry for entry in found if _is_evaluation(entry)] if isinstance(found, list) else []
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in found:
        key = tuple(str(entry.get(name, "")) for name in ("data", "train_images", "val_images", "classes"))
        groups.setdefault(key, []).append(entry)
    return _section("What the features know", *(_evaluation_table(group) for group in groups.values()))


def _is_evaluation(entry: Any) -> bool:
    return isinstance(entry, dict) and "kind" in entry and is_number(entry.get("top1"))


def _evaluation_table(entries: list[dict[str, Any]]) -> str:
    """Entries of one data set: a row for each kind of features, a column for each kind of evaluation."""
    kinds = sorted({str(entry["kind"]) for entry in entries}, key=lambda kind: (kind not in KINDS, kind))
    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for entry in entries:  # a later figure replaces an earlier one of the same kind
        cells.setdefault(_features(entry), {})[str(entry["kind"])] = entry
    best = {kind: max(row[kind]["top1"] for row in cells.values() if kind in row) for kind in kinds}
    head = "".join(f"<th>{_text(KINDS.get(kind, kind))}</th>" for kind in kinds)
    rows = "".join(
        f"<tr><th>{_text(features)}{_small(how)}</th>"
        + "".join(f"<td>{_percentage(row.get(kind), best[kind])}</td>" for kind in kinds)
        + "</tr>"
        for (features, how), row in cells.items()
    )
    return (
        f"<p>{_text(_said_of_data(entries[0]))}</p>"
        f'<div class="scroll"><table class="numbers"><thead><tr><th>features</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _features(entry: dict[str, Any]) -> tuple[str, str]:
    """What the row is called, and in small print how the features were taken."""
    parts = [f"layer {entry['layer']}" if entry.get("layer") is not None else "", entry.get("pool") or ""]
    return str(entry.get("features", "")), ", ".join(str(part) for part in parts if part)


def _percentage(entry: dict[str, Any] | None, best: float) -> str:
    if entry is None:
        return ""
    top1 = f"{100 * entry['top1']:.1f}%"
    top5 = entry.get("top5")
    shown = f"<b>{top1}</b>" if entry["top1"] == best else top1
    return shown + (_small(f"top-5 {100 * top5:.1f}%") if is_number(top5) else "")


def _said_of_data(entry: dict[str, Any]) -> str:
    """What the figures are of: "Top-1 accuracy on flowers; 400 labelled images; ..."."""
    parts = [f"Top-1 accuracy on {entry['data']}" if entry.get("data") else "Top-1 accuracy"]
    for key, said in (("train_images", "labelled images"), ("val_images", "held-out images"), ("classes", "classes")):
        if is_number(entry.get(key)):
            parts.append(f"{entry[key]:,} {said}")
    if is_number(entry.get("classes")) and entry["classes"] > 0:
        parts.append(f"guessing gives {100 / entry['classes']:.1f}%")
    return "; ".join(parts) + "."


def _curves(metrics: list[dict[str, Any]]) -> str:
    figures = "".join(
        f'<img class="card" alt="{_text(title)} over training steps" src="{_data_uri(svg.encode(), "image/svg+xml")}">'
        for title, svg in curves(metrics).items()
    )
    if not figures:
        return ""
    advice = (
        "<p>The loss shows that training goes on, but it ranks features poorly: judge a run by its kNN and linear "
        "figures (<code>openmae knn</code>, <code>openmae probe</code>), and compare losses only between runs of "
        "the same target and masking.</p>"
    )
    return _section("Curves", advice, f'<div class="curves">{figures}</div>')


def _pictures(folder: Path) -> str:
    files = sorted(folder.glob("*.png"), key=lambda file: (_step(file), file.name))
    earlier = files[:-1]
    if len(earlier) > MOST_EARLIER_PICTURES:  # evenly spread, the first among them
        places = range(MOST_EARLIER_PICTURES)
        earlier = [earlier[place * len(earlier) // MOST_EARLIER_PICTURES] for place in places]
    shown = "".join(_figure(file, small=True) for file in earlier)
    left_out = f", {len(earlier)} of {len(files) - 1}" if len(earlier) < len(files) - 1 else ""
    return _section(
        "Reconstructions",
        *(_figure(file, small=False) for file in files[-1:]),
        _details(f"Earlier in training{left_out}", shown) if shown else "",
    )


def _figure(file: Path, small: bool) -> str:
    """The picture with its step; "" where it is damaged. Small ones are JPEG, a tenth of the bytes."""
    try:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            width, height = image.size
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=85)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises on damaged files
        return ""
    uri = _data_uri(buffer.getvalue(), "image/jpeg") if small else _data_uri(data, "image/png")
    step = _step(file)
    title = f"step {step:,}" if step >= 0 else file.stem
    return (
        f'<figure><figcaption>{_text(title)}</figcaption><img class="card" width="{width}" height="{height}" '
        f'alt="Masked images, reconstructions and originals, {_text(title)}" src="{uri}"></figure>'
    )


def _step(file: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", file.stem)
    return int(match[1]) if match else -1


def _broken_files(file: Path) -> str:
    if not file.exists():
        return ""
    lines = [line for line in file.read_text(errors="replace").split("\n") if "\t" in line]
    if not lines:
        return ""
    pairs = (line.partition("\t") for line in lines[:MOST_BROKEN_FILES])
    more = len(lines) - MOST_BROKEN_FILES
    said = "1 file was left out: it cannot be used" if len(lines) == 1 else f"{len(lines):,} files were left out"
    rest = f"<p class='faint'>and {more:,} more, listed in broken.txt</p>" if more > 0 else ""
    return _section("Broken files", _details(said, _rows((path, reason) for path, _, reason in pairs) + rest))


def _model(run: Path) -> str:
    info = _read_json(run / "model.json")
    if not isinstance(info, dict):
        return ""
    if info.get("licence") is None:
        info = {**info, "licence": "not stated; the weights belong to whoever trained them"}
    return _section("Model", _details("model.json", _table(info)))


def _environment(starts: list[dict[str, Any]]) -> str:
    tables = []
    for number, start in enumerate(starts, 1):
        command = start.get("command")
        shown = {**start, "command": shlex.join(map(str, command))} if isinstance(command, list) else start
        which = f"start {number} of {len(starts)}: " if len(starts) > 1 else ""
        tables.append(_details(f"{which}{start.get('started', 'environment.json')}", _table(shown)))
    return _section("Environment", *tables)


# ---------------------------------------------------------------- reading


def _starts(run: Path) -> list[dict[str, Any]]:
    """The starts of environment.json, oldest first."""
    found = _read_json(run / "environment.json")
    starts = found.get("starts", []) if isinstance(found, dict) else []
    return [start for start in starts if isinstance(start, dict)]


def _read_json(file: Path) -> Any:
    """What the file holds, None where there is none. Raises UserError where it is damaged."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): restore it, or remove it") from error


# ---------------------------------------------------------------- HTML


def _text(value: Any) -> str:
    """Anything from outside, safe between tags and in quoted attributes."""
    return escape(str(value), quote=True)


def _small(text: str) -> str:
    return f" <small>{_text(text)}</small>" if text else ""


def _section(title: str, *parts: str) -> str:
    """The parts under a heading; "" where there are none."""
    body = "".join(parts)
    return f"<section><h2>{_text(title)}</h2>{body}</section>" if body else ""


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{body}</details>" if body else ""


def _table(values: Mapping[str, Any]) -> str:
    return _rows(_flat(values))


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in pairs)
    return f'<div class="scroll"><table>{rows}</table></div>' if rows else ""


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
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


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
.numbers td, .numbers thead th:not(:first-child) { text-align: right; }
.numbers tbody th { color: var(--ink); }
.card { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--rule);
  border-radius: .5rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .8rem; }
.curves .card { width: 100%; padding: .4rem; }
figure { margin: 0 0 1rem; }
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
