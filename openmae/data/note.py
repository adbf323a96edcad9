"""What is said of images beside what is done with them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """A sentence on what was found and one on what to do; a warning where figures may be of something else."""

    what: str
    advice: str = ""
    is_warning: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}" if self.advice else self.what
