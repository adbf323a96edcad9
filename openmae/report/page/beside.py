"""Several runs side by side: what differs between them, curves in common charts, figures, pictures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openmae.console.words import several
from openmae.errors import UserError
from openmae.files.whole import write_file
from openmae.report.page.evaluations import KINDS, dated, features_of, is_evaluation, said_figure
from openmae.report.page.headline import headline
from openmae.report.page.html import details, drawn, flat, numbers_table, page, pairs_table, paragraph, section
from openmae.report.page.left import Left, read_left
from openmae.report.page.pictures import figure, in_order
from openmae.report.page.results import shown_figures
from openmae.report.plots.beside import curves_beside

# What a loss is of: it compares nothing between runs that differ here.
_OF_THE_LOSS = (
    *("target", "norm_pix_loss", "norm_pix_by", "mask", "mask_unit", "mask_ratio", "mask_ratio_end", "mask_schedule"),
    "predict_fraction",
    *("patch_size", "img_size", "label_smoothing", "mixup", "cutmix", "task"),
)


def write_beside(runs: Sequence[Path], file: Path) -> None:
    """Writes a page of these runs, complete or as it was before. Raises UserError where a folder is no run, one of its
    files is damaged, or the page cannot be written."""
    lefts = dict(zip(names_of(runs), map(read_left, runs), strict=True))
    title = " · ".join(lefts) if len(lefts) <= 4 else f"{len(lefts)} runs side by side"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, page(title, _sections(lefts)))
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror})", "choose another `out`") from error


def names_of(runs: Sequence[Path]) -> list[str]:
    """What each is called: by its folder, and by as many of those above as tell it from the others."""
    places = [run.resolve() for run in runs]
    if len({*places}) < len(places):
        raise UserError("a run is named twice", "name each once")
    return _told_apart(places)


def _told_apart(places: Sequence[Path]) -> list[str]:
    """Of different places, as many of the last parts of each as tell them all apart."""
    for count in range(1, 1 + max((len(place.parts) for place in places), default=0)):
        names = ["/".join(place.parts[-count:]) for place in places]
        if len({*names}) == len(names):
            return names
    return [str(place) for place in places]


def _sections(runs: Mapping[str, Left]) -> list[str]:
    heads = {name: headline(left) for name, left in runs.items()}
    facts = numbers_table(("", *runs), _rows(heads.values()))
    curves = curves_beside({name: left.metrics for name, left in runs.items()})
    charts = "".join(drawn(svg, f"{title} of all runs, over training steps") for title, svg in curves.items())
    return [
        facts,
        section("What differs", *_settings(runs)),
        section("Figures", _figures(runs)),
        section("Curves", paragraph(_of_losses(runs)), f'<div class="curves">{charts}</div>') if charts else "",
        _pictures(runs),
    ]


def _rows(columns: Iterable[Mapping[str, str]]) -> list[list[str]]:
    """A row for each name that any of the columns has, in their order."""
    columns = list(columns)
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(column.get(name, "") for column in columns)] for name in names]


def _settings(runs: Mapping[str, Left]) -> list[str]:
    columns = [dict(flat(left.config)) for left in runs.values()]
    rows = _rows(columns)
    differing = [row for row in rows if len({*row[1:]}) > 1]
    same = [(row[0], row[1]) for row in rows if len({*row[1:]}) == 1]
    table = numbers_table(("", *runs), differing, "wrapped") or paragraph("No setting differs.")
    return [table, details(f"{several(len(same), 'setting')} that all share", pairs_table(same))]


def _of_losses(runs: Mapping[str, Left]) -> str:
    """What is to be said of losses side by side."""
    configs = [left.config for left in runs.values()]
    others = [name for name in _OF_THE_LOSS if len({str(config.get(name)) for config in configs}) > 1]
    if others:
        return f"These losses cannot be compared with each other: the runs differ in {', '.join(others)}."
    return "Losses are of the same target and masking, smoothed. They rank features poorly all the same."


def _figures(runs: Mapping[str, Left]) -> str:
    columns, sets = [], _sets(runs.values())
    for left in runs.values():
        found: dict[str, str] = {}
        for entry in left.evaluations:
            if is_evaluation(entry):
                earlier = dated(entry, left).get("earlier")
                found[_asked(entry, sets)] = said_figure(entry) + (f" ({earlier})" if earlier else "")
        for of, entry in left.results.items():
            clean = entry.get("clean") if isinstance(entry, dict) else None
            if isinstance(clean, dict) and isinstance(clean.get("figures"), dict):
                shown = shown_figures(clean["figures"], clean.get("images"), clean.get("errors"))
                found |= {f"{name} on {sets[of]}": value for name, value in shown.items()}
        columns.append(found)
    table = numbers_table(("", *runs), _rows(columns))
    return table + (paragraph("± is the standard error over the held-out images.") if table else "")


def _sets(runs: Iterable[Left]) -> dict[str, str]:
    """What each set of images is called that something was measured on."""
    found: dict[str, None] = {}
    for left in runs:
        found |= dict.fromkeys(left.results)
        found |= dict.fromkeys(str(entry["data"]) for entry in left.evaluations if entry.get("data"))
    return dict(zip(found, _told_apart([Path(of) for of in found]), strict=True))


def _asked(entry: dict[str, Any], sets: Mapping[str, str]) -> str:
    kind, (features, more) = str(entry["kind"]), features_of(entry)
    of = f" ({more})" if more else ""
    where = f" on {sets[str(entry['data'])]}" if entry.get("data") else ""
    return f"{KINDS.get(kind, kind)}, {features}{of}{where}"


def _pictures(runs: Mapping[str, Left]) -> str:
    """The last panel of each."""
    shown = [
        figure(files[-1], said=f"{name}, ", earlier=True)
        for name, left in runs.items()
        if (files := in_order(left.path / "pictures"))
    ]
    return section("Reconstructions", f'<div class="curves">{"".join(shown)}</div>' if any(shown) else "")
