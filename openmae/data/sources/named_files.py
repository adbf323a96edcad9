"""What all sources share whose images are files of their own."""

from abc import ABC, abstractmethod

from openmae.data.sources.open_file import read_file
from openmae.data.sources.source import Names, Source


class NamedFiles(Source, ABC):
    """Images that are files of their own. paths: what they are called."""

    paths: Names

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """As `paths` has it."""
        return self.paths[index]

    @property
    def all_names(self) -> Names:
        """`paths`."""
        return self.paths

    @abstractmethod
    def file(self, index: int) -> str:
        """Where image `index` lies, relative to the working folder or whole."""

    def read(self, index: int) -> bytes:
        """The file's bytes. Raises OSError, and BrokenImage for what is no file of a size that images have."""
        return read_file(self.file(index))
