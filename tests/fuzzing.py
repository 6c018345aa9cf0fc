"""Mutation fuzz of everything that reads files: damaged bytes give an error of ours, soon, and without much memory.

`python tests/fuzzing.py CASES SEED` (or `60s SEED`) prints each fault once and a table; the exit code is 1 where there
was one. `tests/test_fuzz.py` runs it with a fixed seed, and the hostile files below by name.
"""

from __future__ import annotations

import collections
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from readers import Target, make_targets

SECONDS, MEGABYTES = 2.0, 512  # that one case may take
MOST_MEMORY = 6 << 30  # bytes of addresses; torch alone has half of them


class Hang(BaseException):
    """A case that took more than twice what it may."""


def ring(*_: Any) -> None:
    raise Hang


def attempt(target: Target, data: bytes, *, alarm: bool = True) -> tuple[str, float, float]:
    """What came of a case ("accepted", "declared", or the fault), seconds, and megabytes of new peak memory.

    The seconds are of this thread: a busy machine adds none.
    """
    before, begin = peak(), time.thread_time()
    if alarm:
        signal.alarm(round(2 * SECONDS))
    try:
        target.read(data)
        kind = "accepted"
    except target.errors as error:
        kind = "declared" if "\n" not in str(error) else f"two lines: {str(error)[:200]!r}"
    except Hang:
        kind = "HANG"
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "mimsuite" in f.filename]
        kind = f"{type(error).__name__} at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"
    finally:
        if alarm:
            signal.alarm(0)
    return kind, time.thread_time() - begin, peak() - before


def peak() -> float:
    """Megabytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def is_fault(kind: str, seconds: float, megabytes: float) -> bool:
    return kind not in ("accepted", "declared") or seconds > SECONDS or megabytes > MEGABYTES


def main(cases: str, seed: str) -> int:
    """Runs until enough cases, or seconds (`60s`), are over."""
    import logging

    logging.getLogger("mimsuite").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))  # before the machine itself gets into trouble
    signal.signal(signal.SIGALRM, ring)
    rnd, faults = random.Random(int(seed)), dict[str, str]()
    count: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    slowest: collections.defaultdict[str, float] = collections.defaultdict(float)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        targets = make_targets(Path(name))
        names = [name for name, target in targets.items() for _ in range(target.weight)]
        done, begin, keep = 0, time.monotonic(), os.environ.get("FUZZ_KEEP")
        while time.monotonic() - begin < float(cases[:-1]) if cases.endswith("s") else done < int(cases):
            chosen = rnd.choice(names)
            data = targets[chosen].make(rnd)
            kind, seconds, megabytes = attempt(targets[chosen], data)
            count[chosen][kind] += 1
            slowest[chosen] = max(slowest[chosen], seconds)
            if is_fault(kind, seconds, megabytes) and (key := f"{chosen}: {kind}") not in faults:
                faults[key] = f"{key} ({seconds:.1f} s, {megabytes:.0f} MB), case {done}, {data[:60]!r}"
                print("FAULT", faults[key], flush=True)
                if keep:
                    Path(keep, f"{len(faults)}-{chosen.replace('/', '-')}").write_bytes(data)
            done += 1
        print(f"{done} cases in {time.monotonic() - begin:.1f} s, peak {peak():.0f} MB, {len(faults)} faults")
        for chosen in sorted(count):
            print(f"{chosen:26} {slowest[chosen]:.2f} s {dict(count[chosen])}")
    return 1 if faults else 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore", r"\w+: not fields, kept")  # of configs: a damaged name is one of an unknown field
    sys.exit(main(*(sys.argv[1:] + ["10000", "0"][len(sys.argv) - 1 :])))
