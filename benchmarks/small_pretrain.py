"""Which of the paper's settings change the features of a short pre-training on few images most.

    python benchmarks/small_pretrain.py ARCHIVES --out FOLDER --like small --minutes 0.25 1 --seeds 3
    python benchmarks/small_pretrain.py ARCHIVES --out FOLDER --quick    three settings, one seed: a minute or two
    python benchmarks/small_pretrain.py ARCHIVES --out FOLDER --table    the table of what is measured by now

ARCHIVES is a folder with cifar10-train.tar.gz and cifar10-test.tar.gz (class folders) and nuclei.tar (train and val,
images and masks). A cell is a set of images, minutes, an encoder (`--like`), what differs from what `pretrain`
chooses, and a seed; it is a line of FOLDER/cells.jsonl. Cells that stand there are left out, so the same command goes
on where it was stopped; `--sets`, `--minutes`, `--settings` and `--seeds` choose some. All take 300 hours.

A minute is counted, not measured: so many times 60 GFLOPs of matrix products (`--gflops`), the same for all settings,
whatever else runs on the machine. A setting that uses a processor better has no gain from it then.

Features are judged frozen, by nearest neighbours and a linear probe, on images that no training has seen, and whose
labels no choice is made by but the one that this table is for. Of CIFAR-10's 50,000 images 2,000 judge.
"""

import argparse
import csv
import json
import math
import shutil
import statistics
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from small_sets import digits, windows
from torch import nn

from openmae.data.opening import open_data
from openmae.data.survey.sample import survey
from openmae.files.whole import whole_folder
from openmae.recipes.pretrain.build import architecture_of
from openmae.recipes.pretrain.choose import choose
from openmae.recipes.pretrain.job import pretrain
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.probe.job import prove
from openmae.recipes.probe.settings import Proof
from openmae.recipes.training.settings import pair
from openmae.train.cost import flops
from openmae.train.environment import environment
from openmae.train.muon import moves
from openmae.train.run import read_config, read_metrics

JUDGED = {"train": 200, "val": 200}  # of each class of CIFAR-10: labelled, and apart from what is learnt from
SETS = {"cifar-500": 500, "cifar-5000": 5000, "cifar-50000": 48_000, "nuclei": None, "digits": None}
LIKE: dict[str, dict[str, Any]] = {
    "as chosen": {},  # vit_tiny, on a CPU
    "192 wide": {
        "embed_dim": 192,
        "depth": 4,
        "decoder_embed_dim": 48,
        "decoder_depth": 1,
        "decoder_num_heads": 3,
    },
    "small": {
        "embed_dim": 96,
        "depth": 4,
        "num_heads": 3,
        "decoder_embed_dim": 48,
        "decoder_depth": 1,
        "decoder_num_heads": 3,
    },
}
# What differs from the choice: settings of pretrain, and of these: times (the rate chosen), warmup (share of epochs),
# small (share of the operations for images of half the side, which come first).
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "all": {
        "as chosen": {},
        "a quarter of the rate": {"times": 0.25},
        "half the rate": {"times": 0.5},
        "rate x2": {"times": 2},
        "rate x4": {"times": 4},
        "mask 0.5": {"mask_ratio": 0.5},
        "mask 0.6": {"mask_ratio": 0.6},
        "mask 0.9": {"mask_ratio": 0.9},
        "decoder 1 deep": {"decoder_depth": 1},
        "decoder 2 deep": {"decoder_depth": 2},
        "decoder 8 deep": {"decoder_depth": 8},
        "decoder 96 wide": {"decoder_embed_dim": 96},
        "warm-up 20%": {"warmup": 0.2},
        "decay 0.01": {"weight_decay": 0.01},
        "decay 0.2": {"weight_decay": 0.2},
        "crops from 0.08": {"crop_scale": (0.08, 1.0)},
        "crops from 0.5": {"crop_scale": (0.5, 1.0)},
        "4 views a visit": {"repeat_aug": 4},
        "batch 32": {"batch_size": 32},
        "pixels": {"norm_pix_loss": False},
        "4 class tokens": {"class_tokens": 4},
        "a quarter on images half as large": {"small": 0.25},
        "half on images half as large": {"small": 0.5},
        # What `--recipe fast` changes beside the decoder's depth.
        "fast": {"decoder": "cross", "predict_fraction": 0.25},
        "Muon": {"optimizer": "muon"},
        "Muon, half the rate": {"optimizer": "muon", "times": 0.5},
        "Muon, rate x2": {"optimizer": "muon", "times": 2},
        "Muon, batch 128": {"optimizer": "muon", "batch_size": 128},
    },
    "cifar": {"patch 2": {"patch_size": 2}, "patch 8": {"patch_size": 8}},
    "digits": {"patch 4": {"patch_size": 4}},
    "nuclei": {
        **{f"{side} pixels": {"img_size": side} for side in (96, 128, 160, 224)},
        **{f"{side} pixels, patch 8": {"img_size": side, "patch_size": 8} for side in (96, 128, 160, 224)},
        **{f"{side} pixels, patch 16": {"img_size": side, "patch_size": 16} for side in (96, 128, 160, 224)},
    },
}
QUICK = ("as chosen", "mask 0.5", "decoder 1 deep")


