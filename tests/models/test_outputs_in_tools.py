"""What models return, in the tools of torch and Hugging Face that take outputs apart."""

import warnings

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tools import fresh_accelerate
from torch.nn.parallel import scatter_gather

from mimsuite import models

PIXELS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])
MODELS = {
    "ViT": lambda: models.ViTForImageClassification(
        models.ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8,
            num_labels=3,
        )
    ),
    "Bit": lambda: models.BitForImageClassification(
        models.BitConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_groups=2, num_labels=3)
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh():
    with fresh_accelerate():
        yield


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def test_halves_of_a_batch_are_gathered_into_one_output(model, monkeypatch):
    """As by DataParallel, whose losses and logits come from several devices."""
    monkeypatch.setattr(
        scatter_gather.Gather, "apply", lambda device, dim, *parts: torch.cat([p.view(-1, *p.shape[1:]) for p in parts])
    )
    halves = [model(PIXELS[i : i + 2], labels=LABELS[i : i + 2], output_hidden_states=True) for i in (0, 2)]
    found, whole = scatter_gather.gather(halves, 0), model(PIXELS, labels=LABELS, output_hidden_states=True)
    assert type(found) is type(whole)
    assert list(found) == list(whole)
    torch.testing.assert_close(found.logits, whole.logits)
    torch.testing.assert_close(found.loss.mean(), whole.loss)
    torch.testing.assert_close(found.hidden_states, whole.hidden_states)


def test_a_traced_model_gives_a_dict_or_a_tuple(model):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing
        traced = torch.jit.trace(model, PIXELS, strict=False, check_trace=False)
        torch.testing.assert_close(traced(PIXELS[:2])["logits"], model(PIXELS[:2]).logits)
        model.config.return_dict = False
        traced = torch.jit.trace(model, PIXELS, check_trace=False)
        torch.testing.assert_close(traced(PIXELS[:2])[0], model(PIXELS[:2])[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_trainer_predicts_and_judges(model, smoothing, tmp_path):
    arguments = transformers.TrainingArguments(
        tmp_path, report_to=[], use_cpu=True, disable_tqdm=True, label_smoothing_factor=smoothing
    )
    data = [{"pixel_values": image, "labels": int(label)} for image, label in zip(PIXELS, LABELS, strict=True)]
    found = transformers.Trainer(model, arguments).predict(data)
    with torch.no_grad():
        wanted = model(PIXELS, labels=LABELS)
    np.testing.assert_allclose(found.predictions, wanted.logits, atol=1e-6)
    smoothed = torch.nn.functional.cross_entropy(wanted.logits, LABELS, label_smoothing=smoothing)
    np.testing.assert_allclose(found.metrics["test_loss"], smoothed, rtol=1e-5)


def test_a_pipeline_takes_a_batch_apart(model):
    pipe = transformers.ImageClassificationPipeline(
        model=model, image_processor=models.ViTImageProcessor(size=16), device="cpu", batch_size=3
    )
    images = [Image.fromarray(np.full((16, 16, 3), 60 * i, np.uint8)) for i in range(4)]
    found = pipe(images, top_k=1)
    alone = [pipe(image, top_k=1, batch_size=1) for image in images]
    assert [one[0]["label"] for one in found] == [one[0]["label"] for one in alone]
