"""BiT: convolutions, stem and blocks against the rules written out, sizes, calls, backbone, files' names, errors."""

import functools
import json
import math
from dataclasses import fields

import predictors
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mimsuite.encoders.bit_config import make_div
from mimsuite.encoders.bit_layers import BitLayer, StandardizedConv2d, pad_by_size
from mimsuite.errors import InputError
from mimsuite.models import (
    AutoBackbone,
    BitBackbone,
    BitConfig,
    BitForImageClassification,
    BitForMaskedImageModeling,
    BitModel,
    CvtConfig,
    ViTConfig,
)

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 2, 2], "num_groups": 4}
LAYER_TYPES = ["preactivation", "bottleneck"]


def tiny(**changes):
    return BitConfig(**(TINY | changes))


def randomise(model):
    """Draws every parameter anew, so that no norm is 1 and 0 by chance of its initialisation."""
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model.double().eval()


def pixels(height=64, width=None, batch=2, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, height, width or height, generator=generator, dtype=torch.float64)


def states_of(config, x):
    return randomise(BitModel(config))(x, output_hidden_states=True).hidden_states


def sides_of(config, side):
    with torch.device("meta"):
        model = BitModel(config).eval()
        states = model(torch.empty(1, 3, side, side), output_hidden_states=True).hidden_states
    assert all(s.shape[2] == s.shape[3] for s in states)
    return [s.shape[-1] for s in states]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# --- the rules, written out ----------------------------------------------------------------------------------


def standardized(weight):
    rows = weight.flatten(1)
    mean = rows.mean(1, keepdim=True)
    variance = ((rows - mean) ** 2).mean(1, keepdim=True)
    return ((rows - mean) / (variance + 1e-8).sqrt()).view_as(weight)


def spread(weight, dilation):
    """The kernel of a dilated convolution with its holes filled in."""
    side = (weight.shape[-1] - 1) * dilation + 1
    wide = weight.new_zeros(*weight.shape[:2], side, side)
    wide[..., ::dilation, ::dilation] = weight
    return wide


