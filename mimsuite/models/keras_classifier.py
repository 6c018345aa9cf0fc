"""KerasHub's `ViTImageClassifier`: a head on a `ViTBackbone`, with its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from mimsuite.encoders.activations import activation_function
from mimsuite.encoders.config import Activation
from mimsuite.errors import InputError
from mimsuite.models.keras import ViTBackbone, computing_in, fill, fits, in_mode
from mimsuite.models.keras_arguments import read_policy
from mimsuite.weights.formats.keras import DEEP_HEAD, HEAD
from mimsuite.weights.keras_folder import POOLINGS, open_preset, write_folder

ARGUMENTS = ("num_classes", "pooling", "intermediate_dim", "activation", "dropout", "head_dtype", "name")


class Head(nn.Module):
    """The layers of the head, under the names of `mimsuite.weights.formats.keras`; `pre_logits` may be absent."""

    def __init__(self, width: int, num_classes: int, intermediate_dim: int | None) -> None:
        super().__init__()
        self.pre_logits = None if intermediate_dim is None else nn.Linear(width, intermediate_dim)
        self.classifier = nn.Linear(intermediate_dim or width, num_classes)
        for layer in (self.classifier,) if self.pre_logits is None else (self.pre_logits, self.classifier):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


class ViTImageClassifier(nn.Module):
    """A linear layer on a token of a `ViTBackbone`, or on the mean of all; gives `(B, num_classes)`.

    Args:
        backbone: the encoder.
        num_classes: outputs.
        preprocessor: None: images are prepared before they are given to the model.
        pooling: "token", the class token, or "gap", the mean of all tokens, the class token among them.
        intermediate_dim: width of a layer with tanh before; None: no such layer.
        activation: of the outputs: None (logits), "softmax", the name of one of our activations, or a function.
        dropout: before the last layer.
        head_dtype: of the head, as `dtype` of the backbone; None: the backbone's.
        name: is kept in files.

    Raises:
        InputError: a value that is not allowed, or "token" and a backbone without class token.
    """

    def __init__(
        self,
        backbone: ViTBackbone,
        num_classes: int,
        preprocessor: None = None,
        pooling: str = "token",
        intermediate_dim: int | None = None,
        activation: Activation | None = None,
        dropout: float = 0.0,
        head_dtype: Any = None,
        *,
        name: str = "vi_t_image_classifier",
    ) -> None:
        super().__init__()
        if preprocessor is not None:
            raise InputError(f"preprocessor={preprocessor!r} is not used; give the model what it makes of the images")
        if pooling not in POOLINGS:
            raise InputError(f"pooling={pooling!r} is not one of {', '.join(POOLINGS)}")
        if pooling == "token" and not backbone.arguments.use_class_token:
            raise InputError("pooling='token' needs a backbone with use_class_token=True; use pooling='gap'")
        for key, value in (("num_classes", num_classes), ("intermediate_dim", intermediate_dim)):
            wrong = isinstance(value, bool) or not isinstance(value, int) or value < 1
            if wrong and (key, value) != ("intermediate_dim", None):
                raise InputError(f"{key}={value!r} must be an integer of at least 1")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise InputError(f"dropout={dropout!r} must be a number from 0 to 1")
        if not (activation is None or isinstance(activation, str) or callable(activation)):
            raise InputError(f"activation={activation!r} is not the name of an activation; use one, or None")
        self.num_classes, self.pooling, self.intermediate_dim = num_classes, pooling, intermediate_dim
        self.activation, self.dropout, self.name = activation, dropout, name
        self.head_policy = backbone.dtype_policy if head_dtype is None else read_policy(head_dtype)
        width = backbone.arguments.hidden_dim
        self.backbone = backbone
        self.head = Head(width, num_classes, intermediate_dim)
        self.output = nn.Softmax(-1) if activation == "softmax" else activation_function(activation or "linear")
        self.head.to(backbone.device, self.head_policy.parameters)

    def forward(self, images: Any, training: bool | None = None) -> Tensor:
        """Classifies images; arguments and errors as of `ViTBackbone.forward`."""
        with in_mode(self, training), computing_in(self.head_policy, self.backbone.device):
            tokens = self.backbone(images).to(self.head_policy.compute)
            features = tokens[:, 0] if self.pooling == "token" else tokens.mean(1)
            if self.head.pre_logits is not None:
                features = self.head.pre_logits(features).tanh()
            features = nn.functional.dropout(features, self.dropout, self.training)
            outputs: Tensor = self.output(self.head.classifier(features))
        return outputs.to(self.head_policy.compute)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as `task.json` has them, without the backbone's.

        Raises:
            InputError: an activation without a name.
        """
        if not isinstance(self.activation, str | None):
            raise InputError(f"activation={self.activation!r} has no name to be saved under; use one of a name")
        names = ("name", "num_classes", "pooling", "intermediate_dim", "activation", "dropout")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_preset(cls, preset: str | Path, load_weights: bool = True, **arguments: Any) -> Self:
        """Reads a preset, as `ViTBackbone.from_preset` does; with `num_classes=` the head is freshly drawn.

        Args:
            preset: as there.
            load_weights: False: all weights are drawn at random.
            arguments: of this class instead of the preset's, and others of the backbone.

        Raises:
            InputError: as there, or a preset without a classifier and no `num_classes`.
        """
        content = open_preset(preset, load_weights)
        own = {key: arguments.pop(key) for key in ARGUMENTS if key in arguments}
        if content.task is None and "num_classes" not in own:
            raise InputError(f"{content.where} is a backbone without a classifier; give num_classes=")
        stored = {key: value for key, value in (content.task or {}).items() if key in ARGUMENTS}
        with_head = load_weights and "num_classes" not in own
        if not with_head and stored.get("pooling") not in POOLINGS:  # of a head that is not taken
            stored.pop("pooling", None)
        rules = DEEP_HEAD if {**stored, **own}.get("intermediate_dim") is not None else HEAD
        tensors = content.tensors(rules if with_head else ()) if load_weights else None
        of_head = None if tensors is None else tensors.only(n for n in tensors if n.startswith(("classifier.", "pre_")))
        of_encoder = None if tensors is None else tensors.only(n for n in tensors if n not in (of_head or ()))
        backbone = ViTBackbone.of_preset(content, arguments, of_encoder)
        model = cls(backbone, **{**stored, **own})
        if with_head and of_head is not None:
            fits(model.head, of_head, content.where)
            fill(model.head, of_head)
        return model.eval()

    def save_to_preset(self, preset_dir: str | Path, max_shard_size: float = 10) -> None:
        """Writes a folder that KerasHub and `from_preset` read; arguments as of `ViTBackbone.save_to_preset`."""
        state = self.backbone.encoder.state_dict() | self.head.state_dict()
        arguments, task = self.backbone.get_config(), self.get_config()
        write_folder(Path(preset_dir), arguments, state, task, max_shard_size=max_shard_size)
