"""Switches of the Vision Transformer for networks that others have trained: gated MLPs, positions, what a head sees."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mimsuite.encoders.positions import resize_positions
from mimsuite.errors import InputError
from mimsuite.models import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from mimsuite.models.flops import FlopCounter

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
}


def made(cls, **changes):
    torch.manual_seed(0)
    model = cls(ViTConfig(**(TINY | changes)))
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def pixels(height=32, width=32):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


# --- gated MLPs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("activation", "function"), [("silu", F.silu), ("gelu", F.gelu)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_gated_mlp_multiplies_its_halves(activation, function, bias):
    """Shazeer 2020, equation 6: `(act(x W) * (x V)) W2`, with biases."""
    layer = made(ViTModel, use_gated_mlp=True, hidden_act=activation, use_mlp_bias=bias).layers[0]
    state = layer.state_dict()
    first, last = (state[f"{name}.dense.weight"] for name in ("intermediate", "output"))
    assert (first.shape, last.shape) == ((40, 24), (24, 20))
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    one, two = state["intermediate.dense.bias"].chunk(2) if bias else (0, 0)
    hidden = function(x @ first[:20].T + one) * (x @ first[20:].T + two)
    expected = hidden @ last.T + (state["output.dense.bias"] if bias else 0)
    torch.testing.assert_close(layer.output(layer.intermediate(x)), expected)


def test_a_gated_mlp_trains_and_is_counted():
    model, plain = (made(ViTForMaskedImageModeling, use_gated_mlp=gated) for gated in (True, False))
    x, mask = pixels(), torch.arange(16).view(1, 4, 4).expand(2, -1, -1) % 2 > 0
    model.masked_loss(x, mask).backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if "cls_token" not in n)
    counts = []
    for network in (model, plain):
        with FlopCounter() as counter, torch.no_grad():
            network.vit(x)
        counts.append(counter.total)
    assert counts[0] - counts[1] == 2 * 2 * 2 * 17 * 24 * 20  # two per multiply-add; blocks, images, tokens, widths


def test_a_gated_mlp_goes_round(tmp_path):
    model = made(ViTForImageClassification, use_gated_mlp=True, hidden_act="silu")
    with pytest.warns(UserWarning, match="it does not know use_gated_mlp=True"):
        model.save_pretrained(tmp_path)
    again = ViTForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(again(pixels()).logits, model(pixels()).logits)


# --- positions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antialias", [False, True])
@torch.no_grad()
def test_images_of_other_sizes_are_taken_where_the_config_says_so(antialias):
    config = {"interpolate_positions": True, "antialias_positions": antialias}
    model, plain = made(ViTModel, **config), made(ViTModel)
    table = model.embeddings.position_embeddings
    expected = resize_positions(table, (4, 4), (2, 6), "timm" if antialias else "hf")
    assert torch.equal(model.embeddings.positions((2, 6)), expected)
    asked = plain(pixels(16, 48), interpolate_pos_encoding=True).last_hidden_state
    assert torch.equal(model(pixels(16, 48)).last_hidden_state, asked) == (not antialias)
    for refused in (lambda: plain(pixels(16, 48)), lambda: model(pixels(16, 48), interpolate_pos_encoding=False)):
        with pytest.raises(InputError, match="doesn't match model"):
            refused()
    model.set_image_size([16, 48])
    assert torch.equal(model.embeddings.position_embeddings, expected)


# --- what a classifier sees ----------------------------------------------------------------------------------


@torch.no_grad()
def test_a_classifier_sees_token_and_mean_one_after_the_other():
    model = made(ViTForImageClassification, classifier_pool="both", num_register_tokens=2)
    tokens = model.vit(pixels()).last_hidden_state
    seen = torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], dim=1)
    torch.testing.assert_close(model(pixels()).logits, model.classifier(seen))


def test_both_need_a_class_token():
    with pytest.raises(InputError, match='classifier_pool="both", but this encoder has no class token'):
        ViTForImageClassification(ViTConfig(**TINY, classifier_pool="both", use_class_token=False))


@torch.no_grad()
def test_the_last_norm_may_follow_the_mean(tmp_path):
    model = made(ViTForImageClassification, norm_after_pool=True, classifier_pool="mean")
    tokens = model.vit(pixels(), output_hidden_states=True)
    assert torch.equal(tokens.last_hidden_state, tokens.hidden_states[-1])
    mean = F.layer_norm(tokens.last_hidden_state[:, 1:].mean(1), (24,), model.fc_norm.weight, model.fc_norm.bias, 1e-12)
    torch.testing.assert_close(model(pixels()).logits, model.classifier(mean))
    with pytest.warns(UserWarning, match="norm_after_pool=True"):
        model.save_pretrained(tmp_path)
    assert torch.equal(ViTForImageClassification.from_pretrained(tmp_path)(pixels()).logits, model(pixels()).logits)
    assert "vit.layernorm.weight" not in model.state_dict()


# --- relative positions of each block's own ------------------------------------------------------------------


@torch.no_grad()
def test_blocks_have_relative_positions_of_their_own():
    model = made(ViTModel, use_relative_position_bias=True)
    x = torch.randn(2, 17, 24, generator=torch.Generator().manual_seed(1))
    tables = [layer.rel_pos_bias.relative_position_bias_table for layer in model.layers]
    assert [tuple(table.shape) for table in tables] == [(7 * 7 + 3, 3)] * 2
    assert not torch.equal(*tables)
    layer = model.layers[0]
    assert not torch.equal(layer(x), layer(x, torch.zeros(1, 1, 17, 17) + torch.arange(17)))
    given = layer.rel_pos_bias(17)[None]
    with_own = layer(x)
    layer.rel_pos_bias = None
    assert torch.equal(layer(x, given), with_own)


def test_such_blocks_have_one_size_and_learn_with_their_block():
    model = made(ViTModel, use_relative_position_bias=True)
    assert model.depth_of("encoder.layer.1.rel_pos_bias.relative_position_bias_table") == 2
    assert not ViTModel(model.config).layers[0].rel_pos_bias.relative_position_bias_table.any()
    with pytest.raises(InputError, match="image_size=64: relative position biases cannot be resized; keep 32"):
        model.set_image_size(64)
    with pytest.raises(InputError, match="65 tokens, but relative position biases for 17; they cannot be interpolated"):
        model(pixels(64, 64), interpolate_pos_encoding=True)
    with pytest.raises(InputError, match="use_relative_position_bias=True knows whole grids of patches only"):
        ViTConfig(**TINY, use_relative_position_bias=True, num_register_tokens=1)
    assert "model.use_relative_position_bias=false, or objective=simmim" in model.config.drop_obstacle
