"""What a variable of the environment holds is written nowhere: its name is."""

import logging
import sys

import mimsuite
from mimsuite import app
from mimsuite.app import print_error
from mimsuite.runs.console import log_to_console
from mimsuite.runs.secrets import hide, name_secrets
from mimsuite.tasks import pretrain

NANO = ("model=vit_nano", "image_size=32", "batch=4", "workers=0", "steps=1", "loader.val_limit=4")


def test_a_run_writes_the_name_of_a_variable_and_resumes_by_it(tmp_path, monkeypatch):
    secret = "canary" + "5417" * 3
    monkeypatch.setenv("MY_WORD", secret)
    group = "logger.wandb.group=${oc.env:MY_WORD}"
    monkeypatch.setattr(sys, "argv", ["pretrain", f"out={tmp_path / 'out'}", *NANO, group])
    assert app.through_hydra("pretrain", pretrain.run) == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert "group: ${oc.env:MY_WORD}" in (tmp_path / "out" / "config.yaml").read_text()
    assert mimsuite.pretrain(out=str(tmp_path / "out"), resume=True)["status"] == "done"


def test_a_password_in_an_address_that_became_a_path_is_hidden():
    assert hide("labels=https:/me:hush-hush@host/l.csv") == "labels=https:/<secret>@host/l.csv"


def test_lines_and_errors_hide_values_and_passwords(monkeypatch, capsys, caplog):
    monkeypatch.setenv("MY_WORD", "hush-hush")
    name_secrets("group: ${oc.env:MY_WORD}")
    log_to_console()
    logging.getLogger("mimsuite").warning("cannot reach %s: %s", "https://me:pass@host/x", "hush-hush")
    assert "https://<secret>@host/x: ${oc.env:MY_WORD}" in caplog.text
    print_error("pretrain", "no hush-hush here", 2)
    assert capsys.readouterr().err == "mimsuite pretrain: no ${oc.env:MY_WORD} here\n"
    assert hide("nothing to hide") == "nothing to hide"
