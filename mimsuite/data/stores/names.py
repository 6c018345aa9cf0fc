"""Addresses as text: their parts, and what may be shown of them."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

from mimsuite.errors import HIDDEN, InputError, hide_addresses

REMOTE = ("s3", "gs", "az", "http", "https", "hf")
"""The schemes of addresses on other machines that can be read."""

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
    place, query = split_query(folder)
    return f"{place.rstrip('/')}/{quote(name) if scheme in _WEB else name}{query}"


def parent_of(address: str) -> str:
    """The folder that a file lies in."""
    if not scheme_of(address):
        return os.path.dirname(address)
    place, query = split_query(address)
    return place.rstrip("/").rpartition("/")[0] + query


def below(folder: str, address: str) -> str | None:
    """The path of a file below a folder, for `join`; None where it lies elsewhere."""
    place, inside = bare(address), bare(folder).rstrip("/") + "/"
    if not place.startswith(inside):
        return None
    return unquote(place[len(inside) :]) if scheme_of(address) in _WEB else place[len(inside) :]


def last_name(address: str) -> str:
    """The last part of an address: the name of the file or folder."""
    if not (scheme := scheme_of(address)):
        return os.path.basename(address)
    name = split_query(address)[0].rstrip("/").rpartition("/")[2]
    return unquote(name) if scheme in _WEB else name


def bare(address: str) -> str:
    """What identifies a file wherever it is read with other credentials: no user, no password, no query."""
    if scheme_of(address) not in _WEB:
        return address
    scheme, _, rest = split_query(address)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.rpartition('@')[2].lower()}{slash}{path}"


def server_of(address: str) -> str:
    """What one owner holds: a server, a bucket, or a data set of the hub."""
    parts = bare(address).split("/")
    return "/".join(parts[:5] if scheme_of(address) == "hf" else parts[:3]).partition("@")[0]


def shown(address: str) -> str:
    """An address as people may see it: without passwords and signatures."""
    return hide_addresses(address) if scheme_of(address) else address


def check_address(address: str) -> None:
    """Checks an address of data on another machine.

    Raises:
        InputError: it was redacted, holds a password where none is taken, or is not complete.
    """
    scheme, place = scheme_of(address), address.partition("://")[2]
    if scheme not in REMOTE:
        raise unknown_scheme(scheme)
    if HIDDEN in address:
        raise InputError(
            f"data={address} was written down without its password or signature; give data= with the whole address "
            "(a run goes on with resume=true and that data=)"
        )
    if scheme in _WEB:
        _check_web_address(scheme, place)
    elif "@" in place.partition("/")[0]:
        raise InputError(
            f"data={address} holds a user or a password; {scheme}:// takes credentials from the environment alone"
        )
    if scheme == "hf" and not re.match(r"datasets/[^/]+/[^/]+", place):
        raise InputError(f"data={address} is no data set of the hub; use hf://datasets/ORG/NAME")
    if not place.strip("/"):
        raise InputError(f"data={address} names nothing; give {scheme}://PLACE/FOLDER")


def _check_web_address(scheme: str, place: str) -> None:
    """Checks what follows `http://`. It is shown nowhere: what is wrong with it may be in its password.

    Raises:
        InputError: it holds signs that would end it in a text, and so would not be hidden there; or it has no host.
    """
    if found := re.search(r"""[\s'"<>]""", place) or re.search(r"[\[\]]", place.partition("?")[2]):
        sign = "a space" if found[0].isspace() else found[0]
        raise InputError(f"data={scheme}://... holds {sign}; write {quote(found[0])} for it")
    host = re.split(r"[/?#]", place, maxsplit=1)[0].rpartition("@")[2]
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:\d{1,5})?", host):
        raise InputError(
            f"data={scheme}://... names no server; use {scheme}://HOST/FOLDER or {scheme}://HOST:PORT/FOLDER, and "
            "write %2F for / in a password"
        )


def unknown_scheme(scheme: str) -> InputError:
    """The error for a kind of address that is not supported. It is named alone: the rest may hold a password."""
    return InputError(f"{scheme}://... cannot be read; use a local path, or one of {'://, '.join(REMOTE)}://")


def split_query(address: str) -> tuple[str, str]:
    """The address without its query, and the query with its `?`; only those of web servers have one."""
    if scheme_of(address) not in _WEB:
        return address, ""
    place, mark, query = address.partition("?")
    return place, mark + query
