"""What a step costs: operations against torch's own counter, memory against what autograd keeps and a process takes."""

import math
import sys
import time
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from openmae.machine.device import autocast
from openmae.machine.kinds import Precision
from openmae.masking import Masking
from openmae.model import Architecture, MaskedAutoencoder, create_model
from openmae.train.cost import activation_bytes, flops, largest_micro_batch, mean_work, memory, parameters
from tests.processes import run_openmae

CPU = torch.device("cpu")
SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 2,
    "decoder_embed_dim": 16,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}
KINDS: list[dict[str, Any]] = [
    {},
    {"class_tokens": 0},
    {"class_tokens": 3},
    {"decoder_depth": 1},
    {"decoder": "cross"},
    {"decoder": "cross", "decoder_depth": 1, "class_tokens": 0, "depth": 1},
    {"decoder": "cross", "decoder_layers": 3},
    {"decoder": "cross", "decoder_layers": 2, "depth": 1},
    {"encoder_mask_token": True},
    {"encoder_mask_token": True, "masking": Masking(predict_fraction=0.3)},
    {"masking": Masking(0.5, predict_fraction=0.25)},
    {"decoder": "cross", "masking": Masking(0.9, predict_fraction=0.5)},
    {"img_size": (32, 48), "patch_size": (4, 8), "in_chans": 1},
    {"target": "hog"},
    {"mlp_ratio": 1.5, "depth": 5, "decoder_depth": 4},
]


def model_of(**different: Any) -> MaskedAutoencoder:
    return create_model("vit_tiny", **{**SMALL, **different})


def counted(model: MaskedAutoencoder, batch: int = 2, with_backward: bool = True) -> int:
    """What torch counts in bf16, whose attention is plain products on a CPU."""
    images = torch.randn(batch, model.encoder.in_chans, *model.encoder.img_size)
    with FlopCounterMode(display=False) as counter:
        with autocast(CPU, "bf16"):
            loss = model(images).loss
        if with_backward:
            loss.backward()
    assert counter.get_total_flops() % batch == 0
    return counter.get_total_flops() // batch


@pytest.mark.parametrize("different", KINDS, ids=str)
def test_operations_are_those_that_torch_counts(different: dict[str, Any]) -> None:
    model = model_of(**different)
    found = flops(model.architecture)
    assert found.forward == counted(model, with_backward=False)
    assert found.step == counted(model)
    model.checkpoint_blocks()
    assert found.step + found.recomputed == counted(model)


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "random"])
def test_a_training_whose_ratio_changes_costs_the_mean(
    schedule: Literal["linear", "cosine", "random"], recomputes: bool
) -> None:
    counts: dict[int, int] = {}
    rising, falling = (
        Masking(first, mask_schedule=schedule, mask_ratio_end=last) for first, last in ((0.3, 0.9), (0.9, 0.3))
    )
    draws = np.random.default_rng(0).random(2000)

    def cost(ratio: float) -> int:
        visible = int(16 * (1 - ratio) + 1e-9)
        if visible not in counts:
            model = model_of(masking=Masking(1 - (visible + 0.5) / 16))
            if recomputes:
                model.checkpoint_blocks()
            counts[visible] = counted(model)
        return counts[visible]

    for masking in (rising, falling):
        mean = np.mean([cost(masking.ratio(step / 2000, draw)) for step, draw in enumerate(draws)])
        found = mean_work(model_of(masking=masking).architecture, recomputes)
        assert found == pytest.approx(mean, rel=0.02)
    assert len(counts) > 8
    constant = model_of().architecture
    assert mean_work(constant, False) == flops(constant).step


@given(
    grid=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    heads=st.integers(1, 2),
    depth=st.integers(1, 3),
    decoder_depth=st.integers(1, 3),
    class_tokens=st.integers(0, 3),
    in_chans=st.integers(1, 4),
    ratio=st.floats(0.3, 0.7),
    share=st.floats(0.1, 1),
    cross=st.booleans(),
)
@settings(max_examples=15)
def test_operations_of_any_sizes(
    grid: tuple[int, int],
    heads: int,
    depth: int,
    decoder_depth: int,
    class_tokens: int,
    in_chans: int,
    ratio: float,
    share: float,
    cross: bool,
) -> None:
    model = model_of(
        img_size=(grid[0] * 4, grid[1] * 2),
        patch_size=(4, 2),
        in_chans=in_chans,
        embed_dim=8 * heads,
        num_heads=heads,
        depth=depth,
        decoder_depth=decoder_depth,
        class_tokens=class_tokens,
        decoder="cross" if cross else "self",
        masking=Masking(ratio, predict_fraction=share),
    )
    assert flops(model.architecture).step == counted(model)


def test_operations_for_patches_of_ones_own_choice() -> None:
    model = model_of()
    visible, queries = torch.arange(5).expand(2, -1), torch.arange(7, 10).expand(2, -1)
    with FlopCounterMode(display=False) as counter, autocast(CPU, "bf16"):
        model(torch.randn(2, 3, 32, 32), visible, queries).loss.backward()
    assert flops(model.architecture, visible=5, queries=3).step == counter.get_total_flops() / 2


