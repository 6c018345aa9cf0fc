"""The run folder: who may write it, what overwriting removes, what is written down."""

import logging
import re

import pytest
from omegaconf import OmegaConf

from mimsuite.errors import InputError
from mimsuite.runs.console import log_to_console
from mimsuite.runs.environment import describe_environment
from mimsuite.runs.folder import RunFolder
from mimsuite.runs.secrets import redact
from mimsuite.settings.outputs import check_run_folder


def test_an_absent_and_an_empty_folder_are_fine(tmp_path):
    assert check_run_folder(tmp_path / "new") is False
    assert check_run_folder(tmp_path) is False


@pytest.mark.parametrize(("resume", "goes_on"), [(False, " resume=true to go on,"), (None, "")])
def test_a_folder_with_something_in_it_is_refused_and_untouched(tmp_path, resume, goes_on):
    (tmp_path / "config.yaml").write_text("mine")
    says = f"not empty (config.yaml); use another out=,{goes_on} or overwrite=true to replace the run"
    with pytest.raises(InputError, match=re.escape(says)):
        RunFolder(tmp_path, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_overwrite_removes_only_what_runs_write(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "a").write_text("old")
    (tmp_path / "config.yaml").write_text("old")
    RunFolder(tmp_path, overwrite=True).close()
    assert {p.name for p in tmp_path.iterdir()} == {".lock"}


def test_overwrite_refuses_a_folder_with_foreign_names(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    (tmp_path / "config.yaml").write_text("old")
    with pytest.raises(InputError, match=r"holds 'thesis.tex', which no run writes"):
        RunFolder(tmp_path, overwrite=True)
    assert (tmp_path / "config.yaml").read_text() == "old"


def test_a_file_as_out_is_refused(tmp_path):
    (tmp_path / "x").write_text("file")
    with pytest.raises(InputError, match="is a file"):
        check_run_folder(tmp_path / "x", overwrite=True)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with RunFolder(tmp_path / "out"), pytest.raises(InputError, match="in use by another run"):
        RunFolder(tmp_path / "out")
    RunFolder(tmp_path / "out").close()


def test_resume_needs_a_run(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds no config.yaml"):
        check_run_folder(tmp_path, resume=True)


def test_files_of_others_beside_a_run_do_not_keep_it_from_going_on(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes.txt', which no run writes"):
        check_run_folder(tmp_path, resume=True)
    (tmp_path / "config.yaml").write_text("a: 1")
    with RunFolder(tmp_path, resume=True) as folder:
        assert folder.resumed
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_and_overwrite_contradict(tmp_path):
    with pytest.raises(InputError, match="contradict"):
        check_run_folder(tmp_path, resume=True, overwrite=True)


def test_describe_writes_what_repeats_the_run(tmp_path):
    cfg = OmegaConf.create({"a": 1, "b": "${a}"})
    with RunFolder(tmp_path / "out") as folder:
        folder.describe(cfg, ["a=1"], {"device": "CPU"})
    assert OmegaConf.load(tmp_path / "out" / "config.yaml") == {"a": 1, "b": 1}
    assert (tmp_path / "out" / "overrides.txt").read_text() == "a=1\n"


def test_environment_holds_no_environment_variables(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "canary-5417")
    assert "canary-5417" not in str(describe_environment())
    assert describe_environment()["libraries"]["torch"].startswith("2.")


def test_names_that_are_no_utf8_are_printed_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mimsuite"), "propagate", False)  # to pytest, which cannot report such text
    with RunFolder(tmp_path / "out") as folder:
        log_to_console()
        folder.log_to_file()
        logging.getLogger("mimsuite").warning("bad %s", b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert "bad caf\\udce9" in capsys.readouterr().out
    assert "bad caf\\udce9" in (tmp_path / "out" / "train.log").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: s3://me:hush@host/x\n", "data: s3://<secret>@host/x\n"),
        ("+wandb_api_key=hush\nsteps=3\n", "+wandb_api_key=<secret>\nsteps=3\n"),
        ("hub:\n  token: hush hush\n  size: 3\n", "hub:\n  token: <secret>\n  size: 3\n"),
        ("password: null\n", "password: null\n"),
        ("data: /a/keys/token/x\n", "data: /a/keys/token/x\n"),
        ("monkey_count: 3\n", "monkey_count: 3\n"),
        ("model:\n  cls_token:\n  - false\n  mask_token: 1\n", "model:\n  cls_token:\n  - false\n  mask_token: 1\n"),
        (
            "model:\n  use_class_token: true\n  x_token: hush\n",
            "model:\n  use_class_token: true\n  x_token: <secret>\n",
        ),
        ("model.cls_token=[true]\n", "model.cls_token=[true]\n"),
    ],
)
def test_secrets_are_kept_out_of_written_configs(text, expected):
    assert redact(text) == expected
