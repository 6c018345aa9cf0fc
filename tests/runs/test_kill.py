"""Training processes that die at any instant: `benchmarks/killloop.py` with a few kills."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import Task

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def begin(command, *, env, stdout):
    """In place of `Popen`: the same task with the same arguments, which need not import torch again."""
    assert command[:3] == [sys.executable, "-m", "mimsuite.tasks.pretrain"]
    return Task("pretrain", command[3:], env)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_runs_go_on_to_the_bit(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import killloop

    monkeypatch.setattr(killloop, "subprocess", SimpleNamespace(Popen=begin, DEVNULL=None))
    monkeypatch.setattr(killloop, "STEPS", 24)
    monkeypatch.setitem(killloop.KEYS, "steps", 24)
    monkeypatch.setitem(killloop.KEYS, "val_every", 8)
    monkeypatch.setattr(killloop, "LONGEST", 2.5)
    monkeypatch.setattr(sys, "argv", ["killloop.py", "5"])
    killloop.main()
    assert "5 kills in" in (said := capsys.readouterr().out)
    assert "weights equal, samples equal, every checkpoint loads" in said
