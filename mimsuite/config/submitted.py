"""Sweeps whose jobs submitit starts, on a cluster or here: where their record is, and how they ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mimsuite.errors import InputError, RunError

FOLDER = "submitit"  # in the `out` of a sweep


def chosen_launcher(arguments: Sequence[str]) -> str:
    """What starts the jobs of a sweep, as the command line says; nothing where Hydra does so itself."""
    found = [a.partition("=")[2].strip("'\"") for a in arguments if a.lstrip("+").startswith("hydra/launcher=")]
    return found[-1] if found else ""


def uses_submitit(arguments: Sequence[str]) -> bool:
    """Whether submitit starts the jobs."""
    return chosen_launcher(arguments).startswith("submitit")


def check_launcher(arguments: Sequence[str]) -> None:
    """Checks that what shall start the jobs of a sweep is installed, and that the sweep has a folder.

    Raises:
        InputError: it is not, or it has none.
    """
    if not uses_submitit(arguments):
        return
    name = chosen_launcher(arguments)
    if find_spec("submitit") is None or find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        raise InputError(f'hydra/launcher={name} needs hydra-submitit-launcher; pip install "mimsuite[slurm]"')
    if not out_of(arguments):
        raise InputError(f"hydra/launcher={name} needs out=: what the jobs print goes to {FOLDER}/ in it")


def out_of(arguments: Sequence[str]) -> str:
    """The `out=` of a command line, without quotes."""
    found = [a.partition("=")[2].strip("'\"") for a in arguments if a.startswith("out=")]
    return found[-1] if found else ""


def make_submitit_folder(arguments: Sequence[str]) -> Path:
    """Makes the folder for the record of a sweep, and names it in the environment for the jobs."""
    folder = Path(out_of(arguments)).absolute() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("exit-*"):
        old.unlink()
    os.environ["MIMSUITE_SWEEP"] = str(folder)
    return folder


def is_submitted() -> bool:
    """Whether this process is a job that submitit started."""
    return "SUBMITIT_EXECUTOR" in os.environ


def write_code(hydra_cfg: Any, code: int) -> None:
    """Leaves the exit code of a job for the command that waits for it; the first process of several does."""
    if os.environ.get("SLURM_PROCID", "0") == "0":
        Path(hydra_cfg.sweep.dir, f"exit-{hydra_cfg.job.num}").write_text(str(code))


def read_codes(folder: Path | None) -> list[int]:
    """The exit codes of the jobs of a sweep; of a sweep without such a folder none."""
    if folder is None:
        return []
    codes = {file.name.removeprefix("exit-"): int(file.read_text()) for file in folder.glob("exit-*")}
    if failed := sorted((number for number, code in codes.items() if code), key=int):
        first = f"the first with exit code {codes[failed[0]]}"
        raise RunError(
            f"{len(failed)} of {len(codes)} jobs failed: {', '.join(failed)}, {first}; what they printed is in "
            f"{folder}/.submitit"
        )
    return list(codes.values())


@contextlib.contextmanager
def submitted_jobs() -> Iterator[None]:
    """Turns what submitit says of a job that was lost or could not be started into one line.

    Raises:
        RunError: such a job.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("submitit"):
            raise
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(f"a job of the sweep ended without a result: {text.strip()[:300]}") from error
