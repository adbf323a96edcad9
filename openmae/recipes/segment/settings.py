"""What `openmae segment` is asked."""

from dataclasses import dataclass

from openmae.recipes.outline.settings import Outline
from openmae.recipes.training.ranges import BELOW_1, FROM_0, check
from openmae.transfer.kinds import SegmentHead

GROUPS = {"epochs": "schedule", "scale": "view", "seed": "machine", "head": "head"}  # of --help, by their first setting


@dataclass(frozen=True)
class Segment(Outline):
    """Learn a class for every pixel. The same command again, after a crash or Ctrl-C, goes on where the run was."""

    head: SegmentHead | None = None
    """What reads the encoder: linear, one layer on the last block's patches, which ranks encoders as heavy ones do
    (arXiv 2404.12172); upernet, the paper's, on four of the blocks. Default: linear; upernet by --recipe paper."""
    auxiliary: float | None = None
    """Weight of the loss of a second head, which reads a block in the middle and is asked in training alone. Default:
    0, no such head; 0.4 by --recipe paper."""
    dropout: float | None = None
    """Share of the channels below a head's last layer that are left out in training. Default: 0; 0.1 by --recipe
    paper."""

    def __post_init__(self) -> None:
        """As of `Outline`."""
        super().__post_init__()
        check(self, {"auxiliary": FROM_0, "dropout": BELOW_1})
