"""What an address of data is: a local path, or `scheme://...`, and which store reads it."""

from __future__ import annotations

import os

from mimsuite.data.stores.local import LocalStore
from mimsuite.data.stores.names import scheme_of
from mimsuite.data.stores.remote import RemoteStore
from mimsuite.data.stores.store import Store
from mimsuite.errors import InputError

REMOTE = ("s3", "gs", "az", "http", "https", "hf")
"""The schemes of addresses on other machines that can be read."""

_remote: dict[str, RemoteStore] = {}


def absolute(address: str) -> str:
    """A local path made absolute, without `~` and `..`; `scheme://...` stays as it is.

    Links are kept, except where `..` follows one: `link/..` is the folder that holds what the link leads to.
    """
    if scheme_of(address):
        return address
    given = os.path.expanduser(address)
    by_name, place = os.path.abspath(given), os.path.realpath(given)
    return by_name if os.path.realpath(by_name) == place else place


def store_of(address: str) -> Store:
    """The store that reads what lies at an address; there is one of each remote kind in a process.

    Raises:
        InputError: a kind of address that is not supported. Only its scheme is named: the rest may hold a password.
    """
    scheme = scheme_of(address)
    if not scheme:
        return LocalStore()
    if scheme not in REMOTE:
        raise InputError(f"{scheme}://... cannot be read; use a local path, or one of {'://, '.join(REMOTE)}://")
    return _remote.setdefault(scheme, RemoteStore(scheme))
