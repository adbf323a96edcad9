"""What was left out while annotations were read, counted, with a few of the places."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from openmae.console.words import in_a_line
from openmae.data.note import Note

_EXAMPLES = 3


@dataclass
class Tally:
    """counts: of each kind, which is a sentence that begins behind its number, with what to do about it."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, what: str, where: str, advice: str = "", count: int = 1) -> None:
        """Counts one. what: "{n} object{s} {are} ...", filled in by its number."""
        key = (what, advice)
        self.counts[key] = self.counts.get(key, 0) + count
        if len(places := self.examples.setdefault(key, [])) < _EXAMPLES and where not in places:
            places.append(where)

    def notes(self) -> Iterator[Note]:
        """A warning for each kind."""
        for (what, advice), count in self.counts.items():
            many = count != 1
            said = what.format(n=f"{count:,}", s="s" if many else "", are="are" if many else "is",
                               have="have" if many else "has", them="them" if many else "it")  # fmt: skip
            yield Note(
                f"{said} ({in_a_line(', '.join(self.examples[what, advice]))}{', ...' * (count > _EXAMPLES)})",
                advice,
                is_warning=True,
            )
