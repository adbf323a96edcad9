"""A detector as ONNX: of one window, as many objects as there are in it.

torch's newer exporter cannot follow numbers of boxes that depend on the image (torchvision asks whether there are any
before its nms; torch 2.14), so this is the one by tracing, which torchvision's parts are written for.
"""

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from openmae.errors import UserError
from openmae.recipes.export.check import Compared, compared
from openmae.recipes.export.formats.graph import INPUT, quiet
from openmae.recipes.export.formats.onnx import KEY, MOST_IN_ONE_FILE, import_packages, session_of
from openmae.report.card.text import public
from openmae.transfer.detector import Detector
from openmae.weights import Loaded

_OPSET = 17  # tracing knows of no later GELU
_OUTPUTS = ("boxes", "scores", "classes", "masks")
_OBJECTS = "objects"  # what the graph calls their number


class _OfOne(nn.Module):
    """(1, C, H, W), normalised -> boxes (n, 4), scores (n,), classes (n,), and masks (n, M, M) of what is within."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (found,) = self.model(image)
        listed = (found.boxes, found.scores, found.classes)
        return listed if found.masks is None else (*listed, found.masks)


def write_objects(loaded: Loaded, out: Path) -> list[str]:
    """Writes the file; gives sentences about what it does not hold. Raises UserError where a package is missing, or the
    weights are too many for one file."""
    import_packages()
    import onnx

    model = loaded.detector.eval()
    if sum(weight.nbytes for weight in model.state_dict().values()) > MOST_IN_ONE_FILE:
        raise UserError("a detector of more than 2 GB fits into no ONNX file", "export it to safetensors")
    example = torch.rand(1, loaded.encoder.in_chans, *loaded.encoder.img_size)
    names = _names(model)
    with quiet(), redirect_stdout(io.StringIO()), torch.no_grad():
        torch.onnx.export(
            _OfOne(model),
            (example,),
            out,
            input_names=[INPUT],
            output_names=names,
            dynamic_axes={name: {0: _OBJECTS} for name in names},
            opset_version=_OPSET,
            dynamo=False,
        )
    model.eval()  # the exporter leaves it as if it trained
    graph = onnx.load(out)
    for node in graph.graph.node:
        node.ClearField("doc_string")  # lines of files of this machine
    onnx.helper.set_model_props(graph, {KEY: json.dumps(public(loaded.info))})
    out.write_bytes(graph.SerializeToString())
    where = "drawn to fit it" if model.fits else "or a tile of one"
    return [
        f"It finds the objects of one window at once: an image of the model's size, {where}; masks lie within boxes"
    ]


def compare_objects(loaded: Loaded, out: Path, images: Tensor) -> Compared:
    """onnxruntime's objects from the file beside ours, image by image, each beside the one that is most like it: those
    whose scores differ by rounding alone may have changed places. Raises UserError where there is nothing to compare,
    and where of more than half of the images the numbers differ, as rounding may make those of one."""
    session, model = session_of(out), _OfOne(loaded.detector.eval())
    ours, theirs, differing = list[Tensor](), list[Tensor](), 0
    by = f"onnxruntime {version('onnxruntime')}"
    for image in images[:, None]:
        with torch.no_grad():
            right = model(image)
        found = [torch.from_numpy(one) for one in session.run(None, {INPUT: image.contiguous().numpy()})]
        if len(found[0]) != len(right[0]):
            differing += 1
            continue
        one, other = _rows(right), _rows(found)
        ours.append(one)
        theirs.append(other[torch.cdist(one, other).argmin(1)] if len(one) else other)
    if differing > len(images) / 2:
        raise UserError(
            f"{by} finds other numbers of objects than the model in {differing} of {len(images)} images",
            "nothing was written; please report this, with the command",
        )
    if not sum(map(len, ours)):
        raise UserError(
            f"the model finds nothing in the {len(images)} images that the export is checked with",
            "give --data, images that show what it has learnt",
        )
    return compared(torch.cat(ours), torch.cat(theirs), by, "objects")


def _rows(parts: Sequence[Tensor]) -> Tensor:
    """(n, ...) all that is said of each object."""
    return torch.cat([part.double().flatten(1) if part.ndim > 1 else part.double()[:, None] for part in parts], dim=1)


def _names(model: Detector) -> list[str]:
    return [*_OUTPUTS] if model.has_masks else [*_OUTPUTS[:3]]


def usage_objects(loaded: Loaded, out: Path) -> str:
    """What to type in Python."""
    sides = ", ".join(map(str, (loaded.encoder.in_chans, *loaded.encoder.img_size)))
    given, names = f'{{"{INPUT}": image}}', ", ".join(_names(loaded.detector))
    return (
        f'{names} = onnxruntime.InferenceSession("{out}").run(None, {given})  # float32 (1, {sides}), normalised as '
        f"{out.with_suffix('.json')} says"
    )
