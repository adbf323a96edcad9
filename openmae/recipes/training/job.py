"""The job that every training is: opened, chosen, trained, looked at, left; by one process or by several.

What one kind of it has to state is in kind.py. `begun` does all else, around the loop:

    with begun(PRETRAIN, settings, console) as run:
        fit(run.training)
"""

import gc
import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic

from rich.console import Console

from openmae.commandline.flags import flag
from openmae.data.loading.stream import Batch
from openmae.distributed.ranks import Ranks, joined
from openmae.errors import Interrupted, NotWritten, UserError, said_once
from openmae.files.disk import room_on_disk
from openmae.machine.device import choose_device, device_of
from openmae.machine.heap import keep_freed_memory
from openmae.machine.lanes import ONE, Lanes
from openmae.machine.workers import workers_for
from openmae.recipes.training.kind import C, Here, J, Job, JobKind, O
from openmae.recipes.training.longer import CHANGES, complete_after, entries, made_longer
from openmae.recipes.training.minutes import (
    Budget,
    Plan,
    Punctual,
    check_same,
    keep_plan,
    kept_plan,
    refuse_both,
    trial_seconds,
)
from openmae.recipes.training.open import asked_for, own_config, stored
from openmae.recipes.training.room import check_room, check_sharded, check_shares, enough_memory, tell_ranks, written
from openmae.recipes.training.settings import Settings, given, shown
from openmae.report.loggers.following import Followers
from openmae.report.loggers.logger import loggers_of
from openmae.report.page.run import write_report
from openmae.train.learner import Learner
from openmae.train.loop import Training
from openmae.train.optimizers import averaged
from openmae.train.pace import measure
from openmae.train.run import RunFolder, has_begun
from openmae.train.stop import Stop

MAY_DIFFER = (
    "data",
    "image_count",
    "image_key",
    "max_broken",
    "micro_batch",
    "grad_checkpointing",
    "workers",
    "device",
    "evaluations",
    "checkpoint_minutes",
    "keep",
    "log",
    "shard",
    "timeout_minutes",
)  # settings of all trainings that do not change the result, between the starts of a run


@dataclass(frozen=True)
class Run(Generic[J]):
    """A run that is ready for its steps."""

    job: J
    training: Training[Any, Batch]


@contextmanager
def begun(kind: JobKind[Settings, O, C, J], settings: Settings, console: Console) -> Iterator[Run[J]]:
    """A run that begins or goes on, to be trained within; leaves a whole run folder, also where it is interrupted.

    Alone, or with the processes that torchrun started. Raises UserError, Interrupted, NotWritten, RankLost.
    """
    began = time.monotonic()
    with said_once():
        device = choose_device(settings.device)
    with (
        Stop(at_once=True),
        Followers(console) as followers,  # the other ranks need not wait for what is sent last
        joined(device.type, settings.timeout_minutes * 60) as ranks,
    ):
        console.quiet = console.quiet or not ranks.leads
        device = device_of(device, ranks)
        keep_freed_memory()
        asked = asked_for(settings)
        with ranks.together():
            settings = _complete(kind, settings, ranks)
        settings = ranks.from_lead(settings)
        with ranks.together():
            check_sharded(settings.shard, device, ranks)
            if ranks.leads:
                followers.start(loggers_of(settings.log))
        tell_ranks(ranks, settings.shard, console)
        with ranks.together():
            workers = workers_for(settings.workers, device, ranks)
        out = given(settings.out)
        with room_on_disk(out), ranks.opening(lambda: RunFolder(out, leads=ranks.leads)) as folder, enough_memory():
            here = Here(folder, device, workers, console, ranks)
            job = _job(kind, settings, here, followers, began, asked)
            run = _ready(job, here)
            with _left(run, here):
                yield run


def _complete(kind: JobKind[Settings, O, C, J], settings: Settings, ranks: Ranks) -> Settings:
    """The lead's settings, with those that the run was begun with where it goes on. Raises UserError."""
    if not ranks.leads:  # it gets these
        return settings
    if settings.out is None or not (settings.resume or has_begun(settings.out)):
        refuse_both(settings.minutes, settings.epochs)
    else:
        check_same(settings.minutes, settings.out)
        settings = stored(settings, own_config(settings, settings.out), defaults_too=settings.resume)
    if missing := [name for name in kind.needs if getattr(settings, name) is None]:
        called = [flag(name) if name == "out" else name.upper() for name in missing]
        said = f"{' and '.join(called)} {'are' if len(called) > 1 else 'is'} missing"
        raise UserError(said, kind.usage)
    return settings


