"""The base of models that users write."""

from __future__ import annotations

from mimsuite.encoders.config import ModelConfig
from mimsuite.encoders.layers import check_config
from mimsuite.models.pretrained import Pretrained


class OwnModel(Pretrained):
    """The base of models that users write: the family's encoder under its prefix, and whatever they add.

    As in Hugging Face, the subclass makes its parts after `super().__init__(config)` and ends with `self.post_init()`;
    `from_pretrained` and `save_pretrained` then work.

    Args:
        config: the family's configuration.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_config(config, self.config_class)
        self.config = config
