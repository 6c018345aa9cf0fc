"""Unknown keys and wrong values of a config are refused wherever they come from, before the run folder is touched."""

import os
import sys

import pytest

from mimsuite import api, app
from mimsuite.errors import InputError
from mimsuite.tasks import pretrain

OURS = "_target_: mimsuite.masked.samplers.RandomMask\nunit: auto\n"
MINE = "_target_: mine.Mask\nunit: auto\nratio: 1\n"
SMALL = ("model=vit_nano", "image_size=32", "batch=4", "steps=1", "workers=0")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A function: exit code and error line of `mimsuite pretrain`, in this process, with a config folder of one's own.

    Afterwards nothing but that folder is there.
    """
    monkeypatch.chdir(tmp_path)

    def call(*arguments, **files):
        for name, text in files.items():
            file = tmp_path / "conf" / f"{name.replace('__', '/')}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        folder = ("--config-dir", "conf") if files else ()
        monkeypatch.setattr(sys, "argv", ["pretrain", *folder, "out=run", *SMALL, *arguments])
        code = app.run_guarded(lambda: app.through_hydra("pretrain", pretrain.run), "pretrain")
        assert not (tmp_path / "run").exists()
        return code, capsys.readouterr().err

    return call


RECIPE = "# @package _global_\n"


@pytest.mark.parametrize(
    ("files", "arguments", "says"),
    [
        ({"experiment__bad": RECIPE + "stepz: 6\n"}, ["experiment=bad"], "unknown key 'stepz'; did you mean steps?"),
        ({"experiment__bad": RECIPE + "loader:\n  lane: 6\n"}, ["experiment=bad"], "did you mean loader.lanes?"),
        ({"experiment__bad": RECIPE + "mask:\n  ratoi: 0.5\n"}, ["experiment=bad"], "did you mean mask.ratio?"),
        (
            {"mask__mine": OURS + "ratoi: 1"},
            ["mask=mine"],
            "did you mean mask.ratio?",
        ),
        ({"loader__mine": "lanes: 1\nwindows: 16\n"}, ["loader=mine"], "did you mean loader.window?"),
        ({"new__mine": "a: 1\n"}, ["+new=mine"], "unknown key 'new'"),
        ({}, ["objective=latent", "objective.fourier=1"], "objective.fourier does not go with the objective= that"),
        ({}, ["mask=multi_block", "mask.ratio=0.5"], "mask.ratio does not go with the mask= that is chosen"),
        ({}, ["+stepz=6"], "unknown key 'stepz'; did you mean steps?"),
        ({}, ["+trainer.max_steps=3"], "trainer.max_steps=3 would have no effect: the run sets it; remove it"),
        ({}, ["+trainer.strateggy=fsdp"], "unknown key 'trainer.strateggy'; did you mean trainer.strategy?"),
        ({}, ["+optim.lr=3"], "optim.lr=3 would have no effect: the run sets it; remove it"),
        ({}, ["+callbacks.monitor.log_evry=3"], "did you mean callbacks.monitor.log_every?"),
        ({}, ["+logger.wandb.projct=a"], "did you mean logger.wandb.project?"),
        ({}, ["+callbacks.mine.a=1"], "callbacks.mine={'a': 1} has no _target_"),
        ({}, ["callbacks.monitor.log_every=0"], "log_every=0 is not a whole number"),
        ({}, ["callbacks.monitor.log_every=often"], "mimsuite.callbacks.monitor.Monitor: TypeError: '<' not supported"),
        ({}, ["+trainer.profiler=slow"], "When passing string value for the `profiler` parameter"),
        ({}, ["augment.scale=1"], "RandomResizedCrop: TypeError: 'int' object is not subscriptable; check the keys"),
        (
            {"mask__mine": MINE},
            ["mask=mine"],
            "_target_=mine.Mask is not allowed",
        ),
        (
            {"mask__mine": MINE},
            ["mask=mine", "trusted_targets=[mine.Mask]"],
            "_target_=mine.Mask does not exist",
        ),
    ],
)
def test_an_error_in_a_config_is_one_line_and_leaves_no_folder(files, arguments, says, command):
    code, text = command(*arguments, **files)
    assert says in text
    assert code == 2
    assert len(text.splitlines()) == 1


def test_from_python_too(tmp_path):
    with pytest.raises(InputError, match=r"unknown key 'stepz'; did you mean steps\?"):
        api.call("pretrain", {"out": str(tmp_path / "run"), "+stepz": 3})


def test_what_an_object_takes_may_be_added(tmp_path):
    """A key that AdamW and Lightning's Trainer have, and a callback of Lightning."""
    from mimsuite.config.composing import compose_task, unknown_keys

    added = ["+optim.amsgrad=true", "+trainer.profiler=simple", "+callbacks.mine._target_=a.B", "+callbacks.mine.c=1"]
    cfg, choices = compose_task("pretrain", [*added, "experiment=mae_vit_base_800ep", "mask=block"])
    assert unknown_keys(cfg, "pretrain", choices) == []
    assert os.environ.get("HYDRA_FULL_ERROR") != "0"
