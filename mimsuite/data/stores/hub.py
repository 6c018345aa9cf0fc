"""Data sets of the Hugging Face hub, `hf://datasets/ORG/NAME[@REVISION]/FOLDER`, with the token of its library."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from mimsuite.data.stores.backend import Body, Entry, needs
from mimsuite.data.stores.fault import StoreError
from mimsuite.data.stores.store import Stat
from mimsuite.data.stores.web import body_of, range_header


class _Place(NamedTuple):
    """A file or folder of a data set on the hub."""

    repo: str
    revision: str
    path: str


class HubBackend:
    """Files by the web addresses of the hub, listings by its library."""

    def __init__(self, scheme: str, timeout: float) -> None:
        """Arguments as of `WebBackend`.

        Raises:
            InputError: huggingface_hub is not installed.
        """
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise needs(scheme, "hub", str(error.name)) from error
        self._hub, self._timeout = HfApi(), timeout

    def stat(self, address: str) -> Stat:
        """By a request for one byte."""
        body = self.ask(address, 0, 1)
        body.close()
        if body.stat is None:
            raise StoreError(address, "the hub does not tell the size of the file")
        return body.stat

    def ask(self, address: str, offset: int, size: int | None) -> Body:
        """See `Backend.ask`."""
        from huggingface_hub import hf_hub_url, utils

        place, tools = _place(address), cast(Any, utils)
        url = hf_hub_url(
            place.repo, place.path, repo_type="dataset", revision=place.revision, endpoint=self._hub.endpoint
        )
        client, headers = tools.get_session(), tools.build_hf_headers() | range_header(offset, size)
        request = client.build_request("GET", url, headers=headers, timeout=self._timeout)
        answer = client.send(request, stream=True, follow_redirects=True)
        more = partial(next, answer.iter_raw(), b"")
        return body_of(address, answer.status_code, answer.headers, offset, more=more, close=answer.close)

    def list(self, folder: str) -> list[Entry]:
        """See `Backend.list`."""
        place = _place(folder)
        found = self._hub.list_repo_tree(
            place.repo, place.path or None, repo_type="dataset", revision=place.revision, recursive=False
        )
        top = folder.rstrip("/").removesuffix(place.path).rstrip("/")
        return [Entry(f"{top}/{entry.path}", _stat_of(entry)) for entry in found]

    def put(self, source: Path, address: str) -> None:
        """Not done: each file would be a commit of its own."""
        raise StoreError(address, "nothing is written to the hub; upload it with `hf upload`")


def _stat_of(entry: Any) -> Stat | None:
    """Size and hash of a file; None for a folder."""
    if not hasattr(entry, "size"):
        return None
    return Stat(int(entry.size), entry.lfs.sha256 if entry.lfs else entry.blob_id)


def _place(address: str) -> _Place:
    """Takes `hf://datasets/ORG/NAME@REVISION/PATH` apart."""
    organisation, name, *path = address.partition("://")[2].rstrip("/").split("/")[1:]
    name, _, revision = name.partition("@")
    return _Place(f"{organisation}/{name}", revision or "main", "/".join(path))
