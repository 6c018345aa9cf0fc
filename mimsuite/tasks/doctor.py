"""`mimsuite doctor`: versions, devices and traps of this environment, each fault with one line of what to do."""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig

from mimsuite import app
from mimsuite.data.cache import LIMIT, cache_limit, clean_cache, list_packed, other_sizes
from mimsuite.data.folders import count_of
from mimsuite.data.open import open_data
from mimsuite.data.storage import cache_folder, write_json
from mimsuite.errors import InputError
from mimsuite.runs.console import log_to_console
from mimsuite.settings.doctor import read_doctor
from mimsuite.settings.machine import usable_cores
from mimsuite.version import __version__

log = logging.getLogger("mimsuite")

FACTORIES = "lightning.pytorch.callbacks_factory"
GIB = 1 << 30

# Run in a process of its own: a broken torch must not break the doctor.
PROBE = """
import json, torch
facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads(), "devices": []}
facts["devices"] += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
facts["devices"] += ["mps"] if torch.backends.mps.is_available() else []
print(json.dumps(facts))
"""


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        level: "ok"; "note": may slow a run or surprise; "fault": will break a run.
        about: what was looked at.
        text: what was found.
        fix: what to do, empty where nothing needs to be done.
    """

    level: Literal["ok", "note", "fault"]
    about: str
    text: str
    fix: str = ""


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Looks at the environment and prints what it finds; returns the findings, and exit code 1 where there is a fault.

    Raises:
        InputError: `out` is not a .json file.
    """
    log_to_console()
    settings = read_doctor(cfg)
    found = [
        *check_platform(),
        *check_libraries(installed_versions()),
        *check_traps(installed_versions(), callback_factories()),
        *check_torch(),
        *check_cpu(),
        *check_threads(),
    ]
    found += [*check_storage(), *check_cache(settings.clean)]
    found += [*([] if settings.data is None else check_data(settings.data))]
    for finding in found:
        log.info("%-5s %-12s %s%s", *finding[:3], f"; {finding.fix}" if finding.fix else "")
    bad = [f for f in found if f.level == "fault" or (settings.strict and f.level == "note")]
    log.info("%s", f"{len(bad)} to fix" if bad else "nothing that would break a run")
    report = {"findings": [f._asdict() for f in found], "exit_code": 1 if bad else 0}
    if settings.out is not None:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(settings.out, report)
    return report


def installed_versions() -> dict[str, str]:
    """The version of every installed distribution, by its name in lower case with `-`."""
    return {(d.metadata["Name"] or "").lower().replace("_", "-"): d.version for d in metadata.distributions()}


def callback_factories() -> list[str]:
    """The distributions whose entry points put callbacks into every Lightning trainer."""
    return sorted({e.dist.name if e.dist else e.value for e in metadata.entry_points(group=FACTORIES)})


def check_platform() -> Iterator[Finding]:
    """Python and the machine."""
    yield Finding("ok", "mimsuite", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    if sys.platform not in ("linux", "darwin"):
        yield Finding("fault", "platform", f"{sys.platform} is not supported", "use Linux, macOS or WSL")


def check_libraries(versions: Mapping[str, str], asked: Sequence[str] | None = None) -> Iterator[Finding]:
    """Compares installed versions with those that the package asks for.

    Args:
        versions: by name.
        asked: requirements; None for those of the installed package.
    """
    from packaging.requirements import Requirement

    for requirement in map(Requirement, metadata.requires("mimsuite") or () if asked is None else asked):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, wanted = requirement.name, str(requirement.specifier)
        version = versions.get(name.lower().replace("_", "-"))
        fix = f'pip install -c constraints.txt "{name}{wanted}"'
        if version is None:
            yield Finding("fault", name, f"is missing, {wanted} is asked for", fix)
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Finding("fault", name, f"{version}, but {wanted} is asked for", fix)
        else:
            yield Finding("ok", name, f"{version} ({wanted})")


def check_traps(versions: Mapping[str, str], adders: Sequence[str]) -> Iterator[Finding]:
    """Packages that are known to break runs or imports.

    Args:
        versions: by name.
        adders: distributions that put callbacks into every Lightning trainer.
    """
    cpu_torch = "+cpu" in versions.get("torch", "") or not any(n.startswith("nvidia-") for n in versions)
    if "torchvision" in versions and cpu_torch:
        pulled = [name for name in ("timm", "litdata", "lightly", "mosaicml-streaming") if name in versions]
        why = f" ({', '.join(pulled)} asks for it)" if pulled else ""
        text = f"{versions['torchvision']} beside a CPU build of torch{why}: import torchmetrics and lightning may fail"
        yield Finding("fault", "torchvision", text, "pip uninstall torchvision")
    for name in ("timm", "litdata"):
        if name in versions and not cpu_torch:
            text = f"{versions[name]} may have pulled another torch ({versions.get('torch', 'none is there now')})"
            yield Finding("note", name, text, "compare with constraints.txt; install it with --no-deps")
    if versions.get("lightning") in ("2.6.2", "2.6.3"):
        yield Finding(
            "fault", "lightning", f"{versions['lightning']} must not be used", 'pip install "lightning>=2.6.6"'
        )
    if parse_release(versions.get("omegaconf", "0")) >= (2, 4) and parse_release(versions.get("hydra-core", "9")) < (
        1,
        4,
    ):
        text = f"{versions['omegaconf']} with hydra-core {versions['hydra-core']}, which wants omegaconf < 2.4"
        yield Finding("fault", "omegaconf", text, 'pip install "omegaconf<2.4" "hydra-core>=1.3.8,<1.4"')
    for name in sorted({*adders, *({"stable-pretraining"} & set(versions))}):
        yield Finding("fault", name, "puts callbacks of its own into every trainer", f"pip uninstall {name}")


def parse_release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:2])


