"""What every encoder and its models with heads do alike, whatever the family: contract, masks, losses, errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from randomised import randomise
from torch import nn
from torch._dynamo.testing import CompileCounter

from mimsuite.errors import InputError
from mimsuite.masked.losses import masked_error
from mimsuite.masked.patches import expand_mask
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
from mimsuite.types import Encoder, FeatureMap

pytestmark = pytest.mark.usefixtures("one_thread")


class Family(NamedTuple):
    config: Callable[..., Any]
    masked: type
    classifier: type
    width: int
    stride: tuple[int, int]
    mask_stride: tuple[int, int]
    has_cls: bool
    blocks: int
    random_depth: dict[str, Any]  # fields that drop something at random


def family_of(name, classes, fixed, width, stride, mask_stride, has_cls=True):
    config_class, masked, classifier, blocks, random_depth = classes

    def config(shape, **changes):
        size = {"image_size": list(shape)} if config_class is ViTConfig else {}
        return config_class(**(fixed | size | changes))

    return Family(config, masked, classifier, width, stride, mask_stride, has_cls, blocks, random_depth)


VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "patch_size": [8, 16],
    "encoder_stride": [8, 16],
}
CVT = {"embed_dim": [8, 12, 24], "num_heads": [1, 2, 3], "depth": [1, 1, 2], "mlp_ratio": [2, 2, 2]}
BIT = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 2], "num_groups": 4}
VIT_DEPTH = {"drop_path_rate": 0.3, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}
CVT_DEPTH = {"drop_path_rate": [0.3] * 3, "drop_rate": [0.2] * 3, "attention_drop_rate": [0.1] * 3}
VITS = (ViTConfig, ViTForMaskedImageModeling, ViTForImageClassification, 2, VIT_DEPTH)
CVTS = (CvtConfig, CvtForMaskedImageModeling, CvtForImageClassification, 4, CVT_DEPTH)
DROP = {"mask_mode": "drop", "decoder_hidden_size": 16, "decoder_num_hidden_layers": 2}
DROP |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 20}
BITS = (BitConfig, BitForMaskedImageModeling, BitForImageClassification, 5, {"drop_path_rate": 0.3})
BARE_CVT = {"cls_token": [False] * 3, "qkv_projection_method": ["dw_bn", "avg", "linear"], "hidden_act": "quick_gelu"}
BOTTLENECK = {"layer_type": "bottleneck", "output_stride": 8, "global_padding": "same", "width_factor": 2}
DYNAMIC = {"embedding_dynamic_padding": True}
FAMILIES = {
    "vit": family_of("vit", VITS, VIT, 24, (8, 16), (8, 16)),
    "vit-no-class-token": family_of("vit", VITS, VIT | {"use_class_token": False}, 24, (8, 16), (8, 16), False),
    "vit-registers": family_of("vit", VITS, VIT | {"num_register_tokens": 3}, 24, (8, 16), (8, 16)),
    "vit-drop": family_of("vit", VITS, VIT | DROP, 24, (8, 16), (8, 16)),
    "cvt": family_of("cvt", CVTS, CVT, 24, (16, 16), (4, 4)),
    "cvt-no-class-token": family_of("cvt", CVTS, CVT | BARE_CVT, 24, (16, 16), (4, 4), False),
    "bit": family_of("bit", BITS, BIT, 40, (32, 32), (4, 4), False),
    "bit-bottleneck": family_of("bit", BITS, BIT | BOTTLENECK | DYNAMIC, 80, (8, 8), (4, 4), False),
}
PLAIN = ["vit", "cvt", "bit"]
SHAPES = [(64, 64), (64, 96)]
MASKS = ["random", "units", "block", "all", "none"]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
every_mask = pytest.mark.parametrize("kind", MASKS)


VARIANTS = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in PLAIN]


@pytest.fixture(params=[*PLAIN, *VARIANTS])
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(params=[*PLAIN, *(v for v in VARIANTS if v.values[0] != "vit-drop")])
def replacing_family(request):
    """Those with a mask token, which take images that hide different numbers of cells."""
    return FAMILIES[request.param]


@pytest.fixture(params=PLAIN)
def plain_family(request):
    return FAMILIES[request.param]


def masked_model(family, shape, **changes):
    return randomise(family.masked(family.config(shape, **changes))).eval()


def classifier(family, shape, **changes):
    return randomise(family.classifier(family.config(shape, **changes))).eval()


def pixels(shape, batch=2, channels=3):
    return torch.randn(batch, channels, *shape, generator=torch.Generator().manual_seed(1))


def a_mask(kind, family, shape, batch=2):
    """`(B, rows, columns)` bool on the encoder's finest cells; "units" on cells of 32 pixels."""
    side = (32, 32) if kind == "units" else family.mask_stride
    rows, columns = shape[0] // side[0], shape[1] // side[1]
    mask = torch.zeros(batch, rows, columns, dtype=torch.bool)
    if kind == "random":
        order = torch.rand(batch, rows * columns, generator=torch.Generator().manual_seed(2)).argsort(1)
        mask = (order < 0.6 * rows * columns).reshape(mask.shape)
    elif kind == "units":
        order = torch.rand(batch, rows * columns, generator=torch.Generator().manual_seed(3)).argsort(1)
        mask = (order < rows * columns // 2).reshape(mask.shape)
    elif kind == "block":
        mask[:, rows // 4 : rows // 4 + rows // 2, columns // 2 :] = True
    elif kind == "all":
        mask[:] = True
    return mask


def on_pixels(mask, images):
    """The mask of every value of `images (B, C, H, W)`."""
    return expand_mask(mask, images.shape[-2:])[:, None].expand_as(images)


def on_cells(mask, family, shape):
    """The mask on the encoder's finest cells."""
    return expand_mask(mask, (shape[0] // family.mask_stride[0], shape[1] // family.mask_stride[1]))


def same_features(one, two):
    assert torch.equal(one.grid, two.grid)
    assert (one.cls is None) == (two.cls is None)
    assert one.cls is None or torch.equal(one.cls, two.cls)


def running_statistics(model):
    return {k: b.clone() for k, b in model.named_buffers()}


# --- shapes, weights and gradients -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked", "classifier"])
def test_the_encoder_fulfils_the_contract(family, kind):
    encoder = getattr(family, kind)(family.config((64, 64))).encoder
    assert isinstance(encoder, Encoder)
    found = (encoder.num_features, encoder.stride, encoder.mask_stride, encoder.gradient_checkpointing)
    assert found == (family.width, family.stride, family.mask_stride, False)


@pytest.mark.parametrize("kind", ["masked", "classifier"])
def test_every_parameter_has_a_depth_and_every_depth_a_parameter(family, kind):
    encoder = getattr(family, kind)(family.config((64, 64))).encoder
    assert encoder.num_blocks == family.blocks
    depths = {encoder.depth_of(name) for name, _ in encoder.named_parameters()}
    without_final_norm = getattr(encoder.config, "layer_type", None) == "bottleneck"
    assert depths == set(range(encoder.num_blocks + 2 - without_final_norm))


def test_depths_do_not_fall_along_the_forward_pass(family):
    model, seen = classifier(family, (64, 64)), []
    names = {p: name for name, p in model.encoder.named_parameters()}

    def note(part, _):
        seen.extend(model.encoder.depth_of(names[p]) for p in part.parameters(recurse=False))

    for part in model.encoder.modules():
        part.register_forward_pre_hook(note)
    model.encoder.forward_features(pixels((64, 64)))
    assert len(set(seen)) > model.encoder.num_blocks
    assert seen == sorted(seen)


@pytest.mark.parametrize("name", ["", "classifier.weight", "blocks.0.weight", "{}.layer.9.x", "{}.stages.9.layers.0.x"])
def test_a_parameter_that_the_encoder_does_not_have_has_no_depth(plain_family, name):
    encoder = classifier(plain_family, (64, 64)).encoder
    with pytest.raises(InputError, match=r"is not a parameter of a \w+ encoder"):
        encoder.depth_of(name.format("encoder"))


@every_shape
@pytest.mark.parametrize("kind", ["masked", "classifier"])
def test_features_have_the_width_and_grid_that_the_encoder_names(family, kind, shape):
    features = getattr(family, kind)(family.config(shape)).eval().encoder.forward_features(pixels(shape))
    assert isinstance(features, FeatureMap)
    assert features.grid.shape == (2, family.width, shape[0] // family.stride[0], shape[1] // family.stride[1])

    assert family.has_cls == (features.cls is not None)
    assert features.cls is None or features.cls.shape == (2, family.width)


def test_set_image_size_makes_another_size_the_encoders_own(family):
    model = masked_model(family, (64, 64))
    model.encoder.set_image_size((64, 96))
    shape = (64, 96)
    grid = model.encoder.forward_features(pixels(shape), a_mask("units", family, shape)).grid
    assert grid.shape[-2:] == (64 // family.stride[0], 96 // family.stride[1])


def test_a_fresh_encoder_gives_finite_features_that_differ_between_images(family):
    torch.manual_seed(0)
    grid = family.masked(family.config((64, 64))).eval().encoder.forward_features(pixels((64, 64))).grid
    assert grid.isfinite().all()
    assert not torch.equal(grid[0], grid[1])


@every_shape
def test_without_mask_there_is_a_picture_and_no_loss(family, shape):
    out = masked_model(family, shape)(pixels(shape))
    assert out.loss is None
    assert out.reconstruction.shape == (2, 3, *shape)


def test_any_number_of_channels_goes_in_and_out(family):
    shape = (64, 64)
    model = masked_model(family, shape, num_channels=5)
    out = model(pixels(shape, channels=5), a_mask("random", family, shape))
    assert out.reconstruction.shape == (2, 5, *shape)


def test_gradients_reach_every_parameter(family):
    shape = (64, 96)
    model = masked_model(family, shape).train()
    model(pixels(shape), a_mask("random", family, shape)).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert [n for n, p in model.named_parameters() if not p.grad.isfinite().all()] == []


def test_gradients_of_a_classifier_reach_every_parameter(family):
    shape = (64, 96)
    model = classifier(family, shape, num_labels=5).train()
    model(pixels(shape), labels=torch.tensor([1, 4])).loss.backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # The class token asks its last question without the map, so the map's last queries reach no logit.
    last = "cvt.encoder.stages.2.layers.1.attention.attention.convolution_projection_query.convolution_projection."
    unused = {last + n for n in ("convolution.weight", "normalization.weight", "normalization.bias")}
    assert without == (unused if family.has_cls and family.masked is CvtForMaskedImageModeling else set())


@every_mask
def test_the_mask_token_has_a_gradient_if_and_only_if_something_is_hidden(family, kind):
    shape = (64, 96)
    model = masked_model(family, shape)
    (token,) = (p for n, p in model.named_parameters() if n.endswith("mask_token"))
    out = model(pixels(shape), a_mask(kind, family, shape))
    for value in (out.loss, out.reconstruction.square().sum()):
        (gradient,) = torch.autograd.grad(value, [token], retain_graph=True)
        assert gradient.any() == (kind != "none")


def test_the_state_dict_goes_round(family):
    shape = (64, 96)
    model, other = masked_model(family, shape), family.masked(family.config(shape)).eval()
    state = model.state_dict()
    found = other.load_state_dict(state)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert all(torch.equal(t, other.state_dict()[k]) for k, t in state.items())
    assert torch.equal(
        model(pixels(shape), a_mask("random", family, shape)).loss,
        other(pixels(shape), a_mask("random", family, shape)).loss,
    )


def test_every_parameter_and_statistic_is_in_the_state_dict(family):
    model = masked_model(family, (64, 64))
    state = model.state_dict()
    assert len(state) == sum(1 for _ in model.parameters()) + sum(1 for _ in model.buffers())
    assert {t.data_ptr() for t in model.parameters()} <= {t.data_ptr() for t in state.values()}


def test_folders_go_round(family, tmp_path):
    shape = (64, 96)
    model = masked_model(family, shape)
    model.save_pretrained(tmp_path)
    again = family.masked.from_pretrained(tmp_path)
    out, other = (m(pixels(shape), a_mask("units", family, shape)) for m in (model, again))
    assert torch.equal(out.reconstruction, other.reconstruction)
    assert again.config.to_dict().keys() - {"architectures", "dtype"} == model.config.to_dict().keys()


# --- hidden pixels ---------------------------------------------------------------------------------------------


@every_shape
def test_a_mask_of_units_equals_the_mask_of_its_cells(family, shape):
    model, units = masked_model(family, shape), a_mask("units", family, shape)
    cells = on_cells(units, family, shape)
    same_features(
        model.encoder.forward_features(pixels(shape), units), model.encoder.forward_features(pixels(shape), cells)
    )
    assert torch.equal(model(pixels(shape), units).reconstruction, model(pixels(shape), cells).reconstruction)


@every_shape
@every_mask
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_hidden_pixels_of_nan_leave_everything_bit_identical(family, shape, kind, training):
    clean, mask = pixels(shape), a_mask(kind, family, shape)
    spoiled = clean.masked_fill(on_pixels(mask, clean), float("nan"))
    outs = []
    for x in (clean, spoiled):
        model = masked_model(family, shape).train(training)
        with torch.no_grad():
            features = model.encoder.forward_features(x, mask)
            picture = model(x, mask).reconstruction
        assert picture.isfinite().all()
        outs.append((features, picture, running_statistics(model)))
    same_features(outs[0][0], outs[1][0])
    assert torch.equal(outs[0][1], outs[1][1])
    assert all(torch.equal(b, outs[1][2][k]) for k, b in outs[0][2].items())


@every_mask
def test_hidden_pixels_of_noise_change_no_bit_of_the_picture(family, kind):
    shape = (64, 96)
    model, clean, mask = masked_model(family, shape), pixels(shape), a_mask(kind, family, shape)
    noisy = torch.where(on_pixels(mask, clean), 100 * torch.randn_like(clean), clean)
    assert torch.equal(model(clean, mask).reconstruction, model(noisy, mask).reconstruction)


def test_hidden_pixels_have_no_gradient_and_visible_ones_do(family):
    shape = (64, 96)
    model, mask = masked_model(family, shape), a_mask("random", family, shape)
    x = pixels(shape).requires_grad_()
    model.encoder.forward_features(x, mask).grid.square().sum().backward()
    hidden = on_pixels(mask, x)
    assert not x.grad[hidden].any()
    assert (x.grad[~hidden] != 0).float().mean() > 0.99  # of BiT's stem only the largest of a window go on


@pytest.mark.parametrize("kind", ["random", "units", "block"])
def test_visible_pixels_matter(family, kind):
    shape = (64, 96)
    model, mask = masked_model(family, shape), a_mask(kind, family, shape)
    x = pixels(shape)
    other = torch.where(on_pixels(mask, x), x, x + 1)
    assert not torch.equal(
        model.encoder.forward_features(x, mask).grid, model.encoder.forward_features(other, mask).grid
    )


def test_where_the_mask_lies_matters(family):
    shape = (64, 96)
    model, mask = masked_model(family, shape), a_mask("units", family, shape)
    x = torch.zeros(2, 3, *shape)  # so that only the tokens tell the two masks apart
    assert not torch.equal(model.encoder.forward_features(x, mask).grid, model.encoder.forward_features(x, ~mask).grid)


@every_shape
def test_an_empty_mask_is_no_mask(family, shape):
    model, x = masked_model(family, shape), pixels(shape)
    empty = a_mask("none", family, shape)
    same_features(model.encoder.forward_features(x), model.encoder.forward_features(x, empty))
    out = model(x, empty)
    assert torch.equal(out.reconstruction, model(x).reconstruction)
    assert out.loss.item() == 0


# --- the loss --------------------------------------------------------------------------------------------------


@every_mask
def test_the_loss_follows_the_formula(family, kind):
    shape = (64, 96)
    model, mask, x = masked_model(family, shape).double(), a_mask(kind, family, shape), pixels(shape).double()
    out = model(x, mask)
    hidden = expand_mask(mask, shape)[:, None].double()  # (B, 1, H, W)
    formula = ((x - out.reconstruction).abs() * hidden).sum() / (hidden.sum() + 1e-5) / 3
    torch.testing.assert_close(out.loss, formula, rtol=1e-7, atol=0)
    assert (out.loss > 0) == (kind != "none")


@pytest.mark.parametrize("kind", ["random", "units", "block"])
def test_the_loss_does_not_see_the_picture_outside_the_mask(family, kind):
    shape = (64, 96)
    model, mask, x = masked_model(family, shape), a_mask(kind, family, shape), pixels(shape)
    loss = model(x, mask).loss
    hidden = on_pixels(mask, x)
    spoil = model.decoder.register_forward_hook(lambda *call: call[2].masked_fill(~hidden, float("nan")))
    out = model(x, mask)
    assert out.reconstruction.isnan().sum() == (~hidden).sum()
    assert torch.equal(out.loss, loss)
    spoil.remove()
    model.decoder.register_forward_hook(lambda *call: call[2] + hidden)
    assert not torch.equal(model(x, mask).loss, loss)


def unequal(kind, family, shape):
    mask = a_mask(kind, family, shape)
    mask[0] = True
    return mask


LOSS_MASKS = {name: (lambda f, s, name=name: a_mask(name, f, s), False) for name in MASKS} | {
    "units with count": (lambda f, s: a_mask("units", f, s), True),
    "block with count": (lambda f, s: a_mask("block", f, s), True),
    "all with count": (lambda f, s: a_mask("all", f, s), True),
    "none with count": (lambda f, s: a_mask("none", f, s), True),
}


@pytest.mark.parametrize("name", LOSS_MASKS)
def test_the_fast_loss_equals_the_dense_one(family, name):
    make, counted = LOSS_MASKS[name]
    compare_losses(family, make(family, (64, 96)), counted)


@pytest.mark.parametrize("kind", ["units", "random"])
def test_the_fast_loss_of_unequal_masks_equals_the_dense_one(replacing_family, kind):
    compare_losses(replacing_family, unequal(kind, replacing_family, (64, 96)), False)


def compare_losses(family, mask, counted):
    shape = (64, 96)
    model, x = masked_model(family, shape).double(), pixels(shape).double()
    per_image = mask.flatten(1).sum(1)
    assert not counted or per_image.unique().numel() == 1
    dense = model(x, mask).loss
    fast = model.masked_loss(x, mask, int(per_image[0]) if counted else None)
    torch.testing.assert_close(fast, dense, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(v, list(model.parameters())) for v in (fast, dense))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("error", ["mse", "smooth_l1"])
def test_the_fast_loss_of_every_kind_of_error_equals_the_dense_one(family, error):
    shape = (64, 96)
    model, x = masked_model(family, shape).double(), pixels(shape).double()
    for kind in ("random", "block", "none"):
        mask = a_mask(kind, family, shape)
        dense = masked_error(model(x, mask).reconstruction, x, mask, error)
        torch.testing.assert_close(model.masked_loss(x, mask, loss=error), dense, rtol=1e-12, atol=0)


def test_the_fast_loss_applies_the_head_to_hidden_cells_only(family, monkeypatch):
    shape = (64, 96)
    model, mask = masked_model(family, shape), a_mask("units", family, shape)
    monkeypatch.setattr(type(model.decoder), "forward", lambda *_: pytest.fail("the whole picture was decoded"))
    assert model.masked_loss(pixels(shape), mask).isfinite()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("flat", [False, True], ids=["rows and columns", "flat"])
def test_a_mask_in_any_form_is_the_same_mask(plain_family, dtype, flat):
    shape = (64, 96)
    model, mask = masked_model(plain_family, shape), a_mask("random", plain_family, shape)
    given = (mask.flatten(1) if flat else mask).to(dtype)
    expected, found = model(pixels(shape), mask), model(pixels(shape), given)
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.reconstruction, expected.reconstruction)


@pytest.mark.parametrize("flat", [False, True], ids=["rows and columns", "flat"])
def test_one_mask_for_a_batch_counts_for_every_image(family, flat):
    shape = (64, 96)
    model, mask = masked_model(family, shape), a_mask("random", family, shape, batch=1)
    one = model(pixels(shape), mask.flatten(1) if flat else mask)
    each = model(pixels(shape), mask.expand(2, -1, -1))
    assert torch.equal(one.loss, each.loss)
    assert torch.equal(one.reconstruction, each.reconstruction)


def test_the_fast_loss_takes_one_mask_for_a_batch_too(family):
    shape = (64, 96)
    model, x = masked_model(family, shape), pixels(shape)
    mask = a_mask("random", family, shape, batch=1)
    torch.testing.assert_close(model.masked_loss(x, mask), model(x, mask).loss)


def test_the_plain_random_mask_of_the_documents_is_taken(replacing_family):
    shape = (64, 96)
    cells = a_mask("none", replacing_family, shape).flatten(1).shape[1]
    out = masked_model(replacing_family, shape)(pixels(shape), torch.randint(0, 2, (2, cells)).bool())
    assert out.loss > 0


def test_return_dict_false_gives_the_tuple_without_none(family):
    shape = (64, 96)
    model, x, mask = masked_model(family, shape), pixels(shape), a_mask("random", family, shape)
    out = model(x, mask)
    assert isinstance(found := model(x, mask, return_dict=False), tuple)
    assert len(found) == 2
    assert torch.equal(found[0], out.loss)
    assert torch.equal(found[1], out.reconstruction)
    assert [tuple(t.shape) for t in model(x, return_dict=False)] == [(2, 3, *shape)]


# --- how it is computed ----------------------------------------------------------------------------------------


def step(family, shape, checkpointed, training, **changes):
    """Loss, gradients and running statistics of a step, and how many numbers were kept for the backward pass."""
    model = masked_model(family, shape, **family.random_depth, **changes).train(training)
    if checkpointed:
        model.gradient_checkpointing_enable()
    torch.manual_seed(5)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = model(pixels(shape), a_mask("units", family, shape)).loss
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return [loss, *gradients, *running_statistics(model).values()], sum(kept)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradient_checkpointing_changes_no_value_gradient_or_statistic(family, training):
    shape = (64, 96)
    (plain, much), (checkpointed, little) = (step(family, shape, on, training) for on in (False, True))
    assert little < 0.8 * much
    for a, b in zip(plain, checkpointed, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["vit", "cvt"])
def test_gradient_checkpointing_of_plain_attention_changes_nothing(name):
    runs = [step(FAMILIES[name], (64, 96), on, True, attn_implementation="eager")[0] for on in (False, True)]
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_gradient_checkpointing_can_be_switched_off_again(family):
    model = masked_model(family, (64, 64))
    model.gradient_checkpointing_enable()
    assert model.encoder.gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.encoder.gradient_checkpointing


@pytest.mark.parametrize("name", ["vit", "cvt", "cvt-no-class-token"])
def test_the_attention_back_ends_agree(name):
    family, shape = FAMILIES[name], (64, 96)
    outs = []
    for implementation in ("sdpa", "eager"):
        model = masked_model(family, shape, attn_implementation=implementation).double()
        loss = model(pixels(shape).double(), a_mask("random", family, shape)).loss
        outs.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for a, b in zip(*outs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_bfloat16_with_gradients_is_near_float32(family):
    shape = (64, 96)
    model, mask = masked_model(family, shape), a_mask("units", family, shape)
    loss = model.masked_loss(pixels(shape), mask)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.masked_loss(pixels(shape), mask)
        dense = model(pixels(shape), mask).loss
    assert half.dtype == dense.dtype == torch.float32
    torch.testing.assert_close(half, loss, rtol=0.02, atol=0)
    torch.testing.assert_close(dense, loss, rtol=0.02, atol=0)
    half.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_in_half_precision_give_a_finite_loss_near_that_of_float32(family, dtype):
    shape = (64, 96)
    model, mask = masked_model(family, shape), a_mask("units", family, shape)
    wide = model(pixels(shape), mask).loss
    loss = model.to(dtype)(pixels(shape), mask).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wide, rtol=0.03, atol=0)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_large_sum_of_errors_in_half_precision_stays_finite(family):
    shape = (192, 192)
    model, mask = family.masked(family.config(shape)).half().eval(), a_mask("all", family, shape)
    with torch.no_grad():
        loss = model(torch.full((2, 3, *shape), 10.0).half(), mask).loss
    assert loss.dtype == torch.float32
    assert 9 < loss < 11


def test_integer_pixels_are_cast(family):
    shape = (64, 64)
    model = masked_model(family, shape)
    x = torch.randint(0, 255, (1, 3, *shape), dtype=torch.uint8)
    same_features(model.encoder.forward_features(x), model.encoder.forward_features(x.float()))


class Features(nn.Module):
    """`forward_features` as a module, for compilers."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x, mask=None):
        return tuple(self.encoder.forward_features(x, mask))


def close_features(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, "units"])
def test_the_features_can_be_exported(plain_family, kind):
    shape = (64, 96)
    module = Features(masked_model(plain_family, shape).encoder).eval()
    masks = () if kind is None else (a_mask(kind, plain_family, shape),)
    exported = torch.export.export(module, (pixels(shape), *masks)).module()
    others = tuple(~m for m in masks)
    close_features(exported(-pixels(shape), *others), module(-pixels(shape), *others))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, "units"])
def test_the_features_compile_to_one_graph_for_all_masks_of_a_shape(plain_family, kind):
    shape = (64, 96)
    torch._dynamo.reset()
    counter = CompileCounter()
    module = Features(masked_model(plain_family, shape).encoder).eval()
    compiled = torch.compile(module, backend=counter, fullgraph=True, dynamic=False)
    mask = None if kind is None else a_mask(kind, plain_family, shape)
    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        for given in (mask, None if mask is None else ~mask, mask):
            close_features(compiled(pixels(shape), given), module(pixels(shape), given))
    assert counter.frame_count == 1


def compiled_step(family, shape, checkpointed):
    torch._dynamo.reset()
    model = masked_model(family, shape).train()
    if checkpointed:
        model.gradient_checkpointing_enable()
    masks = [a_mask("units", family, shape), a_mask("units", family, shape).roll(1, 2)]
    count = int(masks[0][0].sum())
    compiled = torch.compile(model.masked_loss, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        losses = []
        for mask in masks:
            loss = compiled(pixels(shape), mask, count)
            loss.backward()
            losses.append(loss.detach())
    expected = masked_model(family, shape).train()
    for mask, loss in zip(masks, losses, strict=True):
        wanted = expected.masked_loss(pixels(shape), mask, count)
        wanted.backward()
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-4, atol=1e-5)
    for (name, a), b in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)
    for (name, a), b in zip(model.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "recomputed"])
def test_the_fast_loss_compiles_to_one_graph_and_its_gradients_too(plain_family, checkpointed):
    compiled_step(plain_family, (64, 96), checkpointed)


# --- errors ----------------------------------------------------------------------------------------------------


def test_no_pixels_is_an_error(family):
    for cls in (family.masked, family.classifier):
        with pytest.raises(ValueError, match="You have to specify pixel_values"):
            cls(family.config((64, 64)))()


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels_are_refused(family, channels):
    x = pixels((64, 64), channels=channels)
    for model in (masked_model(family, (64, 64)), classifier(family, (64, 64))):
        for call in (model, model.encoder.forward_features):
            with pytest.raises(InputError, match=f"{channels} channels; the model expects num_channels=3"):
                call(x)


def test_pixels_of_another_rank_are_refused(family):
    model = masked_model(family, (64, 64))
    for call in (classifier(family, (64, 64)), model.encoder.forward_features):
        for x in (pixels((64, 64))[0], pixels((64, 64))[None]):
            with pytest.raises(InputError, match=r"expected \(batch, channels, height, width\)"):
                call(x)


@pytest.mark.parametrize("flat", [False, True], ids=["rows and columns", "flat"])
def test_a_mask_of_another_batch_or_length_is_refused(family, flat):
    shape = (64, 96)
    model, mask = masked_model(family, shape), a_mask("random", family, shape, batch=3)
    wrong = [mask.flatten(1), mask[:2].flatten(1)[:, 1:]] if flat else [mask, mask[:2, :-1], mask[:2, :, :-1]]
    for given in wrong:
        with pytest.raises(InputError, match=r"mask .*") as error:
            model(pixels(shape), given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", ["forward_features", "masked_loss"])
def test_the_fast_ways_refuse_a_mask_of_another_batch_or_grid(family, call):
    shape = (64, 96)
    model, mask = masked_model(family, shape), a_mask("random", family, shape, batch=3)
    function = model.masked_loss if call == "masked_loss" else model.encoder.forward_features
    for given in (mask, mask[:2, :-1], mask[:2].repeat_interleave(2, 1)):
        with pytest.raises(InputError, match="mask") as error:
            function(pixels(shape), given)
        assert "\n" not in str(error.value)


def test_a_mask_for_an_encoder_without_mask_token_is_refused(replacing_family):
    mask = a_mask("units", replacing_family, (64, 64))
    with pytest.raises(InputError, match=r"no mask token.*use_mask_token=True"):
        classifier(replacing_family, (64, 64)).encoder.forward_features(pixels((64, 64)), mask)


def test_another_encoder_stride_gives_another_size_and_refuses_masks(family):
    shape = (64, 96)
    model = masked_model(family, shape, encoder_stride=4)
    rows, columns = shape[0] // family.stride[0], shape[1] // family.stride[1]
    assert model(pixels(shape)).reconstruction.shape == (2, 3, 4 * rows, 4 * columns)
    for call in (model, model.masked_loss):
        with pytest.raises(InputError, match=r"must be equal to `encoder_stride`.*\(4, 4\)"):
            call(pixels(shape), a_mask("units", family, shape))


@pytest.mark.parametrize("wrong", [(68, 96), (64, 100)])
def test_an_image_that_is_no_multiple_of_the_stride_is_refused_with_a_mask(family, wrong):
    model = masked_model(family, (64, 96))
    mask = a_mask("none", family, wrong)
    for call in (model, model.masked_loss):
        with pytest.raises(InputError, match=f"image {wrong[0]}x{wrong[1]} is not a multiple of the stride"):
            call(pixels(wrong), mask)


@pytest.mark.parametrize("labels", [[0, 5], [-1, 0]])
def test_labels_out_of_range_are_named(family, labels):
    model = classifier(family, (64, 64), num_labels=5)
    with pytest.raises(InputError, match=f"label {max(labels, key=abs)} is out of range.* classes 0 to 4"):
        model(pixels((64, 64)), labels=torch.tensor(labels))


def test_labels_without_outputs_are_refused(family):
    with pytest.raises(InputError, match="num_labels=0"):
        classifier(family, (64, 64), num_labels=0)(pixels((64, 64)), labels=torch.tensor([0, 0]))


def test_a_classifier_without_labels_gives_the_pooled_features(family):
    model = classifier(family, (64, 96), num_labels=0)
    features = model.encoder.forward_features(pixels((64, 96)))
    expected = features.cls if family.has_cls else features.grid.mean((2, 3))
    assert torch.equal(model(pixels((64, 96))).logits, expected)


def test_the_config_stays_as_it_is_between_label_types(family):
    model = classifier(family, (64, 64), num_labels=3)
    before = model.config.to_dict()
    single = model(pixels((64, 64)), labels=torch.tensor([0, 2])).loss
    multi = model(pixels((64, 64)), labels=torch.rand(2, 3)).loss
    assert single.shape == multi.shape == ()
    assert model.config.to_dict() == before
    assert model.config.problem_type is None
