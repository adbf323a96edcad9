"""One of the processes between which `openmae doctor` has numbers exchanged.

    python -m openmae.recipes.doctor.exchange_rank DEVICE TIMEOUT

with torchrun's variables in the environment. Says on standard output how far it came, and what it measured.
"""

import json
import math
import os
import signal
import statistics
import sys
import time

import torch

from openmae.commandline.flags import with_flags
from openmae.distributed.ranks import Ranks, joined
from openmae.errors import RUN_AGAIN, RankLost, UserError

STAGES = ("at its start", "at joining the others", "at the exchange", "at its end")
"""Where it is. It says each but the first when it comes there."""
LARGE = 16 * 10**6  # bytes
_SMALL_TIMES, _LARGE_TIMES = 50, 5


def main(device: str, timeout: float) -> int:
    """Joins, measures, says it; the exit code."""
    signal.alarm(math.ceil(timeout) + 5)  # whoever started it may be gone
    _say(STAGES[1])
    try:
        with joined(device, timeout) as ranks:
            _say(STAGES[2])
            found = measure(ranks, torch.device(device))
            _say(STAGES[3])
            if ranks.leads:
                _say(json.dumps(found))
    except UserError as error:
        print(with_flags(error.what), file=sys.stderr)  # what to do, the doctor says
        return 2
    except RankLost as lost:
        print(lost, file=sys.stderr, flush=True)
        os._exit(RUN_AGAIN)
    return 0


def measure(ranks: Ranks, device: torch.device) -> dict[str, float | str]:
    """Seconds of sums over all ranks. Raises UserError where one is wrong."""
    if device.type == "cuda":
        device = torch.device("cuda", ranks.local_rank)
    wanted = ranks.size * (ranks.size + 1) // 2
    values = torch.full((LARGE // 4,), ranks.rank + 1.0, device=device)
    ranks.sum(values)
    if not bool((values == wanted).all()):
        raise UserError(f"rank {ranks.rank} got the sum {values.unique()[:3].tolist()} instead of {wanted}")
    small, large = torch.zeros(1, device=device), torch.zeros(LARGE // 4, device=device)
    return {"small": _seconds(ranks, small, _SMALL_TIMES), "large": _seconds(ranks, large, _LARGE_TIMES)}


def _seconds(ranks: Ranks, values: torch.Tensor, times: int) -> float:
    """The median, after one that is not counted."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        ranks.sum(values)
        if values.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
