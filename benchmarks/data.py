"""Loading speed beside other pipelines, side by side in one run: images per second and core.

    python benchmarks/data.py PHOTOS          a folder of photographs; writes its section of benchmarks/RESULTS.md

Random resized crop to 224 with flip, to a batch ready for the device. Every pipeline gets as many loader processes
as there are cores. The pipelines take turns, round after round, because a machine is never equally fast for long;
a figure is the median of the rounds, a ratio the median of the rounds' ratios.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "300")
import numpy as np
import simplejpeg
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.stream import Stream
from openmae.data.opening import open_data
from openmae.data.views.crop import Augmentation, View
from openmae.masking import Masking

CORES = len(os.sched_getaffinity(0))
BATCH = 64
BATCH_OF_LARGE = 8  # or a round would see few of them
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BICUBIC = transforms.InterpolationMode.BICUBIC
RELEASED = transforms.Compose(
    [
        transforms.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)
V2 = [v2.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=BICUBIC, antialias=True), v2.RandomHorizontalFlip()]
V2_FROM_PILLOW = v2.Compose([v2.PILToTensor(), *V2])
V2_FROM_TENSOR = v2.Compose(V2)


@dataclass
class Files(Dataset[torch.Tensor]):
    """An endless repetition of image files."""

    files: list[Path]
    load: Callable[[Path], torch.Tensor]

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.load(self.files[index % len(self.files)])


def released(file: Path) -> torch.Tensor:
    with file.open("rb") as opened:
        return RELEASED(Image.open(opened).convert("RGB"))


def v2_by_pillow(file: Path) -> torch.Tensor:
    with file.open("rb") as opened:
        return V2_FROM_PILLOW(Image.open(opened).convert("RGB"))


def v2_by_torchvision(file: Path) -> torch.Tensor:
    data = torchvision.io.read_file(str(file))
    return V2_FROM_TENSOR(torchvision.io.decode_jpeg(data, mode=torchvision.io.ImageReadMode.RGB))


def torch_loader(folder: Path, load: Callable[[Path], torch.Tensor], batch: int = BATCH) -> Iterator[torch.Tensor]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return iter(DataLoader(Files(files, load), batch, shuffle=True, num_workers=CORES, drop_last=True))


def wds_loader(shards: Path) -> Iterator[Any]:
    import webdataset

    urls = sorted(str(path) for path in shards.glob("*.tar"))
    data = webdataset.WebDataset(urls, resampled=True, nodesplitter=None).shuffle(1000).decode("pil")
    data = data.to_tuple("jpg;jpeg;png").map_tuple(RELEASED).batched(BATCH, partial=False)
    return (batch[0] for batch in webdataset.WebLoader(data, batch_size=None, num_workers=CORES))


def ours(data: Path, repeats: int = 1, batch: int = BATCH, device: torch.device | None = None) -> Iterator[Any]:
    """Batches, on the device where one is given."""
    stream = Stream(
        open_data(str(data)).all,
        View(PixelFormat(), (224, 224), (16, 16), Augmentation()),
        Masking(0.75),
        batch,
        10**6,
        0,
        repeats,
    )
    batches = stream.batches(0, batch, CORES, pin=device is not None)
    return batches if device is None else (one.to(device) for one in batches)


def megapixels(photos: Path, out: Path, tiles: int, count: int = 16) -> Path:
    """Photographs of 4000 x 3000 pixels as JPEG of quality 92, each of `tiles` x `tiles` of the given ones: fewer and
    more enlarged ones make a softer picture and a smaller file."""
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    draws = np.random.default_rng(0)
    out.mkdir()
    width, height = 4000 // tiles, 3000 // tiles
    for number in range(count):
        mosaic = Image.new("RGB", (4000, 3000))
        for tile, choice in enumerate(draws.integers(len(files), size=tiles**2)):
            with Image.open(files[choice]) as image:
                part = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
            mosaic.paste(part, (tile % tiles * width, tile // tiles * height))
        mosaic.save(out / f"{number:03d}.jpg", quality=92)
    return out


def tar_of(folder: Path, shards: Path) -> Path:
    """The files as they are, in one tar of the WebDataset layout."""
    import webdataset

    shards.mkdir()
    with webdataset.TarWriter(str(shards / "0000.tar")) as tar:
        for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
            tar.write({"__key__": f"{number:06d}", "jpg": path.read_bytes()})
    return shards


def packed(folder: Path, shards: Path) -> Path:
    command = [sys.executable, "-m", "openmae", "pack", str(folder), str(shards)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return shards


def rate(batches: Iterator[Any], seconds: float) -> float:
    """Images a second, after the loader processes have started."""
    warm = time.perf_counter() + min(3.0, seconds / 2)
    while time.perf_counter() < warm:
        next(batches)
    images, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        images += len(next(batches))
    return images / (time.perf_counter() - began)


def race(pipelines: dict[str, Callable[[], Iterator[Any]]], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Images a second and core of each pipeline in each round."""
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for number in range(rounds):
        for name, start in pipelines.items():
            batches = start()
            rates[name].append(rate(batches, seconds) / CORES)
            del batches
            print(f"round {number + 1}: {name:60s} {rates[name][-1]:7.0f}", flush=True)
    return rates


