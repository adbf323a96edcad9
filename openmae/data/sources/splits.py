"""What a name says of a split: one rule for folders, files, arrays and the cells of a table's column.

A name is taken apart into words, at marks, digits and capitals: `seg_train`, `train2017`, `TrainingSet`, `x_test`. One
of them, or a part of one (`trainset`), has to be a word for a split; what is left of the name is its rest. Words that
a data set may have for another reason count beside a train only.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["train", "val", "test"]
KINDS: tuple[Kind, ...] = ("train", "val", "test")

_WORDS: dict[str, Kind] = {
    **dict.fromkeys(("train", "training", "trn", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "ts", "holdout"), "test"),
}
_PLAIN = frozenset("train training val validation test testing".split())  # that say it alone
_SHORT = frozenset(("tr", "ts"))  # that say it behind what they are of: imagesTr
_AFFIXES = frozenset(
    "set sets split splits data dataset datasets subset part parts image images img imgs picture pictures pic pics "
    "photo photos sample samples example examples file files folder folders dir crop crops cropped resized raw final "
    "new full original jpg jpeg jpegs png tif tiff dcm npy x my the of".split()
)
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")


@dataclass(frozen=True)
class SplitName:
    """kind: of the split. rest: the other words of the name, digits aside. is_plain: whether the word means nothing
    else."""

    kind: Kind
    rest: tuple[str, ...]
    is_plain: bool

    @property
    def is_neutral(self) -> bool:
        """Whether the rest says nothing."""
        return _AFFIXES.issuperset(self.rest)


def split_name(name: str) -> SplitName | None:
    """What split the name is of; None where it has no word for one, or words for several. Train and val together, as in
    `trainval`, are what is learnt from."""
    for words in (_PIECES.findall(name), _PIECES.findall(name.lower())):  # TRAINset has no capital where it should
        found: list[tuple[str, Kind]] = []
        rest: list[str] = []
        for word in words:
            own, others = _taken_apart(word.lower())
            found += own
            rest += others
        if any(word in _SHORT for word, _ in found) and not rest:
            continue
        kinds = {kind for _, kind in found}
        if kinds == {"train", "val"} or len(kinds) == 1:
            kind: Kind = "train" if "train" in kinds else found[0][1]
            return SplitName(kind, tuple(rest), all(word in _PLAIN for word, _ in found))
    return None


def split_of(name: str) -> Kind | None:
    """`train`, `val` or `test`, or None."""
    found = split_name(name)
    return None if found is None else found.kind


def split_in_path(path: str) -> Kind | None:
    """Of the first folder, or else the file, whose name says it."""
    return next((kind for part in path.split("/") if (kind := split_of(part)) is not None), None)


def look_alikes(names: Iterable[str]) -> dict[str, SplitName]:
    """Of names that lie beside each other, those that look like splits: the word alone, or with what says nothing, or
    with a rest that the name of another split has too. A `train_station` beside an airport is none."""
    found = {name: split for name in names if (split := split_name(name)) is not None}
    kinds: dict[tuple[str, ...], set[Kind]] = {}
    for split in found.values():
        kinds.setdefault(split.rest, set()).add(split.kind)
    alike = {name: split for name, split in found.items() if split.is_neutral or len(kinds[split.rest]) > 1}
    has_train = any(split.kind == "train" for split in alike.values())
    return {name: split for name, split in alike.items() if split.is_plain or has_train}


def plainly(alike: Mapping[str, SplitName]) -> dict[Kind, str] | None:
    """The name of each split, train before val before test, where there is a train and one of the others, none is there
    twice, and all are called alike; else None."""
    found = {kind: [name for name, split in alike.items() if split.kind == kind] for kind in KINDS}
    if any(len(names) > 1 for names in found.values()) or not found["train"] or not (found["val"] or found["test"]):
        return None
    if len({split.rest for split in alike.values()}) > 1 and not all(split.is_neutral for split in alike.values()):
        return None
    return {kind: found[kind][0] for kind in KINDS if found[kind]}


def _taken_apart(word: str) -> tuple[list[tuple[str, Kind]], list[str]]:
    """(words for a split with what each is for, other words) of a word that may be two glued together."""
    if word in _WORDS:
        return [(word, _WORDS[word])], []
    for start in range(len(word) - 1, 1, -1):
        head, tail = word[:start], word[start:]
        if head in _WORDS and tail in _WORDS and not {head, tail} & _SHORT:
            return [(head, _WORDS[head]), (tail, _WORDS[tail])], []
        if head in _WORDS and head not in _SHORT and tail in _AFFIXES and len(tail) > 2:
            return [(head, _WORDS[head])], [tail]
        if head in _AFFIXES and len(head) > 2 and tail in _WORDS and tail not in _SHORT:
            return [(tail, _WORDS[tail])], [head]
    return [], [word]
