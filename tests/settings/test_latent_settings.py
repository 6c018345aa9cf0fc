"""What a run with latent targets says of the values that it has chosen, and of those that it does not use."""

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
