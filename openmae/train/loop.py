"""The training loop. It knows a model, a loss function, batches, an optimizer and a folder; nothing of MAE."""

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic

import torch
from rich.console import Console
from torch import nn

from openmae.console.progress import Progress
from openmae.distributed.ranks import Ranks
from openmae.errors import INTERRUPTED, RUN_AGAIN, Interrupted, UserError
from openmae.machine.device import autocast, is_out_of_memory, is_unrepeatable, repeatable
from openmae.machine.heap import give_back_freed_memory
from openmae.machine.kinds import Precision
from openmae.machine.lanes import ONE, Lanes
from openmae.machine.limits import memory_limit
from openmae.train.checkpoint import KEEP, newest_checkpoint, restore
from openmae.train.deaths import ENOUGH, Deaths
from openmae.train.learner import B, Learner, M
from openmae.train.log import Log, Position
from openmae.train.profile import profiled
from openmae.train.run import RunFolder
from openmae.train.step import Taken, take_step
from openmae.train.stop import Stop

MOST_DROPPED_IN_A_ROW = 5  # steps without a finite gradient before the run stops; all of a run of fewer do, too


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
class Rest:
    """What does not learn in the first steps: so many, these parameters; tell: tells the loss whether they rest."""

    steps: int
    parameters: Sequence[nn.Parameter]
    tell: Callable[[bool], None]


