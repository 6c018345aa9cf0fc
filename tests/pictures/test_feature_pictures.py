"""Attention maps, features as colours, and the rows of pictures that notebooks show."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite.errors import InputError
from mimsuite.models import CvtConfig, CvtForMaskedImageModeling, ViTConfig, ViTForMaskedImageModeling
from mimsuite.pictures.features import (
    add_frame,
    as_png,
    attention_maps,
    picture_map,
    picture_rows,
    principal_colours,
    spotlight,
)

GRID = (3, 4)


def vit(**fields):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        image_size=[24, 32],
        patch_size=8,
        encoder_stride=8,
        initializer_range=0.3,
        **fields,
    )
    return ViTForMaskedImageModeling(config).eval()


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("query", [None, (1, 2)])
def test_attention_is_the_row_of_the_token_that_looks(pixels, query, registers):
    model = vit(num_register_tokens=registers)
    before = 1 + registers
    weights = model(pixels, output_attentions=True).attentions
    token = 0 if query is None else before + 1 * GRID[1] + 2
    found = attention_maps(model, pixels, query)
    assert found.shape == (2, 2, 3, *GRID)
    for layer in range(2):
        expected = weights[layer][:, :, token, before:].reshape(2, 3, *GRID)
        torch.testing.assert_close(found[:, layer], expected, rtol=0, atol=0)


def test_a_mask_reaches_the_model(pixels):
    mask = torch.zeros(2, *GRID, dtype=torch.bool)
    mask[:, 0, 1] = True
    changed = torch.where(mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None], torch.nan, pixels)
    model = vit()
    expected = model(pixels, mask, output_attentions=True).attentions[1][:, :, 1 + 1, 1:].reshape(2, 3, *GRID)
    torch.testing.assert_close(attention_maps(model, changed, (0, 1), mask)[:, 1], expected, rtol=0, atol=0)


@pytest.mark.parametrize("query", [(3, 0), (0, 4), (-1, 0)])
def test_a_query_off_the_grid_is_refused(pixels, query):
    with pytest.raises(InputError, match="is not on the grid of 3 x 4 patches"):
        attention_maps(vit(), pixels, query)


def test_models_without_such_maps_are_refused(pixels):
    cvt = CvtForMaskedImageModeling(CvtConfig(embed_dim=[8, 16, 32], num_heads=[1, 1, 1], depth=[1, 1, 1]))
    with pytest.raises(InputError, match="CvtForMaskedImageModeling has no attention maps"):
        attention_maps(cvt, pixels, (0, 0))
    with pytest.raises(InputError, match="this model has none"):
        attention_maps(vit(use_class_token=False), pixels, None)
    mae = vit(
        mask_mode="drop",
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    with pytest.raises(InputError, match="leaves hidden patches out"):
        attention_maps(mae, pixels, (0, 0), torch.zeros(2, *GRID, dtype=torch.bool))


def test_colours_order_cells_along_the_components():
    """Cells on three axes of different spread: each axis gets the colour of its rank, bright where it is large."""
    generator = torch.Generator().manual_seed(2)
    steps = torch.linspace(-1, 1, 12).repeat(3)
    axes = torch.stack([steps[torch.randperm(36, generator=generator)] * scale for scale in (1.0, 9.0, 3.0)])
    grid = axes.reshape(3, 3, 3, 4).movedim(1, 0) + 100  # 3 images of 3 x 4 cells
    found = principal_colours(grid)
    assert found.shape == (3, 3, 4, 3)
    assert found.dtype == np.uint8
    for colour, feature in enumerate((1, 2, 0)):
        assert np.corrcoef(found[..., colour].ravel(), grid[:, feature].ravel())[0, 1] > 0.9


def test_constant_features_are_grey():
    assert (principal_colours(torch.full((2, 5, 2, 2), 3.0)) == 128).all()


def test_features_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"features of shape \(2, 2, 4, 4\)"):
        principal_colours(torch.zeros(2, 2, 4, 4))


def test_the_spotlight_is_brightest_at_the_maximum():
    images = np.full((1, 4, 4, 3), 200, np.uint8)
    found = spotlight(images, torch.tensor([[[0.0, 2.0], [1.0, 0.0]]]), darkest=0.1)
    assert found[0, ::2, ::2, 0].tolist() == [[20, 200], [110, 20]]
    assert (found[0, :2, 2:] == 200).all()
    with pytest.raises(InputError, match="do not fit"):
        spotlight(images, torch.zeros(1, 3, 3))


def test_a_frame_surrounds_one_cell_and_nothing_else():
    images = np.zeros((2, 12, 12, 3), np.uint8)
    found = add_frame(images, (1, 0), (3, 3), (9, 9, 9))
    expected = np.zeros((12, 12), np.uint8)
    expected[4:8, 0:4] = 9
    expected[5:7, 1:3] = 0
    np.testing.assert_array_equal(found, np.broadcast_to(expected[None, ..., None], images.shape))
    assert not images.any()


def test_rows_hold_every_picture_in_its_place():
    red, blue = np.full((8, 8, 3), (255, 0, 0), np.uint8), np.full((4, 4, 3), (0, 0, 255), np.uint8)
    sheet = picture_rows({"one": [red, blue], "two\nlines": [blue, red]}, side=16)
    found = np.asarray(sheet)
    left = sheet.width - 8 - 16
    assert (found[8:24, left : left + 16] == (0, 0, 255)).all()
    assert (found[8:24, left - 20 : left - 4] == (255, 0, 0)).all()
    assert (found[28:44, left : left + 16] == (255, 0, 0)).all()
    with pytest.raises(InputError, match="give the same number in each"):
        picture_rows({"one": [red], "two": []})


def test_a_map_puts_every_picture_at_its_place():
    images = np.zeros((3, 10, 10, 3), np.uint8)
    images[:, :, :, 0] = np.array([250, 150, 50])[:, None, None]
    images[2, :, :5] = 255  # transparent: the picture below shows
    places = np.array([[-3.0, 1.0], [7.0, 5.0], [7.0, 5.0]])
    found = np.asarray(picture_map(images, places, side=10, size=(100, 60)))
    assert (found[8:18, 8:18] == (250, 0, 0)).all()
    assert (found[42:52, 82:87] == (150, 0, 0)).all()
    assert (found[42:52, 87:92] == (50, 0, 0)).all()
    assert (found == 255).all(-1).sum() == 100 * 60 - 200
    with pytest.raises(InputError, match=r"3 pictures at places of shape \(2, 2\)"):
        picture_map(images, places[:2])


def test_a_png_is_read_back_as_it_was():
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    file = as_png(Image.fromarray(array))
    assert file.startswith(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), array)
