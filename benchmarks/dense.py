"""Where the nuclei are: what pre-training is worth to segmentation, beside scratch and a U-Net, on real micrographs.

    python benchmarks/dense.py ARCHIVES OUT                 everything: 3 draws; two hours on a core
    python benchmarks/dense.py ARCHIVES OUT --minutes 20    as many cells as begin in so long; the same command goes on
    python benchmarks/dense.py ARCHIVES OUT --labels 5%,10% --rows pre-trained,scratch
    python benchmarks/dense.py ARCHIVES OUT --task detect   each nucleus, by box and outline: pre-trained, scratch

ARCHIVES has nuclei.tar. OUT gets the micrographs, windows of all that are trained on, an encoder that learns from these
without labels (128 wide, 4 deep, windows of 64 pixels, patches of 8), cells.jsonl with a line for each cell (labels,
draw, row), and table.md. A draw decides which labels are taken, the order, the views and the fresh weights. Rows: the
pre-trained encoder; the same from scratch; a U-Net of MONAI's (`pip install monai`, for this row alone) on the same
windows, as many steps of the same batches (about 1.4 times the ViT's processor time), and half as many; the pre-trained
encoder as it is, under a head that learns. All val micrographs judge, in the same tiles. With `--task detect` a third
of them does, which takes a minute or two; the lines go to detect.jsonl and the tables to detect.md. Those that were
measured are in benchmarks/measured; put into OUT, they are gone on with.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import tarfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "300")
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from openmae.data.loading.outlined import OutlinedStream
from openmae.data.views.outlined import IGNORED
from openmae.errors import Interrupted
from openmae.evaluate.segmentation import Judged, judge
from openmae.files.whole import whole_folder
from openmae.recipes.detect.job import DETECT
from openmae.recipes.detect.settings import Detect
from openmae.recipes.pretrain.job import pretrain
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.segment.job import SEGMENT, SegmentJob
from openmae.recipes.segment.settings import Segment
from openmae.recipes.training.job import begun
from openmae.train.loop import fit

ROWS = ("pre-trained", "scratch", "U-Net", "U-Net in half the steps", "frozen")
OF_DETECT = ("pre-trained", "scratch")
FIGURES = {"segment": ("dice", "dice_of_pixels", "miou"), "detect": ("mask_ap50", "mask_ap", "box_ap50", "box_ap")}
LABELS, DRAWS = ("5%", "10%", "100%"), (0, 1, 2)
LABELLED = {"5%": 27, "10%": 53, "100%": 532}
WINDOW, SIDE, EPOCHS = 128, 64, 54.0  # of what is pre-trained on, and how large it is shown; 4,000 steps
U_NET = (16, 16, 32, 64, 128, 16)  # channels: 1.5 times the multiply-adds of the ViT, 0.6 of its weights
U_NET_RATE = 2e-3
SEEN, CHANNELS, STEPS = 128, 32, 400  # of detectors: pixels of a window, width of the heads, steps of 4 windows
QUIET = Console(quiet=True)


def write_sets(archives: Path, out: Path) -> None:
    """OUT/micrographs/{train,val}/{images,masks}; OUT/thirds, of which val has every third; and OUT/windows/train:
    windows of WINDOW pixels, shown with SIDE, that cover each micrograph of train."""
    place = out / "micrographs"
    if not place.exists():
        with whole_folder(place) as folder, tarfile.open(archives / "nuclei.tar") as tar:
            for member in tar:
                parts = Path(member.name).parts[-3:]
                if member.isfile() and len(parts) == 3 and parts[0] in ("train", "val"):
                    (folder / Path(*parts)).parent.mkdir(parents=True, exist_ok=True)
                    (folder / Path(*parts)).write_bytes(tar.extractfile(member).read())
    if not (out / "thirds").exists():
        with whole_folder(out / "thirds") as folder:
            for kind in ("images", "masks"):
                (folder / "val" / kind).mkdir(parents=True)
                shutil.copytree(place / "train" / kind, folder / "train" / kind)
                for file in sorted((place / "val" / kind).iterdir())[::3]:
                    shutil.copy(file, folder / "val" / kind)
    if (out / "windows").exists():
        return
    with whole_folder(out / "windows") as folder:
        (folder / "train").mkdir(parents=True)
        count = 0
        for file in sorted((place / "train" / "images").iterdir()):
            image = Image.open(file).convert("RGB")
            tops, lefts = (
                np.linspace(0, side - WINDOW, max(2, round(side / WINDOW))).astype(int)
                for side in (image.height, image.width)
            )
            for top, left in ((int(top), int(left)) for top in tops for left in lefts):
                window = image.crop((left, top, left + WINDOW, top + WINDOW))
                window.resize((SIDE, SIDE), Image.Resampling.BOX).save(folder / "train" / f"{count:05d}.png")
                count += 1


def encoder_of(out: Path) -> Path:
    """The run that pre-trained it, or goes on doing so. Patches keep their brightness, and windows are shown half as
    large as they are: otherwise most of what is to be predicted is the noise of dark patches (docs/log.md)."""
    run = out / "encoder"
    if not (run / "report.html").exists():
        pretrain(
            Pretrain(
                data=str(out / "windows" / "train"),
                out=run,
                model="vit_tiny",
                embed_dim=128,
                depth=4,
                num_heads=4,
                decoder_embed_dim=64,
                decoder_depth=1,
                decoder_num_heads=4,
                img_size=SIDE,
                patch_size=8,
                norm_pix_loss=False,
                vflip="on",
                epochs=EPOCHS,
                batch_size=64,
                blr=8e-3,
                evaluations=1,
                pictures=1,
                workers=0,
            ),
            QUIET,
        )
    return run


@dataclass(frozen=True)
class Asked:
    """What `judge` asks of a model's encoder."""

    img_size: tuple[int, int]


