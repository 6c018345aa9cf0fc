"""The contracts that the parts share: what an encoder gives, what its config tells, what a batch holds. Needs no torch.

Glossary, as all files use the words:
    cell: a square of the encoder's grid, that is, of its feature map; its size in pixels is the stride.
    unit: a square of the mask; it is hidden or visible as a whole, and consists of whole cells that can be hidden.
    patch: the pixels of a cell; a ViT embeds patches.
    place: an element of the target: a pixel, or a coarser one (HOG has 8 x 8 pixels per place).
    micro-batch: the images of one forward pass; gradients of several add up to one optimizer step.
    lane: a stream of shards; a batch takes the same number of samples from every lane.
    window: the shards of a lane whose samples are mixed with each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class DisplayRange(NamedTuple):
    """What pictures show as black and as full brightness, per channel; only images of more than 8 bits have one.

    Attributes:
        low, high: C values each, as fractions of the data type's maximum, high above low.
        source: what they are, in words.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    source: str = "1st to 99th percentile of the data"


class Scale(NamedTuple):
    """A map of an encoder with several.

    Attributes:
        number: its place among the hidden states that the encoder gives, from 0.
        width: its channels.
        stride: pixels per cell, down and across.
    """

    number: int
    width: int
    stride: int


class FeatureMap(NamedTuple):
    """Features of an encoder, after its final norm unless they are those of an earlier layer.

    Attributes:
        grid: patch features, `(B, D, h, w)` float.
        cls: class-token features, `(B, D)` float, or None for encoders without one.
    """

    grid: Tensor
    cls: Tensor | None


@runtime_checkable
class Encoder(Protocol):
    """What every encoder offers; heads, objectives and probes use nothing else.

    Attributes:
        num_features: D, the width of the feature map.
        stride: `(sh, sw)`, pixels per cell of the feature map.
        mask_stride: `(mh, mw)`, pixels of the finest mask cell that the encoder can hide.
        num_layers: layers that have features: blocks of a ViT, stages of a CvT or BiT.
        num_blocks: residual blocks, counted through all stages.
    """

    num_features: int
    stride: tuple[int, int]
    mask_stride: tuple[int, int]
    num_layers: int
    num_blocks: int

    def forward_features(self, pixels: Tensor, mask: Tensor | None = None) -> FeatureMap:
        """Encodes `pixels (B, C, H, W)`, normalised floats.

        `mask (B, gh, gw)` is bool, True = hidden from the encoder, on any regular grid over the image whose
        cells are whole multiples of `mask_stride`; the encoder repeats it to its own grid.
        """
        ...

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """Encodes `pixels (B, C, H, W)`, normalised floats, without a mask, and gives the features of chosen layers.

        Layers count from 1. `num_layers` gives what `forward_features` gives, after the final norm; an earlier one
        gives what that block or stage puts out, before any norm that follows, with a width and a grid of its own. The
        class token is None where that layer has none. Nothing is computed past the deepest layer asked for.
        """
        ...

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Makes `(H, W)` pixels the encoder's own size, where it has one."""
        ...

    def depth_of(self, name: str) -> int:
        """How deep a parameter lies, by its name in the encoder's `named_parameters()`.

        0 for what embeds, i for the i-th block, counted from 1 through all stages, and `num_blocks + 1` for what
        follows the blocks. What leads from one stage to the next has the depth of the block before it, or belongs
        to the block after it.

        Raises:
            InputError: no such parameter.
        """
        ...


