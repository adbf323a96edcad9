"""Hand a training to a cluster's scheduler, which runs it on several machines and queues it again when it stops early;
or what jobs of an array share: a study, or one pass over all images.

    openmae launch slurm --nodes 2 --gpus 8 --hours 24 --partition gpu -- pretrain DATA --out RUN --batch-size 4096
    openmae launch slurm --parts 8 --hours 4 -- ablate DATA --out STUDY --study mask-ratio
    openmae launch slurm --parts 16 --hours 2 -- embed RUN DATA --out vectors.parquet
    openmae launch local --gpus 0 --processes 2 -- pretrain DATA --out RUN       the same without a scheduler, to try

submitit (https://github.com/facebookincubator/submitit) writes the job and starts as many tasks as there are GPUs. Each
task watches over one process of the training, and tells it to save when Slurm announces that time is up or the machines
are taken away. The first task then puts the job back into the queue, where it waits for its turn to go on.
"""

import io
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openmae.console.terminal import make_console
from openmae.distributed.share import SHARED
from openmae.errors import UserError
from openmae.files.address import whole
from openmae.files.study import check_place
from openmae.machine.kinds import Device
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.in_parts.folder import parts_folder
from openmae.recipes.launch.settings import Launch
from openmae.recipes.launch.task import LaunchedTraining
from openmae.recipes.predict.settings import TABLE
from openmae.recipes.probe.linear import Probe
from openmae.train.run import RunFolder

if TYPE_CHECKING:
    from submitit import Job

LOGS = "slurm"
"""Folder in the run folder that holds the job: its script, and what each task says."""
STUDIES = ("ablate", "compare")
LAUNCHED = ("pretrain", "finetune", "probe", *STUDIES, *SHARED)
SAVING_SECONDS = 180
"""From Slurm's signal to the end: the two minutes that a training may take to save, and one to queue it again."""
MOST_STARTS = 10_000
"""How often submitit may queue a job again that was out of time; 24 hours each, this is never."""
_USAGE = "openmae launch slurm --nodes 2 --gpus 8 --hours 24 -- pretrain DATA --out RUN"


def run(settings: Launch, command: Sequence[str], read: Callable[[Sequence[str]], Any]) -> None:
    """Submits the command, and says how to watch it.

    read: gives the settings of a command's words. Raises UserError.
    """
    jobs = launch(settings, command, read)
    make_console().print("\n".join(_said(settings, command, jobs)), soft_wrap=True)


def _said(settings: Launch, command: Sequence[str], jobs: "Sequence[Job[None]]") -> Iterator[str]:
    """Lines: what was submitted, and how to watch it."""
    ids, folder = [job.job_id for job in jobs], shlex.quote(str(jobs[0].paths.stdout.parent))
    parts = f"{len(jobs)} parts, each " if len(jobs) > 1 else ""
    what = f"{parts}{_size(settings)}, {settings.hours:g} hours at a stretch"
    if settings.where == "slurm":  # the parts of an array are called 4711_0, 4711_1, ...
        job = ids[0].partition("_")[0]
        yield f"Job {job} is submitted: {what}"
        logs = f"{job}_*" if parts else job
        ways = {"its state": f"squeue --job {job}", "cancel it": f"scancel {job}"}
    else:
        yield f"Job {' '.join(ids)} is running: {what}"
        logs = "*" if parts else ids[0]
        ways = {"stop it": f"kill {' '.join(ids)}"}
    yield f"  openmae {shlex.join(command)}\n"
    is_study = command[0] in STUDIES
    ways = {"watch it": f"tail -F {folder}/{logs}_0_log.out", **ways}
    if is_study:
        ways["so far"] = f"openmae report {shlex.quote(str(jobs[0].paths.stdout.parent.parent))}"
    what = "it" if command[0] in SHARED else f"the {'study' if is_study else 'run'}"
    ways["afterwards"] = f"the same launch again goes on where {what} was"
    for name, way in ways.items():
        yield f"  {name + ':':<13} {way}"


