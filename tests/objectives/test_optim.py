"""Learning-rate schedules and parameter groups."""

import pytest
import torch
from torch import nn

from mimsuite.errors import InputError
from mimsuite.models import (
    BitConfig,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
)
from mimsuite.objectives.optim import WarmupCosine, WarmupLinear, WarmupMilestones, WarmupSteps, param_groups

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


def test_the_cosine_begins_rises_and_ends_where_it_should():
    factor = WarmupCosine(steps=101, warmup=10, start=0.1, end=0.2)
    assert factor(0) == pytest.approx(0.1)
    assert factor(5) == pytest.approx(0.55)
    assert factor(10) == pytest.approx(1)
    assert factor(55) == pytest.approx(0.6)
    assert factor(100) == pytest.approx(0.2)
    assert factor(500) == pytest.approx(0.2)


def test_a_cooldown_keeps_the_cosines_last_factor():
    """CvT: 300 epochs, of which 5 warm up, and 10 more (Wu et al. 2021), at 100 steps per epoch."""
    plain = WarmupCosine(steps=30_000, warmup=500, start=4e-4, end=0.004)
    factor = WarmupCosine(steps=31_000, warmup=500, start=4e-4, end=0.004, cooldown=1000)
    assert [factor(step) for step in range(30_000)] == [plain(step) for step in range(30_000)]
    assert {factor(step) for step in range(29_999, 31_000)} == {0.004}
    assert factor(29_998) > 0.004


def test_a_cooldown_may_be_a_fraction_of_the_run():
    whole, part = (WarmupCosine(steps=200, warmup=10, end=0.1, cooldown=c) for c in (50, 0.25))
    assert [whole(step) for step in range(201)] == [part(step) for step in range(201)]


@pytest.mark.parametrize("cooldown", [-1, 1.0, -0.1, "auto", True])
def test_a_cooldown_that_is_no_part_of_the_run_is_refused(cooldown):
    with pytest.raises(InputError, match=r"schedule.cooldown=.* is no whole number of steps and no fraction"):
        WarmupCosine(steps=200, warmup=10, cooldown=cooldown)


def test_the_line_begins_rises_and_ends_where_it_should():
    factor = WarmupLinear(steps=101, warmup=20, start=0.1, end=0.2)
    found = [factor(step) for step in (0, 10, 20, 40, 60, 100, 500)]
    assert found == pytest.approx([0.1, 0.55, 1, 0.8, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("schedule", [WarmupCosine, WarmupLinear])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 0), (2, 1), (5, 5)])
def test_the_shortest_runs_have_factors_too(schedule, steps, warmup):
    factor = schedule(steps=steps, warmup=warmup, end=0.5)
    assert all(0 <= factor(step) <= 1 for step in range(steps + 1))
    assert factor(warmup) == 1


def test_marks_move_with_the_length_of_the_run():
    """A mark's own step still has the rate before it."""
    factor = WarmupSteps(steps=1000, warmup=200, marks=[0.4, 0.6, 0.8])
    found = [factor(step) for step in (0, 100, 200, 400, 401, 600, 601, 800, 801, 999)]
    assert found == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("marks", ["auto", [0], [1.5], [300]])
def test_marks_that_are_no_fractions_are_refused(marks):
    with pytest.raises(InputError, match=r"schedule.marks=.*: give fractions of the run"):
        WarmupSteps(steps=1000, warmup=10, marks=marks)


def test_milestones_multiply_from_their_step_on():
    factor = WarmupMilestones(steps=800, warmup=10, milestones=[0.5, 0.875], start=0.005, gamma=0.1)
    found = [factor(step) for step in (0, 5, 10, 399, 400, 699, 700, 799)]
    assert found == pytest.approx([0.005, 0.5025, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("milestones", [[0], [1.5], [0.5, -1], [700]])
def test_milestones_that_are_no_fractions_are_refused(milestones):
    with pytest.raises(InputError, match=r"schedule.milestones=.* fractions of the run"):
        WarmupMilestones(steps=800, warmup=10, milestones=milestones)


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
