"""From `model.source` or a user's class to a network: what it is, built anew or with its weights; measured once."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimsuite.encoders.external import (
    MOST_PREFIX,
    Layer,
    as_map,
    as_one,
    final_output,
    find_layers,
    first_tensor,
    has_class_token,
)
from mimsuite.encoders.external_config import ExternalConfig
from mimsuite.errors import InputError, cause_of
from mimsuite.models import from_timm, from_transformers
from mimsuite.types import FeatureMap
from mimsuite.weights.source import find_folder

log = logging.getLogger("mimsuite")

TIMM = "timm:"
RESERVED = ("decoder", "classifier", "mask_token", "pooler")  # names beside the encoder's in files
TRIED = ((448, 672), (224, 336))  # pixels; two sides, so that height and width are told apart
CHECKED = (8, 12)  # cells of the image that confirms a stride
LONGEST = 128  # pixels of a stride

Size = tuple[int, int]


def completed(config: Any) -> Any:
    """A config whose network has been looked at; another family's, or one that has been, as it is.

    Raises:
        InputError: no such network, or one that gives no map.
    """
    if not isinstance(config, ExternalConfig) or config.is_complete:
        return config
    if config.network is not None:
        config.trusting(config.trusted)
    given = {name: getattr(config, name) for name in ("source", "network", "arguments", "num_channels", "only_size")}
    return config.changed(**_found_out(json.dumps(given), config.trusted))


@functools.lru_cache(maxsize=8)
def _found_out(given: str, trusted: tuple[str, ...]) -> dict[str, Any]:
    """What `completed` adds to the fields in a JSON text."""
    draft = ExternalConfig(**json.loads(given))
    library, described, known = describe(draft)
    found: dict[str, Any] = {"library": library, "library_config": described, **known}

    def make() -> nn.Module:
        return make_network(library, described, draft.network, draft.label, trusted)

    measured = measure(make, library, described, draft)
    if described is not None and library == "transformers":
        described["architectures"] = [measured.pop("class_name")]
    measured.pop("class_name", None)
    return found | measured


def describe(config: ExternalConfig) -> tuple[str | None, dict[str, Any] | None, dict[str, Any]]:
    """The library, its own description, and the statistics of images, of what `source` names; of a class nothing.

    Raises:
        InputError: no such model.
    """
    if config.source is None:
        if config.arguments:
            raise InputError("model.arguments are of a library's model; give those of a class beside its _target_")
        return None, None, {}
    if config.source.startswith(TIMM):
        name = config.source.removeprefix(TIMM)
        described, known = from_timm.describe(name, config.arguments, config.num_channels)
        return "timm", described, known
    folder = folder_of(config.source)
    described, known = from_transformers.describe(folder, config.source, config.arguments)
    if Path(config.source).expanduser().is_dir():
        known["source"] = str(Path(config.source).expanduser().absolute())  # a run may go on from elsewhere
    return "transformers", described | {"num_channels": config.num_channels}, known


def folder_of(source: str) -> Path:
    """The folder of a model of transformers, downloaded if it is on the hub.

    Raises:
        InputError: there is none.
    """
    try:
        folder = find_folder(source)
    except InputError as error:
        raise InputError(f"model.source: {error}; or timm:NAME") from error
    if not (folder / "config.json").is_file():
        raise InputError(f"model.source={source} has no config.json; give a folder that AutoBackbone opens")
    return folder


def make_network(
    library: str | None,
    described: Mapping[str, Any] | None,
    network: Mapping[str, Any] | None,
    label: str,
    trusted: tuple[str, ...],
) -> nn.Module:
    """The network of a config, freshly initialised.

    Args:
        library: "transformers", "timm", or None for a user's class.
        described: the library's own description.
        network: the user's class and its arguments.
        label: what errors call it.
        trusted: classes that may be built.

    Raises:
        InputError: it is not to be had, or is not a network.
    """
    if described is not None:
        made = (from_timm if library == "timm" else from_transformers).build(described, label)
    else:
        from omegaconf import OmegaConf

        from mimsuite.config.instantiate import instantiate

        made = instantiate(OmegaConf.create({"network": dict(network or {})}).network, trusted)
        if not isinstance(made, nn.Module):
            raise InputError(f"network._target_={label} makes a {type(made).__name__}; give a class of torch.nn.Module")
    for name in made.state_dict():
        if (first := name.partition(".")[0]) in RESERVED:
            raise InputError(f"{label} has a part named {first!r}, which is a name of our heads; rename or remove it")
    found: nn.Module = made
    return found


def build_network(config: ExternalConfig) -> nn.Module:
    """The network of a completed config, freshly initialised; errors as of `make_network`."""
    if config.network is not None:
        config.trusting(config.trusted)
    return make_network(config.library, config.library_config, config.network, config.label, config.trusted)


def source_state(config: ExternalConfig) -> dict[str, Tensor]:
    """The weights that `source` names, by their names in the network; a line says what it does not have.

    Raises:
        InputError: no such weights, or they do not fit.
    """
    assert config.source is not None
    assert config.library_config is not None
    if config.library == "timm":
        state, missing = from_timm.trained_state(config.source.removeprefix(TIMM), config.library_config, config.source)
    else:
        folder = folder_of(config.source)
        state, missing = from_transformers.trained_state(folder, config.library_config, config.source)
    if missing:
        names = ", ".join(missing[:6]) + f" and {len(missing) - 6} more" * (len(missing) > 6)
        log.info("weights   %s: freshly initialised: %s", config.source, names)
    return state


def measure(
    make: Any, library: str | None, described: Mapping[str, Any] | None, config: ExternalConfig
) -> dict[str, Any]:
    """Strides, widths and depths of a network's layers, by small images of zeros.

    On torch's meta device, where that works: it takes no memory and no time. A network that refuses these sizes is
    asked with its own, and takes no other then.

    Args:
        make: builds the network.
        library: as of `make_network`.
        described: as of `make_network`.
        config: `num_channels`, and `only_size` where the user says it.

    Raises:
        InputError: the network gives no map, or cells that do not tile the image.
    """
    try:
        with torch.device("meta"):
            network = make()
        return _measured(network, library, described, config)
    except InputError:
        raise
    except Exception as error:  # of others' code, which may not work without values; it is asked again with them
        log.debug("%s on the meta device: %s", config.label, cause_of(error))
    network = make()
    try:
        return _measured(network, library, described, config)
    except InputError:
        raise
    except Exception as error:  # a network of others fails in its own way
        raise InputError(
            f"{config.label} does not take images of {config.num_channels} channels ({cause_of(error)}); use another "
            "network, or model.only_size=[H,W] for one that takes a single size"
        ) from error


def _measured(
    network: nn.Module, library: str | None, described: Mapping[str, Any] | None, config: ExternalConfig
) -> dict[str, Any]:
    """As `measure`, of a network that is built."""
    network.eval()
    own, failure = config.fixed_size or own_size(described), None
    for size in (TRIED if config.only_size is None else ()) + ((own,) if own else ()):
        try:
            found = _at_size(network, library, config, size, checks=size != own)
        except InputError:
            raise
        except Exception as error:  # this size it does not take
            failure = error
            continue
        if found is not None:
            return found | {"only_size": list(size) if size == own else None, "class_name": type(network).__name__}
    if failure is not None:
        raise failure
    raise InputError(f"{config.label}: its cells do not tile images; use another network, or model.only_size=[H,W]")


def _at_size(
    network: nn.Module, library: str | None, config: ExternalConfig, size: Size, *, checks: bool
) -> dict[str, Any] | None:
    """What an image of one size tells, or None where `checks` finds that another size has other cells.

    Raises:
        InputError: the network gives no map.
    """
    layers, channels = find_layers(network), config.num_channels
    final, maps = run(network, library, layers, size, channels)
    last = map_facts(final, size)
    if last is None:
        grid = final.grid if isinstance(final, FeatureMap) else final
        shape = tuple(grid.shape) if isinstance(grid, Tensor) else type(grid).__name__
        raise InputError(
            f"{config.label} gives {shape} for an image of {size[0]}x{size[1]} pixels, which is not a map "
            "(B, D, h, w) whose cells tile it; use another network"
        )
    stride, width = last
    if checks and not confirms(network, library, stride, width, channels):
        return None
    facts = [map_facts(found, size) for found in maps[:-1]]
    if any(fact is None for fact in facts):
        layers, facts = as_one(layers), []
    known = [*(fact for fact in facts if fact is not None), last]
    return {
        "strides": [list(pair) for pair, _ in known],
        "widths": [one for _, one in known],
        "depths": [len(layer.blocks) for layer in layers],
        "class_token": has_token(network, final),
        "unused": unused_parameters(network, library, size, channels),
    }


def own_size(described: Mapping[str, Any] | None) -> Size | None:
    """The `(H, W)` that a library's description names."""
    known = described or {}
    size = known.get("model_args", {}).get("img_size") or known.get("image_size")
    size = size or known.get("pretrained_cfg", {}).get("input_size", [None])[1:]
    sides = [size, size] if isinstance(size, int) else list(size or ())
    return (sides[0], sides[1]) if len(sides) == 2 and all(isinstance(side, int) for side in sides) else None


