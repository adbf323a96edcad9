"""What serving an encoder costs, in torch and in onnxruntime, side by side in one run: images per second on this CPU.

    python benchmarks/serving.py              writes its section of benchmarks/RESULTS.md; half an hour on 2 cores

Fresh weights: speed does not depend on them. The graphs are those of `openmae export --to onnx`, with `--quantize` and
without. The contenders of a table take turns, round after round, because a machine is never equally fast for long; a
figure is the median of the rounds, a ratio the median of the rounds' ratios to the first contender.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or torch's idle threads take the cores from onnxruntime's
os.environ.setdefault("GOMP_SPINCOUNT", "300")
import torch
from torch import Tensor

from openmae import create_model
from openmae.data.formats.channels import PixelFormat
from openmae.data.views.statistics import Statistics
from openmae.heads import Encoder
from openmae.recipes.bench.job import machine_line
from openmae.recipes.export.formats import onnx as export_onnx
from openmae.recipes.export.quantize import write_smaller
from openmae.train.run import environment
from openmae.weights import Loaded, model_json

Run = Callable[[Tensor], object]
MODELS = ("vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge")
BEGIN, END = "<!-- serving: begin -->", "<!-- serving: end -->"


def encoder_of(model: str, img_size: int) -> Loaded:
    encoder = Encoder(create_model(model, img_size=img_size).encoder).eval()
    statistics_ = Statistics((0.5,) * 3, (0.25,) * 3, PixelFormat())
    return Loaded(encoder, statistics_, model_json(encoder, statistics_, {}), model)


def contenders(loaded: Loaded, folder: Path, compiles: bool) -> tuple[dict[str, Run], dict[str, float]]:
    """(what computes the features, megabytes of the graph's file), by name."""
    encoder = loaded.model
    runs: dict[str, Run] = {"torch, fp32": encoder, "torch, bf16": partial(in_bf16, encoder)}
    if compiles:
        compiled = torch.compile(encoder, dynamic=False)
        runs |= {"torch.compile, fp32": compiled, "torch.compile, bf16": partial(in_bf16, compiled)}
    files = {name: folder / f"{loaded.name}-{name}.onnx" for name in ("fp32", "int8", "fp16")}
    export_onnx.write(loaded, files["fp32"])
    write_smaller(loaded, "int8", files["fp32"], files["int8"])
    write_smaller(loaded, "fp16", files["fp32"], files["fp16"])
    runs |= {f"onnxruntime, {name}": export_onnx.runner(file) for name, file in files.items()}
    return runs, {f"onnxruntime, {name}": file.stat().st_size / 1e6 for name, file in files.items()}


def in_bf16(model: Run, images: Tensor) -> object:
    with torch.autocast("cpu", torch.bfloat16):
        return model(images)


def rate(run: Run, images: Tensor, seconds: float) -> float:
    """Images a second, after one batch that does not count."""
    run(images)
    done, began = 0, time.perf_counter()
    while done == 0 or time.perf_counter() < began + seconds:
        run(images)
        done += len(images)
    return done / (time.perf_counter() - began)


@torch.inference_mode()
def race(runs: dict[str, Run], images: Tensor, seconds: float, rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            rates[name].append(rate(run, images, seconds))
            print(f"round {number + 1}, {len(images)} at once: {name:20s} {rates[name][-1]:8.2f}", flush=True)
    return rates


def table(title: str, by_batch: dict[int, dict[str, list[float]]], megabytes: dict[str, float]) -> str:
    """Markdown: a row a contender; ratios to the first one, with their range."""
    head = "".join(f" images/s, {batch} at once | times the first (range) |" for batch in by_batch)
    rows = [f"### {title}", "", f"|  |{head} file |", f"|---|{'---:|---:|' * len(by_batch)}---:|"]
    for name in next(iter(by_batch.values())):
        cells = []
        for rates in by_batch.values():
            first = next(iter(rates.values()))
            ratios = [mine / base for mine, base in zip(rates[name], first, strict=True)]
            cells.append(f"{statistics.median(rates[name]):.3g}")
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        size = f"{megabytes[name]:,.0f} MB" if name in megabytes else "-"
        rows.append(f"| {name} | {' | '.join(cells)} | {size} |")
    return "\n".join([*rows, ""])


def write_section(text: str, results: Path) -> None:
    """Puts the text in place of the section of this benchmark, or at the end where there is none."""
    old = results.read_text() if results.exists() else "# Results of the benchmarks\n"
    head, _, rest = (old if BEGIN in old else f"{old.rstrip()}\n\n{BEGIN}\n{END}\n").partition(BEGIN)
    results.write_text(f"{head}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["vit_small", "vit_base"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16], help="images at once")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured in each round")
    parser.add_argument("--compile", action="store_true", help="torch.compile takes part too, which needs a compiler")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    given = parser.parse_args()
    runtime = export_onnx.import_packages()
    line = f"{machine_line(environment(), torch.device('cpu'))}; onnxruntime {runtime.__version__}"
    text = f"## Serving (`python benchmarks/serving.py`)\n\n{line}; {given.rounds} rounds of {given.seconds:g} s.\n"
    for model in given.model:
        with tempfile.TemporaryDirectory(prefix="openmae-bench-") as folder:
            loaded = encoder_of(model, given.img_size)
            runs, megabytes = contenders(loaded, Path(folder), given.compile)
            by_batch = {}
            for batch in given.batch:
                images = torch.randn(batch, loaded.encoder.in_chans, *loaded.encoder.img_size)
                by_batch[batch] = race(runs, images, given.seconds, given.rounds)
        text += f"\n{table(f'{model}, {given.img_size} pixels', by_batch, megabytes)}"
    write_section(text, given.results)
    print(text)


if __name__ == "__main__":
    main()
