"""PEFT's adapters on every family: they change the result, learn, and merge without a difference."""

import copy

import pytest
import torch

from mimsuite import models

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of peft's and transformers' own code
]

VIT = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32,
    "patch_size": 8, "encoder_stride": 8,
}  # fmt: skip
MAE = {
    "mask_mode": "drop", "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}  # fmt: skip
CVT = {"embed_dim": [4, 8, 12], "num_heads": [1, 2, 2], "depth": [1, 1, 2], "stride_kv": [2, 2, 1]}
BIT = {"embedding_size": 4, "hidden_sizes": [4, 8, 8, 8], "depths": [1, 1, 1, 2], "num_groups": 2}
LORA = {
    "query and value": ("ViTForImageClassification", VIT, ["query", "value"]),
    "every layer of a ViT": ("ViTForImageClassification", VIT, ["query", "key", "value", "dense", "projection"]),
    "ViT with SimMIM's head": ("ViTForMaskedImageModeling", VIT, ["query", "value", "decoder.0"]),
    "MAE": (
        "ViTForMaskedImageModeling",
        VIT | MAE,
        ["query", "value", "decoder_embed", "decoder_pred", "intermediate.dense"],
    ),
    "CvT's projections": (
        "CvtForImageClassification",
        CVT,
        ["projection_query", "projection_key", "projection_value"],
    ),
    "every layer of a CvT": (
        "CvtForMaskedImageModeling",
        CVT,
        ["projection_query", "projection_key", "projection_value", "projection", "dense", "decoder.0"],
    ),
    "BiT's classifier": ("BitForImageClassification", BIT, ["classifier.1"]),
    "BiT with SimMIM's head": ("BitForMaskedImageModeling", BIT, ["decoder.0"]),
}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def a_mask(name):
    side = 4 if name == "ViT" else 8
    units = torch.tensor([[True, False], [False, True]]).repeat_interleave(side // 2, 0).repeat_interleave(side // 2, 1)
    return units.expand(2, side, side)


def results(name, model):
    """What the model computes, in each of its ways."""
    if "Masked" not in name:
        return [model(PIXELS).logits]
    mask = a_mask(name[:3])
    return [model(PIXELS, mask).reconstruction, model(PIXELS, mask).loss, model.masked_loss(PIXELS, mask)]


def adapted(name, fields, targets, **changes):
    torch.manual_seed(0)
    model = getattr(models, name)(getattr(models, name[:3] + "Config")(**fields)).double().eval()
    plain = results(name, model)
    # A depthwise convolution takes adapters whose rank is a multiple of its channels.
    config = peft.LoraConfig(target_modules=targets, r=24, lora_alpha=24, init_lora_weights=False, **changes)
    return plain, peft.get_peft_model(model, config).double().eval()


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("case", LORA)
def test_adapters_change_learn_and_merge(case, changes):
    name, _, _ = LORA[case]
    plain, model = adapted(*LORA[case], **changes)
    found = results(name, model)
    assert all((a - b).abs().max() > 1e-6 for a, b in zip(found, plain, strict=True))
    for value in found:
        model.zero_grad()
        value.square().mean().backward(retain_graph=True)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert trained
        assert [n for n, p in trained.items() if p.grad is None or not p.grad.any()] == []
    merged = results(name, copy.deepcopy(model).merge_and_unload())
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(found, merged, strict=True))
    removed = results(name, model.unload())
    torch.testing.assert_close(removed, plain)


def test_adapters_train_with_gradient_checkpointing():
    name, fields, targets = LORA["query and value"]
    losses = []
    for recompute in (False, True):
        _, model = adapted(name, fields, targets)
        if recompute:
            model.get_base_model().gradient_checkpointing_enable()
        model(PIXELS).logits.square().mean().backward()
        losses.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    ("name", "fields", "target"),
    [("BitForMaskedImageModeling", BIT, "conv1"), ("CvtForMaskedImageModeling", CVT, "convolution")],
)
def test_convolutions_take_adapters(name, fields, target):
    """PEFT merges none of several groups; BiT standardises merged weights, so that its result would change."""
    plain, model = adapted(name, fields, [target])
    found = results(name, model)
    assert all((a - b).abs().max() > 1e-9 for a, b in zip(found, plain, strict=True))
    found[-1].backward()
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)


def test_a_whole_decoder_may_be_trained_beside_adapters():
    name, fields, targets = LORA["MAE"]
    _, model = adapted(name, fields, targets[:2], modules_to_save=["decoder"])
    _, loss, fast = results(name, model)
    torch.testing.assert_close(fast, loss)
    fast.backward()
    assert model.base_model.model.decoder.modules_to_save["default"].decoder_pred.weight.grad.any()
