"""Loading through the cache of shards against local files: images per second side by side, and the first batch.

python benchmarks/stores.py [--rounds 5] [--shards 100] [--samples 60] [--workers 2]

A web server of Python's own, in a process of its own, serves shards of JPEG files on this machine; the index has their
sha256, as that of `mimsuite pack`. A round loads the same batches from local files and, twice, from the server: through
an empty cache (its first batch counts) and through a full one (its time counts).
"""

from __future__ import annotations

import argparse
import functools
import http.server
import io
import json
import multiprocessing
import re
import statistics
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mimsuite.data.augment.crop import RandomResizedCrop
from mimsuite.data.datamodule import ImageData
from mimsuite.data.fetching.limits import Fetching
from mimsuite.data.index import DataIndex
from mimsuite.data.open import open_index
from mimsuite.data.stores.local import LocalStore
from mimsuite.data.stores.store import sha256_of

SIDE, BATCH = 96, 64


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Python's handler with ranges."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first, last = (int(found[1]), min(int(found[2] or len(data)), len(data) - 1)) if found else (0, len(data) - 1)
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", f'"{len(data)}"')
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """One that says nothing of clients that hang up."""

    def handle_error(self, *_: object) -> None:
        pass


def serve(folder: str, port: Any) -> None:
    server = Server(("127.0.0.1", 0), functools.partial(Ranges, directory=folder))
    port.put(server.server_port)
    server.serve_forever()


def write_shards(folder: Path, count: int, samples: int) -> None:
    """Shards of JPEG files of 160 pixels a side."""
    random = np.random.default_rng(0)
    for shard in range(count):
        with tarfile.open(folder / f"train-{shard:06d}.tar", "w") as archive:
            for number in range(samples):
                stream = io.BytesIO()
                coarse = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((160, 160)).save(stream, "JPEG")
                info = tarfile.TarInfo(f"{shard:06d}_{number:04d}.jpg")
                info.size = len(stream.getvalue())
                archive.addfile(info, io.BytesIO(stream.getvalue()))


def load(index: DataIndex, steps: int, workers: int) -> tuple[float, float]:
    """Seconds to the first batch, and from there to the last; without workers, those of the processor."""
    data = ImageData(
        index,
        image_size=(SIDE, SIDE),
        mask_unit=None,
        train_transform=RandomResizedCrop((SIDE, SIDE)),
        masks=(),
        batch=BATCH,
        micro_batch=BATCH,
        steps=steps,
        seed=0,
        workers=workers,
    )
    clock = time.perf_counter if workers else time.process_time
    began, first = clock(), 0.0
    for _ in data.train_dataloader():
        first = first or clock() - began
    return first, clock() - began - first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rounds", 5), ("shards", 100), ("samples", 60), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name, "shards"), multiprocessing.Queue()
        folder.mkdir()
        write_shards(folder, given.shards, given.samples)
        server = multiprocessing.Process(target=serve, args=(str(folder), port), daemon=True)
        server.start()
        address = f"http://127.0.0.1:{port.get()}"
        local = open_index(str(folder), Path(name, "index"))
        far = replace(
            local,
            splits={
                split: tuple(
                    replace(
                        shard,
                        path=f"{address}/{Path(shard.path).name}",
                        sha256=sha256_of(LocalStore(), shard.path),
                    )
                    for shard in shards
                )
                for split, shards in local.splits.items()
            },
        )
        steps, rows = given.shards * given.samples // BATCH, []
        for number in range(given.rounds):
            cached = replace(far, fetching=Fetching(cache=str(Path(name, f"cache{number}"))))
            first_local, seconds_local = load(local, steps, given.workers)
            first_far, _ = load(cached, steps, given.workers)
            _, seconds_far = load(cached, steps, given.workers)
            rows.append((seconds_far / seconds_local, first_local, first_far))
            print(f"round {number}: local {seconds_local:.2f} s, cached {rows[-1][0]:.3f} times that;", end=" ")
            print(f"first batch {first_far:.2f} s, local {first_local:.2f} s", flush=True)
        server.kill()
    ratio, near, distant = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        json.dumps(
            {"ratio": round(ratio, 3), "first_local_s": round(near, 2), "first_empty_cache_s": round(distant, 2)}
        )
    )


if __name__ == "__main__":
    main()
