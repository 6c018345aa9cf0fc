"""SimMIM's decoder and the classification head."""

import torch
from torch import nn
from torch.nn import functional as F

from mimsuite.heads.classifier import linear_head, pool
from mimsuite.heads.simmim import SimMIMHead
from mimsuite.types import FeatureMap


def test_it_is_a_convolution_and_a_pixel_shuffle():
    head, grid = SimMIMHead(8, 4, 3), torch.randn(2, 8, 5, 3)
    expected = F.pixel_shuffle(F.conv2d(grid, head.state_dict()["0.weight"], head.state_dict()["0.bias"]), 4)
    assert torch.equal(head(grid), expected)


def test_its_parameters_have_the_names_of_files():
    shapes = {k: tuple(v.shape) for k, v in SimMIMHead(8, (2, 4), 5).state_dict().items()}
    assert shapes == {"0.weight": (40, 8, 1, 1), "0.bias": (40,)}


def test_rectangular_cells_give_a_rectangular_picture():
    assert SimMIMHead(8, (2, 4), 5)(torch.randn(1, 8, 3, 3)).shape == (1, 5, 6, 12)


def test_hidden_only_gives_the_same_pixels_as_the_whole_picture():
    head, grid = SimMIMHead(8, (2, 4), 3).double(), torch.randn(1, 8, 3, 3).double()
    where = tuple(torch.tensor([n]) for n in (0, 1, 2))
    patch = head.hidden_only(grid, None, torch.ones(1, 3, 3, dtype=torch.bool), where).reshape(3, 2, 4)
    torch.testing.assert_close(head(grid)[0, :, 2:4, 8:12], patch, rtol=1e-12, atol=1e-12)


def test_pooling_takes_the_class_token_if_there_is_one():
    grid, cls = torch.randn(2, 4, 3, 3), torch.randn(2, 4)
    assert torch.equal(pool(FeatureMap(grid, cls)), cls)
    assert torch.equal(pool(FeatureMap(grid, None)), grid.mean((2, 3)))


def test_no_labels_is_the_identity():
    assert isinstance(linear_head(4, 0), nn.Identity)
