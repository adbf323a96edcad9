"""How many processes load images."""

import torch

from openmae.distributed.ranks import ALONE, Ranks
from openmae.distributed.started import Started
from openmae.errors import UserError
from openmae.machine.cores import cores


def workers_for(wanted: int | None, device: torch.device, ranks: Ranks | Started = ALONE) -> int:
    """Loader processes of a rank: as asked, or its share of the cores, all but one of them beside a GPU; on a CPU half
    of them, for training takes them too."""
    of_rank = max(1, cores() // ranks.local_size)
    return _as_asked(wanted, min(16, max(1, of_rank - 1)) if device.type != "cpu" else min(4, of_rank // 2))


def reading_workers(wanted: int | None) -> int:
    """Processes that read, where nothing is trained beside them: as asked, or one a core. Raises UserError."""
    return _as_asked(wanted, cores())


def _as_asked(wanted: int | None, default: int) -> int:
    if wanted is not None and wanted < 0:
        raise UserError(f"`workers` is {wanted}", "give 0 or more")
    return default if wanted is None else wanted