@runtime_checkable
class EncoderConfig(Protocol):
    """What the config of every encoder tells; nothing outside `encoders` and `models` asks which family it is.

    It needs no torch. Copies are checked anew unless a method says otherwise.
    """

    @property
    def model_type(self) -> str:
        """The family, as `config.json` names it."""
        ...

    @property
    def title(self) -> str:
        """What a log calls the encoder."""
        ...

    @property
    def num_channels(self) -> int:
        """C of the images."""
        ...

    @property
    def stride(self) -> tuple[int, int]:
        """`(h, w)` pixels per cell of the feature map."""
        ...

    @property
    def mask_stride(self) -> tuple[int, int]:
        """`(h, w)` pixels of the finest cell that the encoder can hide."""
        ...

    @property
    def encoder_stride(self) -> int | list[int]:
        """Pixels per cell that the head of a masked image model writes: a side, or `[h, w]`."""
        ...

    @property
    def stride_field(self) -> str | None:
        """The field that is the stride, such as `patch_size`; None where the stride follows from several fields."""
        ...

    @property
    def num_blocks(self) -> int:
        """Residual blocks, counted through all stages."""
        ...

    @property
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token, for every layer."""
        ...

    @property
    def has_class_token(self) -> bool:
        """Whether the features that the encoder ends with have a class token."""
        ...

    @property
    def needs_whole_cells(self) -> bool:
        """Whether an image must consist of whole cells."""
        ...

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """`(H, W)` pixels that the weights are made for; None for an encoder that takes any size."""
        ...

    @property
    def fixed_grid(self) -> bool:
        """Whether positions are known for the whole grid of `fixed_size` only, so that they cannot be resized."""
        ...

    @property
    def can_drop(self) -> bool:
        """Whether the encoder can drop hidden patches, so that it sees visible ones only."""
        ...

    @property
    def drop_obstacle(self) -> str | None:
        """Why this encoder cannot drop hidden patches, and the fix, in one line; None where it can."""
        ...

    @property
    def drops_patches(self) -> bool:
        """Whether it does drop them."""
        ...

    @property
    def sparse_obstacle(self) -> str | None:
        """Why hidden cells cannot be left out of every map, and the fix, in one line; None where they can."""
        ...

    @property
    def is_sparse(self) -> bool:
        """Whether they are left out."""
        ...

    @property
    def mask_layers(self) -> list[int]:
        """The stages after which a mask token can be added to hidden cells, counted from 1."""
        ...

    @property
    def scales(self) -> list[Scale]:
        """The maps of several sizes that a U-Net looks at, the coarsest first; none where there is one size."""
        ...

    @property
    def decoder_sizes(self) -> dict[str, int] | None:
        """The sizes of MAE's decoder or a U-Net, by the names that `with_masking` takes; None without one."""
        ...

    @property
    def decays_mask_token(self) -> bool:
        """Whether weight decay acts on the mask token, as in SimMIM's code for its ViT."""
        ...

    @property
    def mim_target(self) -> str:
        """What a masked image model predicts, one of `words.TARGETS`."""
        ...

    @property
    def mim_predictor(self) -> dict[str, Any] | None:
        """What predicts features of a teacher (`encoders.predictor_config`); None for a model of `mim_target`."""
        ...

    @property
    def num_features(self) -> int:
        """D, channels of the features that the encoder ends with; 0 where that is not known without the network."""
        ...

    @property
    def latent_blocks(self) -> list[int]:
        """Blocks, numbered from 1 through all stages, whose features a teacher gives by default."""
        ...

    @property
    def alike_blocks(self) -> list[int]:
        """Blocks whose maps have the size and width of the last one's."""
        ...

    @property
    def classifier_pool(self) -> str:
        """What a classifier looks at, one of `words.CLASSIFIER_POOLS`."""
        ...

    @property
    def num_labels(self) -> int:
        """Outputs of a classifier."""
        ...

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by number."""
        ...

    @property
    def problem_type(self) -> str | None:
        """What a classifier's labels are, one of `words.PROBLEM_TYPES`; None: inferred at each call."""
        ...

    @property
    def architectures(self) -> list[str] | None:
        """Class names of the weights beside the file."""
        ...

    @property
    def not_in_transformers(self) -> list[str]:
        """`field=value` of what changes a classifier's logits and is unknown to, or wrong in, transformers."""
        ...

    @property
    def is_trained(self) -> bool:
        """Whether a fresh model starts with trained weights, which the config names."""
        ...

    @property
    def image_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation per channel that a fresh model's weights were trained with; None: the data's are used."""
        ...

    @property
    def found_out(self) -> dict[str, Any]:
        """Fields that `config.yaml` holds beside those that the user gave."""
        ...

    def trusting(self, targets: Collection[str]) -> Self:
        """A copy that may build the classes in `targets`.

        Raises:
            InputError: the config names a class that is not among them.
        """
        ...

    @classmethod
    def masked_model_class(cls) -> type[Any] | None:
        """The masked image model of an encoder that is not part of mimsuite; None for those that are."""
        ...

    @classmethod
    def from_dict(cls, data: dict[str, Any], **overrides: Any) -> Self:
        """The config in the content of a `config.json`; `overrides` win."""
        ...

    def check_fit(self) -> None:
        """Checks values that only a network needs to fit together.

        Raises:
            InputError: they do not.
        """
        ...

    def with_drop_path(self, rate: float) -> Self:
        """A copy with stochastic depth that rises to `rate`, where the family drops blocks."""
        ...

    def with_image_size(self, size: tuple[int, int]) -> Self:
        """A copy that is made for `(H, W)` pixels, not checked; without `fixed_size` a copy of the same."""
        ...

    def with_masking(
        self,
        target: str,
        decoder: Mapping[str, int] | None = None,
        predictor: Mapping[str, Any] | None = None,
        mask_mode: str = "replace",
    ) -> Self:
        """A copy of a masked image model whose head covers the image.

        Args:
            target: what it predicts.
            decoder: sizes of MAE's decoder, `hidden_size` and the like, where hidden patches are dropped; of a U-Net
                where the encoder has maps of several sizes. None: the head is SimMIM's.
            predictor: what predicts features of a teacher in the decoder's place, as `mim_predictor` has it.
            mask_mode: what becomes of hidden cells, one of `words.MASK_MODES`; MAE's decoder drops them anyway.

        Raises:
            InputError: a decoder or a way to hide that the encoder does not take, or sizes that do not fit.
        """
        ...

    def without_masking(self) -> Self:
        """A copy without what concerns masked images alone, for a classifier."""
        ...

    def changed(self, **overrides: Any) -> Self:
        """A copy with other values; what was derived from them is derived anew."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` holds."""
        ...


