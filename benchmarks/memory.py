"""Resident memory of a pretraining process at 500 and at 3,000 steps of `vit_nano` on emoji-64.

python benchmarks/memory.py [STEPS] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def resident_mb(pid: int) -> float:
    """Resident megabytes of a process (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no VmRSS for process {pid}")


def step_of(run: Path) -> int:
    """The last step that the run has written down."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("steps", nargs="?", type=int, default=3000)
    parser.add_argument("--json", type=Path, help="a file for the rows")
    options = parser.parse_args()
    steps, rows = options.steps, []
    marks = [steps // 6, steps // 2, steps - steps // 20]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        keys = ["experiment=emoji_nano", f"steps={steps}", "batch=16", "val_every=500", "~logger.wandb"]
        command = [sys.executable, "-m", "mimsuite.tasks.pretrain", f"out={run}", *keys]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for mark in marks:
            while step_of(run) < mark and process.poll() is None:
                time.sleep(0.05)
            rows.append({"step": step_of(run), "MB": resident_mb(process.pid)})
            print(f"step {rows[-1]['step']:5d}  {rows[-1]['MB']:7.1f} MB", flush=True)
        process.wait()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
