"""Configuration of an encoder of another library, or of a user's own class. Imports no torch, and no such library."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import field
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Self

from mimsuite.encoders.config import ModelConfig, Side, as_side
from mimsuite.encoders.config_fields import ConfigFields, configuration
from mimsuite.errors import InputError
from mimsuite.weights.source import wrapped_names

FOUND_OUT = (
    *("source", "library", "library_config", "strides", "widths", "depths", "class_token", "only_size", "unused"),
    *("image_mean", "image_std"),
)
"""Fields that are found out when the network is first built, and kept with a run, which so opens without the hub."""
LIBRARIES = ("transformers", "timm")


@configuration
class ExternalConfig(ModelConfig):
    """An encoder that is not part of mimsuite: of transformers, of timm, or a user's own class.

    `source` or `network` says which; all of `FOUND_OUT` follows from it (`mimsuite.models.sources.completed`). A layer
    is a stage, or a block of a network without stages.

    Attributes:
        source: "hf:ORG/NAME", a folder that transformers' AutoBackbone opens, or "timm:NAME".
        network: a user's class, `_target_` and its arguments; called with `(B, C, H, W)` it gives its last map.
        arguments: other values of the library's own config: fields in transformers, arguments in timm.
        pretrained: whether a run without other weights starts with those of `source`.
        num_channels: C of the images.
        library: "transformers" or "timm"; None for a user's class.
        library_config: the library's own description of the network.
        strides: `[h, w]` pixels per cell of each layer's map.
        widths: channels of each layer's map.
        depths: blocks of each layer.
        class_token: whether the last features have a class token.
        only_size: `[H, W]` pixels, of a network that takes no other size.
        unused: names of parameters that the last map does not depend on; they are not trained.
        image_mean: per channel, what the weights of `source` were trained with; None: not known.
        image_std: the same of the deviation.
        encoder_stride: pixels per cell that the SimMIM head writes; None: the stride of the last map.
    """

    model_type: ClassVar[str] = "external"
    ours_only: ClassVar[frozenset[str]] = frozenset({"encoder_stride"})
    derived_from: ClassVar[frozenset[str]] = frozenset({"strides"})
    not_kept: ClassVar[frozenset[str]] = ConfigFields.not_kept

    source: str | None = None
    network: dict[str, Any] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    num_channels: int = 3
    library: str | None = None
    library_config: dict[str, Any] | None = None
    strides: list[list[int]] | None = None
    widths: list[int] | None = None
    depths: list[int] | None = None
    class_token: bool = False
    only_size: list[int] | None = None
    unused: list[str] = field(default_factory=list)
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    encoder_stride: Side = None  # type: ignore[assignment]  # a side after __post_init__, where strides are known

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_source()
        self._check_int("num_channels", low=1)
        if self.library not in (None, *LIBRARIES):
            raise InputError(f"library={self.library!r} is not one of {', '.join(LIBRARIES)}")
        if self.only_size is not None:
            self._check_ints("only_size", low=1, count=2)
        if not isinstance(self.unused, list):
            raise TypeError(f"unused={self.unused!r} must be a list of names")
        for name in ("image_mean", "image_std"):
            if getattr(self, name) is not None:
                self._check_floats(name, -math.inf, math.inf, len(self._check_each(name)))
        if self.strides is not None:
            self._check_layers()
        if self.encoder_stride is not None:
            self._check_side("encoder_stride")

    def _check_source(self) -> None:
        """Checks what the user says of the network."""
        if (self.source is None) == (self.network is None):
            raise InputError(
                "model=external wraps one encoder; give model.source=hf:ORG/NAME, timm:NAME or a folder, or "
                "+model.network._target_=package.Class"
            )
        if self.source is not None and not isinstance(self.source, str):
            raise TypeError(f"source={self.source!r} must be a name or a folder")
        for name in ("arguments", "network", "library_config"):
            if not isinstance(getattr(self, name), dict | None):
                raise TypeError(f"{name}={getattr(self, name)!r} must be a dict")
        if self.network is not None and not isinstance(self.network.get("_target_"), str):
            raise InputError("network names no class; give network._target_=package.Class")
        for name in ("pretrained", "class_token"):
            self._check_bool(name)

    def _check_layers(self) -> None:
        """Checks what was found out of every layer."""
        count = len(self._check_each("strides"))
        for pair in self.strides or ():
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(is_side(side) for side in pair):
                raise InputError(f"strides={self.strides} must hold a pair of pixels for each layer")
        vars(self)["strides"] = [list(pair) for pair in self.strides or ()]
        for name in ("widths", "depths"):
            self._check_ints(name, low=1, count=count)
        if self.library is not None and self.library_config is None:
            raise InputError(f"library={self.library} needs library_config, its own description of the network")
        if self.encoder_stride is None:
            self.encoder_stride = as_side(self.stride)
        if self.library == "transformers":
            vars(self)["library_config"] = (self.library_config or {}) | {"num_channels": self.num_channels}
        elif self.library == "timm":
            known = self.library_config or {}
            arguments = known.get("model_args", {}) | {"in_chans": self.num_channels}
            vars(self)["library_config"] = known | {"model_args": arguments}

    def derived(self) -> dict[str, Any]:
        """The head of a masked image model writes a whole cell of the last map."""
        return {} if self.strides is None else {"encoder_stride": as_side(self.stride)}

    @property
    def is_complete(self) -> bool:
        """Whether the network has been looked at, so that its sizes are known."""
        return self.strides is not None

    def _layers(self, name: str) -> list[Any]:
        found: list[Any] | None = getattr(self, name)
        if found is None:
            raise InputError(
                f"{self.label}: its {name} are not known yet; use mimsuite.models.sources.completed(config)"
            )
        return found

    @property
    def label(self) -> str:
        """What errors call the network."""
        return str(self.source) if self.network is None else str(self.network["_target_"])

    @property
    def title(self) -> str:
        """The family, and which network."""
        return f"{self.model_type} ({self.label})"

    @property
    def stride(self) -> tuple[int, int]:
        """`(h, w)` pixels per cell of the last map."""
        down, across = self._layers("strides")[-1]
        return down, across

    @property
    def mask_stride(self) -> tuple[int, int]:
        """`(h, w)` pixels of the finest cell that is hidden: one of the first layer's map."""
        down, across = self._layers("strides")[0]
        return down, across

    @property
    def num_features(self) -> int:
        """Channels of the last map."""
        return int((self.widths or [0])[-1])

    @property
    def latent_blocks(self) -> list[int]:
        """The last half of the blocks of a network without stages, else the last block."""
        return self.alike_blocks[len(self.alike_blocks) // 2 :]

    @property
    def alike_blocks(self) -> list[int]:
        """Blocks that end a layer, with maps of the size and width of the last one's."""
        ends, maps = accumulate(self.depths or []), zip(self.strides or [], self.widths or [], strict=True)
        sizes = [(tuple(stride), width) for stride, width in maps]
        return [number for number, size in zip(ends, sizes, strict=True) if size == sizes[-1]]

    @property
    def num_blocks(self) -> int:
        """Blocks of all layers."""
        return sum(self._layers("depths"))

    @property
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token: the last ones alone can."""
        return [*[False] * (len(self._layers("strides")) - 1), self.class_token]

    @property
    def needs_whole_cells(self) -> bool:
        """Yes: it is not known how a network of others pads."""
        return True

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """`(H, W)` pixels of a network that takes no other size."""
        return None if self.only_size is None else (self.only_size[0], self.only_size[1])

    @property
    def fixed_grid(self) -> bool:
        """Whether the network takes one size only."""
        return self.only_size is not None

    @property
    def drop_obstacle(self) -> str:
        """Why hidden patches cannot be dropped, and the fix."""
        return (
            "objective.mask_mode=drop (objective=mae) drops hidden patches, which model=external cannot, because it "
            "looks at no part of the network; use objective=simmim, or a ViT of mimsuite"
        )

    @property
    def is_trained(self) -> bool:
        """Whether a fresh model starts with the weights of `source`."""
        return self.source is not None and self.pretrained

    @property
    def image_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation per channel that the weights of `source` were trained with, where they are known."""
        mean, std = self.image_mean, self.image_std
        if not self.is_trained or mean is None or std is None or not len(mean) == len(std) == self.num_channels:
            return None
        return tuple(mean), tuple(std)

    @property
    def found_out(self) -> dict[str, Any]:
        """What `config.yaml` holds beside the user's values, so that the run opens without the hub."""
        return {name: getattr(self, name) for name in FOUND_OUT}

    @property
    def trusted(self) -> tuple[str, ...]:
        """The classes that this config may build."""
        found: tuple[str, ...] = vars(self).get("_trusted", ())
        return found

    def trusting(self, targets: Collection[str]) -> Self:
        """A copy that may build the user's class, after it was judged.

        Raises:
            InputError: `targets` do not name it.
        """
        from mimsuite.config.instantiate import find_targets, judge

        for target in find_targets(self.network or {}):
            judge(target, targets)
        found = self.changed()
        vars(found)["_trusted"] = tuple(targets)
        return found

    def changed(self, **overrides: Any) -> Self:
        """A copy with other values, that trusts the same classes."""
        found = super().changed(**overrides)
        if self.trusted:
            vars(found)["_trusted"] = self.trusted
        return found

    def with_image_size(self, size: tuple[int, int]) -> Self:
        """A copy of the same.

        Raises:
            InputError: a network that takes another size only.
        """
        if (only := self.fixed_size) is not None and only != size:
            height, width = only
            fix = (
                ", or model.arguments={img_size: ...} where the network has such an argument"
                if self.library == "timm"
                else ""
            )
            raise InputError(
                f"image_size={size[0]}x{size[1]}: {self.label} takes {height}x{width} pixels only; use "
                f"image_size=[{height},{width}]{fix}"
            )
        return super().with_image_size(size)

    def with_drop_path(self, rate: float) -> Self:
        """A copy with stochastic depth, by the library's own field.

        Raises:
            InputError: the network has none.
        """
        known = self.library_config or {}
        if self.library == "timm":
            arguments = known.get("model_args", {}) | {"drop_path_rate": rate}
            return self.changed(library_config=known | {"model_args": arguments})
        if "drop_path_rate" not in known:
            raise InputError(f"drop_path={rate:g}: {self.label} has no drop_path_rate; use drop_path=null")
        return self.changed(library_config=known | {"drop_path_rate": rate})

    def to_file(self) -> dict[str, Any]:
        """What `config.json` holds: the library's own config, which it opens, with our fields under one key."""
        data = self.to_dict()
        if self.source is not None and not self.source.startswith(("hf:", "timm:")):
            data["source"] = Path(self.source).name  # weights may be published, and the place says nothing there
        return wrapped_names(data)


def is_side(value: Any) -> bool:
    """Whether a value is a number of pixels."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
