"""What `openmae segment` is asked."""

from dataclasses import dataclass

from openmae.recipes.outline.settings import Outline
from openmae.transfer.kinds import SegmentHead


@dataclass(frozen=True)
class Segment(Outline):
    """Learn a class for every pixel. The same command again, after a crash or Ctrl-C, goes on where the run was."""

    head: SegmentHead = "linear"
    """What reads the encoder: linear, one layer on the last block's patches, which ranks encoders as heavy ones do
    (arXiv 2404.12172); upernet, the paper's, on four of the blocks."""
