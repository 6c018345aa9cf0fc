"""Encoders of transformers (AutoBackbone), the one place where that library is used. Code of the hub is never run."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mimsuite.errors import InputError, cause_of, reading
from mimsuite.weights.source import read_json

# Of a classifier's head, or of the files: they say nothing about the encoder.
NOT_OF_THE_ENCODER = (
    *("architectures", "auto_map", "dtype", "id2label", "label2id", "num_labels", "problem_type", "torch_dtype"),
    *("_name_or_path", "name_or_path", "quantization_config"),
)
MOST_FRESH = 0.5  # of the tensors; with more, the files are of another model


def describe(folder: Path, name: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `config.json` of a folder says of the encoder, and the statistics that its images are normalised by.

    Args:
        folder: of the model, on this disk.
        name: what the user calls it.
        arguments: other values of its fields.

    Raises:
        InputError: no model that transformers has as a backbone, or a field that its config does not have.
    """
    library = import_library()
    try:
        with quiet():
            config = library.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever it says of such a folder
        raise InputError(
            f"model.source={name}: transformers cannot read its config.json ({cause_of(error)})"
        ) from error
    known = config.to_dict()
    for field, value in arguments.items():
        if field not in known:
            raise InputError(f"model.arguments.{field}={value}: {type(config).__name__} has no such field; remove it")
    values = {key: value for key, value in (known | dict(arguments)).items() if key not in NOT_OF_THE_ENCODER}
    values = json.loads(json.dumps(values)) | {"out_features": None, "out_indices": None}
    made = backbone_config(values, name)
    values |= {"out_features": list(made.out_features), "out_indices": list(made.out_indices)}
    return values, statistics(folder)


def statistics(folder: Path) -> dict[str, Any]:
    """`image_mean` and `image_std` of a folder's preprocessing, where it has them."""
    path = folder / "preprocessor_config.json"
    found = read_json(path) if path.is_file() else {}
    pair = {name: found.get(name) for name in ("image_mean", "image_std")}
    return pair if all(isinstance(values, list) for values in pair.values()) else {}


def backbone_config(values: Mapping[str, Any], name: str) -> Any:
    """transformers' own config object of an encoder whose last map is asked for.

    Raises:
        InputError: transformers has no such backbone, or refuses a value.
    """
    library = import_library()
    kind = values.get("model_type")
    with reading(f"model.source={name}: the config of a {kind}", "use another model.source=, or other model.arguments"):
        config = library.AutoConfig.for_model(**values)
        if type(config) not in library.MODEL_FOR_BACKBONE_MAPPING:
            known = ", ".join(sorted(kind.model_type for kind in library.MODEL_FOR_BACKBONE_MAPPING))
            raise InputError(
                f"model.source={name} is a {kind}, which transformers has no AutoBackbone for; use one of "
                f"{known}, or a class of your own"
            )
        if getattr(config, "out_features", None) is None:
            config.out_features = [config.stage_names[-1]]
    return config


def build(values: Mapping[str, Any], name: str) -> nn.Module:
    """The encoder of a config, freshly initialised.

    Raises:
        InputError: transformers does not build it.
    """
    config = backbone_config(values, name)
    with quiet(), reading(f"model.source={name}: the {values.get('model_type')}", "use another model.source="):
        made: nn.Module = import_library().AutoBackbone.from_config(config, trust_remote_code=False)
    return made


def trained_state(folder: Path, values: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a folder by their names in the encoder, and the names of those that it does not have.

    Raises:
        InputError: damaged files, or those of another model or number of channels.
    """
    import torch

    library = import_library()
    config = backbone_config(values, name)
    try:
        with quiet():
            model, info = library.MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(  # AutoBackbone asks the hub
                folder,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # our error says which
                local_files_only=True,
                output_loading_info=True,
                weights_only=True,
            )
    except Exception as error:  # whatever it says of such files
        raise InputError(f"model.source={name}: transformers cannot load its weights ({cause_of(error)})") from error
    if info["mismatched_keys"]:
        key, stored, wanted = sorted(info["mismatched_keys"])[0]
        raise InputError(
            f"model.source={name}: {key} has shape {tuple(stored)}, the model {tuple(wanted)}; use images of as many "
            "channels, other model.arguments, or model.pretrained=false"
        )
    state, missing = model.state_dict(), sorted(info["missing_keys"])
    if len(missing) > MOST_FRESH * len(state):
        raise InputError(
            f"model.source={name} holds {len(state) - len(missing)} of {len(state)} tensors of a "
            f"{values.get('model_type')} encoder; use other files, or model.pretrained=false"
        )
    return state, missing


def import_library() -> Any:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"model=external of a Hugging Face model needs transformers ({cause_of(error)}); "
            'pip install "mimsuite[transformers]"'
        ) from error
    return transformers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The library's reports and progress bars are off: what matters of them is in our own lines."""
    library = import_library()
    log = library.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
