"""`forward_layers`: the features of blocks and stages, the same for every family."""

import pytest
import torch

from mimsuite.errors import InputError
from mimsuite.models import (
    BitConfig,
    BitForImageClassification,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForImageClassification,
    CvtForMaskedImageModeling,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
)

SHAPE = (64, 96)
CONFIGS = {
    "vit": lambda channels: ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        patch_size=[8, 16],
        encoder_stride=[8, 16],
        image_size=list(SHAPE),
        num_channels=channels,
        num_register_tokens=2,
    ),
    "cvt": lambda channels: CvtConfig(
        embed_dim=[8, 12, 24],
        num_heads=[1, 2, 3],
        depth=[1, 1, 2],
        mlp_ratio=[2, 2, 2],
        cls_token=[False, True, True],
        num_channels=channels,
    ),
    "bit": lambda channels: BitConfig(
        embedding_size=8, hidden_sizes=[16, 24, 32], depths=[1, 2, 1], num_groups=4, num_channels=channels
    ),
}
MASKED = {"vit": ViTForMaskedImageModeling, "cvt": CvtForMaskedImageModeling, "bit": BitForMaskedImageModeling}
CLASSIFIERS = {"vit": ViTForImageClassification, "cvt": CvtForImageClassification, "bit": BitForImageClassification}


@pytest.fixture(params=list(CONFIGS))
def family(request):
    return request.param


def model_of(family, classes=MASKED, channels=3):
    """Nothing in it is 0 or 1 by its initialisation."""
    torch.manual_seed(0)
    model = classes[family](CONFIGS[family](channels)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def pixels(channels=3):
    return torch.randn(2, channels, *SHAPE, generator=torch.Generator().manual_seed(1))


def same(one, two):
    assert torch.equal(one.grid, two.grid)
    assert (one.cls is None) == (two.cls is None)
    assert one.cls is None or torch.equal(one.cls, two.cls)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("classes", [MASKED, CLASSIFIERS], ids=["masked", "classifier"])
def test_the_last_layer_is_what_forward_features_gives(family, classes, channels):
    encoder = model_of(family, classes, channels).encoder
    expected = encoder.forward_features(pixels(channels))
    (alone,) = encoder.forward_layers(pixels(channels), [encoder.num_layers])
    _, beside = encoder.forward_layers(pixels(channels), [1, encoder.num_layers])
    same(alone, expected)
    same(beside, expected)


def test_an_earlier_layer_is_the_hidden_state_of_that_name(family):
    model = model_of(family)
    encoder, x = model.encoder, pixels()
    states = model(x, output_hidden_states=True).hidden_states
    states = states[len(states) - encoder.num_layers :]  # those before are of the embeddings or the stem
    for number, features in enumerate(encoder.forward_layers(x, range(1, encoder.num_layers)), start=1):
        state = states[number - 1]
        if family == "vit":
            grid = (SHAPE[0] // 8, SHAPE[1] // 16)
            same(features, type(features)(state[:, 3:].transpose(1, 2).reshape(2, 24, *grid), state[:, 0]))
        else:
            assert torch.equal(features.grid, state)


def test_layers_have_a_class_token_where_the_config_says_so(family):
    encoder = model_of(family).encoder
    found = encoder.forward_layers(pixels(), range(1, encoder.num_layers + 1))
    assert [features.cls is not None for features in found] == CONFIGS[family](3).class_tokens
    assert all(f.cls is None or f.cls.shape == f.grid.shape[:2] for f in found)


def test_layers_come_in_the_order_asked_for(family):
    encoder = model_of(family).encoder
    one, three = encoder.forward_layers(pixels(), [1, 3])
    for given, expected in zip(encoder.forward_layers(pixels(), [3, 1, 3]), [three, one, three], strict=True):
        same(given, expected)


def test_nothing_is_computed_past_the_deepest_layer(family):
    encoder = model_of(family).encoder
    expected = encoder.forward_layers(pixels(), [2])[0]
    parts = encoder.encoder.layer if family == "vit" else encoder.encoder.stages
    for inner in parts[2].modules():
        inner.register_forward_pre_hook(lambda *_: pytest.fail("a layer ran that nobody asked for"))
    same(encoder.forward_layers(pixels(), [2])[0], expected)


@pytest.mark.parametrize("layers", [[0], [1, 4], [-1], []])
def test_layers_that_there_are_not_are_refused(family, layers):
    encoder = model_of(family).encoder
    with pytest.raises(InputError, match=r"layers=\[.*\] are not some of the encoder's layers 1 to 3"):
        encoder.forward_layers(pixels(), layers)
