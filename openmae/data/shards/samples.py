"""Finds the samples of a tar file by WebDataset's rules: which of its files are one sample, which of these is its
image, and what label it has.

A sample is the files of one key, the path up to the first dot of the file's name: `00/17.jpg`, `00/17.cls`,
`00/17.json`; what follows the dot, in small letters, says what a file is. WebDataset's reader asks that the files of a
sample follow each other; here they may lie apart. A file that a sample has already begins another of the same key.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from openmae.console.words import in_a_line
from openmae.data.shards.tar import Fetch, Member, Window, members
from openmae.data.sources.labels import label_text, number_of
from openmae.data.sources.listing import EXTENSIONS
from openmae.errors import UserError
from openmae.files.parsing import read_json

EVERY = "each"  # as `image_key`: each image is a sample of its own

_LABELS = ("cls", "json", "txt")  # what tells a label, the first that does
_IN_JSON = ("label", "labels", "cls", "class")
_MOST_LABEL_BYTES = 1 << 20  # of a file that is read for a label
_MOST_TEXT = 200  # letters of a .txt that may be a label
_META = re.compile(r"__[^/]*__($|/)")  # files about the shard, which WebDataset leaves out
_NAMED = 3  # endings in a sentence


@dataclass
class TarSamples:
    """The images of a tar file: member names, places, labels (empty where there is none) and which sample each is of.

    texts: of .txt files, which are labels or captions. count: of all samples; several: those that have several images
    and nothing says which one is meant, key and what follows it; without: those that have no image, by what they have;
    apart: those whose files lie apart; repeated: those of a key that another has. damage: why the file ends before its
    end mark, empty where it does not.
    """

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    count: int = 0
    several: list[tuple[str, list[str]]] = field(default_factory=list)
    without: dict[str, int] = field(default_factory=dict)
    apart: int = 0
    repeated: int = 0
    damage: str = ""


@dataclass(slots=True)
class _Sample:
    """What follows the key in the names of its files, with those that may be its image; what those for labels say."""

    key: str
    files: dict[str, Member | None]
    labels: dict[str, str]
    is_apart: bool = False


def scan(fetch: Fetch, length: int, block: int, image_key: str | None = None) -> TarSamples:
    """The samples of a tar file of `length` bytes, read `block` bytes at a time where headers lie that close.

    image_key: what follows the key in the name of a sample's image (`jpg`, `img.png`), several with ; of which the
    first that a sample has is taken, or EVERY. None: the one file with an image's extension. Hidden files are left out.
    An image that reaches beyond the end of the file is listed as well: reading it says that the file is cut off.
    Raises OSError where fetching does.
    """
    window, found = Window(fetch, block), TarSamples()
    samples: list[_Sample] = []
    latest: dict[str, _Sample] = {}
    last: _Sample | None = None
    try:
        for member in members(window, length):
            key, ending = split_name(member.name)
            if not key:
                continue
            sample = latest.get(key)
            if sample is None or ending in sample.files:
                found.repeated += sample is not None
                latest[key] = sample = _Sample(key, {}, {})
                samples.append(sample)
            elif sample is not last:
                sample.is_apart = True
            last = sample
            place: Member | None = member
            if member.link:
                place, sample.labels[ending] = _behind(member, latest)
            elif ending.rpartition(".")[2] in _LABELS and member.size <= _MOST_LABEL_BYTES:
                sample.labels[ending] = _label(ending, window.read(member.offset, member.size))
            sample.files[ending] = place if _may_be_image(ending, image_key) else None
    except ValueError as error:
        found.damage = str(error)
    found.apart = sum(sample.is_apart for sample in samples)
    for number, sample in enumerate(samples):
        images = _images(sample, image_key)
        if len(images) > 1 and image_key != EVERY:
            found.several.append((sample.key, [ending for ending, _ in images]))
        elif not images:
            endings = ", ".join(sorted(sample.files))
            found.without[endings] = found.without.get(endings, 0) + 1
        for ending, member in images:
            _add(found, sample, ending, member, number)
    found.count = len(samples)
    return found


def _behind(link: Member, samples: Mapping[str, _Sample]) -> tuple[Member | None, str]:
    """Where the image is that a link stands for, and what is said of a label, if either is there."""
    key, ending = split_name(link.link)
    if (sample := samples.get(key)) is None:
        return None, ""
    image = sample.files.get(ending)
    return image and Member(link.name, image.offset, image.size), sample.labels.get(ending, "")


def split_name(name: str) -> tuple[str, str]:
    """(key, what follows its dot, in small letters) of a file's path; no key for files that are of no sample."""
    folder, slash, file = name.rpartition("/")
    stem, dot, ending = file.partition(".")
    if not stem or not dot or _META.match(name):
        return "", ""
    return folder + slash + stem, ending.lower()


