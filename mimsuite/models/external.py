"""The public classes of an encoder that is not ours: alone or with a head, with files that its own library opens."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mimsuite.encoders.external import ExternalEncoder
from mimsuite.encoders.external_config import ExternalConfig
from mimsuite.encoders.layers import init_truncated_normal
from mimsuite.heads.simmim import SimMIMHead
from mimsuite.models.composed import (
    DenseForImageClassification,
    DenseForMaskedImageModeling,
    HeadFactory,
)
from mimsuite.models.own import OwnModel
from mimsuite.models.pretrained import Pretrained
from mimsuite.models.sources import build_network, completed, source_state

ENCODER, HEADS = "external.wrapped.", ("decoder.", "classifier.")


class _Files(Pretrained):
    """What is written: the network under its own names, in its library's form, and a head in a file beside."""

    config_class = ExternalConfig
    base_prefix: ClassVar[str] = "external"

    def file_parts(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
        """The network's tensors under the names of its library, and those of the head."""
        bare = ENCODER.removeprefix("external.") if self.is_base else ENCODER
        encoder = {name.removeprefix(bare): value for name, value in state.items() if name.startswith(bare)}
        head = {name: value for name, value in state.items() if not name.startswith(bare)}
        return type(self).__name__, encoder, head

    @staticmethod
    def file_key(key: str) -> str:
        """The name in a model with a head of a tensor that has the name of its library."""
        return key if key.startswith((*HEADS, ENCODER)) else ENCODER + key


class ExternalModel(ExternalEncoder, _Files):
    """The bare network of a config, freshly initialised; attributes and errors: see `ExternalEncoder`."""

    is_base = True

    def __init__(self, config: ExternalConfig) -> None:
        config = completed(config)
        super().__init__(config, build_network(config))

    def load_source(self) -> None:
        """Copies the weights that `config.source` names into the network.

        Raises:
            InputError: they are not to be had, or are for another number of channels.
        """
        self.wrapped.load_state_dict(source_state(self.config))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The last map `(B, D, h, w)` of images `(B, C, H, W)`."""
        return self.forward_features(pixel_values).grid


class ExternalPreTrainedModel(OwnModel):
    """The base of a user's own model around such an encoder as `self.external`; see `OwnModel`."""

    config_class = ExternalConfig
    base_prefix = "external"


class ExternalForMaskedImageModeling(DenseForMaskedImageModeling, _Files):
    """An encoder that is not ours, and a head that predicts pixels: SimMIM (Xie et al. 2022).

    Gives `reconstruction (B, C, H, W)` and, with a mask on the first layer's grid, the scalar `loss`. Hidden pixels
    are filled with the mean before the network; there is no mask token.

    Args:
        config: which network.
        head: makes the head from width, stride and channels; default `SimMIMHead`.
    """

    external: ExternalModel
    file_parts = _Files.file_parts  # also of one that predicts features

    def __init__(self, config: ExternalConfig, head: HeadFactory | None = SimMIMHead) -> None:
        encoder = ExternalModel(config)
        super().__init__(
            encoder.config, encoder, encoder.config.encoder_stride, encoder.config.num_channels, head or SimMIMHead
        )
        init_truncated_normal(self.decoder, 0.02)


class ExternalForImageClassification(DenseForImageClassification, _Files):
    """An encoder that is not ours, and a linear layer on its class token or mean cell.

    Gives `logits (B, num_labels)`. Raises InputError for labels that are out of range or of another count.
    """

    external: ExternalModel

    def __init__(self, config: ExternalConfig) -> None:
        encoder = ExternalModel(config)
        super().__init__(encoder.config, encoder)
        init_truncated_normal(self.classifier, 0.02)
