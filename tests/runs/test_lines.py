"""Lines that a run prints, and files of a run folder that are damaged."""

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mimsuite.errors import InputError
from mimsuite.models.device import Device
from mimsuite.runs import life
from mimsuite.runs.banner import report_choices
from mimsuite.runs.console import report_next, report_reader
from mimsuite.runs.environment import warn_of_changes
from mimsuite.runs.life import finished_before
from mimsuite.runs.loggers.files import read_rows_until
from mimsuite.runs.loggers.wandb import WandbLogger
from mimsuite.settings.given_labels import given_label_keys
from mimsuite.settings.team import Team
from mimsuite.tasks import pretrain
from mimsuite.tasks.evaluate import format_row


def length_of(caplog, monkeypatch, *, steps, batch, samples):
    """The lines on the length of a run."""
    per_epoch = samples // batch
    budget = SimpleNamespace(
        steps=steps, batch=batch, epochs=steps / per_epoch, per_epoch=per_epoch, samples=samples, notes=()
    )
    settings = SimpleNamespace(
        budget=budget,
        inputs=SimpleNamespace(
            loading=SimpleNamespace(workers=0, chosen=False, crops_on_device=False),
            **{"seed": 0, "devices": None, "steps_before": None, "overrides": ()},
        ),
        geometry=SimpleNamespace(notes=()),
        notes=(),
    )
    device = SimpleNamespace(name="CPU", type="cpu")
    compute = SimpleNamespace(
        team=SimpleNamespace(size=1, nodes=1),
        device=device,
        precision="32-true",
        reason="r",
        micro_batch=1,
        compile=False,
        compile_reason="r",
    )
    monkeypatch.setattr("mimsuite.runs.banner.describe_devices", lambda *_: "one")
    caplog.clear()
    with caplog.at_level(logging.INFO, "mimsuite"):
        report_choices(settings, compute)
    lines = [record.getMessage() for record in caplog.records]
    return lines[: next(i for i, line in enumerate(lines) if line.startswith("devices"))]


@pytest.mark.parametrize(
    ("precision", "compiles", "before", "reasons"),
    [
        ("32-true", False, None, ["as given", "as given"]),
        ("32-true", False, 6, ["as before", "as before"]),
        ("auto", None, 6, ["CPU is not fast at bfloat16", "CPU: it pays on GPUs"]),
    ],
)
def test_what_a_run_that_goes_on_has_kept_was_not_given(precision, compiles, before, reasons, monkeypatch):
    """`resume=true` alone says nothing: a script gives it to the first start, too."""
    monkeypatch.setattr(life, "find_device", lambda _: Device("cpu", "CPU", 1.0, False))
    inputs = {"accelerator": "cpu", "master_weights": False, "micro_batch": 4, "resume": True, "steps_before": before}
    settings = SimpleNamespace(
        inputs=SimpleNamespace(precision=precision, compile=compiles, **inputs),
        geometry=SimpleNamespace(image_size=(32, 32)),
        budget=SimpleNamespace(batch=8, steps=10),
        views=1,
    )
    made = life.choose_compute(settings, Team(0, 1, 1))
    assert [made.reason, made.compile_reason] == reasons


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        (
            {"val/loss": 0.5, "val/loss_mean_colour": 0.25},
            "done: 3 steps, val/loss 0.5000 (one colour per image: 0.2500)",
        ),
        ({"train/loss": 0.5}, "done: 3 steps, nothing was validated"),
    ],
)
def test_a_run_ends_well_without_a_validation_loss(metrics, line, tmp_path, caplog, monkeypatch):
    """As with `+trainer.limit_val_batches=0`, or where `metrics.jsonl` was removed at the end of the run."""
    monkeypatch.setattr(pretrain, "save_weights", lambda *_: None)
    objective = SimpleNamespace(
        **{"evaluated_model": None, "normalize": None, "further_weights": {}}, trainer=SimpleNamespace(global_step=3)
    )
    settings = SimpleNamespace(geometry=SimpleNamespace(image_size=(8, 8)), inputs=SimpleNamespace(data=None))
    folder = SimpleNamespace(path=tmp_path, pictures=tmp_path / "pictures")
    parts = SimpleNamespace(files=SimpleNamespace(last=metrics), callbacks=[])
    with caplog.at_level(logging.INFO, "mimsuite"):
        assert pretrain.write_weights(settings, None, folder, objective, parts) == ({}, {})
    assert f"{line}; weights in {tmp_path}/weights" in caplog.text


