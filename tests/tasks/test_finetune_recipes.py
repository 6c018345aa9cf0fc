"""The experiments of `mimsuite finetune`: each is decided and built, and holds the published numbers."""

import functools
import re
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

from mimsuite.config.folder import conf_dir
from mimsuite.config.instantiate import instantiate
from mimsuite.data.index import DataIndex
from mimsuite.errors import InputError
from mimsuite.models.load import make_classifier, make_normalizer
from mimsuite.objectives.mixing import Mixing
from mimsuite.runs.objects import classify_objective
from mimsuite.settings import finetune, training
from mimsuite.settings.labels import TrainingLabels
from mimsuite.words import FINETUNE_RECIPES

IMAGENET, IMAGENET_21K = 1_281_167, 14_197_122
HALF = (0.5, 0.5, 0.5)
EXPERIMENTS = sorted(
    path.stem for path in (conf_dir() / "experiment").glob("*.yaml") if path.stem.startswith(FINETUNE_RECIPES)
)
# Of ImageNet-1k (scratch_vit_large: 21k): steps, batch, peak learning rate, steps of warm-up, learning rate at the
# first and the last step, weight decay, layer decay, gradient clip.
PACE = {
    "finetune_mae_vit_base": (100 * 1251, 1024, 2e-3, 5 * 1251, (0, 1e-6), 0.05, 0.65, None),
    "finetune_mae_vit_large": (50 * 1251, 1024, 4e-3, 5 * 1251, (0, 1e-6), 0.05, 0.75, None),
    "finetune_simmim_vit_base": (100 * 625, 2048, 5e-3, 20 * 625, (1e-6, 1e-6), 0.05, 0.65, 5.0),
    "finetune_vit": (20_000, 512, 0.03, 500, (0, 0), 0, 1, 1.0),
    "finetune_bit_hyperrule": (20_000, 512, 0.003, 500, (0, 3e-6), 0, 1, None),
    "scratch": (300 * 1251, 1024, 1e-3, 5 * 1251, (1e-6, 1e-5), 0.05, 1, None),
    "scratch_cvt_13": (310 * 625, 2048, 2e-3, 5 * 625, (1e-6, 1e-5), 0.05, 1, None),
    "scratch_vit_large": (90 * 3466, 4096, 1e-3, 10_001, (0, 1e-5), 0.03, 1, 1.0),
}
# Image size, smallest crop, interpolation, mixup, CutMix, smoothing, erasing, whether RandAugment.
PICTURES = {
    "finetune_mae_vit_base": (224, 0.08, "bicubic", 0.8, 1.0, 0.1, 0.25, True),
    "finetune_mae_vit_large": (224, 0.08, "bicubic", 0.8, 1.0, 0.1, 0.25, True),
    "finetune_simmim_vit_base": (224, 0.08, "bicubic", 0.8, 1.0, 0.1, 0.25, True),
    "finetune_vit": (384, 0.05, "bilinear", 0, 0, 0, 0, False),
    "finetune_bit_hyperrule": (480, None, "bilinear", 0.1, 0, 0, 0, False),
    "scratch": (224, 0.08, "bicubic", 0.8, 1.0, 0.1, 0.25, True),
    "scratch_cvt_13": (224, 0.08, "bicubic", 0.8, 1.0, 0.1, 0.25, True),
    "scratch_vit_large": (224, 0.05, "bilinear", 0, 0, 0, 0, False),
}
# The model's class, drop path, what the classifier sees, deviation of its fresh weights.
MODELS = {
    "finetune_mae_vit_base": ("vit", 0.1, "mean", 2e-5),
    "finetune_mae_vit_large": ("vit", 0.2, "mean", 2e-5),
    "finetune_simmim_vit_base": ("vit", 0.1, "mean", 2e-5),
    "finetune_vit": ("vit", 0.0, "cls", 0),
    "finetune_bit_hyperrule": ("bit", 0.0, "auto", 0),
    "scratch": ("vit", 0.1, "auto", 0.02),
    "scratch_cvt_13": ("cvt", [0.0, 0.0, 0.1], "auto", 0.02),
    "scratch_vit_large": ("vit", 0.0, "auto", 0.02),
}


