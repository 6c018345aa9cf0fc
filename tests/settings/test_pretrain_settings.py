"""What a pretraining run says of the values that it has chosen, and of those that it does not use."""

import pytest

from mimsuite.app import call_task
from mimsuite.settings.pretrain import read_pretrain

KEYS = {"out": "unused", "model": "vit_nano", "objective": "latent", "batch": 32, "steps": 100, "workers": 0}


@pytest.mark.parametrize(
    ("teacher", "momentum", "resolved", "says"),
    [
        ("ema", "auto", 0.99, "objective.momentum=0.99 (rises to 1.0; less than 20,000 steps)"),
        ("ema", 0.996, 0.996, None),
        ("demo:vit", "auto", "auto", None),
        ("demo:vit", 0.996, 0.996, "objective.momentum=0.996 is not used: the teacher stays as it is"),
    ],
)
def test_a_momentum_is_named_where_it_was_chosen_or_has_no_effect(teacher, momentum, resolved, says):
    keys = {**KEYS, "objective.teacher": teacher, "objective.momentum": momentum}
    found = call_task("pretrain", lambda cfg, given: read_pretrain(cfg, given, leads=False), keys)
    assert [note for note in found.notes if "momentum" in note] == ([] if says is None else [says])
    assert found.config["objective"]["momentum"] == resolved
    assert ("may rise" in " ".join(found.notes)) == (teacher == "ema")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, True),
        ({"mask": "block", "image_size": 64}, True),
        ({"objective": "simmim"}, False),
        ({"objective.loss": "mse"}, False),
        ({"head": "simmim"}, False),
        ({"experiment": "emoji_nano"}, False),
        ({"init": "demo:vit"}, False),
        ({"model": "cvt_nano"}, False),
        ({"model": "bit_nano"}, False),
        ({"model.use_shared_relative_position_bias": True}, False),
    ],
)
def test_a_vit_that_is_trained_by_the_default_objective_hears_of_a_better_one(keys, says):
    keys = {"out": "unused", "steps": 100, "workers": 0, **({} if "init" in keys else {"model": "vit_nano"}), **keys}
    found = call_task("pretrain", lambda cfg, given: read_pretrain(cfg, given, leads=False), keys)
    assert any("MAE gave a ViT better features" in note for note in found.notes) == says
