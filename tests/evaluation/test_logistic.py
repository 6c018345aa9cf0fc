"""Linear probe against scikit-learn, and what it may look at."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from mimsuite.errors import InputError
from mimsuite.evaluation.features.pixels import PixelLayer
from mimsuite.evaluation.features.views import Features, pool_features
from mimsuite.evaluation.probes import logistic
from mimsuite.evaluation.probes.logistic import accuracy, fit_linear, linear_probe
from mimsuite.evaluation.probes.selection import held_out

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGENETTE = Path(__file__).parents[2] / "../shared/data/imagenette-224"


def made(n, seed, classes=6, width=20):
    """Overlapping classes; features of very different scales, one constant, two nearly collinear."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=g)
    centres = 0.7 * torch.randn(classes, width, generator=torch.Generator().manual_seed(7))
    x = centres[labels] + torch.randn(n, width, generator=g)
    x[:, 1] = x[:, 0] + 0.01 * x[:, 1]
    x = (x + torch.linspace(-5, 5, width)) * torch.logspace(-3, 3, width)
    x[:, 5] = 3.0
    return Features(x, labels, torch.arange(n) + 10**6 * seed, "mean")


def oracle(train, strength, tol=1e-8):
    scaler = StandardScaler().fit(train.x.double().numpy())
    fit = LogisticRegression(C=1 / (strength * len(train.x)), max_iter=5000, tol=tol)
    return scaler, fit.fit(scaler.transform(train.x.double().numpy()), train.labels.numpy())


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_probabilities_equal_those_of_scikit_learn(strength):
    train, test = made(600, 0), made(300, 1)
    ours = fit_linear(train.x, train.labels, 6, strength)
    scaler, theirs = oracle(train, strength)
    expected = theirs.predict_proba(scaler.transform(test.x.double().numpy()))
    got = ours.logits(test.x).softmax(1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-2)


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_objective_is_as_low_as_that_of_scikit_learn(strength):
    train = made(600, 0)
    scaler, theirs = oracle(train, strength)

    def objective(logits, weight):
        return nn.functional.cross_entropy(logits, train.labels) + strength / 2 * weight.square().sum()

    z = torch.from_numpy(scaler.transform(train.x.double().numpy()))
    weight = torch.from_numpy(theirs.coef_)
    ours = fit_linear(train.x, train.labels, 6, strength)
    got = objective(ours.logits(train.x), ours.weight * torch.from_numpy(scaler.scale_))
    expected = objective(z @ weight.T + torch.from_numpy(theirs.intercept_), weight)
    assert got.item() == pytest.approx(expected.item(), abs=1e-6)


def test_strength_is_the_best_on_a_held_out_fifth_and_of_equals_the_one_with_the_lowest_loss():
    train = made(300, 0)
    result = linear_probe(train, made(300, 1))
    best = max(result.held_out.values())
    equal = [s for s, a in result.held_out.items() if a == best]
    assert len(equal) > 1
    held = held_out(train.labels, train.ids)
    heads = {s: fit_linear(train.x[~held], train.labels[~held], 6, s) for s in equal}
    losses = {s: float(F.cross_entropy(h.logits(train.x[held]), train.labels[held])) for s, h in heads.items()}
    assert result.strength == min(losses, key=losses.get)
    assert set(result.held_out) == set(logistic.STRENGTHS)


def test_final_classifier_is_fitted_to_all_training_features():
    train, test = made(300, 0), made(300, 1)
    result = linear_probe(train, test)
    whole = fit_linear(train.x, train.labels, 6, result.strength)
    assert torch.equal(result.classifier.weight, whole.weight)
    assert torch.equal(result.classifier.bias, whole.bias)
    assert result.top1 == accuracy(whole.logits(test.x), test.labels)
    assert result.top5 == accuracy(whole.logits(test.x), test.labels, 5)
    assert result.top1 < result.top5


def test_test_features_change_neither_strength_nor_classifier():
    a, b = (linear_probe(made(300, 0), made(200, seed)) for seed in (1, 2))
    assert (a.strength, a.held_out) == (b.strength, b.held_out)
    assert torch.equal(a.classifier.weight, b.classifier.weight)
    assert a.top1 != b.top1


