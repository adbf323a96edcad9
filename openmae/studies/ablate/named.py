"""The studies that have a name: what varies, and what the paper found where it asked the same.

All figures are of the MAE paper (arXiv 2111.06377), in percent, of ViT-L pre-trained on ImageNet-1K for 800 epochs
where nothing else is said: `linear` its linear probe, `finetuned` its fine-tuning. The paper's Table 1 is with targets
that are not normalised.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Paper = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One setting of a study.

    name: in the table. changes: of pretrain's settings, to what all trainings have in common. at: its place on an axis
    of numbers. paper: what the paper found, in percent. scaled: settings that are so many times the usual ones. epochs:
    times the usual ones. images: share of them that is learnt from, in as many steps. blocks: that are fine-tuned.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    at: float | None = None
    paper: Paper = field(default_factory=dict)
    scaled: Mapping[str, float] = field(default_factory=dict)
    epochs: float = 1.0
    images: float = 1.0
    blocks: str | None = None


@dataclass(frozen=True)
class Named:
    """A study. varies: the one setting, where it is one. source: in the paper, "" where it has none. axis: what the
    rows are called together. usual: the row that all others are compared with. curve: what the paper found at other
    places of the axis too. is_log: of the axis. notes: what differs from the paper."""

    varies: str
    source: str
    axis: str
    usual: str
    rows: tuple[Row, ...]
    curve: Mapping[float, Paper] = field(default_factory=dict)
    is_log: bool = False
    notes: tuple[str, ...] = ()


def _values(setting: str, paper: Mapping[Any, tuple[float, float] | None]) -> tuple[Row, ...]:
    """A row for each value of a setting that is a number, with the paper's fine-tuning and linear probe."""
    return tuple(Row(f"{value:g}", {setting: value}, value, _found(one)) for value, one in paper.items())


def _found(figures: tuple[float, float] | None) -> Paper:
    return {} if figures is None else {"finetuned": figures[0], "linear": figures[1]}


_RATIOS = {  # Figure 5
    0.1: (83.2, 54.6), 0.2: (83.4, 58.9), 0.3: (83.4, 61.7), 0.4: (84.7, 67.0), 0.5: (84.9, 69.9),
    0.6: (85.0, 71.8), 0.7: (84.9, 73.2), 0.75: (84.9, 73.5), 0.8: (84.5, 71.8), 0.9: (83.0, 66.1),
}  # fmt: skip
_DEPTHS = {1: (84.8, 65.5), 2: (84.9, 70.0), 4: (84.9, 71.9), 8: (84.9, 73.5), 12: (84.4, 73.3)}  # Table 1a
_WIDTHS = {0.25: (84.9, 69.1), 0.5: (84.8, 71.3), 1.0: (84.9, 73.5), 1.5: (84.4, 73.1), 2.0: (84.3, 73.1)}  # Table 1b
_SCHEDULES = {0.125: 57.3, 0.25: 64.4, 0.5: 69.7, 1.0: 73.5, 2.0: 75.1}  # Figure 7, 100 to 1600 epochs
_RAW = ("The paper's figures are with targets that are not normalised (--set norm_pix_loss=false has these too).",)

