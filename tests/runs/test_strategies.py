"""DDP and FSDP in two processes: the losses of one, the same files, and runs that go on from each other."""

import json
import shutil

import pytest
import torch
from coloured import write_shards
from safetensors.torch import load_file
from several import run_all

from mimsuite import api
from mimsuite.pictures.curves import read_metrics
from mimsuite.weights.checkpoints import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEYS = {
    **{"batch": 16, "steps": 20, "val_every": 20, "save_every": 10, "micro_batch": 8, "image_size": 16, "workers": 0},
    **{"loader.val_limit": 33, "precision": "32-true", "callbacks.monitor.log_every": 1, "logger": None},
}
VIT = {
    **{"model": "vit_nano", "model.hidden_size": 24, "model.num_hidden_layers": 3, "model.num_attention_heads": 2},
    **{"model.intermediate_size": 48, "model.patch_size": 4},
}
SMOOTH = {"objective.loss": "mse"}  # the gradient of l1 jumps where rounding alone decides a sign
MODELS = {
    "vit": VIT | {"lr": 0.002, "online_probe": True, **SMOOTH},
    "bit": {"model": "bit_nano", "optim": "lamb", "lr": 0.01, **SMOOTH},
    "mae": VIT
    | {"objective": "mae", "head": "dec1", "head.hidden_size": 24, "head.num_attention_heads": 2}
    | {"head.intermediate_size": 48, "lr": 0.002, "micro_batch": 4},
    "latent": VIT
    | {"objective": "latent", "objective.momentum": 0.9, "lr": 0.002, "head.hidden_size": 24, "micro_batch": 4}
    | {"head.num_hidden_layers": 1, "head.num_attention_heads": 2, "head.intermediate_size": 48},
    "cvt": {
        **{"model": "cvt_nano", "model.depth": [1, 1], "model.embed_dim": [8, 24], "optim": "sgd", "lr": 0.05},
        **{"trainer.sync_batchnorm": True, **SMOOTH},
    },
    "frozen": VIT | {"freeze": 1, "optim": "lars", "lr": 0.1, "objective.ema": 0.9, "head.std": 0.02},
}
IN_ONE = {"cvt": {"micro_batch": 16}}  # BatchNorm sees what the two see together
STRATEGIES = ("ddp", "fsdp")
SAME = [
    ("vit", "fsdp", "fsdp"),
    ("cvt", "fsdp", "fsdp"),
    ("cvt", "ddp", "ddp"),
    ("frozen", "fsdp", "fsdp"),
    ("latent", "fsdp", "fsdp"),
]
OTHER = [
    ("vit", "ddp", "fsdp"),
    ("vit", "fsdp", "one"),
    ("bit", "one", "fsdp"),
    ("frozen", "fsdp", "ddp"),
    ("latent", "ddp", "fsdp"),
]


def task_of(model):
    return "finetune" if model == "frozen" else "pretrain"


