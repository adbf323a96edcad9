"""A few dozen labels: what each simple and each trained classifier makes of them, on small sets of real images.

    python benchmarks/small.py ARCHIVES OUT                 everything: 3 draws, 20, 60 and 500 labels; hours
    python benchmarks/small.py ARCHIVES OUT --quick         one draw, 60 labels, the sets that choices are made by
    python benchmarks/small.py ARCHIVES OUT --minutes 6     as many cells as begin in so long; the same command goes on
    python benchmarks/small.py ARCHIVES OUT --sets digits,counts --labels 60      some of them

ARCHIVES has nuclei.tar, cifar10-train.tar.gz and cifar10-test.tar.gz. OUT gets the sets, an encoder for each
(pre-trained once, 128 wide and 4 deep), cells.jsonl with a line for each cell (set, labels, draw, row), and table.md. A
draw decides which labels are taken, the order, the views and the fresh weights. Rows: raw pixels, histograms, an
untrained encoder's probe, scratch; kNN and probe on the pre-trained features; fine-tuned with the choices of before and
of now; and both with an encoder that began with the weights of one of CIFAR-10's 50,000 images (20 epochs; --from) and
went on as long as the set's own. Sets that choices were made by (`tuned`) stand apart from those that are reported.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "300")
from rich.console import Console
from small_sets import ENCODERS, SETS, write_set

from openmae.errors import Interrupted
from openmae.evaluate.predict import HEADLINE
from openmae.recipes.finetune.folds import FOLDS
from openmae.recipes.finetune.job import finetune
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain.job import pretrain
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.probe.job import prove
from openmae.recipes.probe.settings import Proof
from openmae.report.page.folds import CROSS_VALIDATION

LABELS, DRAWS = (20, 60, 500), (0, 1, 2)
FEATURES = {"raw pixels": "raw", "histograms": "histogram", "untrained": "untrained probe"}
GONE_ON = ", photographs first"  # the rows whose encoder has gone on from one of photographs
ROWS = ("raw", "histogram", "untrained probe", "scratch", "kNN", "probe", "before", "now")
ROWS += ("probe" + GONE_ON, "now" + GONE_ON)
QUIET = Console(quiet=True)


def before(images: int) -> dict[str, Any]:
    """What `auto` chose before heads began as probes, on a CPU (openmae at commit 347da40), as flags."""
    batch = min(256, max(32, 2 ** round(math.log2(max(1, images / 40)))))
    epochs = max(min(200.0, max(20.0, round(100 * math.sqrt(10_000 / images)))), float(math.ceil(500 * batch / images)))
    share = math.log10(max(1.0, epochs * images / 3e4)) / math.log10(1e7 / 3e4)
    share = min(1.0, share, math.log10(max(1.0, epochs / 10)))
    return {
        "head_from": "fresh",
        "batch_size": batch,
        "epochs": epochs,
        "crop_scale": (share * 0.08 + (1 - share) * 0.4, 1.0),
    }


def encoder_of(name: str, given: argparse.Namespace, first: Path | None = None) -> Path:
    """The run that pre-trained it, or goes on doing so. first: the run whose weights it began with, or fresh ones."""
    about, out = ENCODERS[name], given.out
    run = out / "encoders" / (name if first is None else f"{name}-from-{first.name}")
    if not (run / "report.html").exists():
        write_set(name, given.archives, out / "sets")
        pretrain(
            Pretrain(
                from_=None if first is None else str(first),
                data=str(out / "sets" / name),
                out=run,
                model="vit_tiny",
                embed_dim=128,
                depth=4,
                num_heads=4,
                decoder_embed_dim=64,
                decoder_depth=1,
                decoder_num_heads=4,
                img_size=about.img_size,
                patch_size=about.patch_size,
                epochs=about.epochs,
                batch_size=about.batch_size,
                blr=8e-3,
                warmup_epochs=2,
                pictures=1,
                workers=0,
            ),
            QUIET,
        )
    return run


def encoder_for(name: str, given: argparse.Namespace, row: str) -> Path:
    """Of a set's images, gone on from one of photographs where the row says so."""
    first = encoder_of("photographs", given) if row.endswith(GONE_ON) else None
    return encoder_of(SETS[name].encoder, given, first)


