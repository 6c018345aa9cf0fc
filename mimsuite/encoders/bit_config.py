"""Configuration of Big Transfer's ResNet. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from mimsuite.encoders.config import Activation
from mimsuite.encoders.config_fields import ConfigFields, configuration
from mimsuite.encoders.map_config import OF_MASKING, MapConfig
from mimsuite.errors import InputError
from mimsuite.types import Scale
from mimsuite.words import LAYER_TYPES, OUTPUT_STRIDES, PADDINGS

OUTPUTS = ("out_features", "out_indices")


@configuration
class BitConfig(MapConfig):
    """Big Transfer's ResNet v2 (Kolesnikov et al. 2020); the defaults are R50x1.

    Attributes:
        num_channels: C of the images.
        embedding_size: width of the stem.
        hidden_sizes: widths of the stages.
        depths: blocks per stage.
        layer_type: "preactivation" (ResNet v2) or "bottleneck" (v1.5).
        hidden_act: activation after every norm.
        global_padding: of all convolutions: None (symmetric), "same" (as TensorFlow's) or "valid"; kept in capitals.
        num_groups: of every GroupNorm; must divide every width.
        drop_path_rate: stochastic depth, rising linearly over all blocks from 0 to this.
        embedding_dynamic_padding: pad before the stem's pooling so that its stride divides the map.
        output_stride: pixels per cell of the last map: 4, 8, 16 or 32; later strides become dilation.
        width_factor: multiplies every width (3 with the defaults: R50x3).
        out_features: stages whose maps `BitBackbone` gives; None: the last.
        out_indices: the same as numbers into `stage_names`, negative ones from the end.
        encoder_stride: ours; pixels that the SimMIM head writes per cell; None: `stride`, which is `output_stride`
            with four stages.
    """

    model_type: ClassVar[str] = "bit"
    ours_only: ClassVar[frozenset[str]] = frozenset({"encoder_stride", *OF_MASKING})
    partners: ClassVar[dict[str, tuple[str, ...]]] = ConfigFields.partners | dict.fromkeys(OUTPUTS, OUTPUTS)
    derived_from: ClassVar[frozenset[str]] = frozenset({"depths", "output_stride"})
    not_kept: ClassVar[frozenset[str]] = ConfigFields.not_kept | {"stage_names"}

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 512, 1024, 2048])
    depths: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    layer_type: str = "preactivation"
    hidden_act: Activation = "relu"
    global_padding: str | None = None
    num_groups: int = 32
    drop_path_rate: float = 0.0
    embedding_dynamic_padding: bool = False
    output_stride: int = 32
    width_factor: int = 1
    out_features: list[str] = None  # type: ignore[assignment]  # lists after __post_init__
    out_indices: list[int] = None  # type: ignore[assignment]
    encoder_stride: int = None  # type: ignore[assignment]

    @property
    def stride(self) -> tuple[int, int]:
        """`(h, w)` pixels per cell of the last stage's map."""
        side = int(min(self.output_stride, 4 * 2 ** (len(self.depths) - 1)))
        return side, side

    @property
    def stride_field(self) -> str:
        """The stride of the last map, if all stages are there."""
        return "output_stride"

    @property
    def first_width(self) -> int:
        """Width of the stem's map."""
        return self.widths[0]

    @property
    def finest_stride(self) -> int:
        """Pixels per cell of the stem's map."""
        return 4

    @property
    def stages(self) -> list[Scale]:
        """Number, width and stride of every stage's map; the stem's is number 0."""
        strides = [min(self.output_stride, 4 * 2**stage) for stage in range(len(self.depths))]
        return [Scale(i + 1, self.widths[i + 1], int(stride)) for i, stride in enumerate(strides)]

    @property
    def padding_fix(self) -> str | None:
        """`global_padding=null`, or the padding of the stem's pooling that goes with it."""
        if self.global_padding == "VALID":
            return "global_padding=null"
        same = self.global_padding == "SAME"
        return None if self.embedding_dynamic_padding == same else f"embedding_dynamic_padding={str(same).lower()}"

    @property
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token, for every stage: none has."""
        return [False] * len(self.depths)

    @property
    def num_features(self) -> int:
        """Channels of the last stage."""
        return self.widths[-1]

    @property
    def latent_blocks(self) -> list[int]:
        """The blocks of the last stage."""
        return list(range(self.num_blocks - self.depths[-1] + 1, self.num_blocks + 1))

    @property
    def alike_blocks(self) -> list[int]:
        """The blocks of the last stage."""
        return self.latent_blocks

    @property
    def num_blocks(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def not_in_transformers(self) -> list[str]:
        """Fields whose values change what a classifier computes and that transformers gets wrong."""
        full = 4 * 2 ** (len(self.depths) - 1)  # from this stride on nothing is dilated
        strides = tuple(stride for stride in OUTPUT_STRIDES if stride >= full)
        return self._beyond({"output_stride": strides, "width_factor": (1,), "global_padding": (None, "SAME")})

    @property
    def stage_names(self) -> list[str]:
        """`stem`, `stage1`, ...: names for `out_features`."""
        return ["stem", *(f"stage{i}" for i in range(1, len(self.depths) + 1))]

    @property
    def widths(self) -> list[int]:
        """Channels of the stem and of every stage, with `width_factor`."""
        stem = self.embedding_size if self.width_factor == 1 else make_div(self.embedding_size * self.width_factor)
        return [stem, *(make_div(size * self.width_factor) for size in self.hidden_sizes)]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_channels", "embedding_size", "num_groups", "width_factor"):
            self._check_int(name, low=1)
        self._check_ints("hidden_sizes", low=1)
        self._check_ints("depths", low=1, count=len(self.hidden_sizes))
        for name in ("layer_type", "global_padding"):
            if not isinstance(getattr(self, name), str | None):
                raise TypeError(
                    f"{name}={getattr(self, name)!r} must be a name, got {type(getattr(self, name)).__name__}"
                )
        if self.layer_type not in LAYER_TYPES:
            raise InputError(f"layer_type={self.layer_type} is not one of {','.join(LAYER_TYPES)}")
        self._check_activation("hidden_act")
        if self.global_padding is not None:
            if self.global_padding.upper() not in PADDINGS:
                raise InputError(f"Padding strategy {self.global_padding} not supported; use same, valid or null")
            self.global_padding = self.global_padding.upper()
        self._check_float("drop_path_rate", 0, 1)
        self._check_bool("embedding_dynamic_padding")
        self._check_int("output_stride", low=min(OUTPUT_STRIDES))
        if self.output_stride not in OUTPUT_STRIDES:
            raise InputError(f"output_stride={self.output_stride} is not one of {', '.join(map(str, OUTPUT_STRIDES))}")
        if self.encoder_stride is None:
            self.encoder_stride = self.stride[0]
        self._check_int("encoder_stride", low=1)
        self._check_masking()
        for width in (*self.widths, *(make_div(width / 4) for width in self.widths[1:])):
            if width % self.num_groups:
                raise InputError(
                    f"num_groups={self.num_groups} does not divide the width {width}; widths are {self.widths}"
                )
        self._align_outputs()

    def derived(self) -> dict[str, Any]:
        """The backbone gives the last map, and the head of a masked image model writes a whole cell of it."""
        last = len(self.depths)
        return {"encoder_stride": self.stride[0], "out_features": self.stage_names[last:], "out_indices": [last]}

    def _fill(self, name: str) -> None:
        if name in OUTPUTS:
            self._align_outputs()
        else:
            super()._fill(name)

    def _align_outputs(self) -> None:
        """Fills `out_features` from `out_indices` or the other way round, and checks them."""
        names, own = self.stage_names, vars(self)  # what is set here has no partners to change
        if self.out_features is None and self.out_indices is None:
            own |= {name: self.derived()[name] for name in OUTPUTS}
        self._check_outputs(names)
        if self.out_indices is None:
            own["out_indices"] = [names.index(feature) for feature in self.out_features]
        found = [names[index] for index in self.out_indices]
        if self.out_features is None:
            own["out_features"] = found
        if self.out_features != found:
            raise InputError(
                f"out_features={self.out_features} and out_indices={self.out_indices} name different stages; give one"
            )
        for name in OUTPUTS:
            if len(set(found)) != len(found):
                raise InputError(f"{name}={getattr(self, name)} holds a stage twice; name each once")
            if found != sorted(found, key=names.index):
                raise InputError(f"{name}={getattr(self, name)} must be in the same order as stage_names: {names}")

    def _check_outputs(self, names: list[str]) -> None:
        for name in OUTPUTS:
            if getattr(self, name) is not None:
                self._check_each(name)
        for feature in self.out_features or []:
            if feature not in names:
                raise InputError(f"out_features={self.out_features}: {feature!r} is not one of {', '.join(names)}")
        for index in self.out_indices or []:
            if isinstance(index, bool) or not isinstance(index, int):
                raise TypeError(f"out_indices={self.out_indices!r} must hold integers, got {type(index).__name__}")
            if not -len(names) <= index < len(names):
                raise InputError(f"out_indices={self.out_indices}: {index} is out of range for {', '.join(names)}")

    @classmethod
    def _replaced(cls, values: Mapping[str, Any], wanted: Mapping[str, Any]) -> set[str]:
        """Also: with other depths, outputs that were just the last stage are the last stage again."""
        last = "depths" in wanted and values.get("out_features") == [f"stage{len(values.get('depths', []))}"]
        return super()._replaced(values, wanted) | (set(OUTPUTS) if last else set())

    def to_dict(self) -> dict[str, Any]:
        """As of `ConfigForm`, with `stage_names`."""
        return super().to_dict() | {"stage_names": self.stage_names}


def make_div(value: float) -> int:
    """Rounds a width to a multiple of 8, at least 8 and not below 0.9 of it."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded
