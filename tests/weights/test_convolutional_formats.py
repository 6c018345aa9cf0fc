"""Files of other BiT and CvT, made here with the real layout: what ours computes with them, and the way back."""

import json

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.models import BitForImageClassification, BitModel, CvtForImageClassification
from mimsuite.models.load import load_model
from mimsuite.weights.formats import bit_original, cvt_original, timm_bit
from mimsuite.weights.formats.format import write_as
from mimsuite.weights.formats.timm_folder import write_folder
from mimsuite.weights.init import find_weights

CLASSES = 5
DEPTHS, WIDTHS, STEM = (2, 1), (128, 256), 32


def draw(seed=0, scale=0.2):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator) * scale


def pixels(side=32):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(9))


def same_file(found, arrays):
    assert set(found) == set(arrays)
    assert all(torch.equal(torch.as_tensor(found[name]), torch.as_tensor(arrays[name])) for name in arrays)


# --- BiT -----------------------------------------------------------------------------------------------------


def bit_file():
    """Arrays of an original file, with its names."""
    new = draw()
    arrays = {"resnet/root_block/standardized_conv2d/kernel": new(7, 7, 3, STEM)}
    inputs = STEM
    for s, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True), 1):
        for u in range(1, depth + 1):
            begin, middle = f"resnet/block{s}/unit{u:02d}", width // 4
            sides = {"a": (1, inputs, middle), "b": (3, middle, middle), "c": (1, middle, width)}
            for letter, (side, before, after) in sides.items():
                arrays |= {
                    f"{begin}/{letter}/standardized_conv2d/kernel": new(side, side, before, after),
                    f"{begin}/{letter}/group_norm/gamma": 1 + new(before),
                    f"{begin}/{letter}/group_norm/beta": new(before),
                }
            if u == 1:
                arrays[f"{begin}/a/proj/standardized_conv2d/kernel"] = new(1, 1, inputs, width)
            inputs = width
    return arrays | {
        "resnet/group_norm/gamma": 1 + new(inputs),
        "resnet/group_norm/beta": new(inputs),
        "resnet/head/conv2d/kernel": new(1, 1, inputs, CLASSES),
        "resnet/head/conv2d/bias": new(CLASSES),
    }


def bit_forward(arrays, x):
    """The paper's network: weights standardised, norms before the convolutions."""

    def conv(x, name, stride=1, padding=0):
        kernel = arrays[f"{name}/standardized_conv2d/kernel"]
        kernel = kernel - kernel.mean((0, 1, 2))
        kernel = kernel / (kernel.square().mean((0, 1, 2)) + 1e-10).sqrt()
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride, padding=padding)

    def norm(x, name):
        scale, shift = (arrays[f"{name}/group_norm/{end}"] for end in ("gamma", "beta"))
        return F.relu(F.group_norm(x, 32, scale, shift))

    x = F.pad(conv(x, "resnet/root_block", 2, 3), [1] * 4)
    x = F.max_pool2d(x, 3, 2)
    for s, depth in enumerate(DEPTHS, 1):
        for u in range(1, depth + 1):
            begin, stride = f"resnet/block{s}/unit{u:02d}", 2 if s > 1 and u == 1 else 1
            start = norm(x, f"{begin}/a")
            short = conv(start, f"{begin}/a/proj", stride) if u == 1 else x
            inner = conv(norm(conv(start, f"{begin}/a"), f"{begin}/b"), f"{begin}/b", stride, 1)
            x = conv(norm(inner, f"{begin}/c"), f"{begin}/c") + short
    x = norm(x, "resnet").mean((2, 3))
    return x @ arrays["resnet/head/conv2d/kernel"][0, 0] + arrays["resnet/head/conv2d/bias"]


def newer_names(arrays):
    """The same as big_vision writes it: norms with axes of one, and a linear layer as the head."""
    made = {newer_name(name): array for name, array in arrays.items()}
    made["params/head/kernel"] = made["params/head/kernel"][0, 0]
    return {
        name: a if name.startswith("params/head") or a.ndim == 4 else a[None, None, None] for name, a in made.items()
    }


def newer_name(name):
    name = name.removeprefix("resnet/").replace("head/conv2d/", "head/")
    name = f"norm-pre-head/{name.removeprefix('group_norm/')}" if name.startswith("group_norm/") else name
    for n, letter in enumerate("abc", 1):
        name = name.replace(f"/{letter}/standardized_conv2d/", f"/conv{n}/")
        name = name.replace(f"/{letter}/group_norm/", f"/gn{n}/")
    name = name.replace("/a/proj/standardized_conv2d/", "/conv_proj/").replace("standardized_conv2d", "conv_root")
    return f"params/{name}".replace("gamma", "scale").replace("beta", "bias")


def npz(path, arrays):
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    return str(path)


@pytest.mark.parametrize("newer", [False, True])
def test_an_original_bit_computes_the_same_by_its_old_and_its_new_names(tmp_path, newer):
    arrays = bit_file()
    weights = find_weights(npz(tmp_path / "a.npz", newer_names(arrays) if newer else arrays))
    assert weights.config["hidden_sizes"] == list(WIDTHS)
    assert weights.config["depths"] == list(DEPTHS)
    assert weights.config["embedding_size"] == STEM
    assert weights.statistics == ((0.5,) * 3, (0.5,) * 3)
    model = load_model(weights).eval()
    assert type(model) is BitForImageClassification
    with torch.no_grad():
        torch.testing.assert_close(model(pixels()).logits, bit_forward(arrays, pixels()), atol=1e-4, rtol=1e-4)


def test_an_original_bit_goes_round_bit_by_bit(tmp_path):
    arrays = bit_file()
    model = load_model(find_weights(npz(tmp_path / "a.npz", arrays)))
    bit_original.write(tmp_path / "b.npz", model.state_dict(), model.config.to_dict())
    same_file(dict(np.load(tmp_path / "b.npz")), arrays)


def test_some_original_files_count_their_convolutions(tmp_path):
    arrays = {
        n.replace("unit01/a/standardized_conv2d/", "unit01/a/standardized_conv2d_7/"): a for n, a in bit_file().items()
    }
    model = load_model(find_weights(npz(tmp_path / "a.npz", arrays))).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(pixels()).logits, bit_forward(bit_file(), pixels()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gn_root/scale": torch.ones(4), "conv_root/kernel": torch.ones(7, 7, 3, 4)}, "norms behind the convolutions"),
        ({"resnet/extra": torch.ones(4)}, "1 tensors that mimsuite does not know, such as resnet/extra"),
        ({"resnet/root_block/standardized_conv2d/kernel": torch.ones(4)}, "not those of a whole network"),
    ],
)
def test_an_original_bit_of_another_kind_is_refused_in_one_line(tmp_path, change, reason):
    with pytest.raises(InputError, match=f"looks like an original Big Transfer ResNet.*{reason}") as error:
        find_weights(npz(tmp_path / "a.npz", bit_file() | change))
    assert "\n" not in str(error.value)


def timm_names(arrays):
    """The same with timm's names and torch's order of axes."""
    made = {}
    for name, array in arrays.items():
        parts = name.split("/")[1:]
        torch_array = array.permute(3, 2, 0, 1) if array.ndim == 4 else array
        end = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}[parts[-1]]
        if parts[0].startswith("block"):
            begin = f"stages.{int(parts[0][5:]) - 1}.blocks.{int(parts[1][4:]) - 1}"
            number = "abc".index(parts[2]) + 1
            kind = "conv" if parts[-2] == "standardized_conv2d" else "norm"
            inner = "downsample.conv" if parts[3] == "proj" else f"{kind}{number}"
            made[f"{begin}.{inner}.{end}"] = torch_array
        else:
            begin = {"root_block": "stem.conv", "group_norm": "norm", "head": "head.fc"}[parts[0]]
            made[f"{begin}.{end}"] = torch_array
    return {name: array.contiguous() for name, array in made.items()}


