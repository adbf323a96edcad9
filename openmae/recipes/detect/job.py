"""Learn where objects are: the encoder, a pyramid of its last map, and Mask R-CNN on that.

    openmae detect runs/first micrographs/ --out runs/nuclei                 boxes and outlines
    openmae detect runs/first traffic/ --out runs/cars --no-masks            boxes alone
    openmae detect runs/first micrographs/ --out runs/scratch --from-scratch the same without pre-training
    openmae detect runs/imagenet coco/ --out runs/coco --recipe paper

With MAE on ImageNet-1K, ViTDet reaches a box and mask AP on COCO of 51.6 and 45.9 (ViT-B), 55.5 and 49.2 (ViT-L)
(arXiv 2203.16527, detectron2's figures).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from openmae.console.terminal import make_console
from openmae.console.words import several
from openmae.data.loading.outlined import OutlinedBatch
from openmae.data.views.outlined import Found
from openmae.errors import of_user
from openmae.evaluate.average_precision import check_counting
from openmae.evaluate.detection import Judged, headline, judge
from openmae.heads import learn_blocks
from openmae.machine.device import memory_of
from openmae.randomness import generator
from openmae.recipes.detect.choose import choose, looked_at
from openmae.recipes.detect.settings import Detect
from openmae.recipes.detect.sizes import Sizes, sizes_of
from openmae.recipes.evaluate.objects import keep_objects
from openmae.recipes.outline.choose import most_minutes
from openmae.recipes.outline.job import OutlineJob, Outlining, say_done
from openmae.recipes.outline.opened import Outlined, check_both, open_outlined
from openmae.recipes.outline.settle import settled
from openmae.recipes.training.job import begun
from openmae.recipes.training.kind import Here, JobKind
from openmae.recipes.training.settings import given, pair
from openmae.train.loop import fit
from openmae.transfer.detector import Detector


def run(settings: Detect) -> None:
    """Trains, and says what came out. Raises UserError, Interrupted."""
    console = make_console(outlives_terminal=True)
    detect(settings, console)
    say_done(given(settings.out), console)


def detect(settings: Detect, console: Console) -> dict[str, float]:
    """Trains, or goes on training, and leaves a whole run folder; alone, or with the processes that torchrun started.
    Gives the final figures on val. Raises UserError, Interrupted, NotWritten, RankLost."""
    check_counting()
    with begun(DETECT, settings, console) as started:
        fit(started.training)
    return started.job.figures


@dataclass(frozen=True)
class Sighted(Outlined):
    """sizes: of the objects that are learnt from."""

    sizes: Sizes


class DetectJob(OutlineJob[Detector]):
    """Learns boxes and masks. judged: the last look at the val images."""

    task = "detection"
    wanted = "objects"

    def __init__(self, run: Outlining, opened: "Sighted", here: Here) -> None:
        """Raises UserError for what cannot be built."""
        config, seed = run.config, run.course.seed
        sampled, proposed = looked_at(config["channels"])
        masks = config["masks"] and opened.train.right.kind == "objects"
        self.headline = headline(masks and opened.val.right.kind == "objects")
        try:
            encoder = run.trunk.of(opened.start.encoder, seed)
            learn_blocks(encoder, encoder.depth if run.trunk.blocks == "all" else float(run.trunk.blocks))
            with torch.random.fork_rng(devices=[]):  # torchvision's parts draw from torch's own generator
                torch.manual_seed(seed)
                model = Detector(
                    encoder,
                    len(opened.names),
                    masks,
                    config["finest_anchor"],
                    config["most_objects"],
                    relative=config["relative_positions"] == "on",
                    drop_path=run.trunk.drop_path,
                    channels=config["channels"],
                    fits=run.jitter.fits,
                    sampled=sampled,
                    proposed=proposed,
                )
        except ValueError as error:
            raise of_user(error) from error
        super().__init__(run, opened, here, model)
        self.judged: Judged | None = None
        self.tiles = 1.0 if run.jitter.fits else opened.sizes.tiles(run.trunk.img_size)

    def beside(self, views: float) -> float:
        """Each val image is as many windows as it has tiles."""
        return self.tiles * super().beside(views)

    def loss(self) -> Callable[[Detector, OutlinedBatch], Tensor]:
        """The sum of torchvision's losses, each a mean over what is drawn of the batch: which proposals are learnt
        from is drawn anew of each micro-batch, by its first sample. So it does not depend on what was before, but a
        little on the size of micro-batches, as of how many processes train."""
        statistics, drops, seed = self.opened.start.statistics, bool(self.run.trunk.drop_path), self.course.seed
        device = self.here.device
        devices = [device.index or 0] if device.type == "cuda" else []

        def loss(model: Detector, batch: OutlinedBatch) -> Tensor:
            number = int(generator(seed, "proposals", index=batch.start).integers(2**63))
            images = statistics.normalize(batch.images)
            targets = [_target(found, model.has_masks) for found in batch.found]
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(number)
                return model.losses(images, targets, batch.noise if drops else None).sum()

        return loss

    def judge(self, whole: Detector) -> tuple[dict[str, float], float | None]:
        """Of the val images, whole, in tiles where they are larger than a window."""
        here, schedule = self.here, self.course.schedule
        self.judged = judge(
            whole,
            self.opened.start.statistics,
            self.opened.val,
            here.device,
            here.workers,
            precision=schedule.precision,
            ranks=here.ranks,
        )
        return self.judged.figures(), self.judged.error

    def said(self) -> str:
        """As `said`."""
        return said(self.figures, self.error)

    @property
    def unreadable(self) -> list[tuple[int, str]]:
        """As that of `Judged`."""
        return [] if self.judged is None else self.judged.unreadable

    def keep(self, whole: Detector, name: str) -> None:
        """With the images that were done best and worst."""
        pixels = self.opened.start.statistics.pixels
        keep_objects(self.here.folder.path, given(self.judged), self.opened.val, pixels, whole.side, name)


def _target(found: Found, masks: bool) -> dict[str, Tensor]:
    """As torchvision's losses take it."""
    target = {"boxes": given(found.boxes), "labels": given(found.classes) + 1}
    return {**target, "masks": given(found.masks)} if masks else target