STUDIES: dict[str, Named] = {
    "decoder-depth": Named(
        "decoder_depth", "Table 1a", "decoder blocks", "8", _values("decoder_depth", _DEPTHS), notes=_RAW
    ),
    "decoder-width": Named(
        "decoder_embed_dim",
        "Table 1b",
        "decoder width, in usual ones",
        "1x",
        tuple(
            Row(f"{times:g}x", {}, times, _found(one), {"decoder_embed_dim": times}) for times, one in _WIDTHS.items()
        ),
        notes=("The paper's widths are 128 to 1024, its usual one is 512.", *_RAW),
    ),
    "mask-token": Named(
        "encoder_mask_token",
        "Table 1c",
        "mask tokens",
        "decoder",
        (
            Row("encoder", {"encoder_mask_token": True}, None, _found((84.2, 59.6))),
            Row("decoder", {"encoder_mask_token": False}, None, _found((84.9, 73.5))),
        ),
        notes=_RAW,
    ),
    "target": Named(
        "target",
        "Table 1d",
        "target",
        "pixel",
        (
            Row("pixel", {"target": "pixel", "norm_pix_loss": False}, None, _found((84.9, 73.5))),
            Row("normalised", {"target": "pixel", "norm_pix_loss": True}, None, _found((85.4, 73.9))),
            Row("pca", {"target": "pca"}, None, _found((84.6, 72.3))),
            Row("hog", {"target": "hog"}),
        ),
        notes=(
            "The paper's fourth target, tokens of a dVAE, is left out: that takes another model. Its PCA keeps 96.",
        ),
    ),
    "augmentation": Named(
        "crop_scale",
        "Table 1e",
        "augmentation",
        "random size",
        (
            Row("none", {"crop_scale": (1.0, 1.0), "hflip": False}, None, _found((84.0, 65.7))),
            Row("fixed size", {"crop_scale": (0.77, 0.77)}, None, _found((84.7, 73.1))),
            Row("random size", {"crop_scale": (0.2, 1.0)}, None, _found((84.9, 73.5))),
            Row("random size, colours", {"crop_scale": (0.2, 1.0), "colour_jitter": 0.4}, None, _found((84.3, 71.9))),
        ),
        notes=(
            "A crop of fixed size is 77% of an image, about 224 of 256 pixels a side; its aspect varies, as that of "
            "all crops here. How strong the paper's colour jitter is it does not say; here it is --colour-jitter 0.4.",
            *_RAW,
        ),
    ),
    "sampling": Named(
        "mask",
        "Table 1f",
        "mask",
        "random 75%",
        (
            Row("random 75%", {"mask": "random", "mask_ratio": 0.75}, None, _found((84.9, 73.5))),
            Row("block 50%", {"mask": "block", "mask_ratio": 0.5}, None, _found((83.9, 72.3))),
            Row("block 75%", {"mask": "block", "mask_ratio": 0.75}, None, _found((82.8, 63.9))),
            Row("grid 75%", {"mask": "grid", "mask_ratio": 0.75}, None, _found((84.0, 66.0))),
        ),
        notes=_RAW,
    ),
    "mask-ratio": Named(
        "mask_ratio",
        "Figure 5",
        "mask ratio",
        "0.75",
        _values("mask_ratio", {at: _RATIOS[at] for at in (0.1, 0.3, 0.5, 0.75, 0.9)}),
        {at: _found(one) for at, one in _RATIOS.items()},
        notes=_RAW,
    ),
    "schedule": Named(
        "epochs",
        "Figure 7",
        "epochs, in usual ones",
        "1x",
        tuple(Row(f"{times:g}x", {}, times, {"linear": one}, epochs=times) for times, one in _SCHEDULES.items()),
        is_log=True,
        notes=("The paper's epochs are 100 to 1600, its usual ones 800.", *_RAW),
    ),
    "partial": Named(
        "blocks",
        "Figure 9",
        "last blocks that are fine-tuned",
        "all",
        (
            Row("0", blocks="0", paper={"finetuned": 73.5}),
            Row("0.5", blocks="0.5", paper={"finetuned": 79.1}),
            Row("1", blocks="1", paper={"finetuned": 81.0}),
            Row("2", blocks="2"),
            Row("4", blocks="4"),
            Row("all", blocks="all", paper={"finetuned": 84.9}),
        ),
        notes=("The same pre-trained encoder for all, one a seed.",),
    ),
    "ratio-schedule": Named(
        "mask_schedule",
        "",
        "mask ratio over training",
        "0.75",
        (
            Row("0.75"),
            Row("linear 0.5 to 0.9", {"mask_ratio": 0.5, "mask_schedule": "linear", "mask_ratio_end": 0.9}),
            Row("linear 0.9 to 0.5", {"mask_ratio": 0.9, "mask_schedule": "linear", "mask_ratio_end": 0.5}),
            Row("cosine 0.5 to 0.9", {"mask_ratio": 0.5, "mask_schedule": "cosine", "mask_ratio_end": 0.9}),
            Row("random 0.5 to 0.9", {"mask_ratio": 0.5, "mask_schedule": "random", "mask_ratio_end": 0.9}),
        ),
        notes=("The paper keeps the ratio as it is: what it left open.",),
    ),
    "crop-sampling": Named(
        "mask",
        "",
        "visible patches",
        "random",
        (
            Row("random", {"mask": "random"}),
            Row("uniform", {"mask": "uniform"}),
            Row("crop", {"mask": "crop"}),
        ),
        notes=("Evenly spread, or in one window as if the image had been cropped: what the paper left open.",),
    ),
    "data-size": Named(
        "data",
        "",
        "share of the images",
        "1",
        tuple(Row(f"{share:g}", {}, share, images=share) for share in (0.1, 0.25, 0.5, 1.0)),
        is_log=True,
        notes=("As many steps each: fewer images are seen more often.",),
    ),
    "model-size": Named(
        "embed_dim",
        "",
        "encoder width, in usual ones",
        "1x",
        tuple(Row(f"{times:g}x", {}, times, {}, {"embed_dim": times, "num_heads": times}) for times in (0.5, 1.0, 2.0)),
        is_log=True,
        notes=(
            "As many images each, not as much computing. The paper's sizes are other ones: ViT-B, -L and -H, after "
            "1600 epochs, have a linear probe of 68.0, 75.8 and 76.6%.",
        ),
    ),
}
