"""What `openmae predict` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.machine.kinds import Precision
from openmae.recipes.asked import AskedDevice, AskedFiles, AskedHeads, AskedPart, AskedReading, Loaders

TABLE = "predictions.csv"
"""In a folder of what is outlined in images, what is said of each."""


@dataclass(frozen=True)
class Predict(AskedHeads, AskedFiles, AskedReading):
    """Write what a model says of each image: its class and probability, its labels, its number, the class of each of
    its pixels, or its objects.

    Killed or stopped, the same command goes on where it was. Where the file is there already, it is used.
    """

    model: Positional[Annotated[Path, arg(metavar="RUN")]]
    """A run folder of openmae finetune, segment or detect, or another classifier that openmae.load takes and that names
    its classes."""
    images: Positional[Annotated[tuple[str, ...], arg(metavar="IMAGES")]]
    """Whatever pretrain takes, labels or not; or image files, one or several."""
    out: Annotated[Path, arg(metavar="FILE.csv|.parquet|.jsonl|FOLDER")]
    """Table to write, a row for each image in the order of IMAGES; one that could not be read says so in the column
    error. Of a segmenter, a folder: masks/ with a PNG for each image, of GeoTIFFs a TIFF that lies where they do and
    polygons/ as GeoJSON; classes.csv, sheet.jpg, and predictions.csv with the share of each class. Of a detector, too:
    objects.json in COCO's form, polygons/, sheet.jpg, and predictions.csv with the number of objects of each class."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Which images of DATA that has splits."""
    top_k: int | None = None
    """Of classes, how many are told of each image, the most probable first. Default: 1."""
    threshold: float | None = None
    """Of several labels at once, the probability above which a label is given; of a detector, the score from which an
    object is told of (none has less than 0.05). Default: 0.5."""
    sort: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Put the images into a folder for each class, too."""
    sort_by: Literal["copy", "link"] = "copy"
    """Whether these are copies, or symbolic links to where the images lie."""
    part: AskedPart = None
    precision: Precision = "fp32"
    """fp32 gives the figures of openmae evaluate; bf16 is faster on a GPU."""
    device: AskedDevice = "auto"
    batch_size: int | None = None
    """Images that go through the model at once. Default: 256 on a GPU, 64 on a CPU; of a segmenter's tiles 16, of a
    detector's 8 and 1."""
    workers: Loaders = None
