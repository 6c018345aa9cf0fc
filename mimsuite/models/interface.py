"""What tools written for Hugging Face's models ask of a model: PEFT, Trainer, accelerate, pipelines."""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import nn

from mimsuite.encoders.config import ModelConfig
from mimsuite.encoders.seen_as import seen_as
from mimsuite.errors import InputError
from mimsuite.models.families import FAMILIES, public_homes
from mimsuite.words import ATTENTION_IMPLEMENTATIONS


class Interface(nn.Module):
    """The attributes and methods of Hugging Face's model classes that other software uses.

    Attributes:
        config: the model's configuration.
        name_or_path: what `from_pretrained` was given.
        main_input_name: the first argument of `forward`.
        base_model_prefix: under which name models with a head have the encoder, or would have it.
    """

    config: Any  # a ModelConfig, which families narrow
    name_or_path: str = ""
    main_input_name: ClassVar[str] = "pixel_values"
    base_model_prefix: ClassVar[str]
    supports_gradient_checkpointing: ClassVar[bool] = True
    accepts_loss_kwargs: ClassVar[bool] = False  # the loss is the mean of a micro-batch, whatever `forward` is told
    _no_split_modules: ClassVar[list[str] | None] = None
    _keys_to_ignore_on_load_missing: ClassVar[None] = None
    _keys_to_ignore_on_save: ClassVar[None] = None
    _can_record_outputs: ClassVar[None] = None
    _tied_weights_keys: ClassVar[None] = None
    _supports_sdpa: ClassVar[bool] = True
    _supports_flash_attn: ClassVar[bool] = False
    _supports_attention_backend: ClassVar[bool] = False

    # PEFT and Trainer do with a model of transformers what they do with no other, such as writing `config.json`.
    @property
    def __class__(self) -> type:
        """The class; in a program that uses transformers, a subclass of it that is a `PreTrainedModel`, too."""
        return seen_as(type(self), "transformers.modeling_utils", "PreTrainedModel")

    @__class__.setter
    def __class__(self, other: type) -> None:
        vars(object)["__class__"].__set__(self, other)

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        """Copies and pickles the class itself, whatever `__class__` is."""
        state: Any = object.__getstate__(self)
        return copyreg._reconstructor, (type(self), object, None), state  # type: ignore[attr-defined]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def base_model(self) -> nn.Module:
        """The encoder: this model itself, if it is bare."""
        return cast(nn.Module, getattr(self, self.base_model_prefix, self))

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many values the parameters have; `exclude_embeddings` is without effect: images have no vocabulary."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the parameters, and of the buffers unless `return_buffers=False`."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.nbytes for tensor in tensors)

    def get_input_embeddings(self) -> nn.Module:
        """The module that makes cells of pixels."""
        return self.base_model.get_submodule(self._input_layer())

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces what `get_input_embeddings` gives."""
        self.base_model.set_submodule(self._input_layer(), value)

    def _input_layer(self) -> str:
        if self.base_model_prefix not in FAMILIES:
            raise NotImplementedError(f"it is not known which module of {type(self).__name__} makes cells")
        return FAMILIES[self.base_model_prefix].input_layer

    def get_output_embeddings(self) -> None:
        """None: images have no vocabulary."""

    @classmethod
    def can_generate(cls) -> bool:
        """No: it writes no text."""
        return False

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    @classmethod
    def is_custom_code(cls) -> bool:
        """Yes: its modules have the names of files, so nothing is renamed."""
        return True

    def tie_weights(self, *_: Any, **__: Any) -> None:
        """Does nothing: no parameter has two names."""

    def set_attn_implementation(self, attn_implementation: str | Mapping[str, str]) -> None:
        """Computes attention by "auto", "sdpa" or "eager" from now on."""
        name = attn_implementation
        wanted = name if isinstance(name, str) else name.get("", self.config.attn_implementation)
        if wanted not in ATTENTION_IMPLEMENTATIONS:
            allowed = ", ".join(ATTENTION_IMPLEMENTATIONS)
            raise InputError(f'Specified `attn_implementation="{wanted}"` is not supported; use one of {allowed}')
        for module in self.modules():
            if isinstance(found := getattr(module, "config", None), ModelConfig):
                found.attn_implementation = wanted

    # --- gradients -----------------------------------------------------------------------------------------------

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks are computed again in the backward pass."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    is_activation_checkpointing = is_gradient_checkpointing

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Keeps only the blocks' inputs for the backward pass; values and gradients stay the same.

        The arguments are those of other software: blocks are always computed again without `use_reentrant`.
        """
        self._recompute(True)

    def gradient_checkpointing_disable(self) -> None:
        """Undoes `gradient_checkpointing_enable`."""
        self._recompute(False)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Another name of `gradient_checkpointing_enable`."""
        self.gradient_checkpointing_enable()

    def activation_checkpointing_disable(self) -> None:
        """Another name of `gradient_checkpointing_disable`."""
        self.gradient_checkpointing_disable()

    def _recompute(self, wanted: bool) -> None:
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                cast(Any, module).gradient_checkpointing = wanted

    def enable_input_require_grads(self) -> None:
        """Lets gradients reach the cells also where the embeddings are frozen, as adapters need it."""
        self.disable_input_require_grads()
        hook = self.get_input_embeddings().register_forward_hook(_require_grad)
        self._require_grads_hook: Any = hook

    def disable_input_require_grads(self) -> None:
        """Undoes `enable_input_require_grads`."""
        if (hook := self.__dict__.pop("_require_grads_hook", None)) is not None:
            hook.remove()

    # --- subclasses with layers of their own ---------------------------------------------------------------------

    def post_init(self) -> None:
        """Called at the end of a subclass's constructor: draws the values of the layers that it added."""
        self.init_weights()

    def init_weights(self) -> None:
        """Draws the values of the layers that are not part of mimsuite's class, by `_init_weights`.

        Ours are drawn when the model is made, and not again: after `to_empty` their values have to be loaded.
        """
        public = public_homes()
        own = next((c for c in type(self).__mro__ if public.get(c.__name__) == c.__module__), None)
        with torch.device("meta"):
            made = {} if own is None else dict(own(copy.copy(self.config)).named_modules())
        ours = {name: _facts(module) for name, module in made.items()}
        inside = (part for name, part in self.named_modules() if name not in ours and isinstance(part, Interface))
        drawn = {module for part in inside if part is not self for module in part.modules()}
        for name, module in self.named_modules():
            if module in drawn or ours.get(name) == _facts(module) or any(p.is_meta for p in module.parameters()):
                continue
            self._init_weights(module)

    def _init_weights(self, module: nn.Module) -> None:
        """Draws the values of one layer: a normal distribution, biases 0; subclasses may do otherwise."""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Embedding):
            nn.init.normal_(module.weight, std=getattr(self.config, "initializer_range", 0.02))
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(cast(nn.Parameter, module.bias))


def _require_grad(_: nn.Module, __: Any, output: torch.Tensor) -> None:
    output.requires_grad_(True)


def _facts(module: nn.Module) -> tuple[type, dict[str, torch.Size]]:
    return type(module), {name: p.shape for name, p in module.named_parameters(recurse=False)}
