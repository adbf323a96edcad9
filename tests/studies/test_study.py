"""The folder of a study: parts done once, by one process or several, killed or not; parts that fail; old folders."""

import json
import os
import random
import signal
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from openmae.errors import Interrupted, UserError
from openmae.studies.jobs import STARTED
from openmae.studies.study import Part, Share, Study
from openmae.train.environment import source
from tests.processes import run_openmae, start_openmae, started_openmae, wait_for

QUIET = Console(quiet=True)
PROCESS = """
import os, sys, time
from pathlib import Path
from rich.console import Console
from openmae.studies.jobs import STARTED
from openmae.studies.study import Part, Share, Study

folder, number, of = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def part(index):
    def do():
        with (folder.parent / "begun.txt").open("a") as file:
            file.write(f"{index}\\n")
        time.sleep(0.02)
        with (folder.parent / "ended.txt").open("a") as file:
            file.write(f"{index} {os.getpid()}\\n")
        return {"square": index**2}
    return Part(f"p/{index}", "square", f"{index}", do, after=(f"p/{index - 1}",) if index % 2 else ())
parts = [part(index) for index in range(30)]
study = Study(folder, "ablate", {"seed": 0}, Console(quiet=True), endures=True)
study.do(parts, parts, Share(number, of) if of > 1 else None)
"""


def parts_of(names: str, do: Any) -> list[Part]:
    return [Part(name, "kind", name, lambda name=name: do(name)) for name in names]


def squares(study: Path) -> dict[str, Any]:
    return {file.stem: json.loads(file.read_text())["figures"] for file in (study / "parts/p").glob("*.json")}


def test_each_part_is_done_once_and_the_rest_by_the_next_start(tmp_path: Path) -> None:
    done: list[str] = []

    def do(name: str) -> dict[str, Any]:
        if name == "c" and len(done) == 2:
            raise Interrupted("stopped")
        done.append(name)
        return {"found": name}

    parts = parts_of("abcd", do)
    study = Study(tmp_path / "s", "ablate", {"a": 1, "none": None, "t": (1, 2)}, QUIET)
    with pytest.raises(Interrupted):
        study.do(parts, parts)
    assert done == ["a", "b"]
    progress = Study(tmp_path / "s", "ablate", {"t": [1, 2], "a": 1}, QUIET).progress(parts)
    assert (progress.of, progress.done, progress.failed, progress.running) == (4, 2, 0, 0)
    done.append("")
    again = Study(tmp_path / "s", "ablate", {"a": 1, "t": (1, 2)}, QUIET)
    assert again.do(parts, parts)
    assert done == ["a", "b", "", "c", "d"]
    assert not again.do(parts, parts)
    assert again.figures("c") == {"found": "c"}
    assert not list((tmp_path / "s/parts").glob("*.lock"))


def test_what_fails_takes_nothing_down_but_what_needs_it_and_is_tried_once_more(tmp_path: Path) -> None:
    done: list[str] = []

    def do(name: str) -> dict[str, Any]:
        done.append(name)
        if name == "a" and len(done) < 5:
            raise UserError("the teacher collapsed", "lower the rate")
        if name == "b":
            raise ZeroDivisionError("a bug")
        return {}

    parts = [*parts_of("abc", do), Part("d", "kind", "d", lambda: do("d"), after=("a",))]
    study = Study(tmp_path / "s", "ablate", {}, QUIET, endures=True)
    study.do(parts, parts)
    assert done == ["a", "b", "c"]
    assert study.why_failed("a") == "the teacher collapsed: lower the rate"
    assert study.why_failed("b") == "ZeroDivisionError: a bug"
    assert "in do" in (tmp_path / "s/parts/b.txt").read_text()
    assert study.why_failed("d") == "a failed, which it needs"
    assert study.figures("a") is None
    assert str(study.progress(parts)).startswith("4 of 4 parts done (3 failed), 0 running")
    done.append("")
    again = Study(tmp_path / "s", "ablate", {}, QUIET, endures=True)
    again.do(parts, parts)
    assert done == ["a", "b", "c", "", "a", "b", "d"]
    assert [again.why_failed(name) for name in "acd"] == [None, None, None]
    with pytest.raises(ZeroDivisionError):
        Study(tmp_path / "other", "adapt", {}, QUIET).do(parts, parts)