@torch.no_grad()
def run(
    network: nn.Module, library: str | None, layers: list[Layer], size: Size, channels: int
) -> tuple[Any, list[Any]]:
    """What a network and the last block of each layer put out for an image of zeros."""
    found: dict[int, Any] = {}
    handles = []
    for number, layer in enumerate(layers):

        def keep(_: nn.Module, __: Any, output: Any, number: int = number) -> None:
            found[number] = first_tensor(output)

        handles.append(network.get_submodule(layer.blocks[-1]).register_forward_hook(keep))
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        final = final_output(network, library, torch.zeros(1, channels, *size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return final, [found.get(number) for number in range(len(layers))]


def confirms(network: nn.Module, library: str | None, stride: Size, width: int, channels: int) -> bool:
    """Whether an image of 8 x 12 cells gives a map of 8 x 12 cells: 14 pixels are not mistaken for 16."""
    final, _ = run(network, library, [], (stride[0] * CHECKED[0], stride[1] * CHECKED[1]), channels)
    grid = final.grid if isinstance(final, FeatureMap) else as_map(final, CHECKED, width)
    return grid is not None and tuple(grid.shape[-2:]) == CHECKED


def map_facts(output: Any, size: Size) -> tuple[Size, int] | None:
    """`(h, w)` pixels per cell and the width of a map, in whatever layout it is; None where it is not one."""
    if isinstance(output, FeatureMap):
        output = output.grid
    if not isinstance(output, Tensor) or len(output) != 1:
        return None
    if output.ndim == 4:
        _, first, second, third = output.shape
        forms = ((first, (second, third)), (third, (first, second)))  # the channels first, or last
        known = [(stride, width) for width, grid in forms if (stride := stride_of(size, grid)) is not None]
        return next((fact for fact in known if fact[0][0] == fact[0][1]), known[0] if known else None)
    if output.ndim != 3:
        return None
    for side in range(1, LONGEST + 1):
        cells = (size[0] // side) * (size[1] // side)
        if not (size[0] % side or size[1] % side) and 0 <= output.shape[1] - cells <= MOST_PREFIX:
            return (side, side), output.shape[2]
    return None


def unused_parameters(network: nn.Module, library: str | None, size: Size, channels: int) -> list[str]:
    """Names of the parameters that the last features do not depend on, such as the norm of a pooler."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with torch.enable_grad():
        final = final_output(network, library, torch.zeros(1, channels, *size, device=device))
        parts = final if isinstance(final, FeatureMap) else (final,)
        torch.stack([part.sum() for part in parts if part is not None]).sum().backward()  # type: ignore[no-untyped-call]
    found = [name for name, p in network.named_parameters() if p.grad is None]
    network.zero_grad(set_to_none=True)
    return found


def stride_of(size: Size, grid: Size) -> Size | None:
    """`(h, w)` pixels per cell; None where the cells do not tile the image."""
    if min(grid) < 1 or size[0] % grid[0] or size[1] % grid[1]:
        return None
    stride = size[0] // grid[0], size[1] // grid[1]
    return stride if max(stride) <= LONGEST else None


def has_token(network: nn.Module, final: Any) -> bool:
    """Whether the last features have a class token."""
    if isinstance(final, FeatureMap):
        return final.cls is not None
    return bool(final.ndim == 3 and has_class_token(network))
