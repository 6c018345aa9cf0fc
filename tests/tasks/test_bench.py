"""`mimsuite bench`: it measures what `pretrain` does, and writes nothing but what it is asked to."""

import json
import logging
import os
from dataclasses import replace

import pytest

import mimsuite
from mimsuite import app
from mimsuite.config.folder import conf_dir
from mimsuite.config.help import documented_keys
from mimsuite.errors import InputError
from mimsuite.models.device import Device
from mimsuite.objectives.mim import MIMObjective
from mimsuite.runs import speed
from mimsuite.runs.cost import Cost
from mimsuite.runs.peak import Peak
from mimsuite.tasks import bench

KEYS = {"model": "vit_nano", "image_size": 32, "batch": 16, "workers": 0, "seed": 3}


@pytest.fixture
def here(tmp_path, monkeypatch, caplog):
    """An empty working folder; log lines are kept."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "mimsuite")
    return tmp_path


@pytest.fixture
def losses(monkeypatch):
    """The losses of all micro-batches."""
    found = []
    step = MIMObjective.training_step

    def watched(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        if loss.device.type != "meta":
            found.append(loss.item())
        return loss

    monkeypatch.setattr(MIMObjective, "training_step", watched)
    return found


def test_it_measures_the_steps_of_the_run_and_writes_one_file(here, losses, caplog):
    found = mimsuite.bench(**KEYS, micro_batch=8, seconds=0.3, out="speed.json")
    measured = losses[:2]
    assert os.listdir(here) == ["speed.json"]
    assert json.loads((here / "speed.json").read_text()) == found
    assert found["img_per_s"] == pytest.approx(found["images"] / found["seconds"])
    assert found["img_per_s"] == pytest.approx(found["mfu"] * found["peak_flops"] / found["flops_per_image"])
    assert (found["batch"], found["micro_batch"], found["image_size"]) == (16, 8, [32, 32])
    assert 0 <= found["data_wait"] < 1
    assert 0.1 < found["memory_gib"] < 100
    assert found["largest_micro_batch"] is None
    lines = caplog.text
    assert "the most that this process took of the machine's memory" in lines
    assert "a float32 matrix product measured here" in lines or "a bfloat16" in lines
    losses.clear()
    mimsuite.pretrain(**KEYS, micro_batch=8, steps=1, out="run")
    assert losses[:2] == measured, "the same weights, images, crops and masks"


def test_a_recipe_and_a_share_of_the_batch(here):
    found = mimsuite.bench(
        experiment="emoji_nano", objective="mae", head="dec1", devices=2, batch=16, workers=0, seconds=0.1
    )
    assert (found["batch"], found["devices"], found["micro_batch"]) == (16, 2, 8)
    assert os.listdir(here) == []


def test_a_sweep_measures_one_after_the_other(here, monkeypatch, capsys):
    measured = []
    monkeypatch.setattr(bench, "measure_speed", lambda run, make, seconds: measured.append(run.budget.batch) or {})
    monkeypatch.setattr("sys.argv", ["bench", "model=vit_nano", "batch=4,8", "-m"])
    monkeypatch.setenv("MIMSUITE_SWEEP", "")
    assert app.through_hydra("bench", bench.run) == 0
    assert measured == [4, 8]
    assert os.listdir(here) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "speed"}, r"out=speed does not end in .json; use out=speed.json"),
        ({"seconds": 0}, "seconds=0 is not a number above 0"),
        ({"micro_batch": 3}, "micro_batch=3 does not divide batch 16"),
        ({"batch": 100_000}, "batch=100000 is larger than"),
        ({"mask.ratio": 1.5}, "mask.ratio"),
        ({"callbacks": "pretrain"}, "callbacks"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(here, changes, message):
    with pytest.raises(InputError, match=message):
        mimsuite.bench(**{**KEYS, **changes})
    assert os.listdir(here) == []


def test_its_keys_are_those_of_pretrain():
    rows = {
        task: {
            key: (default, text)
            for key, default, text in documented_keys((conf_dir() / f"{task}.yaml").read_text().splitlines(), "")
        }
        for task in ("bench", "pretrain")
    }
    own = {"out", "seconds", "devices"}
    assert {key: row for key, row in rows["bench"].items() if key not in own} == {
        key: rows["pretrain"][key] for key in rows["bench"] if key not in own
    }
    assert rows["bench"]["devices"][0] == rows["pretrain"]["devices"][0]


@pytest.mark.parametrize(
    ("limit", "given", "micro"), [(512, "auto", 16), (4, "auto", 4), (8, 16, 16)], ids=["all", "less", "given"]
)
def test_on_a_gpu_it_tries_what_fits(here, monkeypatch, caplog, limit, given, micro):
    """A pretended one; what it would run is not run."""
    gpu, asked, ran = Device("gpu", "NVIDIA H200", 139.0, True), [], []
    choose = speed.choose_compute

    def find_limit(settings, compute, objective, data, most):
        asked.append(most)
        return limit

    def fit(trainer, objective, data, checkpoint, size):
        watch = trainer.callbacks[0]
        watch.images, watch.seconds, watch.warm = 1000, 2.0, True
        ran.append((size, data.micro_batch, trainer.accumulate_grad_batches))

    monkeypatch.setattr(speed, "choose_compute", lambda *a: replace(choose(*a), device=gpu, precision="bf16-mixed"))
    monkeypatch.setattr(speed, "find_limit", find_limit)
    monkeypatch.setattr(speed, "fit", fit)
    monkeypatch.setattr(speed, "peak_memory", lambda on: (7.5, "the most that tensors took of the GPU's memory"))
    monkeypatch.setattr(speed, "trainer_arguments", trainer_on_cpu(speed.trainer_arguments))
    found = mimsuite.bench(**KEYS, micro_batch=given)
    assert asked == [1024]
    assert ran == [(micro, micro, 16 // micro)]
    assert found["largest_micro_batch"] == limit
    assert found["mfu"] == pytest.approx(500 * found["flops_per_image"] / 989e12)
    assert f"largest   micro_batch={limit} fits into the memory" in caplog.text
    assert "the peak of NVIDIA H200 in bfloat16" in caplog.text


def trainer_on_cpu(arguments):
    return lambda settings, compute: arguments(settings, compute) | {"accelerator": "cpu"}


def test_a_long_wait_is_announced(here, caplog):
    cost = Cost(106e9, Peak(48e9, "measured"))
    speed.report_slow(64, cost)
    assert "a pass of 64 images takes at least 141 s here; micro_batch=8 is faster" in caplog.text
    caplog.clear()
    speed.report_slow(6, cost)
    assert caplog.text == ""