def test_search_sees_only_the_part_that_is_not_held_out(monkeypatch):
    train, seen = made(300, 0), []

    def spy(x, *args, **kwargs):
        seen.append(len(x))
        return fit_linear(x, *args, **kwargs)

    monkeypatch.setattr(logistic, "fit_linear", spy)
    linear_probe(train, made(100, 1), strengths=(0.1, 0.01))
    held = held_out(train.labels, train.ids)
    assert seen == [int((~held).sum())] * 2 + [300]


def test_held_out_part_is_a_fifth_of_every_class_and_follows_the_ids_not_the_order():
    train = made(300, 0)
    held = held_out(train.labels, train.ids)
    for label in range(6):
        assert held[train.labels == label].sum() == round(0.2 * int((train.labels == label).sum()))
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(held_out(train.labels[order], train.ids[order]), held[order])
    assert not torch.equal(held_out(train.labels, train.ids + 1), held)


def test_statistics_are_those_of_the_training_features():
    """A shifted and scaled copy of all features gives the same predictions; of one split only, not."""
    train, test = made(300, 0), made(300, 1)
    scale, shift = torch.logspace(-2, 2, 20), torch.linspace(-3, 3, 20)
    base = fit_linear(train.x, train.labels, 6, 1e-2).logits(test.x)
    moved = fit_linear(train.x.double() * scale + shift, train.labels, 6, 1e-2)
    torch.testing.assert_close(moved.logits(test.x.double() * scale + shift), base, atol=5e-3, rtol=1e-3)
    assert (moved.logits(test.x) - base).abs().max() > 0.1


def test_a_constant_dimension_has_no_say():
    train = made(300, 0)
    fitted = fit_linear(train.x, train.labels, 6, 1e-2)
    assert fitted.weight[:, 5].abs().max() < 1e-6


def test_result_repeats():
    a, b = (linear_probe(made(300, 0), made(100, 1)) for _ in range(2))
    assert torch.equal(a.classifier.weight, b.classifier.weight)


def test_accuracy_counts_the_k_best():
    scores = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])
    labels = torch.tensor([0, 1, 2])
    assert [accuracy(scores, labels, k) for k in (1, 2, 5)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_one_class_is_refused():
    train = made(100, 0)
    with pytest.raises(InputError, match="a probe needs two classes"):
        linear_probe(train._replace(labels=torch.zeros(100).long()), made(100, 1))


def test_features_of_two_kinds_are_refused():
    with pytest.raises(InputError, match="make both in the same way"):
        linear_probe(made(100, 0), made(100, 1)._replace(kind="cls"))


def test_strength_zero_is_refused():
    with pytest.raises(InputError, match="strength=0"):
        fit_linear(made(100, 0).x, made(100, 0).labels, 6, 0)


def imagenette(split):
    for shard in sorted(IMAGENETTE.glob(f"{split}-*.tar")):
        images, labels = [], []
        with tarfile.open(shard) as archive:
            for member in archive:
                data = archive.extractfile(member).read()
                if member.name.endswith(".cls"):
                    labels.append(int(data))
                    continue
                picture = Image.open(io.BytesIO(data))
                picture.draft("RGB", (56, 56))  # decodes a quarter of each side, much faster
                images.append(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))
        ids = torch.arange(len(labels)) + 10_000 * int(shard.stem[-6:])
        (shrunk,) = PixelLayer(8, 255).forward_layers(torch.stack(images).float(), [0])
        yield pool_features(shrunk, "mean"), torch.tensor(labels), ids


@pytest.mark.slow
@pytest.mark.skipif(not IMAGENETTE.exists(), reason=f"needs {IMAGENETTE.name} beside the repository")
def test_pixels_of_imagenette_reach_the_known_accuracy_and_that_of_scikit_learn():
    """The data's page says 40.7 % for logistic regression on 8 x 8 pixels, penalty and resize unnamed."""
    parts = (map(torch.cat, zip(*imagenette(split), strict=True)) for split in ("train", "test"))
    train, test = (Features(*part, "pixels") for part in parts)
    result = linear_probe(train, test)
    scaler, theirs = oracle(train, result.strength, tol=1e-4)
    expected = theirs.score(scaler.transform(test.x.double().numpy()), test.labels.numpy())
    assert result.top1 == pytest.approx(expected, abs=0.005)
    assert 0.40 < result.top1 < 0.45
