"""What a page without a server computes: the autoencoder, what its pixels are shown as, its errors and its attention,
as one ONNX graph.

Shapes: C channels, H x W pixels of the model, N patches, V visible, Q hidden ones to predict, T class tokens, L blocks.
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from openmae.data.views.statistics import Statistics
from openmae.evaluate.attention import read_by
from openmae.model import MaskedAutoencoder, patchify, take, unpatchify
from openmae.recipes.export.formats.graph import quiet
from openmae.recipes.export.formats.onnx import import_packages
from openmae.report.sheets.pictures import estimated_statistics, grey_as_seen, to_uint8
from openmae.targets import HOG, NormPix, OwnTarget

INPUTS = ("levels", "visible", "hidden", "range", "estimate", "asking")
OUTPUTS = ("picture", "errors", "attention")
_OPSET = 20  # the first with GELU
_LEAST = 1024  # numbers of a matrix that is rounded


class Page(nn.Module):
    """An autoencoder whose target are pixels, and the statistics of its images of 8 bits."""

    def __init__(self, model: MaskedAutoencoder, statistics: Statistics) -> None:
        super().__init__()
        self.model, self.statistics = model, statistics

    def forward(
        self, levels: Tensor, visible: Tensor, hidden: Tensor, shown: Tensor, estimate: Tensor, asking: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """levels: (1, C, H, W) uint8. visible, hidden: (1, V) and (1, Q) int32. shown: (2,) float32, the scaled pixels
        that are shown as black and as white. estimate: (1,) float32, above 0 where statistics of hidden patches are
        taken from visible ones. asking: (1,) int32, which of the visible patches attends.

        -> picture (1, C, H, W) uint8, whose visible patches mean nothing; errors (1, Q); attention (L, T + V), the mean
        over the heads of each block.
        """
        encoder, target = self.model.encoder, self.model.target
        visible, hidden = visible.long(), hidden.long()
        pixels = self.statistics.normalize(levels)
        patches = patchify(pixels, encoder.patch_size)
        states = [*encoder.states(encoder.embed(take(patches, visible), visible), places=visible)]
        read = [state for number, state in enumerate(states) if number in self.model.layers_read]
        predicted = self.model.decoder([*read[:-1], encoder.norm(read[-1])], visible, hidden)  # (1, Q, K)
        errors = (predicted - target(pixels, take(patches, hidden))).square().mean(dim=2)

        mask = torch.ones_like(patches[..., 0], dtype=torch.bool).scatter(1, visible, False)
        everywhere = predicted.new_zeros(*mask.shape, predicted.shape[-1])
        everywhere = everywhere.scatter(1, hidden[..., None].expand_as(predicted), predicted)
        mean = std = patches[..., :1]
        if isinstance(target, NormPix):
            mean, std = target.statistics(patches)
            estimated = estimated_statistics(mean, std, mask, encoder.grid, encoder.patch_size)
            mean, std = (torch.where(estimate > 0, *pair) for pair in zip(estimated, (mean, std), strict=True))
        assert not isinstance(target, HOG | OwnTarget), "they have no pixels"
        found = unpatchify(target.to_pixels(everywhere, mean, std), encoder.grid, encoder.patch_size)
        is_hidden = unpatchify(mask[..., None].expand_as(patches), encoder.grid, encoder.patch_size)
        scaled = grey_as_seen(self.statistics.denormalize(found), levels, is_hidden)
        picture = to_uint8((scaled - shown[0]) / (shown[1] - shown[0]))

        token = asking.long() + encoder.class_tokens
        turns = None if encoder.rope is None else encoder.turns(visible)
        rows = [read_by(block, x, token, turns).mean(dim=1) for block, x in zip(encoder.blocks, states, strict=False)]
        return picture, errors, torch.cat(rows)


def graph_of(model: MaskedAutoencoder, statistics: Statistics) -> bytes:
    """It as an ONNX file, for any V and Q from 1 on. Raises UserError where a package is missing."""
    import_packages()
    encoder = model.encoder
    patches = len(encoder.positions)
    example = (
        torch.zeros(1, encoder.in_chans, *encoder.img_size, dtype=torch.uint8),
        torch.tensor([[0, 1]], dtype=torch.int32),  # more than one: torch would take a 1 for a constant
        torch.tensor([[0, 1, 1]], dtype=torch.int32),
        torch.tensor([0.0, 1.0]),
        torch.zeros(1),
        torch.zeros(1, dtype=torch.int32),
    )
    sides = {name: {1: Dim(name, min=1, max=max(4, patches))} for name in ("visible", "hidden")}
    shapes: Any = ({}, sides["visible"], sides["hidden"], {}, {}, {})
    with quiet(), redirect_stdout(io.StringIO()), torch.no_grad():
        program = torch.onnx.export(
            torch.export.export(Page(model, statistics).eval(), example, dynamic_shapes=shapes),
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=({}, {1: "visible"}, {1: "hidden"}, {}, {}, {}),
            opset_version=_OPSET,
            optimize=True,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        return _bare(program.model_proto).SerializeToString()


def _bare(graph: Any) -> Any:
    """Without the notes on where in our code each part comes from, paths of this machine among them."""
    graph.producer_name = "openmae"
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.input, *graph.graph.output):
        del part.metadata_props[:]
    del graph.graph.value_info[:]
    for node in graph.graph.node:
        node.ClearField("doc_string")
    return graph


def rounded(graph: bytes) -> bytes:
    """The same with the matrices of its linear layers as 8-bit numbers, with a scale for each output, a quarter of the
    size. They become float32 again before anything is computed, so inputs are not rounded, as in `export --quantize
    int8`, and no processor answers otherwise."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(graph)
    weights = {one.name: one for one in model.graph.initializer}
    products = {node.input[1]: 1 for node in model.graph.node if node.op_type == "MatMul"}  # which axis the outputs are
    products |= {node.input[0]: 0 for node in model.graph.node if node.op_type == "Transpose"}
    nodes = []
    for name in sorted(products.keys() & weights.keys()):
        matrix, axis = numpy_helper.to_array(weights[name]), products[name]
        if matrix.ndim != 2 or matrix.size < _LEAST:
            continue
        scale = (np.abs(matrix).max(axis=1 - axis, keepdims=True) / 127).clip(1e-12).astype(np.float32)
        model.graph.initializer.remove(weights[name])
        for part, values in (("levels", np.round(matrix / scale).astype(np.int8)), ("scale", scale.reshape(-1))):
            model.graph.initializer.append(numpy_helper.from_array(values, f"{name}.{part}"))
        nodes.append(onnx.helper.make_node("DequantizeLinear", [f"{name}.levels", f"{name}.scale"], [name], axis=axis))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return model.SerializeToString()


Outputs = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]


class Runner:
    """The graph in onnxruntime on the CPU, as the page has it in a browser."""

    def __init__(self, graph: bytes) -> None:
        options = (runtime := import_packages()).SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # rounded weights are made float32 once
        self.session: Any = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(
        self, levels: Tensor, visible: Sequence[int], hidden: Sequence[int], estimate: bool = False, asking: int = 0
    ) -> Outputs:
        """picture, errors and attention, see `Page`; shown from black to white."""
        given = (
            levels.numpy(),
            np.array([visible], np.int32),
            np.array([hidden], np.int32),
            np.array([0, 1], np.float32),
            np.array([estimate], np.float32),
            np.array([asking], np.int32),
        )
        found: Outputs = tuple(self.session.run(None, dict(zip(INPUTS, given, strict=True))))
        return found
