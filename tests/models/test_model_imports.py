"""What importing the models costs, and what they export."""

import subprocess
import sys
from pathlib import Path

import pytest

from mimsuite import models

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
        assert getattr(models, name).__name__ == name
        assert name in dir(models)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="TFViTModel"):
        _ = models.TFViTModel
