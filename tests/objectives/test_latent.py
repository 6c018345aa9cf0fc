"""Latent targets: what the student sees, what the teacher is, how it moves, and what becomes of views and targets."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mimsuite.data.datamodule import eval_loader
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.masked.latent import combine_layers, latent_error, take_cells
from mimsuite.masked.multi_block import MultiBlockMask
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.patches import expand_mask
from mimsuite.masked.samplers import RandomMask
from mimsuite.metrics.quality import CONSTANT
from mimsuite.models import (
    BitConfig,
    BitForMaskedImageModeling,
    CvtConfig,
    CvtForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
)
from mimsuite.models.latent import copy_encoder, latent_pass
from mimsuite.objectives.groups import param_groups
from mimsuite.objectives.latent import LatentObjective
from mimsuite.objectives.teacher import Teacher, momentum_schedule
from mimsuite.runs.banner import report_resume
from mimsuite.types import Batch

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 40}
VIT = {**SIZES, "image_size": 32, "patch_size": 8, "encoder_stride": 8, "drop_path_rate": 0.2}
PREDICTOR = {
    **{"kind": "transformer", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 32, "features": 24, "layers": [3, 4], "combine": "mean", "pixels": False},
}
GRID = (4, 4)


def student(mask_mode="drop", **changes):
    torch.manual_seed(0)
    return ViTForMaskedImageModeling(ViTConfig(**VIT, mask_mode=mask_mode, mim_predictor=PREDICTOR | changes)).train()


def objective(model=None, trained=0, momentum=0.9, **changes):
    model = student() if model is None else model
    predictor = model.config.mim_predictor
    values = {
        **{"teacher": Teacher(copy_encoder(model), predictor["layers"], predictor["combine"])},
        **{"kept": momentum_schedule(momentum, 1.0, 10, "linear"), "loss": "smooth_l1"},
        **{"optimizer": lambda groups: torch.optim.AdamW(groups, lr=1e-3), "schedule": lambda _: 1.0, "clip": None},
        **{"groups": param_groups(model, weight_decay=0.05, decay_mask_token=False), "seed": 0},
        "description": {"config": {}},
    }
    made = LatentObjective(model, Normalize([0.5] * 3, [0.25] * 3), **(values | changes))
    made._trainer = SimpleNamespace(
        global_step=trained, accumulate_grad_batches=1, global_rank=0, loggers=[], precision_plugin=None
    )
    made.log_dict = lambda *_, **__: None  # needs a real trainer
    return made.train()


def images(count=4, side=32):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw)


def batch(count=4, views=1, ratio=0.5, side=32):
    draw = torch.Generator().manual_seed(2)
    mask = torch.stack([RandomMask(ratio)(GRID, draw) for _ in range(count * views)])
    return Batch(images(count, side), torch.arange(count), mask, None, [], hidden=int(mask[0].sum()))


def take_step(module, optimizer, given=None):
    """An optimizer step as Lightning takes it."""
    given = batch() if given is None else given

    def closure():
        module.on_train_batch_start(given, 0)
        loss = module.training_step(given, 0)
        loss.backward()
        module.configure_gradient_clipping(optimizer)
        closure.loss = float(loss.detach())

    optimizer.zero_grad()
    module.optimizer_step(0, 0, SimpleNamespace(step=lambda closure: (closure(), optimizer.step())), closure)
    return closure.loss


@pytest.mark.parametrize(("mode", "kind"), [("drop", "transformer"), ("drop", "conv"), ("replace", "transformer")])
def test_no_hidden_pixel_reaches_what_is_predicted(mode, kind):
    model, given = student(mode, kind=kind, pixels=True).eval(), batch()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    hidden = expand_mask(given.mask, (32, 32))[:, None]
    clean = latent_pass(model, pixels, given.mask, given.hidden)
    leaky = latent_pass(model, pixels.masked_fill(hidden, torch.nan), given.mask, given.hidden)
    for one, other in zip(
        (*clean.predicted[:2], clean.features.grid), (*leaky.predicted[:2], leaky.features.grid), strict=True
    ):
        assert torch.equal(one, other)
    counted = latent_pass(model, pixels, given.mask)  # without the number of hidden cells
    assert all(torch.equal(a, b) for a, b in zip(clean.predicted.where, counted.predicted.where, strict=True))
    torch.testing.assert_close(counted.predicted.features, clean.predicted.features)


def test_targets_are_normalised_layers():
    maps = [torch.randn(2, 6, 3, 3) * 5 + 7 for _ in range(3)]
    mean, stack = combine_layers(maps, "mean"), combine_layers(maps, "stack")
    assert mean.shape == (2, 6, 3, 3)
    assert stack.shape == (2, 18, 3, 3)
    layers = [nn.functional.instance_norm(x) for x in maps]
    expected = nn.functional.layer_norm(torch.stack(layers).mean(0).movedim(1, -1), (6,)).movedim(-1, 1)
    torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-5)
    for own, x in zip(stack.split(6, 1), maps, strict=True):
        torch.testing.assert_close(own, nn.functional.layer_norm(x.movedim(1, -1), (6,)).movedim(-1, 1))


def test_the_loss_is_that_of_the_hidden_cells():
    module, given = objective(), batch()
    module.model.eval()
    pixels = module.normalize(given.images)
    made = latent_pass(module.model, pixels, given.mask, given.hidden)
    target = module.teacher(given.images, pixels, GRID)
    assert target.dtype == torch.float32
    cells = target.permute(0, 2, 3, 1)[given.mask]
    torch.testing.assert_close(take_cells(target, made.predicted.where), cells, rtol=0, atol=0)
    expected = nn.functional.smooth_l1_loss(made.predicted.features, cells, beta=2.0)
    torch.testing.assert_close(module.training_step(given, 0), expected)
    assert float(latent_error(cells, cells + 1, "mse", 2.0)) == pytest.approx(1.0)


def test_views_share_one_pass_of_the_teacher():
    module, given, calls = objective(), batch(views=3), []
    module.model.eval()
    module.teacher.register_forward_hook(lambda *_: calls.append(1))
    loss = module.training_step(given, 0)
    assert len(calls) == 1
    each = [module.training_step(given._replace(mask=mask), 0) for mask in given.mask.split(4)]
    torch.testing.assert_close(loss, torch.stack(each).mean())


def test_each_target_is_predicted_by_itself():
    model, draw = student().eval(), torch.Generator().manual_seed(0)
    found = MultiBlockMask(targets=2)(GRID, draw)
    sizes = found.targets.flatten(1).sum(1)
    assert sizes[0] == sizes[1]
    pixels, size = torch.randn(1, 3, 32, 32), int(sizes[0])
    both = latent_pass(model, pixels, found.hidden[None], None, found.targets[None], size).predicted
    alone = latent_pass(model, pixels, found.hidden[None], None, found.targets[None, :1], size).predicted
    assert len(both.features) == 2 * size
    torch.testing.assert_close(both.features[:size], alone.features)
    rows = [list(zip(*map(torch.Tensor.tolist, p.where[1:]), strict=True)) for p in (both, alone)]
    assert rows[0][:size] == rows[1] == [tuple(cell) for cell in found.targets[0].nonzero().tolist()]


def test_the_teacher_moves_after_a_step_by_its_momentum():
    module = objective(trained=5)
    before = copy.deepcopy(module.teacher.module.state_dict())
    take_step(module, torch.optim.AdamW(module.groups, lr=1e-2))
    now, kept = module.model.vit.state_dict(), 0.9 + 0.1 * 5 / 9
    for name, value in module.teacher.module.state_dict().items():
        torch.testing.assert_close(value, before[name].lerp(now[name], 1 - kept), msg=name)
    assert not torch.equal(before["layernorm.weight"], module.teacher.module.state_dict()["layernorm.weight"])


def test_the_teacher_stays_where_a_step_is_skipped():
    module = objective()
    before = copy.deepcopy(module.teacher.module.state_dict())
    optimizer = torch.optim.AdamW(module.groups, lr=1e-2, fused=True)
    module.normalize.mean.fill_(torch.nan)
    take_step(module, optimizer)
    assert module.skipped
    assert all(torch.equal(value, before[name]) for name, value in module.teacher.module.state_dict().items())


def test_only_the_student_drops_paths_and_learns():
    module = objective()
    assert module.model.training
    assert not any(part.training for part in module.teacher.modules())
    assert not any(p.requires_grad for p in module.teacher.parameters())
    trained = {id(p) for group in module.groups for p in group["params"]}
    assert not trained & {id(p) for p in module.teacher.parameters()}
    module.training_step(batch(), 0).backward()
    silent = [name for name, p in module.model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent


def test_checkpoints_hold_a_teacher_that_learns():
    names = {name for name in objective().state_dict() if name.startswith("teacher.")}
    assert names == {f"teacher.module.{name}" for name in student().vit.state_dict()}


def test_files_bring_encoder_and_predictor_back(tmp_path):
    model = student(pixels=True)
    model.save_pretrained(tmp_path)
    found = ViTForMaskedImageModeling.from_pretrained(tmp_path)
    state = found.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])] == []


def test_a_warm_start_predicts_pixels_first_and_every_parameter_has_a_gradient():
    for trained, weight in ((0, 0.0), (5, 0.5), (5, 0.0)):
        module = objective(student(pixels=True), trained=trained, warm_steps=5, pixels=weight)
        module.model.eval()
        given = batch()
        loss = module.training_step(given, 0)
        loss.backward()
        assert all(p.grad is not None for p in module.model.parameters() if p.requires_grad)
        learns = {
            name: bool(getattr(module.model.decoder.outputs, name).weight.grad.any()) for name in ("features", "pixels")
        }
        assert learns == {"features": trained == 5, "pixels": trained == 0 or weight > 0}


@pytest.mark.parametrize("trained", [0, 5])
def test_what_is_not_compared_stays_out_of_the_loss_in_float16_too(trained):
    """A sum over all cells is beyond float16, and 0 times infinity is NaN."""
    module = objective(student(pixels=True), trained=trained, warm_steps=5)
    idle = module.model.decoder.outputs.pixels if trained else module.model.decoder.outputs.features
    nn.init.constant_(idle.bias, 1000.0)
    with torch.autocast("cpu", torch.float16):
        loss = module.training_step(batch(16), 0)
    assert loss.isfinite()


def test_a_run_that_goes_on_for_longer_says_what_follows_its_new_length(caplog):
    caplog.set_level("INFO", logger="mimsuite")
    budget = SimpleNamespace(steps=100, lr=1e-3)
    settings = SimpleNamespace(budget=budget, inputs=SimpleNamespace(steps_before=10))
    said = "steps=100, it was 10: from here on the learning rate, the teacher's momentum and the warm start on pixels "
    report_resume(settings, objective(student(pixels=True), warm_steps=25), 10)
    assert f"{said}(up to step 25) are those of a run of 100 steps" in caplog.text
    teacher = objective().teacher
    teacher.frozen = True
    report_resume(settings, objective(teacher=teacher), 10)
    assert "from here on the learning rate is that of a run of 100 steps" in caplog.text


def test_momentum_rises_to_its_end():
    linear, cosine = (momentum_schedule(0.99, 1.0, 101, shape) for shape in ("linear", "cosine"))
    assert (linear(0), linear(50), linear(100), linear(200)) == pytest.approx((0.99, 0.995, 1.0, 1.0))
    assert (cosine(0), cosine(50), cosine(100)) == pytest.approx((0.99, 0.995, 1.0))
    assert cosine(10) < linear(10)


CVT = CvtConfig(embed_dim=[8, 12, 24], num_heads=[1, 2, 3], depth=[1, 1, 2], mlp_ratio=[2, 2, 2])
BIT = BitConfig(
    **{"embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 2]}, num_groups=4, output_stride=16
)


CONVOLUTIONS = {
    f"{name}{', sparse' if mode == 'sparse' else ''}": (cls, config, mode)
    for name, cls, config in (("CvT", CvtForMaskedImageModeling, CVT), ("BiT", BitForMaskedImageModeling, BIT))
    for mode in ("replace", "sparse")
}


def convolutional(name, **changes):
    """A student that predicts its last stage's blocks."""
    torch.manual_seed(0)
    cls, config, mode = CONVOLUTIONS[name]
    predictor = PREDICTOR | {"kind": "conv", "features": config.num_features, "layers": config.latent_blocks} | changes
    changed = config.changed(mim_predictor=predictor, encoder_stride=config.stride[0], mask_mode=mode)
    return cls(changed).train()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_predict_their_last_blocks_and_leak_nothing(name):
    model = convolutional(name)
    layers = model.config.latent_blocks
    module = objective(model)
    model.eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    mask = torch.stack([RandomMask(0.5)(GRID, torch.Generator().manual_seed(seed)) for seed in range(2)])
    hidden = expand_mask(mask, (64, 64))[:, None]
    clean = latent_pass(model, pixels, mask, 8)
    leaky = latent_pass(model, pixels.masked_fill(hidden, torch.nan), mask, 8)
    assert torch.equal(clean.predicted.features, leaky.predicted.features)
    maps = module.teacher.module.forward_blocks(pixels, layers)
    assert torch.equal(maps[-1], model.encoder.forward_features(pixels).grid)
    assert len(maps) == 2
    target = module.teacher(None, pixels, tuple(maps[-1].shape[-2:]))
    torch.testing.assert_close(target, combine_layers(maps, "mean"))
    given = Batch(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.arange(2), mask, None, [], hidden=8)
    model.train()
    module.training_step(given, 0).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with pytest.raises(InputError, match="blocks"):
        module.teacher.module.forward_blocks(pixels, [1])


