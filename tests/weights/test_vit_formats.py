"""Files of other Vision Transformers, made here with the real layout: what ours computes with them, and back."""

import json
from functools import partial

import h5py
import msgpack
import numpy as np
import pytest
import reference_vit
import torch
from safetensors.torch import load_file, save_file

from mimsuite.errors import InputError
from mimsuite.models import AutoModel, ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from mimsuite.models.load import load_model
from mimsuite.weights.containers.msgpack_file import open_msgpack
from mimsuite.weights.containers.recognised import open_file
from mimsuite.weights.formats import flax_vit, jax_vit, timm_vit
from mimsuite.weights.formats.format import write_as
from mimsuite.weights.init import find_weights

WIDTH, HEADS, MLP, LAYERS, PATCH, SIDE, CLASSES = 64, 1, 96, 2, 4, 3, 5
TOKENS, IMAGE = SIDE**2 + 1, SIDE * PATCH
OLD = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
NEW = ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


def pixels():
    return torch.randn(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(9))


class Draw:
    """Random tensors, always the same."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape, scale=0.2):
        return torch.randn(*shape, generator=self.generator) * scale

    def norm(self, width=WIDTH):
        return 1 + self(width), self(width)


def agree(model, network, file_tokens=None):
    """Ours and the reference give the same tokens, and logits where there is a classifier."""
    model.eval()
    with torch.no_grad():
        expected = reference_vit.forward(network, pixels())
        vit = getattr(model, "vit", model)
        found = vit(pixels()).last_hidden_state
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
        if "head" in network:
            logits = reference_vit.dense(expected[:, 0], network["head"])
            torch.testing.assert_close(model(pixels()).logits, logits, atol=2e-5, rtol=1e-5)


def same_file(found, arrays):
    assert set(found) == set(arrays)
    assert all(torch.equal(torch.as_tensor(found[name]), torch.as_tensor(arrays[name])) for name in arrays)


# --- the original .npz ---------------------------------------------------------------------------------------


def jax_file(names=OLD, prefix="", width=WIDTH, heads=HEADS, **ends):
    """Arrays by name, and the network that they are."""
    draw, each = Draw(), width // heads
    arrays = {
        "cls": draw(1, 1, width),
        "embedding/kernel": draw(PATCH, PATCH, 3, width),
        "embedding/bias": draw(width),
        "Transformer/posembed_input/pos_embedding": draw(1, TOKENS, width),
    }
    arrays |= dict(
        zip(("Transformer/encoder_norm/scale", "Transformer/encoder_norm/bias"), draw.norm(width), strict=True)
    )
    network = {
        "patch": arrays["embedding/kernel"],
        "patch_bias": arrays["embedding/bias"],
        "cls": arrays["cls"][0, 0],
        "pos": arrays["Transformer/posembed_input/pos_embedding"][0],
        "norm": (arrays["Transformer/encoder_norm/scale"], arrays["Transformer/encoder_norm/bias"]),
        "eps": 1e-6,
        "heads": heads,
        "blocks": [],
    }
    first, attention, second, mlp = names
    for i in range(LAYERS):
        begin, block = f"Transformer/encoderblock_{i}", {}
        for key, name in (("ln1", first), ("ln2", second)):
            block[key] = draw.norm(width)
            arrays |= {f"{begin}/{name}/scale": block[key][0], f"{begin}/{name}/bias": block[key][1]}
        for key, name in (("q", "query"), ("k", "key"), ("v", "value")):
            kernel, bias = draw(width, heads, each), draw(heads, each)
            arrays |= {f"{begin}/{attention}/{name}/kernel": kernel, f"{begin}/{attention}/{name}/bias": bias}
            block[key] = kernel.reshape(width, width), bias.reshape(width)
        kernel, bias = draw(heads, each, width), draw(width)
        arrays |= {f"{begin}/{attention}/out/kernel": kernel, f"{begin}/{attention}/out/bias": bias}
        block["o"] = kernel.reshape(width, width), bias
        for key, name, shape in (("fc1", "Dense_0", (width, MLP)), ("fc2", "Dense_1", (MLP, width))):
            block[key] = draw(*shape), draw(shape[1])
            arrays |= {f"{begin}/{mlp}/{name}/kernel": block[key][0], f"{begin}/{mlp}/{name}/bias": block[key][1]}
        network["blocks"].append(block)
    for name, outputs in ends.items():
        arrays |= {f"{name}/kernel": draw(width, outputs), f"{name}/bias": draw(outputs)}
    if "head" in ends:
        network["head"] = arrays["head/kernel"], arrays["head/bias"]
    return {prefix + name: array for name, array in arrays.items()}, network


def npz(path, arrays):
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    return str(path)


@pytest.mark.parametrize(
    ("names", "prefix", "width", "heads"),
    [(OLD, "", 64, 1), (NEW, "opt/target/", 128, 2), (NEW, "params/", 64, 1), (OLD, "", 96, 3)],
)
def test_an_original_vit_computes_the_same_whatever_its_numbers_and_prefix(tmp_path, names, prefix, width, heads):
    arrays, network = jax_file(names, prefix, width, heads, head=CLASSES)
    weights = find_weights(npz(tmp_path / "a.npz", arrays))
    assert weights.config["num_attention_heads"] == heads
    assert weights.config["layer_norm_eps"] == 1e-6
    assert "hidden_act" not in weights.config
    assert weights.statistics == ((0.5,) * 3, (0.5,) * 3)
    agree(load_model(weights), network)


def test_the_activation_of_the_original_code_can_be_asked_for(tmp_path):
    arrays, network = jax_file()
    load_model(find_weights(npz(tmp_path / "a.npz", arrays))).save_pretrained(tmp_path / "vit")
    network["act"] = partial(torch.nn.functional.gelu, approximate="tanh")
    model = ViTModel.from_pretrained(tmp_path / "vit", hidden_act="gelu_new", add_pooling_layer=False)
    agree(model, network)


def test_an_original_vit_goes_round_bit_by_bit(tmp_path):
    arrays, _ = jax_file(head=CLASSES)
    model = load_model(find_weights(npz(tmp_path / "a.npz", arrays)))
    jax_vit.write(tmp_path / "b.npz", model.state_dict(), model.config.to_dict())
    same_file(dict(np.load(tmp_path / "b.npz")), arrays)


def test_an_old_file_with_pre_logits_is_an_encoder_with_a_pooler(tmp_path):
    arrays, network = jax_file(pre_logits=48, head=CLASSES)
    del network["head"]  # it stands behind the pooler
    weights = find_weights(npz(tmp_path / "a.npz", arrays))
    model = load_model(weights)
    assert type(model) is ViTModel
    assert weights.foreign.ignored == ("head/kernel", "head/bias")
    agree(model, network)
    with torch.no_grad():
        tokens = reference_vit.forward(network, pixels())
        expected = (tokens[:, 0] @ arrays["pre_logits/kernel"] + arrays["pre_logits/bias"]).tanh()
        torch.testing.assert_close(model(pixels()).pooler_output, expected, atol=2e-5, rtol=1e-5)


def test_positions_without_one_of_the_class_token_have_zeros_for_it(tmp_path):
    arrays, network = jax_file(NEW, "params/")
    table = arrays.pop("params/Transformer/posembed_input/pos_embedding")[:, 1:]
    arrays["params/pos_embedding"] = table
    network["pos"] = torch.cat([torch.zeros(1, WIDTH), table[0]])
    agree(load_model(find_weights(npz(tmp_path / "a.npz", arrays))), network)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MAPHead_0/probe", "attention pooling"),
        ("Transformer/encoderblock/LayerNorm_0/scale", "all blocks in one array each"),
        ("conv_root/kernel", "a convolutional stem"),
        (
            "Transformer/encoderblock_0/extra",
            "1 tensors that mimsuite does not know, such as Transformer/encoderblock_0",
        ),
    ],
)
def test_an_original_vit_of_another_kind_is_refused_by_name(tmp_path, name, reason):
    arrays, _ = jax_file()
    path = npz(tmp_path / "a.npz", arrays | {name: torch.zeros(2)})
    with pytest.raises(InputError, match=f"looks like an original Vision Transformer.*{reason}") as error:
        find_weights(path)
    assert "\n" not in str(error.value)


def test_a_file_without_a_layer_of_the_first_block_is_refused_in_one_line(tmp_path):
    arrays, _ = jax_file()
    del arrays["Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"]
    with pytest.raises(
        InputError, match=r"looks like .*but cannot be read.*its tensors are not those of a whole network"
    ) as error:
        find_weights(npz(tmp_path / "a.npz", arrays))
    assert "\n" not in str(error.value)


# --- Flax and TensorFlow -------------------------------------------------------------------------------------


def classic_file(words, classes=CLASSES):
    """Tensors by Hugging Face's names with dots, and the network that they are; `words` for kernel, scale, shift."""
    kernel, scale, shift = words
    draw = Draw()
    arrays = {
        "vit.embeddings.cls_token": draw(1, 1, WIDTH),
        "vit.embeddings.position_embeddings": draw(1, TOKENS, WIDTH),
        f"vit.embeddings.patch_embeddings.projection.{kernel}": draw(PATCH, PATCH, 3, WIDTH),
        "vit.embeddings.patch_embeddings.projection.bias": draw(WIDTH),
    }
    network = {
        "patch": arrays[f"vit.embeddings.patch_embeddings.projection.{kernel}"],
        "patch_bias": arrays["vit.embeddings.patch_embeddings.projection.bias"],
        "cls": arrays["vit.embeddings.cls_token"][0, 0],
        "pos": arrays["vit.embeddings.position_embeddings"][0],
        "eps": 1e-12,
        "heads": HEADS,
        "blocks": [],
    }

    def layer(name, inputs, outputs):
        made = draw(inputs, outputs), draw(outputs)
        arrays.update({f"{name}.{kernel}": made[0], f"{name}.bias": made[1]})
        return made

    def norm(name):
        made = draw.norm()
        arrays.update({f"{name}.{scale}": made[0], f"{name}.{shift}": made[1]})
        return made

    for i in range(LAYERS):
        begin = f"vit.encoder.layer.{i}"
        inner = f"{begin}.attention.attention"
        network["blocks"].append(
            {
                "ln1": norm(f"{begin}.layernorm_before"),
                "q": layer(f"{inner}.query", WIDTH, WIDTH),
                "k": layer(f"{inner}.key", WIDTH, WIDTH),
                "v": layer(f"{inner}.value", WIDTH, WIDTH),
                "o": layer(f"{begin}.attention.output.dense", WIDTH, WIDTH),
                "ln2": norm(f"{begin}.layernorm_after"),
                "fc1": layer(f"{begin}.intermediate.dense", WIDTH, MLP),
                "fc2": layer(f"{begin}.output.dense", MLP, WIDTH),
            }
        )
    network["norm"] = norm("vit.layernorm")
    if classes:
        network["head"] = layer("classifier", WIDTH, classes)
    return arrays, network


