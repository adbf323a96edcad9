"""What `openmae knn` and `openmae probe` are both asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openmae.recipes.asked import (
    LABELLED,
    MODEL,
    AskedDevice,
    AskedGroups,
    AskedHeads,
    AskedLabels,
    AskedPrecision,
    AskedReading,
    AskedTask,
    Loaders,
)


@dataclass(frozen=True)
class Proof(AskedHeads, AskedGroups, AskedReading):
    """Settings of an evaluation of frozen features."""

    model: Positional[Annotated[Path, MODEL]]
    data: Positional[Annotated[str, LABELLED]]
    layer: Annotated[str | None, arg(metavar="N")] = None
    """Take the features after this block, 1 to depth. Default: the last. The best one is often earlier: several with
    commas, such as 6,9,12, or all, are compared, from one pass over the images."""
    pool: Annotated[str | None, arg(metavar="mean|class")] = None
    """Feature of an image: the mean of its patch tokens, or its class token; mean,class compares them. Default: mean,
    and class in the paper's probe."""
    labels: AskedLabels = None
    task: AskedTask = None
    baselines: bool = True
    """Measure raw pixels, histograms of colours and texture, and an untrained encoder beside the model."""
    seed: int = 0
    """Decides what is held out where there are no splits, which labels --labels takes, and the untrained encoder's
    weights."""
    precision: AskedPrecision = "auto"
    device: AskedDevice = "auto"
    workers: Loaders = None
