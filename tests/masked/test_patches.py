"""Masks between grids and pixels in patches."""

import pytest
import torch
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.masked.patches import as_grid_mask, expand_mask, fold_patches, gather_patches, reduce_mask


def test_expand_repeats_every_cell_over_its_block():
    mask = torch.tensor([[[True, False]]])
    expected = torch.tensor([[[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]]).bool()
    assert torch.equal(expand_mask(mask, (2, 6)), expected)


@pytest.mark.parametrize("to", [(3, 4), (6, 4), (3, 12), (15, 20)])
def test_expand_then_reduce_is_the_identity(to):
    mask = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(reduce_mask(expand_mask(mask, to), (3, 4)), mask)


def test_reduce_hides_a_cell_of_which_any_part_is_hidden():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 3, 1] = True
    assert reduce_mask(mask, (2, 2)).tolist() == [[[False, False], [True, False]]]


@pytest.mark.parametrize("to", [(5, 4), (3, 6), (2, 4)])
def test_expand_refuses_what_is_no_whole_multiple(to):
    with pytest.raises(InputError, match=f"mask grid 3x4 does not divide the grid {to[0]}x{to[1]}"):
        expand_mask(torch.zeros(1, 3, 4, dtype=torch.bool), to)


def test_reduce_refuses_what_is_no_whole_multiple():
    with pytest.raises(InputError, match="not a whole multiple"):
        reduce_mask(torch.zeros(1, 3, 4, dtype=torch.bool), (2, 2))


@pytest.mark.parametrize("function", [expand_mask, reduce_mask])
def test_flat_masks_are_refused_between_grids(function):
    with pytest.raises(InputError, match=r"shape \(2, 12\)"):
        function(torch.zeros(2, 12), (3, 4))


def test_fold_equals_pixel_shuffle():
    patches = torch.randn(2, 3 * 16, 5, 2)
    assert torch.equal(fold_patches(patches, (4, 4)), F.pixel_shuffle(patches, 4))


def test_fold_undoes_gather_of_every_cell_for_rectangular_patches():
    images = torch.randn(2, 3, 8, 12)
    everywhere = torch.ones(2, 4, 4, dtype=torch.bool).nonzero(as_tuple=True)
    patches = gather_patches(images, (4, 4), everywhere).reshape(2, 4, 4, -1).permute(0, 3, 1, 2)
    assert torch.equal(fold_patches(patches, (2, 3)), images)


def test_gather_takes_the_named_cells_in_channel_row_column_order():
    image = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4)
    where = (torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
    assert gather_patches(image, (2, 2), where).tolist() == [[8, 9, 12, 13, 24, 25, 28, 29]]


def test_gather_refuses_a_grid_that_leaves_pixels_over():
    where = (torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(InputError, match="grid 3x2 does not divide an image of 4x4"):
        gather_patches(torch.zeros(1, 1, 4, 4), (3, 2), where)


def test_fold_refuses_a_depth_that_is_no_multiple():
    with pytest.raises(InputError, match="10 values per patch"):
        fold_patches(torch.zeros(1, 10, 2, 2), (2, 2))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("shape", [(2, 6), (2, 2, 3)])
def test_flat_and_grid_masks_of_any_dtype_are_the_same_mask(dtype, shape):
    mask = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 0, 0, 1]])
    found = as_grid_mask(mask.to(dtype).reshape(shape), 2, (2, 3))
    assert torch.equal(found, mask.bool().reshape(2, 2, 3))


def test_one_mask_counts_for_every_image():
    mask = torch.tensor([[1, 0, 0, 1]])
    assert torch.equal(as_grid_mask(mask, 3, (2, 2)), mask.bool().reshape(1, 2, 2).expand(3, 2, 2))


def test_a_mask_on_a_coarser_grid_is_expanded():
    unit = torch.tensor([[[True, False]]])
    assert torch.equal(as_grid_mask(unit, 1, (2, 4)), expand_mask(unit, (2, 4)))


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (2, 3, 3), (4,)])
def test_masks_of_another_batch_or_size_are_refused(shape):
    with pytest.raises(InputError, match="mask"):
        as_grid_mask(torch.zeros(shape), 3, (2, 2))
