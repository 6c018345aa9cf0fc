"""Checkpoints: committed whole or not at all, and read without executing anything."""

import errno
import os
import pickle
import re
import subprocess

import pytest
import torch

from mimsuite.data import storage as module
from mimsuite.errors import InputError, RunError
from mimsuite.runs.checkpoints import CommittedCheckpointIO
from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint


def content(step):
    return {"global_step": step, "state_dict": {"w": torch.full((3,), float(step))}}


def test_a_checkpoint_comes_back(tmp_path):
    CommittedCheckpointIO().save_checkpoint(content(5), tmp_path / "step_000000005.ckpt")
    path = newest_checkpoint(tmp_path)
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
    assert newest_checkpoint(tmp_path).name == "step_000000003.ckpt"


def test_a_failed_save_keeps_the_one_before_and_three_in_a_row_stop(tmp_path, monkeypatch, caplog):
    io = CommittedCheckpointIO()
    io.save_checkpoint(content(1), tmp_path / "step_000000001.ckpt")
    monkeypatch.setattr(module.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for step in (2, 3):
        io.save_checkpoint(content(step), tmp_path / f"step_{step:09d}.ckpt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step_000000001.ckpt"]
    with pytest.raises(RunError, match="3 checkpoints in a row"):
        io.save_checkpoint(content(4), tmp_path / "step_000000004.ckpt")
    assert newest_checkpoint(tmp_path).name == "step_000000001.ckpt"


def test_a_damaged_newest_checkpoint_is_named(tmp_path):
    CommittedCheckpointIO().save_checkpoint(content(1), tmp_path / "step_000000001.ckpt")
    path = tmp_path / "step_000000001.ckpt"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="sha256 differs"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("broken", ["cut", "flipped", "gone", "pointer", "no pointer"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, broken, caplog):
    for step in (1, 2):
        CommittedCheckpointIO().save_checkpoint(content(step), tmp_path / f"step_{step:09d}.ckpt")
    path = tmp_path / "step_000000002.ckpt"
    data = bytearray(path.read_bytes())
    if broken == "cut":
        path.write_bytes(data[:-10])
    elif broken == "flipped":
        data[data.find(torch.full((3,), 2.0).numpy().tobytes())] ^= 1
        path.write_bytes(data)
    elif broken == "gone":
        path.unlink()
    elif broken == "pointer":
        (tmp_path / "latest.json").write_text("{")
    else:
        (tmp_path / "latest.json").unlink()
    expected = 2 if "pointer" in broken else 1  # the file itself is whole
    assert newest_checkpoint(tmp_path).name == f"step_{expected:09d}.ckpt"
    named = "latest.json" if "pointer" in broken else path.name
    assert re.search(rf"{named} cannot be used .*; going on from step {expected} instead", caplog.text)


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_the_checkpoint_before(full_disk, caplog):
    io = CommittedCheckpointIO()
    io.save_checkpoint(content(1), full_disk / "step_000000001.ckpt")
    large = content(2) | {"state_dict": {"w": torch.zeros(40_000)}}
    io.save_checkpoint(large, full_disk / "step_000000002.ckpt")
    assert "No space left on device" in caplog.text
    assert sorted(p.name for p in full_disk.iterdir()) == ["latest.json", "step_000000001.ckpt"]
    io.save_checkpoint(content(3), full_disk / "step_000000003.ckpt")
    assert newest_checkpoint(full_disk).name == "step_000000003.ckpt"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_an_error_while_saving_keeps_the_checkpoint_before(tmp_path, monkeypatch, caplog, code):
    io = CommittedCheckpointIO()
    io.save_checkpoint(content(1), tmp_path / "step_000000001.ckpt")
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
        io.save_checkpoint(content(2), tmp_path / "step_000000002.ckpt")
    assert os.strerror(code) in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step_000000001.ckpt"]
    io.save_checkpoint(content(3), tmp_path / "step_000000003.ckpt")
    assert newest_checkpoint(tmp_path).name == "step_000000003.ckpt"


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
    assert newest_checkpoint(tmp_path) is None