def test_one_process_waits_for_another_and_one_that_shares_does_not(tmp_path: Path) -> None:
    """The part that the other is at is not done twice; what it left when it was killed is."""
    parts = parts_of("a", lambda name: {"found": name})
    study = Study(tmp_path / "s", "ablate", {}, QUIET)
    lock = tmp_path / "s/parts/a.lock"
    code = (
        "import json, os, socket, sys, time; from openmae.files.whole import take_lock; from pathlib import Path\n"
        "lock = take_lock(Path(sys.argv[1]))\n"  # as PartLock does, without torch
        "lock.write(json.dumps({'pid': os.getpid(), 'host': socket.gethostname()})); lock.flush()\n"
        "print('taken', flush=True); time.sleep(60)"
    )
    with started_openmae([str(lock)], tmp_path / "log", code=code) as process:
        while "taken" not in (tmp_path / "log").read_text():
            time.sleep(0.01)
        assert not study.do(parts, parts, Share(2, 2))
        process.kill()
    assert study.do(parts, parts)
    assert study.figures("a") == {"found": "a"}


def test_a_process_of_jobs_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Which is killed, and can tell it nothing: a pipe between them is closed by the system."""
    code = (
        "import time; from openmae.studies.jobs import end_with_starter\n"
        "end_with_starter(); print('begun', flush=True); time.sleep(60)"
    )
    reading, writing = os.pipe()
    with (tmp_path / "log").open("w") as log:
        starter = start_openmae([], writing, log, code="import time; time.sleep(60)")
        environment = {**os.environ, STARTED: "1"}
        process = start_openmae([], log, stdin=reading, environment=environment, code=code)
    for end in (reading, writing):
        os.close(end)
    wait_for(lambda: "begun" in (tmp_path / "log").read_text(), process)
    assert starter.poll() is None
    starter.kill()
    assert process.wait(20) == -signal.SIGTERM, (tmp_path / "log").read_text()


@given(st.integers(0, 30), st.integers(1, 8), st.data())
def test_a_share_begins_elsewhere_and_comes_to_all(count: int, of: int, data: st.DataObject) -> None:
    parts = [Part(str(number), "", "", dict) for number in range(count)]
    number = data.draw(st.integers(1, of))
    first = Share(number, of).first(parts)
    assert sorted(first, key=parts.index) == parts
    firsts = {Share(one, of).first(parts)[0].name for one in range(1, of + 1)} if count >= of else {""}
    assert len(firsts) == (of if count >= of else 1)


def test_several_processes_killed_again_and_again_do_all_of_it(tmp_path: Path) -> None:
    study, draws, kills = tmp_path / "s", random.Random(0), 0
    for _ in range(10):
        with (tmp_path / "log").open("a") as log:
            both = [start_openmae([str(study), str(number), "2"], log, code=PROCESS) for number in (1, 2)]
        time.sleep(draws.uniform(0.05, 0.4))
        for process in both:
            kills += process.poll() is None
            process.kill()
            process.wait(60)
    assert kills >= 2
    last = run_openmae([str(study), "1", "1"], code=PROCESS)
    assert last.returncode == 0, last.stderr
    assert squares(study) == {str(index): {"square": index**2} for index in range(30)}
    begun, ended = (Counter((tmp_path / name).read_text().split("\n")) for name in ("begun.txt", "ended.txt"))
    assert sum(begun.values()) <= 31 + kills
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert ended


def test_processes_share_without_doing_anything_twice(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        both = [start_openmae([str(tmp_path / "s"), str(number), "2"], log, code=PROCESS) for number in (1, 2)]
    assert [process.wait(60) for process in both] == [0, 0], (tmp_path / "log").read_text()
    lines = [line.split() for line in (tmp_path / "ended.txt").read_text().splitlines()]
    assert sorted(int(index) for index, _ in lines) == list(range(30))
    assert squares(tmp_path / "s").keys() == {str(index) for index in range(30)}


def test_a_study_of_one_file_goes_on(tmp_path: Path) -> None:
    study = tmp_path / "s"
    study.mkdir()
    old = {
        "kind": "adapt",
        "asked": {"model": "m", "minutes": None, "selection": {"include": [], "tile": None}},
        "parts": {"gone-on/seed-0": {"kind": "training", "seconds": 3.5, "figures": {"steps": 4}}},
    }
    (study / "study.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="a study with model = m, not n"):
        Study(study, "adapt", {"model": "n", "selection": {"include": ()}}, QUIET)
    with pytest.raises(UserError, match="holds a study of openmae adapt"):
        Study(study, "ablate", {}, QUIET)
    new = Study(study, "adapt", {"model": "m", "minutes": None, "selection": {"include": (), "tile": None}}, QUIET)
    parts = [Part("gone-on/seed-0", "training", "", lambda: {"steps": 5})]
    assert not new.do(parts, parts)
    assert new.figures("gone-on/seed-0") == {"steps": 4}
    assert not (study / "study.json").exists()
    assert 'study = "adapt"' in (study / "study.toml").read_text()


def test_what_is_known_of_the_code_has_to_be_the_same(tmp_path: Path) -> None:
    """The source where it is known, whatever the commit; of older studies the version, or nothing."""
    Study(tmp_path / "s", "ablate", {"a": 1}, QUIET)
    file = tmp_path / "s/study.toml"
    begun = file.read_text()
    now = tomllib.loads(begun)["code"]
    assert now["source"] == source()
    for code, is_taken in (
        (now, True),
        ({**now, "commit": "0" * 40}, True),  # of the docs, maybe
        ({**now, "source": "0" * 16}, False),
        ({"openmae": now["openmae"]}, True),
        ({"openmae": "0.0.1"}, False),
        ({}, True),
    ):
        file.write_text(tomli_w.dumps({"study": "ablate", "asked": {"a": 1}, "code": code}))
        if not is_taken:
            with pytest.raises(UserError, match="was begun with other code"):
                Study(tmp_path / "s", "ablate", {"a": 1}, QUIET)
        Study(tmp_path / "s", "ablate", {"a": 1}, QUIET, other_code=not is_taken)
    file.write_text(tomli_w.dumps({"study": "ablate", "asked": {"a": 1, "openmae": "0.0.1"}}))  # where it stood once
    with pytest.raises(UserError, match=r"was begun with other code \(openmae 0\.0\.1; this is openmae "):
        Study(tmp_path / "s", "ablate", {"a": 1}, QUIET)


def test_images_and_labels_are_told_from_what_was_asked(tmp_path: Path) -> None:
    Study(tmp_path / "s", "ablate", {"images": "1", "answers": "2"}, QUIET)
    for changed in ({"images": "3"}, {"answers": "3"}, {"images": "3", "answers": "3"}):
        with pytest.raises(UserError, match="the images have changed since the study"):
            Study(tmp_path / "s", "ablate", {"images": "1", "answers": "2", **changed}, QUIET)
    Study(tmp_path / "older", "ablate", {"images": "1"}, QUIET)
    Study(tmp_path / "older", "ablate", {"images": "1", "answers": "2"}, QUIET)


def test_what_is_damaged_is_said(tmp_path: Path) -> None:
    parts = parts_of("a", lambda name: {})
    Study(tmp_path / "s", "ablate", {}, QUIET).do(parts, parts)
    (tmp_path / "s/parts/a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        Study(tmp_path / "s", "ablate", {}, QUIET).do(parts, parts)
    (tmp_path / "s/study.toml").write_text("study =")
    with pytest.raises(UserError, match=r"study\.toml is damaged"):
        Study(tmp_path / "s", "ablate", {}, QUIET)


def test_who_runs_is_told_from_who_was_killed(tmp_path: Path) -> None:
    parts = parts_of("abc", lambda name: {})
    study = Study(tmp_path / "s", "ablate", {}, QUIET)
    for name, pid, host in (("a", os.getpid(), None), ("b", 2**22 + 1, None), ("c", 1, "elsewhere")):
        said = {"pid": pid, "host": host or os.uname().nodename}
        (tmp_path / f"s/parts/{name}.lock").write_text(json.dumps(said))
    assert study.progress(parts).running == 2
