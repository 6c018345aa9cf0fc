"""All formats of other libraries, and which of them weights are of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mimsuite.errors import InputError, reading
from mimsuite.weights.formats import (
    beit,
    bit_original,
    cvt_original,
    deit,
    dinov2,
    flax_vit,
    ijepa,
    jax_vit,
    keras,
    mae_original,
    simmim_vit,
    tensorflow,
    timm_bit,
    timm_vit,
    vit_mae,
    vit_msn,
)
from mimsuite.weights.formats.format import Format, Found, Read, read_as

# In the order in which they are asked: what is a special case of another one stands before it.
FOREIGN_KEYS = {"architecture", "registered_name"}  # in config.json: of timm, of Keras
FORMATS: tuple[Format, ...] = (
    *(vit_mae.FORMAT, deit.FORMAT, vit_msn.FORMAT, dinov2.FORMAT, ijepa.FORMAT, beit.FORMAT),
    mae_original.FORMAT,
    simmim_vit.FORMAT,
    timm_vit.FORMAT,
    timm_bit.FORMAT,
    cvt_original.FORMAT,
    jax_vit.FORMAT,
    bit_original.FORMAT,
    flax_vit.FORMAT,
    keras.FORMAT,
    tensorflow.VIT,
    tensorflow.CVT,
)


def is_foreign(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` (with `plain_names`) is another library's, or of a family that is read as one of ours."""
    named = config.get("model_type")
    return any(named in form.model_types for form in FORMATS) or bool(FOREIGN_KEYS & config.keys() and not named)


def read_foreign(found: Found) -> Read:
    """Weights of another library as ours.

    Raises:
        InputError: they are of no known format, or of a variant that cannot be had.
    """
    if (strange := next((name for name in found.tensors if not name.isprintable()), None)) is not None:
        raise InputError(f"{found.where} has a tensor named {strange[:80]!a}; give weights with printable names")
    for form in FORMATS:
        with reading(found.where, "download it again, or use other weights"):
            known = form.recognises(found)
        if known:
            return read_as(form, found)
    some = ", ".join(list(found.tensors)[:3])
    kind = f"config.json names model_type={found.config['model_type']}" if "model_type" in found.config else ""
    raise InputError(
        f"{found.where} holds {len(found.tensors)} tensors of no known format ({kind or f'such as {some}'}); "
        f"known are {', '.join(form.title for form in FORMATS)}; or convert it to a Hugging Face folder"
    )