def test_a_bit_of_timm_computes_the_same_and_goes_round_bit_by_bit(tmp_path):
    tensors = timm_names(bit_file())
    save_file(tensors, tmp_path / "a.safetensors")
    weights = find_weights(str(tmp_path / "a.safetensors"))
    model = load_model(weights).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(pixels()).logits, bit_forward(bit_file(), pixels()), atol=1e-4, rtol=1e-4)
    same_file(write_as(timm_bit.FORMAT, model.state_dict(), model.config.to_dict()), tensors)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("stages.0.blocks.0.norm1.running_mean", "BatchNorm"),
        ("stem.norm.weight", "norms behind the convolutions"),
        ("stem.conv1.weight", "a stem of three convolutions"),
    ],
)
def test_a_resnet_of_timm_of_another_kind_is_refused_by_name(tmp_path, name, reason):
    save_file(timm_names(bit_file()) | {name: torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=f"looks like a Big Transfer ResNet of timm.*{reason}"):
        find_weights(str(tmp_path / "a.safetensors"))


def test_timm_and_ours_compute_the_same_in_both_directions(tmp_path):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnetv2_50x1_bit", num_classes=CLASSES).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    timm.models.save_for_hf(theirs, tmp_path / "a", safe_serialization=True)
    weights = find_weights(str(tmp_path / "a"))
    assert weights.statistics == ((0.5,) * 3, (0.5,) * 3)
    model = load_model(weights).eval()
    timm_bit.write(tmp_path / "b", model.state_dict(), model.config.to_dict(), {})
    again = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    with torch.no_grad():
        expected = theirs(pixels(64))
        torch.testing.assert_close(model(pixels(64)).logits, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(again(pixels(64)), expected)


@pytest.mark.parametrize(("size", "shape"), [({"height": 96, "width": 64}, [3, 96, 64]), (None, [3, 224, 224])])
def test_a_folder_for_timm_says_the_size_at_which_a_convolutional_network_is_evaluated(tmp_path, size, shape):
    about = {} if size is None else {"size": size}
    write_folder(tmp_path, "resnetv2_50x1_bit", {"stem.conv.weight": torch.zeros(1)}, {}, about, {})
    found = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert (found["input_size"], found["fixed_input_size"], found["crop_pct"]) == (shape, False, 1.0)


def test_a_bit_that_timm_has_not_is_not_written(tmp_path):
    model = load_model(find_weights(npz(tmp_path / "a.npz", bit_file())))
    with pytest.raises(InputError, match=r"depths=\[2, 1\], hidden_sizes=\[128, 256\]: timm has resnetv2_50x1_bit"):
        timm_bit.write(tmp_path / "b", model.state_dict(), model.config.to_dict(), {})
    with pytest.raises(InputError, match=r"num_groups=16: no Big Transfer ResNet of timm has it"):
        timm_bit.write(tmp_path / "b", model.state_dict(), model.config.to_dict() | {"num_groups": 16}, {})


@pytest.mark.parametrize("factor", [1, 3])
def test_the_width_factor_of_ours_is_in_the_widths_that_are_written(tmp_path, factor):
    with torch.device("meta"):
        config = BitModel(BitModel.config_class(width_factor=factor)).config
        state = BitModel(config).state_dict()
    made = write_as(timm_bit.FORMAT, state, config.to_dict())
    assert made["stages.3.blocks.0.conv3.weight"].shape[0] == 2048 * factor


# --- CvT -----------------------------------------------------------------------------------------------------


def cvt_file(seed=0):
    """Tensors of an original file, with its names: two stages, the class token in the last."""
    new = draw(seed)
    tensors, inputs = {}, 3
    for s, (width, depth, side) in enumerate(((64, 1, 7), (128, 2, 3))):
        begin = f"stage{s}"
        tensors |= {f"{begin}.patch_embed.proj.weight": new(width, inputs, side, side)}
        tensors |= {f"{begin}.patch_embed.proj.bias": new(width)}
        tensors |= {f"{begin}.patch_embed.norm.weight": 1 + new(width), f"{begin}.patch_embed.norm.bias": new(width)}
        if s == 1:
            tensors[f"{begin}.cls_token"] = new(1, 1, width)
        for i in range(depth):
            block = f"{begin}.blocks.{i}"
            for n in (1, 2):
                tensors |= {f"{block}.norm{n}.weight": 1 + new(width), f"{block}.norm{n}.bias": new(width)}
            for letter in "qkv":
                norm = f"{block}.attn.conv_proj_{letter}.bn"
                tensors |= {
                    f"{block}.attn.conv_proj_{letter}.conv.weight": new(width, 1, 3, 3),
                    f"{norm}.weight": 1 + new(width),
                    f"{norm}.bias": new(width),
                    f"{norm}.running_mean": new(width),
                    f"{norm}.running_var": 1 + new(width).abs(),
                    f"{norm}.num_batches_tracked": torch.tensor(0),
                    f"{block}.attn.proj_{letter}.weight": new(width, width),
                    f"{block}.attn.proj_{letter}.bias": new(width),
                }
            for name, outputs, before in (
                ("attn.proj", width, width),
                ("mlp.fc1", 4 * width, width),
                ("mlp.fc2", width, 4 * width),
            ):
                tensors |= {f"{block}.{name}.weight": new(outputs, before), f"{block}.{name}.bias": new(outputs)}
        inputs = width
    return tensors | {
        "norm.weight": 1 + new(inputs),
        "norm.bias": new(inputs),
        "head.weight": new(CLASSES, inputs),
        "head.bias": new(CLASSES),
    }


def cvt_forward(tensors, x, act):
    """The paper's network; every map is `(B, h, w, C)` between the convolutions."""

    def layer_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-5)

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def projected(grid, name, stride):
        norm = f"{name}.bn"
        out = F.conv2d(grid, tensors[f"{name}.conv.weight"], stride=stride, padding=1, groups=grid.shape[1])
        mean, var, scale, shift = (
            tensors[f"{norm}.{end}"][:, None, None] for end in ("running_mean", "running_var", "weight", "bias")
        )
        return ((out - mean) / (var + 1e-5).sqrt() * scale + shift).flatten(2).transpose(1, 2)

    for s, (stride, padding, depth, heads) in enumerate(((4, 2, 1, 1), (2, 1, 2, 2))):
        begin = f"stage{s}"
        weight, bias = (tensors[f"{begin}.patch_embed.proj.{end}"] for end in ("weight", "bias"))
        x = layer_norm(F.conv2d(x, weight, bias, stride, padding).permute(0, 2, 3, 1), f"{begin}.patch_embed.norm")
        batch, height, width, channels = x.shape
        tokens = x.flatten(1, 2)
        first = int(s == 1)
        if first:
            tokens = torch.cat([tensors[f"{begin}.cls_token"].expand(batch, 1, channels), tokens], 1)
        for i in range(depth):
            block = f"{begin}.blocks.{i}"
            normed = layer_norm(tokens, f"{block}.norm1")
            grid = normed[:, first:].transpose(1, 2).reshape(batch, channels, height, width)
            parts = []
            for letter in "qkv":
                inner = projected(grid, f"{block}.attn.conv_proj_{letter}", 1 if letter == "q" else 2)
                inner = torch.cat([normed[:, :first], inner], 1)
                parts.append(linear(inner, f"{block}.attn.proj_{letter}").unflatten(-1, (heads, -1)).transpose(1, 2))
            scores = parts[0] @ parts[1].transpose(2, 3) * channels**-0.5
            mixed = (scores.softmax(-1) @ parts[2]).transpose(1, 2).flatten(2)
            tokens = tokens + linear(mixed, f"{block}.attn.proj")
            hidden = act(linear(layer_norm(tokens, f"{block}.norm2"), f"{block}.mlp.fc1"))
            tokens = tokens + linear(hidden, f"{block}.mlp.fc2")
        x = tokens[:, first:].transpose(1, 2).reshape(batch, channels, height, width)
    return linear(layer_norm(tokens[:, 0], "norm"), "head")


def test_an_original_cvt_computes_the_same_with_its_quick_gelu(tmp_path):
    tensors = cvt_file()
    torch.save(tensors, tmp_path / "a.pth")
    weights = find_weights(str(tmp_path / "a.pth"))
    assert weights.config["hidden_act"] == "quick_gelu"
    assert weights.statistics[0] == (0.485, 0.456, 0.406)
    model = load_model(weights).eval()
    assert type(model) is CvtForImageClassification
    with torch.no_grad():
        expected = cvt_forward(tensors, pixels(), lambda x: x * torch.sigmoid(1.702 * x))
        torch.testing.assert_close(model(pixels()).logits, expected, atol=1e-4, rtol=1e-4)


def test_an_original_cvt_goes_round_bit_by_bit_with_its_statistics(tmp_path):
    tensors = cvt_file()
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "a.pth")
    model = load_model(find_weights(str(tmp_path / "a.pth")))
    same_file(write_as(cvt_original.FORMAT, model.state_dict(), model.config.to_dict()), tensors)