def flax_file(path, arrays, chunk=None):
    """As flax.serialization.to_bytes writes it; arrays longer than `chunk` values in pieces."""

    def packed(array):
        content = (array.shape, array.dtype.name, array.tobytes("C"))
        return msgpack.ExtType(1, msgpack.packb(content, use_bin_type=True))

    def leaf(array):
        if chunk is None or array.size <= chunk:
            return packed(array)
        flat = array.reshape(-1)
        pieces = [packed(flat[i : i + chunk]) for i in range(0, flat.size, chunk)]
        return {
            "__msgpack_chunked_array__": True,
            "shape": {str(n): side for n, side in enumerate(array.shape)},
            "chunks": {str(n): piece for n, piece in enumerate(pieces)},
        }

    tree = {}
    for name, array in arrays.items():
        *outer, last = name.split(".")
        inner = tree
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = leaf(array.numpy())
    path.write_bytes(msgpack.packb(tree, use_bin_type=True))
    return str(path)


@pytest.mark.parametrize("chunk", [None, 100])
def test_a_file_of_flax_computes_the_same_also_in_pieces(tmp_path, chunk):
    arrays, network = classic_file(("kernel", "scale", "bias"))
    weights = find_weights(flax_file(tmp_path / "flax_model.msgpack", arrays, chunk))
    assert weights.config["layer_norm_eps"] == 1e-12
    agree(load_model(weights), network)


