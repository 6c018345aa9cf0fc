"""How a prediction of each target may become a picture. Imports no torch."""

from __future__ import annotations

from mimsuite.errors import InputError

MODES: dict[str, tuple[str, ...]] = {
    "pixels": ("raw",),
    "norm_pixels": ("predicted_stats", "oracle_stats", "raw"),
    "hog": ("orientations",),
}
"""Target -> its modes, the default first."""


def choose_mode(target: str, mode: str) -> str:
    """One of the target's `MODES`; "auto" is its default.

    Raises:
        InputError: an unknown mode, or one of another target.
    """
    own = MODES[target]
    if mode == "auto" or mode in own:
        return own[0] if mode == "auto" else mode
    fix = f"use mode={' or '.join(own)}" if target != "hog" else "use mode=auto, which draws orientations"
    for other, modes in MODES.items():
        if mode in modes:
            raise InputError(f"mode={mode} is for a model that predicts {other}, and this one predicts {target}; {fix}")
    raise InputError(f"mode={mode} is unknown; {fix}")
