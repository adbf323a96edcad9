"""What a study keeps in its folder: what was asked, in study.toml, and of each part a file of what it found, with a
lock. Several processes, here or on other machines that see the folder, work in it at once.

    study.toml                  the command, and what was asked: what decides the figures; the code that it began with
    parts/NAME.json             of a part that is done: its figures, or why there are none, and the seconds
    parts/NAME.lock             of a part that a process is at; left by one that was killed
"""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import tomli_w

from openmae.errors import UserError
from openmae.files.parsing import read_json, read_toml
from openmae.files.study import ASKED, PARTS, STUDY, check_place
from openmae.files.whole import locked, take_lock, write_file
from openmae.train.environment import code
from openmae.train.run import differences

Found = dict[str, Any]
"""What a part found: {"kind", "seconds", "figures", "code"}, and "failed", a sentence, with "at", a time, where it
failed."""
_IMAGES = {"images", "answers"}
"""Of what was asked: what changes with DATA. Studies that are older have no answers."""


def plain(asked: dict[str, Any]) -> dict[str, Any]:
    """As study.toml gives it back: lists for tuples, and nothing for None."""
    return {name: _plain(value) for name, value in asked.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float) else str(value)


class PartLock:
    """That this process is at a part, until it is let go."""

    def __init__(self, file: Path, lock: IO[str]) -> None:
        self._file, self._lock = file, lock
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        lock.flush()

    def let_go(self) -> None:
        """Others may take it."""
        with suppress(OSError):
            self._file.unlink()
        self._lock.close()


class Kept:
    """The files of a study."""

    def __init__(self, path: Path, kind: str, asked: dict[str, Any], *, other_code: bool = False) -> None:
        """Takes the folder, or makes it. other_code: whether it may go on with other code than it began with. Raises
        UserError where it belongs to something else or to a study of something else, or cannot be written."""
        self.path, self.kind, self.asked = path, kind, plain(asked)
        self._takes_other_code = other_code
        check_place(path)
        try:
            (path / PARTS).mkdir(parents=True, exist_ok=True)
            with locked(path / ASKED):
                self._settle()
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})", "choose another `out`") from error

    def part(self, name: str) -> Found | None:
        """What a part found; None where it is not done. Raises UserError where its file is damaged."""
        file = self.path / PARTS / f"{name}.json"
        try:
            found = read_json(file.read_bytes())
            _ = float(found["seconds"]), dict(found["figures"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error!r})", "remove it, and the part is done again") from error
        return dict(found)

    def keep(self, name: str, found: Found) -> None:
        """What a part found. Raises UserError where the disk is full."""
        file = self.path / PARTS / f"{name}.json"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, json.dumps(found, indent=1).encode())
        except OSError as error:
            raise UserError(f"{file} cannot be written ({error.strerror})", "make room") from error

    def take(self, name: str) -> PartLock | None:
        """The part for this process; None where another one is at it."""
        file = self._lock_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(file)
        return None if lock is None else PartLock(file, lock)

    def is_under_way(self, name: str) -> bool:
        """Whether a process seems to be at it; one that was killed here is not, of other machines nobody can tell."""
        try:
            said = read_json(self._lock_file(name).read_bytes())
            pid, host = int(said["pid"]), str(said["host"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return host != socket.gethostname() or _is_alive(pid)

    def _lock_file(self, name: str) -> Path:
        return self.path / PARTS / f"{name}.lock"

    def _settle(self) -> None:
        """Raises UserError where the folder is of another study, or what says so is damaged."""
        before = self._before()
        if before is None:
            self._write(self.kind, self.asked, code())
            return
        kind, asked, its = before
        if kind != self.kind:
            raise UserError(f"{self.path} holds a study of openmae {kind}", "choose another `out`")
        differing = [name for name in {**asked, **self.asked} if asked.get(name) != self.asked.get(name)]
        if "answers" not in asked:
            differing = [name for name in differing if name != "answers"]
        if differing and _IMAGES.issuperset(differing):
            raise UserError(
                f"the images have changed since the study in {self.path} began (files added, removed, renamed or of "
                "another size, or other labels)",
                "put them back, or choose another `out`",
            )
        if {"data", "labels"} & {*differing}:  # of other images, all that follows from them
            differing = [name for name in differing if name not in _IMAGES]
        if differing:
            said = differences(asked, self.asked, differing)
            raise UserError(f"{self.path} holds a study with {said}", "choose another `out`, or ask the same again")
        if not self._takes_other_code and not _is_same(its, code()):
            raise UserError(
                f"{self.path} was begun with other code ({_named(its)}; this is {_named(code())})",
                "go on with that, choose another `out`, or give `other_code`: the table says so, then",
            )

    def _write(self, kind: str, asked: dict[str, Any], its: dict[str, Any]) -> None:
        found = {"study": kind, "asked": asked, **({"code": its} if its else {})}
        write_file(self.path / ASKED, tomli_w.dumps(found).encode())

    def _before(self) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
        """(command, what was asked, by what code, as far as that is known) of the study that is there; None where none
        is."""
        if (file := self.path / ASKED).exists():
            try:
                found = read_toml(file.read_text(encoding="utf-8"))
                kind, asked, its = str(found["study"]), dict(found["asked"]), dict(found.get("code", {}))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} is damaged ({error!r})", "begin anew in another `out`") from error
            if (version := asked.pop("openmae", None)) is not None:  # where it stood once
                its["openmae"] = version
            return kind, asked, its
        if (file := self.path / STUDY).exists():
            return self._as_once(file)
        return None

    def _as_once(self, file: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Of a study that was begun when one file kept all of it, which goes once each part has its own."""
        try:
            found = read_json(file.read_bytes())
            kind, asked, parts = str(found["kind"]), plain(found["asked"]), dict(found["parts"])
            _ = [(float(one["seconds"]), dict(one["figures"])) for one in parts.values()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is damaged ({error!r})", "begin anew in another `out`") from error
        for name, one in parts.items():
            self.keep(name, one)
        self._write(kind, asked, {})
        file.unlink()
        return kind, asked, {}


def _is_same(before: dict[str, Any], now: dict[str, str]) -> bool:
    """Whether code makes the same figures, as far as that is known."""
    name = "source" if "source" in before else "openmae"
    return name not in before or before[name] == now[name]


def _named(its: dict[str, Any]) -> str:
    """0.1.0, commit 1a2b3c4+: of code; its source, where these may be the same of two."""
    commit = str(its.get("commit", ""))
    at = f", commit {commit[:7]}{'+' * commit.endswith('+')}" if commit else ""
    source = f", source {str(its['source'])[:8]}" if "source" in its else ""
    return f"openmae {its.get('openmae', 'of an unknown version')}{at}{source}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
