"""What goes together: misfits are refused in one line whose fix works, and what fits trains, loads and reconstructs."""

import math
import re

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from mimsuite import api, app
from mimsuite.encoders.map_config import OF_MASKING
from mimsuite.errors import InputError, RunError
from mimsuite.models import BitConfig, CvtConfig, ViTConfig, ViTModel
from mimsuite.objectives.mim import MIMObjective
from mimsuite.pictures.curves import read_metrics
from mimsuite.runs import life as training
from mimsuite.settings.combinations import hidden_range, mask_cell
from mimsuite.settings.geometry import mask_unit
from mimsuite.settings.read import read_int, read_size
from mimsuite.weights.init import find_weights

NANO = {"model": "vit_nano", "batch": 8}
POSITION_BIAS = {"objective": "mae", "model.use_shared_relative_position_bias": True}


class Passed(BaseException):
    """All checks of a run are behind it."""


@pytest.fixture
def checked(monkeypatch, tmp_path, capsys):
    """Runs a task's checks alone: exit code and stderr, or None for values that pass."""

    def claim(*_, **__):
        raise Passed

    monkeypatch.setattr(training, "RunFolder", claim)

    def run(**values):
        out = tmp_path / "out"
        try:
            code = app.run_guarded(
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


@pytest.mark.slow
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
            {"mask": "multi_block", "objective": "mae"},
            "mask.ratio=0.75: mask=multi_block has no ratio, but the objective or the experiment brings one",
        ),
        (
            {"objective.target": "hog", "model.patch_size": 4},
            "the model's stride 4x4 is not a multiple",
        ),
        ({"objective.target": "hog", "model.patch_size": [8, 4]}, "the model's stride 8x4 is not a multiple"),
        ({"objective.target": "hog", "model": "bit_nano", "model.output_stride": 4}, "use model.output_stride=8"),
        ({"objective.target": "hog", "model": "cvt_nano", "mask.unit": 4}, "mask.unit=4 is not a multiple"),
        ({"objective.target": "hog", "model": "bit_nano", "mask.unit": 12}, "mask.unit=12 is not a multiple"),
        ({"objective": "spark"}, "leaves hidden cells out of the maps of a CvT or BiT, and this is a vit"),
        ({"objective.mask_mode": "sparse"}, "leaves hidden cells out of the maps of a CvT or BiT, and this is a vit"),
        ({"head": "unet"}, "head=unet looks at maps of several sizes, and a vit has one"),
        ({"objective": "spark", "model": "bit_nano", "mask.unit": 12}, "mask.unit 12 is not a multiple"),
        ({"objective": "spark", "model": "bit_nano", "objective.target": "hog"}, "head=unet draws pixels"),
        ({"objective": "spark", "model": "bit_nano", "head.hidden_size": 100}, "use head.hidden_size=96"),
        ({"objective": "spark", "model": "bit_nano", "model.global_padding": "valid"}, "use model.global_padding=null"),
        ({"head": "unet", "model": "bit_nano", "model.global_padding": "same"}, "embedding_dynamic_padding=true"),
        ({"objective": "spark", "model": "cvt_nano", "model.patch_padding": [3, 0]}, "use model.patch_padding=[2, 1]"),
        ({"objective.mask_layer": 1}, "is for the stages of a CvT or BiT, and this is a vit"),
        ({"model": "bit_nano", "objective.mask_layer": 3}, "this bit has 3; use objective.mask_layer=2"),
        ({"model": "cvt_nano", "objective.mask_layer": "last"}, "objective.mask_layer=last is not a stage before"),
        ({"model": "bit_nano", "objective.mask_layer": 2, "mask.unit": 12}, "mask.unit 12 is not a multiple"),
        ({"model": "bit_nano", "objective": "spark", "objective.mask_layer": 1}, "mask_mode=sparse has none"),
        ({"objective.fourier": -1}, "objective.fourier=-1 is not a weight"),
        ({"objective.fourier": 0.1, "objective.target": "hog"}, "objective.fourier=0.1 is for predicted pixels"),
        ({"mask.ratio": 1.01}, "mask.ratio=1.01 is not in (0, 1]"),
        ({"mask.ratio": [0.4]}, "mask.ratio=[0.4] is not a range"),
        ({"mask": "grid", "mask.ratio": [0.4]}, "mask.ratio=[0.4] is not a range"),
        ({"objective": "mae", "mask.unit": 32, "mask.ratio": 0.8}, "hides all 4 units of an image"),
        ({"objective": "mae", "mask.unit": 64}, "hides all 1 units of an image"),
        ({"objective.target": "pixel"}, "objective.target=pixel is unknown"),
        ({"objective.target": "null"}, "objective.target=null is unknown"),
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
        ([0.8, 0.4], False, "mask.ratio=[0.8, 0.4] is not a range"),
        ([0.4, 0.6, 0.8], False, "mask.ratio=[0.4, 0.6, 0.8] is not a range"),
        ([0.75, "x"], True, "mask.ratio=[0.75, 'x'] is not in (0, 1]"),
        (1, True, "mask.ratio=1 hides all 64 units of an image"),
        (0.99, True, "use mask.ratio=0.984 or less"),
        ([0.5, 1.0], True, "mask.ratio=[0.5, 1.0] hides all 64 units"),
    ],
)
def test_a_wrong_ratio_is_named_with_one_that_works(ratio, drops, says):
    def check(value):
        hidden_range(OmegaConf.create({"mask": {"unit": "auto", "ratio": value}}), 64, drops)

    with pytest.raises(InputError, match=re.escape(says)) as error:
        check(ratio)
    (fix,) = fixes(str(error.value))
    check(fix["mask.ratio"])


