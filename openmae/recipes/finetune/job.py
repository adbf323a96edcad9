"""Train an encoder on labels: all of its blocks, its last ones, or a linear layer alone.

    openmae finetune runs/first labelled/ --out runs/classes                    chosen from the data and the machine
    openmae finetune runs/first labelled/ --out runs/classes --recipe paper     the paper's (Table 9)
    openmae finetune runs/first labelled/ --out runs/sweep --blocks all,4,1,0.5,0       Figure 9
    openmae finetune runs/first labelled/ --out runs/scratch --from-scratch     the same ViT without pre-training

On ImageNet-1K the paper's recipe gives 83.6 / 85.9 / 86.9% (ViT-B/L/H, Table 3), from scratch 82.3 / 82.6 / 83.1%;
of ViT-L's last blocks none 73.5, half a block 79.1, one 81.0, all 84.9% (Figure 9). Full fine-tuning, the last blocks
and the linear probe are one job: they differ in settings alone.
"""

import gc
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

from rich.console import Console

from openmae.console.terminal import make_console
from openmae.machine.device import memory_of
from openmae.recipes.finetune.best import kept_metric
from openmae.recipes.finetune.build import Finetuning
from openmae.recipes.finetune.choose import choose, settle
from openmae.recipes.finetune.compared import show_compared
from openmae.recipes.finetune.folds import Told, Trials, with_ways
from openmae.recipes.finetune.labelled import Labelled, open_labelled
from openmae.recipes.finetune.learning import FinetuneJob
from openmae.recipes.finetune.scratch import check_scratch, train_beside
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.finetune.sweep import sweep
from openmae.recipes.levels import check_levels
from openmae.recipes.training.best import FOLDER
from openmae.recipes.training.blocks import block_for
from openmae.recipes.training.job import begun, training_of
from openmae.recipes.training.kind import Here, JobKind
from openmae.recipes.training.minutes import trial_seconds
from openmae.recipes.training.settings import given
from openmae.report.page.sweep import SWEEP
from openmae.train.aside import fit_aside
from openmae.train.loop import fit
from openmae.train.optimizers import averaged
from openmae.train.pace import measure as pace_of


def run(settings: Finetune) -> None:
    """Trains, and says what came out. Raises UserError, Interrupted."""
    console = make_console(outlives_terminal=True)
    parts = settings.blocks.split(",")
    if len(parts) > 1 or (settings.out is not None and (settings.out / SWEEP).exists()):
        sweep(settings, parts, console, finetune)
        return
    finetune(settings, console)
    show_compared(given(settings.out), console)
    best = f", the best by val in {settings.out}/{FOLDER}" if (given(settings.out) / FOLDER).exists() else ""
    console.print(
        f"\nThe model is in {settings.out}{best}. Look at:   {settings.out}/report.html\n"
        f"  on other images:    openmae evaluate {settings.out} DATA\n"
        f"  on unlabelled ones: openmae predict {settings.out} IMAGES --out predictions.csv\n"
        f"  in Python:          openmae.load('{settings.out}')(images), normalised as model.json says",
        soft_wrap=True,
    )


def finetune(settings: Finetune, console: Console) -> dict[str, float]:
    """Trains, or goes on training, and leaves a whole run folder; alone, or with the processes that torchrun started.
    Gives the final figures on val, as `measure` names them. Raises UserError, Interrupted, NotWritten, RankLost."""
    if settings.with_scratch:
        check_scratch(settings)
    with begun(FINETUNE, settings, console) as run:
        fit(run.training)
    if settings.with_scratch:
        train_beside(settings, console, finetune)
    return run.job.figures


def _choose(settings: Finetune, labelled: Labelled, here: Here) -> Finetune:
    block = settings.shuffle_block or block_for(labelled.train, here.console)
    start, settings = labelled.start, replace(settings, label_column=labelled.label_column, shuffle_block=block)
    for source, seen in ((labelled.train, start.levels), (labelled.val, None)):
        check_levels(given(settings.model), start.statistics, source, here.workers, here.console, seen)
    if settings.keep_best is None:
        metric, said = kept_metric(settings, labelled.right.task, len(labelled.val))
        settings = replace(settings, keep_best=metric)  # type: ignore[arg-type]
        here.console.print(said, soft_wrap=True)
    memory = memory_of(here.device, here.ranks)
    return choose(settings, start, labelled.right.task, len(labelled.train), here.device, here.console, memory)


def _compare(settings: Finetune, labelled: Labelled, here: Here) -> tuple[Finetune, Labelled]:
    """By trainings like the run's, which leave nothing."""
    quiet = replace(here, console=Console(quiet=True))
    memory = memory_of(here.device, here.ranks)

    def chosen(asked: Finetune, images: int) -> Finetuning:
        found: Finetuning | None = None
        with here.ranks.together():
            if here.ranks.leads:
                start, task = labelled.start, labelled.right.task
                asked = replace(asked, keep_best="none", patience=None)
                full = choose(asked, start, task, images, here.device, quiet.console, memory)
                found = settle(full, images, quiet.console)
        return given(here.ranks.from_lead(found))

    def job_of(run: Finetuning, part: Labelled) -> FinetuneJob:
        start = replace(part.start, encoder=deepcopy(part.start.encoder))  # which learns
        with here.ranks.together():
            job = FinetuneJob(run, replace(part, start=start), quiet)
        job.model.to(here.device)
        return job

    def told(run: Finetuning, part: Labelled, hear: Callable[[], None]) -> Told:
        job = job_of(run, part)
        job.fit_head_to_views(job.fit_head())
        training = training_of(job, quiet)
        fit_aside(training, hear)
        with averaged(training.optimizer):
            found = job.told(training.learner.whole())
        gc.collect()  # the processes that loaded
        return found

    def images_per_second(run: Finetuning, part: Labelled) -> float:
        pace = pace_of(training_of(job_of(run, part), quiet), trial_seconds(0), lambda pace: pace.seconds > 0.5)
        gc.collect()
        return pace.images_per_second

    return with_ways(settings, labelled, here, Trials(chosen, told, images_per_second))


FINETUNE = JobKind(
    needs=("model", "data", "out"),
    usage="openmae finetune MODEL DATA --out RUN",
    may_differ=("with_scratch",),
    open=open_labelled,
    compare=_compare,
    choose=_choose,
    settle=lambda settings, labelled, console: settle(settings, labelled.count, console),
    job=FinetuneJob,
)
