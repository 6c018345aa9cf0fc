"""The experiments: each composes and builds, and holds the published numbers at ImageNet's size."""

import re

import pytest
import torch
from hydra import compose, initialize_config_dir

from mimsuite.config.folder import conf_dir
from mimsuite.config.instantiate import instantiate
from mimsuite.data.index import DataIndex
from mimsuite.errors import InputError
from mimsuite.masked.samplers import draw_hidden, make_samplers
from mimsuite.models.latent import latent_pass
from mimsuite.models.load import make_masked_model
from mimsuite.settings.budget import read_budget, warmup_steps
from mimsuite.settings.combinations import hidden_range
from mimsuite.settings.pretrain import read_pretrain
from mimsuite.settings.training import prefer_given
from mimsuite.words import FINETUNE_RECIPES

IMAGENET = 1_281_167
HALF = (0.5, 0.5, 0.5)
EXPERIMENTS = sorted(
    path.stem for path in (conf_dir() / "experiment").glob("*.yaml") if not path.stem.startswith(FINETUNE_RECIPES)
)
# Steps per epoch, epochs, peak learning rate, warm-up in epochs, learning rate as a fraction of the peak at the first
# step, in the middle, and at the last step; units hidden of all; smallest crop; gradient clip; decay of the mask token.
PUBLISHED = {
    "simmim_vit_base_800ep": (625, 800, 4e-4, 10, (0.005, 1, 0.1), (30, 49), 0.67, 5.0, True),
    "simmim_cvt_13": (625, 100, 8e-4, 10, (0.0025, None, 0.05), (22, 36), 0.67, 5.0, False),
    "simmim_bit_50x1": (625, 100, 8e-4, 10, (0.0025, None, 0.05), (22, 36), 0.67, 5.0, False),
    "mae_vit_base_800ep": (312, 800, 2.4e-3, 40, (0, None, 0), (147, 196), 0.2, None, False),
    "mae_vit_large_800ep": (312, 800, 2.4e-3, 40, (0, None, 0), (147, 196), 0.2, None, False),
    "maskfeat_vit_base": (625, 300, 1.6e-3, 30, (0, None, 0), (79, 196), 0.5, 0.02, False),
}


class ImageNet(DataIndex):
    """An index that counts ImageNet's images and has none."""

    def num_samples(self, split):
        return IMAGENET

    def select(self, role):
        return role


