"""What is wrong with a data set, or may be: judged from an inspection of its files and from its labels.

Severities: an error makes results wrong or stops a run; a warning probably costs something; a note is good to know.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openmae.console import words
from openmae.data.formats.header import Depth
from openmae.data.shards.source import ShardSource
from openmae.data.sources.labels import LabelledSource, number_of
from openmae.data.sources.source import Source, Subset
from openmae.data.survey.duplicates import same_files
from openmae.data.survey.frames import FRAMES
from openmae.data.survey.inspection import Inspection
from openmae.data.survey.levels import apart
from openmae.data.survey.nodata import to_give
from openmae.data.survey.readings import NOTHING_OPEN, Choice
from openmae.data.views.missing import MAX_NODATA

Severity = Literal["error", "warning", "note"]

MAX_BROKEN = 0.01  # share of the files; the default of pretrain's max_broken
PATCH = 16  # pixels a side, the usual one
FAR = 8  # times larger or smaller than the median side
LARGEST_CLASS = 0.9  # share of the images
BLANK = 0.01  # share of the images
EXAMPLES = 5

_KINDS = {1: "grey", 2: "grey with alpha", 3: "colour", 4: "of 4 channels"}


def most_broken(share: float, images: int) -> int:
    """How many of the images may be broken where `share` of them, 0 to 1, may: one of a small set, none of share 0."""
    return math.ceil(share * images - 1e-9)


@dataclass(frozen=True)
class Finding:
    """A sentence on what was found, one on what to do about it, and a few of the files."""

    severity: Severity
    what: str
    advice: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class InspectedSplit:
    """A part of the data and what is in it. name: "train", "val", or "" where DATA has no splits.

    labels: (n,) index into class_names, None where there are none that can be used, for the reason
    `why_no_labels`, which is empty where nobody looks for any.
    each: the classes of each of class_names, itself or several; None where the labels are numbers to predict.
    """

    name: str
    source: Source
    found: Inspection
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    why_no_labels: str = ""
    each: Sequence[Sequence[str]] | None = None

    def called(self, index: int) -> str:
        """What to call image `index`, beside those of other splits."""
        return f"{self.name}: {self.source.shown(index)}" if self.name else self.source.shown(index)

    def examples(self, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
        """What the first few of the images `chosen` (n,) bool are called."""
        return tuple(self.called(int(index)) for index in np.flatnonzero(chosen)[:EXAMPLES])


def judge(splits: Sequence[InspectedSplit], choice: Choice = NOTHING_OPEN) -> list[Finding]:
    """Everything found, the worst first. choice: how files are read that leave it open."""
    findings = [*_duplicates(splits)]
    findings += [Finding("error", question.what, question.advice) for question in choice.questions.values()]
    findings += [Finding("warning", note.what, note.advice) for note in choice.notes]
    for split in splits:
        findings += _unreadable(split)
        findings += _sizes(split)
        findings += _blank(split)
        findings += _grey(split)
        findings += _directions(split)
        findings += _no_data(split)
    findings += _kinds(splits)
    findings += _labels(splits)
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _unreadable(split: InspectedSplit) -> Iterator[Finding]:
    broken = len(split.found.reasons)
    if not broken:
        return
    total = len(split.source)
    too_many = broken > most_broken(MAX_BROKEN, total)
    alike: dict[str, list[int]] = {}
    for index, reason in split.found.reasons.items():
        alike.setdefault(reason, []).append(index)
    source = split.source.whole if isinstance(split.source, Subset) else split.source
    # What cannot be read is left out when it is packed, so the shards were damaged later.
    is_packed = isinstance(source, ShardSource) and source.index.crc32 is not None
    mend = "copy the shards anew, or pack the images again into another folder" if is_packed else "mend or remove them"
    commonest = sorted(alike.items(), key=lambda item: -len(item[1]))[:EXAMPLES]
    yield Finding(
        "error" if too_many else "warning",
        f"{words.images(broken)}{_of(split)} cannot be read ({broken / total:.2%})",
        f"{mend}; pretrain stops at more than `max_broken={MAX_BROKEN:g}`"
        if too_many
        else f"{mend}; training leaves them out",
        tuple(f"{split.called(found[0])}{_and_more(len(found) - 1)}: {reason}" for reason, found in commonest),
    )


def _sizes(split: InspectedSplit) -> Iterator[Finding]:
    good = split.found.good
    if not good.any():
        return
    sides = np.stack([split.found.rows["height"], split.found.rows["width"]], axis=1)
    small = good & (sides.min(1) < PATCH)
    if small.any():
        yield Finding(
            "warning",
            f"{words.images(small.sum())}{_of(split)} {_have(small.sum())} a side of less than {PATCH} pixels",
            f"with patches of {PATCH} pixels they are left out: remove them, or choose a smaller `patch_size`",
            split.examples(small),
        )
    median = np.median(sides[good], axis=0)
    far = good & ~small & ((sides * FAR < median) | (sides > median * FAR)).any(1)
    if far.any():
        yield Finding(
            "note",
            f"{words.images(far.sum())}{_of(split)} {_are(far.sum())} more than {FAR} times smaller or larger than the "
            f"median, {median[0]:.0f} x {median[1]:.0f}",
            "look whether they belong to the others",
            split.examples(far),
        )


def _blank(split: InspectedSplit) -> Iterator[Finding]:
    blank = split.found.rows["blank"]
    if blank.any():
        share = blank.sum() / len(blank)
        yield Finding(
            "warning" if share > BLANK else "note",
            f"{words.images(blank.sum())}{_of(split)} {_are(blank.sum())} blank, one colour all over ({share:.2%})",
            "nothing can be learnt from them: remove them",
            split.examples(blank),
        )


def _grey(split: InspectedSplit) -> Iterator[Finding]:
    grey, good = split.found.rows["grey"] & split.found.good, split.found.good
    if grey.any():
        every = grey.sum() == good.sum()
        yield Finding(
            "note",
            f"{'' if every else f'{grey.sum():,} of '}{words.images(good.sum())}{_of(split)} "
            f"{'is' if grey.sum() == 1 else 'are'} grey and stored as colour",
            "train on one channel by `in_chans=1`: the same pixels, for a third of the values"
            if every
            else "`in_chans=1` reads all as grey, if their colour does not matter: in colour, the difference between "
            "channels is no pattern in these",
            split.examples(grey),
        )


def _directions(split: InspectedSplit) -> Iterator[Finding]:
    found = split.found.directions
    if found is None or split.name == "val":  # which is as train, and nothing is chosen by it
        return
    if found.mirror_matters:
        yield Finding(
            "note",
            f"left and right differ in the images{_of(split)}: {found.said_of_mirror()}",
            "where that means something, as in text and digits, switch mirroring off by `hflip=False`",
        )
    if found.may_mean_nothing:
        certain = found.mean_nothing
        what = "no direction means anything" if certain else "directions seem to mean little"
        yield Finding(
            "note",
            f"{what} in the images{_of(split)}: {found}",
            "pretrain turns views by itself; finetune does where classes do not depend on it, by `vflip='on'` and "
            "`rotate90='on'`"
            if certain
            else "if up, down, left and right mean nothing in them, train with `vflip='on'` and `rotate90='on'`",
        )


def _no_data(split: InspectedSplit) -> Iterator[Finding]:
    missing = split.found.rows["missing"]
    most = missing > MAX_NODATA
    if most.any():
        yield Finding(
            "warning",
            f"{words.images(most.sum())}{_of(split)} {_are(most.sum())} no-data for more than half",
            "pre-training crops what is there, and takes another image where that is too little: remove those that "
            "show nothing",
            split.examples(most),
        )
    some = missing > 0
    if some.any():
        share = missing[split.found.good].mean()
        yield Finding(
            "note",
            f"{words.images(some.sum())}{_of(split)} {_have(some.sum())} no-data, {share:.2%} of all pixels",
            "nothing to do: no figure counts it, and a model sees the mean in its place",
            split.examples(some),
        )
    for one in split.found.suspected:
        values = to_give(one, split.found.suspected, split.found.nodata)
        given = f"`nodata={values[0]}`" if len(values) == 1 else f"`nodata=({', '.join(values)})`"
        yield Finding(
            "warning",
            f"there is {one}{_of(split)}: it looks like no-data, and no file says so",
            f"pretrain and stats take it for that, and say so; give every other command {given}"
            if one.is_usual and split.found.nodata is None
            else f"if it is, give every command {given}",
        )


def _kinds(splits: Sequence[InspectedSplit]) -> Iterator[Finding]:
    depths, channels = Counter[str](), Counter[int]()
    firsts: dict[str | int, str] = {}
    frames = 0
    for split in splits:
        rows = split.found.rows
        of_depth = np.array([kind[2] for kind in split.found.kinds])[rows["kind"]]
        has_levels = split.found.good & ~np.array([kind[3] for kind in split.found.kinds])[rows["kind"]]
        for counts, column, some in (
            (depths, of_depth, has_levels),
            (channels, rows["channels"], split.found.good),
        ):
            values, first, number = np.unique(column[some], return_index=True, return_counts=True)
            places = np.flatnonzero(some)[first]
            for value, place, count in zip(values.tolist(), places.tolist(), number.tolist(), strict=True):
                counts[value] += count
                firsts.setdefault(value, f"{value}: {split.called(place)}")
        frames += int((rows["frames"] > 1).sum())
    if len(depths) > 1:
        yield Finding(
            "warning",
            f"the images differ in depth: {_counted(depths)}",
            "all are brought to float32, 8 and 16 bits to 0..1: keep them apart unless the floats are of 0..1 too"
            if "float32" in depths
            else "all are brought to the deepest, white to white: look whether their brightness can be compared",
            tuple(firsts[depth] for depth in depths),
        )
    yield from _scales(splits)
    if len(channels) > 1 and max(channels) > 4:
        yield Finding(
            "warning",
            f"the images differ in their number of channels: {_counted({f'{n} in': c for n, c in channels.items()})}",
            "choose one kind by `in_chans`, or the channels that all have by `bands`",
            tuple(firsts[number] for number in channels),
        )
    elif len(channels) > 1:
        yield Finding(
            "note",
            f"the images are not all of one kind: {_counted({_KINDS[n]: count for n, count in channels.items()})}",
            "all are read as colour without alpha; `in_chans=1` reads all as grey",
        )
    if frames:
        yield Finding(
            "note",
            f"{words.images(frames)} {_have(frames)} several frames (pages, slices or times)",
            f"training draws one of them at every visit; up to {FRAMES} of each file were decoded here",
        )


def _scales(splits: Sequence[InspectedSplit]) -> Iterator[Finding]:
    """Values of two scales: 0..1 beside 0..255, 12 bits in 16 beside 16 bits."""
    depths: list[Depth] = []
    for split in splits:
        of_kind = ["float32" if is_exact else depth for _, _, depth, is_exact in split.found.kinds]
        depths += [of_kind[number] for number in split.found.rows["kind"][split.found.good]]
    scales = np.concatenate([split.found.rows["scale"][split.found.good] for split in splits])
    if found := apart(scales.astype(np.float64), depths):
        named = [split.called(int(index)) for split in splits for index in np.flatnonzero(split.found.good)]
        yield Finding(
            "warning",
            found.what,
            "bring them to one scale, or keep them apart: training would see the smaller ones as one constant",
            tuple(named[index] for index in found.few[:EXAMPLES]),
        )


def _duplicates(splits: Sequence[InspectedSplit]) -> Iterator[Finding]:
    """Files that are the same to the last byte."""
    lengths = [len(split.source) for split in splits]
    which = np.repeat(np.arange(len(splits), dtype=np.int8), lengths)
    members, starts = same_files(
        np.concatenate([split.found.rows["digest"] for split in splits]),
        np.concatenate([split.found.good for split in splits]),
    )
    if not len(starts):
        return
    labels = np.concatenate(_common_labels(splits))[members]
    counts = np.diff(starts, append=len(members))
    in_all = np.minimum.reduceat(which[members], starts) < np.maximum.reduceat(which[members], starts)
    lowest = np.minimum.reduceat(np.where(labels < 0, np.iinfo(np.int64).max, labels), starts)
    contradict = lowest < np.maximum.reduceat(labels, starts)
    copies = counts - 1 - in_all

    def examples(chosen: NDArray[np.bool_]) -> tuple[str, ...]:
        texts = []
        groups = np.flatnonzero(chosen)
        for group in groups[np.argsort(members[starts[groups]])][:EXAMPLES]:  # they come in the order of their digests
            places = members[starts[group] : starts[group] + counts[group]]
            ends = [*places[:2], places[-1]] if len(places) > 2 else places
            called = (splits[which[place]].called(int(place) - sum(lengths[: which[place]])) for place in ends)
            texts.append(" = ".join(called))
        return tuple(texts)

    if in_all.any():
        yield Finding(
            "error",
            f"{words.images(in_all.sum())} {_are(in_all.sum())} in both train and val",
            "remove them from one of the two: with them, figures measured on val are too good",
            examples(in_all),
        )
    if contradict.any():
        yield Finding(
            "error",
            f"{words.images(contradict.sum())} {_have(contradict.sum())} two labels, in files that are the same",
            "decide for one label, and remove the other files",
            examples(contradict),
        )
    if (copies > 0).any():
        yield Finding(
            "warning",
            f"{words.images((copies > 0).sum())} {_are((copies > 0).sum())} there more than once, with "
            f"{copies.sum():,} {'copy' if copies.sum() == 1 else 'copies'} too many",
            "remove the copies: they count double, and where a part is held out, a copy may be left in the other",
            examples(copies > 0),
        )


def _labels(splits: Sequence[InspectedSplit]) -> Iterator[Finding]:
    labelled = [split for split in splits if split.labels is not None]
    for split in splits:
        if split.labels is None and split.why_no_labels:
            yield _no_labels(split, others_have=bool(labelled))
    counted = [_images_of_each(split, split.each) for split in labelled if split.each is not None]
    for split, counts in zip(labelled, counted, strict=False):
        yield from _classes(split, counts)
    if len(counted) == 2:
        yield from _names_of_both(*counted)


def _images_of_each(split: InspectedSplit, each: Sequence[Sequence[str]]) -> Counter[str]:
    """How many images each class has, of all that are named."""
    assert split.labels is not None
    found = Counter(dict.fromkeys((name for names in each for name in names), 0))
    for names, count in zip(each, np.bincount(split.labels, minlength=len(each)).tolist(), strict=True):
        for name in names:
            found[name] += count
    return found


def _no_labels(split: InspectedSplit, others_have: bool) -> Finding:
    refused = "knn, probe and fine-tuning refuse it; pre-training needs no labels"
    source = split.source.whole if isinstance(split.source, Subset) else split.source
    if others_have or (isinstance(source, LabelledSource) and source.numbers is not None):
        return Finding("warning", split.why_no_labels, refused)
    return Finding("note", split.why_no_labels, "nothing to do for pre-training, which needs none")


def _classes(split: InspectedSplit, counts: Counter[str]) -> Iterator[Finding]:
    names = [*counts]
    single = [name for name in names if counts[name] == 1]
    if single:
        yield Finding(
            "warning",
            f"{len(single):,} of {len(names):,} classes{_of(split)} have a single image: {_listed(single)}",
            "give each class two images or more: one to learn from and one to measure on",
        )
    largest, images = counts.most_common(1)[0]
    if images > LARGEST_CLASS * len(split.source):
        yield Finding(
            "warning",
            f"{images / len(split.source):.1%} of the images{_of(split)} are of class '{largest}'",
            "to answer it always is as accurate as that: compare figures with it, not with chance",
        )
    folded = Counter(name.strip().casefold() for name in names)
    if alike := [name for name in names if folded[name.strip().casefold()] > 1]:
        yield Finding(
            "warning",
            f"classes{_of(split)} differ by capitals or spaces only: {_listed(alike)}",
            "if they are the same class, give them the same name",
        )
    values = Counter(number_of(name) for name in names)
    if alike := [name for name in names if (value := number_of(name)) is not None and values[value] > 1]:
        yield Finding(
            "warning",
            f"classes{_of(split)} are the same number, written in different ways: {_listed(alike)}",
            "if they are the same class, give them the same name",
        )


def _names_of_both(train: Counter[str], val: Counter[str]) -> Iterator[Finding]:
    in_train, in_val = ({name for name, count in counts.items() if count} for counts in (train, val))
    if unknown := sorted(in_val - in_train):
        yield Finding(
            "error",
            f"val has classes that train lacks: {_listed(unknown)}",
            "mend the names, or remove them: knn, probe and fine-tuning refuse it",
        )
    if unused := sorted(in_train - in_val):
        yield Finding(
            "warning",
            f"train has classes that val lacks: {_listed(unused)}",
            "nothing is measured of them: mend the names, or add some to val",
        )


def _common_labels(splits: Sequence[InspectedSplit]) -> list[NDArray[np.int64]]:
    """(n,) of each split, numbered by name across the splits; -1 where there is none."""
    numbers: dict[str, int] = {}
    found = []
    for split in splits:
        if split.labels is None:
            found.append(np.full(len(split.source), -1))
        else:
            table = np.array([numbers.setdefault(name, len(numbers)) for name in split.class_names])
            found.append(table[split.labels])
    return found


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _of(split: InspectedSplit) -> str:
    return f" of {split.name}" if split.name else ""


def _counted(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + _and_more(len(names) - EXAMPLES)


def _and_more(count: int) -> str:
    return f" and {count:,} more" if count > 0 else ""
