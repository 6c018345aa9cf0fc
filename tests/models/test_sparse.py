"""Sparse maps: what is hidden is zero in every map and counts in no statistic, of BiT and CvT, with each head."""

from typing import Any

import pytest
import torch
from randomised import randomise
from torch import nn
from torch._dynamo.testing import CompileCounter

from mimsuite.encoders.bit_layers import NormAct
from mimsuite.encoders.sparse import sparse_batch_norm, sparse_group_norm, visible_of, zero_hidden
from mimsuite.errors import InputError
from mimsuite.masked.patches import expand_mask
from mimsuite.models import (
    AutoModelForMaskedImageModeling,
    BitConfig,
    BitForImageClassification,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForImageClassification,
    CvtForMaskedImageModeling,
)

pytestmark = pytest.mark.usefixtures("one_thread")

BIT = {"embedding_size": 8, "hidden_sizes": [16, 24, 32], "depths": [1, 1, 2], "num_groups": 4, "output_stride": 8}
BOTTLENECK = {"layer_type": "bottleneck", "global_padding": "same", "embedding_dynamic_padding": True}
CVT = {
    "embed_dim": [8, 12, 24],
    "num_heads": [1, 2, 3],
    "depth": [1, 1, 2],
    "mlp_ratio": [2, 2, 2],
    "drop_path_rate": [0, 0, 0],
}
BARE = {"cls_token": [False] * 3, "qkv_projection_method": ["dw_bn", "avg", "linear"]}
ODD = {"hidden_act": "sigmoid"}  # which makes one half of a zero
MODELS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "bit": (BitConfig, BitForMaskedImageModeling, BitForImageClassification, BIT),
    "bit-bottleneck": (BitConfig, BitForMaskedImageModeling, BitForImageClassification, BIT | BOTTLENECK | ODD),
    "bit-border": (
        BitConfig,
        BitForMaskedImageModeling,
        BitForImageClassification,
        BIT | {"layer_type": "bottleneck"} | ODD,
    ),
    "cvt": (CvtConfig, CvtForMaskedImageModeling, CvtForImageClassification, CVT),
    "cvt-bare": (CvtConfig, CvtForMaskedImageModeling, CvtForImageClassification, CVT | BARE),
}
HEADS = {"simmim": {}, "unet": {"decoder_hidden_size": 32}}
SIZE = (64, 96)

every_model = pytest.mark.parametrize("name", MODELS)
every_head = pytest.mark.parametrize("head", HEADS)


def make(name, head="simmim", **changes):
    """A masked image model with sparse maps."""
    config, masked, _, values = MODELS[name]
    return randomise(masked(config(**(values | HEADS[head] | {"mask_mode": "sparse"} | changes))))


