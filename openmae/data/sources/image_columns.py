"""Which column of a parquet file holds images: encoded ones, or pixels in lists of lists; and the latter as .npy."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.errors import BrokenImage, UserError

_NAMES = ("image", "img", "pixels")
_PATH = "path"  # of tables that name files


def image_column(schema: Any, key: str | None = None) -> str | None:
    """The column of encoded images (binary, or a struct with binary `bytes`) or, where there is none, of pixels, lists
    of (height, width) or with one axis more; None where there is neither, or where it is a table of files.

    key: what the user calls it. Raises UserError where there is no such column, or where several may be meant.
    """
    encoded = [field.name for field in schema if _is_binary(_bytes_type(field.type))]
    pixels = [field.name for field in schema if _axes(field.type) in (2, 3)]
    if key is not None:
        if key in encoded or key in pixels:
            return key
        said = ", ".join(encoded + pixels) or "none"
        raise UserError(f"`image_key={key}` is no column of images (those that are: {said})", "name one of these")
    is_table = _PATH in schema.names
    for columns in (encoded,) if is_table else (encoded, pixels):
        if named := [name for name in _NAMES if name in columns] or (columns if len(columns) == 1 else []):
            return named[0]
        if len(columns) > 1 and not is_table:
            raise UserError(
                f"there are several columns of images ({', '.join(columns)})",
                f"name the one that is meant, `image_key={columns[0]}`",
            )
    flat = [name for name in _NAMES if name in schema.names and _axes(schema.field(name).type) == 1]
    if flat and not is_table:
        raise UserError(
            f"the column '{flat[0]}' has flat lists of numbers, of which nobody tells height and width",
            "save lists of (height, width) or (height, width, channels), or encoded images",
        )
    return None


def of_row(value: Any) -> bytes:
    """What a row of such a column, pyarrow's scalar, holds: the bytes of an image. Raises BrokenImage where it holds
    none."""
    import pyarrow

    if not value.is_valid:
        raise BrokenImage("the table has no bytes of it")
    if isinstance(value.type, pyarrow.FixedShapeTensorType):
        return _saved(value.to_numpy())
    if isinstance(value, pyarrow.ExtensionScalar):
        value = value.value
    return _saved(_array(value.values)) if _is_list(value.type) else bytes(value.as_py())


def _saved(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _array(rows: Any) -> NDArray[Any]:
    """The lists of an image. Raises BrokenImage where they are no array."""
    import pyarrow.compute

    shape = [len(rows)]
    while _is_list(rows.type):
        lengths = pyarrow.compute.list_value_length(rows).unique()
        if len(lengths) != 1 or not lengths[0].is_valid:
            raise BrokenImage("its rows are of different lengths")
        shape.append(lengths[0].as_py())
        rows = rows.flatten()
    if rows.null_count:
        raise BrokenImage("some of its pixels are null")
    found: NDArray[Any] = rows.to_numpy(zero_copy_only=False).reshape(shape)
    return found


def _axes(kind: Any) -> int:
    """Of lists of numbers in each other, or of a tensor; 0 of anything else."""
    import pyarrow

    if isinstance(kind, pyarrow.FixedShapeTensorType):
        return len(kind.shape)
    axes, kind = 0, getattr(kind, "storage_type", kind)  # that of a type which only its library knows
    while _is_list(kind):
        axes, kind = axes + 1, kind.value_type
    is_number = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
    return axes if is_number else 0


def _is_list(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind)


def _bytes_type(kind: Any) -> Any:
    import pyarrow

    if not pyarrow.types.is_struct(kind):
        return kind
    place = kind.get_field_index("bytes")
    return kind.field(place).type if place >= 0 else kind


def _is_binary(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
