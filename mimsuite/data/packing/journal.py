"""What a pack has finished, so that the same command goes on after a kill: `pack.journal`, one JSON line a shard."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from mimsuite.data.index_json import CLASSES, JOURNAL
from mimsuite.data.stores.address import store_of
from mimsuite.data.stores.store import sha256_of
from mimsuite.errors import InputError, reading

_FORMAT = "mimsuite-pack-1"


class ShardLine(NamedTuple):
    """A finished shard.

    Attributes:
        file, split, sha256, bytes, samples: of the shard.
        after: the number of the first image, in the order of the plan, that lies behind it.
        bad: files that were skipped since the shard before.
        channels: channel counts in it, each with the first file that has it.
    """

    file: str
    split: str
    sha256: str
    bytes: int
    samples: int
    after: int
    bad: tuple[str, ...]
    channels: dict[int, str]


class Journal:
    """The journal of `out`, held by one process at a time.

    Attributes:
        out: the folder.
        lines: the finished shards, in order; each was found whole.
        tables: a folder in `out` for tables of single shards, until the index is written.
    """

    def __init__(self, out: Path, options: dict[str, Any], files: str) -> None:
        """Opens or begins the journal, and makes `out`.

        Args:
            out: absent, empty, or with a half-finished pack.
            options: all that decides the bytes but the files, as plain values.
            files: a hash of the files.

        Raises:
            InputError: `out` holds something else, a pack with other options or files, cannot be written, or is
                being written by another process.
        """
        self.out, self.lines, self.tables = out, list[ShardLine](), out / ".tables"
        check_out(out)
        header = {"format": _FORMAT, "options": options, "files": files}
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._file = (out / JOURNAL).open("a+b")
        except OSError as error:
            raise InputError(f"out={out} cannot be created ({error.strerror}); choose another folder") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume(header)
        except BlockingIOError:
            self._file.close()
            raise InputError(f"out={out} is being written by another pack; wait for it, or use another out=") from None
        except BaseException:
            self._file.close()
            raise

    @property
    def position(self) -> int:
        """The number of the first image that is not in a finished shard."""
        return self.lines[-1].after if self.lines else 0

    def count(self, split: str) -> int:
        """How many shards of a split are finished."""
        return sum(line.split == split for line in self.lines)

    def add(self, line: ShardLine) -> None:
        """Writes a line down before anything else happens."""
        self._append(line._asdict())
        self.lines.append(line)

    def remove(self) -> None:
        """The pack is finished."""
        (self.out / JOURNAL).unlink()

    def discard(self) -> None:
        """Removes all that this pack wrote, and the folder if it is empty then."""
        for line in self.lines:
            (self.out / line.file).unlink(missing_ok=True)
        shutil.rmtree(self.tables, ignore_errors=True)
        (self.out / CLASSES).unlink(missing_ok=True)
        self.remove()
        if not any(self.out.iterdir()):
            self.out.rmdir()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def _append(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _resume(self, header: dict[str, Any]) -> None:
        """Reads the lines up to the first that is cut or whose shard is not whole, and forgets the rest."""
        for part in self.out.glob("*.tar.part"):
            part.unlink()
        with reading(str(self.out / JOURNAL), f"remove {self.out} to begin again"):
            self._read_lines(header)

    def _read_lines(self, header: dict[str, Any]) -> None:
        self._file.seek(0)
        first, *rest = self._file.read().split(b"\n")
        if not rest:  # new, or killed before the header was on the disk
            self._file.truncate(0)
            self._append(header)
            return
        self._compare(json.loads(first), header)
        end = len(first) + 1
        for text in rest[:-1]:
            fields = json.loads(text)
            fields |= {"bad": tuple(fields["bad"]), "channels": {int(c): p for c, p in fields["channels"].items()}}
            line = ShardLine(**fields)
            if not _is_whole(self.out / line.file, line):
                break
            self.lines.append(line)
            end += len(text) + 1
        self._file.truncate(end)

    def _compare(self, then: dict[str, Any], now: dict[str, Any]) -> None:
        fix = f"give the same ones to go on, or remove {self.out} to begin again"
        if then.get("format") != _FORMAT:
            raise InputError(f"{self.out / JOURNAL} has format {then.get('format')!r}; remove {self.out}")
        other = [key for key in now["options"] if then["options"].get(key) != now["options"][key]]
        if other:
            changed = "; ".join(f"{key}: {then['options'].get(key)} then, {now['options'][key]} now" for key in other)
            raise InputError(f"out={self.out} holds a half-finished pack with other options ({changed}); {fix}")
        if then["files"] != now["files"]:
            raise InputError(
                f"out={self.out} holds a half-finished pack, and the files below src={now['options']['src']} have "
                f"changed since; remove {self.out} to begin again"
            )


def check_out(out: Path) -> None:
    """Checks whether a pack may be written to `out`; changes nothing.

    Raises:
        InputError: a file, or a folder that holds something and no half-finished pack.
    """
    try:
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / JOURNAL).is_file())):
            raise InputError(f"out={out} exists and is not an empty folder; choose another or remove it")
    except OSError as error:
        raise InputError(f"out={out} cannot be created ({error.strerror}); choose another folder") from error


def _is_whole(path: Path, line: ShardLine) -> bool:
    store, name = store_of(str(path)), str(path)
    return store.is_file(name) and store.stat(name).size == line.bytes and sha256_of(store, name) == line.sha256
