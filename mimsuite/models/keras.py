"""KerasHub's `ViTBackbone`: its arguments, presets and files, as a face over our Vision Transformer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mimsuite.errors import InputError, reading
from mimsuite.models.keras_arguments import DATA_FORMATS, Policy, ViTArguments, read_policy
from mimsuite.models.trial import make_for
from mimsuite.models.vit import ViTModel
from mimsuite.weights.containers.h5 import write_h5
from mimsuite.weights.formats.keras import image_sides, to_keras, with_layout
from mimsuite.weights.keras_folder import Preset, as_ours, open_preset, open_weights, write_folder
from mimsuite.weights.keras_presets import builtin_presets
from mimsuite.weights.tensors import Tensors

MLP_BIAS_STD, CLASS_TOKEN_STD, POSITION_STD = 1e-6, 0.05, 0.02  # of KerasHub's fresh weights


class Backbone(nn.Module):
    """The base of KerasHub's backbones, whose `from_preset` takes the class from the preset; ours is `ViTBackbone`."""

    #: The built-in presets by name: `metadata` with `description`, `params`, and `kaggle_handle`.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = builtin_presets()

    @classmethod
    def from_preset(cls, preset: str | Path, load_weights: bool = True, **arguments: Any) -> ViTBackbone:
        """Reads a preset and returns the model in eval mode.

        Args:
            preset: a built-in name (`presets`), `kaggle://ORG/MODEL/keras/NAME[/VERSION]`, `hf://ORG/NAME`,
                `modelscope://ORG/NAME`, or a folder: of KerasHub, or of Hugging Face with a ViT. What is not on this
                disk is downloaded by the hub's own library.
            load_weights: False: weights are drawn at random, and built-in names need no network.
            arguments: of `ViTBackbone`, instead of the preset's. With another height or width in `image_shape` the
                positions are interpolated (bicubic).

        Raises:
            InputError: no such preset, one of another class, or damaged files.
            FileNotFoundError: the folder has no weights (also an InputError).
            ImportError: a hub's library is not installed (also an InputError).
            ConnectionError: the hub does not give the preset (also an InputError).
        """
        made: type[ViTBackbone] = cls if issubclass(cls, ViTBackbone) else ViTBackbone
        content = open_preset(preset, load_weights)
        return made.of_preset(content, arguments, content.tensors() if load_weights else None)


