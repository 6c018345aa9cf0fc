"""Metrics on disk, and wandb as a guest that may be absent, slow or broken."""

import json
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import wandb
from PIL import Image
from run_facts import context_of

from mimsuite.errors import InputError
from mimsuite.runs.loggers import guest
from mimsuite.runs.loggers import wandb as ours
from mimsuite.runs.loggers.files import FileLogger
from mimsuite.runs.loggers.mlflow import MLflowLogger
from mimsuite.runs.loggers.tensorboard import TensorBoardLogger
from mimsuite.runs.loggers.wandb import WandbLogger, load_user_settings, wandb_mode


def test_rows_have_empty_cells_where_a_step_has_no_value(tmp_path):
    logger = FileLogger(tmp_path)
    logger.log_metrics({"train/loss": 2.0}, 1)
    logger.log_metrics({"val/loss": 3.0}, 2)
    logger.log_metrics({"train/loss": 1.0, "val/loss": 2.5}, 3)
    assert (tmp_path / "metrics.csv").read_text().split() == [
        "step,train/loss,val/loss",
        "1,2.0,",
        "2,,3.0",
        "3,1.0,2.5",
    ]
    assert logger.last == {"train/loss": 1.0, "val/loss": 2.5}


def test_a_resumed_run_drops_the_rows_that_it_will_write_again(tmp_path):
    logger = FileLogger(tmp_path)
    for step in range(1, 5):
        logger.log_metrics({"loss": step / 2}, step)
    again = FileLogger(tmp_path, step=2)
    again.log_metrics({"loss": 9.0}, 3)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss", "1,0.5", "2,1.0", "3,9.0"]


@pytest.mark.parametrize(
    ("host", "mode"), [(urlsplit(wandb.Settings().base_url).hostname, "online"), ("x.y", "offline")]
)
def test_a_key_that_wandb_login_wrote_is_found(host, mode, monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".netrc").write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wandb_mode() == mode


def test_wandb_is_offline_without_a_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


def test_a_broken_wandb_costs_a_warning(monkeypatch, tmp_path, caplog):
    import wandb

    def broken(**_):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(wandb, "init", broken)
    logger = WandbLogger(project="p", group=None, context=context_of(tmp_path))
    logger.log_metrics({"a": 1.0}, 1)
    logger.close()
    assert logger.failed
    assert (
        "wandb cannot be reached; switched off for this run; metrics are in metrics.csv (wandb says: no such thing)"
        in caplog.text
    )


