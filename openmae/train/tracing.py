"""What a training step holds in memory, seen on tensors that have shapes but no values (torch's FakeTensorMode)."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openmae.machine.kinds import Precision

M = TypeVar("M", bound=nn.Module)
_BATCHES = (2, 64)  # with 1, some copies are none


@dataclass(frozen=True)
class Line:
    """Bytes that are `fixed` and so many an image."""

    fixed: float
    each: float

    def __call__(self, batch: int) -> int:
        """For so many images."""
        return round(self.fixed + self.each * batch)


def line(values: list[int]) -> Line:
    """Through what `traced` found for its batches."""
    each = (values[1] - values[0]) / (_BATCHES[1] - _BATCHES[0])
    return Line(values[0] - each * _BATCHES[0], each)


def autocast_like(device_type: str, precision: Precision) -> AbstractContextManager[Any]:
    """A GPU's bfloat16 is played by the CPU's float16, which is as large and has the fused attention."""
    half = torch.bfloat16 if device_type == "cpu" else torch.float16
    return torch.autocast("cpu", half, enabled=precision == "bf16")


def traced(
    build: Callable[[], M], loss_of: Callable[[M, int], Tensor], device_type: str, backward: bool
) -> list[tuple[int, int]]:
    """For each of two batches: bytes kept after the forward pass, and the most there are at any time.

    loss_of: of the model, for a batch of so many images. backward: whether the backward pass is gone through.
    """
    found = []
    with FakeTensorMode():
        model = build()
        for parameter in model.parameters():  # of the micro-batch before
            parameter.grad = torch.zeros_like(parameter)
        if device_type != "cpu":  # torch.autocast has LayerNorm in float32 there
            for norm in (part for part in model.modules() if isinstance(part, nn.LayerNorm)):
                norm.register_forward_pre_hook(_widen)
        for batch in _BATCHES:
            known = [*model.parameters(), *(p.grad for p in model.parameters()), *model.buffers()]
            with _Living(known) as living:
                loss = loss_of(model, batch)
                kept = living.bytes
                if backward:
                    loss.backward()
                del loss
            found.append((kept, living.most))
    return found


def _widen(norm: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].float(),)


class _Living(TorchDispatchMode):
    """Counts the bytes of the storages that come to be and pass away within, each once; not those of `known`."""

    def __init__(self, known: list[Tensor | None]) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in known if tensor is not None}
        self.alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known or key in self.alive:
            return

        def gone(_: object) -> None:
            self.bytes -= size
            del self.alive[key]

        self.alive[key] = weakref.ref(storage, gone)
        self.bytes += size
        self.most = max(self.most, self.bytes)
