"""The first five losses of every family on real pictures, as they were: a change of them must be meant.

`python tests/test_golden_losses.py` writes them anew.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).with_name("models")))
import wrapped

from mimsuite.config.folder import conf_dir
from mimsuite.config.instantiate import instantiate
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.open import open_data
from mimsuite.masked.latent import latent_error, take_cells
from mimsuite.masked.losses import masked_error_patches
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.samplers import RandomMask
from mimsuite.models import AutoModelForMaskedImageModeling, ExternalConfig
from mimsuite.models.latent import copy_encoder, latent_pass
from mimsuite.models.sources import completed
from mimsuite.objectives.groups import param_groups
from mimsuite.objectives.teacher import Teacher
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


LATENT = {  # the same for predictors of features, and what of the predictor is changed
    "vit_nano, latent": ("vit_nano", {"mask_mode": "drop"}, {"kind": "transformer", "pixels": True}),
    "cvt_nano, latent": ("cvt_nano", {}, {}),
    "bit_nano, latent": ("bit_nano", {}, {"combine": "stack"}),
    "bit_nano, latent, sparse": ("bit_nano", {"mask_mode": "sparse"}, {}),
    "dinov2, latent": ("dinov2", {}, {}),
    "convnextv2, latent": ("convnextv2", {}, {}),
}


def five_losses(name):
    model_name, changes, *predictor = (MODELS | LATENT)[name]
    config = config_named(model_name).changed(**changes)
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
    if predictor:
        config = predicting(config, **predictor[0])
    model = AutoModelForMaskedImageModeling.from_config(config).train()
    if model_name in wrapped.CLASSES:
        model.encoder.load_source()  # not the library's random weights, which a version may draw in another way
    optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.05, decay_mask_token=False), lr=1e-3)
    normalize, losses = Normalize(index.mean, index.std), []
    teacher = Teacher(copy_encoder(model), config.latent_blocks, config.mim_predictor["combine"]) if predictor else None
    for _, batch in zip(range(5), loader, strict=False):
        optimizer.zero_grad()
        pixels = normalize(batch.images)
        if teacher is None:
            loss, _ = model.masked_pass(pixels, batch.mask, fourier=0.5 if "fourier" in name else 0.0)
        else:
            loss = latent_loss(model, teacher, batch, pixels)
        loss.backward()
        optimizer.step()
        if teacher is not None:
            teacher.update(model.encoder, 0.9, torch.tensor(False))
        losses.append(loss.item())
    return losses


def config_named(name):
    """Of one of our models, or of a tiny network of transformers that is wrapped."""
    if name in wrapped.CLASSES:
        return completed(ExternalConfig(source=wrapped.folder_of(name)))
    return instantiate(model_node(conf_dir() / "model" / f"{name}.yaml"))


def predicting(config, **changes):
    layers = config.latent_blocks
    features = config.num_features * (len(layers) if changes.get("combine") == "stack" else 1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    predictor = {"kind": "conv", **sizes, "features": features, "layers": layers, "combine": "mean", "pixels": False}
    return config.changed(mim_predictor=predictor | changes)


def latent_loss(model, teacher, batch, pixels):
    """The error of features, and of pixels where they are predicted."""
    made = latent_pass(model, pixels, batch.mask)
    features, predicted, where = made.predicted
    grid = tuple(made.hidden.shape[1:])
    loss = latent_error(features, take_cells(teacher(batch.images, pixels, grid), where), "smooth_l1", 2.0)
    if predicted is None:
        return loss
    return loss + masked_error_patches(predicted, model.target.cells(pixels, grid, where), model.num_channels, "mse")


@pytest.mark.parametrize("name", MODELS | LATENT)
def test_the_first_five_losses_are_as_they_were(name):
    assert five_losses(name) == pytest.approx(json.loads(FILE.read_text())[name], rel=2e-4)


if __name__ == "__main__":
    torch.set_num_threads(2)
    FILE.write_text(json.dumps({name: five_losses(name) for name in MODELS | LATENT}, indent=2) + "\n")
