"""Images in arrays: .npy, and .npz with `images` and `labels` or as MedMNIST has them."""

import ast
import hashlib
import io
import lzma
import math
import struct
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from openmae.data.sources.labels import LabelledSource, label_text, number_labels
from openmae.data.sources.open_file import OpenFile
from openmae.data.sources.packing import check_packing
from openmae.data.sources.selection import WHOLE, Selection
from openmae.data.sources.splits import split_name
from openmae.errors import BrokenImage, UserError
from openmae.machine.memory import bounded_growth, free_ram

_LONGEST_HEADER = 10_000  # bytes, as numpy itself bounds it
_MOST_BYTES = 1 << 62
_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error)  # what zipfile raises
MOST_LABEL_BYTES = 2**16  # of an image: a text, or a column for each class
_BESIDE = 2**30  # bytes that unpacking takes beside what is unpacked
_LABELS = {"images": "labels", "image": "label", "imgs": "labels", "img": "label", "X": "y", "x": "y", "data": "labels"}
_IMAGES = frozenset(word.lower() for word in _LABELS)
_FEW_CHANNELS, _MOST_CHANNELS = 4, 32  # of an image: no picture is as narrow; seldom more where its sides are longer
_SMALL = 16  # pixels a side: of fewer no picture is told from a few tiny ones
_LONG = 8  # times longer than wide
_SHAPES = "(images, height, width), (images, height, width, channels) or (images, channels, height, width)"


class ArrayFile(LabelledSource):
    """The images of a .npy file, (n, H, W) or (n, H, W, C), read from it one by one, each as the bytes of a .npy."""

    label_advice = "give an .npz with the arrays 'images' and 'labels'"

    def __init__(self, path: Path) -> None:
        """Raises UserError where it is no such array."""
        self.location = str(path)
        self.path = path
        try:
            with path.open("rb") as file:
                self.shape, self.dtype, columns_first = _header(file)
                self._start = file.tell()
        except (ValueError, OSError) as error:
            raise UserError(f"{path} is no array of numbers ({error})", "save one with numpy.save") from error
        _check_shape(self.shape, self.dtype, str(path))
        if columns_first:
            raise UserError(f"{path} has its columns first", "save numpy.ascontiguousarray of it")
        there, length = path.stat().st_size - self._start, math.prod(self.shape) * self.dtype.itemsize
        if there < length // 2:  # a header may promise more than an index of it has room for
            raise UserError(f"{path} is cut off", f"it has {there:,} of {length:,} bytes; copy or save it anew")
        self._head = _npy_head(self.shape[1:], self.dtype)
        self._file: OpenFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __len__(self) -> int:
        return self.shape[0]

    def name(self, index: int) -> str:
        """file#index."""
        return f"{self.path.name}#{index}"

    def read(self, index: int) -> bytes:
        """The image as a .npy file. Raises OSError where it cannot be read, BrokenImage where the file is cut off."""
        self._file = self._file or OpenFile(str(self.path))
        length = math.prod(self.shape[1:]) * self.dtype.itemsize
        if self._start + (index + 1) * length > self._file.bytes:
            raise BrokenImage(f"{self.path} is cut off after {self._file.bytes:,} bytes")
        return self._head + self._file.read(self._start + index * length, length)

    @property
    def fingerprint(self) -> str:
        """Of the file's name and the array's shape and type."""
        return hashlib.sha256(f"{self.path.name} {self.shape} {self.dtype}".encode()).hexdigest()