def values_of(model, data):
    values = KEYS | {"data": data} | MODELS[model]
    return values if task_of(model) == "pretrain" else {k: v for k, v in values.items() if k != "loader.val_limit"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strategies")


@pytest.fixture(scope="module")
def data(folder):
    return write_shards(folder / "shards", {"train": 60, "val": 45, "test": 30})


@pytest.fixture(scope="module")
def without_curves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimsuite.pictures.curves.draw_curves", lambda *_, **__: None)  # half the time of such a run
        yield


@pytest.fixture(scope="module")
def runs(folder, data, without_curves):
    """Folders of all models, in one process and in two by each strategy."""
    for model in MODELS:
        api.call(task_of(model), values_of(model, data) | IN_ONE.get(model, {}) | {"out": str(folder / f"{model}-one")})
    run_all(
        [
            (
                task_of(model),
                values_of(model, data)
                | {"out": str(folder / f"{model}-{strategy}"), "trainer.strategy": strategy}
                | {"trainer.checkpoint_activations": strategy == "fsdp"}
                | ({"count": str(folder / f"{strategy}.json")} if model == "mae" else {}),
            )
            for model in MODELS
            for strategy in STRATEGIES
        ]
    )
    return {name: folder / name for name in (f"{m}-{s}" for m in MODELS for s in ("one", *STRATEGIES))}


def metrics(out, name):
    return torch.tensor(read_metrics(out / "metrics.csv")[name][1], dtype=torch.float64)


def weights(out):
    """Of the model, and of its teacher."""
    files = [out / name / "model.safetensors" for name in ("weights", "weights-teacher")]
    return {f"{f.parent.name}/{key}": value for f in files if f.is_file() for key, value in load_file(f).items()}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", MODELS)
def test_two_processes_give_the_losses_of_one(runs, model, strategy):
    one, two = runs[f"{model}-one"], runs[f"{model}-{strategy}"]
    assert len(metrics(two, "train/loss")) == 20
    for name in ("train/loss", "val/loss"):
        torch.testing.assert_close(metrics(two, name), metrics(one, name), rtol=1e-5, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_weights_and_checkpoints_of_all_strategies_have_the_same_keys_and_nearly_the_same_values(runs, model):
    one, *others = (runs[f"{model}-{s}"] for s in ("one", *STRATEGIES))
    for other in others:
        assert_close(weights(other), weights(one))
        found, wanted = (load_checkpoint(o / "checkpoints" / "step_000000020.ckpt") for o in (other, one))
        assert_close(found["state_dict"], wanted["state_dict"])
        (found,), (wanted,) = found["optimizer_states"], wanted["optimizer_states"]
        assert found["param_groups"] == wanted["param_groups"]
        assert found["state"].keys() == wanted["state"].keys()
        for place, values in wanted["state"].items():
            assert {k: getattr(v, "shape", ()) for k, v in found["state"][place].items()} == {
                k: getattr(v, "shape", ()) for k, v in values.items()
            }


def test_the_teacher_of_a_latent_run_moves_and_is_written(runs):
    for strategy in ("one", *STRATEGIES):
        found = weights(runs[f"latent-{strategy}"])
        moved = [key for key in found if key.startswith("weights-teacher/")]
        assert moved
        assert not all(torch.equal(found[key], found[key.replace("weights-teacher/", "weights/")]) for key in moved)


def assert_close(found, wanted):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        if not name.endswith("key.bias"):  # has no gradient but what rounding makes
            torch.testing.assert_close(
                found[name], value, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
            )


def test_gradients_are_exchanged_once_in_a_step_of_several_micro_batches(runs, folder):
    """Of 20 steps with two micro-batches: DDP has one bucket, FSDP three blocks, the decoder's and the rest."""
    assert json.loads((folder / "ddp.json").read_text()) in (20, 40)
    assert json.loads((folder / "fsdp.json").read_text()) == 20 * 5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_log_names_the_strategy(runs, strategy):
    text = {"ddp": "DDP: each has all weights", "fsdp": "FSDP: each has a part of weights"}[strategy]
    assert text in (runs[f"vit-{strategy}"] / "train.log").read_text()


def test_the_online_probe_measures_whole_weights(runs):
    for name in ("quality/rankme", "knn/top1"):
        found, wanted = (metrics(runs[f"vit-{s}"], name) for s in ("fsdp", "one"))
        torch.testing.assert_close(found[[0, -1]], wanted[[0, -1]], rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def resumed(runs, folder):
    """Runs that go on from step 10 of another: `(model, before, after)`."""
    found = {
        (model, before, after): interrupted(runs[f"{model}-{before}"], folder / f"{model}-{before}-{after}")
        for model, before, after in (*SAME, *OTHER)
    }
    run_all(
        [
            (task_of(model), {"out": str(out), "resume": True, "trainer.strategy": after})
            for (model, _, after), out in found.items()
            if after != "one"
        ]
    )
    for (model, _, after), out in found.items():
        if after == "one":
            api.call(task_of(model), {"out": str(out), "resume": True, "devices": 1})
    return found


def interrupted(run, out):
    """A copy of a run as it was after step 10."""
    shutil.copytree(run, out)
    for name in ("weights", "weights-last", "weights-teacher"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("summary.json", "checkpoints/step_000000020.ckpt", "checkpoints/latest.json"):
        (out / name).unlink()
    return out


@pytest.mark.parametrize(("model", "strategy", "_"), SAME)
def test_resuming_in_the_same_layout_goes_on_to_the_bit(runs, resumed, model, strategy, _):
    found, wanted = weights(resumed[model, strategy, strategy]), weights(runs[f"{model}-{strategy}"])
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("model", "before", "after"), OTHER)
def test_a_run_goes_on_in_another_layout(runs, resumed, model, before, after):
    found, wanted = resumed[model, before, after], runs[f"{model}-one"]
    torch.testing.assert_close(metrics(found, "train/loss"), metrics(wanted, "train/loss"), rtol=1e-5, atol=0)
    assert_close(weights(found), weights(wanted))
