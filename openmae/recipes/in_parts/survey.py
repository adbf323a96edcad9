"""What is found of files, by several processes: what each has read lies in parts beside the file that all of them make.

One process alone keeps no parts: it begins anew after a kill.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from openmae.console.progress import Say
from openmae.data.survey.as_arrays import Arrays
from openmae.distributed.share import Share
from openmae.errors import UserError
from openmae.recipes.in_parts.about import SAME_IMAGES, Kind
from openmae.recipes.in_parts.folder import PartsFolder, opened_parts, parts_folder
from openmae.recipes.in_parts.work import all_of_them

READ_AS = "read_as"
_NONE = np.empty(0, np.int64), np.empty(0, np.float32)  # indices and rows


def is_shared(share: Share, out: Path | None) -> bool:
    """Whether several processes read, or have read, for this file. Raises UserError where they cannot."""
    if share.is_whole:
        return out is not None and parts_folder(out).exists()
    if out is None:
        raise UserError("several processes keep what they find beside --out", "give --out FILE to all of them")
    if out.exists():
        raise UserError(f"{out} is there already", "move it away to begin anew, or choose another --out")
    return True


@contextmanager
def surveyed(
    command: str,
    out: Path,
    about: dict[str, Any],
    share: Share,
    unit: int,
    total: int,
    read: Callable[[PartsFolder, Say], None],
    console: Console,
) -> Iterator[PartsFolder | None]:
    """All parts, or None where other processes still read. read: adds those of this process's share, which is of whole
    `unit`s of the `total` images; about: with `data_fingerprint` and READ_AS. Raises UserError, Interrupted."""
    kind = Kind(
        command=command,
        holds="figures",
        under_way="a reading",
        model="data_fingerprint",
        others={"data_fingerprint": SAME_IMAGES, READ_AS: "images that are read in another way (--layout, ...)"},
        flags=(),
        beside=(),
    )
    with opened_parts(out, share, unit) as parts:
        kind.settle(out, about, parts)
        smaller = "give fewer --workers"
        with all_of_them(parts, total, "reading", smaller, lambda say: read(parts, say), console) as whole:
            yield whole


def add(parts: PartsFolder, stop: int, left_out: list[tuple[int, str]], found: Arrays) -> None:
    """Keeps what was found of the images up to `stop`. Raises OSError."""
    parts.add(stop, *_NONE, left_out, found)
