"""What ViTs may have beyond Hugging Face's: registers, fixed positions, dropped patches with MAE's decoder."""

import copy
import os
import re
import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from mimsuite.encoders.positions import sincos_positions
from mimsuite.errors import InputError
from mimsuite.models import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from mimsuite.objectives.groups import param_groups

pytestmark = pytest.mark.usefixtures("one_thread")

os.environ["HF_HUB_OFFLINE"] = "1"

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": [16, 24],
    "patch_size": [4, 8],
    "encoder_stride": [4, 8],
}
DROP = {
    "mask_mode": "drop",
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 20,
}
REGISTERS = {"num_register_tokens": 4}
NO_CLASS = {"use_class_token": False}
KINDS = {
    "replace, registers": REGISTERS,
    "replace, registers, no class token": REGISTERS | NO_CLASS,
    "drop": DROP,
    "drop, no class token": DROP | NO_CLASS,
    "drop, registers": DROP | REGISTERS,
    "drop, fixed positions": DROP | {"position": "sincos2d"},
}
DROPPING = {name: changes for name, changes in KINDS.items() if name.startswith("drop")}
every_kind = pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
every_drop = pytest.mark.parametrize("changes", DROPPING.values(), ids=DROPPING)


def tiny(**changes):
    return ViTConfig(**(TINY | changes))


def randomise(model):
    """Draws every parameter anew but fixed positions, so that nothing is zero by its initialisation."""
    torch.manual_seed(0)
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.2)
    return model.eval()


def masked_model(**changes):
    return randomise(ViTForMaskedImageModeling(tiny(**changes)))


