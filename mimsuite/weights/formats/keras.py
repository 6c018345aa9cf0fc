"""KerasHub's `ViTBackbone` and its classifier: the datasets of `.weights.h5` files, and the names of arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mimsuite.errors import InputError, reading
from mimsuite.weights.formats.format import Format, Found, square
from mimsuite.weights.formats.mapping import CONV, DENSE, FROM_HEADS, INTO_HEADS, OF_HEADS, SAME, Form, Rule, Table
from mimsuite.weights.tensors import Tensors, in_memory

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "KerasHub's ViTBackbone"
FIRST_ROW = Form(lambda t, _: (t[None],), lambda ts, _: ts[0][0])
"""`(N, D)` there, `(1, N, D)` here."""


def _layer(theirs: str, ours: str, weight: Form = SAME, bias: Form = SAME) -> Iterator[Rule]:
    """The rules for the two variables of a layer."""
    yield Rule(f"{theirs}/vars/0", f"{ours}.weight", weight)
    yield Rule(f"{theirs}/vars/1", f"{ours}.bias", bias)


PATCHES, BLOCKS = "layers/vi_t_patching_and_embedding", "layers/vi_t_encoder/encoder_layers/vi_t_encoder_block"
BLOCK, LAYER = f"{BLOCKS}_{{i}}", "encoder.layer.{i}"  # Keras gives the first block no number, see `canonical`
ENCODER = (
    Rule(f"{PATCHES}/vars/0", "embeddings.cls_token"),
    *_layer(f"{PATCHES}/patch_embedding", "embeddings.patch_embeddings.projection", CONV),
    Rule(f"{PATCHES}/position_embedding/vars/0", "embeddings.position_embeddings", FIRST_ROW),
    *_layer(f"{BLOCK}/layer_norm_1", f"{LAYER}.layernorm_before"),
    *_layer(f"{BLOCK}/mha/query_dense", f"{LAYER}.attention.attention.query", INTO_HEADS, OF_HEADS),
    *_layer(f"{BLOCK}/mha/key_dense", f"{LAYER}.attention.attention.key", INTO_HEADS, OF_HEADS),
    *_layer(f"{BLOCK}/mha/value_dense", f"{LAYER}.attention.attention.value", INTO_HEADS, OF_HEADS),
    *_layer(f"{BLOCK}/mha/output_dense", f"{LAYER}.attention.output.dense", FROM_HEADS),
    *_layer(f"{BLOCK}/layer_norm_2", f"{LAYER}.layernorm_after"),
    *_layer(f"{BLOCK}/mlp/dense_1", f"{LAYER}.intermediate.dense", DENSE),
    *_layer(f"{BLOCK}/mlp/dense_2", f"{LAYER}.output.dense", DENSE),
    *_layer("layers/vi_t_encoder/layer_norm", "layernorm"),
)
NOT_WEIGHTS = (r"(.*/)?seed_generator/.*", r"optimizer/.*")
HEAD = tuple(_layer("layers/dense", "classifier", DENSE))
DEEP_HEAD = (*_layer("layers/dense", "pre_logits", DENSE), *_layer("layers/dense_1", "classifier", DENSE))
"""Of a classifier with `intermediate_dim`."""

# Arguments of `ViTBackbone` -> fields of our config with the same meaning.
FIELDS = {
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "mlp_dim": "intermediate_size",
    "dropout_rate": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_epsilon": "layer_norm_eps",
    "use_mlp_bias": "use_mlp_bias",
    "use_class_token": "use_class_token",
    "use_patch_bias": "use_patch_bias",
}
DEFAULTS: dict[str, Any] = {
    "dropout_rate": 0.0,
    "attention_dropout": 0.0,
    "layer_norm_epsilon": 1e-6,
    "use_mha_bias": True,
    "use_mlp_bias": True,
    "use_class_token": True,
    "use_patch_bias": True,
    "data_format": None,
}
# Fields of ours -> the values that KerasHub's network has, the default first.
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "gelu_python"),
    "layer_scale_init_value": (None,),
    "use_absolute_position_embeddings": (True,),
    "use_shared_relative_position_bias": (False,),
    "use_relative_position_bias": (False,),
    "use_gated_mlp": (False,),
    "norm_after_pool": (False,),
    "num_register_tokens": (0,),
}
# Of a config.json of transformers or ours: fields that files may leave out.
OURS: dict[str, Any] = {
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
}
OURS |= {ours: DEFAULTS[theirs] for theirs, ours in FIELDS.items() if theirs in DEFAULTS}
OURS["layer_norm_eps"] = 1e-12


def vit_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The content of our `config.json` for arguments of `ViTBackbone`."""
    given = {**DEFAULTS, **arguments}
    (height, width, channels), patch, bias = image_sides(given), _side(given["patch_size"]), given["use_mha_bias"]
    return {
        "model_type": "vit",
        "architectures": ["ViTModel"],
        "image_size": _side((height, width)),
        "num_channels": channels,
        "patch_size": patch,
        "encoder_stride": patch,
        "qkv_bias": bias,
        "use_attention_output_bias": bias,
        **{ours: given[theirs] for theirs, ours in FIELDS.items()},
    }


