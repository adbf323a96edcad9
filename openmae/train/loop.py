"""The training loop. It knows a model, a loss function, batches, an optimizer and a folder; nothing of MAE."""

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, Self

import torch
from rich.console import Console

from openmae.console.progress import Progress
from openmae.distributed.ranks import Ranks
from openmae.errors import INTERRUPTED, RUN_AGAIN, Interrupted, NotWritten, UserError
from openmae.machine.device import autocast, is_out_of_memory
from openmae.machine.heap import give_back_freed_memory
from openmae.machine.kinds import Precision
from openmae.train.checkpoint import KEEP, newest_checkpoint, restore, snapshot
from openmae.train.learner import B, Learner, M
from openmae.train.profile import profiled
from openmae.train.run import RunFolder
from openmae.train.saving import Saver
from openmae.train.step import Taken, take_step
from openmae.train.stop import Stop

MOST_DROPPED_IN_A_ROW = 5  # steps without a finite gradient before the run stops


@dataclass(frozen=True)
class Schedule:
    """How long and in what pieces to train.

    steps: optimizer steps in all; batch_size: samples a step, whatever the micro-batches.
    micro_batch: samples that go through the model at once; where memory runs out it is halved, to a multiple of
    least_micro_batch.
    lr: the learning rate of a step. clip_grad: largest norm of the whole gradient, inf for no bound.
    checkpoint_seconds: time between checkpoints; one more comes at the end and when the run is interrupted.
    keep: how many of them stay on the disk. log_every: steps that a line of metrics.jsonl averages over.
    precision: of the products. profile: record where the time of some early steps goes, in the run folder.
    """

    steps: int
    batch_size: int
    micro_batch: int
    lr: Callable[[int], float]
    clip_grad: float
    checkpoint_seconds: float
    log_every: int
    least_micro_batch: int = 1
    keep: int = KEEP
    precision: Precision = "fp32"
    profile: bool = False

    def halved(self, micro_batch: int) -> int:
        """Half of a micro-batch in whole multiples of the least one, 0 where there is none."""
        return micro_batch // 2 // self.least_micro_batch * self.least_micro_batch


@dataclass(frozen=True)
class Training(Generic[M, B]):
    """All that the loop needs.

    batches_from: this rank's endless stream from a step on, in micro-batches of at most the size given, which never
    cross a step. name_of: what to call a sample when its gradient is not finite. after: what to do after certain steps,
    on all ranks; the numbers that the lead's returns are logged.
    """

    learner: Learner[M, B]
    optimizer: torch.optim.Optimizer
    batches_from: Callable[[int, int], Iterator[B]]
    name_of: Callable[[int], str]
    schedule: Schedule
    run: RunFolder
    device: torch.device
    console: Console
    after: Mapping[int, Callable[[], dict[str, Any]]]


@dataclass
class Position:
    """How far the run is: saved with every checkpoint, so that a resumed run logs what an unbroken one would."""

    step: int = 0
    loss_sum: float = 0.0  # over the steps since the last line of the log
    loss_steps: int = 0
    dropped: int = 0
    dropped_in_a_row: int = 0

    @property
    def mean_loss(self) -> float:
        """Since the last line of the log."""
        return self.loss_sum / max(1, self.loss_steps)

    def note(self, taken: Taken) -> None:
        """Counts a step; this waits for the device."""
        if torch.isfinite(taken.loss + taken.norm):
            self.loss_sum += taken.loss.item()
            self.loss_steps += 1
            self.dropped_in_a_row = 0
        else:
            self.dropped += 1
            self.dropped_in_a_row += 1


