"""Encoders that are not ours: what is found out of them, their weights in and out, and what is refused."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

sys.path.append(str(Path(__file__).resolve().parent))
import wrapped

from mimsuite.encoders.external import find_layers
from mimsuite.errors import InputError
from mimsuite.masked.latent import latent_error, take_cells
from mimsuite.masked.patches import expand_mask
from mimsuite.models import ExternalConfig, ExternalForImageClassification, ExternalForMaskedImageModeling
from mimsuite.models.latent import copy_encoder, latent_pass
from mimsuite.models.load import config_of, load_encoder, load_model
from mimsuite.models.sources import completed
from mimsuite.objectives.teacher import Teacher
from mimsuite.weights.init import find_weights

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = list(wrapped.CLASSES)
every_family = pytest.mark.parametrize("name", FAMILIES)
SHAPE = (64, 96)


def config_for(name, **changes):
    return completed(ExternalConfig(source=wrapped.folder_of(name), **changes))


def trained(name):
    """A masked image model that has the weights of the folder."""
    torch.manual_seed(1)
    model = ExternalForMaskedImageModeling(config_for(name)).eval()
    model.encoder.load_source()
    return model


def pixels(shape=SHAPE, channels=3):
    return torch.randn(2, channels, *shape, generator=torch.Generator().manual_seed(1))


@every_family
def test_strides_widths_and_depths_are_found_out(name):
    config = config_for(name)
    assert (config.stride, config.mask_stride, config.num_blocks) == (*wrapped.STRIDES[name], wrapped.BLOCKS[name])
    assert config.widths[-1] == wrapped.WIDTHS[name]
    assert config.encoder_stride == config.stride[0]
    assert (config.library, config.only_size) == ("transformers", None)
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


def test_what_the_last_map_does_not_depend_on_is_not_trained():
    model = trained("swin")
    assert model.config.unused == ["swin.layernorm.weight", "swin.layernorm.bias"]
    model.masked_loss(pixels(), torch.ones(2, 2, 3, dtype=torch.bool)).backward()
    without = [key for key, p in model.encoder.wrapped.named_parameters() if p.grad is None]
    assert without == model.config.unused
    assert not any(p.requires_grad for key, p in model.encoder.wrapped.named_parameters() if key in without)
    assert [config_for(name).unused for name in ("convnext", "resnet", "dinov2")] == [[], [], []]


@every_family
def test_features_are_the_last_map_of_the_library(name):
    model, x = trained(name), pixels()
    library = wrapped.backbone(wrapped.folder_of(name)).eval()
    with torch.no_grad():
        expected = library(x).feature_maps[-1]
        assert torch.equal(model.encoder.forward_features(x).grid, expected)


@every_family
def test_the_weights_of_a_classifier_are_used_but_for_its_head(name):
    stored = transformers.AutoModel.from_pretrained(wrapped.folder_of(name)).state_dict()
    own = trained(name).encoder.wrapped.state_dict()
    taken = [key for key, value in own.items() if any(torch.equal(value, v) for v in stored.values())]
    assert {key for key in own if key not in taken} <= {
        f"hidden_states_norms.stage4.{end}" for end in ("weight", "bias")
    }


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("unit", [32, 16])
def test_not_one_hidden_pixel_moves_loss_or_reconstruction(name, unit):
    """The certificate: noise and NaN under the mask change no bit, one visible pixel does, in both modes."""
    model, clean = trained(name), pixels()
    cells = torch.rand(2, SHAPE[0] // unit, SHAPE[1] // unit, generator=torch.Generator().manual_seed(2)) < 0.5
    cells[:, 0, 0], cells[:, -1, -1] = True, False
    hidden = expand_mask(cells, SHAPE)[:, None]
    noise = 100 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))

    @torch.no_grad()
    def seen(x):
        return model.encoder.forward_features(x, cells).grid, model(x, model_mask(model, cells)).reconstruction

    for training in (False, True):
        model.train(training)
        expected = seen(clean)
        for spoiled in (clean.masked_fill(hidden, float("nan")), torch.where(hidden, noise, clean)):
            found = seen(spoiled)
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])
    model.eval()
    touched = clean.clone()
    touched[0, :, -1, -1] += 5
    assert not torch.equal(seen(touched)[1][0], seen(clean)[1][0])


def model_mask(model, cells):
    (height, width), (down, across) = SHAPE, model.encoder.mask_stride
    return expand_mask(cells, (height // down, width // across))


@every_family
def test_depths_follow_the_stages(name):
    encoder = trained(name).encoder
    names = [key for key, _ in encoder.named_parameters()]
    depths = [encoder.depth_of(key) for key in names]
    assert depths == sorted(depths)
    assert set(range(encoder.num_blocks + 1)) <= set(depths)
    with pytest.raises(InputError, match="is not a parameter of a wrapped encoder"):
        encoder.depth_of("wrapped.nothing")


def test_the_way_into_a_stage_belongs_to_its_first_block_and_the_way_out_to_its_last():
    depth = trained("convnext").encoder.depth_of
    assert depth("wrapped.embeddings.patch_embeddings.weight") == 0
    assert depth("wrapped.encoder.stages.1.downsampling_layer.1.weight") == 2
    assert depth("wrapped.encoder.stages.2.layers.1.dwconv.weight") == 4
    assert depth("wrapped.hidden_states_norms.stage4.weight") == 6
    assert trained("swin").encoder.depth_of("wrapped.swin.encoder.layers.0.downsample.reduction.weight") == 1


class Plain(nn.Module):
    def __init__(self, parts):
        super().__init__()
        for key, part in parts.items():
            self.add_module(key, part)


def conv_block(width):
    return nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            lambda: Plain({f"layer{i}": nn.Sequential(conv_block(4), conv_block(4)) for i in (1, 2)}),
            [["layer1.0", "layer1.1"], ["layer2.0", "layer2.1"]],
        ),
        (lambda: Plain({"blocks": nn.Sequential(conv_block(4), conv_block(4))}), [["blocks.0"], ["blocks.1"]]),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), [[""]]),
    ],
    ids=["named stages", "blocks", "nothing numbered"],
)
def test_layers_are_found_by_the_form_of_a_network(network, expected):
    assert [layer.blocks for layer in find_layers(network())] == expected


@pytest.mark.parametrize("name", ["swin", "dinov2"])
def test_gradient_checkpointing_changes_no_value_and_no_gradient(name):
    losses, gradients, kept = [], [], []
    for wanted in (False, True):
        model = trained(name).train()
        if wanted:
            model.gradient_checkpointing_enable()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            losses.append(model.masked_loss(pixels(), torch.ones(2, 2, 3, dtype=torch.bool)))
        gradients.append(torch.autograd.grad(losses[-1], [p for p in model.parameters() if p.requires_grad]))
        kept.append(sum(sizes))
    assert kept[1] < 0.8 * kept[0]
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


# --- files -----------------------------------------------------------------------------------------------------


@every_family
def test_weights_go_back_as_a_folder_of_the_library(name, tmp_path):
    model, x = trained(name), pixels()
    model.save_pretrained(tmp_path)
    library, info = wrapped.backbone(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(library.eval()(x).feature_maps[-1], model.encoder.forward_features(x).grid)
    assert type(transformers.AutoModel.from_pretrained(tmp_path)).__name__.lower().startswith(name)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["model_type"], stored["architectures"]) == (name, [type(library).__name__])
    assert (tmp_path / "decoder.safetensors").is_file()


@every_family
def test_such_a_folder_is_read_again_without_its_source(name, tmp_path):
    model, x = trained(name), pixels()
    model.config.source = str(tmp_path / "gone")
    model.save_pretrained(tmp_path)
    again = load_model(find_weights(str(tmp_path))).eval()
    assert type(again) is ExternalForMaskedImageModeling
    with torch.no_grad():
        assert torch.equal(again(x).reconstruction, model(x).reconstruction)
    weights = find_weights(str(tmp_path))
    encoder = load_encoder(weights, config_of(weights), SHAPE)
    with torch.no_grad():
        assert torch.equal(encoder.forward_features(x).grid, model.encoder.forward_features(x).grid)


def test_a_classifier_goes_round_with_its_head_beside(tmp_path):
    torch.manual_seed(1)
    model = ExternalForImageClassification(config_for("resnet", num_labels=5)).eval()
    model.save_pretrained(tmp_path)
    again = load_model(find_weights(str(tmp_path))).eval()
    assert type(again) is ExternalForImageClassification
    with torch.no_grad():
        assert torch.equal(again(pixels()).logits, model(pixels()).logits)
    _, info = wrapped.backbone(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]


def test_other_channels_go_in_and_out_and_into_the_librarys_config(tmp_path):
    model = ExternalForMaskedImageModeling(config_for("convnext", num_channels=5)).eval()
    x = pixels(channels=5)
    assert model(x).reconstruction.shape == x.shape
    model.save_pretrained(tmp_path)
    assert wrapped.backbone(tmp_path).config.num_channels == 5
    with pytest.raises(InputError, match=r"has shape \(8, 3, 4, 4\), the model \(8, 5, 4, 4\); .*pretrained=false"):
        model.encoder.load_source()


def test_a_folder_is_known_by_its_place_in_a_run_and_by_its_name_in_weights(tmp_path, monkeypatch):
    wrapped.save("resnet", tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    model = ExternalForMaskedImageModeling(ExternalConfig(source="here"))
    assert model.config.found_out["source"] == str(tmp_path / "here")
    assert model.config.title == f"external ({tmp_path / 'here'})"
    model.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["mimsuite"]["source"] == "here"


def test_arguments_change_the_librarys_config():
    config = config_for("convnext", arguments={"depths": [1, 2, 1, 1], "drop_path_rate": 0.25})
    assert config.depths == [1, 2, 1, 1]
    assert config.library_config["drop_path_rate"] == 0.25
    assert config.with_drop_path(0.5).library_config["drop_path_rate"] == 0.5


# --- a class of the user's own ---------------------------------------------------------------------------------


class Net(nn.Module):
    """A user's network: blocks without an overlap, at one size only if it is told so."""

    def __init__(self, width=8, only=None):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, stride=8, padding=3)
        self.blocks = nn.ModuleList([conv_block_same(width) for _ in range(2)])
        self.only = only

    def forward(self, x):
        if self.only is not None and list(x.shape[-2:]) != list(self.only):
            raise ValueError(f"only {self.only}")
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x


