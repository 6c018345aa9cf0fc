"""Every part of a model is a module that is called: hooks fire once, replaced layers take effect, parts work alone."""

import functools
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from mimsuite import models
from mimsuite.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_VIT = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32,
    "patch_size": 8, "encoder_stride": 8,
}  # fmt: skip
MAE = {
    "mask_mode": "drop", "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}  # fmt: skip
BEIT = {"use_shared_relative_position_bias": True, "layer_scale_init_value": 0.1}
SMALL_CVT = {"embed_dim": [4, 8, 12], "num_heads": [1, 2, 2], "depth": [1, 1, 2], "stride_kv": [2, 2, 1]}
SMALL_BIT = {"embedding_size": 4, "hidden_sizes": [4, 8, 8, 8], "depths": [1, 1, 1, 2], "num_groups": 2}
CASES = {
    "vit, bare": ("ViTModel", SMALL_VIT),
    "vit, classifier": ("ViTForImageClassification", SMALL_VIT),
    "vit, masked": ("ViTForMaskedImageModeling", SMALL_VIT),
    "vit, BEiT's": ("ViTForMaskedImageModeling", SMALL_VIT | BEIT),
    "vit, MAE": ("ViTForMaskedImageModeling", SMALL_VIT | MAE),
    "cvt, bare": ("CvtModel", SMALL_CVT),
    "cvt, classifier": ("CvtForImageClassification", SMALL_CVT),
    "cvt, classifier on cells": ("CvtForImageClassification", SMALL_CVT | {"cls_token": [False] * 3}),
    "cvt, masked": ("CvtForMaskedImageModeling", SMALL_CVT),
    "bit, bare": ("BitModel", SMALL_BIT),
    "bit, classifier": ("BitForImageClassification", SMALL_BIT),
    "bit, bottleneck": ("BitForImageClassification", SMALL_BIT | {"layer_type": "bottleneck"}),
    "bit, masked": ("BitForMaskedImageModeling", SMALL_BIT),
    "bit, backbone": ("BitBackbone", SMALL_BIT | {"out_features": ["stage2", "stage4"]}),
}
# The encoder has these for other models: a head looks at the map, a backbone at maps before the last norm.
BESIDE = {"bit, masked": {"bit.pooler"}, "bit, backbone": {"bit.norm", "bit.norm.activation", "bit.pooler"}}
# The last block's class token asks its question without the map, whose queries reach no logit.
LAST = "cvt.encoder.stages.2.layers.1.attention.attention.convolution_projection_query"
UNASKED = {
    LAST + rest for rest in ("", *(f".convolution_projection{r}" for r in ("", ".convolution", ".normalization")))
}
every_case = pytest.mark.parametrize("case", CASES)
every_masked = pytest.mark.parametrize("case", [case for case, (name, _) in CASES.items() if "Masked" in name])
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIDES = {"vit": 4, "cvt": 8, "bit": 8}


def model_of(case):
    name, fields = CASES[case]
    torch.manual_seed(0)
    config = getattr(models, name[:3] + "Config")(**fields)
    return getattr(models, name)(config).eval()


def lively(case):
    """A model in float64 whose every parameter matters."""
    model = model_of(case).double()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(
                torch.randn(value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(1)), alpha=0.3
            )
    return model


def a_mask(case):
    side = SIDES[case[:3]]
    units = torch.tensor([[True, False], [False, True]]).repeat_interleave(side // 2, 0).repeat_interleave(side // 2, 1)
    return units.expand(2, side, side)


def call(case, model):
    return model(PIXELS, a_mask(case)) if "Masked" in CASES[case][0] else model(PIXELS)


def parts(model):
    """All modules but the lists, which only number their modules and are never called."""
    return {name: part for name, part in model.named_modules() if not isinstance(part, nn.ModuleList)}


def calls_of(model, without=()):
    """Names of all parts that a forward pass calls.

    Twice are a block's dropout, which serves both branches, and MAE's `decoder_embed`: class token, then cells.
    """
    names = sorted(parts(model).keys() - set(without))
    return sorted([*names, *(name for name in names if re.search(r"layers?\.\d+\.dropout$|decoder_embed$", name))])


def tensors(out):
    if isinstance(out, torch.Tensor):
        return [out]
    return [
        t for value in (out.values() if hasattr(out, "values") else out) if value is not None for t in tensors(value)
    ]


@every_case
def test_forward_hooks_on_every_part_fire_once(case):
    model, seen = model_of(case), []
    plain = call(case, model)
    for name, part in parts(model).items():
        part.register_forward_pre_hook(lambda *_, name=name: seen.append(f"before {name}"))
        part.register_forward_hook(lambda *_, name=name: seen.append(f"after {name}"))
    out = call(case, model)
    assert sorted(seen) == sorted(f"{when} {name}" for name in calls_of(model) for when in ("before", "after"))
    torch.testing.assert_close(tensors(out), tensors(plain))


@every_case
@pytest.mark.filterwarnings("ignore:For backward hooks to be called, module output should be")
@pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed with respect to module")
def test_full_backward_hooks_on_every_part_fire_once(case):
    model, seen = model_of(case), []
    gives_object = set()
    for name, part in parts(model).items():
        part.register_full_backward_hook(lambda *_, name=name: seen.append(name))
        part.register_forward_hook(
            lambda _, __, out, name=name: None if isinstance(out, (torch.Tensor, tuple)) else gives_object.add(name)
        )
    sum(t.square().sum() for t in tensors(call(case, model))).backward()
    # torch calls no backward hook of a module that gives an object, here the models and encoders themselves.
    assert gives_object == {name for name in ("", case[:3], "encoder", f"{case[:3]}.encoder") if name in parts(model)}
    assert sorted(seen) == calls_of(model, gives_object | BESIDE.get(case, set()))


@every_masked
def test_forward_hooks_fire_in_the_fast_loss(case):
    model, seen = model_of(case), []
    expected = model.masked_loss(PIXELS, a_mask(case))
    for name, part in parts(model).items():
        part.register_forward_hook(lambda *_, name=name: seen.append(name))
    torch.testing.assert_close(model.masked_loss(PIXELS, a_mask(case)), expected)
    assert sorted(seen) == calls_of(model, {""})  # its `forward` is another way to the same loss


@every_case
def test_features_go_through_the_same_parts(case):
    model = model_of(case)
    network, seen = model.network(), []
    if case == "cvt, bare":
        pytest.skip("has no final norm, so it gives no features")
    for name, part in parts(network).items():
        part.register_forward_hook(lambda *_, name=name: seen.append(name))
    network.forward_features(PIXELS)
    assert sorted(seen) == calls_of(network)


@every_case
def test_a_hook_that_changes_the_output_of_any_part_changes_the_result(case):
    """No part is called beside the way from pixels to result."""
    model = lively(case)
    plain, without = tensors(call(case, model)), set()
    for name, part in parts(model).items():
        handle = part.register_forward_hook(lambda _, __, out: changed(out))
        found = tensors(call(case, model))
        handle.remove()
        if all(map(torch.equal, found, plain)):
            without.add(name)
    assert without == BESIDE.get(case, set()) | (UNASKED if case == "cvt, classifier" else set())


def changed(out):
    """The same with other values."""
    if isinstance(out, torch.Tensor):
        return out * torch.linspace(2, 3, out.numel(), dtype=out.dtype).view(out.shape)
    if isinstance(out, tuple):
        return tuple(None if value is None else changed(value) for value in out)
    return type(out)(**{name: changed(value) for name, value in out.items()})


def linears(model):
    """Names of all linear layers and of the convolutions that have an adapter."""
    return [name for name, part in model.named_modules() if type(part) in (nn.Linear, nn.Conv2d)]


class Other(nn.Module):
    """A layer that somebody put in the place of another."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    @property
    def weight(self):
        return self.layer.weight

    def forward(self, x):
        out = self.layer(x)
        return out + out.square()


class Changed(nn.Module):
    """A parametrization."""

    def forward(self, x):
        return changed(x)


def replace(model, name):
    """Puts another layer in the place of one; returns what undoes it."""
    parent, _, child = name.rpartition(".")
    layer = model.get_submodule(name)
    setattr(model.get_submodule(parent), child, Other(layer))
    return lambda: setattr(model.get_submodule(parent), child, layer)


def parametrized(model, name):
    """Changes a layer's weights by a parametrization; returns what undoes it."""
    layer = model.get_submodule(name)
    parametrize.register_parametrization(layer, "weight", Changed())
    return lambda: parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


@pytest.mark.parametrize("change", [replace, parametrized])
@every_case
def test_every_linear_layer_may_be_replaced(case, change):
    calls = [functools.partial(call, case)]
    if "Masked" in CASES[case][0]:
        calls.append(lambda model: model.masked_loss(PIXELS, a_mask(case)))
    model = lively(case)
    for run in calls:
        plain = tensors(run(model))
        for name in linears(model):
            undo = change(model, name)
            assert not all(map(torch.equal, tensors(run(model)), plain)), name
            undo()
        torch.testing.assert_close(tensors(run(model)), plain)


@every_masked
def test_a_replaced_layer_counts_in_both_ways_to_the_loss(case):
    model = model_of(case)
    for name in linears(model):
        replace(model, name)
    torch.testing.assert_close(model.masked_loss(PIXELS, a_mask(case)), call(case, model).loss)


def test_one_hooked_projection_changes_no_number():
    model = model_of("vit, classifier").double()
    plain = model(PIXELS).logits
    model.vit.layers[0].attention.attention.key.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(model(PIXELS).logits, plain, rtol=1e-12, atol=1e-12)


def test_projections_may_differ_in_their_biases():
    model = model_of("vit, classifier").double()
    attention = model.vit.layers[1].attention.attention
    expected = model(PIXELS).logits
    key = nn.Linear(8, 8, bias=False).double()
    key.weight = attention.key.weight
    attention.key = key  # a bias of all keys adds the same to every score of a query
    torch.testing.assert_close(model(PIXELS).logits, expected, rtol=1e-12, atol=1e-12)


@every_masked
def test_a_decoder_may_be_any_module_that_makes_a_picture_of_a_map(case):
    model = model_of(case)
    width, side = model.encoder.num_features, model.encoder.stride[0]
    model.decoder = nn.Sequential(nn.Conv2d(width, 3 * side**2, 1), nn.PixelShuffle(side))
    out = call(case, model)
    assert out.reconstruction.shape == PIXELS.shape
    torch.testing.assert_close(model.masked_loss(PIXELS, a_mask(case)), out.loss)


# --- parts alone ---------------------------------------------------------------------------------------------


def test_a_vit_is_the_chain_of_its_parts():
    model = model_of("vit, bare")
    tokens = model.embeddings(PIXELS)
    assert tokens.shape == (2, 17, 8)
    encoded = model.encoder(tokens, output_hidden_states=True)
    for layer in model.layers:
        tokens = layer(tokens)
    assert torch.equal(encoded.last_hidden_state, tokens)
    assert torch.equal(model.encoder(encoded.hidden_states[0], return_dict=False)[0], tokens)
    out, last = model(PIXELS), model.layernorm(tokens)
    assert torch.equal(out.last_hidden_state, last)
    assert torch.equal(out.pooler_output, model.pooler(last))
    hidden, weights = model.layers[0].attention(tokens)
    assert (hidden.shape, weights) == (tokens.shape, None)
    hidden, weights = model.layers[0](tokens, output_attentions=True)
    assert (hidden.shape, weights.shape) == (tokens.shape, (2, 2, 17, 17))


def test_embeddings_take_a_mask_as_a_row():
    model = model_of("vit, masked")
    tokens = model.vit.embeddings(PIXELS, bool_masked_pos=a_mask("vit").flatten(1))
    assert torch.equal(model.vit.encoder(tokens).last_hidden_state, model.vit(
        PIXELS, a_mask("vit"), output_hidden_states=True
    ).hidden_states[-1])  # fmt: skip
    with pytest.raises(InputError, match="mask has shape"):
        model.vit.embeddings(PIXELS, torch.ones(2, 5, dtype=torch.bool))


def test_a_cvt_is_the_chain_of_its_parts():
    model = model_of("cvt, bare")
    x = PIXELS
    for stage in model.encoder.stages:
        x, cls_token = stage(x)
    out = model(PIXELS, output_hidden_states=True)
    assert torch.equal(out.last_hidden_state, x)
    assert torch.equal(out.cls_token_value, cls_token)
    encoded = model.encoder(PIXELS, output_hidden_states=True)
    assert torch.equal(encoded.last_hidden_state, x)
    assert torch.equal(encoded.hidden_states[-1], x)
    assert len(model.encoder(PIXELS, return_dict=False)) == 2
    tokens = torch.cat([cls_token, x.flatten(2).transpose(1, 2)], 1)
    assert model.encoder.stages[2].layers[1](tokens, 2, 2).shape == tokens.shape
    assert model.encoder.stages[0].embedding(PIXELS).shape == (2, 4, 8, 8)


def test_a_bit_is_the_chain_of_its_parts():
    model = model_of("bit, bare")
    stem = model.embedder(PIXELS)
    x = stem
    for stage in model.encoder.stages:
        x = stage(x)
    encoded = model.encoder(stem, output_hidden_states=True)
    assert torch.equal(encoded.last_hidden_state, x)
    assert len(encoded.hidden_states) == 5
    assert torch.equal(model.encoder(stem, return_dict=False)[0], x)
    out = model(PIXELS)
    assert torch.equal(out.last_hidden_state, model.norm(x))
    assert torch.equal(out.pooler_output, model.pooler(model.norm(x)))


# --- what a call takes ---------------------------------------------------------------------------------------


@every_case
def test_keywords_of_other_models_are_without_effect(case):
    model = model_of(case)
    out = model(PIXELS, output_attentions=False, num_items_in_batch=3, use_cache=False)
    assert all(map(torch.equal, tensors(out), tensors(model(PIXELS))))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("fields", [{}, BEIT])
def test_no_token_looks_at_one_that_the_attention_mask_hides(fields, implementation):
    model = models.ViTModel(models.ViTConfig(**SMALL_VIT, **fields, attn_implementation=implementation)).eval()
    seen = torch.ones(2, 17, dtype=torch.long)
    seen[0, 3] = seen[1, 16] = 0
    weights = model(PIXELS, attention_mask=seen, output_attentions=True).attentions
    assert all((w[0, :, :, 3] == 0).all() and (w[1, :, :, 16] == 0).all() for w in weights)
    plain, hidden = model(PIXELS), model(PIXELS, attention_mask=seen)
    assert not torch.allclose(plain.last_hidden_state, hidden.last_hidden_state)
    whole = model(PIXELS, attention_mask=torch.ones_like(seen))
    torch.testing.assert_close(whole.last_hidden_state, plain.last_hidden_state)
    pairs = seen.bool()[:, None, None].expand(2, 1, 17, 17)
    torch.testing.assert_close(model(PIXELS, attention_mask=pairs).last_hidden_state, hidden.last_hidden_state)
    with pytest.raises(InputError, match=r"attention_mask has shape \(2, 16\); expected \(2, 17\)"):
        model(PIXELS, attention_mask=seen[:, 1:])
