"""The small trained models that come with the package: `init=demo:vit`."""

import pytest
import torch

import mimsuite
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.samplers import RandomMask
from mimsuite.metrics.psnr import visible_mean_loss
from mimsuite.models import AutoImageProcessor, AutoModelForMaskedImageModeling
from mimsuite.weights.init import find_weights
from mimsuite.weights.source import DEMOS

NAMES = ["vit", "cvt", "bit"]


def test_these_are_shipped_and_small():
    assert sorted(path.name for path in DEMOS.iterdir() if path.is_dir()) == sorted(NAMES)
    assert sum(path.stat().st_size for path in DEMOS.rglob("*")) < 6_000_000


@pytest.mark.parametrize("name", NAMES)
def test_it_predicts_far_better_than_the_mean_colour(name):
    """On 64 validation emoji, 10 of 16 units hidden."""
    weights, index = find_weights(f"demo:{name}"), open_data(None)
    model, normalize = mimsuite.load(f"demo:{name}"), Normalize(*weights.statistics)
    options = {"image_size": (64, 64), "batch": 64, "workers": 0, "labels": False}
    batch = next(iter(eval_loader(index, index.select("curve"), mask=RandomMask(0.6), mask_unit=16, **options)))
    with torch.inference_mode():
        pixels = normalize(batch.images)
        loss, flat = model.masked_loss(pixels, batch.mask), visible_mean_loss(pixels, batch.mask)
    assert loss < 0.6 * flat


def test_from_pretrained_and_the_processor_take_the_name_too():
    model = AutoModelForMaskedImageModeling.from_pretrained("demo:cvt")
    assert torch.equal(model.state_dict()["mask_token"], mimsuite.load("demo:cvt").state_dict()["mask_token"])
    assert AutoImageProcessor.from_pretrained("demo:cvt").size == {"height": 64, "width": 64}


@pytest.mark.parametrize("init", ["demo:vitt", "demo:", "demo:../demo/vit", "demo:/etc"])
def test_an_unknown_name_is_one_line_that_lists_them(init):
    with pytest.raises(InputError, match=r"is unknown; use demo:bit or demo:cvt or demo:vit") as caught:
        find_weights(init)
    assert "\n" not in str(caught.value)
