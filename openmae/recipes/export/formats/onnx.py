"""ONNX: a graph for onnxruntime and other engines; examples/serve_onnx.py serves it without torch and openmae."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UserError
from openmae.recipes.export.check import Compared, served, what_is_compared
from openmae.recipes.export.formats.graph import INPUT, compared_in_batches, left_out, quiet, shape_said, traced
from openmae.report.card.text import public
from openmae.weights import Loaded

KEY = "openmae"  # of the metadata that hold what the .json beside it says
MOST_IN_ONE_FILE = 2_000_000_000  # bytes of weights; protobuf, which ONNX is written in, ends at 2 GiB
_OPSET = 20  # the first with GELU; onnxruntime 1.17 and later run it
_BATCH = "batch"  # what the graph calls the number of images
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write(loaded: Loaded, out: Path) -> list[str]:
    """Writes the file, and where the weights are too large for one, a second beside it; gives sentences about what
    they do not hold. Raises UserError where a package is missing."""
    write_graph(served(loaded.model), loaded, out)
    return notes(loaded, out)


def notes(loaded: Loaded, out: Path) -> list[str]:
    """Sentences about what this file does not hold."""
    weights = beside(out)
    split = f"Its weights are too large for one ONNX file: they are in {weights.name}, which belongs beside it"
    return left_out(loaded) + ([split] if weights.exists() else [])


def beside(out: Path) -> Path:
    """Where weights go that one file cannot hold."""
    return out.with_name(f"{out.name}.data")


def write_graph(model: nn.Module, loaded: Loaded, out: Path) -> None:
    """Writes the graph of this form of the model's, its weights into OUT.data where one file cannot hold them."""
    import_packages()
    output = what_is_compared(loaded.model)
    # onnxscript 0.6 prints how many of its rules it applied.
    with quiet(), redirect_stdout(io.StringIO()), torch.no_grad():
        program = torch.onnx.export(
            traced(model, loaded.encoder),
            input_names=[INPUT],
            output_names=[output],
            dynamic_shapes=({0: _BATCH},),
            opset_version=_OPSET,
            optimize=True,  # or torch 2.6 leaves weights unturned, which int8 then finds nothing to do with
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        _tidy(program.model, loaded)
        size = sum(weight.nbytes for weight in model.state_dict().values())
        program.save(str(out), external_data=size > MOST_IN_ONE_FILE)


def compare(loaded: Loaded, out: Path, images: Tensor) -> Compared:
    """onnxruntime's outputs from the file beside ours."""
    return compared_in_batches(loaded, runner(out), images, f"onnxruntime {version('onnxruntime')}")


def usage(loaded: Loaded, out: Path) -> str:
    """What to type in Python."""
    return (
        f'onnxruntime.InferenceSession("{out}").run(None, {{"{INPUT}": images}})[0]  # float32 {shape_said(loaded)}, '
        f"normalised as {out.with_suffix('.json')} says"
    )


def runner(out: Path) -> Callable[[Tensor], Tensor]:
    """A function from images (B, C, H, W), normalised, to the graph's output, computed by onnxruntime on the CPU."""
    session = session_of(out)
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.contiguous().numpy()})[0])


def session_of(out: Path) -> Any:
    """onnxruntime's, on the CPU."""
    runtime = import_packages()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of what it makes faster
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])


def import_packages() -> Any:
    """onnxruntime. Raises UserError where one of the packages is missing."""
    try:
        with quiet():
            import onnx  # noqa: F401
            import onnxruntime
            import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"this export needs {', '.join(_PACKAGES)}, of which {error.name} is not installed",
            "pip install onnx onnxscript onnxruntime",
        ) from error
    return onnxruntime


def _tidy(graph: Any, loaded: Loaded) -> None:
    """Says what the model is, names the number of images, and drops the notes on where in our code each part comes
    from."""
    graph.metadata_props[KEY] = json.dumps(public(loaded.info))
    graph.producer_name = "openmae"
    values = [value for node in graph.graph for value in node.outputs]
    count = graph.graph.inputs[0].shape[0]  # torch 2.6 has a name of its own for it
    for value in (*graph.graph.inputs, *values):
        for axis, side in enumerate(value.shape or ()):
            if side == count:
                value.shape[axis] = _BATCH
    for part in (*graph.graph, *graph.graph.inputs, *graph.graph.initializers.values(), *values):
        part.metadata_props.clear()