@pytest.mark.slow
@pytest.mark.parametrize("server", ["closed port", "never answers"])
def test_an_unreachable_wandb_costs_at_most_ten_seconds(server, monkeypatch, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if server == "never answers":
            listener.listen(8)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert guest.PATIENCE <= 10
        monkeypatch.setattr(guest, "PATIENCE", 2.5)
        monkeypatch.setattr(ours, "PATIENCE", 2.5)
        began = time.monotonic()
        logger = WandbLogger(project="p", group=None, context=context_of(tmp_path))
        logger.log_metrics({"a": 1.0}, 1)
        logger.close()
        assert logger.failed
        assert time.monotonic() - began < guest.PATIENCE + 2
        for thread in threading.enumerate():
            if thread.name == "logger wandb":
                thread.join(20)


def test_a_resumed_offline_run_joins_the_group_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    first = WandbLogger._arguments(tmp_path, "p", None, {})
    second = WandbLogger._arguments(tmp_path, "p", None, {})
    assert second["id"] == f"{first['id']}-r2"
    assert second["group"] == first["id"]
    monkeypatch.setenv("WANDB_MODE", "online")
    assert WandbLogger._arguments(tmp_path, "p", None, {})["id"] == first["id"]


def test_what_wandb_disabled_wrote_is_respected(monkeypatch, tmp_path):
    """`wandb disabled` and `wandb offline` write to the folder where they are run, or to the user's."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    assert wandb_mode() == "online"
    for folder, mode in (("user", "offline"), ("wandb", "disabled")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "settings").write_text(f"[default]\nmode = {mode}\n")
        assert wandb_mode() == mode
    assert not WandbLogger.is_wanted(context_of(tmp_path))


def test_no_settings_of_the_working_folder_reach_wandb(tmp_path, monkeypatch):
    """A downloaded data set could name a server of its own, which would get the key."""
    import wandb
    from wandb.sdk import wandb_setup

    monkeypatch.setattr(wandb_setup, "_singleton", None)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    for folder in ("wandb", ".wandb"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "settings").write_text("[default]\nbase_url = http://elsewhere.example\nmode = online\n")
    assert load_user_settings() is None
    assert wandb_setup.singleton().settings.base_url == wandb.Settings().base_url != "http://elsewhere.example"
    assert Path.cwd() == tmp_path
    assert wandb_mode() == "offline"
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "settings").write_text("[default]\nbase_url = https://ours.example\n")
    monkeypatch.setattr(wandb_setup, "_singleton", None)
    load_user_settings()
    assert wandb_setup.singleton().settings.base_url == "https://ours.example"


def small_picture(folder):
    path = folder / "sheet.png"
    Image.new("RGB", (4, 3), (255, 0, 0)).save(path)
    return path


def log_two_starts(make, folder):
    """A run of two steps, started twice from step 1; each start has a validation before it and a picture."""
    for steps in ((0, 1, 2), (1, 2, 3)):
        logger = make(context_of(folder, config={"seed": 3, "optim": {"lr": 0.1}}))
        for step in steps:
            logger.log_metrics({"val/loss": 10.0 * step, "epoch": 0}, step)
        logger.log_picture("reconstructions", small_picture(folder), steps[-1])
        logger.close()
        assert not logger.failed


def test_tensorboard_shows_metrics_pictures_and_config_and_each_step_once(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log_two_starts(lambda context: TensorBoardLogger(context=context), tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/loss")] == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert [image.step for image in events.Images("reconstructions")] == [3]  # of step 2 another is about to come
    assert (tmp_path / "tensorboard" / "hparams.yaml").read_text() == "seed: 3\noptim:\n  lr: 0.1\n"


def test_a_resumed_run_goes_on_in_its_mlflow_run(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_two_starts(lambda context: MLflowLogger(project="ours", context=context), tmp_path)
    client = tracking.MlflowClient((tmp_path / "mlflow").as_uri())
    (experiment,) = (found for found in client.search_experiments() if found.name == "ours")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "optim/lr": "0.1"}
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")] == [0, 1, 2, 1, 2, 3]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "reconstructions")] == [
        "reconstructions/sheet.png"
    ]
    assert not (Path.cwd() / "mlruns").exists()


class Silent(guest.Guest):
    title = "silent"

    def open(self):
        time.sleep(60)

    send_metrics = send_picture = finish = None


def test_several_guests_that_hang_cost_ten_seconds_together(monkeypatch, caplog):
    monkeypatch.setattr(guest, "PATIENCE", 0.5)
    several = [Silent(), Silent(), Silent()]
    began = time.monotonic()
    guest.close_loggers(several)
    assert time.monotonic() - began < 1
    assert caplog.text.count("silent did not finish within") == 3


@pytest.mark.parametrize("kind", [TensorBoardLogger, MLflowLogger])
def test_a_guest_that_is_not_installed_is_named_with_its_pip_line(kind, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf'pip install "mimsuite\[{kind.title}\]"'):
        kind.is_wanted(context_of(tmp_path))


def test_a_guest_that_cannot_write_costs_a_line(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("in the way")
    logger = TensorBoardLogger(context=context_of(tmp_path))
    logger.log_metrics({"a": 1.0}, 1)
    logger.close()
    assert logger.failed
    assert "tensorboard cannot write; switched off for this run; metrics are in metrics.csv" in caplog.text