@dataclass(frozen=True)
class Training(Generic[M, B]):
    """All that the loop needs.

    batches_from: this rank's endless stream from a step on, in micro-batches of at most the size given, which never
    cross a step. name_of: what to call a sample when its gradient is not finite. after: what to do after certain steps,
    on all ranks; the numbers that the lead's returns are logged. is_enough: asked on all ranks after those, once what
    they found is written, whether the training ends there. lanes: at most, of `take_step`.
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
    rest: Rest | None = None
    is_enough: Callable[[int], bool] = lambda step: False
    lanes: Lanes = ONE


def fit(training: Training[M, B]) -> Position:
    """Trains to the schedule's last step, or until it is enough, from the newest good checkpoint of the run folder
    where there is one.

    A step whose loss or gradient is not finite does not touch the weights or the optimizer's averages. Where the disk
    does not take a checkpoint or a line of the log, training goes on, with a warning. Steps are saved before what comes
    after them is looked at; what has killed starts before this one is left out.
    Raises UserError after MOST_DROPPED_IN_A_ROW steps that are not finite, or all of fewer; Interrupted on Ctrl-C,
    SIGTERM or SIGUSR1 (after a checkpoint), NotWritten where the last checkpoint or the log could not be written,
    RankLost where another rank is gone, torch's error where one least micro-batch is more than the memory holds.
    """
    learner, optimizer, after = training.learner, training.optimizer, training.after
    run, schedule, console, ranks = training.run, training.schedule, training.console, training.learner.ranks
    goes_on = ranks.from_lead(run.has_begun)
    position = resume(learner, optimizer, run, console)
    if position.step or (goes_on and not schedule.steps):
        is_whole = position.step == schedule.steps
        said = f"The run in {run.path} is complete" if is_whole else f"Going on with the run in {run.path}"
        console.print(f"{said}: {position.step:,} of {schedule.steps:,} steps are taken", soft_wrap=True)
    deaths = Deaths(run.path, ranks)
    steps = Steps(training, deaths)
    steps.survive(position.step)
    # A GPU is given the next step before the last one's loss is read, so that it never waits for us.
    unread: deque[Taken] = deque()
    most_unread = 1 if training.device.type == "cuda" else 0
    suspects: deque[list[int]] = deque(maxlen=MOST_DROPPED_IN_A_ROW)
    begun_at, seconds_a_step = position.step, 0.0

    learner.model.train()
    with (
        Log(run, schedule.batch_size, schedule.keep, console) as log,
        Stop() as stop,
        Progress(schedule.steps, console) as progress,
        profiled(run, schedule.profile, console) as profiler,
    ):
        votes = _Votes(stop, ranks, schedule.checkpoint_seconds)

        def is_logged(step: int) -> bool:
            return step % schedule.log_every == 0 or step == schedule.steps

        def look() -> None:
            """At what comes after the step, once that is saved; then the line that tells of both."""
            observed: dict[str, Any] = {}
            if deaths.is_left_out(position.step):
                log.warn(
                    f"what is measured and drawn after step {position.step} is left out: {ENOUGH} starts were killed "
                    "there, as by a system without free memory"
                )
            else:
                with deaths.under_way("look", position.step), log.beside():
                    observed = after[position.step]()
            learner.model.train()
            if observed or is_logged(position.step):
                log.write(position, schedule.lr(position.step - 1), observed)
            position.unlooked = 0

        if position.unlooked:
            look()
        has_ended = position.step in after and training.is_enough(position.step)

        def read(most_left: int) -> None:
            while len(unread) > most_left:
                taken = unread.popleft()
                position.note(taken)
                votes.count(taken)
                if position.dropped_in_a_row:
                    suspects.append(taken.indices)
                if position.dropped_in_a_row >= min(MOST_DROPPED_IN_A_ROW, schedule.steps):  # none of few is finite
                    raise _not_finite(position, run, suspects, training.name_of, ranks)

        while position.step < schedule.steps and not has_ended:
            began = time.perf_counter()
            ranks.at(f"step {position.step + 1}")
            lr = schedule.lr(position.step)
            set_rate(optimizer, lr)
            with deaths.under_way("step", position.step) if position.step == begun_at else nullcontext():
                taken = steps.take(position.step, votes.cast)
            profiler.step()
            position.step += 1
            log.count(taken)
            unread.append(taken)
            is_last = position.step == schedule.steps
            has_look = position.step in after
            is_read = has_look or is_logged(position.step)
            read(0 if is_read else most_unread)

            seconds = time.perf_counter() - began
            steps_here = position.step - begun_at  # the first one is not counted: it waits for processes and memory
            if steps_here > 1:
                seconds_a_step = seconds if steps_here == 2 else 0.95 * seconds_a_step + 0.05 * seconds
            left = seconds_a_step * (schedule.steps - position.step) if steps_here > 1 else None
            progress.show(position.step, position.mean_loss, lr, *log.rates(), left)

            if is_logged(position.step) and not has_look:
                log.write(position, lr, {})
            if has_look or votes.is_due or votes.code or is_last:
                read(0)  # a GPU's last step
                position.unlooked = int(has_look)
                with log.beside():
                    log.save(position, learner, optimizer, wait=has_look or bool(votes.code) or is_last)
                votes.is_due, votes.saved_at = False, time.monotonic()
            if has_look and (is_last or not votes.code):  # who is asked to stop looks when it goes on
                look()
                has_ended = training.is_enough(position.step)
            if votes.code and not is_last:
                is_saved = ranks.from_lead(log.saver.saved == position.step)
                said = "is saved; the same command goes on from there"
                if not is_saved:
                    said = "could not be saved; the same command goes on from the checkpoint before"
                raise Interrupted(
                    f"stopped at step {position.step} of {schedule.steps}, which {said}", position.step, votes.code
                )
        if not schedule.steps and not goes_on:
            log.save(position, learner, optimizer, wait=True)
    log.check(position, ranks)
    return position


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate from now on, times the scale that parameters have of their own."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


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
        interrupted, again, is_due = taken.votes
        if interrupted or again:
            self.code = INTERRUPTED if interrupted else RUN_AGAIN
        self.is_due = self.is_due or is_due > 0


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
    found = ranks.from_lead(None if checkpoint is None else (checkpoint.step, checkpoint.state))
    step, state = found or (0, {})
    position = Position()
    if found is not None:
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
    if ranks.from_lead(ranks.leads and run.has_logged(step)):  # it was looked at before it was saved
        position.unlooked, position.loss_sum, position.loss_steps = 0, 0.0, 0
    return position


class Steps(Generic[M, B]):
    """Takes the steps, in smaller micro-batches from where memory runs out on, or where it killed starts before."""

    def __init__(self, training: Training[M, B], deaths: Deaths) -> None:
        self.training, self.learner, self.schedule = training, training.learner, training.schedule
        schedule, learner = training.schedule, training.learner
        share = learner.ranks.share(schedule.batch_size, schedule.least_micro_batch)
        self.share, self.micro_batch = len(share), min(schedule.micro_batch, len(share))
        self.batches: Iterator[B] | None = None
        self.lanes = ONE
        self.deaths = deaths
        self.rests = False
        self.repeats = True

    def survive(self, step: int) -> None:
        """Takes less at once where starts were killed by what they took, in a container that lets them have so much
        memory and no more: elsewhere others may have killed them, and the last bits depend on it."""
        self._bound()
        if self.deaths.at("step", step) and self.schedule.halved(self.micro_batch) and self._is_limited():
            self.deaths.too_many(self.micro_batch)
            self._bound()
        if self.deaths.micro_batch is not None:
            self._say(f"{ENOUGH} starts were killed in their first step, as by a system without free memory")

    def _bound(self) -> None:
        most = self.deaths.micro_batch
        if most is not None and self.micro_batch >= most:
            self.micro_batch = self.schedule.halved(most) or self.micro_batch

    def _is_limited(self) -> bool:
        is_limited = self.training.device.type == "cpu" and memory_limit()[0] is not None
        return self.learner.ranks.from_lead(is_limited)

    def take(self, number: int, votes: Callable[[], tuple[float, ...]] = tuple) -> Taken:
        """The step of this number, which is the first one or follows the last one taken."""
        self._rest(number)
        while True:
            try:
                with repeatable(self.training.device) if self.repeats else nullcontext():
                    if self.batches is None:
                        self.batches = self._begun(number)
                    taken = self._try(self.batches, votes)
            except RuntimeError as error:
                if not self.repeats or not is_unrepeatable(error):
                    raise
                self._let_vary(error)
                continue
            if taken is not None:
                return taken
            self._shrink()

    def _let_vary(self, error: RuntimeError) -> None:
        """From here on; raised before anything has moved, on all ranks alike."""
        self.repeats, self.batches = False, None
        self.training.optimizer.zero_grad(set_to_none=True)
        why = str(error).partition(" does not have")[0].split("\n")[0]
        if "CuBLAS" in why:
            why = "it was used before openmae, without CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment"
        self.training.console.print(
            f"This training repeats but for its last bits: torch cannot add up in the same order each time ({why})",
            soft_wrap=True,
        )

    def _rest(self, number: int) -> None:
        """Lets rest what does so in the step of this number, and no other."""
        rest = self.training.rest
        if rest is None or self.rests == (number < rest.steps):
            return
        self.rests = not self.rests
        rest.tell(self.rests)
        self.learner.rest(rest.parameters, self.rests)
        self.batches = None  # a step takes more memory from here on: what all ranks hold is found anew

    def _begun(self, number: int) -> Iterator[B]:
        """The batches from that step on. Where several train, after they found a micro-batch that all of them hold:
        later, one alone could not take a smaller one while the others wait for its gradient."""
        while True:
            least = self.schedule.least_micro_batch
            self.lanes = self.training.lanes.of(self.micro_batch, least)
            batches = self.training.batches_from(number, self.lanes.part(self.micro_batch, self.share, least))
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
                lanes=self.lanes,
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
        self._say("The machine ran out of memory")

    def _say(self, why: str) -> None:
        self.training.console.print(
            f"{why}: {self.micro_batch} images go through the model at once from here on. The "
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
