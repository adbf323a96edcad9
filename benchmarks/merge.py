"""What `benchmarks/gpu.sh` found, put into its places of benchmarks/RESULTS.md.

    python benchmarks/merge.py OUT
    python benchmarks/merge.py OUT --results other.md       a rehearsal's, to look at

Tables of training steps and of mask tokens stand where `python benchmarks/step.py` writes them, as those of a GPU; all
else in a section of its own. What an earlier OUT found of a section is replaced by what this one has of it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu import found
from step import HERE, PAPER, TITLES, write

from openmae.report.plots.bench import grid, number

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
Line = dict[str, Any]
COMMAND = "(`bash benchmarks/gpu.sh --out OUT`)"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=Path, default=None, help="default: benchmarks/RESULTS.md")
    given = parser.parse_args(words)
    lines = found(given.out)
    if not lines:
        print(f"{given.out} holds no results.jsonl of benchmarks/gpu.sh")
        return 2
    races = [line for line in lines if "table" in line]
    device = "cuda" if any(race["peak_tflops"] or "cuda" in race["device"] for race in races) else "cpu"
    if given.results is None and device == "cpu" and races:
        print(f"{given.out} is a rehearsal: give --results FILE to look at what it would write")
        return 2
    results = given.results or HERE / "RESULTS.md"
    for name in ("1", "2"):
        own = [race for race in races if race["section"] == name]
        if own:
            note = {"2": f"{PAPER}\n\n"}.get(name, "")
            title = TITLES[name].replace("(`python benchmarks/step.py`)", COMMAND)
            tables = "\n\n".join(table_of(race) for race in own)
            write(results, device, name, f"{title}\n\n{own[0]['machine']}.\n\n{note}{tables}\n")
    write_own(results, own_section(lines))
    print(f"{results}: {len(races)} tables of steps, {len(lines)} lines read")
    return 0


def table_of(race: Line) -> str:
    """Contenders below each other, beside the reference, the maker's peak, and the measured product."""
    table, peak = race["table"], race["peak_tflops"]
    by_name = {result["contender"]: result for result in table["results"]}
    reference, product = by_name.get(table["reference"], {}), table["matmul_tflops"]

    def shares(tflops: float) -> list[str]:
        of_peak = [] if peak is None else [f"{tflops / peak:.1%}"]
        return [number(tflops), *of_peak, f"{tflops / product:.0%}" if product else "-"]

    rows = []
    for result in table["results"]:
        memory, other = result["peak_memory"], reference.get("peak_memory")
        least, most = result["ratio_range"]
        times = f"{result['ratio']:.2f} ({least:.2f} to {most:.2f})"
        held = (f"{memory / 1e9:.2f} GB", f"{memory / other:.2f}" if other else "-") if memory else ("-", "-")
        rows.append([result["contender"], number(result["images_per_second"]), times, *shares(result["tflops"]), *held])
    mfu = [] if peak is None else [f"MFU (of {peak:g})"]
    columns = ["", "images/s", f"times {table['reference']} (range)", "TFLOP/s", *mfu, "of the matrix product"]
    columns += ["peak memory", "times its memory"]
    rows += [[name, "failed", *["-"] * (len(columns) - 2)] for name, _ in table["failed"]]
    if product:
        rows.append(["matrix product", "-", "-", *shares(product), "-", "-"])
    said = [f"{name} failed: {reason}." for name, reason in table["failed"]]
    return "\n\n".join([f"### {table['title']}", grid(columns, rows), *said, *estimates(table["results"])])


def estimates(results: list[Line]) -> list[str]:
    """What memory a step was estimated to need, beside what it took; nothing where none was."""
    known = []
    for result in results:
        estimate, taken = result.get("estimated_memory"), result["peak_memory"]
        if estimate and taken:
            known.append(f"{result['contender']} {estimate / 1e9:.2f} GB, {taken / estimate:.2f}")
    return [f"Memory by estimate, and how many times that was taken: {'; '.join(known)}."] if known else []


# ---------------------------------------------------------------- the section of its own


def own_section(lines: list[Line]) -> str:
    """Aims, tests, switches, where the time goes, loading, CIFAR-10: of each what was found last."""
    parts = [f"## On a GPU {COMMAND}", *aims(lines)]
    for part in (tests, switches, profile, loader, cifar):
        parts += part(lines)
    return "\n\n".join(parts)


