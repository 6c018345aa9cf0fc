"""The convolutional vision transformer, CvT (Wu et al. 2021), with the parameter names of Hugging Face's files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mimsuite.encoders.block_outputs import last_stage_maps
from mimsuite.encoders.cvt_config import CvtConfig
from mimsuite.encoders.cvt_layers import CvtEncoder, CvtStage, as_map, norm_map
from mimsuite.encoders.layers import (
    channels_of,
    check_config,
    check_pixels,
    given_pixels,
    hide_pixels,
    init_truncated_normal,
    of_layers,
)
from mimsuite.encoders.outputs import ModelOutput, as_output
from mimsuite.encoders.sparse import VisibleMaps
from mimsuite.errors import InputError
from mimsuite.masked.patches import as_grid_mask
from mimsuite.types import FeatureMap

# Shapes: B images, (h, w) cells of a stage's map, E its width, D that of the last.


class ConvolutionalTransformer(nn.Module):
    """The network; fulfils `mimsuite.types.Encoder`. Takes any image size; has no position embeddings.

    BatchNorm in the attention's projections keeps running statistics: in pretraining they are those of masked
    images, whole images move them when the network is trained on in train mode.

    Args:
        config: sizes and switches.
        add_final_norm: adds the LayerNorm on the last map that `forward_features` ends with; models with a head
            have it, and their files keep it beside the encoder, as `layernorm`.
        use_mask_token: adds the token that takes the place of hidden cells of the first map, or is added to those of a
            later one (`config.mask_layer`); in files `mask_token`.

    Attributes:
        num_features: width of the last stage.
        stride: `(s, s)` pixels, the product of `patch_stride`.
        mask_stride: `(m, m)` pixels of the finest cell that can be hidden; by default the first of `patch_stride`.
        num_layers: stages.
        num_blocks: blocks of all stages.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their inner values.
    """

    def __init__(self, config: CvtConfig, add_final_norm: bool = False, use_mask_token: bool = False) -> None:
        super().__init__()
        check_config(config, CvtConfig)
        self.config = config
        self.num_features = config.embed_dim[-1]
        self.stride, self.mask_stride = config.stride, config.mask_stride
        self.num_layers, self.num_blocks = len(config.depth), sum(config.depth)
        self.gradient_checkpointing = bool(getattr(config, "gradient_checkpointing", False))
        self.encoder = CvtEncoder(config)
        self.layernorm = nn.LayerNorm(self.num_features) if add_final_norm else None
        self.mask_token = nn.Parameter(torch.empty(1, config.token_width, 1, 1)) if use_mask_token else None
        init_weights(self)

    def forward_features(self, pixels: Tensor, mask: Tensor | None = None) -> FeatureMap:
        """Encodes images; the features come after the final LayerNorm.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            mask: `(B, rows, columns)` bool, True = hidden, on any regular grid whose cells are whole multiples of
                `mask_stride`. Hidden pixels are set to 0, the data's mean, before the first convolution, which
                overlaps them; so they influence nothing, not even as NaN.

        Raises:
            InputError: other channels, an image that the strides make smaller than a cell, a mask that fits no
                cells, or a network without mask token or final norm.
        """
        return self.features_and_states(pixels, mask, False)[0]

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """Features of stages, numbered from 1, of whole images.

        The last stage's are those of `forward_features`, after the final LayerNorm; those of an earlier one are its
        output (`hidden_states[layer - 1]`), with a class token where the stage has one.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            layers: numbers of stages; the deepest is the last that runs.

        Raises:
            InputError: no such stage, or as `forward_features`.
        """
        found = of_layers(self.encoder.maps(self._hide(pixels, None)[0]), layers, self.num_layers)
        return tuple(self._features(*found[n], final=n == self.num_layers) for n in layers)

    def forward_blocks(self, pixels: Tensor, blocks: Sequence[int]) -> tuple[Tensor, ...]:
        """The maps `(B, D, h, w)` of blocks of the last stage, numbered from 1 through all stages.

        The last block's is that of `forward_features`, after the final LayerNorm.

        Raises:
            InputError: a block of an earlier stage, or as `forward_features`.
        """

        def cells(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
            return as_map(tokens[:, tokens.shape[1] - grid[0] * grid[1] :], grid)

        return last_stage_maps(lambda: self.forward_features(pixels), self.blocks(), blocks, cells)

    def features_and_states(
        self, pixels: Tensor, mask: Tensor | None, need_states: bool
    ) -> tuple[FeatureMap, tuple[Tensor, ...] | None]:
        """Returns what `forward_features` does and, if needed, the maps of all stages."""
        out = self(pixels, need_states, return_dict=True, bool_masked_pos=mask)
        features = self._features(out.last_hidden_state, out.cls_token_value, final=True)
        if mask is not None and self.config.is_sparse:
            cells = as_grid_mask(mask, pixels.shape[0], (features.grid.shape[-2], features.grid.shape[-1]))
            features = features._replace(grid=torch.where(cells.unsqueeze(1), 0.0, features.grid))
        return features, out.hidden_states

    def _features(self, mapped: Tensor, cls_token: Tensor | None, *, final: bool) -> FeatureMap:
        """What a stage put out as features; of the last one normed."""
        if final:
            if self.layernorm is None:
                raise InputError(
                    "CvtModel has no final norm, so it gives no features; build it with add_final_norm=True"
                )
            if cls_token is None:
                mapped = norm_map(self.layernorm, mapped)
            else:  # one call for both, so that hooks of the norm see it once
                tokens = self.layernorm(torch.cat([cls_token, mapped.flatten(2).transpose(1, 2)], dim=1))
                cls_token, mapped = tokens[:, :1], as_map(tokens[:, 1:], (mapped.shape[-2], mapped.shape[-1]))
        return FeatureMap(mapped, None if cls_token is None else cls_token[:, 0])

    def _hide(self, pixels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Checked pixels in the parameters' dtype, hidden ones 0, and the mask on the first map."""
        first = cast(CvtStage, self.encoder.stages[0]).embedding.convolution_embeddings.projection
        check_pixels(pixels, channels_of(first, self.config.num_channels))
        x = pixels.to(next(self.encoder.parameters()).dtype)
        return (x, None) if mask is None else hide_pixels(x, mask, self.mask_stride)

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
            output_hidden_states: also return the map after every stage.
            return_dict: False: a tuple instead of `BaseModelOutputWithCLSToken`.
            bool_masked_pos: the mask of `forward_features`.

        Raises:
            InputError: no pixels, or values that do not fit the model (a ValueError).
        """
        x, hidden = self._hide(given_pixels(pixel_values), bool_masked_pos)
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        maps = VisibleMaps(hidden) if hidden is not None and self.config.is_sparse else None
        given = (hidden if maps is None else None, self.mask_token, self.gradient_checkpointing)
        out: ModelOutput = self.encoder(x, need_states, True, *given, *([] if maps is None else [maps]))
        return as_output(out, self.config.return_dict, return_dict)

    def blocks(self) -> list[nn.Module]:
        """The residual blocks, in order."""
        return [layer for stage in self.encoder.stages for layer in cast(Iterable[nn.Module], stage.layers)]

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Does nothing: no weight of CvT depends on the image size."""

    def depth_of(self, name: str) -> int:
        """Depth of a parameter: 0 first embedding, i block i from 1 through all stages, then the final norm.

        The embedding and the class token of a later stage have the depth of the last block before them, as what
        leads from stage to stage of a Swin has in SimMIM's published code.

        Raises:
            InputError: no such parameter.
        """
        if name == "mask_token":
            return 0
        if name.startswith("layernorm."):
            return self.num_blocks + 1
        part = re.match(r"encoder\.stages\.(\d+)\.(?:(?:embedding\.|cls_token$)|layers\.(\d+)\.)", name)
        depths = self.config.depth
        if part and (stage := int(part[1])) < len(depths) and (part[2] is None or int(part[2]) < depths[stage]):
            return sum(depths[:stage]) + (0 if part[2] is None else int(part[2]) + 1)
        raise InputError(f"{name} is not a parameter of a CvT encoder; use a name of its named_parameters()")


@torch.no_grad()
def init_weights(model: ConvolutionalTransformer) -> None:
    """Draws all parameters anew from torch's global generator: truncated normals; norms 1 and 0."""
    std = model.config.initializer_range
    init_truncated_normal(model, std)
    for stage in cast(Iterable[CvtStage], model.encoder.stages):
        if stage.cls_token is not None:
            nn.init.trunc_normal_(stage.cls_token, std=std)
    if model.mask_token is not None:
        nn.init.trunc_normal_(model.mask_token, std=0.02)
