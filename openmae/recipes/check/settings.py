"""What `openmae check` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.recipes.asked import AskedGroups, AskedPart, AskedReading, AskedTask, Readers


@dataclass(frozen=True)
class Check(AskedGroups, AskedReading):
    """Read every image once, and report what is broken, odd, there twice, or suspiciously labelled.

    Exit code: 0 for nothing or notes, 1 for warnings, 2 for errors. Errors are: more than 1% of the images cannot be
    read, an image or a group is in train and in val, an image has two labels, val has a class that train lacks, nobody
    can tell how files are to be read (--layout, --pages).
    """

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Images, as for pretrain, or with masks, outlines or boxes (docs/labels.md). Of DATA with splits, both are
    read."""
    out: Annotated[Path | None, arg(metavar="FILE.csv|FILE.parquet")] = None
    """Write a row for each file here: name, split, label, size, format, mode, depth, digest, number of objects,
    reason."""
    task: AskedTask = None
    masks_hold: Literal["classes", "objects"] | None = None
    """What the numbers in mask images are: classes of pixels, or numbers of objects. Default: as they look."""
    part: AskedPart = None
    workers: Readers = None
