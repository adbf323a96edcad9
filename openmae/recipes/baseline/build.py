"""What a baseline is trained with: the method's model, and the stream of its views."""

from dataclasses import dataclass, replace

import torch
from rich.console import Console

from openmae.baselines.beit import VIEWS, BEiT, sampled
from openmae.baselines.method import Method, Seen, Size
from openmae.baselines.methods import METHODS, local_size
from openmae.baselines.supervised import Supervised
from openmae.data.loading.several import SeveralViews
from openmae.data.loading.stream import Stream
from openmae.data.sources.source import Source
from openmae.data.tasks import Answers
from openmae.data.views.augment import Finish
from openmae.data.views.crop import View
from openmae.data.views.photometric import Photometric
from openmae.data.views.statistics import Statistics
from openmae.model import initialize
from openmae.recipes.pretrain.build import Pretraining, stream_of
from openmae.recipes.pretrain.build import build as build_autoencoder

RA_MAGNITUDE = 9.0  # of a training on labels from scratch (MAE, Table 11)


@dataclass(frozen=True)
class Baseline(Pretraining):
    """A pre-training by another method, with nothing left open."""

    method: str = ""


def build(run: Baseline, images: int, right: Answers | None) -> Method:
    """The model, drawn from the seed; its encoder begins as that of a masked autoencoder of this seed does. right: the
    labels, of images that have some. Raises UserError where the method cannot do without."""
    schedule = run.course.schedule
    size = Size(images, schedule.batch_size, schedule.steps, run.course.seed)
    encoder = build_autoencoder(run)[0].encoder
    fresh = {name: value.clone() for name, value in encoder.state_dict().items()}
    kind = METHODS[run.method]
    method = Supervised(encoder, size, right) if kind is Supervised else kind(encoder, size)
    initialize(method, torch.Generator().manual_seed(run.course.seed))
    encoder.load_state_dict(fresh)
    method.start()
    return method


def views_of(run: Baseline, source: Source, workers: int, console: Console) -> Stream | SeveralViews:
    """The crops of a pre-training, with what the method hides of them; or the method's own views."""
    stream, kind = stream_of(run, source, workers, console), METHODS[run.method]
    if not kind.views:
        noise = kind.noise * run.architecture.in_chans * run.architecture.img_size[0] * run.architecture.img_size[1]
        finish = _rand_augment(run.statistics) if kind is Supervised else None
        return replace(stream, masking=kind.masking, repeats=1, view=replace(stream.view, noise=noise, finish=finish))
    course = run.course.schedule
    views = tuple(_view(stream.view, seen, run) for seen in kind.views)
    return SeveralViews(
        stream.source, views, course.batch_size, course.steps, run.course.seed, run.course.shuffle_block
    )


def _view(view: View, seen: Seen, run: Baseline) -> View:
    height, width = local_size(run.architecture, seen.side)
    return replace(
        view,
        img_size=(height, width),
        augmentation=replace(view.augmentation, crop_scale=seen.scale),
        finish=Photometric(run.statistics, *seen.jitter, seen.blur, seen.solarize),
    )


def _rand_augment(statistics: Statistics) -> Finish | None:
    """For 8-bit images of 1 or 3 channels; others are cropped and mirrored alone."""
    return Finish(statistics, RA_MAGNITUDE) if Finish.why_not_ra(statistics) is None else None


def fit_words(method: BEiT, stream: Stream, statistics: Statistics) -> None:
    """The words of a BEiT, to patches of the first training views."""
    batches = (stream.views(number, number + 1) for number in range(min(VIEWS, stream.batch_size * stream.steps)))
    views = [(statistics.normalize(batch.images), batch.queries) for batch in batches]
    method.fit_words(sampled(views, method.encoder.patch_size))
