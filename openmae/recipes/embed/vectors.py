"""The vectors of a finished table as one array on disk, whatever holds them, and their neighbours by an index."""

from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from rich.console import Console

from openmae.console.progress import Say, counting
from openmae.evaluate.indexed import Near, near
from openmae.files.disk import room_on_disk
from openmae.files.whole import folder_beside
from openmae.recipes.embed.file import map_vectors, read_vectors


class Vectors:
    """Of `out`, (n, D) float32. A folder beside it, gone at the end, holds what is made of them; of a killed
    process it goes when the next one looks."""

    def __init__(self, out: Path, count: int, width: int) -> None:
        self.out, self.shape = out, (count, width)
        self._until_then = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._until_then.close()

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def all(self) -> NDArray[np.float32]:
        """Mapped, so that memory holds what is looked at. Raises UserError where the file is damaged, OSError."""
        return map_vectors(self._file)

    @cached_property
    def _file(self) -> Path:
        """A .npy: parquet is copied to one, since pages of it cannot be mapped."""
        if self.out.suffix.lower() != ".parquet":
            return self.out
        copy = self._folder / "vectors.npy"
        with room_on_disk(copy), copy.open("wb") as file:
            npy_format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": self.shape})
            for part in read_vectors(self.out):
                file.write(np.ascontiguousarray(part, "<f4").tobytes())
        return copy

    @cached_property
    def _folder(self) -> Path:
        return self._until_then.enter_context(folder_beside(self.out.with_name(f"{self.out.name}.near")))

    def near(self, k: int, console: Console) -> Near:
        """The k nearest of each by an index, and what it misses is said. Raises UserError, OSError."""
        with room_on_disk(self.out), ExitStack() as bar:

            @lru_cache(maxsize=1)  # one bar after the other
            def of(doing: str) -> Say:
                bar.pop_all().close()
                return bar.enter_context(counting(doing, len(self), console))

            found = near(self._file, k, self._folder, lambda doing, done: of(doing)(done))
        console.print(
            f"An index of {found.cells:,} cells, of which {found.looked_through:,} were looked through for each "
            f"image, finds {found.recall:.1%} of the {found.number.shape[1]} nearest (measured on {found.asked:,} of "
            "them)",
            soft_wrap=True,
            highlight=False,
        )
        return found
