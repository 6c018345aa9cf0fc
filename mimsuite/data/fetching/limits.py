"""What a user decides about fetching."""

from __future__ import annotations

from dataclasses import dataclass

TIMEOUT = 20.0  # seconds


@dataclass(frozen=True)
class Fetching:
    """How data are read.

    Attributes:
        timeout: seconds without progress of one read, its retries included, after which it is given up.
    """

    timeout: float = TIMEOUT


DEFAULT = Fetching()
