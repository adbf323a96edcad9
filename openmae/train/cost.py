"""What a training step costs, before it is taken: floating-point operations, and memory by part.

Operations are counted by formula from the shapes that model.py multiplies. Memory is found by running the step on
tensors that have shapes but no values (torch's FakeTensorMode), and noting what lives when.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from openmae.machine.kinds import Precision
from openmae.machine.lanes import ONE, Lanes
from openmae.model import Architecture, MaskedAutoencoder, grid_of
from openmae.targets import make_target
from openmae.train.tracing import Line, autocast_like, line, traced

# ---------------------------------------------------------------- operations


_PLACES = 64  # of a training, whose mask ratios are averaged


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one image, those of matrix products alone; a multiply-add is two.

    encoder, decoder: of the forward pass. step: forward and backward. recomputed: what the backward pass does in
    addition where the blocks are checkpointed (`MaskedAutoencoder.checkpoint_blocks`).
    """

    encoder: int
    decoder: int
    step: int
    recomputed: int

    @property
    def forward(self) -> int:
        """Of encoder and decoder."""
        return self.encoder + self.decoder

    def work(self, recomputes: bool) -> int:
        """Of a step. recomputes: whether blocks are checkpointed."""
        return self.step + (self.recomputed if recomputes else 0)


def flops(architecture: Architecture, visible: int | None = None, queries: int | None = None) -> Flops:
    """Of one image of which `visible` patches are shown and `queries` predicted; default: as its masking says, at the
    first of its mask ratios where they change.

    The linear layers, the two products of attention, and a cross-attention decoder's mix of layers; not the
    projection of a PCA target. Raises ValueError where the sizes do not go together.
    """
    grid = grid_of(architecture.img_size, architecture.patch_size)
    shown, asked = architecture.masking.counts(grid)
    shown, asked = shown if visible is None else visible, asked if queries is None else queries
    width, inner = architecture.embed_dim, int(architecture.embed_dim * architecture.mlp_ratio)
    values = math.prod(architecture.patch_size) * architecture.in_chans
    # What the decoder reads: class tokens and visible patches, or all patches (paper, Table 1c).
    memory = architecture.class_tokens + (math.prod(grid) if architecture.encoder_mask_token else shown)
    projection = _linear(shown, values, width)
    blocks = architecture.depth * _block(memory, memory, width, inner)
    blocks += architecture.depth * _linear(memory, width, inner) if architecture.swiglu else 0  # the gates
    embedding, decoder_blocks, last = _decoder(architecture, memory, asked)
    head = _linear(
        asked,
        architecture.decoder_embed_dim,
        make_target(
            architecture.target, architecture.patch_size, architecture.in_chans, architecture.target_values
        ).values,
    )
    encoder, decoder = projection + blocks, embedding + decoder_blocks + head
    # Each product has two gradients, but for the projection of the patches, which are no parameters.
    step = 3 * (encoder + decoder) - projection
    # The recomputation ends where nothing more is asked for: before the last product of each block.
    spared = architecture.depth * _linear(memory, inner, width) + last
    return Flops(encoder, decoder, step, blocks + decoder_blocks - spared)


def mean_work(architecture: Architecture, recomputes: bool) -> float:
    """Operations of an image's step, the mean of a training whose mask ratio may change. recomputes: whether blocks are
    checkpointed."""
    masking, grid = architecture.masking, grid_of(architecture.img_size, architecture.patch_size)
    count = 1 if masking.mask_schedule == "constant" else _PLACES
    shares = [(place + 0.5) / count for place in range(count)]  # of the way, or what a random ratio draws
    found = [flops(architecture, *masking.counts(grid, masking.ratio(share, share))) for share in shares]
    return sum(one.work(recomputes) for one in found) / count


def _decoder(architecture: Architecture, memory: int, asked: int) -> tuple[int, int, int]:
    """(what comes before the blocks, the blocks with their mixes of layers, the last products of the blocks)."""
    width, inner = architecture.decoder_embed_dim, int(architecture.decoder_embed_dim * architecture.mlp_ratio)
    depth, layers = architecture.decoder_depth, architecture.decoder_layers
    if architecture.decoder == "cross":
        block = (
            2 * _linear(asked, width, width)  # queries, and what leaves the attention
            + _linear(memory, architecture.embed_dim, 2 * width)
            + _attention(asked, memory, width)
            + _mlp(asked, width, inner)
        )
        mix = 2 * layers * memory * architecture.embed_dim if layers > 1 else 0
        return mix * depth, block * depth, depth * _linear(asked, inner, width)
    tokens = memory if architecture.encoder_mask_token else memory + asked
    # Of the last block only what is asked for is computed.
    blocks = (depth - 1) * _block(tokens, tokens, width, inner) + _block(tokens, asked, width, inner)
    spared = (depth - 1) * _linear(tokens, inner, width) + _linear(asked, inner, width)
    return _linear(memory, architecture.embed_dim, width), blocks, spared


def _block(tokens: int, asked: int, width: int, inner: int) -> int:
    """Self-attention of the `asked` among the tokens, and their MLP."""
    return (
        _linear(tokens, width, 3 * width)
        + _attention(asked, tokens, width)
        + _linear(asked, width, width)
        + _mlp(asked, width, inner)
    )


def _attention(queries: int, keys: int, width: int) -> int:
    return 2 * 2 * queries * keys * width


def _mlp(tokens: int, width: int, inner: int) -> int:
    return 2 * _linear(tokens, width, inner)


def _linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


# ---------------------------------------------------------------- memory