class ArraysInMemory(LabelledSource):
    """Images of an .npz, (n, H, W) or (n, H, W, C), which is read when it is opened and shared by the processes that
    are forked later; each is read as the bytes of a .npy file.

    name: of the array in the file. numbers and classes: as number_labels gives them.
    """

    label_advice = (
        "give it an array 'labels' of one number or text for each image, or a column of 0 and 1 for each label"
    )

    def __init__(
        self,
        path: Path,
        name: str,
        images: NDArray[Any],
        numbers: NDArray[np.int64] | None,
        classes: tuple[str, ...],
        checksum: int,
    ) -> None:
        self.location = str(path)
        self.array, self.images, self.numbers, self.classes = name, images, numbers, classes
        self._checksum = checksum
        self._head = _npy_head(images.shape[1:], images.dtype)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """file/array#index."""
        return f"{Path(self.location).name}/{self.array}#{index}"

    def read(self, index: int) -> bytes:
        """The image as a .npy file."""
        return self._head + self.images[index].tobytes()

    @cached_property
    def fingerprint(self) -> str:
        """Of the names of file and array, and of the array's shape, type and checksum."""
        what = f"{self.name(0)} {self.images.shape} {self.images.dtype} {self._checksum}"
        return hashlib.sha256(what.encode()).hexdigest()


