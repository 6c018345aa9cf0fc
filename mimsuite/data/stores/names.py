"""Addresses as text: their parts, and what may be shown of them."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

from mimsuite.errors import hide_addresses

_WEB = ("http", "https")


def scheme_of(address: str) -> str:
    """The scheme of `scheme://...` in lower case ("s3", "https"); empty for a local path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    return match.group(1).lower() if match else ""


def join(folder: str, name: str) -> str:
    """The address of a file, by its path below a folder; the query of a web address stays at the end."""
    scheme = scheme_of(folder)
    if not scheme:
        return os.path.join(folder, name)  # ten times as fast as Path, and there may be 100,000
    place, query = _split(folder)
    return f"{place.rstrip('/')}/{quote(name) if scheme in _WEB else name}{query}"


def parent_of(address: str) -> str:
    """The folder that a file lies in."""
    if not scheme_of(address):
        return os.path.dirname(address)
    place, query = _split(address)
    return place.rstrip("/").rpartition("/")[0] + query


def last_name(address: str) -> str:
    """The last part of an address: the name of the file or folder."""
    if not (scheme := scheme_of(address)):
        return os.path.basename(address)
    name = _split(address)[0].rstrip("/").rpartition("/")[2]
    return unquote(name) if scheme in _WEB else name


def bare(address: str) -> str:
    """What identifies a file wherever it is read with other credentials: no user, no password, no query."""
    if scheme_of(address) not in _WEB:
        return address
    scheme, _, rest = _split(address)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.rpartition('@')[2].lower()}{slash}{path}"


def shown(address: str) -> str:
    """An address as people may see it: without passwords and signatures."""
    return hide_addresses(address) if scheme_of(address) else address


def _split(address: str) -> tuple[str, str]:
    """The address without its query, and the query with its `?`; only those of web servers have one."""
    if scheme_of(address) not in _WEB:
        return address, ""
    place, mark, query = address.partition("?")
    return place, mark + query
