"""Encoders of transformers, wrapped, pass the contract test of mimsuite's own: shapes, masks, losses, files, errors."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent))
import wrapped
from test_encoder_contract import *  # noqa: F403 - every test of it
from test_encoder_contract import Family, a_mask, classifier, masked_model, pixels

from mimsuite.errors import InputError
from mimsuite.models import ExternalConfig, ExternalForImageClassification, ExternalForMaskedImageModeling
from mimsuite.models.sources import completed
from mimsuite.types import EncoderConfig

# These name families of mimsuite, or its mask token, which a wrapped network does not have.
test_gradient_checkpointing_of_plain_attention_changes_nothing = test_the_attention_back_ends_agree = None
test_the_mask_token_has_a_gradient_if_and_only_if_something_is_hidden = test_where_the_mask_lies_matters = None
test_a_mask_for_an_encoder_without_mask_token_is_refused = None
# transformers has it for some families: tests/models/test_external.py.
test_gradient_checkpointing_changes_no_value_gradient_or_statistic = None
test_gradient_checkpointing_can_be_switched_off_again = None
# They compile the whole network, which is not ours to promise.
test_the_features_can_be_exported = test_the_features_compile_to_one_graph_for_all_masks_of_a_shape = None
test_the_fast_loss_compiles_to_one_graph_and_its_gradients_too = None
DROP_PATH = {"convnextv2": {"drop_path_rate": 0.3}}


def family_of(name):
    def config(shape, **changes):
        own = {key: changes.pop(key) for key in ("drop_path_rate",) if key in changes}
        return completed(ExternalConfig(source=wrapped.folder_of(name), arguments=own, **changes))

    stride, mask_stride = wrapped.STRIDES[name]
    classes = (ExternalForMaskedImageModeling, ExternalForImageClassification)
    return Family(
        *(config, *classes, wrapped.WIDTHS[name], stride, mask_stride, False, wrapped.BLOCKS[name]),
        DROP_PATH.get(name, {}),
    )


@pytest.fixture(params=["convnextv2", pytest.param("resnet", marks=pytest.mark.slow)])
def family(request):
    return family_of(request.param)


@pytest.fixture
def replacing_family(family):
    return family


@pytest.fixture
def plain_family(family):
    return family


def test_gradient_checkpointing_is_refused_where_the_library_has_none(family):
    model = masked_model(family, (64, 96))
    with pytest.raises(InputError, match="cannot compute blocks again; train without gradient checkpointing"):
        model.gradient_checkpointing_enable()
    assert not model.is_gradient_checkpointing


def test_every_parameter_has_a_depth_and_every_depth_a_parameter(family):
    encoder = masked_model(family, (64, 64)).encoder
    depths = {encoder.depth_of(name) for name, _ in encoder.named_parameters()}
    assert depths - {encoder.num_blocks + 1} == set(range(encoder.num_blocks + 1))


def test_the_config_keeps_the_contract_too(family):
    config = family.config((64, 64))
    assert isinstance(config, EncoderConfig)
    assert (config.can_drop, config.has_class_token, config.fixed_size) == (False, False, None)
    assert ExternalConfig.from_dict(config.to_dict()) == config


def test_the_last_layer_is_what_forward_features_gives(family):
    encoder, x = masked_model(family, (64, 96)).encoder, pixels((64, 96))
    every = encoder.forward_layers(x, range(1, encoder.num_layers + 1))
    assert torch.equal(every[-1].grid, encoder.forward_features(x).grid)
    assert [64 // found.grid.shape[-2] for found in every] == [4, 8, 16, 32]
    (alone,) = encoder.forward_layers(x, [1])
    assert torch.equal(alone.grid, every[0].grid)


def test_a_classifier_takes_masks_as_well(family):
    encoder, mask = classifier(family, (64, 96)).encoder, a_mask("units", family, (64, 96))
    x = pixels((64, 96))
    assert not torch.equal(encoder.forward_features(x, mask).grid, encoder.forward_features(x).grid)