def padded(x, kernel, stride, dilation, padding):
    """Zeros around `x`, as the padding says, put there by hand."""
    before, after = [], []
    for n in x.shape[2:]:
        reach = dilation * (kernel - 1)
        total = 2 * ((stride - 1 + reach) // 2)
        if padding == "VALID":
            total = 0
        elif padding == "SAME":
            total = max((math.ceil(n / stride) - 1) * stride + reach + 1 - n, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    (h, w), (top, left) = x.shape[2:], before
    out = x.new_zeros(*x.shape[:2], h + top + after[0], w + left + after[1])
    out[..., top : top + h, left : left + w] = x
    return out


def convolved(x, weight, config, stride=1, dilation=1):
    x = padded(x, weight.shape[-1], stride, dilation, config.global_padding)
    every = F.conv2d(x, spread(standardized(weight), dilation))
    return every[..., ::stride, ::stride]


class WrittenOut:
    """The network of sections 5.2 to 5.4 of the specification, from a state dict; relu, no drop path."""

    def __init__(self, model):
        self.state, self.config = model.state_dict(), model.config

    def norm(self, x, name, act=True):
        y = F.group_norm(x, self.config.num_groups, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-5)
        return y.clamp(min=0) if act else y

    def conv(self, x, name, stride=1, dilation=1):
        return convolved(x, self.state[f"{name}.weight"], self.config, stride, dilation)

    def stem(self, x):
        x = self.conv(x, "embedder.convolution", 2)
        if self.config.global_padding != "SAME":
            x = F.pad(x, (1, 1, 1, 1))
        if self.config.layer_type == "bottleneck":
            x = self.norm(x, "embedder.norm")
        if self.config.embedding_dynamic_padding:
            x = padded(x, 3, 2, 1, "SAME")
        rows = range(0, x.shape[2] - 2, 2)
        columns = range(0, x.shape[3] - 2, 2)
        return torch.stack(
            [torch.stack([x[..., r : r + 3, c : c + 3].amax((2, 3)) for c in columns], -1) for r in rows], 2
        )

    def block(self, x, name, stride, dilation, first):
        preactivation = self.config.layer_type == "preactivation"
        start = self.norm(x, f"{name}.norm1") if preactivation else x
        y = self.conv(start, f"{name}.conv1")
        y = self.norm(y, f"{name}.norm2" if preactivation else f"{name}.norm1")
        y = self.conv(y, f"{name}.conv2", stride, dilation)
        y = self.norm(y, f"{name}.norm3" if preactivation else f"{name}.norm2")
        y = self.conv(y, f"{name}.conv3")
        y = y if preactivation else self.norm(y, f"{name}.norm3", act=False)
        shortcut = start if first else x
        if self.config.global_padding == "VALID":  # what lies under the middle of the 3x3 kernel
            rows = dilation + torch.arange(y.shape[2]) * stride
            columns = dilation + torch.arange(y.shape[3]) * stride
            shortcut = shortcut[:, :, rows][..., columns]
        elif stride == 2:
            shortcut = shortcut[..., ::2, ::2]
        if first:
            shortcut = torch.einsum(
                "oi,bihw->bohw", standardized(self.state[f"{name}.downsample.conv.weight"])[..., 0, 0], shortcut
            )
            shortcut = shortcut if preactivation else self.norm(shortcut, f"{name}.downsample.norm", act=False)
        return y + shortcut if preactivation else (y + shortcut).clamp(min=0)

    def states(self, x):
        x = self.stem(x)
        found, reached, dilation = [x], 4, 1
        for stage, depth in enumerate(self.config.depths):
            stride = 1 if stage == 0 else 2
            if reached * stride > self.config.output_stride:
                dilation, stride = dilation * stride, 1
            reached *= stride
            for i in range(depth):
                wide = dilation if i else (1 if dilation in (1, 2) else 2)
                x = self.block(x, f"encoder.stages.{stage}.layers.{i}", 1 if i else stride, wide, i == 0)
            found.append(x)
        return found


WHOLE = {
    "defaults": {},
    "bottleneck": {"layer_type": "bottleneck"},
    "output_stride 16": {"output_stride": 16},
    "output_stride 8": {"output_stride": 8},
    "output_stride 4": {"output_stride": 4},
    "bottleneck, output_stride 8": {"output_stride": 8, "layer_type": "bottleneck"},
    "same": {"global_padding": "same"},
    "same, dilated": {"global_padding": "same", "output_stride": 8},
    "dynamic padding": {"embedding_dynamic_padding": True},
    "valid": {"global_padding": "valid", "depths": [1, 2, 1, 1]},
    "valid, bottleneck": {"global_padding": "valid", "depths": [1, 2, 1, 1], "layer_type": "bottleneck"},
    "valid, dilated": {"global_padding": "valid", "depths": [1, 1, 2, 1], "output_stride": 8},
    "valid, dynamic padding": {"global_padding": "valid", "embedding_dynamic_padding": True, "depths": [1, 1, 1, 1]},
    "wide": {"width_factor": 3},
}


@pytest.mark.parametrize("changes", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("size", [(112, 128), (113, 119)], ids=["even", "odd"])
def test_every_map_follows_the_rules(changes, size):
    model = randomise(BitModel(tiny(**changes)))
    x = pixels(*size, batch=1)
    found = model(x, output_hidden_states=True)
    expected = WrittenOut(model).states(x)
    assert len(found.hidden_states) == len(expected) == 5
    for one, two in zip(found.hidden_states, expected, strict=True):
        close(one, two)
    last = expected[-1] if changes.get("layer_type") else WrittenOut(model).norm(expected[-1], "norm")
    close(found.last_hidden_state, last)
    close(found.pooler_output, last.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_filters_are_standardized(kernel):
    layer = StandardizedConv2d(5, 4, kernel, padding="VALID").double()
    nn.init.normal_(layer.weight, mean=3.0, std=2.0)
    x = pixels(9, 8, channels=5)
    assert layer.bias is None
    close(layer(x), F.conv2d(x, standardized(layer.weight)))


@pytest.mark.parametrize("padding", [None, "SAME", "VALID"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(7, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 1, 4), (1, 2, 1)]
)
@pytest.mark.parametrize("size", [(12, 11), (9, 14)])
def test_paddings_follow_their_rule(padding, kernel, stride, dilation, size):
    layer = StandardizedConv2d(2, 3, kernel, padding=padding, stride=stride, dilation=dilation).double()
    x = pixels(*size, channels=2)
    found = layer(x)
    close(found, convolved(x, layer.weight, tiny(global_padding=padding), stride, dilation))
    if padding == "SAME":
        assert found.shape[2:] == (math.ceil(size[0] / stride), math.ceil(size[1] / stride))


def test_same_padding_puts_the_odd_pixel_at_the_end():
    found = pad_by_size(torch.ones(1, 1, 4, 5), 3, 2)  # rows need 1 more, columns 2
    assert found.shape == (1, 1, 5, 7)
    assert found[0, 0].sum(1).tolist() == [5, 5, 5, 5, 0]
    assert found[0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 8), (8, 8), (11, 16), (12, 16), (19, 24), (20, 24), (24, 24), (64, 64), (100, 104)]
)
def test_widths_are_multiples_of_eight(value, expected):
    assert make_div(value) == expected
    assert BitConfig(hidden_sizes=[value], depths=[1], num_groups=4, embedding_size=12).widths == [12, expected]


# --- stem ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("padding", "dynamic", "side"), [(None, False, 56), ("same", True, 56), ("same", False, 55), (None, True, 57)]
)
@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_the_stem_at_224(padding, dynamic, side, layer_type):
    config = tiny(global_padding=padding, embedding_dynamic_padding=dynamic, layer_type=layer_type)
    assert BitModel(config).embedder(torch.zeros(1, 3, 224, 224)).shape == (1, 8, side, side)


class MinusOne(nn.Module):
    def forward(self, x):
        return torch.full((1, 8, 6, 6), -1.0)


def test_the_stem_pads_with_zeros_although_the_rest_is_below():
    stem = BitModel(tiny()).embedder
    stem.convolution = MinusOne()
    expected = torch.full((3, 3), -1.0)
    expected[0] = expected[:, 0] = 0  # the windows at the end have no border: the pooling has stride 2
    assert torch.equal(stem(torch.zeros(1, 3, 12, 12)), expected.expand(1, 8, 3, 3))


def test_dynamic_padding_of_the_stem_is_zeros_too():
    stem = BitModel(tiny(global_padding="same", embedding_dynamic_padding=True)).embedder
    stem.convolution = MinusOne()
    expected = torch.full((3, 3), -1.0)
    expected[-1] = expected[:, -1] = 0
    assert torch.equal(stem(torch.zeros(1, 3, 12, 12)), expected.expand(1, 8, 3, 3))


# --- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize(
    ("output_stride", "sides"),
    [(32, [56, 56, 28, 14, 7]), (16, [56, 56, 28, 14, 14]), (8, [56, 56, 28, 28, 28]), (4, [56] * 5)],
)
def test_the_output_stride_decides_the_sizes(layer_type, output_stride, sides):
    config = tiny(output_stride=output_stride, layer_type=layer_type)
    assert sides_of(config, 224) == sides
    model = BitModel(config)
    assert model.stride == (output_stride, output_stride)
    assert model.mask_stride == (4, 4)


