"""The same numbers as Hugging Face's BiT, through folders in both directions."""

import json
import os
import warnings

import pytest
import torch
from torch import nn

from mimsuite.models import BitBackbone, BitConfig, BitForImageClassification, BitForMaskedImageModeling, BitModel

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    transformers = pytest.importorskip("transformers")
    from transformers.models.bit import modeling_bit  # noqa: F401 - loaded here, quietly

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TINY = {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 1, 2], "num_groups": 4}
VARIANTS = {
    "plain": {},
    "bottleneck": {"layer_type": "bottleneck"},
    "bottleneck, output_stride 16": {"layer_type": "bottleneck", "output_stride": 16},
    "bottleneck, output_stride 8": {"layer_type": "bottleneck", "output_stride": 8, "depths": [1, 1, 2, 2]},
    "bottleneck, output_stride 4": {"layer_type": "bottleneck", "output_stride": 4, "depths": [1, 2, 2, 2]},
    "same": {"global_padding": "same"},
    "same, dynamic": {"global_padding": "SAME", "embedding_dynamic_padding": True},
    "bottleneck, same, dilated": {"global_padding": "same", "layer_type": "bottleneck", "output_stride": 8},
    "dynamic": {"embedding_dynamic_padding": True},
    "other activation, channels, groups": {"hidden_act": "gelu", "num_channels": 5, "num_groups": 8},
    "fewer stages": {"hidden_sizes": [32, 64], "depths": [2, 1]},
}
SIZES = [(64, 64), (70, 51)]


def randomise(model, std=0.3):
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model


def theirs(name, dtype=torch.float64, **changes):
    return randomise(getattr(transformers, name)(transformers.BitConfig(**(TINY | changes)))).to(dtype).eval()


def ours_of(model, cls, folder, dtype="float64", **options):
    model.save_pretrained(folder)
    return cls.from_pretrained(folder, dtype=dtype, **options)


def pixels(config, size, batch=3, dtype=torch.float64):
    return torch.randn(batch, config.num_channels, *size, generator=torch.Generator().manual_seed(1)).to(dtype)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, b.abs().max().item()))


def all_close(found, expected, tolerance=1e-9):
    assert len(found) == len(expected) > 0
    for one, two in zip(found, expected, strict=True):
        close(one, two, tolerance)


def same_gradients(ours, loss, their_model, their_loss, tolerance=1e-9):
    loss.backward()
    their_loss.backward()
    expected = {name: p.grad for name, p in their_model.named_parameters()}
    assert {name for name, _ in ours.named_parameters()} == expected.keys()
    for name, p in ours.named_parameters():
        assert (p.grad is None) == (expected[name] is None), name  # what comes after all chosen maps has none
        if p.grad is not None:
            close(p.grad, expected[name], tolerance)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_bare_model(tmp_path, variant, size):
    reference = theirs("BitModel", **variant)
    model = ours_of(reference, BitModel, tmp_path)
    x = pixels(reference.config, size)
    a, b = model(x, output_hidden_states=True), reference(x, output_hidden_states=True)
    close(a.last_hidden_state, b.last_hidden_state)
    close(a.pooler_output, b.pooler_output)
    all_close(a.hidden_states, b.hidden_states)
    target = pixels(model.config, a.last_hidden_state.shape[2:], dtype=torch.float64)[:, :1]
    losses = ((out.last_hidden_state * target).sum() for out in (a, b))
    same_gradients(model, next(losses), reference, next(losses))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_classification(tmp_path, variant, size, training):
    reference = theirs("BitForImageClassification", num_labels=4, **variant).train(training)
    model = ours_of(reference, BitForImageClassification, tmp_path).train(training)
    x, labels = pixels(reference.config, size), torch.tensor([0, 3, 1])
    a, b = (m(x, labels=labels, output_hidden_states=True) for m in (model, reference))
    close(a.logits, b.logits)
    close(a.loss, b.loss)
    all_close(a.hidden_states, b.hidden_states)
    same_gradients(model, a.loss, reference, b.loss)


@pytest.mark.parametrize(
    ("num_labels", "labels"),
    [
        (1, torch.tensor([0.5, -1.0, 2.0]).double()),
        (4, torch.tensor([[1, 0, 0, 1.0]]).double().expand(3, 4)),
    ],
    ids=["regression", "multi-label"],
)
def test_other_losses(tmp_path, num_labels, labels):
    reference = theirs("BitForImageClassification", num_labels=num_labels)
    model = ours_of(reference, BitForImageClassification, tmp_path)
    x = pixels(reference.config, (64, 64))
    a, b = model(x, labels=labels), reference(x, labels=labels)
    close(a.loss, b.loss)
    same_gradients(model, a.loss, reference, b.loss)


@pytest.mark.parametrize("variant", ["plain", "bottleneck, output_stride 8", "same, dynamic"])
def test_float32(tmp_path, variant):
    reference = theirs("BitForImageClassification", torch.float32, num_labels=4, **VARIANTS[variant])
    model = ours_of(reference, BitForImageClassification, tmp_path, None)
    x, labels = pixels(reference.config, (70, 51), dtype=torch.float32), torch.tensor([0, 3, 1])
    a, b = (m(x, labels=labels, output_hidden_states=True) for m in (model, reference))
    close(a.logits, b.logits, 1e-5)
    all_close(a.hidden_states, b.hidden_states, 1e-5)
    same_gradients(model, a.loss, reference, b.loss, 1e-5)