def test_a_file_of_flax_goes_round_bit_by_bit_also_in_pieces(tmp_path, monkeypatch):
    arrays, _ = classic_file(("kernel", "scale", "bias"))
    model = load_model(find_weights(flax_file(tmp_path / "a.msgpack", arrays)))
    flax_vit.write(tmp_path, model.state_dict(), model.config.to_dict())
    assert (tmp_path / flax_vit.NAME).read_bytes() != b""
    same_file(open_msgpack(tmp_path / flax_vit.NAME), arrays)
    monkeypatch.setattr("mimsuite.weights.containers.msgpack_file.CHUNK", 4_000)
    flax_vit.write(tmp_path, model.state_dict(), model.config.to_dict())
    assert b"__msgpack_chunked_array__" in (tmp_path / flax_vit.NAME).read_bytes()
    same_file(open_msgpack(tmp_path / flax_vit.NAME), arrays)


def test_a_bare_encoder_has_no_prefix_in_a_file_of_flax(tmp_path):
    arrays, _ = classic_file(("kernel", "scale", "bias"), classes=0)
    model = load_model(find_weights(flax_file(tmp_path / "a.msgpack", arrays)))
    state = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    flax_vit.write(tmp_path, state, model.config.to_dict())
    same_file(
        open_msgpack(tmp_path / flax_vit.NAME), {name.removeprefix("vit."): array for name, array in arrays.items()}
    )


def tf_file(path, arrays, model="tf_vi_t_for_image_classification"):
    """As Keras writes the weights of Hugging Face's TensorFlow classes: a group per layer, full names in it."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            variable = name.replace(".", "/").replace("encoder/layer/", "encoder/layer_._")
            layer = name.split(".")[0]
            file.create_dataset(f"{layer}/{model}/{variable}:0", data=array.numpy())
    return str(path)


def test_a_file_of_tensorflow_computes_the_same(tmp_path):
    arrays, network = classic_file(("kernel", "gamma", "beta"))
    agree(load_model(find_weights(tf_file(tmp_path / "tf_model.h5", arrays))), network)


@pytest.mark.parametrize("keyword", ["from_flax", "from_tf"])
def test_a_folder_with_files_of_another_framework_is_read(tmp_path, keyword):
    flax, network = classic_file(("kernel", "scale", "bias"))
    config = load_model(find_weights(flax_file(tmp_path / "flax_model.msgpack", flax))).config
    config.changed(hidden_act="gelu", architectures=["ViTForImageClassification"]).save_pretrained(tmp_path)
    if keyword == "from_tf":
        (tmp_path / "flax_model.msgpack").unlink()
        tf_file(tmp_path / "tf_model.h5", classic_file(("kernel", "gamma", "beta"))[0])
    agree(ViTForImageClassification.from_pretrained(tmp_path), network)
    agree(load_model(find_weights(str(tmp_path))), network)
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    agree(ViTForImageClassification.from_pretrained(tmp_path, **{keyword: True}), network)
    network.pop("head")
    with pytest.warns(UserWarning, match=r"not in the model: classifier\.bias, classifier\.weight"):
        bare = AutoModel.from_pretrained(tmp_path, **{keyword: True}, add_pooling_layer=False)
    agree(bare, network)


def test_a_folder_without_the_files_asked_for_says_so(tmp_path):
    arrays, _ = classic_file(("kernel", "scale", "bias"))
    config = load_model(find_weights(flax_file(tmp_path / "flax_model.msgpack", arrays))).config
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"only flax_model\.msgpack.*expected tf_model\.h5"):
        ViTModel.from_pretrained(tmp_path, from_tf=True)
    with pytest.raises(InputError, match=r"use_safetensors and from_flax name different files"):
        ViTModel.from_pretrained(tmp_path, from_flax=True, use_safetensors=True)


@pytest.mark.parametrize("keep", [1, 40, 3_000, -1])
def test_a_truncated_file_of_flax_is_one_line(tmp_path, keep):
    path = tmp_path / "flax_model.msgpack"
    flax_file(path, classic_file(("kernel", "scale", "bias"))[0])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"flax_model\.msgpack") as error:
        find_weights(str(path))
    assert "\n" not in str(error.value)


# --- SimMIM and MAE ------------------------------------------------------------------------------------------


def timm_blocks(draw, network, begin="blocks", width=WIDTH, mlp=MLP):
    """Blocks with timm's names, which are added to `network["blocks"]`."""
    tensors = {}

    def layer(name, inputs, outputs):
        weight, bias = draw(outputs, inputs), draw(outputs)
        tensors.update({f"{name}.weight": weight, f"{name}.bias": bias})
        return weight.T, bias

    def norm(name):
        made = draw.norm(width)
        tensors.update({f"{name}.weight": made[0], f"{name}.bias": made[1]})
        return made

    for i in range(LAYERS):
        block = {"ln1": norm(f"{begin}.{i}.norm1"), "ln2": norm(f"{begin}.{i}.norm2")}
        kernel, bias = layer(f"{begin}.{i}.attn.qkv", width, 3 * width)
        for n, name in enumerate("qkv"):
            part = slice(n * width, (n + 1) * width)
            block[name] = kernel[:, part], bias[part]
        block["o"] = layer(f"{begin}.{i}.attn.proj", width, width)
        block["fc1"] = layer(f"{begin}.{i}.mlp.fc1", width, mlp)
        block["fc2"] = layer(f"{begin}.{i}.mlp.fc2", mlp, width)
        network["blocks"].append(block)
    return tensors


