"""Masks: exact counts, polarity, the generator decides; and which sizes fit together."""

import hashlib
import math

import pytest
import torch

from mimsuite.errors import InputError
from mimsuite.masked.geometry import auto_mask_unit, check_image_size, check_unit, hidden_units
from mimsuite.masked.samplers import BlockMask, GridMask, InverseBlockMask, MaskGenerator, NoMask, RandomMask

SAMPLERS = [RandomMask, BlockMask, InverseBlockMask, GridMask]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("grid", "ratio", "count"),
    [
        ((7, 7), 0.6, 30),
        ((6, 6), 0.6, 22),
        ((10, 10), 0.55, 56),
        ((1, 1), 0.01, 1),
        ((3, 5), 1, 15),
        ((3, 2), 0.5, 3),
    ],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_mask_hides_the_exact_count(sampler, grid, ratio, count):
    assert hidden_units(grid[0] * grid[1], ratio) == count
    for seed in range(20):
        mask = sampler(ratio)(grid, generator(seed))
        assert mask.dtype == torch.bool
        assert mask.shape == grid
        assert mask.sum() == count == math.ceil(grid[0] * grid[1] * ratio)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_generator_decides_the_mask(kind):
    sampler = kind(0.6)
    assert torch.equal(sampler((14, 14), generator(3)), sampler((14, 14), generator(3)))
    assert not torch.equal(sampler((14, 14), generator(3)), sampler((14, 14), generator(4)))
    one = generator(3)
    assert not torch.equal(sampler((14, 14), one), sampler((14, 14), one))


RANGES = [((14, 14), (0.4, 0.8)), ((7, 7), (0.1, 1.0)), ((3, 5), [0.5, 0.7]), ((10, 10), (0.55, 0.6))]


@pytest.mark.parametrize(("grid", "ratio"), RANGES)
@pytest.mark.parametrize("kind", SAMPLERS)
def test_of_a_range_every_mask_draws_its_own_count(kind, grid, ratio):
    sampler, units = kind(ratio), grid[0] * grid[1]
    fewest, most = math.ceil(units * ratio[0]), math.ceil(units * ratio[1])
    masks = [sampler(grid, generator(seed)) for seed in range(300)]
    counts = [int(mask.sum()) for mask in masks]
    assert fewest <= min(counts)
    assert max(counts) <= most
    assert len(set(counts)) > (most - fewest) / 2
    assert abs(sum(counts) / 300 - (fewest + most) / 2) < 1 + (most - fewest) / 10
    assert {(mask.dtype, tuple(mask.shape)) for mask in masks} == {(torch.bool, grid)}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_generator_decides_count_and_mask_of_a_range(kind):
    sampler, other = kind([0.2, 0.9]), kind([0.2, 0.9])
    for seed in range(10):
        assert torch.equal(sampler((9, 11), generator(seed)), other((9, 11), generator(seed)))
    one = generator(3)
    assert len({int(sampler((9, 11), one).sum()) for _ in range(20)}) > 10


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_range_of_one_number_is_that_number(kind):
    for seed in range(5):
        assert torch.equal(kind([0.6, 0.6])((8, 8), generator(seed)), kind(0.6)((8, 8), generator(seed)))


# SHA-256 of 60 masks each, as they were before samplers knew ranges.
FROZEN = {
    RandomMask: "693fa526b6bb03e0",
    BlockMask: "b831878b7f2bdc94",
    InverseBlockMask: "08388d0a1b90e2f3",
    GridMask: "4e169c0c46754715",
}


@pytest.mark.parametrize("kind", FROZEN)
def test_a_fixed_ratio_draws_the_masks_that_it_always_drew(kind):
    digest = hashlib.sha256()
    for ratio in (0.3, 0.6, 0.75, 1.0):
        for grid in ((6, 6), (14, 14), (3, 10)):
            for seed in range(5):
                digest.update(kind(ratio)(grid, generator(seed)).numpy().tobytes())
    assert digest.hexdigest()[:16] == FROZEN[kind]


def test_no_mask_hides_nothing_and_draws_nothing():
    source = generator()
    before = source.get_state()
    mask = NoMask()((3, 5), source)
    assert mask.dtype == torch.bool
    assert mask.shape == (3, 5)
    assert not mask.any()
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize(
    ("units", "ratio", "count"), [(100, 0.55, 56), (100, 0.5, 50), (49, 0.6, 30), (196, 0.75, 147), (1, 0.01, 1)]
)
def test_the_share_is_rounded_up_in_double_precision(units, ratio, count):
    assert hidden_units(units, ratio) == count


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize(
    "ratio", [[0.8, 0.4], [0.4, 0.6, 0.8], [0.4], [], [0, 0.5], [0.5, 1.1], [math.nan, 0.5], [0.5, math.nan], "0.6"]
)
def test_what_is_no_range_is_refused(ratio, kind):
    with pytest.raises(InputError, match=r"mask.ratio=.* is not in \(0, 1\], nor a range \[low,high\]") as error:
        kind(ratio)
    assert "\n" not in str(error.value)


