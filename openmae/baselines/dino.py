"""DINO: a student that sees crops is to say what its moving average says of other crops (arXiv 2104.14294)."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import log, log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmae.baselines.method import (
    Average,
    Collapsed,
    Method,
    Seen,
    Size,
    features,
    first_momentum,
    in_full,
    momentum_at,
    scaled,
)
from openmae.data.loading.stream import Batch
from openmae.heads import Encoder
from openmae.model import ViT, sincos_positions

STUDENT, TEACHER = 0.1, 0.04  # temperatures; the teacher's is not raised, which the paper does over 30 epochs
CENTRE_KEPT, WATCH_KEPT = 0.9, 0.95  # from step to step
LEAST_KNOWN, LEAST_KL = 0.01, 0.01  # nats; less of either is a collapse
# Of the steps: from one prototype for all nothing comes back, but training may well begin with a plateau on which all
# prototypes are alike.
ONE_FROM, ALIKE_FROM = 0.2, 0.5
LOCAL_SIDE = 96 / 224


@dataclass(frozen=True)
class _Noted:
    """Sums over count images: of what the teacher says of one (K,), of what the watch sees (3,)."""

    count: int
    teacher: Tensor
    seen: Tensor


class DINO(Method):
    """Two global and eight local crops; the teacher, which sees the global ones, is what is kept."""

    views = (
        Seen((0.4, 1.0), blur=1.0),
        Seen((0.4, 1.0), blur=0.1, solarize=0.2),
        *(Seen((0.05, 0.4), side=LOCAL_SIDE),) * 8,
    )
    centre: Tensor
    watched: Tensor

    def __init__(self, encoder: ViT, size: Size) -> None:
        super().__init__(encoder, size)
        self.prototypes = prototypes_for(size.images)
        self.head = Head(encoder.embed_dim, scaled(2048, encoder), self.prototypes)
        self.teacher = Average(deepcopy(encoder), deepcopy(self.head))
        self.register_buffer("centre", torch.zeros(self.prototypes))
        self.register_buffer("watched", torch.zeros(4))  # entropy, divergence, information; steps
        self.step = 0
        # Of a step's micro-batches, which may be at work at the same time, by their first image.
        self.noted: dict[int, _Noted] = {}

    def start(self) -> None:
        """The teacher begins as the student."""
        self.teacher.follow([self.encoder, self.head], 0.0, torch.ones(()))

    def resting(self) -> tuple[Sequence[nn.Parameter], int]:
        """The last layer, for an epoch, or a tenth of a short run (appendix C)."""
        epoch = round(self.size.images / self.size.batch_size)
        return list(self.head.last.parameters()), min(epoch, self.size.steps // 10)

    def loss(self, views: Sequence[Tensor], batch: Batch) -> Tensor:
        """Cross entropy between views; also notes what the centre and the watch need of the step."""
        globals_, locals_ = torch.cat(list(views[:2])), list(views[2:])
        told = [*self.head(features(self.encoder, globals_)).float().chunk(2)]
        if locals_:
            sides = zip(locals_[0].shape[2:], self.encoder.patch_size, strict=True)
            grid = tuple(side // patch for side, patch in sides)
            counted_in = self.encoder.grid  # positions of the whole image's grid, laid over the crop
            positions = sincos_positions(grid, self.encoder.embed_dim, counted_in).to(globals_.device)
            told += self.head(features(self.encoder, torch.cat(locals_), positions)).float().chunk(len(locals_))
        with torch.no_grad():
            encoder, head = self.teacher.parts
            said = head(features(encoder, globals_)).float().chunk(2)  # type: ignore[arg-type]
            self._note(said, told[:2], batch)
        return cross_entropy(said, told, self.centre, STUDENT, TEACHER)

    def _note(self, said: Sequence[Tensor], told: Sequence[Tensor], batch: Batch) -> None:
        """Sums over a micro-batch. What is compared for the watch is of the same views."""
        both, count = torch.cat(list(said)), len(batch)
        sure = F.log_softmax((both - self.centre) / TEACHER, dim=1)
        seen = count * torch.stack(watch(sure, F.log_softmax(torch.cat(list(told)) / STUDENT, dim=1)))
        self.step = self.step_of(batch)
        self.noted[batch.start] = _Noted(count, both.sum(0) / 2, seen)

    def _of_the_step(self) -> "_Noted":
        """Sums over it, in the order of its images; not over larger micro-batches for which memory was too small."""
        found = _Noted(0, torch.zeros_like(self.centre), torch.zeros_like(self.watched[:3]))
        first = self.step * self.size.batch_size
        while (one := self.noted.get(first + found.count)) is not None:
            found = _Noted(found.count + one.count, found.teacher + one.teacher, found.seen + one.seen)
        self.noted = {}
        return found

    def moved(self, taken: Tensor) -> None:
        """The teacher follows, and so does the centre."""
        momentum = momentum_at(first_momentum(self.size.batch_size), self.step, self.size.steps)
        self.teacher.follow([self.encoder, self.head], momentum, taken)
        was_taken = taken.to(self.centre) > 0  # what comes of a step that is not finite is no number
        noted = self._of_the_step()
        centre = moved_centre(self.centre, noted.teacher / max(1, noted.count))
        self.centre.copy_(torch.where(was_taken, centre, self.centre))
        kept = torch.clamp(1 - 1 / (self.watched[3] + 1), max=WATCH_KEPT)
        seen = self.watched[:3] * kept + noted.seen / max(1, noted.count) * (1 - kept)
        self.watched.copy_(torch.where(was_taken, torch.cat([seen, self.watched[3:] + 1]), self.watched))

    def check(self) -> dict[str, float]:
        """The teacher's entropy, the divergence of the student from it, and what it tells of an image, in nats."""
        entropy, divergence, known = (round(float(value), 5) for value in self.watched[:3])
        most, taken = log(self.prototypes), float(self.watched[3]) / max(1, self.size.steps)
        is_one = entropy < most / 2
        if taken >= (ONE_FROM if is_one else ALIKE_FROM) and (known < LEAST_KNOWN or divergence < LEAST_KL):
            how = "one prototype for all images" if is_one else "all prototypes alike for every image"
            raise Collapsed(
                f"DINO has collapsed: the teacher says {how} (its entropy is {entropy:.2g} of {most:.2f} nats, its "
                f"divergence from the student {divergence:.2g}, what it tells of an image {known:.2g})",
                "a smaller rate, larger batches or more images may help",
            )
        return {"teacher_entropy": entropy, "teacher_student_kl": divergence, "teacher_information": known}

    def left(self) -> Encoder:
        """The teacher's encoder, which is the better one (Figure 6)."""
        return Encoder(self.teacher.parts[0])  # type: ignore[arg-type]


