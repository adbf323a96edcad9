"""The run folder: who may write into it, its settings, its log. Other rooms read it, only training writes it."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Self

import tomli_w

from openmae.errors import UserError
from openmae.files.address import shown
from openmae.files.parsing import read_json, read_toml, to_json
from openmae.files.whole import take_lock, write_file
from openmae.train.checkpoint import newest_record
from openmae.train.environment import environment

_MOST_NAMED = 5  # settings in a sentence


def differences(before: Mapping[str, Any], now: Mapping[str, Any], differing: Sequence[str]) -> str:
    """epochs = 100, not 200, ...: of settings that differ; none where one is not given."""

    def of(values: Mapping[str, Any], name: str) -> str:
        return "none" if values.get(name) is None else f"{values[name]}"

    said = ", ".join(f"{name} = {of(before, name)}, not {of(now, name)}" for name in differing[:_MOST_NAMED])
    return said + f", and {len(differing) - _MOST_NAMED} more differences" * (len(differing) > _MOST_NAMED)


class RunFolder:
    """An open run folder, locked against a second process until closed; a context manager.

    Of the processes that train together only the lead's touches the disk.
    """

    def __init__(self, path: Path, *, leads: bool = True) -> None:
        """Takes the folder, making it where it does not exist.

        Raises UserError where it belongs to something else, another process trains in it, or it cannot be
        written.
        """
        self.path, self.leads = path, leads
        self.checkpoints = path / "checkpoints"
        self._unwritten = b""  # lines that the disk has not taken
        self._metrics: BinaryIO | None = None
        self._logged, self._digest = 0, hashlib.sha256()  # bytes of metrics.jsonl
        self._fingerprint: str | None = None  # of the images
        self._lock: IO[str] | None = None
        if not leads:
            return
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file", "choose another `out`")
        if path.is_dir() and not (path / "config.toml").exists():
            left_by_a_failed_start = {"lock", "broken.txt", "slurm"}
            if any(e.name not in left_by_a_failed_start and not e.name.startswith(".") for e in path.iterdir()):
                raise UserError(f"{path} is not empty and is not a run", "choose another `out`")
        if not self.has_begun and _is_complete(path):
            raise UserError(
                f"{path} holds a finished run whose checkpoints are gone, and would begin anew, over its weights",
                f"choose another `out`, or remove {path / 'model.safetensors'} first",
            )
        self._made = [place for place in (path, *path.absolute().parents) if not place.exists()]
        if os.path.lexists(self.checkpoints) and not self.checkpoints.is_dir():  # it would begin anew, over all it has
            raise UserError(
                f"{self.checkpoints} is a file, or a link that leads nowhere", "mend it, or give another `out`"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(path / "lock")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})", "choose another `out`") from error
        if self._lock is None:
            raise UserError(f"another process trains in {path}", "wait for it, or choose another `out`")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._lock is not None:
            if kind is not None and self._made:
                self._leave_nothing()
            self._lock.close()

    def _leave_nothing(self) -> None:
        """Takes folders away again that a start has made and not used: what was asked for was refused."""
        with suppress(OSError):
            if [place.name for place in self.path.iterdir()] == ["lock"]:
                (self.path / "lock").unlink()
                for place in self._made:
                    place.rmdir()

    @property
    def has_begun(self) -> bool:
        """Whether something has been learnt in this folder: a checkpoint was saved, be it damaged since."""
        return self.leads and has_begun(self.path)

    def settle(
        self, config: dict[str, Any], fingerprint: str, may_differ: Collection[str], asked: Sequence[str] = ()
    ) -> list[str]:
        """Writes config.toml and environment.json; where the run has begun, checks that it is a run of these settings
        and images. Returns what has changed of the folder in ways that training can go on from.

        may_differ: settings that do not change the result, such as the number of loader workers. asked: those that the
        user set, for people to read.
        Raises UserError that names what differs.
        """
        complaints: list[str] = []
        config = {key: _plain(value) for key, value in config.items() if value is not None}
        for key, value in config.items():
            if isinstance(value, str) and not _is_text(value):
                raise UserError(f"{key} is {value!a}, which is no UTF-8 text and cannot be kept", "rename it")
        starts: list[dict[str, Any]] = []
        if self.has_begun:
            before = {key: _plain(value) for key, value in read_config(self.path).items()}
            differing = [k for k in {**before, **config} if k not in may_differ and before.get(k) != config.get(k)]
            starts, complaints = self._starts()
            is_same = self._is_of(fingerprint, starts, complaints)
            if differing and (is_same or differing != ["steps"]):  # they follow from the images, too
                said = differences(before, config, differing)
                raise UserError(
                    f"{self.path} holds a run with {said}", "choose another `out`, or `resume` it with its own settings"
                )
            if not is_same:
                raise UserError(
                    f"the images have changed since the run in {self.path} began, or are others (files added, removed, "
                    "renamed or of another size, or other labels)",
                    "put them back, or choose another `out`, in which a pre-training goes on with them by `from_`",
                )
        for part in self.checkpoints.glob(".*.part"):  # left by a kill
            shutil.rmtree(part, ignore_errors=True)
        write_file(self.path / "config.toml", tomli_w.dumps(config).encode())
        starts.append({**environment(), "asked": [*asked], "data_fingerprint": fingerprint})
        write_file(self.path / "environment.json", json.dumps({"starts": starts}, indent=1).encode())
        self._fingerprint = fingerprint
        return complaints

    def begun_with(self) -> str:
        """The fingerprint of what the run has learnt from; empty where nothing tells, or this process does not lead."""
        if not self.leads:
            return ""
        starts, _ = self._starts()
        told = [start["data_fingerprint"] for start in starts[:1]]
        return str(newest_record(self.checkpoints).get("data_fingerprint") or "".join(told))

    def asked_first(self) -> list[str]:
        """Names of the settings that the user set when the run began; none where nothing tells."""
        starts, _ = self._starts()
        told = [start.get("asked") for start in starts[:1]]
        return [name for names in told if isinstance(names, list) for name in names if isinstance(name, str)]

    def _starts(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Those that environment.json tells of, and what is wrong with it. It is for people: a run goes on without."""
        file = self.path / "environment.json"
        try:
            starts = list(read_json(file.read_bytes())["starts"])
            _ = [start["data_fingerprint"] for start in starts]
            return starts, []
        except FileNotFoundError:
            return [], []
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [], [self._set_aside(file, str(error))]

    def _is_of(self, fingerprint: str, starts: list[dict[str, Any]], complaints: list[str]) -> bool:
        """Whether the images are those that the run has learnt from. Adds to the complaints where nothing, or not
        everything, says so."""
        told = [start["data_fingerprint"] for start in starts[:1]]
        saved = newest_record(self.checkpoints).get("data_fingerprint")
        if saved is None:  # by an older version
            if not told:
                complaints.append("whether the images are the same as before is not known any more")
            return told in ([], [fingerprint])
        if told and told != [saved]:
            complaints.append(
                f"{self.path / 'environment.json'} is damaged (it names other images than the checkpoint)"
            )
            starts[0]["data_fingerprint"] = saved
        return bool(saved == fingerprint)

    def _set_aside(self, file: Path, why: str) -> str:
        """Keeps a damaged file under another name; returns the sentence that says so."""
        aside = file.with_name(f"damaged-{file.name}")
        with suppress(OSError):
            shutil.copyfile(file, aside)
        return f"{file} is damaged ({why}); as it was found it is kept as {aside.name}"

    def record(self) -> dict[str, Any]:
        """What a checkpoint is to remember of this folder, so that changes of it are noticed."""
        return {
            "data_fingerprint": self._fingerprint,
            "metrics_bytes": self._logged,
            "metrics_sha256": self._digest.hexdigest(),
        }

    def rewind(self, step: int, record: dict[str, Any]) -> list[str]:
        """Drops what metrics.jsonl says of steps after `step`, which a resumed run takes anew. Returns what is wrong
        with the rest: record, of the step's checkpoint, has its length and digest."""
        file, complaints = self.path / "metrics.jsonl", list[str]()
        if not self.leads:
            return complaints
        found = file.read_bytes() if file.exists() else b""
        kept = found[: record["metrics_bytes"]] if isinstance(record.get("metrics_bytes"), int) else None
        if kept is None or hashlib.sha256(kept).hexdigest() != record.get("metrics_sha256"):
            if kept is not None:
                complaints.append(self._set_aside(file, "it has changed since the checkpoint was saved"))
            kept = b""
        lines = [line for text in found[len(kept) :].splitlines() if (line := _line(text)) is not None]
        kept += b"".join(to_json(line) + b"\n" for line in lines if line.get("step", 0) <= step)
        self._logged, self._digest = len(kept), hashlib.sha256(kept)
        if found or kept:
            write_file(file, kept)
        return complaints

    def has_logged(self, step: int) -> bool:
        """Whether metrics.jsonl has a line of this step."""
        return any(line.get("step") == step for line in read_metrics(self.path))

    def log(self, line: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl. Raises OSError where the disk does not take it; it is kept, and appended
        with the next one."""
        if not self.leads:
            return
        self._unwritten += to_json(line) + b"\n"
        self.flush()

    def flush(self) -> None:
        """Writes the lines that the disk has not taken yet. Raises OSError."""
        if not self._unwritten:
            return
        if self._metrics is None:
            self._metrics = (self.path / "metrics.jsonl").open("ab", buffering=0)
        whole = self._metrics.seek(0, os.SEEK_END)
        try:
            if self._metrics.write(self._unwritten) != len(self._unwritten):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / "metrics.jsonl"))
        except OSError:
            with suppress(OSError):
                self._metrics.truncate(whole)  # no torn line in the middle
            raise
        self._logged += len(self._unwritten)
        self._digest.update(self._unwritten)
        self._unwritten = b""

    def sync(self) -> None:
        """Puts what was logged on the disk itself, before a checkpoint that stands for it.

        Raises OSError, and UserError where the folder was removed: what is written from then on makes no run.
        """
        if self._lock is not None and not (self.path / "lock").exists():
            raise UserError(f"{self.path} was removed while it was trained in", "begin anew")
        self.flush()
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())


def has_begun(run: Path) -> bool:
    """Whether something has been learnt in this run: a checkpoint was saved, be it damaged since."""
    return any(place.name[0] != "." for place in (run / "checkpoints").glob("*step-*"))  # .step-...part is none yet


def read_config(run: Path) -> dict[str, Any]:
    """config.toml as a dict. Raises UserError where the folder is no run or the file is damaged."""
    try:
        return read_toml((run / "config.toml").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{run} is not a run folder: it has no config.toml") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run / 'config.toml'} cannot be read ({error})", "restore it, or choose another run"
        ) from error


def last_step(config: Mapping[str, Any], model: Any) -> Any:
    """The step after which nothing more is learnt, by config.toml, or, where the run ended before its time, by
    model.json; None where neither says it."""
    origin = model.get("provenance") if isinstance(model, dict) else None
    if isinstance(origin, dict) and origin.get("ended_early"):
        return origin.get("step")
    return config.get("steps")


def _is_complete(run: Path) -> bool:
    """Whether its weights are those of its last step."""
    try:
        model = read_json((run / "model.json").read_bytes())
        is_last = model["provenance"]["step"] == last_step(read_config(run), model)
        return (run / "model.safetensors").exists() and bool(is_last)
    except (OSError, ValueError, TypeError, LookupError, UserError):
        return False


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to the first that is none, such as one torn by a kill."""
    lines: list[dict[str, Any]] = []
    file = run / "metrics.jsonl"
    for text in file.read_bytes().splitlines() if file.exists() else []:
        if (line := _line(text)) is None:
            break
        lines.append(line)
    return lines


def _line(text: bytes) -> dict[str, Any] | None:
    """None where it is none."""
    try:
        line = read_json(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step", 0), int | float) else None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    """As TOML gives it back: tuples are lists. Addresses are without their secrets."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return shown(value) if isinstance(value, str) else value