def aims(lines: list[Line]) -> list[str]:
    """What was to be reached, beside what was."""
    large, huge = (of_race(lines, name) for name in ("large", "huge"))
    peak = next((line["peak_tflops"] for line in lines if line.get("race") == "large"), None)
    ours, eager = large.get("openmae, compiled", {}), large.get("openmae", {})
    theirs, compiled = large.get("transformers", {}), large.get("transformers, compiled", {})
    top1 = next(
        (line["figures"].get("top1") for line in lines if line.get("training") == "cifar-classes" and "ended" in line),
        None,
    )

    def times(one: Line, other: Line, key: str = "images_per_second") -> str:
        return f"{one[key] / other[key]:.2f} times" if one.get(key) and other.get(key) else "-"

    def saved(name: str) -> str:
        rows = of_race(lines, f"{name}, mask tokens")
        first, *rest = rows.values() if rows else [{}]
        return " and ".join(times(row, first) for row in rest) or "-"

    rows = [
        ("ViT-L, MFU in bfloat16, compiled", "60%", f"{ours['tflops'] / peak:.1%}" if ours and peak else "-"),
        ("ViT-L beside transformers, both eager", "2 times", times(eager, theirs)),
        ("ViT-L beside transformers, both compiled", "1.3 times", times(ours, compiled)),
        ("ViT-L, memory beside transformers, both eager", "0.6 times", times(eager, theirs, "peak_memory")),
        ("ViT-H beside transformers, both eager", "-", times(huge.get("openmae", {}), huge.get("transformers", {}))),
        ("mask tokens left out, ViT-L, decoder 8 and 1 deep", "3.0 times", saved("large")),
        ("mask tokens left out, ViT-H, decoder 8 and 1 deep", "3.3 times", saved("huge")),
        ("CIFAR-10, top-1", "94% within 30 minutes", "-" if top1 is None else f"{top1:.1%}"),
    ]
    return [grid(("", "aim", "found"), rows)]


def of_race(lines: list[Line], name: str) -> dict[str, Line]:
    """The results of a table by contender; none where it was not measured."""
    tables = [line["table"] for line in lines if line.get("race") == name and "table" in line]
    return {result["contender"]: result for result in tables[-1]["results"]} if tables else {}


def tests(lines: list[Line]) -> list[str]:
    last = [line for line in lines if line["part"] == "tests" and "passed" in line][-1:]
    if not last:
        return []
    (line,) = last
    failed = f", failed: {', '.join(f'`{name}`' for name in line['failed'])}" if line["failed"] else ""
    skipped = f", {len(line['skipped'])} skipped" if line["skipped"] else ""
    return ["### Tests (`make test-gpu`)", f"{line['machine']}: {line['passed']} passed{skipped}{failed}."]


def switches(lines: list[Line]) -> list[str]:
    races = [line for line in lines if line.get("section") == "switches" and "table" in line]
    return (
        ["### What a step may be given beside", *(table_of(race).replace("### ", "#### ") for race in races)]
        if races
        else []
    )


def profile(lines: list[Line]) -> list[str]:
    texts = [line["profile"] for line in lines if "profile" in line][-1:]
    return [f"### Where a step goes\n\n```\n{text.rstrip()}\n```" for text in texts]


def loader(lines: list[Line]) -> list[str]:
    last = [line for line in lines if line["part"] == "loader" and "rates" in line][-1:]
    if not last:
        return []
    (line,) = last
    rates = {name: sum(each) / len(each) for name, each in line["rates"].items()}
    first = next(iter(rates.values()))
    rows = [(name, number(rate), number(rate * line["cores"]), f"{rate / first:.2f}") for name, rate in rates.items()]
    said = f"{line['photos']} made-up photographs of 500 x 375 pixels to 224, {line['cores']} cores; {line['machine']}."
    return ["### Loading on all cores", said, grid(("", "images/s and core", "images/s", "times the first"), rows)]


def cifar(lines: list[Line]) -> list[str]:
    ended = [line for line in lines if line["part"] == "cifar" and "ended" in line]
    minutes = {line["training"]: line["minutes"] for line in lines if "minutes" in line}
    names = {"cifar": "pre-trained", "cifar-classes": "fine-tuned"}
    rows = [
        (
            names[line["training"]],
            f"{minutes[line['training']]:g}",
            f"{line['steps']:,}",
            ", ".join(f"{key} {value:.1%}" for key, value in line["figures"].items() if "top1" in key),
        )
        for line in ended
    ]
    return (
        ["### CIFAR-10", f"{ended[-1]['machine']}.", grid(("", "minutes", "steps", "judged by val"), rows)]
        if rows
        else []
    )


def write_own(results: Path, text: str) -> None:
    """In its place, which is the first one."""
    old = results.read_text()
    before, found_it, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    if not found_it:
        title, _, after = old.partition("\n")
        before = f"{title}\n\n"
        after = f"\n\n{after.lstrip()}"
    results.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
