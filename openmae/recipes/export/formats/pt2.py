"""torch.export: a graph that runs in torch, or is compiled ahead of time, without openmae."""

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from openmae.recipes.export.check import Compared, served
from openmae.recipes.export.formats.graph import compared_in_batches, left_out, quiet, shape_said, traced
from openmae.report.card.text import public
from openmae.weights import Loaded

DESCRIPTION = "openmae.json"  # model.json inside the file


def write(loaded: Loaded, out: Path) -> list[str]:
    """Writes the file; gives sentences about what it does not hold."""
    program = traced(served(loaded.model), loaded.encoder)
    whole = io.BytesIO()  # onto a disk that is full, torch's own writer ends the process
    with quiet():
        torch.export.save(program, whole, extra_files={DESCRIPTION: json.dumps(public(loaded.info))})
    out.write_bytes(whole.getbuffer())
    return left_out(loaded)


@torch.no_grad()
def compare(loaded: Loaded, out: Path, images: Tensor) -> Compared:
    """The outputs of the file, read again, beside those of the model."""
    with quiet():
        graph = torch.export.load(out).module()
    return compared_in_batches(loaded, graph, images, f"torch.export {torch.__version__}")


def usage(loaded: Loaded, out: Path) -> str:
    """What to type in Python."""
    said = f"{shape_said(loaded)}, normalised as {out.with_suffix('.json')} says"
    return f'torch.export.load("{out}").module()(images)  # {said}'
