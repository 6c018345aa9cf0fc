"""Text without secrets, for whatever a run writes."""

from __future__ import annotations

import logging
import os
import re

from mimsuite.errors import hide_addresses

_named: dict[str, str] = {}  # value of a variable that a config names with `${oc.env:NAME}` -> that text

SHORTEST = 6  # characters of a value that is hidden: shorter ones are parts of common words

_SECRET = re.compile(  # `api_key=...`, `hub_token: ...`, not `cls_token: ...`, `x_token: true`
    r"(?im)^((?:.*[\s.+])?(?:(?:\w+_)?(?:api_?key|access_key|secret|secret_key|password|passwd)|(?!cls_|mask_)\w*token)"
    r"\s*[=:][ \t]*)(?!(?:null|true|false)$)\S.*$"
)


def redact(text: str) -> str:
    """Config text without secrets: those that `hide` finds, and the values of keys that are named like secrets."""
    return _SECRET.sub(r"\1<secret>", hide(text))


def hide(text: str) -> str:
    """Any text without secrets in addresses, and `${oc.env:NAME}` for the value of a variable that is named so."""
    text = hide_addresses(text)
    for value in sorted(_named, key=len, reverse=True):
        text = text.replace(value, _named[value])
    return text


def name_secrets(config: str) -> None:
    """Takes note of the variables of the environment that a config names, given as text without resolved values."""
    for name in re.findall(r"\$\{oc\.env:\s*(\w+)", config):
        if len(value := os.environ.get(name, "")) >= SHORTEST:
            _named[value] = f"${{oc.env:{name}}}"


def hide_in_record(record: logging.LogRecord) -> bool:
    """A filter of a logger: takes secrets out of a line before any handler sees it."""
    record.msg, record.args = hide(record.getMessage()), None
    return True
