"""Parameter counts of the published ViTs, on the meta device, and our YAML sizes."""

from pathlib import Path

import pytest
import torch

from mimsuite.config.instantiate import instantiate
from mimsuite.models import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from mimsuite.settings.models import model_node

SIZES = {
    "tiny": (192, 12, 3, 768),
    "small": (384, 12, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "huge": (1280, 32, 16, 5120),
}
TABLE = [
    ("tiny", 16, 224, 5_524_416, 5_561_472, 5_717_416, 5_672_832),
    ("small", 16, 224, 21_665_664, 21_813_504, 22_050_664, 21_961_728),
    ("base", 16, 224, 85_798_656, 86_389_248, 86_567_656, 86_390_016),
    ("base", 16, 384, 86_090_496, 86_681_088, 86_859_496, 86_681_856),
    ("base", 32, 224, 87_455_232, 88_045_824, 88_224_232, 89_818_368),
    ("base", 32, 384, 87_528_192, 88_118_784, 88_297_192, 89_891_328),
    ("large", 16, 224, 303_301_632, 304_351_232, 304_326_632, 304_089_856),
    ("large", 16, 384, 303_690_752, 304_740_352, 304_715_752, 304_478_976),
    ("large", 32, 224, 305_510_400, 306_560_000, 306_535_400, 308_660_224),
    ("large", 32, 384, 305_607_680, 306_657_280, 306_632_680, 308_757_504),
    ("huge", 14, 224, 630_764_800, 632_404_480, 632_045_800, 631_519_308),
]


def config(size, patch, image, **more):
    width, depth, heads, hidden = SIZES[size]
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=hidden,
        patch_size=patch,
        encoder_stride=patch,
        image_size=image,
        **more,
    )


def count(make):
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r[0]}-{r[1]}-{r[2]}")
def test_parameter_counts(row):
    size, patch, image, *expected = row
    c = config(size, patch, image, num_labels=1000)
    found = [
        count(lambda: ViTModel(c, add_pooling_layer=False)),
        count(lambda: ViTModel(c)),
        count(lambda: ViTForImageClassification(c)),
        count(lambda: ViTForMaskedImageModeling(c)),
    ]
    assert found == expected


def test_parameters_of_an_imagenet_21k_head():
    assert count(lambda: ViTForImageClassification(config("base", 16, 224, num_labels=21_843))) == 102_595_923


def test_parameters_of_simmims_vit():
    c = config(
        "base",
        16,
        224,
        layer_scale_init_value=0.1,
        use_absolute_position_embeddings=False,
        use_shared_relative_position_bias=True,
    )
    # SimMIM's files have no key bias: 12 blocks of 768 fewer than a ViT of ours, whose key bias is free.
    assert count(lambda: ViTForMaskedImageModeling(c)) - 12 * 768 == 86_256_720


CONF = Path(__file__).parents[2] / "conf" / "model"


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large", "huge", "nano"])
def test_our_sizes_are_configs(name):
    node = model_node(CONF / f"vit_{name}.yaml")
    assert "num_channels" not in node
    found = instantiate(node)
    assert found.encoder_stride == found.patch_size
    assert found.layer_norm_eps == 1e-6
    if name in SIZES:
        assert found == config(name, found.patch_size, 224, layer_norm_eps=1e-6)
    else:
        assert count(lambda: ViTForMaskedImageModeling(found)) == 491_136


def test_the_state_dict_has_the_names_and_shapes_of_files():
    with torch.device("meta"):
        found = {k: tuple(v.shape) for k, v in ViTForMaskedImageModeling(ViTConfig()).state_dict().items()}
    layer = "vit.encoder.layer.{}."
    expected = {
        "vit.embeddings.cls_token": (1, 1, 768),
        "vit.embeddings.mask_token": (1, 1, 768),
        "vit.embeddings.position_embeddings": (1, 197, 768),
        "vit.embeddings.patch_embeddings.projection.weight": (768, 3, 16, 16),
        "vit.embeddings.patch_embeddings.projection.bias": (768,),
        "vit.layernorm.weight": (768,),
        "vit.layernorm.bias": (768,),
        "decoder.0.weight": (768, 768, 1, 1),
        "decoder.0.bias": (768,),
    }
    for i in range(12):
        for part, shape in [
            ("attention.attention.query", (768, 768)),
            ("attention.attention.key", (768, 768)),
            ("attention.attention.value", (768, 768)),
            ("attention.output.dense", (768, 768)),
            ("intermediate.dense", (3072, 768)),
            ("output.dense", (768, 3072)),
            ("layernorm_before", (768,)),
            ("layernorm_after", (768,)),
        ]:
            expected[f"{layer.format(i)}{part}.weight"] = shape
            expected[f"{layer.format(i)}{part}.bias"] = shape[:1]
    assert found == expected
