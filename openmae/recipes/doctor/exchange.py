"""Whether processes can exchange numbers: real ones, started here or by torchrun, within a time."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from openmae.console.words import size_of
from openmae.errors import RUN_AGAIN
from openmae.model import create_model
from openmae.recipes.doctor.diagnosis import Diagnosis
from openmae.recipes.doctor.exchange_rank import LARGE, STAGES
from openmae.train.cost import parameters

WORKER = (sys.executable, "-m", "openmae.recipes.doctor.exchange_rank")
_POLL_SECONDS = 0.05
_LAST_WORDS_SECONDS = 1.0  # for the others, when one has died
_MOST_WORDS = 300  # characters
_SLOW = {"gloo": 0.1e9, "NCCL": 2e9}  # bytes/s
_NAME = "exchange"


def exchange(processes: int | None, timeout: float) -> list[Diagnosis]:
    """Starts as many processes as asked for, which add up numbers; under torchrun one, which meets those of the other
    ranks."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    among = os.environ.get("WORLD_SIZE", "1")
    if among != "1":
        local = os.environ.get("LOCAL_WORLD_SIZE", "1")
        on_gpus = gpus > 0 and (not local.isdecimal() or int(local) <= gpus)
        return [_found([dict(os.environ)], on_gpus, timeout, f"{among} processes of torchrun")]
    count = processes or gpus or 2
    if count == 1:
        return [Diagnosis(_NAME, "ok", "one process: nothing to exchange")]
    return [_found(_environments(count), count <= gpus, timeout, f"{count} processes")]


def _environments(count: int) -> list[dict[str, str]]:
    """What torchrun would set for so many processes of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = {
        "WORLD_SIZE": f"{count}",
        "LOCAL_WORLD_SIZE": f"{count}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port}",
    }
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return [{**os.environ, **threads, **sizes, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} for rank in range(count)]


@dataclass(frozen=True)
class _Process:
    """A rank, what runs for it, and the files that it writes to."""

    rank: str
    process: "subprocess.Popen[bytes]"
    said: Path
    errors: Path

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def stage(self) -> int:
        """How far it came: an index into STAGES."""
        lines = self.said.read_text(errors="replace").splitlines()
        return max((STAGES.index(line) for line in lines if line in STAGES), default=0)

    @property
    def last_words(self) -> str:
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        return lines[-1][:_MOST_WORDS].rstrip(".") if lines else ""

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.process.pid})"


def _found(environments: Sequence[dict[str, str]], on_gpus: bool, timeout: float, what: str) -> Diagnosis:
    backend = "NCCL" if on_gpus else "gloo"
    what = f"{what} with {backend}"
    began = time.monotonic()
    # Where only one of them is ours, it has to say which other one is lost, before its own time is over.
    patience = timeout if len(environments) > 1 else timeout / 2
    with _started(environments, "cuda" if on_gpus else "cpu", patience) as processes:
        failed = _waited_for(processes, began + timeout)
        seconds = time.monotonic() - began
        if failed:
            return Diagnosis(_NAME, "bad", f"{what}: {'; '.join(map(_death, failed))}", _remedy(backend))
        late = [one for one in processes if one.code is None]
        if late:
            return Diagnosis(_NAME, "bad", f"{what}: {_delay(processes, late, timeout)}", _remedy(backend))
        lines = processes[0].said.read_text().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return Diagnosis(_NAME, "ok", f"{what} got the right sum, in {seconds:.1f} s")  # rank 0 says how fast
    return _judged(what, json.loads(lines[-1]), backend, seconds, int(environments[0]["WORLD_SIZE"]))


@contextmanager
def _started(environments: Sequence[dict[str, str]], device: str, timeout: float) -> Iterator[list[_Process]]:
    """The processes, none of which outlives this."""
    processes: list[_Process] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for environment in environments:
                rank = environment.get("RANK", "?")
                said, errors = (Path(folder) / f"{name}-{rank}" for name in ("said", "errors"))
                with said.open("wb") as out, errors.open("wb") as aside:
                    process = subprocess.Popen(
                        [*WORKER, device, f"{timeout}"],
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=aside,
                    )
                processes.append(_Process(rank, process, said, errors))
            yield processes
        finally:
            for one in processes:
                one.process.kill()
            for one in processes:
                with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel
                    one.process.wait(_LAST_WORDS_SECONDS)


def _waited_for(processes: list[_Process], deadline: float) -> list[_Process]:
    """Waits for all of them, or until one fails, or the deadline; those that failed first."""
    while time.monotonic() < deadline:
        if any(one.code for one in processes):
            end = min(deadline, time.monotonic() + _LAST_WORDS_SECONDS)
            failed = [one for one in processes if one.code]
            while time.monotonic() < end and any(one.code is None for one in processes):
                time.sleep(_POLL_SECONDS)
            # One that says it has lost another is not at fault.
            at_fault = [one for one in failed if one.code != RUN_AGAIN]
            return at_fault or [one for one in processes if one.code not in (None, 0, RUN_AGAIN)] or failed
        if all(one.code == 0 for one in processes):
            return []
        time.sleep(_POLL_SECONDS)
    return []


def _death(one: _Process) -> str:
    code, words = one.code or 0, one.last_words
    if code == RUN_AGAIN and words:  # it names the one that it has lost
        return words.removeprefix("openmae: ").partition(": all stop")[0]
    how = f"ended with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
    return f"{one} {how} {STAGES[one.stage]}{words and f': {words}'}"


def _delay(processes: list[_Process], late: list[_Process], timeout: float) -> str:
    """Names those that came least far, for whom the others wait."""
    least = min(one.stage for one in late)
    behind = [str(one) for one in late if one.stage == least]
    said = f"after {timeout:g} s, {' and '.join(behind)} {'is' if len(behind) == 1 else 'are'} still {STAGES[least]}"
    return said if len(processes) > 1 else f"{said}, so others have not come"


def _remedy(backend: str) -> str:
    several_machines = os.environ.get("WORLD_SIZE", "1") != os.environ.get("LOCAL_WORLD_SIZE", "1")
    network = "the network between the machines (ip address lists them), and let their firewalls pass it"
    if backend == "NCCL":
        where = network if several_machines else "lo"
        return f"see what NCCL_DEBUG=INFO says; set NCCL_SOCKET_IFNAME to {where}; try NCCL_P2P_DISABLE=1"
    return f"set GLOO_SOCKET_IFNAME to {network if several_machines else 'lo'}; a longer --timeout, if it is only slow"


def _judged(what: str, seconds: dict[str, float], backend: str, taken: float, count: int) -> Diagnosis:
    """By what each link carries: a ring of n sends everything 2 (n - 1) / n times."""
    rate = 2 * (count - 1) / count * LARGE / seconds["large"]
    with torch.device("meta"):
        gradients = 4 * sum(parameters(create_model("vit_base").architecture))
    said = (
        f"{what} add up right: 4 bytes in {seconds['small'] * 1e3:.2g} ms, 16 MB in {seconds['large'] * 1e3:.3g} ms "
        f"({size_of(rate)}/s a link), so vit_base's gradients in {gradients / LARGE * seconds['large']:.2g} s; "
        f"{taken:.1f} s with their start"
    )
    if rate < _SLOW[backend]:
        remedy = "choose a faster network by GLOO_SOCKET_IFNAME, or end what else runs here"
        if backend == "NCCL":
            remedy = "see how the GPUs are connected (nvidia-smi topo -m), and what NCCL_DEBUG=INFO says"
        return Diagnosis(_NAME, "warn", said, remedy)
    return Diagnosis(_NAME, "ok", said)
