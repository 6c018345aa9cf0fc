"""Hugging Face folders: `from_pretrained` and `save_pretrained` of every model class."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from mimsuite.data.storage import write_text
from mimsuite.encoders.config import ModelConfig, json_text
from mimsuite.errors import InputError
from mimsuite.models.trial import make_for
from mimsuite.types import Encoder, EncoderConfig
from mimsuite.weights.files import read_decoder, read_folder, write_decoder, write_folder
from mimsuite.weights.source import find_folder, marked_names

MAX_SHARD_BYTES = 5 * 10**9


class Pretrained(nn.Module):
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

    def gradient_checkpointing_enable(self) -> None:
        """Keeps only the blocks' inputs for the backward pass; values and gradients stay the same."""
        self._recompute(True)

    def gradient_checkpointing_disable(self) -> None:
        """Undoes `gradient_checkpointing_enable`."""
        self._recompute(False)

    def _recompute(self, wanted: bool) -> None:
        network: Any = self.network()  # our networks have this switch, beyond the contract
        network.gradient_checkpointing = wanted

    def file_parts(self) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
        """What is saved: the class that the files are of, its tensors, and those of a decoder beside."""
        return type(self).__name__, self.state_dict(), {}

    @staticmethod
    def file_key(key: str) -> str:
        """Returns the name in files of a parameter that other software named otherwise."""
        return key

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        config: ModelConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        ignore_mismatched_sizes: bool = False,
        **overrides: Any,
    ) -> Self:
        """Reads a folder or `hf:ORG/NAME` and returns the model in eval mode.

        Parameters that the files do not have stay freshly initialised; they and the ones that the model does
        not have are listed in one warning.

        Args:
            source: folder with `config.json` and weights, or the name of a hub repository.
            config: used instead of the folder's.
            dtype: of the parameters; None: torch's default; "auto": that of the files.
            torch_dtype: old name of `dtype`.
            ignore_mismatched_sizes: keep parameters of other shapes freshly initialised instead of failing.
            overrides: fields of the configuration, or `init_options` of the class.

        Raises:
            FileNotFoundError: no folder, `config.json` or weights (also an InputError).
            InputError: damaged files, unknown fields, or shapes that differ.
        """
        options = {name: overrides.pop(name) for name in cls.init_options if name in overrides}
        folder = find_folder(source)
        if config is None:
            config = cls.config_class.from_pretrained(folder, **overrides)
        elif overrides:
            config = config.changed(**overrides)
        state = read_folder(folder) if cls.is_base else read_folder(folder) | read_decoder(folder)
        wanted = config
        model = make_for(
            state,
            str(source),
            lambda: cls(copy.copy(wanted), **options),
            lambda trial: check_shapes(trial, state, str(source), ignore_mismatched_sizes),
        )
        model.to(_dtype_of(dtype if dtype is not None else torch_dtype, state))
        load_state(model, state, str(source), ignore_mismatched_sizes)
        return model.eval()

    def save_pretrained(self, folder: str | Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        """Writes `config.json`, `model.safetensors` (or shards) and perhaps `decoder.safetensors`.

        Each is written whole or not at all. Makes the folder. What transformers would load and compute otherwise gets a
        `model_type` and a class name that it refuses; every loader of ours knows both.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; give a folder to save into")
        config = copy.copy(self.config)
        assert isinstance(config, ModelConfig)
        name, state, decoder = self.file_parts()
        config.architectures = [name]
        config.dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        data = config.to_dict()
        text = json_text(marked_names(data) if differs_in_transformers(config, name) else data)
        folder.mkdir(parents=True, exist_ok=True)
        write_folder(folder, state, max_shard_bytes)
        write_decoder(folder, decoder)
        write_text(folder / "config.json", text)


def differs_in_transformers(config: EncoderConfig, class_name: str) -> list[str]:
    """`field=value` of what makes the class of this name compute something else in transformers."""
    classifies = class_name.endswith("ForImageClassification")
    return [text for text in config.not_in_transformers if classifies or not text.startswith("classifier_pool=")]


def load_state(
    model: Pretrained,
    state: dict[str, Tensor],
    source: str,
    ignore_mismatched_sizes: bool = False,
    quiet: tuple[str, ...] = (),
) -> None:
    """Copies `state` into `model` by the family's prefix rules, and warns once of what is fresh or left over.

    Names with a part that begins with one of `quiet` are not mentioned.

    Weights of a model with a head go into the bare encoder (prefix and head removed) and the other way
    round (prefix added).

    Raises:
        InputError: shapes that differ, unless they are to be ignored.
    """
    own = model.state_dict()
    found, differing = check_shapes(model, state, source, ignore_mismatched_sizes)
    usable = {k: t for k, t in found.items() if k in own and k not in differing}
    model.load_state_dict(usable, strict=False)
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


def check_shapes(
    model: Pretrained, state: dict[str, Tensor], source: str, ignore_mismatched_sizes: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns `state` under the names of `model`, and the names whose shapes differ; errors as `load_state`."""
    own = model.state_dict()
    found = place_keys(model, {model.file_key(k): t for k, t in state.items()})
    differing = [k for k, t in found.items() if k in own and own[k].shape != t.shape]
    if differing and not ignore_mismatched_sizes:
        key = differing[0]
        raise InputError(
            f"{source}: {key} has shape {tuple(found[key].shape)}, the model {tuple(own[key].shape)} "
            f"({len(differing)} such); change the config or pass ignore_mismatched_sizes=True"
        )
    return found, differing


def _names(keys: list[str], most: int = 12) -> str:
    return ", ".join(keys[:most]) + f" and {len(keys) - most} more" * (len(keys) > most)


def place_keys(model: Pretrained, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns `state` under the names of `model`: the encoder's prefix removed or added."""
    prefix = model.base_prefix + "."
    prefixed = any(k.startswith(prefix) for k in state)
    own = model.state_dict().keys()
    if prefixed and model.is_base:  # what lies beside the prefix belongs to a head, or to this encoder's own ends
        return {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix) or k in own}
    if prefixed or model.is_base:
        return state
    return {(prefix + k if k not in own and prefix + k in own else k): t for k, t in state.items()}


def _dtype_of(dtype: torch.dtype | str | None, state: dict[str, Tensor]) -> torch.dtype:
    if dtype is None:
        return torch.get_default_dtype()
    if dtype == "auto":
        return next((t.dtype for t in state.values() if t.is_floating_point()), torch.get_default_dtype())
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype={dtype!r} is not a floating type; use float32, bfloat16, float16, float64 or auto")
    return found


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
