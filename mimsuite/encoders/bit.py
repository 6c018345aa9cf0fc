"""Big Transfer, BiT (Kolesnikov et al. 2020): ResNet v2 with GroupNorm and weight standardisation.

Parameter names are those of Hugging Face's files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mimsuite.encoders.bit_config import BitConfig, make_div
from mimsuite.encoders.layers import (
    activation_function,
    check_config,
    check_pixels,
    drop_path,
    drop_path_rates,
    given_pixels,
    hide_pixels,
    of_layers,
    place_mask_token,
)
from mimsuite.encoders.outputs import BaseModelOutputWithPoolingAndNoAttention, as_output
from mimsuite.errors import InputError
from mimsuite.types import FeatureMap

# Shapes: B images, (h, w) cells of a stage's map, E its width.


class StandardizedConv2d(nn.Conv2d):
    """A convolution with weight standardisation (Qiao et al. 2019): each filter's weights have mean 0, variance 1.

    `padding` is None (symmetric), "SAME" (as TensorFlow's, which may pad one side more) or "VALID" (none).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, padding: str | None, stride: int = 1, dilation: int = 1
    ) -> None:
        reach = dilation * (kernel - 1)
        self.pads_by_size = padding == "SAME" and not (stride == 1 and reach % 2 == 0)
        static = 0 if padding == "VALID" or self.pads_by_size else (stride - 1 + reach) // 2
        super().__init__(inputs, outputs, kernel, stride, static, dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, outputs, h', w')` from `(B, inputs, h, w)`."""
        if self.pads_by_size:
            x = pad_by_size(x, self.kernel_size[0], self.stride[0], self.dilation[0])
        # batch_norm over one "image" of filters is the fastest way to standardise them.
        filters = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(filters, None, None, training=True, momentum=0.0, eps=1e-8).reshape_as(self.weight)
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)


def pad_by_size(x: Tensor, kernel: int, stride: int, dilation: int = 1) -> Tensor:
    """Pads `(B, E, h, w)` with zeros so that `ceil(side / stride)` windows fit, an odd pixel at the end."""
    pads = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class NormAct(nn.GroupNorm):
    """GroupNorm and, unless told otherwise, the activation."""

    def __init__(self, config: BitConfig, width: int, act: bool = True) -> None:
        super().__init__(config.num_groups, width)
        self.activation = activation_function(config.hidden_act) if act else None

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape `(B, E, h, w)`."""
        normed = super().forward(x)
        return normed if self.activation is None else self.activation(normed)


class BitStem(nn.Module):
    """A 7x7 convolution and a 3x3 pooling, of stride 2 each."""

    def __init__(self, config: BitConfig) -> None:
        super().__init__()
        width, padding = config.widths[0], config.global_padding
        self.convolution = StandardizedConv2d(config.num_channels, width, 7, stride=2, padding=padding)
        self.border = 0 if padding == "SAME" else 1
        self.norm = NormAct(config, width) if config.layer_type == "bottleneck" else nn.Identity()
        self.pads_by_size = config.embedding_dynamic_padding

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns `(B, E, h, w)`; the border that is pooled holds zeros, although other values may be below."""
        x = self.norm(F.pad(self.convolution(pixels), [self.border] * 4))
        return F.max_pool2d(pad_by_size(x, 3, 2) if self.pads_by_size else x, 3, 2)


class Downsample(nn.Module):
    """The shortcut of a stage's first block: a 1x1 convolution to the stage's width and map size."""

    def __init__(self, config: BitConfig, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = StandardizedConv2d(inputs, outputs, 1, stride=stride, padding=config.global_padding)
        self.norm = NormAct(config, outputs, act=False) if config.layer_type == "bottleneck" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, outputs, h', w')`."""
        out: Tensor = self.norm(self.conv(x))
        return out


class BitLayer(nn.Module):
    """A block: 1x1, 3x3 and 1x1 convolution, added to a shortcut.

    Args:
        config: the family's configuration; `layer_type` decides the order of norms and convolutions.
        inputs: width of the map that comes in.
        outputs: width of the stage.
        stride: of the 3x3 convolution.
        dilation: of the 3x3 convolution.
        first: whether this is a stage's first block, whose shortcut is a convolution.
        drop_path_rate: of the residual branch.
    """

    def __init__(
        self,
        config: BitConfig,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        dilation: int,
        first: bool,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        middle, padding = make_div(outputs / 4), config.global_padding
        self.preactivation = config.layer_type == "preactivation"
        self.drop_path_rate = drop_path_rate
        self.crop = dilation if padding == "VALID" else 0
        self.downsample = Downsample(config, inputs, outputs, stride) if first else None
        self.norm1 = NormAct(config, inputs if self.preactivation else middle)
        self.conv1 = StandardizedConv2d(inputs, middle, 1, padding=padding)
        self.norm2 = NormAct(config, middle)
        self.conv2 = StandardizedConv2d(middle, middle, 3, stride=stride, dilation=dilation, padding=padding)
        self.norm3 = NormAct(config, middle) if self.preactivation else NormAct(config, outputs, act=False)
        self.conv3 = StandardizedConv2d(middle, outputs, 1, padding=padding)
        self.activation = activation_function(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, outputs, h', w')` from `(B, inputs, h, w)`."""
        if self.preactivation:
            start = self.norm1(x)
            branch = self.conv3(self.norm3(self.conv2(self.norm2(self.conv1(start)))))
            return self._branch(branch) + self._shortcut(x, start)
        branch = self.norm3(self.conv3(self.norm2(self.conv2(self.norm1(self.conv1(x))))))
        return self.activation(self._branch(branch) + self._shortcut(x, x))

    def _branch(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_path_rate, self.training)

    def _shortcut(self, x: Tensor, start: Tensor) -> Tensor:
        """`x` or, in a first block, the convolution of `start`; cut to what an unpadded 3x3 convolution leaves."""
        x = x if self.downsample is None else start
        if self.crop:
            x = x[..., self.crop : -self.crop, self.crop : -self.crop]
        out: Tensor = x if self.downsample is None else self.downsample(x)
        return out