class ViTBackbone(Backbone):
    """A Vision Transformer under KerasHub's names (Dosovitskiy et al. 2021), with its weights and results.

    Gives the tokens after the final LayerNorm, `(B, N + 1, hidden_dim)`, the class token first; `(B, N, hidden_dim)`
    without one. The network is `ViTModel`, in the attribute `encoder`, so that all of mimsuite works on it.

    Args:
        image_shape: pixels and channels of the images, `(H, W, C)`, or `(C, H, W)` with "channels_first".
        patch_size: pixels, a side or `(ph, pw)`; must divide the image.
        num_layers: blocks.
        num_heads: must divide `hidden_dim`.
        hidden_dim: width of a token.
        mlp_dim: width of the MLP.
        dropout_rate: after the positions, the attention's output, the MLP's activation and the MLP.
        attention_dropout: on the attention probabilities.
        layer_norm_epsilon: of all LayerNorms.
        use_mha_bias: biases of queries, keys, values, and of the attention's output.
        use_mlp_bias: biases of the MLP.
        use_class_token: whether there is a class token.
        use_patch_bias: bias of the patch embedding.
        data_format: of the images: "channels_last" (also None) or "channels_first".
        dtype: "float32", "bfloat16", "float16", "float64"; "mixed_bfloat16" or "mixed_float16" (float32 parameters,
            autocast); or a DTypePolicy of Keras as a dict. None: torch's default type.
        name: is kept in files.
        trainable: False: no parameter has a gradient.

    Raises:
        InputError: a value that is not allowed (a ValueError).
        TypeError: a value of the wrong type.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | list[int],
        patch_size: int | tuple[int, int] | list[int],
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout_rate: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        use_mha_bias: bool = True,
        use_mlp_bias: bool = True,
        use_class_token: bool = True,
        use_patch_bias: bool = True,
        data_format: str | None = None,
        dtype: Any = None,
        *,
        name: str = "vi_t_backbone",
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.arguments = ViTArguments(
            image_shape=image_shape,
            patch_size=patch_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            mlp_dim=mlp_dim,
            dropout_rate=dropout_rate,
            attention_dropout=attention_dropout,
            layer_norm_epsilon=layer_norm_epsilon,
            use_mha_bias=use_mha_bias,
            use_mlp_bias=use_mlp_bias,
            use_class_token=use_class_token,
            use_patch_bias=use_patch_bias,
            data_format=data_format,
            dtype=dtype,
            name=name,
            trainable=trainable,
        )
        self.encoder = ViTModel(self.arguments.vit(), add_pooling_layer=False)
        if self.arguments.dropout_rate:
            for layer in self.encoder.layers:
                part: Any = layer.intermediate
                part.activation = nn.Sequential(part.activation, nn.Dropout(self.arguments.dropout_rate))
        init_as_keras(self.encoder)
        self.to(self.arguments.dtype.parameters)
        self.trainable = trainable

    def forward(self, images: Any, training: bool | None = None) -> Tensor:
        """Encodes images.

        Args:
            images: `(B, *image_shape)` numbers, prepared as the weights want them: a tensor, an array, or either under
                the key "images" of a dict.
            training: whether dropout acts in this call; None: as `train()` and `eval()` say.

        Raises:
            InputError: images of another shape.
        """
        pixels = torch.as_tensor(images["images"] if isinstance(images, Mapping) else images, device=self.device)
        expected, policy = tuple(self.arguments.image_shape), self.dtype_policy
        if tuple(pixels.shape[1:]) != expected or pixels.ndim != 4:
            raise InputError(
                f"images have shape {tuple(pixels.shape)}; expected (batch, {', '.join(map(str, expected))}), as "
                f"image_shape and data_format={self.arguments.data_format!r} say"
            )
        if self.arguments.data_format == DATA_FORMATS[0]:
            pixels = pixels.movedim(-1, 1)
        with in_mode(self, training), computing_in(policy, self.device):
            tokens: Tensor = self.encoder(pixels, return_dict=True).last_hidden_state
        return tokens.to(policy.compute)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return self.encoder.dtype

    @property
    def dtype_policy(self) -> Policy:
        """The types of parameters and of results; after `to(torch.bfloat16)`, say, the one that it was set to."""
        policy = self.arguments.dtype
        return policy if policy.parameters == self.dtype else read_policy(self.dtype)

    @property
    def trainable(self) -> bool:
        """Whether any parameter has a gradient; setting it sets all."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @trainable.setter
    def trainable(self, wanted: bool) -> None:
        self.requires_grad_(wanted)

    def count_params(self) -> int:
        """How many values the parameters have."""
        return sum(parameter.numel() for parameter in self.parameters())

    def get_config(self) -> dict[str, Any]:
        """The arguments, as `config.json` has them."""
        return replace(self.arguments, dtype=self.dtype_policy, trainable=self.trainable).config()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A freshly drawn model of what `get_config` gave.

        Raises:
            InputError: names that are not arguments.
        """
        return cls(**vars(ViTArguments.take(config, "config")))

    def load_weights(self, filepath: str | Path) -> None:
        """Reads a `.weights.h5` file of KerasHub, or the `.weights.json` of several.

        Raises:
            FileNotFoundError: no such file (also an InputError).
            InputError: damaged, or of a model of another shape.
        """
        tensors = as_ours(open_weights(Path(filepath)), str(filepath))
        fits(self.encoder, tensors, str(filepath))
        fill(self.encoder, tensors)

    def save_weights(self, filepath: str | Path) -> None:
        """Writes a `.weights.h5` file as KerasHub does."""
        write_h5(Path(filepath), to_keras(self.encoder.state_dict(), self.arguments.num_heads))

    def save_to_preset(self, preset_dir: str | Path, max_shard_size: float = 10) -> None:
        """Writes a folder that KerasHub and `from_preset` read.

        Args:
            preset_dir: the folder, which is made.
            max_shard_size: in GB (2^30 bytes), above which weights are split into several files.
        """
        write_folder(Path(preset_dir), self.get_config(), self.encoder.state_dict(), max_shard_size=max_shard_size)

    @classmethod
    def of_preset(cls, preset: Preset, given: Mapping[str, Any], tensors: Tensors | None) -> Self:
        """The model of a preset, some of its arguments replaced, in eval mode; without tensors freshly drawn."""
        with reading(f"{preset.where}: config.json", "restore the file"):
            kernel = None if tensors is None else tensors.shapes.get("embeddings.patch_embeddings.projection.weight")
            own = with_layout(preset.arguments, None if kernel is None else kernel[1])
            sides, layout = image_sides(own), given.get("data_format") or own["data_format"]
            own |= {"image_shape": in_format(sides, layout), "data_format": layout}
            wanted = ViTArguments.take({**own, **given, "data_format": layout}, preset.where)
        if tensors is None:
            return cls(**vars(wanted)).eval()
        *size, channels = image_sides(vars(wanted))
        first = replace(wanted, image_shape=in_format((*sides[:2], channels), wanted.data_format))
        model = make_for(
            tensors, preset.where, lambda: cls(**vars(first)), lambda trial: fits(trial.encoder, tensors, preset.where)
        )
        fill(model.encoder, tensors)
        model.encoder.set_image_size(size)
        model.arguments = wanted
        return model.eval()


@contextmanager
def in_mode(model: nn.Module, training: bool | None) -> Iterator[None]:
    """Runs a block in training or evaluation mode, and gives every module its own mode back."""
    before = {} if training is None else {module: module.training for module in model.modules()}
    if training is not None:
        model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def computing_in(policy: Policy, device: torch.device) -> AbstractContextManager[object]:
    """Autocast for a mixed policy."""
    return nullcontext() if policy.compute == policy.parameters else torch.autocast(device.type, policy.compute)


def in_format(sides: tuple[int, int, int], data_format: str | None) -> list[int]:
    """`image_shape` of `(H, W, C)` in a `data_format`."""
    height, width, channels = sides
    return [channels, height, width] if data_format == DATA_FORMATS[1] else [height, width, channels]


def fits(module: nn.Module, tensors: Tensors, where: str) -> None:
    """Checks that tensors are those of a module: all, and no others.

    Raises:
        InputError: names or shapes that differ.
    """
    own, found = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}, tensors.shapes
    if strange := sorted(own.keys() ^ found.keys()):
        side = "has no" if strange[0] in own else "has a tensor too many,"
        raise InputError(f"{where} {side} {strange[0]} ({len(strange)} such); use the arguments that it was saved with")
    if wrong := [name for name in own if own[name] != found[name]]:
        raise InputError(
            f"{where}: {wrong[0]} has shape {found[wrong[0]]}, the model {own[wrong[0]]} ({len(wrong)} such); use the "
            "arguments that it was saved with"
        )


@torch.no_grad()
def fill(module: nn.Module, tensors: Tensors) -> None:
    """Copies tensors that fit into a module, one after the other."""
    for name, parameter in module.state_dict().items():
        parameter.copy_(tensors[name])


@torch.no_grad()
def init_as_keras(encoder: ViTModel) -> None:
    """Draws all parameters as KerasHub does: kernels from Glorot's (Xavier's) uniform distribution.

    Uses torch's global generator.
    """
    for name, parameter in encoder.named_parameters():
        if name.endswith("cls_token"):
            parameter.normal_(std=CLASS_TOKEN_STD)
        elif name.endswith("position_embeddings"):
            parameter.normal_(std=POSITION_STD)
        elif name.endswith("bias"):
            mlp = re.fullmatch(r"encoder\.layer\.\d+\.(intermediate|output)\.dense\.bias", name)
            parameter.normal_(std=MLP_BIAS_STD) if mlp else parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1)
        else:
            nn.init.xavier_uniform_(parameter)