def test_a_cvt_without_its_second_stage_is_refused_in_one_line(tmp_path):
    tensors = {n: t for n, t in cvt_file().items() if not n.startswith("stage1.patch_embed")}
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"looks like an original CvT.*not those of a whole network") as error:
        find_weights(str(tmp_path / "a.pth"))
    assert "\n" not in str(error.value)


TF_NAMES = (
    ("stage", "cvt/encoder/stages."),
    (".patch_embed.", "/embedding/convolution_embeddings/"),
    (".blocks.", "/layers."),
    (".norm1.", "/layernorm_before/"),
    (".norm2.", "/layernorm_after/"),
    (".attn.conv_proj_q.", "/attention/attention/convolution_projection_query/convolution_projection/"),
    (".attn.conv_proj_k.", "/attention/attention/convolution_projection_key/convolution_projection/"),
    (".attn.conv_proj_v.", "/attention/attention/convolution_projection_value/convolution_projection/"),
    (".attn.proj_q.", "/attention/attention/projection_query/"),
    (".attn.proj_k.", "/attention/attention/projection_key/"),
    (".attn.proj_v.", "/attention/attention/projection_value/"),
    (".attn.proj.", "/attention/output/dense/"),
    (".mlp.fc1.", "/intermediate/dense/"),
    (".mlp.fc2.", "/output/dense/"),
    ("/proj.", "/projection/"),
    ("/norm.", "/normalization/"),
    ("/bn.", "/normalization/"),
    ("/conv.", "/convolution/"),
)


