"""`export`: every format computes what the model computes, or nothing is written; the model card; what is refused."""

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import mimsuite
from mimsuite import app
from mimsuite.errors import InputError, RunError
from mimsuite.models import (
    BitConfig,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
)
from mimsuite.models.exporting import formats, targets
from mimsuite.models.exporting.card import plain
from mimsuite.models.exporting.check import largest_difference
from mimsuite.models.load import config_of, load_encoder
from mimsuite.weights import hub
from mimsuite.weights.init import find_weights

OLD_RUNS = Path(__file__).parents[1] / "data" / "runs_0_1_0"
VIT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
EVIL = ["<script>alert(1)</script>", "a | b", "![x](http://evil.example/x.png)", "`code`\n# head", "_em_ **b**", "&lt;"]
CVT = {
    "embed_dim": [4, 8], "num_heads": [1, 2], "depth": [1, 2], "patch_sizes": [7, 3], "patch_stride": [4, 2],
    "patch_padding": [2, 1], "mlp_ratio": [2.0, 2.0], "attention_drop_rate": [0.0, 0.0], "drop_rate": [0.0, 0.0],
    "drop_path_rate": [0.0, 0.0], "qkv_bias": [True, True], "cls_token": [False, True],
    "qkv_projection_method": ["dw_bn"] * 2, "kernel_qkv": [3, 3], "padding_kv": [1, 1], "stride_kv": [2, 2],
    "padding_q": [1, 1], "stride_q": [1, 1],
}  # fmt: skip
MODELS = {
    "vit": lambda: ViTForMaskedImageModeling(ViTConfig(**VIT, image_size=[32, 16], encoder_stride=8)),
    "square": lambda: ViTForMaskedImageModeling(ViTConfig(**VIT, image_size=16, encoder_stride=8, layer_norm_eps=1e-6)),
    "cvt": lambda: CvtForImageClassification(CvtConfig(**CVT, num_labels=3)),
    "bit": lambda: BitForMaskedImageModeling(
        BitConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_groups=4)
    ),
    "same": lambda: BitForMaskedImageModeling(
        BitConfig(
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            num_groups=4,
            layer_type="bottleneck",
            global_padding="same",
            embedding_dynamic_padding=True,
        )
    ),
    "wide": lambda: BitForMaskedImageModeling(
        BitConfig(embedding_size=32, hidden_sizes=[128, 256], depths=[1, 1], num_groups=32)
    ),
    "classes": lambda: ViTForImageClassification(
        ViTConfig(**VIT, image_size=16, classifier_pool="mean", id2label=dict(enumerate(EVIL)))
    ),
}
SIZE = {"vit": "auto", "square": "auto", "cvt": 32, "bit": [32, 48], "same": [32, 48], "wide": 32, "classes": "auto"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():  # biases and scales of their own
            torch.nn.init.normal_(parameter, std=0.3)
        model.write_files(place / name, model.state_dict())
    return place


def export(folders, name, to, out, **more):
    return mimsuite.export(init=str(folders / name), to=to, out=str(out), **{"image_size": SIZE[name], **more})


def features(folder, pixels):
    """What the encoder in a folder gives, as the outputs of a graph."""
    weights = find_weights(str(folder))
    with torch.no_grad():
        found = load_encoder(weights, config_of(weights), pixels.shape[-2:]).forward_features(pixels)
    return [t.numpy() for t in found if t is not None]


@pytest.mark.parametrize(
    ("name", "to"),
    [
        *((name, to) for name in ("vit", "cvt", "bit") for to in ("hf", "onnx")),
        *(("same", "onnx"), ("vit", "pt2"), ("bit", "pt2")),
    ],
)
def test_every_format_of_every_family_gives_the_features_of_the_encoder(folders, tmp_path, name, to, caplog):
    out = tmp_path / "new" / "out"
    result = export(folders, name, to, out, part="encoder")
    assert result["difference"] < 1e-5
    assert result["files"] == sorted(path.name for path in out.iterdir())
    assert {"README.md", "preprocessor_config.json"} < set(result["files"])
    library = {"hf": "transformers", "onnx": "onnxruntime", "pt2": "torch.export"}[to]
    assert f"read by   {library} " in caplog.text
    fixed = {"vit": (32, 16), "same": (32, 48)}  # the others take another size than that of the export
    size = fixed.get(name, (64, 37))
    assert (f", {'[32,' if name in fixed and to != 'hf' else 'any size'}" in caplog.text) or (name, to) == ("vit", "hf")
    pixels = torch.randn(5, 3, *size)
    wanted = features(folders / name, pixels)
    if to == "hf":
        found = features(out, pixels)
    elif to == "onnx":
        session = onnxruntime.InferenceSession(str(out / "model.onnx"))
        assert [given.name for given in session.get_outputs()] == ["grid", "cls"][: len(wanted)]
        found = session.run(None, {"pixel_values": pixels.numpy()})
    else:
        found = [t.numpy() for t in torch.export.load(out / "model.pt2").module()(pixels)]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)


