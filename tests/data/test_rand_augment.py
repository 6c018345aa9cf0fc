"""RandAugment: its operations are Pillow's to the bit, on other kinds of pictures likewise; the generator decides."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from mimsuite.data.augment import rand_augment as ra
from mimsuite.data.augment.rand_augment import OPERATIONS, Draw, RandAugment
from mimsuite.errors import InputError

FILL = [120, 30, 250]
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
CURVES = (ra.auto_contrast, ra.equalize, ra.invert, ra.posterize, ra.solarize, ra.solarize_add, ra.brightness)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(channels=3, height=37, width=29, count=12):
    """Noise, noise of few values, and smooth pictures of a part of the range, as `(C, H, W)` uint8."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    for number in range(count):
        noise = random.integers(0, 256, (channels, height, width), dtype=np.uint8)
        if number % 3 == 1:
            noise = (noise // 60 * 50 + 7).astype(np.uint8)
        if number % 3 == 2:
            phases = random.uniform(0, 6, (channels, 1, 1))
            noise = (90 + 50 * np.sin(x / 7 + phases) * np.cos(y / 9) + noise / 20).astype(np.uint8)
        yield noise


def smooth(channels, height=64, width=48):
    y, x = np.mgrid[0:height, 0:width]
    phases = np.arange(channels)[:, None, None]
    return (120 + 90 * np.sin(x / 11 + phases) * np.cos(y / 13 + phases)).astype(np.uint8)


def affine(image, draw, matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, draw.resampling, fillcolor=tuple(draw.fill))


def add_below_128(image, draw):
    more = int(draw.strength * 110)
    return image.point([min(255, i + more) if i < 128 else i for i in range(256)] * len(image.getbands()))


def amount(draw, largest):
    return draw.sign * draw.strength * largest


PILLOW = {
    ra.auto_contrast: lambda image, draw: ImageOps.autocontrast(image),
    ra.equalize: lambda image, draw: ImageOps.equalize(image),
    ra.invert: lambda image, draw: ImageOps.invert(image),
    ra.rotate: lambda image, draw: image.rotate(amount(draw, 30.0), draw.resampling, fillcolor=tuple(draw.fill)),
    ra.posterize: lambda image, draw: ImageOps.posterize(image, max(1, 4 - int(draw.strength * 4))),
    ra.solarize: lambda image, draw: ImageOps.solarize(image, 256 - int(draw.strength * 256)),
    ra.solarize_add: add_below_128,
    ra.color: lambda image, draw: ImageEnhance.Color(image).enhance(max(0.1, 1 + amount(draw, 0.9))),
    ra.contrast: lambda image, draw: ImageEnhance.Contrast(image).enhance(max(0.1, 1 + amount(draw, 0.9))),
    ra.brightness: lambda image, draw: ImageEnhance.Brightness(image).enhance(max(0.1, 1 + amount(draw, 0.9))),
    ra.sharpness: lambda image, draw: ImageEnhance.Sharpness(image).enhance(max(0.1, 1 + amount(draw, 0.9))),
    ra.shear_x: lambda image, draw: affine(image, draw, (1, amount(draw, 0.3), 0, 0, 1, 0)),
    ra.shear_y: lambda image, draw: affine(image, draw, (1, 0, 0, amount(draw, 0.3), 1, 0)),
    ra.translate_x: lambda image, draw: affine(image, draw, (1, 0, amount(draw, 0.45) * image.width, 0, 1, 0)),
    ra.translate_y: lambda image, draw: affine(image, draw, (1, 0, 0, 0, 1, amount(draw, 0.45) * image.height)),
}


def test_all_operations_are_compared():
    assert set(PILLOW) == set(OPERATIONS)
    assert len(OPERATIONS) == 15


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_operation_is_pillows_to_the_bit(operation):
    random = np.random.default_rng(1)
    strengths = [0.0, 1.0, 0.9, *random.uniform(0, 1, 9)]
    changed = 0
    for number, (picture, strength) in enumerate(zip(pictures(), strengths, strict=True)):
        for sign in (1, -1):
            draw = Draw(float(strength), sign, FILL, BICUBIC if number % 2 else BILINEAR)
            image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
            expected = np.asarray(PILLOW[operation](image, draw)).transpose(2, 0, 1)
            found = operation(picture, draw)
            assert found.dtype == np.uint8
            assert np.array_equal(found, expected)
            changed += not np.array_equal(found, picture)
    assert changed > 12


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_grey_operation_is_pillows_to_the_bit(operation):
    for picture in pictures(channels=1, count=6):
        draw = Draw(0.77, -1, [99], BICUBIC)
        expected = np.asarray(PILLOW[operation](Image.fromarray(picture[0]), draw))
        assert np.array_equal(operation(picture, draw)[0], expected)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 5), (3, 5, 2), (1, 3, 3)])
