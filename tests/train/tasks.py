"""The smallest things that train: a linear regression, and one that asks for more memory than there is."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from openmae.distributed.ranks import ALONE
from openmae.machine.lanes import ONE
from openmae.train.learner import Learner
from openmae.train.log import Position
from openmae.train.loop import Schedule, Training, fit
from openmae.train.optimizers import adamw
from openmae.train.run import RunFolder

QUIET = Console(quiet=True)
CPU = torch.device("cpu")


def no_loss(model: nn.Module, batch: Any) -> Tensor:
    raise AssertionError("nothing is trained")


@dataclass
class Samples:
    """Rows of a fixed matrix: the smallest thing that the loop takes for a batch."""

    rows: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "Samples":
        return replace(self, rows=self.rows.to(device))


class Task:
    """Linear regression whose stream, like the real one, is a function of the step."""

    ranks = ALONE
    lanes = ONE

    def __init__(
        self, micro_batch: int = 8, poison: Callable[[int], bool] = lambda step: False, device: torch.device = CPU
    ) -> None:
        self.micro_batch, self.poison, self.device = micro_batch, poison, device
        self.data = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 1)).to(device)

    def batches_from(self, step: int, micro_batch: int) -> Iterator[Samples]:
        while True:
            part = self.ranks.share(8)
            indices = torch.arange(8 * step + part.start, 8 * step + part.stop) % 64
            for part in indices.split(micro_batch):
                rows = self.data[part].clone()
                if self.poison(step):
                    rows[0, 0] = torch.nan
                yield Samples(rows, part)
            step += 1

    @staticmethod
    def loss_of(model: nn.Module, batch: Samples) -> Tensor:
        return (model(batch.rows[:, :5]) - batch.rows[:, 5:]).square().mean()

    def train(
        self,
        folder: Path,
        steps: int,
        clip_grad: float | None = None,
        profile: bool = False,
        console: Console = QUIET,
        checkpoint_seconds: float = 1e9,
        after: Mapping[int, Callable[[], dict[str, Any]]] | None = None,
    ) -> Position:
        schedule = Schedule(
            steps,
            8,
            self.micro_batch,
            lambda step: 0.01 * (1 + step),
            inf if clip_grad is None else clip_grad,
            checkpoint_seconds=checkpoint_seconds,
            log_every=2,
            profile=profile,
        )
        with RunFolder(folder, leads=self.ranks.leads) as run:
            if self.ranks.leads:
                run.settle({"task": "regression"}, "data", ())
            return fit(
                Training(
                    Learner(self.model, self.loss_of, self.ranks),
                    adamw(self.model, (0.9, 0.95), 0.05),
                    self.batches_from,
                    lambda index: f"image{index}",
                    schedule,
                    run,
                    self.device,
                    console,
                    after=after or {},
                    lanes=self.lanes,
                )
            )


class TooLarge(Task):
    """Asks for more memory than any machine has where more than `most` samples come at once."""

    def __init__(self, most: int, device: torch.device = CPU) -> None:
        super().__init__(device=device)
        self.most, self.sizes, self.begun = most, list[int](), list[tuple[int, int]]()

    def batches_from(self, step: int, micro_batch: int) -> Iterator[Samples]:
        self.begun.append((step, micro_batch))
        return super().batches_from(step, micro_batch)

    def loss_of(self, model: nn.Module, batch: Samples) -> Tensor:  # type: ignore[override]
        if len(batch) > self.most:
            loss = Task.loss_of(model, batch)
            loss.backward()  # part of a gradient is there when memory ends
            torch.empty(2**55, device=self.device)
        self.sizes.append(len(batch))
        return Task.loss_of(model, batch)
