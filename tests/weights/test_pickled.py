"""Pickles of torch.save: what torch.load gives, and refused, before anything of it is made, what no weights need."""

import argparse
import collections
import io
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from openmae.errors import UserError
from openmae.weights.pickled import read_pickled
from tests.mutations import bounded

GIB_20 = 20 * 2**30


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def whole(number: int) -> bytes:
    return b"\x8a\x08" + number.to_bytes(8, "little", signed=True)


def called(path: str, *arguments: bytes) -> bytes:
    """A call of a global, its arguments given as they are pickled."""
    module, name = path.rsplit(".", 1)
    return b"".join([b"c", f"{module}\n{name}\n".encode(), b"(", *arguments, b"tR"])


def stored(count: int, kind: str = "FloatStorage") -> bytes:
    return b"".join([b"(", text("storage"), f"ctorch\n{kind}\n".encode(), text("0"), text("cpu"), whole(count), b"tQ"])


def tensor(storage: bytes, offset: int, size: int, stride: int = 1) -> bytes:
    """A tensor of one axis over it."""
    shape = (whole(offset), whole(size) + b"\x85", whole(stride) + b"\x85")
    return called("torch._utils._rebuild_tensor_v2", storage, *shape, b"\x89", called("collections.OrderedDict"))


def pickled(value: bytes) -> bytes:
    """A state dict of one entry."""
    return b"\x80\x02}" + text("norm.weight") + value + b"s."


def new(file: Path, content: bytes) -> Path:
    """A zip as torch.save makes it, of four numbers, with this for its pickle."""
    torch.save({"a": torch.arange(4.0)}, file)
    with zipfile.ZipFile(file) as parts:
        kept = {part.filename: parts.read(part) for part in parts.infolist()}
    with zipfile.ZipFile(file, "w") as parts:
        for name, data in kept.items():
            parts.writestr(name, content if name.endswith("data.pkl") else data)
    return file


def old(file: Path, content: bytes, place: int = 3) -> Path:
    """A file of before version 1.6, with this for one of its five pickles."""
    torch.save({"a": torch.arange(4.0)}, file, _use_new_zipfile_serialization=False)
    data, ends = io.BytesIO(file.read_bytes()), [0]
    for _ in range(5):
        list(pickletools.genops(data))
        ends.append(data.tell())
    before = data.getvalue()
    file.write_bytes(before[: ends[place]] + content + before[ends[place + 1] :])
    return file


def of_everything(is_zip: bool) -> dict[str, Any]:
    """What training checkpoints hold beside plain weights, of types that torch reads."""
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    kinds += [torch.complex64, torch.complex128, *([torch.uint16, torch.float8_e4m3fn] if is_zip else [])]
    whole = torch.arange(24.0).reshape(4, 6)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": {
            **{f"of {kind}": torch.arange(3).to(kind) for kind in kinds},
            **{"a": whole, "b": whole[1:, ::2], "c": whole.T, "d": whole[:0], "scalar": torch.tensor(2.0)},
            **{"parameter": torch.nn.Parameter(torch.ones(2)), "repeated": torch.ones(1, 3).expand(4, 3)},
            **model.state_dict(),
        },
        "optimizer": optimizer.state_dict(),
        "scheduler": {"milestones": collections.Counter([3, 3, 9]), "shape": torch.Size([2, 3]), "none": None},
        "device": torch.device("cpu"),
        "kind": torch.float32,
        "args": argparse.Namespace(norm_pix_loss=True, mask_ratio=0.75, model="x", betas=(0.9, 0.95), nested=[[{}]]),
        "big": 2**200,
        "set": {1, "a"},
    }


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_torch_load_gives(is_zip: bool, tmp_path: Path) -> None:
    content = of_everything(is_zip)
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    found, arguments, _ = read_pickled(tmp_path / "a.pth")
    with torch.serialization.safe_globals([argparse.Namespace]):
        expected = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert found.keys() == expected.keys()
    for key, one in expected.items():
        assert found[key].dtype == one.dtype
        assert found[key].to(torch.complex128).equal(one.detach().to(torch.complex128)), key
    assert arguments == {"norm_pix_loss": True, "mask_ratio": 0.75, "model": "x"}