def test_tiny_pictures_are_pillows_too(operation, shape):
    picture = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    draw = Draw(0.83, 1, FILL[: shape[0]], BICUBIC)
    image = Image.fromarray(picture[0] if shape[0] == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0)))
    expected = np.asarray(PILLOW[operation](image, draw))
    expected = expected[None] if shape[0] == 1 else expected.transpose(2, 0, 1)
    assert np.array_equal(operation(picture, draw), expected)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_channels_of_their_own_are_treated_one_by_one(operation):
    """All but Color and Contrast, which need the grey picture, do to a channel the same beside any others."""
    picture = smooth(5)
    draw = Draw(0.7, 1, [1, 50, 128, 200, 255], BICUBIC)
    found = operation(picture, draw)
    alone = [operation(picture[c : c + 1], draw._replace(fill=[draw.fill[c]]))[0] for c in range(5)]
    assert np.array_equal(found, np.stack(alone)) == (operation not in (ra.color, ra.contrast))


def test_grey_of_other_channel_counts_is_the_mean():
    picture = smooth(4)
    mean = picture.mean(axis=0)
    draw = Draw(1.0, -1, [0] * 4, BICUBIC)  # factor 0.1
    assert np.abs(ra.color(picture, draw) - (mean + 0.1 * (picture - mean))).max() < 1.5
    assert np.abs(ra.contrast(picture, draw) - (mean.mean() + 0.1 * (picture - mean.mean()))).max() < 1.5


