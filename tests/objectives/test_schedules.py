"""Learning-rate schedules."""

import pytest

from mimsuite.errors import InputError
from mimsuite.objectives.schedules import WarmupCosine, WarmupLinear, WarmupMilestones, WarmupSteps


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
def test_a_cooldown_that_is_not_a_part_of_the_run_is_refused(cooldown):
    with pytest.raises(InputError, match=r"schedule.cooldown=.* is neither a whole number of steps nor a fraction"):
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
def test_marks_that_are_not_fractions_are_refused(marks):
    with pytest.raises(InputError, match=r"schedule.marks=.*: give fractions of the run"):
        WarmupSteps(steps=1000, warmup=10, marks=marks)


def test_milestones_multiply_from_their_step_on():
    factor = WarmupMilestones(steps=800, warmup=10, milestones=[0.5, 0.875], start=0.005, gamma=0.1)
    found = [factor(step) for step in (0, 5, 10, 399, 400, 699, 700, 799)]
    assert found == pytest.approx([0.005, 0.5025, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("milestones", [[0], [1.5], [0.5, -1], [700]])
def test_milestones_that_are_not_fractions_are_refused(milestones):
    with pytest.raises(InputError, match=r"schedule.milestones=.* fractions of the run"):
        WarmupMilestones(steps=800, warmup=10, milestones=milestones)
