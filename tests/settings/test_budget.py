"""The batch that `batch=auto` chooses: a power of two for each process."""

import pytest
from omegaconf import OmegaConf

import mimsuite
from mimsuite.errors import InputError
from mimsuite.settings.budget import fitted_micro_batch, read_budget
from mimsuite.settings.team import team_size

TORCHRUN = {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def budget(samples, processes, batch="auto"):
    values = {"steps": 10, "epochs": None, "lr": "auto", "val_every": "auto", "save_every": "auto", "batch": batch}
    groups = {"optim": {"weight_decay": 0, "base_lr": 1.0, "base_batch": 1}, "schedule": {"warmup": 0}}
    return read_budget(OmegaConf.create(values | groups), samples, processes)


@pytest.mark.parametrize(
    ("samples", "processes", "batch"),
    [
        *((1000, 1, 256), (1000, 2, 256), (1000, 3, 192), (1000, 5, 160), (1000, 6, 192), (1000, 7, 224)),
        *((255, 1, 128), (100, 2, 64), (100, 3, 96), (3, 3, 3), (1, 1, 1), (400, 300, 300)),
    ],
)
def test_a_batch_is_shared_by_any_number_of_processes(samples, processes, batch):
    found = budget(samples, processes)
    assert (found.batch, found.batch_chosen, found.lr) == (batch, True, batch)
    share = batch // processes
    assert fitted_micro_batch(None, batch, processes, 64) == min(share, 64)
    assert bool([note for note in found.notes if note.startswith(f"batch={batch} (")]) == (batch != 256)


def test_a_given_batch_stays_and_fewer_images_than_processes_are_refused():
    assert (budget(1000, 3, batch=31).batch, budget(1000, 3, batch=31).batch_chosen) == (31, False)
    with pytest.raises(InputError, match="3 devices need as many training images, there are 2; use fewer devices"):
        budget(2, 3)
    with pytest.raises(InputError, match=r"0 training images \(those for validation are not among them\); give at"):
        budget(0, 1)


def test_the_number_of_processes_is_that_of_the_launcher_or_the_devices(monkeypatch):
    assert [team_size(*of) for of in ((None, 1), (3, 1), (3, 2), (None, 2))] == [1, 3, 6, 2]
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert team_size(None, 1) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.base_lr": "fast"}, "optim.base_lr=fast is not a number above 0"),
        ({"steps": 2, "epochs": 3}, "steps=2 and epochs=3 are both set"),
        ({"batch": -1}, "batch=-1"),
        ({"val_every": "often"}, "val_every=often"),
    ],
    ids=str,
)
@pytest.mark.parametrize("task", [mimsuite.pretrain, mimsuite.finetune, mimsuite.plan])
def test_what_no_data_make_right_is_refused_before_they_are_opened(task, changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = {} if task is mimsuite.plan else {"out": "run"}
    with pytest.raises(InputError, match=message):
        task(data="nowhere", **out, **changes)
