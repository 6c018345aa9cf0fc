"""The public BiT classes: the encoder, alone or with a head, with files."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mimsuite.encoders.bit import ResNetV2
from mimsuite.encoders.bit_config import BitConfig
from mimsuite.encoders.layers import init_truncated_normal
from mimsuite.encoders.outputs import (
    BackboneOutput,
    as_output,
)
from mimsuite.models.composed import (
    DenseForImageClassification,
    DenseForMaskedImageModeling,
    HeadFactory,
)
from mimsuite.models.own import OwnModel
from mimsuite.models.pretrained import Pretrained


class BitModel(ResNetV2, Pretrained):
    """The bare Big Transfer network (Kolesnikov et al. 2020, section 3.1).

    Gives `last_hidden_state (B, D, h, w)` after the final norm and `pooler_output (B, D, 1, 1)`; arguments, attributes
    and errors: see `ResNetV2`.
    """

    config_class = BitConfig
    base_prefix = "bit"
    is_base = True
    init_options = ("use_mask_token",)


class BitPreTrainedModel(OwnModel):
    """The base of a user's own model around a BiT as `self.bit`; see `OwnModel`."""

    config_class = BitConfig
    base_prefix = "bit"


class BitForMaskedImageModeling(DenseForMaskedImageModeling):
    """BiT with a mask token and a head that predicts pixels: SimMIM (Xie et al. 2022) on a ResNet.

    Gives `reconstruction (B, C, H, W)` and, with a mask on the stem's 4-pixel grid, the scalar `loss`. Hidden pixels
    are filled before the stem, because it overlaps the cells.

    Args:
        config: sizes.
        head: makes the head from width, stride `(s, s)` and channels; default: what the config says.
    """

    config_class = BitConfig
    base_prefix = "bit"
    beside_prefix = ("mask_token",)
    bit: BitModel

    def __init__(self, config: BitConfig, head: HeadFactory | None = None) -> None:
        encoder = BitModel(config, use_mask_token=not config.is_sparse)
        super().__init__(config, encoder, config.encoder_stride, config.num_channels, head)
        init_truncated_normal(self.decoder, 0.02)


class BitForImageClassification(DenseForImageClassification):
    """BiT with a linear layer on the mean cell (Kolesnikov et al. 2020, section 3.2).

    Gives `logits (B, num_labels)`. Raises InputError for labels that are out of range or of another count.
    """

    config_class = BitConfig
    base_prefix = "bit"
    bit: BitModel

    def __init__(self, config: BitConfig) -> None:
        super().__init__(config, BitModel(config))
        self.classifier = nn.Sequential(nn.Flatten(), self.classifier)  # so that files name it `classifier.1`

    def pooled(self, pixels: Tensor, need_states: bool) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """What the encoder's own pooler gives, `(B, D, 1, 1)`, and if needed the maps of stem and stages."""
        out = self.bit(pixels, need_states, return_dict=True)
        return out.pooler_output, out.hidden_states


class BitBackbone(Pretrained):
    """BiT as the first part of a detector or segmenter: the maps of the stages in `config.out_features`.

    Gives `feature_maps`, a tuple of `(B, D_i, h_i, w_i)` (Kolesnikov et al. 2020, section 3.1). Raises InputError for
    pixels that do not fit the model; the config refuses wrong stages.

    Args:
        config: sizes, `out_features` or `out_indices`.

    Attributes:
        stage_names: of all maps.
        out_features: of the maps given.
        out_indices: their numbers in `stage_names`.
        channels: their widths.
        num_features: widths of all maps.
        out_feature_channels: the same, by name.
    """

    config_class = BitConfig
    base_prefix = "bit"
    bit: BitModel

    def __init__(self, config: BitConfig) -> None:
        super().__init__()
        self.config = config
        self.bit = BitModel(config)
        self.stage_names, self.num_features = config.stage_names, config.widths

    @property
    def out_features(self) -> list[str]:
        """Names of the maps given; may be set, and then `out_indices` follow."""
        return list(self.config.out_features)

    @out_features.setter
    def out_features(self, names: list[str]) -> None:
        self.config.out_features = list(names)

    @property
    def out_indices(self) -> list[int]:
        """Numbers of the maps given; may be set, and then `out_features` follow."""
        return list(self.config.out_indices)

    @out_indices.setter
    def out_indices(self, numbers: list[int]) -> None:
        self.config.out_indices = list(numbers)

    @property
    def out_feature_channels(self) -> dict[str, int]:
        """Widths of all maps, by their names."""
        return dict(zip(self.stage_names, self.num_features, strict=True))

    @property
    def channels(self) -> list[int]:
        """Widths of the maps given."""
        return [self.out_feature_channels[name] for name in self.out_features]

    def forward_with_filtered_kwargs(self, *inputs: Any, **options: Any) -> Any:
        """Calls the model; keywords that it does not know are without effect."""
        return self(*inputs, **options)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """Returns the chosen maps `(B, D_i, h_i, w_i)` in the order of the stages, before the final norm.

        Arguments and errors as for `ResNetV2.forward`; `BackboneOutput`, or a tuple.
        """
        states = self.bit(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        need_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        result = BackboneOutput(tuple(states[i] for i in self.out_indices), states if need_states else None)
        return as_output(result, self.config.return_dict, return_dict)