def check_torch(code: str = PROBE) -> Iterator[Finding]:
    """What torch reports about itself and the devices, asked in another process."""
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
        facts = json.loads(answer.stdout.splitlines()[-1]) if answer.returncode == 0 else None
        reason = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError) as error:
        facts, reason = None, str(error)
    if facts is None:
        yield Finding("fault", "torch", f"cannot be imported: {reason}", "pip install -c constraints.txt torch")
        return
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU"
    devices = ", ".join(facts["devices"]) or "none but the CPU"
    yield Finding(
        "ok", "devices", f"{devices}; torch {facts['torch']} for {build}, {count_of(facts['threads'], 'thread')}"
    )
    if not facts["devices"] and shutil.which("nvidia-smi") is not None:
        yield Finding(
            "note", "devices", "nvidia-smi is there, but torch sees no GPU", "install a CUDA build, or a driver"
        )


def check_cpu(info: Path = Path("/proc/cpuinfo")) -> Iterator[Finding]:
    """Whether the CPU computes in bf16; told on Linux only."""
    try:
        flags = set(next((x for x in info.read_text().splitlines() if x.startswith("flags")), "").split())
    except OSError:
        return
    fast = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    if fast:
        yield Finding("ok", "CPU", f"computes in bf16 ({', '.join(fast)})")
    else:
        yield Finding("ok", "CPU", "no amx_bf16, no avx512_bf16: bf16 is slow here; precision=auto uses 32-true")


def check_threads(root: Path = Path("/sys/fs/cgroup"), cores: int | None = None) -> Iterator[Finding]:
    """Threads that libraries will start, against the cores that this process may use."""
    if cores is None:
        cores = usable_cores()
    limit = cpu_limit(root)
    usable = max(1, min(cores, int(limit))) if limit is not None else cores
    told = os.environ.get("OMP_NUM_THREADS", "")
    about = f"{cores} cores" + (f", of which a cgroup allows {limit:g}" if limit is not None else "")
    fix = f"export OMP_NUM_THREADS={usable}"
    if told and (not told.isdecimal() or int(told) > usable):
        yield Finding("note", "threads", f"{about}, but OMP_NUM_THREADS={told}", fix)
    elif not told and usable < cores:
        yield Finding("note", "threads", f"{about}; torch starts one for each core", fix)
    else:
        yield Finding("ok", "threads", f"{about}, OMP_NUM_THREADS={told or 'not set'}")


def cpu_limit(root: Path) -> float | None:
    """The number of CPUs that a cgroup (version 2 or 1) allows, or None for no limit."""
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text().split()[:2]
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # none there, or "max"
        return None


def check_storage() -> Iterator[Finding]:
    """Shared memory for the loader's workers, open files, space in the cache and for temporary files."""
    if os.path.isdir("/dev/shm"):
        yield check_space("/dev/shm", Path("/dev/shm"), "workers=0, or docker run --shm-size=2g", GIB // 4)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    level: Literal["ok", "note"] = "note" if 0 <= files < 1024 else "ok"
    yield Finding(level, "open files", f"at most {files}", "ulimit -n 4096" if level == "note" else "")
    try:
        yield check_space("cache", cache_folder(), "free some, or set XDG_CACHE_HOME to a larger disk")
    except InputError as error:
        yield Finding("fault", "cache", str(error))
    temp = Path(tempfile.gettempdir())
    yield check_space("temporary", temp, "free some, or set TMPDIR to a larger disk")
    if os.stat(temp).st_dev != os.stat(".").st_dev:
        yield Finding("ok", "temporary", "another file system than this folder; checkpoints are not moved across")


def check_cache(clean: str | None) -> Iterator[Finding]:
    """What the cache holds; with `clean`, "old" or "all", what that removes is gone before it is counted."""
    try:
        cache_folder()
    except InputError:
        return  # there is none, which `check_storage` reports
    removed, kept = clean_cache(clean) if clean else (0, [])
    if clean:
        yield Finding("ok", "cache", f"removed {removed / GIB:.2f} GiB")
    for path in kept:
        yield Finding("note", "cache", f"{path} is in use and stays", "clean again when no run uses it")
    found = list(list_packed())
    old = [entry for entry in found if entry.old]
    copies = "1 copy" if len(found) == 1 else f"{len(found)} copies"
    copies += f" of image folders ({sum(entry.bytes for entry in found) / GIB:.2f} GiB)"
    limit = f"{LIMIT}={cache_limit() / GIB:g}"
    others = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in other_sizes().items())
    yield Finding("ok", "cache", f"{copies}, at most {limit} GiB; {others}")
    for entry in old:
        text = f"{entry.path.name} ({entry.bytes / GIB:.2f} GiB) is {entry.old}"
        yield Finding("note", "cache", text, "mimsuite doctor clean=old")


def check_space(about: str, folder: Path, fix: str, least: int = GIB // 8) -> Finding:
    """Free bytes in a folder: below `least` a fault, below four times that a note."""
    free = shutil.disk_usage(folder).free
    level: Literal["ok", "note", "fault"] = "fault" if free < least else "note" if free < 4 * least else "ok"
    return Finding(level, about, f"{free / GIB:.1f} GiB free in {folder}", "" if level == "ok" else fix)


def check_data(name: str | Sequence[str]) -> Iterator[Finding]:
    """Opens the index of a data set; reads no image."""
    try:
        index = open_data(name)
        counts = ", ".join(f"{split} {index.num_samples(split):,}" for split in index.splits)
        yield Finding("ok", "data", f"{counts}; {count_of(index.channels, 'channel')} {index.dtype}")
    except InputError as error:
        yield Finding("fault", "data", str(error))


if __name__ == "__main__":
    app.main("doctor", run)
