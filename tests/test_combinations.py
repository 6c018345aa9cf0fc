"""What goes together: misfits are refused in one line whose fix works, and what fits trains, loads and reconstructs."""

import re

import pytest
import yaml
from omegaconf import OmegaConf

from mimsuite import api, app
from mimsuite.combinations import check_ratio, mask_cell
from mimsuite.errors import InputError
from mimsuite.models import BitConfig, CvtConfig, ViTConfig
from mimsuite.settings import mask_unit, sides
from mimsuite.tasks import pretrain as task

NANO = {"model": "vit_nano", "batch": 8}
POSITION_BIAS = {"objective": "mae", "model.use_shared_relative_position_bias": True}


class Passed(BaseException):
    """All checks of a run are behind it."""


@pytest.fixture
def checked(monkeypatch, tmp_path, capsys):
    """Runs a task's checks alone: exit code and stderr, or None for values that pass."""

    def claim(*_, **__):
        raise Passed

    monkeypatch.setattr(task, "RunFolder", claim)

    def run(**values):
        out = tmp_path / "out"
        try:
            code = app.guarded(
                lambda: int(api.call("pretrain", {"out": str(out), **NANO, **values})["exit_code"]), "pretrain"
            )
        except Passed:
            return None
        assert not out.exists()
        return code, capsys.readouterr().err

    return run


def fixes(message):
    """What an error line says would do, each as values: `A=1 or 2` is two, `A=1 B=2` one; words are left out."""
    advice, found = message.rpartition("; ")[2].strip(), []
    if takes := re.search(r"([\w.]+) takes (.+)", advice):
        return [{takes[1]: name} for name in takes[2].split(", ")]
    for part in re.split(r", or | or |, (?!\d)", advice):
        pairs = re.findall(r"([\w.]+)=(\[[^\]]*\]|[^\s,]+)", part)
        if pairs:
            found.append({key: yaml.safe_load(value) for key, value in pairs})
        elif re.fullmatch(r"\[?\d[\d.,]*\]?", part.split()[0]):
            found.append({next(iter(found[-1])): yaml.safe_load(part.split()[0])})
    return found


@pytest.mark.parametrize(
    ("advice", "found"),
    [
        ("x; use image_size=96 or 104", [{"image_size": 96}, {"image_size": 104}]),
        ("x; use image_size=[96,160]", [{"image_size": [96, 160]}]),
        ("x; use a.b=false c=true, or objective=simmim", [{"a.b": False, "c": True}, {"objective": "simmim"}]),
        ("x; use mask.ratio=0.98 or less", [{"mask.ratio": 0.98}]),
        ("x; use objective=simmim, or a ViT", [{"objective": "simmim"}]),
        ("x; loss takes l1, mse", [{"loss": "l1"}, {"loss": "mse"}]),
        ("x; use low and high, such as mask.ratio=[0.4,0.8]", [{"mask.ratio": [0.4, 0.8]}]),
    ],
)
def test_advice_is_read_as_a_user_would(advice, found):
    assert fixes(advice) == found