class UNet(nn.Module):
    """MONAI's, with what `judge` asks of a segmenter."""

    def __init__(self, classes: int, img_size: tuple[int, int]) -> None:
        super().__init__()
        from monai.networks.nets import BasicUNet

        self.net = BasicUNet(spatial_dims=2, in_channels=3, out_channels=classes, features=U_NET)
        self.classes, self.encoder = classes, Asked(img_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, H, W)."""
        return self.net(images)


def learnt_u_net(job: SegmentJob, stream: OutlinedStream, seed: int) -> UNet:
    """On what the segmenter would have learnt from, step by step."""
    torch.manual_seed(seed)
    statistics, steps = job.opened.start.statistics, stream.steps
    model = UNet(len(job.opened.names), job.run.trunk.img_size)
    optimizer = torch.optim.AdamW(model.parameters(), U_NET_RATE, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, U_NET_RATE, steps, pct_start=0.05)
    for batch in stream.batches(0, stream.batch_size, 0):
        masks = torch.stack([one.mask for one in batch.found if one.mask is not None])
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(statistics.normalize(batch.images))
        optimizer.zero_grad()
        F.cross_entropy(scores.float(), masks, ignore_index=IGNORED).backward()
        optimizer.step()
        rate.step()
    return model.eval()


def figures(judged: Judged) -> dict[str, float]:
    """dice: of the nuclei, a mean over the micrographs; dice_of_pixels, miou: of all of them together."""
    hit, missed, wrong = (judged.counts[:, row, column] for row, column in ((1, 1), (1, 0), (0, 1)))
    each = 2 * hit / np.maximum(1, 2 * hit + missed + wrong)
    whole = 2 * hit.sum() / (2 * hit + missed + wrong).sum()
    return {"dice": float(each.mean()), "dice_of_pixels": float(whole), "miou": judged.figures()["miou"]}


def learnt(row: str, labels: str, draw: int, out: Path) -> dict[str, float]:
    """Figures of a cell, and the seconds of processor time that it took."""
    run = out / "runs" / f"{labels.strip('%')}-{draw}-{row.replace(' ', '-')}"
    settings = Segment(
        model=str(encoder_of(out)),
        data=str(out / "micrographs"),
        out=run,
        labels=None if labels == "100%" else labels,
        from_scratch=row == "scratch",
        blocks="0" if row == "frozen" else "all",
        seed=draw,
        workers=0,
        evaluations=1,
        keep_best="off",  # val judges, and chooses nothing
    )
    with begun(SEGMENT, settings, QUIET) as started:
        job: SegmentJob = started.job
        began = time.process_time()
        if row.startswith("U-Net"):
            start, here, stream = job.opened.start, job.here, job.stream()
            steps = stream.steps if row == "U-Net" else stream.steps // 2
            model: Any = learnt_u_net(job, replace(stream, steps=steps), draw)
            judged = judge(model, start.statistics, job.opened.val, here.device, 0, precision="bf16")
        else:
            fit(started.training)
            judged = job.judged
    shutil.rmtree(run)
    return {**figures(judged), "seconds": round(time.process_time() - began, 1)}


def detected(row: str, labels: str, draw: int, out: Path) -> dict[str, float]:
    """Of a detector, as `learnt`: windows of SEEN pixels and narrow heads, for some minutes of a core."""
    run = out / "runs" / f"{labels.strip('%')}-{draw}-detect-{row}"
    settings = Detect(
        model=str(encoder_of(out)),
        data=str(out / "thirds"),
        out=run,
        labels=None if labels == "100%" else labels,
        from_scratch=row == "scratch",
        img_size=SEEN,
        channels=CHANNELS,
        batch_size=4,
        epochs=STEPS * 4 / LABELLED[labels],
        seed=draw,
        workers=0,
        evaluations=1,
        keep_best="off",
    )
    with begun(DETECT, settings, QUIET) as started:
        began = time.process_time()
        fit(started.training)
        found = {name: started.job.figures[name] for name in FIGURES["detect"]}
    shutil.rmtree(run)
    return {**found, "seconds": round(time.process_time() - began, 1)}


def table(lines: list[dict[str, Any]], figure: str, rows: tuple[str, ...]) -> str:
    """Means over the draws, with the standard error of the mean over them."""
    shown = [f"| {figure} | {' | '.join(LABELS)} |\n|---|{'---|' * len(LABELS)}"]
    for row in rows:
        found = []
        for labels in LABELS:
            here = [100 * x[figure] for x in lines if (x["labels"], x["row"]) == (labels, row)]
            error = f" ± {statistics.stdev(here) / math.sqrt(len(here)):.1f}" if len(here) > 1 else ""
            found.append(f"{statistics.mean(here):.1f}{error} ({len(here)})" if here else "-")
        shown.append(f"| {row} | {' | '.join(found)} |")
    return "\n".join(shown) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--draws", type=int, default=len(DRAWS))
    parser.add_argument("--task", choices=list(FIGURES), default="segment")
    for name in ("labels", "rows"):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","))
    given = parser.parse_args()
    is_detect = given.task == "detect"
    rows, of_cell = (OF_DETECT, detected) if is_detect else (ROWS, learnt)
    file, began = given.out / ("detect.jsonl" if is_detect else "cells.jsonl"), time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    words = ["git", "rev-parse", "--short", "HEAD"]
    said = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    write_sets(given.archives, given.out)
    for labels, draw, row in (
        (labels, draw, row)
        for labels in given.labels or LABELS
        for draw in DRAWS[: given.draws]
        for row in given.rows or rows
    ):
        if any((x["labels"], x["draw"], x["row"]) == (labels, draw, row) for x in lines):
            continue
        if time.monotonic() - began > 60 * given.minutes:
            print("Time is up; the same command goes on")
            break
        line = {"labels": labels, "draw": draw, "row": row, **of_cell(row, labels, draw, given.out)}
        lines.append({**line, "commit": said.stdout.strip()})
        with file.open("a") as cells:
            cells.write(json.dumps(lines[-1]) + "\n")
        first = FIGURES[given.task][0]
        print(f"{labels}, draw {draw}, {row}: {first} {line[first]:.3f}, {line['seconds']:.0f} s", flush=True)
    shown = "\n".join(table(lines, figure, rows) for figure in FIGURES[given.task])
    (given.out / ("detect.md" if is_detect else "table.md")).write_text(shown)
    print(shown)


if __name__ == "__main__":
    try:
        main()
    except Interrupted as stopped:  # its cell goes on from there
        raise SystemExit(f"{stopped}.") from stopped