def test_the_length_of_a_run_contradicts_nothing(caplog, monkeypatch):
    assert length_of(caplog, monkeypatch, steps=1000, batch=256, samples=354) == [
        "length    1,000 steps of 256 images (1,000 epochs), seed 0",
        "          an epoch is 1 batch: 256 of the 354 images",
    ]
    assert length_of(caplog, monkeypatch, steps=3, batch=32, samples=96) == [
        "length    3 steps of 32 images (1 epoch), seed 0"
    ]
    (line,) = length_of(caplog, monkeypatch, steps=8, batch=16, samples=96)
    assert re.findall(r"\(([\d.,]+) epochs?\)", line) == ["1.3"]  # as the ledger reads it


def test_the_loss_of_an_evaluation_stands_beside_that_of_one_colour():
    row = {"loss": 0.7585, "psnr": 45.769, "loss_mean_colour": 0.7735}
    assert format_row(row) == "loss 0.7585 (one colour per image: 0.7735), psnr 45.7690"
    assert format_row({"top1": 0.5, "loss": 1.0}) == "top1 0.5000, loss 1.0000"


@pytest.mark.parametrize(
    ("name", "call"),
    [("x.npz", "numpy.load"), ("x y.CSV", "pandas.read_csv"), ("x.parquet", "pandas.read_parquet")],
)
def test_a_table_is_followed_by_how_it_is_read(name, call, caplog):
    with caplog.at_level(logging.INFO, "mimsuite"):
        report_reader(Path(name))
    assert [record.getMessage() for record in caplog.records] == [f"next      read it in Python: {call}({name!r})"]


DAMAGED = ("{", "[]", '{"status": "done", "steps": "x"}', '{"libraries": 3}', '{"step": "x"}', '{"step": [1]}')


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_files_of_a_run_are_named_with_a_fix(content, tmp_path):
    (tmp_path / "weights").mkdir()
    inputs = SimpleNamespace(out=tmp_path, resume=True)
    readers = {
        "summary.json": lambda: finished_before(SimpleNamespace(inputs=inputs, budget=SimpleNamespace(steps=4))),
        "environment.json": lambda: warn_of_changes(tmp_path, {}),
        "metrics.jsonl": lambda: read_rows_until(tmp_path / "metrics.jsonl", 4),
    }
    said = []
    for name, read in readers.items():
        (tmp_path / name).write_text(content + "}" * (name == "metrics.jsonl" and content == "{"))
        try:
            read()
        except InputError as error:
            said.append((name, str(error)))
    assert said
    for name, text in said:
        assert re.fullmatch(rf"{re.escape(str(tmp_path / name))} cannot be read \(.*\); .*remove it.*", text)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"id": 3, "starts": 1}', '{"id": "a", "starts": "x"}'])
def test_a_damaged_record_of_wandb_gives_a_new_id_and_ends_no_run(content, tmp_path, caplog):
    record = tmp_path / "wandb" / "run.json"
    record.parent.mkdir()
    record.write_text(content)
    found = WandbLogger._arguments(tmp_path, "p", None, {})
    assert len(found["id"]) == 8
    assert "run.json" in caplog.text


def test_a_record_of_wandb_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    first, second = (WandbLogger._arguments(tmp_path, "p", None, {}) for _ in range(2))
    assert second["id"] == f"{first['id']}-r2"
    assert json.loads((tmp_path / "wandb" / "run.json").read_text())["starts"] == 2


@pytest.mark.parametrize("data", [["a", "b c"], ("a", "b c")])
def test_a_next_step_writes_a_list_as_the_command_reads_it(data, caplog):
    caplog.set_level("INFO", "mimsuite")
    report_next("train", "finetune", data=data, out="x")
    assert caplog.messages == ["next      train: mimsuite finetune 'data=[a,b c]' out=x"]


def test_a_next_step_reads_the_labels_as_this_one_did():
    config = {"labels": "a.csv", "labels_file": None, "labels_column": "auto", "labels_kind": "classes", "steps": 3}
    wanted = {"labels": "a.csv", "labels_column": "auto", "labels_kind": "classes"}
    assert given_label_keys(config) == wanted
    assert given_label_keys(dict.fromkeys(config) | {"labels_kind": "auto"}) == {}
