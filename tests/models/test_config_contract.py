"""What every family's config tells by `mimsuite.types.EncoderConfig`, and the copies that it gives."""

import pytest

from mimsuite.errors import InputError
from mimsuite.models import AutoConfig, BitConfig, CvtConfig, ViTConfig
from mimsuite.models.families import FAMILIES
from mimsuite.types import EncoderConfig

DECODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "external"])  # whose sizes another library has
def test_the_configs_of_all_families_keep_the_contract(family):
    config = AutoConfig.for_model(family)
    assert isinstance(config, EncoderConfig)
    assert config.has_class_token == config.class_tokens[-1]
    assert config.can_drop == (config.drop_obstacle is None)


def test_what_a_vit_tells():
    config = ViTConfig(image_size=[64, 96], patch_size=8, encoder_stride=8)
    assert (config.needs_whole_cells, config.fixed_size, config.fixed_grid) == (True, (64, 96), False)
    assert config.with_image_size((32, 32)).image_size == 32
    assert config.with_image_size((32, 64)).image_size == [32, 64]
    assert config.fixed_size == (64, 96)
    assert config.with_drop_path(0.2).drop_path_rate == 0.2


@pytest.mark.parametrize("make", [CvtConfig, BitConfig])
def test_networks_of_convolutions_take_any_size(make):
    config = make()
    assert (config.needs_whole_cells, config.fixed_size, config.fixed_grid) == (False, None, False)
    assert config.with_image_size((32, 64)) == config
    assert (config.can_drop, config.drops_patches, config.decays_mask_token) == (False, False, False)
    assert config.model_type in config.drop_obstacle
    with pytest.raises(InputError, match="convolutions need whole maps"):
        config.with_masking("pixels", DECODER)


def test_only_the_last_stage_of_a_cvt_drops_blocks():
    assert CvtConfig().with_drop_path(0.3).drop_path_rate == [0.0, 0.0, 0.3]
    assert BitConfig().with_drop_path(0.3).drop_path_rate == 0.3


def test_a_decoder_drops_patches_and_its_absence_replaces_them():
    drops = ViTConfig(encoder_stride=8).with_masking("norm_pixels", DECODER)
    assert (drops.mim_target, drops.encoder_stride, drops.drops_patches) == ("norm_pixels", 16, True)
    assert drops.decoder_sizes == DECODER
    assert not drops.decays_mask_token
    back = drops.with_masking("pixels")
    assert (back.mim_target, back.decoder_sizes, back.drops_patches) == ("pixels", None, False)
    assert back.decays_mask_token
    assert not drops.with_masking("hog").decays_mask_token
    assert drops.without_masking() == ViTConfig()


def test_relative_positions_neither_drop_patches_nor_change_their_size():
    config = ViTConfig(use_shared_relative_position_bias=True, use_absolute_position_embeddings=False)
    assert config.fixed_grid
    assert not config.can_drop
    assert config.drop_obstacle.count("model.use_absolute_position_embeddings=true") == 1
    with pytest.raises(InputError, match="whole grids"):
        config.with_masking("pixels", DECODER)


@pytest.mark.parametrize("make", [CvtConfig, BitConfig])
def test_the_head_of_a_masked_image_model_covers_the_image(make):
    config = make(encoder_stride=8).with_masking("hog")
    assert (config.mim_target, config.encoder_stride) == ("hog", config.stride[0])
    assert config.without_masking().mim_target == "pixels"
