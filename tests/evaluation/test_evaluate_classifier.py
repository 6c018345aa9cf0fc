"""The pass of a classifier over a split: figures, losses, mirrored images, broken images, orders of classes."""

import io
import math
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mimsuite.data.open import open_index
from mimsuite.errors import InputError, RunError
from mimsuite.evaluation.judging.classifier import (
    Classifier,
    evaluate_classifier,
    label_tensor,
    mean_of_views,
    read_predictions,
)
from mimsuite.masked.normalization import Normalize
from mimsuite.metrics.scores import image_losses, scores_of

COUNT = 11
BROKEN = 4


def write(folder, broken=()):
    """Pictures whose left half is bright and whose right half is dark, more or less."""
    folder.mkdir()
    random = np.random.default_rng(0)
    with tarfile.open(folder / "val-000000.tar", "w") as archive:
        for i in range(COUNT):
            stream = io.BytesIO()
            pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(stream, "PNG")
            picture = b"no picture" if i in broken else stream.getvalue()
            for ending, data in (("png", picture), ("cls", str(i % 3).encode())):
                member = tarfile.TarInfo(f"k{i:02d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return open_index(str(folder), cache=folder.parent / "cache")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pass") / "shards")


NORMALIZE = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
WEIGHT = torch.randn(3 * 16 * 16, 3, generator=torch.Generator().manual_seed(0)) / 5


def network(pixels):
    return pixels.flatten(1) @ WEIGHT


def run(index, labels, batch=4, **options):
    classifier = Classifier(network, NORMALIZE, **{"kind": "classes", "outputs": 3} | options)
    samples = index.records("val")
    return evaluate_classifier(classifier, index, samples, labels, image_size=(16, 16), batch=batch, workers=0)


def pixels_of(index):
    from mimsuite.data.datamodule import eval_loader

    (batch,) = eval_loader(index, "val", image_size=(16, 16), batch=COUNT, workers=0, labels=True, keys=True)
    return NORMALIZE(batch.images), batch.labels, batch.keys


@pytest.mark.parametrize("batch", [1, 4, COUNT])
def test_figures_and_loss_are_those_of_all_images_at_once(batch, index):
    pixels, labels, keys = pixels_of(index)
    scores = network(pixels)
    found = run(index, labels, batch)
    assert found.scores.metrics == scores_of(scores, labels, "classes").metrics
    assert found.scores.loss == pytest.approx(float(F.cross_entropy(scores, labels)), rel=1e-5)
    assert (found.keys, found.numbers.tolist()) == (keys, list(range(COUNT)))
    assert torch.equal(found.answers.predicted, scores.argmax(1))
    torch.testing.assert_close(found.answers.probability, scores.softmax(1).amax(1))
    torch.testing.assert_close(found.answers.probability_of_true, scores.softmax(1).gather(1, labels[:, None])[:, 0])


def test_scores_are_put_in_the_order_of_the_data_s_classes(index):
    _, labels, _ = pixels_of(index)
    plain, moved = run(index, labels), run(index, (labels + 1) % 3, order=(2, 0, 1))
    assert moved.scores.metrics == plain.scores.metrics
    assert moved.scores.loss == pytest.approx(plain.scores.loss)
    assert torch.equal(moved.answers.predicted, (plain.answers.predicted + 1) % 3)


@pytest.mark.parametrize(("kind", "of_probability"), [("classes", torch.log), ("multilabel", torch.logit)])
def test_mirrored_images_count_by_the_mean_of_probabilities(kind, of_probability, index):
    pixels, labels, _ = pixels_of(index)
    squash = (lambda s: s.softmax(1)) if kind == "classes" else torch.sigmoid
    first, second = squash(network(pixels).double()), squash(network(pixels.flip(3)).double())
    mean = (first + second) / 2
    wanted = labels if kind == "classes" else F.one_hot(labels, 3).float()
    found = run(index, wanted, kind=kind, flip=True)
    expected = F.nll_loss(mean.log(), labels) if kind == "classes" else F.binary_cross_entropy(mean, wanted.double())
    assert found.scores.loss == pytest.approx(float(expected), rel=1e-5)
    assert found.scores.metrics == scores_of(of_probability(mean), wanted, kind).metrics
    assert found.scores.loss != pytest.approx(run(index, wanted, kind=kind).scores.loss, rel=1e-3)