def npz_arrays(path: Path, selection: Selection = WHOLE) -> dict[str, str]:
    """Names of the arrays of images, by what they are: {"all": ...}, or "train", "val" and "test", as MedMNIST
    (`train_images`) and Keras (`x_train`) have them.

    Raises UserError where there is none.
    """
    with _opened(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if selection.pair is not None:
        if missing := [name for name in selection.pair if name not in names]:
            raise UserError(f"{path} has no array {missing[0]}", f"mend `splits`; its arrays are {', '.join(names)}")
        return dict(zip(("train", "val"), selection.pair, strict=True))
    splits: dict[str, str] = {}
    for name in names:
        found = split_name(name)
        if found is not None and found.rest and _IMAGES.issuperset(found.rest):
            splits.setdefault(found.kind, name)
    if splits:
        return splits
    if "images" in names or len(names) == 1:
        return {"all": "images" if "images" in names else names[0]}
    raise UserError(
        f"{path} has the arrays {', '.join(names) or 'none'}",
        "call the images 'images' (and 'labels'), or "
        "'train_images' and 'val_images' (and 'train_labels' and 'val_labels')",
    )


def _labels_of(images: str) -> str:
    """Name of the labels of the array of images of this name."""
    for word, label in _LABELS.items():
        if images.endswith(word):
            return images.removesuffix(word) + label
        if images.startswith(word):
            return label + images.removeprefix(word)
    return f"{images}_labels"


def open_npz_array(path: Path, name: str) -> ArraysInMemory:
    """The images of this array. Raises UserError where it is no array of images, is damaged, or is too large."""
    with _opened(path) as archive:
        images = _read(archive, path, name)
        images = images.astype(images.dtype.newbyteorder("="), copy=False)  # which pickling would do to it
        _check_shape(images.shape, images.dtype, f"{name} of {path}")
        checksum = archive.getinfo(f"{name}.npy").CRC
        label_name = _labels_of(name)
        numbers: NDArray[np.int64] | None = None
        classes: tuple[str, ...] = ()
        if f"{label_name}.npy" in archive.namelist():
            labels = _read(archive, path, label_name, MOST_LABEL_BYTES * len(images))
            if (count := len(labels) if labels.ndim else 1) != len(images):
                raise UserError(f"{path} has {count:,} {label_name} for {len(images):,} {name}", "give each image one")
            try:
                numbers, classes = _numbered(labels, f"{label_name} of {path}")
            except ValueError as error:  # text that is none
                raise UserError(f"{label_name} of {path} cannot be read ({error})", "save it anew") from error
    return ArraysInMemory(path, name, images, numbers, classes, checksum)


def _numbered(labels: NDArray[Any], what: str) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Numbers and names of labels (n,) or (n, 1), or of a column a class (n, K), 1 where it applies; none of others.
    Raises UserError where columns hold anything else, ValueError where text is none."""
    if labels.ndim and labels.size == len(labels):
        return number_labels(label_text(label) for label in labels.reshape(-1).tolist())[:2]
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise UserError(
                f"{what} have {labels.shape[1]:,} columns, and not only 0 and 1 in them, which would say which classes "
                "an image has",
                "give each image one label or number, or a column a class with 1 where it applies",
            )
        return number_labels(label_text(np.flatnonzero(row).tolist()) for row in labels)[:2]
    return None, ()


def _read(archive: zipfile.ZipFile, path: Path, name: str, most: int | None = None) -> NDArray[Any]:
    """An array of an archive, unless it would take more than `most` bytes or half of the machine's memory."""
    try:
        with archive.open(f"{name}.npy") as member:
            shape, dtype, _ = _header(member)
            needed = math.prod(shape) * dtype.itemsize
            if most is not None and needed > most:
                raise UserError(f"{name} of {path} takes {needed:,} bytes, more than labels do", "give each image one")
            if needed > free_ram() // 2:
                raise UserError(
                    f"{name} of {path} takes {needed / 2**30:.1f} GiB, more than half of the memory that is free here",
                    "save it as a .npy, which is read image by image",
                )
            check_packing(f"{name} of {path}", needed, archive.getinfo(f"{name}.npy").compress_size)
        with archive.open(f"{name}.npy") as member, bounded_growth(needed + _BESIDE):
            return npy.read_array(member, allow_pickle=False)
    except (*_DAMAGE, MemoryError, EOFError, KeyError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{name} of {path} cannot be read ({error})", "save it anew with numpy.savez") from error


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise UserError(f"{path} cannot be read ({error})", "save it anew with numpy.savez") from error


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """(shape, dtype, whether columns come first) of the .npy that starts here. Raises ValueError."""
    size = 2 if npy.read_magic(file) == (1, 0) else 4
    length = int.from_bytes(file.read(size), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header of {length:,} bytes is too long")
    try:
        found = ast.literal_eval(file.read(length).decode("latin-1"))
        shape, columns_first, dtype = found["shape"], found["fortran_order"], npy.descr_to_dtype(found["descr"])
    except Exception as error:  # what parsing raises on a damaged text is of nearly every kind
        raise ValueError(f"its header cannot be read: {error}") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if not isinstance(shape, tuple) or not all(type(side) is int and 0 <= side < _MOST_BYTES for side in shape):
        raise ValueError(f"its header gives {shape} for a shape")
    if math.prod(shape) * dtype.itemsize >= _MOST_BYTES:
        raise ValueError(f"its header gives it the shape {shape}, which no file holds")
    return shape, dtype, bool(columns_first)


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> None:
    """Raises UserError where these are no images, or one."""
    if len(shape) not in (3, 4) or 0 in shape or dtype.kind not in "buif":
        raise UserError(f"{what} has the shape {shape} of {dtype}", f"give numbers of the shape {_SHAPES}")
    if len(shape) == 3 and _is_one_image(shape):
        height, width, channels = shape
        raise UserError(
            f"{what} has the shape {shape}: one image whose channels are {channels}, or {height} images of {width} x "
            f"{channels} pixels",
            "put the file of one image into a folder and give that, or save many as (images, height, width, 1)",
        )
    if len(shape) == 4 and shape[3] > _MOST_CHANNELS and shape[3] > 4 * max(shape[:3]):
        raise UserError(
            f"{what} has the shape {shape}, which would be {shape[0]} images of {shape[3]} channels",
            "save it with its images first, as numpy.moveaxis(array, -1, 0) gives it",
        )


def _is_one_image(shape: tuple[int, ...]) -> bool:
    """Whether (a, b, c) is rather (height, width, channels) than (images, height, width)."""
    height, width, channels = shape
    if min(height, width) < max(_SMALL, 2 * channels):
        return False
    is_picture = height <= _LONG * width and width <= _LONG * height
    return channels <= _FEW_CHANNELS or (channels <= _MOST_CHANNELS and is_picture)


def _npy_head(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What stands before the numbers of one image in a .npy file."""
    head = io.BytesIO()
    npy.write_array_header_1_0(head, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return head.getvalue()
