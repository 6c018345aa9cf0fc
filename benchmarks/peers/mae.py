"""MAE pretraining with mimsuite and with what a user would pick instead, in img/s, the loader included.

python benchmarks/peers/mae.py [CASE] [--data SHARDS] [--who NAME ...] [--blocks 7] [--block-steps 1] [--compile]

Runs with the Python of benchmarks/peers/.venv (`make peers`). Every program is started as its documents say (ours:
`mimsuite pretrain`; lightly and stable-pretraining: the scripts beside this file; birder: its `train_mim`) and goes on
training until the end. They take turns: one program runs for a block of steps while the others are stopped by a
signal. All train the same ViT with the same decoder, patch targets, share of hidden patches, crops (scale 0.2 to 1),
AdamW, batch, float32, the same JPEGs, one loader process and as many threads as `--threads`. A program reads the data
as it is made to: ours shards, the others an image folder. On a machine that other work shares, images per second of
processor time (of a program and its loader) say more than images per second.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared/data/imagenette-224"
PATIENCE = 300  # seconds without a step after which a program counts as failed
ENDLESS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Case:
    """The encoder under the names of the programs, and the sizes."""

    ours: str
    timm: str
    birder: str
    size: int
    batch: int
    depth: int  # blocks of the decoder; their width is 512, with 16 heads


CASES = {
    "vit_small_224": Case("vit_small", "vit_small_patch16_224", "vit_s16", 224, 16, 1),
    "vit_tiny_96": Case("vit_tiny", "vit_tiny_patch16_224", "vit_t16", 96, 64, 1),
}
PACKAGES = {"ours": "mimsuite", "lightly": "lightly", "stable-pretraining": "stable_pretraining", "birder": "birder"}


def command(who: str, case: Case, shards: Path, images: Path, compiled: bool) -> list[str]:
    """The module or script of a program, and its arguments."""
    size, batch, depth = str(case.size), str(case.batch), str(case.depth)
    if who == "ours":
        keys = {
            "data": f"'{shards}'",
            "out": "ours",
            "model": case.ours,
            "objective": "mae",
            "head": "dec8",
            "head.num_hidden_layers": depth,
            "model.position": "sincos2d",
            "model.init_scheme": "mae",
            "augment.scale": "[0.2,1.0]",
            "image_size": size,
            "model.image_size": size,
            "steps": str(ENDLESS),
            "val_every": str(ENDLESS),
            "loader.val_limit": "64",  # the validation before the first step is not measured
            "save_every": str(ENDLESS),
            "batch": batch,
            "micro_batch": batch,
            "workers": "1",
            "precision": "32-true",
            "lr": "1.5e-4",
            "optim.betas": "[0.9,0.95]",
            "trainer.clip": "null",
            "trainer.compile": str(compiled).lower(),
            "logger": "none",
        }
        return ["mimsuite.tasks.pretrain", *(f"{key}={value}" for key, value in keys.items())]
    if who == "birder":
        line = f"--network mae_vit --encoder {case.birder} --size {size} --batch-size {batch} -j 1 --device cpu"
        line += " --opt adamw --lr 0.00015 --opt-betas 0.9 0.95 --lr-scheduler cosine --wd 0.05"
        line += " --encoder-model-config drop_path_rate=0.0 --aug-level 0 --resize-min-scale 0.2 --non-interactive"
        config = json.dumps({"decoder_depth": case.depth, "norm_pix_loss": True})
        extra = ["--compile", "--compile-opt"] if compiled else []
        return [
            *("birder.scripts.train_mim", *line.split(), *extra),
            *("--model-config", config, "--data-path", str(images)),
        ]
    script = HERE / f"mae_{who.replace('-', '_')}.py"
    return [str(script), str(images), case.timm, size, batch, "1", depth, str(int(compiled))]


class Program:
    """A training program that runs only while it is told to."""

    def __init__(self, who: str, line: list[str], folder: Path, threads: int) -> None:
        self.who, self.steps, self.log = who, folder / f"{who}.txt", folder / f"{who}.log"
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        environment |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
        (folder / "models").mkdir(exist_ok=True)  # birder wants it
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "clock.py"), str(self.steps), *line],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """To the program and its loader."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def lines(self) -> list[tuple[float, float]]:
        """Moment and loss of the steps so far."""
        text = self.steps.read_text() if self.steps.exists() else ""
        rows = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [(float(moment), float(loss)) for moment, loss in rows]

    def wait_for(self, count: int, stop: bool = True) -> list[tuple[float, float]]:
        """Runs until `count` steps are done; then the program is stopped.

        Raises:
            RuntimeError: the program ended, or did no step for a long time; with the end of its log.
        """
        self.signal(signal.SIGCONT)
        before, began = -1, time.monotonic()
        while len(rows := self.lines()) < count:
            if len(rows) > before:
                before, began = len(rows), time.monotonic()
            if self.process.poll() is not None or time.monotonic() - began > PATIENCE:
                tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-8:])
                raise RuntimeError(f"{self.who} stopped after {len(rows)} steps: {tail}")
            time.sleep(0.02)
        if stop:
            self.signal(signal.SIGSTOP)
        return rows

    def cpu_seconds(self) -> float:
        """Processor time so far of the program and its loader (Linux)."""
        total = 0
        for file in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = file.read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:13])) if int(fields[2]) == self.process.pid else 0
        return total / os.sysconf("SC_CLK_TCK")

    def block(self, steps: int) -> tuple[float, float]:
        """Seconds and processor seconds of a step, over `steps` of them; the one under way does not count."""
        done = len(self.lines())
        self.wait_for(done + 1, stop=False)
        cpu = self.cpu_seconds()
        rows = self.wait_for(done + 1 + steps)
        return (rows[done + steps][0] - rows[done][0]) / steps, (self.cpu_seconds() - cpu) / steps