def timm_file(draw=None):
    """An encoder with timm's names, and the network that it is."""
    draw = draw or Draw()
    network = {"eps": 1e-6, "heads": HEADS, "blocks": []}
    tensors = {
        "cls_token": draw(1, 1, WIDTH),
        "pos_embed": draw(1, TOKENS, WIDTH),
        "patch_embed.proj.weight": draw(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": draw(WIDTH),
        **timm_blocks(draw, network),
        **dict(zip(("norm.weight", "norm.bias"), draw.norm(), strict=True)),
    }
    network |= {
        "patch": tensors["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "patch_bias": tensors["patch_embed.proj.bias"],
        "cls": tensors["cls_token"][0, 0],
        "pos": tensors["pos_embed"][0],
        "norm": (tensors["norm.weight"], tensors["norm.bias"]),
    }
    return tensors, network


def simmim_file():
    """A pretrained network of SimMIM's code, and the network that it is."""
    tensors, network = timm_file()
    draw = Draw(1)
    del tensors["pos_embed"]
    network["pos"] = None
    tensors |= {
        "mask_token": draw(1, 1, WIDTH),
        "rel_pos_bias.relative_position_bias_table": draw((2 * SIDE - 1) ** 2 + 3, HEADS),
        "rel_pos_bias.relative_position_index": torch.zeros(TOKENS, TOKENS, dtype=torch.int64),
    }
    for i, block in enumerate(network["blocks"]):
        bias = tensors.pop(f"blocks.{i}.attn.qkv.bias").chunk(3)
        tensors |= {f"blocks.{i}.attn.q_bias": bias[0], f"blocks.{i}.attn.v_bias": bias[2]}
        block["k"] = block["k"][0], torch.zeros(WIDTH)
        block["scales"] = draw(WIDTH), draw(WIDTH)
        tensors |= {f"blocks.{i}.gamma_{n}": scale for n, scale in enumerate(block["scales"], 1)}
    network["bias"] = relative(tensors["rel_pos_bias.relative_position_bias_table"])
    state = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    return state | {"decoder.0.weight": draw(3 * PATCH**2, WIDTH, 1, 1), "decoder.0.bias": draw(3 * PATCH**2)}, network


def relative(table):
    """The bias of every pair of tokens, (heads, T, T)."""
    bias = torch.zeros(HEADS, TOKENS, TOKENS)
    for a in range(TOKENS):
        for b in range(TOKENS):
            (r1, c1), (r2, c2) = divmod(a - 1, SIDE), divmod(b - 1, SIDE)
            row = (r1 - r2 + SIDE - 1) * (2 * SIDE - 1) + c1 - c2 + SIDE - 1
            if a == 0 or b == 0:
                row = len(table) - 3 + {(True, False): 0, (False, True): 1, (True, True): 2}[a == 0, b == 0]
            bias[:, a, b] = table[row]
    return bias


def test_a_pretrained_vit_of_simmim_computes_the_same_and_has_its_decoder(tmp_path):
    tensors, network = simmim_file()
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "a.pth")
    weights = find_weights(str(tmp_path / "a.pth"))
    assert weights.config["layer_scale_init_value"] == 0.1
    assert weights.foreign.ignored == ("rel_pos_bias.relative_position_index",)
    model = load_model(weights)
    assert type(model) is ViTForMaskedImageModeling
    agree(model, network)
    mask = torch.zeros(2, TOKENS - 1, dtype=torch.bool)
    mask[:, 2] = True
    with torch.no_grad():
        tokens = reference_vit.forward(network, pixels())[:, 1:]
        cells = tokens @ tensors["decoder.0.weight"].flatten(1).T + tensors["decoder.0.bias"]
        cells = cells.reshape(2, SIDE, SIDE, 3, PATCH, PATCH)
        expected = torch.einsum("bhwcpq->bchpwq", cells).reshape(2, 3, IMAGE, IMAGE)
        torch.testing.assert_close(model(pixels()).reconstruction, expected, atol=2e-5, rtol=1e-5)
        assert torch.equal(model.vit.embeddings.mask_token, tensors["encoder.mask_token"])
        assert model(pixels(), mask).loss > 0


def test_a_pretrained_vit_of_simmim_goes_round_bit_by_bit(tmp_path):
    from mimsuite.weights.formats import simmim_vit

    tensors, _ = simmim_file()
    torch.save(tensors, tmp_path / "a.pth")
    model = load_model(find_weights(str(tmp_path / "a.pth")))
    state = model.state_dict()
    made = write_as(simmim_vit.FORMAT, state, model.config.to_dict())
    index = "rel_pos_bias.relative_position_index"
    same_file(made, {n.removeprefix("encoder."): t for n, t in tensors.items() if not n.endswith(index)})
    state["vit.encoder.layer.0.attention.attention.key.bias"] = torch.ones(WIDTH)
    with pytest.raises(InputError, match="a bias of keys that is not 0 has no place"):
        write_as(simmim_vit.FORMAT, state, model.config.to_dict())


def mae_file():
    """A whole pretrained MAE, its encoder's network, and that of its decoder."""
    tensors, network = timm_file()
    draw, width = Draw(2), 32
    decoder = {"eps": 1e-6, "heads": 16, "blocks": []}
    tensors |= {
        "mask_token": draw(1, 1, width),
        "decoder_pos_embed": draw(1, TOKENS, width),
        "decoder_embed.weight": draw(width, WIDTH),
        "decoder_embed.bias": draw(width),
        **timm_blocks(draw, decoder, "decoder_blocks", width, 48),
        **dict(zip(("decoder_norm.weight", "decoder_norm.bias"), draw.norm(width), strict=True)),
        "decoder_pred.weight": draw(3 * PATCH**2, width),
        "decoder_pred.bias": draw(3 * PATCH**2),
    }
    return tensors, network, decoder


def test_a_whole_mae_computes_the_same_with_all_patches_and_with_some_dropped(tmp_path):
    tensors, network, decoder = mae_file()
    torch.save({"model": tensors, "optimizer": {}}, tmp_path / "a.pth")
    weights = find_weights(str(tmp_path / "a.pth"))
    assert weights.has_decoder
    model = load_model(weights)
    assert type(model) is ViTForMaskedImageModeling
    assert model.config.mim_target == "norm_pixels"
    assert weights.foreign.report().endswith("; its decoder is taken to predict norm_pixels")
    agree(model, network)
    hidden = torch.zeros(2, TOKENS - 1, dtype=torch.bool)
    hidden[:, [0, 4, 7]] = True
    visible = [n for n in range(TOKENS - 1) if n not in (0, 4, 7)]
    with torch.no_grad():
        tokens = dropped(network, pixels(), visible)
        inner = tokens @ tensors["decoder_embed.weight"].T + tensors["decoder_embed.bias"]
        whole = tensors["mask_token"].repeat(2, TOKENS, 1)
        whole[:, [0, *(n + 1 for n in visible)]] = inner
        whole = whole + tensors["decoder_pos_embed"]
        for block in decoder["blocks"]:
            normed = reference_vit.norm(whole, block["ln1"], 1e-6)
            whole = whole + reference_vit.attention(normed, block, decoder)
            hidden_layer = reference_vit.dense(reference_vit.norm(whole, block["ln2"], 1e-6), block["fc1"])
            whole = whole + reference_vit.dense(torch.nn.functional.gelu(hidden_layer), block["fc2"])
        last = reference_vit.norm(whole, (tensors["decoder_norm.weight"], tensors["decoder_norm.bias"]), 1e-6)
        cells = last[:, 1:] @ tensors["decoder_pred.weight"].T + tensors["decoder_pred.bias"]
        cells = cells.reshape(2, SIDE, SIDE, PATCH, PATCH, 3)  # row, column, channel
        expected = torch.einsum("bhwpqc->bchpwq", cells).reshape(2, 3, IMAGE, IMAGE)
        torch.testing.assert_close(model(pixels(), hidden).reconstruction, expected, atol=3e-5, rtol=1e-5)


def dropped(network, images, visible):
    """The encoder on some patches only."""
    whole = {**network, "blocks": [], "norm": (torch.ones(WIDTH), torch.zeros(WIDTH))}
    kernel, batch = whole["patch"], len(images)
    cells = images.reshape(batch, 3, SIDE, PATCH, SIDE, PATCH)
    tokens = torch.einsum("bchpwq,pqcd->bhwd", cells, kernel).flatten(1, 2) + whole["patch_bias"]
    tokens = torch.cat([whole["cls"].expand(batch, 1, WIDTH), tokens], 1) + whole["pos"]
    tokens = tokens[:, [0, *(n + 1 for n in visible)]]
    for block in network["blocks"]:
        normed = reference_vit.norm(tokens, block["ln1"], 1e-6)
        tokens = tokens + reference_vit.attention(normed, block, network)
        inner = reference_vit.dense(reference_vit.norm(tokens, block["ln2"], 1e-6), block["fc1"])
        tokens = tokens + reference_vit.dense(torch.nn.functional.gelu(inner), block["fc2"])
    return reference_vit.norm(tokens, network["norm"], 1e-6)


def test_a_whole_mae_goes_round_bit_by_bit(tmp_path):
    from mimsuite.weights.formats import mae_original

    tensors, _, _ = mae_file()
    save_file(tensors, tmp_path / "a.safetensors")
    model = load_model(find_weights(str(tmp_path / "a.safetensors")))
    same_file(write_as(mae_original.FORMAT, model.state_dict(), model.config.to_dict()), tensors)


# --- timm, DeiT, DINO ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [None, "model", "state_dict", "teacher"])
def test_an_encoder_of_timm_deit_or_dino_computes_the_same(tmp_path, place):
    tensors, network = timm_file()
    if place == "model":  # DeiT's code
        tensors |= {"head.weight": Draw(4)(CLASSES, WIDTH), "head.bias": Draw(5)(CLASSES)}
        network["head"] = tensors["head.weight"].T, tensors["head.bias"]
    file = tensors
    if place == "teacher":  # DINO's
        file = {f"module.backbone.{name}": tensor for name, tensor in tensors.items()}
        file |= {"module.head.mlp.0.weight": torch.zeros(3, 3), "module.head.last_layer.weight_g": torch.zeros(3, 1)}
    torch.save({place: file, "epoch": 1} if place else file, tmp_path / "a.pth")
    weights = find_weights(str(tmp_path / "a.pth"))
    assert weights.config["num_attention_heads"] == HEADS
    assert len(weights.foreign.ignored) == 2 * (place == "teacher")
    assert weights.preprocessor == {}
    agree(load_model(weights), network)


def test_layer_scale_and_positions_of_patches_only_are_read_as_deit_iii_has_them(tmp_path):
    tensors, network = timm_file()
    tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    network["pos"] = torch.cat([torch.zeros(1, WIDTH), network["pos"][1:]])
    for i, block in enumerate(network["blocks"]):
        block["scales"] = Draw(6 + i)(WIDTH), Draw(8 + i)(WIDTH)
        tensors |= {f"blocks.{i}.gamma_{n}": scale for n, scale in enumerate(block["scales"], 1)}
    save_file(tensors, tmp_path / "a.safetensors")
    agree(load_model(find_weights(str(tmp_path / "a.safetensors"))), network)


def test_a_fine_tuned_mae_norms_the_mean_of_its_patches(tmp_path):
    tensors, network = timm_file()
    tensors |= {f"fc_norm.{end}": tensors.pop(f"norm.{end}") for end in ("weight", "bias")}
    tensors |= {"head.weight": Draw(4)(CLASSES, WIDTH), "head.bias": Draw(5)(CLASSES)}
    torch.save({"model": tensors}, tmp_path / "a.pth")
    model = load_model(find_weights(str(tmp_path / "a.pth"))).eval()
    with torch.no_grad():
        tokens = reference_vit.forward(network | {"norm": None}, pixels())
        mean = reference_vit.norm(tokens[:, 1:].mean(1), network["norm"], 1e-6)
        expected = mean @ tensors["head.weight"].T + tensors["head.bias"]
        torch.testing.assert_close(model(pixels()).logits, expected, atol=2e-5, rtol=1e-5)
    same_file(write_as(timm_vit.FORMAT, model.state_dict(), model.config.to_dict()), tensors)


@pytest.mark.parametrize("names", [("fc1", "fc2"), ("w12", "w3")])
def test_gated_mlps_registers_and_mask_token_are_read_as_dinov2_has_them(tmp_path, names):
    tensors, network = timm_file()
    for i, block in enumerate(network["blocks"]):
        block["gate"] = Draw(6 + i)(WIDTH, MLP), Draw(8 + i)(MLP)
        for end in ("weight", "bias"):
            first, second = (tensors.pop(f"blocks.{i}.mlp.{name}.{end}") for name in ("fc1", "fc2"))
            gate = block["gate"][0].T if end == "weight" else block["gate"][1]
            tensors |= {f"blocks.{i}.mlp.{names[0]}.{end}": torch.cat([first, gate])}
            tensors |= {f"blocks.{i}.mlp.{names[1]}.{end}": second}
    tensors |= {"mask_token": Draw(3)(1, WIDTH), "register_tokens": Draw(4)(1, 2, WIDTH)}
    network["registers"] = tensors["register_tokens"][0]
    save_file(tensors, tmp_path / "a.safetensors")
    weights = find_weights(str(tmp_path / "a.safetensors"))
    assert weights.config["use_gated_mlp"]
    agree(load_model(weights), network)


def test_a_file_of_dinov2_with_registers_smooths_positions_that_are_made_fewer(tmp_path):
    tensors, _ = timm_file()
    table, fewer = tensors["pos_embed"], (SIDE - 1, SIDE - 1)
    tensors |= {"mask_token": Draw(3)(1, WIDTH), "register_tokens": Draw(4)(1, 2, WIDTH)}
    save_file(tensors, tmp_path / "a.safetensors")
    model = load_model(find_weights(str(tmp_path / "a.safetensors")))
    model.set_image_size(fewer[0] * PATCH)
    cells = table[:, 1:].transpose(1, 2).unflatten(2, (SIDE, SIDE))
    smoothed = torch.nn.functional.interpolate(cells, fewer, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.embeddings.position_embeddings, torch.cat([table[:, :1], smoothed], 1))


def test_a_fine_tuned_vit_of_simmim_or_beit_has_positions_in_every_block(tmp_path):
    tensors, network = simmim_file()
    state = {n.removeprefix("encoder."): t for n, t in tensors.items() if not n.startswith(("decoder", "encoder.rel"))}
    del state["mask_token"]
    for i, block in enumerate(network["blocks"]):
        state[f"blocks.{i}.attn.relative_position_bias_table"] = Draw(20 + i)((2 * SIDE - 1) ** 2 + 3, HEADS)
        state[f"blocks.{i}.attn.relative_position_index"] = torch.zeros(TOKENS, TOKENS, dtype=torch.int64)
        block["bias"] = relative(state[f"blocks.{i}.attn.relative_position_bias_table"])
    state |= {f"fc_norm.{end}": state.pop(f"norm.{end}") for end in ("weight", "bias")}
    state |= {"head.weight": Draw(4)(CLASSES, WIDTH), "head.bias": Draw(5)(CLASSES)}
    torch.save({"model": state}, tmp_path / "a.pth")
    model = load_model(find_weights(str(tmp_path / "a.pth"))).eval()
    network["bias"] = None
    with torch.no_grad():
        tokens = reference_vit.forward(network | {"norm": None}, pixels())
        mean = reference_vit.norm(tokens[:, 1:].mean(1), network["norm"], 1e-6)
        expected = mean @ state["head.weight"].T + state["head.bias"]
        torch.testing.assert_close(model(pixels()).logits, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fc_norm.weight", r"with two \(norm and fc_norm\)"),
        ("norm_pre.weight", "norm_pre"),
        ("attn_pool.latent", "attention pooling"),
        ("dist_token", "distillation token"),
        ("patch_embed.backbone.stem.conv.weight", "hybrid"),
        ("blocks.0.attn.q_norm.weight", "q_norm"),
        ("neck.weight", "1 tensors that mimsuite does not know, such as neck.weight"),
    ],
)
def test_an_encoder_that_ours_is_not_is_refused_by_name(tmp_path, name, reason):
    save_file(timm_file()[0] | {name: torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=f"^init=.*looks like a Vision Transformer of timm.*{reason}") as error:
        find_weights(str(tmp_path / "a.safetensors"))
    assert "\n" not in str(error.value)


def test_a_width_whose_heads_are_not_known_is_refused(tmp_path):
    arrays = {
        "patch_embed.proj.weight": torch.zeros(40, 3, 4, 4),
        "blocks.0.attn.qkv.weight": torch.zeros(120, 40),
        "blocks.0.mlp.fc1.weight": torch.zeros(80, 40),
        "norm.weight": torch.zeros(40),
    }
    save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="40 wide, whose number of heads is not known"):
        find_weights(str(tmp_path / "a.safetensors"))


