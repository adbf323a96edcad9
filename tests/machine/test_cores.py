"""How many cores and processes: those of the machine, or fewer in a container."""

import os
from pathlib import Path

import pytest
import torch

from openmae.machine import limits
from openmae.machine.cores import all_cores, allowed_cores, cores
from openmae.machine.memory import free_ram, ram
from openmae.machine.workers import reading_workers, workers_for

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def allow(root: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """This process is now in a container whose control group says so."""
    group = root / "sys/fs/cgroup/job_7"
    group.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/job_7/step_0\n")
    for name, text in files.items():
        (group / name.replace("_", ".")).write_text(text)
    monkeypatch.setattr(limits, "ROOT", root)


def test_where_nothing_limits_them_all_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(tmp_path, monkeypatch, cpu_max="max 100000\n", memory_max="max\n")
    assert cores() == allowed_cores() == len(os.sched_getaffinity(0)) == reading_workers(None)
    assert all_cores() == os.cpu_count()
    assert free_ram() <= ram() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("quota", "count"), [("50000 100000", 1), ("350000 100000", 3), ("6400000 100000", 64)])
def test_a_quota_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    allow(tmp_path, monkeypatch, cpu_max=f"{quota}\n")
    assert (cores(), allowed_cores()) == (count, 64)
    assert reading_workers(None) == count
    assert workers_for(None, CPU) == min(4, count // 2)
    assert workers_for(None, GPU) == min(16, max(1, count - 1))
    assert (reading_workers(64), workers_for(64, CPU)) == (64, 64)  # as asked


def test_what_is_free_is_what_the_container_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = ram() // 2
    allow(
        tmp_path,
        monkeypatch,
        memory_max=f"{limit}\n",
        memory_current="3000000\n",
        memory_stat="inactive_file 1000000\n",
    )
    assert (ram(), free_ram()) == (limit, limit - 2_000_000)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 7 kB\n")
    assert free_ram() == 7 * 1024
