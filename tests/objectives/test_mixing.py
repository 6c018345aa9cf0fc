"""Mixing: what images and targets become, that the seed decides it alone, and the loss of soft targets."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mimsuite.errors import InputError
from mimsuite.heads.losses import classification_loss
from mimsuite.objectives.mixing import Mixing, soft_loss

K = 5
SEEDS = range(40)


def mixing(**changes):
    return Mixing(**({"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "outputs": K, "label_kind": "classes"} | changes))


def batch(count=4, channels=3, height=7, width=10):
    """Image i is full of the number i; its class is i modulo K."""
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, channels, height, width)
    return images.contiguous(), torch.arange(count) % K


def shares(targets):
    """How much each image kept of itself, for batches of distinct classes."""
    return [float(row[i % K]) for i, row in enumerate(targets)]


def test_without_settings_images_stay_and_targets_are_one_hot():
    images, labels = batch()
    got, targets = mixing()(images, labels, 0)
    assert got is images
    assert targets.dtype == torch.float32
    assert torch.equal(targets, F.one_hot(labels, K).float())


def test_mixup_weights_image_and_target_alike():
    images, labels = batch()
    for seed in SEEDS:
        got, targets = mixing(mixup=0.8)(images, labels, seed)
        (share,) = set(shares(targets))
        assert 0 <= share <= 1
        assert torch.allclose(got, share * images + (1 - share) * images.flip(0), atol=1e-6)
        one = F.one_hot(labels, K).float()
        assert torch.allclose(targets, share * one + (1 - share) * one.flip(0), atol=1e-6)


@pytest.mark.parametrize("size", [(7, 10), (8, 8), (9, 3)])
def test_cutmix_targets_are_the_true_area_of_the_box(size):
    images, labels = batch(height=size[0], width=size[1])
    seen = set()
    for seed in SEEDS:
        got, targets = mixing(cutmix=1.0)(images, labels, seed)
        for i in range(4):
            own, other = got[i, 0] == i, got[i, 0] == 3 - i
            assert bool((own | other).all())
            assert float(targets[i, i]) == pytest.approx(float(own.double().mean()), abs=1e-6)
            rows, columns = other.any(1), other.any(0)
            assert torch.equal(other, rows[:, None] & columns[None])  # a box
            for line in (rows, columns):
                assert int(line.int().diff().abs().sum()) <= 2  # in one piece
            assert torch.equal(got[i], got[i, :1].expand(3, -1, -1))
        seen.add(float(targets[0, 0]))
    assert len(seen) > 10


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_the_weights_follow_the_beta_distribution(name, alpha, monkeypatch):
    images, labels = torch.zeros(2, 1, 64, 64), torch.tensor([0, 1])
    if name == "cutmix":  # before the box is cut at the borders
        drawn = []
        monkeypatch.setattr("mimsuite.objectives.mixing._box", lambda h, w, s, c: (drawn.append(s), _BOX)[1])
        [mixing(cutmix=alpha)(images, labels, seed) for seed in range(2000)]
    else:
        drawn = [float(mixing(mixup=alpha)(images, labels, seed)[1][0, 0]) for seed in range(2000)]
    found = torch.tensor(drawn)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(found.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


_BOX = (slice(0, 0), slice(0, 0), 1.0)


def test_the_way_of_mixing_is_chosen_by_switch_and_probability():
    images, labels = batch()

    def ways(**changes):
        found = {"none": 0, "mixup": 0, "cutmix": 0}
        for seed in range(400):
            got, targets = mixing(**({"mixup": 1.0, "cutmix": 1.0} | changes))(images, labels, seed)
            whole = torch.equal(got, got.round())
            found["none" if torch.equal(got, images) else "cutmix" if whole else "mixup"] += 1
            assert torch.equal(got, images) == torch.equal(targets, F.one_hot(labels, K).float())
        return found

    even = ways()
    assert 160 < even["mixup"] < 240
    assert even["none"] < 40  # empty boxes
    assert ways(switch=0.0) == {"none": 0, "mixup": 400, "cutmix": 0}
    assert ways(switch=1.0)["mixup"] == 0
    assert ways(switch=0.0, cutmix=0.0)["mixup"] == 400
    assert ways(switch=0.0, mixup=0.0)["mixup"] == 0
    assert ways(probability=0.0)["none"] == 400
    assert 80 < ways(probability=0.25, switch=0.0)["mixup"] < 120


@pytest.mark.parametrize(("mixup", "cutmix", "smoothing"), list(itertools.product([0, 0.8], [0, 1.0], [0, 0.1, 0.9])))
@pytest.mark.parametrize("outputs", [2, 5, 1000])
def test_targets_of_classes_add_up_to_one(mixup, cutmix, smoothing, outputs):
    images, labels = batch(5)
    mix = mixing(mixup=mixup, cutmix=cutmix, smoothing=smoothing, outputs=outputs)
    for seed in range(6):
        targets = mix(images, labels % outputs, seed)[1]
        assert targets.shape == (5, outputs)
        assert torch.allclose(targets.double().sum(1), torch.ones(5, dtype=torch.float64), atol=1e-6, rtol=0)
        assert float(targets.min()) >= 0


def test_smoothing_spreads_its_share_over_all_classes():
    _, targets = mixing(smoothing=0.1)(*batch(1), 0)
    assert torch.allclose(targets, torch.tensor([[0.92, 0.02, 0.02, 0.02, 0.02]]))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("channels", [1, 4])
def test_the_image_in_the_middle_mixes_with_itself(count, channels):
    images, labels = batch(count, channels)
    images = images + torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    plain = mixing(smoothing=0.1)(images, labels, 0)[1]
    for seed, name in itertools.product(SEEDS, ("mixup", "cutmix")):
        got, targets = mixing(smoothing=0.1, **{name: 1.0})(images, labels, seed)
        assert got.shape == images.shape
        if count % 2:
            assert torch.equal(got[count // 2], images[count // 2])
            assert torch.equal(targets[count // 2], plain[count // 2])


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_the_seed_alone_decides(settings):
    images, labels = batch()
    before = images.clone(), labels.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = [mixing(**settings)(images, labels, seed) for seed in SEEDS]
    torch.manual_seed(2)
    again = [mixing(**settings)(images, labels, seed) for seed in SEEDS]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert len({got.numpy().tobytes() for got, _ in first}) > 25
    torch.manual_seed(1)
    mixing(**settings)(images, labels, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


def test_the_draws_are_frozen():
    images, labels = batch(2, 1, 8, 8)
    assert shares(mixing(mixup=0.8)(images, labels, 7)[1]) == pytest.approx([0.5604820] * 2)
    assert shares(mixing(cutmix=1.0)(images, labels, 7)[1]) == pytest.approx([60 / 64] * 2)


class Calls(TorchFunctionMode):
    """Writes down what is asked of torch."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


