"""A sample of pictures: how far grey values correlate, and which pictures are nearly the same."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mimsuite.data.checks.sample import (
    FALLEN,
    SIDE,
    correlation_curve,
    correlation_length,
    find_alike,
    look_at_sample,
)
from mimsuite.data.open import open_index


def blurred(seed, side, radius):
    noise = np.random.default_rng(seed).integers(0, 256, (3 * side, 3 * side), dtype=np.uint8)
    made = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
    return made[side : 2 * side, side : 2 * side]


@pytest.mark.parametrize("sigma", [2, 4])
def test_the_length_of_blurred_noise_is_twice_the_deviation_of_the_blur(sigma):
    """White noise under a Gaussian has the correlation exp(-d^2 / 4 sigma^2)."""
    curve = np.mean([correlation_curve(blurred(seed, SIDE, sigma)) for seed in range(12)], axis=0)
    assert curve[0] == pytest.approx(1)
    assert correlation_length(curve) * SIDE == pytest.approx(2 * sigma, rel=0.15)


def test_the_length_is_a_share_of_the_side_whatever_the_side():
    lengths = [
        correlation_length(np.mean([correlation_curve(blurred(seed, side, side / 32)) for seed in range(30)], axis=0))
        for side in (64, 128)
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.15)


def test_noise_has_no_length_a_slope_a_long_one_and_flat_pictures_none():
    noise = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
    assert correlation_length(correlation_curve(noise)) < 1 / SIDE
    slope = np.tile(np.arange(SIDE, dtype=np.float32), (SIDE, 1))
    assert correlation_length(correlation_curve(slope)) > 0.15
    assert correlation_curve(np.full((8, 8), 3.0, np.float32)) is None
    assert correlation_length(np.ones(65)) == 0.5
    assert 0.36 < FALLEN < 0.37


def test_pictures_that_differ_in_brightness_alone_are_alike():
    random = np.random.default_rng(1).random((4, 16, 16)).astype(np.float32)
    random[3] = 0.5 * random[1] + 7
    assert find_alike(random) == [(1, 3)]
    assert find_alike(np.ones((3, 16, 16), np.float32)) == []


def coded(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_copies_that_lie_side_by_side_are_found_in_any_sample(tmp_path, tar):
    """25 of 200 pictures have a copy of other bytes beside them; a sample of 60 meets some."""
    random = np.random.default_rng(0)
    members, pictures = [], []
    for number in range(200):
        picture = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        picture = pictures[-1] // 2 + 60 if number % 8 == 1 else picture
        pictures.append(picture)
        members.append((f"s{number:04d}.png", coded(picture)))
    tar(tmp_path / "twins" / "train-000000.tar", members)
    index = open_index(str(tmp_path / "twins"), tmp_path / "cache")
    whole, part = (look_at_sample(index, index.records("train"), count) for count in (400, 60))
    assert (whole.images, whole.alike) == (200, 50)
    assert whole.first[0] == ("s0000", "s0001") or len(whole.first) == 3
    assert part.images <= 60
    assert 0 < part.alike < 50
    assert look_at_sample(index, index.records("train"), 60) == part
    assert (part.correlation or 1) < 2 / 24


def test_any_channels_and_depth_broken_pictures_and_labels(tmp_path, tar):
    random = np.random.default_rng(0)

    def npy(number):
        stream = io.BytesIO()
        np.save(stream, random.integers(0, 65536, (20, 30, 4), dtype=np.uint16))
        return stream.getvalue()

    members = [(f"s{number}.npy", npy(number)) for number in range(8)]
    members += [("s8.npy", b"\x93NUMPY broken"), ("s9.npy", npy(9)), ("s9.json", b'{"label": [1]}')]
    tar(tmp_path / "deep" / "train-000000.tar", members)
    index = open_index(str(tmp_path / "deep"), tmp_path / "cache")
    found = look_at_sample(index, index.records("train"))
    assert (found.images, found.broken, found.alike, found.kinds) == (10, 1, 0, {"classes": 1})
    assert found.correlation is not None
    assert look_at_sample(index, index.records("train"), seconds=0).images <= 2, "it stops when the time is over"
