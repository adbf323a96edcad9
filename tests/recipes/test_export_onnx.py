"""Graphs for serving: what they compute, what they say of themselves, and what their smaller forms cost."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.console.terminal import make_console
from openmae.data.formats.channels import PixelFormat
from openmae.data.opening import open_data
from openmae.data.tasks import Task, answers
from openmae.data.views.statistics import Statistics
from openmae.evaluate.features import centred_images
from openmae.evaluate.metrics import accuracy
from openmae.evaluate.predict import measure
from openmae.heads import Classifier, Encoder
from openmae.model import ViT, create_model
from openmae.recipes.export import job as export
from openmae.recipes.export import judge as export_judge
from openmae.recipes.export import quantize as export_quantize
from openmae.recipes.export.check import reference
from openmae.recipes.export.formats import onnx as export_onnx
from openmae.recipes.export.formats import pt2 as export_pt2
from openmae.recipes.export.judge import judge
from openmae.weights import Loaded, Model, load_model, model_json, serialize
from tests.commands import Run, refused
from tests.images import write_images

NAMES = ["class0", "class1", "class2"]


def vit(in_chans: int, class_tokens: int, img_size: tuple[int, int] = (16, 24), learned: bool = False) -> ViT:
    return ViT(img_size, (8, 8), in_chans, 32, 1, 2, class_tokens=class_tokens, learned_positions=learned)


def batch_normed() -> Classifier:
    model = Classifier(vit(1, 0), 3, batch_norm=True)
    assert model.batch_norm is not None
    model.batch_norm.running_mean = torch.linspace(-1, 1, 32)
    model.batch_norm.running_var = torch.linspace(0.5, 2, 32)
    return model


MODELS: dict[str, Callable[[], Model]] = {
    "grey, no class token, batch norm": batch_normed,
    "4 channels, 4 class tokens, learned positions": lambda: Classifier(vit(4, 4, learned=True), 3, "class"),
    "autoencoder": lambda: create_model(
        img_size=(24, 16), patch_size=8, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_depth=1
    ),
    "encoder of one patch": lambda: Encoder(vit(3, 1, (8, 8))),
}


KINDS = list(MODELS)[:2]  # the others go to ONNX in tests below


def write_model(model: Model, file: Path, task: str = "classification", names: list[str] = NAMES) -> Loaded:
    """The model with random weights, biases and norms too, as a file of ours."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=0.2)
    channels = model.encoder.in_chans
    statistics = Statistics((0.5,) * channels, (0.25,) * channels, PixelFormat(channels))
    named = {"task": task, "class_names": names} if isinstance(model, Classifier) else {}
    file.write_bytes(serialize(model.eval(), model_json(model, statistics, {"data": "none"}, **named)))  # type: ignore[arg-type]
    return load_model(file)


def ran(to: str, file: Path, images: Tensor) -> Tensor:
    """What the exported file gives, by the library that it is for, as a user would call it."""
    if to == "pt2":
        return torch.export.load(file).module()(images)
    return export_onnx.runner(file)(images)


def exported_by(run: Run, source: Path, out: Path, *words: object) -> tuple[dict[str, Any], str]:
    """(what the .json beside it says of the export, what was printed) of a command that went well."""
    code, said, errors = run("export", source, "--to", out.suffix[1:], "--out", out, *words)
    assert (code, errors) == (0, "")
    assert {file.name for file in out.parent.iterdir()} - {"in.safetensors"} >= {out.name, f"{out.stem}.json"}
    assert f"normalised as {out.with_suffix('.json')} says" in said
    return json.loads(out.with_suffix(".json").read_text())["export"], said


# ---------------------------------------------------------------- the graphs


@pytest.mark.parametrize(("kind", "to"), [*((kind, "pt2") for kind in MODELS), *((kind, "onnx") for kind in KINDS)])
def test_graph_computes_what_the_model_does_for_any_number_of_images(
    kind: str, to: str, run: Run, tmp_path: Path
) -> None:
    loaded = write_model(MODELS[kind](), tmp_path / "in.safetensors")
    out = tmp_path / f"out.{to}"
    about, said = exported_by(run, tmp_path / "in.safetensors", out)
    assert about["largest_difference"] <= about["allowed_difference"]
    assert ("decoder is left out" in said) == (kind == "autoencoder")
    shape = (loaded.encoder.in_chans, *loaded.encoder.img_size)
    for count in (1, 2, 7):
        images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
        ours = reference(loaded.model, images)
        theirs = ran(to, out, images)
        assert (theirs - ours).abs().max() <= 1e-4 * max(1, ours.abs().max())
    if to == "onnx":
        check_description(out, loaded, "scores", ours.shape)
    else:
        inside = {export_pt2.DESCRIPTION: ""}
        torch.export.load(out, extra_files=inside)
        assert json.loads(inside[export_pt2.DESCRIPTION]) == loaded.info
    assert str(Path(export.__file__).parent).encode() not in out.read_bytes()  # no paths of this machine