def test_the_dilation_doubles_with_every_stride_left_out():
    model = BitModel(tiny(output_stride=8, depths=[1, 3, 3, 3]))
    found = [[layer.conv2.dilation[0] for layer in stage.layers] for stage in model.encoder.stages]
    assert found == [[1], [1, 1, 1], [1, 2, 2], [2, 4, 4]]
    model = BitModel(tiny(output_stride=4, depths=[1, 1, 2, 2]))
    assert [[layer.conv2.dilation[0] for layer in stage.layers] for stage in model.encoder.stages] == [
        [1], [1], [2, 4], [2, 8],
    ]  # fmt: skip


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_unpadded_sizes(layer_type):
    config = tiny(global_padding="valid", depths=[1, 2, 1, 1], layer_type=layer_type)
    # stem: (224 - 7) // 2 + 1 = 109, a border of 1, pooled to 55; then 3x3 convolutions without padding
    assert sides_of(config, 224) == [55, 53, 24, 11, 5]


@pytest.mark.parametrize(
    ("side", "stage"),
    [(2, "stem"), (6, "stem"), (7, "stage1"), (14, "stage1"), (15, "stage2"), (39, "stage3"), (86, "stage4")],
)
def test_an_unpadded_map_that_ends_is_named(side, stage):
    model = BitModel(tiny(global_padding="valid", depths=[1, 2, 1, 1]))
    with pytest.raises(InputError, match=rf"image of {side}x200 pixels.*{stage}") as error:
        model(torch.zeros(1, 3, side, 200))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("output_stride", [32, 4])
def test_the_smallest_unpadded_image_is_known_exactly(dynamic, output_stride):
    stages = {"hidden_sizes": [16, 24], "depths": [1, 2], "output_stride": output_stride}
    model = BitModel(tiny(global_padding="valid", embedding_dynamic_padding=dynamic, **stages)).eval()

    def works(side):  # any error but ours comes from a map that should have been refused
        try:
            return min(model(torch.zeros(1, 3, side, side + 3)).last_hidden_state.shape[2:]) > 0
        except InputError:
            return False

    found = [works(side) for side in range(1, 60)]
    smallest = found.index(True)
    assert found == [False] * smallest + [True] * (len(found) - smallest)
    assert model(torch.zeros(1, 3, smallest + 1, smallest + 1)).last_hidden_state.shape[2:] == (1, 1)


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_a_map_that_ends_in_the_stem_of_same_padding_is_named(side):
    model = BitModel(tiny(global_padding="same"))
    with pytest.raises(InputError, match=f"image of {side}x40 pixels.*stem"):
        model(torch.zeros(1, 3, side, 40))


@pytest.mark.parametrize("changes", [{}, {"embedding_dynamic_padding": True, "global_padding": "same"}])
def test_padded_networks_take_one_pixel(changes):
    out = BitModel(tiny(**changes)).eval()(torch.zeros(1, 3, 1, 1))
    assert out.last_hidden_state.shape == (1, 40, 1, 1)


def test_the_defaults_at_224():
    with torch.device("meta"):
        out = BitModel(BitConfig())(torch.empty(1, 3, 224, 224), output_hidden_states=True)
    assert out.last_hidden_state.shape == (1, 2048, 7, 7)
    assert out.pooler_output.shape == (1, 2048, 1, 1)
    shapes = [tuple(s.shape[1:]) for s in out.hidden_states]
    assert shapes == [(64, 56, 56), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]


# --- drop path -----------------------------------------------------------------------------------------------


def test_drop_path_rises_over_all_blocks():
    model = BitModel(tiny(drop_path_rate=0.6))
    found = [layer.drop_path_rate for stage in model.encoder.stages for layer in stage.layers]
    assert found == pytest.approx(torch.linspace(0, 0.6, 7).tolist())


def a_block(layer_type, rate, first=True):
    config = tiny(layer_type=layer_type)
    inputs = 8 if first else 16
    block = BitLayer(config, inputs, 16, stride=1, dilation=1, first=first, drop_path_rate=rate)
    return randomise(block), pixels(6, batch=16, channels=inputs)


def shortcut_of(block, x, layer_type):
    if block.downsample is None:
        return x
    return block.downsample(block.norm1(x) if layer_type == "preactivation" else x)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_drop_path_leaves_the_shortcut(layer_type, first):
    block, x = a_block(layer_type, 1.0, first)
    kept = shortcut_of(block, x, layer_type)
    kept = kept if layer_type == "preactivation" else kept.relu()
    assert torch.equal(block.train()(x), kept)
    assert not torch.allclose(block.eval()(x), kept)


