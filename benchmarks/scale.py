"""What an index costs at 10^6 to 10^9 samples: opening, the first batch, a position, an epoch, choosing by keys.

python benchmarks/scale.py [--samples 1e6 1e7] [--per-shard 10000] [--folder DIR] [--json FILE]

Made are index.json and the keys of all samples (8 bytes each); `samples.idx.npy` and the shards are sparse files, which
take no room: so nothing is known here of the time that a disk needs for rows. Each size runs in a process of its own.
Seconds are those on the clock and, in brackets, those of the processor, which other work on the machine hardly changes.
Memory is what a step adds at its peak, in MB of 10^6 bytes; of a worker, what it shares with no other process, after a
look of the garbage collector through everything. Linux: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mimsuite.data.hashing import splitmix64
from mimsuite.data.index import DataIndex, Samples, Selection, Shard
from mimsuite.data.index_json import read_index, write_index
from mimsuite.data.open import open_index
from mimsuite.data.order import BatchOrder
from mimsuite.data.tables import KEYS, ROWS
from mimsuite.data.tar import RECORD

T = TypeVar("T")

BATCH, SEED, VAL_LIMIT = 4096, 0, 5000
IMAGE_BYTES = 47_000  # of one sample, as in the tables of RESULTS.md
BLOCK = 1 << 22  # keys that are written at a time
STATS = ((0.5,) * 3, (0.25,) * 3, (350, 400))


# ---- the data set


def make(folder: Path, samples: int, per_shard: int) -> None:
    """A data set without pictures; its last shard is `val`."""
    count = samples // per_shard
    shards, size = [], per_shard * IMAGE_BYTES
    for number in range(count):
        split = "val" if number == count - 1 else "train"
        path = folder / f"{split}-{number:06d}.tar"
        path.touch()
        os.truncate(path, size)
        shards.append(Shard(str(path), per_shard, size, f"{number:064x}", "", row=number * per_shard))
    empty = [replace(shard, samples=0, row=0, table=str(folder / "none.npy")) for shard in shards[-2:]]
    np.save(folder / "none.npy", np.empty(0, RECORD))
    index = DataIndex(str(folder), {"train": (empty[0],), "val": (empty[1],)}, None, 3, "uint8", *STATS, False)
    write_index(folder, index)  # for the fields beside the shards
    content = json.loads((folder / "index.json").read_text())
    entry = content["splits"]["train"][0]
    for split, chosen in (("train", shards[:-1]), ("val", shards[-1:])):
        content["splits"][split] = [
            entry | {"file": Path(s.path).name, "samples": s.samples, "sha256": s.sha256, "row": s.row} for s in chosen
        ]
    (folder / "index.json").write_text(json.dumps(content, indent=1))
    for name, dtype in ((ROWS, RECORD), (KEYS, RECORD["key"])):
        with (folder / name).open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (samples,)}
            np.lib.format.write_array_header_1_0(file, header)
            if name == ROWS:
                file.truncate(file.tell() + samples * dtype.itemsize)
                continue
            for first in range(0, samples, BLOCK):
                file.write(splitmix64(np.arange(first, min(first + BLOCK, samples), dtype=np.uint64)).data)


# ---- what is measured


def memory(name: str) -> float:
    """A field of this process's status, in MB."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name)) * 1024 / 1e6


