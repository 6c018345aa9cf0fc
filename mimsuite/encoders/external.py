"""A network that is not ours, as an encoder: hidden pixels are filled before it, its maps are taken behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor, nn

from mimsuite.encoders.external_config import ExternalConfig
from mimsuite.encoders.layers import check_config, check_pixels, hide_pixels, of_layers
from mimsuite.errors import InputError
from mimsuite.types import FeatureMap

MOST_PREFIX = 32  # tokens before those of the cells: class token and registers


class ExternalEncoder(nn.Module):
    """The wrapped network; fulfils `mimsuite.types.Encoder`.

    Hidden pixels become 0, the mean of normalised data, and the network sees a whole image: there is no mask token.
    What it does with a batch, such as BatchNorm's statistics, it does with the filled images.

    Args:
        config: what was found out about the network.
        network: the network itself.

    Attributes:
        wrapped: the network, as given; its parameters have the library's names behind `wrapped.`.
        num_features: width of the last map.
        stride: `(h, w)` pixels per cell of the last map.
        mask_stride: `(h, w)` pixels per cell of the first layer's map.
        num_layers: stages, or blocks of a network without stages.
        num_blocks: blocks of all layers.

    Raises:
        InputError: a network that is not the one of the config.
    """

    def __init__(self, config: ExternalConfig, network: nn.Module) -> None:
        super().__init__()
        check_config(config, ExternalConfig)
        self.config = config
        self.num_features = (config.widths or [0])[-1]
        self.stride, self.mask_stride = config.stride, config.mask_stride
        self.num_layers, self.num_blocks = len(config.class_tokens), config.num_blocks
        self.wrapped = network
        layers = find_layers(network)
        layers = layers if len(layers) == self.num_layers else as_one(layers)
        if (found := [len(layer.blocks) for layer in layers]) != config.depths:
            raise InputError(
                f"{config.label} has {found} blocks, and the config says {config.depths}; use the version of the "
                "library that the run was made with"
            )
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name not in config.unused)
        self._depths = depths_of(network, layers)
        self._last_blocks = [layer.blocks[-1] for layer in layers]

    def forward_features(self, pixels: Tensor, mask: Tensor | None = None) -> FeatureMap:
        """Encodes images; the features are what the network ends with.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            mask: `(B, rows, columns)` bool, True = hidden, on any regular grid whose cells are whole multiples of
                `mask_stride`. Hidden pixels influence nothing, not even as NaN.

        Raises:
            InputError: other channels, a size that the network does not take, or a mask that fits no cells.
        """
        return self.features_and_states(pixels, mask, False)[0]

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """Features of layers, numbered from 1, of whole images.

        The last one's are those of `forward_features`; those of an earlier one are the map of its last block.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            layers: their numbers; nothing is computed behind the deepest.

        Raises:
            InputError: no such layer, or as `forward_features`.
        """
        of_layers((), layers, self.num_layers)
        x, earlier = self._given(pixels, None), [n for n in layers if n < self.num_layers]
        stop = max(layers) if self.num_layers not in layers else None
        maps: dict[int, Tensor] = {}
        last = None
        with self._keeping(maps, earlier, stop), contextlib.suppress(_ReachedError):
            last = self._last(x)
        return tuple(
            last if n == self.num_layers and last is not None else FeatureMap(self._map(maps[n], n, x), None)
            for n in layers
        )

    def forward_blocks(self, pixels: Tensor, blocks: Sequence[int]) -> tuple[Tensor, ...]:
        """The maps `(B, D, h, w)` of blocks that end a layer, numbered from 1 through all layers.

        Raises:
            InputError: a block inside a layer, or as `forward_layers`.
        """
        ends = {number: layer for layer, number in enumerate(accumulate(self.config.depths or []), start=1)}
        if inside := [number for number in blocks if number not in ends]:
            raise InputError(
                f"{self.config.label}: block {inside[0]} ends no layer; use some of {', '.join(map(str, ends))}"
            )
        return tuple(features.grid for features in self.forward_layers(pixels, [ends[number] for number in blocks]))

    def features_and_states(
        self, pixels: Tensor, mask: Tensor | None, need_states: bool
    ) -> tuple[FeatureMap, tuple[Tensor, ...] | None]:
        """Returns what `forward_features` does and, if needed, the maps of all layers."""
        x = self._given(pixels, mask)
        if not need_states:
            return self._last(x), None
        maps: dict[int, Tensor] = {}
        with self._keeping(maps, range(1, self.num_layers), None):
            last = self._last(x)
        earlier = (self._map(maps[n], n, x) for n in range(1, self.num_layers))
        return last, (*earlier, last.grid)

    def _given(self, pixels: Tensor, mask: Tensor | None) -> Tensor:
        """What the network sees."""
        check_pixels(pixels, self.config.num_channels)
        size = (pixels.shape[-2], pixels.shape[-1])
        self.config.with_image_size(size)
        x = pixels.to(next((p.dtype for p in self.wrapped.parameters() if p.is_floating_point()), pixels.dtype))
        return x if mask is None else hide_pixels(x, mask, self.mask_stride)[0]

    def _last(self, x: Tensor) -> FeatureMap:
        return last_features(self.wrapped, self.config.library, x, self.stride, self.num_features)

    def _map(self, output: Tensor, layer: int, x: Tensor) -> Tensor:
        """The map `(B, D, h, w)` that a layer, numbered from 1, put out."""
        down, across = (self.config.strides or [])[layer - 1]
        found = as_map(output, (x.shape[-2] // down, x.shape[-1] // across), (self.config.widths or [])[layer - 1])
        if found is None:
            raise InputError(f"{self.config.label}: layer {layer} gives {tuple(output.shape)}, which is not its map")
        return found

    @contextlib.contextmanager
    def _keeping(self, maps: dict[int, Tensor], layers: Sequence[int], stop: int | None) -> Iterator[None]:
        """Keeps what the last blocks of layers put out; ends the pass behind the layer `stop`."""
        handles = []
        for n in set(layers):

            def keep(_: nn.Module, __: Any, output: Any, n: int = n) -> None:
                maps[n] = first_tensor(output)
                if n == stop:
                    raise _ReachedError

            handles.append(self.wrapped.get_submodule(self._last_blocks[n - 1]).register_forward_hook(keep))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether blocks are computed again in the backward pass, where the library can."""
        return bool(self.__dict__.get("_recomputes", False))

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, wanted: bool) -> None:
        switches: dict[str | None, tuple[str, ...]] = {
            "transformers": ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            if wanted
            else ("activation_checkpointing_disable", "gradient_checkpointing_disable"),
            "timm": ("set_grad_checkpointing",),
        }
        names = switches.get(self.config.library, ())
        able = getattr(self.wrapped, "supports_gradient_checkpointing", True)  # of transformers
        switch = next((found for name in names if able and (found := getattr(self.wrapped, name, None))), None)
        if wanted and switch is None:
            raise InputError(f"{self.config.label} cannot compute blocks again; train without gradient checkpointing")
        if switch is not None:
            switch(wanted) if self.config.library == "timm" else switch()
        self.__dict__["_recomputes"] = wanted

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Does nothing but to refuse a size that the network does not take.

        Raises:
            InputError: such a size.
        """
        self.config.with_image_size(image_size)

    def depth_of(self, name: str) -> int:
        """Depth of a parameter: 0 before the blocks, i for the i-th block through all layers, then what follows them.

        What lies in a stage before its blocks belongs to the first of them, what lies behind them to the last.

        Raises:
            InputError: no such parameter.
        """
        found = self._depths.get(name.removeprefix("wrapped.")) if name.startswith("wrapped.") else None
        if found is None:
            raise InputError(f"{name} is not a parameter of a wrapped encoder; use a name of its named_parameters()")
        return found


class _ReachedError(Exception):
    """The deepest layer that was asked for is computed."""


def last_features(
    network: nn.Module, library: str | None, x: Tensor, stride: tuple[int, int], width: int
) -> FeatureMap:
    """What a network ends with.

    Args:
        network: of the library.
        library: "transformers", "timm", or None for a user's class.
        x: `(B, C, H, W)` pixels.
        stride: `(h, w)` pixels per cell.
        width: channels of the map.

    Raises:
        InputError: something that is not such a map.
    """
    output = final_output(network, library, x)
    if isinstance(output, FeatureMap):
        return output
    grid = as_map(output, (x.shape[-2] // stride[0], x.shape[-1] // stride[1]), width)
    if grid is None:
        raise InputError(
            f"{type(network).__name__} gives {tuple(output.shape)} for images of {tuple(x.shape)}, which is not a map "
            f"of {width} channels with a cell for {stride[0]}x{stride[1]} pixels; use whole cells"
        )
    return FeatureMap(grid, output[:, 0] if output.ndim == 3 and has_class_token(network) else None)


def final_output(network: nn.Module, library: str | None, x: Tensor) -> Any:
    """A tensor in whatever layout the library has, or a user's own FeatureMap."""
    if library == "transformers":
        return network(x).feature_maps[-1]
    if library == "timm":
        return network.forward_features(x)  # type: ignore[operator]
    return network(x)


