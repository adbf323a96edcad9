"""A smaller ONNX graph in the place of the exact one, and what that costs.

int8: weights of the blocks' linear layers as 8-bit numbers with a scale for each output, their inputs rounded to 8 bits
as they come, on one scale for all images of a batch, so that those beside an image change what it gets a little. fp16:
all of it in half precision, inputs and outputs in float32.
"""

import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from openmae.data.opening import Data
from openmae.errors import UserError
from openmae.files.whole import folder_beside
from openmae.heads import Answering, Neighbours
from openmae.recipes.export.check import served, what_is_compared
from openmae.recipes.export.formats.graph import quiet
from openmae.recipes.export.formats.onnx import KEY, runner, write_graph
from openmae.recipes.export.judge import Graph, Judgement, agreement, judge, one_vector_each
from openmae.recipes.export.settings import Quantize
from openmae.recipes.probe.table import FIGURES
from openmae.report.card.text import public
from openmae.weights import Loaded

_ROUNDS = 5  # of a measurement of speed, the graphs in turn
_SECONDS = 5.0  # after which no further round begins
_PREPARED = "onnx.quant.pre_process"  # or onnxruntime advises, on the console, to simplify a graph that is simple


@dataclass(frozen=True)
class Cost:
    """What the smaller graph costs; pairs are of the exact graph and of the smaller one.

    difference: the largest, of any output of any of the images that the export is checked on. largest: of the exact
    outputs' sizes. agreement: on these images, see export_judge. judged: on the user's images. beside: the largest
    difference that the images beside an image make to its outputs, in the smaller graph.
    """

    to: Quantize
    difference: float
    largest: float
    agreement: float | None
    bytes: tuple[int, int]
    images_per_second: tuple[float, float]
    batch: int
    judged: Judgement | None
    beside: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for model.json."""
        return asdict(self)


def quantize(
    loaded: Loaded, model: Path, to: Quantize, part: Path, images: Tensor, data: Data | None, console: Console
) -> Cost:
    """Puts the smaller graph in the place of the exact one, `part`, and measures both.

    model: as the user gave it. data: None judges by nothing but `images`. Raises UserError where fp16 cannot
    hold what the model computes.
    """
    with folder_beside(part) as aside:
        exact = aside / part.name
        for file in _files_of(part):
            file.rename(exact.parent / file.name)
        write_smaller(loaded, to, exact, part)
        graphs = (runner(exact), runner(part))
        ours, theirs = (graph(images) for graph in graphs)
        if not theirs.isfinite().all():
            raise UserError(
                f"in {to} this model's {what_is_compared(loaded.model)} are not finite numbers",
                f"choose --quantize {'int8' if to == 'fp16' else 'fp16'}, or leave it out",
            )
        return Cost(
            to=to,
            difference=(ours - theirs).abs().max().item(),
            largest=ours.abs().max().item(),
            agreement=agreement(loaded, one_vector_each(loaded, ours), one_vector_each(loaded, theirs)),
            bytes=(_size(exact), _size(part)),
            images_per_second=_speeds(graphs, images),
            batch=len(images),
            judged=None if data is None else judge(loaded, model, graphs, data, console),
            beside=(theirs - torch.cat([graphs[1](image[None]) for image in images])).abs().max().item(),
        )


def write_smaller(loaded: Loaded, to: Quantize, exact: Path, out: Path) -> None:
    """Writes the smaller graph; `exact` is the one that export_onnx has written."""
    if to == "int8":
        _write_int8(loaded, exact, out)
    else:
        write_graph(_Half(served(loaded.model)), loaded, out)


def show_cost(cost: Cost, loaded: Loaded, console: Console) -> None:
    """Prints it: a table of both graphs, and how far their outputs are from each other."""
    table = Table("onnxruntime on this machine", "float32", cost.to)
    for column in table.columns[1:]:
        column.justify = "right"
    judged = cost.judged
    if judged is not None and judged.figure is not None and judged.values is not None:
        by = "" if isinstance(loaded.model, Answering) else "kNN "
        told = (f"{value:.3f}" if judged.figure == "r2" else f"{value:.2%}" for value in judged.values)
        table.add_row(f"{by}{FIGURES[judged.figure]} on {judged.images:,} images", *told)
    table.add_row("size", *(f"{count / 1e6:,.1f} MB" for count in cost.bytes))
    table.add_row(f"images/s, {cost.batch} at once", *(f"{speed:,.1f}" for speed in cost.images_per_second))
    console.print(table)
    console.print(_apart(cost, loaded), soft_wrap=True)
    if cost.to == "int8":
        console.print(
            f"int8 rounds all images of a batch on one scale: those beside it change an image's outputs by up to "
            f"{cost.beside:.1e}. Where the same image must always get the same, send images one at a time.",
            style="yellow",
            soft_wrap=True,
        )
    if judged is not None and judged.why_none is not None:
        console.print(f"No accuracy was measured: {judged.why_none}.", style="yellow", soft_wrap=True)


def _apart(cost: Cost, loaded: Loaded) -> str:
    """How far the outputs of the two are from each other."""
    outputs = what_is_compared(loaded.model)
    said = (
        f"{outputs.capitalize()} of {cost.to} differ by at most {cost.difference:.1e} (they reach {cost.largest:.3g})"
    )
    alike, images = cost.agreement, cost.batch
    if cost.judged is not None:
        alike, images = cost.judged.agreement, cost.judged.images
    if alike is None:
        return said
    if outputs == "scores":
        return f"{said}; {alike:.2%} of the answers on {images:,} images are the same"
    return f"{said}; on {images:,} images the cosine similarity of mean features is {alike:.5f}"


class _Half(nn.Module):
    """The model in half precision, between inputs and outputs in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = deepcopy(model).half()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.half()).float()


