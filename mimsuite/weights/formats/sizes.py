"""The content of our `config.json` for files that say their sizes by shapes only, read off the tensors as ours."""

from __future__ import annotations

import re
from typing import Any

from mimsuite.weights.formats.format import Found, heads_of, square
from mimsuite.weights.formats.mapping import Table

CLASSES = {"vit": "ViT", "cvt": "Cvt", "bit": "Bit"}


def vit_sizes(
    found: Found, table: Table, *, eps: float, heads: int | None = None, size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Sizes of a Vision Transformer.

    Args:
        found: the weights, with the names of the table.
        table: of the format.
        eps: of the LayerNorms.
        heads: of a block; None: as in published networks of this width.
        size: `(H, W)` of the images, which counts where as many positions are there; else they are a square.

    Raises:
        InputError: patches that are not a square, or heads that are not known.
    """
    shapes = table.to_ours(found.tensors, {}).shapes
    width, channels, down, across = shapes["embeddings.patch_embeddings.projection.weight"]
    patch = down if down == across else [down, across]
    layers = count(shapes, r"encoder\.layer\.(\d+)\.")
    class_token = "embeddings.cls_token" in shapes
    made: dict[str, Any] = {
        "model_type": "vit",
        "architectures": ["ViTModel"],
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads or heads_of(found, width),
        "intermediate_size": shapes["encoder.layer.0.output.dense.weight"][1],
        "layer_norm_eps": eps,
        "num_channels": channels,
        "patch_size": patch,
        "encoder_stride": patch,
        "qkv_bias": "encoder.layer.0.attention.attention.query.bias" in shapes,
        "use_class_token": class_token,
    }
    if shapes["encoder.layer.0.intermediate.dense.weight"][0] == 2 * made["intermediate_size"]:
        made |= {"use_gated_mlp": True, "hidden_act": "silu"}  # no published one has another activation
    if "fc_norm.weight" in shapes:
        made |= {"norm_after_pool": True, "classifier_pool": "mean"}
    if "embeddings.register_tokens" in shapes:
        made["num_register_tokens"] = shapes["embeddings.register_tokens"][1]
    if "encoder.layer.0.gamma_1" in shapes:
        made["layer_scale_init_value"] = 1e-5
    if "pooler.dense.weight" in shapes:
        made["pooler_output_size"] = shapes["pooler.dense.weight"][0]
    if "embeddings.position_embeddings" in shapes:
        places = shapes["embeddings.position_embeddings"][1]
        cells = (size[0] // down) * (size[1] // across) if size is not None else 0
        if size is not None and places in (cells, cells + int(class_token)):
            made["image_size"] = size[0] if size[0] == size[1] else list(size)
        else:
            grid = square(found, places, int(class_token))
            made["image_size"] = grid * down if down == across else [grid * down, grid * across]
    return with_classifier(made, shapes)


def cvt_sizes(found: Found, table: Table) -> dict[str, Any]:
    """Sizes of a CvT of the paper's kind: strides 4, 2, 2, heads of 64, and a class token in the last stage."""
    shapes = table.to_ours(found.tensors, {}).shapes
    stages = range(count(shapes, r"encoder\.stages\.(\d+)\."))
    embeddings = [shapes[f"encoder.stages.{s}.embedding.convolution_embeddings.projection.weight"] for s in stages]
    mlps = [shapes[f"encoder.stages.{s}.layers.0.intermediate.dense.weight"] for s in stages]
    layer = "encoder.stages.{}.layers.0.attention.attention"
    kernels = [
        shapes[f"{layer.format(s)}.convolution_projection_key.convolution_projection.convolution.weight"][-1]
        for s in stages
    ]
    widths = [shape[0] for shape in embeddings]
    last = len(stages) - 1
    made: dict[str, Any] = {
        "model_type": "cvt",
        "architectures": ["CvtModel"],
        "num_channels": embeddings[0][1],
        "patch_sizes": [shape[-1] for shape in embeddings],
        "patch_stride": [4 if s == 0 else 2 for s in stages],
        "patch_padding": [2 if s == 0 else 1 for s in stages],
        "embed_dim": widths,
        "num_heads": [heads_of(found, width) for width in widths],
        "depth": [count(shapes, rf"encoder\.stages\.{s}\.layers\.(\d+)\.") for s in stages],
        "mlp_ratio": [out / width for out, width in mlps],
        "drop_path_rate": [0.1 if s == last else 0.0 for s in stages],
        "qkv_bias": [f"{layer.format(s)}.projection_query.bias" in shapes for s in stages],
        "cls_token": [f"encoder.stages.{s}.cls_token" in shapes for s in stages],
        "kernel_qkv": kernels,
        "padding_q": [(kernel - 1) // 2 for kernel in kernels],
        "padding_kv": [(kernel - 1) // 2 for kernel in kernels],
        "stride_kv": [2 for _ in stages],
        "stride_q": [1 for _ in stages],
        "qkv_projection_method": ["dw_bn" for _ in stages],
        "attention_drop_rate": [0.0 for _ in stages],
        "drop_rate": [0.0 for _ in stages],
    }
    return with_classifier(made, shapes)


def bit_sizes(found: Found, table: Table) -> dict[str, Any]:
    """Widths and depths of a Big Transfer ResNet; a width factor is in the widths."""
    shapes = table.to_ours(found.tensors, {}).shapes
    stages = range(count(shapes, r"encoder\.stages\.(\d+)\."))
    stem, channels, *_ = shapes["embedder.convolution.weight"]
    made = {
        "model_type": "bit",
        "architectures": ["BitModel"],
        "num_channels": channels,
        "embedding_size": stem,
        "hidden_sizes": [shapes[f"encoder.stages.{s}.layers.0.conv3.weight"][0] for s in stages],
        "depths": [count(shapes, rf"encoder\.stages\.{s}\.layers\.(\d+)\.") for s in stages],
    }
    return with_classifier(made, shapes)


def with_classifier(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of a classifier around the encoder, if there is one among the tensors."""
    names = [name for name in ("classifier.weight", "classifier.1.weight") if name in shapes]
    if not names:
        return config
    own_class = f"{CLASSES[config['model_type']]}ForImageClassification"
    return config | {"architectures": [own_class], "num_labels": shapes[names[0]][0]}


def count(shapes: dict[str, tuple[int, ...]], pattern: str) -> int:
    """How many different numbers stand at the group of a regular expression in the names."""
    text = re.compile(pattern)
    return len({found[1] for name in shapes if (found := text.match(name)) is not None})