class BadSample(NamedTuple):
    """A sample that could not be used: where it lies and why."""

    shard: str
    key: str
    reason: str


class Batch(NamedTuple):
    """What a loader yields.

    Attributes:
        images: `(B, C, H, W)` uint8, or int32 holding uint16 values; not normalised. With `windows`, canvases
            `(B, height, width, C)`, which the data module makes pictures of when they are on the device.
        ids: `(B,)` int64, the sample ids (a hash of the key).
        mask: `(B, gh, gw)` bool, True = hidden, one cell per mask unit; None where no masks are drawn.
        labels: `(B,)` int64 classes, or `(B, K)` float; None where the data has no labels or none are asked for.
        bad: samples that were replaced while this batch was read.
        hidden: True cells of each mask, if all have the same number.
        keys: the samples' names; None where none are asked for.
        windows: `(B, 3)` int64: height and width of what lies on the canvas, and 1 where it is to be mirrored.
        targets: `(B, T, gh, gw)` bool, True = to be predicted: T targets of each image, which may overlap, and lie in
            what `mask` hides; None where everything that is hidden is one target.
        target_units: True cells of each target, where there are `targets`: all have the same number.
    """

    images: Tensor
    ids: Tensor
    mask: Tensor | None
    labels: Tensor | None
    bad: list[BadSample]
    hidden: int | None = None
    keys: list[str] | None = None
    windows: Tensor | None = None
    targets: Tensor | None = None
    target_units: int | None = None

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> Batch:
        """The batch on another device; libraries that move batches ask for this method.

        Args:
            device: where to.
            non_blocking: whether nobody waits for the copies; None: only on the way to CPU and MPS, which need it.
        """
        free = str(device).partition(":")[0] not in ("cpu", "mps") if non_blocking is None else non_blocking

        def move(part: Any) -> Any:
            return part.to(device, non_blocking=free) if hasattr(part, "to") else part

        return Batch(*map(move, self))
