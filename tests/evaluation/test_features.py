"""Features: how maps and images become vectors, what is not compared, and what names them."""

import pytest
import torch
from torch import nn

from mimsuite.errors import InputError
from mimsuite.evaluation.features.pixels import PixelLayer, round_as_stored
from mimsuite.evaluation.features.views import (
    Features,
    check_comparable,
    class_labels,
    evaluation_mode,
    hash_of_inputs,
    pool_features,
)
from mimsuite.types import FeatureMap


def test_every_submodule_gets_its_mode_back_also_after_an_error():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    network[0].eval()
    inside = []

    def fail():
        with evaluation_mode(network):
            inside.extend(module.training for module in network.modules())
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert inside == [False, False, False]
    assert [module.training for module in network.modules()] == [True, False, True]


def test_both_is_the_class_token_and_then_the_mean():
    features = FeatureMap(torch.arange(24.0).view(2, 3, 2, 2), torch.full((2, 3), -1.0))
    both = pool_features(features, "both")
    assert torch.equal(both, torch.cat([pool_features(features, "cls"), pool_features(features, "mean")], dim=1))
    assert both[0].tolist() == [-1, -1, -1, 1.5, 5.5, 9.5]


def test_grid_is_every_cell_row_by_row():
    grid = torch.arange(24.0).view(2, 3, 2, 2)
    assert pool_features(FeatureMap(grid, None), "grid")[0, 1].tolist() == [1, 5, 9]


@pytest.mark.parametrize("pool", ["cls", "both"])
def test_pooling_a_class_token_that_is_not_there_is_refused(pool):
    with pytest.raises(InputError, match="use pool=mean"):
        pool_features(FeatureMap(torch.zeros(1, 3, 2, 2), None), pool)


def test_half_precision_is_pooled_to_float32():
    assert pool_features(FeatureMap(torch.zeros(1, 3, 2, 2).bfloat16(), None), "mean").dtype == torch.float32


@pytest.mark.parametrize("labels", [None, torch.zeros(9), torch.zeros(9, 3, dtype=torch.long)])
def test_labels_that_are_not_one_class_per_image_are_refused(labels):
    with pytest.raises(InputError, match="need one class per image"):
        class_labels(Features(torch.zeros(9, 2), labels, torch.arange(9), "mean"), "training")


def test_images_are_shrunk_with_antialiasing_to_one_cell():
    image = torch.zeros(1, 3, 16, 16)
    image[:, 1, ::4] = 255
    (found,) = PixelLayer(4, 255).forward_layers(image, [0])
    assert found.grid.shape == (1, 48, 1, 1)
    x = pool_features(found, "mean").view(3, 4, 4)
    assert torch.equal(x[0], torch.zeros(4, 4))
    torch.testing.assert_close(x[1, 1:3], torch.full((2, 4), 0.25))


@pytest.mark.parametrize("maximum", [255, 65535])
def test_shrunk_images_are_fractions_of_the_range(maximum):
    (found,) = PixelLayer(8, maximum).forward_layers(torch.full((1, 2, 8, 8), float(maximum)), [0])
    torch.testing.assert_close(found.grid, torch.ones(1, 128, 1, 1))


def test_images_have_no_other_layer():
    with pytest.raises(ValueError, match="images have layer 0 only"):
        PixelLayer(8, 255).forward_layers(torch.zeros(1, 3, 8, 8), [0, 1])


def test_pixels_are_rounded_to_half_precision_of_the_largest_value_of_each_dimension():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(50, 6, generator=g) * torch.tensor([1e-9, 1e-3, 1, 1e3, 1e6, 0])
    found = round_as_stored(x)
    assert (found - x).abs().amax(0).le(0.0005 * x.abs().amax(0)).all()
    assert not torch.equal(found, x)
    assert torch.equal(round_as_stored(found), found)


def some(kind):
    return Features(torch.zeros(9, 6), None, torch.arange(9), kind)


def test_features_of_two_kinds_are_not_compared():
    with pytest.raises(InputError, match="'mean' of width 6, test features 'cls' of width 6"):
        check_comparable(some("mean"), some("cls"))


def test_fingerprint_changes_with_every_part_and_with_nothing_else():
    toy = nn.Sequential(nn.Conv2d(3, 5, 4), nn.BatchNorm2d(5))
    base = hash_of_inputs(toy.state_dict(), "64 px", "val")
    assert base == hash_of_inputs({k: v.clone() for k, v in reversed(toy.state_dict().items())}, "64 px", "val")
    others = [
        hash_of_inputs(toy.state_dict(), "96 px", "val"),
        hash_of_inputs(toy.state_dict(), "64 px", "train"),
        hash_of_inputs(toy.state_dict(), "64 pxv", "al"),
        hash_of_inputs({k: v.bfloat16() for k, v in toy.state_dict().items()}, "64 px", "val"),
    ]
    with torch.no_grad():
        toy[0].bias[0] += 1e-6
    others.append(hash_of_inputs(toy.state_dict(), "64 px", "val"))
    assert len({base, *others}) == 6
