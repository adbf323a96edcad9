"""NCCL among one: DDP, sharding and the sums of the ranks go through it. A rehearsal takes gloo."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from openmae.distributed.ranks import ALONE, Ranks
from openmae.distributed.sharding import gathered
from openmae.train.learner import Learner
from openmae.train.optimizers import adamw
from openmae.train.step import take_step
from tests.gpu.device import DEVICE, MARKS, ON_GPU
from tests.train.tasks import Task

pytestmark = MARKS
OF_TWO = Ranks(rank=0, size=2)  # so that it exchanges; the group that it exchanges with is itself


@pytest.fixture
def _group() -> Iterator[None]:
    backend = "cpu:gloo,cuda:nccl" if ON_GPU else "gloo"
    if ON_GPU:
        torch.cuda.set_device(0)
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(minutes=1))
    yield
    dist.destroy_process_group()


def stepped(ranks: Ranks, shard: bool) -> tuple[list[torch.Tensor], float]:
    """Weights after a step by the first four of eight samples, and the loss that is told."""
    task = Task(device=DEVICE)
    learner = Learner(task.model, Task.loss_of, ranks, shard=shard)
    optimizer = adamw(task.model, (0.9, 0.95), 0.05)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    size = 4 * ranks.size
    batch = next(task.batches_from(0, 4))
    taken = take_step(
        learner, iter([batch]), optimizer, batch_size=size, share=4, device=DEVICE, precision="fp32", clip_grad=1.0
    )
    return [gathered(p.detach()).cpu() for p in learner.model.parameters()], taken.loss * ranks.size


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.usefixtures("_group")
def test_a_step_through_the_exchange_is_the_step(shard: bool) -> None:
    (alone, loss), (together, told) = stepped(ALONE, False), stepped(OF_TWO, shard)
    assert told == pytest.approx(loss)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("_group")
def test_words_and_tensors_travel() -> None:
    assert OF_TWO.from_lead({"step": 3}) == {"step": 3}
    there = torch.ones(3, device=DEVICE)
    assert OF_TWO.sum(there).tolist() == [1, 1, 1]
    assert OF_TWO.spread(there).tolist() == [1, 1, 1]
    assert OF_TWO.sum(torch.ones(2)).tolist() == [1, 1]  # what lies on the CPU
