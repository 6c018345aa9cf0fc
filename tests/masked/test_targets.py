"""Targets against scikit-image, MAE's formula and loops; and what pictures of them may know."""

import io
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.feature import hog as skimage_hog

import mimsuite
from mimsuite.errors import InputError
from mimsuite.masked import targets
from mimsuite.masked.patches import expand_mask, gather_patches, reduce_mask
from mimsuite.masked.targets import (
    HOG,
    TARGETS,
    NormPixels,
    Pixels,
    cell_statistics,
    hog,
    make_target,
    nearest_visible,
)
from mimsuite.models import BitConfig

CELLS = [(8, 8), (16, 16), (8, 16), (16, 8)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def emoji():
    """The first picture of the embedded data set, `(1, 3, 64, 64)` uint8."""
    with tarfile.open(Path(mimsuite.__file__).parent / "data/emoji-64/val-000000.tar") as archive:
        member = next(m for m in archive if not m.name.endswith((".cls", ".json")))
        picture = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


def smooth(batch, channels, height, width):
    """Waves of a few pixels to the whole image in length, other ones in every channel."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    wave = torch.rand(batch, channels, 3, 1, 1, dtype=torch.float64, generator=generator(1))
    return torch.sin(x * wave[:, :, 0] + 0.3) + torch.cos(y * wave[:, :, 1] + x * wave[:, :, 2] / 3)


def by_skimage(pixels):
    found = [
        skimage_hog(
            channel,
            orientations=9,
            pixels_per_cell=(8, 8),
            cells_per_block=(1, 1),
            block_norm="L2",
            feature_vector=False,
        )[:, :, 0, 0]
        for image in pixels.double().numpy()
        for channel in image
    ]
    stacked = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)  # (B * C, 9, h, w)
    return stacked.reshape(len(pixels), -1, *stacked.shape[2:])


PICTURES = {
    "noise": lambda: noise(2, 3, 32, 32),
    "rectangle": lambda: noise(2, 3, 24, 48),
    "grey": lambda: noise(3, 1, 16, 40),
    "four channels": lambda: noise(1, 4, 40, 16),
    "one cell": lambda: noise(1, 1, 8, 8),
    "flat": lambda: torch.full((1, 2, 16, 16), 3.0, dtype=torch.float64),
    "smooth": lambda: smooth(2, 3, 48, 32),
    "faint": lambda: 1e-5 * smooth(1, 1, 32, 32),  # as small as the epsilon
    "emoji": emoji,
}


@pytest.mark.parametrize("name", PICTURES)
def test_hog_equals_that_of_scikit_image(name):
    pixels = PICTURES[name]().double()
    batch, channels, height, width = pixels.shape
    found = hog(pixels)
    assert found.shape == (batch, channels * 9, height // 8, width // 8)
    torch.testing.assert_close(found, by_skimage(pixels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["noise", "smooth", "four channels", "emoji"])
def test_hog_in_float32_is_that_of_float64_to_2e_5(name):
    """An angle on the border of two bins may change sides: then two values of a cell move, by one pixel's share."""
    pixels = PICTURES[name]().double()
    found = hog(pixels.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), by_skimage(pixels), rtol=0, atol=2e-5)


def test_hog_of_uint8_is_that_of_its_numbers():
    assert torch.equal(hog(emoji()), hog(emoji().float()))


