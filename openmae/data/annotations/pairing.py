"""Which files are the masks of which images, by where they lie and what they are called.

images/a.png        masks/a.png             the same name in folders that are called so, either way up:
train/images/a.png  train/masks/a.png       images/train/a.png and masks/train/a.png
a.png               masks/a.png
a.png               a_mask.png              beside it: a_masks.png, a_cp_masks.png, a_seg.png, a_label.tif ...
images/a.png        masks/cells/a.png       a folder for each class
a/images/a.png      a/masks/*.png           a folder an image, a mask an object
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from openmae.data.sources.notes import may_have_masks, rest_of_images, rest_of_mask
from openmae.data.sources.source import Names

_WORDS = "masks? segs? segmentations? labels? gts? groundtruth labelids labelmaps? annotations?"
_ENDING = re.compile(rf"[ _.-]*(cp)?[ _.-]*({'|'.join(_WORDS.split())})[ _.-]*\d{{0,3}}$", re.IGNORECASE)
_OF_IMAGE = re.compile(r"[ _.-]+(images?|imgs?|leftimg8bit|photos?|pictures?|sat|raw|rgb)$", re.IGNORECASE)
_NO_LETTERS = re.compile("[^a-z0-9]")


@dataclass(frozen=True)
class Pairs:
    """names: of images that have masks, and the masks of each, with the class folder that each lies in ("" where there
    are none). alone: images without a mask; lost: masks without an image. folders: in which each image lies, without
    those that say images alone."""

    names: list[str]
    folders: list[tuple[str, ...]]
    masks: list[list[tuple[str, str]]]
    alone: list[str]
    lost: list[str]


@dataclass(frozen=True)
class _Place:
    """Where a file lies without what says whether it is an image or a mask; the folder below a folder of masks."""

    folders: tuple[str, ...]
    stem: str
    at: int  # of the folder of masks among the folders, -1 where there is none


def pair(table: Names) -> Pairs | None:
    """None where nothing is called as masks of others are. table: of all files that are called like images."""
    if not may_have_masks(table):
        return None
    names = table[:]
    is_mask, places = [], []
    folders: dict[str, tuple[tuple[str, ...], int]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder not in folders:
            folders[folder] = _plain_folders(folder)
        own, at = folders[folder]
        places.append(_Place(own, file.rpartition(".")[0], at))
        is_mask.append(at >= 0)
    if not any(is_mask):
        return _beside(names, places)
    images: dict[tuple[tuple[str, ...], str], list[int]] = defaultdict(list)
    inside: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, place in enumerate(places):
        if not is_mask[number]:
            images[place.folders, place.stem].append(number)
            images[place.folders, _bare(_OF_IMAGE.sub("", place.stem))].append(number)
            inside[place.folders].append(number)
    masks = [number for number, found in enumerate(is_mask) if found]
    ways = [
        {number: _exact(places[number], images) for number in masks},
        {number: _in_class(places[number], images) for number in masks},
        {number: _alone_in(places[number], inside) for number in masks},
    ]
    counts = [sum(place is not None for place in way.values()) for way in ways]
    best = max(range(3), key=lambda way: (counts[way], -way))
    images_there = len(names) - len(masks)
    if not counts[best] or counts[best] * 2 < min(len(masks), images_there):  # they are called so for another reason
        return None
    matched: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for number, match in ways[best].items():
        if match is not None:
            matched[match[0]].append((names[number], match[1]))
    lost = [names[number] for number, match in ways[best].items() if match is None]
    others = [number for number in range(len(names)) if not is_mask[number]]
    return _pairs(names, places, others, matched, lost)


def _pairs(
    names: Sequence[str],
    places: list[_Place],
    images: list[int],
    found: dict[int, list[tuple[str, str]]],
    lost: list[str],
) -> Pairs:
    chosen = [number for number in images if number in found]
    alone = [names[number] for number in images if number not in found]
    masks = [sorted(found[number], key=lambda mask: (mask[1], mask[0])) for number in chosen]
    folders = [places[number].folders for number in chosen]
    return Pairs([names[number] for number in chosen], folders, masks, alone, lost)


def _plain_folders(folder: str) -> tuple[tuple[str, ...], int]:
    """(folders without those that say images or masks alone, where the last one of masks was; -1 for none)"""
    kept: list[str] = []
    at = -1
    for part in folder.split("/") if folder else []:
        rest = rest_of_mask(part)
        if rest is not None:
            at = len(kept)
        else:
            rest = rest_of_images(part)
            if len(rest.replace(" ", "")) == len(_NO_LETTERS.sub("", part.lower())):
                rest = part  # it has no such word
        if rest:
            kept.append(rest)
    return tuple(kept), at


def _bare(stem: str) -> str:
    return stem.rstrip(" _.-")


_Images = dict[tuple[tuple[str, ...], str], list[int]]


def _exact(place: _Place, images: _Images) -> tuple[int, str] | None:
    """The image of the same folders and name, or of the name without what says that it is a mask."""
    for stem in (place.stem, _bare(_ENDING.sub("", place.stem))):
        if found := images.get((place.folders, stem)):
            return found[0], ""
    return None


def _in_class(place: _Place, images: _Images) -> tuple[int, str] | None:
    """The image whose masks lie in folders of classes: all folders the same but one below that of masks."""
    for at in range(place.at, len(place.folders)):
        others = place.folders[:at] + place.folders[at + 1 :]
        for stem in (place.stem, _bare(_ENDING.sub("", place.stem))):
            if found := images.get((others, stem)):
                return found[0], place.folders[at]
    return None


def _alone_in(place: _Place, inside: dict[tuple[str, ...], list[int]]) -> tuple[int, str] | None:
    """The one image of the folder in which a folder of masks lies; the folder below it is a class."""
    for folders in (place.folders, place.folders[:-1]):
        if len(folders) and len(found := inside.get(folders, [])) == 1:
            return found[0], "" if folders == place.folders else place.folders[-1]
    return None


def _beside(names: Sequence[str], places: list[_Place]) -> Pairs | None:
    """Masks that lie beside their images and are called after them."""
    stems: dict[tuple[tuple[str, ...], str], int] = {}
    for number, place in enumerate(places):
        stems.setdefault((place.folders, _bare(place.stem)), number)
        stems.setdefault((place.folders, _bare(_OF_IMAGE.sub("", place.stem))), number)
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    masks: set[int] = set()
    for number, place in enumerate(places):
        bare = _bare(_ENDING.sub("", place.stem))
        if bare == _bare(place.stem) or not bare:
            continue
        image = stems.get((place.folders, bare))
        if image is not None and image != number:
            found[image].append((names[number], ""))
            masks.add(number)
    images = [number for number in range(len(names)) if number not in masks]
    if not any(image in found for image in images):
        return None
    return _pairs(names, places, images, found, [])
