"""Crops: where they lie, what decides them, and that decoding at a smaller scale changes little."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mimsuite.data.augment.crop import CenterCrop, RandomResizedCrop
from mimsuite.data.images.decode import Box, open_image
from mimsuite.errors import InputError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(height, width, channels=3, dtype=np.uint8):
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, (height, width, channels), dtype=dtype)


@pytest.mark.parametrize(("height", "width"), [(400, 350), (64, 64), (30, 500), (500, 31), (1, 1), (2000, 3000)])
def test_random_boxes_lie_inside_and_obey_their_ranges(height, width):
    crop = RandomResizedCrop((32, 32), scale=(0.3, 0.8))
    for seed in range(200):
        box = crop.box(height, width, generator(seed))
        assert box.top >= 0
        assert box.left >= 0
        assert 0 < box.height <= height - box.top
        assert 0 < box.width <= width - box.left
        if (height, width) == (400, 350):
            assert 0.28 < box.height * box.width / (height * width) < 0.82
            assert 0.72 < box.width / box.height < 1.39


def test_proportions_follow_a_result_that_is_not_square():
    crop = RandomResizedCrop((32, 64))
    ratios = [box.width / box.height for box in (crop.box(600, 1200, generator(s)) for s in range(300))]
    assert 1.45 < min(ratios) < 1.6
    assert 2.5 < max(ratios) < 2.75


def test_boxes_cover_the_image_evenly():
    crop = RandomResizedCrop((96, 96), scale=(0.25, 0.25), ratio=(1, 1))
    boxes = [crop.box(191, 191, generator(s)) for s in range(500)]
    assert min(b.top for b in boxes) == 0
    assert max(b.top for b in boxes) == 191 - 96
    assert abs(np.mean([b.top for b in boxes]) - 47.5) < 5


def test_the_generator_decides():
    crop = RandomResizedCrop((32, 32))
    pixels = noise(40, 50)
    one, two = generator(5), generator(5)
    first = crop.box(400, 350, one), crop(pixels, one)
    again = crop.box(400, 350, two), crop(pixels, two)
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])
    assert any(crop.box(400, 350, generator(s)) != first[0] for s in range(3))


def test_flip_mirrors_with_the_given_probability():
    pixels = noise(32, 32)
    plain = torch.from_numpy(pixels).permute(2, 0, 1)
    crop = RandomResizedCrop((32, 32), flip=0.25)
    flipped = 0
    for seed in range(400):
        picture = crop(pixels, generator(seed))
        flipped += torch.equal(picture, plain.flip(-1))
        assert torch.equal(picture, plain) or torch.equal(picture, plain.flip(-1))
    assert 70 < flipped < 130
    assert torch.equal(RandomResizedCrop((32, 32), flip=0)(pixels, generator()), plain)
    assert torch.equal(RandomResizedCrop((32, 32), flip=1)(pixels, generator()), plain.flip(-1))


@pytest.mark.parametrize(
    ("height", "width", "size", "box"),
    [
        (100, 200, (50, 50), Box(0, 50, 100, 100)),
        (100, 200, (40, 80), Box(0, 0, 100, 200)),
        (30, 30, (60, 60), Box(0, 0, 30, 30)),
        (90, 60, (32, 64), Box(30, 0, 30, 60)),
        (1, 500, (8, 8), Box(0, 249, 1, 1)),
    ],
)
def test_center_crop_takes_the_largest_central_part(height, width, size, box):
    assert CenterCrop(size).box(height, width, generator()) == box


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_resize_is_torchs_antialiased_one(mode):
    pixels = noise(90, 70)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    expected = F.interpolate(image, size=(40, 30), mode=mode, antialias=True)[0]
    assert torch.equal(CenterCrop((40, 30), mode)(pixels, generator()), expected)


def test_sixteen_bit_pictures_stay_in_range():
    pixels = noise(50, 50, 5, np.uint16)
    picture = CenterCrop((70, 70))(pixels, generator())
    assert picture.shape == (5, 70, 70)
    assert picture.dtype == torch.int32
    assert picture.min() >= 0
    assert picture.max() <= 65535
    same = CenterCrop((50, 50))(pixels, generator())
    assert np.array_equal(same.permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("size", [(24, 24), (50, 40), (96, 96)])
def test_scaled_decode_gives_almost_the_same_pictures(size):
    """Stated tolerance: mean 2 and largest 24 grey levels on a picture with texture."""
    y, x = np.mgrid[0:500, 0:640]
    picture = 128 + 60 * np.sin(x / 17) * np.cos(y / 23) + np.random.default_rng(0).normal(0, 12, (500, 640))
    stream = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).convert("RGB").save(stream, "JPEG", quality=90)
    image = open_image(stream.getvalue())
    for seed in range(5):
        crop = RandomResizedCrop(size, flip=0)
        box = crop.box(image.height, image.width, generator(seed))
        scaled, whole = image.pixels(box, size), image.pixels(box)
        assert scaled.shape[0] < whole.shape[0]
        difference = (crop(scaled, generator()).float() - crop(whole, generator()).float()).abs()
        assert difference.mean() < 2
        assert difference.max() < 24


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": (32, 32), "scale": (0.0, 1.0)}, "augment.scale"),
        ({"size": (32, 32), "scale": (0.8, 0.2)}, "augment.scale"),
        ({"size": (32, 32), "scale": (0.5, 1.5)}, "augment.scale"),
        ({"size": (32, 32), "ratio": (2.0, 1.0)}, "augment.ratio"),
        ({"size": (32, 32), "flip": 1.5}, "augment.flip"),
        ({"size": (32, 0)}, "augment.size"),
        ({"size": (32,)}, "augment.size"),
        ({"size": (32, 32), "interpolation": "nearest"}, "augment.interpolation=nearest"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        RandomResizedCrop(**arguments)
