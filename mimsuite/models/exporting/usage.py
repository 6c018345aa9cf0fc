"""The code in a model card that loads an export, and what goes in and comes out."""

from __future__ import annotations

from typing import NamedTuple

from mimsuite.models.exporting.exported import MASK, Exported
from mimsuite.models.exporting.folders import OTHERWISE, OUTPUTS
from mimsuite.models.exporting.others import JAX_FILE


class Loading(NamedTuple):
    """What the code depends on.

    Attributes:
        library: what read the file back.
        processor: the class that `preprocessor_config.json` names.
        any_size: whether the file takes images of any size.
    """

    library: str
    processor: str
    any_size: bool


def usage(target: str, exported: Exported, loading: Loading) -> str:
    """Code in Markdown, and a sentence on the outputs."""
    lines = {
        "hf": use_hf,
        "timm": use_timm,
        "jax": use_jax,
        "keras": use_keras,
        "flax": use_flax,
        "onnx": use_onnx,
        "pt2": use_pt2,
    }[target](exported, loading)
    return "\n".join(["```python", *lines, "```"]) + meaning(target, exported)


def use_hf(exported: Exported, loading: Loading) -> list[str]:
    """By transformers where that reads model and preprocessing, else by this package."""
    ours = loading.library.startswith("mimsuite") or loading.processor == "CenterCropImageProcessor"
    end = next((end for end in OUTPUTS if type(exported.model).__name__.endswith(end)), "")
    return [
        f"from {'mimsuite.models' if ours else 'transformers'} import AutoImageProcessor, AutoModel{end}",
        "",
        'folder = "."  # this folder, or its name on the hub',
        "processor = AutoImageProcessor.from_pretrained(folder)",
        f"model = AutoModel{end}.from_pretrained(folder)",
        f'output = model(**processor(image, return_tensors="pt")).{OUTPUTS.get(end, OTHERWISE)}',
    ]


def use_timm(exported: Exported, loading: Loading) -> list[str]:
    """By timm."""
    return [
        "import timm",
        "",
        'model = timm.create_model("local-dir:.", pretrained=True)  # this folder; "hf-hub:ORG/NAME" on the hub',
        "",
        f"# {pixels_of(exported, loading)}",
        f"output = model{'' if exported.outputs == ('logits',) else '.forward_features'}(pixel_values)",
    ]


def use_jax(exported: Exported, loading: Loading) -> list[str]:
    """By numpy, or again by this package."""
    return [
        "import numpy as np",
        "",
        f'parameters = np.load("{JAX_FILE}")  # under the names of the published code',
        "",
        "import mimsuite",
        "",
        f'model = mimsuite.load("{JAX_FILE}")',
    ]


def use_keras(exported: Exported, loading: Loading) -> list[str]:
    """By KerasHub."""
    name = "ViTImageClassifier" if exported.outputs == ("logits",) else "ViTBackbone"
    return [
        "import keras_hub",
        "",
        f'model = keras_hub.models.{name}.from_preset(".")  # images (B, H, W, C), normalised',
    ]


def use_flax(exported: Exported, loading: Loading) -> list[str]:
    """By the Flax classes of earlier releases of transformers."""
    name = f"Flax{type(exported.model).__name__}"
    return [
        f"from transformers import {name}  # transformers 4: later ones have no Flax classes",
        "",
        f'model = {name}.from_pretrained(".")',
    ]


def use_onnx(exported: Exported, loading: Loading) -> list[str]:
    """By ONNX Runtime."""
    feed = ", ".join(f'"{name}": {name}' for name in exported.inputs)
    return [
        "import onnxruntime",
        "",
        'session = onnxruntime.InferenceSession("model.onnx")',
        f"# {pixels_of(exported, loading)}",
        f"{names_of_outputs(exported)} = session.run(None, {{{feed}}})",
    ]


def use_pt2(exported: Exported, loading: Loading) -> list[str]:
    """By torch alone."""
    return [
        "import torch",
        "",
        'model = torch.export.load("model.pt2").module()',
        f"# {pixels_of(exported, loading)}",
        f"{names_of_outputs(exported)} = model({', '.join(exported.inputs)})",
    ]


def names_of_outputs(exported: Exported) -> str:
    """The left side of an assignment of all outputs."""
    return ", ".join(exported.outputs) + ("," if len(exported.outputs) == 1 else "")


def pixels_of(exported: Exported, loading: Loading) -> str:
    """What goes in."""
    height, width = exported.image_size
    size = "H, W" if loading.any_size else f"{height}, {width}"
    more = "; mask: bool, True = hidden" if MASK in exported.inputs else ""
    return (
        f"pixel_values: (B, {exported.model.config.num_channels}, {size}) float32, normalised as "
        f"preprocessor_config.json says{more}"
    )


def meaning(target: str, exported: Exported) -> str:
    """What the outputs of a graph are, in a paragraph; nothing for other formats."""
    if target not in ("onnx", "pt2"):
        return ""
    texts = {
        ("logits",): "`logits` has one value per class.",
        ("reconstruction",): "`reconstruction` is the whole predicted picture, normalised like the input.",
        ("grid",): "The feature map `grid` is `(B, D, h, w)`, after the final norm.",
        ("grid", "cls"): (
            "The feature map `grid` is `(B, D, h, w)`, the class token `cls` is `(B, D)`, both after the final norm."
        ),
    }
    return f"\n\n{texts[exported.outputs]}"
