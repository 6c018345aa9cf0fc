"""Preset folders in KerasHub's layout, written by hand, and what its network computes, straight from their datasets."""

import json

import h5py
import numpy as np
import torch
from torch.nn import functional as F

SIZES = {
    "image_shape": [16, 36, 3],
    "patch_size": [8, 12],
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
}
SWITCHES = {"use_mha_bias": True, "use_mlp_bias": True, "use_class_token": True, "use_patch_bias": True}
FLOATS = {"dropout_rate": 0.0, "attention_dropout": 0.0, "layer_norm_epsilon": 1e-6}
FLOAT32 = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
EMBED, ENCODER = "layers/vi_t_patching_and_embedding", "layers/vi_t_encoder"


def arguments(**changes):
    """Arguments of ViTBackbone as KerasHub writes them: all of them but data_format."""
    given = {"name": "vi_t_backbone", "trainable": True, "dtype": FLOAT32, **SIZES, **FLOATS, **SWITCHES}
    return given | changes


def block_path(number):
    return f"{ENCODER}/encoder_layers/vi_t_encoder_block" + (f"_{number}" if number else "")


def shapes(given):
    """Every dataset of `model.weights.h5` with its shape."""
    (height, width, channels), (down, across) = given["image_shape"], given["patch_size"]
    heads, wide, mlp = given["num_heads"], given["hidden_dim"], given["mlp_dim"]
    each, tokens = wide // heads, (height // down) * (width // across) + given["use_class_token"]
    found = {
        f"{EMBED}/vars/0": (1, 1, wide) if given["use_class_token"] else None,
        f"{EMBED}/patch_embedding/vars/0": (down, across, channels, wide),
        f"{EMBED}/patch_embedding/vars/1": (wide,) if given["use_patch_bias"] else None,
        f"{EMBED}/position_embedding/vars/0": (tokens, wide),
        f"{ENCODER}/layer_norm/vars/0": (wide,),
        f"{ENCODER}/layer_norm/vars/1": (wide,),
    }
    for number in range(given["num_layers"]):
        path = block_path(number)
        for name in ("layer_norm_1", "layer_norm_2"):
            found |= {f"{path}/{name}/vars/{i}": (wide,) for i in (0, 1)}
        for name in ("query", "key", "value"):
            found[f"{path}/mha/{name}_dense/vars/0"] = (wide, heads, each)
            found[f"{path}/mha/{name}_dense/vars/1"] = (heads, each) if given["use_mha_bias"] else None
        found[f"{path}/mha/output_dense/vars/0"] = (heads, each, wide)
        found[f"{path}/mha/output_dense/vars/1"] = (wide,) if given["use_mha_bias"] else None
        for name, pair in (("dense_1", (wide, mlp)), ("dense_2", (mlp, wide))):
            found[f"{path}/mlp/{name}/vars/0"] = pair
            found[f"{path}/mlp/{name}/vars/1"] = pair[1:] if given["use_mlp_bias"] else None
    return {name: shape for name, shape in found.items() if shape is not None}


def draw(shapes, seed=0):
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_h5(path, datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
            file[name].parent.attrs["name"] = "some_layer"
        file.create_group("layers/input_layer/vars")  # Keras writes empty groups, too


def read_h5(path):
    """Every dataset of a file, by path."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def serialized(module, name, config):
    return {"module": f"keras_hub.src.models.vit.{module}", "class_name": name, "config": config} | {
        "registered_name": f"keras_hub>{name}"
    }


def write_preset(folder, given=None, head=None, task=None, converter=None):
    """Writes a folder as KerasHub does; returns the datasets of the backbone."""
    folder.mkdir(parents=True, exist_ok=True)
    given = arguments() if given is None else given
    backbone = serialized("vit_backbone", "ViTBackbone", given)
    (folder / "config.json").write_text(json.dumps(backbone, indent=4))
    datasets = draw(shapes(given))
    write_h5(folder / "model.weights.h5", datasets)
    if head is not None:
        beside = {"optimizer/vars/0": np.int32(0), "optimizer/vars/1": np.float32(5e-5)}
        write_h5(folder / "task.weights.h5", head | beside)
        inner = {"backbone": backbone, "preprocessor": None, "name": "vi_t_image_classifier", "num_classes": 5}
        inner |= {"pooling": "token", "activation": None, "dropout": 0.0, "intermediate_dim": None, **(task or {})}
        content = serialized("vit_image_classifier", "ViTImageClassifier", inner)
        (folder / "task.json").write_text(json.dumps(content, indent=4))
    if converter is not None:
        content = serialized("vit_image_converter", "ViTImageConverter", converter)
        (folder / "image_converter.json").write_text(json.dumps(content, indent=4))
    return datasets


def compute(datasets, given, images):
    """Tokens `(B, N + 1, D)` that KerasHub's layers make of images `(B, H, W, C)`, as products of its own tensors."""
    d = {name: torch.from_numpy(values).double() for name, values in datasets.items()}
    zero = torch.zeros(())
    down, across = given["patch_size"]
    batch, height, width, channels = images.shape
    cells = images.double().reshape(batch, height // down, down, width // across, across, channels)
    x = torch.einsum("bgihjc,ijcd->bghd", cells, d[f"{EMBED}/patch_embedding/vars/0"]).flatten(1, 2)
    x = x + d.get(f"{EMBED}/patch_embedding/vars/1", zero)
    if given["use_class_token"]:
        x = torch.cat([d[f"{EMBED}/vars/0"].expand(batch, -1, -1), x], 1)
    x = x + d[f"{EMBED}/position_embedding/vars/0"]

    def norm(x, path):
        return F.layer_norm(x, x.shape[-1:], d[f"{path}/vars/0"], d[f"{path}/vars/1"], given["layer_norm_epsilon"])

    def layer(x, path, product):
        return torch.einsum(product, x, d[f"{path}/vars/0"]) + d.get(f"{path}/vars/1", zero)

    for number in range(given["num_layers"]):
        path = block_path(number)
        y = norm(x, f"{path}/layer_norm_1")
        q, k, v = (layer(y, f"{path}/mha/{name}_dense", "btd,dhe->bthe") for name in ("query", "key", "value"))
        weights = (torch.einsum("bthe,bshe->bhts", q, k) * q.shape[-1] ** -0.5).softmax(-1)
        mixed = torch.einsum("bhts,bshe->bthe", weights, v)
        x = x + layer(mixed, f"{path}/mha/output_dense", "bthe,hed->btd")
        y = layer(norm(x, f"{path}/layer_norm_2"), f"{path}/mlp/dense_1", "btd,dm->btm")
        x = x + layer(F.gelu(y), f"{path}/mlp/dense_2", "btm,md->btd")
    return norm(x, f"{ENCODER}/layer_norm")
