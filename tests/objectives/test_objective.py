"""What every objective offers: averaged weights, room for a second network, and what callbacks ask for."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mimsuite.errors import InputError
from mimsuite.masked.normalization import Normalize
from mimsuite.models import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling
from mimsuite.objectives.averaging import AveragedWeights
from mimsuite.objectives.classify import ClassifyObjective
from mimsuite.objectives.groups import param_groups
from mimsuite.objectives.mim import MIMObjective
from mimsuite.types import Batch, Encoder

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = ViTConfig(**SIZES, image_size=16, patch_size=8, encoder_stride=8, num_labels=3)


class WithTeacher(MIMObjective):
    """A user's objective of two networks: one is trained, and so is a projector; the teacher follows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.projector, self.teacher = nn.Linear(2, 2), nn.Linear(2, 2)


def masked(cls=MIMObjective, groups=None, **changes):
    torch.manual_seed(0)
    model = ViTForMaskedImageModeling(VIT)
    values = {
        **{"loss": "l1", "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1), "schedule": lambda _: 1.0},
        **{"groups": groups or param_groups(model, weight_decay=0.1, decay_mask_token=False)},
        **{"clip": None, "seed": 0, "description": {"config": {}}},
    }
    made = cls(model, Normalize([0.5] * 3, [0.25] * 3), **(values | changes))
    made._trainer = SimpleNamespace(
        global_step=0, accumulate_grad_batches=1, global_rank=0, loggers=[], precision_plugin=None
    )
    made.log_dict = lambda *_, **__: None  # needs a real trainer
    return made


def batch(count=4):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=draw)
    mask = torch.tensor([[True, False], [False, True]]).expand(count, 2, 2)
    return Batch(images=images, ids=torch.arange(count), mask=mask, labels=None, bad=[], hidden=2)


def take_step(module, optimizer):
    """An optimizer step as Lightning takes it: gradients, clipping, update."""

    def closure():
        module.training_step(batch(), 0).backward()
        module.configure_gradient_clipping(optimizer)

    module.optimizer_step(0, 0, SimpleNamespace(step=lambda closure: (closure(), optimizer.step())), closure)


def test_weights_of_masked_models_are_averaged_on_request():
    module = masked(ema=0.9)
    start = copy.deepcopy(module.model.state_dict())
    take_step(module, torch.optim.SGD(module.groups, lr=0.5))
    take_step(module, torch.optim.SGD(module.groups, lr=0.5))
    mean, now = module.averaged.module.state_dict(), module.model.state_dict()
    name = next(key for key in now if not torch.equal(now[key], start[key]))
    assert not torch.equal(mean[name], now[name])
    assert not torch.equal(mean[name], start[name])
    module.eval()
    module.validation_step(batch(), 0)
    module.on_validation_epoch_end()
    found = module.last_metrics["val/loss"]
    losses = [
        float(model.masked_loss(module.normalize(batch().images), batch().mask, 2).detach())
        for model in (module.averaged.module, module.model)
    ]
    assert found == pytest.approx(losses[0], rel=1e-5)
    assert abs(losses[0] - losses[1]) > 1e-4


def test_without_ema_the_model_itself_is_evaluated_and_checkpoints_hold_it_alone():
    module = masked()
    assert module.averaged is None
    assert module.evaluated_model is module.model
    assert {name.partition(".")[0] for name in module.state_dict()} == {"model"}


def test_names_in_checkpoints_are_those_of_0_1_0():
    module = masked(ema=0.9)
    names = set(module.state_dict())
    model = {f"model.{name}" for name in module.model.state_dict()}
    mean = {f"averaged.module.{name}" for name in module.model.state_dict()}
    assert names == model | mean | {"averaged.n_averaged"}


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(InputError, match=r"objective.ema=.* is not in \[0, 1\)"):
        AveragedWeights(nn.Linear(1, 1), decay)


def test_the_parameters_that_are_clipped_are_those_of_the_optimizer():
    """A second network may be trained beside the model, and another may not."""
    module = masked(WithTeacher, clip=1.0)
    groups = [*module.groups, {"params": list(module.projector.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    trained = [p for group in groups for p in group["params"]]
    module.configure_gradient_clipping(optimizer)
    assert float(module.grad_norm) == pytest.approx(sum(p.numel() for p in trained) ** 0.5)
    assert float(module.projector.weight.grad[0, 0]) == pytest.approx(1 / float(module.grad_norm))
    assert all(p.grad.eq(1).all() for p in module.teacher.parameters())
    module.projector.bias.grad[0] = torch.nan
    module.configure_gradient_clipping(optimizer)
    assert module.skipped
    assert all(p.grad is None for p in trained)  # SGD in its first step takes no flag


def test_the_norm_before_clipping_does_not_depend_on_the_order_of_groups():
    """It is summed in the order of `parameters()`, as in 0.1.0, so that a run goes on to the bit."""
    module, norms = masked(), []
    draw = torch.Generator().manual_seed(1)
    gradients = [torch.randn(p.shape, generator=draw) for p in module.parameters()]
    for groups in (module.groups, module.groups[::-1]):
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone() if parameter.requires_grad else None
        module.configure_gradient_clipping(torch.optim.SGD([dict(group) for group in groups], lr=0.1))
        norms.append(module.grad_norm)
    plain = torch.nn.utils.clip_grad_norm_(module.model.parameters(), float("inf"))
    assert torch.equal(norms[0], norms[1])
    assert torch.equal(norms[0], plain)


def test_checkpoints_hold_a_second_network():
    names = set(masked(WithTeacher).state_dict())
    assert {"teacher.weight", "projector.bias"} <= names


@pytest.mark.parametrize("ema", [None, 0.9])
def test_callbacks_ask_for_an_encoder_and_a_picture(ema):
    module = masked(ema=ema).eval()
    assert isinstance(module.encoder, Encoder)
    assert module.encoder is module.evaluated_model.encoder
    found = module.picture(batch(2))
    assert found.prediction.shape == (2, 3, 16, 16)
    assert found.target.name == "pixels"
    assert (found.cell, found.loss_name) == ((8, 8), "l1")
    assert module.selection_metric is None


def test_an_objective_without_pictures_says_so():
    common = {"optimizer": None, "groups": [], "schedule": None, "clip": None, "seed": 0, "description": {}}
    own = {"label_kind": "regression", "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "class_weights": None}
    module = ClassifyObjective(ViTForImageClassification(VIT), Normalize([0.5] * 3, [0.25] * 3), **own, **common)
    assert module.picture(batch()) is None
    assert module.selection_metric == "val/r2"
    assert isinstance(module.encoder, Encoder)