def conv_block_same(width):
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())


class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        self.all = nn.Linear(3, 4)

    def forward(self, x):
        return self.all(x.mean((2, 3)))


def named(kind, **values):
    return {"_target_": f"{__name__}.{kind.__name__}", **values}


def test_a_class_of_the_users_own_is_wrapped_once_it_is_trusted(tmp_path):
    node = named(Net, width=12)
    config = completed(ExternalConfig(network=node).trusting([node["_target_"]]))
    assert (config.strides, config.widths, config.depths) == ([[8, 8]] * 2, [12, 12], [1, 1])
    model = ExternalForMaskedImageModeling(config).eval()
    model.save_pretrained(tmp_path)
    weights = find_weights(str(tmp_path))
    with pytest.raises(InputError, match=re.escape(f"trusted_targets=[{node['_target_']}]")):
        config_of(weights)
    again = load_model(weights.trusting([node["_target_"]])).eval()
    assert torch.equal(again(pixels()).reconstruction, model(pixels()).reconstruction)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "external"


@pytest.mark.parametrize("make", [ExternalForMaskedImageModeling, ExternalForImageClassification, completed])
def test_without_trust_a_class_is_not_built(make, monkeypatch):
    monkeypatch.setattr(Net, "__init__", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(InputError, match="is not allowed"):
        make(ExternalConfig(network=named(Net)))
    found = {"strides": [[8, 8]], "widths": [8], "depths": [2]}
    with pytest.raises(InputError, match="is not allowed"):
        ExternalForMaskedImageModeling(ExternalConfig(network=named(Net), **found))


def test_a_network_of_one_size_refuses_others_in_one_line():
    node = named(Net, only=[48, 64])
    draft = ExternalConfig(network=node, only_size=[48, 64]).trusting([node["_target_"]])
    config = completed(draft)
    assert (config.fixed_size, config.stride) == ((48, 64), (8, 8))
    with pytest.raises(InputError, match=r"image_size=64x64: .*Net takes 48x64 pixels only; use image_size=\[48,64\]"):
        config.with_image_size((64, 64))
    model = ExternalForMaskedImageModeling(config)
    with pytest.raises(InputError, match="takes 48x64 pixels only"):
        model.encoder.forward_features(pixels())
    with pytest.raises(InputError, match=r"does not take images .*only \[48, 64\].*model.only_size=\[H,W\]"):
        completed(ExternalConfig(network=node).trusting([node["_target_"]]))


# --- refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "model=external wraps one encoder; give model.source="),
        ({"source": "a", "network": {"_target_": "b.C"}}, "wraps one encoder"),
        ({"network": {"width": 3}}, "network names no class"),
        ({"source": "/nowhere"}, r"model.source: '/nowhere' is not a folder; .* or timm:NAME"),
        ({"source": "timm:nothing"}, r"needs timm .*mimsuite\[timm\]|timm does not give"),
    ],
)
def test_a_wrong_source_is_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        completed(ExternalConfig(**values))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json"),
        ("{}", "transformers cannot read its config.json"),
        ("[1", "transformers cannot read its config.json"),
        ('{"model_type": "bert"}', "is a bert, which transformers has no AutoBackbone for; use one of beit, "),
        ('{"model_type": "new", "auto_map": {"AutoConfig": "code.Config"}}', "transformers cannot read"),
        ('{"model_type": "convnext", "hidden_sizes": [1]}', "cannot be read|does not take"),
    ],
    ids=["no config", "empty", "broken", "text", "hub code", "wrong values"],
)
def test_a_folder_that_is_no_backbone_is_one_line_and_runs_no_code(tmp_path, content, message):
    (tmp_path / "code.py").write_text("raise SystemExit('hub code ran')")
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message) as error:
        completed(ExternalConfig(source=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_code_beside_a_known_model_is_not_run(tmp_path):
    wrapped.save("resnet", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    classes = {"AutoConfig": "code.Config", "AutoBackbone": "code.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": classes}))
    (tmp_path / "code.py").write_text("raise SystemExit('hub code ran')")
    model = ExternalForMaskedImageModeling(ExternalConfig(source=str(tmp_path)))
    model.encoder.load_source()
    assert type(model.encoder.wrapped) is transformers.ResNetBackbone


def test_code_beside_weights_is_not_run(tmp_path):
    trained("resnet").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    classes = {"AutoConfig": "code.Config", "AutoBackbone": "code.Model", "AutoModel": "code.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": classes}))
    (tmp_path / "code.py").write_text("raise SystemExit('hub code ran')")
    model = load_model(find_weights(str(tmp_path)))
    assert type(model.encoder.wrapped) is transformers.ResNetBackbone


