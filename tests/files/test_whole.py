"""Files and folders are whole or as they were, whatever ends their writing; a lock has one holder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openmae.files import left
from openmae.files.cache import map_arrays, write_arrays
from openmae.files.whole import WholeFile, folder_beside, locked, take_lock, whole_folder, write_file
from tests.processes import started_openmae, wait_for

KILLED = """
import os, signal, sys
from pathlib import Path
from openmae.files.whole import whole_folder, write_file, write_synced

place = Path(sys.argv[1])

def file(text):
    write_file(place / "file", text.encode())
    return (place / "file").read_text()

def folder(text):
    with whole_folder(place / "folder") as aside:
        write_synced(aside / "a", text.encode())
        write_synced(aside / "b", text.encode())

def holds():
    found = {(place / "file").read_text()}
    if (place / "folder").exists():  # the old one steps aside right before the new one comes
        found |= {(place / "folder" / name).read_text() for name in "ab"}
    return found

for write in (file, folder):
    file("old"), folder("old")
    for point in range(100):  # kill before the point-th touch of the disk
        child = os.fork()
        if child == 0:
            count = iter(range(1000))
            def deadly(original):
                def call(*args, **kwargs):
                    if next(count) == point:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return original(*args, **kwargs)
                return call
            for name in ("open", "fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "close"):
                setattr(os, name, deadly(getattr(os, name)))
            write("new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert holds() <= {"old", "new"}, holds()
        print(write.__name__, point, flush=True)
        if status == 0:
            break
    else:
        sys.exit("never finished")
    write("newer")
    assert "newer" in holds()
"""


def test_a_kill_at_any_touch_of_the_disk_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 8
    assert not (tmp_path / ".folder.part").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
def test_what_fails_leaves_what_was_there_and_no_trace(tmp_path: Path, error: BaseException) -> None:
    write_file(tmp_path / "file", b"old")
    with whole_folder(tmp_path / "folder") as aside:
        (aside / "a").write_text("old")

    def failing(place: Path) -> None:
        place.write_text("new")
        raise error

    with pytest.raises(type(error)), WholeFile(tmp_path / "file", aside=tmp_path / ".file.part"):
        failing(tmp_path / ".file.part")
    with pytest.raises(type(error)), whole_folder(tmp_path / "folder") as aside:
        failing(aside / "a")
    with pytest.raises(type(error)), folder_beside(tmp_path / "other") as aside:
        failing(aside / "other")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/a").read_text() == "old"


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == ".folder.part":
            raise PermissionError(1, "Operation not permitted")
        return rename(self, target)

    with whole_folder(tmp_path / "folder") as aside:
        (aside / "a").write_text("old")
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError), whole_folder(tmp_path / "folder"):
        pass
    assert [place.name for place in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder/a").read_text() == "old"


def test_what_is_not_finished_is_not_there(tmp_path: Path) -> None:
    with WholeFile(tmp_path / "file", aside=tmp_path / "aside") as whole:
        whole.file.write(b"new")
        assert (tmp_path / "aside").exists()
    assert list(tmp_path.iterdir()) == []


def test_two_that_write_one_file_at_once_are_not_in_each_others_way(tmp_path: Path) -> None:
    with WholeFile(tmp_path / "file") as one, WholeFile(tmp_path / "file") as other:
        one.file.write(b"one")
        other.file.write(b"other")
        one.finish()
        assert (tmp_path / "file").read_bytes() == b"one"
        other.finish()
    assert [(place.name, place.read_bytes()) for place in tmp_path.iterdir()] == [("file", b"other")]


@pytest.mark.parametrize("write", [lambda file: write_file(file, b"x"), lambda file: write_arrays(file, {})])
def test_others_may_read_what_the_mask_allows(tmp_path: Path, write: Callable[[Path], None]) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {})
    assert map_arrays(tmp_path / "a.npz") == {}


# ---------------------------------------------------------------- locks

HOLDER = "import sys; from pathlib import Path; from openmae.files.whole import take_lock; "
HOLDS = HOLDER + "lock = take_lock(Path(sys.argv[1])); print(lock is not None, flush=True); input()"


def test_a_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDS, str(tmp_path / "lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert take_lock(tmp_path / "lock") is None
        holder.kill()
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    with lock:
        refused = subprocess.run(words, input="", check=False, capture_output=True, text=True)
        assert refused.stdout == "False\n"


def test_a_lock_that_was_removed_with_its_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever had it has finished between our opening the file and our locking it."""
    import fcntl

    lockf = fcntl.lockf

    def late(file: object, how: int) -> None:
        (tmp_path / "lock").unlink()
        lockf(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "lockf", late)
    assert take_lock(tmp_path / "lock") is None


def test_what_is_no_lock_of_anothers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        take_lock(tmp_path)


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from openmae.files.whole import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(0.5); Path(sys.argv[1]).write_text('done')"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "file")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with locked(tmp_path / "file"):
            assert (tmp_path / "file").read_text() == "done"


LEAVES = """
import os, signal, sys, time
from pathlib import Path
from openmae.files.whole import WholeFile, folder_beside
from tests.processes import started_openmae, wait_for

place = Path(sys.argv[1])
with folder_beside(place / "model") as folder, WholeFile(place / "table.csv") as whole:
    (folder / "a").write_text("half")
    whole.file.write(b"half")
    whole.file.flush()
    for one in place.iterdir():
        os.utime(one, (1, 1))  # long ago
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_has_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    log = tmp_path / "log"
    place = tmp_path / "place"
    place.mkdir()
    (place / ".model.notes.part").touch()  # of somebody else
    with started_openmae([str(place)], log, code=LEAVES) as process:
        wait_for(lambda: log.exists() and "ready" in log.read_text(), process)
        writing(place)
        assert len(list(place.glob(".*.????????.part"))) == 2
        process.kill()
    writing(place)
    assert sorted(path.name for path in place.iterdir()) == [".model.notes.part", "table.csv"]


def writing(place: Path) -> None:
    """As another process would, which has not looked yet."""
    left.left_in.cache_clear()
    with folder_beside(place / "model"):
        write_file(place / "table.csv", b"all")