def fit(training: Training[M, B]) -> Position:
    """Trains to the schedule's last step, from the newest good checkpoint of the run folder where there is one.

    A step whose loss or gradient is not finite does not touch the weights or the optimizer's averages. Where the disk
    does not take a checkpoint or a line of the log, training goes on, with a warning.
    Raises UserError after MOST_DROPPED_IN_A_ROW steps that are not finite, Interrupted on Ctrl-C, SIGTERM or SIGUSR1
    (after a checkpoint), NotWritten where the last checkpoint or the log could not be written, RankLost where another
    rank is gone, torch's error where one least micro-batch is more than the memory holds.
    """
    learner, optimizer, after = training.learner, training.optimizer, training.after
    run, schedule, console, ranks = training.run, training.schedule, training.console, training.learner.ranks
    position = resume(learner, optimizer, run, console)
    if position.step:
        is_whole = position.step == schedule.steps
        said = f"The run in {run.path} is complete" if is_whole else f"Going on with the run in {run.path}"
        console.print(f"{said}: {position.step:,} of {schedule.steps:,} steps are taken", soft_wrap=True)
    steps = _Steps(training)
    # A GPU is given the next step before the last one's loss is read, so that it never waits for us.
    unread: deque[Taken] = deque()
    most_unread = 1 if training.device.type == "cuda" else 0
    suspects: deque[list[int]] = deque(maxlen=MOST_DROPPED_IN_A_ROW)
    begun_at, seconds_a_step = position.step, 0.0

    learner.model.train()
    with (
        _Log(run, schedule, console) as log,
        Stop() as stop,
        Progress(schedule.steps, console) as progress,
        profiled(run, schedule.profile, console) as profiler,
    ):
        votes = _Votes(stop, ranks, schedule.checkpoint_seconds)

        def read(most_left: int) -> None:
            while len(unread) > most_left:
                taken = unread.popleft()
                position.note(taken)
                votes.count(taken)
                if position.dropped_in_a_row:
                    suspects.append(taken.indices)
                if position.dropped_in_a_row >= MOST_DROPPED_IN_A_ROW:
                    raise _not_finite(position, run, suspects, training.name_of, ranks)

        while position.step < schedule.steps:
            began = time.perf_counter()
            ranks.at(f"step {position.step + 1}")
            lr = schedule.lr(position.step)
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            taken = steps.take(position.step, votes.cast)
            profiler.step()
            position.step += 1
            log.count(taken)
            unread.append(taken)
            is_last = position.step == schedule.steps
            is_read = position.step % schedule.log_every == 0 or is_last or position.step in after
            read(0 if is_read else most_unread)

            seconds = time.perf_counter() - began
            steps_here = position.step - begun_at  # the first one is not counted: it waits for processes and memory
            if steps_here > 1:
                seconds_a_step = seconds if steps_here == 2 else 0.95 * seconds_a_step + 0.05 * seconds
            left = seconds_a_step * (schedule.steps - position.step) if steps_here > 1 else None
            progress.show(position.step, position.mean_loss, lr, *log.rates(), left)

            observed = after[position.step]() if position.step in after else {}
            learner.model.train()
            if position.step % schedule.log_every == 0 or is_last or observed:
                log.write(position, taken, lr, observed)
            if votes.is_due or votes.code or is_last:
                read(0)  # a GPU's last step
                log.save(position, learner, optimizer, wait=bool(votes.code) or is_last)
                votes.is_due = False
            if votes.code and not is_last:
                is_saved = ranks.from_lead(log.saver.saved == position.step)
                said = "is saved; the same command goes on from there"
                if not is_saved:
                    said = "could not be saved; the same command goes on from the checkpoint before"
                raise Interrupted(
                    f"stopped at step {position.step} of {schedule.steps}, which {said}", position.step, votes.code
                )
    log.check(position, ranks)
    return position


class _Votes:
    """What the ranks have to agree on: whether somebody was asked to stop, and whether to save, by the lead's clock.

    code: the exit code that was asked for, 0 where none was. is_due: whether it is time to save.
    """

    def __init__(self, stop: Stop, ranks: Ranks, checkpoint_seconds: float) -> None:
        self.stop, self.ranks, self.every = stop, ranks, checkpoint_seconds
        self.saved_at = time.monotonic()
        self.code, self.is_due = 0, False

    def cast(self) -> tuple[float, ...]:
        """This rank's."""
        is_due = self.ranks.leads and time.monotonic() - self.saved_at >= self.every
        if is_due:
            self.saved_at = time.monotonic()
        return float(self.stop.code == INTERRUPTED), float(self.stop.code == RUN_AGAIN), float(is_due)

    def count(self, taken: Taken) -> None:
        """Those of all ranks, of a step."""
        interrupted, again, is_due = taken.votes.tolist()
        if interrupted or again:
            self.code = INTERRUPTED if interrupted else RUN_AGAIN
        self.is_due = self.is_due or is_due > 0


