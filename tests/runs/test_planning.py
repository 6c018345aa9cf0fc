"""What a plan rests on: recipes that compose, reasons whose rows exist, times that turn round."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mimsuite.config.composing import compose_task
from mimsuite.config.overrides import override_of
from mimsuite.errors import InputError
from mimsuite.runs.planning import duration, page, planner
from mimsuite.runs.planning.evidence import known_of, ledger, percent
from mimsuite.runs.planning.recipes import Facts, index_without_hours, recipes_for

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CASES = [
    Facts(images, side, gpu, frozenset(given), family, width, objective, image_side, patch)
    for images, side, gpu in [
        (10, 24, False),
        (7000, 224, False),
        (25_000, 32, False),
        (1_200_000, 400, True),
        (9000, 96, True),
    ]
    for given, family, width, objective, image_side, patch in [
        ((), "", 0, "", 0, 0),
        (("objective",), "", 0, "mae", 0, 0),
        (("objective",), "", 0, "simmim", 0, 0),
        (("objective",), "", 0, "latent", 0, 0),
        (("objective",), "", 0, "spark", 0, 0),
        (("model",), "vit", 96, "", 0, 8),
        (("model", "image_size"), "vit", 768, "", 48, 16),
        (("model",), "cvt", 384, "", 0, 0),
        (("model", "objective"), "bit", 256, "spark", 0, 0),
        (("experiment",), "", 0, "", 0, 0),
        (("model",), "external", 0, "", 0, 0),
    ]
]


@pytest.mark.parametrize("facts", CASES[::2], ids=range(len(CASES[::2])))
def test_every_recipe_composes_and_says_why(facts):
    user = {"objective": facts.objective} if "objective" in facts.given else {}
    user |= (
        {"model": {"vit": "vit_tiny", "cvt": "cvt_13", "bit": "bit_nano"}.get(facts.family, "external")}
        if facts.family
        else {}
    )
    for recipe in recipes_for(facts):
        overrides = [override_of(key, value) for key, value in {**recipe.keys, **user, "out": "x"}.items()]
        cfg, _ = compose_task("pretrain", overrides)
        assert not set(recipe.keys) & facts.given
        assert {"model", "objective"} <= set(recipe.why)
        assert all(recipe.why.values())
        if share := re.search(r"(\d+) % (of them )?hidden", recipe.why.get("mask", "")):
            assert cfg.mask.ratio == int(share[1]) / 100
        if facts.objective == "mae":
            assert cfg.head.num_hidden_layers in (1, 8)


def test_reasons_name_rows_of_the_ledger_that_exist():
    files = {file.stem for file in (BENCHMARKS / "results").glob("*.json")}
    named = set()
    for recipe in itertools.chain.from_iterable(map(recipes_for, CASES)):
        for text in recipe.why.values():
            assert ("ledger: " in text) or not re.search(r"\d\d\.\d %", text) or "20" in text, text
            for found in re.findall(r"ledger: ([\w, ]+)", text):
                named |= {name for name in re.split(r"[, ]+", found) if "_" in name}
            named |= set(re.findall(r"pretrain_simmim_\w+", text))
    assert len(named) > 8
    assert {name for name in named if f"{name}_seed0" not in files} == set()


@pytest.mark.parametrize(
    ("images", "gpu", "batch", "says"),
    [
        (10, False, 8, "a power of two that 10 images allow"),
        (9000, False, 128, "128 in the rows of experiment=small_data"),
        (10, True, 8, "a power of two that 10 images allow"),
        (900, True, 64, "for so few images"),
        (9000, True, 128, "at least 50 steps"),
        (1_200_000, True, 4096, "4,096, as in He et al."),
    ],
)
def test_the_reason_of_a_batch_is_that_of_this_batch(images, gpu, batch, says):
    recipe = recipes_for(Facts(images, 224, gpu))[0]
    assert recipe.keys["batch"] == batch
    assert says in recipe.why["batch"]
    assert "this batch" not in recipe.why["lr"], "the batch may be another one than that of the rows"


def test_figures_of_the_packaged_rows_are_those_of_the_ledger():
    for row in ledger()["rows"]:
        entry = json.loads((BENCHMARKS / "results" / f"{row['name']}.json").read_text())
        assert row["figures"].items() <= entry["figures"].items()
    assert percent("probe_mae_vit_imagenette_seed0", "probe/top1") == "52.0 %"


def test_the_keys_of_the_user_win_and_close_their_groups():
    facts = Facts(25_000, 32, False)
    assert recipes_for(facts)[-1].keys["batch"] == 128
    given = frozenset({"batch", "head", "optim.base_lr"})
    [recipe] = recipes_for(replace(facts, given=given | {"model"}, family="vit", width=192, patch=16))
    assert not [key for key in recipe.keys if key.split(".")[0] in ("batch", "head", "lr")]
    assert recipe.keys["model.patch_size"] == 4, "a patch of 16 px would leave 2 x 2 patches"


def test_a_narrow_vit_gets_the_recipe_that_was_measured():
    [recipe] = recipes_for(Facts(25_000, 32, False, given=frozenset({"model"}), family="vit", width=192))
    keys = {**recipe.keys, "model": "vit_tiny", "out": "x"}
    own, _ = compose_task("pretrain", [override_of(key, value) for key, value in keys.items()])
    measured, _ = compose_task("pretrain", [override_of("experiment", "small_data"), override_of("out", "x")])
    for group in ("objective", "head", "mask", "augment", "optim", "batch", "lr"):
        assert own[group] == measured[group], group
    assert "90 % hidden" in recipe.why["mask"]


def test_images_decide_where_hours_do_not():
    def choice(images, gpu):
        facts = Facts(images, 224, gpu)
        recipes = recipes_for(facts)
        return recipes[index_without_hours(recipes, facts)].name

    assert [choice(9_000, False), choice(9_000, True), choice(1_000_000, True)] == [
        "half vit_tiny",
        "vit_small",
        "vit_base",
    ]


def test_like_data_are_of_like_size_channels_and_depth():
    [cifar] = known_of("cifar10-jpeg", 25_000, (32, 32), 3, "uint8")
    rows = [row["figures"] for row in ledger()["rows"] if (row["data"], row["task"]) == ("cifar10-jpeg", "probe")]
    scores = [figures["probe/top1"] for figures in rows]
    assert (cifar.same, cifar.score, cifar.low, cifar.high) == (True, "probe/top1", min(scores), max(scores))
    nette = known_of("my-photos", 900, (300, 400), 3, "uint8")
    assert [(known.data, known.same) for known in nette] == [("imagenette-224", False)]
    assert nette[0].low < nette[0].high
    for other in [((300, 400), 4, "uint8"), ((300, 400), 3, "uint16"), ((1024, 1024), 3, "uint8")]:
        assert known_of("imagenette-224", 7000, *other) == []


@pytest.mark.parametrize(
    ("labels", "says"), [([], False), (["one class per image"], False), (["a number per image"], True)]
)
def test_accuracies_of_classes_are_named_so_where_the_labels_are_others(labels, says):
    known = [asdict(known) for known in known_of("mine", 900, (32, 32), 3, "uint8")]
    text = " ".join(page.expect_lines({"known": known, "data": {"labels": labels}}))
    assert ("these are accuracies of one class per image; nothing measured yet with labels like yours" in text) == says


def settings_of(steps=1000, *, samples=6400, batch=64, val=500, probe=None):
    index = SimpleNamespace(select=lambda role: role, num_samples=lambda part: val)
    loading = SimpleNamespace(val_limit=5000)
    every = max(1, steps // 10)
    budget = SimpleNamespace(
        steps=steps,
        batch=batch,
        per_epoch=samples // batch,
        val_every=every,
        save_every=min(every, 500),
        save_seconds=300.0,
    )
    return SimpleNamespace(inputs=SimpleNamespace(index=index, loading=loading), budget=budget, online_probe=probe)


def timing_of(rate=100.0, validating=300.0):
    return SimpleNamespace(
        rate=rate,
        validating=validating,
        devices=1,
        built=0.5,
        first=1.0,
        picture=0.4,
        checkpoint=3e6,
        weights=1e6,
        timed=True,
    )


def test_parts_of_the_time_add_up():
    found = duration.duration_of(timing_of(), settings_of(), imports=3.0)
    assert found.steps == pytest.approx(640)
    assert found.count == 11
    assert found.validations == pytest.approx(11 * (500 / 300 + 0.4))
    assert found.total == pytest.approx(found.start + found.steps + found.validations + found.saving)
    probe = SimpleNamespace(images=1000, val_images=200, keeps=True, share=0.05)
    assert duration.duration_of(timing_of(), settings_of(probe=probe), 3.0).rounds == pytest.approx(11 * 5.5)
    probe.keeps = False
    assert duration.duration_of(timing_of(), settings_of(probe=probe), 3.0).rounds < 0.06 * found.total


@pytest.mark.parametrize("seconds", [30, 100, 1000, 30_000])
def test_the_most_steps_within_a_time_fit_and_one_more_does_not(seconds):
    timing, settings = timing_of(), settings_of()
    steps = duration.steps_within(timing, settings, 3.0, seconds)
    if steps:
        assert duration.duration_of(timing, settings, 3.0, steps).total <= seconds
    later = duration.duration_of(timing, settings, 3.0, steps + 1).total
    assert later > seconds


def candidate(name, rate, steps=10_000):
    settings = settings_of(steps)
    full = duration.duration_of(timing_of(rate), settings, 3.0).total
    return planner.Candidate(SimpleNamespace(name=name), settings, timing_of(rate), full)


def test_hours_choose_the_largest_model_that_gets_100_epochs_done():
    ladder = (candidate("large", 10), candidate("small", 100))
    assert [planner.largest_within(ladder, hours * 3600).recipe.name for hours in (0.1, 2, 20)] == [
        "small",
        "small",
        "large",
    ]
    untimed = (planner.Candidate(SimpleNamespace(name="none"), settings_of(), None, None), *ladder)
    assert planner.largest_within(untimed, 1e9).recipe.name == "large"


def test_a_length_is_round_fits_and_ends_at_the_longest_schedule():
    small = candidate("small", 100)
    for hours, expected in ((0.3, {"epochs": 16}), (4, {"epochs": 220}), (1000, {"epochs": 1600})):
        keys, why = planner.length_within(small, 3.0, hours)
        assert keys == expected, hours
        assert "hours" in why
    assert planner.length_within(small, 3.0, 0.03)[0] == {"epochs": 1.1}
    assert planner.length_within(small, 3.0, 0.015)[0] == {"steps": 15}
    with pytest.raises(
        InputError, match=r"hours=0.001 is too short: start, validation and one step of small take about"
    ):
        planner.length_within(small, 3.0, 0.001)


def test_the_default_length_is_100_epochs_or_as_many_steps_as_pretrain_takes():
    assert planner.default_length(settings_of(samples=6400)) == {"epochs": 100}
    assert planner.default_length(settings_of(samples=64)) == {"steps": 1000}
    assert planner.default_length(settings_of(samples=64_000_000)) == {"steps": 100_000}


def test_reasons_and_times_need_no_torch():
    code = "import sys, mimsuite.runs.planning.recipes, mimsuite.runs.planning.duration; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
