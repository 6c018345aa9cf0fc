"""What the stopwatch of `bench` counts, by a clock that the test moves."""

from types import SimpleNamespace

import pytest

from mimsuite.callbacks.stopwatch import Stopwatch


def run(seconds, each, wait=0.0, accumulate=1, images=4, late=0.0):
    """Trains until the stopwatch says stop: `each` a list of the seconds of micro-batches, whose last one repeats."""
    now = [100.0]

    def device():
        now[0] += late  # what the device still has to do

    watch = Stopwatch(seconds, device, clock=lambda: now[0])
    trainer = SimpleNamespace(should_stop=False, accumulate_grad_batches=accumulate)
    watch.on_train_start(trainer, None)
    number = 0
    while not trainer.should_stop:
        now[0] += wait
        batch = SimpleNamespace(images=[None] * images)
        watch.on_train_batch_start(trainer, None, batch, number)
        now[0] += each[min(number, len(each) - 1)]
        watch.on_train_batch_end(trainer, None, None, batch, number)
        number += 1
    return watch, number


def test_the_first_steps_are_not_timed():
    watch, number = run(3.0, [5.0, 2.0, 0.75], wait=0.25)
    assert (watch.images, watch.steps, watch.warm, number) == (12, 3, True, 5)
    assert watch.seconds == pytest.approx(3.0)
    assert watch.waited == pytest.approx(0.75)


def test_timing_ends_between_two_steps():
    watch, number = run(2.0, [0.5], accumulate=3)
    assert (watch.steps, watch.images, number) == (2, 24, 12)
    assert watch.seconds == pytest.approx(3.0)


def test_what_the_device_still_does_is_part_of_the_time():
    watch, _ = run(2.0, [0.5], late=1.0)
    assert (watch.images, watch.seconds) == (16, pytest.approx(3.0))


@pytest.mark.parametrize(
    ("each", "images", "seconds", "warm"),
    [
        (7.0, 3 * 4, 21.0, True),  # timed from 14 s on, until 35 s
        (29.0, 1 * 4, 29.0, True),
        (31.0, 1 * 4, 31.0, False),  # one alone takes too long, so that it is all there is
    ],
)
def test_long_steps_are_timed_in_their_middle(each, images, seconds, warm):
    watch, _ = run(12.0, [each], accumulate=100)
    assert (watch.images, watch.seconds, watch.warm, watch.steps) == (images, pytest.approx(seconds), warm, 0)


def test_more_seconds_may_be_asked_for():
    watch, _ = run(60.0, [1.0])
    assert (watch.images, watch.seconds) == (240, pytest.approx(60.0))
