"""The metrics of predicted features do not depend on how cells come in batches and processes."""

import math

import pytest
import torch
from torch.nn import functional as F

from mimsuite.masked.latent import latent_error
from mimsuite.masked.quality import ImageSums, deviation, mean_cosine
from mimsuite.metrics.latent import LatentMetrics

DRAW = torch.Generator().manual_seed(0)
TARGET = F.layer_norm(torch.randn(400, 8, generator=DRAW) * torch.tensor([1, 1, 1, 1, 1, 1, 1, 9.0]) + 1, (8,))
PREDICTED = TARGET + torch.randn(400, 8, generator=DRAW)


def metrics(loss, sizes):
    parts = [LatentMetrics(8, 8, loss, 0.5, exchanges=False) for _ in range(2)]
    for number, cells in enumerate(zip(PREDICTED.split(sizes), TARGET.split(sizes), strict=True)):
        parts[number % 2].update(*cells)
    parts[0].merge(parts[1])
    return parts[0].compute()


@pytest.mark.parametrize("loss", ["smooth_l1", "mse", "l1"])
def test_they_are_those_of_all_cells_at_once(loss):
    found = metrics(loss, [1, 199, 150, 50])
    assert found == metrics(loss, [100, 100, 100, 100])
    mean = TARGET.mean(0).expand_as(TARGET)
    assert found["loss"] == pytest.approx(float(latent_error(PREDICTED, TARGET, loss, 0.5)), rel=1e-5)
    assert found["loss_mean_target"] == pytest.approx(float(latent_error(mean, TARGET, loss, 0.5)), rel=1e-4)
    assert found["cosine"] == pytest.approx(float(F.cosine_similarity(PREDICTED, TARGET).mean()), rel=1e-5)


def test_a_prediction_that_is_not_finite_makes_them_nan():
    whole = LatentMetrics(8, 8, "mse", 2.0, exchanges=False)
    whole.update(PREDICTED, TARGET)
    assert not math.isnan(whole.compute()["loss"])
    whole.update(PREDICTED[:1] * math.inf, TARGET[:1])
    assert math.isnan(whole.compute()["loss"])


def test_sums_over_images_give_cosine_and_deviation_of_all():
    unit, parts = F.normalize(PREDICTED, dim=1), [ImageSums(), ImageSums()]
    for number, rows in enumerate(unit.split([1, 199, 200])):
        parts[number % 2].add(rows)
    parts[0].merge(parts[1])
    parts[0].merge(ImageSums())
    wanted = [float(mean_cosine(unit)), float(deviation(unit))]
    assert parts[0].read().tolist() == pytest.approx(wanted, rel=1e-4)
    none = ImageSums()
    none.add(unit[:3] * 0)
    assert none.read().tolist() == [0, 0]
