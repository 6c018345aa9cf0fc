"""The same numbers as Hugging Face's CvT, through folders in both directions."""

import os
import warnings

import pytest
import torch
from torch import nn

from mimsuite.models import CvtConfig, CvtForImageClassification, CvtModel

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    transformers = pytest.importorskip("transformers")
    from transformers.models.cvt import modeling_cvt  # noqa: F401 - loaded here, quietly

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

# Their drop path is indexed by stage and drops the shortcut too: compared at rate 0 only.
TINY = {
    "embed_dim": [8, 16, 24],
    "num_heads": [1, 2, 3],
    "depth": [1, 2, 3],
    "mlp_ratio": [2.0, 2.0, 2.0],
    "drop_path_rate": [0.0, 0.0, 0.0],
}
VARIANTS = {
    "plain": {},
    "biases, ratios, channels": {"qkv_bias": [False, True, False], "mlp_ratio": [1.0, 2.0, 3.5], "num_channels": 4},
    "kernels and strides": {
        "kernel_qkv": [3, 5, 3],
        "padding_kv": [1, 2, 1],
        "padding_q": [1, 2, 1],
        "stride_kv": [2, 1, 2],
    },
    "other embeddings": {"patch_sizes": [5, 3, 2], "patch_stride": [3, 2, 2], "patch_padding": [1, 1, 0]},
    "deeper": {"depth": [2, 2, 4]},
}
SIZES = {"square": (32, 32), "odd": (70, 50)}

every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
every_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
every_mode = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
LABELS = {
    "classes": (5, torch.tensor([0, 3, 4])),
    "regression": (1, torch.tensor([0.5, -1.0, 2.0]).double()),
    "multi-label": (5, torch.tensor([[1, 0, 0, 1.0, 1]]).double().expand(3, 5)),
}


def randomise(model):
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    return model


def theirs(name, dtype=torch.float64, **changes):
    return randomise(getattr(transformers, name)(transformers.CvtConfig(**(TINY | changes))).to(dtype)).eval()


def ours_of(model, cls, folder, dtype="float64"):
    model.save_pretrained(folder)
    return cls.from_pretrained(folder, dtype=dtype)


def ours_and_theirs(cls, folder, **changes):
    """A model of ours, and theirs from its folder, which must hold each key and no other."""
    ours = randomise(cls(CvtConfig(**(TINY | changes))).double()).eval()
    ours.save_pretrained(folder)
    their_class = getattr(transformers, cls.__name__)
    reference, info = their_class.from_pretrained(folder, output_loading_info=True, dtype=torch.float64)
    assert not any(info.values()), info
    return ours, reference.eval()


def pixels(size, channels=3, dtype=torch.float64):
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(1)).to(dtype)


def close(a, b, tolerance=1e-8):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def same_outputs(a, b, tolerance=1e-8):
    close(a[0], b[0], tolerance)
    same_hidden_states(a, b, tolerance)


def same_hidden_states(a, b, tolerance=1e-8):
    assert len(a.hidden_states) == len(b.hidden_states)
    for one, two in zip(a.hidden_states, b.hidden_states, strict=True):
        close(one, two, tolerance)


