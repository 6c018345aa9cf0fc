"""The formats that `mimsuite export` writes: which families each takes, its files, what it needs. Imports no torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

from mimsuite.errors import InputError
from mimsuite.types import EncoderConfig

CARD, PREPROCESSOR, PICTURE = "README.md", "preprocessor_config.json", "reconstruction.png"
CARD_TAG = "- mimsuite"  # a line of every card


class Target(NamedTuple):
    """A format.

    Attributes:
        families: the `model_type` of those that it takes; None for all.
        files: names that it may write, beside card, preprocessing and picture.
        is_graph: whether it holds the computation, with the sizes of its tensors, and not only the weights.
        takes_decoder: whether it has a place for the head of a masked image model.
        needs: modules that must be installed -> how pip names what brings them.
    """

    families: tuple[str, ...] | None
    files: tuple[str, ...]
    is_graph: bool = False
    takes_decoder: bool = True
    needs: tuple[tuple[str, str], ...] = ()


KERAS_FILES = (
    *("config.json", "metadata.json", "task.json", "preprocessor.json", "image_converter.json"),
    *("model.weights.h5", "task.weights.h5"),
)

# Its keys are `words.EXPORT_TARGETS`.
TARGETS = {
    "hf": Target(None, ("config.json", "model.safetensors", "decoder.safetensors")),
    "timm": Target(("vit", "bit"), ("config.json", "model.safetensors"), takes_decoder=False),
    "jax": Target(("vit", "bit"), ("model.npz",), takes_decoder=False),
    "keras": Target(("vit",), KERAS_FILES, takes_decoder=False, needs=(("h5py", "mimsuite[h5]"),)),
    "flax": Target(
        ("vit",), ("config.json", "flax_model.msgpack"), takes_decoder=False, needs=(("msgpack", "mimsuite[h5]"),)
    ),
    "onnx": Target(
        None,
        ("model.onnx", "model.onnx.data"),
        is_graph=True,
        needs=(("onnx", "mimsuite[export]"), ("onnxscript", "mimsuite[export]")),
    ),
    "pt2": Target(None, ("model.pt2",), is_graph=True),
}


def written_names() -> tuple[str, ...]:
    """Every name that an export may write, of whatever format: these are replaced by `overwrite=true`."""
    own = [name for target in TARGETS.values() for name in target.files]
    return tuple(dict.fromkeys([*own, CARD, PREPROCESSOR, PICTURE]))


def check_target(name: str, config: EncoderConfig, part: str, *, is_classifier: bool) -> None:
    """Refuses what a format does not take, and a format whose libraries are missing.

    Args:
        name: of the format.
        config: of the model.
        part: `encoder` or `all`.
        is_classifier: whether the head of the model is a classifier.

    Raises:
        InputError: such a format.
    """
    target, family = TARGETS[name], config.model_type
    if target.families is not None and family not in target.families:
        others = [key for key, other in TARGETS.items() if other.families is None or family in other.families]
        raise InputError(
            f"to={name} is for {', '.join(target.families)}, and the model is {family}; use to={', '.join(others)}"
        )
    if part == "all" and not (is_classifier or target.takes_decoder):
        raise InputError(
            f"to={name} part=all: this format has no place for the head of a masked image model; use part=encoder, or "
            "to=hf"
        )
    if target.is_graph and part == "all" and config.drops_patches:
        raise InputError(
            f"to={name} part=all: an encoder that drops hidden patches sees another number of them under every mask, "
            "which a graph has no size for; use part=encoder, or to=hf"
        )
    for module, brings in target.needs:
        if find_spec(module) is None:
            raise InputError(f'to={name} needs {module}, which is not installed; pip install "{brings}"')
