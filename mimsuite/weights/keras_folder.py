"""A preset folder of KerasHub: its JSON files and its `.weights.h5`, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.data.storage import write_text
from mimsuite.errors import InputError, reading
from mimsuite.weights.containers.h5 import open_h5, write_h5
from mimsuite.weights.files import read_folder
from mimsuite.weights.formats import keras
from mimsuite.weights.formats.format import Found
from mimsuite.weights.formats.mapping import Rule, Table
from mimsuite.weights.keras_presets import builtin_arguments, find_preset, is_builtin
from mimsuite.weights.source import MissingFileError, plain_names, read_json
from mimsuite.weights.tensors import Tensors, in_memory

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TASK, METADATA = "config.json", "task.json", "metadata.json"
PREPROCESSOR, CONVERTER = "preprocessor.json", "image_converter.json"
WEIGHTS, INDEX, TASK_WEIGHTS = "model.weights.h5", "model.weights.json", "task.weights.h5"
BACKBONE, CLASSIFIER = "ViTBackbone", "ViTImageClassifier"
POOLINGS = ("token", "gap")
FIX = "download or write it again"
MADE_FOR = ("3.15.1", "0.32.0")  # Keras and KerasHub whose form is written


@dataclass(frozen=True)
class Preset:
    """A preset, opened; its weights are read when they are asked for.

    Attributes:
        where: what errors call it.
        arguments: of `ViTBackbone`.
        task: arguments of `ViTImageClassifier`, without the backbone; None without one.
        folder: where it lies; None for a built-in one without weights.
        config: the content of its `config.json`.
    """

    where: str
    arguments: Mapping[str, Any]
    task: Mapping[str, Any] | None
    folder: Path | None
    config: Mapping[str, Any]

    def tensors(self, head: tuple[Rule, ...] = ()) -> Tensors:
        """The weights of the encoder under our names, and with the rules of a head those of the head.

        Raises:
            MissingFileError: there are none.
            InputError: damaged files, or tensors that the model does not have.
        """
        assert self.folder is not None
        if "class_name" not in self.config:
            return _of_transformers(self.folder, self.config, with_head=bool(head))
        found = model_weights(self.folder)
        return as_ours(found | task_weights(self.folder) if head else found, self.where, (*keras.ENCODER, *head))


def open_preset(preset: str | Path, load_weights: bool = True) -> Preset:
    """Opens a preset; errors as of `keras_presets.find_preset`, and an InputError for one of another class."""
    where = str(preset)
    if not load_weights and is_builtin(where):
        return Preset(where, builtin_arguments(where), None, None, {})
    folder = find_preset(preset)
    config = read_json(folder / CONFIG)
    if "class_name" in config:
        task = _inner(folder / TASK, CLASSIFIER) if (folder / TASK).is_file() else None
        return Preset(where, _inner(folder / CONFIG, BACKBONE), task, folder, config)
    plain = plain_names(config)
    if plain.get("model_type") != "vit":
        raise InputError(f"preset {where!r}: {CONFIG} is neither of KerasHub nor of a ViT of Hugging Face")
    with reading(f"preset {where!r}: {CONFIG}", FIX):
        classifies = str((plain.get("architectures") or [""])[0]).endswith("ForImageClassification")
        count = len(plain["id2label"]) if "id2label" in plain else 2
        task = {"num_classes": count, "pooling": keras.pooling_of(plain)} if classifies else None
        return Preset(where, keras.arguments_of(plain, where), task, folder, plain)


def found_in(where: str, folder: Path) -> Found:
    """What lies in a preset's folder, for `mimsuite.weights.formats`; beside its `config.json` what the others hold."""
    config = read_json(folder / CONFIG)
    _inner(folder / CONFIG, BACKBONE)
    beside = {"task": (TASK, CLASSIFIER), "image_converter": (CONVERTER, None)}
    for name, (file, wanted) in beside.items():
        if (folder / file).is_file():
            config[name] = _inner(folder / file, wanted)
    tensors = model_weights(folder)
    return Found(where, tensors | task_weights(folder) if (folder / TASK_WEIGHTS).is_file() else tensors, config)


def model_weights(folder: Path) -> Tensors:
    """The weights of a preset's backbone, under Keras's names; see `open_weights`."""
    return open_weights(folder / (INDEX if (folder / INDEX).is_file() else WEIGHTS))


def task_weights(folder: Path) -> Tensors:
    """The weights of a preset's head, under Keras's names."""
    return open_weights(folder / TASK_WEIGHTS)


