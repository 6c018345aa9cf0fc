"""BiT-HyperRule against the published functions, written out here."""

import pytest

from mimsuite.objectives.schedules import WarmupSteps
from mimsuite.settings.budget import warmup_steps
from mimsuite.settings.hyperrule import hyper_rule


def published_marks(images):
    if images < 20_000:
        return [100, 200, 300, 400, 500]
    if images < 500_000:
        return [500, 3000, 6000, 9000, 10_000]
    return [500, 6000, 12_000, 18_000, 20_000]


def published_lr(step, images):
    """None: the run is over."""
    marks, rate = published_marks(images), 0.003
    if step < marks[0]:
        return rate * step / marks[0]
    if step >= marks[-1]:
        return None
    for mark in marks[1:]:
        if mark < step:
            rate /= 10
    return rate


SIZES = [1, 19_999, 20_000, 499_999, 500_000, 14_000_000]


@pytest.mark.parametrize("images", SIZES)
def test_every_step_has_the_published_learning_rate(images):
    rule = hyper_rule(images, (224, 224))
    schedule = WarmupSteps(steps=rule.steps, warmup=warmup_steps(rule.warmup, rule.steps), marks=rule.milestones)
    found = [rule.lr * schedule(step) for step in range(rule.steps)]
    assert found == pytest.approx([published_lr(step, images) for step in range(rule.steps)], rel=1e-12, abs=0)
    assert published_lr(rule.steps, images) is None
    assert list(rule.marks) == published_marks(images)


@pytest.mark.parametrize(("images", "mixup"), [(1, 0.0), (19_999, 0.0), (20_000, 0.1), (14_000_000, 0.1)])
def test_mixup_begins_at_20_000_images(images, mixup):
    assert hyper_rule(images, (224, 224)).mixup == mixup


@pytest.mark.parametrize(
    ("size", "sides"),
    [((32, 32), (160, 128)), ((95, 96), (160, 128)), ((96, 96), (512, 480)), ((48, 192), (512, 480))],
)
def test_the_area_of_the_images_decides_their_size(size, sides):
    rule = hyper_rule(50_000, size)
    assert (rule.resize, rule.crop) == sides
    assert rule.share == sides[1] / sides[0]


def test_the_marks_of_a_longer_run_lie_at_the_same_parts_of_it():
    rule = hyper_rule(50_000, (32, 32))
    assert warmup_steps(rule.warmup, 40_000) == 2000
    schedule = WarmupSteps(steps=40_000, warmup=2000, marks=rule.milestones)
    falls = [step for step in range(2001, 40_000) if schedule(step) != schedule(step - 1)]
    assert falls == [12_001, 24_001, 36_001]
