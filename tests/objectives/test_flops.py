"""FLOPs of a training step are those that one counts by hand, and counting leaves the module as it was."""

import pytest
import torch
from torch import nn

import mimsuite
from mimsuite.masked.normalization import Normalize
from mimsuite.models import (
    BitConfig,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForMaskedImageModeling,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
)
from mimsuite.models.latent import copy_encoder
from mimsuite.objectives.classify import ClassifyObjective
from mimsuite.objectives.flops import training_flops
from mimsuite.objectives.latent import LatentObjective
from mimsuite.objectives.mim import MIMObjective
from mimsuite.objectives.teacher import Teacher
from mimsuite.types import Batch

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 16}
IMAGE = {"image_size": 16, "patch_size": 4, "encoder_stride": 4}
DECODER = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
N, C, WIDTH = 16, 3 * 4 * 4, 8  # patches, values of a patch, features
AROUND = {"optimizer": None, "groups": [], "schedule": None, "clip": None, "seed": 0, "description": {}}


def masked(model, loss="l1"):
    return MIMObjective(model, Normalize([0.5] * 3, [0.25] * 3), loss=loss, **AROUND)


def batch(hidden, count=1, side=16, cells=4, labels=None):
    mask = torch.zeros(count, cells * cells, dtype=torch.bool)
    mask[:, :hidden] = True
    images = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    ids = torch.arange(count)
    return Batch(images, ids, mask.view(count, cells, cells), labels, [], hidden)


def block(tokens, width, inner):
    """Multiply-adds of a transformer block."""
    return 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * inner


def test_simmim_sees_whole_images_and_predicts_hidden_cells():
    forward = N * C * WIDTH + 2 * block(N + 1, WIDTH, 16) + 12 * WIDTH * C
    expected = 2 * (3 * forward - N * C * WIDTH)  # nobody asks for the gradient of pixels
    module = masked(ViTForMaskedImageModeling(ViTConfig(**SIZES, **IMAGE)))
    assert training_flops(module, [batch(12)]) == expected
    assert training_flops(module, [batch(12, count=5)]) == expected


@pytest.mark.parametrize("hidden", [12, 8])
def test_mae_leaves_out_what_it_drops_and_has_the_decoder(hidden):
    config = ViTConfig(**SIZES, **IMAGE).with_masking("norm_pixels", DECODER)
    width = DECODER["hidden_size"]
    encoder = N * C * WIDTH + 2 * block(N - hidden + 1, WIDTH, 16)
    decoder = (N + 1) * WIDTH * width + block(N + 1, width, 8) + hidden * width * C
    expected = 2 * (3 * (encoder + decoder) - N * C * WIDTH)
    module = masked(ViTForMaskedImageModeling(config), "mse")
    assert training_flops(module, [batch(hidden)]) == expected


def test_of_several_ratios_the_mean_counts():
    module = masked(ViTForMaskedImageModeling(ViTConfig(**SIZES, **IMAGE)))
    one, other = (training_flops(module, [batch(hidden)]) for hidden in (4, 12))
    assert one < other
    assert training_flops(module, [batch(4), batch(12)]) == (one + other) / 2


def test_what_is_computed_again_in_the_backward_pass_does_not_count():
    """And counting leaves it on; a MAE has it in its decoder, too."""
    for config in (ViTConfig(**SIZES, **IMAGE), ViTConfig(**SIZES, **IMAGE).with_masking("norm_pixels", DECODER)):
        module = masked(ViTForMaskedImageModeling(config))
        plain = training_flops(module, [batch(12)])
        module.model.gradient_checkpointing_enable()
        on = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
        assert training_flops(module, [batch(12)]) == plain
        assert on == [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)] != []


