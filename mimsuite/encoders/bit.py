"""Big Transfer, BiT (Kolesnikov et al. 2020): ResNet v2 with GroupNorm and weight standardisation.

Parameter names are those of Hugging Face's files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from mimsuite.encoders.bit_config import BitConfig
from mimsuite.encoders.bit_layers import BitEncoder, BitStem, NormAct, dilation_of, norm_of, stride_and_dilation
from mimsuite.encoders.block_outputs import last_stage_maps
from mimsuite.encoders.layers import (
    channels_of,
    check_config,
    check_pixels,
    given_pixels,
    hide_pixels,
    of_layers,
)
from mimsuite.encoders.outputs import BaseModelOutputWithPoolingAndNoAttention, as_output
from mimsuite.encoders.sparse import VisibleMaps
from mimsuite.errors import InputError
from mimsuite.types import FeatureMap

# Shapes: B images, (h, w) cells of a stage's map, E its width.


class ResNetV2(nn.Module):
    """The network; fulfils `mimsuite.types.Encoder`. Takes any image size.

    GroupNorm counts all cells of a map: with a mask, its statistics mix filled and real pixels.

    Args:
        config: sizes and switches.
        use_mask_token: adds the token that takes the place of hidden cells of the stem's map, or is added to those of
            a later one (`config.mask_layer`); models that are pretrained have it, and their files keep it beside the
            encoder, as `mask_token`.

    Attributes:
        num_features: width of the last stage.
        stride: `(s, s)` pixels.
        mask_stride: `(h, w)` pixels of the finest cell that can be hidden, `(4, 4)` by default.
        num_layers: stages.
        num_blocks: blocks of all stages.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their inner values.
    """

    def __init__(self, config: BitConfig, use_mask_token: bool = False) -> None:
        super().__init__()
        check_config(config, BitConfig)
        self.config = config
        self.num_features = config.widths[-1]
        self.stride, self.mask_stride = config.stride, config.mask_stride
        self.num_layers, self.num_blocks = len(config.depths), sum(config.depths)
        self.gradient_checkpointing = bool(getattr(config, "gradient_checkpointing", False))
        self.embedder = BitStem(config)
        self.encoder = BitEncoder(config)
        self.norm = NormAct(config, self.num_features) if config.layer_type == "preactivation" else nn.Identity()
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))
        self.mask_token = nn.Parameter(torch.empty(1, config.token_width, 1, 1)) if use_mask_token else None
        init_weights(self)

    def forward_features(self, pixels: Tensor, mask: Tensor | None = None) -> FeatureMap:
        """Encodes images; the features come after the final norm and activation.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            mask: `(B, rows, columns)` bool, True = hidden, on any regular grid whose cells are whole multiples of
                `mask_stride`. Hidden pixels are set to 0, the data's mean, before the stem, which overlaps them; so
                they influence nothing, not even as NaN.

        Raises:
            InputError: other channels, an image that is too small without padding, a mask that fits no cells, or
                a network without mask token.
        """
        return self.features_and_states(pixels, mask, False)[0]

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """Features of stages, numbered from 1, of whole images.

        The last stage's are those of `forward_features`, after the final norm and activation; those of an earlier
        one are its output (`hidden_states[layer]`). There is no class token.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            layers: numbers of stages; the deepest is the last that runs.

        Raises:
            InputError: no such stage, or as `forward_features`.
        """
        stages = islice(self.encoder.maps(self._embed(pixels, None)[0]), 1, None)
        found = of_layers(stages, layers, self.num_layers)
        return tuple(FeatureMap(self.norm(found[n]) if n == self.num_layers else found[n], None) for n in layers)

    def forward_blocks(self, pixels: Tensor, blocks: Sequence[int]) -> tuple[Tensor, ...]:
        """The maps `(B, D, h, w)` of blocks of the last stage, numbered from 1 through all stages.

        The last block's is that of `forward_features`, after the final norm and activation.

        Raises:
            InputError: a block of an earlier stage, or as `forward_features`.
        """
        return last_stage_maps(lambda: self.forward_features(pixels), self.blocks(), blocks, lambda x, _: x)

    def features_and_states(
        self, pixels: Tensor, mask: Tensor | None, need_states: bool
    ) -> tuple[FeatureMap, tuple[Tensor, ...] | None]:
        """Returns what `forward_features` does and, if needed, the maps of stem and stages."""
        out = self(pixels, need_states, return_dict=True, bool_masked_pos=mask)
        return FeatureMap(out.last_hidden_state, None), out.hidden_states

    def _embed(self, pixels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, VisibleMaps | None]:
        """The stem's map, the cells that a mask token hides, and, if these are zero instead, what is visible."""
        check_pixels(pixels, channels_of(self.embedder.convolution, self.config.num_channels))
        _check_size(self.config, (pixels.shape[-2], pixels.shape[-1]))
        x, cells = pixels.to(next(self.embedder.parameters()).dtype), None
        if mask is not None:
            x, cells = hide_pixels(x, mask, self.mask_stride)
        if cells is not None and self.config.is_sparse:
            maps = VisibleMaps(cells)
            return self.embedder(x, maps), None, maps
        return self.embedder(x), cells, None

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        bool_masked_pos: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Runs the network; None for a switch means the config's value. Other keywords are without effect.

        Args:
            pixel_values: `(B, C, H, W)` normalised floats, cast to the parameters' dtype.
            output_hidden_states: also return the maps after the stem and after every stage.
            return_dict: False: a tuple instead of `BaseModelOutputWithPoolingAndNoAttention`.
            bool_masked_pos: the mask of `forward_features`.

        Raises:
            InputError: no pixels, or values that do not fit the model (a ValueError).
        """
        stem, hidden, maps = self._embed(given_pixels(pixel_values), bool_masked_pos)
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        token = (hidden, self.mask_token)
        encoded = self.encoder(stem, need_states, True, self.gradient_checkpointing, maps, *token)
        last = encoded.last_hidden_state
        last = norm_of(self.norm, last, None if maps is None else maps.at((last.shape[-2], last.shape[-1])))
        out = BaseModelOutputWithPoolingAndNoAttention(last, self.pooler(last), encoded.hidden_states)
        return as_output(out, self.config.return_dict, return_dict)

    def blocks(self) -> list[nn.Module]:
        """The residual blocks, in order."""
        return [layer for stage in self.encoder.stages for layer in cast(Iterable[nn.Module], stage.layers)]

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Does nothing: no weight of BiT depends on the image size."""

    def depth_of(self, name: str) -> int:
        """Depth of a parameter: 0 stem, i block i from 1 through all stages, with its shortcut, then the final norm.

        Raises:
            InputError: no such parameter.
        """
        if name == "mask_token" or name.startswith("embedder."):
            return 0
        if name.startswith("norm."):
            return self.num_blocks + 1
        part = re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.", name)
        depths = self.config.depths
        if part and (stage := int(part[1])) < len(depths) and int(part[2]) < depths[stage]:
            return sum(depths[:stage]) + int(part[2]) + 1
        raise InputError(f"{name} is not a parameter of a BiT encoder; use a name of its named_parameters()")


