"""Parameter groups: each trained parameter in one of them, with or without weight decay."""

import pytest
import torch
from torch import nn

from mimsuite.models import (
    BitConfig,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
)
from mimsuite.objectives.groups import param_groups

VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "encoder_stride": 8,
}
MAE = {
    "mask_mode": "drop",
    "position": "sincos2d",
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
}


def names(model, decay_mask_token):
    groups = param_groups(model, weight_decay=0.05, decay_mask_token=decay_mask_token)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    for group in groups:
        found = dict(model.named_parameters())
        assert all(found[name] is p for name, p in zip(group["names"], group["params"], strict=True))
    return (set(group["names"]) for group in groups)


@pytest.mark.parametrize(
    "model",
    [
        lambda: ViTForMaskedImageModeling(ViTConfig(**VIT, num_register_tokens=2)),
        lambda: ViTForMaskedImageModeling(ViTConfig(**VIT, **MAE)),
        lambda: CvtForMaskedImageModeling(
            CvtConfig(embed_dim=[8, 12, 24], num_heads=[1, 2, 3], depth=[1, 1, 1], mlp_ratio=[2, 2, 2])
        ),
        lambda: BitForMaskedImageModeling(
            BitConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[1, 1], num_groups=4)
        ),
    ],
    ids=["vit", "mae", "cvt", "bit"],
)
def test_every_trained_parameter_is_in_one_group_and_tokens_are_spared(model):
    model = model()
    decayed, spared = names(model, decay_mask_token=False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not decayed & spared
    assert decayed | spared == trained
    tokens = ("cls_token", "mask_token", "register_tokens", "position_embeddings")
    assert spared == {n for n, p in model.named_parameters() if n in trained and (p.ndim < 2 or n.endswith(tokens))}


def test_the_mask_token_is_decayed_on_request():
    decayed, spared = names(ViTForMaskedImageModeling(ViTConfig(**VIT)), decay_mask_token=True)
    assert "vit.embeddings.mask_token" in decayed
    assert "vit.embeddings.cls_token" in spared


def test_fixed_positions_are_in_no_group():
    decayed, spared = names(ViTForMaskedImageModeling(ViTConfig(**VIT, **MAE)), decay_mask_token=False)
    assert "vit.embeddings.position_embeddings" not in decayed | spared


def test_groups_hold_what_an_optimizer_takes():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(param_groups(model, weight_decay=0.1, decay_mask_token=False), lr=1.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
