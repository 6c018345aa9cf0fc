"""What docs/extending.md promises to a user: an encoder, a mask and a callback of their own, in a package of their own.

`their_package` and `conf` are what such a user has. They are not part of mimsuite: the command finds the one through
PYTHONPATH, the other through `--config-dir`, and builds nothing that `trusted_targets` does not name.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from their_package.config import ToyConfig
from their_package.encoder import ToyForMaskedImageModeling
from their_package.sampler import DiagonalMask

from mimsuite import api, app
from mimsuite.errors import InputError
from mimsuite.models import AutoModelForMaskedImageModeling
from mimsuite.pictures.curves import read_metrics

HERE = Path(__file__).resolve().parent
ENCODER, MASK, CALLBACK = (
    "their_package.config.ToyConfig",
    "their_package.sampler.DiagonalMask",
    "their_package.callback.Diary",
)
ALL = (ENCODER, MASK, CALLBACK)
PARTS = ("model=toy", "mask=diagonal", "callbacks=diary")
SMALL = ("batch=8", "workers=0", "loader.val_limit=8", "precision=32-true")
PROBE = ("online_probe=true", "callbacks.online_probe.images=48", "callbacks.online_probe.val_images=16")


def trusted(*targets):
    return f"trusted_targets=[{','.join(targets)}]"


def command(task, *arguments, config_dir=True):
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    flags = [f"--config-dir={HERE / 'conf'}"] if config_dir else []
    line = [sys.executable, "-m", f"mimsuite.tasks.{task}", *flags, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": paths})


def refused(result):
    """The one line of a command that was refused."""
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A pretraining run with all three."""
    out = tmp_path_factory.mktemp("extending") / "run"
    result = command("pretrain", *PARTS, trusted(*ALL), *SMALL, *PROBE, f"out={out}", "steps=2")
    assert result.returncode == 0, result.stderr
    return out, result.stdout