class BitStage(nn.Module):
    """Blocks of one width; the first makes the map smaller, or the later ones wider apart (dilation)."""

    def __init__(self, config: BitConfig, stage: int, rates: list[float]) -> None:
        super().__init__()
        inputs, outputs = config.widths[stage], config.widths[stage + 1]
        stride, dilation = stride_and_dilation(config.output_stride, stage)
        self.layers = nn.ModuleList(
            BitLayer(
                config,
                outputs if i else inputs,
                outputs,
                stride=1 if i else stride,
                dilation=dilation_of(i, dilation),
                first=i == 0,
                drop_path_rate=rate,
            )
            for i, rate in enumerate(rates)
        )


def stride_and_dilation(output_stride: int, stage: int) -> tuple[int, int]:
    """Stride and dilation of a stage, counted from 0: past `output_stride` every stride becomes dilation."""
    if stage == 0:
        return 1, 1
    reached = 4 * 2**stage
    return (2, 1) if reached <= output_stride else (1, reached // output_stride)


def dilation_of(layer: int, dilation: int) -> int:
    """Dilation of a block, counted from 0: the first of a dilated stage still has that of the stage before."""
    return dilation if layer else (1 if dilation in (1, 2) else 2)


class ResNetV2(nn.Module):
    """The network; fulfils `mimsuite.types.Encoder`. Takes any image size.

    GroupNorm counts all cells of a map: with a mask, its statistics mix filled and real pixels.

    Args:
        config: sizes and switches.
        use_mask_token: adds the token that takes the place of hidden cells of the stem's map; models that are
            pretrained have it, and their files keep it beside the encoder, as `mask_token`.

    Attributes:
        num_features: width of the last stage.
        stride: `(s, s)` pixels.
        mask_stride: `(4, 4)` pixels.
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
        self.gradient_checkpointing = False
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        stages = (BitStage(config, i, [next(rates) for _ in range(depth)]) for i, depth in enumerate(config.depths))
        self.embedder = BitStem(config)
        self.encoder = nn.ModuleDict({"stages": nn.ModuleList(stages)})
        self.norm = NormAct(config, self.num_features) if config.layer_type == "preactivation" else nn.Identity()
        self.mask_token = nn.Parameter(torch.empty(1, config.widths[0], 1, 1)) if use_mask_token else None
        init_weights(self)

    def forward_features(self, pixels: Tensor, mask: Tensor | None = None) -> FeatureMap:
        """Encodes images; the features come after the final norm and activation.

        Args:
            pixels: `(B, C, H, W)` normalised floats.
            mask: `(B, rows, columns)` bool, True = hidden, on any regular grid whose cells are whole multiples of
                4 pixels. Hidden pixels are set to 0, the data's mean, before the stem, which overlaps them; so
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
        stages = islice(self._maps(pixels, None), 1, None)
        found = of_layers(stages, layers, self.num_layers)
        return tuple(FeatureMap(self.norm(found[n]) if n == self.num_layers else found[n], None) for n in layers)

    def features_and_states(
        self, pixels: Tensor, mask: Tensor | None, need_states: bool
    ) -> tuple[FeatureMap, tuple[Tensor, ...] | None]:
        """Returns what `forward_features` does and, if needed, the maps of stem and stages."""
        last, states = self.encode(pixels, mask, need_states)
        return FeatureMap(last, None), states

    def encode(
        self, pixels: Tensor, mask: Tensor | None = None, need_states: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Returns the normed last map `(B, D, h, w)` and, if needed, the maps of stem and stages before the norm.

        Arguments and errors as for `forward_features`.
        """
        states = []
        for x in self._maps(pixels, mask):
            if need_states:
                states.append(x)
        return self.norm(x), tuple(states) if need_states else None

    def _maps(self, pixels: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """The maps after the stem and after every stage, before the norm."""
        check_pixels(pixels, self.config.num_channels)
        _check_size(self.config, (pixels.shape[-2], pixels.shape[-1]))
        x = pixels.to(self.embedder.convolution.weight.dtype)
        if mask is None:
            x = self.embedder(x)
        else:
            x, cells = hide_pixels(x, mask, self.mask_stride)
            x = place_mask_token(self.embedder(x), cells, self.mask_token)
        recompute = self.gradient_checkpointing and torch.is_grad_enabled()
        yield x
        for stage in self._stages():
            for layer in stage.layers:
                x = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
            yield x

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Runs the network; None for a switch means the config's value.

        Args:
            pixel_values: `(B, C, H, W)` normalised floats, cast to the parameters' dtype.
            output_hidden_states: also return the maps after the stem and after every stage.
            return_dict: False: a tuple instead of `BaseModelOutputWithPoolingAndNoAttention`.

        Raises:
            InputError: no pixels, or values that do not fit the model (a ValueError).
        """
        pixels = given_pixels(pixel_values)
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        last, states = self.encode(pixels, None, need_states)
        out = BaseModelOutputWithPoolingAndNoAttention(last, last.mean((2, 3)), states)
        return as_output(out, self.config.return_dict, return_dict)

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

    def _stages(self) -> Iterator[BitStage]:
        yield from self.encoder["stages"]  # type: ignore[misc]


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
