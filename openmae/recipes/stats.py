"""What the images are like: sizes, kinds, and the mean, deviation and percentiles of each channel.

    openmae stats your/images --out stats.toml
    openmae pretrain your/images --out runs/first --config stats.toml

Every image is read once and weighs the same, as in training, which draws images and not pixels. Where nobody says,
pre-training takes these figures from a sample of 2048 images.
"""

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomli_w
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from openmae.commandline.flags import flag, with_flags
from openmae.console.progress import Say, counting
from openmae.console.terminal import make_console
from openmae.console.words import counted, pace
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.header import Depth
from openmae.data.opening import open_data
from openmae.data.sources.source import Source
from openmae.data.survey.distribution import PERCENTILES, Block, Distribution, block_size, blocks, distribution, measure
from openmae.data.survey.frames import FRAMES
from openmae.data.survey.nodata import Suspect
from openmae.data.survey.sample import Settled, settle
from openmae.data.views.statistics import WHITE
from openmae.distributed.share import Share, share_here
from openmae.errors import UserError
from openmae.evaluate.suited import say_notes
from openmae.files.disk import check_out
from openmae.files.whole import write_file
from openmae.machine.workers import reading_workers
from openmae.own import is_own
from openmae.randomness import some
from openmae.recipes.asked import AskedFiles, AskedPart, AskedReading, Readers
from openmae.recipes.in_parts.folder import PartsFolder
from openmae.recipes.in_parts.survey import READ_AS, add, is_shared, surveyed
from openmae.recipes.levels import say_apart
from openmae.recipes.nodata import missing_pixels, say_taken, warn_of_suspects
from openmae.recipes.opened import tell
from openmae.report.plots.histogram import draw_histogram

_NAMED = 5  # images that cannot be read
_DEPTHS: dict[Depth, str] = {"uint8": "8 bits", "uint16": "16 bits", "float32": "32-bit floats"}


@dataclass(frozen=True)
class Stats(AskedFiles, AskedReading):
    """Mean, deviation, extremes and percentiles of each channel over all images, and the images' sizes and kinds.

    Each image weighs the same, however large it is. The result does not depend on --workers.
    """

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Images, as for pretrain. Of DATA with splits, train is read."""
    out: Annotated[Path | None, arg(metavar="FILE.toml")] = None
    """Write the figures here, for `pretrain --config FILE.toml`, and a picture of the histograms beside, FILE.png."""
    in_chans: int | None = None
    """Channels. Default: what the images have, or 3 for grey and colour together."""
    bands: tuple[int, ...] | None = None
    """Which of the files' channels, counted from 1. Default: all."""
    pixel_type: Depth | None = None
    """What all pixels are converted to. Default: the deepest found, so that nothing is squeezed."""
    most: int | None = None
    """Read so many images only, drawn at random, the same every time. Default: all."""
    part: AskedPart = None
    workers: Readers = None


def run(settings: Stats) -> None:
    """Reads, prints, writes. Raises UserError."""
    stats(settings)


def stats(settings: Stats) -> dict[str, Any]:
    """Does so, and gives the figures as settings of a pre-training of these images."""
    share = share_here(settings.part)
    console = make_console()
    console.quiet = not share.speaks
    workers = reading_workers(settings.workers)
    if settings.out is not None:
        check_out(settings.out, ".toml")
    source = _source(settings, console)
    settled = settle(
        source, 0, settings.in_chans, settings.bands, settings.pixel_type, settings.reading, workers=workers
    )
    with _measured(source, settled.pixels, settings, share, workers, console) as found:
        return {} if found is None else _told(found, source, settled, settings, workers, console)


