"""Masks whose targets are less than what is hidden: I-JEPA's blocks, and how a batch is cut to its smallest."""

import hashlib

import pytest
import torch

from mimsuite.data.collate import Collate
from mimsuite.data.reader import Sample
from mimsuite.errors import InputError
from mimsuite.masked.multi_block import MultiBlockMask
from mimsuite.masked.samplers import MaskWithTargets, RandomMask, check_masks, draw_hidden, hidden_counts, keep_some

GRID = (14, 14)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sides(block):
    """Height and width of a block, which must be a rectangle."""
    rows, columns = block.nonzero(as_tuple=True)
    height, width = (int(places.max() - places.min()) + 1 for places in (rows, columns))
    assert height * width == block.sum()
    return height, width


def samples(*seeds, shared=0):
    return [Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), seed, seed, None, (), shared) for seed in seeds]


def test_the_context_is_a_square_without_four_blocks_of_the_published_sizes():
    sampler = MultiBlockMask()
    for seed in range(200):
        drawn = sampler(GRID, generator(seed))
        assert drawn.targets.shape == (4, *GRID)
        assert drawn.targets.dtype == drawn.hidden.dtype == torch.bool
        assert not (drawn.targets & ~drawn.hidden).any()  # what is predicted is hidden
        assert (~drawn.hidden).sum() >= 10
        (height, width), *others = map(sides, drawn.targets)
        assert others == [(height, width)] * 3  # of one size
        assert 0.12 * 196 < height * width < 0.22 * 196  # sides are whole units
        assert 0.6 < height / width < 1.8
    square = MultiBlockMask(targets=1, target_scale=(0.005, 0.005), context_scale=(0.5, 0.5))(GRID, generator())
    rows, columns = (~square.hidden).nonzero(as_tuple=True)  # but for a target of one unit
    assert len(rows.unique()) == len(columns.unique()) == 10
    assert (~square.hidden).sum() >= 99


