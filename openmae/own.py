"""What a caller made himself, in the place of a setting's word: a mask, a target, a data set."""

from typing import Any, Self

MARK = "own:"


class Own(str):
    """Its text, own:NAME, is what files and sentences have of it; `made` is the thing itself, which none keeps."""

    made: Any

    @classmethod
    def of(cls, made: Any, name: str | None = None) -> Self:
        """name: by default what Python calls it."""
        said = name or getattr(made, "__name__", None) or type(made).__name__
        own = cls(MARK + "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in said))
        own.made = made
        return own

    @property
    def name(self) -> str:
        """Without the mark."""
        return self.removeprefix(MARK)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def is_own(word: str) -> bool:
    """Whether a word stands for such a thing, be it here or not."""
    return word.startswith(MARK)


def is_lacking(word: str) -> bool:
    """Whether it stands for one that this process was not given."""
    return is_own(word) and not isinstance(word, Own)