class _Log:
    """What a run leaves on the disk as it goes on: lines of the log, and checkpoints. The disk may refuse both."""

    def __init__(self, run: RunFolder, schedule: Schedule, console: Console) -> None:
        self.run, self.schedule, self.console = run, schedule, console
        self.saver = Saver(run.checkpoints, schedule.keep, self._warn)
        self._refusal: str | None = None
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.saver.join()  # whatever ended the steps, a checkpoint that is being written is not given up

    def _begin(self) -> None:
        self.began, self.waited, self.samples = time.perf_counter(), 0.0, 0

    def _warn(self, sentence: str) -> None:
        self.console.print(f"warning: {sentence}", style="yellow", soft_wrap=True)

    def count(self, taken: Taken) -> None:
        """Notes a step."""
        self.waited += taken.waited
        self.samples += self.schedule.batch_size

    def rates(self) -> tuple[float, float]:
        """(images/s, share of the time spent waiting for them) since the last line."""
        elapsed = time.perf_counter() - self.began
        return self.samples / elapsed, self.waited / elapsed

    def write(self, position: Position, taken: Taken, lr: float, observed: dict[str, Any]) -> None:
        """Appends a line, and begins the next one."""
        rate, waiting = self.rates()
        line = {
            "step": position.step,
            "loss": position.mean_loss if position.loss_steps else None,
            "lr": lr,
            "grad_norm": taken.norm.item() if torch.isfinite(taken.norm) else None,
            "images_per_second": round(rate, 2),
            "data_wait": round(waiting, 4),
            "dropped": position.dropped,
            "time": round(time.time(), 3),
        }
        self._try(lambda: self.run.log({**line, **observed}))
        position.loss_sum, position.loss_steps = 0.0, 0
        self._begin()

    def save(self, position: Position, learner: Learner[M, B], optimizer: torch.optim.Optimizer, wait: bool) -> None:
        """Begins a checkpoint. wait: until it is on the disk."""
        state = {k: getattr(position, k) for k in ("loss_sum", "loss_steps", "dropped", "dropped_in_a_row")}
        is_logged = not self._try(self.run.sync)
        taken = snapshot(learner, optimizer, position.step, state, self.run.record())
        if not is_logged:  # a run that goes on from there would lack these lines
            self.saver.wait()
            self.saver.refuse(position.step, f"metrics.jsonl cannot be written ({self._refusal})")
            return
        self.saver.save(taken)
        if wait:
            self.saver.wait()

    def check(self, position: Position, ranks: Ranks) -> None:
        """Raises NotWritten, on all ranks, where the end of the run is not on the disk."""
        if refusal := ranks.from_lead(self.saver.refusal):
            raise NotWritten(
                f"the run in {self.run.path} took all its {position.step} steps, but its last checkpoint is not on the "
                f"disk ({refusal}): free some space and run the same command again, which goes on from the last one"
            )

    def _try(self, write: Callable[[], None]) -> bool:
        """Whether the disk refused; it is said once."""
        try:
            write()
        except OSError as error:
            refusal = error.strerror or str(error)
            if refusal != self._refusal:
                self._warn(f"metrics.jsonl cannot be written: {refusal}; training goes on, and its lines wait")
            self._refusal = refusal
            return True
        self._refusal = None
        return False


def resume(learner: Learner[M, B], optimizer: torch.optim.Optimizer, run: RunFolder, console: Console) -> Position:
    """Puts model and optimizer where the newest good checkpoint left them; step 0 where none was ever saved.

    Raises UserError where there are only damaged ones.
    """
    ranks = learner.ranks
    with ranks.together():
        checkpoint, complaints = newest_checkpoint(run.checkpoints) if ranks.leads else (None, [])
        for complaint in complaints:
            console.print(f"warning: {complaint}", style="yellow", highlight=False, soft_wrap=True)
        if checkpoint is None and (complaints or (ranks.leads and any(run.checkpoints.glob("damaged-*")))):
            raise UserError(
                f"every checkpoint in {run.checkpoints} is damaged, so the run cannot go on",
                "restore one from a copy, or choose another `out` to begin anew",
            )
    step, state = ranks.from_lead((0, {}) if checkpoint is None else (checkpoint.step, checkpoint.state))
    position = Position()
    if step:
        try:
            restore(checkpoint, learner, optimizer)
            position = Position(step, **state)
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"the checkpoint of step {step} in {run.checkpoints} is of another model ({error})",
                "restore the run from a copy, or choose another `out` to begin anew",
            ) from error
    for complaint in run.rewind(step, {} if checkpoint is None else checkpoint.record):
        console.print(f"warning: {complaint}", style="yellow", highlight=False, soft_wrap=True)
    return position


