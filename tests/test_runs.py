"""What tests share is made once and whole, can be copied, and is looked at in the end."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from tests.runs import Runs, copy

IMAGE = b"as it was made"


class Small(Runs):
    def data(self) -> Path:
        return self.once("x-rays", self.make)

    def make(self, out: Path) -> None:
        with (self.folder / "made").open("a") as file:
            file.write("once\n")
        out.mkdir()
        (out / "a.png").write_bytes(IMAGE)


def test_processes_that_need_it_at_the_same_time_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    makers = [context.Process(target=Small(tmp_path).data) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert (tmp_path / "made").read_text() == "once\n"
    (tmp_path / "parts/x-rays").mkdir()  # of one that was killed
    assert (Small(tmp_path).data() / "a.png").read_bytes() == IMAGE


@pytest.mark.parametrize("change", ["write", "rewrite", "add", "remove"])
def test_a_change_is_seen(tmp_path: Path, change: str) -> None:
    runs = Small(tmp_path)
    file = copy(runs.data(), tmp_path / "own") / "a.png"
    file.write_bytes(b"other")  # a copy may be changed
    runs.check()
    made = runs.data()
    made.chmod(0o755)
    (made / "a.png").chmod(0o644)
    if change == "write":
        (made / "a.png").write_bytes(b"something else")
    elif change == "rewrite":
        os.utime(made / "a.png")
    elif change == "add":
        (made / "b.png").touch()
    else:
        (made / "a.png").unlink()
    with pytest.raises(AssertionError, match=r"a test has changed x-rays, which all share: .*\.png"):
        runs.check()


def test_this_process_trains_with_as_many_threads_as_those_that_it_starts() -> None:
    """Sums of other threads are other bits: what ran here would differ from what ran there, and never agree."""
    assert str(torch.get_num_threads()) == os.environ["OMP_NUM_THREADS"]