def _job(
    kind: JobKind[Settings, O, C, J],
    settings: Settings,
    here: Here,
    followers: Followers,
    began: float,
    asked: Sequence[str],
) -> J:
    """The job, after everything was opened, chosen and found to fit. began: the command. asked: what the user set.
    Raises UserError."""
    folder, ranks = here.folder, here.ranks
    with ranks.together():
        if settings.batch_size is not None:
            check_shares(settings.batch_size, settings.shard, ranks)
        opened = kind.open(settings, here)
    ranks.agree(opened.fingerprint, f"{settings.data} holds other images")
    goes_on = ranks.from_lead(folder.has_begun)
    minutes = None if goes_on else _minutes(kind, settings, here)
    plan: Plan | None = None
    if minutes is not None:
        settings, plan = _planned(kind, settings, opened, here, minutes, began)
    if not goes_on:
        settings, opened = kind.compare(settings, opened, here)
    found: C | None = None
    ends, longer = list[tuple[int, float]](), ""
    with ranks.together():
        if ranks.leads:
            if folder.has_begun:
                ends, longer = made_longer(settings, folder.path)
            else:
                settings = kind.choose(settings, opened, here)
            found = kind.settle(settings, opened, here.console)
            course = found.course.after(ends, given(settings.epochs), settings.warmup_epochs or 0.0)
            found = replace(found, course=course)
    chosen = given(ranks.from_lead(found))
    with ranks.together():
        schedule = chosen.course.schedule
        check_shares(schedule.batch_size, chosen.course.shard, ranks, schedule.least_micro_batch)
        job = kind.job(chosen, opened, here)
        if ranks.leads:
            check_room(folder.path, job.model, schedule.keep, job.averages)
            config = {**chosen.config, **entries(schedule.steps, ends, opened.count)}
            may_differ = (*MAY_DIFFER, *kind.may_differ)
            followers.agree()
            changes = CHANGES if longer else ()
            if not settings.resume:
                _say_what_is_kept(config, asked, may_differ, here)
            for complaint in folder.settle(config, opened.fingerprint, (*may_differ, *changes), asked):
                here.console.print(f"warning: {complaint}", style="yellow", highlight=False, soft_wrap=True)
            if longer:
                here.console.print(longer, soft_wrap=True)
            elif folder.has_begun and schedule.steps and (epochs := complete_after(folder.path)) is not None:
                said = f"This run is complete after {shown(epochs)} epochs: a larger --epochs makes it longer"
                here.console.print(said, soft_wrap=True)
            identity = _identity(config, opened.fingerprint, may_differ)
            followers.follow(folder.path, identity, goes_on=folder.has_begun)
            if not folder.has_begun:
                keep_plan(folder.path, plan)
    return job


def _say_what_is_kept(config: Mapping[str, Any], asked: Sequence[str], may_differ: Collection[str], here: Here) -> None:
    """Of a run that goes on by a command with fewer flags than it began by: what it keeps, which nobody typed now."""
    left_off = [name for name in here.folder.asked_first() if name not in (*asked, *may_differ)]
    if kept := [f"{flag(name)} {shown(config[name])}" for name in left_off if config.get(name) is not None]:
        here.console.print(
            f"The run in {here.folder.path} was begun with {', '.join(kept)}, and keeps to it: for another one choose "
            "another --out",
            soft_wrap=True,
        )


def _minutes(kind: JobKind[Settings, O, C, J], settings: Settings, here: Here) -> float | None:
    """What a run that begins may take, None where that is not asked."""
    if settings.minutes is None and settings.epochs is None:
        return kind.most_minutes(settings, here.device)
    return settings.minutes