def test_averages_of_very_sure_answers_keep_their_order():
    sure = torch.tensor([[200.0, 190.0, 0.0]])
    assert mean_of_views(sure, sure, "classes")[0].diff().tolist() == pytest.approx([-10, -190])
    assert mean_of_views(sure, sure, "multilabel").isfinite().all()
    torch.testing.assert_close(mean_of_views(sure, sure, "multilabel"), sure, rtol=0, atol=1e-3)
    assert torch.equal(mean_of_views(torch.ones(1, 1), 3 * torch.ones(1, 1), "regression"), torch.tensor([[2.0]]))


def test_losses_of_each_kind():
    scores = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    sets = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(
        image_losses(scores, sets, "multilabel").mean(), F.binary_cross_entropy_with_logits(scores, sets)
    )
    torch.testing.assert_close(image_losses(scores[:, :1], sets[:, :1], "regression").mean(), torch.tensor(0.125))
    torch.testing.assert_close(
        image_losses(scores, torch.tensor([1, 0]), "classes").mean(), F.cross_entropy(scores, torch.tensor([1, 0]))
    )


def test_undecodable_images_are_skipped_and_named(index, tmp_path, caplog):
    broken = write(tmp_path / "shards", {BROKEN})
    _, labels, _ = pixels_of(index)
    found = run(broken, labels)
    kept = [i for i in range(COUNT) if i != BROKEN]
    whole = run(index, labels)
    assert found.numbers.tolist() == kept
    assert found.keys == [whole.keys[i] for i in kept]
    assert torch.equal(found.labels, labels[kept])
    assert torch.equal(found.answers.predicted, whole.answers.predicted[kept])
    assert int(found.scores.confusion.sum()) == COUNT - 1
    pixels, labels, _ = pixels_of(index)
    assert found.scores.loss == pytest.approx(float(F.cross_entropy(network(pixels[kept]), labels[kept])), rel=1e-5)
    assert "bad       skipped 1 undecodable images: k04 in" in caplog.text


def test_a_split_without_a_sound_image_is_refused(index, tmp_path):
    broken = write(tmp_path / "shards", set(range(1, COUNT)))
    samples = broken.records("val").take(np.arange(1, COUNT))
    classifier = Classifier(network, NORMALIZE, "classes", 3)
    with pytest.raises(InputError, match="cannot be decoded"):
        evaluate_classifier(
            classifier, broken, samples, torch.zeros(10).long(), image_size=(16, 16), batch=4, workers=0
        )


def test_scores_that_are_not_finite_stop_the_evaluation(index):
    _, labels, _ = pixels_of(index)
    classifier = Classifier(lambda p: network(p) * math.nan, NORMALIZE, "classes", 3)
    with pytest.raises(RunError, match="not finite"):
        evaluate_classifier(classifier, index, index.records("val"), labels, image_size=(16, 16), batch=4, workers=0)


def test_labels_become_tensors():
    assert torch.equal(label_tensor([2, 0], "classes", 3), torch.tensor([2, 0]))
    assert torch.equal(label_tensor([(2, 0), ()], "multilabel", 3), torch.tensor([[1.0, 0, 1], [0, 0, 0]]))
    assert torch.equal(label_tensor([2, 0.5], "regression", 1), torch.tensor([[2.0], [0.5]]))


def test_an_error_is_negative_where_nothing_is_wrong():
    sets = read_predictions(torch.tensor([[2.0, -2.0], [2.0, 2.0]]), torch.tensor([[1.0, 0], [1, 0]]), "multilabel")
    assert (sets.error >= 0).tolist() == [False, True]
    numbers = read_predictions(torch.tensor([[2.0], [1.0]]), torch.tensor([[2.0], [3.0]]), "regression")
    assert numbers.error.tolist() == [-1, 2]
    classes = read_predictions(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]), "classes")
    assert (classes.error >= 0).tolist() == [False, True]
