"""What the loader costs: finding a position, opening many shards, reading, decoding, first batches, memory.

python benchmarks/loader.py [--repeats 5] [--images 1200] [--decoding] [--json FILE]

Pictures are those of `../shared/data/imagenette-224`, resized to 400 x 350 and written as JPEG of quality 90. The
pipelines that ours is held against are webdataset's own, with Pillow and its bicubic filter. Each figure is the median
of repeats that take turns. On one core, time is that of the processor, which other work on the machine hardly changes.
Linux: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image

from mimsuite.data.augment.crop import RandomResizedCrop
from mimsuite.data.datamodule import ImageData
from mimsuite.data.index import DataIndex, Samples, Shard
from mimsuite.data.index_json import write_index
from mimsuite.data.members import read_image, read_label
from mimsuite.data.open import open_index
from mimsuite.data.order import BatchOrder
from mimsuite.data.scan import build_index, scan_files
from mimsuite.data.shard_files import ShardFiles
from mimsuite.masked.normalization import Normalize

SOURCE = Path(__file__).resolve().parents[2] / "shared/data/imagenette-224"
MEAN, STD = torch.tensor([0.46, 0.46, 0.43])[:, None, None], torch.tensor([0.27, 0.27, 0.29])[:, None, None]
BATCH = 64
Row = tuple[str, str, str, str]  # what, ours, webdataset's, ratio


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def clock_of(workers: int) -> Callable[[], float]:
    """Seconds: of the processor where this process does everything, else those that pass."""
    return time.perf_counter if workers else time.process_time


def in_turns(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median of each call's results; the calls take turns, after one round that is not counted."""
    rows: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, call in calls.items():
            value = call()
            if number:
                rows[name].append(value)
    return {name: statistics.median(values) for name, values in rows.items()}


def memory() -> float:
    """Resident megabytes of this process that no other shares."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private")) / 1024


# ---- data


def jpegs(count: int) -> Iterator[bytes]:
    """The first `count` photographs of `SOURCE`, resized and encoded."""
    for file in sorted(SOURCE.glob("train-*.tar")):
        with tarfile.open(file) as source:
            for member in source:
                handle = source.extractfile(member) if member.name.endswith((".jpg", ".jpeg")) else None
                if handle is None or count == 0:
                    continue
                stream = io.BytesIO()
                image = Image.open(handle).convert("RGB").resize((400, 350), Image.Resampling.BICUBIC)
                image.save(stream, "JPEG", quality=90)
                count -= 1
                yield stream.getvalue()


def make_pictures(folder: Path, count: int) -> DataIndex:
    """Shards of 400 x 350 JPEGs, a shard for each 300, made of the photographs in `SOURCE`."""
    photographs = jpegs(count)
    for shard in range(-(-count // 300)):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w") as target:
            for number, data in zip(range(300), photographs, strict=False):
                for ending, content in (("jpg", data), ("cls", b"0")):
                    info = tarfile.TarInfo(f"{shard:03d}{number:04d}.{ending}")
                    info.size = len(content)
                    target.addfile(info, io.BytesIO(content))
    write_index(folder, build_index(str(folder), scan_files(sorted(map(str, folder.glob("*.tar"))), folder, {})))
    return open_index(str(folder))


def make_many(folder: Path, count: int, samples: int = 4) -> None:
    """An index of `count` shards of `samples` each; all are links to one file."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 100, 50)).save(stream, "JPEG")
    folder.mkdir()
    with tarfile.open(folder / "one.tar", "w") as archive:
        for number in range(samples):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(stream.getvalue())
            archive.addfile(info, io.BytesIO(stream.getvalue()))
    index = build_index(str(folder), scan_files([str(folder / "one.tar")], folder, {}))
    (one,) = index.splits["train"]
    shards = []
    for number in range(count):
        name = f"{folder}/train-{number:06d}.tar"
        os.symlink("one.tar", name)
        shards.append(Shard(name, one.samples, one.bytes, "0" * 64, one.table))
    splits = {"train": tuple(shards), "val": tuple(shards[:1])}
    write_index(folder, DataIndex(**{**index.__dict__, "splits": splits}))


# ---- ours