def refuses_with_a_fix_that_works(checked, values, says, fewest=1):
    code, err = checked(**values)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    offered = fixes(err)
    assert len(offered) >= fewest, err
    for fix in offered:
        assert checked(**(values | fix)) is None, f"{err.strip()}: {fix} fails too"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"objective": "mae", "model": "cvt_nano"}, "which a cvt cannot: its convolutions need whole maps"),
        ({"objective": "mae", "model": "bit_nano"}, "which a bit cannot: its convolutions need whole maps"),
        ({"objective": "mae", "head": "simmim"}, "SimMIMHead cannot fill the places of dropped patches"),
        ({"objective.mask_mode": "drop"}, "SimMIMHead cannot fill the places of dropped patches"),
        ({"head": "dec8"}, "MAEDecoder is for dropped patches, and objective.mask_mode=replace keeps"),
        ({"objective": "mae", "objective.mask_mode": "replace"}, "MAEDecoder is for dropped patches"),
        (POSITION_BIAS, "model.use_shared_relative_position_bias=true knows whole grids"),
        (
            POSITION_BIAS | {"model.use_absolute_position_embeddings": False},
            "use model.use_shared_relative_position_bias=false model.use_absolute_position_embeddings=true",
        ),
        ({"mask": "none"}, "mask=none hides nothing, so there is nothing to predict"),
        ({"mask": "none", "objective": "mae"}, "mask=none hides nothing"),
        (
            {"objective.target": "hog", "model.patch_size": 4},
            "of which the model's stride 4x4 is no multiple",
        ),
        ({"objective.target": "hog", "model.patch_size": [8, 4]}, "of which the model's stride 8x4 is no multiple"),
        ({"objective.target": "hog", "model": "bit_nano", "model.output_stride": 4}, "a model with a larger stride"),
        ({"objective.target": "hog", "model": "cvt_nano", "mask.unit": 4}, "of which mask.unit=4 is no multiple"),
        ({"objective.target": "hog", "model": "bit_nano", "mask.unit": 12}, "of which mask.unit=12 is no multiple"),
        ({"mask.ratio": 1.01}, "mask.ratio=1.01 is not in (0, 1]"),
        ({"mask.ratio": [0.4]}, "mask.ratio=[0.4] is no range"),
        ({"mask": "grid", "mask.ratio": [0.4]}, "mask.ratio=[0.4] is no range"),
        ({"objective": "mae", "mask.unit": 32, "mask.ratio": 0.8}, "hides all 4 units of an image"),
        ({"objective": "mae", "mask.unit": 64}, "hides all 1 units of an image"),
        ({"objective.target": "pixel"}, "objective.target=pixel is unknown"),
        ({"objective.target": "null"}, "objective.target=None is unknown"),
        ({"objective.loss": "l2"}, "objective.loss=l2 is unknown"),
        ({"objective": "mae", "head.hidden_size": 100}, "head.hidden_size=100 is not a multiple of 4 and of"),
        ({"objective": "mae", "head.num_attention_heads": 7}, "use head.hidden_size=504 or 532"),
        ({"objective": "mae", "head": "dec1", "head.hidden_size": 6, "head.num_attention_heads": 3}, "use head.hidden"),
        ({"model.encoder_stride": 4}, "model.encoder_stride=4 is not the model's stride"),
        ({"model.patch_size": [8, 16], "model.encoder_stride": 8}, "use model.encoder_stride=[8,16]"),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_what_does_not_go_together_is_refused_with_a_fix_that_works(values, says, checked):
    refuses_with_a_fix_that_works(checked, values, says)


@pytest.mark.parametrize(
    ("ratio", "drops", "says"),
    [
        (0, False, "mask.ratio=0 is not in (0, 1]"),
        ("half", False, "mask.ratio=half is not in (0, 1]"),
        (True, False, "mask.ratio=True is not in (0, 1]"),
        (None, False, "mask.ratio=None is not in (0, 1]"),
        ([], False, "mask.ratio=[] is not in (0, 1]"),
        ([0.4, 1.2], False, "mask.ratio=[0.4, 1.2] is not in (0, 1]"),
        ([[0.4, 0.8]], False, "mask.ratio=[[0.4, 0.8]] is not in (0, 1]"),
        ({"low": 0.4}, False, "mask.ratio={'low': 0.4} is not in (0, 1]"),
        ([0.8, 0.4], False, "mask.ratio=[0.8, 0.4] is no range"),
        ([0.4, 0.6, 0.8], False, "mask.ratio=[0.4, 0.6, 0.8] is no range"),
        ([0.75, "x"], True, "mask.ratio=[0.75, 'x'] is not in (0, 1]"),
        (1, True, "mask.ratio=1 hides all 64 units of an image"),
        (0.99, True, "use mask.ratio=0.984 or less"),
        ([0.5, 1.0], True, "mask.ratio=[0.5, 1.0] hides all 64 units"),
    ],
)
def test_a_wrong_ratio_is_named_with_one_that_works(ratio, drops, says):
    def check(value):
        check_ratio(OmegaConf.create({"mask": {"unit": "auto", "ratio": value}}), 64, drops)

    with pytest.raises(InputError, match=re.escape(says)) as error:
        check(ratio)
    (fix,) = fixes(str(error.value))
    check(fix["mask.ratio"])


def test_an_unknown_mask_mode_names_those_there_are(checked):
    code, err = checked(**{"objective.mask_mode": "keep"})
    assert code == 2
    assert "objective.mask_mode=keep is unknown; objective.mask_mode takes replace, drop" in err


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"objective": "mae", "head.depth": 3}, "head.depth"),
        (
            {"objective": "mae", "+head.depth": 3},
            "head.depth is unknown; mimsuite.heads.mae.MAEDecoder takes",
        ),
        ({"+head.depth": 3}, "head.depth is unknown; mimsuite.heads.simmim.SimMIMHead takes no keys"),
        ({"head.hidden_size": 512}, "head.hidden_size"),
        (
            {"objective": "mae", "head.num_hidden_layers": 0},
            "head.num_hidden_layers=0 is not a whole number",
        ),
        ({"objective": "mae", "head.hidden_size": "wide"}, "head.hidden_size=wide is not a whole number"),
        ({"objective": "mae", "head.intermediate_size": "null"}, "head.intermediate_size=None is not a whole number"),
        ({"model.hidden_size": "wide"}, "hidden_size='wide' must be an integer, got str"),
    ],
)
def test_keys_and_values_that_a_part_does_not_take_are_named(values, says, checked):
    code, err = checked(**values)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1