@pytest.fixture(scope="module")
def decided():
    """A function: the settings that `finetune` reads for an experiment, for as many images with 1,000 classes."""
    patch = pytest.MonkeyPatch()

    @functools.cache
    def decide(name, *overrides, images=None, size=(400, 400)):
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            cfg = compose("finetune", overrides=["out=x", f"experiment={name}", "optim.fused=false", *overrides])
        count = images or (IMAGENET_21K if name == "scratch_vit_large" else IMAGENET)
        index = DataIndex("nowhere", {}, None, 3, "uint8", HALF, HALF, size, has_labels=True)
        facts = SimpleNamespace(kind="classes", outputs=1000, names=None)
        labelled = TrainingLabels(facts, range(count), range(100), "val", None, (), ())
        patch.setattr(training, "open_data", lambda data, alpha: index)
        patch.setattr(finetune, "read_training_labels", lambda cfg, index: labelled)
        return finetune.read_finetune(cfg, [])

    yield decide
    patch.undo()


@pytest.fixture(scope="module")
def made(decided):
    """A function: the Lightning module of an experiment, without memory for its weights."""

    @functools.cache
    def make(name):
        job = decided(name)
        with torch.device("meta"):
            model = make_classifier(job.model, None, std=job.head_std, frozen=job.frozen_depth)
        return classify_objective(job, model, make_normalizer(job.inputs.index, None))

    return make


def schedule_of(job):
    return instantiate(job.groups.schedule, (), steps=job.budget.steps, warmup=job.budget.warmup)


def transform_of(job):
    return instantiate(job.groups.augment, (), size=list(job.geometry.image_size), mean=HALF, std=HALF)