def open_weights(path: Path) -> Tensors:
    """Opens a `.weights.h5` file, or all that a `.weights.json` names, under Keras's names.

    Raises:
        MissingFileError: no such file.
        InputError: damaged.
    """
    if path.suffix != ".json":
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist; download or copy the preset again")
        return open_h5(path)
    with reading(str(path), FIX):
        named = read_json(path)["weight_map"].values()
        names = sorted({name for one in named for name in ([one] if isinstance(one, str) else one)})
    found = Tensors({})
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".h5"):
            raise InputError(f"{path} names the file {name!r}; expected the name of an .h5 file in the same folder")
        found |= open_weights(path.with_name(name))
    return found


def as_ours(tensors: Tensors, where: str, rules: tuple[Rule, ...] = keras.ENCODER) -> Tensors:
    """Weights under Keras's names, under ours.

    Raises:
        InputError: tensors that no rule names.
    """
    own, names = keras.canonical(Found(where, tensors)).tensors, Table(rules, keras.NOT_WEIGHTS)
    if unknown := names.unknown(own):
        raise InputError(f"{where} holds {unknown[0]!r} ({len(unknown)} such), which {keras.TITLE} does not have")
    return names.to_ours(own, {})


def _of_transformers(folder: Path, config: Mapping[str, Any], with_head: bool) -> Tensors:
    """The weights of a Hugging Face folder, those of the encoder without its prefix; without pooler and mask token."""
    found = read_folder(folder).renamed(lambda name: name.removeprefix("vit."))
    parts = ("embeddings.", "encoder.", "layernorm.", *(("classifier.",) if with_head else ()))
    kept = found.only(name for name in found if name.startswith(parts) and name != "embeddings.mask_token")
    return keras.with_all_biases(kept, keras.arguments_of(config, str(folder)))


def _inner(path: Path, wanted: str | None) -> dict[str, Any]:
    """The arguments in a JSON file of Keras, which must be those of the class `wanted`."""
    content = read_json(path)
    if wanted is not None and content.get("class_name") != wanted:
        raise InputError(f"{path} is of a {content.get('class_name')}; mimsuite has KerasHub's {wanted}")
    if not isinstance(content.get("config"), dict):
        raise InputError(f"{path} holds no arguments of its class under 'config'; {FIX}")
    return dict(content["config"])


def write_preset(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], preprocessor: Mapping[str, Any] | None = None
) -> None:
    """Writes a ViT of ours as a preset.

    Args:
        folder: where to; it is made.
        config: the content of our `config.json`.
        state: tensors by the names of our model, of an encoder alone, or of a classifier.
        preprocessor: the content of our `preprocessor_config.json`; mean and deviation become an image converter.

    Raises:
        InputError: a ViT that KerasHub does not have, or a head other than that of a classifier.
    """
    arguments = keras.arguments_of(config, str(folder))
    own = {name.removeprefix("vit."): tensor for name, tensor in state.items()}
    for name in ("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"):
        own.pop(name, None)
    task = None
    if "classifier.weight" in own:
        pooling = keras.pooling_of(config)
        if pooling not in POOLINGS:
            raise InputError(
                f"{folder}: KerasHub's classifier has no mean of the patches alone; use the Hugging Face form"
            )
        task = {"name": "vi_t_image_classifier", "num_classes": len(own["classifier.weight"]), "pooling": pooling}
        task |= {"activation": None, "dropout": 0.0, "intermediate_dim": None}
    tensors = keras.with_all_biases(in_memory(own), arguments)
    named = {"name": "vi_t_backbone", "trainable": True, "dtype": _policy("float32"), **arguments}
    write_folder(folder, named, tensors, task, _converter(arguments, preprocessor or {}))