@pytest.mark.parametrize("outputs", [{}, {"out_features": ["stem", "stage2", "stage4"]}, {"out_indices": [1, 3]}])
@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
def test_the_backbone(tmp_path, outputs, layer_type):
    reference = theirs("BitBackbone", layer_type=layer_type, **outputs)
    model = ours_of(reference, BitBackbone, tmp_path)
    x = pixels(reference.config, (70, 51))
    a, b = model(x, output_hidden_states=True), reference(x, output_hidden_states=True)
    all_close(a.feature_maps, b.feature_maps)
    all_close(a.hidden_states, b.hidden_states)
    assert model(x).hidden_states is reference(x).hidden_states is None
    for name in ("stage_names", "out_features", "channels", "num_features"):
        assert list(getattr(model, name)) == list(getattr(reference, name)), name
    sums = [sum(m.square().sum() for m in out.feature_maps) for out in (a, b)]
    same_gradients(model, sums[0], reference, sums[1])


def test_a_classifier_gives_the_bare_model_and_the_backbone(tmp_path):
    reference = theirs("BitForImageClassification")
    model = ours_of(reference, BitModel, tmp_path)
    x = pixels(reference.config, (64, 64))
    close(model(x).last_hidden_state, reference.bit(x).last_hidden_state)
    their_backbone = transformers.BitBackbone.from_pretrained(tmp_path, dtype=torch.float64, out_features=["stage1"])
    with pytest.warns(UserWarning, match=r"BitBackbone: in the files but not in the model: classifier\.1\.bias"):
        backbone = BitBackbone.from_pretrained(tmp_path, dtype="float64", out_features=["stage1"])
    all_close(backbone(x).feature_maps, their_backbone.eval()(x).feature_maps)


# --- the other way round --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [BitModel, BitForImageClassification, BitBackbone])
@pytest.mark.parametrize("variant", ["plain", "bottleneck, output_stride 8", "same, dynamic"])
@pytest.mark.parametrize("shard", [10**9, 100_000], ids=["one file", "shards"])
def test_folders_of_ours_load_there_without_a_missing_key(tmp_path, cls, variant, shard):
    model = randomise(cls(BitConfig(**(TINY | VARIANTS[variant]), num_labels=5))).double().eval()
    model.save_pretrained(tmp_path, max_shard_bytes=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard < 10**9)
    their_class = getattr(transformers, cls.__name__)
    reference, info = their_class.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    assert not any(info.values()), info
    x = pixels(model.config, (70, 51))
    a, b = model(x)[0], reference.eval()(x)[0]
    all_close(*((t if isinstance(t, tuple) else (t,)) for t in (a, b)))
    state = reference.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[k], t) for k, t in model.state_dict().items())


def test_a_masked_image_model_of_ours_is_read_as_a_backbone_there(tmp_path):
    model = randomise(BitForMaskedImageModeling(BitConfig(**TINY))).double().eval()
    model.save_pretrained(tmp_path)
    reference, info = transformers.BitModel.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    assert not info["missing_keys"]
    x = pixels(model.config, (64, 64))
    close(model.bit(x).last_hidden_state, reference.eval()(x).last_hidden_state)


# --- config.json ---------------------------------------------------------------------------------------------

FIELDS = TINY | {
    "num_channels": 4,
    "layer_type": "bottleneck",
    "hidden_act": "gelu",
    "global_padding": "same",
    "drop_path_rate": 0.2,
    "embedding_dynamic_padding": True,
    "output_stride": 16,
    "width_factor": 2,
    "out_features": ["stage1", "stage3"],
    "num_labels": 3,
}


def fields_of(config):
    found = {k: getattr(config, k) for k in FIELDS} | {"out_indices": config.out_indices, "id2label": config.id2label}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()} | {"stages": config.stage_names}


def test_a_config_of_ours_is_theirs(tmp_path):
    ours = BitConfig(**FIELDS)
    ours.save_pretrained(tmp_path)
    found = transformers.BitConfig.from_pretrained(tmp_path)
    assert fields_of(found) == fields_of(ours)
    assert found.global_padding == "SAME"
    assert list(found.out_indices) == [1, 3]


def test_a_config_of_theirs_is_ours(tmp_path):
    reference = transformers.BitConfig(**FIELDS)
    reference.save_pretrained(tmp_path)
    assert fields_of(BitConfig.from_pretrained(tmp_path)) == fields_of(reference)


def test_the_default_files_say_the_same(tmp_path):
    BitConfig().save_pretrained(tmp_path / "ours")
    transformers.BitConfig().save_pretrained(tmp_path / "theirs")
    ours, reference = (json.loads((tmp_path / d / "config.json").read_text()) for d in ("ours", "theirs"))
    for name in ("transformers_version", "architectures", "dtype"):
        reference.pop(name, None)
    assert {k: reference[k] for k in ours} == ours
