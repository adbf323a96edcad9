"""A safetensors file, piece by piece: no second copy of the weights is in memory, and what the disk or the memory
refuses is an exception. (safetensors' own writer makes one, and a thread of it that gets no memory is waited for
without end: docs/log.md.)"""

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}  # the widest first, so that in a file each lies at a multiple of its numbers' size


def pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """What `safetensors.torch.save` makes of the tensors, in order. Raises ValueError for other types of numbers."""
    order = sorted(tensors, key=lambda name: ([*_NAMES].index(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in order:
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in order:
        plain = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield plain.view(torch.uint8).numpy().data
