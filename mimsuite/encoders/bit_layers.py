"""The parts of a BiT, each a module to call: convolutions, norms, stem, blocks, stages, encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mimsuite.encoders.activations import activation_function
from mimsuite.encoders.bit_config import BitConfig, make_div
from mimsuite.encoders.layers import add_mask_token, drop_path, drop_path_rates, place_mask_token
from mimsuite.encoders.outputs import BaseModelOutputWithNoAttention, as_output
from mimsuite.encoders.sparse import Visible, VisibleMaps, sparse_group_norm, visible_of, zero_hidden

# Shapes: B images, (h, w) cells of a stage's map, E its width.


class StandardizedConv2d(nn.Conv2d):
    """A convolution with weight standardisation (Qiao et al. 2019): each filter's weights have mean 0, variance 1.

    Arguments as for `nn.Conv2d`, so that adapters can make one like it, but for `padding`, which may also be None
    (symmetric), "SAME" (as TensorFlow's, which may pad one side more) or "VALID" (none).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        self.pads_by_size = False
        if padding is None or isinstance(padding, str):
            kernel, step = (side if isinstance(side, int) else side[0] for side in (kernel_size, stride))
            reach = dilation * (kernel - 1)
            self.pads_by_size = padding == "SAME" and not (step == 1 and reach % 2 == 0)
            padding = 0 if padding == "VALID" or self.pads_by_size else (step - 1 + reach) // 2
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, outputs, h', w')` from `(B, inputs, h, w)`."""
        if self.pads_by_size:
            x = pad_by_size(x, self.kernel_size[0], self.stride[0], self.dilation[0])
        # batch_norm over one "image" of filters is the fastest way to standardise them.
        filters = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(filters, None, None, training=True, momentum=0.0, eps=1e-8).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


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

    def forward(self, x: Tensor, visible: Visible | None = None) -> Tensor:
        """Keeps the shape `(B, E, h, w)`; with `visible`, counts these positions alone and gives zeros in the others.

        Hidden positions of `x` are zero then.
        """
        normed = super().forward(x) if visible is None else sparse_group_norm(self, x, visible)
        out = normed if self.activation is None else self.activation(normed)
        return out if visible is None else zero_hidden(out, visible)


def norm_of(norm: nn.Module, x: Tensor, visible: Visible | None) -> Tensor:
    """What a `NormAct`, or the identity in its place, makes of a map."""
    out: Tensor = norm(x) if visible is None or not isinstance(norm, NormAct) else norm(x, visible)
    return out


class BitStem(nn.Module):
    """A 7x7 convolution and a 3x3 pooling, of stride 2 each."""

    def __init__(self, config: BitConfig) -> None:
        super().__init__()
        width, padding = config.widths[0], config.global_padding
        self.convolution = StandardizedConv2d(config.num_channels, width, 7, stride=2, padding=padding)
        self.border = 0 if padding == "SAME" else 1
        self.norm = NormAct(config, width) if config.layer_type == "bottleneck" else nn.Identity()
        self.pads_by_size = config.embedding_dynamic_padding

    def forward(self, pixels: Tensor, maps: VisibleMaps | None = None) -> Tensor:
        """Returns `(B, E, h, w)`; the border that is pooled holds zeros, although other values may be below.

        With `maps`, hidden positions are zero after the convolution, the norm and the pooling.
        """
        if maps is None:
            x = self.norm(F.pad(self.convolution(pixels), [self.border] * 4))
        else:
            x = self.convolution(pixels)
            visible = maps.at((x.shape[-2], x.shape[-1]))
            x = F.pad(zero_hidden(x, visible), [self.border] * 4)
            if isinstance(self.norm, NormAct):  # which counts the border, as without a mask
                x = self.norm(x, visible_of(F.pad(visible.hidden, [self.border] * 4)))
        pooled = F.max_pool2d(pad_by_size(x, 3, 2) if self.pads_by_size else x, 3, 2)
        return pooled if maps is None else zero_hidden(pooled, maps.at((pooled.shape[-2], pooled.shape[-1])))


class Downsample(nn.Module):
    """The shortcut of a stage's first block: a 1x1 convolution to the stage's width and map size."""

    def __init__(self, config: BitConfig, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = StandardizedConv2d(inputs, outputs, 1, stride=stride, padding=config.global_padding)
        self.norm = NormAct(config, outputs, act=False) if config.layer_type == "bottleneck" else nn.Identity()

    def forward(self, x: Tensor, visible: Visible | None = None) -> Tensor:
        """Returns `(B, outputs, h', w')`; `visible` is of that map. Zeros of `x` stay zero."""
        return norm_of(self.norm, self.conv(x), visible)


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
        self.drop_path_rate, self.stride = drop_path_rate, stride
        self.crop = dilation if padding == "VALID" else 0
        self.downsample = Downsample(config, inputs, outputs, stride) if first else None
        self.norm1 = NormAct(config, inputs if self.preactivation else middle)
        self.conv1 = StandardizedConv2d(inputs, middle, 1, padding=padding)
        self.norm2 = NormAct(config, middle)
        self.conv2 = StandardizedConv2d(middle, middle, 3, stride=stride, dilation=dilation, padding=padding)
        self.norm3 = NormAct(config, middle) if self.preactivation else NormAct(config, outputs, act=False)
        self.conv3 = StandardizedConv2d(middle, outputs, 1, padding=padding)
        self.activation = None if self.preactivation else activation_function(config.hidden_act)

    def forward(self, x: Tensor, visible: tuple[Visible, Visible] | None = None) -> Tensor:
        """Returns `(B, outputs, h', w')` from `(B, inputs, h, w)`.

        `visible` are the visible positions of the map that comes in and of that which goes out; hidden ones are zero
        in both. A 1x1 convolution has no bias and keeps zeros, the 3x3 one spreads over them.
        """
        if visible is not None:
            return self._sparse(x, *visible)
        if self.activation is None:
            start = self.norm1(x)
            branch = self.conv3(self.norm3(self.conv2(self.norm2(self.conv1(start)))))
            return self._branch(branch) + self._shortcut(x, start)
        branch = self.norm3(self.conv3(self.norm2(self.conv2(self.norm1(self.conv1(x))))))
        return self.activation(self._branch(branch) + self._shortcut(x, x))

    def _sparse(self, x: Tensor, before: Visible, after: Visible) -> Tensor:
        """`forward` on sparse maps."""
        if self.activation is None:
            start = self.norm1(x, before)
            spread = zero_hidden(self.conv2(self.norm2(self.conv1(start), before)), after)
            return self._branch(self.conv3(self.norm3(spread, after))) + self._shortcut(x, start, after)
        spread = zero_hidden(self.conv2(self.norm1(self.conv1(x), before)), after)
        branch = self.norm3(self.conv3(self.norm2(spread, after)), after)
        return zero_hidden(self.activation(self._branch(branch) + self._shortcut(x, x, after)), after)

    def _branch(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_path_rate, self.training)

    def _shortcut(self, x: Tensor, start: Tensor, visible: Visible | None = None) -> Tensor:
        """`x` or, in a first block, the convolution of `start`; cut to what an unpadded 3x3 convolution leaves."""
        x = x if self.downsample is None else start
        if self.crop:
            x = x[..., self.crop : -self.crop, self.crop : -self.crop]
        out: Tensor = x if self.downsample is None else self.downsample(x, visible)
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

    def forward(self, hidden_state: Tensor, recompute: bool = False, maps: VisibleMaps | None = None) -> Tensor:
        """Returns `(B, E, h', w')`; `recompute` keeps only the blocks' inputs for the backward pass.

        `maps` are the visible positions where hidden ones are zero.
        """
        for layer in self.layers:
            given: list[Any] = [hidden_state]
            if maps is not None:
                (rows, columns), step = hidden_state.shape[-2:], cast(int, layer.stride)
                given.append((maps.at((rows, columns)), maps.at((rows // step, columns // step))))
            hidden_state = checkpoint(layer, *given, use_reentrant=False) if recompute else layer(*given)
        return hidden_state


class BitEncoder(nn.Module):
    """The stages."""

    def __init__(self, config: BitConfig) -> None:
        super().__init__()
        self.mask_layer = config.mask_layer
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        self.stages = nn.ModuleList(
            BitStage(config, i, [next(rates) for _ in range(depth)]) for i, depth in enumerate(config.depths)
        )

    def forward(
        self,
        hidden_state: Tensor,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        recompute: bool = False,
        maps: VisibleMaps | None = None,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Any:
        """Runs the stages on the stem's map; gives a `BaseModelOutputWithNoAttention`, or a tuple.

        `recompute` and `maps`: see `BitStage.forward`. Cells where `hidden (B, h, w)` is True get
        `mask_token (1, E, 1, 1)` in place of the stem's, or added after the stage `mask_layer`.
        """
        states = []
        for x in self.maps(hidden_state, recompute, maps, hidden, mask_token):
            if output_hidden_states:
                states.append(x)
        return as_output(
            BaseModelOutputWithNoAttention(x, tuple(states) if output_hidden_states else None), True, return_dict
        )

    def maps(
        self,
        x: Tensor,
        recompute: bool = False,
        maps: VisibleMaps | None = None,
        hidden: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The stem's map, then those after every stage as they are computed, with the mask token."""
        for number, stage in enumerate([None, *self.stages]):
            x = x if stage is None else stage(x, recompute and torch.is_grad_enabled(), maps)
            if hidden is not None and number == (self.mask_layer or 0):
                x = (add_mask_token if self.mask_layer else place_mask_token)(x, hidden, mask_token)
            yield x


def stride_and_dilation(output_stride: int, stage: int) -> tuple[int, int]:
    """Stride and dilation of a stage, counted from 0: past `output_stride` every stride becomes dilation."""
    if stage == 0:
        return 1, 1
    reached = 4 * 2**stage
    return (2, 1) if reached <= output_stride else (1, reached // output_stride)


def dilation_of(layer: int, dilation: int) -> int:
    """Dilation of a block, counted from 0: the first of a dilated stage still has that of the stage before."""
    return dilation if layer else (1 if dilation in (1, 2) else 2)