class Head(nn.Module):
    """Three layers, then how alike what comes out is to each prototype: cosines (appendix C)."""

    def __init__(self, inputs: int, hidden: int, prototypes: int, bottleneck: int = 256) -> None:
        super().__init__()
        layers = [nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.last = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) -> (B, K), each from -1 to 1."""
        directions = F.normalize(self.layers(inputs).float(), dim=1)
        with in_full(directions):
            return F.linear(directions, F.normalize(self.last.weight, dim=1))


def prototypes_for(images: int) -> int:
    """A tenth of the images, 1,024 to 4,096, a power of two: the paper's 65,536 are for a million of them."""
    return int(min(4096, max(1024, 2 ** round(log2(max(2, images / 10))))))


def cross_entropy(
    said: Sequence[Tensor], told: Sequence[Tensor], centre: Tensor, student: float, teacher: float
) -> Tensor:
    """said: (B, K) by the teacher of each global view; told: (B, K) by the student of these and others, in the same
    order -> the mean cross entropy over pairs of different views (equation 3)."""
    wanted = [F.softmax((one - centre) / teacher, dim=1) for one in said]
    logs = [F.log_softmax(one / student, dim=1) for one in told]
    pairs = [-(p * q).sum(dim=1).mean() for i, p in enumerate(wanted) for j, q in enumerate(logs) if i != j]
    return torch.stack(pairs).mean()


def moved_centre(centre: Tensor, mean: Tensor) -> Tensor:
    """(K,) after a step whose teacher outputs have this mean (equation 4)."""
    return centre * CENTRE_KEPT + mean * (1 - CENTRE_KEPT)


def watch(sure: Tensor, logs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, K) log probabilities by teacher and student, of the same views -> the teacher's mean entropy, the mean
    divergence KL(teacher || student), and how much the teacher's answer tells of which image it is: the entropy of the
    mean answer less the mean entropy, 0 where all images get the same one."""
    p = sure.exp()
    entropy = -(p * sure).sum(1).mean()
    mean = p.mean(0)
    return entropy, (p * (sure - logs)).sum(1).mean(), -(mean * mean.clamp_min(1e-30).log()).sum() - entropy
