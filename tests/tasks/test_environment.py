"""What surrounds a task and may be missing or full: the disk, a home, the folder for temporary files."""

import errno
import os
import pwd
import subprocess

import numpy as np
import pytest
from PIL import Image
from processes import Task

import mimsuite
from mimsuite import api, app
from mimsuite.data.storage import cache_folder
from mimsuite.errors import InputError, RunError, without_faults
from mimsuite.tasks import demo


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(4):
        Image.fromarray(np.full((16, 16, 3), 60 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory):
    """A file system without room."""
    folder = tmp_path_factory.mktemp("full")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    (folder / "fill").write_bytes(bytes(65536))
    yield folder
    subprocess.run(["umount", folder], check=True)


TASKS = {
    "pretrain": {"out": "run"},
    "finetune": {"out": "run", "init": "demo:vit"},
    "probe": {"out": "run", "init": "demo:vit"},
    "evaluate": {"out": "run", "init": "demo:vit"},
    "embed": {"out": "a.npz", "init": "demo:vit"},
    "export": {"out": "a-hf", "init": "demo:vit", "to": "hf"},
    "reconstruct": {"out": "a.png", "init": "demo:vit"},
    "inspect": {"out": "run"},
    "pack": {"out": "run"},
    "demo": {"out": "run"},
    "doctor": {"out": "a.json"},
}


@pytest.mark.parametrize("task", TASKS)
def test_a_full_disk_is_found_out_before_any_work_and_nothing_is_left(task, full_disk, images, capsys):
    values = TASKS[task] | {"out": str(full_disk / TASKS[task]["out"])} | ({"src": images} if task == "pack" else {})
    code = app.run_guarded(lambda: int(api.call(task, values).get("exit_code", 0)), task)
    error = capsys.readouterr().err
    assert code == 2
    assert "cannot be written: No space left on device; free some space or use another out=" in error
    assert len(error.splitlines()) == 1
    assert os.listdir(full_disk) == ["fill"]


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (errno.ENOSPC, RunError, "a/b: No space left on device; free some space, or use another place"),
        (errno.EROFS, InputError, "a/b: Read-only file system; use a place that you may write"),
        (errno.EIO, RunError, "a/b: Input/output error"),
        (errno.EMFILE, RunError, r"a/b: Too many open files; raise the limit \(ulimit\), or use fewer workers="),
    ],
)
def test_what_the_system_refuses_is_one_line(code, kind, says):
    def refused():
        raise OSError(code, os.strerror(code), "a/b")

    with pytest.raises(kind, match=f"^{says}$"):
        without_faults(refused)


def test_a_missing_file_of_our_own_stays_a_defect():
    with pytest.raises(FileNotFoundError):
        without_faults(lambda: open("/none/such"))  # noqa: SIM115


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(InputError, match="this user has no home; set HOME or XDG_CACHE_HOME"):
        cache_folder()


def test_a_home_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/proc")
    with pytest.raises(InputError, match=r"the cache folder /proc/.cache/mimsuite cannot be written: .*XDG_CACHE_HOME"):
        cache_folder()


@pytest.mark.parametrize(("code", "begun"), [(130, [0]), (143, [0]), (1, [0, 1, 2]), (2, [0, 1, 2]), (0, [0, 1, 2])])
def test_a_signal_ends_a_sweep_and_a_failed_job_does_not(code, begun, tmp_path, monkeypatch, capsys):
    jobs = []
    monkeypatch.setattr("sys.argv", ["pretrain", "-m", "seed=0,1,2", f"out={tmp_path}/sweep"])
    monkeypatch.setenv("MIMSUITE_SWEEP", "")
    assert app.through_hydra("pretrain", lambda cfg, _: jobs.append(cfg.seed) or {"exit_code": code}) == code
    assert jobs == begun
    assert ("no further job of this sweep begins" in capsys.readouterr().err) == (begun == [0])


def test_a_signal_ends_the_demo(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(demo, "call", lambda name, **_: steps.append(name) or {"exit_code": 143})
    assert mimsuite.demo(out=str(tmp_path / "demo")) == {"exit_code": 143}
    assert steps == ["pack", "inspect", "pretrain"]


def test_a_sweep_shares_no_folder_with_anybody_and_leaves_nothing(tmp_path):
    (tmp_path / "mimsuite-sweeps").mkdir(mode=0)  # another user's
    env = os.environ | {"TMPDIR": str(tmp_path)}
    code, text = Task("models", ["-m", "channels=3,4"], env).finish()
    assert code == 0, text
    assert text.count("vit_nano") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mimsuite-sweeps"]
