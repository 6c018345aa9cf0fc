"""Hugging Face folders: `from_pretrained` and `save_pretrained` of every model class."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor

from mimsuite.data.storage import write_text
from mimsuite.encoders.config import ModelConfig
from mimsuite.encoders.config_form import json_text
from mimsuite.errors import InputError
from mimsuite.models.families import FAMILIES
from mimsuite.models.interface import Interface
from mimsuite.models.keywords import Loading, read_dtype, read_variant
from mimsuite.models.trial import make_for
from mimsuite.types import Encoder, EncoderConfig
from mimsuite.weights.files import read_shard_size, write_decoder, write_folder
from mimsuite.weights.hub import upload
from mimsuite.weights.source import find_folder, marked_names
from mimsuite.weights.tensors import Tensors

AT_A_TIME = 64 * 2**20  # bytes of weights that are in memory beside the model while it is loaded
HUB_KEYWORDS = ("repo_id", "commit_message", "private", "token", "revision", "create_pr")


class Pretrained(Interface):
    """A model with a configuration that is read from and written to Hugging Face folders.

    Attributes:
        config_class: the family's configuration.
        base_prefix: the family's prefix of the encoder's parameters in models with a head: "vit", "cvt",
            "bit".
        is_base: whether this is the bare encoder, whose parameters have no prefix.
        init_options: arguments of the constructor, beside `config`, that `from_pretrained` hands on.
        beside_prefix: the encoder's parts whose keys in state dicts and files have no prefix, in models with a head.
    """

    config_class: ClassVar[type[ModelConfig]]
    base_prefix: ClassVar[str]
    is_base: ClassVar[bool] = False
    init_options: ClassVar[tuple[str, ...]] = ()
    beside_prefix: ClassVar[tuple[str, ...]] = ()

    def network(self) -> Encoder:
        """Returns the family's encoder: this model itself, if it is bare."""
        return cast(Encoder, self if self.is_base else getattr(self, self.base_prefix))

    def __init_subclass__(cls, **options: Any) -> None:
        """Gives classes the names that other software looks for, and models the encoder's parts beside the prefix."""
        super().__init_subclass__(**options)
        cls.base_model_prefix = getattr(cls, "base_prefix", "")
        family = FAMILIES.get(cls.base_model_prefix)
        cls._no_split_modules = None if family is None else list(family.indivisible)
        for name in () if cls.is_base else cls.beside_prefix:
            setattr(cls, name, _of_encoder(name))

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; what stands beside the prefix is the encoder's."""
        owner = self.network() if name in self.beside_prefix and not self.is_base else super()
        owner.__setattr__(name, value)

    def file_parts(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
        """How a state dict is saved: the class that the files are of, its tensors, and those of a decoder beside."""
        return type(self).__name__, state, {}

    @staticmethod
    def file_key(key: str) -> str:
        """Returns the name in files of a parameter that other software named otherwise."""
        return key

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        config: Any = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        ignore_mismatched_sizes: bool = False,
        **overrides: Any,
    ) -> Self:
        """Reads a folder or `hf:ORG/NAME` and returns the model in eval mode.

        Parameters that the files do not have stay freshly initialised; they and the ones that the model does
        not have are listed in one warning.

        Args:
            source: folder with `config.json` and weights, or the name of a hub repository; None with `state_dict`. Its
                name may also be `pretrained_model_name_or_path`.
            config: used instead of the folder's; an object, of transformers, too, or another folder.
            dtype: of the parameters; None and "auto": that of the files.
            torch_dtype: old name of `dtype`.
            ignore_mismatched_sizes: keep parameters of other shapes freshly initialised instead of failing.
            overrides: fields of the configuration, `init_options` of the class, and what code for Hugging Face gives:
                `subfolder`, `revision`, `token`, `cache_dir`, `force_download`, `local_files_only` (which files);
                `variant`, `use_safetensors`, `from_flax`, `from_tf`, `state_dict` (of them); `device_map` (one device);
                `output_loading_info=True` (returns the model and what was missing, unexpected, of other shapes).

        Raises:
            FileNotFoundError: no folder, `config.json` or weights (also an InputError).
            InputError: damaged files, unknown fields, shapes that differ, or what mimsuite does not do.
        """
        source = overrides.pop("pretrained_model_name_or_path", source)
        loading = Loading.take(overrides)
        options = {name: overrides.pop(name) for name in cls.init_options if name in overrides}
        if (source is None) != (loading.state_dict is not None):
            raise InputError("give a folder to from_pretrained, or None with config= and state_dict=")
        name = "state_dict" if source is None else str(source)
        folder = None if source is None else find_folder(source, loading.hub, files=loading.files)
        if hasattr(config, "to_dict") and not isinstance(config, ModelConfig):  # an object of transformers
            config = cls.config_class.from_dict(config.to_dict())
        if not isinstance(config, ModelConfig):
            if (place := folder if config is None else config) is None:
                raise InputError("state_dict= needs config=, as there is no config.json")
            config = cls.config_class.from_pretrained(place)
        config = config.changed(**overrides) if overrides else config
        state, foreign = loading.tensors(folder, with_decoder=not cls.is_base)
        options = (optional_parts(cls, state) if foreign else {}) | options
        wanted = config
        model = make_for(
            state,
            name,
            lambda: cls(copy.copy(wanted), **options),
            lambda trial: check_shapes(trial, state, name, ignore_mismatched_sizes),
        )
        if model.device.type == "meta" or (loading.device is not None and loading.device.type == "meta"):
            raise NotLoadedError(
                f"{name}: You are using `from_pretrained` with a meta device context manager or device_map='meta', "
                "which keeps no values; use another device"
            )
        model.to(read_dtype(torch_dtype if dtype is None else dtype, config.dtype, state))
        info = load_state(model, state, name, ignore_mismatched_sizes)
        if loading.device is not None:
            model.to(loading.device)
        model.name_or_path = model.config.name_or_path = "" if source is None else name
        model.eval()
        return (model, info._asdict()) if loading.wants_info else model  # type: ignore[return-value]

    @classmethod
    def _from_config(
        cls,
        config: ModelConfig,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> Self:
        """Makes a freshly initialised model, of the type that the config names; `options` as for the constructor."""
        if attn_implementation is not None:
            config = config.changed(attn_implementation=attn_implementation)
        made = cls(config, **options)
        return made.to(read_dtype(torch_dtype if dtype is None else dtype, config.dtype, Tensors({})))

    def save_pretrained(
        self,
        folder: str | Path | None = None,
        is_main_process: bool = True,
        *,
        state_dict: dict[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        max_shard_bytes: int | None = None,
        variant: str | None = None,
        push_to_hub: bool = False,
        **other: Any,
    ) -> None:
        """Writes `config.json`, `model.safetensors` (or shards) and perhaps `decoder.safetensors`.

        Each is written whole or not at all. Makes the folder. What transformers would load and compute otherwise gets a
        `model_type` and a class name that it refuses, and a warning names the fields; every loader of ours knows both.

        Args:
            folder: where to; its name may also be `save_directory`.
            is_main_process: False: nothing is written, as by all processes of a run but one.
            state_dict: tensors to write instead of the model's own, by the names of its `state_dict()`.
            max_shard_size: of a file; a number of bytes, or "5GB".
            max_shard_bytes: old name of `max_shard_size`.
            variant: of the files, as in `model.fp16.safetensors`.
            push_to_hub: also upload the folder to the Hugging Face hub, to `repo_id` or a repository of its name.
            other: `repo_id`, `commit_message`, `private`, `token`, `revision`, `create_pr` of an upload. What else code
                for Hugging Face gives is without effect, such as `safe_serialization`: only safetensors are written.
        """
        folder = other.get("save_directory", folder)
        if folder is None:
            raise InputError("save_pretrained needs a folder")
        if not isinstance(is_main_process, bool):  # max_shard_bytes had this place once
            raise InputError(
                f"is_main_process={is_main_process!r} is not True or False; use max_shard_size= by its name"
            )
        if not is_main_process:
            return
        if fields := self.write_files(
            Path(folder),
            self.state_dict() if state_dict is None else state_dict,
            read_shard_size(max_shard_size if max_shard_bytes is None else max_shard_bytes),
            read_variant(variant),
        ):
            warnings.warn(
                f"{folder}: transformers refuses this model, as it would compute something else: it does not know "
                f"{', '.join(fields)}; read it with mimsuite",
                stacklevel=2,
            )
        if push_to_hub:
            upload(Path(folder), **{name: other[name] for name in HUB_KEYWORDS if name in other})

    def push_to_hub(self, repo_id: str, **other: Any) -> str:
        """Writes the model's files and uploads them; arguments as for `save_pretrained`. Returns the address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **{name: value for name, value in other.items() if name not in HUB_KEYWORDS})
            return upload(Path(folder), repo_id, **{name: other[name] for name in HUB_KEYWORDS if name in other})

    def write_files(
        self, folder: Path, state: dict[str, Tensor], max_shard_bytes: int = 5 * 10**9, variant: str | None = None
    ) -> list[str]:
        """Writes what `save_pretrained` does; returns the fields that transformers does not know, without a warning."""
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; give a folder to save into")
        config = copy.copy(self.config)
        name, state, decoder = self.file_parts(state)
        config.architectures = [name]
        config.dtype = self.dtype
        data = config.to_file()
        fields = differs_in_transformers(config, name)
        text = json_text(marked_names(data) if fields else data)
        folder.mkdir(parents=True, exist_ok=True)
        write_folder(folder, state, max_shard_bytes, variant)
        write_decoder(folder, decoder, variant)
        write_text(folder / "config.json", text)
        return fields


def optional_parts(cls: type[Pretrained], state: Tensors) -> dict[str, Any]:
    """Arguments of a class's constructor, so that the model has those optional parts that weights are there for."""
    held = {
        "add_pooling_layer": any(name.startswith("pooler.") for name in state),
        "use_mask_token": any(name in ("mask_token", "embeddings.mask_token") for name in state),
    }
    return {name: value for name, value in held.items() if name in cls.init_options}


def _of_encoder(name: str) -> property:
    def part(model: Pretrained) -> Any:
        return getattr(model.network(), name)

    return property(part)


def differs_in_transformers(config: EncoderConfig, class_name: str) -> list[str]:
    """`field=value` of what makes the class of this name compute something else in transformers."""
    classifies = class_name.endswith("ForImageClassification")
    return [text for text in config.not_in_transformers if classifies or not text.startswith("classifier_pool=")]


class NotLoadedError(InputError, RuntimeError):
    """Weights that do not fit, or the meta device; also the RuntimeError that code for Hugging Face expects then."""


class LoadingInfo(NamedTuple):
    """What did not find its place: names of parameters, and with the shapes where those differ."""

    missing_keys: set[str]
    unexpected_keys: set[str]
    mismatched_keys: set[tuple[str, torch.Size, torch.Size]]
    error_msgs: list[str]


def load_state(
    model: Pretrained,
    state: Tensors,
    source: str,
    ignore_mismatched_sizes: bool = False,
    quiet: tuple[str, ...] = (),
) -> LoadingInfo:
    """Copies `state` into `model` by the family's prefix rules, and warns once of what is fresh or left over.

    Tensors are read a few at a time, so that beside the model little memory is needed.

    Names with a part that begins with one of `quiet` are not mentioned.

    Weights of a model with a head go into the bare encoder (prefix and head removed) and the other way
    round (prefix added).

    Raises:
        InputError: shapes that differ, unless they are to be ignored.
    """
    own = model.state_dict()
    found, differing = check_shapes(model, state, source, ignore_mismatched_sizes)
    usable = found.only(k for k in found if k in own and k not in differing)
    for part in usable.in_parts(AT_A_TIME):
        model.load_state_dict(part, strict=False)
    fresh, unexpected = (
        sorted(key for key in keys if not any(key.startswith(name) or f".{name}" in key for name in quiet))
        for keys in (own.keys() - usable.keys(), found.keys() - own.keys())
    )
    notes = [
        f"{label}: {_names(keys)}"
        for label, keys in (("freshly initialised", fresh), ("in the files but not in the model", unexpected))
        if keys
    ]
    if notes:
        warnings.warn(f"{source} -> {type(model).__name__}: {'; '.join(notes)}", stacklevel=3)
    mismatched = {(key, torch.Size(found.shapes[key]), own[key].shape) for key in differing}
    return LoadingInfo(own.keys() - found.keys(), found.keys() - own.keys(), mismatched, [])


def check_shapes(
    model: Pretrained, state: Tensors, source: str, ignore_mismatched_sizes: bool = False
) -> tuple[Tensors, list[str]]:
    """Returns `state` under the names of `model`, and the names whose shapes differ; errors as `load_state`."""
    own = model.state_dict()
    found = place_keys(model, state.renamed(model.file_key))
    shapes = found.shapes
    differing = [k for k, shape in shapes.items() if k in own and tuple(own[k].shape) != shape]
    if differing and not ignore_mismatched_sizes:
        key = differing[0]
        raise NotLoadedError(
            f"{source}: {key} has shape {shapes[key]}, the model {tuple(own[key].shape)} "
            f"({len(differing)} such); change the config or pass ignore_mismatched_sizes=True"
        )
    return found, differing


def _names(keys: list[str], most: int = 12) -> str:
    return ", ".join(keys[:most]) + f" and {len(keys) - most} more" * (len(keys) > most)


def place_keys(model: Pretrained, state: Tensors) -> Tensors:
    """Returns `state` under the names of `model`: the encoder's prefix removed or added."""
    prefix = model.base_prefix + "."
    prefixed = any(k.startswith(prefix) for k in state)
    own = model.state_dict().keys()
    if prefixed and model.is_base:  # what lies beside the prefix belongs to a head, or to this encoder's own ends
        kept = state.only(k for k in state if k.startswith(prefix) or k in own)
        return kept.renamed(lambda k: k.removeprefix(prefix))
    if prefixed or model.is_base:
        return state
    return state.renamed(lambda k: prefix + k if k not in own and prefix + k in own else k)


def lift_keys(model: Pretrained) -> None:
    """Gives the encoder's parts in `beside_prefix` keys without prefix in state dicts, and so in files."""
    model.register_state_dict_post_hook(_lift)  # type: ignore[no-untyped-call]
    model.register_load_state_dict_pre_hook(_lower)  # type: ignore[no-untyped-call]


def _lift(model: Pretrained, state: dict[str, Any], prefix: str, _: Any) -> None:
    for inner, outer in _moved_keys(model, prefix):
        state[outer] = state.pop(inner)


def _lower(model: Pretrained, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for inner, outer in _moved_keys(model, prefix):
        if outer in state:
            state[inner] = state.pop(outer)


def _moved_keys(model: Pretrained, prefix: str) -> Iterator[tuple[str, str]]:
    """Names in memory and in state dicts of the encoder's parameters that lie beside its prefix."""
    encoder = getattr(model, model.base_prefix)
    for name, _ in encoder.named_parameters():
        if name.partition(".")[0] in model.beside_prefix:
            yield f"{prefix}{model.base_prefix}.{name}", f"{prefix}{name}"