def test_frozen_blocks_cost_their_forward_pass_alone():
    model = ViTForImageClassification(ViTConfig(**SIZES, **IMAGE, num_labels=5))
    values = {"label_kind": "classes", "mixup": 0.8, "cutmix": 0.0, "smoothing": 0.1, "class_weights": [1.0] * 5}
    module = ClassifyObjective(model, Normalize([0.5] * 3, [0.25] * 3), **values, **AROUND)
    encoder, head = N * C * WIDTH + 2 * block(N + 1, WIDTH, 16), WIDTH * 5
    labelled = [batch(0, labels=torch.tensor([3]))]
    assert training_flops(module, labelled) == 2 * (3 * (encoder + head) - N * C * WIDTH)
    model.encoder.requires_grad_(False)
    assert training_flops(module, labelled) == 2 * (encoder + 2 * head)


def test_a_depthwise_convolution_is_no_dense_one():
    """One layer of it: nothing asks for the gradient of its input, and that of the weights costs as much as forward."""
    layer = nn.Conv2d(6, 6, 3, padding=1, groups=6)

    class Convolve(MIMObjective):
        def training_step(self, batch, batch_idx):
            return layer_of(self)(torch.empty(1, 6, 8, 8, device="meta")).sum()

    def layer_of(module):
        return module.model.extra

    model = ViTForMaskedImageModeling(ViTConfig(**SIZES, **IMAGE))
    model.extra = layer
    module = Convolve(model, Normalize([0.5] * 3, [0.25] * 3), loss="l1", **AROUND)
    assert training_flops(module, [batch(12)]) == 2 * (2 * 6 * 9 * 8 * 8)


CVT = CvtConfig(
    patch_sizes=[7, 3], patch_stride=[4, 2], patch_padding=[2, 1], embed_dim=[4, 8], num_heads=[1, 2], depth=[1, 2],
    mlp_ratio=[2.0, 2.0], attention_drop_rate=[0.1] * 2, drop_rate=[0.1] * 2, drop_path_rate=[0.1] * 2,
    qkv_bias=[True] * 2, cls_token=[False, True], qkv_projection_method=["dw_bn"] * 2, kernel_qkv=[3] * 2,
    padding_kv=[1] * 2, stride_kv=[2] * 2, padding_q=[1] * 2, stride_q=[1] * 2, encoder_stride=8,
)  # fmt: skip
BIT = BitConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 2], num_groups=2, encoder_stride=8)


@pytest.mark.parametrize(("kind", "config"), [(CvtForMaskedImageModeling, CVT), (BitForMaskedImageModeling, BIT)])
def test_counting_changes_nothing(kind, config):
    module = masked(kind(config))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    forward = training_flops(module, [batch(2, side=32, cells=4)])
    assert forward > 0
    assert all(p.grad is None and p.device.type == "cpu" for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_latent_targets_of_units_smaller_than_cells_cost_what_all_cells_cost():
    """How many cells they hide depends on where they lie."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    given = {"kind": "conv", "features": BIT.num_features, "layers": [3], "combine": "mean", "pixels": False}
    model = BitForMaskedImageModeling(BIT.changed(mim_predictor=sizes | given))
    teacher = {"teacher": Teacher(copy_encoder(model), [3], "mean"), "kept": lambda step: 0.9}
    module = LatentObjective(model, Normalize([0.5] * 3, [0.25] * 3), loss="mse", **teacher, **AROUND)
    counted = training_flops(module, [batch(10, side=32, cells=8)])
    assert counted == training_flops(module, [batch(16, side=32, cells=4)])


def test_masks_that_are_cut_to_the_smallest_of_a_batch_cost_what_they_do_in_batches():
    """And their blocks have other sizes in every step."""
    given = {"model": "vit_nano", "image_size": 64, "objective": "latent", "objective.views": 1, "batch": 32}
    given |= {"steps": 2, "devices": 1, "workers": 0}
    module, data, _ = mimsuite.build("pretrain", **given, mask="multi_block", **{"mask.unit": 8})
    counted = data.blank_for_cost()
    assert [len(batch.images) for batch in counted] == [32] * 8
    typical = training_flops(module, [batch for step in range(100, 112) for batch in data.blank(32, step=step)])
    assert training_flops(module, counted) == pytest.approx(typical, rel=0.15)
    assert training_flops(module, data.blank(1)) > 1.2 * typical, "of one image alone more is visible"
    (plain,) = mimsuite.build("pretrain", **given).data.blank_for_cost()
    assert len(plain.images) == 1
