"""Models are exported with a free batch size, by `torch.export` and to ONNX."""

import warnings

import numpy as np
import pytest
import torch
from torch.export import Dim, export

from mimsuite import models

VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
CVT = {
    "embed_dim": [4, 8], "num_heads": [1, 2], "depth": [1, 1], "patch_sizes": [7, 3], "patch_stride": [4, 2],
    "patch_padding": [2, 1], "mlp_ratio": [2.0, 2.0], "attention_drop_rate": [0.0, 0.0], "drop_rate": [0.0, 0.0],
    "drop_path_rate": [0.0, 0.0], "qkv_bias": [True, True], "cls_token": [False, True],
    "qkv_projection_method": ["dw_bn"] * 2, "kernel_qkv": [3, 3], "padding_kv": [1, 1], "stride_kv": [2, 2],
    "padding_q": [1, 1], "stride_q": [1, 1],
}  # fmt: skip
CONFIGS = {
    "ViT": models.ViTConfig(**VIT, image_size=32, encoder_stride=8, layer_scale_init_value=0.1),
    "Cvt": models.CvtConfig(**CVT),
    "Bit": models.BitConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_groups=2),
}
PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(16).reshape(1, 4, 4).repeat(3, 1, 1) % 3 == 0


class Features(torch.nn.Module):
    """What `forward_features` gives, as tensors."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        found = self.model.encoder.forward_features(pixels)
        return found.grid if found.cls is None else (found.grid, found.cls)


def tensors(out):
    return (out,) if isinstance(out, torch.Tensor) else tuple(out.values()) if hasattr(out, "values") else tuple(out)


def compare_exported(module, inputs, names):
    """Exports at a batch of three and compares at five, and at one."""
    batch = Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own code
        program = export(module, inputs, dynamic_shapes={name: {0: batch} for name in names}).module()
    for count in (5, 1):
        more = tuple(torch.cat([value, value])[:count] for value in inputs)
        with torch.no_grad():
            for ours, theirs in zip(tensors(program(*more)), tensors(module(*more)), strict=True):
                torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_batch_size_stays_free(family):
    torch.manual_seed(0)
    classifier = getattr(models, f"{family}ForImageClassification")(CONFIGS[family]).eval()
    compare_exported(classifier, (PIXELS,), ["pixel_values"])
    compare_exported(Features(classifier), (PIXELS,), ["pixels"])
    masked = getattr(models, f"{family}ForMaskedImageModeling")(CONFIGS[family]).eval()
    compare_exported(masked, (PIXELS, MASK), ["pixel_values", "bool_masked_pos"])


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_onnx_computes_the_same_for_other_batches(family, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = getattr(models, f"{family}ForImageClassification")(CONFIGS[family]).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own code
        shapes = {"pixel_values": {0: Dim("batch")}}
        torch.onnx.export(model, (PIXELS,), tmp_path / "model.onnx", dynamo=True, dynamic_shapes=shapes, verbose=False)
    options = runtime.SessionOptions()  # its optimizer drops the zeros that BiT pads its pooling with
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    more = torch.cat([PIXELS, PIXELS])[:5]
    (found,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(more).logits.numpy(), atol=1e-5)
