"""No bit of a prediction depends on hidden pixels, and the fast loss is the dense one: encoders x masks x targets."""

from functools import cache

import pytest
import torch
from torch import nn

from mimsuite.masked.losses import masked_error
from mimsuite.masked.patches import expand_mask
from mimsuite.masked.samplers import BlockMask, GridMask, InverseBlockMask, RandomMask
from mimsuite.models import (
    BitConfig,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
)
from mimsuite.models.parts import hidden_cells

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]  # all of it: 900 short tests

VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "patch_size": 8,
    "encoder_stride": 8,
}
DROP = {
    "mask_mode": "drop",
    "position": "sincos2d",
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 20,
}
REGISTERS = {"num_register_tokens": 3}
RELATIVE = {
    "use_shared_relative_position_bias": True,
    "use_absolute_position_embeddings": False,
    "layer_scale_init_value": 0.1,
}
CVT = {"embed_dim": [8, 12, 24], "num_heads": [1, 2, 3], "depth": [1, 1, 2], "mlp_ratio": [2, 2, 2]}
BIT = {"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 2], "num_groups": 4}
RECTANGULAR = {"patch_size": [8, 16], "encoder_stride": [8, 16]}


ENCODERS = {  # model, config, its values, side of an image of several cells in pixels
    "vit replace": (ViTForMaskedImageModeling, ViTConfig, VIT, 64),
    "vit drop": (ViTForMaskedImageModeling, ViTConfig, VIT | DROP, 64),
    "vit registers": (ViTForMaskedImageModeling, ViTConfig, VIT | REGISTERS, 64),
    "vit relative": (ViTForMaskedImageModeling, ViTConfig, VIT | RELATIVE, 64),
    "cvt": (CvtForMaskedImageModeling, CvtConfig, CVT, 64),
    "bit": (BitForMaskedImageModeling, BitConfig, BIT, 128),
    "cvt sparse": (CvtForMaskedImageModeling, CvtConfig, CVT | {"mask_mode": "sparse"}, 64),
    "bit sparse": (BitForMaskedImageModeling, BitConfig, BIT | {"mask_mode": "sparse"}, 128),
}
RECTANGLES = {
    f"{name}, patches 8x16": (*ENCODERS[name][:2], ENCODERS[name][2] | RECTANGULAR, 64)
    for name in ENCODERS
    if name.startswith("vit")
}
SAMPLERS = {
    "random": RandomMask(0.6),
    "block": BlockMask(0.5),
    "inverse": InverseBlockMask(0.6),
    "grid": GridMask(0.75),
}
TARGETS = ["pixels", "norm_pixels", "hog"]
UNITS = ["one cell", "two cells"]  # of the features
FINEST = "mask cell"  # that an encoder can hide; a ViT's is one cell

every_encoder = pytest.mark.parametrize("name", ENCODERS)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
every_target = pytest.mark.parametrize("target", TARGETS)
every_encoder_and_unit = pytest.mark.parametrize(
    ("name", "unit"),
    [(n, u) for n in ENCODERS for u in (UNITS if n.startswith("vit") or "sparse" in n else [*UNITS, FINEST])],
)


@cache
def model_of(name, target, shape, dtype=torch.float32):
    """A tiny model in eval mode whose every weight and statistic is drawn anew."""
    cls, config_class, values, _ = (ENCODERS | RECTANGLES)[name]
    size = {"image_size": list(shape)} if config_class is ViTConfig else {}
    torch.manual_seed(0)
    model = cls(config_class(**values, **size, mim_target=target))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.requires_grad:
                nn.init.normal_(p, std=0.2)
            if "norm" in key and key.endswith("weight"):
                p.add_(1)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                nn.init.normal_(buffer, std=0.2)
            elif key.endswith("running_var"):
                nn.init.uniform_(buffer, 0.5, 2)
    return model.to(dtype).eval()


def masks_of(model, sampler, unit, shape, batch=2):
    """`(B, rows, columns)` bool on units, another mask for every image."""
    cell = model.encoder.mask_stride if unit == FINEST else model.encoder.stride
    times = 2 if unit == "two cells" else 1
    grid = (shape[0] // (cell[0] * times), shape[1] // (cell[1] * times))
    generator = torch.Generator().manual_seed(3)
    return torch.stack([SAMPLERS[sampler](grid, generator) for _ in range(batch)])


def pixels(shape, batch=2):
    return torch.randn(batch, 3, *shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def seen(model, x, mask):
    """All that is predicted: the whole picture, the hidden cells by the fast way, and the features."""
    features = model.encoder.forward_features(x, mask)
    grid = features.grid.shape[-2:]
    out = [model(x, mask).reconstruction, model.decoder(*features, mask), features.grid]
    if features.cls is not None:
        out.append(features.cls)
    if grid[0] % mask.shape[1] == 0 and grid[1] % mask.shape[2] == 0:  # else only the whole picture is decoded
        where = hidden_cells(expand_mask(mask, grid), None)
        out.append(model.decoder.hidden_only(*features, mask, where))
    return out


@every_encoder_and_unit
@every_sampler
@every_target
def test_hidden_pixels_change_no_bit_and_one_visible_pixel_does(name, sampler, target, unit):
    side = ENCODERS[name][3]
    shape = (side, side)
    model, clean = model_of(name, target, shape), pixels(shape)
    mask = masks_of(model, sampler, unit, shape)
    assert 0 < mask.sum() < mask.numel()
    hidden = expand_mask(mask, shape)[:, None]
    expected = seen(model, clean, mask)
    assert all(t.isfinite().all() for t in expected)

    noise = 100 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))
    for spoiled in (clean.masked_fill(hidden, float("nan")), torch.where(hidden, noise, clean)):
        for found, wanted in zip(seen(model, spoiled, mask), expected, strict=True):
            assert torch.equal(found, wanted)

    row, column = (~hidden[0, 0]).nonzero()[(~hidden[0, 0]).sum() // 2].tolist()
    touched = clean.clone()
    touched[0, :, row, column] += 5
    for found, wanted in zip(seen(model, touched, mask)[:2], expected, strict=False):
        assert not torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])


@every_encoder
def test_a_leak_would_be_seen(name):
    """The same comparison fails for a network that looks at all pixels."""
    side = ENCODERS[name][3]
    model, clean = model_of(name, "pixels", (side, side)), pixels((side, side))
    mask = masks_of(model, "random", "one cell", (side, side))
    noisy = torch.where(expand_mask(mask, (side, side))[:, None], torch.randn_like(clean), clean)
    nothing = torch.zeros_like(mask)
    assert not torch.equal(seen(model, clean, nothing)[0], seen(model, noisy, nothing)[0])


# --- the fast loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ENCODERS, *RECTANGLES])
@every_target
@pytest.mark.parametrize("kind", ["l1", "mse", "smooth_l1"])
@pytest.mark.parametrize("shape", [(64, 64), (64, 96)], ids=["64x64", "64x96"])
@every_sampler
def test_the_fast_loss_is_the_dense_formula(name, target, kind, shape, sampler):
    model = model_of(name, target, shape, torch.float64)
    x = pixels(shape).double()
    with torch.no_grad():
        for unit in ["one cell"] if name.startswith("vit") else ["one cell", FINEST]:
            mask = masks_of(model, sampler, unit, shape)
            wanted = masked_error(model(x, mask).reconstruction, model.target.dense(x, model.head_stride), mask, kind)
            assert wanted > 0
            for count in (None, int(mask[0].sum())):
                found = model.masked_loss(x, mask, count, kind)
                torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