@pytest.mark.slow
def test_a_run_with_all_three_writes_its_folder(run):
    out, log = run
    assert re.search(r"model +toy, [\d,]+ parameters", log)
    assert re.search(r"masks +units of 8 px: 32 of 64 hidden", log)
    config = json.loads((out / "weights" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("toy", ["ToyForMaskedImageModeling"])
    assert json.loads((out / "summary.json").read_text())["status"] == "done"
    stored = OmegaConf.load(out / "config.yaml")
    assert (stored.model._target_, stored.mask._target_, stored.callbacks.diary._target_) == ALL
    assert (out / "pictures" / "step_000002.png").is_file()


@pytest.mark.slow
def test_the_callback_gets_the_facts_of_the_run(run):
    diary = json.loads((run[0] / "diary.json").read_text())
    logged = read_metrics(run[0] / "metrics.csv")["train/loss"][1]
    assert (diary["batch"], diary["image_size"], list(diary["losses"])) == (8, [64, 64], ["1", "2"])
    assert diary["losses"]["2"] == pytest.approx(float(logged[-1]), abs=0.1)


@pytest.mark.slow
def test_features_of_the_encoder_are_measured_during_the_run(run):
    metrics = read_metrics(run[0] / "metrics.csv")
    assert {"quality/rankme", "knn/top1", "probe/top1"} <= metrics.keys()
    assert metrics["quality/rankme"][1][-1] > 1


@pytest.mark.slow
def test_python_reads_the_weights_by_the_users_own_class(run):
    model = ToyForMaskedImageModeling.from_pretrained(run[0] / "weights")
    stored = load_file(run[0] / "weights" / "model.safetensors")
    assert model.state_dict().keys() == stored.keys()
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert {"mask_token", "toy.norm.weight", "decoder.0.weight"} <= stored.keys()
    assert model.encoder.forward_features(torch.randn(1, 3, 64, 96)).grid.shape == (1, 16, 8, 12)


@pytest.mark.slow
def test_a_resumed_run_goes_on_without_the_config_folder(run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    result = command("pretrain", f"out={out}", "resume=true", "steps=3", trusted(*ALL), config_dir=False)
    assert result.returncode == 0, result.stderr
    before, after = (json.loads((place / "diary.json").read_text())["losses"] for place in (run[0], out))
    assert list(after) == ["1", "2", "3"]
    assert before.items() <= after.items()
    assert json.loads((out / "summary.json").read_text())["steps"] == 3


@pytest.mark.slow
def test_another_run_starts_from_its_weights(run, tmp_path):
    out = tmp_path / "run"
    values = (f"init={run[0]}", "model=toy", trusted(ENCODER), *SMALL, f"out={out}", "steps=1", "lr=1e-30")
    result = command("pretrain", *values)
    assert result.returncode == 0, result.stderr
    one, other = (load_file(place / "weights" / "model.safetensors") for place in (run[0], out))
    assert one.keys() == other.keys()
    assert all(torch.allclose(value, other[name], rtol=0, atol=1e-7) for name, value in one.items())


# --- trust -----------------------------------------------------------------------------------------------------

CHOICES = {
    ENCODER: ["model=toy"],
    MASK: ["model=vit_nano", "mask=diagonal"],
    CALLBACK: ["model=vit_nano", f"+callbacks.mine={{_target_:{CALLBACK},every:1}}"],
}


@pytest.mark.parametrize("target", ALL)
def test_without_trust_each_is_refused_before_anything_is_written(target, tmp_path):
    line = refused(command("pretrain", *CHOICES[target], *SMALL, f"out={tmp_path / 'run'}", "steps=1"))
    assert f"_target_={target} is not allowed; " in line
    assert line.endswith(f"if you trust it, use {trusted(target)} on the command line")
    assert not (tmp_path / "run").exists()


def test_all_that_are_not_trusted_are_named_at_once(tmp_path):
    line = refused(command("pretrain", *PARTS, trusted(MASK), *SMALL, f"out={tmp_path / 'run'}", "steps=1"))
    names = set(re.search(r"if you trust them, use trusted_targets=\[(.+)\]", line)[1].split(","))
    assert names == set(ALL)
    assert f"_target_={MASK} " not in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_resumed_run_needs_the_trust_again(run):
    before = sorted(run[0].rglob("*"))
    line = refused(command("pretrain", f"out={run[0]}", "resume=true", "steps=3", config_dir=False))
    assert f"{CALLBACK}'] stands in a config file; give it on the command line" in line
    assert sorted(run[0].rglob("*")) == before


@pytest.mark.slow
def test_a_run_folder_adds_nothing_to_what_the_command_line_trusts(run, tmp_path):
    """Somebody else's folder: the command line says what its `overrides.txt` says, and its config trusts more."""
    out, canary = tmp_path / "run", tmp_path / "canary"
    shutil.copytree(run[0], out)
    config = OmegaConf.load(out / "config.yaml")
    config.trusted_targets.append("webdataset.gopen")
    config.callbacks["mine"] = {"_target_": "webdataset.gopen", "url": f"pipe:touch {canary}"}
    OmegaConf.save(config, out / "config.yaml")
    assert trusted(*ALL) in (out / "overrides.txt").read_text().splitlines()
    line = refused(command("pretrain", f"out={out}", "resume=true", "steps=3", trusted(*ALL), config_dir=False))
    assert "_target_=webdataset.gopen is not allowed" in line
    assert not canary.exists()


# --- what is not possible from outside -------------------------------------------------------------------------


@pytest.mark.slow
def test_other_tasks_refuse_the_encoder_in_one_line(run, tmp_path, capsys):
    tasks = {"probe": {"out": tmp_path / "a"}, "embed": {"out": tmp_path / "a.npz"}, "reconstruct": {"out": "a.png"}}
    for task, more in tasks.items():
        values = {"init": str(run[0]), **{key: str(value) for key, value in more.items()}}
        assert app.run_guarded(lambda task=task, values=values: api.call(task, values) and 0, task) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "this is a toy checkpoint; mimsuite opens bit, cvt and vit" in line
        assert "from_pretrained" in line


@pytest.mark.slow
def test_a_classifier_of_the_encoder_is_refused_in_one_line(tmp_path):
    line = refused(command("finetune", "model=toy", trusted(ENCODER), f"out={tmp_path / 'run'}", "steps=1", "batch=8"))
    assert "model: a toy is not part of mimsuite" in line
    assert not (tmp_path / "run").exists()


def test_a_model_type_of_mimsuite_is_refused():
    class Borrowed(ToyConfig):
        model_type = "vit"

    with pytest.raises(InputError, match="Borrowed has model_type='vit', which is a family of mimsuite; give it a"):
        AutoModelForMaskedImageModeling.from_config(Borrowed())
    assert isinstance(AutoModelForMaskedImageModeling.from_config(ToyConfig()), ToyForMaskedImageModeling)


# --- the sampler -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "ratio", "count"), [((8, 8), 0.5, 32), ((7, 7), 0.6, 30), ((3, 5), 1, 15), ((1, 1), 0.1, 1)]
)
def test_the_sampler_hides_the_exact_count(grid, ratio, count):
    for seed in range(10):
        mask = DiagonalMask(ratio)(grid, torch.Generator().manual_seed(seed))
        assert (mask.dtype, mask.shape, int(mask.sum())) == (torch.bool, grid, count)


@pytest.mark.parametrize("ratio", [0, 1.5, [0.3, 0.6]])
def test_the_sampler_refuses_what_is_not_a_share(ratio):
    with pytest.raises(InputError, match=r"is not in \(0, 1\]"):
        DiagonalMask(ratio)


def test_the_generator_decides_the_mask():
    masks = [DiagonalMask(0.3)((14, 14), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
