"""The same numbers as Hugging Face's ViTMAE: drop hidden patches, fill the holes in the decoder."""

import os
import warnings

import pytest
import torch
from torch import nn

from mimsuite.encoders.positions import sincos_positions
from mimsuite.encoders.vit import classic_key
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling
from mimsuite.weights.files import read_tensors, write_folder

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    transformers = pytest.importorskip("transformers")
    from transformers.models.vit_mae import modeling_vit_mae

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 28,
}
SHAPES = {
    "4x4 patches": {},
    "3x3 large patches, one channel": {"image_size": 48, "patch_size": 16, "num_channels": 1},
    "5x5 patches, other sizes": {
        "image_size": 20,
        "patch_size": 4,
        "decoder_hidden_size": 36,
        "decoder_num_attention_heads": 3,
        "decoder_num_hidden_layers": 1,
        "layer_norm_eps": 1e-3,
    },
    "other activation, no biases": {"hidden_act": "relu", "qkv_bias": False},
}
every_shape = pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
every_ratio = pytest.mark.parametrize("ratio", [0.75, 0.5])


def theirs(ratio=0.75, norm=False, **changes):
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(**(TINY | changes), mask_ratio=ratio, norm_pix_loss=norm)
    config._attn_implementation = "sdpa"  # their "eager" takes the softmax in float32, also of float64
    model = transformers.ViTMAEForPreTraining(config).double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


def our_config(their_config):
    fields = {name: getattr(their_config, name) for name in TINY}
    fields |= {n: getattr(their_config, n) for n in ("num_channels", "hidden_act", "qkv_bias", "layer_norm_eps")}
    target = "norm_pixels" if their_config.norm_pix_loss else "pixels"
    return ViTConfig(
        **fields,
        encoder_stride=their_config.patch_size,
        position="sincos2d",
        mask_mode="drop",
        mim_target=target,
    )


def our_key(key):
    """The name that published files have; Hugging Face 5 names blocks otherwise in memory, and again when saving."""
    key = classic_key(key.replace("decoder.decoder_layers.", "decoder.layers."))
    return key.replace("decoder.encoder.layer.", "decoder.decoder_layers.").replace(
        "decoder.decoder_encoder.layer.", "decoder.decoder_layers."
    )


def ours_of(reference, folder):
    reference.save_pretrained(folder)
    model = ViTForMaskedImageModeling(our_config(reference.config)).double().eval()
    model.load_state_dict({our_key(k): t for k, t in read_tensors(folder / "model.safetensors").items()})
    return model


def pixels(config, batch=3):
    side = config.image_size
    return torch.randn(batch, config.num_channels, side, side, generator=torch.Generator().manual_seed(1)).double()


def noise_and_mask(config, batch=3):
    """Noise `(B, N)` for them, and for us the mask `(B, gh, gw)` of all but its lowest values."""
    side = config.image_size // config.patch_size
    noise = torch.rand(batch, side * side, generator=torch.Generator().manual_seed(2))
    visible = int(side * side * (1 - config.mask_ratio))
    mask = torch.ones(batch, side * side, dtype=torch.bool)
    mask.scatter_(1, noise.argsort(1)[:, :visible], False)
    return noise, mask.view(batch, side, side)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@every_shape
