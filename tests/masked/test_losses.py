"""Masked L1 and the classification losses against their formulas."""

import pytest
import torch
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.heads.losses import classification_loss
from mimsuite.masked.losses import error_of, fourier_error, masked_error, masked_error_patches, widen
from mimsuite.masked.patches import expand_mask


def test_masked_error_is_the_mean_over_hidden_pixels_of_the_batch():
    prediction, target = torch.randn(2, 3, 4, 6).double(), torch.randn(2, 3, 4, 6).double()
    mask = torch.tensor([[[True, False]], [[True, True]]])
    wanted = torch.cat([(prediction - target)[0, :, :, :3].flatten(), (prediction - target)[1].flatten()])
    torch.testing.assert_close(masked_error(prediction, target, mask), wanted.abs().mean(), rtol=1e-6, atol=0)


def spectrum_case():
    """Prediction and picture, the mask, and the mask on the pixels."""
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(2, 3, 8, 12, generator=generator).double() for _ in range(2))
    mask = torch.rand(2, 4, 6, generator=generator) < 0.5
    return prediction, target, mask, expand_mask(mask, (8, 12))[:, None]


def test_the_error_of_the_spectrum_is_that_of_the_prediction_pasted_into_the_picture():
    prediction, target, mask, hidden = spectrum_case()
    pasted = torch.where(hidden, prediction, target)
    rows, columns = torch.arange(8).double(), torch.arange(12).double()
    down = torch.exp(-2j * torch.pi * rows[:, None] * rows / 8) / 8**0.5  # the transform by its definition
    across = torch.exp(-2j * torch.pi * columns[:, None] * columns / 12) / 12**0.5
    distance = (down @ (pasted - target).to(down.dtype) @ across).abs()
    weight = distance / distance.amax((2, 3), keepdim=True)
    wanted = (weight * distance**2).mean()
    torch.testing.assert_close(fourier_error(prediction, target, mask), wanted)


def test_the_error_of_the_spectrum_has_no_gradient_where_the_picture_is_visible_nor_through_its_weights():
    prediction, target, mask, hidden = spectrum_case()
    (found,) = torch.autograd.grad(fourier_error(prediction.requires_grad_(), target, mask), [prediction])
    assert not found[(~hidden).expand_as(found)].any()
    error = ((prediction - target) * hidden).detach().requires_grad_()
    size = torch.fft.fft2(error, norm="ortho").abs()
    weight = (size / size.amax((2, 3), keepdim=True)).detach()
    (wanted,) = torch.autograd.grad((weight * size**2).mean(), [error])
    torch.testing.assert_close(found, wanted * hidden)


def test_the_error_of_the_spectrum_of_nothing_hidden_is_zero():
    prediction, target, mask, _ = spectrum_case()
    found = fourier_error(prediction.requires_grad_(), target, torch.zeros_like(mask))
    found.backward()
    assert found == 0
    assert not prediction.grad.any()


BY_HAND = {
    "l1": lambda d: d.abs(),
    "mse": lambda d: d**2,
    "smooth_l1": lambda d: torch.where(d.abs() < 1, d**2 / 2, d.abs() - 0.5),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_kind_of_error_is_its_formula_dense_and_of_patches(kind):
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 5, 3, 2, 2, generator=generator, dtype=torch.float64).mul(2)
    mask = torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)
    wanted = BY_HAND[kind](prediction - target)[mask].sum() / (12 + 1e-5) / 3
    found = masked_error(prediction, target, mask[:, None, None], kind)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=0)
    patches = masked_error_patches(prediction[mask].flatten(1), target[mask].flatten(1), 3, kind)
    torch.testing.assert_close(patches, found, rtol=1e-12, atol=0)


def test_an_unknown_kind_of_error_is_refused():
    with pytest.raises(InputError, match=r"objective.loss=l3 is unknown; it takes l1, mse, smooth_l1"):
        error_of("l3")


