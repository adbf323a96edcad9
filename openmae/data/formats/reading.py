"""How a file is read that can be read in more than one way: transparency, the order of axes, pages, DICOM's units, and
which values stand for no-data."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

Alpha = Literal["white", "black", "channel", "ignore"]
Layout = Literal["hwc", "chw"]
Pages = Literal["frames", "channels", "rows"]
DicomUnits = Literal["rescaled", "raw"]
_WORDS: dict[str, tuple[str, ...]] = {
    "alpha": get_args(Alpha),
    "layout": get_args(Layout),
    "pages": get_args(Pages),
    "dicom_units": get_args(DicomUnits),
}


@dataclass(frozen=True)
class Reading:
    """How a data set's files are read; None, each: as the file itself says, or as the rule for what nobody says.

    alpha: what stands behind transparent pixels, or whether transparency is a channel, or is left out and what lies
        hidden under it is shown.
    layout: whether the channels of an array come last (hwc) or first (chw).
    pages: whether pages of one size are frames, of which one is drawn, or the channels of one image, or its rows, each
        of (width, channels).
    dicom_units: what DICOM's slope and intercept, or its table, make of stored values, or the stored values.
    nodata: values, as they stand in the files, of pixels that are missing, beside those that a file itself calls so.
    It is part of the PixelFormat, and so travels with a model's weights.
    """

    alpha: Alpha | None = None
    layout: Layout | None = None
    pages: Pages | None = None
    dicom_units: DicomUnits | None = None
    nodata: tuple[float, ...] | None = None

    def but(self, asked: "Reading") -> "Reading":
        """This one, but what is asked for as it is asked."""
        return replace(self, **{name: value for name in _FIELDS if (value := getattr(asked, name)) is not None})

    def to_dict(self) -> dict[str, Any]:
        """What is said of it, for JSON and TOML."""
        said = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}
        return {name: [*value] if isinstance(value, tuple) else value for name, value in said.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Reading":
        """The inverse of `to_dict`; other entries are not looked at. Raises ValueError for an unknown word."""
        found = {name: values[name] for name in _WORDS if values.get(name) is not None}
        for name, word in found.items():
            if word not in _WORDS[name]:
                raise ValueError(f"{name} is {word!r}, not {' or '.join(_WORDS[name])}")
        nodata = values.get("nodata")
        return cls(**found, nodata=None if nodata is None else tuple(map(float, nodata)))


_FIELDS = tuple(field.name for field in fields(Reading))
UNSAID = Reading()
