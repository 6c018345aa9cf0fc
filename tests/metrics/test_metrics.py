"""Figures of masked image modeling against plain numpy."""

import numpy as np
import pytest
import torch
from torchmetrics.functional import mean_absolute_error

from mimsuite.masked.losses import masked_error
from mimsuite.masked.targets import TARGETS
from mimsuite.metrics.psnr import HiddenPSNR, flat_loss, hidden_psnr, visible_mean_loss
from mimsuite.words import LOSSES

MASK = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [0, 0]]]).bool()


@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 8, 12, generator=g), torch.rand(2, 3, 8, 12, generator=g)


def hidden_values(x, i):
    """All hidden values of image i, channel by channel: (C, pixels)."""
    big = np.kron(MASK[i].numpy(), np.ones((4, 6))).astype(bool)
    return x[i].numpy()[:, big], x[i].numpy()[:, ~big]


def test_psnr_is_that_of_the_hidden_pixels_of_each_image(pair):
    prediction, pixels = pair
    expected = [
        10 * np.log10(1 / np.mean((hidden_values(prediction, i)[0] - hidden_values(pixels, i)[0]) ** 2)) for i in (0, 1)
    ]
    torch.testing.assert_close(hidden_psnr(prediction, pixels, MASK), torch.tensor(expected, dtype=torch.float32))


def test_psnr_ignores_visible_pixels(pair):
    prediction, pixels = pair
    big = MASK.repeat_interleave(4, 1).repeat_interleave(6, 2)[:, None]
    other = torch.where(big, prediction, 1 - prediction)
    assert torch.equal(hidden_psnr(other, pixels, MASK), hidden_psnr(prediction, pixels, MASK))


def test_psnr_clips_the_prediction_as_a_picture_would():
    white = torch.ones(1, 3, 8, 12)
    assert hidden_psnr(white * 1.7, white, MASK[:1]).item() == 100


def test_psnr_of_an_image_with_nothing_hidden_is_nan_and_left_out_of_the_mean(pair):
    prediction, pixels = pair
    mask = MASK.clone()
    mask[1] = False
    each = hidden_psnr(prediction, pixels, mask)
    assert each.isnan().tolist() == [False, True]
    metric = HiddenPSNR()
    metric.update(prediction, pixels, mask)
    torch.testing.assert_close(metric.compute().float(), each[0])


def test_mean_psnr_counts_images_not_batches(pair):
    prediction, pixels = pair
    metric = HiddenPSNR()
    metric.update(prediction, pixels, MASK)
    metric.update(prediction[:1], pixels[:1], MASK[:1])
    each = hidden_psnr(prediction, pixels, MASK)
    torch.testing.assert_close(metric.compute().float(), (2 * each[0] + each[1]) / 3)


def test_flat_colour_baseline_is_the_masked_l1_of_the_visible_mean_colour(pair):
    pixels = pair[1] - 0.5
    flat = torch.empty_like(pixels)
    for i in (0, 1):
        flat[i] = torch.from_numpy(hidden_values(pixels, i)[1].mean(axis=1))[:, None, None]
    loss = visible_mean_loss(pixels, MASK)
    torch.testing.assert_close(loss, masked_error(flat, pixels, MASK))
    errors = [np.abs(hidden_values(flat, i)[0] - hidden_values(pixels, i)[0]).ravel() for i in (0, 1)]
    assert loss.item() == pytest.approx(np.concatenate(errors).mean(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", TARGETS)
def test_a_flat_colour_is_compared_in_the_space_of_the_target(name, loss, pair):
    target, pixels = TARGETS[name](), torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[[True, False, False], [False, True, True]]] * 2)
    found = flat_loss(target, pixels, mask, (8, 8), loss)
    flat = pixels.clone()
    for i, hidden in enumerate(mask.repeat_interleave(8, 1).repeat_interleave(8, 2)):
        flat[i] = pixels[i][:, ~hidden].mean(1)[:, None, None]
    # Cells of one grey are 0 when they are normalised, as are the histograms of an image of one colour.
    guess = flat if name == "pixels" else target.dense(flat.mean(1, keepdim=True).expand_as(flat), (8, 8))
    torch.testing.assert_close(found, masked_error(guess, target.dense(pixels, (8, 8)), mask, loss), atol=2e-3, rtol=0)
    assert found > 0.05


def test_baseline_of_an_image_without_visible_pixels_is_its_distance_from_the_data_mean():
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    value = visible_mean_loss(pixels, torch.ones(1, 2, 2, dtype=torch.bool))
    torch.testing.assert_close(value, mean_absolute_error(torch.zeros_like(pixels), pixels))
