"""The linear layer that a fine-tuning begins with: fitted to views of the images."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.stream import Batch
from openmae.data.tasks import Answers
from openmae.data.views.statistics import Statistics
from openmae.heads import Classifier
from openmae.model import ViT
from openmae.recipes.finetune.frozen import Frozen, layer_of_views

PLAIN = Statistics((0.5,), (0.25,), PixelFormat(1))


def batches(images: Tensor, each: int) -> list[Batch]:
    """Of noisy views of the images (n, H, W), each in its turn."""
    draws = torch.Generator().manual_seed(0)
    found = []
    for start in range(0, 40 * len(images), each):
        indices = torch.arange(start, start + each) % len(images)
        noise = torch.randint(0, 60, (each, 1, 8, 8), generator=draws)
        views = (images[indices, None].int() + noise).clamp(0, 255).to(torch.uint8)
        none = torch.zeros(each, 0)
        found.append(Batch(views, none.long(), none.long(), none, indices, start, []))
    return found


@pytest.mark.parametrize(("strength", "used"), [(0.03, 0.03), (30.0, 0.1)])
def test_it_is_scikit_learns_of_eight_views_of_each_image_as_strong_as_the_probe(strength: float, used: float) -> None:
    """n x the strength over the views: what the labels weigh beside the penalty stays; a steep one is held back."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (12, 8, 8), dtype=torch.uint8)
    labels = np.arange(12) % 3
    model = Classifier(ViT((8, 8), (4, 4), 1, 24, 1, 2), 4).train()
    right = Answers("classification", ("a", "b", "c", "none is of it"), labels)
    views = batches(images, 10)
    found = Frozen(torch.zeros(0), torch.zeros(0), strength, [])
    weight, bias = layer_of_views(model, PLAIN, iter(views), right, found)

    seen = features_of(model, views[:10])  # 96 at least
    scaler = StandardScaler().fit(seen)
    oracle = LogisticRegression(C=used * 12 / 100, max_iter=5000, tol=1e-8)
    oracle.fit(scaler.transform(seen), labels[np.arange(100) % 12])
    said = (torch.from_numpy(seen) @ weight.T + bias).log_softmax(1)
    assert not model.training
    assert (said[:, 3] < -9).all()
    np.testing.assert_allclose(said[:, :3], oracle.predict_log_proba(scaler.transform(seen)), atol=2e-3)


def test_of_numbers_it_is_as_strong_as_the_probe() -> None:
    torch.manual_seed(0)
    images, numbers = torch.randint(0, 256, (12, 8, 8), dtype=torch.uint8), np.linspace(0, 3, 12, dtype=np.float32)
    model = Classifier(ViT((8, 8), (4, 4), 1, 24, 1, 2), 1)
    right, views = Answers("regression", ("",), numbers[:, None]), batches(images, 10)
    weight, bias = layer_of_views(model, PLAIN, iter(views), right, Frozen(torch.zeros(0), torch.zeros(0), 30.0, []))
    seen = features_of(model, views[:10])
    scaler = StandardScaler().fit(seen)
    oracle = Ridge(alpha=100 / (30 * 12)).fit(scaler.transform(seen), numbers[np.arange(100) % 12])
    said = torch.from_numpy(seen) @ weight.T + bias
    np.testing.assert_allclose(said[:, 0], oracle.predict(scaler.transform(seen)), atol=2e-3)


def features_of(model: Classifier, views: list[Batch]) -> NDArray[np.float32]:
    with torch.no_grad():
        return torch.cat([model.features(PLAIN.normalize(batch.images)) for batch in views]).numpy()
