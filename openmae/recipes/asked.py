"""What several commands are asked alike, each in one wording."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from tyro.conf import arg

from openmae.data.formats.reading import Alpha, DicomUnits, Layout, Pages, Reading
from openmae.data.sources.selection import Selection
from openmae.data.tasks import Task
from openmae.machine.kinds import Device

AskedDevice = Annotated[Device, arg(help="auto: a GPU if there is one.")]
AskedPrecision = Annotated[
    Literal["auto", "bf16", "fp32"], arg(help="auto: bfloat16 products where the processor has them.")
]
AskedTask = Annotated[
    Task | None,
    arg(
        help="What labels are. Default: what they say: classes, as names of folders always are; several at once where "
        "they have ; or | between them; numbers where all are numbers and not all whole."
    ),
]
AskedLabels = Annotated[
    str | None,
    arg(
        metavar="PART",
        help="Learn from fewer labels: a share of each class such as 10%, a number such as 20-per-class, or a number "
        "in all such as 60. The val images stay the same.",
    ),
]
AskedPart = Annotated[
    str | None,
    arg(
        metavar="K/N",
        help="Do the K-th of N parts only, as one of N processes on any machines that see the files. The last one to "
        "end puts all of it together, or the same command without --part, which says what is missing. Processes that "
        "torchrun starts share the work likewise.",
    ),
]
Loaders = Annotated[
    int | None, arg(help="Processes that load images; 0 loads in this one. Does not change the result.")
]
Readers = Annotated[int | None, arg(help="Processes that read; 0 reads in this one. Default: one a core.")]

MODEL = arg(metavar="MODEL", help="A run folder, or whatever else openmae.load takes: see docs/weights.md.")
LABELLED = arg(
    metavar="DATA",
    help="Labelled images: a folder with a folder for each class, a table, shards, parquet or an array. With splits "
    "train and val these are used; otherwise a fifth of each class is held out, the same images every time.",
)


@dataclass(frozen=True, kw_only=True)
class AskedReading:
    """How files are read that can be read in more than one way; what is left open is as the model's images were read,
    or as the file says."""

    alpha: Alpha | None = None
    """What stands behind transparent pixels; channel keeps transparency as one; ignore shows what is hidden under
    it."""
    layout: Layout | None = None
    """Whether the channels of arrays (.npy, .npz, parquet) come last (hwc) or first (chw)."""
    pages: Pages | None = None
    """Whether a TIFF's pages of one size are frames, of which one is drawn, the channels of one image, or its rows."""
    dicom_units: DicomUnits | None = None
    """Whether DICOM's numbers are rescaled as each file says (Hounsfield units, ...) or taken as they are stored."""
    nodata: tuple[float, ...] | None = None
    """Values that stand for no-data in the files, as `openmae stats` shows them, beside those that a file itself calls
    so; without a value, none do. Default: values such as -9999 that lie far from all others."""

    @property
    def reading(self) -> Reading:
        """What is asked for."""
        return Reading(self.alpha, self.layout, self.pages, self.dicom_units, self.nodata)


@dataclass(frozen=True, kw_only=True)
class AskedFiles:
    """Which of DATA's files are meant, and what divides them: of every command that takes DATA. What is not given is
    None, so that a run that goes on takes it from what it was begun with."""

    splits: Annotated[str | None, arg(metavar="folders|classes|none|TRAIN,VAL")] = None
    """What folders, files, arrays or rows called train, Testing, seg_val and the like are: folders (splits), classes,
    none (all is one set), or which two are train and val, such as Training,holdout. Default: what their names say;
    where they do not say it plainly, this is asked for."""
    include: Annotated[tuple[str, ...] | None, arg(metavar="PATTERN...")] = None
    """Take these images only: '*.png', 'images/*', several with spaces between them, each in quotes. Default: all."""
    exclude: Annotated[tuple[str, ...] | None, arg(metavar="PATTERN...")] = None
    """Leave these images out: '*_mask.*' by the name, masks by a folder that they are in."""

    image_key: Annotated[str | None, arg(metavar="KEY")] = None
    """Of parquet with several columns of images: which one is meant. Of shards whose samples have several
    (0001.img.png, 0001.mask.png): img.png; or jpg;png, the first that a sample has; or each: every image is a sample of
    its own, as where names have dots in them (scan_0.5.png)."""

    label_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """Column of a table that holds the labels, such as diagnosis. Default: label. A fine-tuned model remembers it."""
    tile: Annotated[str | None, arg(metavar="PIXELS[:OVERLAP]")] = None
    """Take windows of so many pixels a side, such as 512 or 512:64, in place of images that are larger: whole slides,
    scenes, scans, of any size (see docs/data.md). Default: images are taken whole."""
    tile_min_detail: Annotated[float | None, arg(metavar="SHARE")] = None
    """Leave windows out of which less than this share, 0 to 1, is anything but no-data and the image's background.
    Default: 0.05; 0 leaves none out."""

    @property
    def selection(self) -> Selection:
        """What `open_data` takes."""
        patterns = tuple(self.include or ()), tuple(self.exclude or ())
        asked = Selection(self.splits, *patterns, self.image_key, self.label_column)
        return replace(asked, tile=self.tile, tile_min_detail=self.tile_min_detail)


@dataclass(frozen=True, kw_only=True)
class AskedGroups(AskedFiles):
    """And which images belong together, of every command that divides DATA or looks how it is divided."""

    group_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """Column of a table, such as patient: images that have the same there stay on one side of every split."""
    group_by: Annotated[str | None, arg(metavar="folder|folder:N|name:REGEX")] = None
    """The same by an image's path: the folder that it is in, the N-th folder of its path, or what a regular expression
    finds in it, such as 'name:patient_[0-9]+'."""

    @property
    def selection(self) -> Selection:
        """What `open_data` takes."""
        return replace(super().selection, group_column=self.group_column, group_by=self.group_by)


OF_DATA = tuple(field.name for asked in (AskedGroups, AskedReading) for field in fields(asked))
"""Names of what is asked of DATA's files, however they are read and divided."""


def asked_of_data(settings: object) -> dict[str, Any]:
    """What is asked so by settings that ask it: images are learnt from as they are judged."""
    return {name: getattr(settings, name) for name in OF_DATA}


@dataclass(frozen=True, kw_only=True)
class AskedHeads:
    """Of every command that takes MODEL."""

    num_heads: Annotated[int | None, arg(metavar="N")] = None
    """Attention heads of a MODEL that does not say it, as bare files of Meta's layout and timm's do not: any number
    fits the weights, and one is right. Default: as most models of its width have, which is printed."""

    @property
    def heads(self) -> dict[str, int | None]:
        """What `load_model` takes."""
        return {"num_heads": self.num_heads}


@dataclass(frozen=True, kw_only=True)
class AskedDecoderHeads(AskedHeads):
    """Of those that use the decoder."""

    decoder_num_heads: Annotated[int | None, arg(metavar="N")] = None
    """The same of its decoder. Default: 16, as Meta's code has."""

    @property
    def heads(self) -> dict[str, int | None]:
        """What `load_model` takes."""
        return {**super().heads, "decoder_num_heads": self.decoder_num_heads}
