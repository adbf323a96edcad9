"""A Slurm of scripts: sbatch keeps what it gets, srun starts tasks on this machine, scontrol notes what it is told."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SBATCH = """#!/bin/sh
[ -e "$FAKE_SLURM/refuses" ] && { echo "sbatch: error: invalid partition specified: gpuu" >&2; exit 1; }
cp "$1" "$FAKE_SLURM/script.sh"
echo "Submitted batch job 4711"
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "$FAKE_SLURM/scontrol"
[ "$1" = show ] && echo localhost
exit 0
"""
SRUN = f"""#!{sys.executable}
import os, pathlib, subprocess, sys
words, output = sys.argv[1:], None
while words[0].startswith("--"):
    if words[0] == "--output":
        output = words[1]
    words = words[1 if words[0] == "--unbuffered" else 2:]
nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
size = int(os.environ["SLURM_NTASKS"])
tasks = []
for rank in range(size):
    place = dict(SLURM_PROCID=rank, SLURM_LOCALID=rank % (size // nodes), SLURM_NODEID=rank // (size // nodes))
    named = {{"%j": "SLURM_JOB_ID", "%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID"}}
    for mark, name in named.items():
        output = output and output.replace(mark, os.environ.get(name, mark))
    log = output and open(output.replace("%t", str(rank)), "a")
    env = os.environ | {{name: str(value) for name, value in place.items()}}
    tasks.append(subprocess.Popen(words, env=env, stdout=log, stderr=log and subprocess.STDOUT))
    if log:
        log.close()
part = pathlib.Path(os.environ["FAKE_SLURM"]) / "tasks.part"
part.write_text(" ".join(str(task.pid) for task in tasks))
part.rename(part.with_suffix(""))
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""


class FakeSlurm:
    """Its programs lie in `programs`, which belongs to the front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "programs"
        self.programs.mkdir(parents=True)
        for name, text in {"sbatch": SBATCH, "scontrol": SCONTROL, "srun": SRUN}.items():
            (self.programs / name).write_text(text)
            (self.programs / name).chmod(0o755)

    @property
    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "FAKE_SLURM": str(self.folder)}

    @property
    def script(self) -> Path:
        return self.folder / "script.sh"

    @property
    def asked(self) -> list[str]:
        """What scontrol was asked for, without `show`."""
        file = self.folder / "scontrol"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if not line.startswith("show")]

    def start(
        self, *words: str | Path, nodes: int = 1, tasks: int = 1, cwd: Path, index: int | None = None
    ) -> "subprocess.Popen[bytes]":
        """The job's script, as Slurm starts it on the first machine. index: of a job of an array."""
        job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NTASKS": str(tasks)}
        if index is not None:
            job |= {"SLURM_JOB_ID": f"{4712 + index}", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": f"{index}"}
        job["SLURM_JOB_NODELIST"] = "localhost" if nodes == 1 else f"localhost,gpu[2-{nodes}]"
        (self.folder / "tasks").unlink(missing_ok=True)
        return subprocess.Popen(["bash", *map(str, words)], env=self.env | job, cwd=cwd, start_new_session=True)

    def signal(self, number: int) -> None:
        """Sends it to all tasks, as --signal has it."""
        for pid in self.tasks():
            os.kill(pid, number)

    def tasks(self) -> list[int]:
        wait_for((self.folder / "tasks").exists, "tasks")
        return [int(pid) for pid in (self.folder / "tasks").read_text().split()]


def wait_for(is_there: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Raises AssertionError where it does not come."""
    until = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < until, f"no {what} within {seconds:.0f} s"
        time.sleep(0.05)
