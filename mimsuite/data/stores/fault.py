"""What went wrong with a request to another machine: its status, whether trying again may help, and how to say it."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from mimsuite.errors import cause_of, hide_addresses

LARGEST = 1 << 30  # bytes of a file that is read at once or copied, shards aside: an index of 5 million shards
_BUSY = frozenset({408, 425, 429})  # and all of 500 and more
_GONE = frozenset({404, 410})
_NUMBERS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT, 408: errno.ETIMEDOUT}
_FIXES = {401: "check the credentials", 403: "check the credentials and their rights", 404: "check the address"}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ClientAuthenticationError"}
_REDIRECTS = {"RedirectClientError", "TooManyRedirects"}  # of aiohttp and httpx


class StoreError(OSError):
    """A request that failed; `strerror` says why, without passwords and signatures, and `filename` is the address.

    Attributes:
        status: what the server answered (HTTP), or None.
        retry_after: seconds that the server asks to wait, or None.
        passes: whether trying again may help.
    """

    def __init__(
        self,
        name: str,
        why: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        passes: bool = False,
        number: int = errno.EIO,
    ) -> None:
        super().__init__(number, hide_addresses(why), hide_addresses(name))
        self.status, self.retry_after, self.passes = status, retry_after, passes

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.filename, self.strerror, self.status, self.retry_after, self.passes, self.errno)


def _again(name: str, why: str, status: int | None, retry_after: float | None, passes: bool, number: int) -> StoreError:
    return StoreError(name, why, status=status, retry_after=retry_after, passes=passes, number=number)


def refused(name: str, status: int, headers: Any = None) -> StoreError:
    """The error for an answer that is not a success."""
    known = {int(one): one.phrase for one in HTTPStatus}
    fix = _FIXES.get(status)
    return StoreError(
        name,
        f"HTTP {status} {known.get(status, '')}".rstrip() + (f": {fix}" if fix else ""),
        status=status,
        retry_after=_seconds(headers),
        passes=status in _BUSY or status >= 500,
        number=_NUMBERS.get(status, errno.EIO),
    )


def too_large(name: str) -> StoreError:
    """The error for a file that cannot be an index, a table or a list of names."""
    return StoreError(name, f"it has more than {LARGEST >> 20} MiB; check the address")


def explain(name: str, error: BaseException) -> StoreError:
    """The error of a library as ours; its status is looked for in the errors that led to it."""
    kinds = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    if {"HttpProcessingError", "ClientResponseError"} <= kinds:  # the library calls it status 400
        return StoreError(name, "its answer is not HTTP", passes=True)
    if kinds & _REDIRECTS:
        return StoreError(name, "the server sends to an address that cannot be read, or in a circle; check the address")
    for one in _chain(error):
        status, headers = _status(one)
        if status is not None and status >= 400:
            return refused(name, status, headers)
    return _without_status(name, error, kinds)


def _without_status(name: str, error: BaseException, kinds: set[str]) -> StoreError:
    """The same for an error that no answer led to; `kinds` are the classes of all errors that did."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return refused(name, 404 if isinstance(error, FileNotFoundError) else 403)
    if kinds & _NO_CREDENTIALS:
        return StoreError(name, "there are no credentials in the environment", number=errno.EACCES)
    if any("Timeout" in kind for kind in kinds):
        return StoreError(name, "no answer in time", passes=True, number=errno.ETIMEDOUT)
    passes = not isinstance(error, ValueError) and not any("Certificate" in kind for kind in kinds)
    return StoreError(name, cause_of(error), passes=passes)


def is_absent(error: OSError) -> bool:
    """Whether an error says that there is no such file."""
    return isinstance(error, FileNotFoundError) or getattr(error, "status", None) in _GONE


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> tuple[int | None, Any]:
    """Status and headers that an error of aiohttp, botocore, azure, gcsfs or httpx carries."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        facts = answer.get("ResponseMetadata", {})
        return facts.get("HTTPStatusCode"), facts.get("HTTPHeaders")
    for holder in (error, answer):
        for field in ("status", "status_code", "code" if type(error).__name__ == "HttpError" else "status"):
            value = getattr(holder, field, None)
            if isinstance(value, int) and 100 <= value < 600:
                return value, getattr(holder, "headers", None)
    return None, None


def _seconds(headers: Any) -> float | None:
    """What `Retry-After` asks for, in seconds from now."""
    value = next((v for k, v in dict(headers or {}).items() if str(k).lower() == "retry-after"), None)
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(str(value)).timestamp() - time.time())
    except ValueError:
        return None
