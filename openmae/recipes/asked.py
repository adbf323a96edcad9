"""What several commands are asked alike, each in one wording."""

from typing import Annotated, Literal

from tyro.conf import arg

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
