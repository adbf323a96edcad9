"""What commands say of pixels that are missing, and of values that look like no-data."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from openmae.data.survey.nodata import Suspect, to_give


def missing_pixels(images: int, of: int, share: float) -> str:
    """So many images, of those looked at, lack some of their pixels, this share of all."""
    are = "image lacks" if images == 1 else "images lack"
    return (
        f"{images:,} of {of:,} {are} some of their pixels, {share:.2%} of all: no-data, which no figure counts and in "
        "whose place a model sees the mean"
    )


def say_missing(missing: NDArray[np.float64], most: float, console: Console) -> None:
    """Says how much of the images looked at, (n,) shares, is missing, and of how many more than training takes."""
    gaps, mostly = int((missing > 0).sum()), int((missing > most).sum())
    if not gaps:
        return
    console.print(missing_pixels(gaps, len(missing), float(missing.mean())), soft_wrap=True)
    if mostly:
        are = "image lacks" if mostly == 1 else "images lack"
        console.print(
            f"{mostly:,} {are} more than --max-nodata {most:g}: what is there is cropped, and another image takes the "
            "turn where that is too little",
            soft_wrap=True,
        )


def say_taken(taken: Sequence[Suspect], console: Console) -> None:
    """Says which values were taken for no-data, because no camera writes them."""
    for one in taken:
        console.print(
            f"Taken for no-data: {one}. --nodata gives other values, and without a value says that there are none",
            soft_wrap=True,
        )


def warn_of_suspects(suspected: Sequence[Suspect], nodata: tuple[float, ...] | None, console: Console) -> None:
    """Says which values may be no-data beside `nodata`, which is known, unless that is that none are."""
    for one in suspected if nodata != () else ():
        console.print(
            f"warning: {one}: if that is no-data, give --nodata {' '.join(to_give(one, suspected, nodata))}",
            style="yellow",
            soft_wrap=True,
        )
