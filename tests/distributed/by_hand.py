"""Ranks as a scheduler without torchrun starts them, so that each one's own exit code is seen."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from tests.processes import Process, start_openmae

SHARDS = Version(torch.__version__) >= Version("2.9")  # on CPUs
SHARDED = pytest.mark.skipif(not SHARDS, reason="refused, as tests/distributed/test_ranks.py sees")


def environment() -> dict[str, str]:
    """Of processes that talk to each other on this machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@contextmanager
def by_hand(size: int, words: Sequence[str], folder: Path, code: str = "") -> Iterator[list[Process]]:
    """The ranks, which print to log0, log1, ... in the folder; killed where they have not ended when the block does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    meet |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    processes = []
    try:
        for rank in range(size):
            given = {**environment(), **meet, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (folder / f"log{rank}").open("w") as log:
                processes.append(start_openmae(words, log, environment=given, code=code))
        yield processes
    finally:
        for process in processes:
            process.kill()


def together(size: int, words: Sequence[str], folder: Path, code: str = "") -> list[str]:
    """What each of the ranks printed, all of which ended well."""
    with by_hand(size, words, folder, code) as processes:
        codes = [process.wait(timeout=240) for process in processes]
    logs = [(folder / f"log{rank}").read_text() for rank in range(size)]
    assert codes == [0] * size, logs
    return logs