def test_drop_path_takes_whole_images_and_scales_the_others():
    block, x = a_block("preactivation", 0.5)
    whole, kept = block(x), shortcut_of(block, x, "preactivation")
    torch.manual_seed(0)
    found = block.train()(x)
    dropped = [torch.equal(found[i], kept[i]) for i in range(16)]
    assert 0 < sum(dropped) < 16
    close(found, torch.where(torch.tensor(dropped)[:, None, None, None], kept, kept + 2 * (whole - kept)))


# --- calls ---------------------------------------------------------------------------------------------------


def test_the_maps_of_a_backbone_may_be_chosen_later():
    model = BitBackbone(tiny())
    assert (model.out_features, model.out_indices, model.channels) == (["stage4"], [4], [40])
    model.out_features = ["stem", "stage2"]
    assert (model.out_indices, model.channels) == ([0, 2], [model.num_features[0], model.num_features[2]])
    assert [m.shape[1] for m in model(pixels()).feature_maps] == model.channels
    model.out_indices = (-1,)
    assert (model.out_features, model.config.out_features) == (["stage4"], ["stage4"])
    assert list(model.out_feature_channels) == model.stage_names
    maps = model.forward_with_filtered_kwargs(pixels(), output_attentions=True).feature_maps
    assert torch.equal(*maps, model(pixels()).feature_maps[0])


