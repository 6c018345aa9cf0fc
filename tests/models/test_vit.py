"""The ViT: encoder contract, masks, calls, sizes and errors."""

from dataclasses import fields

import predictors
import pytest
import torch
from torch import nn

from mimsuite.encoders.positions import resize_positions
from mimsuite.errors import InputError
from mimsuite.masked.patches import expand_mask
from mimsuite.models import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from mimsuite.types import FeatureMap

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": [16, 24],
    "patch_size": [4, 8],
    "encoder_stride": [4, 8],
}


def tiny(**changes):
    return ViTConfig(**(TINY | changes))


def randomise(model):
    """Draws every parameter anew, so that nothing is zero by chance of its initialisation."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model


def masked_model(**changes):
    torch.manual_seed(0)
    return randomise(ViTForMaskedImageModeling(tiny(**changes))).eval()


def pixels(batch=2, height=16, width=24, channels=3):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def a_mask(batch=2):
    mask = torch.zeros(batch, 4, 3, dtype=torch.bool)
    mask[0, 0] = mask[0, 2, 1] = mask[-1, 3] = mask[-1, 1, 1] = True
    return mask


# --- contract ------------------------------------------------------------------------------------------------


def test_features_are_the_normed_tokens_on_their_grid():
    model = masked_model()
    features = model.encoder.forward_features(pixels())
    assert isinstance(features, FeatureMap)
    tokens = model.vit(pixels()).last_hidden_state
    assert features.grid.shape == (2, 24, 4, 3)
    assert torch.equal(features.grid[:, :, 1, 2], tokens[:, 1 + 1 * 3 + 2])
    assert torch.equal(features.cls, tokens[:, 0])


def test_without_class_token_the_features_have_none():
    features = masked_model(use_class_token=False).encoder.forward_features(pixels())
    assert features.grid.shape == (2, 24, 4, 3)
    assert features.cls is None


def test_hidden_pixels_have_no_gradient():
    model, mask = masked_model(), a_mask()
    x = pixels().requires_grad_()
    model.encoder.forward_features(x, mask).grid.square().sum().backward()
    hidden = expand_mask(mask, (16, 24))[:, None].expand_as(x)
    assert not x.grad[hidden].any()
    assert x.grad[~hidden].all()


SWITCHES = [
    {},
    {"layer_scale_init_value": 0.1},
    {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": False},
    {"use_class_token": False, "use_shared_relative_position_bias": True},
    {"qkv_bias": False, "use_attention_output_bias": False, "use_mlp_bias": False, "use_patch_bias": False},
    {"drop_path_rate": 0.2, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    {"init_scheme": "simmim"},
]


@pytest.mark.parametrize("changes", SWITCHES)
def test_gradients_reach_every_parameter(changes):
    model = masked_model(**changes).train()
    torch.manual_seed(3)
    model(pixels(8), a_mask(8)).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("changes", SWITCHES)
def test_the_state_dict_goes_round(changes):
    model = masked_model(**changes)
    other = ViTForMaskedImageModeling(tiny(**changes)).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(pixels(), a_mask()).loss, model(pixels(), a_mask()).loss)


# --- masked image modeling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [None, 4])
@pytest.mark.parametrize("changes", SWITCHES[:5])
def test_the_fast_loss_equals_the_dense_one(changes, hidden):
    model = masked_model(**changes).double()
    mask = a_mask()
    assert mask.flatten(1).sum(1).tolist() == [4, 4]
    dense = model(pixels().double(), mask).loss
    fast = model.masked_loss(pixels().double(), mask, hidden)
    torch.testing.assert_close(fast, dense, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(dense, list(model.parameters())),
        torch.autograd.grad(fast, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_masked_modeling_refuses_an_image_that_is_no_multiple_of_the_patch():
    with pytest.raises(InputError, match=r"image_size=\[18, 24\] is not a multiple of patch_size"):
        ViTForMaskedImageModeling(tiny(image_size=[18, 24]))


def test_a_mask_on_a_larger_image_follows_the_images_grid():
    model = masked_model()
    mask = torch.zeros(2, 6, 4, dtype=torch.bool)
    mask[:, 0] = True
    out = model(pixels(2, 24, 32), mask.flatten(1), interpolate_pos_encoding=True)
    assert out.reconstruction.shape == (2, 3, 24, 32)
    assert out.loss.isfinite()


def test_a_larger_image_with_a_remainder_and_a_mask_is_refused():
    with pytest.raises(InputError, match="image 18x24 is not a multiple"):
        masked_model()(pixels(2, 18, 24), a_mask(), interpolate_pos_encoding=True)


def test_another_head_can_be_given():
    class Flat(nn.Module):
        def __init__(self, width, stride, channels):
            super().__init__()
            self.arguments = (width, stride, channels)

    assert ViTForMaskedImageModeling(tiny(num_channels=5), Flat).decoder.arguments == (24, (4, 8), 5)


# --- calls ---------------------------------------------------------------------------------------------------


def test_hidden_states_start_at_the_embeddings_and_end_before_the_norm():
    model = randomise(ViTModel(tiny())).eval()
    out = model(pixels(), output_hidden_states=True)
    assert [tuple(h.shape) for h in out.hidden_states] == [(2, 13, 24)] * 4
    assert torch.equal(model.layernorm(out.hidden_states[-1]), out.last_hidden_state)
    assert torch.equal(out.pooler_output, torch.tanh(model.pooler.dense(out.last_hidden_state[:, 0])))


@pytest.mark.parametrize("implementation", ["auto", "sdpa", "eager"])
def test_attentions_are_given_under_every_back_end(implementation):
    model = randomise(ViTModel(tiny(attn_implementation=implementation))).eval()
    out = model(pixels(), output_attentions=True)
    assert [tuple(a.shape) for a in out.attentions] == [(2, 3, 13, 13)] * 3
    torch.testing.assert_close(out.attentions[1].sum(-1), torch.ones(2, 3, 13))
    torch.testing.assert_close(out.last_hidden_state, model(pixels()).last_hidden_state)


@pytest.mark.parametrize("head_mask", [torch.tensor([1.0, 0.0, 0.5]), torch.rand(3, 3)])
def test_the_head_mask_acts_alike_under_both_back_ends(head_mask):
    outs = []
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = randomise(ViTModel(tiny(attn_implementation=implementation))).eval().double()
        plain = model(pixels().double()).last_hidden_state
        outs.append(model(pixels().double(), head_mask=head_mask).last_hidden_state)
        assert not torch.allclose(outs[-1], plain)
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-10, atol=1e-10)


def test_a_head_mask_of_ones_changes_nothing():
    model = randomise(ViTModel(tiny())).eval()
    masked = model(pixels(), head_mask=torch.ones(3)).last_hidden_state
    assert torch.equal(masked, model(pixels()).last_hidden_state)


def test_a_head_mask_multiplies_the_returned_attentions():
    model = randomise(ViTModel(tiny())).eval()
    out = model(pixels(), head_mask=torch.tensor([1.0, 0.0, 0.5]), output_attentions=True)
    torch.testing.assert_close(out.attentions[0].sum(-1)[0, :, 0], torch.tensor([1.0, 0.0, 0.5]))


def test_return_dict_false_gives_the_tuple_without_none():
    model = masked_model()
    out = model(pixels(), return_dict=False)
    assert isinstance(out, tuple)
    assert [tuple(t.shape) for t in out] == [(2, 3, 16, 24)]
    assert len(masked_model(return_dict=False)(pixels(), a_mask())) == 2


def test_a_classifier_without_class_token_takes_the_mean_patch():
    model = randomise(ViTForImageClassification(tiny(use_class_token=False, num_labels=5))).eval()
    mean = model.vit(pixels()).last_hidden_state.mean(1)
    torch.testing.assert_close(model(pixels()).logits, model.classifier(mean))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_gradient_checkpointing_changes_neither_value_nor_gradient(implementation):
    def run(checkpointed):
        model = masked_model(attn_implementation=implementation, hidden_dropout_prob=0.2, drop_path_rate=0.3).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        torch.manual_seed(5)
        loss = model(pixels(), a_mask()).loss
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    for a, b in zip(run(False), run(True), strict=True):
        assert torch.equal(a, b)


# --- other sizes ---------------------------------------------------------------------------------------------


def test_interpolation_at_the_stored_grid_changes_nothing():
    model = randomise(ViTModel(tiny())).eval()
    same = model(pixels(), interpolate_pos_encoding=True).last_hidden_state
    assert torch.equal(same, model(pixels()).last_hidden_state)


def test_384_pixels_of_a_224_model_are_577_tokens():
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    out = ViTModel(config).eval()(pixels(1, 384, 384), interpolate_pos_encoding=True)
    assert out.last_hidden_state.shape == (1, 577, 8)


def test_features_of_another_size_need_to_be_asked_for():
    encoder = masked_model().encoder
    with pytest.raises(InputError, match=r"Input image size \(24\*32\) doesn't match model \(16\*24\)"):
        encoder.forward_features(pixels(2, 24, 32))
    encoder.interpolate_positions = True
    assert encoder.forward_features(pixels(2, 24, 32)).grid.shape == (2, 24, 6, 4)


def test_set_image_size_gives_what_interpolation_gives():
    model = masked_model()
    expected = model(pixels(2, 24, 32), interpolate_pos_encoding=True).reconstruction
    model.vit.set_image_size([24, 32])
    torch.testing.assert_close(model(pixels(2, 24, 32)).reconstruction, expected)
    assert model.config.image_size == [24, 32]


def test_relative_positions_have_no_other_size():
    model = masked_model(use_shared_relative_position_bias=True)
    with pytest.raises(InputError, match="relative position biases cannot be resized"):
        model.vit.set_image_size(32)
    with pytest.raises(InputError, match="cannot be interpolated"):
        model(pixels(2, 24, 32), interpolate_pos_encoding=True)


@pytest.mark.parametrize("mode", ["hf", "timm", "jax"])
def test_resizing_a_constant_table_keeps_it_and_the_class_token(mode):
    table = torch.full((1, 13, 2), 3.0)
    table[:, 0] = 7.0
    found = resize_positions(table, (4, 3), (6, 6), mode)
    assert found.shape == (1, 37, 2)
    assert torch.equal(found[:, 0], table[:, 0])
    torch.testing.assert_close(found[:, 1:], torch.full((1, 36, 2), 3.0))


def test_jax_resizing_is_linear_from_corner_to_corner():
    table = torch.tensor([0.0, 1.0, 4.0]).reshape(1, 3, 1)
    found = resize_positions(table, (1, 3), (1, 5), "jax", class_token=False)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 0.5, 1.0, 2.5, 4.0]))


def test_an_unknown_resizing_is_refused():
    with pytest.raises(InputError, match="hf, timm, jax"):
        resize_positions(torch.zeros(1, 5, 1), (2, 2), (3, 3), "nearest")


def test_half_precision_positions_are_interpolated_in_float32():
    table = torch.randn(1, 13, 4)
    wide = resize_positions(table.half().float(), (4, 3), (6, 6)).half()
    assert torch.equal(resize_positions(table.half(), (4, 3), (6, 6)), wide)


def test_relative_positions_of_simmim():
    config = tiny(image_size=224, patch_size=16, use_shared_relative_position_bias=True, num_attention_heads=12)
    shared = ViTModel(config).encoder.rel_pos_bias
    assert shared.relative_position_bias_table.shape == (732, 12)
    index = shared.relative_position_index
    assert index.shape == (197, 197)
    assert (index[0, 0], index[0, 5], index[5, 0]) == (731, 729, 730)
    assert index[1, 1] == 13 * 27 + 13
    assert index[1, 196] == 0
    assert index[196, 1] == 26 * 27 + 26


# --- errors --------------------------------------------------------------------------------------------------


def test_no_pixels_is_an_error():
    for cls in (ViTModel, ViTForMaskedImageModeling, ViTForImageClassification):
        with pytest.raises(ValueError, match="You have to specify pixel_values"):
            cls(tiny())()


def test_another_size_is_refused():
    with pytest.raises(InputError, match=r"Input image size \(24\*24\) doesn't match model \(16\*24\)"):
        ViTModel(tiny())(pixels(2, 24, 24))


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(InputError, match="smaller than a patch"):
        ViTModel(tiny())(pixels(2, 3, 24), interpolate_pos_encoding=True)


def test_a_mask_without_mask_token_is_refused():
    with pytest.raises(InputError, match="use_mask_token=True"):
        ViTModel(tiny())(pixels(), a_mask())


@pytest.mark.parametrize("shape", [(2,), (2, 3), (1, 3, 1)])
def test_a_head_mask_of_another_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"expected \(3,\) or \(3, 3\)"):
        ViTModel(tiny())(pixels(), head_mask=torch.ones(shape))


def test_a_pooler_without_class_token_is_refused():
    with pytest.raises(InputError, match="add_pooling_layer=False"):
        ViTModel(tiny(use_class_token=False))


def test_a_remainder_over_whole_patches_is_cut_off():
    model = randomise(ViTModel(tiny(image_size=[18, 30]))).eval()
    x = pixels(1, 18, 30)
    spoiled = x.clone()
    spoiled[:, :, 16:] = spoiled[:, :, :, 24:] = float("nan")
    assert torch.equal(model(x).last_hidden_state, model(spoiled).last_hidden_state)


# --- initialisation ------------------------------------------------------------------------------------------


def test_fresh_weights_follow_hugging_face():
    torch.manual_seed(0)
    model = ViTForMaskedImageModeling(ViTConfig(num_hidden_layers=2, initializer_range=0.05))
    deviations = {n: p.std().item() for n, p in model.named_parameters() if p.ndim > 1 and "mask" not in n}
    assert all(s == pytest.approx(0.05, rel=0.1) for s in deviations.values()), deviations
    biases = [n for n, p in model.named_parameters() if n.endswith("bias") and p.any()]
    assert biases == []
    assert not model.vit.embeddings.mask_token.any()


def test_simmim_draws_the_mask_token_and_scales_the_branches_down():
    config = ViTConfig(num_hidden_layers=3, init_scheme="simmim", image_size=32)
    torch.manual_seed(0)
    model = ViTForMaskedImageModeling(config)
    token = model.vit.embeddings.mask_token
    assert 0 < token.abs().max() <= 0.02
    assert token.std() > 0.005
    for number, layer in enumerate(model.vit.encoder.layer, start=1):
        for dense in (layer.attention.output.dense, layer.output.dense):
            assert dense.weight.std().item() == pytest.approx(0.02 / (2 * number) ** 0.5, rel=0.02)
        assert layer.intermediate.dense.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_a_seed_repeats_the_weights():
    torch.manual_seed(4)
    one = ViTModel(tiny()).state_dict()
    torch.manual_seed(4)
    two = ViTModel(tiny()).state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


# --- config honesty ------------------------------------------------------------------------------------------

NO_EFFECT = {
    "architectures": "names the class of the weights beside the file; read by people and other libraries",
    "dtype": "says what the file holds; from_pretrained(dtype=) decides",
    "transformers_version": "kept as it was read",
    "id2label": "class names; their number is num_labels, tested in test_model_config",
    "label2id": "class names",
    "attn_implementation": "the back ends agree; which one runs is tested in test_model_layers",
    "interpolate_positions": "concerns images of other sizes; tested in test_vit_switches",
    "antialias_positions": "concerns images of other sizes; tested in test_vit_switches",
}
CHANGES = {
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 41,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.5,
    "attention_probs_dropout_prob": 0.5,
    "initializer_range": 0.5,
    "layer_norm_eps": 0.1,
    "image_size": [32, 24],
    "patch_size": [4, 4],
    "num_channels": 2,
    "qkv_bias": False,
    "encoder_stride": 2,
    "pooler_output_size": 9,
    "pooler_act": "relu",
    "drop_path_rate": 0.9,
    "layer_scale_init_value": 0.1,
    "use_absolute_position_embeddings": False,
    "use_shared_relative_position_bias": True,
    "use_relative_position_bias": True,
    "norm_after_pool": True,
    "use_attention_output_bias": False,
    "use_mlp_bias": False,
    "use_gated_mlp": True,
    "use_patch_bias": False,
    "use_class_token": False,
    "num_register_tokens": 2,
    "position": "sincos2d",
    "mask_mode": "drop",
    "decoder_hidden_size": 12,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 1,
    "decoder_intermediate_size": 11,
    "init_scheme": "simmim",
    "num_labels": 3,
    "problem_type": "multi_label_classification",
    "output_hidden_states": True,
    "output_attentions": True,
    "return_dict": False,
    "mim_target": "norm_pixels",
    "mim_predictor": predictors.CONV,
    "classifier_pool": "mean",
}
DECODER = {
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 10,
}
NEEDS = {name: DECODER | {"mask_mode": "drop"} for name in DECODER}  # without, a size of the decoder is refused
NEEDS_WITH_IT = {"mask_mode": DECODER}  # and the other way round


def fingerprint(config):
    """Everything a config can change: parameters, and outputs in train mode with a fixed seed."""
    torch.manual_seed(0)
    side = config.image_size
    found = []
    models = [
        ViTModel(config, add_pooling_layer=config.use_class_token),
        ViTForMaskedImageModeling(config),
        ViTForImageClassification(config),
    ]
    for model in models:
        if (
            model is models[1] and config.mim_predictor is not None
        ):  # it predicts what a teacher sees, and is not called
            found.append([(k, tuple(p.shape)) for k, p in model.state_dict().items()])
            continue
        x = pixels(4, side[0], side[1], config.num_channels)
        options = {"labels": torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])[:, 1]} if model is models[2] else {}
        if config.problem_type:
            options["labels"] = torch.ones(4, config.num_labels) if options else None
            options = options if options["labels"] is not None else {}
        torch.manual_seed(1)
        out = model(x, **options)
        values = out if isinstance(out, tuple) else out.to_tuple()
        flat = [t for v in values for t in (v if isinstance(v, tuple) else (v,))]
        found.append((type(out), [(k, tuple(p.shape)) for k, p in model.state_dict().items()]))
        found.append(([tuple(t.shape) for t in flat], [t.double().sum().item() for t in flat]))
    if config.encoder_stride == config.patch_size and config.mim_predictor is None:
        rows, columns = side[0] // config.patch_size[0], side[1] // config.patch_size[1]
        hidden = torch.arange(rows * columns).view(1, rows, columns) % 3 > 0
        torch.manual_seed(1)
        found.append(models[1](pixels(4, *side, config.num_channels), hidden, return_dict=True).loss.item())
    return found


def test_every_field_is_in_one_of_the_two_lists():
    assert {f.name for f in fields(ViTConfig)} == CHANGES.keys() | NO_EFFECT.keys()


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_config_field_changes_something(name):
    needed = NEEDS.get(name, {})
    changed = tiny(**(needed | NEEDS_WITH_IT.get(name, {}) | {name: CHANGES[name]}))
    assert fingerprint(changed) != fingerprint(tiny(**needed))


def test_the_fingerprint_itself_repeats():
    assert fingerprint(tiny()) == fingerprint(tiny())
