"""How many images a second the loader makes of the user's files, or of photographs made here."""

import io
import time
import warnings
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from openmae.console.words import several
from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.stream import Stream
from openmae.data.opening import open_data
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.survey.sample import survey
from openmae.data.views.crop import Augmentation, View
from openmae.distributed.ranks import Ranks
from openmae.machine.workers import reading_workers, workers_for
from openmae.model import create_model
from openmae.recipes.doctor.devices import product_speed
from openmae.recipes.doctor.diagnosis import Diagnosis
from openmae.train.cost import flops

IMG_SIZE = 224
PHOTOGRAPH = (375, 500)  # height, width: what most of ImageNet has
_LOOKED_AT = 64  # images of DATA
SECONDS = 2.0
_BATCH = 32
_MOST_WORKERS = 16
SLOW = 50.0  # images/s a core: a photograph takes 3 ms where nothing is wrong
_OF_A_PRODUCT = 0.3  # of the speed of a large matrix product, which a whole step may reach


def decoding(data: str | None, selection: Selection) -> list[Diagnosis]:
    """Reads, decodes, crops and resizes with a process a core, as training does. Raises UserError for no images."""
    with warnings.catch_warnings():  # Python 3.12 has doubts of forks beside a thread; the other one only waits
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return _decoding(data, selection)


def _decoding(data: str | None, selection: Selection) -> list[Diagnosis]:
    workers = min(_MOST_WORKERS, max(1, reading_workers(None)))
    size, pixels = PHOTOGRAPH, PixelFormat()
    source: Source = _Photographs()
    found: list[Diagnosis] = []
    if data is not None:
        source = open_data(data, selection).train
        look = survey(source, 0, workers=workers, most=_LOOKED_AT)
        size, pixels = look.size, look.statistics.pixels
        found.append(_seen(source, look.looked_at, look.broken, size, pixels))
    rate = _rate(source, size, pixels, workers)
    of = "photographs of 375 x 500 pixels" if data is None else "these images"
    processes = "1 process" if workers == 1 else f"{workers} processes"
    said = f"{rate:,.0f} images/s of {of} with {processes}, {rate / workers:,.0f} a core"
    return [*found, _judged(said, rate, workers, data)]


def _seen(
    source: Source, tried: int, broken: tuple[tuple[int, str], ...], size: tuple[int, int], pixels: PixelFormat
) -> Diagnosis:
    said = f"{several(len(source), 'image')} in {source.location}, {size[0]} x {size[1]} pixels, "
    said += several(pixels.in_chans, "channel")
    if broken:
        index, reason = broken[0]
        said += f"; {len(broken)} of {tried} tried cannot be read (the first: {source.shown(index)}: {reason})"
        return Diagnosis("data", "warn", said, f"openmae check {source.location} lists them all")
    return Diagnosis("data", "ok", said)


def _judged(said: str, rate: float, workers: int, data: str | None) -> Diagnosis:
    faster = f"openmae pack {data or 'DATA'} SHARDS makes images that load faster"
    if rate / workers < SLOW:
        remedy = f"{faster}; if the disk or the network is slow, copy them to a local disk"
        return Diagnosis("decoding", "warn", said, remedy)
    if gpus := torch.cuda.device_count() if torch.cuda.is_available() else 0:
        device = torch.device("cuda")
        loaders = gpus * workers_for(None, device, Ranks(0, gpus, 0, gpus))
        made, taken = rate / workers * loaders, gpus * _images_per_second(device)
        said += f"; {loaders} would make {made:,.0f}, and {several(gpus, 'GPU')} take about {taken:,.0f} of vit_base"
        if made < taken:
            remedy = f"{faster}; --repeat-aug takes several views of each; or take a machine with more cores a GPU"
            return Diagnosis("decoding", "warn", said, remedy)
    return Diagnosis("decoding", "ok", said)


def _images_per_second(device: torch.device) -> float:
    """What a GPU may take in training vit_base, by the speed of its products."""
    with torch.device("meta"):
        base = create_model("vit_base").architecture
    return _OF_A_PRODUCT * product_speed(device) / flops(base).step


def _rate(source: Source, size: tuple[int, int], pixels: PixelFormat, workers: int) -> float:
    """Views a second once the processes run. Raises UserError where nothing can be used."""
    height, width = (min(IMG_SIZE, side) for side in size)
    stream = Stream(source, View(pixels, (height, width), (1, 1), Augmentation()), None, _BATCH, 10**6, seed=0)
    batches = stream.batches(0, _BATCH, workers)
    try:
        if failure := next(batches).failure:
            raise failure
        began, count = time.perf_counter(), 0
        while (seconds := time.perf_counter() - began) < SECONDS:
            count += len(next(batches))
        return count / max(1e-9, seconds)
    finally:
        with suppress(AttributeError):
            batches.close()  # type: ignore[attr-defined]


class _Photographs(Source):
    """JPEGs with as many details as a photograph, about 100 kB each."""

    location = "memory"
    labels = np.zeros(0, np.int64)
    class_names: tuple[str, ...] = ()
    fingerprint = "photographs"

    def __init__(self) -> None:
        self._files = [_jpeg(np.random.default_rng(seed)) for seed in range(8)]

    def __len__(self) -> int:
        return 1024

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> bytes:
        return self._files[index % len(self._files)]


def _jpeg(draws: np.random.Generator) -> bytes:
    """Large shapes, small ones and a sensor's noise."""
    height, width = PHOTOGRAPH
    image = np.zeros((height, width, 3), np.float32)
    for cell, strength in ((100, 60.0), (25, 30.0), (6, 20.0), (2, 18.0), (1, 11.0)):
        coarse = draws.normal(0, strength, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        image += np.stack([_enlarged(coarse[..., channel]) for channel in range(3)], axis=2)
    file = io.BytesIO()
    Image.fromarray(np.clip(image + 128, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _enlarged(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    large = Image.fromarray(channel).resize(PHOTOGRAPH[::-1], Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32)
