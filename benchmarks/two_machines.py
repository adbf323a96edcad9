"""Two machines that train together over a link with delay and loss: what a step costs then, and what a lost link does.

    sudo python benchmarks/two_machines.py DATA OUT

Needs Linux, root, iproute2 and /dev/net/tun. Each machine is a network namespace with a TUN device, and this program is
the cable: it hands packets over after `--delay` milliseconds (each way), loses a share of them, and can be cut. (`tc
netem` does the same where a kernel has it.) It is no fast cable: `speed` is what TCP gets through it without any delay.

Gradients are exchanged by gloo, between two processes on CPUs. OUT gets the runs and links.jsonl, a line a link.
"""

import argparse
import fcntl
import heapq
import json
import os
import random
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from openmae.train.run import read_metrics

NAMES, ADDRESSES, DEVICE = ("openmae-a", "openmae-b"), ("10.77.0.1", "10.77.0.2"), "omcable"
MTU = 9000
_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
LINKS = ((0, 0), (1, 0), (10, 0), (50, 0), (10, 0.001), (10, 0.01))  # milliseconds each way, share of packets
STEPS, SKIPPED = 16, 4


class Cable:
    """Between two namespaces. delay: seconds each way; loss: share of the packets; is_cut: nothing gets through."""

    def __init__(self) -> None:
        self.delay, self.loss, self.is_cut = 0.0, 0.0, False
        self.carried = 0
        self._ends = [_end(number) for number in range(2)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)

    def _carry(self) -> None:
        draws, waiting = random.Random(0), list[tuple[float, int, int, bytes]]()
        number = 0
        while not self._over.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, to, packet = heapq.heappop(waiting)
                with suppress(OSError):  # its queue is full: lost, as on any cable
                    os.write(self._ends[to], packet)
                    self.carried += len(packet)
            pause = min(0.05, waiting[0][0] - now) if waiting else 0.05
            for end in select.select(self._ends, [], [], max(0.0, pause))[0]:
                packet = os.read(end, 65536)
                if self.is_cut or draws.random() < self.loss:
                    continue
                number += 1
                to = 1 - self._ends.index(end)
                heapq.heappush(waiting, (time.monotonic() + self.delay, number, to, packet))


def _end(number: int) -> int:
    """A TUN device, which then moves to its namespace; what is written here arrives there."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"{DEVICE}{number}"
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN_WITHOUT_HEADER))
    inside = NAMES[number]
    for words in (
        f"link set {name} netns {inside}",
        f"-n {inside} link set lo up",
        f"-n {inside} addr add {ADDRESSES[number]}/24 dev {name}",
        f"-n {inside} link set {name} mtu {MTU} txqueuelen 10000 up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    return end


@contextmanager
def cable() -> Iterator[Cable]:
    for name in NAMES:
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        made = Cable()
        try:
            yield made
        finally:
            made.close()
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=True)


@contextmanager
def training(words: Sequence[str], logs: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One process on each machine, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    started = []
    for rank, name in enumerate(NAMES):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": ADDRESSES[0],
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": f"{DEVICE}{rank}",
            "OMP_NUM_THREADS": "1",
        }
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "openmae", *words]
        with (logs / f"rank-{rank}.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def words_of(data: str, run: Path, steps: int, *more: str) -> list[str]:
    """A vit_tiny, of which 22 MB of gradients are exchanged in each step."""
    words = f"--model vit_tiny --img-size 64 --patch-size 16 --batch-size 16 --micro-batch 8 --epochs {steps * 16 / 40}"
    quiet = "--pictures 0 --evaluations 0 --workers 0 --precision fp32 --device cpu --compile off"
    return ["pretrain", data, "--out", str(run), *words.split(), *quiet.split(), *more]


def step_seconds(run: Path) -> float:
    """The median, by when steps were noted."""
    times = [(line["step"], line["time"]) for line in read_metrics(run) if "loss" in line]
    each = [
        (later - sooner) / (after - before) for (before, sooner), (after, later) in pairwise(times) if before >= SKIPPED
    ]
    return statistics.median(each)


def speed(link: Cable) -> float:
    """MB/s of TCP from one machine to the other."""
    code = (
        "import socket, sys, time\n"
        "if sys.argv[1] == 'takes':\n"
        "    with socket.create_server(('', 9000)) as s:\n"
        "        c, _ = s.accept()\n"
        "        while c.recv(1 << 20): pass\n"
        "else:\n"
        "    c = socket.create_connection((sys.argv[2], 9000), timeout=60)\n"
        "    c.sendall(bytes(1 << 27))\n"
    )
    inside = ["ip", "netns", "exec"]
    taker = subprocess.Popen([*inside, NAMES[1], sys.executable, "-c", code, "takes"])
    time.sleep(1)
    before, began = link.carried, time.monotonic()
    subprocess.run([*inside, NAMES[0], sys.executable, "-c", code, "gives", ADDRESSES[1]], check=True)
    taker.wait()
    return (link.carried - before) / 1e6 / (time.monotonic() - began)


def lost(link: Cable, given: argparse.Namespace, seconds: float, patience: float) -> dict[str, object]:
    """What becomes of a training whose cable is cut for so many seconds, with --timeout-minutes of `patience`."""
    name = f"cut-{seconds:g}-{patience:g}"
    logs = given.out / name
    logs.mkdir(parents=True, exist_ok=True)
    run = logs / "run"
    with training(words_of(given.data, run, 60, "--timeout-minutes", str(patience)), logs) as started:
        while not any("loss" in line and line["step"] >= SKIPPED for line in read_if_there(run)):
            time.sleep(0.2)
            assert all(process.poll() is None for process in started), (logs / "rank-0.log").read_text()
        link.is_cut, began = True, time.monotonic()
        threading.Timer(seconds, setattr, (link, "is_cut", False)).start()
        codes = [process.wait() for process in started]
        took = time.monotonic() - began
    ends = [(logs / f"rank-{rank}.log").read_text().strip().splitlines()[-1] for rank in range(2)]
    steps = max(line["step"] for line in read_metrics(run) if "loss" in line)
    time.sleep(max(0.0, seconds - took) + 1)
    return {
        "cut": seconds,
        "timeout": patience * 60,
        "codes": codes,
        "ended": round(took, 1),
        "step": steps,
        "said": ends,
    }


def read_if_there(run: Path) -> list[dict[str, float]]:
    with suppress(OSError, ValueError):
        return [*read_metrics(run)]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with cable() as link, (given.out / "links.jsonl").open("a") as file:

        def note(line: dict[str, object]) -> None:
            print(line, flush=True)
            file.write(json.dumps(line) + "\n")
            file.flush()

        note({"speed": round(speed(link), 1)})
        for delay, loss in LINKS:
            link.delay, link.loss = delay / 1000, loss
            logs = given.out / f"{delay}-{loss}"
            logs.mkdir()
            with training(words_of(given.data, logs / "run", STEPS), logs) as started:
                codes = [process.wait() for process in started]
            assert codes == [0, 0], (logs / "rank-0.log").read_text()
            note({"delay": delay, "loss": loss, "step": round(step_seconds(logs / "run"), 3)})
        link.delay, link.loss = 0.001, 0.0
        for seconds, patience in ((8, 1), (150, 0.5)):
            note(lost(link, given, seconds, patience))


if __name__ == "__main__":
    main()
