"""What an address of data is: a local path, or `scheme://...`, and which store reads it."""

from __future__ import annotations

import http
import os

from mimsuite.data.fetching.patient import TIMEOUT, PatientStore
from mimsuite.data.stores.fault import StoreError, is_absent
from mimsuite.data.stores.local import LocalStore
from mimsuite.data.stores.names import REMOTE, scheme_of, unknown_scheme
from mimsuite.data.stores.store import Store

_ENVIRONMENT = ("AWS_", "AZURE_", "GOOGLE_", "GCS_", "HF_")  # how variables begin that say who asks which server
_remote: dict[tuple[str, float, frozenset[tuple[str, str]]], PatientStore] = {}


def absolute(address: str) -> str:
    """A local path made absolute, without `~` and `..`; `scheme://...` stays as it is.

    Links are kept, except where `..` follows one: `link/..` is the folder that holds what the link leads to.
    """
    if scheme_of(address):
        return address
    given = os.path.expanduser(address)
    by_name, place = os.path.abspath(given), os.path.realpath(given)
    return by_name if os.path.realpath(by_name) == place else place


def store_of(address: str, timeout: float = TIMEOUT) -> Store:
    """The store that reads what lies at an address; of each remote kind one in a process, and as it is set up now.

    Args:
        address: a path or an address.
        timeout: seconds without progress of one read of another machine, its retries included.

    Raises:
        InputError: a kind of address that is not supported. Only its scheme is named: the rest may hold a password.
    """
    scheme = scheme_of(address)
    if not scheme:
        return LocalStore()
    if scheme not in REMOTE:
        raise unknown_scheme(scheme)
    return remote_store(address, timeout)


def remote_store(address: str, timeout: float = TIMEOUT) -> PatientStore:
    """As `store_of`, for an address on another machine."""
    scheme = scheme_of(address)
    setup = frozenset(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT))
    return _remote.setdefault((scheme, timeout, setup), PatientStore(scheme, timeout))


def read_if_there(address: str) -> bytes | None:
    """The content of a small file, by one request; None where there is none, or the server does not say so.

    Raises:
        OSError: it cannot be read.
    """
    store = store_of(address)
    if not scheme_of(address) and not store.is_file(address):
        return None
    try:
        return store.read_all(address)
    except StoreError as error:
        if is_absent(error) or error.status == http.HTTPStatus.FORBIDDEN:  # so buckets hide that a file is not there
            return None
        raise