def loader(index: DataIndex, side: int, steps: int, workers: int, done: int = 0) -> Iterator[Any]:
    """Our training batches, as a run gets them; without masks, for the others draw none."""
    data = ImageData(
        index,
        image_size=(side, side),
        mask_unit=None,
        train_transform=RandomResizedCrop((side, side)),
        masks=(),
        batch=BATCH,
        micro_batch=BATCH,
        steps=steps,
        seed=done,
        workers=workers,
    )
    return iter(data.train_dataloader())


def ours(index: DataIndex, side: int, steps: int, workers: int, normalised: bool) -> float:
    """Images per second: uint8 batches, as the device gets them, or normalised here, as webdataset's are."""
    normalize = Normalize(MEAN.flatten().tolist(), STD.flatten().tolist())
    clock = clock_of(workers)
    began, seen = clock(), 0
    for batch in loader(index, side, steps, workers):
        if normalised:
            normalize(batch.images)
        seen += len(batch.images)
    seconds = clock() - began
    assert seen == steps * BATCH, seen
    return seen / seconds


def read_ours(samples: Samples) -> float:
    """Undecoded samples per second, picture and label, in the order of the shards."""
    files, began = ShardFiles(), time.perf_counter()
    for number in range(len(samples)):
        read_image(files, *samples[number])
        read_label(files, *samples[number])
    return len(samples) / (time.perf_counter() - began)


# ---- webdataset's


class Augment:
    """SimMIM's crop with Pillow: `(3, side, side)` float32, normalised."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, sample: dict[str, Any]) -> tuple[torch.Tensor]:
        image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
        width, height = image.size
        area = width * height * np.random.uniform(0.67, 1.0)
        ratio = math.exp(np.random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = min(width, round(math.sqrt(area * ratio))), min(height, round(math.sqrt(area / ratio)))
        left, top = np.random.randint(0, width - w + 1), np.random.randint(0, height - h + 1)
        box = (left, top, left + w, top + h)
        image = image.resize((self.side, self.side), Image.Resampling.BICUBIC, box=box)
        if np.random.rand() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return (
            (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - MEAN) / STD,
        )  # batched wants a tuple


def pipeline(index: DataIndex) -> Any:
    """webdataset's reading, with its shuffle."""
    urls = [shard.path for shard in index.splits["train"]]
    return webdataset.WebDataset(urls, shardshuffle=100, seed=0, nodesplitter=webdataset.split_by_node).shuffle(300)


def theirs(index: DataIndex, side: int, workers: int) -> float:
    """Images per second of webdataset and Pillow, for one pass."""
    data = pipeline(index).map(Augment(side)).batched(BATCH)
    source = webdataset.WebLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    clock = clock_of(workers)
    began = clock()
    seen = sum(len(images) for (images,) in source)
    seconds = clock() - began
    assert seen == index.num_samples("train"), seen  # a wrong count would pass for a wrong speed
    return seen / seconds


def read_theirs(index: DataIndex) -> float:
    """Undecoded samples per second."""
    urls = [shard.path for shard in index.splits["train"]]
    began = time.perf_counter()
    seen = sum(1 for _ in webdataset.WebDataset(urls, shardshuffle=False))
    seconds = time.perf_counter() - began
    assert seen == index.num_samples("train"), seen
    return seen / seconds


# ---- figures


def far_position() -> float:
    """Seconds to a batch at step 1,234,567 of an order of a thousand million samples."""
    sizes = np.full(100_000, 10_000)
    plan = BatchOrder(sizes, 256, seed=0)
    return timed(lambda: next(plan.batches(1_234_567, 1_234_568)))


OPENED = """
import sys, time, torch
sys.path.insert(0, sys.argv[3])
import loader
from mimsuite.data.open import open_index
torch.set_num_threads(1)
before, began = loader.memory(), time.perf_counter()
index = open_index(sys.argv[1])
opened, held = time.perf_counter() - began, loader.memory() - before
began = time.perf_counter()
batches = loader.loader(index, 96, 8, int(sys.argv[2]))
next(batches)
first = time.perf_counter() - began
import multiprocessing, pathlib
def private(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(x.split()[1]) for x in text.splitlines() if x.startswith("Private")) / 1024
workers = [private(child.pid) for child in multiprocessing.active_children()]
print(opened, held, first, sum(workers) / max(1, len(workers)))
"""


