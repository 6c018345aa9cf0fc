"""The supervised augmentation: what it shares with the plain crop, and the order of what it adds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from mimsuite.config.instantiate import instantiate
from mimsuite.data.augment.crop import RandomResizedCrop
from mimsuite.data.augment.erasing import RandomErasing
from mimsuite.data.augment.rand_augment import RandAugment
from mimsuite.data.augment.supervised import Supervised
from mimsuite.data.images.decode import Box
from mimsuite.errors import InputError
from mimsuite.settings.crops import OF_THE_LOADER
from mimsuite.settings.training import without_keys

MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.3]
CONF = Path(__file__).resolve().parents[2] / "conf"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def supervised(size=(32, 32), **arguments):
    return Supervised(size, **({"mean": MEAN, "std": STD} | arguments))


def noise(channels=3, dtype=np.uint8, height=50, width=40):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, channels), dtype=dtype)


def config(*overrides):
    """The group as the command line composes it, without what the run reads itself."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("pretrain", ["augment=supervised", *overrides])
    return without_keys(cfg, "augment", OF_THE_LOADER)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"scale": (0.5, 0.9), "ratio": (0.9, 1.1), "flip": 0.3, "interpolation": "bilinear"},
        {"size": (24, 40), "flip": 1.0},
    ],
)
def test_bare_it_is_the_plain_crop_to_the_bit(arguments):
    ours = supervised(**arguments)
    plain = RandomResizedCrop(**({"size": (32, 32), "scale": (0.2, 1.0)} | arguments))
    assert ours.size == plain.size
    for seed in range(20):
        one, two = generator(seed), generator(seed)
        assert ours.box(400, 350, one) == plain.box(400, 350, two)
        assert torch.equal(ours(noise(), one), plain(noise(), two))
        assert torch.equal(one.get_state(), two.get_state())


def test_order_is_crop_then_rand_augment_then_erasing():
    settings = {"layers": 3, "magnitude": 7, "magnitude_std": 1.0, "probability": 0.9}
    ours = supervised(rand_augment=settings, erasing=0.8, interpolation="bilinear")
    crop = RandomResizedCrop((32, 32), (0.2, 1.0), interpolation="bilinear")
    augment = RandAugment(**settings, fill=MEAN, interpolation="bilinear")
    erase = RandomErasing(0.8, MEAN, STD)
    for seed in range(20):
        one, two = generator(seed), generator(seed)
        assert ours.box(400, 350, one) == crop.box(400, 350, two)
        assert torch.equal(ours(noise(), one), erase(augment(crop(noise(), two), two), two))


def test_left_out_settings_are_the_published_ones():
    pixels = noise()
    full = {"layers": 2, "magnitude": 9.0, "magnitude_std": 0.5, "probability": 0.5}
    for settings in ({}, {"layers": 2, "magnitude": 9}):
        for seed in range(10):
            found = supervised(rand_augment=settings)(pixels, generator(seed))
            assert torch.equal(found, supervised(rand_augment=full)(pixels, generator(seed)))


@pytest.mark.parametrize("channels", [1, 3, 4, 12])
@pytest.mark.parametrize(("dtype", "kind"), [(np.uint8, torch.uint8), (np.uint16, torch.int32)])
def test_any_kind_of_picture(channels, dtype, kind):
    ours = supervised(rand_augment={}, erasing=1.0, mean=[0.5] * channels, std=[0.2] * channels)
    for seed in range(10):
        picture = ours(noise(channels, dtype), generator(seed))
        assert picture.shape == (channels, 32, 32)
        assert picture.dtype == kind
        assert picture.min() >= 0
        assert picture.max() <= np.iinfo(dtype).max
        assert torch.equal(picture, ours(noise(channels, dtype), generator(seed)))


def test_share_is_of_the_sides_at_any_place():
    ours = supervised(size=(96, 96), share=0.8)
    boxes = [ours.box(200, 100, generator(seed)) for seed in range(500)]
    assert {(box.height, box.width) for box in boxes} == {(160, 80)}
    tops, lefts = [box.top for box in boxes], [box.left for box in boxes]
    assert set(tops) == set(range(41))
    assert set(lefts) == set(range(21))
    assert abs(np.mean(tops) - 20) < 2
    assert abs(np.mean(lefts) - 10) < 1


def test_share_keeps_to_where_a_smaller_jpeg_can_be_cut():
    boxes = [supervised(share=0.8).box(1000, 600, generator(seed)) for seed in range(20)]
    assert all(value % 8 == 0 for box in boxes for value in box)
    assert {(box.height, box.width) for box in boxes} == {(800, 480)}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 700), (2000, 3000), (33, 31)])
def test_shares_lie_inside(height, width):
    for share in (0.01, 0.8, 1.0):
        for seed in range(30):
            box = supervised(share=share).box(height, width, generator(seed))
            assert box.top >= 0
            assert box.left >= 0
            assert 0 < box.height <= height - box.top
            assert 0 < box.width <= width - box.left
    assert supervised(share=1).box(33, 31, generator()) == Box(0, 0, 33, 31)


def test_the_config_group_builds_and_takes_settings():
    node = config()
    made = instantiate(node, size=[32, 32], mean=MEAN, std=STD)
    plain = RandomResizedCrop((32, 32), node.scale, node.ratio)
    assert torch.equal(made(noise(), generator()), plain(noise(), generator()))
    node = config("augment.rand_augment={layers:2,magnitude:9}", "augment.erasing=0.25")
    made = instantiate(node, size=[32, 32], mean=MEAN, std=STD)
    wanted = supervised(rand_augment={}, erasing=0.25)
    assert all(torch.equal(made(noise(), generator(s)), wanted(noise(), generator(s))) for s in range(10))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"erasing": 1.5}, "augment.erasing=1.5 is not a probability; use 0.25, or 0 for none"),
        ({"flip": -1}, "augment.flip=-1 is not a probability; use 0.5, or 0 for none"),
        ({"flip": "never"}, "augment.flip=never is not a probability"),
        ({"scale": (0.0, 1.0)}, "augment.scale"),
        ({"interpolation": "nearest"}, "augment.interpolation=nearest"),
        ({"share": 0}, "augment.share=0 is not a share within"),
        ({"share": 1.2}, "augment.share=1.2 is not a share within"),
        ({"share": "most"}, "augment.share=most is not a share within"),
        ({"rand_augment": True}, "augment.rand_augment=True has no keys; use {layers:2,magnitude:9}, or null"),
        ({"rand_augment": {"layer": 2}}, "augment.rand_augment has no key 'layer'; it takes layers, magnitude"),
        ({"rand_augment": {"magnitude": 12}}, "augment.rand_augment.magnitude=12"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        supervised(**arguments)
    assert "\n" not in str(caught.value)
