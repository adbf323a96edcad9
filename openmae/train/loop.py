"""The training loop. It knows a model, a loss function, batches, an optimizer and a folder; nothing of MAE."""

import gc
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Self

import torch
from rich.console import Console
from torch import Tensor, nn

from openmae.data.heap import give_back_freed_memory
from openmae.errors import Interrupted, UserError
from openmae.train.checkpoint import newest_checkpoint, restore, save_checkpoint
from openmae.train.console import Progress
from openmae.train.profile import profiled
from openmae.train.run import RunFolder
from openmae.train.step import B, M, Precision, Taken, is_out_of_memory, take_step

MOST_DROPPED_IN_A_ROW = 5  # steps without a finite gradient before the run stops


@dataclass(frozen=True)
class Plan:
    """How long and in what pieces to train.

    steps: optimizer steps in all; batch_size: samples a step, whatever the micro-batches.
    micro_batch: samples that go through the model at once; where memory runs out it is halved, to a multiple of
    least_micro_batch.
    lr: the learning rate of a step. clip_grad: largest norm of the whole gradient, None for no bound.
    checkpoint_seconds: time between checkpoints; one more comes at the end and when the run is interrupted.
    log_every: steps that a line of metrics.jsonl averages over.
    """

    steps: int
    batch_size: int
    micro_batch: int
    lr: Callable[[int], float]
    clip_grad: float | None
    checkpoint_seconds: float
    log_every: int
    least_micro_batch: int = 1


@dataclass
class Position:
    """How far the run is: saved with every checkpoint, so that a resumed run logs what an unbroken one would."""

    step: int = 0
    loss_sum: float = 0.0  # over the steps since the last line of the log
    loss_steps: int = 0
    dropped: int = 0
    dropped_in_a_row: int = 0

    def note(self, taken: Taken) -> None:
        """Counts a step; this waits for the device."""
        if torch.isfinite(taken.loss + taken.norm):
            self.loss_sum += taken.loss.item()
            self.loss_steps += 1
            self.dropped_in_a_row = 0
        else:
            self.dropped += 1
            self.dropped_in_a_row += 1


@dataclass
class _Clock:
    """Time and samples since the last line of the log."""

    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    samples: int = 0


