"""A whole pre-training step, in all the ways that matter, beside other implementations: images per second.

    python benchmarks/step.py                 writes its part of benchmarks/RESULTS.md, and benchmarks/step.svg

The sections, each by `openmae bench`'s own functions (docs/bench.md), all contenders of a table taking turns:

    1   the tables of `openmae bench --compile`, for each model and precision
    2   what not encoding mask tokens saves (paper, Table 2)
    3   mask ratios
    4   image sizes and decoder depths
    5   the whole of pre-training, from packed images to weights, beside the bare step

Sections 2 to 5 are measured in the first precision; 3 to 5 on the first model. What an earlier run found of other
sections, or on another kind of device, stays in RESULTS.md. An hour or two on a CPU.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command sets them
os.environ.setdefault("GOMP_SPINCOUNT", "300")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
import numpy as np
import torch
from PIL import Image
from rich.console import Console

from openmae.console.terminal import make_console
from openmae.machine.device import choose_device
from openmae.machine.kinds import Precision
from openmae.model import Architecture
from openmae.recipes.bench.job import architecture_of, contenders_of, machine_line, measured, precisions_of, show
from openmae.recipes.bench.rounds import PRODUCT, Contender
from openmae.recipes.bench.settings import Bench
from openmae.recipes.bench.steps import Ours, Where
from openmae.report.plots.bench import Table, bench_picture, failures, grid, head, markdown, number, ratio, rows, share
from openmae.train.cost import flops
from openmae.train.run import environment, read_metrics

HERE = Path(__file__).parent
BEGIN, END = "<!-- step: begin -->", "<!-- step: end -->"
NO_GPU = "No GPU was at hand: the figures for one are still to be measured."
SECTIONS = ("1", "2", "3", "4", "5")
PHOTOS, WHOLE_SECONDS = 5_000, 60  # of section 5: more images than are kept decoded in memory; how long it trains
MODELS = {"cpu": ["vit_small", "vit_base"], "cuda": ["vit_base", "vit_large", "vit_huge"]}
SIZES = (96, 160, 224, 320, 448)  # pixels, to the nearest whole patch
DEPTHS = (8, 1, 4, 12)  # of the decoder; the first one is what the others are compared with
RATIOS = (0.75, 0.5, 0.9)
ENCODED = "mask tokens encoded, decoder 8 deep"


class Benchmark:
    def __init__(self, given: argparse.Namespace, console: Console) -> None:
        self.given, self.console = given, console
        self.device = choose_device(given.device)
        self.models: list[str] = given.models or MODELS.get(self.device.type, MODELS["cpu"])
        self.precisions = precisions_of(given.precision, self.device)

    def section(self, name: str) -> Iterator[str]:
        """Markdown, table by table."""
        sections = (self.implementations, self.mask_tokens, self.ratios, self.sizes, self.whole)
        return sections[int(name) - 1]()

    def implementations(self) -> Iterator[str]:
        tables = []
        for model in self.models:
            settings = Bench(model=model, img_size=self.given.img_size, compile=True, peer=tuple(self.given.peer))  # type: ignore[arg-type]
            for precision in self.precisions:
                contenders = contenders_of(settings, self.device)
                tables.append(self.measure(f"{model}, {settings.img_size} pixels", contenders, precision))
                draw(self.given.results, self.device.type, bench_picture(tables))
                yield markdown(tables[-1])

    def mask_tokens(self) -> Iterator[str]:
        for model in self.models:
            plain = {depth: architecture_of(model, self.given.img_size, decoder_depth=depth) for depth in (8, 1)}
            encoded = architecture_of(model, self.given.img_size, encoder_mask_token=True)
            kinds = {ENCODED: encoded} | {f"without, decoder {depth} deep": plain[depth] for depth in (8, 1)}
            table = self.measure(
                f"{model}, {self.given.img_size} pixels", ours(model, kinds), self.precisions[0], ENCODED
            )
            by_count = {name: flops(encoded).step / flops(kind).step for name, kind in kinds.items()}
            columns = ("", "images/s", "times the first (range)", "times by FLOPs", "of the matrix product")
            lines = [
                (r.contender, number(r.images_per_second), ratio(r), f"{by_count[r.contender]:.2f}", share(r))
                for r in table.results
            ]
            yield section(table, grid(columns, lines))

    def ratios(self) -> Iterator[str]:
        model = self.models[0]
        kinds = {f"{each:.0%} hidden": architecture_of(model, self.given.img_size, each) for each in RATIOS}
        table = self.measure(
            f"{model}, {self.given.img_size} pixels", ours(model, kinds), self.precisions[0], next(iter(kinds))
        )
        yield section(table, grid(head(table), rows(table)))

    def sizes(self) -> Iterator[str]:
        model = self.models[0]
        patch = architecture_of(model).patch_size[0]
        sides = [round(size / patch) * patch for size in SIZES]
        kinds = {f"{side} pixels": architecture_of(model, side) for side in sides}
        table = self.measure(f"{model}, image sizes", ours(model, kinds), self.precisions[0], f"{sides[2]} pixels")
        yield section(table, grid(head(table), rows(table)))
        kinds = {
            f"decoder {depth} deep": architecture_of(model, self.given.img_size, decoder_depth=depth)
            for depth in DEPTHS
        }
        title = f"{model}, {self.given.img_size} pixels, decoder depths"
        table = self.measure(title, ours(model, kinds), self.precisions[0], next(iter(kinds)))
        yield section(table, grid(head(table), rows(table)))

    def whole(self) -> Iterator[str]:
        model, precision, size = self.models[0], self.precisions[0], self.given.img_size
        compiles = self.device.type == "cuda"
        kind = architecture_of(model, size)
        bare = Contender("the bare step", Ours(kind, compiled=compiles), model, kind)
        table = self.measure(f"{model}, {size} pixels, from files to weights", [bare, PRODUCT], precision)
        batch, rate = table.results[0].micro_batch, table.results[0].images_per_second
        steps = max(20, round(WHOLE_SECONDS * rate / batch))
        with TemporaryDirectory() as folder:
            place = Path(folder)
            write_photos(place / "photos")
            openmae("pack", place / "photos", place / "shards")
            words = f"--recipe paper --model {model} --img-size {size} --precision {precision} --batch-size {batch} "
            words += f"--micro-batch {batch} --device {self.device.type} --compile {'on' if compiles else 'off'} "
            words += f"--epochs {steps * batch / PHOTOS} --warmup-epochs 0 --evaluations 0 --pictures 0"
            openmae("pretrain", place / "shards", "--out", place / "run", *words.split())
            lines = read_metrics(place / "run")
        lines = lines[len(lines) // 2 : -1]  # the processes run by then; the last step waits for the disk
        first, last = lines[0], lines[-1]
        found = (last["step"] - first["step"]) * batch / (last["time"] - first["time"])
        waiting = median(line["data_wait"] for line in lines)
        columns = ("", "images/s", "of the bare step", "waiting for images")
        rows_ = [
            ("the bare step, images on the device", number(rate), "100%", "-"),
            ("`openmae pretrain` from packed images", number(found), f"{found / rate:.0%}", f"{waiting:.0%}"),
        ]
        yield section(table, grid(columns, rows_))

    def measure(
        self, title: str, contenders: Sequence[Contender], precision: Precision, reference: str = "transformers"
    ) -> Table:
        where = Where(self.device.type, precision)
        given = self.given
        table = measured(title, contenders, where, given.micro_batch, given.rounds, self.console, reference)
        show(table, self.console)
        return table


def ours(model: str, kinds: dict[str, Architecture]) -> list[Contender]:
    return [*(Contender(name, Ours(kind), model, kind) for name, kind in kinds.items()), PRODUCT]


def openmae(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "openmae.cli", *map(str, words)], check=True)


def write_photos(folder: Path, count: int = PHOTOS) -> None:
    """JPEG files of 500 x 375 pixels with the detail of photographs: random pictures at several scales, added."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for index in range(count):
        image = np.zeros((375, 500, 3))
        for side, weight in ((3, 80), (12, 40), (60, 20)):
            coarse = draws.integers(0, 256, (side, side, 3), dtype=np.uint8)
            image += weight / 140 * np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BILINEAR))
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{index:05d}.jpg", quality=90)


