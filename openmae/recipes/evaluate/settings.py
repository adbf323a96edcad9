"""What `openmae evaluate` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.evaluate.subsets import Classes
from openmae.recipes.asked import AskedDevice, AskedGroups, AskedHeads, AskedReading, Loaders

AskedSplit = Literal["train", "val", "test", "all"]


@dataclass(frozen=True)
class Evaluate(AskedHeads, AskedGroups, AskedReading):
    """Judge a model that has learnt labels, or outlines, by others. Classes are matched to the model's by their
    names."""

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """A run folder of openmae finetune or segment, or another classifier that openmae.load takes and that names its
    classes."""
    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Labelled images: a folder with a folder for each class, a table, shards, parquet or an array. Of a
    segmenter, images with masks or what else openmae segment takes: see docs/labels.md."""
    split: AskedSplit | None = None
    """Which part of DATA. Default: val where DATA has splits, or what was held out when the model learnt from it;
    otherwise all of it."""
    classes: Classes | None = None
    """present: only outputs of classes that have images in DATA compete, as in the published evaluations of ImageNet-A
    and -R; all: all of the model's. Default: present."""
    corruptions: Annotated[str | None, arg(metavar="KINDS")] = None
    """Measure the error on corrupted images too: all, or some of ImageNet-C's kinds with commas between them, such as
    fog,motion_blur."""
    severities: Annotated[str, arg(metavar="N,N")] = "1,2,3,4,5"
    """How strong the corruptions are, 1 to 5."""
    save: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write a .csv, .parquet or .jsonl table with a row for each image: path, label, what is said, how surely."""
    seed: int = 0
    """Decides the corruptions."""
    masks_hold: Literal["classes", "objects"] | None = None
    """What the numbers in mask images are: classes of pixels, or numbers of objects. Default: as the model was told,
    else as they look."""
    batch_size: int = 64
    """Images that go through the model at once; of the tiles of a segmenter at most 16."""
    device: AskedDevice = "auto"
    workers: Loaders = None
