"""Tiny models of transformers with random weights, saved as it saves them, to be wrapped by `model=external`."""

import functools
import tempfile
from pathlib import Path

import torch
import transformers
from randomised import randomise

STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
CLASSES = {
    "convnext": (transformers.ConvNextConfig, transformers.ConvNextForImageClassification, STAGES),
    "convnextv2": (transformers.ConvNextV2Config, transformers.ConvNextV2ForImageClassification, STAGES),
    "swin": (
        transformers.SwinConfig,
        transformers.SwinForImageClassification,
        {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 2, "image_size": 64}
        | {"drop_path_rate": 0.0, "mlp_ratio": 2.0},
    ),
    "resnet": (
        transformers.ResNetConfig,
        transformers.ResNetForImageClassification,
        STAGES | {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40]},
    ),
    "dinov2": (
        transformers.Dinov2Config,
        transformers.Dinov2Model,
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2, "image_size": 56}
        | {"patch_size": 8, "use_mask_token": False},
    ),
}
WIDTHS = {"convnext": 32, "convnextv2": 32, "swin": 64, "resnet": 40, "dinov2": 24}
STRIDES = dict.fromkeys(CLASSES, ((32, 32), (4, 4))) | {"dinov2": ((8, 8), (8, 8))}  # of the map, and of masks
BLOCKS = dict.fromkeys(CLASSES, 5) | {"dinov2": 2}


def save(name, folder, **changes):
    """Writes a checkpoint as users find it: of a classifier with two classes; of DINOv2 the bare model."""
    config_class, model_class, values = CLASSES[name]
    torch.manual_seed(0)
    model = randomise(model_class(config_class(**(values | changes))))
    model.save_pretrained(folder)
    return model


@functools.cache
def folder_of(name):
    """A folder of a tiny model, made once for all tests of a process."""
    place = Path(tempfile.mkdtemp(prefix=f"wrapped-{name}-"))
    save(name, place)
    return str(place)


def backbone(folder, **options):
    """What `AutoBackbone.from_pretrained` gives for a name on the hub; of transformers 5.23 it takes no folder."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return transformers.MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(folder, **options)