# Masks over a target of 4 x 6 places: its places themselves, coarser, finer than them, and finer than pixels of it.
@pytest.mark.parametrize("grid", [(4, 6), (2, 3), (1, 1), (4, 2), (8, 12), (16, 24), (4, 12), (12, 6)])
@pytest.mark.parametrize("kind", BY_HAND)
def test_masked_error_takes_masks_coarser_and_finer_than_the_target(kind, grid):
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 5, 4, 6, generator=generator, dtype=torch.float64).mul(2)
    mask = torch.rand(3, *grid, generator=generator) < 0.3
    mask[0, 0, 0] = True
    total, places = 0.0, 0
    for image in range(3):
        for row in range(4):
            for column in range(6):
                rows = slice(row * grid[0] // 4, max(row * grid[0] // 4 + 1, (row + 1) * grid[0] // 4))
                columns = slice(column * grid[1] // 6, max(column * grid[1] // 6 + 1, (column + 1) * grid[1] // 6))
                if mask[image, rows, columns].any():  # one hidden part hides a place
                    places += 1
                    total += BY_HAND[kind](prediction - target)[image, :, row, column].sum().item()
    found = masked_error(prediction, target, mask, kind)
    assert found.item() == pytest.approx(total / (places + 1e-5) / 5, rel=1e-6)
    assert torch.equal(masked_error(prediction, target, mask.long(), kind), found)


@pytest.mark.parametrize("grid", [(3, 6), (8, 9), (2, 12), (6, 6)])
def test_masked_error_refuses_masks_that_fit_the_target_neither_way(grid):
    x = torch.zeros(1, 3, 4, 6)
    with pytest.raises(InputError, match=f"mask grid {grid[0]}x{grid[1]} ") as error:
        masked_error(x, x, torch.ones(1, *grid, dtype=torch.bool))
    assert "\n" not in str(error.value)


def test_a_place_that_is_visible_under_a_fine_mask_is_ignored():
    prediction, target = torch.randn(1, 9, 2, 2), torch.randn(1, 9, 2, 2)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 3, 0] = True
    before = masked_error(prediction, target, mask)
    torch.testing.assert_close(before, (prediction - target)[0, :, 1, 0].abs().mean(), rtol=1e-4, atol=0)
    prediction[:, :, :, 1] = prediction[:, :, 0] = float("nan")
    assert torch.equal(masked_error(prediction, target, mask), before)


def test_masked_error_ignores_everything_outside_the_mask():
    prediction, target = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    mask = torch.tensor([[[True, False], [False, False]]])
    before = masked_error(prediction, target, mask)
    prediction[:, :, 2:] = float("nan")
    assert torch.equal(masked_error(prediction, target, mask), before)


def test_masked_error_of_an_empty_mask_is_zero():
    x = torch.randn(1, 3, 4, 4)
    assert masked_error(x, x + 1, torch.zeros(1, 2, 2, dtype=torch.bool)).item() == 0


def test_masked_error_in_half_precision_is_summed_in_float32():
    target = torch.full((1, 3, 224, 224), 100.0, dtype=torch.float16)
    loss = masked_error(torch.zeros_like(target), target, torch.ones(1, 7, 7, dtype=torch.bool))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(100.0))


def test_masked_error_of_patches_has_the_same_value():
    prediction, target = torch.randn(5, 12).double(), torch.randn(5, 12).double()
    dense = masked_error(
        prediction.reshape(5, 3, 2, 2), target.reshape(5, 3, 2, 2), torch.ones(5, 1, 1, dtype=torch.bool)
    )
    torch.testing.assert_close(masked_error_patches(prediction, target, 3), dense, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_half_types_are_widened_and_float64_stays(given, wanted):
    assert widen(torch.zeros(1, dtype=given)).dtype == wanted


def test_one_label_is_regression_also_with_integers():
    logits, labels = torch.randn(4, 1), torch.tensor([1, 2, 3, 4])
    expected = F.mse_loss(logits.squeeze(), labels.float())
    assert torch.equal(classification_loss(logits, labels), expected)


def test_regression_of_several_labels():
    logits, labels = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.equal(classification_loss(logits, labels, "regression"), F.mse_loss(logits, labels))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_integers_are_classes(dtype):
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    assert torch.equal(classification_loss(logits, labels.to(dtype)), F.cross_entropy(logits, labels))


def test_label_minus_100_is_left_out():
    logits = torch.randn(3, 3)
    expected = F.cross_entropy(logits[1:], torch.tensor([1, 2]))
    torch.testing.assert_close(classification_loss(logits, torch.tensor([-100, 1, 2])), expected)


def test_floats_are_multi_label():
    logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0, 1]]).expand(4, 3)
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    assert torch.equal(classification_loss(logits, labels), expected)


def test_the_loss_of_half_logits_is_float32():
    assert classification_loss(torch.randn(2, 3).bfloat16(), torch.tensor([0, 1])).dtype == torch.float32


@pytest.mark.parametrize("label", [3, -1])
def test_a_class_out_of_range_is_named(label):
    with pytest.raises(InputError, match=f"label {label} is out of range; the model has classes 0 to 2"):
        classification_loss(torch.randn(2, 3), torch.tensor([0, label]))


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.randn(3, 2)])
def test_labels_of_another_shape_are_refused(labels):
    with pytest.raises(InputError, match="do not fit logits"):
        classification_loss(torch.randn(3, 3), labels)


def test_labels_without_outputs_are_refused():
    with pytest.raises(InputError, match="num_labels=0"):
        classification_loss(torch.randn(3, 0), torch.tensor([0, 1, 1]))


def test_an_unknown_problem_type_is_refused():
    with pytest.raises(InputError, match="ranking"):
        classification_loss(torch.randn(3, 3), torch.tensor([0, 1, 1]), "ranking")