def same_gradients(ours, loss, reference, their_loss, tolerance=1e-8):
    """Of every parameter, by its name in files."""
    kept = {p.data_ptr(): p for p in ours.parameters()}
    mine = {name: kept[t.data_ptr()] for name, t in ours.state_dict().items() if t.data_ptr() in kept}
    wanted = dict(reference.named_parameters())
    assert mine.keys() == wanted.keys()
    found = torch.autograd.grad(loss, list(mine.values()), allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(
        their_loss, [wanted[name] for name in mine], allow_unused=True, materialize_grads=True
    )
    assert sum(bool(g.any()) for g in expected) > len(mine) / 2
    for one, two in zip(found, expected, strict=True):
        close(one, two, tolerance)


def same_statistics(ours, reference, tolerance=1e-8):
    mine, wanted = dict(ours.named_buffers()), dict(reference.named_buffers())
    assert mine.keys() == wanted.keys()
    for name, buffer in mine.items():
        close(buffer, wanted[name], tolerance)


@every_variant
@every_size
@every_mode
def test_the_bare_model(tmp_path, variant, size, training):
    reference = theirs("CvtModel", **variant)
    model = ours_of(reference, CvtModel, tmp_path).train(training)
    x = pixels(size, reference.config.num_channels)
    a = model(x, output_hidden_states=True)
    b = reference.train(training)(x, output_hidden_states=True)
    same_outputs(a, b)
    close(a.cls_token_value, b.cls_token_value)
    same_statistics(model, reference)
    # Sums of squares, in which maps and class token count.
    losses = (out[0].square().sum() + out[1].square().sum() for out in (a, b))
    same_gradients(model, next(losses), reference, next(losses), 1e-7)


@every_variant
@every_mode
@pytest.mark.parametrize(("num_labels", "labels"), LABELS.values(), ids=LABELS)
def test_classification(tmp_path, variant, training, num_labels, labels):
    reference = theirs("CvtForImageClassification", num_labels=num_labels, **variant)
    model = ours_of(reference, CvtForImageClassification, tmp_path).train(training)
    x = pixels((70, 50), reference.config.num_channels)
    a = model(x, labels=labels, output_hidden_states=True)
    b = reference.train(training)(x, labels=labels, output_hidden_states=True)
    close(a.loss, b.loss)
    close(a.logits, b.logits)
    same_hidden_states(a, b)
    same_gradients(model, a.loss, reference, b.loss)
    same_statistics(model, reference)


@every_mode
def test_classification_in_float32(tmp_path, training):
    reference = theirs("CvtForImageClassification", torch.float32, num_labels=5)
    with torch.no_grad():
        for p in reference.parameters():
            p.div_(3)  # so that values are about 1
    model = ours_of(reference, CvtForImageClassification, tmp_path, None).train(training)
    x = pixels((70, 50), dtype=torch.float32)
    a = model(x, labels=LABELS["classes"][1], output_hidden_states=True)
    b = reference.train(training)(x, labels=LABELS["classes"][1], output_hidden_states=True)
    assert a.logits.dtype == torch.float32
    same_outputs(a, b, 1e-5)
    same_gradients(model, a.loss, reference, b.loss, 1e-5)
    same_statistics(model, reference, 1e-5)


def test_training_steps_stay_together(tmp_path):
    reference = theirs("CvtForImageClassification", num_labels=5).train()
    model = ours_of(reference, CvtForImageClassification, tmp_path).train()
    optimizers = [torch.optim.SGD(m.parameters(), 0.01) for m in (model, reference)]
    for number in range(3):
        losses = []
        for m, optimizer in zip((model, reference), optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(m(pixels((32, 48)) + number, labels=LABELS["classes"][1]).loss)
            losses[-1].backward()
            optimizer.step()
        close(*losses, 1e-7)
    ours, wanted = model.state_dict(), reference.state_dict()
    assert ours.keys() == wanted.keys()
    for name, tensor in ours.items():
        close(tensor, wanted[name], 1e-7)
    assert {int(t) for k, t in ours.items() if k.endswith("num_batches_tracked")} == {3}


@every_variant
@pytest.mark.parametrize("cls", [CvtModel, CvtForImageClassification])
def test_folders_of_ours_load_there_without_a_missing_key(tmp_path, cls, variant):
    model, reference = ours_and_theirs(cls, tmp_path, **variant)
    x = pixels((70, 50), model.config.num_channels)
    for training in (False, True):
        a = model.train(training)(x, output_hidden_states=True)
        b = reference.train(training)(x, output_hidden_states=True)
        same_outputs(a, b)
        same_statistics(model, reference)


def test_a_bare_model_of_theirs_reads_a_classifier_of_ours(tmp_path):
    model = randomise(CvtForImageClassification(CvtConfig(**TINY)).double()).eval()
    model.save_pretrained(tmp_path)
    reference = transformers.CvtModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    x = pixels((32, 32))
    close(model.cvt(x).last_hidden_state, reference(x).last_hidden_state)


def test_fields_of_ours_do_not_disturb_them(tmp_path):
    changes = {"encoder_stride": 8, "id2label": {0: "a", 1: "b", 2: "c"}}
    model, reference = ours_and_theirs(CvtForImageClassification, tmp_path, **changes)
    assert reference.config.id2label == {0: "a", 1: "b", 2: "c"}
    close(model(pixels((32, 32))).logits, reference(pixels((32, 32))).logits)


def test_a_config_of_ours_is_theirs(tmp_path):
    changes = TINY | VARIANTS["kernels and strides"] | {"drop_path_rate": [0.0, 0.1, 0.2], "num_labels": 7}
    CvtConfig(**changes).save_pretrained(tmp_path)
    found = transformers.CvtConfig.from_pretrained(tmp_path)
    assert {k: getattr(found, k) for k in changes} == changes


def test_the_default_configs_agree():
    found, wanted = CvtConfig().to_dict(), transformers.CvtConfig().to_dict()
    assert {k: v for k, v in found.items() if k in wanted} == {k: wanted[k] for k in found if k in wanted}
    assert found.keys() <= wanted.keys()
