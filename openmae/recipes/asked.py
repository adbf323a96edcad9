"""What several commands are asked alike, each in one wording."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from openmae.data.formats.reading import Alpha, DicomUnits, Layout, Pages, Reading
from openmae.data.tasks import Task
from openmae.machine.kinds import Device

AskedDevice = Annotated[Device, arg(help="auto: a GPU if there is one.")]
AskedPrecision = Annotated[
    Literal["auto", "bf16", "fp32"], arg(help="auto: bfloat16 products where the processor has them.")
]
AskedTask = Annotated[
    Task | None,
    arg(
        help="What labels are. Default: what they say: classes; several at once where they have ; or | between them; "
        "numbers where not all are whole."
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
    """What stands behind transparent pixels; or channel keeps transparency as one, and ignore shows what lies hidden
    under it."""
    layout: Layout | None = None
    """Whether the channels of arrays come last (hwc) or first (chw)."""
    pages: Pages | None = None
    """Whether a file's pages of one size are frames, of which one is drawn, or the channels of one image."""
    dicom_units: DicomUnits | None = None
    """Whether DICOM's stored values are rescaled as the file says (Hounsfield units, ...) or taken as they are."""

    @property
    def reading(self) -> Reading:
        """What is asked for."""
        return Reading(self.alpha, self.layout, self.pages, self.dicom_units)
