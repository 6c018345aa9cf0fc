"""What the configurations of encoders have in common whose stages give maps of several sizes. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from mimsuite.encoders.config import ModelConfig
from mimsuite.encoders.config_fields import configuration
from mimsuite.errors import InputError
from mimsuite.types import Scale
from mimsuite.words import MAP_MASK_MODES

MOST_SCALES = 4  # that a decoder looks at, as in SparK (Tian et al. 2023)
OF_MASKING = ("mask_mode", "mask_layer", "decoder_hidden_size")


@configuration
class MapConfig(ModelConfig):
    """The base of CvT's and BiT's.

    Attributes:
        mask_mode: ours; what becomes of hidden cells: "replace" (filled with the mean colour, then by the mask token),
            or "sparse" (zero in every map, and in no statistic).
        mask_layer: ours; stage after which the mask token is added to hidden cells (A2MIM, Li et al. 2023); None: it
            takes their place in the first map.
        decoder_hidden_size: ours; width of the U-Net that predicts, at the last map's size; None: SimMIM's head.
    """

    mask_mode: str = "replace"
    mask_layer: int | None = None
    decoder_hidden_size: int | None = None

    @property
    @abstractmethod
    def first_width(self) -> int:
        """Width of the first map."""

    @property
    @abstractmethod
    def stages(self) -> list[Scale]:
        """Number, width and stride of every stage's map, first to last."""

    @property
    @abstractmethod
    def finest_stride(self) -> int:
        """Pixels per cell of the first map."""

    @property
    @abstractmethod
    def padding_fix(self) -> str | None:
        """`field=value` of a padding with which every map consists of whole cells of the last one; None: it does so."""

    @property
    def scales(self) -> list[Scale]:
        """The last map of every size, the coarsest first, at most four."""
        found = {scale.stride: scale for scale in self.stages}
        return [found[stride] for stride in sorted(found, reverse=True)][:MOST_SCALES]

    @property
    def is_sparse(self) -> bool:
        """Whether hidden cells are left out of every map."""
        return self.mask_mode == "sparse"

    @property
    def sparse_obstacle(self) -> str | None:
        """A padding that gives maps which the last map's cells do not tile, and one that does not."""
        if self.padding_fix is None:
            return None
        return (
            "objective.mask_mode=sparse and head=unet need maps that consist of whole cells, which the model's padding "
            f"does not give; use model.{self.padding_fix}"
        )

    @property
    def mask_stride(self) -> tuple[int, int]:
        """`(h, w)` pixels of the finest cell that can be hidden: one of the map with the token; if sparse, the last."""
        side = self.finest_stride if self.mask_layer is None else self.stages[self.mask_layer - 1].stride
        return self.stride if self.is_sparse else (side, side)

    @property
    def mask_layers(self) -> list[int]:
        """The stages after which a mask token can be added: all but the last."""
        return list(range(1, len(self.stages)))

    @property
    def token_width(self) -> int:
        """Width of the map that holds the mask token."""
        return self.first_width if self.mask_layer is None else self.stages[self.mask_layer - 1].width

    @property
    def decoder_sizes(self) -> dict[str, int] | None:
        """The width of the U-Net; None without one."""
        return None if self.decoder_hidden_size is None else {"hidden_size": self.decoder_hidden_size}

    def with_masking(
        self,
        target: str,
        decoder: Mapping[str, int] | None = None,
        predictor: Mapping[str, Any] | None = None,
        mask_mode: str = "replace",
    ) -> Self:
        """A copy of a masked image model whose head covers the image; with a decoder, that is a U-Net.

        Raises:
            InputError: hidden patches that are to be dropped, or sizes that do not fit.
        """
        if mask_mode == "drop" or (decoder is not None and decoder.keys() != {"hidden_size"}):
            raise InputError(str(self.drop_obstacle))
        width = None if decoder is None else decoder["hidden_size"]
        changes = {"mask_mode": mask_mode, "mask_layer": None, "decoder_hidden_size": width, **self._whole_head()}
        return self.changed(mim_target=target, mim_predictor=predictor, **changes)

    def without_masking(self) -> Self:
        """A copy without target, decoder and what becomes of hidden cells, for a classifier."""
        return super().without_masking().changed(mask_mode="replace", mask_layer=None, decoder_hidden_size=None)

    def check_fit(self) -> None:
        """Whether maps tile the image where hidden cells are left out, and whether a U-Net fits the maps."""
        if (self.is_sparse or self.decoder_hidden_size is not None) and self.sparse_obstacle is not None:
            raise InputError(self.sparse_obstacle)
        if self.decoder_hidden_size is not None:
            self._check_decoder(self.decoder_hidden_size)

    def _check_decoder(self, width: int) -> None:
        stride = self.stride[0]
        if stride & (stride - 1):
            raise InputError(
                f"head=unet doubles its maps up to single pixels, and the model's stride {stride} is not a power of "
                "two; use head=simmim, or strides of 2 and 4"
            )
        if self.mim_target == "hog":
            raise InputError("head=unet predicts pixels, and objective.target=hog has none; use head=simmim")
        if width % stride:
            wanted = max(stride, width // stride * stride)
            raise InputError(
                f"head.hidden_size={width} is not a multiple of the model's stride {stride}, and the U-Net halves it "
                f"that often; use head.hidden_size={wanted}"
            )

    def _check_masking(self) -> None:
        self._check_choice("mask_mode", MAP_MASK_MODES)
        if self.mask_layer is not None:
            self._check_layer(self.mask_layer)
        if self.decoder_hidden_size is not None:
            self._check_int("decoder_hidden_size", low=1)

    def _check_layer(self, layer: int) -> None:
        self._check_int("mask_layer", low=1)
        if self.is_sparse:
            raise InputError(f"mask_layer={layer}: hidden cells of sparse maps hold no mask token; use mask_layer=None")
        if layer not in self.mask_layers:
            raise InputError(
                f"mask_layer={layer}: the mask token is added after a stage before the last, and there are "
                f"{len(self.stages)}; use {' or '.join(map(str, self.mask_layers)) or 'None'}"
            )
