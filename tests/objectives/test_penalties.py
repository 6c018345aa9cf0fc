"""Penalties on features that are alike: the value, several processes, several micro-batches, and the warning."""

import logging
import os

import pytest
import torch
from processes import FORKED
from test_objective import batch, masked

from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.masked.quality import mean_cosine, uniformity
from mimsuite.metrics.quality import PATIENCE, FeatureQuality
from mimsuite.objectives.flops import training_flops
from mimsuite.objectives.penalties import FeaturePenalties


def features():
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient_of_one(place, count, where, answers):
    """The gradient of a process's part of a batch, as DDP averages it over the processes."""
    if count > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.distributed.init_process_group("gloo", init_method=f"file://{where}", rank=place, world_size=count)
    weight = torch.ones(5, dtype=torch.float64, requires_grad=True)
    part = features().chunk(count)[place]
    loss = FeaturePenalties(0.3, 0.2).added((part * weight).sum(1).mean() * 0, part * weight, seed=3)
    loss.backward()
    found = weight.grad / count
    if count > 1:
        torch.distributed.all_reduce(found)
        torch.distributed.destroy_process_group()
    if place == 0:
        answers.put((float(loss), found.tolist()))


def run(count, where):
    answers = FORKED.Queue()
    started = [FORKED.Process(target=gradient_of_one, args=(n, count, where, answers)) for n in range(count)]
    for process in started:
        process.start()
    found = answers.get(timeout=100)
    for process in started:
        process.join(30)
    return found


def test_two_processes_have_the_gradient_of_one(tmp_path):
    (loss, gradient), (loss_of_two, of_two) = run(1, ""), run(2, tmp_path / "meet")
    assert loss_of_two == pytest.approx(loss, rel=1e-9)
    assert of_two == pytest.approx(gradient, rel=1e-9)


def test_the_penalty_is_added_to_the_masked_loss():
    plain, penalised = (masked(uniformity=weight) for weight in (0, 0.5))
    seen = {}
    penalised.quality.add = lambda h: seen.update(h=h.detach())
    loss = plain.training_step(batch(), 0).detach()
    assert torch.equal(plain.model.masked_loss(plain.normalize(batch().images), batch().mask, 2, "l1"), loss)
    difference = penalised.training_step(batch(), 0).detach() - loss
    assert float(difference) == pytest.approx(0.5 * float(uniformity(seen["h"])), rel=1e-4)
    assert masked(sigreg=0.1).training_step(batch(), 0).detach() > loss


def test_mixed_precision_rounds_no_product_of_features():
    h, penalties = features().float(), FeaturePenalties(0.3, 0.2)
    alone = penalties.added(torch.zeros(()), h, seed=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(penalties.added(torch.zeros(()), h, seed=3), alone)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"batch": 1, "objective.sigreg": 0.1}, "objective.sigreg=0.1 compares the images of a batch, and batch=1 has"),
        ({"micro_batch": 2, "objective.uniformity": 0.1}, "comes in 2 micro-batches; use micro_batch=BATCH/DEVICES"),
    ],
)
def test_batches_in_which_images_cannot_be_compared_are_refused_before_a_folder_is_made(keys, words, tmp_path):
    given = {"out": str(tmp_path / "out"), "model": "vit_nano", "image_size": 32, "steps": 2, "batch": 4, "workers": 0}
    with pytest.raises(InputError, match=words):
        api.call("pretrain", given | keys)
    assert not (tmp_path / "out").exists()


def test_the_flops_of_a_penalty_are_counted():
    plain, penalised = (training_flops(masked(**keys), [batch()]) for keys in ({}, {"uniformity": 0.1, "sigreg": 0.1}))
    assert penalised > plain


def test_a_batch_in_parts_is_refused():
    FeaturePenalties(0, 0).check(4)
    FeaturePenalties(0.1, 0).check(1)
    with pytest.raises(
        InputError, match=r"objective.sigreg=0.1 compares all images of a batch, which comes in 4 micro"
    ):
        FeaturePenalties(0, 0.1).check(4)


def test_features_that_stay_alike_are_warned_of_once(caplog):
    module = masked()
    module._trainer.strategy = type("One", (), {"reduce": staticmethod(lambda values, reduce_op: values)})
    alike, apart = torch.ones(4, 8) + torch.eye(4, 8) * 1e-3, torch.eye(4, 8)

    def report(features, times):
        for _ in range(times):
            module.quality.add(features)
            found = module.training_metrics()
        return found, [record for record in caplog.records if "collapses" in record.getMessage()]

    with caplog.at_level(logging.WARNING, logger="mimsuite"):
        assert not report(alike, PATIENCE - 1)[1]
        assert not report(apart, 1)[1], "once apart, the count starts again"
        assert not report(alike, PATIENCE - 1)[1]
        found, warned = report(alike, 20)
    assert len(warned) == 1
    assert found["quality/cosine"] > 0.99
    assert found["quality/deviation"] < 0.1


def test_a_fresh_encoder_to_which_all_is_alike_is_not_warned_of_before_the_warm_up_is_over(caplog):
    module = masked()
    module._trainer.strategy = type("One", (), {"reduce": staticmethod(lambda values, reduce_op: values)})
    module.schedule = lambda step: min(1.0, step / 10)
    for step, warned in ((9, 0), (10, 1)):
        module._trainer.global_step = step
        for _ in range(2 * PATIENCE):
            module.quality.add(torch.ones(4, 8))
            module.training_metrics()
        assert sum("collapses" in record.getMessage() for record in caplog.records) == warned


def test_batches_that_nobody_asks_about_are_not_kept():
    quality = FeatureQuality()
    for number in range(3):
        quality.add(torch.eye(4) + number)
    assert sum(isinstance(value, torch.Tensor) for value in vars(quality).values()) == 1
    assert not any(isinstance(value, list) for value in vars(quality).values())
    found = quality.read(lambda values: values)["quality/cosine"]
    assert found == pytest.approx(float(mean_cosine(torch.eye(4) + 2)), rel=1e-6), "that of the last micro-batch"
    assert quality.read(lambda values: values) == {}


def test_single_images_and_counted_flops_say_nothing():
    quality = FeatureQuality()
    quality.add(torch.ones(1, 4))
    quality.add(torch.ones(4, 4, device="meta"))
    assert quality.read(lambda values: values) == {}