def launch(settings: Launch, command: Sequence[str], read: Callable[[Sequence[str]], Any]) -> "list[Job[None]]":
    """Submits the command, which was read and found good before, as one job or as so many parts. Raises UserError."""
    _check(settings)
    if settings.where == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError("there is no sbatch and srun here", "run this where jobs are submitted, or try launch local")
    place = _checked(settings, command, read)
    words = list(command)
    if settings.gpus and place.device == "auto":  # where torch finds no GPU, no CPU is to compute for days
        words += ["--device", "cuda"]
    parameters = _parameters(settings, place.out)
    _check_lines(settings, place.out)
    try:
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import clean_env
    except ImportError as error:
        raise UserError("launching jobs needs submitit", "pip install submitit") from error
    executor = AutoExecutor(
        place.jobs, settings.where, slurm_max_num_timeout=MOST_STARTS, local_max_num_timeout=MOST_STARTS
    )
    executor.update_parameters(**parameters)
    # A job that is submitted from within a job is none of its parts.
    with clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
        try:
            with redirect_stderr(io.StringIO()):  # submitit says what sbatch says
                return executor.submit_array(_parts(settings, words, place.kept.absolute()))
        except (FailedJobError, FailedSubmissionError) as error:
            said = (
                (str(error).strip().splitlines() or ["it says nothing"])[0].removeprefix("sbatch: error: ").rstrip(".")
            )
            raise UserError(f"sbatch refused the job ({said})", "mend that and launch it again") from error


def _check(settings: Launch) -> None:
    """Raises UserError for what makes no job."""
    for name, least in {"nodes": 1, "gpus": 0, "processes": 1, "parts": 1, "cpus": 1}.items():
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}", f"give {least} or more")
    for name in ("hours", "memory"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} is {value:g}", "give a number above 0")
    if settings.gpus and settings.processes > 1:
        raise UserError(f"--processes {settings.processes} with --gpus {settings.gpus}: there is one for each GPU")
    if settings.where == "local" and settings.nodes > 1:
        raise UserError(f"--nodes is {settings.nodes}: launch local has this machine alone")
    if settings.where == "local" and settings.gpus > (there := torch.cuda.device_count()):
        raise UserError(
            f"--gpus is {settings.gpus} and this machine has {there}",
            "give as many as it has, or --gpus 0 --processes 2",
        )
    for name in _more(settings):
        if name in _OURS:
            raise UserError(f"--set {name}: launch sets it itself, by a flag of its own or so that the run goes on")


def _check_lines(settings: Launch, out: Path) -> None:
    """Raises UserError for line ends: what comes after one in the job's script, the cluster's shell would run."""
    named = {f"--{name}": getattr(settings, name) for name in ("partition", "account", "qos", "constraint", "exclude")}
    for name, value in {**named, "--set": " ".join(settings.set), "--out": str(out.absolute())}.items():
        if value and value.splitlines() != [value]:
            raise UserError(f"{name} is {value!r}, and a job's script cannot hold a line end", "give another one")


_OURS = {"signal", "requeue", "no-requeue", "open-mode", "output", "error", "array"} | {
    *("nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time"),
    *("partition", "account", "qos", "constraint", "exclude"),
}


@dataclass(frozen=True)
class _Place:
    """out: what the command writes. jobs: the folder of the job, its script, and what each task says. kept: the folder
    in which a new file shows that a start was of use. device: that the command asks for."""

    out: Path
    jobs: Path
    kept: Path
    device: Device


def _parts(settings: Launch, words: Sequence[str], out: Path) -> list[LaunchedTraining]:
    """What each job does."""
    if settings.parts == 1:
        return [LaunchedTraining(tuple(words), out)]
    beside = settings.parts if settings.where == "local" else 1
    shares = [f"{number}/{settings.parts}" for number in range(1, settings.parts + 1)]
    return [LaunchedTraining((*words, "--part", share), out, parts=beside) for share in shares]