def said(figures: dict[str, float], error: float | None) -> str:
    """mask AP50 71.2 +- 0.9%, AP 40.1%; box AP50 72.0%, AP 42.3%."""
    around = "" if error is None else f" ± {100 * error:.1f}"
    parts = list[str]()
    for kind in ("mask", "box"):
        if f"{kind}_ap" in figures:
            ap50, ap = figures[f"{kind}_ap50"], figures[f"{kind}_ap"]
            parts.append(f"{kind} AP50 {100 * ap50:.1f}{around if not parts else ''}%, AP {ap:.1%}")
    return "; ".join(parts)


def _open(settings: Detect, here: Here) -> Sighted:
    opened = open_outlined(settings, here, "detect")
    kinds = {part.right.kind for part in (opened.train, opened.val)}
    if settings.masks and kinds != {"objects"}:
        here.console.print("DATA has boxes without outlines: boxes alone are learnt", style="yellow")
    with here.ranks.together():
        sizes = sizes_of(opened.train, opened.start.statistics.pixels, here.workers if here.ranks.leads else 0)
    return Sighted(opened.start, opened.train, opened.val, sizes)


def _choose(settings: Detect, opened: Sighted, here: Here) -> Detect:
    check_both(settings, opened, here)
    memory = memory_of(here.device, here.ranks)
    chosen = choose(settings, opened, opened.sizes, here.device, here.console, memory)
    seen, most = opened.sizes.most(pair(chosen.img_size), chosen.resize == "fit"), given(chosen.most_objects)
    if seen > most:
        here.console.print(
            f"warning: a window has up to about {several(seen, 'object')}, and no more than --most-objects {most:,} "
            "are found in one",
            style="yellow",
            soft_wrap=True,
        )
    return chosen


DETECT: Any = JobKind(
    needs=("model", "data", "out"),
    usage="openmae detect MODEL DATA --out RUN",
    may_differ=(),
    open=_open,
    choose=_choose,
    settle=lambda settings, opened, console: settled(settings, opened.count, console),
    job=DetectJob,
    most_minutes=most_minutes,
)