# ---------------------------------------------------------------- images


def cifar(archives: Path, folder: Path, most: int) -> None:
    """FOLDER/images, as many of each class, and judged.csv with other images of them."""
    rows = []
    for split in ("train", "test"):
        seen: dict[str, int] = {}
        with tarfile.open(archives / f"cifar10-{split}.tar.gz") as tar:
            for member in tar:
                label = Path(member.name).parent.name
                if not member.isfile():
                    continue
                seen[label] = number = seen.get(label, -1) + 1
                role = "val" if split == "test" else "train"
                place = None
                if number < JUDGED[role]:
                    place = folder / "judged" / role / label / Path(member.name).name
                    rows.append((str(place.relative_to(folder)), label, role))
                elif split == "train" and number < JUDGED["train"] + most // 10:
                    place = folder / "images" / f"{label}-{Path(member.name).name}"
                if place is not None:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(tar.extractfile(member).read())
    write_table(folder, rows)


def nuclei(archives: Path, folder: Path) -> None:
    """FOLDER/images.npy, a square of 256 pixels of each micrograph of train, decoded, for loading would take longer
    than so small an encoder; judged.csv: whether windows of 128 x 128 pixels of train and val have more nuclei than
    half of those."""
    squares = []
    with tarfile.open(archives / "nuclei.tar") as tar:
        for member in tar:
            if member.isfile() and Path(member.name).parts[-3:-1] == ("train", "images"):
                whole = np.asarray(Image.open(tar.extractfile(member)).convert("RGB"))
                top, left = ((length - 256) // 2 for length in whole.shape[:2])
                squares.append(whole[top : top + 256, left : left + 256])
    np.save(folder / "images.npy", np.stack(squares))
    rows = []
    for number, (window, split, labels) in enumerate(windows(archives, 128)):
        place = folder / "judged" / split / f"{number:05d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        window.save(place)
        rows.append((str(place.relative_to(folder)), labels["density"], split))
    write_table(folder, rows)


def digits_too(archives: Path, folder: Path) -> None:
    """FOLDER/images, the train ones of scikit-learn's; judged.csv: these and the others."""
    rows = []
    for number, (image, split, labels) in enumerate(digits(archives)):
        place = folder / ("images" if split == "train" else "judged") / f"{number:05d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
        rows.append((str(place.relative_to(folder)), labels["digits"], split))
    write_table(folder, rows)


def write_table(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    with (folder / "judged.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("path", "label", "split"), *rows])


def images_of(name: str, archives: Path, out: Path) -> Path:
    place = out / "sets" / name
    if not place.exists():
        with whole_folder(place) as aside:
            if (most := SETS[name]) is not None:
                cifar(archives, aside, most)
            else:
                {"nuclei": nuclei, "digits": digits_too}[name](archives, aside)
    return place


# ---------------------------------------------------------------- cells


def settings_of(name: str) -> dict[str, dict[str, Any]]:
    """What may differ, on a set."""
    return {**SETTINGS["all"], **SETTINGS[name.split("-")[0]]}


def cells(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seed by seed, so that a table is early there."""
    for seed in range(asked.seeds):
        for minutes in asked.minutes:
            for name in asked.sets:
                names = settings_of(name)
                chosen = names if asked.settings is None else [one for one in asked.settings if one in names]
                for setting in chosen:
                    how = {"like": asked.like, "gflops": asked.gflops}
                    yield {"set": name, "minutes": minutes, "setting": setting, "seed": seed, **how}


def flops_of_muon(model: nn.Module) -> float:
    """Of the products that make a step's updates orthogonal."""
    total = 0.0
    for name, parameter in model.named_parameters():
        if moves(name, parameter):
            short, long = sorted(parameter.shape)
            total += 5 * (2 * 2 * short * short * long + 2 * short**3)
    return total


def resolved(cell: dict[str, Any], images: Path, run: Path) -> list[Pretrain]:
    """The settings of one training after the other, with as many epochs as the operations are enough for."""
    differs = dict(settings_of(cell["set"])[cell["setting"]])
    times, warmup, small = (differs.pop(name, None) for name in ("times", "warmup", "small"))
    pure = Pretrain(
        data=str(next(images.glob("images*"))),
        out=run,
        evaluations=0,
        pictures=0,
        workers=0,
        seed=cell["seed"],
        **{**LIKE[cell["like"]], **differs},
    )
    source = open_data(pure.data, pure.selection, pure.reading).train
    look = survey(source, pure.seed, reading=pure.reading)

    def chosen(settings: Pretrain) -> Pretrain:
        return choose(settings, look, len(source), torch.device("cpu"), 1 << 33, Console(quiet=True))

    def lasting(settings: Pretrain, share: float = 1.0) -> Pretrain:
        one = chosen(replace(settings, epochs=1.0))
        architecture = architecture_of(one)
        step = flops(architecture).step
        if one.optimizer == "muon":
            step += flops_of_muon(architecture.build()) / one.batch_size
        views = share * cell["minutes"] * 60 * cell["gflops"] * 1e9 / step
        return replace(settings, epochs=float(f"{views / len(source):.4g}"))

    if small is not None:
        whole = chosen(replace(pure, epochs=1.0))
        half = tuple(length // 2 for length in pair(whole.img_size))
        first = lasting(replace(pure, img_size=half, patch_size=whole.patch_size, out=run / "first"), small)
        last = lasting(replace(pure, img_size=whole.img_size, patch_size=whole.patch_size, out=run / "last"), 1 - small)
        going_on = {"from_": str(run / "first"), "layer_decay": 1.0, "freeze_encoder": 0.0, "blr": chosen(last).blr}
        return [first, replace(last, **going_on)]
    asked = lasting(pure)
    if times is not None:
        asked = replace(asked, blr=chosen(asked).blr * times)
    return [asked if warmup is None else replace(asked, warmup_epochs=warmup * asked.epochs)]


def measured(cell: dict[str, Any], archives: Path, out: Path) -> dict[str, Any]:
    images, run = images_of(cell["set"], archives, out), out / "run"
    key = json.dumps(cell)
    if (out / "running").exists() and (out / "running").read_text() != key:
        shutil.rmtree(run, ignore_errors=True)
    (out / "running").write_text(key)
    began = time.monotonic()
    trainings = resolved(cell, images, run)
    for settings in trainings:
        pretrain(settings, Console(width=200))
    last = trainings[-1].out
    seconds = time.monotonic() - began
    found = prove(Proof(last, str(images / "judged.csv"), baselines=False, workers=0), ["knn", "linear"])
    figures = {one.kind: one.top1 for one in found} | {"rankme": found[0].rankme}
    config = read_config(last)
    losses = [line["loss"] for line in read_metrics(last) if "loss" in line]
    if not all(map(math.isfinite, losses)):
        print("NOT FINITE", cell, flush=True)
    shutil.rmtree(run)
    return {
        **cell,
        **figures,
        "loss": losses[-1],
        "epochs": sum(settings.epochs for settings in trainings),
        **{name: config[name] for name in ("steps", "batch_size", "blr", "img_size", "patch_size")},
        "seconds": round(seconds, 1),
        "judging": round(time.monotonic() - began - seconds, 1),
        "commit": environment()["commit"],
    }


# ---------------------------------------------------------------- the table


def table(lines: list[dict[str, Any]]) -> str:
    """A row a setting: its means over the seeds, and the mean difference to what is chosen, of the same seeds, with its
    standard error where there are several."""
    groups: dict[tuple[Any, ...], dict[str, dict[int, dict[str, Any]]]] = {}
    for line in lines:
        key = (line["set"], line["minutes"], line["like"], line["gflops"])
        groups.setdefault(key, {}).setdefault(line["setting"], {})[line["seed"]] = line
    text = ""
    for (name, minutes, like, gflops), settings in groups.items():
        text += f"\n{name}, {minutes:g} minutes at {gflops:g} GFLOP/s, encoder {like}\n\n"
        text += "| setting | epochs | kNN % | than as chosen | probe % | than as chosen | seeds |\n"
        text += "|---|---|---|---|---|---|---|\n"
        base = settings.get("as chosen", {})
        for setting, seeds in settings.items():
            row = [setting, f"{statistics.mean(one['epochs'] for one in seeds.values()):.3g}"]
            for kind in ("knn", "linear"):
                row.append(f"{100 * statistics.mean(one[kind] for one in seeds.values()):.1f}")
                gains = [100 * (one[kind] - base[seed][kind]) for seed, one in seeds.items() if seed in base]
                row.append("" if setting == "as chosen" or not gains else said(gains))
            text += f"| {' | '.join([*row, str(len(seeds))])} |\n"
    return text


def said(gains: list[float]) -> str:
    mean = f"{statistics.mean(gains):+.1f}"
    return mean if len(gains) < 2 else f"{mean} ± {statistics.stdev(gains) / len(gains) ** 0.5:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--minutes", nargs="+", type=float, default=[15.0, 60.0])
    parser.add_argument("--settings", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gflops", type=float, default=60.0)
    parser.add_argument("--like", choices=list(LIKE), default="as chosen")
    parser.add_argument("--most", type=int, help="cells in this call")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.quick:
        asked.minutes, asked.settings, asked.seeds = [0.1], asked.settings or list(QUICK), 1
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "cells.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not asked.table:
        known = [
            {name: line[name] for name in ("set", "minutes", "setting", "seed", "like", "gflops")} for line in lines
        ]
        left = [cell for cell in cells(asked) if cell not in known]
        print(f"{len(left)} cells to measure", flush=True)
        for cell in left[: asked.most]:
            line = measured(cell, asked.archives, asked.out)
            lines.append(line)
            with file.open("a") as out:
                out.write(json.dumps(line) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