def timm_folder(tmp_path, **options):
    """A folder that we wrote for timm, and the model."""
    tensors, _ = timm_file()
    tensors |= {"head.weight": Draw(4)(CLASSES, WIDTH), "head.bias": Draw(5)(CLASSES)}
    save_file(tensors, tmp_path / "a.safetensors")
    first = load_model(find_weights(str(tmp_path / "a.safetensors")))
    model = ViTForImageClassification(first.config.changed(**options))
    model.load_state_dict(first.state_dict(), strict=False)
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    timm_vit.write(tmp_path / "timm", model.state_dict(), model.config.to_dict(), statistics)
    return model.eval(), tmp_path / "timm"


@pytest.mark.parametrize(
    "options", [{}, {"classifier_pool": "mean", "layer_scale_init_value": 0.1, "id2label": dict(enumerate("abcde"))}]
)
def test_a_folder_for_timm_is_read_back_bit_by_bit(tmp_path, options):
    model, folder = timm_folder(tmp_path, **options)
    weights = find_weights(str(folder))
    assert weights.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    back = load_model(weights)
    same_file(back.state_dict(), model.state_dict())
    assert back.config.id2label == model.config.id2label
    with torch.no_grad():
        assert torch.equal(back.eval()(pixels()).logits, model(pixels()).logits)


SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32} | {
    "image_size": 8,
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
}


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": (8, 12), "patch_size": 2},  # 24 patches: with the class token as many as a square has
        {"image_size": (16, 4), "patch_size": 2},  # a square number of patches
        {"hidden_act": "gelu_pytorch_tanh"},
        {"hidden_act": "quick_gelu"},
        {"hidden_act": "relu"},
    ],
)
def test_a_folder_of_timm_says_the_size_and_the_activation(tmp_path, options):
    model = ViTForImageClassification(ViTConfig(**(SMALL | options)))
    timm_vit.write(tmp_path / "timm", model.state_dict(), model.config.to_dict(), {})
    back = load_model(find_weights(str(tmp_path / "timm")))
    same_file(back.state_dict(), model.state_dict())
    assert (back.config.fixed_size, back.config.hidden_act) == (model.config.fixed_size, model.config.hidden_act)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architecture": "vit_base_patch16_rpn_224"}, "norms behind attention and MLP"),
        ({"model_args": {"act_layer": "mish"}}, "act_layer=mish; known are gelu, "),
        ({"global_pool": "avgmax"}, "global_pool=avgmax, which no classifier here has"),
    ],
)
def test_a_folder_of_timm_with_the_names_of_another_network_is_refused(tmp_path, change, reason):
    _, folder = timm_folder(tmp_path)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=reason) as error:
        find_weights(str(folder))
    assert "\n" not in str(error.value)


