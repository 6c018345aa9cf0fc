"""The public CvT classes: the encoder, alone or with a head, with files."""

from __future__ import annotations

from mimsuite.encoders.cvt import ConvolutionalTransformer
from mimsuite.encoders.cvt_config import CvtConfig
from mimsuite.encoders.layers import init_truncated_normal
from mimsuite.models.composed import (
    DenseForImageClassification,
    DenseForMaskedImageModeling,
    HeadFactory,
)
from mimsuite.models.own import OwnModel
from mimsuite.models.pretrained import Pretrained


class CvtModel(ConvolutionalTransformer, Pretrained):
    """The bare convolutional vision transformer (Wu et al. 2021, section 3).

    Gives `last_hidden_state (B, D, h, w)` and `cls_token_value (B, 1, D)`, both before the final norm; attributes and
    errors: see `ConvolutionalTransformer`.

    Args:
        config: sizes and switches.
        add_pooling_layer: without effect, as in Hugging Face.
        add_final_norm: adds the LayerNorm that `forward_features` ends with.
        use_mask_token: adds the mask token.
    """

    config_class = CvtConfig
    base_prefix = "cvt"
    is_base = True
    init_options = ("add_pooling_layer", "add_final_norm", "use_mask_token")

    def __init__(
        self,
        config: CvtConfig,
        add_pooling_layer: bool = True,
        add_final_norm: bool = False,
        use_mask_token: bool = False,
    ) -> None:
        super().__init__(config, add_final_norm, use_mask_token)


class CvtPreTrainedModel(OwnModel):
    """The base of a user's own model around a CvT as `self.cvt`; see `OwnModel`."""

    config_class = CvtConfig
    base_prefix = "cvt"


class CvtForMaskedImageModeling(DenseForMaskedImageModeling):
    """CvT with a mask token and a head that predicts pixels: SimMIM (Xie et al. 2022) as for its Swin encoder.

    Gives `reconstruction (B, C, H, W)` and, with a mask on the first stage's grid, the scalar `loss`. Hidden pixels are
    filled before the first convolution, because it overlaps the cells.

    Args:
        config: sizes.
        head: makes the head from width, stride `(s, s)` and channels; default: what the config says.
    """

    config_class = CvtConfig
    base_prefix = "cvt"
    beside_prefix = ("layernorm", "mask_token")
    cvt: CvtModel

    def __init__(self, config: CvtConfig, head: HeadFactory | None = None) -> None:
        encoder = CvtModel(config, add_final_norm=True, use_mask_token=not config.is_sparse)
        super().__init__(config, encoder, config.encoder_stride, config.num_channels, head)
        init_truncated_normal(self.decoder, config.initializer_range)


class CvtForImageClassification(DenseForImageClassification):
    """CvT with a linear layer on the last stage's class token (Wu et al. 2021), or on the mean cell without one.

    Gives `logits (B, num_labels)`. Raises InputError for labels that are out of range or of another count.
    """

    config_class = CvtConfig
    base_prefix = "cvt"
    beside_prefix = ("layernorm",)
    cvt: CvtModel

    def __init__(self, config: CvtConfig) -> None:
        super().__init__(config, CvtModel(config, add_final_norm=True))
        init_truncated_normal(self.classifier, config.initializer_range)