class _Steps(Generic[M, B]):
    """Takes the steps, in smaller micro-batches from where memory runs out on."""

    def __init__(self, training: Training[M, B]) -> None:
        self.training, self.learner, self.schedule = training, training.learner, training.schedule
        schedule, learner = training.schedule, training.learner
        share = learner.ranks.share(schedule.batch_size, schedule.least_micro_batch)
        self.share, self.micro_batch = len(share), min(schedule.micro_batch, len(share))
        self.batches: Iterator[B] | None = None

    def take(self, number: int, votes: Callable[[], tuple[float, ...]] = tuple) -> Taken:
        """The step of this number, which is the first one or follows the last one taken."""
        while True:
            if self.batches is None:
                self.batches = self._begun(number)
            taken = self._try(self.batches, votes)
            if taken is not None:
                return taken
            self._shrink()

    def _begun(self, number: int) -> Iterator[B]:
        """The batches from that step on. Where several train, after they found a micro-batch that all of them hold:
        later, one alone could not take a smaller one while the others wait for its gradient."""
        while True:
            batches = self.training.batches_from(number, self.micro_batch)
            if self.learner.ranks.size == 1 or self.learner.shard:
                return batches
            first = next(batches)
            ran_out = self.learner.ranks.sum(torch.tensor(float(not self._holds(first)), device=self.training.device))
            if not ran_out:
                return chain([first], batches)
            del batches
            self._shrink()

    def _holds(self, batch: B) -> bool:
        try:
            with self.learner.accumulating(is_last=False), autocast(self.training.device, self.schedule.precision):
                self.learner.loss(batch.to(self.training.device)).backward()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.schedule.halved(self.micro_batch) == 0:
                raise
            return False
        return True

    def _try(self, batches: Iterator[B], votes: Callable[[], tuple[float, ...]]) -> Taken | None:
        """None where memory ran out; what the step had computed is free again on return."""
        try:
            return take_step(
                self.learner,
                batches,
                self.training.optimizer,
                batch_size=self.schedule.batch_size,
                share=self.share,
                clip_grad=self.schedule.clip_grad,
                device=self.training.device,
                precision=self.schedule.precision,
                votes=votes,
            )
        except (RuntimeError, MemoryError) as error:
            if (
                not is_out_of_memory(error)
                or self.schedule.halved(self.micro_batch) == 0
                or self.learner.ranks.size > 1
            ):
                raise
            return None

    def _shrink(self) -> None:
        self.batches = None  # ends its processes before the next ones start
        self.micro_batch = self.schedule.halved(self.micro_batch)
        self.training.optimizer.zero_grad(set_to_none=True)
        gc.collect()  # an error and the frames that it came through hold each other
        give_back_freed_memory()
        if self.training.device.type == "cuda":
            torch.cuda.empty_cache()
        self.training.console.print(
            f"The machine ran out of memory: {self.micro_batch} images go through the model at once from here on. The "
            f"batch stays at {self.schedule.batch_size}, so the result does too",
            style="yellow",
            soft_wrap=True,
        )


def _not_finite(
    position: Position, run: RunFolder, suspects: deque[list[int]], name_of: Callable[[int], str], ranks: Ranks
) -> UserError:
    """What to say, after the files of the dropped steps were listed in the run folder."""
    steps = zip(*ranks.gather(list(suspects)), strict=True)
    names = [name_of(index) for parts in steps for indices in parts for index in indices]
    if ranks.leads:
        text = "".join(f"{name}\n" for name in names)
        (run.path / "not_finite.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    return UserError(
        f"the loss or its gradient was not finite in {position.dropped_in_a_row} steps in a row (to step "
        f"{position.step}); their files are listed in {run.path / 'not_finite.txt'} ({', '.join(names[:3])}, ...)",
        "look at them, or begin in another `out` with a lower `blr`; the weights are untouched by these steps",
    )