def test_a_classifier_goes_with_its_head_and_its_mean_pool(folders, tmp_path):
    pixels = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        wanted = mimsuite.load(str(folders / "classes"))(pixels).logits.numpy()
    export(folders, "classes", "onnx", tmp_path / "x")
    session = onnxruntime.InferenceSession(str(tmp_path / "x" / "model.onnx"))
    (found,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=2e-5)
    facts = {prop.key: json.loads(prop.value) for prop in onnx.load(tmp_path / "x" / "model.onnx").metadata_props}
    assert facts["config.json"]["id2label"]["1"] == "a | b"
    assert facts["preprocessor_config.json"] == json.loads((tmp_path / "x" / "preprocessor_config.json").read_text())


@pytest.mark.parametrize(
    ("name", "to", "files"),
    [
        ("square", "timm", {"config.json", "model.safetensors"}),
        ("classes", "timm", {"config.json", "model.safetensors"}),
        ("square", "jax", {"model.npz"}),
        ("wide", "jax", {"model.npz"}),
        ("vit", "flax", {"config.json", "flax_model.msgpack"}),
        ("vit", "keras", {"config.json", "metadata.json", "image_converter.json", "model.weights.h5"}),
    ],
)
def test_formats_of_weights_alone_are_read_back_by_this_package(folders, tmp_path, name, to, files, caplog):
    out = tmp_path / "x"
    result = export(folders, name, to, out)
    assert set(result["files"]) == files | {"README.md", "preprocessor_config.json"}
    assert result["difference"] < 1e-6
    assert "read by   mimsuite " in caplog.text
    assert str(out / ".export") not in caplog.text
    if name != "classes":
        pixels = torch.randn(2, 3, *{"vit": (32, 16), "square": (16, 16)}.get(name, (37, 64)))
        found = features(out / "model.npz" if to == "jax" else out, pixels)
        for one, other in zip(found, features(folders / name, pixels), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_a_format_has_no_place_for_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match=r"to=jax part=all: this format has no place for the head .* or to=hf"):
        export(folders, "vit", "jax", tmp_path / "x", part="all")
    with pytest.raises(InputError, match="to=flax is for vit, and the model is cvt; use to=hf, onnx, pt2"):
        export(folders, "cvt", "flax", tmp_path / "x")
    with pytest.raises(InputError, match=r"to=jax: image_size=\[32,16\] is not a square of patches; use to=hf"):
        export(folders, "vit", "jax", tmp_path / "x")
    with pytest.raises(InputError, match=r"no Big Transfer ResNet of timm has it; use to=hf"):
        export(folders, "bit", "timm", tmp_path / "x")
    with pytest.raises(RunError, match=r"to=jax: what was written cannot be loaded and run: num_groups=32 does not"):
        export(folders, "bit", "jax", tmp_path / "x")
    with pytest.raises(InputError, match=r"Flax classes do not know classifier_pool=mean; use to=hf"):
        export(folders, "classes", "flax", tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "to"), [("vit", "hf"), ("vit", "onnx"), ("bit", "pt2")])
def test_a_masked_image_model_goes_with_its_decoder_and_takes_a_mask(folders, tmp_path, name, to):
    out = tmp_path / "x"
    result = export(folders, name, to, out, part="all")
    assert result["difference"] < 1e-5
    if to == "hf":
        assert mimsuite.load(str(out)).state_dict().keys() == mimsuite.load(str(folders / name)).state_dict().keys()
    else:
        assert "mask: bool, True = hidden" in (out / "README.md").read_text()


def test_an_encoder_that_drops_patches_has_no_graph_with_its_decoder(tmp_path):
    run = str(OLD_RUNS / "mae_done")
    with pytest.raises(InputError, match=r"to=onnx part=all: an encoder that drops hidden patches .* or to=hf"):
        mimsuite.export(init=run, to="onnx", part="all", out=str(tmp_path / "x"))
    result = mimsuite.export(init=run, to="hf", part="all", out=str(tmp_path / "all"))
    assert "decoder.safetensors" in result["files"]
    assert mimsuite.export(init=run, to="onnx", out=str(tmp_path / "encoder"))["part"] == "encoder"
    mimsuite.export(init=run, to="hf", out=str(tmp_path / "hf"))
    assert not [key for key in json.loads((tmp_path / "hf" / "config.json").read_text()) if "decoder" in key]