def private() -> float:
    """Resident MB of this process that no other shares, without parts of files, which the system may drop."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty")) * 1024 / 1e6


class Steps:
    """Measures steps, one after the other."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def run(self, what: str, call: Callable[[], T]) -> T:
        """Calls, and keeps seconds and memory."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, began, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
        result = call()
        row = {"what": what, "seconds": time.perf_counter() - began, "processor": time.process_time() - busy}
        self.rows.append(row | {"MB": max(0.0, memory("VmHWM") - before)})
        return result


def rows_of(samples: Samples, numbers: np.ndarray) -> int:
    """Looks up the rows of samples, as a reader does."""
    return sum(int(samples[number][1]["image_size"]) for number in numbers.tolist())


def in_a_worker(samples: Samples, batches: Sequence[Any]) -> float:
    """Resident MB that a forked worker has for itself when it has looked up the rows of some batches."""
    inside, outside = os.pipe()
    if os.fork() == 0:
        gc.collect()
        for numbers in batches:
            rows_of(samples, numbers)
        os.write(outside, str(private()).encode())
        os._exit(0)
    os.close(outside)
    with os.fdopen(inside) as stream:
        found = float(stream.read())
    os.wait()
    return found


def measure(folder: Path) -> dict[str, Any]:
    """All steps, on the data set in a folder."""
    steps, empty = Steps(), in_a_worker(Samples(()), ())
    index = steps.run("open the index, sizes of all shards checked", lambda: open_index(str(folder)))
    steps.run("  of it: read index.json", lambda: read_index(folder))
    samples = steps.run("samples of the role train, with a split val", lambda: index.records(index.select("train")))
    order = steps.run("order of the run", lambda: BatchOrder(samples.sizes, BATCH, SEED))
    epoch = order.steps_per_epoch
    first = steps.run(f"first batch of {BATCH}: its numbers", lambda: next(order.batches(0, 1))[1])
    steps.run("  and its rows", lambda: rows_of(samples, first))
    again = BatchOrder(samples.sizes, BATCH, SEED)
    middle = epoch // 2 + 7 * epoch
    steps.run("a position in the middle of epoch 8", lambda: next(again.batches(middle, middle + 1)))
    steps.run("an epoch change: last and first batch", lambda: list(order.batches(epoch - 1, epoch + 1)))
    steps.run(f"{VAL_LIMIT} samples of val for curves", lambda: index.records("val").of_curves(VAL_LIMIT))
    only = replace(index, splits={"train": index.splits["train"]})
    rest = steps.run("held out from train, without a split val", lambda: only.records(Selection("train", "rest")))
    held = steps.run("  the same again", lambda: only.records(Selection("train", "held")))
    steps.run(f"  {VAL_LIMIT} of them for curves", lambda: held.of_curves(VAL_LIMIT))
    order = BatchOrder(rest.sizes, BATCH, SEED)
    steps.run("  first batch of the rest, with its rows", lambda: rows_of(rest, next(order.batches(0, 1))[1]))
    window = 16 * int(rest.sizes.max()) // BATCH
    windows = [
        next(order.batches(step, step + 1))[1] for step in range(0, min(order.steps_per_epoch, 6 * window), window)
    ]
    facts = {
        "samples": sum(shard.samples for shards in index.splits.values() for shard in shards),
        "shards": sum(map(len, index.splits.values())),
        "index.json MB": (folder / "index.json").stat().st_size / 1e6,
        "worker MB": in_a_worker(rest, windows),
        "  of it without a sample MB": empty,
        "spawned worker gets MB": len(pickle.dumps(rest)) / 1e6,
        "most MB of the process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }
    return facts | {"steps": steps.rows}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", nargs="+", type=lambda text: int(float(text)), default=[10**6, 10**7])
    parser.add_argument("--per-shard", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the data sets are made, and removed again")
    parser.add_argument("--json", type=Path, help="a file for the rows")
    parser.add_argument("--measure", type=Path, help="a data set that is there")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    results = []
    for samples in options.samples:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            make(Path(name), samples, options.per_shard)
            command = [sys.executable, __file__, "--measure", name]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        results.append(found)
        print(f"\n{found['samples']:,} samples in {found['shards']:,} shards")
        for row in found["steps"]:
            print(f"  {row['what']:48} {row['seconds']:8.3f} s ({row['processor']:8.3f})  {row['MB']:8.1f} MB")
        for key in list(found)[2:-1]:
            print(f"  {key:48} {found[key]:8.1f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