def of_hub(folder, **changes):
    """A folder of timm as its hub has it: `config.json` names the architecture, and no arguments of it."""
    content = json.loads((folder / "config.json").read_text()) | changes
    del content["model_args"]
    (folder / "config.json").write_text(json.dumps(content))
    return find_weights(str(folder))


@pytest.mark.parametrize(
    ("architecture", "heads", "act"),
    [
        ("vit_base_patch16_224", 1, "gelu"),
        ("test_vit", 2, "gelu"),
        ("vit_base_patch16_gap_224", 16, "gelu"),
        ("vit_giantopt_patch16_siglip_gap_384", 16, "gelu_pytorch_tanh"),
        ("vit_so400m_patch14_siglip_gap_224", 1, "gelu"),
        ("vit_so400m_patch16_siglip_gap_256", 1, "gelu_pytorch_tanh"),
        ("vit_base_patch32_siglip_gap_256", 1, "gelu_pytorch_tanh"),
        ("vit_base_patch16_siglip_gap_256", 1, "gelu"),
        ("vit_large_patch16_siglip_gap_512", 1, "gelu_pytorch_tanh"),
    ],
)
def test_a_folder_of_timms_hub_has_the_heads_and_the_activation_of_its_architecture(tmp_path, architecture, heads, act):
    config = load_model(of_hub(timm_folder(tmp_path)[1], architecture=architecture)).config
    assert (config.num_attention_heads, config.hidden_act) == (heads, act)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_norm_behind_the_pool_leaves_what_is_pooled_to_the_config_of_timm(tmp_path, pool):
    ours = {"token": "cls", "avg": "mean"}[pool]
    model, folder = timm_folder(tmp_path, norm_after_pool=True, classifier_pool=ours)
    back = load_model(of_hub(folder, global_pool=pool)).eval()
    with torch.no_grad():
        assert torch.equal(back(pixels()).logits, model(pixels()).logits)


