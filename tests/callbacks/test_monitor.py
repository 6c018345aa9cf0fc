"""What the lines of a run say, by a clock that the test moves."""

import logging
from types import SimpleNamespace

import pytest
import torch
from run_facts import context_of

from mimsuite.callbacks import monitor
from mimsuite.callbacks.monitor import Monitor, format_about


class Module:
    """Takes the metrics that are logged."""

    def __init__(self):
        self.logged, self.speeds = [], []

    def report_training(self, loss, **speed):
        self.logged.append(float(loss))
        self.speeds.append(speed)


@pytest.fixture
def train(tmp_path, monkeypatch, caplog):
    """Gives `losses` of one step each, which take `seconds` each; returns the lines and the metrics logged.

    A step waits for its batch for `waits` seconds, and a checkpoint after it takes `saves`.
    """

    def run(losses, seconds, log_every, first=0, validations=(), waits=0.0, saves=0.0, **facts):
        now = [100.0]
        monkeypatch.setattr(monitor, "time", SimpleNamespace(perf_counter=lambda: now[0], time=lambda: now[0]))
        monkeypatch.setattr(monitor, "has_terminal", lambda: False)
        callback, module = Monitor(log_every=log_every, context=context_of(tmp_path, **facts)), Module()
        trainer = SimpleNamespace(
            global_step=first,
            max_steps=first + len(losses),
            accumulate_grad_batches=1,
            is_global_zero=True,
            sanity_checking=False,
            world_size=1,
            strategy=SimpleNamespace(reduce=lambda value, **_: value),
            train_dataloader=SimpleNamespace(waited=0.0),
        )
        caplog.clear()
        with caplog.at_level(logging.INFO, "mimsuite"):
            callback.on_train_start(trainer, module)
            for number, loss in enumerate(losses):
                trainer.train_dataloader.waited += waits
                now[0] += waits
                callback.on_train_batch_start(trainer, module, None, number)
                now[0] += seconds
                trainer.global_step += 1
                callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(loss)}, None, number)
                now[0] += saves
                if trainer.global_step in validations:
                    now[0] += 1000.0
                    callback.on_validation_end(trainer, module)
        run.speeds = module.speeds
        return [record.getMessage() for record in caplog.records], module.logged

    return run


def test_mfu_is_the_part_of_the_images_that_the_devices_could_train(train):
    train([1.0] * 4, seconds=2.0, log_every=2, most_images=10.0)
    assert [speed["perf/mfu"] for speed in train.speeds] == [pytest.approx(4 / 2 / 10)] * 2
    train([1.0] * 2, seconds=2.0, log_every=2)
    assert set(train.speeds[0]) == {"perf/img_per_s", "perf/data_wait"}


def test_a_checkpoint_between_two_steps_is_no_waiting_for_data(train):
    train([1.0] * 4, seconds=5.0, log_every=4, waits=1.0, saves=4.0)
    assert train.speeds[0]["perf/data_wait"] == pytest.approx(4 / (4 * (5 + 1) + 3 * 4))


def test_every_line_has_the_mean_loss_of_the_steps_since_the_line_before(train):
    """Also where metrics are logged more rarely than lines are printed."""
    lines, logged = train([8.0, 6.0, 4.0, 2.0, 1.0, 0.5], seconds=5.0, log_every=1000)
    shown = [line.split("  ")[:2] for line in lines if line.startswith("step ")]
    assert shown == [["step 2/6", "loss 7.0000"], ["step 4/6", "loss 3.0000"], ["step 6/6", "loss 0.7500"]]
    assert logged == [pytest.approx(21.5 / 6)]


def test_lines_and_logged_metrics_have_windows_of_their_own(train):
    lines, logged = train([8.0, 6.0, 4.0, 2.0], seconds=5.0, log_every=1)
    assert logged == [8.0, 6.0, 4.0, 2.0]
    assert [line.split("  ")[1] for line in lines if line.startswith("step ")] == ["loss 7.0000", "loss 3.0000"]


@pytest.mark.parametrize("first", [0, 50])
def test_slow_steps_are_counted_on_after_the_second_one(first, train):
    lines, _ = train([1.0] * 200, seconds=45.0, log_every=10, first=first)
    assert [line for line in lines if line.startswith("about")] == ["about 2 h for the other 198 steps, 45 s each"]
    assert lines.index("about 2 h for the other 198 steps, 45 s each") <= 2


def test_fast_steps_are_counted_on_after_six_of_which_the_first_does_not_count(train):
    lines, _ = train([1.0] * 3006, seconds=0.25, log_every=10)
    assert [line for line in lines if line.startswith("about")] == [
        "about 12 min for the other 3000 steps, 0.25 s each"
    ]


def test_a_validation_is_no_part_of_the_estimate(train):
    lines, _ = train([1.0] * 100, seconds=4.0, log_every=10, validations=(1,))
    assert [line for line in lines if line.startswith("about")] == ["about 6 min for the other 96 steps, 4 s each"]


def test_a_run_of_a_few_steps_is_not_estimated(train):
    assert not [line for line in train([1.0] * 4, seconds=1.0, log_every=1)[0] if line.startswith("about")]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (5400, "2 h"), (172000, "48 h"), (2e5, "2 days")]
)
def test_a_duration_has_one_unit(seconds, words):
    assert format_about(seconds) == words