ALLOCATOR_SHARE = 0.3
"""Of what a step keeps without recomputation: what a CPU's allocator holds beyond it (glibc, measured)."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step needs at its peak.

    weights: float32. gradients: float32. optimizer: AdamW's two averages. activations: what the forward pass of one
    micro-batch leaves for the backward pass, and what is there for a moment only.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


@lru_cache(maxsize=64)
def parameters(architecture: Architecture) -> tuple[int, int]:
    """How many the encoder and the decoder have. Raises ValueError for what cannot be built."""
    with torch.device("meta"):
        model = architecture.build()
    of_decoder = sum(parameter.numel() for parameter in model.decoder.parameters())
    return sum(parameter.numel() for parameter in model.parameters()) - of_decoder, of_decoder


def memory(
    architecture: Architecture,
    precision: Precision,
    micro_batch: int,
    grad_checkpointing: bool = False,
    device_type: str = "cpu",
    lanes: Lanes = ONE,
) -> Memory:
    """What a step needs whose micro-batches are of so many images; at most that, where it takes one micro-batch only,
    since gradients then come as activations go. lanes: it is computed in, each with gradients, and bfloat16 copies of
    the weights, of its own.

    device_type: "cpu", where bfloat16 attention keeps its weights, or a GPU's. Not counted: the program itself (some
    hundred MB), the batches that wait for their turn, and a GPU's libraries. On a CPU the C library's allocator keeps
    more than is in use; ALLOCATOR_SHARE is measured, and with it eleven steps of vit_tiny and vit_base (fp32 and bf16,
    both decoders' sizes, with and without recomputation) grew the process by 0.85 to 1.29 times the estimate. On a GPU
    it has not been compared with torch.cuda.max_memory_allocated yet, and what its allocator cannot use comes on top.
    """
    count, others = sum(parameters(architecture)), lanes.of(micro_batch).count - 1
    lives = _lives(architecture, precision, grad_checkpointing, device_type)
    activations = lives.kept(micro_batch) + lives.passing(micro_batch)
    if device_type == "cpu":  # blocks that are computed again come from the same heap
        everything = activation_bytes(architecture, precision, micro_batch, device_type=device_type)
        activations += round(ALLOCATOR_SHARE * everything)
    activations += others * 2 * count * (precision == "bf16")
    return Memory(4 * count, 4 * count * (1 + others), 8 * count, activations)


def activation_bytes(
    architecture: Architecture,
    precision: Precision,
    batch: int,
    grad_checkpointing: bool = False,
    device_type: str = "cpu",
) -> int:
    """Bytes that the forward pass of `batch` images leaves for the backward pass, each once, without the weights but
    with their bfloat16 copies."""
    return _lives(architecture, precision, grad_checkpointing, device_type).kept(batch)


def largest_micro_batch(
    architecture: Architecture,
    precision: Precision,
    batch_size: int,
    free_bytes: int,
    most: int,
    grad_checkpointing: bool = False,
    device_type: str = "cpu",
    lanes: Lanes = ONE,
) -> int:
    """The largest power of two, or the whole batch, up to `most` images that a step can take at once in `free_bytes`;
    0 where one is too many."""
    most = min(most, batch_size)
    sizes = {2**n for n in range(most.bit_length())} | ({batch_size} if batch_size == most else set())
    fits = (
        size
        for size in sorted(sizes, reverse=True)
        if memory(architecture, precision, size, grad_checkpointing, device_type, lanes).total <= free_bytes
    )
    return next(fits, 0)


@dataclass(frozen=True)
class _Lives:
    """kept: for the backward pass. passing: what comes on top of that at the worst moment."""

    kept: Line
    passing: Line


@lru_cache(maxsize=64)
def _lives(architecture: Architecture, precision: Precision, grad_checkpointing: bool, device_type: str) -> _Lives:
    """Found on shallow models, since blocks are alike: a deep one takes seconds.

    What passes is a little less in a deep model than in a shallow one, and a little less between the two batches than
    on the line through them.
    """
    settings = (precision, grad_checkpointing, device_type)
    depth, decoder_depth = architecture.decoder_layers, min(2, architecture.decoder_depth)  # the last one is special
    shallow = replace(architecture, depth=depth, decoder_depth=decoder_depth)
    # Without recomputation, the most there is at any time is there when the forward pass ends.
    base = _traced(shallow, *settings, backward=grad_checkpointing)
    kept = [here for here, _ in base]
    for blocks, deeper in (
        (architecture.depth - depth, replace(shallow, depth=depth + 1)),
        (architecture.decoder_depth - decoder_depth, replace(shallow, decoder_depth=decoder_depth + 1)),
    ):
        if blocks:
            for i, (here, _) in enumerate(_traced(deeper, *settings, backward=False)):
                kept[i] += blocks * (here - base[i][0])
    return _Lives(line(kept), line([peak - here for here, peak in base]))


def _traced(
    architecture: Architecture, precision: Precision, grad_checkpointing: bool, device_type: str, backward: bool
) -> list[tuple[int, int]]:
    def build() -> MaskedAutoencoder:
        model = architecture.build()
        model.checkpoint_blocks(grad_checkpointing)
        return model

    return traced(build, lambda model, batch: _loss(model, batch, precision, device_type), device_type, backward)


def _loss(model: MaskedAutoencoder, batch: int, precision: Precision, device_type: str) -> Tensor:
    """The loss, as the training computes it; where the mask ratio changes, when it is least."""
    encoder = model.encoder
    masking = model.masking
    ratio = min(masking.mask_ratio, masking.mask_ratio_end or 1.0)  # most is visible then
    counts = masking.counts(encoder.grid, ratio)
    visible, queries = (torch.zeros(batch, count, dtype=torch.int64) for count in counts)
    images = torch.zeros(batch, encoder.in_chans, *encoder.img_size)
    with autocast_like(device_type, precision):
        loss: Tensor = model(images, visible, queries).loss
    return loss
