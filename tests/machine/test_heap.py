"""Freed memory is kept where it is wanted: seen in the pages that the system has to give."""

import platform

from tests.processes import run_openmae

CODE = """
import resource, sys, torch
from openmae.machine.heap import give_back_freed_memory, keep_freed_memory
for name in sys.argv[1:]:
    {"keep": keep_freed_memory, "give": give_back_freed_memory}[name]()
for _ in range(20):  # glibc's aligned memory wanders at first
    torch.ones(2**24)  # 64 MiB, as large as a step's
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again() -> None:
    def faults(*names: str) -> int:
        done = run_openmae(names, code=CODE)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    plain, kept, given = faults(), faults("keep"), faults("keep", "give")
    if platform.libc_ver()[0] == "glibc":
        assert plain > 1000
        assert kept < plain / 20
        assert given > plain / 2
    else:  # nothing is done
        assert kept > plain / 2
