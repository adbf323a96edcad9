"""What `openmae embed` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.heads import Tokens
from openmae.recipes.asked import AskedDevice, AskedFiles, AskedHeads, AskedPart, AskedPrecision, AskedReading, Loaders


@dataclass(frozen=True)
class Embed(AskedHeads, AskedFiles, AskedReading):
    """Write a vector for each image; then look for the nearest images, near-duplicates and outliers among them.

    Killed or stopped, the same command goes on where it was. Where the file is there already, it is used.
    """

    model: Positional[Annotated[Path, arg(metavar="MODEL")]]
    """A run folder, pre-trained or fine-tuned, or whatever else openmae.load takes: see docs/weights.md."""
    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Images: whatever pretrain takes; labels come along where there are any."""
    out: Annotated[Path, arg(metavar="FILE.parquet|FILE.npy")]
    """File to write: .parquet with the columns path, label and vector; or .npy, with path and label in a .csv beside
    it. The files of the searches below lie beside it too. Of patches there are the columns rows, columns and vectors,
    a list of rows times columns vectors; or an array (images, rows, columns, width)."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Which images of DATA that has splits."""
    layer: int | None = None
    """Take the features after this block, 1 to depth. Default: the last. The best one is often earlier."""
    pool: Tokens = "mean"
    """Vector of an image: the mean of its patch tokens, or its class token; or patches, a vector for each of its
    patches, as a grid, and a picture of these: FILE-pca.png."""
    search: Annotated[tuple[Path, ...], arg(metavar="IMAGE...")] = ()
    """Show the images of DATA that are nearest to each of these image files."""
    picture: Annotated[Path | None, arg(metavar="PNG")] = None
    """Where the picture of --search, or of --pool patches, goes. Default: beside --out, FILE-search.png or -pca.png."""
    nearest: int = 10
    """Neighbours that --search shows, and by which --outliers judges an image."""
    duplicates: bool = False
    """List pairs of images that are copies, by their features and their pixels: FILE-duplicates.csv and .png."""
    threshold: float | None = None
    """List all pairs of this cosine similarity or more, whatever their pixels. Default: those that are more similar
    than an image usually is to its fifth nearest, and copies by their pixels."""
    outliers: bool = False
    """List the images from the least to the most similar to their nearest: FILE-outliers.csv and .png."""
    index: Literal["exact", "faiss"] = "exact"
    """How --duplicates and --outliers find what is near. exact: each image is compared with every other, which of
    millions takes days; faiss: an index, which finds most of the nearest, and says how many of them."""
    part: AskedPart = None
    precision: AskedPrecision = "auto"
    device: AskedDevice = "auto"
    batch_size: int | None = None
    """Images that go through the model at once. Default: 256 on a GPU, 64 on a CPU."""
    workers: Loaders = None
