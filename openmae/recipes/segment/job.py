"""Learn a class for every pixel: the encoder, and a head that reads its patches.

    openmae segment runs/first micrographs/ --out runs/nuclei                 one linear layer on the patches
    openmae segment runs/first micrographs/ --out runs/nuclei --head upernet  the paper's head
    openmae segment runs/first micrographs/ --out runs/scratch --from-scratch the same without pre-training
    openmae segment runs/imagenet ade20k/ --out runs/ade --head upernet --recipe paper

With MAE on ImageNet-1K, UperNet reaches 48.1 (ViT-B) and 53.6 (ViT-L) mIoU on ADE20K's 150 classes, supervised
pre-training 47.4 and 49.9 (paper, Table 5).
"""

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from openmae.console.terminal import make_console
from openmae.data.loading.outlined import OutlinedBatch
from openmae.data.views.outlined import IGNORED
from openmae.errors import UserError, of_user
from openmae.evaluate.segmentation import HEADLINE, Judged, judge
from openmae.heads import learn_blocks
from openmae.machine.device import memory_of
from openmae.recipes.evaluate.outlined import keep_outlines
from openmae.recipes.outline.choose import most_minutes
from openmae.recipes.outline.job import OutlineJob, Outlining, say_done
from openmae.recipes.outline.opened import Outlined, check_both, open_outlined
from openmae.recipes.outline.settle import settled
from openmae.recipes.segment.choose import choose
from openmae.recipes.segment.settings import Segment
from openmae.recipes.training.job import begun
from openmae.recipes.training.kind import Here, JobKind
from openmae.recipes.training.settings import given
from openmae.report.sheets.outlines import step_of
from openmae.train.loop import fit
from openmae.transfer.segmenter import Segmenter


def run(settings: Segment) -> None:
    """Trains, and says what came out. Raises UserError, Interrupted."""
    console = make_console(outlives_terminal=True)
    segment(settings, console)
    say_done(given(settings.out), console)


def segment(settings: Segment, console: Console) -> dict[str, float]:
    """Trains, or goes on training, and leaves a whole run folder; alone, or with the processes that torchrun started.
    Gives the final figures on val. Raises UserError, Interrupted, NotWritten, RankLost."""
    with begun(SEGMENT, settings, console) as started:
        fit(started.training)
    return started.job.figures


class SegmentJob(OutlineJob[Segmenter]):
    """Learns the classes of pixels. judged: the last look at the val images."""

    task = "segmentation"
    wanted = "classes"
    headline = HEADLINE

    def __init__(self, run: Outlining, opened: Outlined, here: Here) -> None:
        """Raises UserError for what cannot be built."""
        try:
            encoder = run.trunk.of(opened.start.encoder, run.course.seed)
            config, drops = run.config, (run.trunk.drop_path, run.config["dropout"] or 0.0)
            model = Segmenter(encoder, len(opened.names), config["head"], drops, auxiliary=bool(config["auxiliary"]))
            model.initialize(torch.Generator().manual_seed(run.course.seed))
            learn_blocks(encoder, encoder.depth if run.trunk.blocks == "all" else float(run.trunk.blocks))
        except ValueError as error:
            raise of_user(error) from error
        super().__init__(run, opened, here, model)
        self.judged: Judged | None = None

    @property
    def uniform(self) -> int:
        """Those of the blocks' branches, then those of the heads' channels."""
        return self.model.uniform if self.run.config["dropout"] else super().uniform

    def loss(self) -> Callable[[Segmenter, OutlinedBatch], Tensor]:
        """Cross-entropy of the pixels of which a class is asked, over all pixels of the windows, so that micro-batches
        change nothing; as mmsegmentation's. That of the auxiliary head is added, weighted."""
        statistics, weights = self.opened.start.statistics, (1.0, self.run.config["auxiliary"] or 0.0)
        drops = bool(self.uniform)

        def loss(model: Segmenter, batch: OutlinedBatch) -> Tensor:
            told = model.told(statistics.normalize(batch.images), batch.noise if drops else None)
            masks = torch.stack([one.mask for one in batch.found if one.mask is not None])
            losses = [
                weight * F.cross_entropy(scores.float(), masks, ignore_index=IGNORED, reduction="sum")
                for weight, scores in zip(weights, told, strict=False)
            ]
            return torch.stack(losses).sum() / masks.numel()

        return loss

    def judge(self, whole: Segmenter) -> tuple[dict[str, float], float | None]:
        """Of the val images, whole, in tiles."""
        here, schedule = self.here, self.course.schedule
        self.judged = judge(
            whole,
            self.opened.start.statistics,
            self.opened.val,
            here.device,
            here.workers,
            precision=schedule.precision,
            ranks=here.ranks,
            step_of=step_of,
        )
        return self.judged.figures(), self.judged.error()

    def said(self) -> str:
        """As `said`."""
        return said(self.figures, self.error)

    @property
    def unreadable(self) -> list[tuple[int, str]]:
        """As that of `Judged`."""
        return [] if self.judged is None else self.judged.unreadable

    def keep(self, whole: Segmenter, name: str) -> None:
        """With the images that were done best and worst."""
        statistics = self.opened.start.statistics
        keep_outlines(self.here.folder.path, given(self.judged), self.opened.val, whole, statistics, name)


def said(figures: dict[str, float], error: float | None) -> str:
    """mIoU 71.2 +- 0.9%, Dice 80.1%, pixel accuracy 93.4%."""
    around = "" if error is None else f" ± {100 * error:.1f}"
    return (
        f"mIoU {100 * figures['miou']:.1f}{around}%, Dice {figures['dice']:.1%}, pixel accuracy "
        f"{figures['pixel_accuracy']:.1%}"
    )


def _choose(settings: Segment, opened: Outlined, here: Here) -> Segment:
    check_both(settings, opened, here)
    if len(opened.names) > IGNORED:
        raise UserError(f"{len(opened.names)} classes are more than {IGNORED}", "merge some")
    return choose(settings, opened, here.device, here.console, memory_of(here.device, here.ranks))


SEGMENT: Any = JobKind(
    needs=("model", "data", "out"),
    usage="openmae segment MODEL DATA --out RUN",
    may_differ=(),
    open=lambda settings, here: open_outlined(settings, here, "segment"),
    choose=_choose,
    settle=lambda settings, opened, console: settled(settings, opened.count, console),
    job=SegmentJob,
    most_minutes=most_minutes,
)