def memory(data: Path, epochs: int = 10) -> list[float]:
    """MB of this process and its loader processes together after each epoch (the data ten times over), shared pages
    counted once."""
    batches = ours(data)
    images = 10 * len(open_data(str(data)).all)  # once is over in a quarter of a second, and processes still warm up
    found, seen = [], 0
    for batch in batches:
        seen += len(batch)
        if seen >= images * (len(found) + 1):
            found.append(resident())
        if len(found) == epochs:
            return found
    raise AssertionError("the stream has no end")


def resident() -> float:
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    lines = [
        line.split() for pid in (me, *children) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    ]
    return sum(int(line[1]) for line in lines if line[0] == "Pss:") / 1e3


def table(title: str, rates: dict[str, list[float]]) -> str:
    """Markdown: a row a pipeline; ratios to the first one."""
    first = next(iter(rates.values()))
    rows = [f"### {title}", "", "| pipeline | images/s and core | times (a) |", "|---|---:|---:|"]
    for name, values in rates.items():
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        rows.append(f"| {name} | {statistics.median(values):,.0f} | {ratio:.2f} |")
    return "\n".join([*rows, ""])


def of_large(folder: Path) -> dict[str, Callable[[], Iterator[Any]]]:
    return {
        "(a) released MAE: Pillow, torch DataLoader": lambda: torch_loader(folder, released, BATCH_OF_LARGE),
        "(b) torchvision v2 on uint8, decoded by Pillow": lambda: torch_loader(folder, v2_by_pillow, BATCH_OF_LARGE),
        "(b') torchvision v2 on uint8, decoded by torchvision.io": lambda: torch_loader(
            folder, v2_by_torchvision, BATCH_OF_LARGE
        ),
        "(d) openmae, from the folder": lambda: ours(folder, batch=BATCH_OF_LARGE),
    }


def mean_megabytes(folder: Path) -> float:
    return statistics.mean(path.stat().st_size for path in folder.iterdir()) / 1e6


def machine() -> str:
    import webdataset

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    versions = (
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {Image.__version__}, "
        f"simplejpeg {simplejpeg.__version__}, webdataset {webdataset.__version__}"
    )
    return (
        f"{CORES} cores of {cpu}; {versions}; Python {platform.python_version()}; commit {commit.strip() or 'unknown'}"
    )


def write_section(text: str, results: Path) -> None:
    """Puts the text in place of the section of this benchmark."""
    begin, end = "<!-- data: begin -->", "<!-- data: end -->"
    old = results.read_text() if results.exists() else f"# Results of the benchmarks\n\n{begin}\n{end}\n"
    head, rest = old.split(begin)
    results.write_text(f"{head}{begin}\n{text}{end}{rest.split(end)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="openmae-bench-"))
    try:
        photos = given.photos
        tar, shards = tar_of(photos, work / "tar"), packed(photos, work / "packed")
        large = {
            "soft": megapixels(photos, work / "soft", tiles=2),
            "sharp": megapixels(photos, work / "sharp", tiles=8),
        }
        small = race(
            {
                "(a) released MAE: Pillow, torch DataLoader": lambda: torch_loader(photos, released),
                "(b) torchvision v2 on uint8, decoded by Pillow": lambda: torch_loader(photos, v2_by_pillow),
                "(b') torchvision v2 on uint8, decoded by torchvision.io": lambda: torch_loader(
                    photos, v2_by_torchvision
                ),
                "(c) webdataset, shards of the files as they are": lambda: wds_loader(tar),
                "(c') webdataset, shards of `openmae pack`": lambda: wds_loader(shards),
                "(d) openmae, from the folder": lambda: ours(photos),
                "(d') openmae, shards of the files as they are": lambda: ours(tar),
                "(e) openmae, from `openmae pack`": lambda: ours(shards),
                "(f) openmae, from the folder, 4 views a decode (views/s)": lambda: ours(photos, repeats=4),
            },
            given.seconds,
            given.rounds,
        )
        big = {kind: race(of_large(folder), given.seconds, given.rounds) for kind, folder in large.items()}
        use = memory(photos)
        megabytes = {kind: mean_megabytes(folder) for kind, folder in large.items()}
    finally:
        shutil.rmtree(work)
    count = sum(path.is_file() for path in photos.rglob("*"))
    text = (
        f"## Loading (`python benchmarks/data.py PHOTOS`)\n\n{machine()}; median of {given.rounds} rounds of "
        f"{given.seconds:g} s.\n\n"
        + table(f"{count} photographs, random resized crop to 224", small)
        + "\n"
        + "\n".join(
            table(f"{kind.capitalize()} photographs of 12 megapixels, {megabytes[kind]:.1f} MB", rates)
            for kind, rates in big.items()
        )
        + "\nMemory of (d), all processes together, after each of ten epochs (the photographs ten times over), in MB: "
        + f"{', '.join(f'{m:,.0f}' for m in use)}.\n"
    )
    write_section(text, given.results)
    print(text)


if __name__ == "__main__":
    main()