def section(table: Table, text: str) -> str:
    return (
        "\n".join([f"### {table.title}", "", text, *(line for said in failures(table) for line in ("", f"{said}."))])
        + "\n"
    )


TITLES = {
    "1": "## A training step (`python benchmarks/step.py`)",
    "2": "## What not encoding mask tokens saves",
    "3": "## Mask ratios",
    "4": "## Image sizes and decoder depths",
    "5": "## From files to weights",
}
PAPER = "The paper's Table 2, in hours on 128 TPU-v3 cores: ViT-L 2.8 and 3.7 times, ViT-H 3.5 and 4.1 times."


def draw(results: Path, device: str, picture: str) -> None:
    """The picture, but for that of a CPU where there are figures of a GPU."""
    if picture and (device == "cuda" or "<!-- step cuda 1 -->" not in read(results)):
        (results.parent / "step.svg").write_text(picture)


def read(results: Path) -> str:
    return results.read_text() if results.exists() else "# Results of the benchmarks\n"


def write(results: Path, device: str, name: str, text: str) -> None:
    """Puts the text of one section, measured on one kind of device, in its place, and leaves the others."""
    old = read(results)
    before, _, rest = old.partition(BEGIN) if BEGIN in old else (f"{old.rstrip()}\n\n", "", "")
    inside, _, after = rest.partition(END)
    found = re.split(r"<!-- step (\w+) (\d) -->\n", inside)
    parts = {(found[at], found[at + 1]): found[at + 2].strip() for at in range(1, len(found), 3)}
    parts[device, name] = text.strip()
    kinds = {"cuda": 0, "mps": 1, "cpu": 2}
    ordered = sorted(parts.items(), key=lambda part: (kinds[part[0][0]], part[0][1]))
    body = "".join(f"<!-- step {kind} {number} -->\n{said}\n\n" for (kind, number), said in ordered)
    gpu = "" if any(kind == "cuda" for kind, _ in parts) else f"{NO_GPU}\n\n"
    results.write_text(f"{before}{BEGIN}\n{gpu}{body.rstrip()}\n{END}{after or chr(10)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--precision", nargs="+", choices=["bf16", "fp32"])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--micro-batch", type=int, help="default: found for each table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", nargs="+", default=[], metavar="PATH:CALLABLE")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    given = parser.parse_args()
    benchmark = Benchmark(given, make_console())
    line = machine_line(environment(), torch.device(benchmark.device))
    for name in given.sections:
        note = {"1": "![Images a second and peak memory](step.svg)\n\n", "2": f"{PAPER}\n\n"}.get(name, "")
        text = f"{TITLES[name]}\n\n{line}.\n\n{note}"
        for table in benchmark.section(name):  # kept as they come: it is a long run
            text += f"{table}\n"
            write(given.results, benchmark.device.type, name, text)


if __name__ == "__main__":
    main()
