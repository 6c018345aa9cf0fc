"""`mimsuite runs`: what each run below a folder is, as its files tell it: live, killed, damaged; order and filters.

All in this process, on folders that are written here as a run writes them; locks are those of other processes.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mimsuite
from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.runs.folder import RunFolder, is_held

OLD = Path(__file__).parents[1] / "data" / "runs_0_1_0"
VIT_NANO = """model:
  _target_: mimsuite.encoders.vit_config.ViTConfig
  hidden_size: 96
  num_hidden_layers: 4
  num_attention_heads: 3
  intermediate_size: 384
  patch_size: 8
  encoder_stride: 8
  num_register_tokens: 0
objective: {_target_: a.B, loss: LOSS, target: pixels}
"""
TAKE = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
HOLD = f"{TAKE}; print(1, flush=True); input()"


def make_run(folder, status="done", *, steps=10, of=10, task="pretrain", loss="l1", age=100, **metrics):
    """Writes what a run writes; without a status as one that a kill has ended."""
    folder.mkdir(parents=True)
    metrics = {name.replace("_", "/", 1): value for name, value in metrics.items()}
    (folder / ".lock").touch()
    (folder / "config.yaml").write_text(f"{VIT_NANO.replace('LOSS', loss)}data: photos\ninit: null\nsteps: {of}\n")
    (folder / "overrides.txt").write_text("out='x'\n")
    (folder / "environment.json").write_text("{}")
    (folder / "train.log").write_text(f"2026-11-28 12:00:00,000 mimsuite 0.4.0 {task} -> x\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": s} | metrics) + "\n" for s in (0, steps)))
    if status:
        content = {"task": task, "status": status, "steps": steps, "metrics": metrics, "mimsuite": "0.4.0"}
        (folder / "summary.json").write_text(json.dumps(content | {"seconds": 7200.0}))
    then = time.time() - age
    for file in folder.iterdir():
        os.utime(file, (then, then))
    return folder


@pytest.fixture
def holder():
    """Starts processes that hold a run's lock, as a running run does."""
    started = []

    def hold(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, folder / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.read(1) == b"1"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def names(**values):
    return [row["name"] for row in mimsuite.list_runs(**values)]


def table(caplog, **values):
    caplog.clear()
    caplog.set_level("INFO", logger="mimsuite")
    api.call("runs", values)
    return caplog.messages


def test_runs_of_an_old_release_are_told(caplog):
    rows = {row["name"]: row for row in mimsuite.list_runs(path=OLD)}
    assert set(rows) == {path.parent.name for path in OLD.glob("*/summary.json")}
    assert caplog.messages == []
    found = rows["finetune_done"]
    assert (found["task"], found["status"], found["steps"], found["of"]) == ("finetune", "done", 8, 8)
    assert found["model"] is None, "it is that of the weights in init=, and no default"
    assert Path(found["init"]).name == "pretrain_done"
    assert (found["data"], found["loss"], found["metrics"]["val/top1"]) == ("embedded", "cross entropy", 0.09375)
    assert found["hours"] == pytest.approx(0.8 / 3600)
    assert rows["bit_interrupted"]["status"] == "interrupted"
    probe = rows["probe_done"]
    assert (probe["model"], probe["init"], probe["steps"]) == (None, "runs/pretrain_done", None)


def test_the_newest_is_first_and_columns_sort(tmp_path):
    make_run(tmp_path / "old", age=300, steps=5, of=10, status="interrupted")
    make_run(tmp_path / "new", age=100, task="finetune")
    make_run(tmp_path / "mid", age=200, steps=20, of=20)
    assert names(path=tmp_path) == ["new", "mid", "old"]
    assert names(path=tmp_path, sort="name") == ["mid", "new", "old"]
    assert names(path=tmp_path, sort="steps") == ["mid", "new", "old"]
    assert names(path=tmp_path, sort="task")[0] == "new"
    assert names(path=tmp_path, task="finetune") == ["new"]
    assert names(path=tmp_path, status=["interrupted", "failed"]) == ["old"]


def test_a_long_name_leaves_room_for_the_rest_and_what_is_filtered_out_is_counted(tmp_path, caplog):
    make_run(tmp_path / ("x" * 200 + "end"), age=100)
    make_run(tmp_path / "short", age=100, status=None)
    lines = table(caplog, path=tmp_path)
    assert max(map(len, lines)) < 200
    assert any(line.startswith("...xxx") and "xend  pretrain" in line for line in lines)
    assert any(line.startswith("short") and " failed  <0.01 " in line for line in lines)
    assert lines[-1].startswith("2 runs below")
    assert table(caplog, path=tmp_path, status="failed")[-1].startswith("1 of 2 runs below")
    assert table(caplog, path=tmp_path, status="diverged")[-1] == f"0 of 2 runs below {tmp_path}"


def test_the_best_run_by_a_metric_is_first_whichever_way_is_better(tmp_path, caplog):
    make_run(tmp_path / "a", val_loss=0.2, probe_top1=0.5)
    make_run(tmp_path / "b", val_loss=0.1, probe_top1=float("nan"))
    make_run(tmp_path / "c", val_loss=0.3, probe_top1=0.9, loss="mse")
    make_run(tmp_path / "d", val_psnr=3.0)
    assert names(path=tmp_path, best="probe/top1") == ["c", "a", "b"]
    assert names(path=tmp_path, best="val/loss") == ["b", "a", "c"]
    lines = table(caplog, path=tmp_path, best="val/loss")
    assert "val/loss is not the same in all runs: L1 of pixels, MSE of pixels; compare those with one loss" in lines
    with pytest.raises(InputError, match="none of these runs has this metric; they have probe/top1, val/loss, val/p"):
        mimsuite.list_runs(path=tmp_path, best="test/top1")
    with pytest.raises(InputError, match="best=optim/lr has no best value; best takes metrics that end in top1, "):
        mimsuite.list_runs(path=tmp_path, best="optim/lr")


def test_a_run_is_running_as_long_as_its_process_lives(tmp_path, holder):
    folder = make_run(tmp_path / "a", status=None, steps=4, val_loss=0.25)
    process = holder(folder)
    (row,) = mimsuite.list_runs(path=tmp_path)
    assert (row["status"], row["steps"], row["of"], row["metrics"]) == ("running", 4, 10, {"val/loss": 0.25})
    assert row["hours"] == pytest.approx(100 / 3600, rel=0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (row,) = mimsuite.list_runs(path=tmp_path)
    assert (row["status"], row["steps"], row["task"]) == ("failed", 4, "pretrain")


def test_looking_takes_no_lock_and_gives_none_back(tmp_path, holder):
    folder = make_run(tmp_path / "a", status="interrupted")
    assert not is_held(folder)
    with RunFolder(folder, resume=True):
        assert [row["status"] for row in mimsuite.list_runs(path=tmp_path)] == ["running"]
        taken = subprocess.run([sys.executable, "-c", TAKE, folder / ".lock"], capture_output=True, text=True)
        assert "BlockingIOError" in taken.stderr
    assert [row["status"] for row in mimsuite.list_runs(path=tmp_path)] == ["interrupted"]


def test_a_run_that_went_on_after_its_summary_was_killed(tmp_path):
    for name, status in (("stopped", "interrupted"), ("longer", "done")):
        folder = make_run(tmp_path / name, status, steps=10, of=20)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 15, "train/loss": 0.5}\n{"step": 16, "tra')
    assert {(r["status"], r["steps"]) for r in mimsuite.list_runs(path=tmp_path)} == {("failed", 15)}
    early = make_run(tmp_path / "early" / "e", steps=10, of=20)
    summary = json.loads((early / "summary.json").read_text())
    (early / "summary.json").write_text(json.dumps(summary | {"stopped_early_of": 20}))
    assert mimsuite.list_runs(path=early)[0]["status"] == "done"


@pytest.mark.parametrize(
    ("skipped", "status"), [((9, 10, 11), "diverged"), ((3, 4, 5), "failed"), ((9, 11, 12), "failed"), ((), "failed")]
)
def test_three_skipped_steps_at_the_end_are_a_divergence(tmp_path, skipped, status):
    folder = make_run(tmp_path / "a", status=None, of=50)
    (folder / "skipped_steps.jsonl").write_text("".join(f'{{"step": {s}, "rank": 0, "ids": [1]}}\n' for s in skipped))
    assert [row["status"] for row in mimsuite.list_runs(path=tmp_path)] == [status]


DAMAGE = {
    "summary.json": ["", "{", "[]", '{"metrics": []}', '{"mimsuite": 1, "metrics": {"a": "b"}}', '{"steps": 1e999}'],
    "config.yaml": ["", "- 1", "a: [", "a: !!python/name:os.system", "[" * 100_000, "x" * (1 << 20) + "y"],
    "metrics.jsonl": ["{]\n", "3\n", '{"step": 1, "a": "b"}\n', "[" * 5_000 + "\n", f'{{"a": 1{"0" * 400}}}\n'],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_one_line_and_spoils_no_other(name, tmp_path, caplog):
    make_run(tmp_path / "whole")
    for number, content in enumerate(DAMAGE[name]):
        (make_run(tmp_path / f"damaged{number}") / name).write_text(content)
    rows = mimsuite.list_runs(path=tmp_path)
    assert {row["name"]: row["status"] for row in rows if row["status"] != "damaged"} == {"whole": "done"}
    assert all(f"{name} " in row["problem"] and "\n" not in row["problem"] for row in rows if row["name"] != "whole")
    lines = table(caplog, path=tmp_path)
    assert sum(line.startswith("damaged   damaged") for line in lines) == len(DAMAGE[name])
    assert lines[-1] == f"{len(rows)} runs below {tmp_path}: {len(DAMAGE[name])} damaged, 1 done"


def test_sweeps_nested_runs_links_and_folders_of_others(tmp_path, caplog):
    for number in range(3):
        make_run(tmp_path / "runs" / "sweep" / str(number))
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "a" / "probe", task="probe", probe_top1=0.5)
    make_run(tmp_path / "runs" / "a" / "checkpoints" / "hidden")
    make_run(tmp_path / "elsewhere" / "b")
    (tmp_path / "runs" / "0latest").symlink_to("a")
    (tmp_path / "runs" / "round").symlink_to(".")
    (tmp_path / "runs" / "gone").symlink_to("nothing")
    (tmp_path / "runs" / "disk").symlink_to(tmp_path / "elsewhere")
    other = make_run(tmp_path / "runs" / "other")
    (other / "summary.json").write_text('{"status": "COMPLETED"}')
    (tmp_path / "runs" / "new\nline").mkdir()
    make_run(tmp_path / "runs" / "new\nline" / "c")
    (tmp_path / "runs" / "photos").mkdir()
    wanted = ["a", "a/probe", "disk/b", "new\nline/c", "sweep/0", "sweep/1", "sweep/2"]
    assert names(path=tmp_path / "runs", sort="name") == wanted
    assert names(path=tmp_path / "runs" / "sweep" / "1") == ["1"]
    lines = table(caplog, path=tmp_path / "runs")
    assert len(lines) == len(wanted) + 2
    assert any(line.startswith("new\\nline/c ") for line in lines)
    assert table(caplog, path=tmp_path / "runs" / "photos") == [f"0 runs below {tmp_path / 'runs' / 'photos'}"]


def test_json_has_every_row_and_no_word_that_is_not_json(tmp_path, caplog):
    make_run(tmp_path / "a", val_loss=float("nan"), val_psnr=12.5)
    (text,) = table(caplog, path=tmp_path, json=True)

    def refuse(word):
        raise AssertionError(word)

    (row,) = json.loads(text, parse_constant=refuse)
    assert row["metrics"] == {"val/loss": None, "val/psnr": 12.5}
    assert row["model"] == "vit_nano"


def test_wrong_values_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    for values, says in (
        ({"path": tmp_path / "absent"}, "absent does not exist; give the folder that holds your runs"),
        ({"path": tmp_path / "file"}, f"is a file; give the folder that holds your runs: path={tmp_path}"),
        ({"path": tmp_path, "sort": "age"}, "sort=age is unknown; sort takes updated, name"),
        ({"path": tmp_path, "status": "finished"}, "status=finished is unknown; status takes running, done"),
        ({"path": tmp_path, "task": "embed"}, "task=embed is unknown; task takes pretrain"),
    ):
        with pytest.raises(InputError) as error:
            mimsuite.list_runs(**values)
        assert says in str(error.value)


def test_thousands_of_runs_take_seconds(tmp_path):
    first = make_run(tmp_path / "0", val_loss=1.0)
    config = (OLD / "pretrain_done" / "config.yaml").read_text()
    (first / "config.yaml").write_text(config)
    for number in range(1, 200):
        shutil.copytree(first, tmp_path / str(number))
    began = time.process_time()
    assert len(mimsuite.list_runs(path=tmp_path)) == 200
    assert time.process_time() - began < 3  # of a processor: 2 ms a run, ten times less than with another reader
