"""The trainings of an ablation: all alike but for what varies, and what that cannot but change.

What is left open is chosen once, for the usual setting, as `pretrain` would; every row then has the same batch, rate,
warm-up and epochs. Only what a row's model needs follows it: the micro-batch, and the rate of a narrower encoder.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from openmae.data.sources.groups import groups_of
from openmae.errors import UserError
from openmae.files.whole import write_file
from openmae.model import SIZES
from openmae.randomness import generator
from openmae.recipes.asked import AskedGroups, asked_of_data
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain.choose import most_minutes
from openmae.recipes.pretrain.job import held_out
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.settings import given
from openmae.studies.ablate.named import Row
from openmae.studies.ablate.settings import Ablate
from openmae.studies.base import Base
from openmae.studies.judging import Labelled
from openmae.studies.tuning import chosen, fitting, seconds_of
from openmae.train.cost import mean_work

_OF_A_MODEL = {"micro_batch", "grad_checkpointing", "compile"}
_GROUP = "group"  # column of a table of images
_FOLLOWS = {  # of a setting that varies: what is chosen for it anew
    **{name: {"blr"} for name in ("model", "embed_dim", "batch_size")},
    **{name: {"in_chans", "mean", "std", "pixel_type"} for name in ("in_chans", "bands", "pixel_type")},
}


def epochs_of(settings: Ablate, base: Base, rate: float) -> float:
    """Of the usual row: as given, or as many as the time is enough for, and no more than pretrain would choose where
    nobody says how long."""
    if settings.epochs is not None:
        return settings.epochs
    wished = given(base.usual(None).epochs)
    minutes = settings.minutes or most_minutes(base.asked, base.means.device)
    if minutes is None:
        return wished
    planned = base.planned(base.asked, base.images)
    each = mean_work(planned.architecture, planned.grad_checkpointing) / rate
    fitting = float(f"{minutes * 60 / each / base.images:.3g}")
    if fitting * base.images < planned.course.schedule.batch_size:
        raise UserError(f"--minutes {minutes:g} are not enough for a step here", "give more")
    return fitting if settings.minutes is not None else min(wished, fitting)


@dataclass(frozen=True)
class Trained:
    """A row's training. asked: but for its folder and seed. work: operations, of all of its steps."""

    row: Row
    asked: Pretrain
    work: float


def trained(base: Base, rows: Sequence[Row], epochs: float | None) -> list[Trained]:
    """The trainings of these rows. epochs: of the usual one, None for what pretrain would choose. Raises UserError,
    with the row's name, for one that cannot be built or trained."""
    usual = base.usual(epochs)
    found = []
    for row in rows:
        try:
            asked, images = _of_row(base, usual, row)
            planned = base.planned(asked, images)
        except UserError as error:
            called = f"{next(iter(row.changes))} {row.name}" if len(row.changes) == 1 else row.name
            raise UserError(f"{called} cannot be trained ({error.what})", error.advice) from error
        schedule = planned.course.schedule
        each = mean_work(planned.architecture, planned.grad_checkpointing)
        found.append(Trained(row, asked, float(schedule.steps * schedule.batch_size * each)))
    return found


def _of_row(base: Base, usual: Pretrain, row: Row) -> tuple[Pretrain, int]:
    """(what it is asked, how many images it learns from)."""
    changes = {**row.changes, **_scaled(usual, row)}
    asked = replace(base.asked, **changes)
    anew = _OF_A_MODEL.union(*(_FOLLOWS.get(name, set()) for name in changes))
    same = {
        field.name: getattr(usual, field.name)
        for field in fields(Pretrain)
        if field.name not in anew and getattr(asked, field.name) in (None, "auto")
    }
    asked, images, epochs = replace(asked, **same), base.images, given(usual.epochs) * row.epochs
    if row.images < 1:
        count = max(1, round(len(base.data.train) * row.images))
        images = count - held_out(count)
        epochs *= base.images / images
    warmup = None if base.asked.warmup_epochs is None else base.asked.warmup_epochs * epochs / given(usual.epochs)
    return replace(asked, epochs=epochs, warmup_epochs=warmup), images


