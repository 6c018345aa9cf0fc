"""Choose, then train again: what is seen by which step, and what is refused."""

import math

import pytest
import torch

from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.probes.selection import choose_then_refit, held_out
from mimsuite.evaluation.probes.task import LabelTask
from mimsuite.metrics.scores import Scores

LABELS, IDS = torch.arange(30) % 2, torch.arange(30)
TASK = LabelTask("classes", 2, LABELS, LABELS)
REACHED = {"a": 0.3, "b": 0.5, "c": 0.5}


def chosen(reached, task=TASK, diverges=(), **options):
    """What is chosen where a trial reaches a known accuracy, and what `fit` and `score` were called with."""
    fitted, scored = [], []

    def fit(trials, rows):
        fitted.append((list(trials), rows))
        for trial in trials:
            yield trial, None if (trial, len(fitted)) in diverges else trial.upper()

    def score(trial, head, rows):
        scored.append((trial, head, rows))
        return Scores({"top1": reached[trial], "top5": 1.0}, None, None, losses.get(trial, math.nan))

    losses = options.pop("losses", {})
    return choose_then_refit(list(reached), task, IDS, fit=fit, score=score, **options), fitted, scored


def test_the_first_of_the_best_is_trained_again_on_everything():
    found, fitted, scored = chosen(REACHED)
    held = held_out(LABELS, IDS)
    assert found == (REACHED, "b", "B")
    assert [trials for trials, _ in fitted] == [["a", "b", "c"], ["b"]]
    assert torch.equal(fitted[0][1], ~held)
    assert fitted[1][1].all()
    assert [(trial, head) for trial, head, _ in scored] == [("a", "A"), ("b", "B"), ("c", "C")]
    assert all(torch.equal(rows, held) for _, _, rows in scored)


@pytest.mark.parametrize(
    ("losses", "depths", "best"),
    [
        ({"b": 0.4, "c": 0.3}, {"b": 9, "c": 1}, "c"),  # the loss comes first
        ({"b": 0.3, "c": 0.4}, {"b": 1, "c": 9}, "b"),
        ({"b": 0.3, "c": 0.3}, {"b": 1, "c": 9}, "c"),  # then the later layer
        ({"b": 0.3, "c": 0.3}, {"b": 9, "c": 9}, "b"),  # then the first
        ({"a": 0.0, "b": 2.0, "c": 3.0}, {"a": 12, "b": 1, "c": 1}, "b"),  # but the metric before all
        ({"c": 3.0}, {"b": 9, "c": 1}, "c"),  # a loss that nobody knows is the worst
    ],
)
def test_of_equal_heads_the_loss_decides_and_then_the_layer(losses, depths, best):
    found, _, _ = chosen(REACHED, losses=losses, depth=lambda trial: depths.get(trial, 0))
    assert found.best == best


def test_a_head_that_diverged_is_not_scored_and_not_chosen():
    found, _, scored = chosen(REACHED, diverges={("b", 1)})
    assert math.isnan(found.held_out["b"])
    assert found.best == "c"
    assert "b" not in {trial for trial, _, _ in scored}


def test_without_a_head_the_probe_stops():
    with pytest.raises(RunError, match="all 3 heads diverged; use smaller learning rates"):
        chosen(REACHED, diverges={(trial, 1) for trial in REACHED})
    with pytest.raises(RunError, match=r"the chosen head \(b\) diverged on all training images"):
        chosen(REACHED, diverges={("b", 2)})


def test_one_class_or_nothing_to_hold_out_is_refused():
    with pytest.raises(InputError, match="got 30 training images of 1 classes"):
        chosen(REACHED, LabelTask("classes", 2, LABELS * 0, LABELS))
    with pytest.raises(InputError, match="a probe needs two classes and some with 3 images or more"):
        chosen(REACHED, LabelTask("classes", 30, IDS, IDS))
