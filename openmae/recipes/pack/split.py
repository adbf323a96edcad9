"""What `openmae pack` makes of a split: which images go into which shard, and what is there already."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.shards.index import SETTINGS
from openmae.data.shards.packing import RULES, Packing
from openmae.data.shards.writer import PARTS, FinishedShard, read_finished
from openmae.data.sources.groups import group_numbers
from openmae.data.sources.labels import NO_LABEL
from openmae.data.sources.source import Source
from openmae.data.sources.windows import Windows
from openmae.data.tasks import Task
from openmae.distributed.share import Share
from openmae.errors import UserError
from openmae.files.whole import write_file
from openmae.randomness import generator
from openmae.recipes.pack.settings import Pack

_CHUNK = 8  # images a task: enough that handing it over costs little, few enough for images of many bands
_DIGESTS = ("source", "labels", "groups")  # of which nobody can read how they differ
_FEWEST, _MOST, _SHARDS = 100, 5000, 8  # images a shard, and how many shards a small data set should have


@dataclass(frozen=True)
class PackedSplit:
    """Images that get shards of their own in `folder`. title: "train", "val" or ""; labels (n,), NO_LABEL for none.
    task: what the labels are taken for; shards hold the number of a class, and what is written otherwise."""

    title: str
    source: Source
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    task: Task
    folder: Path
    settings: "Pack"
    packing: Packing

    def __len__(self) -> int:
        return len(self.source)

    def label(self, image: int) -> str:
        """What a .cls file says of the image; empty where it has no label."""
        number = int(self.labels[image])
        if number == NO_LABEL:
            return ""
        return str(number) if self.task == "classification" else self.class_names[number]

    @cached_property
    def groups(self) -> NDArray[np.int64] | None:
        """(n,) the same number for images that belong together: as asked for, or as the source says."""
        return group_numbers(self.source, self.settings.selection)

    @cached_property
    def shard_size(self) -> int:
        """Images a shard, broken ones included."""
        return self.settings.shard_size or min(_MOST, max(_FEWEST, -(-len(self) // _SHARDS)))

    @cached_property
    def shards(self) -> list[Path]:
        """0000.tar, 0001.tar, ..."""
        count = -(-len(self) // self.shard_size)
        width = max(4, len(str(count - 1)))
        return [self.folder / f"{number:0{width}d}.tar" for number in range(count)]

    def of(self, share: Share) -> range:
        """The numbers of the shards of one of several processes."""
        return share.span(len(self.shards))

    @cached_property
    def finished(self) -> dict[int, FinishedShard]:
        """The shards that were there at the start, by their numbers."""
        return self.found()

    def found(self) -> dict[int, FinishedShard]:
        """Those that are there now, whoever has written them."""
        found = {number: read_finished(shard) for number, shard in enumerate(self.shards)}
        return {number: part for number, part in found.items() if part is not None}

    def images(self, share: Share, finished: bool) -> int:
        """How many images a share has; if `finished`, in shards that held them, or left them out, at the start."""
        numbers = self.of(share)
        if not finished:
            return len(range(len(self))[numbers.start * self.shard_size : numbers.stop * self.shard_size])
        there = [self.finished[number] for number in numbers if number in self.finished]
        return sum(len(part) + len(part.left_out) for part in there)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(n,) the source's indices as they are packed: at random; windows with those of their image, so that it is
        decoded once."""
        draws = generator(self.settings.seed, "packing")
        if not isinstance(self.source, Windows):
            return draws.permutation(len(self))
        place = draws.permutation(len(self.source.source))
        return np.argsort(place[self.source.places.of], kind="stable")

    def chunks(self, shard: int) -> Iterator[range]:
        """The places in `order` of the images of a shard, a task at a time."""
        stop = min(len(self), (shard + 1) * self.shard_size)
        return (range(at, min(at + _CHUNK, stop)) for at in range(shard * self.shard_size, stop, _CHUNK))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides what the shards hold."""
        labels = hashlib.sha256(json.dumps(self.class_names).encode() + self.labels.tobytes()).hexdigest()
        return {
            "rules": RULES,
            "short_side": self.settings.most_pixels,
            "quality": self.settings.quality,
            "shard_size": self.shard_size,
            "seed": self.settings.seed,
            "images": len(self),
            "source": self.source.fingerprint,
            "labels": labels,
            "groups": None if self.groups is None else hashlib.sha256(self.groups.tobytes()).hexdigest(),
            **self._reading,
        }

    @property
    def _reading(self) -> dict[str, Any]:
        """How files were read that leave it open; nothing where there are none, as nothing was written of them once."""
        said = self.packing.reading.to_dict()
        if self.packing.exact != "uint8":
            said["exact"] = self.packing.exact
        return {"reading": said} if said else {}

    def settle(self, share: Share) -> None:
        """Notes in the folder what is packed there, and removes what a killed process left half-written of the share.

        Raises UserError where something else is there already.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / SETTINGS
        if file.exists():
            try:
                before = json.loads(file.read_bytes())
                before = {"reading": {}, "groups": None, **before}  # of which older ones say nothing
                now = {"reading": {}, **self.identity}
                differing = [key for key in now if before[key] != now[key]]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} is damaged ({error!r})", "choose another SHARDS") from error
            if differing:
                said = ", ".join(
                    f"other {key}" if key in _DIGESTS else f"{key} {before[key]}, not {now[key]}" for key in differing
                )
                raise UserError(
                    f"{self.folder} holds shards of other images or settings ({said})", "choose another SHARDS"
                )
        elif any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise UserError(f"{self.folder} is not empty and holds no shards of openmae", "choose another SHARDS")
        else:
            write_file(file, json.dumps(self.identity, indent=1).encode())
        for names in (".*.part", ".index.*", f"{PARTS}/.*"):
            for leftover in self.folder.glob(names):
                if share.is_whole or _number(leftover) in self.of(share):
                    leftover.unlink()


def _number(leftover: Path) -> int:
    """Of the shard that a file called .0007.tar.part belongs to; -1 where it is of none."""
    number = leftover.name[1:].split(".")[0]
    return int(number) if number.isdecimal() else -1
