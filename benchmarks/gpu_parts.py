"""What each part of `benchmarks/gpu.sh` does, in a process of its own: `gpu.py` starts it.

python benchmarks/gpu_parts.py steps --out OUT --seconds 300       one of them alone, on a GPU
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "300")
import switches
import torch
from gpu import GOES_ON, LEAVE, found, note
from step import ENCODED, ours, write_photos

from openmae.console.terminal import make_console
from openmae.machine.cores import cores
from openmae.model import Architecture
from openmae.recipes.bench.job import architecture_of, contenders_of, machine_line, measured, show
from openmae.recipes.bench.rounds import PRODUCT, Booth, Contender
from openmae.recipes.bench.settings import Bench
from openmae.recipes.bench.steps import Ours, Where
from openmae.report.plots.bench import Table
from openmae.train.cost import flops, memory
from openmae.train.environment import environment
from openmae.train.profile import top_costs
from openmae.train.run import has_begun, read_metrics

ROUNDS = 3
AT_ONCE = 3  # that are compiled ahead
PEAKS = {"H200": 990.0, "GH200": 990.0, "H100 PCIe": 756.0, "H100": 990.0, "A100": 312.0}
"""Dense bfloat16 products by the makers' datasheets, 10^12 operations a second, by what a GPU's name has in it."""


@dataclass(frozen=True)
class Here:
    """What a part is asked: where to write, until when (of the monotonic clock), and on what."""

    out: Path
    until: float
    rehearses: bool
    cifar: Path | None

    @property
    def where(self) -> Where:
        return Where("cpu", "fp32") if self.rehearses else Where("cuda", "bf16")

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


# ---------------------------------------------------------------- tests


def tests(here: Here) -> int:
    """By pytest, in several processes; what fails is a finding."""
    report = here.out / "tests.xml"
    words = f"-m pytest -v -m gpu tests/gpu -W default -p no:cacheprovider --durations 5 --junitxml {report}"
    words += f" --numprocesses {max(1, min(4, cores() // 2))} --dist worksteal"
    code = subprocess.run([sys.executable, *words.split()], check=False).returncode
    if code not in (0, 1):
        return code
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [
        case.attrib["name"] for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = [case.attrib["name"] for case in cases if case.find("skipped") is not None]
    line = {"passed": len(cases) - len(failed) - len(skipped), "failed": failed, "skipped": skipped}
    note(here.out, {"part": "tests", "machine": machine(here), **line})
    return 0


# ---------------------------------------------------------------- training steps


@dataclass(frozen=True)
class Race:
    """A table. section: of benchmarks/RESULTS.md, as step.py numbers them; "switches" and others stand by themselves.
    seconds: that it takes on a GPU of today, what it compiles being compiled before."""

    name: str
    section: str
    model: str
    micro_batch: int | None
    seconds: float
    contenders: Callable[["Race", Here], list[Contender]]
    names: tuple[str, ...] = ()
    reference: str = "transformers"


FIRST = ("openmae", "openmae, compiled", "transformers", "transformers, compiled")
OTHERS = ("openmae", "openmae, fast settings", "transformers", "transformers, eager attention", "lightly", "birder")
ALONE = (switches.BLOCKS, switches.REPEATABLE, switches.FROM_HOST, switches.AHEAD, switches.FOREACH, switches.HALF)
ALIKE = (switches.FROM_HOST, switches.AHEAD, switches.FOREACH)  # what is compiled of them is what BLOCKS has
WHOLE = (switches.BLOCKS, switches.AUTOTUNED, switches.GRAPHS)


def size_of(here: Here) -> int:
    return 64 if here.rehearses else 224


def named(race: Race, here: Here) -> list[Contender]:
    """Those of `openmae bench --compile` that the race names."""
    settings = Bench(model=race.model, img_size=size_of(here), compile=True)  # type: ignore[arg-type]
    known = contenders_of(settings, torch.device(here.where.device))
    return [contender for contender in known if contender.name in race.names or contender is PRODUCT]


def with_and_without(race: Race, here: Here) -> list[Contender]:
    """The encoder with mask tokens and without (paper, Table 2)."""
    size = size_of(here)
    plain = {depth: architecture_of(race.model, size, decoder_depth=depth) for depth in (8, 1)}
    kinds = {ENCODED: architecture_of(race.model, size, encoder_mask_token=True)}
    return ours(race.model, kinds | {f"without, decoder {depth} deep": plain[depth] for depth in (8, 1)})


def switched(race: Race, here: Here) -> list[Contender]:
    """Ours, with one thing otherwise each."""
    kind = architecture_of(race.model, size_of(here))
    return [*(switched_one(what, race.model, kind) for what in race.names), PRODUCT]


def switched_one(what: str, model: str, kind: Architecture) -> Contender:
    return Contender(what, switches.Switched(kind, what), model, kind, compiled=True)


RACES = (  # what matters most first
    Race("large", "1", "vit_large", 256, 90, named, FIRST),
    Race("large, mask tokens", "2", "vit_large", None, 60, with_and_without, reference=ENCODED),
    Race("large, switches", "switches", "vit_large", 256, 80, switched, ALONE, switches.BLOCKS),
    Race("huge, mask tokens", "2", "vit_huge", None, 70, with_and_without, reference=ENCODED),
    Race("huge", "1", "vit_huge", 128, 110, named, FIRST),
    Race("base", "1", "vit_base", 512, 70, named, FIRST),
    Race("large, others", "1", "vit_large", 128, 60, named, OTHERS),
    Race("large, compiled ways", "switches", "vit_large", 256, 120, switched, WHOLE, switches.BLOCKS),
)
REHEARSED = (
    Race("tiny", "1", "vit_tiny", 2, 0, named, FIRST),
    Race("tiny, mask tokens", "2", "vit_tiny", 2, 0, with_and_without, reference=ENCODED),
    Race("tiny, switches", "switches", "vit_tiny", 2, 0, switched, ALONE, switches.BLOCKS),
)


def races(here: Here) -> tuple[Race, ...]:
    return REHEARSED if here.rehearses else RACES


def steps(here: Here) -> int:
    """The tables that are not there yet, as long as there is time; where the time of a step goes after the first."""
    console = make_console()
    there = {line.get("race") for line in found(here.out)}
    missing = False
    for race in races(here):
        for name, begin, seconds in ((race.name, compared, race.seconds), (f"{race.name}, profile", profiled, 45)):
            if name in there or (begin is profiled and race is not races(here)[0]):
                continue
            if here.left < seconds + LEAVE:
                console.print(f"{name}: left for another time, it takes {seconds:.0f} s", soft_wrap=True)
                missing = True
                continue
            note(here.out, {"part": "steps", "race": name, "section": race.section, **begin(race, here)})
    return GOES_ON if missing else 0


def compared(race: Race, here: Here) -> dict[str, Any]:
    """The contenders' table."""
    console, contenders = make_console(), contenders_in(race, here)
    title = f"{race.model}, {size_of(here)} pixels"
    rounds = 1 if here.rehearses else ROUNDS
    table = measured(title, contenders, here.where, race.micro_batch, rounds, console, race.reference)
    show(table, console)
    return {
        "machine": machine(here),
        "device": here.where.device,
        "peak_tflops": peak(here),
        **of_table(table, contenders, here),
    }


