"""Damaged and hostile files give an error of ours in one line, soon, and without much memory."""

import subprocess
import sys
from pathlib import Path

import fuzzing
import hostile
import pytest

SEED, CASES = 0, 10_000
HOSTILE = hostile.make_files()
HARMLESS = {  # features are computed again, an older checkpoint is taken, and the pixels of these TIFFs are whole
    *("deep keys of features", "endless ids of features"),
    *("a deep pointer to a checkpoint", "a list as pointer to a checkpoint"),
    *("a TIFF with strips of no rows", "a TIFF that is its own next page"),
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return fuzzing.make_targets(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_soon_and_without_much_memory(name, targets):
    target, data = HOSTILE[name]
    kind, seconds, megabytes = fuzzing.attempt(targets[target], data, alarm=False)
    assert kind == ("accepted" if name in HARMLESS else "declared")
    assert not fuzzing.is_fault(kind, seconds, megabytes)


@pytest.mark.slow
def test_ten_thousand_damaged_files_give_no_other_error_no_hang_and_no_large_memory():
    command = [sys.executable, str(Path(fuzzing.__file__)), str(CASES), str(SEED)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]
    assert f"{CASES} cases in" in found.stdout
    assert found.stderr == ""  # nor do libraries say anything that names no file
