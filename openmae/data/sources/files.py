"""Image files that are named one by one."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openmae.data.sources.labels import LabelledSource
from openmae.data.sources.listing import fingerprint
from openmae.data.sources.named_files import NamedFiles
from openmae.data.sources.source import Names
from openmae.errors import UserError

_SHOWN = 3  # names in a sentence


class ImageFiles(NamedFiles, LabelledSource):
    """Files in the order in which they are given, called as they are given; without labels.

    Raises UserError where one does not exist.
    """

    label_advice = "give a folder with a folder for each class, or a table"

    def __init__(self, files: Sequence[str]) -> None:
        if missing := next((file for file in files if not Path(file).is_file()), None):
            raise UserError(f"{missing} is no file", "give image files, or one folder, table, ... of images")
        more = f", ... ({len(files):,} files)" if len(files) > _SHOWN else ""
        self.location = ", ".join(files[:_SHOWN]) + more
        self.paths = Names.of(files)
        sizes = np.array([os.stat(file).st_size for file in files], np.int64)  # noqa: PTH116
        self._fingerprint = fingerprint(self.paths, sizes)

    def file(self, index: int) -> str:
        """The path."""
        return self.paths[index]

    @property
    def fingerprint(self) -> str:
        """Of the paths and of the sizes that the files have."""
        return self._fingerprint
