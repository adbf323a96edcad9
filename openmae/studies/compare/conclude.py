"""What the judged methods of a comparison add up to: means with their bounds, and what each of them cost."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openmae.baselines.methods import forward_passes
from openmae.console.words import duration, several
from openmae.files.study import RESULTS
from openmae.files.whole import write_file
from openmae.model import Architecture
from openmae.recipes.training.settings import given
from openmae.studies.compare.named import PUBLISHED
from openmae.studies.compare.parts import chosen
from openmae.studies.compare.planned import Plan
from openmae.studies.compare.rates import found_of, held_out
from openmae.studies.compare.trainings import operations
from openmae.studies.rows import Rows, state
from openmae.studies.study import Part, Study

_HEADS = ("passes an image", "published", "images seen", "operations", "time of its steps", "an image")


@dataclass(frozen=True)
class Asked:
    """Of what it is asked. licences: of the models that stand beside, by their names. parts: the whole table. chooser:
    what rates are chosen by, in words."""

    plan: Plan
    licences: Mapping[str, str]
    table: Rows
    parts: Sequence[Part]
    notes: Sequence[str]
    chooser: str


def conclude(study: Study, asked: Asked) -> dict[str, Any]:
    """Writes results.json of the parts that are done; gives what it holds. Raises UserError where a file of the study
    is damaged, OSError."""
    now = state(study, asked.parts)
    costs = {name: _cost(study, asked, name) for name in asked.plan.methods}
    rates = [_rate(study, asked.plan, name) for name in asked.plan.trainings]
    heads = ["base rate"] * bool(rates) + list(_HEADS)
    heads += ["licence"] if asked.licences else []
    rows = []
    for found in asked.table.rows(study, asked.table.apart(study)):
        name = found["name"]
        cost = costs.get(name, {})
        times = {one["method"]: _times(one, cost) for one in rates}.get(name, "")
        cells = [times] * bool(rates) + _cells(cost) + [asked.licences.get(name, "")] * bool(asked.licences)
        rows.append({**found, "paper": {}, "cost": cost, "cells": cells})
    results = {
        "study": study.kind,
        "name": "Ways to pre-train",
        "axis": "method",
        "usual": asked.table.usual,
        "figures": [asdict(figure) for figure in asked.table.figures],
        "model": _said_model(asked.plan.architecture),
        "images": asked.plan.base.images,
        "how_long": asked.plan.how_long,
        "cost_columns": heads,
        "rows": rows,
        "rates": _rates(asked, rates) if asked.plan.tries else None,
        "seeds": len(asked.table.seeds),
        "sentence": asked.table.sentence(rows),
        "notes": [*asked.notes, *at_the_edge(asked.plan.tries, rates), *study.notes()],
        "rule": (
            f"Every method trains the same model, from the same weights, on the same images, {asked.plan.how_long}, "
            f"with {several(len(asked.table.seeds), 'seed')}. {asked.table.rule} Passes are forward passes of the "
            "encoder over a whole image, a backward pass counting two: of this model, and as published for ViT-B. "
            "Operations are those of them all, without heads; what an image takes here is the time of the steps "
            "over the images seen, loading included."
        ),
        **now,
    }
    write_file(study.path / RESULTS, json.dumps(results, indent=1).encode())
    return results


def _said_model(architecture: Architecture) -> str:
    down, across = architecture.patch_size
    patches = f"{down}" if down == across else f"{down} x {across}"
    return f"{several(architecture.depth, 'block')} {architecture.embed_dim} wide, patches of {patches}"


def _rates(asked: Asked, methods: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """by: what they are chosen by; error: the standard error of a figure of as many images, where it is a share."""
    labelled = asked.plan.chooser
    found: dict[str, Any] = {"by": asked.chooser, "is_loss": labelled is None, "methods": methods}
    if labelled is None:
        return found
    found["in_points"] = labelled.task != "regression"
    figures = [one["figure"] for method in methods for one in method["tried"] if "figure" in one]
    if labelled.task == "classification" and figures:
        mean, (_, away) = sum(figures) / len(figures), given(held_out(labelled, asked.plan.settings.seed))
        found["error"] = math.sqrt(mean * (1 - mean) / len(away))
    return found


def at_the_edge(tries: Sequence[float], methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the choice among these rates leaves open: one beyond them. methods: what was tried of each, and chosen, as
    results.json has it; one of which no trial told anything has no best rate."""
    if not tries:
        return []
    found = []
    for edge, word in ((max(tries), "highest"), (min(tries), "lowest")):
        best = [one for one in methods if one["chosen"] == edge and any("figure" in trial for trial in one["tried"])]
        if names := [one["method"] for one in best]:
            beyond = f"{edge:.3g},{edge * (3 if word == 'highest' else 1 / 3):.3g}"
            found.append(
                f"The {word} rate tried was the best one for {', '.join(names)}: one beyond it may be better still "
                f"(--rates {beyond} in a study of its own tells)."
            )
    return found


def _rate(study: Study, plan: Plan, method: str) -> dict[str, Any]:
    """What was tried of it, and what was chosen: None as long as that is open."""
    tried = found_of(study, method, plan.tries)
    is_open = len(tried) < len(plan.tries)
    return {
        "method": method,
        "tried": [one.to_dict() for one in tried],
        "chosen": None if is_open else chosen(plan, study, method),
    }


def _times(rate: Mapping[str, Any], cost: Mapping[str, float]) -> str:
    """As the table shows it: how many times what pretrain would choose, and the base rate that this is."""
    if rate["chosen"] is None:
        return ""
    return f"{rate['chosen']:.3g}x" + (f" = {cost['blr']:.2g}" if "blr" in cost else "")


def _cost(study: Study, asked: Asked, method: str) -> dict[str, float]:
    """passes and published: of an image. images, operations, seconds: of a training, the mean over the seeds done."""
    found = {"passes": forward_passes(method, asked.plan.architecture), "published": PUBLISHED[method]}
    took = [study.figures(f"{method}/seed-{seed}") for seed in asked.table.seeds]
    steps = [one for one in took if one is not None and "steps" in one]
    if steps:
        found["images"] = sum(one["steps"] * one["batch_size"] for one in steps) / len(steps)
        found["operations"] = found["images"] * operations(method, asked.plan.architecture)
        found |= {"blr": steps[0]["blr"]} if "blr" in steps[0] else {}  # which older studies do not have
        known = [one["seconds"] for one in steps if one["seconds"] is not None]
        found |= {"seconds": sum(known) / len(known)} if known else {}
    return found


def _cells(cost: Mapping[str, float]) -> list[str]:
    """A method's cost as the table shows it; of what was not trained here nothing."""
    if not cost:
        return [""] * len(_HEADS)
    return [
        f"{cost['passes']:.1f}",
        f"{cost['published']:g}",
        f"{cost['images']:,.0f}" if "images" in cost else "",
        f"{cost['operations']:.1e}" if "operations" in cost else "",
        duration(cost["seconds"]) if "seconds" in cost else "",
        f"{1000 * cost['seconds'] / cost['images']:.2g} ms" if "seconds" in cost else "",
    ]