MISFITS = [
    {"image_size": 100},
    {"image_size": 1},
    {"image_size": [100, 160]},
    {"image_size": [96, 100]},
    {"image_size": [3, 200]},
    {"image_size": 100, "mask.unit": 32},
    {"image_size": [100, 150], "mask.unit": 16},
    {"image_size": 64, "mask.unit": 24},
    {"image_size": [64, 96], "mask.unit": 64},
    {"image_size": 64, "mask.unit": 6},
    {"image_size": 64, "mask.unit": 18},
    {"image_size": 80, "mask.unit": 14},
    {"image_size": 64, "mask.unit": 100},
    {"image_size": [96, 160], "mask.unit": 50},
    {"mask.unit": 7},
]
RECTANGLES = [
    {"image_size": 72},
    {"image_size": [72, 160]},
    {"image_size": [72, 160], "mask.unit": 8},
    {"image_size": [64, 100]},
    {"image_size": [96, 160], "mask.unit": 8},
    {"image_size": [96, 160], "mask.unit": 24},
    {"image_size": [96, 160], "mask.unit": 64},
    {"image_size": 64, "mask.unit": 48},
]
MODELS = {
    "vit": (ViTConfig(image_size=64, patch_size=8), False, "pixels", MISFITS),
    "vit, mae": (ViTConfig(image_size=64, patch_size=8), True, "pixels", MISFITS[:1] + MISFITS[2:]),
    "vit [8,16]": (ViTConfig(image_size=64, patch_size=[8, 16]), False, "pixels", RECTANGLES),
    "vit [8,16], mae": (ViTConfig(image_size=64, patch_size=[8, 16]), True, "pixels", RECTANGLES),
    "vit [12,8]": (
        ViTConfig(image_size=96, patch_size=[12, 8]),
        False,
        "pixels",
        [{"image_size": 96, "mask.unit": 12}, {}],
    ),
    "cvt": (CvtConfig(), False, "pixels", [*MISFITS, {"image_size": 36, "mask.unit": 12}]),
    "bit": (BitConfig(output_stride=8), False, "pixels", [*MISFITS, {"image_size": 36, "mask.unit": 12}]),
    "bit, hog": (BitConfig(output_stride=8), False, "hog", [{"mask.unit": 24}, {"image_size": 100}]),
}


def fits_together(model, drops, target, values):
    """The checks of sizes that a run makes."""
    cfg = OmegaConf.create({"mask": {"unit": values.get("mask.unit", "auto"), "ratio": 0.4}})
    size = sides(OmegaConf.create([values.get("image_size", 64)])[0])
    unit = mask_unit(cfg, size, model.stride, mask_cell(model.mask_stride, target), drops)
    check_ratio(cfg, size[0] * size[1] // unit**2, drops)


@pytest.mark.parametrize(
    ("name", "values"),
    [(name, values) for name, (*_, misfits) in MODELS.items() for values in misfits],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
)
def test_a_misfit_of_sizes_is_named_with_a_fix_that_works(name, values):
    *parts, _ = MODELS[name]
    with pytest.raises(InputError, match="is not a multiple of") as error:
        fits_together(*parts, values)
    assert len(str(error.value).splitlines()) == 1
    assert fixes(str(error.value))
    for fix in fixes(str(error.value)):
        fits_together(*parts, values | fix)


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 100},
        {"image_size": [96, 100], "objective": "mae"},
        {"image_size": [72, 160], "model.patch_size": [8, 16]},
        {"image_size": 100, "mask.unit": 32, "model": "cvt_nano"},
        {"mask.unit": 24, "model": "bit_nano"},
    ],
    ids=lambda values: ",".join(f"{k}={v}" for k, v in values.items()),
)
def test_a_run_names_a_misfit_of_sizes_before_it_begins(values, checked):
    refuses_with_a_fix_that_works(checked, values, "is not a multiple of")