@pytest.mark.parametrize("slope", [1e-20, 1e-9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_gradient_is_lost_just_below_180_degrees(dtype, slope):
    pixels = torch.zeros(1, 1, 8, 16, dtype=dtype)
    pixels[..., 8:] = 1.0
    pixels[..., :8] -= slope * torch.arange(8, dtype=dtype)[:, None]  # falls a little, but for the first and last row
    wanted = torch.tensor([2.0, 0, 0, 0, 0, 0, 0, 0, 6], dtype=dtype) / 40**0.5
    torch.testing.assert_close(hog(pixels)[0, :, 0, 0], wanted, rtol=0, atol=1e-6)


def test_bins_hold_gradients_of_their_angles():
    y, x = torch.meshgrid(torch.arange(24).double(), torch.arange(24).double(), indexing="ij")
    for number in range(9):
        angle = math.radians(20 * number + 10)
        plane = hog((math.cos(angle) * x + math.sin(angle) * y)[None, None])[0, :, 1, 1]
        assert plane.argmax() == number
        assert plane[number] == pytest.approx(1)
        assert torch.equal(plane, hog(-(math.cos(angle) * x + math.sin(angle) * y)[None, None])[0, :, 1, 1])


@pytest.mark.parametrize("size", [(12, 16), (16, 12), (4, 8), (7, 7)])
def test_hog_of_a_size_that_is_no_whole_number_of_cells_is_refused(size):
    with pytest.raises(InputError, match=f"image {size[0]}x{size[1]} is not a multiple of HOG's cells") as error:
        hog(torch.zeros(1, 3, *size))
    assert "\n" not in str(error.value)


def mae_by_hand(pixels, cell):
    """The formula of MAE's published code, one patch after the other."""
    wanted = torch.empty_like(pixels)
    for image, out in zip(pixels, wanted, strict=True):
        for top in range(0, pixels.shape[2], cell[0]):
            for left in range(0, pixels.shape[3], cell[1]):
                place = (slice(None), slice(top, top + cell[0]), slice(left, left + cell[1]))
                values = image[place].flatten()
                mean = values.sum() / len(values)
                variance = (values - mean).square().sum() / (len(values) - 1)
                out[place] = (image[place] - mean) / (variance + 1e-6) ** 0.5
    return wanted


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_norm_pixels_are_mae_s_formula(channels, cell):
    pixels = noise(2, channels, 16, 32) * 3 + 1
    pixels[0, :, :8, :16] = 0.7  # a flat cell, or a part of one
    torch.testing.assert_close(NormPixels().dense(pixels, cell), mae_by_hand(pixels, cell), rtol=0, atol=1e-12)


def test_statistics_of_cells_that_do_not_tile_the_image_are_refused():
    with pytest.raises(InputError, match="image 20x16 is not a multiple of the cell 8x8") as error:
        cell_statistics(torch.zeros(1, 3, 20, 16), (8, 8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", TARGETS)
def test_cells_are_cut_out_of_the_whole_target(name, cell):
    target, pixels = TARGETS[name](), noise(3, 4, 32, 48)
    grid = (32 // cell[0], 48 // cell[1])
    where = (torch.rand(3, *grid, generator=generator()) < 0.5).nonzero(as_tuple=True)
    dense = target.dense(pixels, cell)
    assert dense.shape == (3, target.channels(4), 32 // target.scale, 48 // target.scale)
    found = target.cells(pixels, grid, where)
    assert len(found) > 2
    torch.testing.assert_close(found, gather_patches(dense, grid, where), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize("name", TARGETS)
def test_half_types_are_cast_up_before_they_are_computed_with(name, given, wanted):
    target, pixels = TARGETS[name](), noise(2, 3, 16, 16).to(given)
    where = tuple(torch.zeros(3, 1, dtype=torch.int64))
    dense, cells = target.dense(pixels, (8, 8)), target.cells(pixels, (2, 2), where)
    assert dense.dtype == cells.dtype == wanted
    assert torch.equal(dense, target.dense(pixels.to(wanted), (8, 8)))
    assert torch.equal(cells, target.cells(pixels.to(wanted), (2, 2), where))


def test_targets_change_no_pixels():
    for target in (make() for make in TARGETS.values()):
        pixels = noise(1, 3, 16, 16)
        before = pixels.clone()
        target.dense(pixels, (8, 8))
        target.picture(pixels, pixels, torch.ones(1, 2, 2, dtype=torch.bool), (8, 8))
        assert torch.equal(pixels, before)


def nearest_by_hand(values, hidden, fill):
    wanted = values.clone()
    for image, covered, out in zip(values, hidden, wanted, strict=True):
        seen = (~covered).nonzero().tolist()
        for row, column in covered.nonzero().tolist():
            if not seen:
                out[:, row, column] = torch.tensor(fill, dtype=values.dtype)
                continue
            distances = [(row - r) ** 2 + (column - c) ** 2 for r, c in seen]
            tied = [place for place, d in zip(seen, distances, strict=True) if d == min(distances)]
            out[:, row, column] = sum(image[:, r, c] for r, c in tied) / len(tied)
    return wanted


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("grid", [(6, 6), (3, 9), (1, 7)])
def test_hidden_cells_get_the_mean_of_the_nearest_visible_ones(grid, share):
    values = noise(8, 2, *grid)
    hidden = torch.rand(8, *grid, generator=generator(1)) < share
    hidden[0] = True
    found = nearest_visible(values, hidden, fill=(7.0, 8.0))
    torch.testing.assert_close(found, nearest_by_hand(values, hidden, (7.0, 8.0)), rtol=0, atol=1e-12)
    assert torch.equal(found.movedim(1, -1)[~hidden], values.movedim(1, -1)[~hidden])


def test_cells_that_lie_equally_near_are_averaged():
    values = torch.tensor([[1.0, 9, 3], [9, 9, 9], [5, 9, 11]])[None, None]
    hidden = values[0] == 9
    found = nearest_visible(values, hidden, fill=(0.0,))[0, 0]
    assert found.tolist() == [[1, 2, 3], [3, 5, 7], [5, 8, 11]]


def test_what_is_in_hidden_cells_influences_no_bit():
    values, hidden = noise(4, 2, 5, 5), torch.rand(4, 5, 5, generator=generator()) < 0.6
    hidden[0] = True
    wanted = nearest_visible(values, hidden, fill=(0.0, 1.0))
    for junk in (torch.nan, torch.inf, 1e300):
        spoilt = values.masked_fill(hidden[:, None], junk)
        assert torch.equal(nearest_visible(spoilt, hidden, fill=(0.0, 1.0)), wanted)


def test_many_images_are_filled_as_each_alone(monkeypatch):
    values, hidden = noise(7, 2, 4, 4), torch.rand(7, 4, 4, generator=generator()) < 0.6
    whole = nearest_visible(values, hidden, fill=(0.0, 1.0))
    monkeypatch.setattr(targets, "_MOST_PAIRS", 3 * 16**2)
    assert torch.equal(nearest_visible(values, hidden, fill=(0.0, 1.0)), whole)
    monkeypatch.setattr(targets, "_MOST_PAIRS", 1)
    assert torch.equal(nearest_visible(values, hidden, fill=(0.0, 1.0)), whole)


def test_the_nearest_statistics_are_not_rounded_under_autocast():
    values, hidden = noise(2, 2, 4, 4, dtype=torch.float32), torch.rand(2, 4, 4, generator=generator()) < 0.6
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest_visible(values, hidden, fill=(0.0, 1.0))
    assert found.dtype == torch.float32
    assert torch.equal(found, nearest_visible(values, hidden, fill=(0.0, 1.0)))


# Grids of masks over 32 x 48 pixels with cells of 8 x 16: the cells themselves, coarser, finer, and across.
GRIDS = [(4, 3), (2, 3), (1, 1), (8, 12), (4, 6)]


@pytest.mark.parametrize("grid", GRIDS)
def test_a_perfect_prediction_gives_the_true_pixels_back_where_a_cell_is_visible(grid):
    cell, pixels = (8, 16), noise(6, 3, 32, 48) * 2 + 1
    mask = torch.rand(6, *grid, generator=generator()) < 0.3
    picture = NormPixels().picture(NormPixels().dense(pixels, cell), pixels, mask, cell)
    assert picture.shape == pixels.shape
    visible = ~reduce_mask(expand_mask(mask, (32, 48)), (4, 3))
    assert visible.any()
    kept = expand_mask(visible, (32, 48))[:, None].expand_as(pixels)
    torch.testing.assert_close(picture[kept], pixels[kept], rtol=0, atol=1e-12)
    if mask.any():
        assert not torch.isclose(picture[~kept], pixels[~kept]).all()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("junk", ["noise", "nan"])
def test_hidden_pixels_change_no_bit_of_a_picture(junk, grid):
    cell, pixels, prediction = (8, 16), noise(6, 3, 32, 48), noise(6, 3, 32, 48, seed=1)
    mask = torch.rand(6, *grid, generator=generator()) < 0.4
    mask[0] = True
    hidden = expand_mask(mask, (32, 48))[:, None]
    other = torch.full_like(pixels, torch.nan) if junk == "nan" else 100 * noise(6, 3, 32, 48, seed=2)
    spoilt = torch.where(hidden, other, pixels)
    for target, mode in ((Pixels(), "raw"), (NormPixels(), "predicted_stats"), (NormPixels(), "raw")):
        picture = target.picture(prediction, pixels, mask, cell, mode)
        assert torch.equal(target.picture(prediction, spoilt, mask, cell, mode), picture)
        assert picture.isfinite().all()


@pytest.mark.parametrize("grid", GRIDS)
def test_with_the_true_statistics_a_perfect_prediction_gives_all_pixels_back(grid):
    cell, pixels = (8, 16), noise(6, 3, 32, 48) * 2 + 1
    mask = torch.rand(6, *grid, generator=generator()) < 0.5
    picture = NormPixels().picture(NormPixels().dense(pixels, cell), pixels, mask, cell, "oracle_stats")
    torch.testing.assert_close(picture, pixels, rtol=0, atol=1e-12)


def test_a_cell_that_is_hidden_in_part_counts_as_hidden():
    pixels = noise(1, 3, 8, 24)
    mask = torch.zeros(1, 2, 6, dtype=torch.bool)  # units of 4 pixels
    mask[0, 1, 3] = True  # the corner of the cell in the middle
    picture = NormPixels().picture(torch.zeros_like(pixels), pixels, mask, (8, 8))
    means = [pixels[:, :, :, left : left + 8].mean() for left in (0, 8, 16)]
    wanted = torch.stack([means[0], (means[0] + means[2]) / 2, means[2]]).repeat_interleave(8)
    torch.testing.assert_close(picture, wanted.expand_as(pixels), rtol=0, atol=1e-12)


def test_an_image_without_a_visible_cell_is_drawn_about_the_mean_of_the_data():
    prediction = noise(1, 3, 16, 16)
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    assert torch.equal(NormPixels().picture(prediction, noise(1, 3, 16, 16, seed=1), mask, (8, 8)), prediction)


def test_a_mask_of_numbers_is_one_of_truths():
    pixels, prediction = noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1)
    mask = torch.tensor([[[1, 0], [0, 1]], [[0, 0], [1, 1]]])
    found = NormPixels().picture(prediction, pixels, mask, (8, 8))
    assert torch.equal(found, NormPixels().picture(prediction, pixels, mask.bool(), (8, 8)))


def test_orientations_are_no_picture():
    pixels = noise(1, 3, 16, 16)
    assert HOG().picture(hog(pixels), pixels, torch.zeros(1, 2, 2, dtype=torch.bool), (8, 8)) is None
    assert {name: make().mode for name, make in TARGETS.items()} == {
        "pixels": "raw",
        "norm_pixels": "predicted_stats",
        "hog": "orientations",
    }
    assert [make().name for make in TARGETS.values()] == list(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_every_model_has_a_target_of_its_own(name):
    config = BitConfig(mim_target=name)
    one, other = make_target(config, None), make_target(config, None)
    assert one.name == name
    assert one is not other