@pytest.mark.parametrize("to", ["hf", "onnx", "pt2"])
def test_a_file_that_computes_something_else_is_not_kept(folders, tmp_path, to, monkeypatch, capsys):
    write, read = formats.FORMATS[to]

    def write_wrong(exported, folder, preprocessor):
        bias = exported.model.network().layernorm.bias.data
        bias += 0.01
        free = write(exported, folder, preprocessor)
        bias -= 0.01
        return free

    monkeypatch.setitem(formats.FORMATS, to, formats.Format(write_wrong, read))
    code = app.run_guarded(lambda: export(folders, "classes", to, tmp_path / "x").get("exit_code", 0), "export")
    error = capsys.readouterr().err
    assert code == 1
    assert "computes something else than the model: a difference of" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").iterdir())


def test_differences_are_relative_to_large_values_only_and_never_hide_nan():
    ones, many = torch.ones(2, 3), torch.full((2, 3), 100.0)
    assert largest_difference((ones / 4 + 0.1,), (ones / 4,)) == pytest.approx(0.1)
    assert largest_difference((many + 1,), (many,)) == pytest.approx(0.01)
    assert largest_difference((ones, many), (ones, many)) == 0
    assert largest_difference((ones * torch.nan,), (ones,)) == float("inf")
    assert largest_difference((ones[:1],), (ones,)) == largest_difference((ones, ones), (ones,)) == float("inf")