def test_color_leaves_one_channel_as_it_is():
    picture = smooth(1)
    assert np.array_equal(ra.color(picture, Draw(0.9, 1, [0], BICUBIC)), picture)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_do_the_same_as_eight(operation, channels):
    """Stated tolerance: 1.5 of 255 levels; Equalize, whose steps are fractions with 16 bits, 6."""
    picture = smooth(channels)
    for strength, sign in ((0.9, 1), (0.35, -1)):
        draw = Draw(strength, sign, [128] * channels, BICUBIC)
        shallow = operation(picture, draw)
        deep = operation(picture.astype(np.int32) * 257, draw._replace(fill=[128 * 257] * channels))
        assert deep.dtype == np.int32
        assert deep.min() >= 0
        assert deep.max() <= 65535
        difference = np.abs(deep / 257 - shallow)
        if operation is ra.posterize:  # the lowest bits are zeros, which weigh less than 257
            difference = np.abs(deep // 256 - shallow.astype(int))
        assert difference.max() < (6 if operation is ra.equalize else 1.5)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_sixteen_bit_values_stay_in_range(operation):
    """Cubic interpolation between black and white overshoots."""
    picture = np.random.default_rng(0).integers(0, 2, (3, 40, 40)).astype(np.int32) * 65535
    found = operation(picture, Draw(0.87, 1, [0, 40000, 65535], BICUBIC))
    assert found.dtype == np.int32
    assert found.min() >= 0
    assert found.max() <= 65535


def test_sixteen_bit_equalize_spreads_the_values():
    picture = (np.random.default_rng(0).normal(9000, 300, (2, 64, 64)).clip(0, 65535)).astype(np.int32)
    found = ra.equalize(picture, Draw(0, 1, [0, 0], BICUBIC))
    shares = np.histogram(found, bins=8, range=(0, 65536))[0] / found.size
    assert np.abs(shares - 1 / 8).max() < 0.01


def test_curves_take_nothing_from_neighbours():
    picture = smooth(3)
    draw = Draw(0.6, 1, FILL, BICUBIC)
    for operation in CURVES:
        assert np.array_equal(operation(picture[:, :, ::-1], draw), operation(picture, draw)[:, :, ::-1])


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_kind_and_shape_stay_and_the_argument_too(channels, dtype):
    picture = torch.from_numpy(smooth(channels)).to(dtype) * (257 if dtype == torch.int32 else 1)
    before = picture.clone()
    augment = RandAugment(layers=3, probability=1.0)
    changed = 0
    for seed in range(25):
        found = augment(picture, generator(seed))
        assert found.shape == picture.shape
        assert found.dtype == dtype
        assert found.is_contiguous()
        assert found.data_ptr() != picture.data_ptr()
        assert int(found.max()) <= (65535 if dtype == torch.int32 else 255)
        assert torch.equal(picture, before)
        changed += not torch.equal(found, picture)
    assert changed > 15


def test_the_generator_decides():
    picture = torch.from_numpy(smooth(3))
    augment = RandAugment(probability=1.0)
    first = augment(picture, generator(4))
    assert torch.equal(augment(picture, generator(4)), first)
    assert any(not torch.equal(augment(picture, generator(seed)), first) for seed in range(3))


def test_the_number_of_draws_is_fixed():
    states = []
    for probability, magnitude, picture in ((0.0, 9.0, smooth(3)), (1.0, 9.0, smooth(1)), (0.5, 1.0, smooth(4))):
        one = generator(7)
        RandAugment(probability=probability, magnitude=magnitude)(torch.from_numpy(picture), one)
        states.append(one.get_state())
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def drawn(monkeypatch, augment, seeds):
    """Name and draw of each operation carried out over the seeds."""
    seen = []
    spies = [lambda picture, draw, f=f: (seen.append((f.__name__, draw)), picture)[1] for f in OPERATIONS]
    monkeypatch.setattr(ra, "OPERATIONS", tuple(spies))
    picture = torch.zeros(3, 4, 4, dtype=torch.uint8)
    for seed in range(seeds):
        augment(picture, generator(seed))
    return seen


def test_operations_are_equally_likely_and_carried_out_with_the_probability(monkeypatch):
    seen = drawn(monkeypatch, RandAugment(layers=3, probability=0.4), 5000)
    assert abs(len(seen) / 15000 - 0.4) < 0.012
    names = [name for name, _ in seen]
    counts = np.array([names.count(f.__name__) for f in OPERATIONS])
    assert np.abs(counts / len(seen) - 1 / 15).max() < 0.012


def test_magnitudes_are_normal_and_clipped_and_signs_are_fair(monkeypatch):
    seen = drawn(monkeypatch, RandAugment(layers=2, magnitude=9, magnitude_std=0.5, probability=1.0), 4000)
    magnitudes = np.array([draw.strength * 10 for _, draw in seen])
    assert magnitudes.max() == 10
    assert abs(np.mean(magnitudes == 10) - 0.0228) < 0.008
    assert abs(np.median(magnitudes) - 9) < 0.03
    assert abs(np.quantile(magnitudes, 0.1587) - 8.5) < 0.04
    assert abs(np.mean([draw.sign for _, draw in seen])) < 0.04


def test_magnitude_without_spread_is_exact(monkeypatch):
    seen = drawn(monkeypatch, RandAugment(magnitude=4, magnitude_std=0, probability=1.0), 20)
    assert {draw.strength for _, draw in seen} == {0.4}


@pytest.mark.parametrize(
    ("fill", "expected"), [(None, [128, 128, 128]), ([0.1, 0.5, 1.0], [26, 128, 255]), ([-0.1, 0.0, 1.2], [0, 0, 255])]
)
def test_fill_is_in_fractions(monkeypatch, fill, expected):
    seen = drawn(monkeypatch, RandAugment(probability=1.0, fill=fill), 1)
    assert seen[0][1].fill == expected


def test_probability_nought_returns_the_picture():
    picture = torch.from_numpy(smooth(3))
    assert all(torch.equal(RandAugment(probability=0.0)(picture, generator(s)), picture) for s in range(10))


def test_interpolation_is_of_the_geometry(monkeypatch):
    assert drawn(monkeypatch, RandAugment(probability=1.0), 1)[0][1].resampling == BICUBIC
    assert drawn(monkeypatch, RandAugment(probability=1.0, interpolation="bilinear"), 1)[0][1].resampling == BILINEAR


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layers": 0}, "augment.rand_augment.layers=0 is not a count"),
        ({"layers": 1.5}, "augment.rand_augment.layers=1.5"),
        ({"magnitude": 11}, "augment.rand_augment.magnitude=11 is not within 0 to 10"),
        ({"magnitude": "high"}, "augment.rand_augment.magnitude=high"),
        ({"magnitude_std": -1}, "augment.rand_augment.magnitude_std=-1"),
        ({"magnitude_std": float("inf")}, "augment.rand_augment.magnitude_std=inf"),
        ({"probability": 1.5}, "augment.rand_augment.probability=1.5 is not a probability; use 0.5, or 0 for none"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        RandAugment(**arguments)


def test_fill_of_another_channel_count_is_refused():
    with pytest.raises(InputError, match="fill has 3 values, but the picture has 4 channels"):
        RandAugment(fill=[0.5] * 3)(torch.from_numpy(smooth(4)), generator())
