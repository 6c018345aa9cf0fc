"""Training processes that die at any instant: `benchmarks/killloop.py` with a few kills."""

import subprocess
import sys
from pathlib import Path

import pytest

LOOP = Path(__file__).resolve().parents[1] / "benchmarks" / "killloop.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_runs_go_on_to_the_bit():
    result = subprocess.run([sys.executable, LOOP, "5"], capture_output=True, text=True, timeout=580)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "weights equal, samples equal, every checkpoint loads" in result.stdout
