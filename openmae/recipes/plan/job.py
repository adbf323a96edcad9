"""How long a pre-training will take, and whether it fits, before it starts.

    openmae plan your/images
    openmae plan --images 1281167 --recipe paper --measured bench.json --gpus 8 --price 2.5

The first line takes a few steps here; the second reads what `openmae bench --out FOLDER` measured on another machine.
How everything is computed, and what is assumed: docs/plan.md.
"""

import shlex
import time
from dataclasses import fields, replace
from typing import Any

import torch
from rich.console import Console

from openmae.commandline.flags import flag
from openmae.console.terminal import make_console
from openmae.console.words import duration
from openmae.data.formats.channels import PixelFormat
from openmae.data.opening import open_data
from openmae.data.survey.sample import Survey, survey
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.machine.device import choose_device, has_fast_bf16, is_out_of_memory, memory_of
from openmae.machine.heap import keep_freed_memory
from openmae.machine.kinds import Precision
from openmae.machine.lanes import Lanes
from openmae.machine.workers import workers_for
from openmae.recipes.opened import tell
from openmae.recipes.plan.estimate import Estimate
from openmae.recipes.plan.settings import Plan
from openmae.recipes.plan.speed import Measured, Speed, dry_run, read_measured
from openmae.recipes.plan.tables import show
from openmae.recipes.pretrain.build import Pretraining, build
from openmae.recipes.pretrain.choose import choose, most_minutes, one_channel, settle
from openmae.recipes.pretrain.job import held_out
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.memory import USABLE_MEMORY, usable_memory
from openmae.recipes.training.minutes import Budget, refuse_both
from openmae.recipes.training.ranges import MOST
from openmae.recipes.training.settings import given, shown
from openmae.train.cost import flops, largest_micro_batch
from openmae.train.pace import Pace

PIXELS = 224  # a side, and channels, of photographs: where there is no DATA to look at
CHANNELS = 3
_LOOKED_AT = 256  # images of DATA
_OTHER_SHARE = 0.25  # of the time of a dry run, for the other precision
_QUIET = Console(quiet=True)


def run(settings: Plan) -> None:
    """Measures, or reads what was measured, and prints. Raises UserError."""
    _check(settings)
    console = make_console()
    measured = None if settings.measured is None else read_measured(settings.measured)
    device = choose_device(settings.device) if measured is None else torch.device(measured.device)
    keep_freed_memory()  # as the training that is planned
    room = _room(settings, measured, device)
    pretrain = _pretrain(settings, "bf16" if measured is None else measured.precision)
    look, images = _look(settings, pretrain, device, console)
    pretrain = replace(pretrain, mean=look.statistics.mean, std=look.statistics.std)

    def of_model(name: Any) -> Pretrain:
        other = replace(pretrain, model=name, micro_batch=chosen.micro_batch)
        return choose(other, look, images, device, room, _QUIET)

    chosen = choose(pretrain, look, images, device, room, _QUIET)
    planned = settle(chosen, images, console)
    _check_share(settings, planned)
    if measured is None:
        speed, other = _measure(planned, device, room, settings.seconds, console)
    else:
        speed, other = measured.speed(given(chosen.model), planned.course.schedule.precision), None
    estimate = Estimate(chosen, images, planned, speed, other, device.type, room, settings.gpus, settings.link * 1e9)
    minutes = settings.minutes
    if minutes is None and settings.epochs is None:
        minutes = most_minutes(pretrain, device)
    if minutes is not None:
        pretrain = _within(minutes, settings, pretrain, estimate, console)
        chosen = choose(pretrain, look, images, device, room, _QUIET)
        estimate = replace(estimate, settings=chosen, planned=settle(chosen, images, _QUIET))
    show(estimate, estimate.changes(of_model), settings.price, console)
    how = f", by {settings.gpus} processes under torchrun (docs/scale.md)" if settings.gpus > 1 else ""
    console.print(f"\nThe run that this is of{how}:\n{command(settings, chosen)}", soft_wrap=True)


def _within(minutes: float, settings: Plan, pretrain: Pretrain, estimate: Estimate, console: Console) -> Pretrain:
    """With as many epochs as fit into the time. Raises UserError where not even a step does."""
    wished, schedule = given(estimate.settings.epochs), estimate.planned.course.schedule
    pace = Pace(schedule.batch_size, estimate.scaled(settings.gpus).step, 0.0)
    budget = Budget(minutes, settings.minutes is None, wished, estimate.images, lambda views: 0.0)
    plan, said = budget.planned(schedule.batch_size, pace, used=0.0)
    console.print(said, soft_wrap=True)
    return replace(pretrain, epochs=plan.epochs)


def command(settings: Plan, chosen: Pretrain) -> str:
    """`openmae pretrain ...` that makes the run, whatever would be chosen there."""
    words = ["openmae", "pretrain", settings.data or "DATA", "--out", "RUN"]
    names = [field.name for field in fields(Plan) if field.name not in ("data", "device", "minutes")]
    for field in fields(Pretrain):
        value = getattr(chosen, field.name)
        if field.name in names and value is not None and value != field.default:
            words += [flag(field.name), *_typed(field.name, value)]
    return shlex.join(words)


