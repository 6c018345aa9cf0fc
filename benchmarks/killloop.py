"""Kills training processes with SIGKILL at random instants, resumes, and compares with an uninterrupted run.

python benchmarks/killloop.py [KILLS] [--seed S] [--model vit_nano]

Half of the kills strike while a checkpoint is being written, the others anywhere between start and end of the process.
Workers change from start to start, and the temporary directory is sometimes on another file system. After each kill the
newest checkpoint must load. At the end every step must have seen the same samples each time that it ran, no sample may
be missing or doubled, and the weights must equal those of the uninterrupted run. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

STEPS, BATCH = 60, 16
LONGEST = 14.0  # seconds from the start of a process after which it is killed
KEYS = {
    "batch": BATCH,
    "steps": STEPS,
    "val_every": 20,
    "save_every": 1,
    "loader.val_limit": 32,
    "precision": "32-true",
    "trusted_targets": "[sample_ids.SampleIds]",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="vit_nano")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="killloop-") as name:
        root = Path(name)
        start(root / "whole", arguments.model, workers=0).wait()
        wanted = weights_hash(root / "whole")
        done, runs = 0, 0
        while done < arguments.kills:
            runs += 1
            out = root / f"run-{runs}"
            while done < arguments.kills:
                inside = done % 2 == 0
                killed = kill_once(out, arguments.model, chance, inside=inside)
                if not killed:
                    break
                done += 1
                step = check_readable(out)
                print(f"kill {done}: {'in a save' if inside else 'anywhere'}, checkpoint of step {step}", flush=True)
            if start(out, arguments.model, workers=chance.choice([0, 2])).wait():
                sys.exit("the last resume failed")
            compare(out, root / "whole", wanted)
        print(f"{done} kills in {runs} runs of {STEPS} steps: weights equal, samples equal, every checkpoint loads")


def start(out: Path, model: str, workers: int, temporary: str | None = None) -> subprocess.Popen[bytes]:
    """A training process that begins or resumes."""
    values = {"out": out, "model": model, "workers": workers, "resume": "true", **KEYS}
    if not (out / "config.yaml").exists():
        values["+callbacks.ids"] = f"{{_target_:sample_ids.SampleIds,file:{out}.ids}}"
    command = [sys.executable, "-m", "mimsuite.tasks.pretrain", *(f"{k}={v}" for k, v in values.items())]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    env = {"OMP_NUM_THREADS": "2"} | env | {"WANDB_MODE": "disabled"} | ({"TMPDIR": temporary} if temporary else {})
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def kill_once(out: Path, model: str, chance: random.Random, *, inside: bool) -> bool:
    """Starts a process and kills it; False if it ended before that."""
    other = "/dev/shm" if chance.random() < 0.5 and os.access("/dev/shm", os.W_OK) else None
    process = start(out, model, chance.choice([0, 2]), other)
    folder = out / "checkpoints"
    skip = chance.randrange(8)  # saves to let pass
    seen: set[str] = set()
    deadline = time.monotonic() + (120 if inside else chance.uniform(0.2, LONGEST))
    while process.poll() is None and time.monotonic() < deadline:
        if inside:
            seen |= {p.name for p in folder.glob(".step_*.part")} if folder.is_dir() else set()
            if len(seen) > skip:
                break
            time.sleep(0.0002)
        else:
            time.sleep(0.01)
    alive = process.poll() is None
    process.kill()
    if process.wait() not in (0, -9):
        sys.exit(f"the process ended with code {process.returncode} by itself")
    return alive


def check_readable(out: Path) -> int:
    """The step of the newest checkpoint, 0 where none was committed yet; an unreadable one ends the program."""
    path = newest_checkpoint(out / "checkpoints")
    return 0 if path is None else int(load_checkpoint(path)["global_step"])


def weights_hash(out: Path) -> str:
    return hashlib.sha256((out / "weights" / "model.safetensors").read_bytes()).hexdigest()


def compare(out: Path, whole: Path, wanted: str) -> None:
    """Ends the program unless weights and samples are those of the uninterrupted run."""
    if weights_hash(out) != wanted:
        sys.exit(f"{out}: the weights differ from those of the uninterrupted run")
    expected, found = ids_of(whole), ids_of(out)
    for step, sets in found.items():
        if any(ids != expected[step][0] for ids in sets):
            sys.exit(f"{out}: step {step} saw other samples than in the uninterrupted run")
    if found.keys() != expected.keys():
        sys.exit(f"{out}: steps {sorted(expected.keys() ^ found.keys())} were skipped or added")
    used = [i for step in expected for i in expected[step][0]]
    if len(used) != STEPS * BATCH or len(set(used)) != len(used):
        sys.exit(f"{out}: samples are doubled within an epoch")


def ids_of(out: Path) -> dict[int, list[list[int]]]:
    """By step, the sample ids of every time that it ran; a line that a kill cut is left out."""
    found: dict[int, list[list[int]]] = {}
    for line in Path(f"{out}.ids").read_text().splitlines():
        if line.endswith("]}") and line.startswith("{"):
            row = json.loads(line)
            found.setdefault(row["step"], []).append(row["ids"])
    return found


if __name__ == "__main__":
    main()
