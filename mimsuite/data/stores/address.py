"""What an address of data is: a local path, or `scheme://...`, and which store reads it."""

from __future__ import annotations

import os
import re

from mimsuite.data.stores.local import LocalStore
from mimsuite.data.stores.store import Store
from mimsuite.errors import InputError


def scheme_of(address: str) -> str:
    """The scheme of `scheme://...` in lower case ("s3", "https"); empty for a local path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    return match.group(1).lower() if match else ""


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
    """The store that reads what lies at an address.

    Raises:
        InputError: a kind of address that is not supported. Only its scheme is named: the rest may hold a password.
    """
    scheme = scheme_of(address)
    if scheme:
        raise InputError(
            f"{scheme}://... cannot be read: remote data is not supported yet; copy it to a local folder, and give that"
        )
    return LocalStore()
