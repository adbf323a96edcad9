"""What `openmae launch` is asked."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Launch:
    """Hand a training, a study or a pass over all images to Slurm, which queues it again until it is done.

    The command comes after --, as you would type it here: pretrain, finetune, probe --recipe paper, ablate, compare,
    embed, predict, pack, check or stats, with --out in a folder that all machines see. The same launch again, after a
    cancelled job, goes on where it was.

    openmae launch slurm --nodes 2 --gpus 8 --hours 24 -- pretrain DATA --out RUN
    openmae launch slurm --parts 8 --hours 4 -- ablate DATA --out STUDY --study mask-ratio
    openmae launch slurm --parts 16 --hours 2 -- embed RUN DATA --out vectors.parquet
    """

    where: Positional[Annotated[Literal["slurm", "local"], arg(metavar="slurm|local")]]
    """slurm: submit a job. local: start the same processes on this machine, to try it."""
    nodes: int = 1
    """Machines."""
    gpus: int = 1
    """GPUs of each machine, with a process for each; 0 trains on CPUs."""
    processes: int = 1
    """Processes on each machine, with --gpus 0."""
    parts: int = 1
    """Jobs that share a study, or embed, predict, pack, check or stats, as an array of as many: each one process, with
    --gpus 1 on a GPU of its own. The last one to end puts all of it together."""
    cpus: int | None = None
    """CPU cores for each process. Default: the cluster's, often one, which is too few to load images beside a GPU."""
    memory: float | None = None
    """GB of memory on each machine. Default: the cluster's."""
    hours: float = 24.0
    """Time at a stretch, at most what the partition allows: the job saves before it is over, and is queued again."""
    partition: str | None = None
    """Where to queue."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the machines need."""
    exclude: str | None = None
    """Machines to stay away from."""
    set: Annotated[tuple[str, ...], arg(metavar="NAME[=VALUE]")] = ()
    """Any other option of sbatch: --set mail-type=END exclusive."""