def frozen(row: str, name: str, labels: int, draw: int, encoder: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Figures of what needs no training but a classifier; with an encoder that has gone on, of its probe alone."""
    settings = Proof(
        model=encoder / "model.safetensors",
        data=str(out / "sets" / SETS[name].encoder / f"{name}.csv"),
        labels=str(labels),
        task=SETS[name].task,
        seed=draw,
        workers=0,
    )
    found: dict[str, dict[str, Any]] = {}
    for one in prove(settings, ["knn", "linear"]):
        which = FEATURES.get(one.features, {"knn": "kNN", "linear": "probe"}[one.kind])
        if one.kind == "linear" or which == "kNN":  # raw pixels, histograms, an untrained encoder: by the linear figure
            found[which] = {"figure": one.headline, "error": None}
    return {row: found["probe"]} if row.endswith(GONE_ON) else found


def trained(row: str, name: str, labels: int, draw: int, encoder: Path, out: Path) -> dict[str, Any]:
    """The figure of a fine-tuning and its standard error over the test images; what each way had on how many folds."""
    settings: dict[str, Any] = {"hflip": name != "digits"}  # which mean something else in a mirror
    # Folds are asked for, so that the machine's speed decides nothing
    settings |= {"folds": FOLDS} if row.startswith("now") else before(labels)
    run = out / "runs" / f"{name}-{labels}-{draw}-{row.replace(' ', '-')}"
    finetune(
        Finetune(
            model=str(encoder),
            data=str(out / "sets" / SETS[name].encoder / f"{name}.csv"),
            out=run,
            labels=str(labels),
            task=SETS[name].task,
            from_scratch=row == "scratch",
            seed=draw,
            workers=0,
            evaluations=1,
            keep_best="none",  # the test images choose nothing
            **settings,
        ),
        QUIET,
    )
    rows = json.loads((run / "compared.json").read_text())["rows"]
    found = next(one for one in rows if one["weights"] == "")  # the run's own: of the probe, where folds chose that
    told = {"figure": found["figure"], "error": found["error"]}
    if row.startswith("now"):
        folds = json.loads((run / CROSS_VALIDATION).read_text())
        each = {way["name"]: [round(way["figure"], 4), round(way["loss"], 4), way["folds"]] for way in folds["ways"]}
        told |= {"way": folds["taken"], "folds": each}
    shutil.rmtree(run)
    return told


def cells(given: argparse.Namespace) -> Iterator[tuple[str, int, int, str]]:
    """(set, labels, draw, row), one draw after the other."""
    names = [name for name in given.sets or SETS if SETS[name].tuned or not given.quick]
    for draw in given.draws or DRAWS[: 1 if given.quick else None]:
        for labels in given.labels or ((60,) if given.quick else LABELS):
            for name in names:
                if labels <= {"faces": 60}.get(name, 500):  # it has 120 to learn from
                    yield from ((name, labels, draw, row) for row in given.rows or ROWS)


def said(figures: list[float], sign: str = "") -> str:
    """Their mean in hundredths, with its standard error where there are several."""
    if not figures:
        return "-"
    error = f" ± {100 * statistics.stdev(figures) / math.sqrt(len(figures)):.1f}" if len(figures) > 1 else ""
    return f"{100 * statistics.mean(figures):{sign}.1f}{error}"


def table(lines: list[dict[str, Any]]) -> str:
    """Means over the draws, with the standard error of the mean over them, for each kind of set; then by how much `now`
    is ahead of each other row, by the draws that have both."""
    by_draw = defaultdict[tuple[str, int, str], dict[int, float]](dict)
    for line in lines:
        by_draw[line["set"], line["labels"], line["row"]][line["draw"]] = line["figure"]

    def figure(name: str, labels: int, row: str) -> str:
        return said([*by_draw[name, labels, row].values()])

    def ahead(name: str, labels: int, row: str) -> str:
        now = by_draw[name, labels, "now"]
        return said([now[draw] - here for draw, here in by_draw[name, labels, row].items() if draw in now], "+")

    shown = []
    others = [row for row in ROWS if row != "now"]
    for title, rows, cell in (("", ROWS, figure), (": what now is ahead by", others, ahead)):
        for tuned in (False, True):
            shown.append(f"\n{'Sets that choices were made by' if tuned else 'Sets kept aside'}{title}\n")
            shown.append(f"| set | labels | {' | '.join(rows)} |\n|---|---|{'---|' * len(rows)}")
            shown += lines_of(tuned, rows, cell)
    return "\n".join(shown).strip() + "\n"


def lines_of(tuned: bool, rows: Sequence[str], cell: Callable[[str, int, str], str]) -> Iterator[str]:
    """One for each set and number of labels that has a cell."""
    for name, labels in product((name for name in SETS if SETS[name].tuned is tuned), LABELS):
        found = [cell(name, labels, row) for row in rows]
        if any(one != "-" for one in found):
            metric = HEADLINE[SETS[name].task]  # type: ignore[index]
            yield f"| {name} ({metric}) | {labels} | {' | '.join(found)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--sets", type=lambda text: text.split(","))
    parser.add_argument("--labels", type=lambda text: [int(number) for number in text.split(",")])
    parser.add_argument("--rows", type=lambda text: text.split(";"), help="separated by semicolons")
    parser.add_argument("--draws", type=lambda text: [int(number) for number in text.split(",")])
    given = parser.parse_args()
    file, began = given.out / "cells.jsonl", time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    words = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(
        words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    for name, labels, draw, row in cells(given):
        if any((x["set"], x["labels"], x["draw"], x["row"]) == (name, labels, draw, row) for x in lines):
            continue
        if time.monotonic() - began > 60 * given.minutes:
            print("Time is up; the same command goes on")
            break
        of = (row, name, labels, draw, encoder_for(name, given, row), given.out)
        start = time.monotonic()
        found = {row: trained(*of)} if row.startswith(("scratch", "before", "now")) else frozen(*of)
        for which, told in found.items():
            line = {"set": name, "tuned": SETS[name].tuned, "labels": labels, "draw": draw, "row": which}
            line |= told | {"seconds": round(time.monotonic() - start, 1), "commit": commit}
            lines.append(line)
            with file.open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(f"{name}, {labels} labels, draw {draw}, {which}: {told['figure']:.3f}", flush=True)
    (given.out / "table.md").write_text(table(lines))
    print(table(lines))


if __name__ == "__main__":
    try:
        main()
    except Interrupted as stopped:  # its cell goes on from there
        raise SystemExit(f"{stopped}.") from stopped