def _planned(
    kind: JobKind[Settings, O, C, J], settings: Settings, opened: O, here: Here, minutes: float, began: float
) -> tuple[Settings, Plan]:
    """The settings with as many epochs as the minutes allow, and the plan; all ranks together. Where nobody asked for
    the minutes, no more epochs than are chosen anyway. Raises UserError where not even a step fits."""
    ranks, quiet = here.ranks, replace(here, console=Console(quiet=True))
    here.console.print("Taking a few steps, to see how fast this machine is")
    asked, budget, tried = settings, None, 0
    for _ in range(2):  # in fewer epochs batches may be smaller
        chosen, opening = _settled(kind, asked, opened, quiet), time.monotonic()
        schedule = chosen.course.schedule
        if schedule.batch_size == tried:
            break
        with ranks.together():
            check_shares(schedule.batch_size, chosen.course.shard, ranks, schedule.least_micro_batch)
            job = kind.job(chosen, opened, quiet)
        training = training_of(job, quiet)
        opening = time.monotonic() - opening  # it comes once more
        wished = given(chosen.config["epochs"]) if budget is None else budget.wished
        budget = Budget(minutes, settings.minutes is None, wished, opened.count, job.beside)
        pace = measure(training, trial_seconds(minutes), budget.is_ample)
        del job, training
        gc.collect()  # the weights, and the processes that loaded
        with ranks.together():
            plan, said = budget.planned(schedule.batch_size, pace, time.monotonic() - began + opening)
        plan = ranks.from_lead(plan)
        asked, tried = replace(settings, epochs=plan.epochs), schedule.batch_size
    here.console.print(said, soft_wrap=True)
    return asked, plan


def _settled(kind: JobKind[Settings, O, C, J], settings: Settings, opened: O, here: Here) -> C:
    """What follows from settings that are still open; all ranks together. Raises UserError."""
    found: C | None = None
    with here.ranks.together():
        if here.ranks.leads:
            found = kind.settle(kind.choose(settings, opened, here), opened, here.console)
    return given(here.ranks.from_lead(found))


def _identity(config: Mapping[str, Any], fingerprint: str, may_differ: Collection[str]) -> str:
    """The same for what trains to the same result."""
    told = sorted((key, str(value)) for key, value in config.items() if key not in may_differ)
    return hashlib.sha256(json.dumps([told, fingerprint]).encode()).hexdigest()


def _ready(job: J, here: Here) -> Run[J]:
    """The job with all that the loop needs."""
    with here.ranks.together():
        job.begin()
    job.model.to(here.device)
    if not here.ranks.from_lead(here.folder.has_begun):
        job.prepare()
    plan = kept_plan(here.folder.path) if here.ranks.leads and not job.course.earlier else None
    return Run(job, training_of(job, here, plan))


def training_of(job: Job[Any], here: Here, plan: Plan | None = None) -> Training[Any, Batch]:
    """What the loop needs. plan: that it is to keep to, where the time decides."""
    ranks, broken, schedule, punctual = here.ranks, job.broken, job.course.schedule, Punctual(plan, here.console)
    job.model.to(here.device)
    stream = job.stream()
    learner: Learner[Any, Batch] = Learner(job.model, job.loss(), ranks, shard=job.course.shard)
    optimizer, looks = job.optimizer(), job.looks()

    def batches_from(step: int, micro_batch: int) -> Iterator[Batch]:
        punctual.begin(step)
        part, pin = ranks.share(schedule.batch_size, schedule.least_micro_batch), here.device.type == "cuda"
        return broken.watch(stream.batches(step, micro_batch, here.workers, pin=pin, part=part))

    def look(step: int) -> dict[str, Any]:
        broken.tell(ranks)
        punctual.tell(step)
        if step not in looks:  # the last one
            return {}
        with averaged(optimizer):
            return looks[step](learner.whole(), step)

    def is_enough(step: int) -> bool:
        if step == schedule.steps or not ranks.from_lead(ranks.leads and step in looks and job.is_enough(step)):
            return False
        job.ended_at = step
        return True

    return Training(
        learner,
        optimizer,
        batches_from,
        broken.source.name,
        schedule,
        here.folder,
        here.device,
        here.console,
        {step: partial(look, step) for step in {*looks, schedule.steps}},
        job.rest,
        is_enough,
        Lanes.here(here.device) if job.in_lanes and ranks.size == 1 else ONE,
    )


@contextmanager
def _left(run: Run[Any], here: Here) -> Iterator[None]:
    """After the steps within, the run has its weights and its report; all ranks together."""
    job, learner, steps = run.job, run.training.learner, run.training.schedule.steps
    leads, path = here.ranks.leads, here.folder.path
    try:
        yield
    except Interrupted as stopped:
        with averaged(run.training.optimizer):
            whole = learner.whole()
            if leads:
                with suppress(NotWritten, UserError), written(path, steps, stopped.step):  # it goes on all the same
                    job.save(whole, stopped.step)
                    write_report(path)
        raise
    with averaged(run.training.optimizer):
        whole = learner.whole()
        last = steps if job.ended_at is None else job.ended_at
        with written(path, last, last):
            if leads:
                job.save(whole, last)
            job.finish(whole)
