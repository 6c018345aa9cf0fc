"""kNN against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from mimsuite.errors import InputError
from mimsuite.evaluation.features.views import Features
from mimsuite.evaluation.probes.knn import knn_mean, knn_metrics, knn_predict


def blobs(n, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 7
    centres = torch.randn(7, 12, generator=torch.Generator().manual_seed(9), dtype=dtype)
    return centres[labels] + 1.6 * torch.randn(n, 12, generator=g, dtype=dtype), labels


def test_predictions_equal_those_of_scikit_learn():
    x, y = blobs(400, 0)
    test_x, test_y = blobs(230, 1)
    ks = (1, 5, 10, 20, 200)
    got = knn_predict(x, y, test_x, ks=ks, chunk=64)
    for row, k in zip(got, ks, strict=True):
        oracle = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07), algorithm="brute")
        expected = oracle.fit(x.numpy(), y.numpy()).predict(test_x.numpy())
        assert row.tolist() == expected.tolist()
    assert 0.3 < (got[3] == test_y).float().mean() < 0.95


def test_chunks_do_not_matter():
    x, y = blobs(100, 0)
    test_x, _ = blobs(50, 1)
    assert torch.equal(knn_predict(x, y, test_x, chunk=7), knn_predict(x, y, test_x, chunk=50))


def test_near_neighbours_weigh_more():
    angle = torch.tensor([0.1, 0.6, 0.6])
    x = torch.stack([angle.cos(), angle.sin()], 1)
    query = torch.tensor([[1.0, 0.0]])
    labels = torch.tensor([1, 0, 0])
    assert knn_predict(x, labels, query, ks=(3,)).item() == 1
    assert knn_predict(x, labels, query, ks=(3,), temperature=100).item() == 0


def test_length_of_a_vector_does_not_matter():
    x, y = blobs(100, 0)
    test_x, _ = blobs(50, 1)
    scaled = x * torch.linspace(1, 50, 100)[:, None]
    assert torch.equal(knn_predict(x, y, test_x), knn_predict(scaled, y, test_x))


def test_accuracy_is_the_fraction_of_right_predictions_per_k():
    x, y = blobs(100, 0, torch.float32)
    test_x, test_y = blobs(50, 1, torch.float32)
    test_y = torch.where(torch.arange(50) < 10, 8, test_y)  # a class that training never saw is always wrong
    got = knn_metrics(Features(x, y, y, "mean"), Features(test_x, test_y, test_y, "mean"), ks=(1, 5))
    predicted = knn_predict(x, y, test_x, ks=(1, 5))
    assert got == {
        1: {"top1": float((predicted[0] == test_y).double().mean())},
        5: {"top1": float((predicted[1] == test_y).double().mean())},
    }
    assert 0 < got[5]["top1"] <= 0.8


@pytest.mark.parametrize("k", [0, 101])
def test_impossible_k_is_refused(k):
    x, y = blobs(100, 0)
    with pytest.raises(InputError, match=rf"k={k} neighbours of 100 training images; use 1 to 100"):
        knn_predict(x, y, x, ks=(1, k))


def test_features_of_two_kinds_are_refused():
    x, y = blobs(100, 0, torch.float32)
    with pytest.raises(InputError, match="make both in the same way"):
        knn_metrics(Features(x, y, y, "mean"), Features(x, y, y, "cls"))


def features(x, labels):
    return Features(x, labels, torch.arange(len(x)), "mean")


def numbers(n, seed):
    """Vectors, and two numbers that depend on them."""
    x, _ = blobs(n, seed)
    return x, x[:, :2] + 0.1 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_means_equal_those_of_scikit_learn():
    (x, y), (test_x, _) = numbers(200, 0), numbers(90, 1)
    got = knn_mean(x, y, test_x, ks=(1, 7), chunk=32)
    for mean, k in zip(got, (1, 7), strict=True):
        oracle = KNeighborsRegressor(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07), algorithm="brute")
        np.testing.assert_allclose(mean, oracle.fit(x.numpy(), y.numpy()).predict(test_x.numpy()), atol=1e-12)


def test_figures_of_numbers_are_r2_and_error_of_the_means():
    (x, y), (test_x, test_y) = numbers(200, 0), numbers(90, 1)
    got = knn_metrics(features(x.float(), y[:, :1]), features(test_x.float(), test_y[:, :1]), ks=(1, 10))
    mean = knn_mean(x, y, test_x, ks=(1, 10))[1, :, 0]
    assert got[10]["r2"] == pytest.approx(r2_score(test_y[:, 0], mean), abs=1e-4)
    assert got[10]["mae"] == pytest.approx(float((test_y[:, 0] - mean).abs().mean()), abs=1e-4)
    assert got[1]["r2"] != got[10]["r2"]


def test_figures_of_label_sets_are_the_mean_average_precision_of_the_means():
    (x, y), (test_x, test_y) = numbers(200, 0), numbers(90, 1)
    y, test_y = ((t > 0.5).float() for t in (y, test_y))
    got = knn_metrics(features(x.float(), y), features(test_x.float(), test_y), ks=(5,))
    expected = average_precision_score(test_y, knn_mean(x.float(), y, test_x.float(), ks=(5,))[0])
    assert got == {5: {"map": pytest.approx(expected, abs=1e-6)}}


def test_a_k_above_the_training_images_is_skipped_with_a_line(caplog):
    x, y = blobs(12, 0, torch.float32)
    with caplog.at_level("INFO", "mimsuite"):
        assert list(knn_metrics(features(x, y), features(x + 1, y), ks=(1, 10, 12, 20))) == [1, 10, 12]
    assert "k=20 skipped: there are only 12 training images" in caplog.text
    with pytest.raises(InputError, match="k=20 neighbours of 11 training images"):
        knn_metrics(features(x, y), features(x, y), ks=(20, 30))


def test_an_image_is_not_its_own_neighbour():
    x, y = blobs(40, 0, torch.float32)
    own = torch.arange(40)
    oracle = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    right = 0
    for number in range(40):
        rest = own != number
        (found,) = oracle.fit(x[rest].numpy(), y[rest].numpy()).predict(x[number : number + 1].numpy())
        right += int(found == y[number])
    both = Features(x, y, own, "mean")
    backwards = Features(x.flip(0), y.flip(0), own.flip(0), "mean")
    assert knn_metrics(both, both, ks=(1,))[1]["top1"] == right / 40 < 1
    assert knn_metrics(both, backwards, ks=(1,))[1]["top1"] == right / 40
    other = Features(x + 1e-4, y, own, "mean")  # other images of the same names are neighbours
    assert knn_metrics(both, other, ks=(1,))[1]["top1"] == 1
    assert list(knn_metrics(both, both, ks=(39, 40))) == [39]
