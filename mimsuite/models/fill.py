"""Fills models with the weights that `init=` names, and reports what was used, what is fresh and what was resized."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from mimsuite.errors import InputError
from mimsuite.models.families import FAMILIES
from mimsuite.weights.init import Weights
from mimsuite.weights.tensors import Tensors
from mimsuite.words import PositionRule

if TYPE_CHECKING:
    from mimsuite.models.pretrained import Pretrained

log = logging.getLogger("mimsuite")

M = TypeVar("M", bound="Pretrained")
# Parts of names in an encoder that weights need not have: what other tasks do not use, or what a model= adds to them.
MAY_BE_FRESH = ("mask_token", "pooler.", "register_tokens", "gamma_1", "gamma_2", "num_batches_tracked")
POSITION_MODES: dict[PositionRule, str] = {"bicubic": "hf", "jax": "jax", "timm": "timm"}


def load_into(
    make: Callable[[], M],
    weights: Weights,
    *,
    without: tuple[str, ...] = (),
    where_it_fits: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> M:
    """Makes a model and copies weights into it.

    What is fresh or left over is reported in one log line, unless it is part of a head that is not used (`unused`).

    Args:
        make: makes the model.
        weights: of its family.
        without: how names begin that are not copied.
        where_it_fits: the same, of parts in which a tensor has another shape in the model: a decoder of another target
            or size, a mask token of another map.
        unused: parts of names.

    Raises:
        InputError: weights of another model.
    """
    from mimsuite.models.pretrained import check_shapes, load_state
    from mimsuite.models.trial import make_for

    state = fitted_state(weights)
    shapes = {name: shape for name, shape in state.shapes.items() if not name.startswith(without)}

    def check(model: M) -> None:
        own = model.state_dict()
        for prefix in where_it_fits:
            part = [name for name in shapes if name.startswith(prefix)]
            if any(name in own and tuple(own[name].shape) != shapes[name] for name in part):
                for name in part:
                    del shapes[name]
        found, _ = check_shapes(model, state.only(shapes), weights.init)
        check_filled(model, found.shapes, weights)

    model = make_for(state.only(shapes), weights.init, make, check)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_state(model, state.only(shapes), weights.init, quiet=unused)
    for line in describe(weights, len(state)):
        log.info("weights   %s", line)
    for warning in caught:
        log.info("weights   %s", warning.message)
    return model


def fitted_state(weights: Weights) -> Tensors:
    """The tensors of weights, with the first kernels for the channels that they are fitted to.

    Raises:
        InputError: a family whose first kernels are not known, or weights without them.
    """
    state = weights.state()
    if weights.channels is None:
        return state
    family = FAMILIES.get(str(weights.config.get("model_type")))
    layer = None if family is None else re.compile(rf"(.+\.)?{re.escape(family.input_layer)}\.")
    names = [name for name, shape in state.shapes.items() if layer and len(shape) == 4 and layer.match(name)]
    if len(names) != 1:
        raise InputError(
            f"init_channels={weights.channels.rule}: the first kernels of init={weights.init} are not known; use "
            "weights for as many channels as the images have"
        )
    kernel, bias = names[0], names[0].removesuffix("weight") + "bias"
    made = {kernel: weights.channels.kernel(state.entries[kernel])}
    if bias in state.entries:
        made[bias] = weights.channels.bias(state.entries[bias], state.entries[kernel])
    return state | Tensors(made)


def check_filled(model: Pretrained, given: Collection[str], weights: Weights) -> None:
    """Refuses weights that leave a part of the encoder as it was drawn.

    Args:
        model: the model.
        given: names of the tensors, as the model has them.
        weights: where they come from.

    Raises:
        InputError: tensors of the encoder that are not there, and cannot begin fresh.
    """
    prefix = "" if model.is_base else f"{model.base_prefix}."
    wanted = [name for name in model.state_dict() if name.startswith(prefix)]
    missing = [n for n in wanted if n not in given and not any(part in n for part in MAY_BE_FRESH)]
    if missing:
        raise InputError(
            f"init={weights.init} has {len(wanted) - len(missing)} of the {len(wanted)} tensors of a "
            f"{model.config.model_type} encoder; {missing[0]} is missing ({len(missing)} such); {looks_like(weights)}; "
            "use other weights, or a model= of their sizes"
        )


def looks_like(weights: Weights) -> str:
    """What weights seem to be, for errors."""
    if weights.foreign is not None:
        return f"it looks like {weights.foreign.format.title}"
    names = list(weights.state())
    return f"it holds {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "it holds no tensors"


def describe(weights: Weights, count: int) -> Iterator[str]:
    """What was found and how it is used, in a line each."""
    if weights.foreign is not None:
        yield weights.foreign.report()
    else:
        kind = "a checkpoint" if weights.checkpoint else "a folder" if weights.folder else "a model"
        yield f"{weights.init}: {kind} of {count} tensors ({weights.config.get('model_type')})"
    if weights.channels is not None:
        yield str(weights.channels)


def set_image_size(model: Any, image_size: tuple[int, int], weights: Weights | None) -> None:
    """Makes `(H, W)` pixels the size of a model's encoder; its positions are resized as the weights say.

    Args:
        model: one with an encoder.
        image_size: pixels.
        weights: those that it has; None for a fresh one.

    Raises:
        InputError: an encoder that cannot have this size, or that is not ours and resizes in its own way only.
    """
    encoder, rule = model.encoder, "bicubic" if weights is None else weights.position
    before = model.config.fixed_size if any("position_embeddings" in name for name in model.state_dict()) else None
    if rule == "bicubic":
        encoder.set_image_size(image_size)
    elif "mode" in inspect.signature(encoder.set_image_size).parameters:
        encoder.set_image_size(image_size, POSITION_MODES[rule])
    else:
        raise InputError(
            f"init_position={rule}: the encoder {type(encoder).__name__} resizes its positions in its own way; remove "
            "init_position="
        )
    if weights is not None and before not in (None, tuple(image_size)):
        sizes = [f"{height}x{width}" for height, width in (before, image_size)]
        log.info("weights   positions resized from images of %s to %s (%s)", *sizes, rule)
