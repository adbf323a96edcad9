"""Which of the paper's settings change the features of a short pre-training on few images most.

    python benchmarks/small_pretrain.py ARCHIVES --out FOLDER            all cells: 300 hours on a quiet machine
    python benchmarks/small_pretrain.py ARCHIVES --out FOLDER --quick    a minute each of three settings, one seed
    python benchmarks/small_pretrain.py ARCHIVES --out FOLDER --table    the table of what is measured by now

ARCHIVES is a folder with cifar10-train.tar.gz and cifar10-test.tar.gz (class folders) and nuclei.tar (train and val,
images and masks). A cell is a set of images, minutes, one setting that differs from what `pretrain` chooses, and a
seed; it is a line of FOLDER/cells.jsonl. Cells that stand there are left out, so the same command goes on where it was
stopped; `--sets`, `--minutes`, `--settings` and `--seeds` choose some of them. Of CIFAR-10's 50,000 images 2,000 judge.

Features are judged frozen, by nearest neighbours and a linear probe, on images that no training has seen, and whose
labels no choice is made by but the one that this table is for. Where other work runs on the machine a minute is no
measure: `--gflops N` counts it as so many operations instead, the same for all settings (but a setting that uses the
processor better has no gain from it then). `--like "FLAGS"` gives all cells other flags, such as a smaller encoder.
"""

import argparse
import csv
import json
import shlex
import shutil
import statistics
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openmae.cli import main as openmae
from openmae.files.whole import whole_folder
from openmae.machine.cores import allowed_cores
from openmae.recipes.probe.job import prove
from openmae.recipes.probe.settings import Proof
from openmae.train.cost import flops
from openmae.train.environment import environment
from openmae.weights import load_model

