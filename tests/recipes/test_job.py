"""The job that every training is, proven by one of a few lines: a denoising autoencoder."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file, save
from torch import Tensor, nn

from openmae.data.loading.stream import Batch, Stream
from openmae.files.whole import write_file
from openmae.recipes.pretrain.build import Pretraining, stream_of
from openmae.recipes.pretrain.job import PRETRAIN, Images
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.broken import BrokenFiles
from openmae.recipes.training.job import begun
from openmae.recipes.training.kind import Here, Job, Look
from openmae.report.page.run import write_report
from openmae.train.loop import fit
from openmae.train.optimizers import adamw
from openmae.train.run import read_metrics
from tests.images import write_images


class Denoise(Job[nn.Sequential]):
    """Noisy pixels in, clean ones out (Vincent et al., 2008); everything but what follows is the shared job's."""

    def __init__(self, run: Pretraining, images: Images, here: Here) -> None:
        self.run, self.images, self.here, self.course = run, images, here, run.course
        torch.manual_seed(run.course.seed)
        encoder = run.architecture.build().encoder
        self.model = nn.Sequential(encoder, nn.Linear(encoder.embed_dim, 4 * 4 * 3))
        self.broken = BrokenFiles(images.train, here.folder, run.course.max_broken)
        self.measured: list[int] = []

    def stream(self) -> Stream:
        stream = stream_of(self.run, self.images.train, self.here.workers, self.here.console)
        return replace(stream, masking=None, view=replace(stream.view, noise=16 * 16 * 3))

    def loss(self) -> Callable[[nn.Sequential, Batch], Tensor]:
        def loss(model: nn.Sequential, batch: Batch) -> Tensor:
            clean = self.run.statistics.normalize(batch.images)
            noisy = clean + batch.noise.reshape(clean.shape) - 0.5
            patches = nn.functional.unfold(clean, 4, stride=4).mT  # (B, N, P)
            return (model(noisy)[:, 1:] - patches).square().mean()

        return loss

    def optimizer(self) -> torch.optim.Optimizer:
        return adamw(self.model, (0.9, 0.95), self.run.weight_decay)

    def looks(self) -> Mapping[int, Look[nn.Sequential]]:
        def look(whole: nn.Sequential, step: int) -> dict[str, float]:
            self.measured.append(step)
            return {"bias": whole[1].bias.norm().item()}

        return {5: look}

    def save(self, whole: nn.Sequential, step: int) -> None:
        write_file(self.here.folder.path / "model.safetensors", save(whole.state_dict()))

    def finish(self, whole: nn.Sequential) -> None:
        if self.here.ranks.leads:
            write_report(self.here.folder.path)


DENOISE = replace(PRETRAIN, job=Denoise)


def denoise(data: Path, out: Path, **changes: object) -> Denoise:
    settings = Pretrain(
        str(data), out, img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, batch_size=8, micro_batch=8,
        epochs=20, blr=0.05, precision="fp32", device="cpu", workers=0, checkpoint_minutes=0, keep=100, **changes,
    )  # fmt: skip
    with begun(DENOISE, settings, Console(quiet=True)) as run:
        fit(run.training)
    return run.job  # type: ignore[return-value]


def test_a_new_kind_of_training_states_its_model_loss_looks_and_what_it_leaves(tmp_path: Path) -> None:
    data, whole, broken = write_images(tmp_path / "data", 30), tmp_path / "whole", tmp_path / "broken"
    assert denoise(data, whole).measured == [5]
    lines = read_metrics(whole)
    losses = [line["loss"] for line in lines]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert [line["step"] for line in lines if "bias" in line] == [5]
    assert {"config.toml", "environment.json", "report.html"} <= {path.name for path in whole.iterdir()}
    shutil.copytree(whole, broken)
    for checkpoint in (broken / "checkpoints").iterdir():  # as if it had been killed then
        if checkpoint.name > "step-00000020":
            shutil.rmtree(checkpoint)
    assert denoise(data, broken).measured == []
    assert [line["loss"] for line in read_metrics(broken)] == losses
    ours, theirs = (load_file(path / "model.safetensors") for path in (whole, broken))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
