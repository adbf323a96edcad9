"""Processes that are killed, hang, fail or outlive their parent; results in order all the same."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from openmae.data.loading import pool
from openmae.data.loading.pool import DEADLY, Hand, SharedArray, ordered
from openmae.errors import BrokenImage, UserError
from tests.data.work import TASKS, squares
from tests.processes import run_openmae, started_openmae, wait_for

Result = TypeVar("Result")


class Once:
    """Does something to the process that takes `number`, but only `times` times in all."""

    def __init__(self, folder: Path, number: int, times: int, number_of_signal: int = signal.SIGKILL) -> None:
        self.folder, self.number, self.times, self.signal = folder, number, times, number_of_signal

    def __call__(self, task: range, hand: Hand) -> list[int | str]:
        found = []
        for number in task:
            done = squares(range(number, number + 1), hand)
            if number == self.number and isinstance(done[0], int) and len(list(self.folder.iterdir())) < self.times:
                (self.folder / f"{time.monotonic_ns()}").touch()
                os.kill(os.getpid(), self.signal)
            found += done
        return found


def flat(results: object) -> list[int | str]:
    return [entry for result in results for entry in result]  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers: int) -> None:
    assert flat(ordered(squares, TASKS, workers)) == [number * number for number in range(80)]


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_worker_costs_nothing(tmp_path: Path, kind: int) -> None:
    results = flat(ordered(Once(tmp_path, 33, 1, kind), TASKS, 2))
    assert len(list(tmp_path.iterdir())) == 1
    assert results == [number * number for number in range(80)]


def test_an_image_that_keeps_killing_is_left_out_and_alone(tmp_path: Path) -> None:
    results = flat(ordered(Once(tmp_path, 33, 99), TASKS, 2))
    assert len(list(tmp_path.iterdir())) == DEADLY
    assert "ended 2 processes" in str(results.pop(33))
    assert results == [number * number for number in range(80) if number != 33]


def kill_over_odd(task: range, hand: Hand) -> list[int | str]:
    """As an image that takes more memory than there is; also where it is decoded apart."""
    found: list[int | str] = []
    for number in task:
        try:
            hand.take(number)
        except BrokenImage as error:
            found.append(str(error))
            continue
        if number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        found.append(number)
    return found


def test_several_deadly_images_of_one_task_are_left_out_each(tmp_path: Path) -> None:
    (results,) = in_time(ordered(kill_over_odd, [range(8)], 1))
    assert results[::2] == [0, 2, 4, 6]
    assert all("ended 2 processes" in str(result) for result in results[1::2])


def test_kills_that_have_nothing_to_do_with_an_image_are_forgotten(tmp_path: Path) -> None:
    tasks = [
        range(3, 4) if number % 40 == 0 else range(number, number + 1) for number in range(120)
    ]  # 3 again and again
    once_each_time = Once(tmp_path, 3, 1)
    results = ordered(once_each_time, tasks, 1)
    first = [next(results) for _ in range(50)]
    for marker in tmp_path.iterdir():
        marker.unlink()  # it is killed once more, long after
    assert flat([*first, *results]) == [entry for task in tasks for entry in (number * number for number in task)]
    assert len(list(tmp_path.iterdir())) == 1


def test_killing_all_idle_workers_costs_nothing() -> None:
    before = set(children(os.getpid()))
    results = ordered(squares, TASKS, workers=6, ahead=1)
    first = [next(results) for _ in range(6)]
    time.sleep(0.5)  # all that was given is done
    for pid in set(children(os.getpid())) - before:
        os.kill(pid, signal.SIGKILL)
    assert flat([*first, *results]) == [number * number for number in range(80)]


def slow_to_fetch(task: range, hand: Hand) -> list[int | str]:
    time.sleep(2.5)
    return squares(task, hand)


def test_a_slow_fetch_is_not_taken_for_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.2)
    assert flat(ordered(slow_to_fetch, TASKS[:2], 2)) == [number * number for number in range(8)]


def test_a_hung_worker_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.2)
    results = flat(ordered(Once(tmp_path, 33, 1, signal.SIGSTOP), TASKS, 2))
    assert results == [number * number for number in range(80)]


def endless(task: range, hand: Hand) -> int:
    if task.start > 4:
        time.sleep(600)
    return 0


def large(task: range, hand: Hand) -> bytes:
    return bytes([task.start]) * 10_000_000


def test_a_worker_that_hangs_in_the_middle_of_a_result_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STALLED_SECONDS", 1.0)
    before = set(children(os.getpid()))
    results = ordered(large, TASKS[:4], workers=1)
    found = [next(results)]
    (worker,) = set(children(os.getpid())) - before
    time.sleep(0.5)  # a part of the second result is in the pipe, which holds no more
    os.kill(worker, signal.SIGSTOP)
    found += in_time(results)
    assert [(result[0], len(result)) for result in found] == [(task.start, 10_000_000) for task in TASKS[:4]]


class StoppedOnce:
    """Stops the process that fetches task 33, before it takes an image of it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __call__(self, task: range, hand: Hand) -> list[int | str]:
        if 33 in task and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return squares(task, hand)


def test_a_stopped_worker_without_an_image_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.2)
    results = in_time(ordered(StoppedOnce(tmp_path / "marker"), TASKS, 2))
    assert flat(results) == [number * number for number in range(80)]


