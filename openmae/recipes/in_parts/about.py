"""What a file that was computed part by part says of itself: of which model, settings and images it is. A parquet file
has it in its metadata, any other in a .json beside it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from openmae.errors import UserError
from openmae.recipes.in_parts.folder import PartsFolder, opened_parts, parts_folder, read_job

KEY = "openmae"  # of the parquet schema's metadata
SAME_IMAGES = "other images (another DATA or --split, or files added, removed or changed)"


@dataclass(frozen=True)
class Kind:
    """A kind of such a file.

    command: that writes it. holds: what is in it; under_way: a work on it. model: the entry that tells the model's
    weights. others: entries that have to be the same, with what to say where they are not; flags: those that are
    settings. beside: suffixes of the files that come beside it, where it is no parquet.
    """

    command: str
    holds: str
    under_way: str
    model: str
    others: dict[str, str]
    flags: tuple[str, ...]
    beside: tuple[str, ...] = (".json",)

    def companions(self, out: Path) -> list[Path]:
        """The files that come beside it; the last one says what it is."""
        return [] if out.suffix.lower() == ".parquet" else [out.with_suffix(suffix) for suffix in self.beside]

    def read(self, out: Path) -> dict[str, Any]:
        """What a file that is there says of itself. Raises UserError where it is no such file."""
        found: Any = None
        if out.suffix.lower() == ".parquet":
            found = _in_parquet(out)
        else:
            description = self.companions(out)[-1]
            try:
                found = json.loads(description.read_bytes()) if description.exists() else None
            except ValueError:
                found = None
        if not isinstance(found, dict) or self.model not in found:
            raise UserError(
                f"{out} exists and was not written by openmae {self.command}", "choose another --out, or move it away"
            )
        return found

    def there_already(self, out: Path) -> dict[str, Any]:
        """What was computed, or is being, for this file; empty for a new one."""
        return self.read(out) if out.exists() else read_job(parts_folder(out))

    def fitting(self, out: Path, about: dict[str, Any]) -> dict[str, Any]:
        """What the file that is there says of itself. Raises UserError where it is of something else than `about`."""
        before = self.read(out)
        if differing := self._differing(before, about):
            raise UserError(f"{out} holds {self.holds} of {differing}", "choose another --out, or move it away")
        if parts_folder(out).exists():  # of a process that was killed when all was done
            with opened_parts(out) as parts:
                parts.remove()
        return before

    def settle(self, out: Path, about: dict[str, Any], parts: PartsFolder) -> None:
        """Begins, or finds what was done before. Raises UserError where that was of something else."""
        if out.exists():
            parts.remove()
            raise UserError(f"another process has just written {out}", "run the same command again to use it")
        with parts.settling() as before:
            if not before:
                for beside in self.companions(out):
                    if beside.exists():
                        parts.remove()
                        raise UserError(
                            f"{beside} exists and would be written anew", "choose another --out, or move it away"
                        )
                parts.begin(about)
            elif differing := self._differing(before, about):
                raise UserError(
                    f"{self.under_way} that was not finished, {parts.folder}, is of {differing}",
                    "finish it with its own settings, delete that folder, or choose another --out",
                )

    def _differing(self, before: dict[str, Any], now: dict[str, Any]) -> str:
        """How two descriptions differ in what decides the result; empty where they do not."""
        said = {**self.others, **{key: _said(key, before.get(key), now[key]) for key in self.flags}}
        return "; ".join(what for key, what in said.items() if before.get(key) != now[key])


def digest(model: nn.Module, arguments: dict[str, Any]) -> str:
    """Of the weights and the shape, which are the same wherever the model lies."""
    found = hashlib.sha256(json.dumps(arguments).encode())
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _in_parquet(out: Path) -> Any:
    from pyarrow import parquet

    try:
        return json.loads((parquet.read_schema(out).metadata or {}).get(KEY.encode(), b"null"))
    except (OSError, ValueError):  # pyarrow's own errors are of these kinds
        return None


def _said(key: str, before: Any, now: Any) -> str:
    return f"--{key.replace('_', '-')} {before}, not {now}"
