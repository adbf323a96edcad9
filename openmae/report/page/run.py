"""report.html of a run: one file that needs nothing else, built from the run folder alone."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openmae.errors import UserError
from openmae.files.study import RESULTS, is_study
from openmae.files.whole import write_file
from openmae.report.page.ablation import ablation_page, is_ablation
from openmae.report.page.compared import COMPARED, compared_section
from openmae.report.page.comparison import comparison_page, is_comparison
from openmae.report.page.evaluations import evaluations_section
from openmae.report.page.folds import CROSS_VALIDATION, folds_section
from openmae.report.page.headline import headline
from openmae.report.page.html import (
    details,
    drawn,
    facts,
    page,
    pairs_table,
    paragraph,
    section,
    settings_table,
)
from openmae.report.page.left import Left, read_left, read_left_json
from openmae.report.page.pictures import pictures_section
from openmae.report.page.results import results_sections
from openmae.report.page.study import study_page
from openmae.report.page.sweep import SWEEP, sweep_page
from openmae.report.plots.curves import curves

MOST_BROKEN_FILES = 200


def write_report(run: Path) -> Path:
    """Writes run/report.html, complete or as it was before, from what the run folder holds; gives its path.

    A folder of runs that a sweep or a study left gets a page too. What the folder lacks is left out. Raises UserError
    where the folder is no run, one of its files is damaged, or the page cannot be written.
    """
    name = run.resolve().name
    if (run / "config.toml").exists():
        body = _run_page(run)
    elif is_study(run):
        found = read_left_json(run / RESULTS)
        if is_comparison(found):
            body = comparison_page(found)
        else:
            body = ablation_page(found) if is_ablation(found) else study_page(found)
    elif (run / SWEEP).exists():
        body = sweep_page(read_left_json(run / SWEEP))
    else:
        body = _run_page(run)  # says what is missing
    file = run / "report.html"
    try:
        write_file(file, page(name, body))
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror})", "make room or choose another folder") from error
    return file


def _run_page(run: Path) -> list[str]:
    left = read_left(run)
    return [
        facts(headline(left)),
        compared_section(read_left_json(run / COMPARED)),
        folds_section(read_left_json(run / CROSS_VALIDATION)),
        *results_sections(run, left.results),
        evaluations_section(left),
        _curves(left),
        pictures_section(run / "pictures"),
        _broken_files(run / "broken.txt"),
        _settings(left),
        _model(left.model),
        _environment(left.starts),
    ]


# ---------------------------------------------------------------- sections


def _curves(left: Left) -> str:
    figures = "".join(drawn(svg, f"{title} over training steps") for title, svg in curves(left.metrics).items())
    if not figures:
        return ""
    advice = (
        "<p>The loss shows that training goes on, but it ranks features poorly: judge a run by its kNN and linear "
        "figures (<code>openmae knn</code>, <code>openmae probe</code>), and compare losses only between runs of "
        "the same target and masking.</p>"
    )
    if left.kind in ("segmenter", "detector"):
        advice = paragraph(
            "The loss is of windows that are drawn larger and smaller and mirrored, and no measure of what is found: "
            "the figures on val are. Where these fall while the loss falls, fewer epochs would have done."
        )
    elif left.kind == "classifier":
        advice = paragraph(
            "Where the settings below have augmentation, mixup, cutmix or label smoothing, training images are harder "
            "than val images, and the training loss may stay far above the val loss. A val loss that rises while the "
            "training loss falls says that fewer epochs would have done."
        )
    return section("Curves", advice, f'<div class="curves">{figures}</div>')


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
    return section("Broken files", details(said, pairs_table((path, reason) for path, _, reason in pairs) + rest))


def _settings(left: Left) -> str:
    """What the user set, and folded all the rest; of older runs, which do not tell, all."""
    asked = left.asked
    if not asked:
        return section("Settings", settings_table(left.config))
    rest = {name: value for name, value in left.config.items() if name not in asked}
    folded = details(f"{len(rest)} more, at their default or chosen for these images", settings_table(rest))
    return section("Settings", settings_table(asked), folded)


def _model(info: dict[str, Any]) -> str:
    if not info:
        return ""
    if info.get("licence") is None:
        info = {**info, "licence": "not stated; the weights belong to whoever trained them"}
    return section("Model", details("model.json", settings_table(info)))


def _environment(starts: Sequence[dict[str, Any]]) -> str:
    tables = []
    for number, start in enumerate(starts, 1):
        command = start.get("command")
        shown = {**start, "command": shlex.join(map(str, command))} if isinstance(command, list) else start
        which = f"start {number} of {len(starts)}: " if len(starts) > 1 else ""
        tables.append(details(f"{which}{start.get('started', 'environment.json')}", settings_table(shown)))
    return section("Environment", *tables)