def opened(folder: Path, workers: int = 2) -> list[float]:
    """In a fresh process: seconds to open, megabytes held, seconds to the first batch, megabytes of a worker's own."""
    command = [sys.executable, "-c", OPENED, str(folder), str(workers), str(Path(__file__).parent)]
    return [float(x) for x in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


def epochs(index: DataIndex, count: int = 5) -> list[float]:
    """Resident megabytes of this process's own after each of `count` epochs at 96 pixels, read in this process."""
    per_epoch = index.num_samples("train") * 99 // 100 // BATCH
    values, batches = [], loader(index, 96, per_epoch * count, 0)
    for number, _ in enumerate(batches, start=1):
        if number % per_epoch == 0:
            values.append(memory())
    return values


def start_rows(index: DataIndex, repeats: int) -> list[Row]:
    """Finding a position, and reading without decoding."""
    position = statistics.median(far_position() for _ in range(repeats))
    samples = index.records("train")
    samples.keys()
    result = in_turns({"a": lambda: read_ours(samples), "b": lambda: read_theirs(index)}, repeats)
    return [
        ("a batch at position 3 x 10^8 of 10^9, order made anew", f"{position * 1000:.0f} ms", "", ""),
        row("reading undecoded, one core, samples/s", result),
    ]


def decoding_rows(index: DataIndex, repeats: int) -> list[Row]:
    """Images per second."""
    rows, steps = list[Row](), max(1, index.num_samples(index.select("train")) // BATCH)
    for workers, normalised in ((0, False), (0, True), (2, False)):
        kind = "normalised" if normalised else "uint8, as the device gets them"
        for side in (224, 96):
            calls = {
                "a": partial(ours, index, side, steps, workers, normalised),
                "b": partial(theirs, index, side, workers),
            }
            text = f"decoded, cropped to {side}, {kind}, {'two workers' if workers else 'one core'}, images/s"
            rows.append(row(text, in_turns(calls, repeats)))
    return rows


def memory_rows(index: DataIndex, folder: Path) -> list[Row]:
    """Memory over epochs, and what many shards cost."""
    held = epochs(index)
    rows: list[Row] = [("memory after each of 5 epochs, MB", ", ".join(f"{x:.0f}" for x in held), "", "")]
    for count in (10, 100_000):
        many = folder / f"many{count}"
        make_many(many, count, samples=70 if count == 10 else 4)
        figures = [statistics.median(x) for x in zip(*(opened(many) for _ in range(3)), strict=True)]
        rows.append((f"opening an index of {count:,} shards", f"{figures[0]:.2f} s", "", ""))
        rows.append(("  memory that it takes, MB", f"{figures[1]:.0f}", "", ""))
        rows.append(("  first batch with two workers, plan and start included", f"{figures[2]:.2f} s", "", ""))
        rows.append(("  memory of a worker's own, MB", f"{figures[3]:.0f}", "", ""))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--decoding", action="store_true", help="only decoded images per second")
    parser.add_argument("--json", type=Path, help="a file for the rows")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # webdataset's, about sharding
    torch.set_num_threads(1)  # as in a worker
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "pictures"
        folder.mkdir()
        index = make_pictures(folder, options.images)
        rows = decoding_rows(index, options.repeats)
        if not options.decoding:
            rows = [*start_rows(index, options.repeats), *rows, *memory_rows(index, Path(name))]
    print(f"load at start {load:.2f}, at the end {os.getloadavg()[0]:.2f}; medians of {options.repeats}\n")
    for cells in (("", "ours", "webdataset", "ratio"), ("---",) * 4, *rows):
        print("| " + " | ".join(cells) + " |")
    if options.json:
        names = ("what", "ours", "webdataset", "ratio")
        options.json.write_text(json.dumps([dict(zip(names, cells, strict=True)) for cells in rows], indent=1) + "\n")


def row(text: str, result: dict[str, float]) -> Row:
    """A line of the table: ours against theirs."""
    return text, f"{result['a']:,.0f}", f"{result['b']:,.0f}", f"{result['a'] / result['b']:.2f}"


if __name__ == "__main__":
    main()
