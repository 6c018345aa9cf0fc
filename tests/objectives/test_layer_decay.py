"""Learning rates that fall from the head to the embeddings."""

import pytest
import torch

from mimsuite.errors import InputError
from mimsuite.models import (
    BitConfig,
    BitForImageClassification,
    CvtConfig,
    CvtForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from mimsuite.objectives.groups import layer_groups, param_groups, parameter_depth

LABELS = {"num_labels": 3}


def vit(**changes):
    size = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    return ViTForImageClassification(ViTConfig(**size, image_size=16, patch_size=8, **LABELS, **changes))


def cvt():
    size = {"embed_dim": [4, 8, 8], "num_heads": [1, 2, 2], "depth": [1, 1, 2], "mlp_ratio": [2, 2, 2]}
    return CvtForImageClassification(CvtConfig(**size, **LABELS))


def bit():
    return BitForImageClassification(
        BitConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_groups=4, **LABELS)
    )


def groups_of(model, layer_decay=0.5):
    return layer_groups(model, weight_decay=0.05, lr=0.1, layer_decay=layer_decay)


def listed(model):
    """`(depth below the head, decayed, names)` of every group; the rates are powers of 1/2, so that they are exact."""
    groups = groups_of(model)
    for group in groups:
        assert set(group) == {"params", "names", "weight_decay", "lr", "lr_scale"}
        assert group["lr"] == 0.1 * group["lr_scale"]
    return [(-torch.tensor(g["lr_scale"]).log2().item(), g["weight_decay"], g["names"]) for g in groups]


def named(start, *ends):
    return [f"{start}.{end}" for end in ends]


def test_the_groups_of_a_vit_by_name():
    def block(number):
        layer = f"vit.encoder.layer.{number}"
        parts = [f"attention.attention.{n}" for n in ("query", "key", "value")]
        parts += ["attention.output.dense", "intermediate.dense", "output.dense"]
        norms = [f"layernorm_{where}.{kind}" for where in ("before", "after") for kind in ("weight", "bias")]
        return named(layer, *(f"{p}.weight" for p in parts)), named(layer, *norms, *(f"{p}.bias" for p in parts))

    expected = [
        (0, 0.05, ["classifier.weight"]),
        (0, 0.0, ["vit.layernorm.weight", "vit.layernorm.bias", "classifier.bias"]),
        (1, 0.05, block(1)[0]),
        (1, 0.0, block(1)[1]),
        (2, 0.05, block(0)[0]),
        (2, 0.0, block(0)[1]),
        (3, 0.05, ["vit.embeddings.patch_embeddings.projection.weight"]),
        (
            3,
            0.0,
            named("vit.embeddings", "cls_token", "position_embeddings", "patch_embeddings.projection.bias"),
        ),
    ]
    found = listed(vit())
    assert [(depth, decay, set(names)) for depth, decay, names in found] == [(a, b, set(c)) for a, b, c in expected]
    assert [len(names) for _, _, names in found] == [len(names) for _, _, names in expected]


def parts_by_depth(model, cut):
    """Names in each depth below the head, without what follows the number of a block or the like."""
    found = {}
    for depth, _, names in listed(model):
        found.setdefault(depth, set()).update(cut(name) for name in names)
    return found


def test_the_groups_of_a_cvt_by_name():
    def cut(name):
        parts = name.removeprefix("cvt.encoder.stages.").split(".")
        return ".".join(parts[:3] if "layers" in parts else parts[:2])

    assert parts_by_depth(cvt(), cut) == {
        0: {"cvt.layernorm", "classifier.weight", "classifier.bias"},
        1: {"2.layers.1"},
        2: {"2.layers.0"},
        3: {"1.layers.0", "2.embedding", "2.cls_token"},  # what leads to a stage: depth of the block before it
        4: {"0.layers.0", "1.embedding"},
        5: {"0.embedding"},
    }
    spared = {name for _, decay, names in listed(cvt()) if not decay for name in names}
    assert "cvt.encoder.stages.2.cls_token" in spared


def test_the_groups_of_a_bit_by_name():
    def cut(name):
        parts = name.removeprefix("bit.encoder.stages.").split(".")
        return ".".join(parts[:4] if "downsample" in parts else parts[:3] if "layers" in parts else parts[:2])

    assert parts_by_depth(bit(), cut) == {
        0: {"bit.norm", "classifier.1"},
        1: {"1.layers.1"},
        2: {"1.layers.0", "1.layers.0.downsample"},
        3: {"0.layers.0", "0.layers.0.downsample"},
        4: {"bit.embedder"},
    }


@pytest.mark.parametrize("make", [vit, cvt, bit])
@pytest.mark.parametrize("layer_decay", [0.65, 1.0])
def test_every_parameter_is_in_one_group_under_its_name_and_decays_as_in_pretraining(make, layer_decay):
    model = make()
    groups, found = groups_of(model, layer_decay), dict(model.named_parameters())
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(found)
    assert all(found[n] is p for g in groups for n, p in zip(g["names"], g["params"], strict=True))
    assert "classifier" in groups[0]["names"][-1]
    decays = {n: g["weight_decay"] for g in groups for n in g["names"]}
    expected = param_groups(model, weight_decay=0.05, decay_mask_token=False)
    assert decays == {n: g["weight_decay"] for g in expected for n in g["names"]}


def test_the_scales_of_vit_base_are_simmims():
    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig())
    groups = layer_groups(model, weight_decay=0.05, lr=1.25e-3, layer_decay=0.65)
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert scales["vit.embeddings.cls_token"] == scales["vit.embeddings.position_embeddings"] == 0.65**13
    for block in range(12):
        inside = {scale for name, scale in scales.items() if name.startswith(f"vit.encoder.layer.{block}.")}
        assert inside == {0.65 ** (12 - block)}
    assert {scales[n] for n in ("vit.layernorm.weight", "classifier.weight", "classifier.bias")} == {1.0}
    assert len(groups) == 28


def test_a_shared_relative_position_bias_learns_as_the_head():
    model = vit(use_shared_relative_position_bias=True)
    assert (
        parameter_depth(model, "vit.encoder.rel_pos_bias.relative_position_bias_table") == model.encoder.num_blocks + 1
    )


def test_frozen_parameters_are_in_no_group_and_no_group_is_empty():
    model = vit()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = parameter_depth(model, name) >= 2  # embeddings and the first block rest
    groups = groups_of(model)
    assert [group["lr_scale"] for group in groups] == [1, 1, 0.5, 0.5]
    assert all(group["params"] for group in groups)
    rest = {n for g in groups for n in g["names"]}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == rest
    assert not any(n.startswith(("vit.embeddings", "vit.encoder.layer.0")) for n in rest)


def test_one_learning_rate_for_all_makes_two_groups():
    assert [(g["lr"], g["weight_decay"]) for g in groups_of(vit(), 1)] == [(0.1, 0.05), (0.1, 0.0)]


@pytest.mark.parametrize("layer_decay", [0, -0.5, 1.5, float("nan")])
def test_a_layer_decay_that_is_no_part_is_refused(layer_decay):
    with pytest.raises(InputError, match=r"layer_decay=.* is not in \(0, 1\]"):
        groups_of(vit(), layer_decay)


def test_a_schedule_moves_all_rates_alike():
    groups = groups_of(vit())
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.05 * g["lr_scale"] for g in groups]
