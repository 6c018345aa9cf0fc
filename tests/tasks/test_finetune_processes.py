"""Fine-tuning in two processes: the losses, figures, best weights and test figures of one."""

import json

import pytest
import torch
from coloured import write_shards
from processes import run_two
from safetensors.torch import load_file

from mimsuite import api
from mimsuite.pictures.curves import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = {
    **{"model": "vit_nano", "model.hidden_size": 16, "model.num_hidden_layers": 2, "model.num_attention_heads": 2},
    **{"model.intermediate_size": 32, "model.patch_size": 4, "image_size": 16, "batch": 16, "steps": 12},
    **{"val_every": 4, "precision": "32-true", "workers": 0, "lr": 0.01, "seed": 1, "callbacks.monitor.log_every": 1},
    **{"objective.ema": 0.7, "label_fraction": 0.9, "class_weights": "balanced"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noisy pictures whose class is their mean colour; 45 to validate on, which two processes cannot share evenly."""
    return write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 60, "val": 45, "test": 30})


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "out"
    return out, api.finetune(out=str(out), data=data, **KEYS)


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "out"
    run_two("finetune", out=out, data=data, **KEYS)
    return out, json.loads((out / "summary.json").read_text())


def series(out, name):
    steps, values = read_metrics(out / "metrics.csv")[name]
    return steps.tolist(), torch.tensor(values)


def test_two_processes_give_the_losses_of_one(one, two):
    for name in ("train/loss", "val/loss"):
        (steps, wanted), (own, found) = (series(out, name) for out, _ in (one, two))
        assert own == steps == (list(range(1, 13)) if name == "train/loss" else [0, 4, 8, 12])
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_two_processes_give_the_figures_of_one(one, two):
    (steps, wanted), (own, found) = (series(out, "val/top1") for out, _ in (one, two))
    assert own == steps
    assert found.tolist() == wanted.tolist()
    assert len(set(series(one[0], "val/top1")[1].tolist())) > 1
    for key in ("status", "steps", "best_step", "best_value"):
        assert two[1][key] == one[1][key]
    assert two[1]["metrics"]["test/top1"] == one[1]["metrics"]["test/top1"]


@pytest.mark.parametrize("folder", ["weights", "weights-last"])
def test_two_processes_write_the_averaged_weights_of_one_once(folder, one, two):
    wanted, found = (load_file(out / folder / "model.safetensors") for out, _ in (one, two))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name.endswith("attention.key.bias"):
            continue  # of no effect, as softmax takes it out: what reaches AdamW is rounding, made as large as any step
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
    assert (two[0] / "train.log").read_text().count("done: 12 steps") == 1
