"""Callbacks use what an objective offers, of whatever class it is."""

import threading
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule
from run_facts import context_of

from mimsuite.callbacks.best_weights import BestWeights
from mimsuite.callbacks.checkpoints import Checkpoints
from mimsuite.callbacks.reconstructions import Reconstructions
from mimsuite.errors import InputError
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.prediction import MaskedPrediction
from mimsuite.masked.targets import Pixels
from mimsuite.types import Batch


class Anything(LightningModule):
    """An objective that is no subclass of ours."""

    selection_metric, evaluated_model, last_metrics = "val/kappa", "the model", {}

    def picture(self, batch):
        if batch.mask is None:
            return None
        normalize = Normalize([0.5] * 3, [0.25] * 3)
        facts = {"target": Pixels(), "cell": (8, 8), "normalize": normalize, "loss_name": "l1"}
        prediction = normalize(batch.images)
        return MaskedPrediction(
            images=batch.images, mask=batch.mask, prediction=prediction, loss=prediction.sum() * 0, **facts
        )


class Album:
    """A logger of a user that takes pictures."""

    def __init__(self):
        self.pictures = []

    def log_picture(self, name, path, step):
        self.pictures.append((name, path.name, step))


def trainer(step=0, loggers=()):
    return SimpleNamespace(global_step=step, sanity_checking=False, is_global_zero=True, loggers=loggers)


def test_the_largest_selection_metric_is_written(tmp_path):
    saved = []
    callback, module = BestWeights(context=context_of(tmp_path, save_weights=saved.append)), Anything()
    callback.setup(trainer(), module, "fit")
    for step, value in enumerate((0.2, 0.1, float("nan"), 0.3)):
        module.last_metrics = {"val/kappa": value, "val/loss": 9.0}
        callback.on_validation_end(trainer(step), module)
    assert saved == ["the model", "the model"]
    assert (callback.best.value, callback.best.step) == (0.3, 3)


def test_an_objective_without_such_a_metric_is_refused_before_the_first_step(tmp_path):
    module = Anything()
    module.selection_metric = None
    with pytest.raises(InputError, match="Anything has no metric that says which weights are best; use ~callbacks"):
        BestWeights(context=context_of(tmp_path)).setup(trainer(), module, "fit")


@pytest.mark.parametrize("masks", [True, False])
def test_pictures_go_to_every_logger_that_takes_them(masks, tmp_path):
    album = Album()
    callback, module = Reconstructions(images=2, context=context_of(tmp_path)), Anything()
    mask = torch.ones(5, 2, 2, dtype=torch.bool) if masks else None
    images = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
    callback.on_validation_batch_end(trainer(), module, None, Batch(images, torch.arange(5), mask, None, []), 0)
    callback.on_validation_epoch_end(trainer(7, [album, object()]), module)
    assert album.pictures == ([("reconstructions", "step_000007.png", 7)] if masks else [])
    assert (tmp_path / "pictures" / "step_000007.png").is_file() == masks


def processes(count, saved):
    """The trainers of a run in some processes; `saved` gets the rank of each that saves."""

    def make(rank):
        return SimpleNamespace(
            **{"global_step": 5, "accumulate_grad_batches": 1, "max_steps": 100, "val_check_batch": 50},
            **{"world_size": count, "is_global_zero": rank == 0, "should_stop": False},
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=4, _batches_that_stepped=4)),
            save_checkpoint=lambda path: saved.append(rank),
        )

    return [make(rank) for rank in range(count)]


def exchange(count):
    """What `highest` does in processes, for threads."""
    place, told = threading.Barrier(count), {}

    def highest(values):
        told[threading.get_ident()] = values
        place.wait(10)
        found = [max(column) for column in zip(*told.values(), strict=True)]
        place.wait(10)
        return found

    return highest


@pytest.mark.parametrize(("first", "second", "both"), [(301, 0, True), (299, 301, False), (0, 0, False)])
def test_the_clock_of_the_first_process_makes_a_checkpoint_due_in_both(first, second, both, monkeypatch, tmp_path):
    saved, callbacks = [], []
    for age in (first, second):
        monkeypatch.setattr("mimsuite.callbacks.checkpoints.time.perf_counter", lambda age=age: 1000.0 - age)
        callbacks.append(Checkpoints(tmp_path, 500, seconds=300))
    monkeypatch.setattr("mimsuite.callbacks.checkpoints.time.perf_counter", lambda: 1000.0)
    monkeypatch.setattr("mimsuite.callbacks.checkpoints.highest", exchange(2))
    calls = [
        threading.Thread(target=callback.on_train_batch_end, args=(one, Anything(), None, None, 4))
        for callback, one in zip(callbacks, processes(2, saved), strict=True)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join(20)
    assert sorted(saved) == ([0, 1] if both else [])