def tf_file(path, tensors):
    """The same as Keras writes the weights of Hugging Face's TensorFlow class: a group per layer, full names in it."""
    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            if not name.endswith("num_batches_tracked"):
                array = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T if tensor.ndim == 2 else tensor
                file.create_dataset(tf_name(name), data=array.contiguous().numpy())
    return str(path)


def tf_name(name):
    if name == "stage1.cls_token":
        return "cvt/cvt.encoder.stages.1.cls_token:0"
    for theirs, tf in TF_NAMES:
        name = name.replace(theirs, tf)
    outer, _, end = name.rpartition("/" if "/" in name else ".")
    outer = {"norm": "layernorm", "head": "classifier"}.get(outer, outer)
    norm = "norm" in outer.rpartition("/")[2]
    words = {"weight": "gamma" if norm else "kernel", "bias": "beta" if norm else "bias"}
    words |= {"running_mean": "moving_mean", "running_var": "moving_variance"}
    return f"{outer.split('/')[0]}/tf_cvt_for_image_classification/{outer}/{words[end]}:0"


def test_a_cvt_of_tensorflow_computes_the_same_with_the_exact_gelu(tmp_path):
    tensors = cvt_file()
    weights = find_weights(tf_file(tmp_path / "tf_model.h5", tensors))
    assert "hidden_act" not in weights.config
    model = load_model(weights).eval()
    with torch.no_grad():
        expected = cvt_forward(tensors, pixels(), F.gelu)
        torch.testing.assert_close(model(pixels()).logits, expected, atol=1e-4, rtol=1e-4)
    same_file(write_as(cvt_original.FORMAT, model.state_dict(), model.config.to_dict()), tensors)


def test_a_folder_of_tensorflow_with_our_config_is_read(tmp_path):
    tf_file(tmp_path / "tf_model.h5", cvt_file())
    config = load_model(find_weights(str(tmp_path / "tf_model.h5"))).config
    config.save_pretrained(tmp_path)
    model = CvtForImageClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = cvt_forward(cvt_file(), pixels(), F.gelu)
        torch.testing.assert_close(model(pixels()).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("keep", [8, 600, -200])
def test_a_truncated_file_of_tensorflow_is_one_line(tmp_path, keep):
    path = tmp_path / "tf_model.h5"
    tf_file(path, cvt_file())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"tf_model\.h5") as error:
        find_weights(str(path))
    assert "\n" not in str(error.value)
