"""A caller's data set: anything that gives arrays by index, or one after the other."""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from openmae.data.sources.labels import LabelledSource, label_text, number_labels
from openmae.errors import BrokenImage, UserError

_KINDS = "arrays (H, W) or (H, W, C), tensors (C, H, W), Pillow's images, or pairs of one of these and a label"
_COMPARED = 16  # items that tell one data set from another, and whether its labels are those of its items


class OwnImages(LabelledSource):
    """Images of a data set in memory, each as the bytes of a .npy file, channels last.

    images: has a length and gives an item by its index, or is an iterable, which is gone through once and kept. An item
    is an array (H, W) or (H, W, C) of numbers, a tensor (C, H, W), an image of Pillow's, a pair of one of these and its
    label, or a dict with `image` and maybe `label`. Labels are the data set's `targets` or `labels`, called as its
    `classes`, where it has them; otherwise those of the items, which are all asked for once.
    """

    label_advice = "give pairs of an image and its label, or a data set that has targets"

    def __init__(self, images: Any, name: str) -> None:
        """Raises UserError where it has no images."""
        self.location = self._name = name
        if not _is_data_set(images):
            raise UserError(
                f"{name} is {images!r}"[:200], f"give a data set, which has an item for each image: {_KINDS}"
            )
        self.images = images if hasattr(images, "__getitem__") and hasattr(images, "__len__") else list(images)
        if not len(self.images):
            raise UserError(f"{name} is empty", "give a data set with images in it")
        try:
            first = self.read(0)
        except BrokenImage as error:
            raise UserError(f"the first item of {name} cannot be used ({error})", f"give {_KINDS}") from error
        self._check_order()
        self._is_same_again = first == self.read(0)
        self._number()

    def _check_order(self) -> None:
        """Raises UserError where the channels of arrays come first by all appearances, as in no image 3 pixels high,
        and where the data set is one image, as no images are 3 pixels wide."""
        whole: tuple[int, ...] = tuple(getattr(self.images, "shape", ()))
        channels, *sides = whole if isinstance(self.images, torch.Tensor) else whole[::-1] or (0,)
        if len(sides) == 2 and channels <= 4 < min(sides):
            raise UserError(
                f"{self._name} is one array {whole}, which looks like one image",
                "put it into a list, or give an array (N, H, W, C) or a tensor (N, C, H, W)",
            )
        image = _parts(self.images[0])[0]
        shape: tuple[int, ...] = tuple(getattr(image, "shape", ()))
        if not isinstance(image, torch.Tensor) and len(shape) == 3 and shape[0] <= 4 < min(shape[1:]):
            raise UserError(
                f"the images of {self._name} are arrays {shape}, whose channels come first",
                "give arrays (H, W, C), or tensors (C, H, W) as torch.from_numpy makes them",
            )

    def _number(self) -> None:
        """Finds the labels."""
        given = [getattr(self.images, word, None) for word in ("targets", "labels")]
        found: Iterable[Any] | None = next((one for one in given if _is_list(one) and len(one) == len(self)), None)
        if found is None:
            if _parts(self.images[0])[1] is None:
                return
            found = (_parts(self.images[index])[1] for index in range(len(self)))
        names = getattr(self.images, "classes", None)
        texts = [_text(one) for one in found]
        if not self._are_of_items(texts):  # changed on the way, as by torchvision's target_transform
            texts, names = [_text(_parts(self.images[index])[1]) for index in range(len(self))], None
        known = [str(name) for name in names] if _is_list(names) else None
        self.numbers, self.classes, self.kind = number_labels(texts, known)

    def _are_of_items(self, texts: Sequence[str]) -> bool:
        """Whether items that have labels have these, as far as some of them tell."""
        for index in dict.fromkeys(np.linspace(0, len(self) - 1, _COMPARED).astype(int).tolist()):
            with suppress(Exception):  # of a broken one: who reads it says so
                label = _parts(self.images[index])[1]
                if label is not None and _text(label) != texts[index]:
                    return False
        return True

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """name[index]."""
        return f"{self._name}[{index}]"

    def read(self, index: int) -> bytes:
        """The image as a .npy file. Raises BrokenImage for what is none, and whatever the data set raises."""
        file = io.BytesIO()
        np.save(file, _array(_parts(self.images[index])[0]), allow_pickle=False)
        return file.getvalue()

    @property
    def packed_as(self) -> Mapping[str, Any]:
        """Channels come last."""
        return {"layout": "hwc"}

    @property
    def notes(self) -> tuple[str, ...]:
        """That it may be another one the next time."""
        if self._is_same_again:
            return ()
        return (
            f"{self._name} gives another image each time that it is asked for the same one: a run of it cannot be gone "
            "on with exactly, and openmae crops and mirrors by itself",
        )

    @cached_property
    def fingerprint(self) -> str:
        """Of the number of images, their labels, and the bytes of some of them where these stay the same."""
        digest = hashlib.sha256(f"{self._name} {len(self)} {self.classes}".encode())
        if self.numbers is not None:
            digest.update(self.numbers.tobytes())
        if self._is_same_again:
            for index in dict.fromkeys(np.linspace(0, len(self) - 1, _COMPARED).astype(int).tolist()):
                try:
                    digest.update(self.read(index))
                except (OSError, BrokenImage) as error:
                    digest.update(str(error).encode())
        return digest.hexdigest()


def _is_list(found: Any) -> TypeGuard[Sequence[Any]]:
    return hasattr(found, "__len__") and hasattr(found, "__getitem__") and not isinstance(found, str)


def _is_data_set(images: Any) -> bool:
    """Whether it has items at all; those of a text are letters."""
    if isinstance(images, type | str | bytes | np.generic | Mapping) or getattr(images, "ndim", 1) == 0:
        return False
    return hasattr(images, "__iter__") or (hasattr(images, "__getitem__") and hasattr(images, "__len__"))


def _parts(item: Any) -> tuple[Any, Any]:
    """(image, label) of an item; None for no label."""
    if isinstance(item, Mapping):
        return item.get("image"), item.get("label")
    if isinstance(item, tuple | list) and item and not isinstance(item[0], int | float):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _text(label: Any) -> str:
    return label_text(label.tolist() if hasattr(label, "tolist") else label)


def _array(image: Any) -> NDArray[Any]:
    """(H, W) or (H, W, C). Raises BrokenImage."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().numpy()
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    if isinstance(image, PIL.Image.Image):
        image = np.asarray(image if image.mode in ("L", "RGB", "RGBA", "I;16", "F") else image.convert("RGB"))
    found = np.asarray(image) if hasattr(image, "__array__") else None
    if found is None or found.ndim not in (2, 3) or 0 in found.shape or found.dtype.kind not in "buif":
        said = type(image).__name__ if found is None else f"an array {found.shape} of {found.dtype}"
        raise BrokenImage(f"it is {said}")
    return np.ascontiguousarray(found)