def two_targets(count):
    """A batch with two targets in what each mask hides."""
    draw = torch.Generator().manual_seed(4)
    grids = [torch.randperm(16, generator=draw).view(GRID) for _ in range(count)]
    targets = torch.stack([torch.stack([grid < 4, (grid >= 2) & (grid < 6)]) for grid in grids])
    mask = torch.stack([grid < 8 for grid in grids])
    return Batch(images(count), torch.arange(count), mask, None, [], hidden=8, targets=targets, target_units=4)


FORMS = {
    "ViT, mean": lambda: (student(), batch()),
    "ViT, stack, two views": lambda: (student(combine="stack", features=48), batch(views=2)),
    "ViT, two targets": lambda: (student(), two_targets(4)),
    "ViT, replace, convolutions, pixels": lambda: (student("replace", kind="conv", pixels=True), batch()),
    **{name: lambda name=name: (convolutional(name), batch(side=64)) for name in CONVOLUTIONS},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_learned_by_heart(form):
    model, given = FORMS[form]()
    module = objective(model, momentum=1.0, pixels=0.1)
    module.model.eval()  # without drop path
    optimizer = torch.optim.AdamW(module.groups, lr=1e-2)
    losses = [take_step(module, optimizer, given) for _ in range(60 if form.startswith("ViT") else 40)]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(("momentum", "lr", "collapses"), [(0.0, 0.08, True), (0.99, 0.06, False)])
def test_a_teacher_that_is_the_student_collapses_and_a_slow_one_does_not(momentum, lr, collapses, caplog):
    module = objective(student(combine="stack", layers=[4]), kept=lambda _: momentum)
    module._trainer.strategy = SimpleNamespace(reduce=lambda values, reduce_op: values)
    optimizer, emoji = torch.optim.AdamW(module.groups, lr=lr), open_data(None)
    loader = eval_loader(emoji, emoji.select("train"), image_size=(32, 32), batch=16, workers=0, labels=False)
    draw = torch.Generator().manual_seed(0)
    for step, given in zip(range(44), loader, strict=False):
        mask = torch.stack([RandomMask(0.75)(GRID, draw) for _ in given.images])
        take_step(module, optimizer, given._replace(mask=mask, hidden=12))
        if step % 4 == 3:
            found = module.training_metrics()
    assert (found["quality/teacher_deviation"] < CONSTANT) is collapses
    assert (found["quality/teacher_cosine"] > 0.9) is collapses
    assert ("the training collapses: use a lower lr, a higher objective.momentum" in caplog.text) is collapses


def test_few_images_and_a_student_whose_features_are_alike_raise_no_alarm(caplog):
    module = objective(momentum=1.0)
    module._trainer.strategy = SimpleNamespace(reduce=lambda values, reduce_op: values)
    seen = []
    for step in range(12):
        given = Batch(images(12)[step : step + 1], torch.arange(1), batch(1).mask, None, [], hidden=8)
        module.training_step(given, 0)
        module.quality.add(torch.ones(4, 8))
        seen.append(module.training_metrics())
    assert all(found["quality/cosine"] == pytest.approx(1) for found in seen)
    known = [found["quality/teacher_deviation"] for found in seen if "quality/teacher_deviation" in found]
    assert len(known) == 6, "of two images at least"
    assert min(known) > CONSTANT
    assert "collapses" not in caplog.text