def write_folder(
    folder: Path,
    arguments: Mapping[str, Any],
    state: Mapping[str, Tensor],
    task: Mapping[str, Any] | None = None,
    converter: Mapping[str, Any] | None = None,
    max_shard_size: float = 10,
) -> None:
    """Writes the files of a preset, each whole or not at all, and removes those of another one that lay there.

    Args:
        folder: where to; it is made.
        arguments: of `ViTBackbone`, with `name`, `trainable` and `dtype`.
        state: tensors under our names; of the encoder, and with a task of the head, too.
        task: arguments of `ViTImageClassifier`.
        converter: arguments of `ViTImageConverter`.
        max_shard_size: in GB (2^30 bytes), above which weights are split into several files.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder to save into")
    folder.mkdir(parents=True, exist_ok=True)
    heads = int(arguments["num_heads"])
    of_head = {name: tensor for name, tensor in state.items() if name.startswith(("classifier.", "pre_logits."))}
    of_encoder = {name: tensor for name, tensor in state.items() if name not in of_head}
    files = _write_weights(folder, keras.to_keras(of_encoder, heads), max_shard_size)
    backbone = _object("vit_backbone", BACKBONE, arguments)
    contents = {CONFIG: backbone, METADATA: _metadata(of_encoder)}
    prepared = None if converter is None else _object("vit_image_converter", "ViTImageConverter", converter)
    if prepared is not None:
        contents[CONVERTER] = prepared
    if task is not None:
        rules = keras.DEEP_HEAD if "pre_logits.weight" in of_head else keras.HEAD
        write_h5(folder / TASK_WEIGHTS, keras.to_keras(of_head, heads, rules) | _fresh_optimizer())
        files.append(TASK_WEIGHTS)
        preprocessor = None
        if prepared is not None:
            inner = _common("vi_t_image_classifier_preprocessor") | {
                "image_converter": prepared,
                "config_file": PREPROCESSOR,
            }
            preprocessor = _object("vit_image_classifier_preprocessor", "ViTImageClassifierPreprocessor", inner)
            contents[PREPROCESSOR] = preprocessor
        inner = {"backbone": backbone, "preprocessor": preprocessor, **task}
        contents[TASK] = _object("vit_image_classifier", CLASSIFIER, inner)
    for name, content in contents.items():
        write_text(folder / name, json.dumps(content, indent=4))
    for old in (*folder.glob("*.weights.h5"), *(folder / name for name in (INDEX, TASK, CONVERTER, PREPROCESSOR))):
        if old.name not in (*files, *contents):
            old.unlink(missing_ok=True)


def _write_weights(folder: Path, datasets: Mapping[str, Tensor], max_shard_size: float) -> list[str]:
    """Writes `model.weights.h5`, or several files and what lies where; returns the names of the files."""
    most = max_shard_size * 2**30
    if sum(tensor.nbytes for tensor in datasets.values()) <= most:
        write_h5(folder / WEIGHTS, datasets)
        return [WEIGHTS]
    shards: list[dict[str, Tensor]] = [{}]
    for _, names in groupby(datasets, lambda name: name.rpartition("/")[0]):
        found = {name: datasets[name] for name in names}
        size = sum(tensor.nbytes for tensor in found.values())
        if shards[-1] and sum(tensor.nbytes for tensor in shards[-1].values()) + size > most:
            shards.append({})
        shards[-1] |= found
    files = [f"model_{number:05d}.weights.h5" for number in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        write_h5(folder / file, shard)
    places = {f"/{name.rpartition('/')[0]}": file for file, shard in zip(files, shards, strict=True) for name in shard}
    total = sum(tensor.nbytes for tensor in datasets.values())
    content = {"metadata": {"total_size": total}, "weight_map": places}
    write_text(folder / INDEX, json.dumps(content, indent=4))
    return [*files, INDEX]


def _fresh_optimizer() -> dict[str, Tensor]:
    """Step and learning rate of a classifier's own optimizer, which Keras expects beside the head."""
    import torch

    return {"optimizer/vars/0": torch.tensor(0, dtype=torch.int32), "optimizer/vars/1": torch.tensor(5e-5)}


def _metadata(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "keras_version": MADE_FOR[0],
        "keras_hub_version": MADE_FOR[1],
        "parameter_count": sum(tensor.numel() for tensor in state.values()),
        "date_saved": datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": ["ImageClassifier"],
    }


def _object(module: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """An object of KerasHub's ViT as its JSON files have it."""
    place = {"module": f"keras_hub.src.models.vit.{module}", "class_name": name}
    return {**place, "config": dict(config), "registered_name": f"keras_hub>{name}"}


def _common(name: str) -> dict[str, Any]:
    return {"name": name, "trainable": True, "dtype": _policy("float32")}


def _policy(name: str) -> dict[str, Any]:
    """A `dtype` as Keras writes it."""
    return {"module": "keras", "class_name": "DTypePolicy", "config": {"name": name}, "registered_name": None}


def _converter(arguments: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of an image converter that normalises by mean and deviation; None where they are not known."""
    if "image_mean" not in preprocessor:
        return None
    factor, (height, width, _) = preprocessor.get("rescale_factor", 1 / 255), keras.image_sides(arguments)
    mean, std = preprocessor["image_mean"], preprocessor["image_std"]
    return {
        **_common("vi_t_image_converter"),
        "image_size": [height, width],
        "scale": [factor / one for one in std],
        "offset": [-one / other for one, other in zip(mean, std, strict=True)],
        "interpolation": "bilinear",
        "antialias": False,
        "crop_to_aspect_ratio": True,
        "pad_to_aspect_ratio": False,
        "bounding_box_format": "yxyx",
    }
