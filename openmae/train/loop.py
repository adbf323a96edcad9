"""The training loop. It knows a model, a loss function, batches, an optimizer and a folder; nothing of MAE."""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

import torch
from rich.console import Console
from torch import Tensor, nn

from openmae.errors import Interrupted, UserError
from openmae.train.checkpoint import newest_checkpoint, restore, save_checkpoint
from openmae.train.console import Progress
from openmae.train.run import RunFolder

MOST_DROPPED_IN_A_ROW = 5  # steps without a finite gradient before the run stops


@dataclass(frozen=True)
class Plan:
    """How long and in what pieces to train.

    steps: optimizer steps in all; batch_size: samples a step, whatever the micro-batches.
    lr: the learning rate of a step. clip_grad: largest norm of the whole gradient, None for no bound.
    checkpoint_seconds: time between checkpoints; one more comes at the end and when the run is interrupted.
    log_every: steps that a line of metrics.jsonl averages over.
    """

    steps: int
    batch_size: int
    lr: Callable[[int], float]
    clip_grad: float | None
    checkpoint_seconds: float
    log_every: int


@dataclass
class Position:
    """How far the run is: saved with every checkpoint, so that a resumed run logs what an unbroken one would."""

    step: int = 0
    loss_sum: float = 0.0  # over the steps since the last line of the log
    loss_steps: int = 0
    dropped: int = 0
    dropped_in_a_row: int = 0


@dataclass
class _Clock:
    """Time and samples since the last line of the log."""

    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    samples: int = 0


def fit(
    model: M,
    loss_of: Callable[[M, B], Tensor],
    batches_from: Callable[[int], Iterator[B]],
    optimizer: torch.optim.Optimizer,
    run: RunFolder,
    plan: Plan,
    *,
    device: torch.device,
    precision: Literal["bf16", "fp32"],
    console: Console,
    name_of: Callable[[int], str],
    after: Mapping[int, Callable[[], dict[str, Any]]],
) -> Position:
    """Trains to the plan's last step, from the newest good checkpoint of the run folder where there is one.

    loss_of: mean loss over a batch, a scalar. batches_from: the endless stream from a step on, in
    micro-batches that never cross a step. name_of: what to call a sample when its gradient is not finite.
    after: what to do after certain steps; the numbers that it returns are logged.

    A step whose loss or gradient is not finite does not touch the weights or the optimizer's averages.
    Raises UserError after MOST_DROPPED_IN_A_ROW of them, Interrupted on Ctrl-C or SIGTERM (after a
    checkpoint), OSError where the folder cannot be written.
    """
    position = resume(model, optimizer, run, console)
    if position.step:
        is_whole = position.step == plan.steps
        said = f"The run in {run.path} is complete" if is_whole else f"Going on with the run in {run.path}"
        console.print(f"{said}: {position.step:,} of {plan.steps:,} steps are taken", soft_wrap=True)
    batches = batches_from(position.step)
    suspects: deque[list[int]] = deque(maxlen=MOST_DROPPED_IN_A_ROW)
    saved_at = time.monotonic()
    clock, begun_at, seconds_a_step = _Clock(), position.step, 0.0

    def save() -> None:
        state = {k: getattr(position, k) for k in ("loss_sum", "loss_steps", "dropped", "dropped_in_a_row")}
        run.sync()
        save_checkpoint(run.checkpoints, position.step, model, optimizer, state)

    model.train()
    with _Stop() as stop, Progress(plan.steps, console) as progress:
        while position.step < plan.steps:
            began = time.perf_counter()
            lr = plan.lr(position.step)
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            loss, norm, indices, waited = step(model, loss_of, batches, optimizer, plan, device, precision)
            position.step += 1
            clock.waited += waited
            clock.samples += plan.batch_size
            if torch.isfinite(loss + norm):
                position.loss_sum += loss.item()
                position.loss_steps += 1
                position.dropped_in_a_row = 0
            else:
                position.dropped += 1
                position.dropped_in_a_row += 1
                suspects.append(indices)
                if position.dropped_in_a_row >= MOST_DROPPED_IN_A_ROW:
                    raise UserError(_not_finite(position, run.path, suspects, name_of))

            seconds = time.perf_counter() - began
            taken = position.step - begun_at  # the first one is not counted: it waits for processes and memory
            if taken > 1:
                seconds_a_step = seconds if taken == 2 else 0.95 * seconds_a_step + 0.05 * seconds
            left = seconds_a_step * (plan.steps - position.step) if taken > 1 else None
            elapsed = time.perf_counter() - clock.began
            mean_loss = position.loss_sum / max(1, position.loss_steps)
            progress.show(position.step, mean_loss, lr, clock.samples / elapsed, clock.waited / elapsed, left)

            observed = after[position.step]() if position.step in after else {}
            model.train()
            if position.step % plan.log_every == 0 or position.step == plan.steps or observed:
                line = {
                    "step": position.step,
                    "loss": mean_loss if position.loss_steps else None,
                    "lr": lr,
                    "grad_norm": norm.item() if torch.isfinite(norm) else None,
                    "images_per_second": round(clock.samples / elapsed, 2),
                    "data_wait": round(clock.waited / elapsed, 4),
                    "dropped": position.dropped,
                    "time": round(time.time(), 3),
                }
                run.log({**line, **observed})
                position.loss_sum, position.loss_steps, clock = 0.0, 0, _Clock()
            due = time.monotonic() - saved_at >= plan.checkpoint_seconds
            if due or stop.asked or position.step == plan.steps:
                save()
                saved_at = time.monotonic()
            if stop.asked and position.step < plan.steps:
                raise Interrupted(f"stopped at step {position.step} of {plan.steps}, which is saved", position.step)
    return position


def resume(model: nn.Module, optimizer: torch.optim.Optimizer, run: RunFolder, console: Console) -> Position:
    """Puts model and optimizer where the newest good checkpoint left them; step 0 where none was ever saved.

    Raises UserError where there are only damaged ones.
    """
    checkpoint, complaints = newest_checkpoint(run.checkpoints)
    for complaint in complaints:
        console.print(f"warning: {complaint}", style="yellow", highlight=False, soft_wrap=True)
    if checkpoint is None:
        if complaints or any(run.checkpoints.glob("damaged-*")):
            raise UserError(
                f"every checkpoint in {run.checkpoints} is damaged, so the run cannot go on: restore one from a copy, "
                "or choose another --out to begin anew"
            )
        run.rewind(0)
        return Position()
    restore(checkpoint, model, optimizer)
    run.rewind(checkpoint.step)
    return Position(checkpoint.step, **checkpoint.state)


class _Stop:
    """Notes a first Ctrl-C or SIGTERM, so that the step at hand can end; a second one leaves at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _not_finite(position: Position, run: Path, suspects: deque[list[int]], name_of: Callable[[int], str]) -> str:
    """The sentence, after the files of the dropped steps were listed in the run folder."""
    names = [name_of(index) for indices in suspects for index in indices]
    text = "".join(f"{name}\n" for name in names)
    (run / "not_finite.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    return (
        f"the loss or its gradient was not finite in {position.dropped_in_a_row} steps in a row (to step "
        f"{position.step}); their files are listed in {run / 'not_finite.txt'} ({', '.join(names[:3])}, ...): look at "
        "them, or begin in another --out with a lower --blr; the weights are untouched by these steps"
    )
