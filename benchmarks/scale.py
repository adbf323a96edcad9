"""What a billion images ask of a machine, and reading them from an object store; tables, in Markdown. Times are
of the processor where nothing is waited for.

python benchmarks/scale.py order      memory, start and resume of 10^9 simulated images, by order
python benchmarks/scale.py shuffle    how well batches are mixed, of shards that are sorted by class
python benchmarks/scale.py s3         a stream from a local S3 (moto) with latency and answers of 503
python benchmarks/scale.py near       neighbours among 10^6 simulated vectors by an index (--vectors, --width)
"""

import argparse
import io
import math
import multiprocessing
import os
import random
import resource
import socket
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading import order as orders
from openmae.data.loading.order import Order
from openmae.data.loading.stream import Stream
from openmae.data.opening import open_data
from openmae.data.sources import remote
from openmae.data.sources.source import Source
from openmae.data.views.crop import Augmentation, View
from openmae.evaluate.indexed import near
from openmae.masking import Masking

BILLION, BATCH = 10**9, 256
VIEW = View(PixelFormat(), (32, 32), (4, 4), Augmentation())


def table(head: str, rows: list[str]) -> None:
    print("\n".join([f"| {head} |", "|" + " --- |" * (head.count("|") + 1), *(f"| {row} |" for row in rows)]))


# ---------------------------------------------------------------- the order


class Simulated(Source):
    """So many images, the index of which is computed: each is the same small PNG."""

    def __init__(self, length: int) -> None:
        self.length, self.location = length, "simulated"
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(file, "PNG")
        self.data = file.getvalue()

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"{index:012d}.png"

    def read(self, index: int) -> bytes:
        return self.data

    fingerprint, class_names = "simulated", ()  # type: ignore[assignment]
    labels = np.zeros(0, np.int64)  # type: ignore[assignment]


def memory() -> float:
    """MB of this process alone."""
    rows = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return (int(rows["Private_Dirty"].split()[0]) + int(rows["Private_Clean"].split()[0])) / 1000


def seconds_to_a_batch(stream: Stream, step: int) -> float:
    """Of the processor, which others may share."""
    began = time.process_time()
    next(iter(stream.batches(step, BATCH, 0)))
    return time.process_time() - began


