"""The model card that goes with weights to the Hub: README.md, made of a run folder and of model.json alone.

What is public is what these say once `public` has taken out where things lie on the machine that they come from. The
last line tells a card as it was written here from one that somebody has edited since.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.heads import Answering, Classifier, Neighbours
from openmae.model import MaskedAutoencoder
from openmae.report.card.figures import figures_section
from openmae.report.card.text import escaped, head, licence_lines, listing, place_name, public, section, table
from openmae.report.plots.curves import is_number
from openmae.report.plots.loss import loss_png
from openmae.train.run import read_config, read_metrics
from openmae.version import __version__
from openmae.weights import Loaded

LOSS, PANEL = "pictures/loss.png", "pictures/reconstructions.png"
PICTURES = (LOSS, PANEL)
_MOST_CLASSES = 60  # names that are listed
_MARKER = re.compile(r"\n<!-- openmae push wrote this card: ([0-9a-f]{64}) -->\s*\Z")

_RECIPE = {  # settings of config.toml that matter, and what they are called
    "epochs": "epochs",
    "steps": "optimizer steps",
    "batch_size": "batch size",
    "blr": "base learning rate (× batch / 256)",
    "warmup_epochs": "warm-up epochs",
    "weight_decay": "weight decay",
    "mask": "mask",
    "mask_ratio": "share of patches hidden",
    "target": "target",
    "norm_pix_loss": "each patch's pixels normalised",
    "norm_pix_by": "by the mean of the",
    "decoder": "decoder",
    "blocks": "blocks that learn",
    "from_scratch": "from fresh weights",
    "labels": "labels used",
    "balance": "classes balanced by",
    "pool": "pooling",
    "optimizer": "optimizer",
    "layer_decay": "layer-wise decay",
    "freeze_encoder": "share of the steps in which the decoder learnt alone",
    "drop_path": "drop path",
    "ema_decay": "average of the weights",
    "min_lr": "learning rate at the end",
    "positions": "positions",
    "decay_tokens": "decay of tokens",
    "crop_scale": "crop scale",
    "crop_fit": "crops that do not fit",
    "hflip": "mirrored",
    "vflip": "upside down",
    "rotate90": "turned by quarters",
    "colour_jitter": "colours jittered",
    "repeat_aug": "views a decode",
    "ra_magnitude": "RandAugment",
    "random_erase": "random erasing",
    "mixup": "mixup",
    "cutmix": "CutMix",
    "label_smoothing": "label smoothing",
    "precision": "precision",
    "seed": "seed",
}


_ALWAYS_SAID = ("weight_decay", "hflip", "norm_pix_loss", "seed")  # also where they are 0 or off


@dataclass(frozen=True)
class Card:
    """README.md, and the pictures that it shows, by their place beside it."""

    text: str
    pictures: dict[str, bytes]


def make_card(repository: str, loaded: Loaded, run: Path | None, with_panel: bool = True) -> Card:
    """The card of a model that will be hub:`repository`.

    run: its run folder, None where there is none. with_panel: show the run's last panel, which holds images of its data
    with their names. Raises UserError where a file of the run is damaged.
    """
    info = public(loaded.info)
    config, metrics, start = ({}, [], {}) if run is None else (read_config(run), read_metrics(run), _last_start(run))
    pictures = {}
    if drawn := loss_png(metrics):
        pictures[LOSS] = drawn
    if with_panel and run is not None and (panel := last_panel(run)) is not None:
        pictures[PANEL] = panel.read_bytes()
    parts = [
        f"# {repository.split('/')[1]}\n\n{_what_it_is(loaded)}",
        section("Data", *_data(loaded, info, config, start)),
        section("Recipe", table(("setting", "value"), _recipe(config))),
        figures_section(run, metrics, loaded.info.get("kind", "autoencoder")),
        section("Curve", f'<img src="{LOSS}" width="480" alt="Training loss over steps">' if LOSS in pictures else ""),
        section("What it fills in", _about_panel() if PANEL in pictures else ""),
        section("How to use it", *_usage(repository, loaded)),
        section("Intended use and limits", *_limits(loaded)),
        section("Licence and provenance", *licence_lines(info), *_provenance(info)),
        section("How it was made", *_made(config, start)),
    ]
    text = head(info) + "\n" + "\n\n".join(part for part in parts if part) + "\n"
    return Card(f"{text}\n<!-- openmae push wrote this card: {_digest(text)} -->\n", pictures)


def is_as_written(card: str) -> bool:
    """Whether nobody has edited a card since it was made here."""
    card = card.replace("\r\n", "\n")
    found = _MARKER.search(card)
    return found is not None and _digest(card[: found.start()]) == found[1]


def last_panel(run: Path) -> Path | None:
    """The newest picture masked | reconstruction | original of a run, where there is a whole one."""
    for file in sorted(run.glob("pictures/step-*.png"), reverse=True):
        try:
            with Image.open(file, formats=["PNG"]) as image:
                image.verify()
            return file
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue
    return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.rstrip().encode()).hexdigest()


def _last_start(run: Path) -> dict[str, Any]:
    """The newest start of environment.json; empty where there is none. Raises UserError where it is damaged."""
    file = run / "environment.json"
    try:
        found = read_json(file.read_bytes()) if file.exists() else {}
        return dict((found.get("starts") or [{}])[-1])
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise UserError(f"{file} is damaged ({error})", "restore it, or move it away") from error


def _what_it_is(loaded: Loaded) -> str:
    vit, model = loaded.encoder, loaded.model
    size, patch = (" × ".join(map(str, sides)) for sides in (vit.img_size, vit.patch_size))
    channels = "1 channel" if vit.in_chans == 1 else f"{vit.in_chans} channels"
    millions, encoder = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (model, vit))
    body = (
        f"a Vision Transformer with {_blocks(vit.depth)} of width {vit.embed_dim} and {vit.num_heads} attention heads, "
        f"for images of {size} pixels with {channels}, in patches of {patch}"
    )
    if isinstance(model, MaskedAutoencoder):
        shape = model.architecture
        began = ", beginning with weights of another model" if loaded.info["provenance"].get("pre-training") else ""
        return (
            f"A masked autoencoder: {body}; and a decoder with {_blocks(shape.decoder_depth)} of width "
            f"{shape.decoder_embed_dim}, which fills in hidden patches. {millions:.1f} million parameters, "
            f"{encoder:.1f} million of them in the encoder. It was pre-trained without labels by "
            f"[masked autoencoding](https://arxiv.org/abs/2111.06377){began}."
        )
    if isinstance(model, Classifier):
        outputs = model.outputs
        answers = "1 output" if outputs == 1 else f"{outputs:,} outputs"
        came_of, began = loaded.info["provenance"], ""
        if came_of.get("job") == "finetune":
            began = f", beginning with {'a pre-trained encoder' if came_of.get('pre-training') else 'fresh weights'}"
        return (
            f"A model that was trained on labels{began}: {body}; and a linear layer with {answers} on "
            f"{'the mean of the patch tokens' if model.pool == 'mean' else 'the class token'}. {millions:.1f} million "
            "parameters."
        )
    if isinstance(model, Neighbours):
        return (
            f"A classifier by nearest neighbours, in which nothing was learnt from labels: {body}; and the features of "
            f"{len(model.bank):,} labelled images, of which the {model.k:,} nearest vote. {millions:.1f} million "
            "parameters."
        )
    return f"An encoder: {body}. {millions:.1f} million parameters."


def _blocks(count: int) -> str:
    return "1 block" if count == 1 else f"{count} blocks"


def _data(loaded: Loaded, info: dict[str, Any], config: dict[str, Any], start: dict[str, Any]) -> list[str]:
    pixels, provenance = loaded.statistics.pixels, info["provenance"]
    rows = []
    if data := config.get("data") or provenance.get("data"):
        rows.append(("images", place_name(str(data))))
    if (images := _images(config)) is not None:
        rows.append(("how many it learnt from", f"about {images:,}"))
    rows.append(("channels", f"{pixels.in_chans}, {pixels.depth}"))
    if fingerprint := str(start.get("data_fingerprint") or ""):
        rows.append(("fingerprint", ", ".join(fingerprint.split())))
    names = info.get("class_names")
    listed = ""
    if isinstance(names, list) and names:
        rows.append(("task", str(info.get("task"))))
        shown = ", ".join(escaped(name) for name in names[:_MOST_CLASSES])
        more = f", and {len(names) - _MOST_CLASSES:,} more in model.json" if len(names) > _MOST_CLASSES else ""
        listed = f"The outputs, in their order: {shown}{more}."
    return [listing(rows), listed]


def _images(config: dict[str, Any]) -> int | None:
    """How many images a run learnt from, which follows from its settings, to three digits."""
    steps, batch_size, epochs = (config.get(key) for key in ("steps", "batch_size", "epochs"))
    if not (is_number(steps) and is_number(batch_size) and is_number(epochs) and epochs > 0):
        return None
    return int(float(f"{steps * batch_size / epochs:.3g}"))


def _recipe(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The settings that do something."""
    given = [key for key in _RECIPE if config.get(key) not in (None, 0, False, "none") or key in _ALWAYS_SAID]
    return [(_RECIPE[key], _value(config[key])) for key in given if key in config]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " to ".join(map(_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _about_panel() -> str:
    return (
        f"Masked, reconstruction and original, of images of its data:\n\n![Masked images, reconstructions and "
        f"originals]({PANEL})"
    )


def _usage(repository: str, loaded: Loaded) -> list[str]:
    vit, statistics = loaded.encoder, loaded.statistics
    shape = f"(B, {vit.in_chans}, {vit.img_size[0]}, {vit.img_size[1]})"
    calls = [
        f"features = loaded.model.encode(images)  # (B, {vit.class_tokens} + {math.prod(vit.grid)}, {vit.embed_dim})"
    ]
    if isinstance(loaded.model, Answering):
        calls.insert(0, f"outputs = loaded.model(images)  # (B, {loaded.model.outputs})")
    code = "\n".join(
        [
            "from openmae.weights import load_model",
            "",
            f'loaded = load_model("hub:{repository}")',
            f"images = loaded.statistics.normalize(pixels)  # {shape}, {statistics.pixels.depth}",
            *calls,
        ]
    )
    mean, std = (", ".join(f"{number:.4g}" for number in numbers) for numbers in (statistics.mean, statistics.std))
    white = {"uint8": 255, "uint16": 65535}.get(statistics.pixels.depth)
    scaled = f"divides pixels by {white}, " if white else ""
    return [
        "With openmae, which is installed from a clone of its repository (`pip install -e .`):",
        "```sh\npip install huggingface_hub\n```",
        f"```python\n{code}\n```",
        f"`normalize` {scaled}subtracts the mean ({mean}) and divides by the deviation ({std}), a number for each "
        f'channel. `openmae.load("hub:{repository}")` gives the model alone, and every command takes '
        f"`hub:{repository}` for MODEL, such as `openmae embed hub:{repository} IMAGES --out features.parquet`.",
    ]


def _limits(loaded: Loaded) -> list[str]:
    if isinstance(loaded.model, Answering):
        use = "It is meant to answer the question that its outputs stand for, on images like those that it learnt from."
    else:
        use = (
            "It is meant as a start for fine-tuning, and for features of images like those that it learnt from. Its "
            "reconstructions are no measurements: what was hidden is made up."
        )
    return [
        f"{use} It has learnt from the images of its training. Nothing here says how it does on others: of another "
        "camera, place, time or group of people. It was not examined for fairness or for what it may reveal of its "
        "training images, and it is no basis for decisions about people or their health without an examination of its "
        "own.",
    ]


def _provenance(info: dict[str, Any]) -> list[str]:
    provenance = info["provenance"]
    rows = [(name, place_name(str(provenance[key]))) for key, name in _ORIGINS.items() if provenance.get(key)]
    before = provenance.get("pre-training")
    if isinstance(before, dict):
        found = (f"{name}: {place_name(str(before[key]))}" for key, name in _ORIGINS.items() if before.get(key))
        rows.append(("which came of", "; ".join(found)))
    return [listing(rows)]


_ORIGINS = {
    "job": "made by",
    "model": "began with",
    "hub": "of the Hub",
    "commit": "commit",
    "format": "format",
    "file": "file",
    "data": "data",
    "step": "step",
    "seed": "seed",
}


def _made(config: dict[str, Any], start: dict[str, Any]) -> list[str]:
    """Of the newest start: versions and hardware, and nothing that tells whose machine it was."""
    versions = start.get("versions")
    versions = versions if isinstance(versions, dict) else {"openmae": __version__}
    rows = [(name, str(versions[name])) for name in ("openmae", "torch") if name in versions]
    gpus = start.get("gpus")
    if isinstance(gpus, list) and gpus and config.get("device") != "cpu":
        counts = (f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus))
        rows.append(("hardware", ", ".join(counts)))
    elif start.get("processor"):
        rows.append(("hardware", f"{start['processor']}, {start.get('cores')} cores"))
    if date := str(start.get("started") or "")[:10]:
        rows.append(("date", date))
    return [
        "By openmae, which pre-trains Vision Transformers on one's own images.",
        listing(rows),
    ]