def test_the_generator_decides_the_mask_and_every_place_is_a_target_as_often_as_its_mirror_image():
    sampler = MultiBlockMask()
    first, again, other = (sampler(GRID, generator(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.hidden, other.hidden)
    source = generator()
    often = torch.stack([sampler(GRID, source).targets.float().mean(0) for _ in range(2000)]).mean(0)
    assert (often - often.flip(0, 1)).abs().max() < 0.03
    assert often[0, 0] > 0  # corners too


# SHA-256 of 30 masks and their targets.
FROZEN = "3ef6810a3b11bf93"


def test_the_masks_stay_what_they_are():
    digest = hashlib.sha256()
    for grid in ((8, 8), (14, 14), (6, 10)):
        for seed in range(10):
            for part in MultiBlockMask()(grid, generator(seed)):
                digest.update(part.numpy().tobytes())
    assert digest.hexdigest()[:16] == FROZEN


def test_a_batch_shows_as_much_of_every_image_as_of_the_one_that_shows_least():
    draw = Collate((MultiBlockMask(),), GRID)
    batch, alone = draw(samples(*range(32))), [draw(samples(seed)) for seed in range(32)]
    least = min(int((~one.mask).sum()) for one in alone)
    assert ((~batch.mask).flatten(1).sum(1) == least).all()
    assert batch.hidden == 196 - least
    assert len({one.hidden for one in alone}) > 5  # so there was something to cut
    for image, one in enumerate(alone):
        assert not (~batch.mask[image] & one.mask[0]).any()  # nothing becomes visible by the cut
        assert torch.equal(batch.targets[image], one.targets[0])  # targets have one size already
    assert batch.targets.shape == (32, 4, *GRID)
    assert (batch.targets.flatten(2).sum(2) == batch.target_units).all()
    again = draw(samples(*range(32)))
    assert torch.equal(batch.mask, again.mask)
    moved = batch.to("cpu")
    assert torch.equal(moved.targets, batch.targets)
    assert moved.target_units == batch.target_units


def test_blocks_have_one_size_in_a_step_and_another_in_the_next():
    draw = Collate((MultiBlockMask(),), GRID)
    sizes = [{draw(samples(first, first + 1, shared=step)).target_units for first in (0, 10)} for step in range(30)]
    assert {len(found) for found in sizes} == {1}
    assert len(set.union(*sizes)) > 4


def test_what_a_cut_keeps_of_an_image_its_own_seed_decides():
    draw = Collate((MultiBlockMask(),), GRID)
    masks = [draw(samples(7, other)).mask[0] for other in range(40)]
    by_count = {}
    for mask in masks:
        assert torch.equal(mask, by_count.setdefault(int(mask.sum()), mask))
    assert len(by_count) > 3


def test_other_samplers_have_no_targets_and_draw_what_they_drew():
    batch = Collate((RandomMask(0.5),), GRID)(samples(1, 2))
    assert batch.targets is None
    assert batch.target_units is None
    assert torch.equal(draw_hidden(RandomMask(0.5), GRID, generator(1)), RandomMask(0.5)(GRID, generator(1)))


class Uneven:
    """Targets of two sizes, as a user's own sampler may have them."""

    def __init__(self, targets=None):
        self.targets = targets

    def __call__(self, grid, generator):
        hidden = RandomMask([0.5, 0.7])(grid, generator)
        first = hidden.flatten().cumsum(0).view(grid) <= 9
        found = torch.stack([hidden & first, hidden]) if self.targets is None else self.targets(hidden)
        return MaskWithTargets(hidden, found)


def test_targets_of_a_user_are_cut_to_the_smallest_too():
    check_masks([Uneven(), MultiBlockMask()], GRID, drops=True)
    batch = Collate((Uneven(),), GRID)(samples(1, 2, 3))
    assert (batch.targets.flatten(2).sum(2) == 9).all()
    assert batch.target_units == 9
    assert not (batch.targets & ~batch.mask[:, None]).any()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (lambda hidden: hidden, r"returns targets of torch.bool \(14, 14\).*return bool of \(T, 14, 14\)"),
        (lambda hidden: hidden[None].float(), "returns targets of torch.float32"),
        (lambda hidden: torch.zeros(2, *GRID, dtype=torch.bool), "targets that are empty or visible"),
        (lambda hidden: ~hidden[None], "targets that are empty or visible"),
    ],
)
def test_targets_that_cannot_be_predicted_are_refused(targets, message):
    with pytest.raises(InputError, match=message):
        check_masks([Uneven(targets)], GRID, drops=False)


def test_masks_that_leave_nothing_to_see_are_refused_where_patches_are_dropped():
    everything = MultiBlockMask(target_scale=(1.0, 1.0), target_aspect=(1, 1))
    assert set(hidden_counts([everything], GRID)) == {196}
    with pytest.raises(InputError, match=r"hides 196 to 196 of 196 units.*leave one to see"):
        check_masks([everything], GRID, drops=True)


def test_some_are_kept_at_random_and_all_where_there_are_no_more():
    units = RandomMask(0.5)(GRID, generator())
    kept = keep_some(units, 30, generator(1))
    assert kept.sum() == 30
    assert not (kept & ~units).any()
    assert not torch.equal(kept, keep_some(units, 30, generator(2)))
    assert keep_some(units, 98, generator()) is units


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"targets": 0}, r"mask.targets=0 is not a whole number from 1 on; I-JEPA uses mask.targets=4"),
        ({"targets": True}, "mask.targets=True"),
        ({"least": 1}, r"mask.least=1 is not in \[0, 1\)"),
        ({"target_scale": [0.3, 0.2]}, r"mask.target_scale=\[0.3, 0.2\] is not a number in \(0, 1\], nor a range"),
        ({"target_scale": [0.5, 1.5]}, "mask.target_scale"),
        ({"context_scale": [0, 1]}, "mask.context_scale"),
        ({"target_aspect": ["a", "b"]}, "mask.target_aspect=.* is not a number above 0, nor a range"),
        ({"target_aspect": [float("nan"), 1]}, "mask.target_aspect"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        MultiBlockMask(**values)
    assert "\n" not in str(error.value)
