"""How files are written so that no reader ever sees half of one, and where the cache lies."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimsuite.errors import InputError, describe_fault, reading

log = logging.getLogger("mimsuite")


def cache_folder() -> Path:
    """The user's cache folder for what can be made again (`XDG_CACHE_HOME/mimsuite`), which is made.

    Raises:
        InputError: there is no home folder to put it into, or it cannot be made.
    """
    home = os.path.expanduser("~")
    if not (given := os.environ.get("XDG_CACHE_HOME")) and home == "~":
        raise InputError("there is no folder for the cache: this user has no home; set HOME or XDG_CACHE_HOME")
    folder = Path(given or Path(home, ".cache")) / "mimsuite"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"the cache folder {folder} cannot be written: {error.strerror}; set XDG_CACHE_HOME to one that can"
        ) from error
    return folder


class Replacement:
    """A file that is written beside its place, and moved there in one step.

    Attributes:
        part: where to write it.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        """Takes the place; touches nothing.

        Args:
            path: the file to replace; its folder exists.
            durable: also flush file and folder to the disk, so that after a power cut the old or the new content is
                there.
        """
        self.part = path.with_name(f".{path.name}.part")
        self._path, self._durable = path, durable

    def commit(self) -> None:
        """Moves the part, which is closed, to its place."""
        if self._durable:
            _flush(self.part, os.O_RDWR)
        os.replace(self.part, self._path)
        if self._durable:
            _flush(self._path.parent, os.O_RDONLY)

    def discard(self) -> None:
        """Removes the part, if it is still there."""
        self.part.unlink(missing_ok=True)


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """A JSON object that a file of ours holds.

    Raises:
        InputError: unreadable, or something else; the message ends with the fix.
    """
    with reading(str(path), fix):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    return content


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and moves what was written there into its place in one step.

    A reader never sees half a file, and when the block fails the old file stays and the new part is removed. The file
    has the rights of any new file of this user, also where a library writes it with others. Arguments are those of
    `Replacement`.
    """
    new = Replacement(path, durable=durable)
    try:
        new.discard()  # what a kill left
        new.part.touch()
        mode = new.part.stat().st_mode
        yield new.part
        new.part.chmod(mode)
        new.commit()
    except OSError as error:
        unnamed = error.filename in (None, str(new.part))  # as of a full disk; the part's name tells a user nothing
        if error.errno is not None and unnamed:
            error.filename = str(path)
        raise
    finally:
        new.discard()


class OptionalWrites:
    """Writes that a run can do without: the first that fails is reported, and the run goes on.

    Attributes:
        failed: whether the last one failed.
    """

    def __init__(self, what: str, errors: type[Exception] | tuple[type[Exception], ...] = OSError) -> None:
        """Takes what is written, for the report, and the errors that do not end the run."""
        self._what, self._errors, self._reported = what, errors, False
        self.failed = False

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """A block that writes, or else is left."""
        self.failed = True
        try:
            yield
        except self._errors as error:
            if not self._reported:
                self._reported = True
                why = describe_fault(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                log.warning("%s cannot be written, and the run goes on without: %s", self._what, why)
        else:
            self.failed = False


def write_bytes(path: Path, content: bytes | memoryview, *, durable: bool = False) -> None:
    """Replaces a file in one step, see `replacing`."""
    with replacing(path, durable=durable) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replaces a small UTF-8 file in one step."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, content: dict[str, Any], *, durable: bool = False) -> None:
    """Replaces a JSON file in one step."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode(), durable=durable)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Replaces a `.npy` file in one step."""
    with replacing(path) as part, part.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def move_file(source: Path, place: Path) -> None:
    """Moves a whole file to its place in one step, on the same disk."""
    os.replace(source, place)


def move_folder(source: Path, place: Path, last: str) -> None:
    """Moves a finished folder to its place in one step; where another process was faster, its folder stays.

    Args:
        source: the folder, on the same disk.
        place: where it goes.
        last: the file that is written last: a folder that holds it is finished.
    """
    try:
        source.rename(place)
    except OSError:
        if not (place / last).is_file():
            raise


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replaces a CSV file in one step; its folder is made.

    Args:
        path: the file.
        columns: its first line.
        rows: the lines below.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
