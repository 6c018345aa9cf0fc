"""The families of encoders, a row each: the public names, where they live, and the Auto classes follow from the table.

Imports nothing, so that listing the names stays cheap.
"""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """A family; its row stands under the `model_type` of its `config.json`.

    Its config class is in `encoders/<model_type>_config.py`, all others in `models/<model_type>.py`.

    Attributes:
        prefix: what the names of its classes begin with.
        processor: the image processor of its published weights.
        input_layer: the module of the encoder that makes cells of pixels.
        indivisible: classes of modules that tools may not split over devices.
        has_backbone: whether there is a class that gives the maps of chosen stages.
    """

    prefix: str
    processor: str
    input_layer: str
    indivisible: tuple[str, ...]
    has_backbone: bool = False

    def class_name(self, part: str) -> str | None:
        """The class for a `part` of `PARTS`; None where the family has none."""
        return None if part == "backbone" and not self.has_backbone else self.prefix + PARTS[part]


FAMILIES = {
    "vit": Family("ViT", "ViTImageProcessor", "embeddings.patch_embeddings", ("ViTEmbeddings", "ViTLayer")),
    "cvt": Family(
        "Cvt",
        "ConvNextImageProcessor",
        "encoder.stages.0.embedding.convolution_embeddings",
        ("CvtEmbeddings", "CvtLayer"),
    ),
    "bit": Family("Bit", "BitImageProcessor", "embedder", ("BitStem", "BitLayer"), has_backbone=True),
    "external": Family("External", "CenterCropImageProcessor", "wrapped", ()),  # whatever others have written
}

# What an Auto class makes -> how the names of these classes end.
PARTS = {
    "config": "Config",
    "model": "Model",
    "masked image modeling": "ForMaskedImageModeling",
    "image classification": "ForImageClassification",
    "backbone": "Backbone",
}
# Files of `processors` -> the classes in them.
PROCESSORS = {
    "bit": ("BitImageProcessor", "BitImageProcessorFast", "BitImageProcessorPil"),
    "center_crop": ("CenterCropImageProcessor",),
    "convnext": ("ConvNextImageProcessor", "ConvNextImageProcessorFast", "ConvNextImageProcessorPil"),
    "feature": ("BatchFeature",),
    "vit": ("ViTFeatureExtractor", "ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil"),
}
# Names of processors in files, without "Fast" or "Pil" -> classes; extractors are in old files.
PROCESSOR_NAMES = {
    "ViTImageProcessor": "ViTImageProcessor",
    "ViTFeatureExtractor": "ViTImageProcessor",
    **dict.fromkeys(("DeiTImageProcessor", "DeiTFeatureExtractor"), "ViTImageProcessor"),
    **dict.fromkeys(("BeitImageProcessor", "BeitFeatureExtractor"), "ViTImageProcessor"),
    "BitImageProcessor": "BitImageProcessor",
    "CenterCropImageProcessor": "CenterCropImageProcessor",
    "PerceiverImageProcessor": "CenterCropImageProcessor",
    "ConvNextImageProcessor": "ConvNextImageProcessor",
    "ConvNextFeatureExtractor": "ConvNextImageProcessor",
}
AUTO = (
    "AutoBackbone",
    "AutoConfig",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForMaskedImageModeling",
)

# Classes under the names of KerasHub -> files of `models`.
KERAS = {"Backbone": "keras", "ViTBackbone": "keras", "ViTImageClassifier": "keras_classifier"}


def public_homes() -> dict[str, str]:
    """Every public name of `mimsuite.models` -> the module that has it."""
    homes = dict.fromkeys(AUTO, "mimsuite.models.auto")
    homes |= {name: f"mimsuite.models.{file}" for name, file in KERAS.items()}
    for model_type, family in FAMILIES.items():
        for part in PARTS:
            name = family.class_name(part)
            home = f"encoders.{model_type}_config" if part == "config" else f"models.{model_type}"
            homes |= {} if name is None else {name: f"mimsuite.{home}"}
        homes[f"{family.prefix}PreTrainedModel"] = f"mimsuite.models.{model_type}"
    return homes | {name: f"mimsuite.processors.{file}" for file, names in PROCESSORS.items() for name in names}
