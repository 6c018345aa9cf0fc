"""What importing the models costs, and what they export."""

import subprocess
import sys
from pathlib import Path

import pytest

from mimsuite import models
from mimsuite.models.families import FAMILIES, PROCESSOR_NAMES

ROOT = Path(__file__).parents[2]
HEAVY = [
    "lightning",
    "hydra",
    "omegaconf",
    "webdataset",
    "wandb",
    "transformers",
    "torchvision",
    "timm",
    "huggingface_hub",
    "matplotlib",
]


def loaded_after(code, names):
    code += f"; import sys; print([n for n in {names!r} if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return out.stdout.strip()


def test_the_models_need_no_training_library():
    everything = "import mimsuite.models as m; [getattr(m, n) for n in m.__all__]"
    assert loaded_after(everything, HEAVY) == "[]"


def test_the_package_itself_imports_no_torch():
    assert loaded_after("import mimsuite.models", ["torch", "numpy", "PIL"]) == "[]"


def test_every_exported_name_exists_and_is_listed():
    assert models.__all__ == sorted(models.__all__)
    for name in models.__all__:
        assert getattr(models, name).__name__ == name.removesuffix("Pil")  # a second name of the Pillow form
        assert name in dir(models)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="TFViTModel"):
        _ = models.TFViTModel


def test_the_public_names_follow_from_the_table_of_families():
    parts = ("Config", "PreTrainedModel", "Model", "ForMaskedImageModeling", "ForImageClassification")
    families = {prefix + part for prefix in ("ViT", "Cvt", "Bit", "External") for part in parts}
    forms = {f"{prefix}ImageProcessor{form}" for prefix in ("ViT", "Bit", "ConvNext") for form in ("", "Fast", "Pil")}
    processors = forms | {"CenterCropImageProcessor", "ViTFeatureExtractor", "BatchFeature"}
    autos = {"AutoBackbone", "AutoConfig", "AutoImageProcessor", "AutoModel"}
    autos |= {"AutoModelForImageClassification", "AutoModelForMaskedImageModeling"}
    keras = {"Backbone", "ViTBackbone", "ViTImageClassifier"}
    assert set(models.__all__) == families | {"BitBackbone"} | processors | autos | keras


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_row_of_the_table_names_its_family(model_type):
    family = FAMILIES[model_type]
    assert getattr(models, f"{family.prefix}Config").model_type == model_type
    assert getattr(models, f"{family.prefix}Model").base_prefix == model_type
    assert family.processor in models.__all__
    assert {family.processor} <= set(PROCESSOR_NAMES.values()) <= set(models.__all__)