def check_description(out: Path, loaded: Loaded, name: str, shape: torch.Size) -> None:
    graph = onnx.load(out)
    onnx.checker.check_model(graph, full_check=True)
    assert {entry.key: json.loads(entry.value) for entry in graph.metadata_props} == {"openmae": loaded.info}
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    vit = loaded.encoder
    assert shapes == {"images": ["batch", vit.in_chans, *vit.img_size], name: ["batch", *shape[1:]]}


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = write_model(MODELS["encoder of one patch"](), tmp_path / "in.safetensors")
    out, moved, small = tmp_path / "out.onnx", tmp_path / "moved", tmp_path / "small.onnx"
    monkeypatch.setattr(export_onnx, "MOST_IN_ONE_FILE", 10_000)
    (note,) = export_onnx.write(loaded, out)
    assert "they are in out.onnx.data, which belongs beside it" in note
    assert (tmp_path / "out.onnx.data").stat().st_size > out.stat().st_size
    moved.mkdir()
    for name in ("out.onnx", "out.onnx.data"):
        (tmp_path / name).rename(moved / name)
    images = torch.randn(2, 3, 8, 8)
    assert torch.allclose(ran("onnx", moved / "out.onnx", images), reference(loaded.model, images), atol=1e-4)
    export_quantize.write_smaller(loaded, "int8", moved / "out.onnx", small)
    assert export_onnx.notes(loaded, small) == []
    assert ran("onnx", small, images).isfinite().all()


def test_a_graph_that_computes_something_else_is_not_left_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(loaded: Loaded, out: Path) -> list[str]:
        said = export_onnx.write(loaded, out)
        graph = onnx.load(out)
        bias = next(weight for weight in graph.graph.initializer if weight.name.endswith("mlp.2.bias"))
        values = onnx.numpy_helper.to_array(bias).copy()
        values[0] += 0.01
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(graph, out)
        return said

    write_model(MODELS["encoder of one patch"](), tmp_path / "in.safetensors")
    monkeypatch.setitem(export.FORMATS, "onnx", replace(export.FORMATS["onnx"], write=spoilt))
    result = run("export", tmp_path / "in.safetensors", "--to", "onnx", "--out", tmp_path / "out.onnx")
    refused(result, "features that differ", "nothing was written")
    assert [file.name for file in tmp_path.iterdir()] == ["in.safetensors"]


