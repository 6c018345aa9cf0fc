"""What `trainer.strategy` takes, and what it refuses."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from mimsuite import api
from mimsuite.callbacks.checkpoints import Checkpoints
from mimsuite.errors import InputError
from mimsuite.models.device import Device
from mimsuite.runs.banner import describe_devices
from mimsuite.runs.cluster import AveragedGradients, SpreadWeights, choose_strategy
from mimsuite.settings.team import Team
from mimsuite.settings.trainer import Spreading, read_spreading

CPU = Device("cpu", "CPU", memory_gib=0, fast_bf16=False)


def spreading(precision="auto", master_weights=False, **keys):
    return read_spreading(OmegaConf.create({"trainer": keys}), precision, master_weights)


def test_runs_from_before_the_keys_have_none_of_them():
    assert spreading() == Spreading("auto", False, False)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"strategy": "deepspeed"}, "trainer.strategy=deepspeed is unknown; trainer.strategy takes auto, ddp, fsdp"),
        ({"sync_batchnorm": 1}, "trainer.sync_batchnorm=1 is not true or false"),
        ({"checkpoint_activations": "no"}, "trainer.checkpoint_activations=no is not true or false"),
        ({"strategy": "fsdp", "precision": "16-mixed"}, "trainer.strategy=fsdp does not work with precision=16-mixed;"),
        ({"strategy": "fsdp", "master_weights": True}, "optim.master_weights=true has two of them; use"),
    ],
)
def test_other_values_are_refused(given, line):
    with pytest.raises(InputError, match=line):
        spreading(**given)


@pytest.mark.parametrize(
    ("task", "given", "line"),
    [
        ("pretrain", {"objective": "latent"}, "^objective.teacher=ema follows the weights in steps that are too small"),
        ("pretrain", {"+objective.ema": 0.9998}, "^objective.ema=0.9998 follows .* use precision=bf16-mixed"),
        ("finetune", {"objective.ema": 0.9998}, "^objective.ema=0.9998 follows .* use precision=bf16-mixed"),
    ],
)
def test_what_follows_the_weights_is_not_kept_in_bfloat16(task, given, line, tmp_path):
    """A teacher of momentum 0.9998 would never move."""
    with pytest.raises(InputError, match=line):
        api.call(task, {"out": str(tmp_path / "out"), "model": "vit_nano", "precision": "bf16-true", **given})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("strategy", "size", "kind", "text"),
    [
        ("auto", 1, str, "1 process on CPU"),
        ("fsdp", 1, str, "1 process on CPU; trainer.strategy=fsdp is not used by one"),
        ("auto", 2, AveragedGradients, "2 processes on CPU; DDP: each has all weights"),
        ("ddp", 2, AveragedGradients, "2 processes on CPU; DDP: each has all weights"),
        ("fsdp", 2, SpreadWeights, "2 processes on CPU; FSDP: each has a part of weights"),
    ],
)
def test_the_banner_names_the_strategy_in_use(strategy, size, kind, text):
    team, chosen = Team(0, size, 1), Spreading(strategy)
    assert type(choose_strategy(chosen, team, CPU)) is kind
    inputs = SimpleNamespace(devices=None, spreading=chosen)
    assert describe_devices(inputs, SimpleNamespace(team=team, device=CPU)) == text


def test_after_an_error_spread_weights_are_not_committed_and_a_line_says_so(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints._whole = object()
    trainer = SimpleNamespace(global_step=1, is_global_zero=True, strategy=SpreadWeights(2, "gloo"))
    checkpoints.on_exception(trainer, None, ValueError())
    assert "no process has all weights, so nothing is committed after an error" in caplog.text
    assert not list(tmp_path.iterdir())
