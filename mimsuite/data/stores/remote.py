"""Reads files of other machines: buckets, web servers and the Hugging Face hub, through fsspec."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from mimsuite.data.stores.backend import Backend, Body, Entry
from mimsuite.data.stores.fault import LARGEST, StoreError, explain, is_absent, too_large
from mimsuite.data.stores.names import last_name
from mimsuite.data.stores.store import Stat
from mimsuite.errors import InputError, RunError

TIMEOUT = 20.0  # seconds without a byte, after which a request is given up
SLOWEST = 16 << 10  # bytes a second; a body that comes slower than this is given up after as long
_FOLDERS = 10_000  # of a listing: more are taken for a folder that is not data

_left = list[Backend]()  # those of the process that this one was forked from: closing them would close its connections


class RemoteStore:
    """Files of one kind of server. One attempt per call; failures are `StoreError`s, or `InputError`s of the address.

    An instance can be forked and pickled: each process connects by itself, when it first reads. It serves any number
    of threads.
    """

    def __init__(self, scheme: str, timeout: float = TIMEOUT) -> None:
        """Takes one of `address.REMOTE`, and the seconds that may pass without a byte. Connects to nothing yet."""
        self._scheme, self._timeout = scheme, timeout
        self._backends: dict[int, Backend] = {}  # by process

    def is_file(self, name: str) -> bool:
        """Whether there is a file of this name."""
        try:
            self.stat(name)
        except StoreError as error:
            if is_absent(error):
                return False
            raise
        return True

    def is_folder(self, name: str) -> bool:
        """Whether anything lies below this name; False where the server cannot list."""
        if self._scheme in ("http", "https"):
            return False
        try:
            return bool(self.entries(name))
        except StoreError as error:
            if is_absent(error):
                return False
            raise

    def stat(self, name: str) -> Stat:
        """Size, and the ETag of the server or what it has instead."""
        with self._attempt(name) as backend:
            return backend.stat(name)

    def entries(self, folder: str) -> Sequence[Entry]:
        """What lies in a folder, sorted by name, with size and version of each file: one listing."""
        with self._attempt(folder) as backend:
            return sorted(backend.list(folder), key=lambda entry: last_name(entry.address))

    def list(self, folder: str, pattern: str) -> Sequence[str]:
        """The addresses in a folder that match a pattern, sorted part by part."""
        return [entry.address for entry in self.matches(folder, pattern)]

    def matches(self, folder: str, pattern: str) -> Sequence[Entry]:
        """As `list`, with size and version of each file."""
        first, _, rest = pattern.partition("/")
        found = [entry for entry in self.entries(folder) if fnmatchcase(last_name(entry.address), first)]
        if not rest:
            return [entry for entry in found if entry.stat is not None]
        folders = [entry.address for entry in found if entry.stat is None]
        if len(folders) > _FOLDERS:
            raise StoreError(folder, f"it holds more than {_FOLDERS} folders; give one of them")
        return [entry for inner in folders for entry in self.matches(inner, rest)]

    def walk(
        self,
        folder: str,
        *,
        hidden: bool = True,
        on_error: Callable[[OSError], None] | None = None,
        skip: Callable[[str, Sequence[str]], bool] | None = None,
        on_link: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[str, Sequence[str]]]:
        """See `Store.walk`; there are no links."""
        try:
            entries = self.entries(folder)
        except StoreError as error:
            if on_error is not None:
                on_error(error)
            return
        seen = [entry for entry in entries if hidden or not last_name(entry.address).startswith(".")]
        names = [last_name(entry.address) for entry in seen if entry.stat is not None]
        if skip is not None and skip(folder, names):
            return
        yield folder, names
        for inner in (entry.address for entry in seen if entry.stat is None):
            yield from self.walk(inner, hidden=hidden, on_error=on_error, skip=skip, on_link=on_link)

    def read(self, name: str, offset: int, size: int) -> bytes:
        """The `size` bytes of a file from `offset` on, by one request; fewer at its end.

        Raises:
            StoreError: see there; also where the server ignores ranges and sends the whole file.
        """
        if size < 1:
            return b""
        with self._attempt(name) as backend:
            body = backend.ask(name, offset, size)
            if body.start != offset or (body.length or 0) > size:
                body.close()
                raise StoreError(
                    name, "the server ignores Range and sends whole files; they must be cached", status=200
                )
            return b"".join(self._blocks(name, body))[:size]

    def stream(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """Yields a file from `offset` on, by one request, in blocks as they arrive.

        Where the server ignores Range and sends the whole file, what lies before `offset` is passed over.

        Raises:
            StoreError: see there; also where the body has another length than the server promised.
        """
        with self._attempt(name) as backend:
            body = backend.ask(name, offset, None)
            early = offset - body.start
            for block in self._blocks(name, body):
                if early < len(block):
                    yield block[early:] if early else block
                early = max(0, early - len(block))

    def read_all(self, name: str) -> bytes:
        """The content of a small file."""
        found = bytearray()
        for block in self.stream(name):
            found += block
            if len(found) > LARGEST:
                raise too_large(name)
        return bytes(found)

    def local_copy(self, name: str) -> Path:
        """The copy of a small file in the user's cache, which is made again when its size or version has changed."""
        from mimsuite.data.stores.copies import copy_of

        return copy_of(self, name)

    def put(self, source: Path, name: str) -> None:
        """Writes a local file to an address of this store."""
        with self._attempt(name) as backend:
            backend.put(source, name)

    def close(self) -> None:
        """Does nothing: the process shares its connections, and those that idle are closed by the library."""

    def _blocks(self, name: str, body: Body) -> Iterator[bytes]:
        """The blocks of a body, whose length is checked, and which may not come too slowly."""
        found, waited = 0, 0.0
        try:
            while True:
                began = time.monotonic()
                block = body.more()
                waited += time.monotonic() - began
                if not block:
                    break
                found += len(block)
                if body.length is not None and found > body.length:
                    raise StoreError(name, f"more than the {body.length} bytes came that were promised", passes=True)
                if waited > self._timeout and found < waited * SLOWEST:
                    raise StoreError(name, f"only {found} bytes came in {waited:.0f} s", passes=True)
                yield block
        finally:
            body.close()
        if body.length is not None and found < body.length:
            raise StoreError(name, f"only {found} of {body.length} bytes came", passes=True)

    @contextlib.contextmanager
    def _attempt(self, name: str) -> Iterator[Backend]:
        """What reads, in this process; its errors become ours."""
        try:
            yield self._backend()
        except (InputError, RunError, StoreError):
            raise
        except Exception as error:
            if (
                not isinstance(error, OSError | ValueError)
                and type(error).__module__.partition(".")[0] not in _LIBRARIES
            ):
                raise
            raise explain(name, error) from None

    def _backend(self) -> Backend:
        found = self._backends.get(os.getpid())
        if found is None:
            _left.extend(self._backends.values())
            self._backends = {os.getpid(): self._make()}
            found = self._backends[os.getpid()]
        return found

    def _make(self) -> Backend:
        if self._scheme in ("http", "https"):
            from mimsuite.data.stores.web import WebBackend

            return WebBackend(self._scheme, self._timeout)
        if self._scheme == "hf":
            from mimsuite.data.stores.hub import HubBackend

            return HubBackend(self._scheme, self._timeout)
        from mimsuite.data.stores.bucket import RangeBackend, S3Backend

        return (S3Backend if self._scheme == "s3" else RangeBackend)(self._scheme, self._timeout)

    def __getstate__(self) -> dict[str, object]:
        return {"_scheme": self._scheme, "_timeout": self._timeout, "_backends": {}}


_LIBRARIES = frozenset(
    (
        "aiohttp",
        "aiobotocore",
        "azure",
        "botocore",
        "fsspec",
        "gcsfs",
        "google",
        "httpx",
        "httpx2",
        "huggingface_hub",
        "yarl",
    )
)