def test_refusals(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(MODELS["encoder of one patch"](), tmp_path / "in.safetensors")
    source = tmp_path / "in.safetensors"
    refused(
        run("export", source, "--to", "pt2", "--out", tmp_path / "out.pt2", "--quantize", "int8"), "is for --to onnx"
    )
    refused(run("export", source, "--to", "onnx", "--out", tmp_path / "out.pt2"), "ends in .onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(
        run("export", source, "--to", "onnx", "--out", tmp_path / "out.onnx"), "pip install onnx onnxscript onnxruntime"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["in.safetensors"]


# ---------------------------------------------------------------- smaller ones


def test_int8_classifier_is_judged_by_labels(run: Run, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 24, classes=3)
    loaded = write_model(MODELS["grey, no class token, batch norm"](), tmp_path / "in.safetensors")
    out = tmp_path / "out [1].onnx"
    about, said = exported_by(run, tmp_path / "in.safetensors", out, "--quantize", "int8", "--data", data)
    assert "Where the same image must always get the same, send images one at a time" in said
    assert 0 < about["quantized"]["beside"] < about["largest_output"]
    cost, judged = about["quantized"], about["quantized"]["judged"]
    assert about["largest_difference"] <= about["allowed_difference"]  # of the exact graph
    source = open_data(str(data)).all
    ((pixels, indices),) = centred_images(loaded.encoder, loaded.statistics, source).batches(64, 0)
    images, labels = loaded.statistics.normalize(pixels), torch.from_numpy(source.labels[indices])
    exact, smaller = reference(loaded.model, images), ran("onnx", out, images)
    assert judged["figure"] == "top1"
    assert judged["images"] == 24
    assert judged["values"] == pytest.approx([accuracy(exact, labels), accuracy(smaller, labels)])
    assert judged["agreement"] == pytest.approx((exact.argmax(1) == smaller.argmax(1)).double().mean().item())
    assert f"{judged['values'][1]:.2%}" in said
    # Of the first 8 alone: inputs are rounded by the range that they have in the whole batch.
    difference = (ran("onnx", out, images[:8]) - exact[:8]).abs().max().item()
    assert 0 < cost["difference"] == pytest.approx(difference, rel=1e-3)
    assert cost["difference"] < 0.1 * cost["largest"]
    assert cost["bytes"][1] == out.stat().st_size
    assert {entry.key for entry in onnx.load(out).metadata_props} == {"openmae"}


def test_fp16_encoder_is_judged_by_its_neighbours(run: Run, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 24, classes=2)
    loaded = write_model(MODELS["autoencoder"](), tmp_path / "in.safetensors")
    out = tmp_path / "out.onnx"
    about, said = exported_by(run, tmp_path / "in.safetensors", out, "--quantize", "fp16", "--data", data)
    judged = about["quantized"]["judged"]
    assert "kNN top-1 on 4 images" in said  # a fifth of each class is held out
    assert judged["figure"] == "top1"
    assert abs(judged["values"][0] - judged["values"][1]) <= 0.25
    assert judged["agreement"] > 0.9999
    images = torch.randn(3, 3, 24, 16)
    ours, theirs = reference(loaded.model, images), ran("onnx", out, images)
    assert theirs.dtype == torch.float32
    check_description(out, loaded, "features", ours.shape)
    assert 0 < (ours - theirs).abs().max() < 0.02 * ours.abs().max()
    halves = [weight for weight in onnx.load(out).graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16]
    assert sum(np.prod(weight.dims) for weight in halves) > 19_000


def test_without_labels_outputs_are_compared(run: Run, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 6, classes=1)
    loaded = write_model(MODELS["encoder of one patch"](), tmp_path / "in.safetensors")
    out = tmp_path / "out.onnx"
    about, said = exported_by(run, tmp_path / "in.safetensors", out, "--quantize", "int8", "--data", data)
    assert "Where the same image must always get the same, send images one at a time" in said
    assert 0 < about["quantized"]["beside"] < about["largest_output"]
    judged = about["quantized"]["judged"]
    assert "No accuracy was measured" in said
    assert (judged["images"], judged["figure"]) == (6, None)
    ((pixels, _),) = centred_images(loaded.encoder, loaded.statistics, open_data(str(data)).all).batches(64, 0)
    images = loaded.statistics.normalize(pixels)
    ours, theirs = (one[:, 1:].mean(1) for one in (reference(loaded.model, images), ran("onnx", out, images)))
    assert judged["agreement"] == pytest.approx(F.cosine_similarity(ours, theirs).mean().item(), abs=1e-5)
    assert 0.99 < judged["agreement"] < 1


@pytest.mark.parametrize(
    ("task", "labels", "figure"),
    [
        ("multi-label", ["class0", "class1;class2", "class0;class2", "class1", "class0", "class2"], "mean_ap"),
        ("regression", ["0.5", "1.5", "2", "-1", "0.25", "4"], "r2"),
    ],
)
def test_other_tasks_have_their_own_figure(task: Task, labels: list[str], figure: str, tmp_path: Path) -> None:
    files = sorted(write_images(tmp_path / "data", 6).rglob("*.*"))
    rows = [f"{file.relative_to(tmp_path)},{label}" for file, label in zip(files, labels, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    model = Classifier(vit(1, 0), 1 if task == "regression" else 3)
    names = ["value"] if task == "regression" else NAMES
    loaded = write_model(model, tmp_path / "in.safetensors", task, names)
    graphs = (partial(reference, loaded.model), lambda images: -reference(loaded.model, images))
    data = open_data(str(tmp_path / "labels.csv"))
    judged = judge(loaded, tmp_path / "in.safetensors", graphs, data, make_console())
    source = data.all
    ((pixels, indices),) = centred_images(loaded.encoder, loaded.statistics, source).batches(64, 0)
    scores = reference(loaded.model, loaded.statistics.normalize(pixels))
    right = answers(source, task, names)
    assert indices == list(range(6))
    assert judged.figure == figure
    assert judged.values == pytest.approx([measure(one, right)[figure] for one in (scores, -scores)])
    assert judged.agreement == (None if task == "regression" else 0)


def test_of_many_images_both_graphs_see_the_same_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_judge, "MOST_IMAGES", 7)
    data = open_data(str(write_images(tmp_path / "data", 24, classes=3)))
    loaded = write_model(MODELS["grey, no class token, batch norm"](), tmp_path / "in.safetensors")
    graph = partial(reference, loaded.model)
    judged = judge(loaded, tmp_path / "in.safetensors", (graph, graph), data, make_console())
    assert judged.values is not None
    assert (judged.images, judged.agreement) == (7, 1)
    assert judged.values[0] == judged.values[1]


def test_smaller_graph_that_overflows_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowing(loaded: Loaded, to: str, exact: Path, out: Path) -> None:
        graph = onnx.load(exact)
        for weight in graph.graph.initializer:
            if weight.name.endswith("mlp.0.bias"):
                weight.CopyFrom(onnx.numpy_helper.from_array(np.full(weight.dims, np.inf, np.float32), weight.name))
        onnx.save(graph, out)

    write_model(MODELS["encoder of one patch"](), tmp_path / "in.safetensors")
    monkeypatch.setattr(export_quantize, "write_smaller", overflowing)
    result = run(
        "export", tmp_path / "in.safetensors", "--to", "onnx", "--out", tmp_path / "o.onnx", "--quantize", "fp16"
    )
    refused(result, "in fp16", "not finite", "--quantize int8")
    assert [file.name for file in tmp_path.iterdir()] == ["in.safetensors"]
