"""Encoders of timm through `model=external`: they run in an environment that has timm, and skip by name elsewhere."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mimsuite.errors import InputError
from mimsuite.masked.patches import expand_mask
from mimsuite.models import ExternalConfig, ExternalForMaskedImageModeling
from mimsuite.models.load import load_model
from mimsuite.models.sources import completed
from mimsuite.weights.init import find_weights

timm = pytest.importorskip("timm", reason="timm is not installed; these tests run in an environment that has it")
pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (64, 96)
STAGES = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}
SWIN = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
VIT = {"embed_dim": 24, "depth": 2, "num_heads": 3}
MODELS = {  # arguments, side of the only size, stride, blocks, class token
    "convnext_tiny": (STAGES, None, 32, 5, False),
    "convnextv2_tiny": (STAGES, None, 32, 5, False),
    "swin_tiny_patch4_window7_224": (SWIN | {"img_size": 64}, 64, 32, 5, False),
    "resnet18": ({"layers": [1, 1, 2, 1], "channels": [8, 16, 24, 32]}, None, 32, 5, False),
    "vit_tiny_patch16_224": (VIT | {"img_size": 64}, 64, 16, 2, True),
    "vit_small_patch14_dinov2": (VIT | {"dynamic_img_size": True}, None, 14, 2, True),
}
every_model = pytest.mark.parametrize("name", MODELS)


def config_for(name, **changes):
    return completed(ExternalConfig(source=f"timm:{name}", arguments=MODELS[name][0], pretrained=False, **changes))


def shape_of(name):
    only, stride = MODELS[name][1:3]
    return (only, only) if only else (2 * stride, 3 * stride)


def model_of(name):
    torch.manual_seed(0)
    model = ExternalForMaskedImageModeling(config_for(name)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def pixels(name, channels=3):
    return torch.randn(2, channels, *shape_of(name), generator=torch.Generator().manual_seed(1))


@every_model
def test_sizes_are_found_out(name):
    _, only, stride, blocks, token = MODELS[name]
    config = config_for(name)
    assert config.fixed_size == ((only, only) if only else None)
    assert (config.stride, config.num_blocks, config.has_class_token) == ((stride, stride), blocks, token)
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    assert config.image_statistics is None
    assert len(config.image_mean) == 3


def test_a_network_of_windows_is_asked_with_its_own_size():
    config = completed(ExternalConfig(source="timm:maxvit_pico_rw_256", pretrained=False))
    assert (config.fixed_size, config.stride, config.mask_stride) == ((256, 256), (32, 32), (4, 4))


@every_model
def test_depths_rise_and_every_block_has_parameters(name):
    encoder = model_of(name).encoder
    depths = [encoder.depth_of(key) for key, _ in encoder.named_parameters()]
    assert set(range(encoder.num_blocks + 1)) <= set(depths)
    if not name.startswith("swin"):  # its norm of a stage's way in comes after the stage before
        assert depths == sorted(depths)


@every_model
def test_hidden_pixels_move_nothing(name):
    model, clean, stride = model_of(name), pixels(name), MODELS[name][2]
    rows, columns = (side // stride for side in shape_of(name))
    cells = torch.rand(2, rows, columns, generator=torch.Generator().manual_seed(2)) < 0.5
    cells[:, 0, 0], cells[:, -1, -1] = True, False
    hidden = expand_mask(cells, shape_of(name))[:, None]
    with torch.no_grad():
        wanted = model.predict(clean, cells)[1]
        assert wanted.shape == clean.shape
        assert torch.equal(model.predict(clean.masked_fill(hidden, float("nan")), cells)[1], wanted)
        assert not torch.equal(model.predict(torch.where(hidden, clean, clean + 1), cells)[1], wanted)


@every_model
def test_features_of_layers_are_maps(name):
    encoder, x = model_of(name).encoder, pixels(name)
    with torch.no_grad():
        found = encoder.forward_layers(x, range(1, encoder.num_layers + 1))
        last = encoder.forward_features(x)
    assert torch.equal(found[-1].grid, last.grid)
    strides = [x.shape[-1] // one.grid.shape[-1] for one in found]
    assert strides == sorted(strides)
    assert [one.grid.shape[1] for one in found] == encoder.config.widths


@every_model
def test_weights_go_back_as_a_folder_of_timm_and_open_again(name, tmp_path):
    model, x = model_of(name), pixels(name)
    model.save_pretrained(tmp_path)
    library = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    assert library.state_dict().keys() >= load_file(tmp_path / "model.safetensors").keys()
    again = load_model(find_weights(str(tmp_path))).eval()
    with torch.no_grad():
        assert torch.equal(library.forward_features(x), model.encoder.wrapped.forward_features(x))
        assert torch.equal(again(x).reconstruction, model(x).reconstruction)


def test_other_channels_and_drop_path_are_arguments_of_timm():
    config = config_for("convnext_tiny", num_channels=5).with_drop_path(0.3)
    assert config.library_config["model_args"] == STAGES | {"in_chans": 5, "drop_path_rate": 0.3}
    model = ExternalForMaskedImageModeling(config)
    assert model(pixels("convnext_tiny", channels=5)).reconstruction.shape[1] == 5


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_another_size_is_refused_in_one_line(name):
    with pytest.raises(InputError, match=r"takes 64x64 pixels only; use image_size=\[64,64\], or model.arguments"):
        config_for(name).with_image_size((96, 96))


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("timm:nothing", {}, "source=nothing: timm does not give this model"),
        ("timm:resnet18", {"dephts": 3}, r"timm does not give this model \(TypeError"),
    ],
)
def test_what_timm_does_not_make_is_one_line(source, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        completed(ExternalConfig(source=source, arguments=arguments))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_tiny_patch16_224"])
def test_gradient_checkpointing_changes_no_gradient(name):
    gradients = []
    for wanted in (False, True):
        model = model_of(name).train()
        if wanted:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        loss = model.masked_loss(pixels(name), torch.ones(2, *(s // MODELS[name][2] for s in shape_of(name))).bool())
        gradients.append(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
