"""What is around a run: a program without an output, threads, pools of processes, folders of recipes."""

import contextlib
import functools
import logging
import multiprocessing
import signal
import sys
import threading

import pytest
from omegaconf import OmegaConf

import mimsuite
from mimsuite.app import call_task, check_config_folders, run_guarded, through_hydra
from mimsuite.config.composing import compose_task
from mimsuite.data.progress import report_progress
from mimsuite.errors import InputError
from mimsuite.runs.life import one_at_a_time
from mimsuite.settings.machine import read_workers
from mimsuite.tasks import pretrain

SMALL = {"model": "vit_nano", "steps": 1, "batch": 8, "workers": 0, "image_size": 32, "loader.val_limit": 8}


def test_lightning_speaks_again_after_a_run(tmp_path, one_thread):
    import lightning.pytorch

    logger = logging.getLogger(lightning.pytorch.__name__)
    logger.setLevel(logging.INFO)
    mimsuite.pretrain(out=str(tmp_path / "run"), **SMALL)
    assert logger.level == logging.INFO


def test_a_program_without_an_output_trains(tmp_path, monkeypatch, one_thread):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert mimsuite.pretrain(out=str(tmp_path / "run"), **SMALL)["status"] == "done"
    with report_progress("reading") as move:
        move(1, 2)


def test_a_signal_that_comes_before_the_run_listens_ends_it_with_a_checkpoint(tmp_path, one_thread):
    """Lightning listens a moment earlier, and would end the run as if Ctrl-C had been pressed."""
    from lightning import Callback

    class Scheduler(Callback):
        def on_sanity_check_start(self, trainer, pl_module):
            signal.raise_signal(signal.SIGTERM)

    found = mimsuite.pretrain(out=str(tmp_path / "run"), callbacks=Scheduler(), **SMALL | {"steps": 3})
    assert (found["status"], found["steps"], found["exit_code"]) == ("interrupted", 1, 143)
    assert (tmp_path / "run" / "checkpoints" / "step_000000001.ckpt").is_file()


def test_wandb_need_not_be_installed_where_no_logger_wants_it(tmp_path, monkeypatch, one_thread):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert mimsuite.pretrain(out=str(tmp_path / "run"), logger="null", **SMALL)["status"] == "done"
    with pytest.raises(InputError, match="not installed; pip install wandb, or use logger=null"):
        mimsuite.pretrain(out=str(tmp_path / "other"), **SMALL)
    assert not (tmp_path / "other").exists()


def test_threads_compose_one_after_the_other():
    found, failed = [], []

    def compose(number):
        try:
            found.append(compose_task("pretrain", [f"seed={number}"])[0].seed)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=compose, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(found) == [0, 1, 2, 3]


def test_one_thread_trains_at_a_time():
    said = []

    def other():
        with contextlib.suppress(InputError):
            try:
                with one_at_a_time():
                    said.append("trains")
            except InputError as error:
                said.append(str(error))
                raise

    with one_at_a_time(), one_at_a_time():  # a callback may start a run of its own
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    other()
    assert "another thread of this program trains already" in said[0]
    assert said[1:] == ["trains"]


@pytest.mark.parametrize(("workers", "wanted"), [("auto", 0), (0, 0), (2, None)])
def test_a_process_of_a_pool_reads_without_workers(monkeypatch, workers, wanted):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    config = OmegaConf.create({"workers": workers})
    if wanted is None:
        with pytest.raises(InputError, match=r"workers=2, but this process .* may start none; use workers=0"):
            read_workers(config)
    else:
        assert read_workers(config) == wanted


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("steps: 4\nlr: 1\nsteps: 5\n", "line 3: found duplicate key steps"),
        ("mask:\n\tratio: 0.5\n", "line 2: found character .* that cannot start any token"),
    ],
)
def test_a_recipe_that_is_no_yaml_is_refused_with_the_line(tmp_path, content, said):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(InputError, match=said):
        check_config_folders([f"--config-dir={tmp_path}"])


def test_a_folder_of_recipes_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--config-dir=.*nothing is not a folder"):
        check_config_folders([f"--config-dir={tmp_path / 'nothing'}"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# @package _global_\ndefaults: [a]\n", "a recipe takes itself by its defaults"),
        ("# @package _global_\nmask: [0.5]\n", "experiment/a.yaml has a list where keys are wanted"),
        ("steps: 4\n", "does not begin with the line `# @package _global_`"),
        ("", "does not begin with the line `# @package _global_`"),
    ],
)
def test_a_recipe_of_the_wrong_form_is_refused_with_the_fix(tmp_path, monkeypatch, capsys, content, said):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "a.yaml").write_text(content)
    monkeypatch.setattr(sys, "argv", ["pretrain", f"--config-dir={tmp_path}", "experiment=a", f"out={tmp_path}/run"])
    assert run_guarded(lambda: through_hydra("pretrain", pretrain.run), "pretrain") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("experiment=mine/experiment/a.yaml", r"is a path; use experiment=a with --config-dir=FOLDER"),
        ("experiment=nothing", "experiment=nothing is unknown; experiment takes"),
    ],
)
def test_a_recipe_is_named_not_found_by_its_path(given, said):
    with pytest.raises(InputError, match=said):
        call_task("pretrain", functools.partial(dict), dict([given.split("=")]))
