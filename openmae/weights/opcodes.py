"""What a pickle of torch.save would do, found by reading its opcodes, before any of it is done.

torch's weights_only keeps code from running. It lets a file call `bytearray(20 * 2**30)`, make a tensor of any size out
of four bytes, or hash a tuple of 2^40 parts: here a pickle is first followed step by step, with sizes for values.
"""

import pickletools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import torch

_CALLED = {  # what these make is no larger than what they are given
    "collections.OrderedDict",
    "collections.Counter",
    "builtins.set",
    "builtins.complex",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_meta_tensor_no_storage",
}
_VIEWS = {f"torch._utils._rebuild_tensor{form}" for form in ("", "_v2", "_v3")}  # tensors over a storage
_GIVEN_STATE = {"collections.OrderedDict", "argparse.Namespace"}  # others' state may be a storage to grow
_STORAGES = {
    **{f"torch.{kind}Storage": 8 for kind in ("Double", "Long", "ComplexFloat")},
    **{f"torch.{kind}Storage": 4 for kind in ("Float", "Int")},
    **{f"torch.{kind}Storage": 2 for kind in ("Half", "BFloat16", "Short")},
    **{f"torch.{kind}Storage": 1 for kind in ("Char", "Byte", "Bool")},
    "torch.ComplexDoubleStorage": 16,
    "torch.storage.UntypedStorage": 1,
}
"""Bytes of a number."""
_RENAMED = {"__builtin__": "builtins"}  # the protocol is Python 2's
_MOST_REPEATED = 64  # times as many parts as the pickle has bytes: parts may be named again, and things nest
_DEEPEST = 100  # tuples in tuples; hashing them recurses


@dataclass(frozen=True)
class _Named:
    """A global."""

    path: str


@dataclass(frozen=True)
class _Storage:
    """So many bytes, of numbers of itemsize bytes."""

    nbytes: int
    itemsize: int


@dataclass(frozen=True)
class _Tuple:
    items: tuple[Any, ...]
    parts: int
    depth: int


@dataclass
class _Grown:
    """A list, a dict, or what a call gives. takes_state: whether BUILD may follow."""

    parts: int = 1
    takes_state: bool = False


class Refused(Exception):
    """What the pickle asks for, and no file of weights needs."""


def follow(pickle: IO[bytes], length: int, stored: Callable[[str], int]) -> int:
    """Follows the pickle that begins where the file stands, to its end -> the bytes of all storages that it names.

    length: bytes that there are of it. stored: how many bytes there are of the storage with that key; 0 where there is
    none. Raises Refused for what no file of weights needs, ValueError for what is no pickle of torch.save's.
    """
    machine = _Machine(_MOST_REPEATED * length, stored)
    for opcode, argument, _ in pickletools.genops(pickle):
        step = _STEPS.get(opcode.name)
        if step is None:
            raise ValueError(f"{opcode.name} is no step of such a file")
        try:
            step(machine, argument)
        except (LookupError, AttributeError, TypeError) as error:
            raise ValueError("its steps do not go together") from error
    return sum(machine.storages.values())


@dataclass
class _Machine:
    """A stack, what lies beneath its marks, a memo. most: parts that all it makes may have together."""

    most: int
    stored: Callable[[str], int]
    stack: list[Any] = field(default_factory=list)
    beneath: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, int] = field(default_factory=dict)

    def taken(self, count: int | None = None) -> list[Any]:
        """So many of the last values, or all above the last mark, off the stack."""
        if count is None:
            found, self.stack = self.stack, self.beneath.pop()
            return found
        if len(self.stack) < count:
            raise IndexError
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found

    def parts(self, values: Sequence[Any]) -> int:
        """Of something made of these. Raises Refused where too many are made of too few bytes."""
        found = 1 + sum(one.parts if isinstance(one, _Tuple | _Grown) else 1 for one in values)
        self.most -= found
        if self.most < 0:
            raise Refused("the same parts over and over")
        return found

    def bundle(self, values: Sequence[Any]) -> None:
        """A tuple of these."""
        depth = 1 + max((one.depth for one in values if isinstance(one, _Tuple)), default=0)
        if depth > _DEEPEST:
            raise Refused("tuples in tuples without end")
        self.stack.append(_Tuple(tuple(values), self.parts(values), depth))

    def grow(self, values: Sequence[Any]) -> None:
        """The list or the dict on top takes these in."""
        self.stack[-1].parts += self.parts(values)


