"""What `openmae pack` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openmae.data.sources.windows import Tiling
from openmae.recipes.asked import AskedGroups, AskedPart, AskedReading

SHORT_SIDE = 256


@dataclass(frozen=True)
class Pack(AskedGroups, AskedReading):
    """Pack images into tar shards that load fast. Killed or stopped, the same command goes on where it was."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Images: whatever pretrain takes. Of train and val splits, both are packed."""
    shards: Positional[Annotated[Path, arg(metavar="SHARDS")]]
    """Folder to write."""
    short_side: int | None = None
    """Pixels that the shorter side of an image may have; larger images are made smaller. Default: 256, for training at
    224; with --tile the windows' own, which are kept as they are."""
    quality: int = 95
    """Of the JPEGs, 1 to 100."""
    shard_size: int | None = None
    """Images a shard. Default: an eighth of all, but 100 to 5000 (200 MB of photographs)."""
    seed: int = 0
    """Decides the order of the images, which is shuffled for whoever reads shards from front to back."""
    max_broken: float = 0.01
    """Stop when more than this share of the images cannot be read; up to it they are left out and listed."""
    part: AskedPart = None
    workers: int | None = None
    """Processes that decode and encode; 0 does it in this one. Default: one a core. Does not change the result."""

    @property
    def most_pixels(self) -> int:
        """Of the shorter side."""
        if self.short_side is not None:
            return self.short_side
        return SHORT_SIDE if self.tile is None else Tiling.asked(self.tile, self.tile_min_detail).side
