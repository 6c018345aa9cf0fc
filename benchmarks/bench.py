"""All tables of this folder, one after the other, each into benchmarks/results/bench/NAME.json: `make bench`.

python benchmarks/bench.py [NAME ...] [--again] [--minutes 20]

A table that is finished for this commit and this processor is not measured again, so that an interrupted run goes on
where it was; `--again` measures all anew. A table may take its share of the minutes and is stopped after it: what it
has printed by then is kept, it counts as unfinished, and the next run begins it anew. Rows of peers need the
environment of `make peers`. Measure on a machine that does nothing else; the load is written down. At the end all rows
are printed as one table. Results that are reported are copied into a folder with their date, which git keeps.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "bench"
PEERS = HERE / "peers" / ".venv" / "bin" / "python"
INSTALLED = HERE / "peers" / ".venv" / ".installed"
PRINTED = re.compile(r"^(\S+) +(\S.*?) +([\d.]+) ms +([\d.]+) img/s(?: +x([\d.]+))?")


@dataclass(frozen=True)
class Table:
    """A script of this folder, its arguments, and its share of the time."""

    command: tuple[str, ...]
    share: float
    python: Path = Path(sys.executable)
    json: bool = True  # it takes `--json FILE`; else rows are read from what it prints


TABLES = {
    "startup": Table(("startup.py", "--repeats", "5"), 0.045),
    "loop": Table(("loop.py", "--blocks", "7", "--steps", "150"), 0.07),
    "memory": Table(("memory.py", "1200"), 0.05),
    "loader": Table(("loader.py", "--repeats", "3"), 0.105),
    "probe": Table(("probe.py", "heads", "epochs", "--rounds", "3"), 0.105, json=False),
    "peers_mae_vit_tiny_96": Table(("peers/mae.py", "vit_tiny_96", "--blocks", "7"), 0.08, PEERS),
    "peers_mae_vit_small_224": Table(("peers/mae.py", "vit_small_224", "--blocks", "7"), 0.155, PEERS),
    "step": Table(("step.py", "--blocks", "7"), 0.39, json=False),
}


def place() -> dict[str, str]:
    """The commit and the processor: figures of others are not ours."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--abbrev=7", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    names = [x.partition(":")[2].strip() for x in read_lines("/proc/cpuinfo") if x.startswith("model name")]
    return {"commit": commit or importlib.metadata.version("mimsuite"), "cpu": (names or [platform.machine()])[0]}


def read_lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).exists() else []


def known(name: str, where: dict[str, str]) -> dict[str, Any] | None:
    """The result of a table, if it is of this place."""
    file = RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return result if {key: result.get(key) for key in where} == where else None


def measure(name: str, table: Table, seconds: float, where: dict[str, str]) -> dict[str, Any]:
    """Runs a table and writes its file; prints what the script prints."""
    load, began = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows_file = Path(folder) / "rows.json"
        extra = ["--json", str(rows_file)] if table.json else []
        script = [str(HERE / table.command[0]), *table.command[1:], *extra]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [str(table.python), *script],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        previous = signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            output = []
            for line in process.stdout or ():
                print("   ", line.rstrip(), flush=True)
                output.append(line.rstrip())
            code = process.wait()
            process.stdout.close()  # type: ignore[union-attr]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        rows = json.loads(rows_file.read_text()) if rows_file.exists() else printed_rows(output)
    result = where | {
        "table": name,
        "command": " ".join(["python", f"benchmarks/{table.command[0]}", *table.command[1:]]),
        "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "seconds": round(time.monotonic() - began),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "cores": os.cpu_count(),
        "finished": code == 0,
        "rows": rows,
        "output": output,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    draft = RESULTS / f"{name}.json.part"
    draft.write_text(json.dumps(result, indent=1) + "\n")
    draft.replace(RESULTS / f"{name}.json")
    return result


def printed_rows(output: list[str]) -> list[dict[str, Any]]:
    """Rows of a script that prints `CASE WHO 12.3 ms 45.6 img/s x1.2`; of other lines, their text."""
    rows: list[dict[str, Any]] = []
    for line in output:
        if found := PRINTED.match(line):
            case, who, ms, speed, ratio = found.groups()
            rows.append({"case": case, "who": who, "ms": float(ms), "img/s": float(speed)})
            rows[-1] |= {"ratio": float(ratio)} if ratio else {}
        elif line:
            rows.append({"text": line})
    return rows


def show(results: dict[str, dict[str, Any]]) -> None:
    """One table of everything."""
    print("\n| table | row | |\n|---|---|---|")
    for name, result in results.items():
        note = "" if result["finished"] else " (unfinished)"
        for row in result["rows"]:
            values = {key: value for key, value in row.items() if value != "" and not isinstance(value, list)}
            titles = [str(values.pop(key)) for key in ("case", "what", "who", "program", "text") if key in values]
            figures = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
            print(f"| {name}{note} | {' '.join(titles).replace('|', '/')} | {figures} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], help=", ".join(TABLES))
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    where, results = place(), {}
    for name in options.tables or TABLES:
        table, result = TABLES[name], known(name, where)
        if table.python == PEERS and not INSTALLED.exists():
            print(f"{name}: skipped, the peers' environment is missing (`make peers`)", flush=True)
        elif result and result["finished"] and not options.again:
            print(f"{name}: there, of {result['date']}", flush=True)
            results[name] = result
        else:
            print(f"{name}: {' '.join(table.command)}", flush=True)
            results[name] = measure(name, table, 60 * options.minutes * table.share, where)
    show(results)
    if unfinished := [name for name, result in results.items() if not result["finished"]]:
        sys.exit(f"unfinished: {', '.join(unfinished)}; see benchmarks/results/bench")


if __name__ == "__main__":
    main()