def has_class_token(network: nn.Module) -> bool:
    """Whether the first token of a network of timm is a class token."""
    return isinstance(getattr(network, "cls_token", None), Tensor)


def first_tensor(output: Any) -> Any:
    """What a block puts out; of several things, the first."""
    return output[0] if isinstance(output, tuple | list) and output else output


def as_map(output: Tensor, grid: tuple[int, int], width: int) -> Tensor | None:
    """The map `(B, width, h, w)` in what a layer puts out; None where there is none.

    Args:
        output: `(B, D, h, w)`, `(B, h, w, D)`, or `(B, N, D)` with at most 32 tokens before those of the cells.
        grid: `(h, w)` cells.
        width: D.
    """
    shape = tuple(output.shape[1:])
    if shape == (width, *grid):
        return output
    if shape == (*grid, width):
        return output.permute(0, 3, 1, 2)
    cells = grid[0] * grid[1]
    if len(shape) == 2 and shape[1] == width and 0 <= shape[0] - cells <= MOST_PREFIX:
        return output[:, shape[0] - cells :].transpose(1, 2).reshape(len(output), width, *grid)
    return None


class Layer(NamedTuple):
    """A stage, or a block of a network without stages.

    Attributes:
        name: of the module; "" is the whole network.
        blocks: names of its blocks, in their order.
    """

    name: str
    blocks: list[str]


