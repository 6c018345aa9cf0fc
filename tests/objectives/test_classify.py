"""The supervised objective: seeds, averaged weights, frozen statistics, and what validation counts."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mimsuite.masked.normalization import Normalize
from mimsuite.models import CvtConfig, CvtForImageClassification, ViTConfig, ViTForImageClassification
from mimsuite.objectives.averaging import AveragedWeights
from mimsuite.objectives.classify import ClassifyObjective
from mimsuite.types import Batch

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=3, drop_path_rate=0.5)
CVT = CvtConfig(
    patch_sizes=[3], patch_stride=[4], patch_padding=[1], embed_dim=[16], num_heads=[2], depth=[2], mlp_ratio=[2.0],
    attention_drop_rate=[0.0], drop_rate=[0.0], drop_path_rate=[0.0], qkv_bias=[True], cls_token=[True],
    qkv_projection_method=["dw_bn"], kernel_qkv=[3], padding_kv=[1], stride_kv=[2], padding_q=[1], stride_q=[1],
    num_labels=3,
)  # fmt: skip


def objective(model=None, **changes):
    torch.manual_seed(0)
    model = model or ViTForImageClassification(VIT)
    values = {
        **{"label_kind": "classes", "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "class_weights": None, "ema": None},
        **{"optimizer": None, "groups": [], "schedule": None, "clip": None, "seed": 0, "description": {}},
    }
    made = ClassifyObjective(model, Normalize([0.5] * 3, [0.25] * 3), **(values | changes))
    made._trainer = SimpleNamespace(
        global_step=0, accumulate_grad_batches=2, global_rank=0, loggers=[], lr_scheduler_configs=[]
    )
    made.log_dict = lambda *_, **__: None  # needs a real trainer
    return made


def batch(count=6):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=draw)
    labels = torch.arange(count) % 3
    return Batch(images=images, ids=torch.arange(count), mask=None, labels=labels, bad=[], hidden=None, keys=None)


def loss_of(module, index=0, step=0, rank=0):
    module.train()
    module._trainer.global_step, module._trainer.global_rank = step, rank
    module.on_train_batch_start(batch(), index)
    return module.training_step(batch(), index)


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.8, "cutmix": 1.0}], ids=["drop path", "mixing"])
def test_a_step_is_drawn_from_seed_step_micro_batch_and_rank_alone(changes):
    module = objective(**changes)
    first = loss_of(module)
    torch.rand(7)
    assert torch.equal(first, loss_of(module))
    others = [loss_of(module, index=1), loss_of(module, step=1), loss_of(module, rank=1)]
    others.append(loss_of(objective(seed=1, **changes)))
    assert len({float(loss.detach()) for loss in (first, *others)}) == 5
    assert torch.equal(first, loss_of(module, index=2))  # micro-batch 0 again: of two in a step


def test_class_weights_and_smoothing_act_on_training_and_not_on_validation():
    plain = objective()
    weighted = objective(class_weights=[1.0, 2.0, 5.0], smoothing=0.2)
    plain.eval()
    weighted.eval()
    logits = plain.model(plain.normalize(batch().images)).logits.detach()
    hot = F.one_hot(batch().labels, 3) * 0.8 + 0.2 / 3
    wanted = F.cross_entropy(logits, hot, torch.tensor([1.0, 2.0, 5.0]))
    torch.testing.assert_close(weighted.training_step(batch(), 0), wanted)
    for module in (plain, weighted):
        module.validation_step(batch(), 0)
        module.on_validation_epoch_end()
        assert module.last_metrics["val/loss"] == pytest.approx(float(F.cross_entropy(logits, batch().labels)))
        assert list(module.last_metrics) == ["val/loss", "val/top1"]


def test_a_validation_loss_is_the_mean_over_images_not_batches():
    module = objective().eval()
    whole = batch(6)
    for part in (slice(0, 5), slice(5, 6)):
        module.validation_step(whole._replace(images=whole.images[part], labels=whole.labels[part]), 0)
    module.on_validation_epoch_end()
    logits = module.model(module.normalize(whole.images)).logits.detach()
    assert module.last_metrics["val/loss"] == pytest.approx(float(F.cross_entropy(logits, whole.labels)))


def test_averaged_weights_follow_the_decay_that_grows():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    mean = AveragedWeights(model, decay=0.5)
    wanted = None
    for n in range(12):
        with torch.no_grad():
            model.weight.normal_()
        mean.update(model, torch.tensor(False))
        kept = min(0.5, (1 + n) / (10 + n))
        wanted = model.weight.clone() if wanted is None else kept * wanted + (1 - kept) * model.weight
        torch.testing.assert_close(mean.module.weight, wanted)
    assert not any(p.requires_grad for p in mean.parameters())


def take_step(module, skipped=False):
    """An optimizer step that finds these gradients."""

    def closure():
        norm = torch.tensor(float("nan") if skipped else 1.0)
        module._guarded().decide(norm, torch.optim.SGD(module.parameters(), lr=0.1))

    module.optimizer_step(0, 0, SimpleNamespace(step=lambda closure: closure()), closure)


def test_the_averaged_model_is_evaluated_and_moves_after_steps_that_were_not_skipped():
    module = objective(ema=0.9)
    start = copy.deepcopy(module.evaluated_model.state_dict())
    assert module.evaluated_model is not module.model
    with torch.no_grad():
        module.model.classifier.weight.add_(1)

    def moved():
        return not torch.equal(start["classifier.weight"], module.evaluated_model.classifier.weight)

    take_step(module, skipped=True)
    assert not moved()
    take_step(module)
    assert moved()
    module.eval()
    module.validation_step(batch(), 0)
    module.on_validation_epoch_end()
    logits = module.evaluated_model(module.normalize(batch().images)).logits.detach()
    assert module.last_metrics["val/loss"] == pytest.approx(float(F.cross_entropy(logits, batch().labels)))


def test_running_statistics_are_averaged_as_they_are():
    module = objective(CvtForImageClassification(CVT), ema=0.9)
    loss_of(module)
    take_step(module)
    for name, buffer in module.model.named_buffers():
        assert torch.equal(dict(module.evaluated_model.named_buffers())[name], buffer), name


def test_frozen_batchnorms_keep_their_statistics_and_others_do_not():
    model = CvtForImageClassification(CVT)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    frozen = {n for n in norms if ".layers.0." in n}
    assert frozen
    assert set(norms) - frozen
    for name in frozen:
        norms[name].requires_grad_(False)
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}
    module = objective(model)
    module.on_train_start()  # before it Lightning's fit changes no mode, and after validation it brings them back
    module.training_step(batch(), 0)
    assert {name for name, norm in norms.items() if torch.equal(norm.running_mean, before[name])} == frozen
