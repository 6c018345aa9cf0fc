"""Object stores: `s3://`, and by ranges `gs://` and `az://`; credentials and servers come from the environment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from mimsuite.data.stores.backend import Body, Entry, needs
from mimsuite.data.stores.store import Stat
from mimsuite.data.stores.web import body_of

_BLOCK = 4 << 20  # bytes that one request to gs:// or az:// brings
_CHUNK = 1 << 20  # at most so many bytes are taken from a connection at once


class _Bucket:
    """What the file systems of fsspec have in common."""

    def __init__(self, scheme: str, timeout: float) -> None:
        self._scheme, self._timeout = scheme, timeout
        self._system: Any = None

    def stat(self, address: str) -> Stat:
        """See `Backend.stat`."""
        found = self._system.info(self._path(address), timeout=self._timeout)
        if found["type"] != "file":
            raise FileNotFoundError(address)
        return _stat_of(found)

    def list(self, folder: str) -> list[Entry]:
        """See `Backend.list`."""
        path = self._path(folder).rstrip("/")
        found = self._system.ls(path, detail=True, refresh=True)
        return [
            Entry(f"{self._scheme}://{facts['name']}".rstrip("/"), _stat_of(facts) if facts["type"] == "file" else None)
            for facts in found
            if facts["name"].rstrip("/") != path  # an empty object that stands for the folder
        ]

    def put(self, source: Path, address: str) -> None:
        """See `Backend.put`."""
        self._system.put_file(str(source), self._path(address))

    def _path(self, address: str) -> str:
        return address.partition("://")[2]


class S3Backend(_Bucket):
    """S3 and what speaks its protocol, through s3fs; one request, streamed, per `ask`."""

    def __init__(self, scheme: str, timeout: float) -> None:
        """Arguments as of `WebBackend`.

        Raises:
            InputError: s3fs is not installed.
        """
        super().__init__(scheme, timeout)
        try:
            from s3fs import S3FileSystem
        except ImportError as error:
            raise needs(scheme, "s3", str(error.name)) from error
        config = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"total_max_attempts": 1}}
        self._system = S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=config)
        self._system.retries = 1  # those of s3fs; the others are those of botocore

    def ask(self, address: str, offset: int, size: int | None) -> Body:
        """See `Backend.ask`."""
        from botocore.exceptions import ClientError
        from fsspec.asyn import sync

        bucket, key, _ = self._system.split_path(self._path(address))
        asked = {}
        if offset or size is not None:
            asked["Range"] = f"bytes={offset}-" + ("" if size is None else str(offset + size - 1))
        loop = self._system.loop
        try:
            answer = self._system.call_s3("get_object", Bucket=bucket, Key=key, **asked)
        except OSError as error:
            facts = getattr(error.__cause__, "response", {}) if isinstance(error.__cause__, ClientError) else {}
            facts = facts.get("ResponseMetadata", {})
            if facts.get("HTTPStatusCode") != 416:
                raise
            headers = facts.get("HTTPHeaders", {})
            return body_of(address, 416, headers, offset, more=bytes, close=lambda: None)
        facts, body = answer["ResponseMetadata"], answer["Body"]

        def close() -> None:
            loop.call_soon_threadsafe(body.close)

        status, headers, more = facts["HTTPStatusCode"], facts["HTTPHeaders"], partial(sync, loop, body.read, _CHUNK)
        return body_of(address, status, headers, offset, more=more, close=close)


class RangeBackend(_Bucket):
    """Google Cloud Storage (gcsfs) and Azure (adlfs): what their own clients try again ends with the time allowed."""

    def __init__(self, scheme: str, timeout: float) -> None:
        """Arguments as of `WebBackend`.

        Raises:
            InputError: gcsfs or adlfs is not installed.
        """
        super().__init__(scheme, timeout)
        try:
            if scheme == "gs":
                from gcsfs import GCSFileSystem as System
            else:
                from adlfs import AzureBlobFileSystem as System
        except ImportError as error:
            raise needs(scheme, "gcs" if scheme == "gs" else "azure", str(error.name)) from error
        self._system = System(skip_instance_cache=True, use_listings_cache=False)

    def ask(self, address: str, offset: int, size: int | None) -> Body:
        """See `Backend.ask`; a part of known size needs no look at the file first."""
        path, stat = self._path(address), self.stat(address) if size is None else None
        end = stat.size if stat is not None else offset + (size or 0)
        place = offset

        def more() -> bytes:
            nonlocal place
            stop = min(end, place + _BLOCK)
            data: bytes = (
                self._system.cat_file(path, start=place, end=stop, timeout=self._timeout) if place < end else b""
            )
            place = stop
            return data

        return Body(offset, None if stat is None else max(0, end - offset), stat, more, lambda: None)


def _stat_of(facts: dict[str, Any]) -> Stat:
    version = next((facts[key] for key in ("ETag", "etag", "md5Hash", "mtime", "updated") if facts.get(key)), "")
    return Stat(int(facts["size"]), str(version))
