"""What `openmae detect` is asked."""

from dataclasses import dataclass
from typing import Literal

from openmae.errors import UserError
from openmae.recipes.outline.settings import Outline

GROUPS = {
    "epochs": "schedule",
    "scale": "view",
    "seed": "machine",
    "masks": "head",
}  # of --help, by their first setting


@dataclass(frozen=True)
class Detect(Outline):
    """Learn where objects are, boxes and outlines. The same command again, after a crash or Ctrl-C, goes on where the
    run was."""

    evaluations: int = 5
    """How many times the val images are judged, evenly over the run."""
    masks: bool = True
    """Learn outlines beside boxes, where DATA has them."""
    clip_grad: float | None = None
    """Bound on the norm of the whole gradient. Default: 1; none by --recipe paper, as published."""
    finest_anchor: float | None = None
    """Side in pixels of the smallest boxes that objects are sought with; others are twice as large, up to 16 times.
    Default: by the smallest objects."""
    most_objects: int | None = None
    """Objects that are found in an image, or a tile of one, at most. Default: by how many there are."""
    channels: int | None = None
    """Width of the pyramid and the heads. Default: 256 as published, 64 on a CPU, where the heads are what costs."""
    relative_positions: Literal["on", "off"] | None = None
    """Learn how far patches lie apart, too, as the published recipe does. Default: off."""

    def __post_init__(self) -> None:
        """As of `Outline`."""
        super().__post_init__()
        for flag, value, least in (
            ("--finest-anchor", self.finest_anchor, 1),
            ("--most-objects", self.most_objects, 1),
            ("--channels", self.channels, 4),
        ):
            if value is not None and value < least:
                raise UserError(f"{flag} is {value:g}", f"give {least} or more")