def test_nothing_is_copied_to_or_from_the_device():
    images, labels = batch()
    with Calls() as asked:
        for seed in SEEDS:
            mixing(mixup=0.8, cutmix=1.0, smoothing=0.1)(images, labels, seed)
    facts = {"__get__", "__len__", "is_floating_point"}
    views = {"__getitem__", "long"}  # `long` of int64
    assert asked.names == facts | views | {"full", "scatter_", "flip", "lerp", "clone", "__setitem__"}


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_sets_and_numbers_are_mixed_linearly(name):
    images, _ = batch(2)
    sets = torch.tensor([[1.0, 1, 0, 0, 1], [0, 1, 0, 1, 0]])
    numbers = torch.tensor([[2.5], [-1.0]])
    for seed in SEEDS:
        share = shares(mixing(**{name: 1.0})(images, torch.tensor([0, 1]), seed)[1])[0]
        got = mixing(label_kind="multilabel", **{name: 1.0})(images, sets, seed)[1]
        assert torch.allclose(got, share * sets + (1 - share) * sets.flip(0), atol=1e-6)
        for labels in (numbers, numbers[:, 0]):
            got = mixing(label_kind="regression", outputs=1, **{name: 1.0})(images, labels, seed)[1]
            assert torch.allclose(got, share * numbers + (1 - share) * numbers.flip(0), atol=1e-6)
    assert torch.equal(mixing(label_kind="multilabel")(images, sets, 0)[1], sets)
    whole = mixing(label_kind="regression", outputs=1)(images, torch.tensor([3, -2]), 0)[
        1
    ]  # whole numbers come as integers
    assert torch.equal(whole, torch.tensor([[3.0], [-2.0]]))


