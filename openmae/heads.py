"""What sits on an encoder: a linear layer on its pooled features, and which blocks learn beneath it; or labelled images
that its features are compared with.

Shapes: B images, C channels, S sides, N patches, T class tokens, D width, K outputs, L blocks, M labelled images.
Source: MAE (arXiv 2111.06377), appendix A and Figure 9.
"""

from collections import deque
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmae.errors import BadValue
from openmae.model import ViT, describe, patchify

Pool = Literal["mean", "class"]
Tokens = Literal["mean", "class", "patches"]
"""What becomes of an image's tokens: a vector, or, of the patches, a grid of them."""
Link = Literal["log", "log odds", "none"]
"""What a share of votes is given as: its logarithm, so that the softmax gives it back; its log odds, for the sigmoid;
or as it is, of numbers."""
_LEAST = 1e-30  # of a share whose logarithm is taken


class Encoder(nn.Module):
    """A ViT with nothing on it: what a released file holds whose decoder was left out."""

    def __init__(self, encoder: ViT) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_state_dict_post_hook(describe)

    def arguments(self) -> dict[str, Any]:
        """Plain values that describe it, for `from_arguments`."""
        return {"encoder": self.encoder.arguments()}

    @classmethod
    def from_arguments(cls, values: dict[str, Any]) -> "Encoder":
        """One of that shape. Raises KeyError, TypeError or ValueError for values that describe none."""
        return cls(vit_of(values["encoder"]))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, *S), normalised, -> features (B, T + N, D), class tokens first."""
        return self.encoder(images)

    def encode(self, images: Tensor, layer: int | None = None) -> Tensor:
        """The same, after block `layer`, 1..depth; default the last."""
        return self.encoder(images, layer)


class Classifier(nn.Module):
    """A ViT and a linear layer on its pooled features; for classes, several labels at once, and numbers alike.

    pool: "mean" of the patch tokens, then a LayerNorm of its own (paper, A.1); "class": the encoder's norm, then the
        mean of the class tokens but its registers.
    batch_norm: normalise the features by their batch before the linear layer, as the paper's linear probe does.
    drop_path: chance, 0 to below 1, to leave out a branch of the last block in training; it rises evenly from 0 at
        the first.
    """

    def __init__(
        self, encoder: ViT, outputs: int, pool: Pool = "mean", batch_norm: bool = False, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if pool == "class" and encoder.read_classes == 0:
            raise BadValue("this model has no class token", "choose pool 'mean'")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is {drop_path}; give a number from 0 and below 1")
        self.pool, self.drop_path = pool, drop_path
        self.encoder = encoder
        self.norm = nn.LayerNorm(encoder.embed_dim, encoder.norm_eps) if pool == "mean" else None
        if pool == "mean":
            encoder.norm.requires_grad_(False)  # it is not asked
        self.batch_norm = nn.BatchNorm1d(encoder.embed_dim, eps=1e-6, affine=False) if batch_norm else None
        self.head = nn.Linear(encoder.embed_dim, outputs)
        self.register_state_dict_post_hook(describe)

    @property
    def outputs(self) -> int:
        """How many there are, K."""
        return self.head.out_features

    def arguments(self) -> dict[str, Any]:
        """Plain values that describe it, for `from_arguments`; drop path is the training's."""
        return {
            "encoder": self.encoder.arguments(),
            "outputs": self.head.out_features,
            "pool": self.pool,
            "batch_norm": self.batch_norm is not None,
        }

    @classmethod
    def from_arguments(cls, values: dict[str, Any]) -> "Classifier":
        """One of that shape. Raises KeyError, TypeError or ValueError for values that describe none."""
        return cls(vit_of(values["encoder"]), values["outputs"], values["pool"], values["batch_norm"])

    @torch.no_grad()
    def without_batch_norm(self) -> "Classifier":
        """The same function with the normalisation of the features as a part of the linear layer; itself where it has
        none."""
        if self.batch_norm is None:
            return self
        assert self.batch_norm.running_var is not None
        assert self.batch_norm.running_mean is not None
        plain = Classifier(self.encoder, self.head.out_features, self.pool)
        scale = (self.batch_norm.running_var + self.batch_norm.eps).rsqrt()
        if plain.norm is not None and self.norm is not None:
            plain.norm.load_state_dict(self.norm.state_dict())
        plain.head.weight.copy_(self.head.weight * scale)
        plain.head.bias.copy_(self.head.bias - self.head.weight @ (scale * self.batch_norm.running_mean))
        return plain.train(self.training)

    @torch.no_grad()
    def initialize(self, std: float, generator: torch.Generator | None = None) -> None:
        """A fresh linear layer: weights of this standard deviation (paper's code: 2e-5, linear probe 0.01), bias 0."""
        nn.init.trunc_normal_(self.head.weight, std=std, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (B, C, *S), normalised, -> (B, K) scores.

        noise: (B, 2 L) uniform numbers from 0 to below 1, from which the drop path of training is decided.
        """
        features = self.features(images, noise)
        return self.head(features if self.batch_norm is None else self.batch_norm(features))

    def encode(self, images: Tensor, layer: int | None = None) -> Tensor:
        """Images (B, C, *S), normalised, -> features (B, T + N, D) of the encoder, class tokens first.

        layer: the block whose output is taken, 1..depth; default the last.
        """
        return self.encoder(images, layer)

    def features(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, C, *S) -> (B, D): pooled and normalised, what the linear layer reads (before its batch norm)."""
        self.encoder.check(images)
        tokens = self.encoder.embed(patchify(images, self.encoder.patch_size))
        keep = None if noise is None or not self.training or self.drop_path == 0 else self.branches_kept(noise)
        (last,) = deque(self.encoder.states(tokens, keep), maxlen=1)  # (B, T + N, D)
        classes = self.encoder.class_tokens
        if self.norm is None:
            return self.encoder.norm(last[:, : self.encoder.read_classes]).mean(dim=1)
        return self.norm(last[:, classes:].mean(dim=1))

    def branches_kept(self, noise: Tensor) -> Tensor:
        """As `branches_kept` of its encoder."""
        return branches_kept(self.encoder, self.drop_path, noise)


def branches_kept(encoder: ViT, drop_path: float, noise: Tensor) -> Tensor:
    """(B, 2 L) uniform numbers -> (B, L, 2): 0 for a branch that is left out, else what keeps its mean; frozen blocks
    leave nothing out. drop_path: the chance of the last block's."""
    learns = [any(p.requires_grad for p in block.parameters()) for block in encoder.blocks]
    rates = torch.linspace(0, drop_path, encoder.depth) * torch.tensor(learns)
    rates = rates.to(noise, non_blocking=True)[:, None]  # (L, 1)
    return (noise.view(-1, encoder.depth, 2) >= rates) / (1 - rates)


class Neighbours(nn.Module):
    """A ViT and a bank of labelled images: of a new one, the k nearest by cosine vote. Nothing was learnt but by the
    encoder. Source: Wu et al., arXiv 1805.01978, section 3.4.

    bank (M, D): features of the labelled images, of length 1. answers: (M,) int64 classes where the link is "log"; else
    (M, K) float32, 1 for each label that applies, or numbers. k is cut to M. temperature: see `votes`.
    pool: what is compared, of the tokens after the encoder's norm: the mean of the patches', or of the class tokens but
        its registers.
    """

    bank: Tensor
    answers: Tensor

    def __init__(
        self,
        encoder: ViT,
        shape: tuple[int, int],
        pool: Pool = "mean",
        link: Link = "log",
        k: int = 20,
        temperature: float = 0.07,
    ) -> None:
        """shape: (labelled images M, outputs K); the bank is empty until it is filled or loaded."""
        super().__init__()
        if pool == "class" and encoder.read_classes == 0:
            raise BadValue("this model has no class token", "choose pool 'mean'")
        self.encoder, self.pool, self.link, self.k, self.temperature = encoder, pool, link, k, temperature
        images, self.outputs = shape
        self.register_buffer("bank", torch.zeros(images, encoder.embed_dim))
        answers = torch.zeros(images, dtype=torch.long) if link == "log" else torch.zeros(images, self.outputs)
        self.register_buffer("answers", answers)
        self.register_state_dict_post_hook(describe)

    def fill(self, features: Tensor, answers: Tensor) -> "Neighbours":
        """Itself, with the features (M, D) of labelled images and what is right of them, as `answers`."""
        self.bank.copy_(F.normalize(features, dim=1))
        self.answers.copy_(answers)
        return self

    def is_sound(self) -> bool:
        """Whether every image's class is one of the outputs."""
        return self.link != "log" or bool((self.answers >= 0).all() and (self.answers < self.outputs).all())

    def arguments(self) -> dict[str, Any]:
        """Plain values that describe it, for `from_arguments`."""
        return {
            "encoder": self.encoder.arguments(),
            "images": len(self.bank),
            "outputs": self.outputs,
            "pool": self.pool,
            "link": self.link,
            "k": self.k,
            "temperature": self.temperature,
        }

    @classmethod
    def from_arguments(cls, values: dict[str, Any]) -> "Neighbours":
        """One of that shape. Raises KeyError, TypeError or ValueError for values that describe none."""
        shape = (values["images"], values["outputs"])
        return cls(vit_of(values["encoder"]), shape, values["pool"], values["link"], values["k"], values["temperature"])

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, *S), normalised, -> (B, K) scores: the votes by the link."""
        features, kind = self.features(images), images.device.type
        # Rounded to bfloat16, similarities would tell neighbours no longer apart.
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
            similarity = F.normalize(features, dim=1) @ self.bank.to(features.dtype).T
            share = votes(*_nearest(similarity, self.k), self.answers, self.outputs, self.temperature)
            if self.link == "none":
                return share
            score = share.clamp_min(_LEAST).log()
            return score if self.link == "log" else score - (1 - share).clamp_min(_LEAST).log()

    def margin(self, images: Tensor) -> Tensor:
        """(B, C, *S) -> (B,): by how much the k-th neighbour is nearer than the next; inf where there is none."""
        similarity = F.normalize(self.features(images), dim=1) @ self.bank.T
        if len(self.bank) <= self.k:
            return similarity.new_full((len(similarity),), torch.inf)
        return similarity.topk(self.k + 1, dim=1).values[:, -2:].diff(dim=1)[:, 0].neg()

    def encode(self, images: Tensor, layer: int | None = None) -> Tensor:
        """Images (B, C, *S), normalised, -> features (B, T + N, D) of the encoder, class tokens first.

        layer: the block whose output is taken, 1..depth; default the last.
        """
        return self.encoder(images, layer)

    def features(self, images: Tensor) -> Tensor:
        """(B, C, *S) -> (B, D) float32: what is compared with the bank."""
        tokens = self.encoder(images)
        classes = self.encoder.class_tokens
        part = tokens[:, classes:] if self.pool == "mean" else tokens[:, : self.encoder.read_classes]
        return part.mean(dim=1, dtype=torch.float32)


Answering = Classifier | Neighbours
"""What says something of an image: scores for its outputs."""


def votes(similarity: Tensor, index: Tensor, answers: Tensor, outputs: int, temperature: float) -> Tensor:
    """What neighbours say: each votes with the weight exp(similarity / temperature), and all weights are 1 together.

    similarity (n, k), nearest first, with the images `index` (n, k) that are so near, of which `answers` has the class
    (M,) int64, or the values of all outputs (M, K). Returns (n, K): the share of the votes that a class or label gets,
    0..1, or the votes' mean of the numbers.
    """
    # Less the largest: exp stays in range, and the votes' proportions are the same.
    weight = ((similarity - similarity[:, :1]) / temperature).exp()
    weight = weight / weight.sum(dim=1, keepdim=True)
    if not answers.is_floating_point():
        return weight.new_zeros(weight.shape[0], outputs).scatter_add(1, answers[index], weight)
    return (weight[..., None] * answers[index].to(weight)).sum(dim=1)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, places) (B, k) of the k largest of each row (B, M), largest first; of equals the first are in."""
    k = min(k, similarity.shape[1])
    least = similarity.topk(k, dim=1).values[:, -1:]
    above, equal = similarity > least, similarity == least
    is_in = above | (equal & (equal.cumsum(dim=1) <= k - above.sum(dim=1, keepdim=True)))
    values, places = similarity.masked_fill(~is_in, -torch.inf).topk(k, dim=1)
    return values, places