LARGE = {
    "builtins.bytearray": called("builtins.bytearray", whole(GIB_20)),
    "builtins.bytearray under its old name": called("__builtin__.bytearray", whole(GIB_20)),
    "torch.Tensor": called("torch.Tensor", whole(GIB_20)),
    "torch.FloatTensor": called("torch.FloatTensor", whole(GIB_20)),
    "torch.storage.UntypedStorage": called("torch.storage.UntypedStorage", whole(GIB_20)),
    "a quantised one": called("torch._utils._rebuild_qtensor", stored(4)),
    "an argument that is called": called("torch._tensor._rebuild_from_type_v2", b"cbuiltins\nbytearray\n"),
    "_codecs.encode": called("_codecs.encode", text("x" * 1000), text("punycode")),
    "made without a call": b"cbuiltins\nbytearray\n" + whole(GIB_20) + b"\x85\x81",
    "more than its storage": tensor(stored(4), 0, GIB_20),
    "from behind its storage": tensor(stored(4), 2**40, 1),
    "over steps": tensor(stored(4), 0, 4, 2),
    "a storage that is not there": tensor(stored(GIB_20), 0, 4),
    "a storage set later": tensor(stored(4), 0, 4) + b"(" + stored(4) + whole(0) + whole(GIB_20) + b"\x85tb",
    "the same parts": b"K\x01K\x01\x86" + b"q\x00h\x00\x86" * 60,
    "the same parts as a key": b"}K\x01K\x01\x86" + b"q\x00h\x00\x86" * 60 + b"Ns",
    "tuples in tuples": b")" + b"\x85" * 100_000,
}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("what", LARGE)
def test_what_would_take_more_than_the_file_has(what: str, is_zip: bool, tmp_path: Path) -> None:
    make = new if is_zip else old
    file = make(tmp_path / "a.pth", pickled(LARGE[what]))
    with bounded(), pytest.raises(UserError, match=r"a\.pth holds (more than weights \(|no weights)"):
        read_pickled(file)


@pytest.mark.parametrize("place", range(5))
def test_every_pickle_of_an_old_file_is_looked_at(place: int, tmp_path: Path) -> None:
    file = old(tmp_path / "a.pth", pickled(LARGE["builtins.bytearray"]), place)
    with bounded(), pytest.raises(UserError, match=r"holds more than weights \(builtins\.bytearray\)"):
        read_pickled(file)


def test_a_crafted_file_is_otherwise_read(tmp_path: Path) -> None:
    found, *_ = read_pickled(new(tmp_path / "a.pth", pickled(tensor(stored(4), 1, 2, 2))))
    assert found["norm.weight"].tolist() == [1.0, 3.0]


def test_attributes_that_hide_methods(tmp_path: Path) -> None:
    one = called("torch._utils._rebuild_parameter", tensor(stored(4), 0, 4), b"\x89", called("collections.OrderedDict"))
    hiding = b"}" + b"".join(text(name) + b"K\x01s" for name in ("float", "items", "get", "keys")) + b"b"
    named = called("collections.OrderedDict") + hiding + text("norm.weight") + one + b"s"
    found, *_ = read_pickled(new(tmp_path / "a.pth", b"\x80\x02" + named + b"."))
    assert found["norm.weight"].float().tolist() == [0, 1, 2, 3]
    state = b"}" + text("float") + b"K\x01s"
    one = called("torch._utils._rebuild_parameter_with_state", tensor(stored(4), 0, 4), b"\x89}", state)
    found, *_ = read_pickled(new(tmp_path / "b.pth", pickled(one)))
    assert found["norm.weight"].float().tolist() == [0, 1, 2, 3]


def test_a_tar_that_begins_as_an_old_file_does(tmp_path: Path) -> None:
    """torch would look for its members first."""
    old(tmp_path / "a.pth", pickled(tensor(stored(4), 0, 4)))
    block = bytearray((tmp_path / "a.pth").read_bytes()[:100].ljust(512, b"\0"))
    block[124:136] = b"77777777777\0"
    block[148:156] = b"%06o\0 " % (sum(block) + 8 * ord(" "))
    (tmp_path / "a.pth").write_bytes(block)
    with bounded(), pytest.raises(UserError, match="it is a tar"):
        read_pickled(tmp_path / "a.pth")
