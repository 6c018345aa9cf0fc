"""Whole shards on this machine: fetched once by all its processes, checked, and removed where room is needed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mimsuite.data.fetching.limits import Fetching
from mimsuite.data.fetching.locks import Handle, Mark
from mimsuite.data.fetching.retry import give_up
from mimsuite.data.fetching.trusted import is_trusted, trust
from mimsuite.data.index import Shard
from mimsuite.data.storage import move_file, write_text
from mimsuite.data.stores.address import remote_store
from mimsuite.data.stores.names import bare, shown
from mimsuite.errors import FULL, InputError, RunError

log = logging.getLogger("mimsuite")

PART, SUM, ROOM = ".part", ".sha256", "room.lock"
_NAME = re.compile(rf"(etag-)?[0-9a-f]{{64}}({re.escape(PART)})?")
_BLOCK = 4 << 20  # bytes that are hashed at a time
_OPEN = 64  # files
_LOOK_EVERY = 0.02  # seconds
_SILENT = 3  # times the timeout, after which a process that fetches and writes nothing is given up


class NoRoomError(Exception):
    """What the cache holds is in use, and there is no room for one shard more."""


class BusyError(Exception):
    """Another process fetches the shard."""


class StoppedError(Exception):
    """Nobody wants the shard any more."""


class ShardCache:
    """The shards of other machines that one folder keeps, for all processes of this machine.

    A shard has the name of its content: its sha256, or where the index has none, a hash of address, size and ETag.
    It is written to a `.part`, whose lock ends with the process that fetches, and gets its name when it is whole and
    right. A file of the right name is used where it is no link, has the right size, and the right sha256: this is
    looked at once in a run, and again when the file has changed.
    """

    def __init__(self, fetching: Fetching) -> None:
        """Takes where shards are kept; touches nothing."""
        self._fetching = fetching
        self._names: dict[str, str] = {}
        self._made: Path | None = None
        self._open: dict[str, tuple[Handle, Mark]] = {}
        self.stop = threading.Event()  # ends what is being fetched

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """The `size` bytes of a shard from `offset` on; it is fetched if it is not here.

        Raises:
            NoRoomError: it is not here, and there is no room for it.
            RunError: it cannot be fetched, or its bytes are wrong.
        """
        return self._opened(shard).read(offset, size)

    def read_if_here(self, shard: Shard, offset: int, size: int) -> bytes | None:
        """The same where the shard is here; else None, and nothing is fetched."""
        if shard.sha256 is None and shard.path not in self._names:
            return None  # its name would cost a request
        handle = self._still_open(shard) or self._kept_open(shard, self._found(shard))
        return None if handle is None else handle.read(offset, size)

    def hold(self, shard: Shard, *, wait: bool = True) -> Handle:
        """Keeps a shard here until the handle is closed; it is fetched if it is not here.

        Args:
            shard: which.
            wait: whether to wait for another process that fetches it.

        Raises:
            NoRoomError, BusyError, StoppedError: see there.
            RunError: it cannot be fetched, or its bytes are wrong.
        """
        path = self.path(shard)
        while True:
            handle = self._found(shard)
            if handle is None:
                self._fetch(shard, path, wait)
            elif handle.share() and handle.is_at(path):
                found = handle.stat
                with contextlib.suppress(OSError):  # of another user
                    os.utime(handle.number, ns=(time.time_ns(), found.st_mtime_ns))  # was used last
                return handle
            else:
                handle.close()

    def _opened(self, shard: Shard) -> Handle:
        """The file of a shard, which stays open; where others remove it, it is closed when the next is opened."""
        handle = self._still_open(shard) or self._kept_open(shard, self._found(shard))
        if handle is None:
            handle = self.hold(shard)
            handle.unlock()
            self._kept_open(shard, handle)
        return handle

    def _still_open(self, shard: Shard) -> Handle | None:
        """The file of a shard if it is open, and neither removed nor changed since."""
        handle, mark = self._open.get(shard.path, (None, None))
        return handle if handle is not None and handle.mark == mark else None

    def _kept_open(self, shard: Shard, handle: Handle | None) -> Handle | None:
        if handle is None:
            return None
        removed = [path for path, (other, mark) in self._open.items() if other.mark != mark or path == shard.path]
        for path in removed or list(self._open)[: max(0, len(self._open) - _OPEN + 1)]:
            self._open.pop(path)[0].close()
        self._open[shard.path] = handle, handle.mark
        return handle

    def __getstate__(self) -> dict[str, object]:
        return {"_fetching": self._fetching}

    def __setstate__(self, state: dict[str, Fetching]) -> None:
        self.__init__(state["_fetching"])  # type: ignore[misc]

    def path(self, shard: Shard) -> Path:
        """Where a shard is kept, or would be."""
        return self._folder() / self._name(shard)

    def _folder(self) -> Path:
        if self._made is None:
            self._made = make_folder(self._fetching)
        return self._made

    def _name(self, shard: Shard) -> str:
        """What identifies the content of a shard."""
        if shard.sha256 is not None and re.fullmatch("[0-9a-f]{64}", shard.sha256):
            return shard.sha256
        if shard.path not in self._names:
            try:
                size, version = remote_store(shard.path, self._fetching.timeout).stat(shard.path)
            except OSError as error:
                raise give_up(f"shard {shown(shard.path)} cannot be read", error) from error
            if size != shard.bytes:
                raise changed(shard, f"has {size} bytes, its index says {shard.bytes}")
            mark = f"{bare(shard.path)}\0{size}\0{version}".encode("utf-8", "surrogateescape")
            self._names[shard.path] = f"etag-{hashlib.sha256(mark).hexdigest()}"
        return self._names[shard.path]

    def _found(self, shard: Shard) -> Handle | None:
        """The file of a shard, open, if it is here and right; what has its name and is not, is removed."""
        path = self.path(shard)
        try:
            handle = Handle(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK):
                raise RunError(f"the cached shard {path} cannot be read: {error.strerror}; remove it") from error
        else:
            if handle.is_plain and handle.stat.st_size == shard.bytes and self._is_right(handle, path, shard):
                return handle
            handle.close()
        log.warning("%s is not what was fetched from %s: it is fetched again", path, shown(shard.path))
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"the cached shard {path} cannot be removed: {error.strerror}; remove it") from error
        return None

    def _is_right(self, handle: Handle, path: Path, shard: Shard) -> bool:
        if is_trusted(path.name, handle.stat):
            return True
        wanted = path.name if path.name == shard.sha256 else read_sum(path)
        digest, offset = hashlib.sha256(), 0
        while wanted and (block := handle.read(offset, _BLOCK)):
            digest.update(block)
            offset += len(block)
        if digest.hexdigest() != wanted:
            return False
        trust(path.name, handle.stat)
        return True

    def _fetch(self, shard: Shard, path: Path, wait: bool) -> None:
        """Fetches a shard, unless another process has done it meanwhile."""
        part = path.with_name(path.name + PART)
        with self._locked(part, path, wait) as handle:
            if handle is None:
                return
            try:
                self._make_room(shard.bytes, handle, part)
                found = self._download(shard, handle)
                if path.name != shard.sha256:
                    write_text(path.with_name(path.name + SUM), found)
                trust(path.name, handle.stat)
                move_file(part, path)
            except OSError as error:
                raise self._not_written(error) from error
            finally:
                part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, part: Path, path: Path, wait: bool) -> Iterator[Handle | None]:
        """The `.part` of a shard, which no other process writes; None where the shard is here by now."""
        while True:
            try:
                handle = Handle(part, writes=True)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EMLINK):
                    raise self._not_written(error) from error
                part.unlink(missing_ok=True)
                continue
            with handle:
                while not handle.lock():
                    if not handle.is_at(part):  # whole by now, and in use
                        yield None
                        return
                    if not wait:
                        raise BusyError
                    self._wait_for(handle, part)
                if os.path.lexists(path):
                    if handle.is_at(part):
                        part.unlink()
                    yield None
                    return
                if handle.is_at(part):
                    yield handle
                    return

    def _wait_for(self, handle: Handle, part: Path) -> None:
        """Waits for the process that fetches, which writes to its file as long as it makes progress."""
        silent = time.time() - handle.stat.st_mtime
        if silent > _SILENT * self._fetching.timeout:
            raise RunError(
                f"another process fetches {part}, and has written nothing for {silent:.0f} s; is it stopped? end it"
            )
        if self.stop.wait(_LOOK_EVERY):
            raise StoppedError

    def _make_room(self, size: int, handle: Handle, part: Path) -> None:
        """Takes room for a shard; what nobody holds is removed for it, first what was used longest ago."""
        with Handle(part.with_name(ROOM), writes=True) as room:
            while not room.lock():
                time.sleep(_LOOK_EVERY)
            rows = [entry for entry in list_shards(part.parent) if entry.path != part]
            total = sum(entry.bytes for entry in rows)
            for entry in sorted(rows, key=lambda entry: entry.used):
                if total + size <= self._fetching.limit:
                    break
                if remove_shard(entry.path):
                    total -= entry.bytes
            if total + size > self._fetching.limit:
                raise NoRoomError
            os.truncate(handle.number, 0)  # what a kill left
            os.truncate(handle.number, size)  # counts from now on

    def _download(self, shard: Shard, handle: Handle) -> str:
        """Writes a shard, and returns its sha256; bytes that are wrong are fetched once more."""
        for last in (False, True):
            found = self._stream(shard, handle)
            if shard.sha256 in (None, found):
                return found
            if not last:
                log.warning("%s came with wrong bytes: it is fetched again", shown(shard.path))
        raise changed(shard, f"has the sha256 {found[:16]}..., its index says {str(shard.sha256)[:16]}...")

    def _stream(self, shard: Shard, handle: Handle) -> str:
        digest, done = hashlib.sha256(), 0
        try:
            store = remote_store(shard.path, self._fetching.timeout)
            for block in store.stream(shard.path, size=shard.bytes):
                if self.stop.is_set():
                    raise StoppedError
                if done + len(block) > shard.bytes:
                    raise changed(shard, f"has more than the {shard.bytes} bytes that its index says")
                self._write(handle, block, done)
                digest.update(block)
                done += len(block)
        except OSError as error:
            raise give_up(f"shard {shown(shard.path)} cannot be read", error) from error
        return digest.hexdigest()

    def _write(self, handle: Handle, block: bytes, offset: int) -> None:
        try:
            handle.write(block, offset)
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> RunError:
        fix = "free some space, or use a smaller loader.cache_gib=" if error.errno in FULL else "use another folder"
        return RunError(
            f"the cache of shards {self._fetching.folder} cannot be written: {error.strerror}; {fix}, or loader.cache="
        )


def make_folder(fetching: Fetching) -> Path:
    """The folder of the cache, which is made.

    Raises:
        InputError: it cannot be written.
    """
    folder = fetching.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Handle(folder / ROOM, writes=True).close()
    except OSError as error:
        raise InputError(
            f"loader.cache={folder} cannot be written: {error.strerror}; use a folder that can be"
        ) from error
    return folder


def read_sum(path: Path) -> str:
    """The sha256 that was written down beside a shard; empty where there is none."""
    try:
        with Handle(path.with_name(path.name + SUM)) as handle:
            return handle.read(0, 64).decode("ascii", "replace") if handle.is_plain else ""
    except OSError:
        return ""


class Entry(NamedTuple):
    """A shard in a cache, whole or not.

    Attributes:
        path: its file.
        bytes: its size.
        used: when it was used last, in seconds.
    """

    path: Path
    bytes: int
    used: float


def list_shards(folder: Path) -> list[Entry]:
    """What a cache holds; other files in its folder, and links, are not looked at."""
    found = list[Entry]()
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as rows:
        for row in rows:
            with contextlib.suppress(FileNotFoundError):
                if _NAME.fullmatch(row.name) and row.is_file(follow_symlinks=False):
                    facts = row.stat(follow_symlinks=False)
                    found.append(Entry(Path(row.path), facts.st_size, facts.st_atime))
    return found


def remove_shard(path: Path) -> bool:
    """Removes a shard that no process holds; tells whether it is gone."""
    try:
        with Handle(path) as handle:
            if not handle.lock():
                return False
            path.with_name(path.name + SUM).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
    except OSError:
        return not os.path.lexists(path)
    return True


def changed(shard: Shard, what: str) -> RunError:
    """The error for a shard that is no longer the one that was indexed."""
    return RunError(
        f"shard {shown(shard.path)} {what}: it was replaced or damaged; put the old one back, or index the data again"
    )
