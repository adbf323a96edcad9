"""What was found of files, as plain arrays that can be kept in a file, and from these again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.header import Header
from openmae.data.survey.nodata import Ends

Arrays = Mapping[str, NDArray[Any]]


def of_headers(headers: Sequence[Header]) -> Arrays:
    """What is said of n files, without what a file leaves open."""
    kinds = [(one.format, one.mode, one.depth, one.channels, one.frames, one.exact) for one in headers]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    return {
        "kinds": np.array(json.dumps([*numbers])),
        "kind": np.array([numbers[kind] for kind in kinds], np.int32),
        "size": np.array([(one.height, one.width) for one in headers], np.int32).reshape(-1, 2),
    }


def headers_of(arrays: Arrays) -> list[Header]:
    """The same again."""
    kinds = json.loads(str(arrays["kinds"]))
    found = []
    for number, (height, width) in zip(arrays["kind"].tolist(), arrays["size"].tolist(), strict=True):
        name, mode, depth, channels, frames, exact = kinds[number]
        found.append(Header(name, height, width, channels, depth, mode, frames, exact=exact))
    return found


def of_ends(found: Sequence[Ends]) -> Arrays:
    """The outermost values of n images."""
    return {
        "ends": np.array([(one.least, one.most) for one in found], np.float64).reshape(-1, 2),
        "outermost": np.array([pair for one in found for pair in one.outermost], np.float64).reshape(-1, 2),
        "outermost_of": np.repeat(np.arange(len(found)), [len(one.outermost) for one in found]),
    }


def ends_of(arrays: Arrays) -> list[Ends]:
    """The same again."""
    pairs = arrays["outermost"].tolist()
    bounds = np.searchsorted(arrays["outermost_of"], np.arange(len(arrays["ends"]) + 1)).tolist()
    return [
        Ends(tuple((value, share) for value, share in pairs[start:stop]), least, most)
        for (least, most), start, stop in zip(arrays["ends"].tolist(), bounds, bounds[1:], strict=False)
    ]
