"""What `report` reads: the folders of runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.errors import InputError
from mimsuite.settings.outputs import check_file
from mimsuite.settings.plot import read_names
from mimsuite.settings.read import read, read_flag


@dataclass(frozen=True)
class ReportSettings:
    """Which runs a report is about.

    Attributes:
        out: the file.
        folders: run folders, or folders that hold some.
    """

    out: Path
    folders: Sequence[Path]


def read_report(cfg: DictConfig) -> ReportSettings:
    """Reads and checks every key.

    Raises:
        InputError: a wrong value, a path that is not a folder, or a file that may not be written.
    """
    out = check_file("out", str(read(cfg, "out")), (".html",), overwrite=read_flag(cfg, "overwrite"))
    folders = [Path(name) for name in read_names(cfg, "runs")]
    for folder in folders:
        if not folder.exists():
            hint = "; several runs are a list: runs=[A,B]" if "," in str(folder) else "; give the folder of a run"
            raise InputError(f"runs={folder} does not exist{hint}")
        if not folder.is_dir():
            raise InputError(f"runs={folder} is a file; give the folder of a run: runs={folder.parent}")
    return ReportSettings(out, folders)