def test_overwrite_replaces_an_export_and_nothing_else(folders, tmp_path):
    out = tmp_path / "x"
    export(folders, "classes", "hf", out)
    with pytest.raises(InputError, match="is not empty"):
        export(folders, "classes", "pt2", out)
    again = export(folders, "classes", "pt2", out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == again["files"]
    assert not {"config.json", "model.safetensors"} & set(again["files"])
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'notes.txt'"):
        export(folders, "classes", "hf", out, overwrite=True)
    with pytest.raises(InputError, match="which it would replace"):
        export(folders, "classes", "hf", folders / "classes", overwrite=True)
    shutil.copytree(folders / "classes", tmp_path / "run")
    weights = tmp_path / "run" / "weights"
    weights = weights if weights.is_dir() else tmp_path / "run"
    before = {path.name: path.read_bytes() for path in weights.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="which no export wrote"):  # of the run itself
        export(folders, "vit", "hf", weights, overwrite=True)
    assert {path.name: path.read_bytes() for path in weights.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"to": "tensorrt"}, "to=tensorrt is unknown; to takes hf"),
        ({"part": "decoder"}, "part=decoder is unknown; part takes auto, encoder, all"),
        ({"image_size": 20}, r"image_size=\[20,20\] is not a multiple of the encoder's cells of 8x8 pixels"),
        ({"push": "no name"}, "push=no name is not a repository of the Hugging Face hub; use push=ORG/NAME"),
        ({"push": "../x"}, "is not a repository"),
        ({"init": "nowhere"}, "init=nowhere does not exist"),
        ({"picture": "maybe"}, "picture=maybe is not true or false"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_written(folders, tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        mimsuite.export(**{"init": str(folders / "classes"), "to": "hf", "out": str(tmp_path / "x"), **values})
    assert not list(tmp_path.iterdir())


def test_an_encoder_alone_has_no_head_to_export(folders, tmp_path):
    export(folders, "vit", "hf", tmp_path / "x")
    with pytest.raises(InputError, match=r"part=all: init=.* is an encoder without a head \(ViTModel\)"):
        mimsuite.export(init=str(tmp_path / "x"), to="hf", part="all", out=str(tmp_path / "y"))


def test_a_format_that_does_not_take_a_family_says_which_do(folders, tmp_path, monkeypatch):
    only = targets.TARGETS["pt2"]._replace(families=("cvt", "bit"))
    monkeypatch.setitem(targets.TARGETS, "pt2", only)
    with pytest.raises(InputError, match="to=pt2 is for cvt, bit, and the model is vit; use to=hf, timm, "):
        export(folders, "vit", "pt2", tmp_path / "x")


def test_missing_libraries_have_their_pip_line_and_optional_ones_a_substitute(folders, tmp_path, monkeypatch, caplog):
    for module in (targets, "mimsuite.settings.export", "mimsuite.models.exporting.graph"):
        place = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{place}.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r'to=onnx needs onnx, which is not installed; pip install "mimsuite\[export\]"'
    ):
        export(folders, "classes", "onnx", tmp_path / "x")
    with pytest.raises(InputError, match=r'push= needs huggingface_hub, .* pip install "mimsuite\[hub\]"'):
        export(folders, "classes", "hf", tmp_path / "x", push="a/b")
    monkeypatch.setattr(targets, "find_spec", lambda name: True)
    assert export(folders, "classes", "onnx", tmp_path / "x")["difference"] < 1e-5
    assert "read by   onnx 1." in caplog.text
    monkeypatch.setattr("mimsuite.models.exporting.folders.find_spec", lambda name: None)
    export(folders, "vit", "hf", tmp_path / "y")
    assert "read by   mimsuite " in caplog.text


@pytest.fixture
def run_folder(tmp_path):
    """A run of 0.1.0 with what later ones have beside: the fingerprint of its data, and pictures."""
    folder = tmp_path / "run"
    shutil.copytree(OLD_RUNS / "pretrain_done", folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("data: null", "data: /home/somebody/secret/<b>photos"))
    (folder / "data.json").write_text(json.dumps({"train": [{"samples": 1500}, {"samples": 200}], "val": []}))
    (folder / "pictures").mkdir()
    for step in (4, 8):
        (folder / "pictures" / f"step_{step:06d}.png").write_bytes(b"picture %d" % step)
    return folder


def test_the_card_tells_data_recipe_metrics_and_check_of_a_run(run_folder, tmp_path):
    mimsuite.export(init=str(run_folder), to="hf", out=str(tmp_path / "x"))
    text = (tmp_path / "x" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\npipeline_tag: image-feature-extraction\nlicense: unknown")
    for line in (
        "| data | &#60;b&#62;photos |",
        "| images, train | 1,700 |",
        "| steps | 8 |",
        "| seed | 0 |",
        "| lr | 0.003 |",
        "| val/psnr | 11.03 |",
        "| objective | MIMObjective: mask_mode=replace, target=pixels, loss=l1 |",
        "| mask | RandomMask: ratio=0.6, unit=4 |",
        "pretrained without labels by mimsuite 0.1.0",
        "![Reconstructions of validation images](reconstruction.png)",
        "Read back by transformers ",
        "To be filled in by the owner of the weights",
    ):
        assert line in text, line
    assert (tmp_path / "x" / "reconstruction.png").read_bytes() == b"picture 8"
    assert not [word for word in ("/home", "somebody", "secret", "perf/", "optim/lr") if word in text]
    mimsuite.export(init=str(run_folder), to="hf", out=str(tmp_path / "y"), picture=False)
    assert not (tmp_path / "y" / "reconstruction.png").exists()
    assert "Reconstructions" not in (tmp_path / "y" / "README.md").read_text()


def test_names_of_classes_can_neither_format_the_card_nor_add_html_or_links(folders, tmp_path):
    export(folders, "classes", "pt2", tmp_path / "x")
    text = (tmp_path / "x" / "README.md").read_text()
    section = text.partition("## Classes")[2].partition("## Check")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(EVIL)
    for number, (row, name) in enumerate(zip(rows, EVIL, strict=True)):
        found = row.removeprefix(f"| {number} | ").removesuffix(" |")
        assert html.unescape(found) == " ".join(name.split())
        assert not re.search(r"[<>|`*!\[\]#]|\b_|_\b|://", re.sub(r"&#\d+;", "", found))
    assert "Not known: the weights were not in the folder of a training run." in text


def test_a_text_of_a_user_is_short_and_on_one_line():
    assert plain("a\n# b\x1b[31m\u202e") == "a &#35; b&#63;&#91;31m&#63;"
    assert plain("x" * 500) == "x" * 197 + "..."
    assert plain("_a_b_ __c__ d_e") == "&#95;a_b&#95; &#95;&#95;c&#95;&#95; d_e"
    assert plain("www.evil.example") == "www&#46;evil.example"


def test_push_uploads_the_finished_folder(folders, tmp_path, monkeypatch):
    seen = []

    def upload(folder, repository):
        seen.append((repository, sorted(path.name for path in folder.iterdir())))
        return "https://hub.example/commit"

    monkeypatch.setattr(hub, "upload", upload)
    result = export(folders, "classes", "hf", tmp_path / "x", push="some/model")
    assert result["pushed"] == "https://hub.example/commit"
    assert seen == [("some/model", result["files"])]
    assert "# some/model" in (tmp_path / "x" / "README.md").read_text()

    def fail(folder, repository):
        raise RunError("no")

    monkeypatch.setattr(hub, "upload", fail)
    with pytest.raises(RunError, match="no"):
        export(folders, "classes", "hf", tmp_path / "y", push="some/model")
    assert (tmp_path / "y" / "model.safetensors").is_file()