def _named(machine: _Machine, named: str) -> None:
    module, _, name = named.partition(" ")
    path = f"{_RENAMED.get(module, module)}.{name}"
    if path not in _CALLED | _VIEWS | _GIVEN_STATE | _STORAGES.keys() and _itemsize(path) is None:
        raise Refused(path)
    machine.stack.append(_Named(path))


def _itemsize(path: str) -> int | None:
    """Of a type of numbers, such as torch.float32; None for anything else."""
    kind = getattr(torch, path.removeprefix("torch."), None) if path.startswith("torch.") else None
    return kind.itemsize if isinstance(kind, torch.dtype) else None


def _call(machine: _Machine, _: Any) -> None:
    function, arguments = machine.taken(2)
    if function.path in _VIEWS:
        _check_view(function.path, *arguments.items)
    elif function.path not in _CALLED:
        raise Refused(function.path)
    machine.stack.append(_Grown(machine.parts(arguments.items), function.path in _GIVEN_STATE))


def _check_view(function: str, storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> None:
    """Raises Refused for a tensor that its storage would have to grow for."""
    numbers = (offset, *size.items, *stride.items)
    if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor is described as torch.save does not")
    itemsize = _itemsize(others[2].path) if function.endswith("v3") else storage.itemsize
    last = offset + sum((side - 1) * step for side, step in zip(size.items, stride.items, strict=True))
    if itemsize is None or (0 not in size.items and (last + 1) * itemsize > storage.nbytes):
        raise Refused("a tensor of more numbers than are stored")


def _storage(machine: _Machine, _: Any) -> None:
    """("storage", its type, its key, where it lay, how many numbers), and in old files a view of it, always None."""
    kind, named, key, _, count, *view = machine.taken(1)[0].items
    if kind != "storage" or type(key) is not str or type(count) is not int or count < 0 or view not in ([], [None]):
        raise ValueError("a storage is described as torch.save does not")
    itemsize = _STORAGES[named.path]
    if (nbytes := count * itemsize) > machine.stored(key):
        raise Refused("more numbers than are stored")
    machine.storages[key] = max(nbytes, machine.storages.get(key, 0))
    machine.stack.append(_Storage(nbytes, itemsize))


def _new(machine: _Machine, _: Any) -> None:
    kind, arguments = machine.taken(2)
    if kind.path != "argparse.Namespace" or arguments.items:
        raise Refused(kind.path)
    machine.stack.append(_Grown(takes_state=True))


def _build(machine: _Machine, _: Any) -> None:
    state = machine.taken(1)
    if not machine.stack[-1].takes_state:
        raise Refused("a state for what has none")
    machine.grow(state)


def _mark(machine: _Machine, _: Any) -> None:
    machine.beneath.append(machine.stack)
    machine.stack = []


def _put(machine: _Machine, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


_Step = Callable[[_Machine, Any], None]
_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
_STEPS: Mapping[str, _Step] = {
    **dict.fromkeys(_LITERALS, lambda machine, value: machine.stack.append(value)),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"), lambda machine, _: machine.stack.append(_Grown())),
    "EMPTY_TUPLE": lambda machine, _: machine.bundle([]),
    "TUPLE1": lambda machine, _: machine.bundle(machine.taken(1)),
    "TUPLE2": lambda machine, _: machine.bundle(machine.taken(2)),
    "TUPLE3": lambda machine, _: machine.bundle(machine.taken(3)),
    "TUPLE": lambda machine, _: machine.bundle(machine.taken()),
    "APPEND": lambda machine, _: machine.grow(machine.taken(1)),
    "SETITEM": lambda machine, _: machine.grow(machine.taken(2)),
    **dict.fromkeys(("APPENDS", "SETITEMS"), lambda machine, _: machine.grow(machine.taken())),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, place: machine.stack.append(machine.memo[place])),
    "MARK": _mark,
    "GLOBAL": _named,
    "REDUCE": _call,
    "NEWOBJ": _new,
    "BUILD": _build,
    "BINPERSID": _storage,
    **dict.fromkeys(("PROTO", "STOP"), lambda machine, _: None),
}
