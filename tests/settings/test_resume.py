"""What a resumed run takes from its stored config and what from today's."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mimsuite.config.composing import compose_task
from mimsuite.errors import InputError
from mimsuite.settings.objects import NO_OBJECTS, split_objects
from mimsuite.settings.online_probe import read_keeps
from mimsuite.settings.resume import continue_config, joined_overrides
from mimsuite.settings.training import read_weights


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 10\nlr: 0.1\nout: elsewhere\n")
    return {"out": str(tmp_path), "steps": 10, "lr": 0.2, "resume": True, "overwrite": False}


def test_a_key_that_is_younger_than_the_run_has_its_default_and_all_others_stay(run):
    resumed = continue_config(OmegaConf.create({**run, "online_probe": False}), ["resume=true"])
    assert resumed.online_probe is False
    assert resumed.lr == 0.1


def test_a_younger_key_that_is_given_is_obeyed(run):
    resumed = continue_config(OmegaConf.create({**run, "online_probe": True}), ["resume=true", "online_probe=true"])
    assert resumed.online_probe is True


def test_an_older_key_may_not_change(run):
    with pytest.raises(InputError, match="cannot change lr: the run has"):
        continue_config(OmegaConf.create(run), ["resume=true", "lr=0.2"])


def test_what_is_trusted_may_change(run, tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 10\ntrusted_targets: [a.B]\n")
    changed = OmegaConf.create({**run, "trusted_targets": ["a.B", "c.D"]})
    assert continue_config(changed, ["trusted_targets=[a.B,c.D]"]).trusted_targets == ["a.B", "c.D"]


def test_machines_and_the_patience_with_the_loader_may_change(run, tmp_path):
    stored = "steps: 10\nmicro_batch: 8\ntrainer:\n  num_nodes: 1\n  clip: 1.0\nloader:\n  timeout: 300\n  lanes: 8\n"
    (tmp_path / "config.yaml").write_text(stored)
    now = {**run, "trainer": {"num_nodes": 2, "clip": 2.0}, "loader": {"patience": 60, "timeout": 20, "lanes": 4}}
    given = ["resume=true", "trainer.num_nodes=2", "loader.patience=60"]
    resumed = continue_config(OmegaConf.create(now), given)
    assert resumed.trainer == {"num_nodes": 2, "clip": 1.0}
    assert resumed.loader == {"patience": 60, "timeout": 20, "lanes": 8}
    assert resumed.micro_batch == "auto"  # another number of processes shares the batch
    for key, value in (("trainer.clip", 2.0), ("loader.lanes", 4)):
        with pytest.raises(InputError, match=f"cannot change {key}: the run has"):
            continue_config(OmegaConf.create(now), ["resume=true", f"{key}={value}"])


def test_a_logger_that_is_removed_is_gone(run, tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 10\nlogger:\n  wandb: {_target_: a.B}\n  mine: {_target_: c.D}\n")
    resumed = continue_config(OmegaConf.create({**run, "logger": {}}), ["resume=true", "~logger.wandb"])
    assert resumed.logger == {"mine": {"_target_": "c.D"}}
    assert resumed.steps == 10


def test_weights_that_moved_are_not_needed_once_the_run_has_a_checkpoint(run, tmp_path):
    (tmp_path / "config.yaml").write_text(f"init: {tmp_path}/gone\n")
    (tmp_path / "elsewhere").mkdir()
    cfg = OmegaConf.create({**run, "init": str(tmp_path / "elsewhere")})
    assert continue_config(cfg, [f"init={tmp_path}/elsewhere"]).init == f"{tmp_path}/gone"
    begun = Path(__file__).parents[1] / "data" / "runs_0_1_0" / "pretrain_interrupted"
    assert read_weights(str(tmp_path / "gone"), NO_OBJECTS, str(begun)).checkpoint is not None
    with pytest.raises(InputError, match=r"init=.*gone does not exist"):
        read_weights(str(tmp_path / "gone"), NO_OBJECTS, str(tmp_path))
    with pytest.raises(InputError, match=r"init=.*gone does not exist"):
        read_weights(str(tmp_path / "gone"), NO_OBJECTS, None)


def test_a_path_in_another_spelling_is_no_change(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(f"labels: {tmp_path}/forty.csv\n")
    cfg = OmegaConf.create({**run, "labels": "./forty.csv"})
    assert continue_config(cfg, ["labels=./forty.csv"]).labels == f"{tmp_path}/forty.csv"


@pytest.mark.parametrize(
    ("choice", "names"),
    [("default", ["wandb"]), ("[tensorboard,wandb]", ["tensorboard", "wandb"]), ("mlflow", ["mlflow"]), ("none", [])],
)
def test_loggers_are_chosen_by_name_also_for_a_run_that_goes_on(choice, names, run, tmp_path):
    cfg, _ = compose_task("pretrain", [f"out={tmp_path}", "resume=true", f"logger={choice}"])
    assert list(cfg.logger) == names
    (tmp_path / "config.yaml").write_text("steps: 10\nlogger:\n  wandb: {_target_: a.B}\n")
    resumed = continue_config(OmegaConf.create({**run, "logger": cfg.logger}), ["resume=true", f"logger={choice}"])
    assert list(resumed.logger) == names


def test_a_value_that_was_given_before_is_obeyed_when_it_is_given_again(run, tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 20\nworkers: 4\ndevices: 2\nmicro_batch: 8\n")
    (tmp_path / "overrides.txt").write_text("steps=10\nworkers=2\ndevices=2\nworkers=4\nsteps=20\n")
    now = OmegaConf.create({**run, "steps": 20, "workers": 2, "devices": 2})
    resumed = continue_config(now, ["workers=2", "devices=2", "steps=20"])
    assert (resumed.workers, resumed.micro_batch) == (2, 8)
    with pytest.raises(InputError, match="resume=true with steps=10, but the run was started for 20"):
        continue_config(OmegaConf.create(run), ["steps=10"])


def test_epochs_of_the_first_start_do_not_stand_for_the_steps_of_a_longer_run(run, tmp_path):
    now = OmegaConf.create({**run, "epochs": 3})
    (tmp_path / "overrides.txt").write_text("epochs=3\n")
    assert continue_config(now, ["epochs=3"]).steps == 10
    (tmp_path / "overrides.txt").write_text("epochs=3\nsteps=10\n")
    with pytest.raises(InputError, match="cannot change epochs=3; to train longer, give a larger steps="):
        continue_config(now, ["epochs=3"])


def test_a_recipe_is_not_added_to_a_run_that_goes_on(run, tmp_path):
    cfg = OmegaConf.create(run)
    with pytest.raises(InputError, match="cannot add experiment=small_data: the run was started without one"):
        continue_config(cfg, ["experiment=small_data"])
    (tmp_path / "overrides.txt").write_text("experiment=small_data\n")
    assert continue_config(cfg, ["experiment=small_data"]).lr == 0.1
    with pytest.raises(InputError, match="cannot add experiment=small_conv: the run was started with another"):
        continue_config(cfg, ["experiment=small_conv"])


def test_arguments_of_a_run_are_written_so_that_the_last_of_a_key_is_in_force():
    before = ["out=a", "workers=2", "workers=4"]
    assert joined_overrides(before, ["workers=2", "resume=true"]) == ["out=a", "workers=4", "workers=2"]
    assert joined_overrides([], ["a=1", "b=2", "a=1"]) == ["a=1", "b=2"]


def test_an_online_probe_that_is_switched_off_keeps_no_weights_any_more(run, tmp_path):
    for keeper in ("", "  best_probe: {_target_: a.B, keep: true, metric: auto}\n"):
        (tmp_path / "config.yaml").write_text(f"online_probe: true\ncallbacks:\n  monitor: {{log_every: 5}}\n{keeper}")
        now = OmegaConf.create({**run, "online_probe": False, "callbacks": {"best_probe": {"keep": "auto"}}})
        resumed = continue_config(now, ["resume=true", "online_probe=false"])
        assert OmegaConf.select(resumed, "callbacks.best_probe.keep") is (False if keeper else None)
        assert not read_keeps(resumed)
    off = OmegaConf.create({**run, "callbacks": {"best_probe": {"keep": False}}})
    resumed = continue_config(off, ["resume=true", "callbacks.best_probe.keep=false"])
    assert (resumed.online_probe, resumed.callbacks.best_probe.keep) == (True, False)


@pytest.mark.parametrize("steps", [2e4, "20k", 10.5, [20]])
def test_a_length_that_is_no_whole_number_is_named_as_that(steps, run):
    cfg = OmegaConf.create({**run, "steps": steps})
    with pytest.raises(InputError, match=r"steps=.* is not a whole number of at least 10; give one"):
        continue_config(cfg, ["resume=true", f"steps={steps}"])


@pytest.mark.parametrize(
    ("task", "stored", "is_one_of"),
    [
        ("finetune", "{mask: {ratio: 0.6}, micro_batch: 8}", "a run of `mimsuite pretrain`"),
        ("pretrain", "{label_fraction: 1.0}", "a run of `mimsuite finetune`"),
        ("pretrain", "{layers: auto}", "no run that trains"),
        ("finetune", "{mask: {ratio: 0.6}, split: auto}", "no run that trains"),
    ],
)
def test_a_task_goes_on_with_its_own_runs_alone(task, stored, is_one_of, tmp_path):
    (tmp_path / "config.yaml").write_text(stored)
    overrides = [f"out={tmp_path}", "resume=true"]
    with pytest.raises(InputError, match=f"out={tmp_path} is {is_one_of}, and `mimsuite {task}` goes on with its own"):
        continue_config(compose_task(task, overrides)[0], overrides)


def test_loggers_and_callbacks_that_were_removed_stay_away(tmp_path):
    cfg, _ = compose_task("pretrain", [f"out={tmp_path}", "resume=true"])
    (tmp_path / "config.yaml").write_text("{mask: {}, micro_batch: 4}")  # as of ~logger, logger=[] and ~callbacks
    resumed = continue_config(cfg, ["resume=true"])
    assert "logger" not in resumed
    assert "callbacks" not in resumed
    assert list(continue_config(cfg, ["resume=true", "logger=wandb"]).logger) == ["wandb"]


def test_no_loggers_from_python_are_none():
    assert split_objects("pretrain", {"logger": [], "callbacks": []}) == ({"logger": []}, NO_OBJECTS)
