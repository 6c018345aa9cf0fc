"""What `micro_batch=auto` takes on a GPU: the search by a pretended memory, and that a try leaves nothing behind."""

import contextlib
import threading
from dataclasses import replace

import pytest
import torch
from torch.distributed import HashStore

from mimsuite.app import call_task
from mimsuite.errors import RunError
from mimsuite.models.device import Device
from mimsuite.runs import fitting, life, speed
from mimsuite.runs.fitting import agree, find_limit, largest_fitting, power_below, train_on_blank
from mimsuite.settings.pretrain import read_pretrain
from mimsuite.settings.team import Team
from mimsuite.tasks.pretrain import training_task

KEYS = {"out": "unused", "model": "vit_nano", "batch": 32, "image_size": 32, "workers": 0, "steps": 3}


@pytest.mark.parametrize("first", [1, 3, 8, 64, 1000])
@pytest.mark.parametrize(
    ("memory", "most", "expected"),
    [
        (0, 64, 0),
        (1, 64, 1),
        (7, 64, 4),
        (8, 64, 8),
        (40, 64, 32),
        (64, 64, 64),
        (500, 64, 64),
        (95, 96, 64),
        (96, 96, 96),
    ],
)
def test_the_largest_size_that_fits_is_found_from_wherever_one_begins(memory, most, expected, first):
    asked = []

    def fits(size):
        asked.append(size)
        return size <= memory

    assert largest_fitting(fits, first, most) == expected
    assert len(set(asked)) == len(asked)
    assert max(asked) <= max(2 * memory, min(first, most), 1), "nothing far too large is tried"


def test_powers_of_two():
    assert [power_below(n) for n in (1, 2, 3, 4, 5, 64, 65, 96)] == [1, 1, 2, 2, 4, 32, 64, 64]


def settings_of(**keys):
    return call_task("pretrain", lambda cfg, given: read_pretrain(cfg, given, leads=False), {**KEYS, **keys})


def made(settings, **changes):
    compute = replace(life.choose_compute(settings, Team(0, 1, 1)), **changes)
    torch.manual_seed(0)
    return compute, *training_task().make(settings, compute)


GPU = Device("gpu", "a GPU", 16.0, True)


@pytest.fixture
def memory(monkeypatch):
    """A pretended GPU on which so many images fit; returns the sizes tried, and the shares of the memory allowed."""
    tried, shares = [], []

    def begin(images, error=None):
        def train(settings, compute, objective, data, size):
            tried.append(size)
            next(objective.parameters()).data.zero_()
            if size > images:
                raise error or torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(fitting, "train_on_blank", train)
        return tried, shares

    pretended = {
        **{"mem_get_info": lambda place: (12 << 30, 16 << 30), "memory_reserved": lambda place: 2 << 30},
        "set_per_process_memory_fraction": lambda share, place: shares.append(share),
        **{"empty_cache": lambda: None, "reset_peak_memory_stats": lambda place: None},
    }
    for name, function in pretended.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    return begin


@pytest.mark.parametrize(("images", "expected"), [(3, 2), (16, 16), (1000, 32)])
def test_a_run_takes_what_fits_and_its_module_stays_as_it_was(memory, images, expected):
    tried, shares = memory(images)
    settings = settings_of()
    compute, objective, data = made(settings, device=GPU, micro_batch=8)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    found = life.fit_to_memory(settings, compute, objective, data, None)
    assert found == replace(compute, micro_batch=expected)
    assert data.micro_batch == expected
    assert tried[0] == 8
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert shares == [0.9 * 14 / 16, 1.0] * len(tried), "the limit holds during the tries and not after them"


def test_a_given_micro_batch_and_a_cpu_are_not_tried(memory):
    tried, _ = memory(1)
    for changes, keys in (({"device": GPU}, {"micro_batch": 4}), ({}, {})):
        settings = settings_of(**keys)
        compute, objective, data = made(settings, **changes)
        assert life.fit_to_memory(settings, compute, objective, data, None) == compute
    assert tried == []


def test_memory_without_room_for_one_image_is_said_in_one_line(memory):
    tried, _ = memory(0, RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    settings = settings_of()
    compute, objective, data = made(settings, device=GPU, micro_batch=4)
    with pytest.raises(
        RunError, match=r"not even one image fits into the memory of a GPU \(12\.6 GiB of it are free\)"
    ):
        find_limit(settings, compute, objective, data, 32)
    assert tried == [4, 2, 1]


def test_another_error_is_not_taken_for_lack_of_memory(memory):
    memory(0, RuntimeError("an illegal memory access was encountered"))
    settings = settings_of()
    compute, objective, data = made(settings, device=GPU, micro_batch=4)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        find_limit(settings, compute, objective, data, 32)


def test_all_processes_take_the_smallest_limit():
    store, found = HashStore(), {}

    def process(rank, limit):
        found[rank] = agree(limit, Team(rank, 3, 1), store)

    threads = [threading.Thread(target=process, args=pair) for pair in enumerate((64, 16, 32))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {0: 16, 1: 16, 2: 16}
    assert agree(64, Team(0, 1, 1), None) == 64


def test_a_try_of_a_loss_that_compares_images_has_them_in_one_micro_batch():
    settings = settings_of(**{"objective.uniformity": 0.1, "objective": "mae", "mask.ratio": [0.5, 0.75]})
    compute, objective, data = made(settings)
    train_on_blank(settings, compute, objective, data, 3)
    assert objective.trainer.global_step == 2


def test_what_is_tried_and_timed_is_no_warm_start_in_which_the_teacher_has_nothing_to_do(monkeypatch):
    settings = settings_of(**{"objective": "latent", "objective.warm_start": 0.9, "steps": 100})
    compute, objective, data = made(settings)
    assert objective.warm_steps == 90
    train_on_blank(settings, compute, objective, data, 3)
    assert objective.teacher_sums.count > 0, "the teacher has seen images"
    monkeypatch.setattr(speed, "find_cost", lambda *_: None)
    assert speed.make_share(settings, training_task().make).objective.warm_steps == 0


@pytest.mark.parametrize(
    "keys", [{"mask.ratio": [0.5, 0.75], "objective": "mae"}, {"model": "cvt_nano", "image_size": 64}]
)
def test_a_try_trains_as_a_run_does(keys):
    """Two optimizer steps of two micro-batches, with every sampler of masks; here on the CPU."""
    settings = settings_of(**keys)
    compute, objective, data = made(settings)
    seen = []
    step = type(objective).training_step

    def watched(batch, batch_idx):
        seen.append((len(batch.images), batch.hidden))
        return step(objective, batch, batch_idx)

    objective.training_step = watched
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    train_on_blank(settings, compute, objective, data, 3)
    assert [count for count, _ in seen] == [3] * 4
    assert len({hidden for _, hidden in seen}) == len(settings.mask.ratio if "mask.ratio" in keys else [1])
    after = objective.state_dict()
    assert not all(torch.equal(value, before[name]) for name, value in after.items())
    assert objective.trainer.global_step == 2
