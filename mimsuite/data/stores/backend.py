"""What each kind of server has to do for the remote store: answer one request, say what a file is, list a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from mimsuite.data.stores.store import Stat
from mimsuite.errors import InputError


@dataclass(frozen=True)
class Body:
    """What a server sends for one request.

    Attributes:
        start: the offset of its first byte in the file.
        length: how many bytes are promised; None where the server does not say.
        stat: size and version of the whole file; None where the answer does not say.
        more: gives the next bytes as they arrive; empty at the end.
        close: gives the connection up.
    """

    start: int
    length: int | None
    stat: Stat | None
    more: Callable[[], bytes]
    close: Callable[[], None]


class Entry(NamedTuple):
    """What a listing says of a file or folder; `stat` is None for a folder."""

    address: str
    stat: Stat | None


class Backend(Protocol):
    """One kind of server, in this process. Each method makes one attempt, and raises what its library raises."""

    def stat(self, address: str) -> Stat:
        """Size and version of a file."""
        ...

    def ask(self, address: str, offset: int, size: int | None) -> Body:
        """Asks for `size` bytes from `offset` on; None: to the end."""
        ...

    def list(self, folder: str) -> list[Entry]:
        """What lies in a folder, in any order."""
        ...

    def put(self, source: Path, address: str) -> None:
        """Writes a local file to an address."""
        ...


def needs(scheme: str, extra: str, missing: str) -> InputError:
    """The error for a library that is not installed."""
    return InputError(
        f'{scheme}://... needs a library that is not installed ({missing}); pip install "mimsuite[{extra}]"'
    )
