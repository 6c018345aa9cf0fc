"""The CvT: configuration, stages, projections, drop path, statistics, names in files and sizes."""

import functools
import json
import os
import re
import warnings
from dataclasses import fields

import predictors
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mimsuite.encoders import cvt_layers
from mimsuite.errors import InputError
from mimsuite.models import CvtConfig, CvtForImageClassification, CvtForMaskedImageModeling, CvtModel

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {"embed_dim": [8, 12, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 2], "mlp_ratio": [2.0, 2.0, 2.0]}
STILL = {"drop_path_rate": [0.0, 0.0, 0.0]}


def tiny(**changes):
    return CvtConfig(**(TINY | changes))


def randomise(model):
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    return model.eval()


def pixels(height=64, width=64, batch=2, channels=3):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


# --- configuration ---------------------------------------------------------------------------------------------


def test_the_defaults_are_cvt_13():
    config = CvtConfig()
    assert (config.embed_dim, config.num_heads, config.depth) == ([64, 192, 384], [1, 3, 6], [1, 2, 10])
    assert (config.encoder_stride, config.stride, config.mask_stride) == (16, (16, 16), (4, 4))


WRONG_VALUES = [
    ("num_channels", 0, "at least 1"),
    ("patch_sizes", [7, 3], "expected 3"),
    ("patch_sizes", [7, 3, 0], "at least 1"),
    ("patch_stride", [4, 0, 2], "at least 1"),
    ("patch_stride", [4, 2, 2, 2], "expected 3"),
    ("patch_padding", [2, 1, -1], "at least 0"),
    ("patch_padding", [4, 1, 1], "half of patch_sizes"),
    ("embed_dim", [], "at least 1"),
    ("embed_dim", [0, 12, 24], "at least 1"),
    ("num_heads", [1, 5, 3], "must divide embed_dim"),
    ("num_heads", [1, 3], "expected 3"),
    ("depth", [1, 0, 2], "at least 1"),
    ("depth", [1], "expected 3"),
    ("mlp_ratio", [4, 4, 0], "above 0"),
    ("mlp_ratio", [4, 4, 4, 4], "expected 3"),
    ("attention_drop_rate", [0, 0, 1.5], "at most 1"),
    ("drop_rate", [0, -0.1, 0], "at least 0"),
    ("drop_path_rate", [0, 0, 2], "at most 1"),
    ("drop_path_rate", [0, 0], "expected 3"),
    ("qkv_bias", [True], "expected 3"),
    ("cls_token", [True, True], "expected 3"),
    ("qkv_projection_method", ["dw_bn", "dw_bn", "conv"], "dw_bn, avg, linear"),
    ("qkv_projection_method", ["dw_bn"], "expected 3"),
    ("kernel_qkv", [3, 3, 0], "at least 1"),
    ("kernel_qkv", [3, 2, 3], "kernel_qkv - 1"),
    ("padding_kv", [1, -1, 1], "at least 0"),
    ("stride_kv", [2, 0, 2], "at least 1"),
    ("padding_q", [1, 0, 1], "change the map's size"),
    ("stride_q", [1, 2, 1], "change the map's size"),
    ("initializer_range", -0.1, "at least 0"),
    ("layer_norm_eps", 0, "above 0"),
    ("hidden_act", "gelus", "quick_gelu"),
    ("encoder_stride", 0, "at least 1"),
    ("num_labels", -1, "at least 0"),
    ("problem_type", "ranking", "regression"),
    ("attn_implementation", "flash", "sdpa"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG_VALUES)
def test_a_wrong_value_is_named_in_one_line_with_what_is_allowed(name, value, allowed):
    with pytest.raises(InputError, match=re.escape(allowed)) as error:
        tiny(**{name: value})
    text = str(error.value)
    assert "\n" not in text
    assert name in text
    seen = value if not isinstance(value, list) or name != "qkv_projection_method" or len(value) < 3 else value[-1]
    assert str(seen) in text or repr(seen) in text


WRONG_TYPES = [
    ("num_channels", 3.0),
    ("embed_dim", 64),
    ("embed_dim", [8, 12.0, 24]),
    ("depth", [1, True, 2]),
    ("depth", "123"),
    ("mlp_ratio", [2, 2, "2"]),
    ("drop_path_rate", 0.1),
    ("drop_rate", [0, 0, None]),
    ("qkv_bias", [1, 1, 1]),
    ("cls_token", True),
    ("qkv_projection_method", "dw_bn"),
    ("hidden_act", 3),
    ("encoder_stride", 16.0),
    ("encoder_stride", [16, 16]),
    ("layer_norm_eps", "1e-12"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_a_wrong_type_is_a_type_error(name, value):
    with pytest.raises(TypeError, match=name) as error:
        tiny(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["avg", "linear"])
def test_query_strides_count_only_where_queries_are_convolved(method):
    config = tiny(qkv_projection_method=[method] * 3, stride_q=[2, 2, 2], kernel_qkv=[2, 2, 2])
    assert CvtModel(config).eval()(pixels(32, 32)).last_hidden_state.shape == (2, 24, 2, 2)


def test_padding_of_averages_is_at_most_half_their_kernel():
    with pytest.raises(InputError, match=r"padding_kv=\[2, 2, 2\] is more than half of kernel_qkv"):
        tiny(qkv_projection_method=["avg"] * 3, padding_kv=[2, 2, 2])


def test_one_stage_and_five_stages_are_configs():
    one = {"patch_sizes": [7], "patch_stride": [4], "patch_padding": [2], "embed_dim": [8], "num_heads": [2]}
    one |= {"depth": [2], "mlp_ratio": [2], "attention_drop_rate": [0], "drop_rate": [0], "drop_path_rate": [0]}
    one |= {"qkv_bias": [True], "cls_token": [True], "qkv_projection_method": ["dw_bn"], "kernel_qkv": [3]}
    one |= {"padding_kv": [1], "stride_kv": [2], "padding_q": [1], "stride_q": [1]}
    assert CvtModel(CvtConfig(**one)).eval()(pixels()).last_hidden_state.shape == (2, 8, 16, 16)
    five = {name: value * 5 for name, value in one.items()} | {"patch_stride": [4, 2, 2, 1, 1]}
    five |= {"patch_padding": [2, 2, 2, 3, 3]}
    config = CvtConfig(**five)
    assert config.encoder_stride == 16
    assert len(CvtModel(config).eval()(pixels(), output_hidden_states=True).hidden_states) == 5


def test_mlp_ratios_is_taken_for_mlp_ratio():
    assert CvtConfig(mlp_ratios=[1, 2, 3]).mlp_ratio == [1, 2, 3]
    assert CvtConfig.from_dict({"mlp_ratios": [1, 2, 3]}).mlp_ratio == [1, 2, 3]
    assert CvtConfig.from_dict({"mlp_ratio": [4, 4, 4]}, mlp_ratios=[1, 2, 3]).mlp_ratio == [1, 2, 3]
    with pytest.raises(InputError, match=r"mlp_ratio=\[4.0, 4.0, 4.0, 4.0\] has 4 entries; expected 3"):
        CvtConfig(mlp_ratios=[4.0, 4.0, 4.0, 4.0])
    assert "mlp_ratios" not in CvtConfig(mlp_ratios=[1, 2, 3]).to_dict()


CHANGES = {
    "num_channels": 2,
    "patch_sizes": [8, 3, 3],
    "patch_stride": [4, 2, 1],
    "patch_padding": [3, 1, 1],
    "embed_dim": [8, 12, 36],
    "num_heads": [2, 2, 3],
    "depth": [1, 1, 2],
    "mlp_ratio": [2.0, 2.0, 1.0],
    "attention_drop_rate": [0.5, 0.0, 0.0],
    "drop_rate": [0.0, 0.5, 0.0],
    "drop_path_rate": [0.0, 0.0, 0.9],
    "qkv_bias": [True, False, True],
    "cls_token": [False, True, True],
    "qkv_projection_method": ["dw_bn", "avg", "dw_bn"],
    "kernel_qkv": [3, 3, 5],
    "padding_kv": [1, 0, 1],
    "stride_kv": [2, 1, 2],
    "initializer_range": 0.5,
    "hidden_act": "quick_gelu",
    "encoder_stride": 4,
    "num_labels": 3,
    "problem_type": "multi_label_classification",
    "output_hidden_states": True,
    "return_dict": False,
    "mim_target": "hog",
    "mim_predictor": predictors.CONV,
    "classifier_pool": "mean",
    "mask_mode": "sparse",
    "mask_layer": 2,
    "decoder_hidden_size": 32,
}
NEEDS = {"kernel_qkv": {"padding_q": [1, 1, 2]}}  # so that queries keep the size of the map
NO_EFFECT = {
    "architectures": "names the class of the weights beside the file; read by people and other libraries",
    "dtype": "says what the file holds; from_pretrained(dtype=) decides",
    "transformers_version": "kept as it was read",
    "id2label": "class names; their number is num_labels, tested in test_model_config",
    "label2id": "class names",
    "attn_implementation": "the back ends agree; which one runs is tested in test_model_layers",
    "output_attentions": "CvT gives no attention matrices, as in Hugging Face",
    "layer_norm_eps": "every LayerNorm of CvT has 1e-5, in the paper's code and in Hugging Face's",
    "padding_q": "follows from kernel_qkv, for queries must keep the size of the map; else an error",
    "stride_q": "must be 1, for queries must keep the size of the map; else an error",
}


def fingerprint(config):
    """Everything a config can change: parameters, and outputs in train mode with a fixed seed."""
    found = []
    for cls in (CvtModel, CvtForMaskedImageModeling, CvtForImageClassification):
        torch.manual_seed(0)
        model = cls(config).train()
        if cls is CvtForMaskedImageModeling and config.mim_predictor is not None:  # it predicts what a teacher sees
            found.append([(k, tuple(p.shape)) for k, p in model.state_dict().items()])
            continue
        options = {}
        if cls is CvtForImageClassification:
            several = config.problem_type is not None
            options["labels"] = torch.ones(2, config.num_labels) if several else torch.tensor([0, 1])
        torch.manual_seed(1)
        with torch.no_grad():
            out = model(pixels(channels=config.num_channels), **options)
        values = out if isinstance(out, tuple) else out.to_tuple()
        flat = [t for v in values for t in (v if isinstance(v, tuple) else (v,))]
        found.append((type(out), [(k, tuple(p.shape)) for k, p in model.state_dict().items()]))
        found.append(([tuple(t.shape) for t in flat], [t.double().abs().sum().item() for t in flat]))
    return found


def test_every_field_is_in_one_of_the_two_lists():
    assert {f.name for f in fields(CvtConfig)} == CHANGES.keys() | NO_EFFECT.keys()
    assert not CHANGES.keys() & NO_EFFECT.keys()


@functools.cache
def unchanged():
    return fingerprint(tiny(**STILL))


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_config_field_changes_something(name):
    needed = STILL | NEEDS.get(name, {})
    assert fingerprint(tiny(**(needed | {name: CHANGES[name]}))) != unchanged()


def test_the_fingerprint_itself_repeats():
    assert fingerprint(tiny()) == fingerprint(tiny())


def test_layer_norm_eps_is_kept_and_not_used():
    one, other = (CvtForMaskedImageModeling(tiny(layer_norm_eps=eps)) for eps in (1e-12, 0.1))
    assert one.config.to_dict()["layer_norm_eps"] == 1e-12
    norms = [m.eps for m in other.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert set(norms) == {1e-5}
    assert len(norms) == 3 + 5 * 5 + 1


def test_every_field_survives_the_file():
    changed = CHANGES | NEEDS["kernel_qkv"]
    changed |= {"layer_norm_eps": 1e-6, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    changed |= {"architectures": ["CvtModel"], "dtype": "float16", "transformers_version": "4.50.0"}
    changed |= {"output_attentions": True, "stride_q": [1, 1, 1]}
    assert {f.name for f in fields(CvtConfig)} - changed.keys() == {"attn_implementation"}
    for left_out in ("mask_mode", "mask_layer"):  # sparse maps hold no token
        config = CvtConfig(**{k: v for k, v in changed.items() if k != left_out})
        again = CvtConfig.from_dict(json.loads(config.to_json_string()))
        assert again == config
        assert again.encoder_stride == 4


def test_encoder_stride_is_written_only_when_it_does_not_follow():
    assert "encoder_stride" not in CvtConfig().to_dict()
    assert "encoder_stride" not in CvtConfig(encoder_stride=16).to_dict()
    assert CvtConfig(encoder_stride=8).to_dict()["encoder_stride"] == 8
    wider = CvtConfig.from_dict(CvtConfig().to_dict(), patch_stride=[4, 4, 2])
    assert wider.encoder_stride == 32


def test_hugging_face_reads_our_json(tmp_path):
    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's imports
        transformers = pytest.importorskip("transformers")
        from transformers.models.cvt import configuration_cvt  # noqa: F401 - loaded here, quietly
    changed = CHANGES | NEEDS["kernel_qkv"]
    del changed["mask_layer"]  # sparse maps hold no token
    CvtConfig(**changed).save_pretrained(tmp_path)
    found = transformers.CvtConfig.from_pretrained(tmp_path)
    assert {k: getattr(found, k) for k in changed} == changed


# --- calls -----------------------------------------------------------------------------------------------------


def test_shapes_of_an_image_whose_sides_no_stride_divides():
    model = randomise(CvtModel(tiny()))
    out = model(pixels(70, 50), output_hidden_states=True)
    assert [tuple(h.shape) for h in out.hidden_states] == [(2, 8, 17, 12), (2, 12, 9, 6), (2, 24, 5, 3)]
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert out.cls_token_value.shape == (2, 1, 24)
    assert model(pixels(70, 50)).hidden_states is None


def test_the_bare_model_is_not_normed_and_features_are():
    model = randomise(CvtForImageClassification(tiny(num_labels=5)))
    bare, features = model.cvt(pixels()), model.cvt.forward_features(pixels())
    assert torch.equal(features.cls, model.cvt.layernorm(bare.cls_token_value)[:, 0])
    normed = model.cvt.layernorm(bare.last_hidden_state.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.equal(features.grid, normed)
    assert torch.equal(model(pixels()).logits, model.classifier(features.cls))


def test_a_bare_model_without_final_norm_gives_no_features():
    with pytest.raises(InputError, match="add_final_norm=True"):
        CvtModel(tiny()).forward_features(pixels())
    assert CvtModel(tiny(), add_final_norm=True).forward_features(pixels()).grid.shape == (2, 24, 4, 4)


def test_add_pooling_layer_is_ignored():
    one, other = (randomise(CvtModel(tiny(), add_pooling_layer=on)) for on in (True, False))
    assert one.state_dict().keys() == other.state_dict().keys()
    assert torch.equal(one(pixels()).last_hidden_state, other(pixels()).last_hidden_state)


def test_a_classifier_without_labels_gives_the_normed_class_token():
    model = randomise(CvtForImageClassification(tiny(num_labels=0)))
    assert torch.equal(model(pixels()).logits, model.cvt.forward_features(pixels()).cls)
    assert not [k for k in model.state_dict() if k.startswith("classifier")]


def test_return_dict_false_gives_the_tuple():
    model = randomise(CvtModel(tiny()))
    out = model(pixels(), output_hidden_states=True, return_dict=False)
    assert [type(v) for v in out] == [torch.Tensor, torch.Tensor, tuple]
    assert isinstance(randomise(CvtModel(tiny(return_dict=False)))(pixels()), tuple)


@pytest.mark.parametrize(("size", "where"), [((2, 64), "stage 0"), ((64, 2), "stage 0")])
def test_an_image_too_small_for_a_stage_is_refused(size, where):
    with pytest.raises(InputError, match=rf"{where} gets a map of {size[0]}x{size[1]}, .* needs 3x3"):
        CvtModel(tiny())(pixels(*size))


def test_a_map_too_small_for_the_keys_is_refused():
    with pytest.raises(InputError, match=r"the attention of stage 2 gets a map of 2x2, .* needs 3x3"):
        CvtModel(tiny(padding_kv=[1, 1, 0]))(pixels(32, 32))


def test_padding_that_moves_the_cells_takes_no_mask():
    model = CvtForMaskedImageModeling(tiny(patch_sizes=[3, 3, 3], patch_padding=[0, 1, 1], patch_stride=[2, 2, 2]))
    with pytest.raises(InputError, match=r"the first map is 31x31 but the mask 32x32.*patch_padding"):
        model(pixels(), torch.zeros(2, 32, 32))


# --- better than Hugging Face ----------------------------------------------------------------------------------


def by_hand(attention, tokens, grid, method, kernel, stride, padding):
    """The attention of a stage without class token, written out: scores scaled by the whole width."""
    batch, _, width = tokens.shape
    mapped = tokens.transpose(1, 2).reshape(batch, width, *grid)
    pooled = mapped
    if method == "avg":
        pooled = F.avg_pool2d(mapped, kernel, stride, padding, ceil_mode=True)
    pooled = pooled.flatten(2).transpose(1, 2)
    query, key, value = (
        getattr(attention.attention, f"projection_{n}")(t)
        for n, t in (("query", tokens), ("key", pooled), ("value", pooled))
    )
    heads = attention.attention.heads
    each = width // heads
    outs = []
    for h in range(heads):
        part = slice(h * each, (h + 1) * each)
        weights = (query[..., part] @ key[..., part].transpose(1, 2) / width**0.5).softmax(-1)
        outs.append(weights @ value[..., part])
    return attention.output.dense(torch.cat(outs, -1))


@pytest.mark.parametrize("method", ["avg", "linear"])
@pytest.mark.parametrize("grid", [(4, 4), (5, 3)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0)])
def test_averaged_and_plain_projections(method, grid, kernel, stride, padding):
    changes = {"qkv_projection_method": [method] * 3, "kernel_qkv": [kernel] * 3, "stride_kv": [stride] * 3}
    config = tiny(**changes, padding_kv=[padding] * 3)
    attention = randomise(cvt_layers.CvtAttention(config, 2)).double()
    tokens = torch.randn(2, grid[0] * grid[1], 24).double()
    expected = by_hand(attention, tokens, grid, method, kernel, stride, padding)
    torch.testing.assert_close(attention(tokens, *grid), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["avg", "linear"])
def test_projections_without_convolution_have_no_parameters(method):
    names = CvtModel(tiny(qkv_projection_method=[method] * 3)).state_dict()
    assert not [n for n in names if "convolution_projection" in n]


def test_one_block_in_each_stage():
    out = randomise(CvtModel(tiny(depth=[1, 1, 1])))(pixels())
    assert out.last_hidden_state.shape == (2, 24, 4, 4)
    assert out.last_hidden_state.isfinite().all()


def test_class_tokens_of_early_stages_have_their_width_and_end_with_the_stage():
    model = randomise(CvtModel(tiny(cls_token=[True, True, False])))
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if k.endswith("cls_token")}
    assert shapes == {"encoder.stages.0.cls_token": (1, 1, 8), "encoder.stages.1.cls_token": (1, 1, 12)}
    before = model(pixels())
    assert before.cls_token_value is None
    assert before.last_hidden_state.shape == (2, 24, 4, 4)
    with torch.no_grad():
        model.encoder.stages[0].cls_token.add_(1)
    assert not torch.equal(model(pixels()).last_hidden_state, before.last_hidden_state)


def test_without_any_class_token_the_mean_of_the_normed_cells_is_classified():
    model = randomise(CvtForImageClassification(tiny(cls_token=[False] * 3, num_labels=5)))
    last = model.cvt(pixels()).last_hidden_state
    normed = F.layer_norm(last.flatten(2).transpose(1, 2), (24,), *model.cvt.layernorm.parameters(), 1e-5)
    torch.testing.assert_close(model(pixels()).logits, model.classifier(normed.mean(1)))


def test_return_dict_false_without_class_token_leaves_it_out():
    model = randomise(CvtModel(tiny(cls_token=[False] * 3)))
    out = model(pixels(), return_dict=False)
    assert [tuple(t.shape) for t in out] == [(2, 24, 4, 4)]
    assert len(model(pixels(), output_hidden_states=True, return_dict=False)) == 2


def test_drop_path_rises_over_the_blocks_of_each_stage():
    model = CvtModel(tiny(depth=[1, 3, 5], drop_path_rate=[0.3, 0.2, 0.4]))
    rates = [[layer.drop_path_rate for layer in stage.layers] for stage in model.encoder.stages]
    expected = [[0.0], [0.0, 0.1, 0.2], [0.0, 0.1, 0.2, 0.3, 0.4]]
    assert [[pytest.approx(r) for r in stage] for stage in expected] == rates


def test_drop_path_drops_branches_and_keeps_the_tokens():
    layer = randomise(cvt_layers.CvtLayer(tiny(), 2, drop_path_rate=1.0)).train()
    tokens = torch.randn(3, 17, 24)
    assert torch.equal(layer(tokens, 4, 4), tokens)
    assert not torch.equal(layer.eval()(tokens, 4, 4), tokens)


def test_drop_path_drops_some_branches_of_some_samples():
    layer = randomise(cvt_layers.CvtLayer(tiny(qkv_projection_method=["linear"] * 3), 2, drop_path_rate=0.5))
    torch.manual_seed(0)
    tokens, grid = torch.randn(1, 17, 24).expand(64, -1, -1), (4, 4)
    with torch.no_grad():
        attended = 2 * layer.attention(layer.layernorm_before(tokens), *grid)
        found = layer.train()(tokens, *grid)
        layer.eval()

        def after(x):
            return 2 * layer.output(layer.intermediate(layer.layernorm_after(x)))

        ways = [tokens, tokens + attended]
        ways += [way + after(way) for way in ways]
    near = torch.stack([(found - way).abs().amax((1, 2)) < 1e-4 for way in ways])
    assert near.sum(0).tolist() == [1] * 64  # every sample went one of the four ways
    assert near.any(1).all()  # and each way was gone


def test_dropout_falls_on_the_embedding_and_on_both_branches():
    stage = randomise(cvt_layers.CvtStage(tiny(drop_rate=[0.0, 0.0, 1.0]), 2)).train()
    tokens = torch.randn(2, 17, 24)
    assert torch.equal(stage.layers[0](tokens, 4, 4), tokens)
    mapped, cls_token = stage(torch.randn(2, 12, 8, 8))
    assert not mapped.any()
    assert torch.equal(cls_token, stage.cls_token.expand(2, -1, -1))
    assert stage.eval()(torch.randn(2, 12, 8, 8))[0].all()


# --- statistics ------------------------------------------------------------------------------------------------


def statistics(model):
    return {k: b.clone() for k, b in model.named_buffers()}


def test_running_statistics_move_in_train_mode_and_stay_in_eval_mode():
    model = randomise(CvtForImageClassification(tiny()))
    before = statistics(model)
    model(pixels())
    assert all(torch.equal(b, before[k]) for k, b in statistics(model).items())
    model.train()(pixels())
    after = statistics(model)
    assert len(after) == 5 * 3 * 3
    assert not [k for k, b in after.items() if torch.equal(b, before[k])]
    assert all(int(b) == 1 for k, b in after.items() if k.endswith("num_batches_tracked"))


def test_running_statistics_are_a_tenth_of_the_batchs():
    norm = cvt_layers._DepthwiseNorm(4, 3, 1, 1).train()
    x = torch.randn(2, 4, 5, 6)
    convolved = F.conv2d(x, norm.convolution.weight, padding=1, groups=4)
    norm(x)
    torch.testing.assert_close(norm.normalization.running_mean, 0.1 * convolved.mean((0, 2, 3)))
    torch.testing.assert_close(norm.normalization.running_var, 0.9 + 0.1 * convolved.var((0, 2, 3)))


def test_fresh_weights():
    torch.manual_seed(0)
    model = CvtForMaskedImageModeling(tiny(embed_dim=[64, 96, 192], initializer_range=0.05))
    state = model.state_dict()
    drawn = {k: v for k, v in state.items() if v.ndim > 1 and k != "mask_token"}
    for name, value in drawn.items():
        assert value.std().item() == pytest.approx(0.05, rel=0.25), name
    assert 0.01 < state["mask_token"].std() < 0.03
    ones = [k for k, v in state.items() if "norm" in k and k.endswith(("weight", "running_var"))]
    assert all((state[k] == 1).all() for k in ones)
    zeros = [k for k in state if k.endswith(("bias", "running_mean", "num_batches_tracked"))]
    assert not any(state[k].any() for k in zeros)
    assert drawn.keys() | {"mask_token"} | set(ones) | set(zeros) == state.keys()


# --- files -----------------------------------------------------------------------------------------------------

SIZES = {
    "13": ([1, 2, 10], [64, 192, 384], [1, 3, 6], 19_611_712, 19_997_480, 28_021_265, 459, 25_767),
    "21": ([1, 4, 16], [64, 192, 384], [1, 3, 6], 31_236_928, 31_622_696, 39_646_481, 731, 41_919),
    "w24": ([2, 2, 20], [192, 768, 1024], [3, 12, 16], 276_169_344, 277_196_392, 298_558_417, 833, 134_472),
}


def on_meta(cls, config):
    with torch.device("meta"):
        return cls(config)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_parameters_keys_and_buffers_of_the_published_sizes(size):
    depth, width, heads, *expected = SIZES[size]
    config = {"depth": depth, "embed_dim": width, "num_heads": heads}
    models = [on_meta(CvtModel, CvtConfig(**config))]
    models += [on_meta(CvtForImageClassification, CvtConfig(**config, num_labels=n)) for n in (1000, 21841)]
    keys, buffers = len(models[1].state_dict()), sum(b.numel() for b in models[1].buffers())
    assert [*map(count, models), keys, buffers] == expected


def test_parameters_of_the_masked_model():
    assert count(on_meta(CvtForMaskedImageModeling, CvtConfig())) == 19_908_224


def test_the_state_dict_has_the_names_and_shapes_of_files():
    expected = {
        "mask_token": (1, 64, 1, 1),
        "layernorm.weight": (384,),
        "layernorm.bias": (384,),
        "decoder.0.weight": (768, 384, 1, 1),
        "decoder.0.bias": (768,),
        "cvt.encoder.stages.2.cls_token": (1, 1, 384),
    }
    inputs = 3
    for s, (e, depth, kernel) in enumerate(zip([64, 192, 384], [1, 2, 10], [7, 3, 3], strict=True)):
        stage = f"cvt.encoder.stages.{s}."
        embedding = stage + "embedding.convolution_embeddings."
        expected[embedding + "projection.weight"] = (e, inputs, kernel, kernel)
        for name in ("projection.bias", "normalization.weight", "normalization.bias"):
            expected[embedding + name] = (e,)
        for i in range(depth):
            layer = f"{stage}layers.{i}."
            attention = layer + "attention.attention."
            for part in ("query", "key", "value"):
                projection = f"{attention}convolution_projection_{part}.convolution_projection."
                expected[projection + "convolution.weight"] = (e, 1, 3, 3)
                for name in ("weight", "bias", "running_mean", "running_var"):
                    expected[f"{projection}normalization.{name}"] = (e,)
                expected[projection + "normalization.num_batches_tracked"] = ()
                expected[f"{attention}projection_{part}.weight"] = (e, e)
                expected[f"{attention}projection_{part}.bias"] = (e,)
            dense = [("attention.output", e, e), ("intermediate", 4 * e, e), ("output", e, 4 * e)]
            for name, rows, columns in dense:
                expected[f"{layer}{name}.dense.weight"] = (rows, columns)
                expected[f"{layer}{name}.dense.bias"] = (rows,)
            for name in ("layernorm_before", "layernorm_after"):
                expected[f"{layer}{name}.weight"] = expected[f"{layer}{name}.bias"] = (e,)
        inputs = e
    state = on_meta(CvtForMaskedImageModeling, CvtConfig()).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == expected
    tracked = {v.dtype for k, v in state.items() if k.endswith("num_batches_tracked")}
    assert tracked == {torch.int64}


def test_qkv_bias_removes_the_three_biases_of_a_stage():
    both, without = (CvtModel(tiny(qkv_bias=[True, on, True])).state_dict().keys() for on in (True, False))
    attention = "encoder.stages.1.layers.{}.attention.attention.projection_{}.bias"
    assert both - without == {attention.format(i, p) for i in (0, 1) for p in ("query", "key", "value")}


@pytest.mark.parametrize("cls", [CvtForMaskedImageModeling, CvtForImageClassification])
def test_files_of_models_with_a_head_go_into_the_bare_model(tmp_path, cls):
    model = randomise(cls(tiny()))
    model.save_pretrained(tmp_path)
    bare = CvtModel.from_pretrained(tmp_path)
    assert torch.equal(bare(pixels()).last_hidden_state, model.cvt(pixels()).last_hidden_state)


def test_the_bare_model_takes_norm_and_mask_token_if_it_has_them(tmp_path):
    model = randomise(CvtForMaskedImageModeling(tiny()))
    model.save_pretrained(tmp_path)
    bare = CvtModel.from_pretrained(tmp_path, add_final_norm=True, use_mask_token=True)
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[:, 0, 1] = True
    one, other = (m.forward_features(pixels(), mask) for m in (model.cvt, bare))
    assert torch.equal(one.grid, other.grid)
    assert torch.equal(one.cls, other.cls)


def test_a_masked_model_becomes_a_classifier_and_keeps_its_norm(tmp_path):
    model = randomise(CvtForMaskedImageModeling(tiny()))
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"freshly initialised: classifier.bias, classifier.weight; .*decoder"):
        classifier = CvtForImageClassification.from_pretrained(tmp_path, num_labels=7)
    one, other = (m.cvt.forward_features(pixels()) for m in (model, classifier))
    assert torch.equal(one.grid, other.grid)
    assert torch.equal(one.cls, other.cls)


def test_a_bare_model_becomes_a_masked_one(tmp_path):
    bare = randomise(CvtModel(tiny()))
    bare.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="freshly initialised: decoder.*layernorm.*mask_token") as found:
        model = CvtForMaskedImageModeling.from_pretrained(tmp_path)
    assert "not in the model" not in str(found[0].message)
    assert torch.equal(model.cvt(pixels()).last_hidden_state, bare(pixels()).last_hidden_state)
