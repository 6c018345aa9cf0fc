"""`make bench` and the programs that take turns: nothing is timed here."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name, file):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


bench, mae = load("bench", "bench.py"), load("peers_mae", "peers/mae.py")

PRINTS = """
import pathlib, sys, time
runs = pathlib.Path(__file__).with_name("runs.txt")
runs.write_text((runs.read_text() if runs.exists() else "") + "x")
print("vit_tiny  ours, compiled  12.5 ms  80.0 img/s  x1.25")
print("where time goes")
time.sleep(float(sys.argv[1]))
"""
TRAINS = """
import time, torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    optimizer.zero_grad()
    (model(torch.ones(1, 2)) ** 2).sum().backward()
    optimizer.step()
    time.sleep(0.01)
"""


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A table that ends at once and one that never does."""
    (tmp_path / "prints.py").write_text(PRINTS)
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    made = {"quick": ("prints.py", "0"), "endless": ("prints.py", "600")}
    monkeypatch.setattr(bench, "TABLES", {k: bench.Table(v, 0.5, json=False) for k, v in made.items()})
    monkeypatch.setattr(bench, "place", lambda: {"commit": "a", "cpu": "c"})
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench.py", *arguments])
    bench.main()


def test_a_finished_table_is_measured_again_only_for_another_commit(tables, monkeypatch, capsys):
    run(monkeypatch, "quick")
    run(monkeypatch, "quick")
    assert (tables / "runs.txt").read_text() == "x"
    result = json.loads((tables / "results/quick.json").read_text())
    assert result["finished"]
    row = {"case": "vit_tiny", "who": "ours, compiled", "ms": 12.5, "img/s": 80.0, "ratio": 1.25}
    assert result["rows"] == [row, {"text": "where time goes"}]
    assert "| quick | vit_tiny ours, compiled | ms 12.5, img/s 80, ratio 1.25 |" in capsys.readouterr().out
    monkeypatch.setattr(bench, "place", lambda: {"commit": "b", "cpu": "c"})
    run(monkeypatch, "quick")
    assert (tables / "runs.txt").read_text() == "xx"


def test_a_table_that_takes_too_long_is_stopped_and_keeps_its_rows(tables, monkeypatch):
    with pytest.raises(SystemExit, match="unfinished: endless"):
        run(monkeypatch, "endless", "--minutes", "0.05")
    result = json.loads((tables / "results/endless.json").read_text())
    assert not result["finished"]
    assert len(result["rows"]) == 2


def test_every_table_names_a_script():
    assert all((BENCHMARKS / table.command[0]).exists() for table in bench.TABLES.values())
    assert sum(table.share for table in bench.TABLES.values()) == pytest.approx(1)


def test_programs_take_turns_and_end(tmp_path):
    (tmp_path / "trains.py").write_text(TRAINS)
    program = mae.Program("one", [str(tmp_path / "trains.py")], tmp_path, threads=1)
    try:
        done = len(program.wait_for(2))
        time.sleep(0.5)
        stopped = program.lines()
        assert len(stopped) - done <= 1  # the step under way when the signal came
        seconds, cpu = program.block(3)
        assert 0.01 < seconds < 60
        assert cpu < seconds * 1.5 + 0.1
        assert len(program.lines()) >= len(stopped) + 4
        assert all(loss >= 0 for _, loss in program.lines())
    finally:
        program.signal(mae.signal.SIGKILL)
        program.process.wait()


def test_a_program_that_ends_is_reported_with_the_end_of_its_log(tmp_path):
    (tmp_path / "fails.py").write_text("raise SystemExit('no such model')")
    program = mae.Program("two", [str(tmp_path / "fails.py")], tmp_path, threads=1)
    with pytest.raises(RuntimeError, match=r"two stopped after 0 steps: .*no such model"):
        program.wait_for(1)