def test_the_pooled_output_keeps_four_dimensions():
    out = BitModel(tiny())(torch.randn(3, 3, 40, 70))
    assert out.pooler_output.shape == (3, 40, 1, 1)
    assert torch.equal(out.pooler_output, out.last_hidden_state.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_hidden_states_end_before_the_norm(layer_type):
    model = randomise(BitModel(tiny(layer_type=layer_type)))
    out = model(pixels(), output_hidden_states=True)
    assert torch.equal(out.last_hidden_state, model.norm(out.hidden_states[-1]))
    assert torch.equal(out.last_hidden_state, out.hidden_states[-1]) == (layer_type == "bottleneck")
    assert model(pixels()).hidden_states is None


def test_the_classifier_is_linear_on_the_pooled_output():
    model = randomise(BitForImageClassification(tiny(num_labels=5)))
    pooled = randomise(BitModel(tiny()))
    pooled.load_state_dict(model.bit.state_dict())
    head = model.classifier[1]
    close(model(pixels()).logits, pooled(pixels()).pooler_output.flatten(1) @ head.weight.T + head.bias)


def test_a_classifier_without_labels_gives_the_features():
    model = randomise(BitForImageClassification(tiny(num_labels=0)))
    assert torch.equal(model(pixels()).logits, model.bit(pixels()).pooler_output.flatten(1))


@pytest.mark.parametrize(
    ("make", "length"),
    [(BitModel, 2), (BitForImageClassification, 1), (BitForMaskedImageModeling, 1), (BitBackbone, 1)],
)
def test_return_dict_false_gives_the_tuple_without_none(make, length):
    model = randomise(make(tiny()))
    wanted = model(pixels()).to_tuple()
    found = model(pixels(), return_dict=False)
    assert isinstance(found, tuple)
    assert len(found) == len(wanted) == length
    flat = [t for part in (found, wanted) for v in part for t in (v if isinstance(v, tuple) else (v,))]
    assert all(torch.equal(a, b) for a, b in zip(flat[: len(flat) // 2], flat[len(flat) // 2 :], strict=True))
    assert len(model(pixels(), output_hidden_states=True, return_dict=False)) == length + 1
    assert isinstance(make(tiny(return_dict=False))(pixels().float()), tuple)


@pytest.mark.parametrize("make", [BitModel, BitForImageClassification, BitForMaskedImageModeling, BitBackbone])
def test_no_pixels_is_an_error(make):
    with pytest.raises(ValueError, match="You have to specify pixel_values"):
        make(tiny())()


@pytest.mark.parametrize("make", [BitModel, BitForImageClassification, BitForMaskedImageModeling, BitBackbone])
def test_other_channels_are_refused(make):
    with pytest.raises(InputError, match="5 channels; the model expects num_channels=3"):
        make(tiny())(torch.zeros(1, 5, 64, 64))


@pytest.mark.parametrize("make", [BitModel, BitBackbone])
def test_pixels_of_another_rank_are_refused(make):
    with pytest.raises(InputError, match=r"expected \(batch, channels, height, width\)"):
        make(tiny())(torch.zeros(3, 64, 64))


# --- masked image modeling -----------------------------------------------------------------------------------

NO_TILES = {
    "valid": ({"global_padding": "valid", "depths": [1, 1, 1, 1]}, 160),
    "same without dynamic padding": ({"global_padding": "same", "output_stride": 4}, 32),
    "dynamic padding without same": ({"embedding_dynamic_padding": True}, 64),
    "odd": ({}, 65),
    "not a multiple": ({}, 48),
    "not a multiple of 8": ({"output_stride": 8}, 68),
}


@pytest.mark.parametrize(("changes", "side"), NO_TILES.values(), ids=NO_TILES)
def test_sizes_that_do_not_tile_are_refused(changes, side):
    model = BitForMaskedImageModeling(tiny(**changes))
    x, mask = torch.zeros(1, 3, side, side), torch.ones(1, side // 4, side // 4, dtype=torch.bool)
    for call in (lambda: model(x), lambda: model(x, mask), lambda: model.masked_loss(x, mask)):
        with pytest.raises(InputError, match=rf"{side}x{side}|first map") as error:
            call()
        assert "\n" not in str(error.value)


def test_a_stem_map_that_is_one_cell_short_takes_no_mask_although_the_last_map_tiles():
    model = BitForMaskedImageModeling(tiny(global_padding="same")).eval()
    x, mask = torch.zeros(1, 3, 64, 64), torch.ones(1, 16, 16, dtype=torch.bool)
    assert model(x).reconstruction.shape == x.shape
    with pytest.raises(InputError, match="the first map is 15x15 but the mask 16x16"):
        model(x, mask)


@pytest.mark.parametrize(
    ("changes", "side"),
    [({}, 64), ({"global_padding": "same", "embedding_dynamic_padding": True}, 96), ({"output_stride": 4}, 36)],
)
def test_sizes_that_tile_give_the_whole_picture(changes, side):
    model = BitForMaskedImageModeling(tiny(**changes)).eval()
    x = torch.randn(2, 3, side, 2 * side)
    out = model(x, torch.ones(2, side // 4, side // 2))
    assert out.reconstruction.shape == x.shape
    torch.testing.assert_close(out.loss, (x - out.reconstruction).abs().mean())
    assert out.attentions is None


def test_another_encoder_stride_gives_another_size_without_mask_only():
    model = BitForMaskedImageModeling(tiny(encoder_stride=4))
    assert model(torch.zeros(1, 3, 64, 96)).reconstruction.shape == (1, 3, 8, 12)
    with pytest.raises(InputError, match=r"`output_stride` must be equal to `encoder_stride`.*\(32, 32\).*\(4, 4\)"):
        model(torch.zeros(1, 3, 64, 96), torch.ones(1, 16, 24))


def test_the_strides_of_fewer_stages_agree():
    config = tiny(hidden_sizes=[16, 24], depths=[1, 1])
    assert (config.stride, config.encoder_stride) == ((8, 8), 8)
    out = BitForMaskedImageModeling(config)(torch.zeros(1, 3, 24, 16), torch.ones(1, 24))
    assert out.reconstruction.shape == (1, 3, 24, 16)


# --- backbone ------------------------------------------------------------------------------------------------


def test_the_backbone_gives_the_last_map_by_default():
    model = BitBackbone(tiny())
    assert (model.out_features, model.out_indices, model.channels) == (["stage4"], [4], [40])
    assert model.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert model.num_features == [8, 16, 24, 32, 40]


@pytest.mark.parametrize(
    ("given", "features", "indices"),
    [
        ({"out_features": ["stem", "stage3"]}, ["stem", "stage3"], [0, 3]),
        ({"out_indices": [1, 2, 4]}, ["stage1", "stage2", "stage4"], [1, 2, 4]),
        ({"out_indices": (0, -1)}, ["stem", "stage4"], [0, -1]),
        ({"out_indices": [-3, -2]}, ["stage2", "stage3"], [-3, -2]),
        ({"out_indices": [2], "out_features": ["stage2"]}, ["stage2"], [2]),
        ({"out_indices": [-1], "out_features": ["stage4"]}, ["stage4"], [-1]),
    ],
)
def test_features_and_indices_fill_each_other(given, features, indices):
    config = tiny(**given)
    assert (config.out_features, config.out_indices) == (features, indices)
    model = randomise(BitBackbone(config))
    out = model(pixels())
    states = randomise(BitModel(tiny()))(pixels(), output_hidden_states=True).hidden_states
    names = ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert isinstance(out.feature_maps, tuple)
    assert len(out.feature_maps) == len(features)
    for name, channels, found in zip(features, model.channels, out.feature_maps, strict=True):
        assert found.shape[1] == channels
        assert torch.equal(found, states[names.index(name)])


def test_feature_maps_come_before_the_norm():
    model = randomise(BitBackbone(tiny()))
    found = model(pixels()).feature_maps[0]
    assert torch.equal(model.bit.norm(found), model.bit(pixels()).last_hidden_state)
    assert found.min() < 0


def test_the_backbone_gives_hidden_states_only_on_request():
    model = randomise(BitBackbone(tiny(out_features=["stage1"])))
    assert model(pixels()).hidden_states is None
    out = model(pixels(), output_hidden_states=True)
    assert len(out.hidden_states) == 5
    assert torch.equal(out.hidden_states[1], out.feature_maps[0])
    assert out.attentions is None
    assert len(BitBackbone(tiny(output_hidden_states=True))(pixels().float()).hidden_states) == 5


def test_the_channels_of_a_wide_backbone():
    model = BitBackbone(tiny(width_factor=3, out_features=["stem", "stage2"]))
    assert model.channels == [24, 72]
    assert [f.shape[1] for f in model(torch.zeros(1, 3, 32, 32)).feature_maps] == [24, 72]


WRONG_OUTPUTS = [
    ({"out_features": ["stage5"]}, r"out_features=\['stage5'\].*'stage5' is not one of stem, stage1"),
    ({"out_features": ["stage2", "stage1"]}, "must be in the same order as stage_names"),
    ({"out_features": ["stage1", "stage1"]}, r"out_features=\['stage1', 'stage1'\].*twice"),
    ({"out_features": []}, "out_features=.*at least 1"),
    ({"out_indices": [5]}, r"out_indices=\[5\].*5 is out of range"),
    ({"out_indices": [-6]}, r"out_indices=\[-6\].*out of range"),
    ({"out_indices": [2, 1]}, "must be in the same order as stage_names"),
    ({"out_indices": [4, -1]}, "twice"),
    ({"out_indices": []}, "out_indices=.*at least 1"),
    ({"out_indices": [1], "out_features": ["stage2"]}, "name different stages"),
    ({"out_indices": [1, 2], "out_features": ["stage2"]}, "name different stages"),
]


@pytest.mark.parametrize(("given", "message"), WRONG_OUTPUTS)
def test_wrong_outputs_are_named(given, message):
    with pytest.raises(InputError, match=message) as error:
        tiny(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [{"out_features": "stage1"}, {"out_indices": 1}, {"out_indices": [1.0]}])
def test_outputs_of_a_wrong_type_are_a_type_error(given):
    with pytest.raises(TypeError, match=next(iter(given))):
        tiny(**given)


def test_a_backbone_is_chosen_by_the_folder(tmp_path):
    model = randomise(BitModel(tiny())).float()
    model.save_pretrained(tmp_path)
    found = AutoBackbone.from_pretrained(tmp_path, out_features=["stage1", "stage3"])
    assert type(found) is BitBackbone
    assert found.out_indices == [1, 3]
    states = model(pixels().float(), output_hidden_states=True).hidden_states
    maps = found(pixels().float()).feature_maps
    assert torch.equal(maps[0], states[1])
    assert torch.equal(maps[1], states[3])


@pytest.mark.parametrize("given", [{"out_features": ["stage1"]}, {"out_indices": [1]}])
def test_an_override_of_the_outputs_replaces_both_fields_of_the_file(tmp_path, given):
    BitBackbone(tiny(out_features=["stem", "stage2"])).save_pretrained(tmp_path)
    assert AutoBackbone.from_pretrained(tmp_path).out_features == ["stem", "stage2"]
    found = AutoBackbone.from_pretrained(tmp_path, **given)
    assert (found.out_features, found.out_indices) == (["stage1"], [1])


@pytest.mark.parametrize("config", [ViTConfig(), CvtConfig()])
def test_a_family_without_backbone_names_those_with_one(tmp_path, config):
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"model_type={config.model_type} has no class for backbone; .* bit"):
        AutoBackbone.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="backbone"):
        AutoBackbone.from_config(config)


# --- names and counts of files -------------------------------------------------------------------------------

PUBLISHED = [
    # depths, width, bare, 1000 labels, 21843 labels, keys
    ([3, 4, 6, 3], 1, 23_500_352, 25_549_352, 68_256_659, 153),
    ([3, 4, 6, 3], 3, 211_174_080, 217_319_080, 345_399_315, 153),
    ([3, 4, 23, 3], 1, 42_492_480, 44_541_480, 87_248_787, 306),
    ([3, 4, 23, 3], 3, 381_789_888, 387_934_888, 516_015_123, 306),
    ([3, 8, 36, 3], 2, 232_238_208, 236_335_208, 321_728_979, 459),
    ([3, 8, 36, 3], 4, 928_340_224, 936_533_224, 1_107_299_923, 459),
]


def on_meta(make, config):
    with torch.device("meta"):
        return make(config)


def count(make, config):
    return sum(p.numel() for p in on_meta(make, config).parameters())


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda r: f"R{3 * sum(r[0]) + 2}x{r[1]}")
def test_parameter_counts(row):
    depths, width, *expected = row
    config = BitConfig(depths=depths, width_factor=width, num_labels=1000)
    large = BitConfig(depths=depths, width_factor=width, num_labels=21_843)
    found = [count(BitModel, config), count(BitForImageClassification, config), count(BitForImageClassification, large)]
    assert [*found, len(on_meta(BitForImageClassification, config).state_dict())] == expected


def test_stored_wide_sizes_are_the_width_factor():
    stored = BitConfig(embedding_size=192, hidden_sizes=[768, 1536, 3072, 6144], num_labels=1000)
    factor = BitConfig(width_factor=3, num_labels=1000)
    one, two = (on_meta(BitForImageClassification, c).state_dict() for c in (stored, factor))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in two.items()}
    assert sum(v.numel() for v in two.values()) == 217_319_080


def test_parameters_of_masked_image_modeling():
    assert count(BitForMaskedImageModeling, BitConfig()) == 29_794_944


def layer_shapes(prefix, inputs, middle, outputs, first, bottleneck):
    norms = (middle, middle, outputs) if bottleneck else (inputs, middle, middle)
    shapes = {f"{prefix}.norm{i}.{part}": (n,) for i, n in enumerate(norms, 1) for part in ("weight", "bias")}
    shapes |= {f"{prefix}.conv1.weight": (middle, inputs, 1, 1), f"{prefix}.conv2.weight": (middle, middle, 3, 3)}
    shapes[f"{prefix}.conv3.weight"] = (outputs, middle, 1, 1)
    if first:
        shapes[f"{prefix}.downsample.conv.weight"] = (outputs, inputs, 1, 1)
    if first and bottleneck:
        shapes |= {f"{prefix}.downsample.norm.{part}": (outputs,) for part in ("weight", "bias")}
    return shapes


def encoder_shapes(layer_type):
    bottleneck, inputs = layer_type == "bottleneck", 64
    shapes = {"bit.embedder.convolution.weight": (64, 3, 7, 7)}
    name, width = ("bit.embedder.norm", 64) if bottleneck else ("bit.norm", 2048)
    shapes |= {f"{name}.{part}": (width,) for part in ("weight", "bias")}
    for s, (depth, outputs) in enumerate(zip([3, 4, 6, 3], [256, 512, 1024, 2048], strict=True)):
        for i in range(depth):
            prefix = f"bit.encoder.stages.{s}.layers.{i}"
            shapes |= layer_shapes(prefix, inputs, outputs // 4, outputs, i == 0, bottleneck)
            inputs = outputs
    return shapes


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_the_state_dicts_have_the_names_and_shapes_of_files(layer_type):
    config, encoder = BitConfig(layer_type=layer_type, num_labels=7), encoder_shapes(layer_type)
    bare = {k.removeprefix("bit."): v for k, v in encoder.items()}
    decoder = {"decoder.0.weight": (3 * 32 * 32, 2048, 1, 1), "decoder.0.bias": (3 * 32 * 32,)}
    for make, expected in [
        (BitModel, bare),
        (BitBackbone, encoder),
        (BitForImageClassification, encoder | {"classifier.1.weight": (7, 2048), "classifier.1.bias": (7,)}),
        (BitForMaskedImageModeling, encoder | decoder | {"mask_token": (1, 64, 1, 1)}),
    ]:
        assert {k: tuple(v.shape) for k, v in on_meta(make, config).state_dict().items()} == expected


# --- initialisation ------------------------------------------------------------------------------------------


def test_fresh_weights():
    torch.manual_seed(0)
    model = BitForMaskedImageModeling(tiny(hidden_sizes=[256, 256], depths=[2, 1], num_groups=8))
    for name, part in model.bit.named_modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 2000:
            fan_out = part.weight.shape[0] * part.weight.shape[2] * part.weight.shape[3]
            assert part.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
        elif isinstance(part, nn.GroupNorm):
            assert torch.equal(part.weight, torch.ones_like(part.weight))
            assert not part.bias.any()
    assert model.bit.mask_token.std().item() == pytest.approx(0.02, rel=0.8)
    assert model.decoder[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.decoder[0].bias.any()


def test_a_seed_repeats_the_weights():
    torch.manual_seed(4)
    one = BitForMaskedImageModeling(tiny()).state_dict()
    torch.manual_seed(4)
    two = BitForMaskedImageModeling(tiny()).state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


# --- configuration -------------------------------------------------------------------------------------------


def test_the_default_config_is_r50x1():
    config = BitConfig()
    assert (config.embedding_size, config.hidden_sizes, config.depths) == (64, [256, 512, 1024, 2048], [3, 4, 6, 3])
    assert (config.layer_type, config.global_padding, config.output_stride) == ("preactivation", None, 32)
    assert (config.num_groups, config.width_factor, config.num_labels) == (32, 1, 2)
    assert config.widths == [64, 256, 512, 1024, 2048]


# name, value, what the message says is allowed
WRONG_VALUES = [
    ("num_channels", 0, "at least 1"),
    ("embedding_size", -8, "at least 1"),
    ("hidden_sizes", [], "at least 1"),
    ("hidden_sizes", [0, 512, 1024, 2048], "at least 1"),
    ("depths", [3, 4, 6], "expected 4"),
    ("depths", [3, 4, 0, 3], "at least 1"),
    ("layer_type", "plain", "is not one of preactivation,bottleneck"),
    ("hidden_act", "gelus", "gelu, "),
    ("drop_path_rate", 1.5, "at most 1"),
    ("drop_path_rate", -0.1, "at least 0"),
    ("output_stride", 64, "4, 8, 16, 32"),
    ("output_stride", 12, "4, 8, 16, 32"),
    ("output_stride", 2, "at least 4"),
    ("width_factor", 0, "at least 1"),
    ("encoder_stride", 0, "at least 1"),
    ("num_groups", 0, "at least 1"),
    ("num_groups", 24, "widths are"),
    ("num_groups", 128, "does not divide the width 64"),
    ("num_labels", -1, "at least 0"),
    ("problem_type", "ranking", "regression"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG_VALUES)
def test_a_wrong_value_is_named_in_one_line(name, value, allowed):
    with pytest.raises(ValueError, match=name) as error:
        BitConfig(**{name: value})
    text = str(error.value)
    assert "\n" not in text
    assert str(value) in text
    assert allowed in text


def test_another_padding_is_not_supported():
    with pytest.raises(ValueError, match="Padding strategy full not supported; use same, valid or null"):
        BitConfig(global_padding="full")


@pytest.mark.parametrize("changes", [{"embedding_size": 48}, {"hidden_sizes": [256, 520, 1024, 2048]}])
def test_groups_must_divide_every_width(changes):
    with pytest.raises(InputError, match="num_groups=32 does not divide the width"):
        BitConfig(**changes)


WRONG_TYPES = [
    ("num_channels", 3.0),
    ("embedding_size", "64"),
    ("hidden_sizes", 256),
    ("hidden_sizes", [256.0, 512, 1024, 2048]),
    ("depths", "3463"),
    ("depths", [3, 4, True, 3]),
    ("layer_type", 2),
    ("hidden_act", 3),
    ("global_padding", 1),
    ("global_padding", True),
    ("num_groups", None),
    ("drop_path_rate", "0.1"),
    ("embedding_dynamic_padding", 1),
    ("output_stride", "32"),
    ("output_stride", 16.0),
    ("output_stride", True),
    ("width_factor", 1.5),
    ("encoder_stride", 32.0),
    ("id2label", ["cat", "dog"]),
    ("return_dict", 1),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_a_wrong_type_is_a_type_error(name, value):
    with pytest.raises(TypeError, match=name) as error:
        BitConfig(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("given", "kept"), [("same", "SAME"), ("Valid", "VALID"), ("SAME", "SAME"), (None, None)])
def test_the_padding_is_kept_in_capitals(given, kept):
    config = BitConfig(global_padding=given)
    assert config.global_padding == kept
    assert json.loads(config.to_json_string())["global_padding"] == kept


def test_the_file_names_stages_and_outputs():
    data = json.loads(tiny(out_indices=(1, 4)).to_json_string())
    assert data["stage_names"] == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert data["out_features"] == ["stage1", "stage4"]
    assert data["out_indices"] == [1, 4]
    assert data["model_type"] == "bit"


def test_the_encoder_stride_is_written_only_when_it_is_another():
    assert "encoder_stride" not in tiny(output_stride=8).to_dict()
    assert "encoder_stride" not in tiny(output_stride=8, encoder_stride=8).to_dict()
    assert tiny(output_stride=8, encoder_stride=32).to_dict()["encoder_stride"] == 32
    assert BitConfig.from_dict(tiny().to_dict(), output_stride=16).encoder_stride == 16


def test_the_stage_names_of_a_file_follow_its_depths():
    data = tiny().to_dict() | {"stage_names": ["stem", "other"]}
    assert BitConfig.from_dict(data).stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]


def test_fields_that_old_files_have_are_kept():
    data = BitConfig.from_dict(tiny().to_dict() | {"conv_layer": "std_conv"}).to_dict()
    assert data["conv_layer"] == "std_conv"


def test_every_field_survives_the_file():
    values = {k: v for k, v in CHANGES.items() if k not in ("id2label", "num_labels")}
    values |= {"out_features": ["stage1"], "out_indices": [1], "id2label": {0: "a", 1: "b", 2: "c"}}
    values |= {"architectures": ["BitModel"], "dtype": "float16", "transformers_version": "4.50.0", "num_labels": 3}
    values |= {"label2id": {"a": 0, "b": 1, "c": 2}, "encoder_stride": 4, "output_attentions": True}
    values |= {"classifier_pool": "mean"}
    assert {f.name for f in fields(BitConfig)} - values.keys() == {"attn_implementation"}
    for left_out in ("mask_mode", "mask_layer"):  # sparse maps hold no token
        config = BitConfig(**{k: v for k, v in (TINY | values).items() if k != left_out})
        assert BitConfig.from_dict(json.loads(config.to_json_string())) == config


NO_EFFECT = {
    "architectures": "names the class of the weights beside the file; read by people and other libraries",
    "dtype": "says what the file holds; from_pretrained(dtype=) decides",
    "transformers_version": "kept as it was read",
    "id2label": "class names; their number is num_labels, tested in test_model_config",
    "label2id": "class names",
    "attn_implementation": "BiT has no attention",
    "output_attentions": "BiT has no attention",
    "classifier_pool": "BiT has no class token, so only its mean cell",
}
CHANGES = {
    "num_channels": 2,
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 2, 2, 3],
    "layer_type": "bottleneck",
    "hidden_act": "gelu",
    "global_padding": "same",
    "num_groups": 2,
    "drop_path_rate": 0.9,
    "embedding_dynamic_padding": True,
    "output_stride": 16,
    "width_factor": 2,
    "out_features": ["stage2", "stage4"],
    "out_indices": [0, 4],
    "encoder_stride": 16,
    "num_labels": 3,
    "problem_type": "multi_label_classification",
    "output_hidden_states": True,
    "return_dict": False,
    "mim_target": "hog",
    "mim_predictor": predictors.CONV,
    "mask_mode": "sparse",
    "mask_layer": 1,
    "decoder_hidden_size": 32,
}


def fingerprint(config):
    """Everything a config can change: parameters, and outputs in train mode with a fixed seed."""
    torch.manual_seed(0)
    models = [BitModel(config), BitBackbone(config), BitForImageClassification(config)]
    found = [{k: tuple(p.shape) for k, p in BitForMaskedImageModeling(config).state_dict().items()}]
    for model in models:
        x = pixels(32, 64, 3, config.num_channels).float()
        labels = torch.ones(3, config.num_labels) if config.problem_type else torch.tensor([1, 0, 1])
        options = {"labels": labels} if model is models[2] else {}
        torch.manual_seed(1)
        out = model(x, **options)
        values = out if isinstance(out, tuple) else out.to_tuple()
        flat = [t for v in values for t in (v if isinstance(v, tuple) else (v,))]
        found.append((type(out), {k: tuple(p.shape) for k, p in model.state_dict().items()}))
        found.append(([tuple(t.shape) for t in flat], [t.double().sum().item() for t in flat]))
    return found


def test_every_field_is_in_one_of_the_two_lists():
    assert {f.name for f in fields(BitConfig)} == CHANGES.keys() | NO_EFFECT.keys()
    assert not CHANGES.keys() & NO_EFFECT.keys()


@functools.cache
def unchanged():
    return fingerprint(tiny())


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_config_field_changes_something(name):
    assert fingerprint(tiny(**{name: CHANGES[name]})) != unchanged()


def test_the_fingerprint_itself_repeats():
    assert fingerprint(tiny()) == fingerprint(tiny())
