"""What tools ask of a model: device, type, parts, a subclass's own layers, and whether it is one of transformers'."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from mimsuite.models import (
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    BitBackbone,
    BitConfig,
    BitForImageClassification,
    BitModel,
    CvtConfig,
    CvtForImageClassification,
    CvtModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

VIT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
VIT |= {"image_size": 16, "patch_size": 8, "encoder_stride": 8}
CVT = {"embed_dim": [4, 8, 8], "num_heads": [1, 1, 2], "depth": [1, 2, 3]}
BIT = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_groups": 2}
CONFIGS = {"vit": lambda: ViTConfig(**VIT), "cvt": lambda: CvtConfig(**CVT), "bit": lambda: BitConfig(**BIT)}
BARE = {"vit": ViTModel, "cvt": CvtModel, "bit": BitModel}
CLASSIFIERS = {"vit": ViTForImageClassification, "cvt": CvtForImageClassification, "bit": BitForImageClassification}


class WithLayers(ViTForImageClassification):
    """A user's own class."""

    def __init__(self, config):
        super().__init__(config)
        self.extra = nn.Linear(config.hidden_size, 200)
        self.scale = nn.Parameter(torch.zeros(3))
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self:
            nn.init.constant_(self.scale, 7.0)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_says_where_and_what_its_parameters_are(family):
    bare, model = BARE[family](CONFIGS[family]()), CLASSIFIERS[family](CONFIGS[family]()).to(torch.float64)
    assert (model.device, model.dtype, model.main_input_name) == (torch.device("cpu"), torch.float64, "pixel_values")
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert model.base_model is getattr(model, family)
    assert model.base_model_prefix == BARE[family].base_model_prefix == family
    assert bare.base_model is bare
    assert model.num_labels == 2
    model.base_model.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == sum(p.numel() for p in model.classifier.parameters())


@pytest.mark.parametrize("family", ["vit", "cvt", "bit"])
def test_gradients_reach_the_input_of_a_frozen_encoder_when_asked_for(family):
    model = CLASSIFIERS[family](CONFIGS[family]()).requires_grad_(False).eval()
    pixels = torch.randn(1, 3, 32, 32) if family != "vit" else torch.randn(1, 3, 16, 16)
    assert not model(pixels).logits.requires_grad
    model.enable_input_require_grads()
    assert model(pixels).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(pixels).logits.requires_grad


def test_the_module_that_makes_cells_can_be_replaced():
    model = BitForImageClassification(BitConfig(**BIT))
    new = copy.deepcopy(model.get_input_embeddings())
    model.set_input_embeddings(new)
    assert model.bit.embedder is new


@pytest.mark.parametrize("family", CONFIGS)
def test_recomputing_is_switched_on_and_off(family):
    model = CLASSIFIERS[family](CONFIGS[family]())
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing
    assert model.is_activation_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    config = type(model.config).from_dict(model.config.to_dict() | {"gradient_checkpointing": True})
    assert CLASSIFIERS[family](config).is_gradient_checkpointing


@pytest.mark.parametrize("family", CONFIGS)
def test_a_config_may_ask_for_recomputing(family):
    config = CONFIGS[family]()
    config.gradient_checkpointing = True
    assert CLASSIFIERS[family](config).is_gradient_checkpointing


def test_the_bytes_of_a_model_are_those_of_its_parameters_and_buffers():
    model = CvtModel(CvtConfig(**CVT)).to(torch.float64)
    parameters = sum(p.numel() for p in model.parameters()) * 8
    assert model.get_memory_footprint(return_buffers=False) == parameters
    assert model.get_memory_footprint() == parameters + sum(b.numel() * b.element_size() for b in model.buffers())


@pytest.mark.parametrize("make", [AutoModelForImageClassification, AutoModelForMaskedImageModeling])
def test_a_model_is_made_from_a_config_of_transformers(make):
    transformers = pytest.importorskip("transformers")
    model = make.from_config(transformers.CONFIG_MAPPING["vit"](**VIT, layer_norm_eps=1e-3), trust_remote_code=False)
    assert type(model.config) is ViTConfig
    assert (model.config.hidden_size, model.config.layer_norm_eps) == (8, 1e-3)


def test_a_backbone_names_the_width_of_every_map():
    backbone = BitBackbone(BitConfig(**BIT, out_indices=[2]))
    assert backbone.out_feature_channels == {"stem": 4, "stage1": 8, "stage2": 8}
    assert backbone.channels == [backbone.out_feature_channels[name] for name in backbone.out_features] == [8]


def test_the_implementation_of_attention_is_changed_in_a_model():
    model = ViTForMaskedImageModeling(ViTConfig(**VIT)).eval()
    pixels = torch.randn(1, 3, 16, 16)
    with pytest.raises(ValueError, match="attn_implementation"):
        model.set_attn_implementation("flesh_attention")
    model.set_attn_implementation("eager")
    assert model.config.attn_implementation == model.vit.config.attn_implementation == "eager"
    assert len(model(pixels, output_attentions=True).attentions) == 2


def test_layers_of_a_subclass_are_drawn_as_its_own_rule_says_and_ours_stay():
    torch.manual_seed(0)
    ours = ViTForImageClassification(ViTConfig(**VIT)).state_dict()
    torch.manual_seed(0)
    model = WithLayers(ViTConfig(**VIT))
    assert all(torch.equal(t, model.state_dict()[k]) for k, t in ours.items())
    assert 0.015 < float(model.extra.weight.detach().std()) < 0.025
    assert not model.extra.bias.any()
    assert torch.equal(model.scale, torch.full((3,), 7.0))


def test_a_subclass_goes_round(tmp_path):
    model = WithLayers(ViTConfig(**VIT))
    model.save_pretrained(tmp_path)
    again = WithLayers.from_pretrained(tmp_path)
    assert all(torch.equal(t, again.state_dict()[k]) for k, t in model.state_dict().items())


def test_beside_transformers_a_model_is_one_of_its_models_too():
    transformers = pytest.importorskip("transformers")
    model = ViTForImageClassification(ViTConfig(**VIT)).eval()
    assert isinstance(model, transformers.PreTrainedModel)
    assert isinstance(model, ViTForImageClassification)
    assert type(model) is ViTForImageClassification
    assert not isinstance(nn.Linear(1, 1), transformers.PreTrainedModel)
    assert (model.__class__.__name__, repr(model)[:26]) == ("ViTForImageClassification", "ViTForImageClassification(")
    assert type(model.__class__(model.config)) is ViTForImageClassification
    assert isinstance(WithLayers(ViTConfig(**VIT)), transformers.PreTrainedModel)


def test_beside_transformers_a_model_is_copied_pickled_compiled_and_wrapped_as_before():
    pytest.importorskip("transformers")
    model, pixels = ViTForImageClassification(ViTConfig(**VIT)).eval(), torch.randn(1, 3, 16, 16)
    expected, file = model(pixels).logits, io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    others = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False))
    for other in others:
        assert type(other) is ViTForImageClassification
        assert torch.equal(other(pixels).logits, expected)
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(pixels).logits, expected)
    model.__class__ = type("Wrapped", (model.__class__,), {})  # as fully sharded training does
    assert type(model).__name__ == model.__class__.__name__ == "Wrapped"
    assert torch.equal(model(pixels).logits, expected)
