"""No file of the working folder is ever imported: it may be a downloaded data set."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from mimsuite.config import python_path
from mimsuite.config.instantiate import instantiate
from mimsuite.config.python_path import leave_working_folder, task_environment
from mimsuite.errors import InputError

COMMAND = [sys.executable, "-c", "from mimsuite.cli import main; main()"]
OWN = """
import multiprocessing
from lightning.pytorch import Callback

class Workers(Callback):
    def on_fit_start(self, trainer, module):
        for method in ("fork", "spawn", "forkserver"):
            process = multiprocessing.get_context(method).Process(target=print, args=(method, "works"))
            process.start()
            process.join()
            assert process.exitcode == 0
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder with a file for every module that Python or an installed package has; each writes down its name."""
    folder, ran = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("ran") / "ran"
    names = {"sitecustomize", "usercustomize", "hydra_plugins", *sys.stdlib_module_names}
    for name in filter(str.isidentifier, names | set(metadata.packages_distributions())):
        (folder / name).mkdir()
        for file in (folder / f"{name}.py", folder / name / "__init__.py", folder / name / "more.py"):
            file.write_text(f"open({str(ran)!r}, 'a').write({name!r} + chr(10))\n")
    return folder, ran


def run(hostile, command, **env):
    folder, ran = hostile
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), env.pop("more", ""))))
    env = {**os.environ, **env} | ({"PYTHONPATH": path} if path else {})
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=110)
    assert not ran.exists(), f"imported: {ran.read_text().split()}"
    return result


def test_the_command_imports_no_file_of_the_working_folder(hostile):
    command = [sys.executable, "-P", *COMMAND[1:]]  # as the installed command, whose own folder comes first
    result = run(hostile, [*command, "models", "name=vit_tiny", "channels=4"])
    assert result.stdout.splitlines()[-1].startswith("vit_tiny")


def test_nor_do_a_sweep_its_loaders_and_its_processes_while_a_named_folder_is_obeyed(hostile, tmp_path):
    """Named with PYTHONPATH, as `docs/training.md` has it for classes of one's own."""
    (tmp_path / "own_workers.py").write_text(OWN)
    (hostile[0] / "mimsuite").rename(tmp_path / "mimsuite-of-the-folder")  # `python -m` itself would take it
    (hostile[0] / "mimsuite.py").unlink()
    values = ["model=vit_nano", "image_size=32", "batch=4", "steps=1", "workers=1", "loader.val_limit=4"]
    values += [f"out={tmp_path / 'out'}", "seed=1,2", "+callbacks.own._target_=own_workers.Workers"]
    task = [sys.executable, "-m", "mimsuite.tasks.pretrain", "-m", *values, "trusted_targets=[own_workers.Workers]"]
    result = run(hostile, task, more=str(tmp_path), WANDB_MODE="offline")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [f"{method} works" in result.stdout for method in ("fork", "spawn", "forkserver")] == [True] * 3


def test_a_class_of_the_working_folder_is_told_how_it_is_found():
    from omegaconf import OmegaConf

    with pytest.raises(InputError, match=r"mine.Mask does not exist; .* name its folder with PYTHONPATH=FOLDER"):
        instantiate(OmegaConf.create({"_target_": "mine.Mask"}), ["mine.Mask"])


@pytest.fixture
def started(monkeypatch):
    """A function that makes this process look as if `python -m MODULE` had just begun in `/data`."""

    def start(module, argv=("-m", "a=1")):
        monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "-m", module, *argv[1:]])
        monkeypatch.setattr(sys, "argv", list(argv))
        monkeypatch.setattr(sys, "path", ["/data", "/usr/lib/python"])
        monkeypatch.setattr(python_path, "os", OwnEnvironment)
        OwnEnvironment.environ = {"PYTHONPATH": ":/code"}
        leave_working_folder()
        return sys.path, OwnEnvironment.environ

    return start


class OwnEnvironment:
    """`os` with variables of its own."""

    pathsep = os.pathsep


def test_python_with_a_module_of_ours_leaves_the_working_folder(started):
    assert started("mimsuite.tasks.pretrain") == (
        ["/usr/lib/python"],
        {"PYTHONPATH": ":/code", "PYTHONSAFEPATH": "1"},
    )
    assert task_environment()["PYTHONPATH"] == "/code"  # an empty part is the working folder


def test_a_program_of_the_user_keeps_its_folder(started):
    assert started("mimsuite_of_mine.train") == (["/data", "/usr/lib/python"], {"PYTHONPATH": ":/code"})
    assert started("mimsuite.cli", argv=["/usr/bin/train.py", "a=1"])[0][0] == "/data"


def test_a_checkout_that_is_not_installed_works_in_its_own_folder(started, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [])
    path, variables = started("mimsuite.cli")
    assert path == ["/usr/lib/python", "/data"]
    assert variables["PYTHONPATH"] == "/code:/data"