def find_layers(network: nn.Module) -> list[Layer]:
    """A network's layers with their blocks, found by its form.

    Stages are the numbered children (of a list, or `layer1`, `layer2`, ...) with the most parameters; where most of a
    stage is again in numbered children, these are its blocks. A network without such stages has one layer for each
    block, and one without numbered parts is one block.
    """
    stages = max(numbered_children(network), key=lambda names: size_of(network, names), default=[""])
    layers = []
    for name in stages:
        stage = network.get_submodule(name)
        inner = [names for names in numbered_children(stage) if 2 * size_of(stage, names) > size_of(stage, [""])]
        layers.append(Layer(name, [f"{name}.{block}" for block in inner[0]] if name and inner else [name]))
    return layers


def as_one(layers: Sequence[Layer]) -> list[Layer]:
    """The same blocks as one layer."""
    return [Layer("", [block for layer in layers for block in layer.blocks])]


def numbered_children(module: nn.Module, prefix: str = "") -> list[list[str]]:
    """Names of the numbered children in a module, group by group, at whatever depth; not of those inside a group."""
    groups: dict[str, list[str]] = {}
    found = []
    for name, child in module.named_children():
        stem = name.rstrip("0123456789")
        if stem == name:
            found += numbered_children(child, f"{prefix}{name}.")
        elif any(True for _ in child.children()):  # a layer alone is no block
            groups.setdefault(stem, []).append(prefix + name)
    return [names for stem, names in groups.items() if not stem or len(names) > 1] + found


def size_of(network: nn.Module, names: Sequence[str]) -> int:
    """Values in the parameters of some parts of a network."""
    return sum(p.numel() for name in names for p in network.get_submodule(name).parameters())


def depths_of(network: nn.Module, layers: Sequence[Layer]) -> dict[str, int]:
    """Depths of a network's parameters, as `depth_of` counts, by the order in which the network holds its parts."""
    blocks = [block for layer in layers for block in layer.blocks]
    found: dict[str, int] = {}
    reached = 0
    for name, _ in network.named_parameters():
        block = next((n for n, one in enumerate(blocks, start=1) if is_inside(name, one)), None)
        stage = next((layer for layer in layers if layer.name and is_inside(name, layer.name)), None)
        if block is not None:
            reached = block
        elif stage is not None:
            first, last = (blocks.index(stage.blocks[i]) + 1 for i in (0, -1))
            block = first if reached < first else last
        elif reached < len(blocks):
            block = reached
        else:
            block = len(blocks) + 1
        found[name] = block
    return found


def is_inside(name: str, part: str) -> bool:
    """Whether a parameter lies in a part of the network."""
    return not part or name.startswith(f"{part}.")