def arguments_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of `ViTBackbone` for the content of a `config.json` of our ViT, or of transformers'.

    KerasHub has all biases of attention or none: where only some are here, the others are zeros there (`to_keras`).

    Raises:
        InputError: a ViT that KerasHub does not have.
    """
    if wrong := [
        f"{name}={config[name]!r}" for name, values in ONLY.items() if config.get(name, values[0]) not in values
    ]:
        raise InputError(f"{where}: {TITLE} has no {', '.join(wrong)}; use the Hugging Face form")
    size, patch = config.get("image_size", 224), config.get("patch_size", 16)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return {
        "image_shape": [height, width, config.get("num_channels", 3)],
        "patch_size": list(patch) if isinstance(patch, list | tuple) else [patch, patch],
        **{theirs: config.get(ours, OURS[ours]) for theirs, ours in FIELDS.items()},
        "use_mha_bias": bool(config.get("qkv_bias", True) or config.get("use_attention_output_bias", True)),
    }


def pooling_of(config: Mapping[str, Any]) -> str:
    """The `pooling` of KerasHub's classifier for the content of a `config.json`; of what it does not have, our word.

    Its "gap" is the mean of all tokens: that of the patches only where there is no class token.
    """
    pool, has_token = str(config.get("classifier_pool", "auto")), config.get("use_class_token", True)
    if has_token:
        return {"auto": "token", "cls": "token"}.get(pool, pool)
    return "gap"


def with_all_biases(state: Tensors, arguments: Mapping[str, Any]) -> Tensors:
    """Our tensors, with zeros for biases of attention that are missing where there are others, as KerasHub has them."""
    import torch

    if not arguments["use_mha_bias"]:
        return state
    layers = range(int(arguments["num_layers"]))
    parts = ("attention.query", "attention.key", "attention.value", "output.dense")
    names = [f"encoder.layer.{i}.attention.{part}" for i in layers for part in parts]
    missing = [n for n in names if f"{n}.weight" in state.entries and f"{n}.bias" not in state.entries]
    return state | in_memory({f"{name}.bias": torch.zeros(state.shapes[f"{name}.weight"][0]) for name in missing})


def to_keras(state: Mapping[str, Tensor], heads: int, rules: tuple[Rule, ...] = ENCODER) -> dict[str, Tensor]:
    """Our tensors as the datasets of a file; `heads` of attention."""
    made = Table(rules).to_theirs(state, {"num_attention_heads": heads})
    return {name.replace(f"{BLOCKS}_0/", f"{BLOCKS}/"): tensor for name, tensor in made.items()}


def canonical(found: Found) -> Found:
    """With a number for the first block, too, and of a whole classifier without the prefix of its backbone."""
    own = found.without_prefix("layers/vi_t_backbone/")
    return Found(own.where, own.tensors.renamed(lambda n: n.replace(f"{BLOCKS}/", f"{BLOCKS}_0/")), own.config)


def image_sides(arguments: Mapping[str, Any]) -> tuple[int, int, int]:
    """`(H, W, C)` of `image_shape`, whichever `data_format` it is in."""
    first, second, third = arguments["image_shape"]
    return (second, third, first) if arguments.get("data_format") == "channels_first" else (first, second, third)


def with_layout(arguments: Mapping[str, Any], channels: int | None) -> dict[str, Any]:
    """Arguments from a file with their `data_format`, which KerasHub does not write; the channels show it, if known."""
    first, _, last = arguments["image_shape"]
    found = "channels_first" if channels is not None and first == channels != last else "channels_last"
    return {**arguments, "data_format": arguments.get("data_format") or found}


def is_keras(found: Found) -> bool:
    """By the patch embedding."""
    return canonical(found).has(f"{PATCHES}/patch_embedding/vars/0")


def config(found: Found) -> dict[str, Any]:
    """From KerasHub's `config.json`, or by shapes; with a head where it is one of our classifiers."""
    with reading(f"{found.where}: config.json", "restore the file"):
        made = vit_config(_arguments(found))
    task = found.config.get("task") or {}
    plain = task.get("pooling", "token") == pooling_of(made) and task.get("intermediate_dim") is None
    if plain and found.has("layers/dense/vars/0") and not found.has("layers/dense_1/vars/0"):
        classes = found.shapes["layers/dense/vars/0"][-1]
        made |= {"architectures": ["ViTForImageClassification"], "num_labels": classes}
    return made


