"""What the figures of a study add up to, in a sentence.

The rule, fixed before anything is measured: going on is worth it where a figure rises, by an interval of the difference
that lies above 0 and reaches what is worth having, and none falls. The intervals of all figures hold together
(Bonferroni). Where every interval ends below what is worth having, there is no gain; where one does not, nothing is
decided, and of two seeds, which give no interval, nothing is either. RankMe alone is no reason to go on, for noise
raises it too; that it falls is one not to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from openmae.studies.figures import Figure
from openmae.studies.intervals import Interval

Kind = Literal["gain", "no gain", "worse", "mixed", "undecided"]
Found = Mapping[str, Interval]
"""By the name of the figure."""


@dataclass(frozen=True)
class Verdict:
    """kind, and sentence; beside: what the encoder from scratch tells, a sentence, "" where there is none."""

    kind: Kind
    sentence: str
    beside: str


@dataclass(frozen=True)
class Findings:
    """What was found of the figures, over so many seeds.

    gain: of the encoder that went on over the released one; released, gone_on: of these over the one from scratch, None
    where there is none. worth: the least gain that is worth having. model: the released one's name; run: that of the
    run to use.
    """

    figures: Sequence[Figure]
    gain: Found
    released: Found | None
    gone_on: Found | None
    worth: float
    seeds: int
    model: str
    run: str

    def verdict(self) -> Verdict:
        """What follows."""
        kind, said = self._said()
        return Verdict(kind, f"{said}; {self._advice(kind)}.", self._beside())

    def _said(self) -> tuple[Kind, str]:
        told = [figure for figure in self.figures if math.isfinite(self.gain[figure.name].high)]
        rises = [figure for figure in told if figure.decides and self._rises(self.gain[figure.name])]
        falls = [figure for figure in told if self.gain[figure.name].high < 0]
        may_rise = [figure for figure in told if figure.decides and self.gain[figure.name].high >= self.worth]
        over = f"over {self.seeds} seeds"
        if rises and falls:
            return "mixed", f"Better and worse: {self._moved(rises, 'rises')}, but {self._moved(falls, 'falls')} {over}"
        if rises:
            return "gain", f"Going on is worth it: {self._moved(rises, 'rises')} {over}{self._others(told, rises)}"
        if falls:
            return "worse", f"No gain, but a loss: {self._moved(falls, 'falls')} {over}"
        if may_rise:
            most = max(may_rise, key=lambda figure: self.gain[figure.name].high)
            found = self.gain[most.name]
            return (
                "undecided",
                f"Undecided: no gain is shown, but one of up to {most.amount(found.high)} is not ruled out "
                f"({most.said}, {most.bounds(found)}, {over})",
            )
        if two := [figure for figure in self.figures if self.gain[figure.name].each]:
            each = _listed([f"{figure.said} {figure.bounds(self.gain[figure.name])}" for figure in two])
            return "undecided", f"Undecided: two seeds give no bounds ({each})"
        if not told:
            return "undecided", "Undecided: the judging images do not tell"
        changes = _listed([f"{figure.said} by {figure.bounds(self.gain[figure.name])}" for figure in told])
        return "no gain", f"No gain: {over}, going on changes {changes}, and {points(self.worth)} would be worth it"

    def _rises(self, found: Interval) -> bool:
        return found.low > 0 and found.high >= self.worth

    def _moved(self, figures: Sequence[Figure], how: str) -> str:
        """kNN top-1 rises by 3.3 points (+1.9 to +4.7) and linear top-1 by ..."""
        parts = [
            f"{figure.said} {f'{how} ' * (number == 0)}by {figure.amount(self.gain[figure.name].difference)} "
            f"({figure.bounds(self.gain[figure.name])})"
            for number, figure in enumerate(figures)
        ]
        return _listed(parts)

    def _others(self, told: Sequence[Figure], rises: Sequence[Figure]) -> str:
        rest = [figure.said for figure in told if figure not in rises and figure.decides]
        return f", and {_listed(rest)} {'is' if len(rest) == 1 else 'are'} not shown to fall" if rest else ""

    def _advice(self, kind: Kind) -> str:
        if self._scratch_is_best():
            return "but from scratch is better than both: pre-train without these weights"
        if kind == "gain":
            return f"use {self.run}"
        if kind == "mixed":
            return f"take {self.run} where the first is what you need"
        until = f" until {self._wanted()} tell" if kind == "undecided" else ""
        return f"use the released weights as they are ({self.model}){until}"

    def _wanted(self) -> str:
        """What the bounds are wide for want of."""
        if any(found.each for found in self.gain.values()):
            return "more seeds"
        told = [self.gain[figure.name] for figure in self.figures if math.isfinite(self.gain[figure.name].high)]
        by_seeds = any(found.by_seeds > found.by_images for found in told)
        by_images = any(found.by_seeds <= found.by_images for found in told) or not told
        return " and ".join(["more judging images"] * by_images + ["more seeds"] * by_seeds)

    def _scratch_is_best(self) -> bool:
        if self.released is None or self.gone_on is None:
            return False
        return self.released[self._first.name].high < 0 and self.gone_on[self._first.name].high < 0

    @property
    def _first(self) -> Figure:
        """The figure by which the encoder from scratch is compared."""
        return next(figure for figure in self.figures if figure.decides)

    def _beside(self) -> str:
        if self.released is None or self.gone_on is None:
            return ""
        first = self._first
        behind, gone_on = (_below(first, found[first.name]) for found in (self.released, self.gone_on))
        return (
            f"From scratch, with as many steps, {first.said} is {behind} that of the released weights, and {gone_on} "
            "that of going on."
        )


def _below(figure: Figure, found: Interval) -> str:
    """How one from scratch stands to another, which is better by what was found."""
    if found.low > 0 or found.high < 0 or found.each:
        which = "below" if found.difference > 0 else "above"
        return f"{figure.amount(found.difference)} ({_turned(figure, found)}) {which}"
    return f"not to be told apart ({_turned(figure, found)}) from"


def _turned(figure: Figure, found: Interval) -> str:
    """The bounds seen from the other side."""
    each = tuple(-one for one in found.each)
    return figure.bounds(Interval(-found.difference, -found.high, -found.low, found.level, 0, 0, found.seeds, each))


def points(worth: float) -> str:
    """1 point, 2.5 points."""
    return f"{100 * worth:g} point{'s' * (worth != 0.01)}"


def _listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) if parts else ""
