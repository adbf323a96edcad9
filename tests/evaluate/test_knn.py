"""Nearest neighbours against brute force and scikit-learn, and the command."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch import Tensor
from torch.nn.functional import normalize

from openmae.data.tasks import Answers, Task
from openmae.evaluate.knn import knn_predict
from openmae.evaluate.metrics import accuracy
from openmae.evaluate.neighbours import nearest
from openmae.heads import Neighbours
from openmae.model import ViT
from openmae.weights.loaded import LINKS


def rows(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def of_classes(labels: Tensor, count: int = 3) -> Answers:
    return Answers("classification", tuple("abcdefgh"[:count]), labels.numpy())


def weights_at(temperature: float):  # type: ignore[no-untyped-def]
    return lambda distances: np.exp((1 - distances) / temperature)  # scikit-learn's cosine distance


@given(
    st.integers(2, 60), st.integers(1, 30), st.integers(1, 8), st.sampled_from([0.07, 1.0]),
    st.tuples(st.integers(1, 7), st.integers(1, 20)), st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_shares_of_the_votes_are_scikit_learns(
    count: int, k: int, dim: int, temperature: float, chunks: tuple[int, int], kind: torch.dtype
) -> None:
    train, test = rows(count, dim + 1, 1).to(kind), rows(13, dim + 1, 2).to(kind)
    labels = torch.arange(count) % 3
    oracle = KNeighborsClassifier(min(k, count), weights=weights_at(temperature), metric="cosine", algorithm="brute")
    oracle.fit(train.double().numpy(), labels.numpy())
    scores = knn_predict(train, of_classes(labels), test, k, temperature, chunks=chunks)[:, : len(oracle.classes_)]
    expected = oracle.predict_proba(test.double().numpy())
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-4 if kind == torch.float32 else 1e-9)


def test_several_labels_and_numbers_are_scikit_learns() -> None:
    train, test = rows(50, 6, 3).double(), rows(20, 6, 4).double()
    values = rows(50, 3, 5).numpy()
    for task, of in (("regression", values[:, :1]), ("multi-label", (values > 0).astype(np.float32))):
        oracle = KNeighborsRegressor(7, weights=weights_at(0.1), metric="cosine", algorithm="brute")
        expected = oracle.fit(train.numpy(), of).predict(test.numpy())
        found = knn_predict(train, Answers(task, ("a", "b", "c")[: of.shape[1]], of), test, 7, 0.1)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 12), st.integers(1, 9), st.integers(1, 40))
def test_neighbours_are_those_of_brute_force_and_of_equals_the_first(
    axes: list[int], k: int, queries: int, references: int
) -> None:
    """Axis-aligned vectors: many are exactly equal, and every way to cut them into chunks must choose the same."""
    train = torch.eye(4)[torch.tensor(axes)]
    test = torch.tensor([[2.0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [-1, 0, 0, 3]])
    similarity, index = nearest(test, train.split(references), k, at_once=queries)
    exact = normalize(test, dim=1) @ train.T
    order = np.lexsort((np.broadcast_to(np.arange(len(axes)), exact.shape), -exact.numpy()), axis=1)
    np.testing.assert_array_equal(index.numpy(), order[:, :k])
    np.testing.assert_array_equal(similarity.numpy(), exact.gather(1, index).numpy())


@pytest.mark.parametrize("task", ["classification", "multi-label", "regression"])
def test_the_classifier_says_what_knn_says_also_of_equals_and_as_a_graph(task: Task) -> None:
    """Of images that are there twice under other labels the first votes; scikit-learn agrees where none are."""
    torch.manual_seed(3)  # of others two neighbours may be nearly as far, and which is nearer goes with the batch
    encoder = ViT((8, 8), (4, 4), 1, 16, 1, 2)
    bank, images = rows(30 * 64, 1, 6).view(30, 1, 8, 8), rows(9 * 64, 1, 7).view(9, 1, 8, 8)
    bank[20:] = bank[:10]
    labels = rows(30, 2, 8)
    values = {"classification": torch.arange(30) % 2, "multi-label": (labels > 0).float(), "regression": labels[:, :1]}
    right = Answers(task, ("a", "b")[: 1 if task == "regression" else 2], values[task].numpy())
    link = LINKS[task]
    model = Neighbours(encoder, (30, len(right.names)), "class", link, k=5, temperature=0.01).eval()
    with torch.no_grad():
        known, features = model.features(bank), model.features(images)
        scores = model.fill(known, values[task])(images)
        told = {"log": scores.softmax(1), "log odds": scores.sigmoid(), "none": scores}[link]
        torch.testing.assert_close(told, knn_predict(known, right, features, 5, 0.01), rtol=0, atol=1e-6)
        if task == "multi-label":  # of classes, onnxruntime is asked: tests/recipes/test_probe.py
            any_batch = ({0: torch.export.Dim("b", min=1)},)
            graph = torch.export.export(model, (images[:2],), dynamic_shapes=any_batch).module()
            torch.testing.assert_close(torch.cat([graph(images[:1]), graph(images[1:])]), scores, rtol=0, atol=1e-4)
        assert model.margin(images).shape == (9,)
        model = Neighbours(encoder, (20, len(right.names)), "class", link, k=5, temperature=0.01)
        scores = model.fill(known[:20], values[task][:20]).eval()(images)
    one = KNeighborsClassifier if task == "classification" else KNeighborsRegressor
    oracle = one(5, weights=weights_at(0.01), metric="cosine", algorithm="brute")
    oracle.fit(known[:20].double().numpy(), values[task][:20].numpy())
    said = oracle.predict_proba if task == "classification" else oracle.predict
    told = {"log": scores.softmax(1), "log odds": scores.sigmoid(), "none": scores}[link]
    np.testing.assert_allclose(told.numpy(), said(features.double().numpy()), atol=2e-4)


def test_memory_is_that_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product is larger than the chunks say, whatever the number of rows."""
    sizes = []
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: sizes.append((len(a), b.shape[1])) or product(a, b))
    nearest(rows(50, 4, 1), rows(100, 4, 0).split(30), 5, at_once=8)
    assert max(queries for queries, _ in sizes) == 8
    assert max(references for _, references in sizes) == 30
    assert sum(queries * references for queries, references in sizes) == 5000


def test_accuracy_of_equals_and_of_what_is_no_number() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])
    labels = torch.tensor([2, 0, 0])
    assert accuracy(scores, labels) == pytest.approx(1 / 3)
    assert accuracy(scores, labels, 2) == pytest.approx(2 / 3)
    assert accuracy(scores, labels, 5) == 1.0
    same = torch.zeros(3, 3)
    assert accuracy(same, torch.tensor([0, 1, 2])) == pytest.approx(1 / 3)  # the first, not all
    assert accuracy(torch.full((3, 3), torch.nan), torch.tensor([0, 1, 2])) == 0.0