JUDGED = {"train": 200, "val": 100}  # of each class of CIFAR-10: labelled, and apart from what is learnt from
SETS = {"cifar-500": 500, "cifar-5000": 5000, "cifar-50000": 48_000, "nuclei": None}
SETTINGS = {
    "all": {
        "as chosen": "",
        "mask 0.5": "--mask-ratio 0.5",
        "mask 0.6": "--mask-ratio 0.6",
        "mask 0.9": "--mask-ratio 0.9",
        "decoder 1 deep": "--decoder-depth 1",
        "decoder 8 deep": "--decoder-depth 8",
        "decoder half as wide": "--decoder-embed-dim 64",
        "warm-up 20%": "--warmup-epochs {0.2}",
        "decay 0.01": "--weight-decay 0.01",
        "decay 0.2": "--weight-decay 0.2",
        "crops from 0.08": "--crop-scale 0.08 1",
        "crops from 0.5": "--crop-scale 0.5 1",
        "4 views a visit": "--repeat-aug 4",
        "half the rate": "--blr {x0.5}",
        "twice the rate": "--blr {x2}",
        "4 times the rate": "--blr {x4}",
        "batch 32": "--batch-size 32",
        "pixels": "--no-norm-pix-loss",
        "4 class tokens": "--class-tokens 4",
    },
    "cifar": {"patch 2": "--patch-size 2", "patch 8": "--patch-size 8"},
    "nuclei": {
        "96 pixels": "--img-size 96",
        "128 pixels": "--img-size 128",
        "160 pixels": "--img-size 160",
        "96 pixels, patch 8": "--img-size 96 --patch-size 8",
        "128 pixels, patch 8": "--img-size 128 --patch-size 8",
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
    """FOLDER/images, those of train; judged.csv: whether train and val images have more nuclei than half of those."""
    counts = []
    with tarfile.open(archives / "nuclei.tar") as tar:
        for member in tar.getmembers():
            if not member.isfile():
                continue
            split, kind = Path(member.name).parts[-3:-1]
            content = tar.extractfile(member)
            if kind == "masks":
                numbers = np.unique(np.asarray(Image.open(content)))
                counts.append((Path(member.name).name, split, int((numbers > 0).sum())))
                continue
            for place in [folder / "judged" / split, *([folder / "images"] if split == "train" else [])]:
                place.mkdir(parents=True, exist_ok=True)
                content.seek(0)
                (place / Path(member.name).name).write_bytes(content.read())
    middle = statistics.median(count for _, split, count in counts if split == "train")
    rows = [(f"judged/{split}/{name}", "many" if count > middle else "few", split) for name, split, count in counts]
    write_table(folder, rows)


def write_table(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    with (folder / "judged.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("path", "label", "split"), *rows])


def images_of(name: str, archives: Path, out: Path) -> Path:
    place = out / "sets" / name
    if not place.exists():
        with whole_folder(place) as aside:
            if (most := SETS[name]) is None:
                nuclei(archives, aside)
            else:
                cifar(archives, aside, most)
    return place


# ---------------------------------------------------------------- cells


def cells(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seed by seed, so that a table is early there."""
    for seed in range(asked.seeds):
        for minutes in asked.minutes:
            for name in asked.sets:
                names = {**SETTINGS["all"], **SETTINGS[name.split("-")[0]]}
                chosen = names if asked.settings is None else [one for one in asked.settings if one in names]
                for setting in chosen:
                    how = {"like": asked.like, "gflops": asked.gflops}
                    yield {"set": name, "minutes": minutes, "setting": setting, "seed": seed, **how}


def trained(cell: dict[str, Any], base: dict[str, Any] | None, images: Path, run: Path) -> None:
    """Leaves the run. base: the line of the same cell as chosen, where that is measured."""
    flags = {**SETTINGS["all"], **SETTINGS[cell["set"].split("-")[0]]}[cell["setting"]]
    common = ["pretrain", str(images / "images"), "--evaluations", "0", "--pictures", "0", "--seed", str(cell["seed"])]
    common += shlex.split(cell["like"])
    chosen = {}
    if "{" in flags or cell["gflops"]:
        probe = run.with_name("chosen")
        shutil.rmtree(probe, ignore_errors=True)
        # What is chosen, and the shape: of a run of a step or two.
        more = [] if "{" in flags else shlex.split(flags)
        done([*common, *more, "--epochs", "0.1", "--out", str(probe)])
        chosen = read(probe / "config.toml")
        work = flops(load_model(str(probe)).model.architecture).step
        count = len(list((images / "images").iterdir()))
    for times in ("0.5", "2", "4"):
        flags = flags.replace(f"{{x{times}}}", f"{float(times) * chosen.get('blr', 0):.6g}")
    if cell["gflops"]:
        epochs = cell["minutes"] * 60 * cell["gflops"] * 1e9 / work / count
        flags = flags.replace("{0.2}", f"{0.2 * epochs:.4g}")
        done([*common, *shlex.split(flags), "--epochs", f"{epochs:.4g}", "--out", str(run)])
        return
    if "{0.2}" in flags:  # of the epochs that the minutes were enough for
        if base is None:
            raise SystemExit('measure "as chosen" first')
        flags = flags.replace("{0.2}", f"{0.2 * base['epochs']:.4g} --epochs {base['epochs']}")
        done([*common, *shlex.split(flags), "--out", str(run)])
        return
    done([*common, *shlex.split(flags), "--minutes", str(cell["minutes"]), "--out", str(run)])


def read(file: Path) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(file.read_text())


def done(words: list[str]) -> None:
    print("openmae", shlex.join(words), flush=True)
    if code := openmae(words):
        raise SystemExit(code)


def measured(cell: dict[str, Any], lines: list[dict[str, Any]], archives: Path, out: Path) -> dict[str, Any]:
    images, run = images_of(cell["set"], archives, out), out / "run"
    key = json.dumps(cell)
    if (out / "running").exists() and (out / "running").read_text() != key:
        shutil.rmtree(run, ignore_errors=True)
    (out / "running").write_text(key)
    began = time.monotonic()
    like = {**cell, "setting": "as chosen"}
    trained(cell, next((line for line in lines if like.items() <= line.items()), None), images, run)
    seconds = time.monotonic() - began
    found = prove(Proof(run, str(images / "judged.csv"), baselines=False), ["knn", "linear"])
    figures = {one.kind: one.top1 for one in found} | {"rankme": found[0].rankme}
    config = read(run / "config.toml")
    shutil.rmtree(run)
    return {
        **cell,
        **figures,
        "epochs": config["epochs"],
        "steps": config["steps"],
        "seconds": round(seconds, 1),
        "commit": environment()["commit"],
        "cores": allowed_cores(),
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
        by = f", counted at {gflops:g} GFLOP/s" if gflops else ""
        text += f"\n{name}, {minutes:g} minutes{by}{f', {like}' if like else ''}\n\n"
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
    parser.add_argument("--gflops", type=float)
    parser.add_argument("--like", default="")
    parser.add_argument("--most", type=int, help="cells in this call")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.quick:
        asked.minutes, asked.settings, asked.seeds = [1.0], asked.settings or list(QUICK), 1
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
            line = measured(cell, lines, asked.archives, asked.out)
            lines.append(line)
            with file.open("a") as out:
                out.write(json.dumps(line) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
