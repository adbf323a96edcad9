"""How much of a machine's memory a training step may take."""

import torch

from openmae.machine.workers import workers_for

USABLE_MEMORY = 0.8  # of the device's; the rest is for what an estimate misses
_FREE = 0.9  # of a CPU's, which also holds small sets of images, the views that wait, and what is measured of them:
_PROGRAM = 500 * 2**20  # Python, torch and other libraries, the list of images (measured: 450)
_WORKER = 128 * 2**20  # a loader process, and another where something is measured: what they decode, and what they no
# longer share with us (measured: 25 to 50 each)


def usable_memory(memory: int, device_type: str, workers: int | None) -> int:
    """Bytes of the `memory` of a device, or of a rank's part of the machine's, that a step may take: weights,
    gradients, what the optimizer keeps, activations. Evaluations and pictures come between steps and find room where
    activations were; so do copies of the weights for a checkpoint, or else it is written while training waits.

    workers: processes that load, as asked for.
    """
    usable = int(memory * USABLE_MEMORY)
    if device_type != "cpu":
        return usable
    program = _PROGRAM + _WORKER * workers_for(workers, torch.device("cpu"))
    return max(0, min(usable, int(memory * _FREE) - program))