def test_no_mask_is_refused_by_its_name_of_0_1_0_too(checked):
    code, err = checked(**{"mask._target_": "mimsuite.masking.NoMask"})
    assert code == 2
    assert "mask=none hides nothing" in err


def test_an_unknown_mask_mode_names_those_there_are(checked):
    code, err = checked(**{"objective.mask_mode": "keep"})
    assert code == 2
    assert "objective.mask_mode=keep is unknown; objective.mask_mode takes replace, drop, sparse" in err


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
        ({"objective": "mae", "head.intermediate_size": "null"}, "head.intermediate_size=null is not a whole number"),
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
    size = read_size(OmegaConf.create([values.get("image_size", 64)])[0])
    unit = mask_unit(
        read_int(cfg, "mask.unit", auto=0), size, model.stride, mask_cell(model.mask_stride, target), drops
    )
    hidden_range(cfg, size[0] * size[1] // unit**2, drops)


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


TINY = NANO | {"steps": 2, "val_every": 2, "workers": 0, "loader.val_limit": 8, "precision": "32-true"}
TINY_MAE = {"objective": "mae", "head": "dec1", "head.hidden_size": 48, "head.num_attention_heads": 3}
SMALL = TINY_MAE | {"head.intermediate_size": 96}
RANGE, CHOICES = {"mask.ratio": [0.4, 0.8]}, {"mask.ratio": [0.5, 0.75]}
MASKS, TARGETS = ("random", "block", "inverse_block", "grid"), ("pixels", "norm_pixels", "hog")
LEGAL = {  # encoder, objective, mask, target: every pair of two of them that is allowed stands here
    ("vit", "simmim", "random", "pixels"): {"model.num_register_tokens": 2, "+model.use_class_token": False},
    ("vit", "simmim", "block", "norm_pixels"): RANGE | {"model.position": "sincos2d"},
    ("vit", "simmim", "inverse_block", "hog"): {"objective.loss": "smooth_l1", "mask.unit": 16},
    ("vit", "simmim", "grid", "pixels"): {"model.init_scheme": "mae", "mask.unit": 32},
    ("vit", "mae", "random", "norm_pixels"): CHOICES | {"model.num_register_tokens": 3},
    ("vit", "mae", "block", "hog"): {"model.position": "sincos2d", "model.init_scheme": "mae"},
    ("vit", "mae", "inverse_block", "pixels"): {"objective.loss": "l1", "+model.use_class_token": False},
    ("vit", "mae", "grid", "pixels"): {"mask.unit": 16},
    ("cvt", "simmim", "random", "hog"): RANGE,
    ("cvt", "simmim", "block", "pixels"): {"mask.unit": 4},
    ("cvt", "simmim", "inverse_block", "norm_pixels"): {"mask.unit": 4, "objective.loss": "mse"},
    ("cvt", "simmim", "grid", "norm_pixels"): {"mask.unit": 16},
    ("bit", "simmim", "random", "norm_pixels"): {"mask.unit": 4},
    ("bit", "simmim", "block", "hog"): {"mask.unit": 8},
    ("bit", "simmim", "inverse_block", "pixels"): RANGE | {"mask.unit": 4},
    ("bit", "simmim", "grid", "hog"): {"mask.ratio": 0.5},
}


def test_every_pair_that_is_allowed_is_tried():
    def pairs(quadruple):
        return {(a, b) for i, a in enumerate(quadruple) for b in quadruple[i + 1 :]}

    encoders = [("vit", "simmim"), ("vit", "mae"), ("cvt", "simmim"), ("bit", "simmim")]
    allowed = [pairs((*e, mask, target)) for e in encoders for mask in MASKS for target in TARGETS]
    assert set.union(*allowed) == set.union(*map(pairs, LEGAL))


def train(out, **values):
    summary = api.call("pretrain", {"out": str(out), **TINY, **values})
    assert summary["status"] == "done"
    assert all(math.isfinite(value) for value in summary["metrics"].values())
    return summary


def weights(out):
    """All tensors of a run, the decoder's too, by their names within encoder and decoder."""
    return unprefixed(find_weights(str(out)).state())


def unprefixed(state):
    return {re.sub(r"^(vit|cvt|bit)\.", "", name): value for name, value in state.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "more"), LEGAL.items(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else "more"
)
def test_what_goes_together_trains_loads_and_reconstructs(parts, more, tmp_path):
    encoder, objective, mask, target = parts
    values = {"model": f"{encoder}_nano", "mask": mask, "objective.target": target, **more}
    train(tmp_path / "out", **(SMALL if objective == "mae" else {}), **values)
    model = api.load(str(tmp_path / "out"))
    assert model.config.mim_target == target
    assert getattr(model.config, "mask_mode", "replace") == ("drop" if objective == "mae" else "replace")
    state, written = unprefixed(model.state_dict()), weights(tmp_path / "out")
    assert same({name: state[name] for name in written}, written)
    figures = api.reconstruct(init=str(tmp_path / "out"), out=str(tmp_path / "sheet.png"), count=2)
    assert math.isfinite(figures["masked_loss"])
    assert ("psnr" in figures) == (target != "hog")


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"model": "cvt_nano", "objective": "spark"},
        {"model": "bit_nano", "objective.mask_mode": "sparse", "objective.fourier": 0.5, "mask.ratio": 1},
        {"model": "bit_nano", "head": "unet", "mask.unit": 4},
        {"model": "bit_nano", "objective.mask_layer": 2, "objective.fourier": 0.5},
    ],
    ids=lambda values: ",".join(f"{k}={v}" for k, v in values.items()),
)
def test_runs_of_masked_convolution_train_load_reconstruct_and_are_finetuned(values, tmp_path):
    train(tmp_path / "out", **values)
    model = api.load(str(tmp_path / "out"))
    state, written = unprefixed(model.state_dict()), weights(tmp_path / "out")
    assert same({name: state[name] for name in written}, written)
    assert state.keys() == written.keys()
    metrics = api.reconstruct(init=str(tmp_path / "out"), out=str(tmp_path / "sheet.png"), count=2)
    assert math.isfinite(metrics["masked_loss"])
    task = {"init": str(tmp_path / "out"), "steps": 1, "batch": 8, "workers": 0, "loader.val_limit": 8}
    api.call("finetune", {"out": str(tmp_path / "tuned"), **task})
    assert api.load(str(tmp_path / "tuned")).config.to_dict().keys().isdisjoint(OF_MASKING)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each objective: ViTs with a register, MAE with small decoder."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "simmim", **{"model.num_register_tokens": 1})
    train(folder / "mae", **SMALL, **{"model.num_register_tokens": 1})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("mae", {"objective": "simmim"}),
        ("simmim", SMALL),
        ("simmim", {"objective.target": "hog"}),
        ("mae", SMALL | {"head.hidden_size": 24}),
    ],
    ids=["mae to simmim", "simmim to mae", "pixels to hog", "another decoder"],
)
def test_a_run_starts_from_the_encoder_of_another_kind_of_run(before, after, runs, tmp_path):
    values = {k: v for k, v in TINY.items() if k != "model"} | after
    api.call("pretrain", {"out": str(tmp_path / "next"), "init": str(runs / before), **values, "lr": 1e-12, "steps": 1})
    old, new = weights(runs / before), weights(tmp_path / "next")
    shared = [k for k in old.keys() & new.keys() if not k.startswith("decoder.")]
    assert len(shared) > 60
    assert any("register" in name for name in shared)
    for name in shared:
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=1e-6)
    api.reconstruct(init=str(tmp_path / "next"), out=str(tmp_path / "sheet.png"), count=2)


