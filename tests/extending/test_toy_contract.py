"""A user's encoder passes the contract test of mimsuite's own: the tests are the same, the family is theirs."""

import sys
from pathlib import Path

import pytest
import torch
from their_package.config import ToyConfig
from their_package.encoder import ToyForImageClassification, ToyForMaskedImageModeling

from mimsuite.types import EncoderConfig

sys.path.append(str(Path(__file__).resolve().parents[1] / "models"))
from test_encoder_contract import *  # noqa: F403 - every test of it
from test_encoder_contract import family_of, masked_model, pixels

CLASSES = (ToyConfig, ToyForMaskedImageModeling, ToyForImageClassification, 3, {"drop_path_rate": 0.3})
TOY = family_of("toy", CLASSES, {"width": 24, "depth": 3, "patch_size": 8}, 24, (8, 8), (8, 8), False)

# These two name families that have attention.
test_gradient_checkpointing_of_plain_attention_changes_nothing = test_the_attention_back_ends_agree = None


@pytest.fixture
def family():
    return TOY


@pytest.fixture
def replacing_family():
    return TOY


@pytest.fixture
def plain_family():
    return TOY


def test_the_config_keeps_the_contract_too():
    config = TOY.config((64, 64))
    assert isinstance(config, EncoderConfig)
    assert (config.can_drop, config.has_class_token, config.fixed_size) == (False, False, None)
    assert ToyConfig.from_dict(config.to_dict()) == config


def test_the_last_layer_is_what_forward_features_gives():
    encoder, x = masked_model(TOY, (64, 96)).encoder, pixels((64, 96))
    first, last = encoder.forward_layers(x, [1, encoder.num_layers])
    assert torch.equal(last.grid, encoder.forward_features(x).grid)
    assert first.grid.shape == last.grid.shape
    assert not torch.equal(first.grid, last.grid)
