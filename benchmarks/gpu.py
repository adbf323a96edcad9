"""The parts of `benchmarks/gpu.sh`, and how much of the time each gets. A part is a process of its own: one that fails,
hangs or takes too long does not take the others with it.

OUT gets results.jsonl, to which every part adds a line as soon as something is found, and a log a part. What is there
is not measured again. `python benchmarks/merge.py OUT` puts it into benchmarks/RESULTS.md.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
AHEAD = 150.0  # seconds that compiling ahead has, beside the tests; what is ready then need not be waited for later
LEAVE = 10.0  # seconds before the end that a part is asked to stop, by a signal, before it is killed


@dataclass(frozen=True)
class Part:
    """share: of the seconds that are left when it begins; the last one gets them all."""

    name: str
    share: float
    about: str


PARTS = (
    Part("tests", 0.22, "tests on the device"),
    Part("steps", 0.55, "training steps beside other implementations"),
    Part("loader", 0.17, "loading on all cores"),
    Part("cifar", 1.0, "CIFAR-10, pre-trained and fine-tuned"),
)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=absolute, required=True, help="folder of what is found; the same one goes on")
    parser.add_argument("--seconds", type=float, default=840, help="for all that is still to be done")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], default=None)
    parser.add_argument("--cifar", type=absolute, help="folder with train/ and val/, a folder a class in each")
    parser.add_argument("--rehearse", action="store_true", help="at toy size on the CPU")
    given = parser.parse_args(words)
    began = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    device = "cpu" if given.rehearse else "cuda"
    if complaint := lacking(device):
        print(complaint)
        return 2
    said, ahead = [], None
    for part in PARTS:
        if given.parts is not None and part.name not in given.parts:
            continue
        if given.parts is None and is_done(given.out, part.name):  # who asks for it gets it again
            said.append(f"{part.name}: done before")
            continue
        if part.name == "cifar" and given.cifar is None and not given.rehearse:
            said.append("cifar: not done, --cifar was not given")
            continue
        left = given.seconds - (time.monotonic() - began)
        if left < 2 * LEAVE:
            said.append(f"{part.name}: not begun, the time is over")
            continue
        if part.name == "tests" and device == "cuda":  # while the tests leave most of the machine idle
            ahead = started(["steps_ahead"], given, left)
        if part.name == "steps" and ahead is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                ahead.wait(max(0.0, AHEAD - (time.monotonic() - began)))
            end(ahead)  # what is measured is alone on the GPU
        said.append(run(part, given, left * part.share))
    if ahead is not None:
        end(ahead)
    print("\n".join(["", *said, f"python benchmarks/merge.py {given.out} puts it into benchmarks/RESULTS.md"]))
    return 0


def absolute(path: str) -> Path:
    return Path(path).absolute()


NEEDED = (
    "torch numpy PIL simplejpeg safetensors rich tyro tomli_w matplotlib sklearn skimage torchvision packaging pytest "
    "hypothesis xdist transformers timm"
).split()


def lacking(device: str) -> str | None:
    """What the parts cannot do without, in a sentence; None where all is there."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return f"Python lacks {', '.join(missing)}: give wheels by --wheels; docs/speed.md says how to collect them"
    if device == "cpu":
        return None
    import torch

    return None if torch.cuda.is_available() else "torch finds no GPU: --rehearse does all at toy size on the CPU"


def run(part: Part, given: argparse.Namespace, seconds: float) -> str:
    """Runs it; a line on what came of it."""
    print(f"== {part.name}: {part.about}, at most {seconds:.0f} s", flush=True)
    began = time.monotonic()
    process = started([part.name], given, seconds)
    try:
        code = process.wait(max(1.0, seconds - LEAVE))
        came = "done" if code == 0 else f"failed (exit code {code}), see {part.name}.log"
        if code == GOES_ON:
            came = "not all of it for want of time; the same command goes on"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # a training saves
        code, came = GOES_ON, "stopped for want of time; the same command goes on"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE)
    finally:
        end(process)
    took = time.monotonic() - began
    note(given.out, {"part": part.name, "is_done": code == 0, "seconds": round(took, 1), "exit_code": code})
    line = f"{part.name}: {came}, {took:.0f} s"
    print(line, flush=True)
    return line


GOES_ON = 75  # the exit code of what is to be run again


def started(names: list[str], given: argparse.Namespace, seconds: float) -> subprocess.Popen[bytes]:
    words = [sys.executable, str(HERE / "gpu_parts.py"), *names, "--out", str(given.out), "--seconds", f"{seconds:.0f}"]
    words += ["--rehearse"] * given.rehearse + (["--cifar", str(given.cifar)] if given.cifar else [])
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(given.out / "compiled"),  # what is compiled once is not compiled again
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # as openmae's commands set it
        "OPENMAE_TEST_DEVICE": "cpu" if given.rehearse else "cuda",
    }
    with (given.out / f"{names[0]}.log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=HERE.parent)


def end(process: subprocess.Popen[bytes]) -> None:
    """It, and all that it started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def note(out: Path, line: dict[str, Any]) -> None:
    with (out / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def found(out: Path) -> list[dict[str, Any]]:
    """All lines; a last one that was cut by a kill is not there."""
    lines = []
    with contextlib.suppress(OSError):
        for text in (out / "results.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
    return lines


def is_done(out: Path, name: str) -> bool:
    return any(line["part"] == name and line.get("is_done") for line in found(out))


if __name__ == "__main__":
    sys.exit(main())