def test_the_papers_ratio_of_mask_tokens_in_the_encoder() -> None:
    """Table 1c: 3.3 times the operations, for ViT-L with a decoder of 8 blocks."""
    with torch.device("meta"):
        with_tokens, without = (create_model("vit_large", encoder_mask_token=on).architecture for on in (True, False))
    assert flops(with_tokens).forward / flops(without).forward == pytest.approx(3.3, abs=0.15)


def kept(model: MaskedAutoencoder, batch: int, precision: Precision) -> int:
    """Bytes that autograd keeps of a real forward pass: each storage once, and no weights."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    held = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # or its place in memory might be another one's
        return tensor

    images = torch.randn(batch, model.encoder.in_chans, *model.encoder.img_size)
    with saved_tensors_hooks(note, lambda tensor: tensor), autocast(CPU, precision):
        model(images)
    return sum(sizes.values())


@pytest.mark.parametrize(
    ("number", "precision"), [*((n, "fp32") for n in (0, 1, 3, 5, 7, 8, 12, 14)), *((n, "bf16") for n in (0, 6))]
)
def test_activations_are_what_autograd_keeps(number: int, precision: Precision) -> None:
    model = model_of(**KINDS[number])
    for batch in (2, 7):
        found = activation_bytes(model.architecture, precision, batch) - 4  # the loss itself is alive too
        # In bf16 the means of norms are kept in either precision, by real and by imagined kernels.
        assert found == pytest.approx(kept(model, batch, precision), rel=0 if precision == "fp32" else 0.01)


def architecture_of(name: str) -> Architecture:
    with torch.device("meta"):
        return create_model(name).architecture


def test_memory_by_part() -> None:
    model = model_of(encoder_mask_token=True)
    encoder, decoder = parameters(model.architecture)
    assert encoder + decoder == sum(p.numel() for p in model.parameters())
    assert decoder == sum(p.numel() for p in model.decoder.parameters())
    found = memory(model.architecture, "fp32", 64)
    assert (found.weights, found.gradients, found.optimizer) == tuple(n * (encoder + decoder) for n in (4, 4, 8))
    assert found.total == found.weights + found.gradients + found.optimizer + found.activations
    assert found.activations > activation_bytes(model.architecture, "fp32", 64)


def test_what_takes_less_memory() -> None:
    base = architecture_of("vit_base")
    usual = memory(base, "bf16", 64, device_type="cuda").activations
    assert memory(base, "bf16", 64, True, "cuda").activations < usual / 4
    assert memory(base, "bf16", 64, False, "cpu").activations > usual  # keeps the weights of the attention


def test_the_largest_micro_batch() -> None:
    found = architecture_of("vit_tiny")
    for size in (1, 4, 64):
        room = memory(found, "bf16", size).total
        assert largest_micro_batch(found, "bf16", 4096, room, 4096) == size
        assert largest_micro_batch(found, "bf16", 4096, room - 1, 4096) == size // 2
    assert largest_micro_batch(found, "bf16", 4096, 10**15, 256) == 256
    assert largest_micro_batch(found, "bf16", 96, 10**15, 4096) == 96  # the whole batch
    assert largest_micro_batch(found, "bf16", 4096, 10**15, 100) == 64
    assert largest_micro_batch(found, "bf16", 4096, 10**6, 100) == 0


def test_a_huge_model_is_estimated_without_its_weights() -> None:
    began = time.process_time()
    size = largest_micro_batch(architecture_of("vit_huge"), "bf16", 4096, 100 * 10**9, 4096, device_type="cuda")
    assert size in (256, 512)
    assert time.process_time() - began < 15


REAL = """
import sys
from itertools import repeat
import torch
from openmae.data.loading.stream import Batch
from openmae.model import create_model
from openmae.train.cost import memory
from openmae.machine.lanes import Lanes
from openmae.train.learner import Learner
from openmae.train.optimizers import adamw
from openmae.train.step import take_step

lanes = Lanes(int(sys.argv[1]))

def resident(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def train(model, batch, precision):
    part = lanes.part(batch, batch)
    visible, queries = model.draw(part)
    images = torch.randn(part, 3, *model.encoder.img_size)
    batches = repeat(Batch(images, visible, queries, torch.zeros(part, 0), torch.arange(part), 0, []))
    optimizer = adamw(model, (0.9, 0.95), 0.05)
    for _ in range(2):
        learner = Learner(model, lambda m, b: m(b.images, b.visible, b.queries).loss)
        take_step(learner, batches, optimizer,
                  batch_size=batch, device=torch.device("cpu"), precision=precision, lanes=lanes)

tiny = dict(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
            decoder_num_heads=2)
train(create_model("vit_tiny", **tiny), 2, "fp32")  # what torch loads at its first step
before = resident("VmRSS")
sizes = dict(embed_dim=96, num_heads=2, depth=8, decoder_embed_dim=64, decoder_depth=3, decoder_num_heads=4)
model = create_model("vit_tiny", img_size=256, **sizes)
train(model, 32, "fp32")
print(resident("VmHWM") - before, memory(model.architecture, "fp32", 32, lanes=lanes).total)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("lanes", ["1", "2"])
def test_memory_is_what_a_process_takes(lanes: str) -> None:
    ran = run_openmae([lanes], code=REAL)
    assert ran.returncode == 0, ran.stderr
    grown, estimated = map(int, ran.stdout.split())
    assert grown > 2e8
    assert math.log(estimated / grown) == pytest.approx(0, abs=math.log(1.25)), f"{grown / 1e6} {estimated / 1e6}"
