"""How alike the features of different images are, and the penalties on that."""

import math

import pytest
import torch

from mimsuite.masked.quality import deviation, draw_directions, mean_cosine, sigreg, uniformity, visible_mean
from mimsuite.types import FeatureMap

CPU = torch.device("cpu")


def features(count=6, width=8):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_mean_counts_visible_cells_only():
    grid = torch.arange(8.0).reshape(1, 2, 2, 2)
    mask = torch.tensor([[[True, False], [False, True]]])
    assert visible_mean(FeatureMap(grid, None), mask).tolist() == [[1.5, 5.5]]


def test_a_cell_that_is_partly_hidden_counts_for_its_visible_part():
    grid = torch.tensor([[[[1.0, 5.0]]]])  # two cells; the mask has four columns
    mask = torch.tensor([[[True, False, False, False]]])
    assert visible_mean(FeatureMap(grid, None), mask).item() == pytest.approx((0.5 * 1 + 5) / 1.5)


def test_a_mask_of_larger_units_counts_for_all_their_cells():
    grid = torch.arange(4.0).reshape(1, 1, 1, 4)
    mask = torch.tensor([[[True, False]]])
    assert visible_mean(FeatureMap(grid, None), mask).item() == 2.5


def test_cosine_and_uniformity_are_means_over_pairs_of_different_images():
    rows = torch.nn.functional.normalize(features(), dim=1)
    pairs = [float(rows[i] @ rows[j]) for i in range(6) for j in range(6) if i != j]
    assert float(mean_cosine(features())) == pytest.approx(sum(pairs) / 30, abs=1e-12)
    assert float(uniformity(features())) == pytest.approx(sum(p * p for p in pairs) / 30, abs=1e-12)


def test_features_that_are_alike_have_cosine_one_and_no_deviation():
    same = torch.ones(4, 8)
    assert float(mean_cosine(same)) == pytest.approx(1)
    assert float(deviation(same)) == pytest.approx(0, abs=1e-6)
    assert float(deviation(features(4096, 16))) == pytest.approx(1, abs=0.02)


def test_sigreg_is_small_for_normal_features_and_large_for_others():
    normal, directions = features(2048, 8), draw_directions(8, 64, 1, CPU).double()
    assert float(sigreg(normal, directions)) < 2
    assert float(sigreg(normal * 0 + 1, directions)) > 100
    assert float(sigreg(normal * 3, directions)) > 100


def test_sigreg_is_the_integral_of_the_squared_distance():
    values = torch.tensor([[0.3], [-1.2], [0.7]], dtype=torch.float64)
    found, step = 0.0, 3 / 16
    for n in range(17):
        t = n * step
        real = sum(math.cos(t * float(v)) for v in values) / 3 - math.exp(-t * t / 2)
        imaginary = sum(math.sin(t * float(v)) for v in values) / 3
        found += (real**2 + imaginary**2) * math.exp(-t * t / 2) * step * (1 if n in (0, 16) else 2)
    assert float(sigreg(values, torch.ones(1, 1, dtype=torch.float64))) == pytest.approx(3 * found, rel=1e-6)


def test_directions_follow_from_the_seed():
    assert torch.equal(draw_directions(4, 3, 7, CPU), draw_directions(4, 3, 7, CPU))
    assert not torch.equal(draw_directions(4, 3, 7, CPU), draw_directions(4, 3, 8, CPU))
    assert torch.allclose(draw_directions(4, 3, 7, CPU).norm(dim=0), torch.ones(3))


def test_nobody_waits_for_the_copy_of_directions_to_a_gpu(monkeypatch):
    steps, wanted = [], draw_directions(4, 3, 7, CPU)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: steps.append("page-locked") or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, place, non_blocking=False: steps.append(non_blocking) or x)
    assert torch.equal(draw_directions(4, 3, 7, torch.device("cuda")), wanted)
    assert steps == ["page-locked", True]
