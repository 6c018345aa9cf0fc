"""The same numbers as Hugging Face's ViT, through folders in both directions."""

import os
import warnings

import pytest
import torch
from torch import nn

from mimsuite.encoders.vit import classic_key
from mimsuite.models import ViTForImageClassification, ViTForMaskedImageModeling, ViTModel

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    transformers = pytest.importorskip("transformers")
    from transformers.models.vit import modeling_vit  # noqa: F401 - loaded here, quietly

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 16,
    "patch_size": 4,
    "encoder_stride": 4,
}
VARIANTS = {
    "plain": {},
    "one head, no biases": {"num_attention_heads": 1, "qkv_bias": False},
    "other activation, eps, channels": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "num_channels": 5},
    "no blocks": {"num_hidden_layers": 0},
    "large patches": {"image_size": 32, "patch_size": 16, "encoder_stride": 16},
    "pooler": {"pooler_output_size": 7, "pooler_act": "relu"},
}
RECTANGULAR = {"image_size": [12, 24], "patch_size": [4, 8]}


def theirs(name, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    config = transformers.ViTConfig(**(TINY | changes))
    config._attn_implementation = "sdpa"  # their "eager" takes the softmax in float32, also of float64
    options = {"use_mask_token": True} if name == "ViTModel" else {}
    model = getattr(transformers, name)(config, **options).to(dtype).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


def ours_of(model, cls, folder, dtype="float64", **options):
    model.save_pretrained(folder)
    return cls.from_pretrained(folder, dtype=dtype, **options)


def pixels(config, batch=3, dtype=torch.float64):
    side = config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return torch.randn(batch, config.num_channels, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def mask_for(x, patch):
    down, across = (patch, patch) if isinstance(patch, int) else patch
    count = (x.shape[2] // down) * (x.shape[3] // across)
    return torch.rand(len(x), count, generator=torch.Generator().manual_seed(2)) < 0.6


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def same_gradients(ours, loss, their_model, their_loss, tolerance=1e-9):
    wanted = dict(their_model.named_parameters())
    theirs_by_key = {
        classic_key(k): g for k, g in zip(wanted, torch.autograd.grad(their_loss, list(wanted.values())), strict=True)
    }
    names = dict(ours.named_parameters())
    grads = torch.autograd.grad(loss, list(names.values()))
    assert names.keys() == theirs_by_key.keys()
    for key, gradient in zip(names, grads, strict=True):
        close(gradient, theirs_by_key[key], tolerance)


@pytest.mark.parametrize("variant", [*VARIANTS.values(), RECTANGULAR], ids=[*VARIANTS, "rectangular"])
def test_the_bare_model(tmp_path, variant):
    reference = theirs("ViTModel", **variant)
    model = ours_of(reference, ViTModel, tmp_path, use_mask_token=True)
    x = pixels(reference.config)
    for mask in (None, mask_for(x, reference.config.patch_size)):
        options = {"bool_masked_pos": mask, "output_hidden_states": True}
        a, b = model(x, **options), reference(x, **options)
        close(a.last_hidden_state, b.last_hidden_state)
        close(a.pooler_output, b.pooler_output)
        if variant.get("num_hidden_layers") == 0:
            continue  # nothing is recorded there without blocks
        assert len(a.hidden_states) == len(b.hidden_states)
        for one, two in zip(a.hidden_states, b.hidden_states, strict=True):
            close(one, two)


def test_attentions(tmp_path):
    reference = theirs("ViTModel")
    model = ours_of(reference, ViTModel, tmp_path, use_mask_token=True)
    reference.set_attn_implementation("eager")  # the only one that returns them there
    x = pixels(reference.config)
    a, b = model(x, output_attentions=True), reference(x, output_attentions=True)
    for one, two in zip(a.attentions, b.attentions, strict=True):
        close(one, two, 1e-6)


@pytest.mark.parametrize(
    ("variant", "implementation"),
    [(v, "auto") for v in VARIANTS.values()] + [({}, "sdpa"), ({}, "eager")],
    ids=[*VARIANTS, "sdpa", "eager"],
)
def test_masked_image_modeling(tmp_path, variant, implementation):
    reference = theirs("ViTForMaskedImageModeling", **variant)
    model = ours_of(reference, ViTForMaskedImageModeling, tmp_path, attn_implementation=implementation)
    x = pixels(reference.config)
    mask = mask_for(x, reference.config.patch_size)
    a, b = model(x, mask), reference(x, mask)
    close(a.reconstruction, b.reconstruction)
    close(a.loss, b.loss)
    grid = int(mask.shape[1] ** 0.5)
    same_gradients(model, a.loss, reference, b.loss)
    same_gradients(model, model.masked_loss(x, mask.reshape(-1, grid, grid)), reference, reference(x, mask).loss)


def test_masked_image_modeling_in_float32(tmp_path):
    reference = theirs("ViTForMaskedImageModeling", torch.float32)
    model = ours_of(reference, ViTForMaskedImageModeling, tmp_path, None)
    x = pixels(reference.config, dtype=torch.float32)
    mask = mask_for(x, 4)
    a, b = model(x, mask), reference(x, mask)
    close(a.reconstruction, b.reconstruction, 1e-5)
    same_gradients(model, a.loss, reference, b.loss, 1e-5)


@pytest.mark.parametrize(
    ("num_labels", "labels"),
    [
        (4, torch.tensor([0, 3, 1])),
        (1, torch.tensor([0.5, -1.0, 2.0]).double()),
        (4, torch.tensor([[1, 0, 0, 1.0]]).double().expand(3, 4)),
    ],
    ids=["classes", "regression", "multi-label"],
)
@pytest.mark.parametrize("variant", [{}, RECTANGULAR], ids=["square", "rectangular"])
def test_classification(tmp_path, num_labels, labels, variant):
    reference = theirs("ViTForImageClassification", num_labels=num_labels, **variant)
    model = ours_of(reference, ViTForImageClassification, tmp_path)
    x = pixels(reference.config)
    a, b = model(x, labels=labels), reference(x, labels=labels)
    close(a.logits, b.logits)
    close(a.loss, b.loss)
    same_gradients(model, a.loss, reference, b.loss)


def test_interpolated_positions(tmp_path):
    reference = theirs("ViTForImageClassification")
    model = ours_of(reference, ViTForImageClassification, tmp_path)
    x = torch.randn(2, 3, 24, 20).double()
    # They interpolate in the parameters' dtype, we in float32 or wider: float64 here.
    close(model(x, interpolate_pos_encoding=True).logits, reference(x, interpolate_pos_encoding=True).logits)


@pytest.mark.parametrize("cls", [ViTModel, ViTForMaskedImageModeling, ViTForImageClassification])
@pytest.mark.parametrize("shard", [10**9, 4000], ids=["one file", "shards"])
def test_folders_of_ours_load_there_without_a_missing_key(tmp_path, cls, shard):
    torch.manual_seed(0)
    model = cls(cls.config_class(**TINY)).double().eval()
    model.save_pretrained(tmp_path, max_shard_bytes=shard)
    their_class = getattr(transformers, cls.__name__)
    reference, info = their_class.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    assert not any(info.values()), info
    x = pixels(model.config)
    close(model(x)[0], reference.eval()(x)[0])


def test_a_config_of_ours_is_theirs(tmp_path):
    ours = ViTModel.config_class(**TINY)
    ours.save_pretrained(tmp_path)
    found = transformers.ViTConfig.from_pretrained(tmp_path)
    assert {k: getattr(found, k) for k in TINY} == TINY
    assert found.num_labels == 2


def test_drop_path_and_other_fields_of_ours_do_not_disturb_them(tmp_path):
    config = ViTModel.config_class(**TINY, drop_path_rate=0.1, init_scheme="simmim", num_labels=3)
    model = ViTForImageClassification(config).double().eval()
    model.save_pretrained(tmp_path)
    reference, info = transformers.ViTForImageClassification.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float64
    )
    assert not any(info.values()), info
    x = pixels(config)
    close(model(x).logits, reference.eval()(x).logits)


def test_their_state_dict_in_memory_loads_here():
    reference = theirs("ViTForMaskedImageModeling")
    model = ViTForMaskedImageModeling(ViTModel.config_class(**TINY)).double().eval()
    model.load_state_dict(reference.state_dict())
    x = pixels(reference.config)
    close(model(x).reconstruction, reference(x).reconstruction)
