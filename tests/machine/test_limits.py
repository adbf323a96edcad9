"""Limits that a container sets: memory and cores, as the control groups of either version write them."""

from pathlib import Path

import pytest

from openmae.data.loading import memory
from openmae.machine import limits
from openmae.recipes.doctor import memory as doctor_memory
from tests.machine.groups import V1, V2, laid_out


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, (None, 0)),
        (V2, (None, 0)),
        ({**V2, "sys/fs/cgroup/user.slice/job_7/step_0/memory.max": "max\n"}, (None, 0)),
        (  # the tightest of those around it binds; what can be reclaimed does not count
            {
                **V2,
                "sys/fs/cgroup/user.slice/job_7/step_0/memory.max": "max\n",
                "sys/fs/cgroup/user.slice/job_7/memory.max": "8589934592\n",
                "sys/fs/cgroup/user.slice/job_7/memory.current": "3000000000\n",
                "sys/fs/cgroup/user.slice/job_7/memory.stat": "anon 1\ninactive_file 1000000000\nactive_file 5\n",
                "sys/fs/cgroup/user.slice/memory.max": "17179869184\n",
            },
            (8589934592, 2000000000),
        ),
        (  # inside a container the group's own path is the mount
            {
                **V1,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "4294967296\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "500\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 100\n",
            },
            (4294967296, 400),
        ),
        ({**V1, "sys/fs/cgroup/memory/docker/4f2e/memory.limit_in_bytes": "9223372036854771712\n"}, (None, 0)),
    ],
)
def test_limits_of_memory(tmp_path: Path, files: dict[str, str], limit: tuple[int | None, int]) -> None:
    assert limits.memory_limit(laid_out(tmp_path, files)) == limit


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({**V2, "sys/fs/cgroup/user.slice/job_7/step_0/cpu.max": "max 100000\n"}, None),
        ({**V2, "sys/fs/cgroup/user.slice/job_7/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/docker/4f2e/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/4f2e/cpu.cfs_period_us": "100000\n",
            },
            4.0,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_quotas_of_cores(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert limits.cpu_quota(laid_out(tmp_path, files)) == quota


def test_a_container_is_asked_for_no_more_than_it_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has = memory.ram()
    files = {**V2, "sys/fs/cgroup/user.slice/memory.max": "600000000\n"}
    monkeypatch.setattr(limits, "ROOT", laid_out(tmp_path, files))
    assert memory.ram() == 600_000_000 < has
    (limited,) = doctor_memory.memory()
    assert limited.verdict == "bad"
    assert limited.said == "600 MB free of 600 MB that this container or job may use"