def fit(
    model: M,
    loss_of: Callable[[M, B], Tensor],
    batches_from: Callable[[int, int], Iterator[B]],
    optimizer: torch.optim.Optimizer,
    run: RunFolder,
    plan: Plan,
    *,
    device: torch.device,
    precision: Precision,
    console: Console,
    name_of: Callable[[int], str],
    after: Mapping[int, Callable[[], dict[str, Any]]],
    profile: bool = False,
) -> Position:
    """Trains to the plan's last step, from the newest good checkpoint of the run folder where there is one.

    loss_of: mean loss over a batch, a scalar. batches_from: the endless stream from a step on, in
    micro-batches of at most the size given, which never cross a step. name_of: what to call a sample when its
    gradient is not finite. after: what to do after certain steps; the numbers that it returns are logged.
    profile: record where the time of some early steps goes, in the run folder.

    A step whose loss or gradient is not finite does not touch the weights or the optimizer's averages.
    Raises UserError after MOST_DROPPED_IN_A_ROW of them, Interrupted on Ctrl-C or SIGTERM (after a
    checkpoint), OSError where the folder cannot be written, torch's error where one least micro-batch is more than
    the memory holds.
    """
    position = resume(model, optimizer, run, console)
    if position.step:
        is_whole = position.step == plan.steps
        said = f"The run in {run.path} is complete" if is_whole else f"Going on with the run in {run.path}"
        console.print(f"{said}: {position.step:,} of {plan.steps:,} steps are taken", soft_wrap=True)
    steps = _Steps(model, loss_of, batches_from, optimizer, plan, device, precision, console)
    # A GPU is given the next step before the last one's loss is read, so that it never waits for us.
    unread: deque[Taken] = deque()
    most_unread = 1 if device.type == "cuda" else 0
    suspects: deque[list[int]] = deque(maxlen=MOST_DROPPED_IN_A_ROW)
    saved_at = time.monotonic()
    clock, begun_at, seconds_a_step = _Clock(), position.step, 0.0

    def read(most_left: int) -> None:
        while len(unread) > most_left:
            taken = unread.popleft()
            position.note(taken)
            if position.dropped_in_a_row:
                suspects.append(taken.indices)
            if position.dropped_in_a_row >= MOST_DROPPED_IN_A_ROW:
                raise UserError(_not_finite(position, run.path, suspects, name_of))

    def save() -> None:
        state = {k: getattr(position, k) for k in ("loss_sum", "loss_steps", "dropped", "dropped_in_a_row")}
        run.sync()
        save_checkpoint(run.checkpoints, position.step, model, optimizer, state)

    model.train()
    with _Stop() as stop, Progress(plan.steps, console) as progress, profiled(run.path, profile, console) as profiler:
        while position.step < plan.steps:
            began = time.perf_counter()
            lr = plan.lr(position.step)
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            taken = steps.take(position.step)
            profiler.step()
            position.step += 1
            clock.waited += taken.waited
            clock.samples += plan.batch_size
            unread.append(taken)
            is_due = time.monotonic() - saved_at >= plan.checkpoint_seconds
            is_last = position.step == plan.steps
            is_read = position.step % plan.log_every == 0 or is_last or is_due or stop.asked or position.step in after
            read(0 if is_read else most_unread)

            seconds = time.perf_counter() - began
            steps_here = position.step - begun_at  # the first one is not counted: it waits for processes and memory
            if steps_here > 1:
                seconds_a_step = seconds if steps_here == 2 else 0.95 * seconds_a_step + 0.05 * seconds
            left = seconds_a_step * (plan.steps - position.step) if steps_here > 1 else None
            elapsed = time.perf_counter() - clock.began
            mean_loss = position.loss_sum / max(1, position.loss_steps)
            progress.show(position.step, mean_loss, lr, clock.samples / elapsed, clock.waited / elapsed, left)

            observed = after[position.step]() if position.step in after else {}
            model.train()
            if position.step % plan.log_every == 0 or is_last or observed:
                line = {
                    "step": position.step,
                    "loss": mean_loss if position.loss_steps else None,
                    "lr": lr,
                    "grad_norm": taken.norm.item() if torch.isfinite(taken.norm) else None,
                    "images_per_second": round(clock.samples / elapsed, 2),
                    "data_wait": round(clock.waited / elapsed, 4),
                    "dropped": position.dropped,
                    "time": round(time.time(), 3),
                }
                run.log({**line, **observed})
                position.loss_sum, position.loss_steps, clock = 0.0, 0, _Clock()
            if is_due or stop.asked or is_last:
                read(0)  # the signal may have come since
                save()
                saved_at = time.monotonic()
            if stop.asked and not is_last:
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


class _Steps(Generic[M, B]):
    """Takes the steps, in smaller micro-batches from where memory runs out on."""

    def __init__(
        self,
        model: M,
        loss_of: Callable[[M, B], Tensor],
        batches_from: Callable[[int, int], Iterator[B]],
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        device: torch.device,
        precision: Precision,
        console: Console,
    ) -> None:
        self.model, self.loss_of, self.batches_from, self.optimizer = model, loss_of, batches_from, optimizer
        self.plan, self.device, self.precision, self.console = plan, device, precision, console
        self.micro_batch = min(plan.micro_batch, plan.batch_size)
        self.batches: Iterator[B] | None = None

    def take(self, number: int) -> Taken:
        """The step of this number, which is the first one or follows the last one taken."""
        while True:
            if self.batches is None:
                self.batches = self.batches_from(number, self.micro_batch)
            taken = self._try(self.batches)
            if taken is not None:
                return taken
            self.batches = None  # ends its processes before the next ones start
            self._shrink()

    def _try(self, batches: Iterator[B]) -> Taken | None:
        """None where memory ran out; what the step had computed is free again on return."""
        try:
            return take_step(
                self.model,
                self.loss_of,
                batches,
                self.optimizer,
                batch_size=self.plan.batch_size,
                clip_grad=self.plan.clip_grad,
                device=self.device,
                precision=self.precision,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self._half() == 0:
                raise
            return None

    def _half(self) -> int:
        """Half of the micro-batch in whole multiples of the least one, 0 where there is none."""
        least = self.plan.least_micro_batch
        return self.micro_batch // 2 // least * least

    def _shrink(self) -> None:
        self.micro_batch = self._half()
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()  # an error and the frames that it came through hold each other
        give_back_freed_memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.console.print(
            f"The machine ran out of memory: {self.micro_batch} images go through the model at once from here on. The "
            f"batch stays at {self.plan.batch_size}, so the result does too",
            style="yellow",
            soft_wrap=True,
        )


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
