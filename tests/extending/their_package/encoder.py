"""A toy encoder that fulfils `mimsuite.types.Encoder`, and the models that have it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mimsuite.encoders.layers import check_pixels, drop_path, drop_path_rates, of_layers, place_mask_token
from mimsuite.errors import InputError
from mimsuite.heads.simmim import SimMIMHead
from mimsuite.masked.patches import as_grid_mask
from mimsuite.models.composed import DenseForImageClassification, DenseForMaskedImageModeling, HeadFactory
from mimsuite.types import FeatureMap
from their_package.config import ToyConfig


class ToyBlock(nn.Module):
    """A residual branch: norm, depthwise 3x3 convolution, GELU, 1x1 convolution."""

    def __init__(self, width: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.project = nn.Conv2d(width, width, 1)
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, D, h, w)` from the same."""
        branch = self.project(nn.functional.gelu(self.mix(self.norm(x))))
        return x + drop_path(branch, self.drop_path_rate, self.training)


class ToyEncoder(nn.Module):
    """The network; takes any image that consists of whole patches.

    Args:
        config: sizes.
        use_mask_token: adds the token that takes the place of hidden patches.
    """

    def __init__(self, config: ToyConfig, use_mask_token: bool = False) -> None:
        super().__init__()
        self.config = config
        self.num_features, self.stride, self.mask_stride = config.width, config.stride, config.mask_stride
        self.num_layers = self.num_blocks = config.depth
        self.gradient_checkpointing = False
        self.patches = nn.Conv2d(config.num_channels, config.width, config.patch_size, config.patch_size)
        rates = drop_path_rates(config.drop_path_rate, config.depth)
        self.blocks = nn.ModuleList(ToyBlock(config.width, rate) for rate in rates)
        self.norm = nn.GroupNorm(1, config.width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, config.width, 1, 1)) if use_mask_token else None

    def forward_features(self, pixels: Tensor, mask: Tensor | None = None) -> FeatureMap:
        """The map `(B, D, h, w)` after the final norm; hidden pixels influence nothing."""
        return self.features_and_states(pixels, mask, False)[0]

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> tuple[FeatureMap, ...]:
        """The maps of blocks, counted from 1; the last one after the final norm."""
        found = of_layers(islice(self._maps(pixels, None), 1, None), layers, self.num_layers)
        return tuple(FeatureMap(self.norm(found[n]) if n == self.num_layers else found[n], None) for n in layers)

    def features_and_states(
        self, pixels: Tensor, mask: Tensor | None, need_states: bool
    ) -> tuple[FeatureMap, tuple[Tensor, ...] | None]:
        """What `Dense...` models ask for: the features and, if needed, the maps of all blocks."""
        states = []
        for x in self._maps(pixels, mask):
            if need_states:
                states.append(x)
        return FeatureMap(self.norm(x), None), tuple(states) if need_states else None

    def _maps(self, pixels: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """The patches, and what every block puts out."""
        check_pixels(pixels, self.config.num_channels)
        x = self.patches(pixels.to(self.patches.weight.dtype))
        if mask is not None:  # before the first block, which looks at neighbours
            x = place_mask_token(x, as_grid_mask(mask, len(x), (x.shape[-2], x.shape[-1])), self.mask_token)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        yield x
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            yield x

    def set_image_size(self, image_size: tuple[int, int]) -> None:
        """Does nothing: no weight depends on the image size."""

    def depth_of(self, name: str) -> int:
        """0 for patches and mask token, i for block i, counted from 1, then the final norm."""
        if name == "mask_token" or name.startswith("patches."):
            return 0
        if name.startswith("norm."):
            return self.num_blocks + 1
        block = re.match(r"blocks\.(\d+)\.(norm|mix|project)\.", name)
        if block and int(block[1]) < self.num_blocks:
            return int(block[1]) + 1
        raise InputError(f"{name} is not a parameter of a toy encoder; use a name of its named_parameters()")


class ToyForMaskedImageModeling(DenseForMaskedImageModeling):
    """The toy with a mask token and a head that predicts pixels."""

    config_class = ToyConfig
    base_prefix = "toy"
    beside_prefix = ("mask_token",)  # it belongs to this model alone
    toy: ToyEncoder

    def __init__(self, config: ToyConfig, head: HeadFactory = SimMIMHead) -> None:
        encoder = ToyEncoder(config, use_mask_token=True)
        super().__init__(config, encoder, config.encoder_stride, config.num_channels, head)


class ToyForImageClassification(DenseForImageClassification):
    """The toy with a linear layer on the mean cell."""

    config_class = ToyConfig
    base_prefix = "toy"
    toy: ToyEncoder

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config, ToyEncoder(config))