def test_smoothing_of_sets_goes_half_way_to_each_side():
    images, _ = batch(1)
    _, targets = mixing(label_kind="multilabel", smoothing=0.2)(images, torch.tensor([[1.0, 0, 0, 1, 0]]), 0)
    assert torch.allclose(targets, torch.tensor([[0.9, 0.1, 0.1, 0.9, 0.1]]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mixup": -1}, "objective.mixup=-1 is below 0; use 0 for none"),
        ({"cutmix": float("inf")}, "objective.cutmix=inf is not finite; use 0 for none"),
        ({"mixup": float("nan")}, "objective.mixup=nan is not finite"),
        ({"smoothing": 1.0}, r"objective.smoothing=1.0 is not in \[0, 1\); use 0.1"),
        ({"probability": 2}, "objective.probability=2 is not between 0 and 1"),
        ({"switch": -0.5}, "objective.switch=-0.5 is not between 0 and 1"),
        ({"label_kind": "words"}, "label_kind=words is unknown; use one of classes, multilabel, regression"),
        ({"label_kind": "regression", "smoothing": 0.1}, "objective.smoothing=0.1, but the labels are numbers; use"),
    ],
)
def test_wrong_settings_are_refused(changes, words):
    with pytest.raises(InputError, match=f"^{words}[^\n]*$"):
        mixing(**changes)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("classes", torch.zeros(4)),
        ("classes", torch.zeros(3, dtype=torch.int64)),
        ("classes", torch.zeros(4, K)),
        ("multilabel", torch.zeros(4, dtype=torch.int64)),
        ("multilabel", torch.zeros(4, K + 1)),
    ],
)
def test_labels_of_another_shape_are_refused(kind, labels):
    with pytest.raises(InputError, match=r"^labels of a batch are torch[^\n]* were expected[^\n]*$"):
        mixing(label_kind=kind)(batch()[0], labels, 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_the_loss_of_whole_classes_is_that_of_classification(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(33, K, generator=generator, dtype=dtype)
    labels = torch.randint(K, (33,), generator=generator)
    _, targets = mixing()(torch.zeros(33, 1, 2, 2), labels, 0)
    expected = classification_loss(logits, labels)
    assert torch.allclose(soft_loss(logits, targets, "classes"), expected, rtol=tolerance, atol=0)
    sets = (targets + targets.flip(0)).clamp(max=1)
    expected = classification_loss(logits, sets, "multi_label_classification")
    assert torch.equal(soft_loss(logits, sets, "multilabel"), expected)
    assert torch.equal(soft_loss(logits, sets, "regression"), classification_loss(logits, sets, "regression"))


def test_the_loss_of_soft_targets_and_weights_follows_its_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, K, generator=generator, dtype=torch.float64)
    targets = torch.rand(6, K, generator=generator).softmax(1)
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0])
    terms = -targets.double() * logits.log_softmax(1)
    assert torch.allclose(soft_loss(logits, targets, "classes"), terms.sum(1).mean())
    assert torch.allclose(soft_loss(logits, targets, "classes", weights), (weights * terms).sum(1).mean())
    t = targets.double()
    binary = -t * logits.sigmoid().log() - (1 - t) * (-logits).sigmoid().log()
    assert torch.allclose(soft_loss(logits, targets, "multilabel", weights), (weights * binary).mean())


def test_the_loss_is_computed_in_float32():
    logits = torch.tensor([[300.0, -2.0]], dtype=torch.bfloat16)
    loss = soft_loss(logits, torch.tensor([[0.5, 0.5]]), "classes")
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(151.0)


def test_losses_that_make_no_sense_are_refused():
    logits, targets = torch.zeros(2, K), torch.zeros(2, K)
    with pytest.raises(InputError, match=r"targets of shape \(2, 5\) do not fit logits of shape \(2, 3\)"):
        soft_loss(logits[:, :3], targets, "classes")
    with pytest.raises(InputError, match="labels are numbers; remove class_weights"):
        soft_loss(logits, targets, "regression", torch.ones(K))
    with pytest.raises(InputError, match="label_kind=words is unknown; use one of classes"):
        soft_loss(logits, targets, "words")