@contextmanager
def _measured(
    source: Source, pixels: PixelFormat, settings: Stats, share: Share, workers: int, console: Console
) -> Iterator[Distribution | None]:
    """What all images are like; None where other processes still read some of them."""
    if not is_shared(share, settings.out):
        began = time.monotonic()
        with counting("reading", len(source), console) as say:
            found = measure(source, pixels, workers, say)
        console.print(f"{settings.data}: {pace(len(source), time.monotonic() - began)}")
        yield found
        return
    assert settings.out is not None
    total, unit = len(source), block_size(len(source))

    def read(parts: PartsFolder, say: Say) -> None:
        numbers = range(parts.stop, share.span(total, unit).stop)
        for block in blocks(source, pixels, numbers, workers, say):
            add(parts, parts.stop + len(block), block.broken, block.arrays())

    about = {"data_fingerprint": source.fingerprint, READ_AS: repr(pixels)}
    with surveyed("stats", settings.out, about, share, unit, total, read, console) as whole:
        if whole is None:
            yield None
            return
        found = distribution(source, pixels, (Block.of(part.more(), part.left_out) for part in whole.finished))
        if taken := _taken(found, settings):
            values = " ".join(one.said for one in taken)
            raise UserError(
                f"{values} look like no-data in some images, which all have to be read without",
                f"delete {whole.folder}, and give --nodata {values} to all processes",
            )
        yield found


def _taken(found: Distribution, settings: Stats) -> list[Suspect]:
    """Values that are taken for no-data, though nobody says so."""
    return [one for one in found.suspected if one.is_usual] if settings.nodata is None else []


def _told(
    found: Distribution, source: Source, settled: Settled, settings: Stats, workers: int, console: Console
) -> dict[str, Any]:
    """Prints and writes them, without no-data, for which all images are read once more; gives them as settings."""
    pixels, why = settled.pixels, settled.why_channels
    if taken := _taken(found, settings):
        pixels = replace(pixels, reading=replace(pixels.reading, nodata=tuple(one.value for one in taken)))
        with counting("reading without no-data", len(source), console) as say:
            found = measure(source, pixels, workers, say)
    which = f"bands {_words(pixels.bands)}" if pixels.bands is not None else with_flags(why)
    channels = "1 channel" if pixels.in_chans == 1 else f"{pixels.in_chans} channels"
    console.print(f"Read as {channels} of {_DEPTHS[pixels.depth]} ({which})")
    for name, reason in settled.choice.why.items():
        console.print(f"  {flag(name)} {getattr(pixels.reading, name)}: {with_flags(reason)}", soft_wrap=True)
    say_notes(settled.choice, console)
    console.print()
    _show_images(found, console)
    _show_channels(found, console)
    say_taken(taken, console)
    warn_of_suspects(found.suspected, pixels.reading.nodata, console)
    say_apart(found.apart, console)
    for note in _notes(found, source, settings.data):
        console.print(note, soft_wrap=True)
    values = {**found.statistics.to_dict(), **settings.selection.to_dict()}  # of the same images
    _hand_on(settings, found, values, console)
    return values


def _source(settings: Stats, console: Console) -> Source:
    data = open_data(settings.data, settings.selection, settings.reading)
    source = data.train
    tell(data, console)
    if settings.most is None:
        return source
    if settings.most < 1:
        raise UserError(f"--most is {settings.most}", "give 1 or more")
    return source.take(np.sort(some(0, "few", len(source), settings.most)))


def _show_images(found: Distribution, console: Console) -> None:
    heights, widths = found.sizes.T
    areas = heights.astype(np.int64) * widths
    least, most = found.sizes[areas.argmin()], found.sizes[areas.argmax()]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("images", f"{len(found.sizes):,}, and {len(found.broken):,} that cannot be read")
    table.add_row(
        "height x width",
        f"median {int(np.median(heights))} x {int(np.median(widths))}, smallest {least[0]} x {least[1]}, "
        f"largest {most[0]} x {most[1]}",
    )
    for name, counts in (("format", found.formats), ("mode", found.modes), ("depth", found.depths)):
        table.add_row(name, counted(counts))
    table.add_row("channels", counted(found.channels))
    console.print(table)