def _typed(name: str, value: Any) -> list[str]:
    """A setting as it is typed: two sides are one word, and of what else there may be several each is one."""
    if isinstance(value, tuple) and name in ("img_size", "patch_size"):
        return ["x".join(map(str, value))]
    several = value if isinstance(value, tuple) else [value]
    return [f"{one:.12g}" if isinstance(one, float) else str(one) for one in several]


def _check(settings: Plan) -> None:
    """Raises UserError for numbers that mean nothing; pretrain's own are checked as there."""
    for name in ("images", "gpus", "link", "price", "memory", "seconds"):
        value = getattr(settings, name)
        if value is not None and not 0 < value <= MOST:
            raise UserError(f"--{name} is {shown(value)}", f"give a number above 0, at most {MOST:g}")
    refuse_both(settings.minutes, settings.epochs)
    if settings.measured is not None and settings.device != "auto":
        raise UserError(
            f"--device {settings.device} is to measure on, and --measured was measured elsewhere",
            "leave one of them out",
        )
    if (settings.data is None) == (settings.images is None):
        raise UserError(
            "give either the images or how many there are", "openmae plan DATA, or openmae plan --images 5000"
        )


def _check_share(settings: Plan, planned: Pretraining) -> None:
    batch_size = planned.course.schedule.batch_size
    if batch_size < settings.gpus:
        raise UserError(
            f"--gpus is {settings.gpus} and a step has {batch_size} images", "give fewer, or a larger --batch-size"
        )


def _pretrain(settings: Plan, precision: Precision) -> Pretrain:
    """The pre-training's settings, still open where these are. Raises UserError for what is out of range."""
    names = {field.name for field in fields(Pretrain)} & {field.name for field in fields(Plan)} - {"data"}
    pretrain = replace(Pretrain(), **{name: getattr(settings, name) for name in names}, data=settings.data or "DATA")
    if settings.measured is not None and pretrain.precision == "auto":
        pretrain = replace(pretrain, precision=precision)
    return pretrain


def _room(settings: Plan, measured: Measured | None, device: torch.device) -> int:
    """Bytes that the device has. Raises UserError where nothing tells."""
    if settings.memory is not None:
        return int(settings.memory * 1e9)
    if measured is None:
        return memory_of(device)
    if measured.memory is None:
        raise UserError(f"{settings.measured} does not tell how much memory {measured.machine} has", "give --memory GB")
    return int(measured.memory / USABLE_MEMORY)


def _look(settings: Plan, pretrain: Pretrain, device: torch.device, console: Console) -> tuple[Survey, int]:
    """What the images are like, and how many there are."""
    if settings.data is None:
        channels = pretrain.in_chans or CHANNELS
        taken = [f"{PIXELS} pixels a side"] * (settings.img_size is None) + ["in colour"] * (settings.in_chans is None)
        if taken:
            console.print(f"Taken for photographs, {' and '.join(taken)}: --img-size and --in-chans say otherwise")
        statistics = Statistics((0.5,) * channels, (0.25,) * channels, PixelFormat(channels))
        return Survey(statistics, (PIXELS, PIXELS), {}, {}, "", 0, ()), given(settings.images)
    data = open_data(settings.data, settings.selection, settings.reading)
    source = data.train
    tell(data, console)
    console.print(f"{len(source):,} images in {source.location}; looking at some of them")
    workers = workers_for(None, device)
    images = len(source) if data.has_splits else len(source) - held_out(len(source))
    look = survey(
        source,
        0,
        pretrain.in_chans,
        pretrain.bands,
        workers,
        depth=pretrain.pixel_type,
        most=_LOOKED_AT,
        reading=settings.reading,
    )
    return one_channel(pretrain, look), images


def _measure(
    planned: Pretraining, device: torch.device, room: int, seconds: float, console: Console
) -> tuple[Speed, Speed | None]:
    """The speed here, in the run's precision and, where there is time, in the other one."""
    console.print(f"Taking a few steps of the real training here, for about {duration(seconds)}")
    began = time.perf_counter()
    schedule, again = planned.course.schedule, planned.grad_checkpointing
    precision = schedule.precision
    other: Precision = "fp32" if precision == "bf16" else "bf16"
    model, _ = build(planned)

    def speed(precision: Precision, share: float) -> Speed:
        usable, most = usable_memory(room, device.type, 0), schedule.micro_batch
        lanes = Lanes.here(device)
        most = largest_micro_batch(model.architecture, precision, most, usable, most, again, device.type, lanes)
        work, deadline = flops(model.architecture).work(again), began + seconds * share
        return dry_run(model, device, precision, schedule.batch_size, max(1, most), work, deadline, console)

    try:
        found = speed(precision, 1 - _OTHER_SHARE)
        has_time = time.perf_counter() - began < seconds
        pays = other == "fp32" or has_fast_bf16(device)
        return found, speed(other, 1) if has_time and pays else None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "the machine ran out of memory", "end what else runs on it, or say how much is free by --memory"
        ) from error