def _may_be_image(ending: str, image_key: str | None) -> bool:
    if image_key is None or image_key == EVERY:
        return f".{ending.rpartition('.')[2]}" in EXTENSIONS
    return ending in _asked(image_key)


def _asked(image_key: str) -> list[str]:
    """What follows the key in names of images, the most wanted first: `.JPG; png` is written as well."""
    return [word.strip().lower().removeprefix(".") for word in image_key.split(";")]


def _images(sample: _Sample, image_key: str | None) -> list[tuple[str, Member]]:
    """The images of a sample, and what they are called after its key."""
    there = [(ending, member) for ending, member in sample.files.items() if member is not None]
    if image_key is None or image_key == EVERY:
        return there
    return sorted(there, key=lambda one: _asked(image_key).index(one[0]))[:1]


def _add(found: TarSamples, sample: _Sample, ending: str, image: Member, number: int) -> None:
    own = ending.rpartition(".")[0]  # img.cls tells of img.png before cls does
    said = {kind: sample.labels.get(f"{own}.{kind}") or sample.labels.get(kind, "") for kind in _LABELS}
    found.names.append(image.name)
    found.offsets.append(image.offset)
    found.sizes.append(image.size)
    found.samples.append(number)
    found.labels.append(said["cls"] or said["json"])
    found.texts.append(said["txt"])


def _label(ending: str, data: bytes) -> str:
    """What a file says of the label: a .cls all of it, a .json its `label`; empty where it says nothing."""
    text = data.decode("utf-8", errors="surrogateescape").strip()
    kind = ending.rpartition(".")[2]
    if kind == "txt" or (kind == "cls" and not text.startswith("[")):
        return text
    try:
        described = read_json(text)
    except ValueError:
        return text if kind == "cls" else ""
    if isinstance(described, Mapping):
        described = next((described[name] for name in _IN_JSON if described.get(name) is not None), None)
    values = described if isinstance(described, list) else [described]
    return label_text(described) if all(isinstance(value, str | int | float) for value in values) else ""


def refuse_several(url: str, found: TarSamples) -> None:
    """Raises UserError where samples of the shard have several images and nothing says which one is meant."""
    if not found.several:
        return
    key, endings = found.several[0]
    listed = ", ".join(endings[:_NAMED]) + (", ..." if len(endings) > _NAMED else "")
    raise UserError(
        f"{len(found.several):,} of {found.count:,} samples of {url} have several images ({in_a_line(key)} has "
        f"{in_a_line(listed)}: files of one name up to its first dot are one sample)",
        f"name the one that is meant, `image_key='{in_a_line(endings[0])}'`, or make each image a sample of its own, "
        f"`image_key='{EVERY}'`",
    )


def labels_of(labels: list[str], texts: list[str]) -> list[str]:
    """What the labels are: those of .cls and .json, and those of .txt where there are no others, unless these are
    captions: long, or different for most images and no numbers."""
    if any(labels):
        return labels
    kinds = {text for text in texts if text}
    captions = any(len(text) > _MOST_TEXT or "\n" in text for text in kinds)
    if captions or (2 * len(kinds) > len(texts) and not all(number_of(text) is not None for text in kinds)):
        return labels
    return texts


class Noticed:
    """What is odd about the samples of some shards, counted."""

    def __init__(self) -> None:
        self.without: Counter[str] = Counter()
        self.apart = self.repeated = self.count = 0

    def add(self, found: TarSamples) -> None:
        """Another shard's."""
        self.without.update(found.without)
        self.apart += found.apart
        self.repeated += found.repeated
        self.count += found.count

    def said(self) -> tuple[str, ...]:
        """A sentence for each kind."""
        said = []
        if self.without:
            kinds = "; ".join(in_a_line(endings) for endings, _ in self.without.most_common(_NAMED))
            said.append(
                f"{self.without.total():,} of {self.count:,} samples have no image and are left out (they have "
                f"{kinds}); `image_key` names the file that is one"
            )
        if self.apart:
            said.append(
                f"The files of {self.apart:,} of {self.count:,} samples lie apart and are put together by their names; "
                "WebDataset's reader would take each part for a sample"
            )
        if self.repeated:
            said.append(f"{self.repeated:,} of {self.count:,} samples have the name of an earlier one")
        return tuple(said)