@pytest.mark.parametrize(
    "change",
    [
        {"library_config": None},
        {"strides": [[4, 4]]},
        {"strides": "x"},
        {"depths": [9, 9, 9, 9]},
        {"widths": [1e99] * 4},
        {"unused": 3},
        {"library": "other"},
        {"encoder_stride": -1},
        {"model_type": "vit"},
        {"network": {"_target_": "os.system", "command": "touch canary"}},
    ],
    ids=lambda change: str(next(iter(change))) + str(next(iter(change.values())))[:4],
)
def test_damaged_facts_of_a_folder_are_one_line(tmp_path, change, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained("resnet").save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "config.json"
    config = json.loads(file.read_text())
    ours = config.pop("mimsuite") | change
    if "library_config" in change:
        config = {}
    file.write_text(json.dumps(config | {"mimsuite": ours}))
    with pytest.raises(InputError) as error:
        load_model(find_weights(str(tmp_path / "a")))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "canary").exists()


class Evil:
    def __reduce__(self):
        return Path.touch, (Path(CANARY[0]),)


CANARY = [""]


def test_a_pickle_in_place_of_weights_is_not_run(tmp_path):
    CANARY[0] = str(tmp_path / "canary")
    wrapped.save("resnet", tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").unlink()
    torch.save({"a": Evil()}, tmp_path / "source" / "pytorch_model.bin")
    model = ExternalForMaskedImageModeling(ExternalConfig(source=str(tmp_path / "source")))
    with pytest.raises(InputError, match="transformers cannot load its weights"):
        model.encoder.load_source()
    assert not (tmp_path / "canary").exists()


def test_each_library_is_imported_in_one_file():
    """Beside `exporting`, which opens what it has written with its own library."""
    package = Path(sys.modules["mimsuite"].__file__).parent
    paths = [path for path in package.rglob("*.py") if "exporting" not in path.parts]
    for library, home in (("transformers", "from_transformers.py"), ("timm", "from_timm.py")):
        pattern = re.compile(rf"^\s*(?:import|from) {library}\b", re.MULTILINE)
        assert [path.name for path in paths if pattern.search(path.read_text())] == [home]


def test_an_unknown_argument_and_a_vector_are_refused():
    with pytest.raises(InputError, match=r"arguments.dephts=3: ConvNextConfig has no such field; remove it"):
        config_for("convnext", arguments={"dephts": 3})
    node = named(Vector)
    with pytest.raises(InputError, match=r"gives \(1, 4\) .*which is not a map"):
        completed(ExternalConfig(network=node).trusting([node["_target_"]]))


class Windows(Net):
    """A network that asserts that windows of 7 cells fit, as MaxViT of timm does."""

    def forward(self, x):
        assert x.shape[-1] % 56 == 0, "windows do not fit"
        return super().forward(x)


class Several(Net):
    def forward(self, x):
        return {"map": super().forward(x)}


def test_a_network_that_fails_in_its_own_way_is_one_line():
    for kind, message in (
        (Windows, r"AssertionError|windows do not fit.*only_size"),
        (Several, "gives dict for an image"),
    ):
        node = named(kind)
        with pytest.raises(InputError, match=message) as error:
            completed(ExternalConfig(network=node).trusting([node["_target_"]]))
        assert "\n" not in str(error.value)
    node = named(Windows)
    config = completed(ExternalConfig(network=node, only_size=[56, 56]).trusting([node["_target_"]]))
    assert (config.fixed_size, config.stride) == ((56, 56), (8, 8))


def test_weights_of_another_model_are_refused(tmp_path):
    wrapped.save("swin", tmp_path)
    config = json.loads((Path(wrapped.folder_of("resnet")) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = ExternalForMaskedImageModeling(ExternalConfig(source=str(tmp_path)))
    with pytest.raises(InputError, match=r"holds 0 of \d+ tensors of a resnet encoder; .*pretrained=false"):
        model.encoder.load_source()


@pytest.mark.parametrize("name", ["convnextv2", "dinov2"])
def test_a_teacher_s_features_are_predicted_and_no_hidden_pixel_reaches_a_prediction(name):
    config = config_for(name)
    predictor = {"kind": "conv", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    predictor |= {"intermediate_size": 32, "features": config.num_features, "layers": config.latent_blocks}
    model = ExternalForMaskedImageModeling(config.changed(mim_predictor=predictor | {"combine": "mean"})).eval()
    teacher = Teacher(copy_encoder(model), config.latent_blocks, "mean")
    x, grid = pixels(), tuple(side // cell for side, cell in zip(SHAPE, config.stride, strict=True))
    mask = torch.zeros(2, *grid, dtype=torch.bool)
    mask[:, 0, 1:] = True
    clean = latent_pass(model, x, mask)
    leaky = latent_pass(model, x.masked_fill(expand_mask(mask, SHAPE)[:, None], torch.nan), mask)
    assert torch.equal(clean.predicted.features, leaky.predicted.features)
    target = take_cells(teacher(x, x, grid), clean.predicted.where)
    latent_error(latent_pass(model.train(), x, mask).predicted.features, target, "mse", 2.0).backward()
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
