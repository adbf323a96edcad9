"""`knn --out RUN`: the encoder and the labelled images that new ones are compared with, as an ordinary run."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from openmae.console.words import size_of
from openmae.data.sources.source import Source
from openmae.data.tasks import Answers
from openmae.errors import UserError
from openmae.evaluate.evaluation import How
from openmae.evaluate.features import Readout, centred_images
from openmae.evaluate.judge import Judged, judge
from openmae.evaluate.knn import MOST_BYTES, Bank, bank_bytes, neighbours_of
from openmae.evaluate.predict import predict, said
from openmae.files.address import whole_address
from openmae.files.disk import writing_results
from openmae.recipes.evaluate.keep import keep_result
from openmae.recipes.probe.settings import Proof
from openmae.train.checkpoint import save_model
from openmae.train.run import RunFolder
from openmae.weights import Loaded, model_json


def check_bank(out: Path, settings: Proof, places: Sequence[Readout]) -> None:
    """Raises UserError, before anything is read, where `out` cannot get a classifier of these features."""
    if len(places) > 1:
        raise UserError("--out keeps a classifier of one layer and pool", "choose one by --layer and --pool")
    if (out / "model.safetensors").exists():
        raise UserError(f"{out} holds a model already", "choose another --out")
    if settings.model.resolve() == out.resolve():
        raise UserError(f"--out is {out}, which is MODEL", "choose another --out")


def check_room(images: int, width: int) -> None:
    """Raises UserError where the bank of so many images would be larger than what is loaded and searched with ease."""
    if (needed := bank_bytes(images, width)) > MOST_BYTES:
        raise UserError(
            f"a bank of {images:,} images with {width} numbers each takes {size_of(needed)}, and every image that is "
            f"classified is compared with all of it: at most {size_of(MOST_BYTES)} are kept",
            f"give --labels {MOST_BYTES // bank_bytes(1, width)} or fewer; or keep a linear layer instead: "
            "openmae probe MODEL DATA --out RUN",
        )


def keep_bank(
    settings: Proof,
    out: Path,
    loaded: Loaded,
    known: Bank,
    sources: tuple[Source, Source],
    asked: Answers,
    how: How,
) -> str:
    """Writes the run, judged by the val images as `evaluate` judges it; gives what is to be said of it.

    sources: (train, val). asked: the answers to val. Raises UserError.
    """
    train, val = sources
    model = neighbours_of(loaded.encoder, known, how.k, how.temperature)
    provenance = {
        "job": "knn",
        "data": whole_address(settings.data),
        "step": loaded.info["provenance"].get("step"),
        "seed": settings.seed,
        "held_out": val.fingerprint,
        **({"selection": chosen} if (chosen := settings.selection.to_dict()) else {}),
        "model": whole_address(str(settings.model)) if settings.model.exists() else str(settings.model),
        "pre-training": loaded.info["provenance"],
    }
    info = model_json(
        model,
        loaded.statistics,
        provenance,
        task=known.right.task,
        class_names=known.right.names,
        licence=loaded.info.get("licence"),
    )
    with RunFolder(out) as folder:
        folder.settle(_config(settings), f"{train.fingerprint} {val.fingerprint}", ())
        with writing_results(out):
            save_model(out, model, info)
        images = centred_images(model.encoder, loaded.statistics, val)
        scores, indices = predict(
            model.to(how.device), loaded.statistics, images, how.device, how.workers, precision=how.precision
        )
        judged = Judged(images, scores, indices, asked)
        keep_result(out, judged, found := judge(judged), whole_address(settings.data), "val")
    rows, width = model.bank.shape
    return (
        f"The classifier is in {out}, on val: {said(found['figures'])}. It is the encoder and a bank of {rows:,} "
        f"images with {width} numbers each, {size_of(model.bank.nbytes)}, with which every image is compared\n"
        f"  openmae predict {out} IMAGES --out predictions.csv"
    )


def _config(settings: Proof) -> dict[str, Any]:
    """For config.toml."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {"job": "knn"} | {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
