"""What `openmae doctor` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from openmae.recipes.asked import AskedFiles


@dataclass(frozen=True)
class Doctor(AskedFiles):
    """Say whether this machine can train: devices, driver, bfloat16, memory, disk, decoding, the exchange between
    processes, versions. Each line is a verdict, and a remedy where there is something to mend.

    Exit code: 0 where it can train, warnings or not; 1 where something prevents it.
    """

    out: Annotated[Path, arg(metavar="FOLDER")] = Path()
    """Where runs will be written: its disk is measured with a file of up to 256 MB, and nothing is left there."""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """Images to measure decoding on, as for pretrain. Default: photographs made in memory."""
    processes: int | None = None
    """How many are to exchange numbers. Default: one a GPU, or 2 on the CPU; torchrun's where it started this."""
    timeout: float = 30.0
    """Seconds that a check may take."""
    json: bool = False
    """Print a JSON object and nothing else."""