def test_units_are_hidden_equally_often():
    sampler, source = RandomMask(0.25), generator()
    hidden = torch.stack([sampler((4, 4), source) for _ in range(4000)]).float().mean(0)
    assert (hidden - 0.25).abs().max() < 0.03


def test_one_hidden_block_is_a_rectangle():
    for seed in range(50):
        rows, columns = BlockMask(0.09, least=0.09, aspect=1)((20, 20), generator(seed)).nonzero(as_tuple=True)
        assert len(rows) == 36
        assert rows.max() - rows.min() == columns.max() - columns.min() == 5


def test_blocks_have_shapes_between_the_aspect_and_its_inverse():
    sampler, source = BlockMask(0.5, least=0.5, aspect=0.3), generator()
    ratios = [height / width for height, width in (sampler._sides((400, 400), 20_000, source) for _ in range(500))]
    assert 0.29 < min(ratios) < 0.35
    assert 1 / 0.35 < max(ratios) < 1 / 0.29
    assert 0.4 < sum(ratio < 1 for ratio in ratios) / 500 < 0.6


def test_hidden_blocks_leave_far_fewer_units_alone_than_random_masks():
    alone = [0, 0]
    for number, sampler in enumerate((BlockMask(0.4), RandomMask(0.4))):
        for seed in range(100):
            mask = sampler((14, 14), generator(seed)).float()
            around = torch.nn.functional.conv2d(mask[None, None], torch.ones(1, 1, 3, 3), padding=1)[0, 0] - mask
            alone[number] += int(((mask == 1) & (around == 0)).sum())
    assert alone[0] < alone[1] / 4


def test_what_an_inverse_block_leaves_visible_is_a_rectangle_across_the_borders():
    sampler, source = InverseBlockMask(0.75, aspect=1), generator()
    crossed = 0
    for _ in range(100):
        visible = ~sampler((12, 12), source)  # 36 units: 6 x 6
        assert sorted(visible.sum(0).tolist()) == [0] * 6 + [6] * 6
        assert sorted(visible.sum(1).tolist()) == [0] * 6 + [6] * 6
        crossed += bool(visible[0].any() and visible[-1].any())
    assert 20 < crossed < 70  # 5 of 12 offsets


def test_every_place_is_hidden_equally_often_by_an_inverse_block_and_by_a_grid():
    for sampler, count in ((InverseBlockMask(0.6), 29), (GridMask(0.75), 36)):
        source = generator()
        hidden = torch.stack([sampler((6, 8), source) for _ in range(3000)]).float().mean(0)
        assert (hidden - count / 48).abs().max() < 0.04


def test_a_grid_shows_one_unit_of_every_four():
    for seed in range(10):
        visible = ~GridMask(0.75)((8, 12), generator(seed))
        assert (visible.view(4, 2, 6, 2).sum((1, 3)) == 1).all()


@pytest.mark.parametrize("sampler", [lambda: BlockMask(0.4, least=2), lambda: BlockMask(0.4, aspect=0)])
def test_a_block_out_of_range_is_refused(sampler):
    with pytest.raises(InputError, match=r"mask.least=.* mask.aspect=.*: both must be in \(0, 1\]"):
        sampler()


def test_an_inverse_block_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"mask.aspect=1.5 is not in \(0, 1\]"):
        InverseBlockMask(0.5, aspect=1.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, math.nan, math.inf])
def test_a_ratio_out_of_range_is_refused(ratio, sampler):
    with pytest.raises(InputError, match=r"mask.ratio=.* is not in \(0, 1\]"):
        sampler(ratio)
    with pytest.raises(InputError, match=r"is not in \(0, 1\]"):
        MaskGenerator(224, 32, 16, ratio)


