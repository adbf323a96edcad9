"""Which part of a work a process does, where several share it without talking to each other: by `--part K/N`, or as
they were started."""

from dataclasses import dataclass

from openmae.distributed.started import ALONE, Started, refuse_ranks, started
from openmae.errors import UserError

SHARED = ("embed", "predict", "pack", "check", "stats")
"""Commands of which each of several processes does a part, by itself."""


@dataclass(frozen=True)
class Share:
    """Part `number` of `of`, from 1; 1 of 1 is all. start: how the process was started."""

    number: int = 1
    of: int = 1
    start: Started = ALONE

    @property
    def is_whole(self) -> bool:
        """Whether nobody shares it."""
        return self.of == 1

    @property
    def speaks(self) -> bool:
        """Whether this process says how far it is: one of those that torchrun starts does."""
        return self.start.rank == 0

    def span(self, count: int, unit: int = 1) -> range:
        """Its part of 0..count: shares differ by at most one `unit`, and are whole units but for the end."""
        units = -(-count // unit)
        first, last = (min(count, upto * units // self.of * unit) for upto in (self.number - 1, self.number))
        return range(first, last)

    def all(self) -> list["Share"]:
        """All of them, this one among them, in order."""
        return [Share(number, self.of) for number in range(1, self.of + 1)]

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Share()


def share_of(part: str) -> Share:
    """K/N. Raises UserError."""
    number, _, of = part.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UserError(f"`part` is '{part}'", "give K/N, such as 2/8: K from 1 to N")
    return Share(int(number), int(of))


def share_here(part: str | None) -> Share:
    """What --part says, else what the process was started as. Raises UserError."""
    if part is not None:
        refuse_ranks("`part`")
        return share_of(part)
    start = started()
    return Share(start.rank + 1, start.size, start)
