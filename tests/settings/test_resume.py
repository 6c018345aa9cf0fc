"""What a resumed run takes from its stored config and what from today's."""

import pytest
from omegaconf import OmegaConf

from mimsuite.errors import InputError
from mimsuite.settings.resume import continue_config


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


def test_a_logger_that_is_removed_is_gone(run, tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 10\nlogger:\n  wandb: {_target_: a.B}\n  mine: {_target_: c.D}\n")
    resumed = continue_config(OmegaConf.create({**run, "logger": {}}), ["resume=true", "~logger.wandb"])
    assert resumed.logger == {"mine": {"_target_": "c.D"}}
    assert resumed.steps == 10