@pytest.mark.parametrize(
    ("size", "unit", "patch", "grid", "hidden"),
    [(224, 32, 16, (14, 14), 120), (192, 32, 4, (48, 48), 1408), ((64, 96), 16, 8, (8, 12), 60)],
)
def test_mask_generator_repeats_units_to_patches(size, unit, patch, grid, hidden):
    maker = MaskGenerator(size, unit, patch)
    mask = maker(generator())
    assert maker.grid == grid == tuple(mask.shape)
    assert mask.dtype == torch.int64
    assert mask.unique().tolist() == [0, 1]
    assert mask.sum() == hidden
    r = unit // patch
    units = mask.view(grid[0] // r, r, grid[1] // r, r)
    assert torch.equal(units, units[:, :1, :, :1].expand_as(units))
    assert torch.equal(maker(generator(), flat=True), mask.flatten())


@pytest.mark.parametrize("arguments", [(100, 32, 16), ((224, 100), 32, 16), (224, 32, 12), (0, 32, 16), (224, 0, 16)])
def test_mask_generator_refuses_sizes_that_do_not_fit(arguments):
    with pytest.raises(InputError, match="is not a multiple of"):
        MaskGenerator(*arguments)


@pytest.mark.parametrize(
    ("size", "cell", "unit"),
    [
        ((224, 224), (16, 16), 32),
        ((192, 192), (16, 16), 32),
        ((224, 224), (14, 14), 28),
        ((384, 384), (16, 16), 32),
        ((96, 96), (8, 8), 16),
        ((96, 96), (16, 16), 16),
        ((64, 64), (8, 8), 8),
        ((32, 32), (4, 4), 4),
        ((224, 224), (4, 4), 32),
        ((96, 160), (16, 16), 16),
        ((48, 48), (48, 48), 48),
        ((96, 96), (8, 16), 16),
    ],
)
def test_auto_unit_tiles_the_image_and_is_near_the_proportion(size, cell, unit):
    assert auto_mask_unit(size, cell) == unit
    check_unit(size, cell, cell, unit)


@pytest.mark.parametrize(
    ("size", "stride", "message", "fixes"),
    [
        ((100, 100), (16, 16), "image height 100 is not a multiple of the model's stride 16", [(96, 96), (112, 112)]),
        ((96, 100), (16, 16), "image width 100 is not a multiple of the model's stride 16", [(96, 96)]),
        ((96, 100), (8, 16), "image width 100 is not a multiple of the model's stride 16", [(96, 96)]),
        ((10, 10), (16, 16), "image height 10 is not a multiple of the model's stride 16", [(16, 16)]),
        ((0, 0), (16, 16), "image height 0 is not a multiple of the model's stride 16", [(16, 16)]),
    ],
)
def test_sizes_that_do_not_fit_the_stride_are_refused_with_a_fix_that_fits(size, stride, message, fixes):
    with pytest.raises(InputError, match=message) as error:
        check_image_size(size, stride)
    names_fixes(str(error.value), size, fixes)
    for fix in fixes:
        check_image_size(fix, stride)


@pytest.mark.parametrize(
    ("size", "stride", "unit", "message", "fixes"),
    [
        ((100, 100), (4, 4), 32, "image height 100 is not a multiple of mask.unit 32", [(96, 96), (128, 128)]),
        ((96, 100), (4, 4), 32, "image width 100 is not a multiple of mask.unit 32", [(96, 96)]),
        ((224, 224), (32, 32), 12, "image height 224 is not a multiple of mask.unit 12", [(192, 192), (288, 288)]),
    ],
)
def test_sizes_that_do_not_fit_the_unit_are_refused_with_a_fix_that_fits(size, stride, unit, message, fixes):
    with pytest.raises(InputError, match=message) as error:
        check_unit(size, stride, (4, 4), unit)
    names_fixes(str(error.value), size, fixes)
    for fix in fixes:
        check_image_size(fix, stride)
        check_unit(fix, stride, (4, 4), unit)


def names_fixes(text, size, fixes):
    assert "\n" not in text
    for fix in fixes:
        assert (str(fix[0]) if size[0] == size[1] else f"[{fix[0]},{fix[1]}]") in text.split("use ")[1]


@pytest.mark.parametrize(("unit", "fix"), [(24, "mask.unit=16 or 32"), (8, "mask.unit=16"), (0, "mask.unit=16")])
def test_a_unit_that_is_no_multiple_of_the_cell_is_refused(unit, fix):
    with pytest.raises(InputError, match=f"mask.unit {unit} is not a multiple of the model's mask cell 16; use {fix}"):
        check_unit((96, 96), (16, 16), (16, 16), unit)


def test_auto_unit_refuses_an_image_that_no_unit_tiles():
    with pytest.raises(InputError, match=r"image width 100 is not a multiple of mask.unit 16"):
        auto_mask_unit((96, 100), (16, 16))