def of_table(table: Table, contenders: Sequence[Contender], here: Here) -> dict[str, Any]:
    """What is kept of it: all but each step's seconds; beside what memory ours was estimated to need, and what the
    operations alone would say of mask tokens."""
    kept = asdict(table)
    kinds = {contender.name: contender.architecture for contender in contenders if isinstance(contender.work, Ours)}
    for result in kept["results"]:
        del result["raw_seconds"]
        if kind := kinds.get(result["contender"]):
            use = memory(kind, here.where.precision, result["micro_batch"], device_type=here.where.device)
            result |= {"estimated_memory": use.total, "flops": flops(kind).step}
    return {"table": kept}


def profiled(race: Race, here: Here) -> dict[str, Any]:
    """Where five steps of ours go, compiled block by block."""
    kind = architecture_of(race.model, size_of(here))
    kind = replace(kind, depth=1, decoder_depth=1) if here.rehearses else kind
    stepper = switches.Switched(kind, switches.BLOCKS).start(here.where)
    stepper.resize(race.micro_batch or 1)
    for _ in range(3):
        stepper.step()
    on_gpu = here.where.device == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=kinds) as recorder:
        for _ in range(5):
            stepper.step()
        if on_gpu:
            torch.cuda.synchronize()
    text = top_costs(recorder.key_averages())
    print(text)
    del stepper
    if on_gpu:
        torch.cuda.empty_cache()  # for the contenders to come
    return {"profile": text}


def steps_ahead(here: Here) -> int:
    """Compiles what the tables will, into the cache that they read."""

    def once(job: tuple[Contender, int]) -> None:
        booth = Booth(job[0], here.where)
        booth.ask(("warm_up", job[1], 0.1), stay=False)
        print(f"{job[0].model}, {job[0].name}: {booth.failed or 'compiled'}", flush=True)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(once, ahead(here)))
    return 0


def contenders_in(race: Race, here: Here) -> list[Contender]:
    """Its contenders; of a rehearsal, of one block each."""
    contenders = race.contenders(race, here)
    if not here.rehearses:
        return contenders
    return [one if one.architecture is None else shrunk(one, one.architecture) for one in contenders]


