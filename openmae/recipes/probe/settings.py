"""What `openmae knn` and `openmae probe` are both asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.data.tasks import Task
from openmae.machine.kinds import Device


@dataclass(frozen=True)
class Proof:
    """Settings of an evaluation of frozen features."""

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """A run folder, or whatever else openmae.load takes: see docs/weights.md."""
    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Labelled images: a folder with a folder for each class, a table, shards, parquet or an array. With splits train
    and val these are used; otherwise a fifth of each class is held out, the same images every time."""
    layer: Annotated[str | None, arg(metavar="N")] = None
    """Take the features after this block, 1 to depth. Default: the last. The best one is often earlier: several with
    commas, such as 6,9,12, or all, are compared, from one pass over the images."""
    pool: Annotated[str | None, arg(metavar="mean|class")] = None
    """Feature of an image: the mean of its patch tokens, or its class token; mean,class compares them. Default: mean,
    and class in the paper's probe."""
    task: Task | None = None
    """What labels are. Default: what they say: classes; several at once where they have ; or | between them; numbers
    where not all are whole."""
    baselines: bool = True
    """Measure raw pixels and an untrained encoder beside the model."""
    seed: int = 0
    """Decides what is held out where there are no splits, and the untrained encoder's weights."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the encoder's products. auto: bfloat16 where the processor has them."""
    device: Device = "auto"
    """auto: a GPU if there is one."""
    workers: int | None = None
    """Processes that load images."""
