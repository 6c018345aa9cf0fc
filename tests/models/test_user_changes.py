"""What users change in a model after it is made, as they do in code for Hugging Face's classes, takes effect."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mimsuite.models import (
    BitConfig,
    BitForImageClassification,
    BitModel,
    BitPreTrainedModel,
    CvtConfig,
    CvtForImageClassification,
    CvtModel,
    CvtPreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    ViTPreTrainedModel,
)

VIT = ViTConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
)
CVT = CvtConfig(embed_dim=[16, 32, 48], num_heads=[1, 2, 3], depth=[1, 1, 1])
BIT = BitConfig(embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], num_groups=4)
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_blocks_may_be_taken_out():
    model = ViTForImageClassification(VIT).eval()
    states = model(X, output_hidden_states=True).hidden_states
    model.vit.encoder.layer = model.vit.encoder.layer[:1]
    out = model(X, output_hidden_states=True)
    assert len(out.hidden_states) == 2
    assert torch.equal(out.hidden_states[1], states[1])
    assert torch.equal(out.logits, model.classifier(model.vit.layernorm(states[1])[:, 0]))


@pytest.mark.parametrize(
    ("model_class", "config", "holder"),
    [
        (ViTForImageClassification, VIT, "vit.embeddings.patch_embeddings"),
        (CvtForImageClassification, CVT, "cvt.encoder.stages.0.embedding.convolution_embeddings"),
        (BitForImageClassification, BIT, "bit.embedder"),
    ],
)
@torch.no_grad()
def test_a_first_convolution_for_other_channels_decides_what_images_have(model_class, config, holder):
    model = model_class(config).eval()
    part = model.get_submodule(holder)
    name = "convolution" if holder == "bit.embedder" else "projection"
    old = getattr(part, name)
    setattr(part, name, nn.Conv2d(1, old.out_channels, old.kernel_size, old.stride, old.padding))
    assert model(X[:, :1]).logits.shape == (2, 2)
    with pytest.raises(ValueError, match="pixel_values have 3 channels; the model expects num_channels=1"):
        model(X)


def test_patch_embeddings_tell_their_sizes():
    embeddings = ViTModel(VIT).embeddings
    patches = embeddings.patch_embeddings
    assert (patches.num_patches, patches.image_size, patches.patch_size, patches.num_channels) == (
        16,
        (32, 32),
        (8, 8),
        3,
    )
    assert embeddings.patch_size == 8
    assert torch.equal(embeddings.interpolate_pos_encoding(torch.empty(0), 32, 32), embeddings.position_embeddings)
    assert embeddings.interpolate_pos_encoding(torch.empty(0), 40, 24).shape == (1, 16, 32)


@torch.no_grad()
def test_positions_for_another_size_may_be_put_in_by_hand():
    model = ViTForImageClassification(copy.copy(VIT)).eval()
    model.vit.embeddings.position_embeddings = nn.Parameter(torch.zeros(1, 10, 32))
    model.vit.embeddings.patch_embeddings.image_size = (24, 24)
    assert model.config.image_size == 24
    assert model(X[..., :24, :24]).logits.shape == (2, 2)


@pytest.mark.parametrize(
    ("model_class", "config", "kind"),
    [
        (ViTForImageClassification, VIT, nn.GELU),
        (CvtForImageClassification, CVT, nn.GELU),
        (BitForImageClassification, BIT, nn.ReLU),
    ],
)
@torch.no_grad()
def test_activations_are_modules_that_can_be_hooked_and_replaced(model_class, config, kind):
    model = model_class(config).eval()
    calls: list[nn.Module] = []
    before = model(X).logits
    found = [module for module in model.modules() if isinstance(module, kind)]
    hooks = [module.register_forward_hook(lambda module, *_: calls.append(module)) for module in found]
    model(X)
    assert found
    assert set(calls) == set(found)
    for hook in hooks:
        hook.remove()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, kind):
                setattr(module, name, nn.Tanh())
    assert not torch.allclose(model(X).logits, before)


@pytest.mark.parametrize(
    ("base", "encoder", "config", "width"),
    [
        (ViTPreTrainedModel, ViTModel, VIT, 32),
        (CvtPreTrainedModel, CvtModel, CVT, 48),
        (BitPreTrainedModel, BitModel, BIT, 128),
    ],
)
@torch.no_grad()
def test_users_write_models_around_an_encoder(base, encoder, config, width, tmp_path):
    class Own(base):
        def __init__(self, config):
            super().__init__(config)
            setattr(self, self.base_model_prefix, encoder(config))
            self.head = nn.Linear(width, 4)
            self.post_init()

        def forward(self, pixels):
            features = self.base_model(pixels).last_hidden_state
            return self.head(features.mean(1) if features.ndim == 3 else features.mean((2, 3)))

    torch.manual_seed(0)
    alone = encoder(config)
    torch.manual_seed(0)
    model = Own(config).eval()
    inside = model.base_model.state_dict()
    assert all(torch.equal(tensor, inside[name]) for name, tensor in alone.state_dict().items())  # drawn once, by it
    assert not model.head.bias.any()
    model.save_pretrained(tmp_path / "own")
    assert torch.equal(Own.from_pretrained(tmp_path / "own")(X), model(X))
    classifier = {"vit": ViTForImageClassification, "cvt": CvtForImageClassification, "bit": BitForImageClassification}
    trained = classifier[base.base_model_prefix](config).eval()
    trained.save_pretrained(tmp_path / "trained")
    with pytest.warns(UserWarning, match=r"freshly initialised: (.*, )?head\.bias"):
        read = Own.from_pretrained(tmp_path / "trained")
    first = next(name for name, _ in model.base_model.named_parameters())
    assert torch.equal(read.base_model.get_parameter(first), trained.base_model.get_parameter(first))


def test_blocks_and_embeddings_are_named_as_indivisible():
    for model_class, config in (
        (ViTForImageClassification, VIT),
        (CvtForImageClassification, CVT),
        (BitForImageClassification, BIT),
    ):
        kinds = {type(module).__name__ for module in model_class(config).modules()}
        assert model_class._no_split_modules
        assert set(model_class._no_split_modules) <= kinds


@torch.no_grad()
def test_the_final_norm_of_a_cvt_is_found_and_replaced_under_the_name_that_it_has_in_files(tmp_path):
    model = CvtForImageClassification(CVT).eval()
    assert model.layernorm is model.cvt.layernorm
    called = torch.func.functional_call(model, model.state_dict(), (X,)).logits
    assert torch.equal(called, model(X).logits)
    with torch.device("meta"):
        empty = CvtForImageClassification(CVT)
    model.save_pretrained(tmp_path)
    pytest.importorskip("accelerate").load_checkpoint_in_model(empty, str(tmp_path), {"": "cpu"})
    assert torch.equal(empty.eval()(X).logits, called)
    model.layernorm = nn.Identity()
    assert isinstance(model.cvt.layernorm, nn.Identity)
    assert not torch.allclose(model(X).logits, called)
    assert torch.equal(copy.deepcopy(model)(X).logits, model(X).logits)
