"""Train an encoder on labels: all of its blocks, its last ones, or a linear layer alone.

    openmae finetune runs/first labelled/ --out runs/classes                    chosen from the data and the machine
    openmae finetune runs/first labelled/ --out runs/classes --recipe paper     the paper's (Table 9)
    openmae finetune runs/first labelled/ --out runs/sweep --blocks all,4,1,0.5,0       Figure 9
    openmae finetune runs/first labelled/ --out runs/scratch --from-scratch     the same ViT without pre-training

On ImageNet-1K the paper's recipe gives 83.6 / 85.9 / 86.9% (ViT-B/L/H, Table 3), from scratch 82.3 / 82.6 / 83.1%;
of ViT-L's last blocks none 73.5, half a block 79.1, one 81.0, all 84.9% (Figure 9). Full fine-tuning, the last blocks
and the linear probe are one job: they differ in settings alone.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from rich.console import Console
from tyro.conf import Positional, arg

from openmae.data.heap import keep_freed_memory
from openmae.data.source import Source
from openmae.data.statistics import survey
from openmae.data.tasks import Answers, Task, answers, fewer_labels, split_for
from openmae.errors import UserError, said_once
from openmae.heads import Classifier, Pool, learn_last_blocks
from openmae.model import SIZES, ViT, create_model, initialize
from openmae.ranks import Ranks, joined
from openmae.recipes.choices import Recipe, Sides, pair, stored
from openmae.recipes.finetune_choices import check_ranges, choose, least_micro_batch
from openmae.recipes.finetune_job import Job, Start
from openmae.recipes.machine import (
    Device,
    check_room,
    check_shares,
    choose_device,
    device_of,
    enough_memory,
    make_console,
    room_on_disk,
    tell_ranks,
    workers_for,
)
from openmae.recipes.reading import say_origin
from openmae.recipes.results import whole_address
from openmae.recipes.schedule import steps_of
from openmae.report.sweep import SWEEP
from openmae.train.checkpoint import KEEP
from openmae.train.run import RunFolder, read_config
from openmae.train.stop import Stop
from openmae.weights import Loaded, is_timm_name, load_model

_HARMLESS = (
    "data",
    "max_broken",
    "micro_batch",
    "grad_checkpointing",
    "workers",
    "device",
    "checkpoint_minutes",
    "keep",
    "shard",
    "timeout_minutes",
    "evaluations",
)  # may differ between the starts of a run
DERIVED = ("steps",)  # entries of a run's config.toml that follow from the others and the images


@dataclass(frozen=True)
class Finetune:
    """Train an encoder on labels. The same command again, after a crash or Ctrl-C, goes on where the run was."""

    model: Positional[Annotated[str | None, arg(metavar="MODEL")]] = None
    """A run folder, or whatever else openmae.load takes (docs/weights.md); or, to begin with fresh weights, vit_tiny,
    vit_small, vit_base, vit_large or vit_huge."""
    data: Positional[Annotated[str | None, arg(metavar="DATA")]] = None
    """Labelled images: a folder with a folder for each class, a table, shards, parquet or an array. With splits train
    and val these are used; otherwise a fifth of each class is held out, the same images every time."""
    out: Annotated[Path | None, arg(metavar="RUN")] = None
    """Run folder to write."""
    resume: bool = False
    """Take MODEL, DATA and all settings from the run in --out and go on with it."""
    recipe: Recipe = "auto"
    """What is left open below: auto chooses it from the number of images, the model and the machine; paper takes
    Table 9's, or, from scratch, Table 11's."""

    blocks: Annotated[str, arg(metavar="N")] = "all"
    """How many of the last blocks learn (Figure 9): all, a number, 0.5 (the last block's MLP), or 0 (the head alone).
    Several with commas, such as all,4,1,0.5,0, are trained one after the other and compared."""
    from_scratch: bool = False
    """Begin with fresh weights in MODEL's architecture: what pre-training is worth."""
    labels: Annotated[str | None, arg(metavar="PART")] = None
    """Use fewer labels: a share of each class such as 1%, or a number such as 20-per-class."""
    task: Task | None = None
    """What labels are. Default: what they say: classes; several at once where they have ; or | between them; numbers
    where not all are whole."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """For classes of unequal size: weigh the loss by one over the size of the class, or show each class as often."""

    pool: Pool | None = None
    """What the head reads: the mean of the patch tokens, or the class token. Default: mean, as the paper."""
    batch_norm: bool = False
    """Normalise features by their (micro-)batch before the head, as the paper's linear probe does."""
    img_size: Sides | None = None
    """Pixels a side, 448 or 448x320. Default: the model's; for another the positions are interpolated."""
    patch_size: Sides | None = None
    """Pixels of a patch a side, for fresh weights of a vit_...; otherwise the model's."""

    optimizer: Literal["adamw", "lars"] | None = None
    """Default: adamw. lars is for the paper's linear probe."""
    epochs: float | None = None
    """Times that every image is seen. Paper: 100, and 50 for large models."""
    warmup_epochs: float | None = None
    """Epochs over which the learning rate rises from 0. Paper: 5."""
    batch_size: int | None = None
    """Images an optimizer step: always the effective batch. Paper: 1024."""
    micro_batch: int | None = None
    """Images that go through the model at once. Default: 128 on a GPU, 64 on a CPU; halved where memory runs out."""
    grad_checkpointing: Literal["on", "off"] = "off"
    """Compute each block again in the backward pass instead of keeping it: a quarter slower, a fraction of the
    memory."""
    blr: float | None = None
    """Base learning rate; the rate is blr x batch_size / 256. Paper: 1e-3, ViT-B after norm_pix 5e-4."""
    layer_decay: float | None = None
    """Rate of a block over that of the one above it. Paper: 0.75, ViT-B after norm_pix 0.65; from scratch 1."""
    weight_decay: float | None = None
    """On matrices only. Paper: 0.05, from scratch 0.3."""
    drop_path: float | None = None
    """Chance to leave out a branch of the last block; less in those below. Paper: 0.1 (B), 0.2 (L), 0.3 (H)."""
    ema_decay: float | None = None
    """Keep an average of the weights, and use it in the end. 0 for none. Paper: 0.9999 from scratch."""
    clip_grad: float | None = None
    """Bound on the norm of the whole gradient. Default: none, as the paper."""

    crop_scale: tuple[float, float] | None = None
    """Least and most share of an image's area in a random crop. Default: 0.08 1, as the released code."""
    hflip: bool = True
    """Mirror half of the views. Switch off where left and right differ in meaning."""
    ra_magnitude: float | None = None
    """RandAugment's strength, 0 (off) to 10. Paper: 9."""
    random_erase: float | None = None
    """Chance that a rectangle of a view is replaced by noise. Paper: 0.25, from scratch 0."""
    mixup: float | None = None
    """Alpha of mixup, 0 for none. Paper: 0.8."""
    cutmix: float | None = None
    """Alpha of cutmix, 0 for none. Paper: 1."""
    label_smoothing: float | None = None
    """Share of the answer that is spread over all classes. Paper: 0.1."""

    seed: int = 0
    """Decides the fresh weights, what is held out, order, crops and augmentation."""
    max_broken: float = 0.01
    """Stop when more than this share of the files cannot be read; up to it they are replaced and listed."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bfloat16 products where the processor has them."""
    device: Device = "auto"
    """auto: a GPU if there is one."""
    workers: int | None = None
    """Processes that load images; 0 loads in this one. Does not change the result."""
    evaluations: int = 10
    """How many times the val images are classified, evenly over the run."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints; one more comes at the end, on Ctrl-C and on a scheduler's signal."""
    keep: int = KEEP
    """Checkpoints that stay on the disk, 1 or more; an older one goes when a newer one is safe."""
    shard: bool = False
    """Under torchrun: each process keeps a part of weights, gradients and averages, instead of all of them."""
    timeout_minutes: float = 10.0
    """Under torchrun: a process that does not answer or get on for so long is given up, and the run with it."""
    profile: bool = False
    """Record where the time of five early steps goes: RUN/profile/trace.json.gz for ui.perfetto.dev, and a table."""


def run(settings: Finetune) -> None:
    """Trains, and says what came out. Raises UserError, Interrupted."""
    console = make_console(outlives_terminal=True)
    parts = settings.blocks.split(",")
    if len(parts) > 1 or (settings.out is not None and (settings.out / SWEEP).exists()):
        from openmae.recipes.sweep import sweep

        sweep(settings, parts, console)
        return
    finetune(settings, console)
    console.print(
        f"\nThe model is in {settings.out}. Look at:   {settings.out}/report.html\n"
        f"  on other images:    openmae evaluate {settings.out} DATA\n"
        f"  in Python:          openmae.load('{settings.out}')(images), normalised as model.json says",
        soft_wrap=True,
    )


def finetune(settings: Finetune, console: Console) -> dict[str, float]:
    """Trains, or goes on training, and leaves a whole run folder; alone, or with the processes that torchrun started.
    Gives the final figures on val, as `measure` names them. Raises UserError, Interrupted, NotWritten, RankLost."""
    with said_once():
        device = choose_device(settings.device)
        check_ranges(settings)
    with Stop(at_once=True), joined(device.type, settings.timeout_minutes * 60) as ranks:
        console.quiet = console.quiet or not ranks.leads
        return _finetune(settings, ranks, device_of(device, ranks), console)


def _finetune(settings: Finetune, ranks: Ranks, device: torch.device, console: Console) -> dict[str, float]:
    with ranks.together():
        if settings.resume and settings.out is not None and ranks.leads:
            settings = stored(settings, read_config(settings.out), defaults_too=True)
        if settings.model is None or settings.data is None or settings.out is None:
            raise UserError("say what to train, on what, and where the run goes: openmae finetune MODEL DATA --out RUN")
    settings = ranks.from_lead(settings)
    tell_ranks(ranks, settings, console)
    keep_freed_memory()
    with ranks.together():
        check_ranges(settings)
        loaded = _loaded(settings, console)
    assert settings.out is not None
    out = settings.out
    with room_on_disk(out), ranks.opening(lambda: RunFolder(out, leads=ranks.leads)) as folder:
        with ranks.together():
            if folder.has_begun:  # it goes on with what was chosen then
                settings = stored(settings, read_config(folder.path), defaults_too=False)
        settings = ranks.from_lead(settings)
        with ranks.together():
            task, train, val = ranks.each_in_turn(lambda: _split(settings))
            right = answers(train, task)
            asked = answers(val, task, right.names)
            workers = workers_for(settings.workers, device, ranks)
            start = _fresh(settings, train, workers) if loaded is None else _pretrained(settings, loaded)
        ranks.agree(_fingerprint(train, val), f"{settings.data} holds other images")
        console.print(f"{task}: {_what(right)}; learnt from {len(train):,} images, judged by {len(val):,} others")
        if not folder.has_begun and ranks.leads:
            settings = choose(
                settings, start.encoder, start.statistics, start.target, task, len(train), device, console
            )
        settings = ranks.from_lead(settings)
        with ranks.together():
            check_ranges(settings)
            check_shares(settings, ranks, least_micro_batch(settings))
            with enough_memory():
                model = build(settings, start.encoder, len(right.names))
            steps = steps_of(settings, len(train), console)
            if ranks.leads:
                averages = (1 if settings.optimizer == "lars" else 2) + bool(settings.ema_decay)
                check_room(folder.path, model, settings.keep, averages)
                folder.settle({**_flat(settings), "steps": steps}, _fingerprint(train, val), _HARMLESS)
        job = Job(
            settings, folder, model.to(device), start, train, val, right, asked, steps, workers, device, console, ranks
        )
        with enough_memory():
            return job.train()


def _split(settings: Finetune) -> tuple[Task, Source, Source]:
    """The task, and the images to learn from and to be judged by. Raises UserError."""
    assert settings.data is not None
    task, train, val = split_for(settings.data, settings.task, settings.seed)
    _check_balance(settings.balance, task)
    if settings.labels is not None:
        train = fewer_labels(train, settings.labels, task, settings.seed)
    return task, train, val


def build(settings: Finetune, encoder: ViT, outputs: int) -> Classifier:
    """The model of resolved settings: head, and fresh weights where asked, from the seed. Raises UserError."""
    draws = torch.Generator().manual_seed(settings.seed)
    try:
        if pair(settings.img_size) != encoder.img_size:
            encoder = encoder.resized(pair(settings.img_size))
        if settings.from_scratch:
            initialize(encoder, draws)
        model = Classifier(encoder, outputs, settings.pool or "mean", settings.batch_norm, settings.drop_path or 0.0)
        model.initialize(0.01 if settings.batch_norm else 2e-5, draws)
        depth = encoder.depth
        learn_last_blocks(model, depth if settings.blocks == "all" else float(settings.blocks))
    except ValueError as error:
        raise UserError(str(error)) from error
    return model


def _loaded(settings: Finetune, console: Console) -> Loaded | None:
    """MODEL; None where it is the name of a size."""
    assert settings.model is not None
    if settings.model not in SIZES:
        model = settings.model
        if model.startswith("vit_") and not Path(model).exists() and not is_timm_name(model):
            raise UserError(f"{settings.model} is no size, nor a run folder: give one of {', '.join(SIZES)}, or a run")
        loaded = load_model(Path(settings.model))
        say_origin(loaded, console)
        if isinstance(loaded.model, Classifier) and not settings.from_scratch:
            console.print(f"{settings.model} was fine-tuned before: its encoder is kept, and its head made anew")
        if settings.patch_size is not None and pair(settings.patch_size) != loaded.encoder.patch_size:
            raise UserError(f"--patch-size is for fresh weights; {settings.model} has its own: leave it out")
        return loaded
    if not settings.from_scratch:
        raise UserError(
            f"{settings.model} has fresh weights: add --from-scratch if that is meant, or give a run folder"
        )
    return None


def _pretrained(settings: Finetune, loaded: Loaded) -> Start:
    if settings.from_scratch:
        return Start(loaded.encoder, loaded.statistics, None, is_new=False)
    info = loaded.info
    target = info["architecture"].get("target", "pixel")
    return Start(loaded.encoder, loaded.statistics, target, False, info["provenance"], info.get("licence"))


def _fresh(settings: Finetune, train: Source, workers: int) -> Start:
    """An encoder of the named size for these images."""
    assert settings.model is not None
    look = survey(train, settings.seed, None, None, workers)
    side = min(224, *look.size)
    patch = pair(settings.patch_size or (16 if side >= 128 else 8 if side >= 64 else 4))
    size = pair(settings.img_size) if settings.img_size else tuple(max(1, side // p) * p for p in patch)
    try:
        in_chans = look.statistics.pixels.in_chans
        encoder = create_model(settings.model, img_size=size, patch_size=patch, in_chans=in_chans).encoder
    except ValueError as error:
        raise UserError(str(error)) from error
    return Start(encoder, look.statistics, None, is_new=True)


def _check_balance(balance: str, task: Task) -> None:
    """Raises UserError where the labels have nothing that could be balanced so."""
    if balance != "none" and task == "regression":
        raise UserError(f"--balance {balance} is for classes, and these labels are numbers: leave it out")
    if balance == "sampling" and task == "multi-label":
        raise UserError(
            "--balance sampling is for images of one class each, and these have several labels: give --balance weights"
        )


def _what(right: Answers) -> str:
    return {
        "classification": f"{len(right.names)} classes",
        "multi-label": f"{len(right.names)} labels",
        "regression": "a number",
    }[right.task]


def _fingerprint(train: Source, val: Source) -> str:
    return f"{train.fingerprint} {val.fingerprint}"


def _flat(settings: Finetune) -> dict[str, Any]:
    """For config.toml. MODEL and DATA are kept as whole paths, so that the run can be resumed from any folder."""
    assert settings.data is not None
    assert settings.model is not None
    values = asdict(settings)
    del values["resume"], values["out"], values["profile"]
    model = whole_address(settings.model) if Path(settings.model).exists() else settings.model
    return {**values, "model": model, "data": whole_address(settings.data)}
