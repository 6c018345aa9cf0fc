"""The first five losses of every family on real pictures, as they were: a change of them must be meant.

`python tests/test_golden_losses.py` writes them anew.
"""

import json
from pathlib import Path

import pytest
import torch

from mimsuite.config.folder import conf_dir
from mimsuite.config.instantiate import instantiate
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.open import open_data
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.samplers import RandomMask
from mimsuite.models import AutoModelForMaskedImageModeling
from mimsuite.objectives.groups import param_groups
from mimsuite.settings.models import model_node

FILE = Path(__file__).with_name("golden_losses.json")
MODELS = {  # name of the losses -> the model's config, and what of it is changed
    **{name: (name, {}) for name in ("vit_nano", "cvt_nano", "bit_nano")},
    "cvt_nano, spark": ("cvt_nano", {"mask_mode": "sparse", "decoder_hidden_size": 24, "mim_target": "norm_pixels"}),
    "bit_nano, spark": ("bit_nano", {"mask_mode": "sparse", "decoder_hidden_size": 64, "mim_target": "norm_pixels"}),
    "bit_nano, sparse, fourier": ("bit_nano", {"mask_mode": "sparse"}),
    "bit_nano, added token, fourier": ("bit_nano", {"mask_layer": 2}),
    "cvt_nano, added token": ("cvt_nano", {"mask_layer": 1}),
}


def five_losses(name):
    torch.manual_seed(0)
    index = open_data(None)
    loader = eval_loader(
        index,
        index.select("train"),
        image_size=(64, 64),
        batch=16,
        workers=0,
        labels=False,
        mask=RandomMask(0.6),
        mask_unit=16,
    )
    model_name, changes = MODELS[name]
    config = instantiate(model_node(conf_dir() / "model" / f"{model_name}.yaml")).changed(**changes)
    model = AutoModelForMaskedImageModeling.from_config(config).train()
    optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.05, decay_mask_token=False), lr=1e-3)
    normalize, losses = Normalize(index.mean, index.std), []
    for _, batch in zip(range(5), loader, strict=False):
        optimizer.zero_grad()
        loss, _ = model.masked_pass(normalize(batch.images), batch.mask, fourier=0.5 if "fourier" in name else 0.0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", MODELS)
def test_the_first_five_losses_are_as_they_were(name):
    assert five_losses(name) == pytest.approx(json.loads(FILE.read_text())[name], rel=2e-4)


if __name__ == "__main__":
    torch.set_num_threads(2)
    FILE.write_text(json.dumps({name: five_losses(name) for name in MODELS}, indent=2) + "\n")
