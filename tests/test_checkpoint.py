"""Checkpoints: committed whole or not at all, and read without executing anything."""

import pickle

import pytest
import torch

from mimsuite import checkpoint as module
from mimsuite.checkpoint import CommittedCheckpointIO, load_checkpoint, newest
from mimsuite.errors import InputError, RunError


def content(step):
    return {"global_step": step, "state_dict": {"w": torch.full((3,), float(step))}}


def test_a_checkpoint_comes_back(tmp_path):
    CommittedCheckpointIO().save_checkpoint(content(5), tmp_path / "step_000000005.ckpt")
    path = newest(tmp_path)
    assert torch.equal(load_checkpoint(path)["state_dict"]["w"], torch.full((3,), 5.0))


def test_two_are_kept_and_latest_names_the_newest(tmp_path):
    io = CommittedCheckpointIO()
    for step in (1, 2, 3):
        io.save_checkpoint(content(step), tmp_path / f"step_{step:09d}.ckpt")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "latest.json",
        "step_000000002.ckpt",
        "step_000000003.ckpt",
    ]
    assert newest(tmp_path).name == "step_000000003.ckpt"


def test_a_failed_save_keeps_the_one_before_and_three_in_a_row_stop(tmp_path, monkeypatch, caplog):
    io = CommittedCheckpointIO()
    io.save_checkpoint(content(1), tmp_path / "step_000000001.ckpt")
    monkeypatch.setattr(module.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for step in (2, 3):
        io.save_checkpoint(content(step), tmp_path / f"step_{step:09d}.ckpt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step_000000001.ckpt"]
    with pytest.raises(RunError, match="3 checkpoints in a row"):
        io.save_checkpoint(content(4), tmp_path / "step_000000004.ckpt")
    assert newest(tmp_path).name == "step_000000001.ckpt"


def test_a_damaged_newest_checkpoint_is_named(tmp_path):
    CommittedCheckpointIO().save_checkpoint(content(1), tmp_path / "step_000000001.ckpt")
    path = tmp_path / "step_000000001.ckpt"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="sha256 differs"):
        newest(tmp_path)


class Bomb:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": Bomb()}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(InputError, match="cannot be read"):
            load_checkpoint(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_no_checkpoint_yet_is_none(tmp_path):
    assert newest(tmp_path) is None