def pixels(batch=2, size=SIZE):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def a_mask(model, batch=2, size=SIZE, share=0.6):
    """`(B, rows, columns)` bool on the cells of the last map, another count in each image."""
    rows, columns = (side // cell for side, cell in zip(size, model.encoder.stride, strict=True))
    return torch.rand(batch, rows, columns, generator=torch.Generator().manual_seed(2)) < share


def on_pixels(mask, size=SIZE):
    return expand_mask(mask, size)[:, None]


def everything(model, x, mask):
    """Whatever a step makes of an image: all maps, features, the picture, its gradients and running statistics."""
    model.zero_grad()
    features, states = model.encoder.features_and_states(x, mask, True)
    picture = model(x, mask).reconstruction
    picture.square().mean().backward()
    found = [features.grid, *states, picture, *([] if features.cls is None else [features.cls])]
    return [t.detach().clone() for t in (*found, *(p.grad for p in model.parameters()), *model.buffers())]


# --- no leak ---------------------------------------------------------------------------------------------------


@every_model
@every_head
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_hidden_pixels_change_no_bit_of_maps_gradients_and_statistics(name, head, training):
    clean, mask = pixels(), a_mask(make(name))
    wanted = everything(make(name, head).train(training), clean, mask)
    assert all(t.isfinite().all() for t in wanted)
    noise = 100 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    nan, inf = (torch.full_like(clean, float(value)) for value in ("nan", "inf"))
    for spoiled in (torch.where(on_pixels(mask), bad, clean) for bad in (noise, nan, inf)):
        found = everything(make(name, head).train(training), spoiled, mask)
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    found = everything(make(name, head).train(training), clean + 1, mask)
    assert not any(torch.equal(a, b) for a, b in zip(wanted[:3], found[:3], strict=True))


@every_model
def test_what_is_hidden_is_zero_in_every_map_and_what_is_visible_is_not(name):
    model = make(name).train()
    mask = a_mask(model)
    features, states = model.encoder.features_and_states(pixels(), mask, True)
    for x in (features.grid, *states):
        hidden = expand_mask(mask, x.shape[-2:])[:, None].expand_as(x)
        assert not x[hidden].any()
        assert (x[~hidden] != 0).float().mean() > 0.3  # ReLU makes half of them zero


@every_model
@every_head
def test_hidden_pixels_have_no_gradient_and_visible_ones_do(name, head):
    model = make(name, head).train()
    mask, x = a_mask(model), pixels().requires_grad_()
    model(x, mask).reconstruction.square().sum().backward()
    hidden = on_pixels(mask).expand_as(x)
    assert not x.grad[hidden].any()
    assert (x.grad[~hidden] != 0).float().mean() > 0.9


@every_model
@every_head
def test_gradients_reach_every_parameter(name, head):
    model = make(name, head).train()
    model.masked_pass(pixels(), a_mask(model))[0].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_model
@every_head
def test_images_without_a_visible_cell_divide_by_no_zero(name, head):
    model = make(name, head).train()
    before = [b.clone() for b in model.buffers() if b.is_floating_point()]
    mask = torch.ones_like(a_mask(model))
    loss, features = model.masked_pass(pixels(), mask)
    loss.backward()
    assert loss.isfinite()
    assert not features.grid.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    after = [b for b in model.buffers() if b.is_floating_point()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    mask[0] = False  # beside an image that is all visible
    model.zero_grad()
    loss = model.masked_pass(pixels(), mask)[0]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# --- statistics ------------------------------------------------------------------------------------------------


def a_map(batch=3, width=8, size=(4, 6)):
    """A sparse map of float64, and what is visible of it; the last image has one position."""
    generator = torch.Generator().manual_seed(4)
    hidden = torch.rand(batch, 1, *size, generator=generator) < 0.5
    hidden[-1] = True
    hidden[-1, 0, 1, 2] = False
    visible = visible_of(hidden)
    return zero_hidden(torch.randn(batch, width, *size, generator=generator).double() + 1, visible), visible


def test_group_norm_is_that_of_the_visible_positions_alone():
    x, visible = a_map()
    norm = randomise(nn.GroupNorm(2, 8).double())
    found = sparse_group_norm(norm, x, visible)
    for image in range(len(x)):
        seen = ~visible.hidden[image, 0]
        torch.testing.assert_close(found[image][:, seen], norm(x[image][:, seen][None, :, None])[0, :, 0])
    assert visible.counted.tolist() == (~visible.hidden).sum((1, 2, 3)).tolist()


def test_batch_norm_and_its_running_statistics_are_those_of_the_visible_positions_alone():
    x, visible = a_map()
    norm, plain = (randomise(nn.BatchNorm2d(8).double()).train() for _ in range(2))
    seen = ~visible.hidden[:, 0]
    wanted = plain(x.movedim(1, -1)[seen][..., None, None])  # a batch of positions
    found = sparse_batch_norm(norm, x, visible)
    torch.testing.assert_close(found.movedim(1, -1)[seen], wanted[..., 0, 0])
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(norm.get_buffer(name), buffer)
    torch.testing.assert_close(sparse_batch_norm(norm.eval(), x, visible), plain.eval()(x))


def test_norms_of_large_values_stay_exact_enough():
    x, visible = a_map(width=8, size=(16, 16))
    shifted = zero_hidden(x + 30, visible)
    norm = nn.GroupNorm(2, 8)
    wanted = sparse_group_norm(norm.double(), shifted, visible)
    found = sparse_group_norm(norm.float(), shifted.float(), visible)
    torch.testing.assert_close(zero_hidden(found, visible).double(), zero_hidden(wanted, visible), rtol=0, atol=1e-3)


def test_gradients_of_the_norms_are_right():
    x, visible = a_map(batch=2, width=4, size=(2, 3))
    x = x[:, :4].requires_grad_()
    group, batch = randomise(NormAct(BitConfig(num_groups=2, hidden_sizes=[16] * 4), 4).double()), nn.BatchNorm2d(4)
    group.activation = nn.Tanh()
    batch = randomise(batch.double())
    assert torch.autograd.gradcheck(lambda t: group(zero_hidden(t, visible), visible), [x])
    assert torch.autograd.gradcheck(lambda t: sparse_batch_norm(batch, zero_hidden(t, visible), visible), [x])


# --- the same weights without a mask ---------------------------------------------------------------------------


@every_model
def test_the_dense_pass_is_that_of_a_model_that_was_never_sparse_to_the_bit(name):
    config, masked, classifier, values = MODELS[name]
    model = make(name).eval()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("decoder.")}
    plain = masked(config(**values)).eval()
    assert plain.load_state_dict(state, strict=False).unexpected_keys == []
    for a, b in zip(model.encoder.forward_features(pixels()), plain.encoder.forward_features(pixels()), strict=True):
        assert a is b is None or torch.equal(a, b)
    judge = classifier(config(**values).without_masking()).eval()
    assert judge.load_state_dict(state, strict=False).unexpected_keys == []
    assert model.config.without_masking().to_dict() == config(**values).without_masking().to_dict()


@every_model
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_mask_that_hides_nothing_gives_the_dense_pass(name, training):
    model = make(name).double()
    mask = torch.zeros_like(a_mask(model))
    found = [model.train(training).encoder.forward_features(pixels().double(), m).grid for m in (mask, None)]
    torch.testing.assert_close(*found)


@every_model
@every_head
def test_the_model_without_a_mask_draws_a_picture(name, head):
    out = make(name, head).eval()(pixels())
    assert (out.loss, out.reconstruction.shape) == (None, (2, 3, *SIZE))


# --- heads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bit", "cvt"])
def test_a_unet_draws_for_a_dense_encoder_too_and_has_no_tokens_then(name):
    model = make(name, "unet", mask_mode="replace").eval()
    assert not [n for n, _ in model.decoder.named_parameters() if "mask_token" in n]
    mask = a_mask(model)
    clean, hidden = pixels(), on_pixels(mask)
    wanted, found = (model(x, mask).reconstruction for x in (clean, clean.masked_fill(hidden, float("nan"))))
    assert torch.equal(wanted, found)


def test_a_unet_looks_at_one_map_of_each_size_the_coarsest_first():
    widths = {"bit": [(3, 32, 8), (1, 16, 4)], "cvt": [(2, 24, 16), (1, 12, 8), (0, 8, 4)]}
    for name, scales in widths.items():
        config = MODELS[name][0](**MODELS[name][3])
        assert config.scales == scales
        model = make(name, "unet")
        assert [scale.norm.normalized_shape[0] for scale in model.decoder.scales] == [s[1] for s in scales]
    assert [scale.stride for scale in BitConfig().scales] == [32, 16, 8, 4]


@every_model
@every_head
def test_hidden_cells_are_not_all_drawn_alike(name, head):
    model = make(name, head).eval()
    mask = a_mask(model)
    picture = model(pixels(), mask).reconstruction
    side = model.encoder.stride[0]
    cells = picture.unfold(2, side, side).unfold(3, side, side).movedim(1, 3)[mask].flatten(1)
    assert cells.std(0).mean() > 1e-3


@every_model
@every_head
def test_the_fast_loss_equals_the_dense_one(name, head):
    model = make(name, head).double().eval()
    x, mask = pixels().double(), a_mask(model)
    torch.testing.assert_close(model.masked_loss(x, mask), model(x, mask).loss, rtol=1e-10, atol=0)


@every_model
@every_head
def test_folders_go_round(name, head, tmp_path):
    model = make(name, head).eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedImageModeling.from_pretrained(tmp_path)
    mask = a_mask(model)
    assert torch.equal(model(pixels(), mask).reconstruction, again(pixels(), mask).reconstruction)
    assert (again.config.mask_mode, again.config.decoder_sizes) == ("sparse", model.config.decoder_sizes)


# --- how it is computed ----------------------------------------------------------------------------------------


@every_model
def test_recomputed_blocks_change_no_value(name):
    found = []
    for recompute in (False, True):
        model = make(name).train()
        model.encoder.gradient_checkpointing = recompute
        found.append(everything(model, pixels(), a_mask(model)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["bit", "cvt"])
def test_blocks_compile_once_for_all_masks(name):
    torch._dynamo.reset()
    model, counter = make(name).eval(), CompileCounter()
    mask = a_mask(model)
    with torch.no_grad():
        wanted = [model.encoder.forward_features(pixels(), m).grid for m in (mask, ~mask)]
        for block in model.encoder.blocks():
            block.compile(backend=counter, fullgraph=True, dynamic=False)
        found = [model.encoder.forward_features(pixels(), m).grid for m in (mask, ~mask)]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert 0 < counter.frame_count <= len(model.encoder.blocks())


@pytest.mark.slow
@every_head
@pytest.mark.parametrize("name", ["bit", "cvt"])
def test_the_loss_compiles_to_one_graph_and_its_gradients_too(name, head):
    torch._dynamo.reset()
    model, plain = make(name, head).train(), make(name, head).train()
    mask = a_mask(model)
    compiled = torch.compile(model.masked_loss, backend="aot_eager", fullgraph=True, dynamic=False)
    loss, wanted = compiled(pixels(), mask, None), plain.masked_loss(pixels(), mask)
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)
    for part in (loss, wanted):
        part.backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    for a, b in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@every_model
def test_half_precision_is_near_float32(name):
    model = make(name).train()
    mask = a_mask(model)
    wanted = model.masked_loss(pixels(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.masked_loss(pixels(), mask)
    found.backward()
    torch.testing.assert_close(found.float(), wanted, rtol=0.03, atol=0)


# --- what is refused -------------------------------------------------------------------------------------------


@every_model
def test_a_mask_finer_than_the_cells_is_refused_in_one_line(name):
    model = make(name)
    finer = torch.zeros(2, SIZE[0] // 4, SIZE[1] // 4, dtype=torch.bool)
    with pytest.raises(InputError, match="mask") as error:
        model.encoder.forward_features(pixels(), finer)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "changes", "fix"),
    [
        ("bit", {"global_padding": "valid"}, "model.global_padding=null"),
        ("bit", {"global_padding": "same"}, "model.embedding_dynamic_padding=true"),
        ("bit", {"embedding_dynamic_padding": True}, "model.embedding_dynamic_padding=false"),
        ("cvt", {"patch_padding": [0, 1, 1]}, r"model.patch_padding=\[2, 1, 1\]"),
        ("cvt", {"patch_stride": [3, 2, 2], "decoder_hidden_size": 24}, "is not a power of two"),
        ("bit", {"decoder_hidden_size": 30}, "head.hidden_size=24"),
        ("bit", {"decoder_hidden_size": 32, "mim_target": "hog"}, "head=unet predicts pixels"),
    ],
)
def test_what_a_sparse_model_or_a_unet_cannot_do_is_refused(name, changes, fix):
    with pytest.raises(InputError, match=fix):
        make(name, **changes)


def test_a_head_beside_the_unet_is_refused():
    with pytest.raises(InputError, match="another head is given"):
        BitForMaskedImageModeling(BitConfig(**BIT, decoder_hidden_size=32), head=lambda *_: nn.Identity())
