"""A model and its loss, trained by one process or by many: replicated (DDP) or sharded among them (fully_shard).

The model's own code knows nothing of it. What is wrapped is the loss as a module, so that any job's forward pass, of
whatever parts, is one call.
"""

import copy
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from openmae.distributed.ranks import ALONE, Ranks
from openmae.distributed.sharding import gathered


class TrainingBatch(Protocol):
    """What a step asks of a batch."""

    def __len__(self) -> int: ...
    def to(self, device: torch.device) -> Self:
        """The batch with its tensors on the device."""
        ...

    @property
    def indices(self) -> Tensor:
        """(B,) which samples these are."""
        ...


B = TypeVar("B", bound=TrainingBatch)
M = TypeVar("M", bound=nn.Module)

# What does not learn is the same on all ranks anyway; newer versions of torch have another name for it.
_SYNC_NO_BUFFERS: dict[str, Any] = {
    next(
        name
        for name in ("forward_sync_buffers", "broadcast_buffers")
        if name in inspect.signature(DistributedDataParallel.__init__).parameters
    ): False
}


class _Loss(nn.Module):
    def __init__(self, model: nn.Module, loss_of: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.loss_of = model, loss_of

    def forward(self, batch: Any) -> Tensor:
        return self.loss_of(self.model, batch)


class Learner(Generic[M, B]):
    """model: as it was built; where it is sharded its parameters are DTensors from now on.

    loss_of: mean loss over a batch, a scalar. ranks: who trains; make the optimizer after this. shard: each rank keeps
    its part of weights, gradients and averages alone (ZeRO-3, arXiv 1910.02054), for models that are large for a GPU.
    """

    def __init__(
        self, model: M, loss_of: Callable[[M, B], Tensor], ranks: Ranks = ALONE, *, shard: bool = False
    ) -> None:
        self.model, self.loss_of, self.ranks, self.shard = model, loss_of, ranks, shard and ranks.size > 1
        self._loss: nn.Module = _Loss(model, loss_of)
        self._blank: M | None = None
        if self.shard:
            from torch.distributed.fsdp import fully_shard  # which takes a while, and few need it

            self._blank = copy.deepcopy(model).to("meta")
            for part in model.modules():
                if isinstance(part, nn.ModuleList):
                    for block in part:
                        fully_shard(block)
            fully_shard(self._loss)
        self._replicate()

    def _replicate(self) -> None:
        """Wraps the loss so that gradients of what learns now are exchanged, where they are and it is not sharded."""
        if self.ranks.size == 1 or self.shard:
            return
        device = next(self.model.parameters()).device
        on_gpu: dict[str, Any] = {"device_ids": [device.index]} if device.type == "cuda" else {}
        self._loss = _Loss(self.model, self.loss_of)  # without the hooks of the wrapping before this one
        self._loss = DistributedDataParallel(self._loss, gradient_as_bucket_view=True, **_SYNC_NO_BUFFERS, **on_gpu)

    def rest(self, parameters: Iterable[nn.Parameter], rests: bool) -> None:
        """Whether these have no gradient from now on, nor the optimizer anything to do with them; all ranks together.

        The loss has to compute none of them meanwhile: to a sharded model it is the loss alone that tells.
        """
        for parameter in () if self.shard else parameters:
            parameter.requires_grad_(not rests)
            parameter.grad = None
        self._replicate()

    def loss(self, batch: B) -> Tensor:
        """The mean loss over a batch; to be called within `accumulating`."""
        return cast(Tensor, self._loss(batch))

    def accumulating(self, is_last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: gradients are exchanged with the step's last one alone."""
        if self.shard:
            cast(Any, self._loss).set_requires_gradient_sync(is_last)
        if isinstance(self._loss, DistributedDataParallel) and not is_last:
            return self._loss.no_sync()
        return nullcontext()

    def level(self) -> None:
        """After a step, all ranks together: what batch norms have seen is averaged over the ranks, for each of them has
        seen its own micro-batches."""
        for part in self.model.modules():
            if self.ranks.size > 1 and isinstance(part, nn.modules.batchnorm._BatchNorm):
                for seen in (part.running_mean, part.running_var):
                    if seen is not None:
                        self.ranks.sum(seen).div_(self.ranks.size)

    def whole(self) -> M:
        """The model with all its weights in this process: itself, or, where it is sharded, a copy of its present state,
        which all ranks have to ask for together."""
        if self._blank is None:
            return self.model
        device = next(self.model.parameters()).device
        model = copy.deepcopy(self._blank).to_empty(device=device)
        with torch.no_grad():
            buffers = dict(self.model.named_buffers())
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
            for name, parameter in model.named_parameters():
                parameter.copy_(gathered(self.model.get_parameter(name).detach()))
        model.train(self.model.training)
        return model