@pytest.mark.slow
@pytest.mark.parametrize("named", [{}, {"model": "vit_nano", "model.num_register_tokens": 1}], ids=["", "model="])
def test_an_mae_run_goes_on_with_its_own_decoder(named, runs, tmp_path):
    values = {k: v for k, v in TINY.items() if k != "model"} | {"objective": "mae"} | named
    summary = api.call("pretrain", {"out": str(tmp_path / "next"), "init": str(runs / "mae"), **values})
    assert summary["status"] == "done"
    old, new = weights(runs / "mae"), weights(tmp_path / "next")
    assert {k: v.shape for k, v in old.items()} == {k: v.shape for k, v in new.items()}
    first = read_metrics(tmp_path / "next" / "metrics.csv")["val/loss"][1][0]
    assert first == read_metrics(runs / "mae" / "metrics.csv")["val/loss"][1][-1]


@pytest.mark.slow
def test_an_interrupted_mae_run_resumes_to_the_bit(monkeypatch, tmp_path):
    values = SMALL | CHOICES | {"model.hidden_dropout_prob": 0.1, "steps": 4, "save_every": 1, "val_every": 4}
    train(tmp_path / "whole", **values)
    step = MIMObjective.training_step

    def interrupted(self, batch, number):
        if self.trainer.global_step == 2:
            raise RunError("the power is out")
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(MIMObjective, "training_step", interrupted)
        with pytest.raises(RunError, match="the power is out"):
            train(tmp_path / "out", **values)
    assert not (tmp_path / "out" / "weights").exists()
    assert api.call("pretrain", {"out": str(tmp_path / "out"), "resume": True})["status"] == "done"
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "out"))