def _write_int8(loaded: Loaded, exact: Path, out: Path) -> None:
    with quiet():
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        graph = onnx.load(exact)
        onnx.helper.set_model_props(graph, {_PREPARED: "onnxruntime.quant"})
        # What is said of weights twice: onnxruntime 1.20 to 1.22 turn the head's, and then find it to be otherwise.
        weights = {weight.name for weight in graph.graph.initializer}
        values = [value for value in graph.graph.value_info if value.name not in weights]
        del graph.graph.value_info[:]
        graph.graph.value_info.extend(values)
        # Not of the patches' projection: with its pixels rounded too, the error of all is three times as large. Nor of
        # a bank's similarities, of which small differences decide.
        products = [node.name for node in graph.graph.node if node.op_type == "MatMul"]
        exact_ones = [products[0], *products[-1:]] if isinstance(loaded.model, Neighbours) else products[:1]
        quantize_dynamic(
            graph,
            out,
            per_channel=True,
            # 7 bits: of 8-bit weights, processors without VNNI clip the sums, and answer differently.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=exact_ones,
        )
        smaller = onnx.load(out)
        onnx.helper.set_model_props(smaller, {KEY: json.dumps(public(loaded.info))})
        onnx.save(smaller, out)


def _size(graph: Path) -> int:
    """Bytes of the file, and of the weights beside it where they are in a file of their own."""
    return sum(file.stat().st_size for file in _files_of(graph))


def _files_of(graph: Path) -> list[Path]:
    """The graph, and its weights where they are in a file of their own. By no pattern: its name may have [ in it."""
    return [file for file in graph.parent.iterdir() if file.name.startswith(graph.name)]


def _speeds(graphs: Sequence[Graph], images: Tensor) -> tuple[float, float]:
    """Images a second of both, taking turns, because a machine is never equally fast for long."""
    took: list[list[float]] = [[], []]
    end = time.perf_counter() + _SECONDS
    while not took[0] or (len(took[0]) < _ROUNDS and time.perf_counter() < end):
        for graph, seconds in zip(graphs, took, strict=True):
            seconds.append(_seconds(graph, images))
    return len(images) / median(took[0]), len(images) / median(took[1])


def _seconds(graph: Callable[[Tensor], Tensor], images: Tensor) -> float:
    began = time.perf_counter()
    graph(images)
    return time.perf_counter() - began
