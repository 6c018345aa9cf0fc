"""Seconds from the command to the first step of `vit_nano` on emoji-64, to `--help`, and to a config error.

python benchmarks/startup.py [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINE = re.compile(r"first step ([\d.]+) s after the command, of which ([\d.]+) s imported")


def timed(*arguments: str) -> tuple[float, str]:
    """Seconds that a command took, and what it printed."""
    began = time.perf_counter()
    command = [str(Path(sys.executable).parent / "mimsuite"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return time.perf_counter() - began, result.stdout


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="a file for the rows")
    options = parser.parse_args()
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(options.repeats):
            out = f"out={folder}/{i}"
            _, text = timed("pretrain", out, "experiment=emoji_nano", "steps=2", "val_every=2")
            match = LINE.search(text)
            assert match, text
            total, imports = float(match[1]), float(match[2])
            rows.setdefault("command to first step", []).append(total)
            rows.setdefault("  importing torch, torch._dynamo, torchmetrics, lightning, wandb", []).append(imports)
            rows.setdefault("  beyond the imports", []).append(total - imports)
            rows.setdefault("--help", []).append(timed("pretrain", "--help")[0])
            rows.setdefault("config error", []).append(
                timed("pretrain", out + "x", "model=vit_nano", "image_size=100")[0]
            )
    for name, values in rows.items():
        print(f"{name:66} median {statistics.median(values):5.2f} s  ({min(values):.2f} to {max(values):.2f})")
    if options.json:
        table = [
            {"what": k.strip(), "seconds": statistics.median(v), "lowest": min(v), "highest": max(v)}
            for k, v in rows.items()
        ]
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
