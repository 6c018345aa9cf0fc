"""What the configuration of every encoder tells, beside its fields; family by family, without torch."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

from mimsuite.encoders.config_form import ConfigForm
from mimsuite.errors import InputError
from mimsuite.types import Scale

Activation = str | Callable[..., Any]
Side = int | list[int]


class ModelConfig(ConfigForm, ABC):
    """What every family's configuration holds; with what a family adds it fulfils `mimsuite.types.EncoderConfig`.

    A family defines `num_channels`, `stride`, `mask_stride`, `encoder_stride`, `num_blocks` and `class_tokens`. By
    default its encoder takes any image size, cannot drop patches, and so on; where that is wrong it overrides the
    property. Fields that all families have: see `ConfigFields`.
    """

    @property
    @abstractmethod
    def num_channels(self) -> int:
        """C of the images."""

    @property
    @abstractmethod
    def encoder_stride(self) -> Side:
        """Pixels per cell that the head of a masked image model writes: a side, or `[h, w]`."""

    @property
    @abstractmethod
    def stride(self) -> tuple[int, int]:
        """`(h, w)` pixels per cell of the feature map."""

    @property
    @abstractmethod
    def mask_stride(self) -> tuple[int, int]:
        """`(h, w)` pixels of the finest cell that the encoder can hide."""

    @property
    @abstractmethod
    def num_blocks(self) -> int:
        """Residual blocks, counted through all stages."""

    @property
    @abstractmethod
    def class_tokens(self) -> list[bool]:
        """Whether the features of a layer have a class token, for every layer."""

    @property
    def num_features(self) -> int:
        """D, channels of the features that the encoder ends with; 0 where the family does not say it."""
        return 0

    @property
    def latent_blocks(self) -> list[int]:
        """Blocks whose features a teacher gives by default, numbered from 1 through all stages: the last one."""
        return [self.num_blocks]

    @property
    def alike_blocks(self) -> list[int]:
        """Blocks whose maps have the size and width of the last one's: by default the last one is alone."""
        return [self.num_blocks]

    @property
    def title(self) -> str:
        """What a log calls the encoder: its family."""
        return self.model_type

    @property
    def stride_field(self) -> str | None:
        """The field that is the stride; None where the stride follows from several fields."""
        return None

    @property
    def has_class_token(self) -> bool:
        """Whether the features that the encoder ends with have a class token."""
        return self.class_tokens[-1]

    @property
    def needs_whole_cells(self) -> bool:
        """Whether an image must consist of whole cells: not where convolutions pad it."""
        return False

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """`(H, W)` pixels that the weights are made for; None: any size."""
        return None

    @property
    def fixed_grid(self) -> bool:
        """Whether positions are known for the whole grid of `fixed_size` only."""
        return False

    @property
    def can_drop(self) -> bool:
        """Whether the encoder can drop hidden patches."""
        return self.drop_obstacle is None

    @property
    def drop_obstacle(self) -> str | None:
        """Why it cannot, and the fix."""
        return (
            f"objective.mask_mode=drop (objective=mae) drops hidden patches, which a {self.model_type} cannot: "
            "its convolutions need whole maps; use objective=simmim, or a ViT"
        )

    @property
    def drops_patches(self) -> bool:
        """Whether hidden patches are dropped."""
        return False

    @property
    def sparse_obstacle(self) -> str | None:
        """Why hidden cells cannot be left out of every map, and the fix; None where they can."""
        return (
            "objective.mask_mode=sparse leaves hidden cells out of the maps of a CvT or BiT, and this is a "
            f"{self.model_type}; use model=cvt_13 or model=bit_50x1"
        )

    @property
    def is_sparse(self) -> bool:
        """Whether hidden cells are left out of every map."""
        return False

    @property
    def mask_layers(self) -> list[int]:
        """The stages after which a mask token can be added to hidden cells, counted from 1; none by default."""
        return []

    @property
    def scales(self) -> list[Scale]:
        """The maps of several sizes that a U-Net looks at, the coarsest first; none where there is one size."""
        return []

    @property
    def decoder_sizes(self) -> dict[str, int] | None:
        """The sizes of a decoder that the config knows, MAE's or a U-Net; None without one."""
        return None

    @property
    def decays_mask_token(self) -> bool:
        """Whether weight decay acts on the mask token."""
        return False

    @property
    def not_in_transformers(self) -> list[str]:
        """`field=value` of what changes a classifier's logits and is unknown to, or wrong in, transformers."""
        return []

    @classmethod
    def masked_model_class(cls) -> type[Any] | None:
        """The masked image model of an encoder that is not part of mimsuite; None for those that are."""
        return None

    @property
    def is_trained(self) -> bool:
        """Whether a fresh model starts with trained weights, which the config names."""
        return False

    @property
    def image_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation per channel that a fresh model's weights were trained with; None: the data's are used."""
        return None

    @property
    def found_out(self) -> dict[str, Any]:
        """Fields that `config.yaml` holds beside those that the user gave."""
        return {}

    def trusting(self, targets: Collection[str]) -> Self:
        """A copy that may build the classes in `targets`; by default a config names no class, and is itself the copy.

        Raises:
            InputError: the config names a class that is not among them.
        """
        return self

    def with_drop_path(self, rate: float) -> Self:
        """A copy with stochastic depth that rises linearly over all blocks to `rate`."""
        return self.changed(drop_path_rate=rate)

    def with_image_size(self, size: tuple[int, int]) -> Self:
        """A copy of the same: by default an encoder has no image size."""
        return copy.copy(self)

    def with_masking(
        self,
        target: str,
        decoder: Mapping[str, int] | None = None,
        predictor: Mapping[str, Any] | None = None,
        mask_mode: str = "replace",
    ) -> Self:
        """A copy of a masked image model whose head covers the image, and which replaces hidden cells.

        Raises:
            InputError: a decoder or dropping, which need an encoder that drops hidden patches; another way to hide.
        """
        if mask_mode == "sparse":
            raise InputError(str(self.sparse_obstacle))
        if decoder is not None or mask_mode == "drop":
            raise InputError(str(self.drop_obstacle))
        return self.changed(mim_target=target, mim_predictor=predictor, **self._whole_head())

    def check_fit(self) -> None:
        """Checks values that only a network needs to fit together; every network does so when it is made.

        Raises:
            InputError: they do not.
        """

    def without_masking(self) -> Self:
        """A copy without what concerns masked images alone, for a classifier."""
        return self.changed(mim_target="pixels", mim_predictor=None, architectures=None)

    def _whole_head(self) -> dict[str, Any]:
        """The stride of a head that covers the image; nothing where it is so already."""
        return {} if as_pair(self.encoder_stride) == self.stride else {"encoder_stride": as_side(self.stride)}

    def _beyond(self, known: dict[str, tuple[Any, ...]]) -> list[str]:
        """`field=value` of every field whose value is none of those that are known."""
        return [f"{name}={getattr(self, name)}" for name, values in known.items() if getattr(self, name) not in values]


def as_pair(side: Side) -> tuple[int, int]:
    """Returns `(height, width)` of a side given as one number or as a pair."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def as_side(size: tuple[int, int]) -> Side:
    """Returns `(height, width)` as configs have it: one number for a square, else a list."""
    return size[0] if size[0] == size[1] else list(size)