def extract(shards: Path, target: Path) -> int:
    """The training images of packed shards as an image folder; how many."""
    count = 0
    for file in sorted(shards.glob("train-*.tar")):
        with tarfile.open(file) as archive:
            files = {member.name: member for member in archive if member.isfile()}
            for name, member in files.items():
                if name.endswith(".jpg"):
                    label = archive.extractfile(files[name[:-3] + "cls"]).read().decode()  # type: ignore[union-attr]
                    (target / label).mkdir(parents=True, exist_ok=True)
                    (target / label / name).write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
                    count += 1
    return count


@contextlib.contextmanager
def programs(names: list[str], options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Program]]:
    """Started one after the other, each stopped after its first steps; those that fail are reported and left out."""
    images = folder / "images"
    print(f"{extract(options.data, images)} images of {options.data.name}", flush=True)
    running: dict[str, Program] = {}
    try:
        for who in names:
            name = f"{who}, compiled" if options.compile else who
            line = command(who, options.sizes, options.data, images, options.compile)
            program = running[name] = Program(who, line, folder, options.threads)
            try:
                program.wait_for(3)
            except RuntimeError as error:
                print(f"FAILED: {error}", flush=True)
                program.signal(signal.SIGKILL)
                del running[name]
        yield running
    finally:
        for program in running.values():
            program.signal(signal.SIGKILL)
            program.process.wait()


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    """A row for each program: img/s, its range, and the ratio of our speed to it, block by block."""
    names = []
    for who in options.who:
        if importlib.util.find_spec(PACKAGES[who]):
            names.append(who)
        else:
            print(f"{who}: not installed here", flush=True)
    batch = options.sizes.batch
    with tempfile.TemporaryDirectory() as name, programs(names, options, Path(name)) as running:
        blocks: dict[str, list[tuple[float, float]]] = {who: [] for who in running}
        for number in range(options.blocks):
            order = list(running)
            for who in order[number % len(order) :] + order[: number % len(order)]:  # nobody is always the first
                blocks[who].append(running[who].block(options.block_steps))
        losses = {who: [loss for _, loss in program.lines()] for who, program in running.items()}
    ours = blocks.get("ours, compiled" if options.compile else "ours")
    rows: list[dict[str, object]] = []
    for who, values in blocks.items():
        package = PACKAGES[who.partition(",")[0]].replace("_", "-")
        row: dict[str, object] = {
            "case": options.case,
            "batch": batch,
            "program": who,
            "version": importlib.metadata.version(package),
        }
        for place, name in enumerate(("img/s", "img per CPU second")):
            speeds = [batch / value[place] for value in values]
            row |= {name: statistics.median(speeds), f"{name}, range": [min(speeds), max(speeds)]}
            if ours:  # in each block, ours beside this one
                ratios = [b[place] / a[place] for a, b in zip(ours, values, strict=True)]
                row |= {f"{name}, ours / this": statistics.median(ratios), f"{name}, ratios": sorted(ratios)}
        rows.append(row | {"blocks": len(values), "first loss": losses[who][0], "last loss": losses[who][-1]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=list(CASES), default="vit_small_224")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--who", nargs="*", choices=list(PACKAGES), default=list(PACKAGES))
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--block-steps", type=int, default=1)
    parser.add_argument("--batch", type=int, help="images of a step, instead of the case's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, help="a file for the rows")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the programs end, too
    case = CASES[options.case]
    options.sizes = dataclasses.replace(case, batch=options.batch or case.batch)
    load = os.getloadavg()[0]
    rows = measure(options)
    torch = importlib.metadata.version("torch")
    print(f"torch {torch}, {options.threads} threads, load at start {load:.1f}, at the end {os.getloadavg()[0]:.1f}")
    for row in rows:
        figures = {k: v for k, v in row.items() if not isinstance(v, list)}
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in figures.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if len(rows) < len(options.who):
        sys.exit("not every program ran")


if __name__ == "__main__":
    main()
