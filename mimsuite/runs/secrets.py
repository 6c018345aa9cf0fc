"""Text without secrets, for whatever a run writes."""

from __future__ import annotations

import re

_SECRET = re.compile(  # `api_key=...`, `hub_token: ...`, not `cls_token: ...`
    r"(?im)^((?:.*[\s.+])?(?:(?:\w+_)?(?:api_?key|access_key|secret|secret_key|password|passwd)|(?!cls_|mask_)\w*token)"
    r"\s*[=:][ \t]*)(?!null$)\S.*$"
)


def redact(text: str) -> str:
    """Config text without secrets: passwords in addresses, and the values of keys that are named like secrets."""
    text = re.sub(r"(\w://)[^/@\s]+@", r"\1<secret>@", text)
    return _SECRET.sub(r"\1<secret>", text)
