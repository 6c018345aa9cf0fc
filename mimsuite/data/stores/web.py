"""Web servers: files by `http://` and `https://`, which cannot be listed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mimsuite.data.stores.backend import Body, Entry, needs
from mimsuite.data.stores.fault import StoreError, refused
from mimsuite.data.stores.store import Stat

_AS_THEY_ARE = "".join({chr(code) for code in range(0x21, 0x7F)} - {"#"})  # of a path: what ASCII writes
_BUFFER = 1 << 20  # bytes that may wait in a connection


class WebBackend:
    """One session of aiohttp, made by fsspec and run by its thread; it serves any number of threads."""

    def __init__(self, scheme: str, timeout: float) -> None:
        """Takes the seconds after which a connection that brings nothing is given up.

        Raises:
            InputError: aiohttp is not installed.
        """
        try:
            import aiohttp
            from fsspec.implementations.http import HTTPFileSystem
        except ImportError as error:
            raise needs(scheme, "http", str(error.name)) from error
        limits = aiohttp.ClientTimeout(total=None, connect=timeout, sock_connect=timeout, sock_read=timeout)
        session = {
            **{"timeout": limits, "read_bufsize": _BUFFER, "trust_env": True},
            **{"auto_decompress": False, "requote_redirect_url": False},
        }
        self._system = HTTPFileSystem(skip_instance_cache=True, client_kwargs=session)

    def stat(self, address: str) -> Stat:
        """By a request for one byte: an address that is signed for GET answers no HEAD."""
        body = self.ask(address, 0, 1)
        body.close()
        if body.stat is None:
            raise StoreError(address, "the server does not tell the size of the file; use another server")
        return body.stat

    def ask(self, address: str, offset: int, size: int | None) -> Body:
        """See `Backend.ask`. An answer with the whole file where a part was asked for has `start` 0."""
        from fsspec.asyn import sync

        asked = range_header(offset, size)
        loop = self._system.loop
        answer = sync(loop, self._get, address, asked)

        def close() -> None:
            loop.call_soon_threadsafe(answer.close)

        more = partial(sync, loop, answer.content.readany)
        return body_of(address, answer.status, answer.headers, offset, more=more, close=close)

    async def _get(self, address: str, headers: Mapping[str, str]) -> Any:
        session = await self._system.set_session()
        return await session.get(_sent(address), headers=headers)

    def list(self, folder: str) -> list[Entry]:
        """Not possible in general: servers show folders as pages for people."""
        raise StoreError(folder, "a folder of a web server cannot be listed")

    def put(self, source: Path, address: str) -> None:
        """Not possible in general."""
        raise StoreError(address, "nothing can be written to a web server")


def _sent(address: str) -> Any:
    """The `yarl.URL` of a request: what people escaped stays so, letter by letter, for it may be signed."""
    import yarl

    server, rest = re.fullmatch(r"(\w+://[^/?#]*)(.*)", address, re.DOTALL).groups()  # type: ignore[union-attr]
    rest = quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", rest), safe=_AS_THEY_ARE)
    return yarl.URL(f"{yarl.URL(server)}{rest}", encoded=True)


def range_header(offset: int, size: int | None) -> dict[str, str]:
    """The headers of a request for `size` bytes from `offset` on; None: to the end."""
    plain = {"Accept-Encoding": "identity"}
    if not offset and size is None:
        return plain
    return plain | {"Range": f"bytes={offset}-" + ("" if size is None else str(offset + size - 1))}


def body_of(
    address: str, status: int, headers: Any, offset: int, *, more: Callable[[], bytes], close: Callable[[], None]
) -> Body:
    """The body of an answer to a request for the bytes from `offset` on; `more` and `close` are its own.

    Raises:
        StoreError: as `_read_answer`; the connection is given up.
    """
    try:
        return Body(*_read_answer(address, status, headers, offset), more, close)
    except BaseException:
        close()
        raise


def _read_answer(address: str, status: int, headers: Any, offset: int) -> tuple[int, int | None, Stat | None]:
    """What an answer to a request for the bytes from `offset` on is.

    Returns:
        Where its body begins, the bytes that it has, and what the whole file is, as far as these are known.

    Raises:
        StoreError: no success, or not the range that was asked for.
    """
    found = {str(name).lower(): str(value) for name, value in dict(headers).items()}
    encoding = found.get("content-encoding", "identity").lower()
    version = found.get("etag") or found.get("last-modified", "")
    length = int(found["content-length"]) if found.get("content-length", "").isdecimal() else None
    where = re.fullmatch(r"\s*bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)\s*", found.get("content-range", ""))
    if status == 416:  # nothing lies there: the file ends before, or is empty
        known = where is not None and where[3].isdecimal()
        return offset, 0, Stat(int(where[3]) if where and known else 0, version) if known or not offset else None
    if status not in (200, 206):
        raise refused(address, status, found)
    if encoding != "identity":
        raise StoreError(address, f"the server sends it with Content-Encoding {encoding}; switch that off for .tar")
    if status == 200:
        return 0, length, None if length is None else Stat(length, version)
    if where is None or where[1] is None or int(where[1]) != offset:
        shown = found.get("content-range", "no Content-Range")
        raise StoreError(address, f"asked for bytes from {offset} on, the server sends {shown}", passes=True)
    span = int(where[2]) - offset + 1
    if length not in (None, span):
        raise StoreError(address, f"the server sends {length} bytes as {where[0].strip()}", passes=True)
    return offset, span, Stat(int(where[3]), version) if where[3].isdecimal() else None