def scales(objective, *parts):
    """The factors on the learning rate of all parameters whose names hold one of `parts`."""
    named = ((name, group["lr_scale"]) for group in objective.groups for name in group["names"])
    return {scale for name, scale in named if any(part in name for part in parts)}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_opens_with_its_command(name):
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    assert re.search(rf"^#   mimsuite finetune .*experiment={name}\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", PACE)
def test_a_published_recipe_says_what_was_published_and_that_we_did_not_run_it(name):
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    assert re.search(r"^# (Paper|Published)\b.*\d+\.\d % top-1.*Not run by us", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_builds(name, decided, made):
    job, objective = decided(name), made(name)
    held = {id(p) for group in objective.groups for p in group["params"]}
    assert held == {id(p) for p in objective.model.parameters() if p.requires_grad}
    assert isinstance(objective.mixing, Mixing)
    image = torch.randint(256, (500, 500, 3), dtype=torch.uint8).numpy()
    transform, generator = transform_of(job), torch.Generator().manual_seed(0)
    box = transform.box(500, 500, generator)
    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    assert transform(part, generator).shape == (3, *job.geometry.image_size)


@pytest.mark.parametrize("name", PACE)
def test_a_published_recipe_has_the_published_length_and_rates(name, decided):
    steps, batch, lr, warmup, (first, last), decay, layers, clip = PACE[name]
    job = decided(name)
    schedule = schedule_of(job)
    assert (job.budget.steps, job.budget.batch, job.budget.warmup) == (steps, batch, warmup)
    assert job.budget.lr == pytest.approx(lr)
    assert schedule(job.budget.warmup) == pytest.approx(1)
    assert lr * schedule(0) == pytest.approx(first, abs=1e-12)
    assert lr * schedule(steps - 1) == pytest.approx(last, abs=1e-12)
    assert job.budget.weight_decay == decay
    assert (job.layer_decay, job.inputs.clip) == (layers, clip)


@pytest.mark.parametrize("name", PICTURES)
def test_a_published_recipe_changes_pictures_as_published(name, decided):
    size, crop, interpolation, mixup, cutmix, smoothing, erasing, randomly = PICTURES[name]
    job = decided(name)
    augment, objective = job.groups.augment, job.groups.objective
    assert job.geometry.image_size == (size, size)
    assert (augment.share is None) == (crop is not None)
    assert crop is None or list(augment.scale) == [crop, 1.0]
    assert (augment.interpolation, augment.flip, augment.erasing) == (interpolation, 0.5, erasing)
    assert (augment.rand_augment == {}) == randomly
    assert (objective.mixup, objective.cutmix, objective.smoothing) == (mixup, cutmix, smoothing)


@pytest.mark.parametrize("name", MODELS)
def test_a_published_recipe_has_its_model_and_head(name, decided):
    job = decided(name)
    config = job.model
    assert (config.model_type, config.drop_path_rate, config.classifier_pool, job.head_std) == MODELS[name]


def test_every_experiment_but_our_own_is_compared_with_what_was_published():
    assert set(EXPERIMENTS) - {"finetune_small"} == PACE.keys() == PICTURES.keys() == MODELS.keys()


@pytest.mark.parametrize("name", ["finetune_mae_vit_base", "finetune_simmim_vit_base"])
def test_layers_of_a_vit_base_learn_at_powers_of_065(name, made):
    objective = made(name)
    assert list(scales(objective, "vit.embeddings.")) == [pytest.approx(0.65**13)]
    assert list(scales(objective, "vit.encoder.layer.0.")) == [pytest.approx(0.65**12)]
    assert list(scales(objective, "vit.encoder.layer.11.")) == [pytest.approx(0.65)]
    assert scales(objective, "classifier.", "vit.layernorm.") == {1}
    peaks = [group["lr"] / group["lr_scale"] for group in objective.groups]
    assert peaks == pytest.approx([PACE[name][2]] * len(peaks))


def test_layers_of_a_vit_large_learn_at_powers_of_075(made):
    objective = made("finetune_mae_vit_large")
    assert list(scales(objective, "vit.embeddings.")) == [pytest.approx(0.75**25)]
    assert list(scales(objective, "vit.encoder.layer.23.")) == [pytest.approx(0.75)]


@pytest.mark.parametrize("name", ["finetune_vit", "finetune_bit_hyperrule", "scratch", "scratch_cvt_13"])
def test_without_layer_decay_all_layers_learn_alike(name, made):
    assert {group["lr_scale"] for group in made(name).groups} == {1}


@pytest.mark.parametrize("name", ["finetune_mae_vit_base", "finetune_simmim_vit_base", "scratch", "scratch_cvt_13"])
def test_norms_biases_and_class_token_are_not_decayed(name, made):
    objective = made(name)
    decayed = {name for group in objective.groups if group["weight_decay"] == 0.05 for name in group["names"]}
    spared = {name for group in objective.groups if group["weight_decay"] == 0 for name in group["names"]}
    assert {name for name, p in objective.model.named_parameters() if p.ndim < 2} <= spared
    assert any(name.endswith("cls_token") for name in spared)
    assert "classifier.weight" in decayed
    assert not decayed & spared


@pytest.mark.parametrize("name", ["finetune_vit", "finetune_bit_hyperrule"])
def test_vit_and_bit_are_fine_tuned_by_plain_momentum(name, made):
    optimizer = made(name).make_optimizer([{"params": [torch.zeros(2, requires_grad=True)]}])
    assert (type(optimizer), optimizer.defaults["momentum"]) == (torch.optim.SGD, 0.9)
    assert (optimizer.defaults["weight_decay"], optimizer.defaults["nesterov"]) == (0, False)


@pytest.mark.parametrize("name", [name for name in PACE if name not in ("finetune_vit", "finetune_bit_hyperrule")])
def test_the_others_are_trained_by_adamw(name, made):
    optimizer = made(name).make_optimizer([{"params": [torch.zeros(2, requires_grad=True)]}])
    assert type(optimizer) is torch.optim.AdamW
    assert tuple(optimizer.defaults["betas"]) == (0.9, 0.999)


def test_maes_and_simmims_encoders_are_those_of_their_pretraining(decided):
    mae, simmim = (decided(f"finetune_{name}_vit_base").model for name in ("mae", "simmim"))
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        before = [
            compose("pretrain", overrides=["out=x", f"experiment={name}_vit_base_800ep"]).model
            for name in ("mae", "simmim")
        ]
    for config, model in zip((mae, simmim), before, strict=True):
        fields = {key: value for key, value in model.items() if key not in ("_target_", "drop_path_rate")}
        assert {key: getattr(config, key) for key in fields} == fields


def test_vits_pretraining_has_dropout_and_falls_in_a_line(decided):
    job = decided("scratch_vit_large")
    schedule, steps, warmup = schedule_of(job), job.budget.steps, job.budget.warmup
    quarter = warmup + (steps - warmup) // 4  # halfway a cosine would have the same rate
    assert job.model.hidden_dropout_prob == 0.1
    assert job.model.attention_probs_dropout_prob == 0
    assert schedule(quarter) == pytest.approx(1 - 0.99 * (quarter - warmup) / (steps - 1 - warmup))


def test_vit_falls_to_zero_by_half_a_cosine(decided):
    job = decided("finetune_vit")
    schedule = schedule_of(job)
    assert [schedule(step) for step in (250, 500, 10_250, 19_999)] == pytest.approx([0.5, 1, 0.5, 0], abs=1e-4)


def test_cvt_stays_at_its_last_rate_for_ten_epochs(decided):
    schedule = schedule_of(decided("scratch_cvt_13"))
    at = [schedule(epoch * 625) for epoch in (299, 300, 305)]
    assert at[0] > at[1] == pytest.approx(5e-3) == at[2]


@pytest.mark.parametrize(
    ("images", "marks", "mixup"),
    [
        (4_000, (100, 200, 300, 400, 500), 0),
        (50_000, (500, 3_000, 6_000, 9_000, 10_000), 0.1),
        (IMAGENET, (500, 6_000, 12_000, 18_000, 20_000), 0.1),
    ],
)
def test_the_hyperrule_decides_length_rates_and_mixup_from_the_data(decided, images, marks, mixup):
    job = decided("finetune_bit_hyperrule", images=images)
    schedule = schedule_of(job)
    warmup, first, second, third, last = marks
    assert (job.budget.steps, job.budget.warmup, job.budget.lr) == (last, warmup, pytest.approx(0.003))
    steps = (warmup // 2, warmup, first, first + 1, second + 1, third + 1, last - 1)
    assert [0.003 * schedule(step) for step in steps] == pytest.approx(
        [0.0015, 0.003, 0.003, 3e-4, 3e-5, 3e-6, 3e-6], rel=1e-6
    )
    assert job.groups.objective.mixup == mixup


@pytest.mark.parametrize(("size", "crop", "resized"), [((32, 32), 128, 160), ((224, 224), 480, 512)])
def test_the_hyperrule_decides_sizes_from_the_data(decided, size, crop, resized):
    job = decided("finetune_bit_hyperrule", size=size)
    box = transform_of(job).box(resized, resized, torch.Generator().manual_seed(0))
    assert job.geometry.image_size == (crop, crop)
    assert (box.height, box.width) == (crop, crop)


def test_the_hyperrule_follows_a_smaller_batch(decided):
    assert decided("finetune_bit_hyperrule", "batch=128").budget.lr == pytest.approx(0.003 / 4)


def test_what_the_hyperrule_decides_needs_its_schedule(decided):
    with pytest.raises(InputError, match="mixup=auto needs schedule=hyperrule"):
        decided("finetune_bit_hyperrule", "schedule=cosine")


@pytest.mark.parametrize(("name", "share"), [("finetune_mae_vit_base", 0.05), ("finetune_simmim_vit_base", 0.2)])
def test_a_recipe_that_is_cut_keeps_its_shape(decided, name, share):
    job = decided(name, "epochs=10")
    assert job.budget.warmup == round(share * job.budget.steps)
    assert job.budget.steps == 10 * (IMAGENET // job.budget.batch)