@every_ratio
@pytest.mark.parametrize("norm", [False, True], ids=["pixels", "norm_pixels"])
def test_loss_and_all_gradients(tmp_path, changes, ratio, norm):
    reference = theirs(ratio, norm, **changes)
    model, config = ours_of(reference, tmp_path), reference.config
    x, (noise, mask) = pixels(config), noise_and_mask(config)
    out = reference(x, noise=noise)
    assert torch.equal(out.mask.bool(), mask.flatten(1))

    hidden = mask.sum() * config.patch_size**2
    for count in (None, int(mask[0].sum())):
        loss = model.masked_loss(x, mask, count, loss="mse") * (hidden + 1e-5) / hidden  # ours divides by 1e-5 more
        close(loss, out.loss)
        names = {n: p for n, p in model.named_parameters() if p.requires_grad}
        found = dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))
        wanted = {n: p for n, p in reference.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad(out.loss, list(wanted.values()), retain_graph=True)
        expected = dict(zip(map(our_key, wanted), grads, strict=True))
        assert found.keys() == expected.keys()
        assert [n for n, g in found.items() if not g.any()] == []
        for name, gradient in found.items():
            close(gradient, expected[name])


@every_shape
@every_ratio
def test_the_whole_prediction(tmp_path, changes, ratio):
    reference = theirs(ratio, **changes)
    model = ours_of(reference, tmp_path)
    x, (noise, mask) = pixels(reference.config), noise_and_mask(reference.config)
    with torch.no_grad():
        close(model(x, mask).reconstruction, reference.unpatchify(reference(x, noise=noise).logits))


@every_shape
@every_ratio
def test_the_encoders_visible_tokens(tmp_path, changes, ratio):
    reference = theirs(ratio, **changes)
    model = ours_of(reference, tmp_path)
    x, (noise, mask) = pixels(reference.config), noise_and_mask(reference.config)
    with torch.no_grad():
        theirs_out = reference.vit(x, noise=noise)
        ours = model.vit(x, mask).last_hidden_state
    visible = ours.shape[1] - 1
    assert visible == int((~mask[0]).sum())
    cls, patches = theirs_out.last_hidden_state.split([1, visible], dim=1)
    in_order = noise.argsort(1)[:, :visible].argsort(1)  # theirs stand in the order of the noise
    patches = patches.gather(1, in_order.unsqueeze(-1).expand_as(patches))
    close(ours, torch.cat([cls, patches], 1))

    features = model.encoder.forward_features(x, mask)
    close(features.cls, cls[:, 0])
    close(features.grid.permute(0, 2, 3, 1)[~mask].view_as(patches), patches)


def test_the_bare_encoder_of_their_files(tmp_path):
    reference = theirs()
    model = ours_of(reference, tmp_path / "whole")
    reference.vit.save_pretrained(tmp_path / "bare")
    bare = transformers.ViTMAEModel.from_pretrained(tmp_path / "bare", dtype=torch.float64)
    x, (noise, mask) = pixels(reference.config), noise_and_mask(reference.config)
    with torch.no_grad():
        close(model.vit(x, mask).last_hidden_state[:, 0], bare.eval()(x, noise=noise).last_hidden_state[:, 0])


def test_the_names_in_published_files(tmp_path):
    """They load a file with our names, which are those of their published files, without one missing or left over."""
    reference = theirs()
    model = ours_of(reference, tmp_path / "theirs")
    reference.config.save_pretrained(tmp_path / "ours")
    write_folder(tmp_path / "ours", model.state_dict(), 10**9)
    again, info = transformers.ViTMAEForPreTraining.from_pretrained(
        tmp_path / "ours", output_loading_info=True, dtype=torch.float64
    )
    assert not any(info.values()), info
    assert {k.split(".")[1] for k in model.state_dict() if k.startswith("decoder.")} == {
        "decoder_embed",
        "mask_token",
        "decoder_pos_embed",
        "decoder_layers",
        "decoder_norm",
        "decoder_pred",
    }
    x, (noise, mask) = pixels(reference.config), noise_and_mask(reference.config)
    with torch.no_grad():
        close(model(x, mask).reconstruction, reference.unpatchify(again.eval()(x, noise=noise).logits))


# --- fixed positions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "width"), [(4, 24), (5, 36), (14, 768), (1, 4)])
def test_the_fixed_positions_are_theirs(side, width):
    config = transformers.ViTMAEConfig(hidden_size=width, num_attention_heads=1, image_size=side * 2, patch_size=2)
    embeddings = modeling_vit_mae.ViTMAEEmbeddings(config)
    embeddings.initialize_weights()
    assert embeddings.position_embeddings.any()
    table = sincos_positions((side, side), width, class_token=True)
    close(table, embeddings.position_embeddings.detach(), 1e-7)
    close(sincos_positions((side, side), width, class_token=False), table[:, 1:], 0)


@pytest.mark.parametrize("grid", [(2, 5), (5, 2), (1, 3)])
def test_the_fixed_positions_of_a_rectangle_are_columns_then_rows(grid):
    rows, columns = grid
    table = sincos_positions(grid, 16, class_token=False)[0].view(rows, columns, 16)
    along = sincos_positions((5, 5), 16, class_token=False)[0].view(5, 5, 16)
    assert torch.equal(table, along[:rows, :columns])
    assert torch.equal(table[..., :8], table[:1, :, :8].expand(rows, -1, -1))
    assert torch.equal(table[..., 8:], table[:, :1, 8:].expand(-1, columns, -1))
    frequencies = torch.tensor([1, 0.1, 0.01, 0.001], dtype=torch.float64)
    angle = torch.arange(columns, dtype=torch.float64)[:, None] * frequencies
    close(table[0, :, :8], torch.cat([angle.sin(), angle.cos()], 1).float(), 1e-7)


def test_the_decoders_positions_are_fixed_too():
    model = ViTForMaskedImageModeling(our_config(theirs().config))
    assert torch.equal(model.decoder.decoder_pos_embed, sincos_positions((4, 4), 16, class_token=True))
    assert "decoder.decoder_pos_embed" not in dict(model.named_parameters())
