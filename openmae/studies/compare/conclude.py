"""What the judged methods of a comparison add up to: means with their bounds, and what each of them cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openmae.baselines.methods import forward_passes
from openmae.console.words import duration, several
from openmae.files.study import RESULTS
from openmae.files.whole import write_file
from openmae.model import Architecture
from openmae.studies.compare.named import PUBLISHED
from openmae.studies.compare.trainings import operations
from openmae.studies.rows import Rows, state
from openmae.studies.study import Part, Study


@dataclass(frozen=True)
class Asked:
    """Of what it is asked. methods: that are trained here; licences: of the models that stand beside, by their names.
    architecture: of all that are trained. how_long: of each training, in words. parts: the whole table."""

    methods: Sequence[str]
    licences: Mapping[str, str]
    table: Rows
    architecture: Architecture
    how_long: str
    parts: Sequence[Part]
    notes: Sequence[str]


def conclude(study: Study, asked: Asked) -> dict[str, Any]:
    """Writes results.json of the parts that are done; gives what it holds. Raises UserError where a file of the study
    is damaged, OSError."""
    now = state(study, asked.parts)
    costs = {name: _cost(study, asked, name) for name in asked.methods}
    heads = ["passes an image", "published", "images seen", "operations", "time of its steps"]
    heads += ["licence"] if asked.licences else []
    rows = []
    for found in asked.table.rows(study, asked.table.apart(study)):
        name = found["name"]
        cost = costs.get(name, {})
        cells = _cells(cost) + [asked.licences.get(name, "")] * bool(asked.licences)
        rows.append({**found, "paper": {}, "cost": cost, "cells": cells})
    results = {
        "study": study.kind,
        "name": "Ways to pre-train",
        "axis": "method",
        "usual": asked.table.usual,
        "figures": [asdict(figure) for figure in asked.table.figures],
        "columns": heads,
        "rows": rows,
        "seeds": len(asked.table.seeds),
        "sentence": asked.table.sentence(rows),
        "notes": [*asked.notes, *study.notes()],
        "rule": (
            f"Every method trains the same model, from the same weights, on the same images, {asked.how_long}, with "
            f"{several(len(asked.table.seeds), 'seed')}. {asked.table.rule} Passes are forward passes of the encoder "
            "over a whole image, a backward pass counting two: of this model, and as published for ViT-B. Operations "
            "are those of them all, without heads."
        ),
        **now,
    }
    write_file(study.path / RESULTS, json.dumps(results, indent=1).encode())
    return results


def _cost(study: Study, asked: Asked, method: str) -> dict[str, float]:
    """passes and published: of an image. images, operations, seconds: of a training, the mean over the seeds done."""
    found = {"passes": forward_passes(method, asked.architecture), "published": PUBLISHED[method]}
    took = [study.figures(f"{method}/seed-{seed}") for seed in asked.table.seeds]
    steps = [one for one in took if one is not None and "steps" in one]
    if steps:
        found["images"] = sum(one["steps"] * one["batch_size"] for one in steps) / len(steps)
        found["operations"] = found["images"] * operations(method, asked.architecture)
        known = [one["seconds"] for one in steps if one["seconds"] is not None]
        found |= {"seconds": sum(known) / len(known)} if known else {}
    return found


def _cells(cost: Mapping[str, float]) -> list[str]:
    """A method's cost as the table shows it; of what was not trained here nothing."""
    if not cost:
        return [""] * 5
    return [
        f"{cost['passes']:.1f}",
        f"{cost['published']:g}",
        f"{cost['images']:,.0f}" if "images" in cost else "",
        f"{cost['operations']:.1e}" if "operations" in cost else "",
        duration(cost["seconds"]) if "seconds" in cost else "",
    ]
