"""The network of the Vision Transformer (Dosovitskiy et al. 2021), with the parameter names of Hugging Face's files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from mimsuite.encoders.config import Side, as_pair, as_side
from mimsuite.encoders.layers import (
    check_config,
    given_pixels,
    init_truncated_normal,
    init_xavier,
    of_layers,
)
from mimsuite.encoders.outputs import BaseModelOutputWithPooling, as_output
from mimsuite.encoders.positions import RelativePositionBias, resize_positions, sincos_positions
from mimsuite.encoders.vit_config import ViTConfig
from mimsuite.encoders.vit_layers import ViTEmbeddings, ViTEncoder, ViTLayer, ViTPooler, grid_of
from mimsuite.errors import InputError
from mimsuite.masked.patches import as_grid_mask
from mimsuite.types import FeatureMap

# Shapes: B images, N = gh * gw patches, K of them visible, D features; T tokens: the class token (if any) first, then R
# register tokens, then the patches.


class VisionTransformer(nn.Module):
    """The network; fulfils `mimsuite.types.Encoder`.

    Args:
        config: sizes and switches.
        add_pooling_layer: adds a linear layer and an activation on the class token (`pooler_output`).
        use_mask_token: adds the token that takes the place of hidden patches.

    Attributes:
        num_features: D.
        stride: `(ph, pw)` pixels.
        mask_stride: `(ph, pw)` pixels.
        num_layers: blocks.
        num_blocks: blocks.
        extra: tokens before the patches.
        interpolate_positions: whether images of another size than the config's are taken, positions
            interpolated; `interpolate_pos_encoding` of a call wins. As the config says, unless set.
        gradient_checkpointing: recompute the blocks in the backward pass instead of keeping their inner
            values.
        on_new_grid: what `set_image_size` calls with the new `(gh, gw)`, for a decoder with positions of its own.
    """

    def __init__(self, config: ViTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False) -> None:
        super().__init__()
        check_config(config, ViTConfig)
        if add_pooling_layer and not config.use_class_token:
            raise InputError("use_class_token=False leaves the pooler without input; pass add_pooling_layer=False")
        self.config = config
        self.num_features = config.hidden_size
        self.stride, self.mask_stride = config.stride, config.mask_stride
        self.num_layers = self.num_blocks = config.num_hidden_layers
        self.extra = config.use_class_token + config.num_register_tokens
        self.interpolate_positions = config.interpolate_positions
        self.gradient_checkpointing = bool(getattr(config, "gradient_checkpointing", False))
        self.on_new_grid: Callable[[tuple[int, int]], None] | None = None
        self.embeddings = ViTEmbeddings(config, use_mask_token)
        self.encoder = ViTEncoder(config)
        norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layernorm: nn.Module = nn.Identity() if config.norm_after_pool else norm
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self.register_load_state_dict_pre_hook(_rename_aliases)  # type: ignore[no-untyped-call]
        init_weights(self)

    def forward_features(self, pixels: Tensor, mask: Tensor | None = None) -> FeatureMap:
        """Encodes images; the features come after the final LayerNorm.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            mask: `(B, rows, columns)` bool, True = hidden, on any regular grid whose cells are whole patches.
                Hidden pixels influence nothing, not even as NaN. If the config's `mask_mode` is "drop", hidden places
                of the feature map are 0, and every image must hide the same number of patches.

        Raises:
            InputError: another image size than the config's (see `interpolate_positions`), other channels, a
                mask that fits no patches, or a mask and no mask token.
        """
        return self.features_where(pixels, mask, None)

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """Features of blocks, numbered from 1, of whole images.

        The last block's are those of `forward_features`, after the final LayerNorm; those of an earlier one are its
        output, before any LayerNorm (`hidden_states[layer]`).

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            layers: numbers of blocks; the deepest is the last that runs.

        Raises:
            InputError: no such block, or as `forward_features`.
        """
        grid, last = self.grid(pixels), self.num_layers
        tokens = self.embeddings(self._as_weights(pixels), None, self.interpolate_positions)
        blocks = islice(self.encoder.depths(tokens), 1, None)
        found = {n: tokens for n, (tokens, _) in of_layers(blocks, layers, last).items()}
        return tuple(self.feature_map(self.layernorm(found[n]) if n == last else found[n], grid) for n in layers)

    def forward_blocks(self, pixels: Tensor, blocks: Sequence[int]) -> tuple[Tensor, ...]:
        """The maps `(B, D, h, w)` of blocks, numbered from 1; arguments and errors as of `forward_layers`."""
        return tuple(features.grid for features in self.forward_layers(pixels, blocks))

    def features_where(self, pixels: Tensor, mask: Tensor | None, hidden_per_image: int | None) -> FeatureMap:
        """`forward_features` for callers that know how many cells of the mask are hidden in each image.

        Then dropping them needs no count on the device.
        """
        grid = self.grid(pixels)
        hidden = None if mask is None else as_grid_mask(mask, pixels.shape[0], grid)
        if mask is not None and hidden_per_image is not None:
            hidden_per_image *= grid[0] * grid[1] // mask[0].numel()
        kept = self.kept(hidden, hidden_per_image)
        out = self(pixels, hidden, None, False, False, return_dict=True, kept=kept)
        return self.feature_map(out.last_hidden_state, grid, kept)

    def kept(self, hidden: Tensor | None, hidden_per_image: int | None = None) -> Tensor | None:
        """Numbers of the patches that the blocks see, `(B, K)` int64, in order; None for all.

        Args:
            hidden: `(B, gh, gw)` bool, True = hidden.
            hidden_per_image: hidden patches of each image; None: count them, which waits for the device.

        Raises:
            InputError: the images hide different numbers of patches, so that they fit in no tensor.
        """
        if self.config.mask_mode == "replace" or hidden is None:
            return None
        flat = hidden.flatten(1)
        if hidden_per_image is None:
            fewest, most = (int(n) for n in flat.sum(1).aminmax())
            if fewest != most:
                raise InputError(
                    f"the masks of the batch hide {fewest} to {most} patches; dropping them needs the same number in "
                    "each image"
                )
            hidden_per_image = most
        return flat.to(torch.uint8).argsort(dim=1, stable=True)[:, : flat.shape[1] - hidden_per_image]

    def feature_map(self, tokens: Tensor, grid: tuple[int, int], kept: Tensor | None = None) -> FeatureMap:
        """Splits tokens `(B, T, D)` into the patches on their grid and the class token.

        With `kept` the patches are those; all other places of the grid are 0.
        """
        patches = tokens[:, self.extra :]
        if kept is not None:
            empty = patches.new_zeros(tokens.shape[0], grid[0] * grid[1], patches.shape[2])
            patches = empty.scatter(1, kept.unsqueeze(-1).expand_as(patches), patches)
        on_grid = patches.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)
        return FeatureMap(on_grid, tokens[:, 0] if self.config.use_class_token else None)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        attention_mask: Tensor | None = None,
        *,
        kept: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Runs the network; None for a switch means the config's value. Other keywords are without effect.

        Args:
            pixel_values: `(B, C, H, W)` normalised floats, cast to the parameters' dtype.
            bool_masked_pos: `(B, N)` or `(B, rows, columns)`, True = hidden.
            head_mask: `(heads,)` or `(L, heads)`: 1 keeps a head, 0 removes it, fractions scale it.
            output_attentions: also return the attention probabilities.
            output_hidden_states: also return the tokens after the embeddings and after every block.
            interpolate_pos_encoding: take images of any size and interpolate the positions.
            return_dict: False: a tuple instead of `BaseModelOutputWithPooling`.
            attention_mask: `(B, T)`, 0 for tokens that no token looks at; or in four dimensions, see `attend`.
            kept: what the method `kept` gives for the mask, if the caller has it.

        Raises:
            InputError: no pixels, or values that do not fit the model (a ValueError).
        """
        pixels = given_pixels(pixel_values)
        config, mask = self.config, bool_masked_pos
        if mask is not None and kept is None and config.mask_mode == "drop":
            kept = self.kept(as_grid_mask(mask, pixels.shape[0], self.grid(pixels)))
        interpolate = self.interpolate_positions if interpolate_pos_encoding is None else interpolate_pos_encoding
        tokens = self.embeddings(self._as_weights(pixels), mask if kept is None else None, interpolate)
        if kept is not None:
            patches = tokens[:, self.extra :]
            visible = patches.gather(1, kept.unsqueeze(-1).expand(-1, -1, patches.shape[2]))
            tokens = torch.cat([tokens[:, : self.extra], visible], dim=1)
        encoded = self.encoder(
            tokens,
            head_mask,
            config.output_attentions if output_attentions is None else output_attentions,
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            attention_mask=attention_mask,
            recompute=self.gradient_checkpointing,
        )
        last = self.layernorm(encoded.last_hidden_state)
        pooled = None if self.pooler is None else self.pooler(last)
        out = BaseModelOutputWithPooling(last, pooled, encoded.hidden_states, encoded.attentions)
        return as_output(out, config.return_dict, return_dict)

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks."""
        return self.encoder.layer

    def _as_weights(self, pixels: Tensor) -> Tensor:
        """Pixels in the parameters' dtype."""
        return pixels.to(self.embeddings.patch_embeddings.projection.weight.dtype)

    def blocks(self) -> list[nn.Module]:
        """The residual blocks, in order."""
        return list(self.encoder.layer)

    def set_image_size(self, image_size: Side, mode: str | None = None) -> None:
        """Makes another image size the model's own: resizes the positions once, notes it in the config.

        Args:
            image_size: pixels, side or `[H, W]`.
            mode: see `resize_positions`; None: as the config says.

        Raises:
            InputError: an image smaller than a patch, or a model with relative positions, which have no other
                size.
        """
        old, new = grid_of(self.config.image_size, self.config), grid_of(image_size, self.config)
        if min(new) < 1:
            raise InputError(f"image_size={image_size} is smaller than patch_size={self.config.patch_size}")
        if self.config.fixed_grid and new != old:
            raise InputError(
                f"image_size={image_size}: relative position biases cannot be resized; keep {self.config.image_size}"
            )
        table = self.embeddings.position_embeddings
        if table is not None and new != old:
            mode = self.config.resize_mode if mode is None else mode
            resized = resize_positions(table.detach(), old, new, mode, class_token=self.config.use_class_token)
            self.embeddings.position_embeddings = nn.Parameter(resized, requires_grad=table.requires_grad)
        if self.on_new_grid is not None:
            self.on_new_grid(new)
        self.config.image_size = as_side(as_pair(image_size))

    def depth_of(self, name: str) -> int:
        """Depth of a parameter: 0 embeddings, i block i from 1, then norm, pooler and shared relative positions.

        The latter as in BEiT's and SimMIM's published code, for the last blocks use them, too.

        Raises:
            InputError: no such parameter.
        """
        block = re.match(r"encoder\.layer\.(\d+)\.", name)
        if block and int(block[1]) < self.num_blocks:
            return int(block[1]) + 1
        if name.startswith("embeddings."):
            return 0
        if name.startswith(("layernorm.", "pooler.", "encoder.rel_pos_bias.")):
            return self.num_blocks + 1
        raise InputError(f"{name} is not a parameter of a ViT encoder; use a name of its named_parameters()")

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        """Returns `(gh, gw)`, rows and columns of the patches of images."""
        return grid_of([pixels.shape[-2], pixels.shape[-1]], self.config)