def test_a_job_that_is_stopped_and_goes_on_takes_no_worker_for_hung(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from openmae.data.loading import pool\n"
        "from tests.data import test_pool\n"
        "pool.STALLED_SECONDS, pool.POLL_SECONDS = 1.0, 0.1\n"
        "print('ready', flush=True)\n"
        "print(len(list(pool.ordered(test_pool.slow_to_decode, test_pool.TASKS[:2], 2))), flush=True)\n"
    )
    log = tmp_path / "log"
    with started_openmae([], log, code=code, session=True) as process:
        wait_for(lambda: len(children(process.pid)) == 2, process)
        os.killpg(process.pid, signal.SIGSTOP)  # as Ctrl-Z does
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(60) == 0
    assert log.read_text() == "ready\n2\n"


def slow_to_decode(task: range, hand: Hand) -> list[int | str]:
    hand.take(task.start)
    time.sleep(0.5)
    return squares(task, hand)


class DeafOnce:
    """Closes the pipe of the first process that works, and does not die."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __call__(self, task: range, hand: Hand) -> list[int | str]:
        if not self.marker.exists():
            self.marker.touch()
            os.closerange(3, 1024)
            time.sleep(600)
        return squares(task, hand)


def test_a_worker_that_only_closes_its_pipe_is_ended(tmp_path: Path) -> None:
    results = in_time(ordered(DeafOnce(tmp_path / "marker"), TASKS, 1))
    assert flat(results) == [number * number for number in range(80)]


def in_time(results: Iterator[Result]) -> list[Result]:
    """All of them; a test that would wait for ever fails instead."""

    def fail(*_: object) -> None:
        raise AssertionError("it waits for ever")  # no OSError, which the pool takes for a death

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    try:
        return list(results)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def die_at_once(task: range, hand: Hand) -> None:
    os._exit(3)


def crash_at_once(task: range, hand: Hand) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_workers_that_cannot_start_are_an_error_not_a_loop() -> None:
    with pytest.raises(UserError, match="exit code 3"):
        list(ordered(die_at_once, TASKS, 2))
    with pytest.raises(UserError, match=f"exit code -{signal.SIGSEGV.value}"):
        in_time(ordered(crash_at_once, TASKS, 1))


def refuse(task: range, hand: Hand) -> int:
    if 8 in task:
        raise UserError("mend this")
    return 1 // (len(task) - (17 in task) * len(task))


def test_errors_reach_the_parent() -> None:
    with pytest.raises(UserError, match="mend this"):
        list(ordered(refuse, TASKS, 2))
    with pytest.raises(RuntimeError, match=r"(?s)loader process.*ZeroDivisionError"):
        list(ordered(refuse, TASKS[3:], 2))
    with pytest.raises(ZeroDivisionError):
        list(ordered(refuse, TASKS[3:], 0))


def test_no_more_tasks_are_taken_than_asked_for() -> None:
    taken = []

    def tasks() -> object:
        for task in TASKS:
            taken.append(task)
            yield task

    results = ordered(squares, tasks(), workers=2, ahead=3)  # type: ignore[arg-type]
    next(results)
    assert len(taken) == 6
    next(results)
    assert len(taken) == 7
    results.close()


def test_leaving_early_leaves_no_process() -> None:
    before = children(os.getpid())
    results = ordered(squares, TASKS, workers=2)
    next(results)
    mine = set(children(os.getpid())) - set(before)
    assert len(mine) == 2
    results.close()
    assert not [pid for pid in mine if Path(f"/proc/{pid}").exists()]


def children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in listed]


@pytest.mark.parametrize(
    ("work", "poll_seconds"),
    [
        ("squares", 1000.0),  # it waits for a task
        ("large", 1000.0),  # it waits until somebody hears its result
        ("endless", 0.2),  # it waits for something else
    ],
)
def test_workers_follow_a_parent_that_was_killed(work: str, poll_seconds: float, tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from openmae.data.loading import pool\n"
        f"from tests.data.test_pool import TASKS, {work}\n"
        f"pool.POLL_SECONDS = {poll_seconds}\n"
        f"results = pool.ordered({work}, TASKS, 2)\n"
        "next(results)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    log = tmp_path / "log"
    with started_openmae([], log, code=code) as process:
        wait_for(lambda: log.read_text() == "ready\n", process)
        workers = children(process.pid)
        assert len(workers) == 2
        process.kill()
    wait_for(lambda: not any(alive(pid) for pid in workers))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def fill(shared: SharedArray, task: range, hand: Hand) -> int:
    for number in task:
        shared.array[number, 0] = number
    return len(task)


@pytest.mark.parametrize("method", ["fork", "spawn"])  # as on Linux, and as elsewhere
def test_workers_write_to_shared_arrays(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "START", method)
    shared = SharedArray((80, 2), "uint16")
    assert sum(ordered(partial(fill, shared), TASKS, 1)) == 80
    assert np.array_equal(shared.array[:, 0], np.arange(80))
    assert not shared.array[:, 1].any()


def test_an_error_elsewhere_does_not_keep_the_interpreter(tmp_path: Path) -> None:
    code = (
        "from tests.data.work import TASKS, squares\n"
        "from openmae.data.loading.pool import ordered\n"
        "results = ordered(squares, TASKS, 2)\n"
        "next(results)\n"
        "1 / 0\n"  # the traceback keeps the generator, and its workers
    )
    done = run_openmae([], code=code)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
