"""The training stream: one endless sequence of samples, a function of (data, seed) and of nothing else.

Position p of the stream is sample p % n of epoch p // n in that epoch's order; step s takes positions
s * batch_size to (s + 1) * batch_size. Batches run across the ends of epochs, so no image is left out, a
batch may be larger than the data, and there is no pause between epochs.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openmae.data.decode import BrokenImage, check_covers_patch, decode
from openmae.data.folder import ImageFolder
from openmae.data.order import epoch_order, generator
from openmae.data.views import Augmentation, training_view
from openmae.masking import Masking

MOST_REPLACEMENTS = 100  # tries to replace a broken image before the batch is given up


@dataclass
class Batch:
    """images (B, C, H, W) uint8; visible (B, V) and queries (B, Q) patches; indices (B,) of the images in the
    source, as they were asked for; broken: (index, reason) of files that another image stood in for;
    failure: why the batch is of no use, where it is not."""

    images: Tensor
    visible: Tensor
    queries: Tensor
    indices: Tensor
    broken: list[tuple[int, str]]
    failure: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> "Batch":
        """Called by the DataLoader; makes the copy to a GPU asynchronous."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with what the model needs on `device`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        images, visible, queries = change(self.images), change(self.visible), change(self.queries)
        return replace(self, images=images, visible=visible, queries=queries)


@dataclass(frozen=True)
class Stream(Dataset[Batch]):
    """Makes the batch of any positions of the stream.

    masks: how patches hide on `grid`; its ratio follows the step, so `batch_size` and `steps` are needed.
    """

    source: ImageFolder
    in_chans: int
    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    augmentation: Augmentation
    masking: Masking
    batch_size: int
    steps: int
    seed: int

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch of these positions, which must belong to one step."""
        step = positions[0] // self.batch_size
        ratio = self.masking.ratio(step / self.steps, generator(self.seed, "step", index=step).random())
        grid = (self.img_size[0] // self.patch_size[0], self.img_size[1] // self.patch_size[1])
        images, visible, queries, indices = [], [], [], []
        broken: list[tuple[int, str]] = []
        failure = None
        for position in positions:
            epoch, place = divmod(position, len(self.source))
            index = int(_cached_order(self.seed, epoch, len(self.source))[place])
            draws = generator(self.seed, "sample", epoch=epoch, index=index)
            pixels = self._load(index, draws, broken)
            if pixels is None:
                failure = f"{MOST_REPLACEMENTS} images in a row cannot be used: check that the files are there"
                pixels = np.zeros((*self.img_size, self.in_chans), np.uint8)
            images.append(training_view(pixels, self.img_size, self.augmentation, draws))
            shown, asked = self.masking.draw(draws, grid, ratio)
            visible.append(shown)
            queries.append(asked)
            indices.append(index)
        return Batch(
            torch.stack(images),
            torch.from_numpy(np.stack(visible)),
            torch.from_numpy(np.stack(queries)),
            torch.tensor(indices),
            broken,
            failure,
        )

    def _load(self, index: int, draws: np.random.Generator, broken: list[tuple[int, str]]) -> NDArray[np.uint8] | None:
        """The image, or, where its file is broken, another one drawn with the sample's own generator."""
        for _ in range(MOST_REPLACEMENTS):
            try:
                pixels = decode(self.source.read(index), self.in_chans)
                check_covers_patch(pixels, self.patch_size)
                return pixels
            except (OSError, BrokenImage) as error:
                broken.append((index, str(error)))
                index = int(draws.integers(len(self.source)))
        return None

    def batches(self, first_step: int, micro_batch: int, workers: int, pin: bool = False) -> Iterator[Batch]:
        """The stream from `first_step` on, each step in micro-batches of at most `micro_batch`.

        workers: processes that load; 0 loads in this one. The result is the same.
        """
        plan = (
            range(start, min(start + micro_batch, (step + 1) * self.batch_size))
            for step in range(first_step, self.steps)
            for start in range(step * self.batch_size, (step + 1) * self.batch_size, micro_batch)
        )
        loader = DataLoader(
            self,
            batch_sampler=plan,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            pin_memory=pin,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals_to_the_parent,
        )
        batches = iter(loader)
        if workers and threading.current_thread() is threading.main_thread():
            # torch would raise from a signal handler, wherever the loop is, be it in the middle of a save; without
            # it a dead worker is noticed where batches are fetched, within 5 seconds.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and many schedulers signal the whole process group; the parent still needs batches to end its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(batch: Batch) -> Batch:
    return batch


@lru_cache(maxsize=2)
def _cached_order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    return epoch_order(seed, epoch, length)