def _checked(settings: Launch, command: Sequence[str], read: Callable[[Sequence[str]], Any]) -> _Place:
    """Of a command that can be launched. Raises UserError."""
    processes = settings.nodes * _tasks(settings)
    if not command or command[0] not in LAUNCHED:
        said = f"'{command[0]}' cannot be launched" if command else "there is nothing to launch"
        raise UserError(said, f"give one of {', '.join(LAUNCHED)} after --, as in {_USAGE}")
    if any(whole(word) != word for word in command):
        raise UserError(
            "the address has a secret in it, which the job's file would keep",
            "put it into ~/.netrc on the cluster, and leave it out of the address",
        )
    inner = read(command)
    if command[0] in SHARED:
        return _of_shared(settings, command[0], inner)
    if command[0] in STUDIES:
        _check_study(settings, command[0], inner)
        return _Place(inner.out, inner.out / LOGS, inner.out, inner.device)
    if settings.parts > 1:
        raise UserError(
            f"--parts is {settings.parts}, and {command[0]} has none",
            f"share a training by --nodes and --gpus; --parts is for {', '.join(STUDIES + SHARED)}",
        )
    if isinstance(inner, Probe) and inner.recipe != "paper":
        raise UserError("probe computes features once, which needs no cluster", "run it here, or add --recipe paper")
    out: Path | None = inner.out
    if out is None:
        raise UserError("the run needs a folder to go on in", f"add --out RUN to {command[0]}")
    if isinstance(inner, Finetune) and "," in inner.blocks:
        if processes > 1:
            raise UserError(
                f"a sweep over --blocks is for one process, and this starts {processes}", "launch each part"
            )
        return _Place(out, out / LOGS, out, inner.device)
    with RunFolder(out):  # raises where it holds something else, or another process trains in it
        return _Place(out, out / LOGS, out, inner.device)


def _of_shared(settings: Launch, command: str, inner: Any) -> _Place:
    """Of one pass over all images. inner: its settings. Raises UserError."""
    device: Device | None = getattr(inner, "device", None)
    out: Path | None = inner.shards if command == "pack" else inner.out
    if (processes := settings.nodes * _tasks(settings)) > 1:
        raise UserError(
            f"a part of {command} is one process, and this starts {processes}",
            f"give --parts {processes}, and --gpus {0 if device is None else min(1, settings.gpus)}",
        )
    if device is None and settings.gpus:
        raise UserError(f"{command} uses no GPU", "give --gpus 0")
    if out is None:
        raise UserError(f"{command} has to keep what it finds", "add --out FILE to it")
    _check_part(settings, command, inner)
    kept = out if command == "pack" else parts_folder(out / TABLE if command == "predict" and not out.suffix else out)
    return _Place(out, out.with_name(f"{out.name}-{LOGS}"), kept, device or "cpu")


def _check_part(settings: Launch, command: str, inner: Any) -> None:
    if settings.parts > 1 and inner.part is not None:
        raise UserError(f"--parts says which part each job is, and {command} has --part", "leave that out")


def _check_study(settings: Launch, command: str, inner: Any) -> None:
    """Raises UserError. inner: its settings."""
    if (processes := settings.nodes * _tasks(settings)) > 1:
        raise UserError(
            f"a study trains in one process, and this starts {processes}",
            f"give --parts {processes} --gpus {min(1, settings.gpus)}: as many jobs, which share it",
        )
    _check_part(settings, command, inner)
    if settings.parts > 1 and inner.jobs > 1:
        raise UserError(f"--parts is {settings.parts}, and {command} has --jobs {inner.jobs}", "leave one of them out")
    check_place(inner.out)


def _size(settings: Launch) -> str:
    each = f"{_tasks(settings)} process{'es' * (_tasks(settings) > 1)}"
    return each if settings.nodes == 1 else f"{settings.nodes} machines with {each} each"


def _tasks(settings: Launch) -> int:
    """Processes on each machine."""
    return settings.gpus or settings.processes


def _more(settings: Launch) -> dict[str, str | bool]:
    """The options of --set."""
    pairs = [word.removeprefix("--").partition("=") for word in settings.set]
    return {name.replace("_", "-"): value if equals else True for name, equals, value in pairs}


def _parameters(settings: Launch, out: Path) -> dict[str, Any]:
    """For submitit, which leaves out what is None, and everything of Slurm's for a local job."""
    named = {name: getattr(settings, name) for name in ("partition", "account", "qos", "constraint", "exclude")}
    return {
        "name": f"openmae-{out.absolute().name}",
        "nodes": settings.nodes,
        "tasks_per_node": _tasks(settings),
        "gpus_per_node": settings.gpus or None,
        "cpus_per_task": settings.cpus,
        "mem_gb": settings.memory,
        "timeout_min": ceil(settings.hours * 60),
        "stderr_to_stdout": True,
        "slurm_signal_delay_s": SAVING_SECONDS,
        "slurm_additional_parameters": {"requeue": True, **_more(settings)},
        **{f"slurm_{name}": value for name, value in named.items()},
    }