@pytest.fixture
def banner(monkeypatch, tmp_path, caplog):
    """The lines that a run prints before its first batch, and the masks of its first batches."""

    def run(**values):
        caplog.set_level("INFO", logger="mimsuite")
        drawn = []

        def draw(trainer, objective, data, checkpoint, micro):
            drawn.extend(batch.mask for _, batch in zip(range(12), data.train_dataloader(), strict=False))
            raise Passed

        monkeypatch.setattr(training, "fit", draw)
        with pytest.raises(Passed):
            api.call("pretrain", {"out": str(tmp_path / "out"), **TINY, "steps": 12, **values})
        lines = [record.getMessage() for record in caplog.records]
        return {line.split()[0]: line.partition(" ")[2].strip() for line in lines if not line.startswith(" ")}, drawn

    return run


def span(values):
    """Smallest and largest as the banner says them."""
    return f"{min(values)} to {max(values)}" if min(values) != max(values) else str(min(values))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "geometry", "unit", "cell", "objective"),
    [
        (
            {},
            "image 64x64, patch 8x8, stride 8x8, grid 8x8",
            8,
            (8, 8),
            "l1 of pixels, SimMIM's head on the whole map",
        ),
        (
            {"mask.ratio": [0.2, 0.9], "mask.unit": 16},
            "image 64x64, patch 8x8, stride 8x8, grid 8x8",
            16,
            (8, 8),
            "l1 of pixels, SimMIM's head on the whole map",
        ),
        (
            SMALL | {"image_size": [32, 64], "model.patch_size": [4, 8]},
            "image 32x64, patch 4x8, stride 4x8, grid 8x8",
            8,
            (4, 8),
            "mse of norm_pixels, MAE's decoder (1 block of width 48, 3 heads) on the visible patches",
        ),
        (
            SMALL | {"mask.ratio": [0.5, 0.75]},
            "image 64x64, patch 8x8, stride 8x8, grid 8x8",
            8,
            (8, 8),
            "mse of norm_pixels, MAE's decoder (1 block of width 48, 3 heads) on the visible patches",
        ),
        (
            {"model": "cvt_nano", "objective.target": "hog", "objective.loss": "mse", "mask.unit": 16},
            "image 64x64, mask cell 4x4, stride 8x8, grid 8x8",
            16,
            (4, 4),
            "mse of hog, SimMIM's head on the whole map",
        ),
    ],
    ids=["vit", "range", "mae [4,8]", "mae choices", "cvt"],
)
def test_the_banner_says_what_the_masks_are(values, geometry, unit, cell, objective, banner):
    said, drawn = banner(**values)
    assert said["geometry"] == geometry
    assert said["objective"] == objective
    height, width = map(int, re.findall(r"\d+", geometry)[:2])
    units, each = (height // unit) * (width // unit), unit**2 // (cell[0] * cell[1])
    assert all(mask.shape == (8, height // unit, width // unit) for mask in drawn)
    hidden = [int(count) for mask in drawn for count in mask.flatten(1).sum(1)]
    units_text = f"{span(hidden)} of {units} hidden, {span([units - n for n in hidden])} visible"
    cells = f"; of {units * each} cells {span([n * each for n in hidden])} hidden, "
    cells += f"{span([(units - n) * each for n in hidden])} visible"
    assert said["masks"] == f"units of {unit} px: {units_text}{cells if each > 1 else ''}"


@pytest.mark.slow
def test_an_encoder_whose_config_speaks_of_another_decoder_is_pretrained(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(**sizes, image_size=64, patch_size=8, encoder_stride=16)).save_pretrained(tmp_path / "vit")
    values = {k: v for k, v in TINY.items() if k != "model"}
    assert api.call("pretrain", {"out": str(tmp_path / "out"), "init": str(tmp_path / "vit"), **values})["steps"] == 2
    assert api.load(str(tmp_path / "out")).config.encoder_stride == 8


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["simmim", "mae"])
def test_a_picture_of_which_nothing_is_hidden_has_no_error(objective, runs, tmp_path):
    figures = api.reconstruct(init=str(runs / objective), out=str(tmp_path / "sheet.png"), count=2, mask="none")
    assert figures["masked_loss"] == 0
    assert math.isnan(figures["psnr"])
