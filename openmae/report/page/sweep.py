"""The page of a partial fine-tuning sweep: what each further block that learns gains (paper, Figure 9)."""

import math
from typing import Any

from openmae.console.words import duration
from openmae.report.page.html import numbers_table, paragraph, picture, section
from openmae.report.page.results import is_share, shown_figures
from openmae.report.plots.curves import blocks_curve, is_number

SWEEP = "sweep.json"


def sweep_page(sweep: Any) -> list[str]:
    """The body of the page. sweep: what sweep.json holds, {blocks: {figures, parameters, seconds}}, anything of which
    may be missing."""
    parts = {blocks: one for blocks, one in sweep.items() if _is_part(blocks, one)} if isinstance(sweep, dict) else {}
    if not parts:
        return [paragraph("No run of this sweep is complete yet.")]
    shown = {blocks: shown_figures(one["figures"]) for blocks, one in sorted(parts.items(), key=by_blocks)}
    names = list(dict.fromkeys(name for figures in shown.values() for name in figures))
    rows = [
        (
            "0 (head alone)" if blocks == "0" else blocks,
            _number(parts[blocks].get("parameters")),
            *(figures.get(name, "") for name in names),
            duration(parts[blocks]["seconds"]) if is_number(parts[blocks].get("seconds")) else "",
        )
        for blocks, figures in shown.items()
    ]
    head = ("last blocks that learn", "parameters that learn", *names, "training time")
    advice = (
        "If one block is nearly as good as all, the pre-trained features fit the task: training little is cheaper and "
        "forgets less. A large gain from 0 to 1 says that what the features hold is not linearly separable yet."
    )
    svg, said = sweep_curve(parts), "The final figure over the blocks that learn"
    return [
        section(
            "Partial fine-tuning",
            f"<figure>{picture(svg.encode(), 'image/svg+xml', said)}</figure>" if svg else "",
            numbers_table(head, rows),
            paragraph(f"Figures are of the val images. {advice}"),
        )
    ]


def sweep_curve(parts: dict[str, Any]) -> str:
    """SVG: the figure to judge by over the number of blocks; "" where they have none in common. parts: as sweep.json
    has them, of one task."""
    first, *others = (one["figures"] for one in parts.values())
    names = dict.fromkeys(("top1", "mean_ap", "r2", *first))
    keys = [name for name in names if all(is_number(figures.get(name)) for figures in (first, *others))]
    if not keys:
        return ""
    label = next(iter(shown_figures({keys[0]: 0.0})), keys[0])
    points = [(blocks, one["figures"][keys[0]]) for blocks, one in parts.items()]
    return blocks_curve(points, f"{label} on val", is_share=is_share(keys[0]))


def by_blocks(part: tuple[str, Any]) -> float:
    """Sorts (blocks, ...) as given: 0, 0.5, ..., all."""
    return math.inf if part[0] == "all" else float(part[0])


def _is_part(blocks: str, one: Any) -> bool:
    if blocks != "all" and not blocks.replace(".", "", 1).isdecimal():
        return False
    figures = one.get("figures") if isinstance(one, dict) else None
    return isinstance(figures, dict) and any(map(is_number, figures.values()))


def _number(value: Any) -> str:
    return f"{value:,}" if is_number(value) else ""
