"""What people build on, as it was in 0.1.0: public names, signatures, names of tensors, every key and its default.

It holds wherever the code lives: modules are left out of names. `python tests/test_frozen.py` writes the file anew.
"""

import inspect
import json
from pathlib import Path

import pytest
from frozen import bare, bare_targets
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import mimsuite
from mimsuite import models
from mimsuite.models.pretrained import Pretrained

FILE = Path(__file__).parent / "data" / "frozen_api.json"
CONF = Path(__file__).parents[1] / "conf"
METHODS = (
    *("forward", "forward_features", "forward_layers", "set_image_size", "masked_loss", "loss", "preprocess"),
    *("from_pretrained", "save_pretrained", "from_config", "for_model", "from_dict", "to_dict", "to_json_string"),
)
FAMILIES = {"ViT": models.ViTConfig, "Cvt": models.CvtConfig, "Bit": models.BitConfig}
TINY = {
    "ViT": {
        "plain": {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        | {"image_size": 16, "patch_size": 8, "encoder_stride": 8, "num_labels": 3},
        "rich": {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        | {"image_size": 16, "patch_size": 8, "encoder_stride": 8, "num_labels": 3, "layer_scale_init_value": 0.1}
        | {"use_shared_relative_position_bias": True, "use_absolute_position_embeddings": False, "num_channels": 4},
        "drops": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        | {"image_size": 16, "patch_size": 8, "encoder_stride": 8, "num_register_tokens": 2, "mask_mode": "drop"}
        | {"decoder_hidden_size": 4, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
        | {"decoder_intermediate_size": 8},
    },
    "Cvt": {
        "plain": {"embed_dim": [4, 8], "num_heads": [1, 2], "depth": [1, 2], "patch_sizes": [7, 3], "num_labels": 3}
        | {"patch_stride": [4, 2], "patch_padding": [2, 1], "mlp_ratio": [2.0, 2.0], "cls_token": [False, True]}
        | {"attention_drop_rate": [0.0] * 2, "drop_rate": [0.0] * 2, "drop_path_rate": [0.0] * 2, "kernel_qkv": [3, 3]}
        | {"qkv_bias": [True, False], "qkv_projection_method": ["dw_bn", "avg"], "padding_kv": [1, 1]}
        | {"stride_kv": [2, 2], "padding_q": [1, 1], "stride_q": [1, 1]},
    },
    "Bit": {
        "plain": {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 2], "num_groups": 2, "num_labels": 3},
        "rich": {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_groups": 2, "num_labels": 3}
        | {"layer_type": "bottleneck", "global_padding": "same", "width_factor": 2, "num_channels": 2},
    },
}


def functions():
    """Signature of every public function."""
    made = {name: getattr(mimsuite, name) for name in mimsuite.__all__ if name != "__version__"}
    return {name: bare(str(inspect.signature(function))) for name, function in sorted(made.items())}


def classes():
    """Signatures of every public class: its constructor, and what code written for Hugging Face calls."""
    found = {}
    for name in sorted(models.__all__):
        kind = getattr(models, name)
        members = {method: getattr(kind, method) for method in METHODS if hasattr(kind, method)}
        found[name] = {"()": bare(str(inspect.signature(kind)))}
        found[name] |= {method: bare(str(inspect.signature(member))) for method, member in members.items()}
    return found


def tensors():
    """Names and shapes of the tensors of every model class, in tiny."""
    found = {}
    for name in sorted(models.__all__):
        family = next((family for family in FAMILIES if name.startswith(family)), None)
        if family is None or not issubclass(kind := getattr(models, name), Pretrained):
            continue
        for variant, fields in TINY[family].items():
            state = kind(FAMILIES[family](**fields)).state_dict()
            found[f"{name} {variant}"] = {key: list(state[key].shape) for key in sorted(state)}
    return found


def configs():
    """Every field of a model's config that is written, with its default."""
    return {family: kind().to_dict() for family, kind in FAMILIES.items()}


def tasks():
    """Every key of every task with its default, as composed; `???` where the user must say it."""
    found = {}
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for file in sorted(CONF.glob("*.yaml")):
            if file.stem != "base":
                found[file.stem] = bare_targets(OmegaConf.to_container(compose(file.stem)))
    return found


def choices():
    """Every file of every group, as it is written: what `model=`, `mask=`, `experiment=` and so on choose."""
    files = sorted(CONF.glob("*/*.yaml"))
    return {
        str(file.relative_to(CONF).with_suffix("")): bare_targets(OmegaConf.to_container(OmegaConf.load(file)))
        for file in files
    }


def names():
    """The public names."""
    return {"mimsuite": sorted(mimsuite.__all__), "models": sorted(models.__all__)}


PARTS = {
    part.__name__: part for part in (names, functions, classes, tensors, configs, tasks, choices)
}  # each a table of the file


def differences(found, wanted, place=""):
    """Where two nested containers differ, by their keys, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        pairs = [(key, found.get(key, "<absent>"), wanted.get(key, "<absent>")) for key in keys]
        return [text for key, one, other in pairs for text in differences(one, other, f"{place}/{key}")]
    return [] if found == wanted else [f"{place}: {found!r}, was {wanted!r}"]


@pytest.mark.parametrize("part", PARTS)
def test_what_people_build_on_is_as_it_was(part):
    found = json.loads(json.dumps(PARTS[part]()))
    assert not differences(found, json.loads(FILE.read_text())[part])


def test_a_module_in_a_signature_is_no_part_of_it():
    assert bare("(a: 'models.vit.ViTConfig | None' = None, b: float = 1e-12, *, c=<class 'm.heads.Head'>)") == (
        "(a: ViTConfig | None = None, b: float = 1e-12, *, c=<class Head>)"
    )


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: part() for name, part in PARTS.items()}, indent=1) + "\n")