def pixels(batch=2, height=16, width=24, channels=3):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def a_mask(batch=2, rows=4, columns=3):
    """`(B, rows, columns)` bool, other places in every image, the same number of them."""
    order = torch.rand(batch, rows * columns, generator=torch.Generator().manual_seed(2)).argsort(1)
    return (order < rows * columns * 2 // 3).view(batch, rows, columns)


def same_features(one, two):
    assert torch.equal(one.grid, two.grid)
    assert (one.cls is None) == (two.cls is None)
    assert one.cls is None or torch.equal(one.cls, two.cls)


# --- registers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [True, False], ids=["class token", "none"])
@pytest.mark.parametrize("count", [1, 4])
def test_registers_are_tokens_between_class_token_and_patches(cls, count):
    config = tiny(num_register_tokens=count, use_class_token=cls)
    model = randomise(ViTModel(config, add_pooling_layer=False))
    tokens = model(pixels(), output_hidden_states=True)
    assert tokens.last_hidden_state.shape == (2, cls + count + 12, 24)
    start = tokens.hidden_states[0]
    registers = model.embeddings.register_tokens
    assert registers.shape == (1, count, 24)
    assert torch.equal(start[:, cls : cls + count], registers.expand(2, -1, -1))  # without position

    plain = randomise(ViTModel(tiny(use_class_token=cls), add_pooling_layer=False))
    shared = {k: t for k, t in model.state_dict().items() if k != "embeddings.register_tokens"}
    plain.load_state_dict(shared)
    without = plain(pixels(), output_hidden_states=True).hidden_states[0]
    assert torch.equal(torch.cat([start[:, :cls], start[:, cls + count :]], 1), without)


@pytest.mark.parametrize("cls", [True, False], ids=["class token", "none"])
def test_features_hold_no_registers(cls):
    model = randomise(ViTModel(tiny(**REGISTERS, use_class_token=cls), add_pooling_layer=False))
    features, tokens = model.forward_features(pixels()), model(pixels()).last_hidden_state
    assert torch.equal(features.grid.flatten(2).transpose(1, 2), tokens[:, cls + 4 :])
    assert (features.cls is not None) == cls
    assert not cls or torch.equal(features.cls, tokens[:, 0])


def test_the_pooler_reads_the_class_token():
    model = randomise(ViTModel(tiny(**REGISTERS)))
    out = model(pixels())
    assert torch.equal(out.pooler_output, torch.tanh(model.pooler.dense(out.last_hidden_state[:, 0])))


def test_a_classifier_reads_no_register():
    for cls in (True, False):
        model = randomise(ViTForImageClassification(tiny(**REGISTERS, use_class_token=cls, num_labels=5)))
        tokens = model.vit(pixels()).last_hidden_state
        read = tokens[:, 0] if cls else tokens[:, 4:].mean(1)
        torch.testing.assert_close(model(pixels()).logits, model.classifier(read))


@every_kind
def test_gradients_reach_every_parameter_but_fixed_positions(changes):
    model = masked_model(**changes).train()
    model(pixels(), a_mask()).loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    fixed = changes.get("position") == "sincos2d"
    assert without == (["vit.embeddings.position_embeddings"] if fixed else [])


@pytest.mark.parametrize("changes", [REGISTERS, REGISTERS | NO_CLASS, REGISTERS | DROP])
def test_attentions_are_between_all_tokens(changes):
    model = masked_model(**changes)
    patches = 12 - int(a_mask()[0].sum()) if changes.get("mask_mode") == "drop" else 12
    tokens = changes.get("use_class_token", True) + 4 + patches
    out = model(pixels(), a_mask(), output_attentions=True, output_hidden_states=True)
    assert [tuple(a.shape) for a in out.attentions] == [(2, 3, tokens, tokens)] * 3
    assert [tuple(h.shape) for h in out.hidden_states] == [(2, tokens, 24)] * 4


@every_kind
def test_another_size_by_interpolation_or_for_good(changes):
    model, x, mask = masked_model(**changes), pixels(2, 24, 32), a_mask(2, 6, 4)
    with pytest.raises(InputError, match=r"Input image size \(24\*32\) doesn't match"):
        model(x, mask)
    interpolated = model(x, mask, interpolate_pos_encoding=True)
    assert interpolated.reconstruction.shape == (2, 3, 24, 32)
    model.encoder.set_image_size([24, 32])
    resized = model(x, mask)
    torch.testing.assert_close(resized.reconstruction, interpolated.reconstruction)
    torch.testing.assert_close(resized.loss, interpolated.loss)
    if "position" in changes:
        assert not model.vit.embeddings.position_embeddings.requires_grad


@every_drop
def test_a_model_of_another_size_goes_round(changes, tmp_path):
    """The decoder's positions follow the encoder's image size, so that the file fits its config."""
    model, x, mask = masked_model(**changes), pixels(2, 24, 32), a_mask(2, 6, 4)
    model.encoder.set_image_size([24, 32])
    assert model.decoder.decoder_pos_embed.shape == (1, 24 + changes.get("use_class_token", True), 16)
    model.save_pretrained(tmp_path)
    again = ViTForMaskedImageModeling.from_pretrained(tmp_path)
    assert torch.equal(again(x, mask).reconstruction, model(x, mask).reconstruction)
    again.load_state_dict(model.state_dict())


def test_the_decoders_grid_follows_a_copys_own_encoder():
    model = masked_model(**DROP)
    other = copy.deepcopy(model)
    other.encoder.set_image_size([24, 32])
    assert model.decoder.grid == (4, 3)
    assert other.decoder.grid == (6, 4)


@every_kind
def test_hidden_pixels_do_not_matter(changes):
    model, mask = masked_model(**changes), a_mask()
    hidden = mask.repeat_interleave(4, 1).repeat_interleave(8, 2)[:, None]
    spoiled = pixels().masked_fill(hidden, float("nan"))
    assert torch.equal(model(spoiled, mask).reconstruction, model(pixels(), mask).reconstruction)


# --- fixed positions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [True, False], ids=["class token", "none"])
def test_fixed_positions_are_sines_that_nothing_trains(cls):
    model = ViTForMaskedImageModeling(tiny(position="sincos2d", use_class_token=cls)).train()
    table = model.vit.embeddings.position_embeddings
    assert torch.equal(table, sincos_positions((4, 3), 24, class_token=cls))
    assert not table.requires_grad
    groups = param_groups(model, weight_decay=0.1, decay_mask_token=True)
    names = {n for group in groups for n in group["names"]}
    assert names == {n for n, _ in model.named_parameters()} - {"vit.embeddings.position_embeddings"}
    before = table.clone()
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    model(pixels(), a_mask()).loss.backward()
    optimizer.step()
    assert torch.equal(table, before)
    assert table.grad is None


@pytest.mark.slow
def test_fixed_positions_stand_in_files_that_hugging_face_reads(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    config = tiny(position="sincos2d", encoder_stride=4)  # theirs takes no pair there
    model = randomise(ViTModel(config, add_pooling_layer=False)).double()
    model.save_pretrained(tmp_path)
    theirs, info = transformers.ViTModel.from_pretrained(
        tmp_path, add_pooling_layer=False, output_loading_info=True, dtype=torch.float64
    )
    assert not any(info.values()), info
    x = pixels().double()
    found = theirs.eval()(x).last_hidden_state
    torch.testing.assert_close(model(x).last_hidden_state, found, rtol=1e-9, atol=1e-9)
    again = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert torch.equal(again.embeddings.position_embeddings.double(), model.embeddings.position_embeddings)
    assert not again.embeddings.position_embeddings.requires_grad


def test_learned_positions_become_fixed_when_read_so(tmp_path):
    model = randomise(ViTModel(tiny(), add_pooling_layer=False))
    model.save_pretrained(tmp_path)
    again = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False, position="sincos2d")
    assert torch.equal(again.embeddings.position_embeddings, model.embeddings.position_embeddings)
    assert not again.embeddings.position_embeddings.requires_grad


# --- fresh weights -------------------------------------------------------------------------------------------


def test_mae_draws_linear_layers_and_patches_from_xaviers_uniform():
    torch.manual_seed(0)
    changes = {"hidden_size": 192, "intermediate_size": 384, "decoder_hidden_size": 128}
    model = ViTForMaskedImageModeling(tiny(**(DROP | changes | REGISTERS), init_scheme="mae"))
    weights = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert "vit.embeddings.patch_embeddings.projection" in weights
    assert len(weights) == 1 + 3 * 6 + 2 * 6 + 2
    for name, weight in weights.items():
        outputs, inputs = weight.shape[0], weight[0].numel()
        bound = (6 / (inputs + outputs)) ** 0.5
        assert weight.abs().max() <= bound, name
        assert weight.abs().max() > 0.98 * bound, name
        torch.testing.assert_close(weight.std().item(), bound / 3**0.5, rtol=0.05, atol=0, msg=name)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
    tokens = (model.vit.embeddings.cls_token, model.vit.embeddings.register_tokens, model.decoder.mask_token)
    for token in tokens:
        assert 0.01 < token.std() < 0.03
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert all(torch.equal(n.weight, torch.ones_like(n.weight)) for n in norms)


def test_mae_leaves_the_mask_token_of_replace_at_zero():
    assert not ViTForMaskedImageModeling(tiny(init_scheme="mae")).vit.embeddings.mask_token.any()


# --- dropped patches -----------------------------------------------------------------------------------------


@every_drop
def test_visible_features_are_those_of_a_model_that_gets_no_other_tokens(changes):
    model, mask, x = masked_model(**changes), a_mask(), pixels()
    encoder = model.vit
    features = encoder.forward_features(x, mask)
    for image in range(2):
        tokens = encoder.embeddings(x[image : image + 1], None, False)
        visible = (~mask[image].flatten()).nonzero().flatten() + encoder.extra
        tokens = tokens[:, [*range(encoder.extra), *visible.tolist()]]
        for layer in encoder.encoder.layer:
            tokens = layer(tokens)
        tokens = encoder.layernorm(tokens)[0]
        found = features.grid[image][:, ~mask[image]].T
        torch.testing.assert_close(found, tokens[encoder.extra :], rtol=1e-5, atol=1e-6)
        if features.cls is not None:
            torch.testing.assert_close(features.cls[image], tokens[0], rtol=1e-5, atol=1e-6)


@every_drop
def test_hidden_places_of_the_features_are_0(changes):
    grid = masked_model(**changes).vit.forward_features(pixels(), a_mask()).grid.permute(0, 2, 3, 1)
    assert not grid[a_mask()].any()
    assert grid[~a_mask()].all()


@every_drop
def test_no_hidden_patch_is_no_mask(changes):
    model, empty = masked_model(**changes), torch.zeros(2, 4, 3, dtype=torch.bool)
    same_features(model.vit.forward_features(pixels(), empty), model.vit.forward_features(pixels()))
    out = model(pixels(), empty)
    assert torch.equal(out.reconstruction, model(pixels()).reconstruction)
    assert out.loss.item() == model.masked_loss(pixels(), empty).item() == 0


@every_drop
def test_all_patches_hidden_leave_a_picture_of_tokens(changes):
    model, full = masked_model(**changes), torch.ones(2, 4, 3, dtype=torch.bool)
    features = model.vit.forward_features(pixels(), full)
    assert not features.grid.any()
    out = model(pixels(), full)
    assert out.reconstruction.isfinite().all()
    torch.testing.assert_close(model.masked_loss(pixels(), full, 12), out.loss)
    assert torch.equal(model(pixels() + 1, full).reconstruction, out.reconstruction)


@every_drop
def test_other_numbers_of_hidden_patches_are_refused_in_one_line(changes):
    model, mask = masked_model(**changes), a_mask()
    mask[0] = True
    calls = [model, model.masked_loss, model.vit, model.vit.forward_features]
    for call in calls:
        with pytest.raises(InputError, match=r"hide 8 to 12 patches; .*the same number in each image") as error:
            call(pixels(), mask)
        assert "\n" not in str(error.value)


@every_kind
def test_a_known_count_changes_no_bit(changes):
    model, mask = masked_model(**changes), a_mask()
    counted = model.vit.features_where(pixels(), mask, int(mask[0].sum()))
    same_features(counted, model.vit.features_where(pixels(), mask, None))
    same_features(counted, model.vit.forward_features(pixels(), mask))
    assert torch.equal(model.masked_loss(pixels(), mask, int(mask[0].sum())), model.masked_loss(pixels(), mask))


@every_kind
def test_a_count_of_larger_units_is_that_of_the_mask_given(changes):
    model, units = masked_model(**changes), a_mask(2, 2, 3)  # of two patches each
    count = int(units[0].sum())
    cells = units.repeat_interleave(2, 1)
    same_features(
        model.vit.features_where(pixels(), units, count), model.vit.features_where(pixels(), cells, 2 * count)
    )
    torch.testing.assert_close(model.masked_loss(pixels(), units, count), model(pixels(), cells).loss)


@every_kind
def test_the_fast_loss_and_its_gradients_equal_the_dense_ones(changes):
    model, mask, x = masked_model(**changes).double(), a_mask(), pixels().double()
    trained = [p for p in model.parameters() if p.requires_grad]
    dense, fast = model(x, mask).loss, model.masked_loss(x, mask, int(mask[0].sum()))
    torch.testing.assert_close(fast, dense, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(dense, trained), torch.autograd.grad(fast, trained), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_one_mask_for_a_batch_and_masks_in_any_form():
    model, mask = masked_model(**DROP), a_mask(1)
    expected = model(pixels(), mask.expand(2, -1, -1)).reconstruction
    for given in (mask, mask.flatten(1), mask.long(), mask.expand(2, -1, -1).flatten(1).float()):
        assert torch.equal(model(pixels(), given).reconstruction, expected)
    assert torch.equal(
        model.masked_loss(pixels(), mask, int(mask.sum())), model.masked_loss(pixels(), mask.expand(2, -1, -1))
    )


def test_a_bare_encoder_drops_too_without_a_mask_token():
    model = randomise(ViTModel(tiny(mask_mode="drop")))
    out = model(pixels(), a_mask(), output_attentions=True)
    assert out.last_hidden_state.shape == (2, 1 + 4, 24)
    assert out.pooler_output.shape == (2, 24)
    assert model.embeddings.mask_token is None


def test_mask_mode_alone_changes_what_a_bare_encoder_gives():
    lengths = {}
    for mode in ("replace", "drop"):
        model = ViTModel(tiny(mask_mode=mode), use_mask_token=True)
        lengths[mode] = model(pixels(), a_mask()).last_hidden_state.shape[1]
    assert lengths == {"replace": 13, "drop": 5}


def test_a_head_mask_acts_on_visible_tokens():
    model = masked_model(**DROP)
    plain, masked = (model(pixels(), a_mask(), h).reconstruction for h in (None, torch.tensor([1.0, 0, 1])))
    assert not torch.allclose(plain, masked)


@pytest.mark.parametrize("changes", [DROP, REGISTERS], ids=["drop", "replace, registers"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradient_checkpointing_keeps_less_and_changes_nothing(changes, training):
    runs, kept = [], []
    for checkpointed in (False, True):
        depth = {"drop_path_rate": 0.3, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}
        model = masked_model(**changes, **depth).train(training)
        if checkpointed:
            model.gradient_checkpointing_enable()
        torch.manual_seed(5)
        kept.append(0)

        def keep(t):
            kept[-1] += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = model.masked_loss(pixels(), a_mask())
        runs.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    assert kept[1] < 0.5 * kept[0]
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_the_decoder_is_recomputed_too_and_that_can_be_undone():
    model = masked_model(**DROP)
    model.gradient_checkpointing_enable()
    assert model.decoder.gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.decoder.gradient_checkpointing


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_decoder_has_the_models_attention_back_end(implementation, monkeypatch):
    calls = []
    fused = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    masked_model(**DROP, attn_implementation=implementation)(pixels(), a_mask())
    assert len(calls) == (5 if implementation == "sdpa" else 0)  # three blocks and two


@every_kind
def test_the_attention_back_ends_agree(changes):
    outs = []
    for implementation in ("sdpa", "eager"):
        model = masked_model(**changes, attn_implementation=implementation).double()
        outs.append(model(pixels().double(), a_mask()).reconstruction)
    torch.testing.assert_close(*outs, rtol=1e-9, atol=1e-10)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parameters_of_other_dtypes_give_a_loss_near_that_of_float32(changes, dtype):
    model = masked_model(**changes)
    wide = model(pixels(), a_mask()).loss
    out = model.to(dtype)(pixels(), a_mask())
    fast = model.masked_loss(pixels(), a_mask(), int(a_mask()[0].sum()))
    assert out.reconstruction.dtype == dtype
    assert out.loss.dtype == fast.dtype == torch.promote_types(dtype, torch.float32)
    rtol = 1e-6 if dtype == torch.float64 else 0.03
    for loss in (out.loss, fast):
        torch.testing.assert_close(loss.float(), wide, rtol=rtol, atol=0)
        loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@every_kind
def test_autocast_gives_a_loss_in_float32(changes):
    model, mask = masked_model(**changes), a_mask()
    wide = model.masked_loss(pixels(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        half, dense = model.masked_loss(pixels(), mask), model(pixels(), mask).loss
    assert half.dtype == dense.dtype == torch.float32
    torch.testing.assert_close(half, wide, rtol=0.03, atol=0)
    torch.testing.assert_close(dense, wide, rtol=0.03, atol=0)
    half.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
@every_kind
def test_the_fast_loss_compiles_to_one_graph_for_all_masks_of_a_count(changes):
    torch._dynamo.reset()
    model, counter = masked_model(**changes), CompileCounter()
    compiled = torch.compile(model.masked_loss, backend=counter, fullgraph=True, dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        for mask in (a_mask(), a_mask().roll(1, 1), a_mask().flip(2)):
            loss = compiled(pixels(), mask, int(mask[0].sum()), "mse")
            torch.testing.assert_close(loss, model.masked_loss(pixels(), mask, loss="mse"))
    assert counter.frame_count == 1


# --- errors, each with its fix -------------------------------------------------------------------------------

RELATIVE = {"use_shared_relative_position_bias": True}
WRONG = [
    (
        {"position": "sincos2d", "hidden_size": 27},
        "position=sincos2d needs .* multiple of 4, here 27",
        {"position": "learned"},
    ),
    ({"position": "sincos2d", "hidden_size": 27}, "multiple of 4", {"hidden_size": 24}),
    (
        {"position": "sincos2d", "use_absolute_position_embeddings": False},
        "needs use_absolute_position_embeddings",
        {"use_absolute_position_embeddings": True},
    ),
    (RELATIVE | REGISTERS, "num_register_tokens=0", {"num_register_tokens": 0}),
    (RELATIVE | REGISTERS, "or learned positions", {"use_shared_relative_position_bias": False}),
    (RELATIVE | {"mask_mode": "drop"}, "mask_mode=replace", {"mask_mode": "replace"}),
    ({"mask_mode": "keep"}, "mask_mode='keep' is not one of replace, drop", {"mask_mode": "drop"}),
    ({"position": "rope"}, "position='rope' is not one of learned, sincos2d", {"position": "sincos2d"}),
    (
        DROP | {"decoder_hidden_size": 18},
        "decoder_hidden_size=18 is not a multiple of 4 and of",
        {"decoder_hidden_size": 20},
    ),
    (DROP | {"decoder_num_attention_heads": 3}, "decoder_num_attention_heads=3", {"decoder_num_attention_heads": 4}),
    ({"init_scheme": "xavier"}, "is not one of hf, simmim, mae", {"init_scheme": "mae"}),
]


@pytest.mark.parametrize(("wrong", "said", "fix"), WRONG)
def test_a_wrong_config_is_one_line_whose_fix_works(wrong, said, fix):
    with pytest.raises(InputError, match=said) as error:
        tiny(**wrong)
    assert "\n" not in str(error.value)
    tiny(**(wrong | fix))


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"mask_mode": "drop"}, {"decoder_hidden_size": 512}),
        ({"mask_mode": "replace", "decoder_hidden_size": 512}, {"decoder_hidden_size": None}),
    ],
)
def test_a_mask_mode_without_its_decoder_is_one_line_whose_fix_works(wrong, fix):
    with pytest.raises(InputError, match=f"mask_mode={wrong['mask_mode']} with decoder_hidden_size") as error:
        ViTForMaskedImageModeling(tiny(**wrong))
    assert "\n" not in str(error.value)
    (name, value) = next(iter(fix.items()))
    assert re.search(rf"{name}={value}", str(error.value))
    ViTForMaskedImageModeling(tiny(**(wrong | fix)))


def test_a_head_of_ones_own_and_dropped_patches_do_not_go_together():
    with pytest.raises(InputError, match="drop needs MAE's decoder"):
        ViTForMaskedImageModeling(tiny(**DROP), head=nn.Identity)


def test_a_target_of_places_that_patches_do_not_fit_is_one_line_whose_fix_works():
    with pytest.raises(InputError, match=r"mim_target=hog has places of 8 pixels, .*mim_target=pixels") as error:
        masked_model(mim_target="hog")
    assert "\n" not in str(error.value)
    masked_model(mim_target="pixels")
    masked_model(mim_target="hog", patch_size=8, encoder_stride=8)


def test_a_decoder_made_for_a_class_token_refuses_to_go_without():
    decoder = masked_model(**DROP).decoder
    grid = torch.zeros(1, 24, 4, 3)
    with pytest.raises(InputError, match="class_token=True"):
        decoder(grid)
    decoder = masked_model(**DROP, **NO_CLASS).decoder
    with pytest.raises(InputError, match="class_token=False"):
        decoder(grid, torch.zeros(1, 24))