def _arguments(found: Found) -> Mapping[str, Any]:
    """The arguments that `config.json` holds, or those that follow from the shapes of a square image."""
    down, across, channels, width = found.shapes[f"{PATCHES}/patch_embedding/vars/0"]
    if "config" in found.config:
        return with_layout(found.config["config"], channels)
    block = BLOCK.format(i=0)
    tokens = found.shapes[f"{PATCHES}/position_embedding/vars/0"][0]
    has_token = found.has(f"{PATCHES}/vars/0")
    side = square(found, tokens - has_token)
    return {
        "image_shape": [side * down, side * across, channels],
        "patch_size": [down, across],
        "num_layers": found.count(BLOCK.replace("{i}", r"(\d+)") + "/"),
        "num_heads": found.shapes[f"{block}/mha/query_dense/vars/0"][1],
        "hidden_dim": width,
        "mlp_dim": found.shapes[f"{block}/mlp/dense_1/vars/0"][-1],
        "use_mha_bias": found.has(f"{block}/mha/query_dense/vars/1"),
        "use_mlp_bias": found.has(f"{block}/mlp/dense_1/vars/1"),
        "use_class_token": has_token,
        "use_patch_bias": found.has(f"{PATCHES}/patch_embedding/vars/1"),
    }


def table(facts: Mapping[str, Any]) -> Table:
    """The names; a head that is not one of our classifiers is ignored."""
    if facts["architectures"] == ["ViTForImageClassification"]:
        return Table((*ENCODER, *HEAD), NOT_WEIGHTS)
    return Table(ENCODER, (*NOT_WEIGHTS, r"layers/dense(_1)?/vars/[01]"))


def preprocessor(found: Found) -> dict[str, Any]:
    """Mean and deviation, from what the image converter multiplies pixels by and adds."""
    converter = found.config.get("image_converter") or {}
    scale, offset = converter.get("scale"), converter.get("offset")
    if scale is None or offset is None:
        return {}
    with reading(f"{found.where}: image_converter.json", "restore the file"):
        pairs = list(zip(_values(scale), _values(offset), strict=True))
        std = [1 / (255 * one) for one, _ in pairs]
        mean = [-shift * deviation for (_, shift), deviation in zip(pairs, std, strict=True)]
        if not all(math.isfinite(value) for value in (*mean, *std)):
            raise ValueError("scale and offset are not finite")
    return {"image_mean": mean, "image_std": std, "rescale_factor": 1 / 255}


def _values(given: Any) -> list[float]:
    return [float(one) for one in given] if isinstance(given, list | tuple) else [float(given)]


def _side(pair: Any) -> Any:
    """One number for a square, else a list."""
    if not isinstance(pair, list | tuple):
        return pair
    return pair[0] if pair[0] == pair[1] else list(pair)


FORMAT = Format("keras", TITLE, "vit", table, is_keras, config, canonical, preprocessor)