@torch.no_grad()
def init_weights(model: VisionTransformer) -> None:
    """Draws all parameters anew from torch's global generator.

    "hf": truncated normals, mask token 0. "simmim": the mask token is drawn too, and the last layer of both
    branches of block i (from 1) is divided by sqrt(2 i) (SimMIM's published code). "mae": see `init_xavier`.
    """
    config, std = model.config, model.config.initializer_range
    embeddings = model.embeddings
    init_truncated_normal(model, std)
    for token in (embeddings.cls_token, embeddings.position_embeddings, embeddings.register_tokens):
        if token is not None:
            nn.init.trunc_normal_(token, std=std)
    if config.position == "sincos2d" and embeddings.position_embeddings is not None:
        grid = grid_of(config.image_size, config)
        embeddings.position_embeddings.copy_(
            sincos_positions(grid, config.hidden_size, class_token=config.use_class_token)
        )
    if config.init_scheme == "mae":
        init_xavier(model)
    for positions in (part for part in model.modules() if isinstance(part, RelativePositionBias)):
        nn.init.zeros_(positions.relative_position_bias_table)
    simmim = config.init_scheme == "simmim"
    if model.embeddings.mask_token is not None:
        if simmim:
            nn.init.trunc_normal_(model.embeddings.mask_token, std=0.02, a=-0.02, b=0.02)
        else:
            nn.init.zeros_(model.embeddings.mask_token)
    for number, layer in enumerate(model.encoder.layer, start=1):
        assert isinstance(layer, ViTLayer)
        if simmim:
            layer.attention.output.dense.weight /= math.sqrt(2 * number)
            layer.output.dense.weight /= math.sqrt(2 * number)
        for gamma in (layer.gamma_1, layer.gamma_2):
            if gamma is not None and config.layer_scale_init_value is not None:
                nn.init.constant_(gamma, config.layer_scale_init_value)


_ALIASES = (
    (re.compile(r"(^|\.)layers\.(\d+)\."), r"\1encoder.layer.\2."),
    (re.compile(r"\.attention\.q_proj\."), ".attention.attention.query."),
    (re.compile(r"\.attention\.k_proj\."), ".attention.attention.key."),
    (re.compile(r"\.attention\.v_proj\."), ".attention.attention.value."),
    (re.compile(r"\.attention\.o_proj\."), ".attention.output.dense."),
    (re.compile(r"\.mlp\.fc1\."), ".intermediate.dense."),
    (re.compile(r"\.mlp\.fc2\."), ".output.dense."),
)


def classic_key(key: str) -> str:
    """Returns the name in files of a parameter named as Hugging Face 5 names it in memory.

    Others unchanged.
    """
    if not _ALIASES[0][0].search(key):
        return key
    for pattern, name in _ALIASES:
        key = pattern.sub(name, key)
    return key


def _rename_aliases(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in [k for k in state if k.startswith(prefix)]:
        state[prefix + classic_key(key.removeprefix(prefix))] = state.pop(key)
