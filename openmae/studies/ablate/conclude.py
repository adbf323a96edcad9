"""What the judged rows of an ablation add up to: means with their bounds, and whether they go the paper's way."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openmae.files.study import RESULTS
from openmae.files.whole import write_file
from openmae.studies.ablate.named import Named, Row
from openmae.studies.intervals import Interval
from openmae.studies.rows import Rows, state
from openmae.studies.study import Part, Study


@dataclass(frozen=True)
class Asked:
    """Of what it is asked, and how. name: of the study, "" of a grid of one's own. rows: those that can be judged;
    table: how they are compared. computing: of each row, in usual ones. parts: the whole table."""

    name: str
    named: Named
    rows: Sequence[Row]
    table: Rows
    computing: Mapping[str, float]
    parts: Sequence[Part]
    notes: Sequence[str]


def conclude(study: Study, asked: Asked) -> dict[str, Any]:
    """Writes results.json of the parts that are done; gives what it holds. Raises UserError where a file of the study
    is damaged, OSError."""
    now, apart = state(study, asked.parts), asked.table.apart(study)
    usual = next(row for row in asked.rows if row.name == asked.named.usual)
    rows = [
        {
            **found,
            "at": row.at,
            "paper": dict(row.paper),
            "as_paper": _as_paper(row, usual, apart[row.name]),
            "computing": asked.computing.get(row.name),
        }
        for row, found in zip(asked.rows, asked.table.rows(study, apart), strict=True)
    ]
    seeds = f"Every row is trained with {len(asked.table.seeds)} seeds, in all else alike."
    papers = " The paper's model, images and training are far larger: signs are compared, not values."
    results = {
        "study": study.kind,
        "name": asked.name,
        "source": asked.named.source,
        "axis": asked.named.axis,
        "is_log": asked.named.is_log,
        "usual": usual.name,
        "figures": [asdict(figure) for figure in asked.table.figures],
        "rows": rows,
        "curve": [{"at": at, **one} for at, one in sorted(asked.named.curve.items())],
        "seeds": len(asked.table.seeds),
        "sentence": asked.table.sentence(rows),
        "notes": [*asked.notes, *asked.named.notes, *study.notes()],
        "rule": f"{seeds} {asked.table.rule}{papers * any(row.paper for row in asked.rows)}",
        **now,
    }
    write_file(study.path / RESULTS, json.dumps(results, indent=1).encode())
    return results


def _as_paper(row: Row, usual: Row, apart: Mapping[str, Interval]) -> dict[str, str]:
    """Of each figure that the paper has of both: whether ours goes the same way, within its bounds."""
    found = {}
    for name in row.paper.keys() & usual.paper.keys() & apart.keys():
        ours, theirs = apart[name], row.paper[name] - usual.paper[name]
        if not theirs:
            continue
        sign = 1 if ours.low > 0 else -1 if ours.high < 0 else 0
        found[name] = "not shown" if sign == 0 else "as in the paper" if sign * theirs > 0 else "the other way"
    return found
