"""Random erasing: where the rectangle lies, how large it is, what fills it."""

import numpy as np
import pytest
import torch

from mimsuite.data.augment.erasing import RandomErasing
from mimsuite.errors import InputError

MEAN, STD = [0.4, 0.5, 0.6], [0.1, 0.15, 0.05]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rectangle(changed):
    """(top, left, height, width) around the True pixels of `(H, W)`."""
    rows, columns = torch.where(changed)
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1


def erased(erasing, height, width, seeds):
    """Rectangles of pictures whose values no noise of the tests' mean takes."""
    white = torch.full((3, height, width), 255, dtype=torch.uint8)
    for seed in range(seeds):
        found = erasing(white, generator(seed))
        if not torch.equal(found, white):
            changed = (found != white).any(0)
            box = rectangle(changed)
            inside = changed[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
            assert inside.all()
            yield box


def test_area_and_proportions_obey_their_ranges():
    boxes = np.array(list(erased(RandomErasing(1.0, MEAN, STD), 90, 120, 600)))
    areas, ratios = boxes[:, 2] * boxes[:, 3] / (90 * 120), boxes[:, 2] / boxes[:, 3]
    assert len(boxes) == 600
    assert 0.018 < areas.min() < 0.03
    assert 0.31 < areas.max() < 0.345
    assert abs(areas.mean() - 0.175) < 0.012
    assert 0.28 < ratios.min() < 0.36
    assert 2.5 < ratios.max() < 3.5
    assert abs(np.log(ratios).mean()) < 0.12


def test_rectangles_lie_anywhere():
    boxes = np.array(list(erased(RandomErasing(1.0, MEAN, STD, scale=(0.1, 0.1), ratio=(1, 1)), 64, 64, 500)))
    assert (boxes[:, 2:] == 20).all()
    assert boxes[:, :2].min() == 0
    assert boxes[:, 0].max() == boxes[:, 1].max() == 44
    assert np.abs(boxes[:, :2].mean(axis=0) - 22).max() < 2


@pytest.mark.parametrize(("dtype", "maximum"), [(torch.uint8, 255), (torch.int32, 65535)])
def test_noise_is_standard_normal_after_normalisation(dtype, maximum):
    black = torch.zeros(3, 200, 200, dtype=dtype)
    found = RandomErasing(1.0, MEAN, STD, scale=(0.3, 0.3), ratio=(1, 1))(black, generator())
    assert found.dtype == dtype
    values = found[:, (found != 0).any(0)].double() / maximum
    normal = (values - torch.tensor(MEAN)[:, None]) / torch.tensor(STD)[:, None]
    assert normal.shape[1] == 110 * 110
    assert normal.mean(1).abs().max() < 0.03
    assert (normal.std(1) - 1).abs().max() < 0.03
    assert ((normal.abs() < 1.3).double().mean(1) - 0.806).abs().max() < 0.03
    assert torch.corrcoef(normal).fill_diagonal_(0).abs().max() < 0.03
    assert abs(torch.corrcoef(torch.stack((normal[0, :-1], normal[0, 1:])))[0, 1]) < 0.03


@pytest.mark.parametrize(("dtype", "maximum"), [(torch.uint8, 255), (torch.int32, 65535)])
def test_noise_is_clipped_to_the_range(dtype, maximum):
    picture = torch.full((1, 50, 50), 77, dtype=dtype)
    found = RandomErasing(1.0, [0.5], [20.0], scale=(0.2, 0.2))(picture, generator())
    noise = found[found != 77]
    assert abs((noise == 0).float().mean() - 0.5) < 0.1
    assert abs((noise == maximum).float().mean() - 0.5) < 0.1


def test_constant_channel_is_filled_with_its_mean():
    picture = torch.zeros(2, 40, 40, dtype=torch.uint8)
    found = RandomErasing(1.0, [0.4, 0.5], [0.0, 0.1])(picture, generator())
    assert set(found[0].unique().tolist()) == {0, 102}


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_the_rest_stays_and_the_argument_too(channels, dtype):
    picture = torch.randint(0, 256, (channels, 48, 32), generator=generator(9)).to(dtype)
    before = picture.clone()
    found = RandomErasing(1.0, [0.5] * channels, [0.2] * channels)(picture, generator(3))
    assert torch.equal(picture, before)
    assert found.shape == picture.shape
    assert found.dtype == dtype
    changed = (found != picture).any(0)
    top, left, height, width = rectangle(changed)
    outside = torch.ones_like(changed)
    outside[top : top + height, left : left + width] = False
    assert torch.equal(found[:, outside], picture[:, outside])
    assert 0.01 < height * width / changed.numel() < 0.36
    assert changed.sum() > 0.9 * height * width


def test_the_generator_decides():
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    erasing = RandomErasing(1.0, MEAN, STD)
    first = erasing(picture, generator(1))
    assert torch.equal(erasing(picture, generator(1)), first)
    assert not torch.equal(erasing(picture, generator(2)), first)


def test_probability_is_that_of_a_change():
    assert not list(erased(RandomErasing(0.0, MEAN, STD), 32, 32, 50))
    assert len(list(erased(RandomErasing(1.0, MEAN, STD), 32, 32, 50))) == 50
    assert 70 < len(list(erased(RandomErasing(0.25, MEAN, STD), 32, 32, 400))) < 130


def test_rectangle_is_the_same_at_any_probability():
    whole = dict(enumerate(erased(RandomErasing(1.0, MEAN, STD), 32, 32, 40)))
    assert set(erased(RandomErasing(0.5, MEAN, STD), 32, 32, 40)) < set(whole.values())


def test_a_picture_of_one_pixel_stays_whole():
    picture = torch.full((3, 1, 1), 9, dtype=torch.uint8)
    assert torch.equal(RandomErasing(1.0, MEAN, STD)(picture, generator()), picture)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.5, MEAN, STD), "augment.erasing=1.5 is not a probability; use 0.25, or 0 for none"),
        (("often", MEAN, STD), "augment.erasing=often is not a probability"),
        ((0.5, MEAN, STD[:2]), "a mean and a std per channel, not 3 and 2"),
        ((0.5, MEAN, STD, (0.5, 0.2)), "scale=.0.5, 0.2. is not a range"),
        ((0.5, MEAN, STD, (0.1, 0.2), (0, 1)), "ratio=.0, 1. is not a range"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        RandomErasing(*arguments)


def test_a_picture_of_other_channels_is_refused():
    with pytest.raises(InputError, match="mean has 3 values, but the picture 4 channels"):
        RandomErasing(1.0, MEAN, STD)(torch.zeros(4, 8, 8, dtype=torch.uint8), generator())