def composed(name, *overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("pretrain", overrides=["out=x", f"experiment={name}", *overrides])


def decided(name, side=400):
    """Config, model config, geometry and budget, as `pretrain` reads them for ImageNet."""
    index = ImageNet("nowhere", {}, None, 3, "uint8", HALF, HALF, (side, side), has_labels=True)
    cfg = composed(name, "online_probe=false")  # which would look for labels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimsuite.settings.training.open_data", lambda data, alpha: index)
        settings = read_pretrain(cfg, [])
    return cfg, settings.model, settings.geometry, settings.budget


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_builds(name):
    cfg, config, geo, _ = decided(name)
    with torch.device("meta"):
        model = make_masked_model(config, None, cfg.head, ())
        pixels = torch.zeros(2, 3, *geo.image_size)
    units = geo.image_size[0] // geo.mask_unit
    (sampler, *_) = make_samplers(cfg.mask, (), geo.drops)
    mask = draw_hidden(sampler, (units, units), torch.Generator().manual_seed(0))[None].expand(2, -1, -1)
    given = (pixels, mask.to("meta"), int(mask[0].sum()))
    if config.mim_predictor is None:
        assert model.masked_loss(*given, cfg.objective.loss).shape == ()
    else:
        wanted = (2 * given[2], config.mim_predictor["features"])
        assert latent_pass(model, *given).predicted.features.shape == wanted


def test_recipes_of_latent_targets_have_the_published_numbers():
    cfg, config, geo, pace = decided("data2vec2_vit_base")
    assert (pace.steps, pace.lr, pace.warmup) == (75 * 5004, pytest.approx(1e-3), pytest.approx(50_040, abs=60))
    assert hidden_range(cfg, geo.units, geo.drops) == (157, 157)
    assert config.mim_predictor["layers"] == list(range(3, 13))
    cfg, config, geo, pace = decided("ijepa_vit_base")
    assert (pace.lr, pace.warmup) == (pytest.approx(1e-3), pytest.approx(40 * 625, abs=30))
    assert (config.mim_predictor["features"], config.has_class_token, geo.units) == (768, False, 196)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_opens_with_its_command(name):
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    assert re.search(rf"^#   mimsuite pretrain .*experiment={name}\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_published_numbers(name):
    per_epoch, epochs, lr, warmup, factors, (hidden, units), crop, clip, decay = PUBLISHED[name]
    cfg, config, geo, pace = decided(name)
    assert pace.steps == epochs * per_epoch
    assert pace.lr == pytest.approx(lr)
    assert pace.warmup == warmup * per_epoch
    schedule = instantiate(cfg.schedule, (), steps=pace.steps, warmup=pace.warmup)
    for step, factor in zip((0, pace.steps // 2, pace.steps - 1), factors, strict=True):
        assert factor is None or schedule(step) == pytest.approx(factor, abs=1e-12)
    assert schedule(pace.warmup) == pytest.approx(1)
    assert (hidden_range(cfg, geo.units, geo.drops), geo.units) == ((hidden, hidden), units)
    assert cfg.augment.scale[0] == crop
    assert cfg.augment.flip == 0.5
    assert cfg.trainer.clip == clip
    assert cfg.optim.weight_decay == 0.05
    assert config.decays_mask_token == decay


def test_simmim_multiplies_the_rate_by_a_tenth_at_epoch_700():
    cfg, _, _, pace = decided("simmim_vit_base_800ep")
    schedule = instantiate(cfg.schedule, (), steps=pace.steps, warmup=pace.warmup)
    assert [schedule(700 * 625 - 1), schedule(700 * 625)] == pytest.approx([1, 0.1])


def test_simmims_vit_is_the_published_one():
    _, config, _, _ = decided("simmim_vit_base_800ep")
    with torch.device("meta"):
        model = make_masked_model(config, None, composed("simmim_vit_base_800ep").head, ())
    # SimMIM's files have no key bias: 12 blocks of 768 fewer.
    assert sum(p.numel() for p in model.parameters()) - 12 * 768 == 86_256_720


@pytest.mark.parametrize("name", ["mae_vit_base_800ep", "mae_vit_large_800ep"])
def test_maes_recipe_has_its_optimizer_and_decoder(name):
    cfg, config, _, _ = decided(name)
    assert list(cfg.optim.betas) == [0.9, 0.95]
    assert (config.mim_target, cfg.objective.loss, config.position) == ("norm_pixels", "mse", "sincos2d")
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert [getattr(config, f"decoder_{size}") for size in sizes] == [512, 8, 16, 2048]


def test_the_light_decoder_has_one_block_with_heads_of_64():
    head = composed("mae_vit_base_800ep", "head=dec1").head
    assert (head.num_hidden_layers, head.hidden_size // head.num_attention_heads) == (1, 64)


def test_epochs_of_a_recipe_can_be_cut_and_all_shares_stay():
    cfg = composed("simmim_vit_base_800ep", "epochs=80")
    pace = read_budget(cfg, IMAGENET)
    schedule = instantiate(cfg.schedule, (), steps=pace.steps, warmup=pace.warmup)
    assert (pace.steps, pace.warmup) == (80 * 625, 625)
    assert [schedule(70 * 625 - 1), schedule(70 * 625)] == pytest.approx([1, 0.1])


@pytest.mark.parametrize(("value", "steps"), [("auto", 50), (7, 7), (0, 0), (0.1, 100), (0.0125, 12)])
def test_a_warm_up_is_steps_a_share_of_the_run_or_auto(value, steps):
    assert warmup_steps(value, 1000) == steps


@pytest.mark.parametrize("value", [-1, -0.5, 1.0, 2.5, "soon", None, True])
def test_another_warm_up_is_refused(value):
    with pytest.raises(InputError, match=r"schedule.warmup=.* use steps \(500\), a fraction below 1 \(0.05\), or auto"):
        warmup_steps(value, 1000)


def test_steps_of_the_command_line_win_over_epochs_of_an_experiment():
    cfg = composed("mae_vit_base_800ep", "steps=5")
    cfg = prefer_given(cfg, ["experiment=mae_vit_base_800ep", "steps=5"])
    assert (cfg.steps, cfg.epochs) == (5, None)


def test_without_steps_an_experiments_epochs_stay():
    cfg = composed("mae_vit_base_800ep")
    prefer_given(cfg, ["experiment=mae_vit_base_800ep"])
    assert (cfg.steps, cfg.epochs) == (None, 800)
