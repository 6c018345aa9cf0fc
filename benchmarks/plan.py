"""Does a plan hold? `mimsuite plan hours=` for three configs, each followed by the run that it recommends.

python benchmarks/plan.py [NAME ...] [--hours 0.06] [--data FOLDER] [--json FILE]

FOLDER holds cifar10-jpeg, imagenette-224 and tiny-imagenet-mini. The printed command is run as it stands, in a folder
of its own that is removed, and timed from its start to its end. A row has the hours that were asked for, those that the
plan promises, and those that the run took; the goal is a ratio of the last two within 30 %. Beside other work both
times wander: measure on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONFIGS = {
    "vit_tiny": ("cifar10-jpeg", "model=vit_tiny", "image_size=32", "loader.val_limit=1000"),
    "bit_nano": ("imagenette-224", "model=bit_nano", "image_size=96", "loader.val_limit=300"),
    "cvt_nano": ("tiny-imagenet-mini", "model=cvt_nano"),
}
DATA = Path(__file__).resolve().parents[2] / "shared/data"
GOAL = 0.3  # largest deviation


def task(arguments: list[str], folder: Path) -> tuple[float, str]:
    """Runs a task of mimsuite in a folder; seconds, and what it printed."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "mimsuite.cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(arguments)}: {done.stderr[-2000:]}")
    return time.perf_counter() - began, done.stdout


def measure(name: str, data: Path, hours: float) -> dict[str, Any]:
    """Plans a config, runs what is recommended, and compares."""
    source, *keys = CONFIGS[name]
    with tempfile.TemporaryDirectory() as place:
        folder, load = Path(place), os.getloadavg()[0]
        given = [f"data={data.resolve() / source}", *keys, f"hours={hours}", "out=plan.json"]
        planning, _ = task(["plan", *given], folder)
        plan = json.loads((folder / "plan.json").read_text())
        took, _ = task(shlex.split(plan["command"])[1:], folder)
        [summary] = folder.glob("runs/*/summary.json")
        run = json.loads(summary.read_text())
    return {
        "name": name,
        "command": plan["command"].replace(f"{data.resolve()}/", ""),
        "asked_h": hours,
        "planned_h": round(plan["hours"], 4),
        "took_h": round(took / 3600, 4),
        "took / planned": round(took / 3600 / plan["hours"], 3),
        "steps": run["steps"],
        "planned_img_per_s": round(plan["img_per_s"], 1),
        "img_per_s": round(run["metrics"]["perf/img_per_s"], 1),
        "planned_loss_at_start": plan["loss_start"],
        "planning_s": round(planning, 1),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CONFIGS)}; all by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--hours", type=float, default=0.06)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    for name in given.names or CONFIGS:
        rows.append(row := measure(name, given.data, given.hours))
        ratio = row["took / planned"]
        verdict = "within 30 %" if abs(ratio - 1) <= GOAL else "MISSED"
        print(
            f"{name:10} planned {row['planned_h']:.4f} h, took {row['took_h']:.4f} h: {ratio:.2f} ({verdict})", end=""
        )
        print(f"; {row['planned_img_per_s']} and {row['img_per_s']} img/s; load {row['load']}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