def measure_order(length: int, block: int | None, pipe: Any) -> None:
    stream = Stream(Simulated(length), VIEW, Masking(), BATCH, 10**9, 0, shuffle_block=block)
    seconds_to_a_batch(Stream(Simulated(1000), VIEW, Masking(), BATCH, 10, 0), 0)  # imports
    before = memory()
    start = seconds_to_a_batch(stream, 0)
    resume = seconds_to_a_batch(stream, 7 * length // (2 * BATCH))  # in the middle of the fourth epoch
    border = seconds_to_a_batch(stream, 5 * length // BATCH)  # between two epochs
    taken = memory() - before
    visits = [range(at, at + BATCH) for at in range(0, 200 * BATCH, BATCH)]
    stream.order.of(visits[-1])
    began = time.process_time()
    for some in visits:
        stream.order.of(some)
    pipe.send((taken, start, resume, border, (time.process_time() - began) / (len(visits) * BATCH)))


def order(args: argparse.Namespace) -> None:
    """Each in a process of its own."""
    rows = []
    for name, length, block in (
        (f"drawn, of {args.drawn:,} images", args.drawn, None),
        ("computed", BILLION, 1),
        ("in blocks of 84", BILLION, 84),
    ):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=measure_order, args=(length, block, theirs))
        process.start()
        taken, start, resume, border, each = ours.recv()
        process.join()
        rows.append(f"{name} | {taken:,.0f} MB | {start:.2f} s | {resume:.2f} s | {border:.2f} s | {each * 1e6:.2f} µs")
    head = "order of 10^9 images | memory of a process | first batch | batch of a resumed run"
    table(f"{head} | batch at the border of epochs | an index", rows)


# ---------------------------------------------------------------- how well it shuffles


def buffered(images: int, shards: int, size: int) -> NDArray[np.int64]:
    """WebDataset's way: shards in a drawn order, one after the other, through a buffer of so many images of which a
    drawn one is given."""
    draws = random.Random(0)
    each = images // shards
    some = draws.sample(range(shards), min(shards, 40))
    buffer: list[int] = []
    found = []
    for image in (shard * each + i for shard in some for i in range(each)):
        if len(buffer) < size:
            buffer.append(image)
            continue
        place = draws.randrange(size)
        found.append(buffer[place])
        buffer[place] = image
    return np.array(found)


def shuffle(args: argparse.Namespace) -> None:
    """A million images in shards of 1,000, each of one class."""
    images, shards = 10**6, 1000
    at = range(100 * BATCH, 140 * BATCH)
    ways: dict[str, NDArray[np.int64]] = {"every image by itself": np.array(Order(0, images).of(at))}
    for block in (8, 84, 500):
        ways[f"blocks of {block}"] = np.array(Order(0, images, block, BATCH).of(at))
    for size in (1000, 10_000):
        ways[f"one shard after the other, a buffer of {size:,}"] = buffered(images, shards, size)[: len(at)]
    rows = []
    for name, found in ways.items():
        counts = [Counter((found[b : b + BATCH] // (images // shards)).tolist()) for b in range(0, len(found), BATCH)]
        entropy = np.mean([-sum(n / BATCH * math.log2(n / BATCH) for n in count.values()) for count in counts])
        most = np.mean([max(count.values()) for count in counts])
        rows.append(f"{name} | {np.mean([*map(len, counts)]):.0f} | {entropy:.2f} | {most:.1f}")
    table(f"of batches of {BATCH} | classes (shards) a batch | entropy of the class, bits | most of one class", rows)


# ---------------------------------------------------------------- an object store


def serve(port: int, latency: float, failing: float) -> None:
    """moto behind a latency, which answers 503 now and then and tells at /counts what it was asked for."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    app, draws, lock = DomainDispatcherApplication(create_backend_app), random.Random(0), threading.Lock()
    counts = {"requests": 0, "refused": 0, "bytes": 0}

    def behind(environment: dict[str, Any], start: Callable[..., Any]) -> Any:
        if environment["PATH_INFO"] == "/counts":
            start("200 OK", [("Content-Type", "text/plain")])
            return [" ".join(map(str, counts.values())).encode()]
        if environment["REQUEST_METHOD"] == "PUT":
            return app(environment, start)
        time.sleep(latency)
        with lock:
            counts["requests"] += 1
            refused = draws.random() < failing
            counts["refused"] += refused
        if refused:
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code></Error>"]
        parts = list(app(environment, start))
        with lock:
            counts["bytes"] += sum(map(len, parts))
        return parts

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *args: object) -> None:
            pass

    make_server("127.0.0.1", port, behind, threaded=True, request_handler=Quiet).serve_forever()


@contextmanager
def bucket(folder: Path, latency: float, failing: float) -> Iterator[str]:
    """The files of a folder in a bucket; gives the address of its counts."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, latency, failing), daemon=True)
    process.start()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret"}
    client = boto3.client("s3")
    while process.is_alive():
        try:
            client.create_bucket(Bucket="images")
            break
        except Exception:
            time.sleep(0.2)
    for file in folder.iterdir():
        client.put_object(Bucket="images", Key=file.name, Body=file.read_bytes())
    try:
        yield f"http://127.0.0.1:{port}/counts"
    finally:
        process.terminate()
        process.join()


def shards_of(folder: Path, shards: int, each: int) -> None:
    """Photograph-like JPEGs of about 50 KB: noise that is smoothed."""
    import tarfile

    draws = np.random.default_rng(0)
    kinds = []
    for _ in range(16):
        small = draws.integers(0, 256, (150, 200, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
        kinds.append(file.getvalue())
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for number in range(each):
                member = tarfile.TarInfo(f"{shard * each + number:09d}.jpg")
                data = kinds[number % len(kinds)]
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def s3(args: argparse.Namespace) -> None:
    """A stream by two loaders to somebody who takes a batch of 64 every 0.2 s."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        folder = Path(place, "shards")
        folder.mkdir()
        shards_of(folder, args.shards, args.each)
        for latency, failing in ((0.0, 0.0), (0.05, 0.0), (0.05, 0.05), (0.2, 0.0)):
            with bucket(folder, latency, failing) as counts:
                remote.servers.clear()
                source = open_data("s3://images").all
                said = f"{latency * 1000:.0f} ms, {failing:.0%}"
                rows += [f"{said} | {block} | {streamed(source, block, counts)}" for block in (1, args.block)]
    head = "latency, 503s | images a block | requests an image | answered 503 | MB an image | images/s | MB/s"
    table(f"{head} | share of the time waited | longest wait", rows)


def streamed(source: Source, block: int, address: str) -> str:
    batch = 64
    steps = len(source) // batch
    view = View(PixelFormat(), (64, 64), (8, 8), Augmentation())
    before = asked(address)
    stream, waits = Stream(source, view, Masking(), batch, steps, 0, shuffle_block=block), []
    began = time.perf_counter()
    batches = stream.batches(0, batch, 2)
    for _ in range(steps):
        wanted = time.perf_counter()
        got = next(batches)
        waits.append(time.perf_counter() - wanted)
        assert not got.broken
        assert got.failure is None
        time.sleep(0.2)
    took, images = time.perf_counter() - began, steps * batch
    requests, refused, sent = (now - then for now, then in zip(asked(address), before, strict=True))
    mb = sent / 1e6
    return (
        f"{requests / images:.3f} | {refused:,} | {mb / images:.3f} | {images / took:.0f} | {mb / took:.1f} | "
        f"{sum(waits) / took:.0%} | {max(waits):.2f} s"
    )


def asked(address: str) -> list[int]:
    with urllib.request.urlopen(address) as answer:
        return [int(number) for number in answer.read().split()]


# ---------------------------------------------------------------- neighbours


def near_ones(args: argparse.Namespace) -> None:
    """Of vectors in 10,000 clusters that lie on a surface of 16 dimensions."""
    draws = np.random.default_rng(0)
    basis = draws.normal(size=(16, args.width)).astype(np.float32)
    centres = draws.normal(size=(10_000, 16)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        shape = (args.vectors, args.width)
        vectors = np.lib.format.open_memmap(Path(folder) / "vectors.npy", "w+", np.float32, shape)
        for start in range(0, args.vectors, 10**5):
            count = min(10**5, args.vectors - start)
            inner = centres[draws.integers(10_000, size=count)] + draws.normal(0, 0.3, (count, 16))
            noise = draws.normal(0, 0.1, (count, args.width))
            vectors[start : start + count] = inner.astype(np.float32) @ basis + noise
        vectors.flush()
        before, began, phases = used_by_children(), time.monotonic(), dict[str, float]()
        found = near(Path(folder) / "vectors.npy", args.nearest, Path(folder), partial(note, phases, began))
        seconds = used_by_children() - before
        own = memory()
        pairs = found.pairs(0.999, 1000).total
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    # What comparing all with all takes: of so many, by so many at once, measured.
    few = draws.normal(size=(2048, args.width)).astype(np.float32)
    began = time.process_time()
    for _ in range(20):
        few @ few.T
    exact = (time.process_time() - began) / 20 * (args.vectors / 2048) ** 2
    until = ", ".join(f"{doing} {at:.0f} s" for doing, at in phases.items())
    row = f"{args.vectors:,} x {args.width} | {seconds:,.0f} s ({until} on a clock) | {exact:,.0f} s | {peak:,.0f} MB"
    size = 4 * args.vectors * args.width / 1e6
    head = f"vectors | an index, of the processor | all with all | memory at most, of {size:,.0f} MB"
    table(
        f"{head} | memory of who asks | looked through | recall of {args.nearest} | pairs above 0.999",
        [f"{row} | {own:,.0f} MB | {found.looked_through:,} of {found.cells:,} cells | {found.recall:.2%} | {pairs:,}"],
    )


def note(phases: dict[str, float], began: float, doing: str, done: int) -> None:
    """When each phase ended."""
    phases[doing] = time.monotonic() - began


def used_by_children() -> float:
    """Seconds of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("order", "shuffle", "s3", "near"))
    parser.add_argument("--drawn", type=int, default=orders.MOST_DRAWN * 8, help="images of the drawn order")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--each", type=int, default=400)
    parser.add_argument("--block", type=int, default=84)
    parser.add_argument("--vectors", type=int, default=10**6)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--nearest", type=int, default=16)
    asked_for = parser.parse_args()
    {"order": order, "shuffle": shuffle, "s3": s3, "near": near_ones}[asked_for.part](asked_for)