def shrunk(one: Contender, architecture: Architecture) -> Contender:
    kind = replace(architecture, depth=1, decoder_depth=1)
    return replace(one, architecture=kind, work=replace(one.work, architecture=kind))  # type: ignore[type-var]


def ahead(here: Here) -> Iterator[tuple[Contender, int]]:
    for race in races(here):
        for contender in contenders_in(race, here) if race.micro_batch is not None else ():
            if contender.compiled and contender.name not in ALIKE:
                yield contender, race.micro_batch or 1


def peak(here: Here) -> float | None:
    """10^12 operations a second that the maker promises; None where it is not known here."""
    if here.where.device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((rate for words, rate in PEAKS.items() if all(word in name for word in words.split())), None)


def machine(here: Here) -> str:
    return machine_line(environment(), torch.device(here.where.device))


# ---------------------------------------------------------------- loading


def loader(here: Here) -> int:
    """Photographs that are made up, through the released code's pipeline and ours, by all cores."""
    import data

    seconds, rounds, count = (0.5, 1, 32) if here.rehearses else (2.0, 2, 512)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        write_photos(photos, count)
        shards = data.packed(photos, Path(folder) / "packed")
        pipelines: dict[str, Callable[[], Iterator[Any]]] = {
            "released MAE: Pillow, torch DataLoader": lambda: data.torch_loader(photos, data.released),
            "openmae, from the folder": lambda: data.ours(photos),
            "openmae, from `openmae pack`": lambda: data.ours(shards),
        }
        if here.where.device == "cuda":
            pipelines["the same, onto the GPU"] = lambda: data.ours(shards, device=torch.device("cuda"))
        rates = data.race(pipelines, seconds, rounds)
    note(here.out, {"part": "loader", "machine": machine(here), "cores": data.CORES, "photos": count, "rates": rates})
    return 0


# ---------------------------------------------------------------- CIFAR-10

ASIDE = 25.0  # seconds of a training's minutes for what it does not count: starts, and the last look
LEAST = 0.4  # minutes worth beginning a training for
TINY = "--embed-dim 24 --depth 1 --num-heads 2 --decoder-embed-dim 16 --decoder-depth 1 --decoder-num-heads 2"
WORDS = {"pretrain": "--model vit_small --patch-size 4 --img-size 32", "finetune": ""}
REHEARSED_WORDS = {
    "pretrain": f"{TINY} --patch-size 4 --img-size 16 --workers 0 --batch-size 8 --device cpu",
    "finetune": "--workers 0 --batch-size 8 --device cpu",
}


def cifar(here: Here) -> int:
    """Pre-trained in half of the time that is left, then fine-tuned; the same command goes on with either."""
    if here.cifar is None:
        from tests.images import write_colours

        place = here.out / "colours"
        images = place if place.exists() else write_colours(place)
    else:
        images = here.cifar
    run, classes = here.out / "cifar", here.out / "cifar-classes"
    for out, words, share in ((run, ("pretrain", images), 0.5), (classes, ("finetune", run, images), 1.0)):
        if any("ended" in line and line["training"] == out.name for line in found(here.out)):
            continue
        length: tuple[object, ...] = ()
        if not has_begun(out):  # one that goes on keeps its own
            minutes = round((share * here.left - ASIDE) / 60, 2)
            if minutes < LEAST:
                return GOES_ON
            note(here.out, {"part": "cifar", "training": out.name, "minutes": minutes})
            length = ("--epochs", "2") if here.rehearses else ("--minutes", minutes)
        flags = (REHEARSED_WORDS if here.rehearses else WORDS)[words[0]].split()
        code = openmae(*words, "--out", out, *flags, *length)
        if code:
            return GOES_ON if code in (GOES_ON, -signal.SIGTERM) else code
        lines = read_metrics(out)
        figures = next(line for line in reversed(lines) if any(name.startswith("eval/") for name in line))
        told = {name.removeprefix("eval/"): value for name, value in figures.items() if name.startswith("eval/")}
        line = {"ended": True, "figures": told, "steps": lines[-1]["step"], "machine": machine(here)}
        note(here.out, {"part": "cifar", "training": out.name, **line})
    return 0


def openmae(*words: object) -> int:
    """A command's exit code; it is asked to stop when this process is, and saves."""
    process = subprocess.Popen([sys.executable, "-m", "openmae", *map(str, words)])
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    return process.wait()


ALL = {"tests": tests, "steps": steps, "steps_ahead": steps_ahead, "loader": loader, "cifar": cifar}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=ALL)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--cifar", type=Path)
    given = parser.parse_args()
    here = Here(given.out.absolute(), time.monotonic() + given.seconds, given.rehearse, given.cifar)
    return ALL[given.part](here)


if __name__ == "__main__":
    sys.exit(main())
