"""The headers of remote shards: several shards at a time, and a scan that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mimsuite.data.progress import report_progress
from mimsuite.data.scan import ScannedShard
from mimsuite.data.storage import read_object, write_array, write_json
from mimsuite.data.stores.address import remote_store
from mimsuite.data.stores.forward import ForwardReader
from mimsuite.data.stores.names import bare, shown
from mimsuite.data.stores.store import Stat
from mimsuite.data.tar import NoImageError, scan_shard

log = logging.getLogger("mimsuite")

AT_ONCE = 8  # shards that are read


def scan_remote(shards: Mapping[str, Stat], work: Path) -> list[ScannedShard]:
    """Scans shards; what is found of each is kept, and not looked for again.

    Small gaps between headers are read, for a request costs more; so the sha256 of most shards is found as well.

    Args:
        shards: their addresses, in order, with size and version.
        work: a folder that keeps what is found; it is made. One process at a time works in it (see `alone`).

    Raises:
        InputError: a shard cannot be read, or is damaged.
    """
    work.mkdir(parents=True, exist_ok=True)
    missing = {path: stat for path, stat in shards.items() if not _fact_file(work, path, stat).is_file()}
    if missing:
        done, size = len(shards) - len(missing), sum(stat.size for stat in missing.values())
        log.info(
            "no index: scanning %d of %d shards (%.3g GB), once, from %s on%s",
            *(len(missing), len(shards), size / 1e9, shown(next(iter(missing)))),
            "; the others were scanned before" if done else "",
        )
        _scan_missing(missing, work, len(shards))
    return [_read_facts(work, path, stat) for path, stat in shards.items()]


def _scan_missing(missing: Mapping[str, Stat], work: Path, total: int) -> None:
    stop, count = threading.Event(), total - len(missing)

    def scan(item: tuple[str, Stat]) -> None:
        if not stop.is_set():
            _scan(*item, work, stop)

    with report_progress("scan", "shards") as progress, ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for _ in pool.map(scan, missing.items()):
                count += 1
                progress(count, total)
        except BaseException:
            stop.set()
            raise


def _scan(path: str, stat: Stat, work: Path, stop: threading.Event) -> None:
    """Scans one shard, and writes down what was found: the facts last."""
    file = _fact_file(work, path, stat)
    reader = _Stoppable(ForwardReader(remote_store(path), path, stat.size), stop)
    unread = list[str]()
    try:
        rows = scan_shard(path, reader, unread.append)
        write_array(_table(file), rows)
        facts = {"samples": len(rows), "sha256": reader.sha256()}
        facts |= {"unread": len(unread), "first_unread": unread[0]} if unread else {}
    except NoImageError as error:
        facts = {"samples": 0, "fault": str(error)}
    except _StoppedError:
        return
    finally:
        reader.close()
    write_json(file, facts)


class _StoppedError(Exception):
    """Another shard failed."""


class _Stoppable:
    """A reader that ends when the scan does."""

    def __init__(self, reader: ForwardReader, stop: threading.Event) -> None:
        self._reader, self._stop, self.size = reader, stop, reader.size

    def read(self, offset: int, size: int) -> bytes:
        if self._stop.is_set():
            raise _StoppedError
        return self._reader.read(offset, size)

    def sha256(self) -> str | None:
        """That of the whole shard, where no gap was passed over."""
        self._reader.read_rest()
        return self._reader.sha256

    def close(self) -> None:
        self._reader.close()


def _read_facts(work: Path, path: str, stat: Stat) -> ScannedShard:
    file = _fact_file(work, path, stat)
    facts = read_object(file, "remove it to have the shard scanned again")
    if fault := facts.get("fault"):
        return ScannedShard(path, stat.size, None, "", 0, str(fault))
    unread = int(facts.get("unread", 0)), str(facts.get("first_unread", ""))
    return ScannedShard(path, stat.size, facts["sha256"], str(_table(file)), int(facts["samples"]), "", *unread)


def _fact_file(work: Path, path: str, stat: Stat) -> Path:
    mark = f"{bare(path)}\0{stat.size}\0{stat.version}".encode("utf-8", "surrogateescape")
    return work / f"{hashlib.sha256(mark).hexdigest()[:32]}.json"


def _table(file: Path) -> Path:
    return file.with_suffix(".idx.npy")


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Waits for other processes that hold the lock of this file, which ends with its process."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process scans the same shards: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
