"""A model that exists, for images that it has not seen: how these are to be read so that it sees them as its own."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from openmae.commandline.flags import flag, with_flags
from openmae.data.formats.reading import Reading
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.sources.windows import Tiling
from openmae.data.survey.readings import Channels, Choice, Evidence, choose_reading, known_reading
from openmae.data.survey.sample import evidence, look
from openmae.errors import UserError
from openmae.weights import Loaded

_LOOKED_AT = 64  # images
_USUAL = Reading(layout="hwc", pages="frames")


def suited(loaded: Loaded, source: Source, asked: Reading, workers: int, console: Console) -> Loaded:
    """The model for the images of `source`, read as is asked, and else as its own were; where neither says it, as some
    of them tell. Says what is read otherwise than is usual, and what may be wrong. Raises UserError.

    workers: processes that look at them: a decoder may crash.
    """
    asked = known_reading(source, asked)
    _check_packed(loaded, Reading.from_dict(source.packed_as))
    sample = evidence(look(source, 0, workers, _LOOKED_AT, _first(loaded, asked)))
    _say_windows(loaded, sample, console)
    return suited_to(loaded, sample, asked, console)


def suited_to(loaded: Loaded, sample: Sequence[Evidence], asked: Reading, console: Console) -> Loaded:
    """The same for images of which a sample has been looked at."""
    pixels = loaded.statistics.pixels
    choice = choose_reading(
        sample, _first(loaded, asked), Channels(pixels.in_chans, pixels.bands, is_known=True)
    ).settled()
    say_choice(choice, console)
    # How arrays and pages lie is the data's matter; the model's own are a guide where these do not tell.
    reading = pixels.reading.but(choice.reading)
    return replace(loaded, statistics=replace(loaded.statistics, pixels=replace(pixels, reading=reading)))


def say_choice(choice: Choice, console: Console) -> None:
    """What is read otherwise than is usual and why, and what may be wrong."""
    for name, why in choice.why.items():
        if getattr(choice.reading, name) != getattr(_USUAL, name):
            console.print(f"{flag(name)} {getattr(choice.reading, name)}: {with_flags(why)}", soft_wrap=True)
    say_notes(choice, console)


def say_notes(choice: Choice, console: Console) -> None:
    """What may be wrong."""
    for note in choice.notes:
        console.print(f"warning: {with_flags(str(note))}", style="yellow", soft_wrap=True)


def _say_windows(loaded: Loaded, sample: Sequence[Evidence], console: Console) -> None:
    """Says so where a model learnt from windows, and is given whole images that are larger."""
    tile = Selection.from_dict(loaded.info["provenance"].get("selection", {})).tile
    if tile is None:
        return
    side = Tiling.asked(tile, None).side
    larger = sum(max(one.header.height, one.header.width) > side for one in sample)
    if larger:
        console.print(
            f"warning: {loaded.name} learnt from windows of {side} pixels, and {larger:,} of {len(sample):,} images "
            + with_flags(f"looked at are larger: `tile={tile}` cuts them likewise"),
            style="yellow",
            soft_wrap=True,
        )


def _check_packed(loaded: Loaded, packed: Reading) -> None:
    """Raises UserError where what was packed cannot become what the model learnt from."""
    own = loaded.statistics.pixels.reading
    if packed.dicom_units is not None and own.dicom_units not in (None, packed.dicom_units):
        raise UserError(
            f"the shards hold DICOM's numbers as {packed.dicom_units}, and {loaded.name} learnt from {own.dicom_units} "
            "ones",
            "pack the files again, as the model learnt them",
        )
    if packed.alpha in ("white", "black", "ignore") and own.alpha not in (None, packed.alpha):
        raise UserError(
            f"the shards were packed with `alpha={packed.alpha}`, and {loaded.name} learnt from `alpha={own.alpha}`",
            "pack the files again without it, which keeps alpha",
        )


def _first(loaded: Loaded, asked: Reading) -> Reading:
    """What is settled before the images are looked at."""
    own = replace(loaded.statistics.pixels.reading, layout=None, pages=None)
    return own.but(asked)