def _scaled(usual: Pretrain, row: Row) -> dict[str, int]:
    """Sizes that are so many times the usual ones: widths that their heads divide."""
    width, _, heads = SIZES[given(usual.model)]
    sizes = {
        "embed_dim": usual.embed_dim or width,
        "num_heads": usual.num_heads or heads,
        "decoder_embed_dim": given(usual.decoder_embed_dim),
        "decoder_num_heads": given(usual.decoder_num_heads),
    }
    found = {name: max(1, round(sizes[name] * times)) for name, times in row.scaled.items()}
    for name in found.keys() & {"embed_dim", "decoder_embed_dim"}:
        of = name.replace("embed_dim", "num_heads")
        unit = math.lcm(4, found.get(of, sizes[of]))
        found[name] = unit * max(1, round(found[name] / unit))
    return found


def check_files(base: Base) -> None:
    """Raises UserError where images are no files, of which a table could name some."""
    source = base.data.train
    if not all(source.file(index) for index in range(len(source))):
        raise UserError(f"{base.data.location} does not hold images in files of their own", "give a folder, or a table")


def part_of_images(base: Base, share: float, out: Path) -> Path:
    """A table of the first images of an order that is the same for all shares, which are parts of each other, and of
    the groups that they are in, where they are. They are files, see check_files."""
    source = base.data.train
    count = max(1, round(len(source) * share))
    chosen = sorted(generator(base.means.seed, "share").permutation(len(source))[:count].tolist())
    groups = groups_of(source, base.data.selection)
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["path"] if groups is None else ["path", _GROUP])
    for index in chosen:
        file = Path(str(source.file(index))).absolute()
        rows.writerow([file] if groups is None else [file, groups[index]])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, text.getvalue().encode())
    return out


def of_part(asked: Pretrain, table: Path) -> Pretrain:
    """The same of the images in a table that `part_of_images` has written: which of DATA's are meant is settled."""
    is_grouped = asked.group_column is not None or asked.group_by is not None
    settled: dict[str, Any] = dict.fromkeys(field.name for field in fields(AskedGroups))
    return replace(asked, data=str(table), **{**settled, "group_column": _GROUP if is_grouped else None})


def finetuned(settings: Ablate, blocks: str = "all") -> Finetune:
    """The settings of a fine-tuning of the last blocks with all labels, but for its model and folder."""
    return Finetune(
        data=settings.labels or settings.data,
        blocks=blocks,
        epochs=settings.finetune_epochs,
        folds=0,
        task=settings.task,
        pool=settings.pool,
        evaluations=1,
        precision=settings.precision,
        device=settings.device,
        workers=settings.workers,
        **asked_of_data(settings),
    )


@dataclass(frozen=True)
class Tuned:
    """Fine-tunings. epochs: that each has, None for what `finetune` chooses. seconds: of each row here."""

    epochs: float | None
    seconds: Mapping[str, float]


def tuned(settings: Ablate, base: Base, rows: Sequence[Row], labelled: Labelled, rate: float) -> Tuned:
    """How long those of the rows are, and take. Raises UserError for what cannot be."""
    planned, images, asked = base.planned(base.asked, base.images), len(labelled.train), finetuned(settings)
    is_free = settings.minutes is None or settings.finetune_epochs is not None
    most = None if is_free else given(settings.minutes) * 60
    full, _, is_cut = fitting(asked, planned, labelled, images, base.means.device, rate, most)
    epochs = full.epochs if is_cut else settings.finetune_epochs

    def seconds(blocks: str) -> float:
        one = replace(asked, epochs=epochs, blocks=blocks)
        return seconds_of(chosen(one, planned, labelled, images, base.means.device), planned.architecture, images, rate)

    return Tuned(epochs, {row.name: seconds(given(row.blocks)) for row in rows})
