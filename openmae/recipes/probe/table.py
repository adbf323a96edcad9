"""What `knn` and `probe` found, as a table and a word of advice."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from openmae.console.words import several
from openmae.evaluate.evaluation import BASELINES, Evaluation, Kind
from openmae.evaluate.predict import HEADLINE
from openmae.evaluate.probe import STRENGTHS
from openmae.files.whole import write_file
from openmae.report.page.results import stands_out
from openmae.report.plots.curves import is_number
from openmae.report.plots.layers import layers_curve

SAID: dict[str, str] = {"knn": "kNN", "linear": "linear"}
FIGURES = {
    "top1": "top-1",
    "top5": "top-5",
    "balanced_accuracy": "balanced",
    "mean_ap": "mean AP",
    "r2": "R²",
    "auroc": "AUROC",
}
_TITLES: dict[str, str] = {"knn": "kNN", "linear": "Linear probe's"}
_LARGE_ERROR = 0.01  # of an accuracy
_RARELY = 0.05  # the share of draws of val images in which a worse classifier may still be right on all


def show_table(evaluations: Sequence[Evaluation], console: Console) -> None:
    """Rows are features and where they were taken, columns the figures of each kind of classifier, in percent."""
    first = evaluations[0]
    what = {"classification": f" of {first.classes} classes", "multi-label": f" with {first.classes} labels"}
    console.print(
        f"{several(first.val_images, 'image')}{what.get(first.task, '')}, judged by the features of "
        f"{first.train_images:,} others{_said_of_guessing(first)}",
        soft_wrap=True,
    )
    if not any(is_number(e.headline) for e in evaluations):
        console.print(
            "So few cannot tell how good that is: give more val images, that differ in their labels", style="yellow"
        )
        return
    kinds = list(dict.fromkeys(e.kind for e in evaluations))
    columns = [
        (name, kind)
        for name in FIGURES
        for kind in kinds
        if any(getattr(e, name) is not None for e in evaluations if e.kind == kind)
    ]
    is_sweep = len(_own(evaluations, kinds[0])) > 1
    table = Table(
        *("features", "layer", "pool")[: 3 if is_sweep else 1],
        *(f"{SAID[kind]} {FIGURES[name]}" for name, kind in columns),
        "RankMe",
    )
    best = _best(evaluations)
    rows: dict[tuple[str, int | None, str | None], dict[str, Evaluation]] = {}
    for e in evaluations:
        rows.setdefault((e.features, e.layer, e.pool), {})[e.kind] = e
    for (features, layer, pool), row in rows.items():
        one = next(iter(row.values()))
        where = [str(layer or "-"), pool or "-"] if is_sweep else []
        said = [_cell(row[kind], name, evaluations) for name, kind in columns]
        rank = "-" if one.rankme is None else f"{one.rankme:.1f}"
        mark = " (best)" if is_sweep and any(e in best for e in row.values()) else ""
        table.add_row(features + mark, *where, *said, rank)
    console.print(table)


def show_advice(evaluations: Sequence[Evaluation], console: Console) -> None:
    """What to mind about these figures, where there is something."""
    if len(_own(evaluations, evaluations[0].kind)) > 1:
        console.print(
            "The best row was chosen on the val images themselves, so its figure flatters: fix the layer, then judge "
            "it on images that had no say.",
            soft_wrap=True,
        )
    for e in _best(evaluations):
        rivals = [one for one in evaluations if one.features in BASELINES and one.kind == e.kind]
        rival = max(rivals, key=lambda one: one.headline, default=None)
        if rival is not None and e.error is not None and not _stands_out(e, [rival]):
            console.print(
                f"By the {SAID[e.kind]} figure the model is not better than {rival.features} by more than the error: "
                "of these labels it knows no more.",
                soft_wrap=True,
            )
        if e.error is not None and e.error > _LARGE_ERROR:
            console.print(
                f"Of so few val images the {SAID[e.kind]} figure is known to ± {_shown(e.error, HEADLINE[e.task])} "
                "(standard error): smaller differences mean nothing.",
                soft_wrap=True,
            )
        surely = _RARELY ** (1 / e.val_images)
        if e.top1 == 1 and surely < 1 - _LARGE_ERROR:
            console.print(
                f"All {e.val_images:,} val images are right by the {SAID[e.kind]} figure, which one of {surely:.0%} "
                "reaches on so few once in twenty times: give more of them to know it better.",
                soft_wrap=True,
            )
        if e.strength in (STRENGTHS[0], STRENGTHS[-1]):
            which = "strongest" if e.strength == STRENGTHS[0] else "weakest"
            console.print(
                f"The {which} regularisation of those tried ({e.strength:g}) was chosen: a better one may lie beyond.",
                soft_wrap=True,
            )


def _own(evaluations: Sequence[Evaluation], kind: Kind) -> list[Evaluation]:
    """Those of the model itself."""
    return [e for e in evaluations if e.features not in BASELINES and e.kind == kind]


def _best(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Of each kind, the model's best."""
    kinds = dict.fromkeys(e.kind for e in evaluations)
    return [max(_own(evaluations, kind), key=lambda e: e.headline) for kind in kinds]


def _said_of_guessing(one: Evaluation) -> str:
    """What needs no features: a class at random, and always the commonest."""
    if one.task != "classification" or not one.classes:
        return ""
    chance, always = f"{1 / one.classes:.1%}", "-" if one.majority is None else f"{one.majority:.1%}"
    return f" (chance {chance})" if always in ("-", chance) else f" (chance {chance}, always the commonest {always})"


def _cell(one: Evaluation, name: str, all_of_them: Sequence[Evaluation]) -> Text:
    """A figure, the one to judge by with its error; bold where it is better than all others by more than that."""
    value: float | None = getattr(one, name)
    if value is None:
        return Text("-")
    if name != HEADLINE[one.task]:
        return Text(_shown(value, name))
    said = _shown(value, name) + ("" if one.error is None else f" ± {_shown(one.error, name).removesuffix('%')}")
    others = [e for e in all_of_them if e.kind == one.kind and e is not one]
    return Text(said, "bold" if _stands_out(one, others) else "")


def _stands_out(one: Evaluation, others: Sequence[Evaluation]) -> bool:
    return stands_out(one.headline, one.error, [(e.headline, e.error) for e in others])


def _shown(value: float, name: str) -> str:
    return f"{value:.3f}" if name == "r2" else f"{value:.1%}"


def draw_layers(evaluations: Sequence[Evaluation], run: Path) -> list[str]:
    """Writes RUN/layers-knn.svg (or -linear) where several layers were compared; gives the names."""
    written = []
    for kind in dict.fromkeys(e.kind for e in evaluations):
        own = _own(evaluations, kind)
        if len({e.layer for e in own}) < 2:
            continue
        pools = dict.fromkeys(e.pool for e in own)
        lines = {
            f"{pool} pooling" if pool == "mean" else "class token": [
                (e.layer or 0, e.headline) for e in own if e.pool == pool
            ]
            for pool in pools
        }
        levels: dict[str, float] = {
            e.features: e.headline for e in evaluations if e.features in BASELINES and e.kind == kind
        }
        title = f"{_TITLES[kind]} {FIGURES[HEADLINE[own[0].task]]} on features of each layer"
        name = f"layers-{kind}.svg"
        write_file(run / name, layers_curve(title, lines, levels).encode())
        written.append(name)
    return written