def vit_of(values: dict[str, Any]) -> ViT:
    """Of the values of its `arguments`, as JSON gives them."""
    tuples = {
        name: tuple(sides)
        for name in ("img_size", "patch_size", "position_grid")
        if (sides := values[name]) is not None
    }
    return ViT(**{**values, **tuples})


def learn_last_blocks(model: Classifier, blocks: float) -> None:
    """Freezes all of the encoder but its last `blocks` blocks (Figure 9): 0 leaves the head alone, 0.5 the MLP of the
    last block with its norm as well, the encoder's depth everything, the embedding too.

    Raises ValueError for a number that is none of these.
    """
    learn_blocks(model.encoder, blocks)
    model.encoder.norm.requires_grad_(blocks > 0 and model.pool == "class")  # it stands behind the last block


def learn_blocks(encoder: ViT, blocks: float) -> None:
    """As `learn_last_blocks`, of an encoder whose norm is not asked."""
    depth = encoder.depth
    if blocks != 0.5 and blocks not in range(depth + 1):
        raise ValueError(f"blocks is {blocks:g}; give 0, 0.5, or a whole number up to this encoder's {depth}")
    encoder.requires_grad_(blocks == depth)
    if blocks == 0.5:
        last = encoder.blocks[-1]
        for part in (last.norm2, last.mlp, last.scale2):
            part.requires_grad_(True)
    elif blocks:
        for block in list(encoder.blocks)[depth - int(blocks) :]:
            block.requires_grad_(True)
    encoder.norm.requires_grad_(False)
