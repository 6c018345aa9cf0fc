"""A run that goes on: with the same data, wherever they are now, and for longer, at the rate of a longer run."""

import re
import shutil

import numpy as np
import pytest
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image

import mimsuite
from mimsuite.errors import InputError
from mimsuite.objectives.objective import Objective
from mimsuite.objectives.schedules import WarmupCosine
from mimsuite.pictures.curves import read_metrics
from mimsuite.settings.resume import check_data

NANO = {"model": "vit_nano", "image_size": 32, "batch": 4, "workers": 0, "schedule.warmup": 1, "optim.base_lr": 0.01}
NANO |= {"val_every": 2, "callbacks.monitor.log_every": 1, "lr": 1e-3}


def images(folder, count, seed=0):
    random = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory, one_thread):
    """A folder of images, shards of them, and runs of four steps on each."""
    place = tmp_path_factory.mktemp("begun")
    images(place / "images", 12)
    mimsuite.pack(src=str(place / "images"), out=str(place / "shards"), val_fraction=0.2)
    for name in ("images", "shards"):
        mimsuite.pretrain(data=str(place / name), out=str(place / f"of-{name}"), steps=4, **NANO)
    return place


@pytest.fixture
def copy(begun, tmp_path):
    """A copy of all that, to change."""
    shutil.copytree(begun, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_longer_run_goes_on_at_the_rate_of_a_longer_run(copy, caplog, monkeypatch):
    run, right, rates = copy / "of-images", Objective.optimizer_step, []

    def step(self, epoch, batch_idx, optimizer, closure=None):
        rates.append(optimizer.param_groups[0]["lr"])
        right(self, epoch, batch_idx, optimizer, closure)

    monkeypatch.setattr(Objective, "optimizer_step", step)
    summary = mimsuite.pretrain(data=str(copy / "images"), out=str(run), steps=10, resume=True)
    planned = WarmupCosine(steps=10, warmup=1, start=1e-3, end=1e-2)
    assert summary["steps"] == 10
    assert rates == [1e-3 * planned(step) for step in range(4, 10)]  # a run of four ended at 1e-5
    assert f"at step 4 of 10, learning rate {rates[0]:.3g} (peak 0.001)" in caplog.text
    assert "steps=10, it was 4: from here on the learning rate is that of a run of 10 steps" in caplog.text


def test_steps_stay_whole_where_a_resumed_run_has_other_micro_batches(begun, tmp_path):
    losses = []
    for first in ("4", "2"):
        out = tmp_path / first
        mimsuite.pretrain(data=str(begun / "images"), out=str(out), steps=3, micro_batch=int(first), **NANO)
        config = out / "config.yaml"
        config.write_text(config.read_text().replace("micro_batch: 4", "micro_batch: 2"))  # as on other devices
        mimsuite.pretrain(out=str(out), steps=6, resume=True)
        losses.append(read_metrics(out / "metrics.csv")["train/loss"][1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_run_that_validates_nothing_commits_its_steps_and_goes_on(one_thread, tmp_path, caplog):
    out = tmp_path / "out"
    data = str(images(tmp_path / "images", 12))
    keys = {"data": data, "out": str(out), "+trainer.limit_val_batches": 0, "save_every": 1}
    summary = mimsuite.pretrain(steps=4, **NANO, **keys)
    assert (summary["status"], summary["steps"]) == ("done", 4)
    assert sorted(file.name for file in (out / "checkpoints").glob("*.ckpt")) == [
        "step_000000003.ckpt",
        "step_000000004.ckpt",
    ]
    assert "done: 4 steps, nothing was validated" in caplog.text
    assert mimsuite.pretrain(steps=5, resume=True, out=str(out))["steps"] == 5
    assert "resume    at step 4 of 5" in caplog.text


def test_a_finished_run_says_that_nothing_is_left(copy, caplog):
    mimsuite.pretrain(out=str(copy / "of-shards"), data=str(copy / "shards"), resume=True)
    assert "did its 4 steps; give a larger steps= to train longer" in caplog.text


def test_the_last_metrics_are_those_of_the_last_step(begun, copy):
    run = copy / "of-shards"
    summary = mimsuite.pretrain(out=str(run), data=str(copy / "shards"), steps=7, resume=True)
    steps, losses = read_metrics(run / "metrics.csv")["val/loss"]
    assert steps.tolist() == [0, 2, 4, 6, 7]  # val_every=2
    assert summary["metrics"]["val/loss"] == losses[-1] != losses[-2]
    assert (run / "pictures" / "step_000007.png").exists()
    at_once = mimsuite.pretrain(data=str(begun / "shards"), out=str(copy / "at-once"), steps=3, **NANO)
    assert at_once["status"] == "done"
    assert "stopped_early_of" not in at_once
    assert (copy / "at-once" / "checkpoints" / "step_000000003.ckpt").exists()


def test_a_run_without_its_checkpoints_does_not_begin_anew_in_silence(copy):
    run = copy / "of-shards"
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.csv").read_bytes()
    with pytest.raises(InputError, match=f"did 4 steps, and its checkpoints/ are gone; .* with init={run}"):
        mimsuite.pretrain(out=str(run), data=str(copy / "shards"), steps=6, resume=True)
    assert (run / "metrics.csv").read_bytes() == before


def test_a_run_that_a_callback_stopped_is_done(begun, copy, caplog):
    def patience():
        return [EarlyStopping("val/loss", patience=1, min_delta=10.0)]

    more = {"data": str(begun / "shards"), "out": str(copy / "early")}
    first = mimsuite.pretrain(**more, steps=20, callbacks=patience(), **NANO)
    assert 0 < first["steps"] < 20
    assert mimsuite.pretrain(**more, resume=True, callbacks=patience()) == first
    assert f"stopped early at step {first['steps']} of 20; give a larger steps=" in caplog.text
    assert mimsuite.pretrain(**more, resume=True, steps=22)["steps"] == 22


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", "{", "summary.json cannot be read"),
        ("environment.json", "{}x", "environment.json cannot be read"),
        ("config.yaml", "", "config.yaml is not a run's config"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(copy, name, content, said):
    run = copy / "of-shards"
    (run / name).write_text(content)
    with pytest.raises(InputError, match=said):
        mimsuite.pretrain(out=str(run), data=str(copy / "shards"), resume=True, steps=5)


@pytest.mark.parametrize("name", ["images", "shards"])
def test_data_that_moved_are_known_again(name, copy, begun):
    run = copy / f"of-{name}"
    (copy / name).rename(copy / "elsewhere")
    assert mimsuite.pretrain(out=str(run), data=str(copy / "elsewhere"), steps=5, resume=True)["steps"] == 5
    assert f"data: {copy / 'elsewhere'}\n" in (run / "config.yaml").read_text()
    assert (run / "data.json").read_text() == (begun / f"of-{name}" / "data.json").read_text()
    assert mimsuite.pretrain(out=str(run), steps=6, resume=True)["steps"] == 6


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (7, r"split train had 10 images in 1 shard, and has 6 images in 1 shard"),
        (12, r"(sha256|bytes) \w+, and has \w+"),
    ],
)
def test_other_data_at_the_same_place_are_refused(count, says, copy):
    shutil.rmtree(copy / "shards")
    images(copy / "others", count, seed=1)
    mimsuite.pack(src=str(copy / "others"), out=str(copy / "shards"), val_fraction=0.2)
    before = {path.name: path.stat().st_mtime_ns for path in (copy / "of-shards").iterdir()}
    with pytest.raises(InputError, match="other data than the run began with") as error:
        mimsuite.pretrain(out=str(copy / "of-shards"), data=str(copy / "shards"), steps=6, resume=True)
    assert re.search(says, str(error.value))
    assert {path.name: path.stat().st_mtime_ns for path in (copy / "of-shards").iterdir()} == before


def test_a_run_of_an_earlier_version_goes_on_with_a_line(copy, caplog):
    (copy / "of-shards" / "data.json").unlink()
    check_data(str(copy / "of-shards"), {})
    assert "whether the data are the same as then is not checked" in caplog.text


def test_a_damaged_record_of_the_data_is_named(copy):
    for text in ("{", '{"train": 3}', "[]"):
        (copy / "of-shards" / "data.json").write_text(text)
        with pytest.raises(InputError, match=r"data.json cannot be read .*; remove it to go on without checking"):
            check_data(str(copy / "of-shards"), {"train": []})


def test_more_epochs_are_asked_for_as_steps(copy):
    with pytest.raises(InputError, match="cannot change epochs=9; to train longer, give a larger steps="):
        mimsuite.pretrain(out=str(copy / "of-shards"), epochs=9, resume=True)
