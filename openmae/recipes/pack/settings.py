"""What `openmae pack` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openmae.recipes.asked import AskedGroups, AskedReading


@dataclass(frozen=True)
class Pack(AskedGroups, AskedReading):
    """Pack images into tar shards that load fast. Killed or stopped, the same command goes on where it was."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Images: whatever pretrain takes. Of train and val splits, both are packed."""
    shards: Positional[Annotated[Path, arg(metavar="SHARDS")]]
    """Folder to write."""
    short_side: int = 256
    """Pixels that the shorter side of an image may have; larger images are made smaller. 256 is for training at 224."""
    quality: int = 95
    """Of the JPEGs, 1 to 100."""
    shard_size: int | None = None
    """Images a shard. Default: an eighth of all, but 100 to 5000 (200 MB of photographs)."""
    seed: int = 0
    """Decides the order of the images, which is shuffled for whoever reads shards from front to back."""
    max_broken: float = 0.01
    """Stop when more than this share of the images cannot be read; up to it they are left out and listed."""
    workers: int | None = None
    """Processes that decode and encode; 0 does it in this one. Default: one a core. Does not change the result."""