@torch.no_grad()
def init_weights(model: ResNetV2) -> None:
    """Draws all parameters anew from torch's global generator: Kaiming normals (fan out); norms 1 and 0."""
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.GroupNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    if model.mask_token is not None:
        nn.init.trunc_normal_(model.mask_token, std=0.02)


def _check_size(config: BitConfig, image: tuple[int, int]) -> None:
    """Follows the smaller side through convolutions and a pooling without padding, down to where nothing is left.

    Raises:
        InputError: such a stage.
    """
    unpadded = config.global_padding == "VALID"
    if not unpadded and (config.global_padding is None or config.embedding_dynamic_padding):
        return
    short = min(image)
    side = (short + 1) // 2
    if unpadded:
        side = (short - 7) // 2 + 1 + 2 if short >= 7 else 0
    names = iter(config.stage_names)
    where = next(names)
    side = -(-side // 2) if config.embedding_dynamic_padding else (side - 3) // 2 + 1
    for stage, depth in enumerate(config.depths if unpadded else []):
        if side < 1:
            break
        where = next(names)
        stride, dilation = stride_and_dilation(config.output_stride, stage)
        for i in range(depth):
            reach = 2 * dilation_of(i, dilation)
            side = (side - reach - 1) // (1 if i else stride) + 1
    if side < 1:
        raise InputError(
            f"an image of {image[0]}x{image[1]} pixels has nothing left at {where} with "
            f"global_padding={config.global_padding!r}; use larger images or global_padding=null"
        )