def test_the_norm_of_a_timm_folder_of_beit_and_its_classes_are_those_of_its_config(tmp_path):
    tensors, _ = simmim_file()
    state = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if "decoder" not in name}
    state |= {"head.weight": Draw(4)(2, WIDTH), "head.bias": Draw(5)(2)}
    save_file(state, tmp_path / "model.safetensors")
    trained = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "label_names": ["cat", "dog"]}
    content = {"architecture": "beit_base_patch16_224", "pretrained_cfg": trained}
    (tmp_path / "config.json").write_text(json.dumps(content))
    weights = find_weights(str(tmp_path))
    assert weights.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert load_model(weights).config.id2label == {0: "cat", 1: "dog"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"classifier_pool": "mean"},
        {"layer_scale_init_value": 0.1},
        {"classifier_pool": "mean", "norm_after_pool": True},
        {"hidden_act": "quick_gelu"},
        {"hidden_act": "gelu_new"},
    ],
)
def test_timm_computes_the_same_from_a_folder_that_we_wrote(tmp_path, options):
    timm = pytest.importorskip("timm")
    model, folder = timm_folder(tmp_path, **options)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels()), model(pixels()).logits, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"label_names": ["a"]},
        {"label_names": 7},
        {"model_args": 3},
        {"model_args": {"num_heads": "x"}},
        {"pretrained_cfg": []},
    ],
)
def test_a_config_of_timm_that_makes_no_sense_is_not_followed(tmp_path, change):
    model, folder = timm_folder(tmp_path)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))
    back = load_model(find_weights(str(folder)))
    same_file(back.state_dict(), model.state_dict())
    assert back.config.id2label == model.config.id2label


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_base_patch16_224", {}),
        ("vit_base_patch16_224", {"class_token": False, "global_pool": "avg", "fc_norm": False}),
        ("vit_base_patch16_224", {"qkv_bias": False, "init_values": 0.1, "num_classes": 0}),
        ("vit_base_patch16_224", {"no_embed_class": True, "reg_tokens": 2}),
        ("vit_base_patch16_224", {"global_pool": "avg"}),
        ("vit_base_patch16_224", {"global_pool": "avg", "class_token": False}),
        ("vit_giant_patch14_reg4_dinov2", {"mlp_ratio": 3.0}),
        ("deit3_base_patch16_224", {}),
    ],
)
def test_ours_computes_the_same_as_timm(tmp_path, name, options):
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    theirs = timm.create_model(name, **(sizes | options)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    timm.models.save_for_hf(theirs, tmp_path / "timm", safe_serialization=True)
    weights = find_weights(str(tmp_path / "timm"))
    assert weights.statistics[0] == tuple(theirs.pretrained_cfg["mean"])
    model = load_model(weights).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        if options.get("num_classes") == 0:
            torch.testing.assert_close(model(x).last_hidden_state, theirs.forward_features(x), atol=2e-5, rtol=1e-5)
        else:
            torch.testing.assert_close(model(x).logits, theirs(x), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("vit_base_patch16_clip_224", {}, "norm_pre"),
        ("vit_base_patch16_siglip_224", {}, "attn_pool"),
        ("deit_base_distilled_patch16_224", {}, "dist_token"),
    ],
)
def test_what_timm_has_and_ours_has_not_is_refused_by_name(tmp_path, name, options, reason):
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 1, "num_heads": 2}
    torch.save(timm.create_model(name, **sizes, **options).state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=reason):
        find_weights(str(tmp_path / "a.pth"))


def test_timm_reads_an_npz_that_we_wrote(tmp_path):
    timm = pytest.importorskip("timm")
    arrays, _ = jax_file(head=CLASSES)
    model = load_model(find_weights(npz(tmp_path / "a.npz", arrays))).eval()
    jax_vit.write(tmp_path / "b.npz", model.state_dict(), model.config.to_dict())
    sizes = {"img_size": IMAGE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS}
    theirs = timm.create_model("vit_base_patch16_224", **sizes, mlp_ratio=MLP / WIDTH, num_classes=CLASSES)
    theirs.load_pretrained(tmp_path / "b.npz")
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(pixels()), model(pixels()).logits, atol=2e-5, rtol=1e-5)


def test_a_network_that_timm_has_not_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"num_register_tokens=2 without positions: timm"):
        timm_folder(tmp_path, num_register_tokens=2)
    with pytest.raises(InputError, match=r"hidden_act=selu: timm"):
        timm_folder(tmp_path, hidden_act="selu")
    both = ViTForImageClassification(ViTConfig(**SMALL, classifier_pool="both"))
    with pytest.raises(InputError, match=r"classifier_pool=both: timm"):
        timm_vit.write(tmp_path / "timm", both.state_dict(), both.config.to_dict(), {})


@pytest.mark.parametrize(
    "options",
    [{"hidden_act": "relu"}, {"use_gated_mlp": True}, {"classifier_pool": "mean"}, {"classifier_pool": "both"}],
)
def test_what_a_file_of_the_published_code_does_not_say_is_not_written(tmp_path, options):
    model = ViTForImageClassification(ViTConfig(**SMALL, **options))
    (name, value), *_ = options.items()
    with pytest.raises(InputError, match=f"^{name}={value}: .*use to=hf"):
        jax_vit.write(tmp_path / "model.npz", model.state_dict(), model.config.to_dict())
    assert not (tmp_path / "model.npz").exists()


def test_a_file_of_nothing_known_says_what_is(tmp_path):
    save_file({"features.0.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"1 tensors of no known format \(such as features\.0\.weight\); known are"):
        find_weights(str(tmp_path / "a.safetensors"))
    assert set(load_file(tmp_path / "a.safetensors")) == set(open_file(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("channels", [1, 4])
def test_statistics_of_colour_images_are_not_those_of_other_channels(tmp_path, channels):
    model = ViTModel(ViTConfig(**SMALL, num_channels=channels), add_pooling_layer=False)
    jax_vit.write(tmp_path / "model.npz", model.state_dict(), model.config.to_dict())
    timm_vit.write(tmp_path / "timm", model.state_dict(), model.config.to_dict(), {})
    for name in ("model.npz", "timm"):
        weights = find_weights(str(tmp_path / name))
        assert weights.statistics is None
        assert load_model(weights).config.num_channels == channels
    beside = {"image_mean": [0.5] * 2, "image_std": [0.5] * 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(beside))
    weights = find_weights(str(tmp_path / "model.npz"))
    with pytest.raises(InputError, match=rf"image_mean has 2 values for {channels} channels"):
        getattr(weights, "statistics")  # noqa: B009 - it is read


def test_a_file_is_normalised_as_what_lies_beside_it_says(tmp_path):
    model = ViTModel(ViTConfig(**SMALL))
    jax_vit.write(tmp_path / "model.npz", model.state_dict(), model.config.to_dict())
    assert find_weights(str(tmp_path / "model.npz")).statistics == ((0.5,) * 3, (0.5,) * 3)
    beside = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(beside))
    assert find_weights(str(tmp_path / "model.npz")).statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
