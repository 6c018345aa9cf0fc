"""Every encoder and objective can learn eight pictures by heart: 150 to 300 steps, fresh masks at every step."""

import functools

import pytest
import torch
from hydra import compose, initialize_config_dir

from mimsuite.config.folder import conf_dir
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.open import open_data
from mimsuite.masked.losses import masked_error
from mimsuite.masked.patches import expand_mask
from mimsuite.masked.samplers import RandomMask
from mimsuite.metrics.psnr import visible_mean_loss
from mimsuite.models.load import make_masked_model, make_normalizer
from mimsuite.objectives.groups import param_groups
from mimsuite.objectives.schedules import WarmupCosine
from mimsuite.settings.model import masked_config, read_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

IMAGES, UNIT, DRAWS = 8, 8, 8
VIT = ["model=vit_nano", "model.position=sincos2d", "model.init_scheme=mae"]  # so few steps teach no positions
SMALL_DECODER = ["head.hidden_size=192", "head.num_hidden_layers=1", "head.num_attention_heads=6"]
MAE = [*VIT, "objective=mae", *SMALL_DECODER, "head.intermediate_size=768"]
SPARSE = ["model=bit_nano", "objective.mask_mode=sparse", "objective.fourier=0.5"]
TOKEN = ["model=bit_nano", "objective.mask_layer=2", "objective.fourier=0.5"]


@functools.cache
def emoji():
    """Eight normalised pictures of 64 x 64 pixels."""
    index = open_data(None)
    loader = eval_loader(index, "val", image_size=(64, 64), batch=IMAGES, workers=0, labels=False)
    return make_normalizer(index, None)(next(iter(loader)).images)


def make(overrides):
    """A fresh model as `mimsuite pretrain` with these arguments makes it, and the config."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose("pretrain", overrides)
    config = read_model(cfg, None, overrides, (), image_size=(64, 64), channels=3)
    torch.manual_seed(0)
    return make_masked_model(masked_config(config, cfg, None, overrides), None, cfg.head, ()).train(), cfg


def learn(model, cfg, lr, steps):
    """Steps of AdamW on the eight pictures."""
    pixels, draw = emoji(), masks(cfg, torch.Generator().manual_seed(1))
    dropped = model.config.drops_patches
    groups = param_groups(model, weight_decay=0.05, decay_mask_token=model.config.decays_mask_token)
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95 if dropped else 0.999))  # as published
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupCosine(steps=steps, warmup=steps // 20, start=1e-3))
    for _ in range(steps):
        mask = draw()
        loss, _ = model.masked_pass(pixels, mask, int(mask[0].sum()), cfg.objective.loss, cfg.objective.fourier)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()


def masks(cfg, generator):
    """Draws a mask for each picture at every call."""
    sampler, grid = RandomMask(cfg.mask.ratio), (64 // UNIT, 64 // UNIT)
    return lambda: torch.stack([sampler(grid, generator) for _ in range(IMAGES)])


def figures(model, cfg, flat):
    """Mean masked loss on masks that were not trained on, of the model and of `flat(target, mask)`."""
    pixels, draw = emoji(), masks(cfg, torch.Generator().manual_seed(2))
    target, kind = model.target.dense(pixels, model.head_stride), cfg.objective.loss
    model.eval()
    with torch.no_grad():
        pairs = [(model.predict(pixels, m, kind)[0], flat(target, m, kind)) for m in (draw() for _ in range(DRAWS))]
    return [float(torch.stack(column).mean()) for column in zip(*pairs, strict=True)]


def visible_mean(target, mask, kind):
    """The error of each picture's mean over the visible places, which is the mean colour where pixels are predicted."""
    hidden = expand_mask(mask, (target.shape[-2], target.shape[-1])).unsqueeze(1)
    mean = target.masked_fill(hidden, 0).sum((2, 3), keepdim=True) / (~hidden).sum((2, 3), keepdim=True)
    return masked_error(mean.expand_as(target), target, mask, kind)


def mean_histogram(target, mask, kind):
    """The error of the mean histogram over all pictures."""
    return masked_error(target.mean((0, 2, 3), keepdim=True).expand_as(target), target, mask, kind)


def test_the_mean_over_visible_places_is_the_mean_colour():
    mask = masks(compose_default(), torch.Generator().manual_seed(3))()
    torch.testing.assert_close(visible_mean(emoji(), mask, "l1"), visible_mean_loss(emoji(), mask))


def compose_default():
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("pretrain")


@pytest.mark.parametrize(
    ("overrides", "lr", "steps", "flat", "share"),
    [
        pytest.param(VIT, 2e-3, 200, visible_mean, 0.5, id="ViT, SimMIM"),
        pytest.param(["model=cvt_nano"], 4e-3, 150, visible_mean, 0.5, id="CvT, SimMIM"),
        pytest.param(["model=bit_nano"], 4e-3, 150, visible_mean, 0.5, id="BiT, SimMIM"),
        pytest.param(["model=cvt_nano", "objective=spark"], 4e-3, 150, visible_mean, 0.65, id="CvT, SparK"),
        pytest.param(["model=bit_nano", "objective=spark"], 4e-3, 150, visible_mean, 0.7, id="BiT, SparK"),
        pytest.param(SPARSE, 4e-3, 150, visible_mean, 0.7, id="BiT, sparse, SimMIM's head, Fourier"),
        pytest.param(TOKEN, 4e-3, 150, visible_mean, 0.5, id="BiT, added token, Fourier"),
        pytest.param(MAE, 3e-3, 300, visible_mean, 0.5, id="ViT, MAE, normalised pixels"),
        pytest.param([*MAE, "objective.target=pixels"], 4e-3, 200, visible_mean, 0.5, id="ViT, MAE, pixels"),
        pytest.param(["model=vit_nano", "objective.target=hog"], 2e-3, 300, mean_histogram, 0.6, id="ViT, HOG"),
    ],
)
def test_eight_pictures_can_be_learned_by_heart(overrides, lr, steps, flat, share):
    model, cfg = make(overrides)
    learn(model, cfg, lr, steps)
    loss, flat_loss = figures(model, cfg, flat)
    assert loss < share * flat_loss, f"masked loss {loss:.4f} is {loss / flat_loss:.1%} of the flat {flat_loss:.4f}"