def _show_channels(found: Distribution, console: Console) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    names = ["median" if share == 50 else f"{share:g}%" for share in PERCENTILES]
    white = WHITE[found.statistics.pixels.depth]
    scaled = (f"mean/{white:.0f}", f"std/{white:.0f}") if white > 1 else ()
    for heading in ("channel", "mean", "std", "min", *names, "max", *scaled):
        table.add_column(heading, justify="right")
    bands = found.statistics.pixels.bands or range(1, found.statistics.pixels.in_chans + 1)
    for i, (band, mean, std) in enumerate(zip(bands, found.statistics.mean, found.statistics.std, strict=True)):
        levels = (found.least[i], *found.percentiles[:, i], found.most[i])
        own = (f"{mean * white:.4g}", f"{std * white:.4g}", *(_level(level, found) for level in levels))
        table.add_row(str(band), *own, *((f"{mean:.3g}", f"{std:.3g}") if scaled else ()))
    console.print()
    console.print(table)
    unit = (
        f"In levels, 0 to {white:.0f}; pretrain takes mean and std divided by {white:.0f}, which the last columns tell"
        if scaled
        else "In values as in the files, as pretrain takes them"
    )
    drawn = f"; percentiles of {found.sample:,} pixels of each image, drawn at random" if found.sample else ""
    console.print(f"{unit}{drawn}\n", soft_wrap=True)


def _notes(found: Distribution, source: Source, data: str) -> list[str]:
    """What stands out, a sentence each."""
    notes = []
    if found.broken:
        named = "; ".join(f"{source.shown(index)}: {with_flags(reason)}" for index, reason in found.broken[:_NAMED])
        more = f"; and {len(found.broken) - _NAMED:,} more" if len(found.broken) > _NAMED else ""
        notes.append(f"Cannot be read and left out: {named}{more}. openmae check {data} --out check.csv lists all.\n")
    highest = int(found.most.max()) if np.isfinite(found.most.max()) else 0
    if found.statistics.pixels.depth == "uint16" and highest < 2**15:
        notes.append(f"No level is above {highest:,}: {highest.bit_length()}-bit data in 16 bits, which is fine.\n")
    if found.gaps:
        notes.append(f"{missing_pixels(found.gaps, len(found.sizes), float(found.missing.mean()))}.\n")
    if found.grey:
        every = found.grey == len(found.sizes)
        notes.append(
            f"{'All' if every else f'{found.grey:,} of {len(found.sizes):,} images'} are grey and stored as colour: "
            + (
                "--in-chans 1 measures the one channel that they have, as pretrain reads them without these figures.\n"
                if every
                else "--in-chans 1 reads all as grey, if colour does not matter.\n"
            )
        )
    if (most := max(found.frames)) > 1:
        notes.append(f"Files have up to {most:,} frames: up to {FRAMES} of each, spread over it, count as one image.\n")
    if constant := [str(i + 1) for i in np.flatnonzero(found.least == found.most)]:
        notes.append(
            f"Channel {', '.join(constant)} has the same level everywhere: nothing can be learnt from it; leave it out "
            "by --bands.\n"
        )
    return notes


def _hand_on(settings: Stats, found: Distribution, values: dict[str, Any], console: Console) -> None:
    """Writes the files; says how to use the figures."""
    if settings.out is None and is_own(settings.data):  # a call, which gives them
        return
    if settings.out is None:
        flags = " ".join(
            f"{flag(name)} {_words(value if isinstance(value, list) else [value])}" for name, value in values.items()
        )
        console.print(f"To use them:   openmae pretrain {settings.data} --out RUN {flags}", soft_wrap=True)
        console.print("or write them to a file with --out stats.toml, for pretrain --config stats.toml")
        return
    write_file(settings.out, tomli_w.dumps(values).encode())
    picture = settings.out.with_suffix(".png")
    write_file(picture, draw_histogram(found))
    console.print(f"Written to {settings.out}; histograms in {picture}. To use them:")
    data = "DATA" if is_own(settings.data) else settings.data
    console.print(f"  openmae pretrain {data} --out RUN --config {settings.out}", soft_wrap=True)


def _level(level: float, found: Distribution) -> str:
    return f"{level:.4g}" if found.sample else f"{level:.0f}"


def _words(values: Sequence[float | str] | None) -> str:
    return shlex.join(map(str, values or ()))
