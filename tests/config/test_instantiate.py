"""Only targets on the list are called, and they are judged before anything is."""

import pytest
from omegaconf import OmegaConf

from mimsuite.config.instantiate import (
    MADE_BY_RUNS,
    MOVED,
    defined_name,
    instantiate,
    judge,
    judge_names,
    resolve,
    trusted_targets,
)
from mimsuite.errors import InputError


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "eval",
        "torch.load",
        "torch.hub.load",
        "torch.serialization.load",
        "numpy.load",
        "webdataset.gopen",
        "mimsuite.runs.folder.shutil.rmtree",
        "mimsuite.runs.objects.os.system",
        "mimsuite.runs.checkpoints.torch.load",
        "mimsuite.runs.loggers.files.FileLogger",
        "mimsuite.callbacks.checkpoints.Checkpoints",
        "mimsuite.runs.objects.RunFolder",
        "lightning.pytorch.trainer.trainer.os.system",
        "hydra.utils.get_method",
    ],
)
def test_hostile_targets_are_refused(target):
    with pytest.raises(InputError, match="is not allowed"):
        judge(target, ())


def test_a_hostile_target_deep_inside_is_refused_before_anything_is_called(tmp_path):
    canary = tmp_path / "canary"
    node = OmegaConf.create(
        {
            "_target_": "mimsuite.objectives.schedules.WarmupCosine",
            "steps": {"_target_": "os.system", "command": f"touch {canary}"},
            "warmup": 1,
        }
    )
    with pytest.raises(InputError, match=r"_target_=os\.system is not allowed"):
        instantiate(node)
    assert not canary.exists()


def test_ours_and_listed_targets_are_built():
    node = OmegaConf.create({"_target_": "mimsuite.objectives.schedules.WarmupCosine", "steps": 10, "warmup": 2})
    assert instantiate(node)(2) == 1.0
    judge("torch.optim.AdamW", ())


@pytest.mark.parametrize("name", ["WarmupCosine", "WarmupLinear"])
def test_a_schedule_in_the_config_of_an_older_run_is_found(name):
    node = OmegaConf.create({"_target_": f"mimsuite.objectives.optim.{name}", "steps": 10, "warmup": 2})
    assert type(instantiate(node)).__module__ == "mimsuite.objectives.schedules"


def test_every_target_that_moved_is_where_the_table_says():
    for target in MOVED.values():
        judge(target, ())


def test_every_class_that_only_runs_make_exists():
    for name in MADE_BY_RUNS:
        assert defined_name(resolve(name)) == name


def test_a_missing_target_is_named():
    with pytest.raises(InputError, match=r"mimsuite.objectives.schedules.Nope does not exist"):
        judge("mimsuite.objectives.schedules.Nope", ())


def test_trust_comes_from_the_command_line_only():
    cfg = OmegaConf.create({"trusted_targets": ["collections.Counter"]})
    with pytest.raises(InputError, match="give it on the command line"):
        trusted_targets(cfg, ["steps=1"])
    trusted = trusted_targets(cfg, ["trusted_targets=[collections.Counter]"])
    assert instantiate(OmegaConf.create({"_target_": "collections.Counter"}), trusted) == {}


def test_all_foreign_names_of_a_config_are_refused_in_one_line():
    nodes = [{"_target_": "a.B"}, {"deep": {"_target_": "c.D"}}, {"_target_": "mimsuite.masked.samplers.NoMask"}]
    cfg = OmegaConf.create({"nodes": nodes, "again": {"_target_": "a.B"}, "given": {"_target_": "e.F"}})
    with pytest.raises(
        InputError, match=r"^_target_=a.B is not allowed, nor c.D; .*trusted_targets=\[e.F,a.B,c.D\] on"
    ):
        judge_names(cfg, ("e.F",))
    judge_names(cfg, ("c.D", "e.F", "a.B"))


def test_an_argument_that_does_not_fit_is_one_line():
    node = OmegaConf.create(
        {"_target_": "mimsuite.objectives.schedules.WarmupCosine", "steps": 10, "warmup": 1, "wramup": 2}
    )
    with pytest.raises(InputError, match="wramup"):
        instantiate(node)
