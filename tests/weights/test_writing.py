"""Our writer of safetensors files, against the library's."""

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from openmae.weights.writing import pieces
from tests.processes import run_openmae

DTYPES = [torch.int64, torch.float64, torch.float32, torch.int32, torch.bfloat16, torch.float16]
DTYPES += [torch.int16, torch.int8, torch.uint8, torch.bool]
TENSORS = st.builds(
    lambda dtype, shape, seed: (
        (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 9).to(dtype).mT
        if len(shape) == 2
        else torch.full(shape, seed % 7).to(dtype)
    ),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 99),
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), TENSORS, max_size=8))
def test_the_bytes_are_the_librarys(tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor for name, tensor in tensors.items() if name != "__metadata__"}
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    for metadata in (None, {"openmae": '{"a": "é"}'}):
        written = b"".join(pieces(tensors, metadata))
        assert written == safetensors.torch.save(plain, metadata)
        read = safetensors.torch.load(written)
        assert all(torch.equal(read[name], tensor) for name, tensor in plain.items())


def test_a_type_that_no_model_has() -> None:
    with pytest.raises(ValueError, match="complex"):
        list(pieces({"a": torch.zeros(3, dtype=torch.complex64)}))


@pytest.mark.skipif(sys.platform != "linux", reason="a bound on memory")
def test_no_second_copy_of_the_weights(tmp_path: Path) -> None:
    """200 MB are written where 60 MB are free; the library's writer waits for itself there, for ever."""
    code = (
        "import resource, sys, torch\n"
        "from openmae.files.whole import write_file\n"
        "from openmae.weights.writing import pieces\n"
        "tensors = {str(number): torch.full((2**20,), number * 1.0) for number in range(50)}\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 10**6,) * 2)\n"
        "from pathlib import Path\n"
        "write_file(Path(sys.argv[1]), pieces(tensors))\n"
    )
    done = run_openmae([str(tmp_path / "a.safetensors")], code=code, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    read = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert all(bool((tensor == int(name)).all()) for name, tensor in read.items())
    assert len(read) == 50
