"""Fine-tuning that repeats, stops, is killed and goes on: the same bits, the same best weights, the same figures."""

import json
import os
import signal

import pytest
import torch
from coloured import write_shards
from safetensors.torch import load_file

from mimsuite import api, app
from mimsuite.callbacks.checkpoints import Checkpoints
from mimsuite.errors import InputError
from mimsuite.pictures.curves import read_metrics
from mimsuite.runs import life as training

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

VIT = {
    **{"model": "vit_nano", "model.hidden_size": 24, "model.num_hidden_layers": 2, "model.num_attention_heads": 2},
    **{"model.intermediate_size": 48, "model.patch_size": 4, "lr": 0.01},
}
CVT = {"model": "cvt_nano", "model.depth": [1, 1], "model.embed_dim": [8, 24], "lr": 0.03}
KEYS = {
    **{"batch": 16, "steps": 12, "val_every": 4, "save_every": 4, "micro_batch": 8, "precision": "32-true"},
    **{"workers": 0, "seed": 1, "image_size": 16, "callbacks.monitor.log_every": 1, "drop_path": 0.2},
    **{"objective.mixup": 0.8, "objective.cutmix": 1.0, "objective.ema": 0.7, "augment.erasing": 0.5},
    "augment.rand_augment": {"layers": 2, "magnitude": 9},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noisy pictures whose class is their mean colour."""
    return write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 60, "val": 45, "test": 30})


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Uninterrupted runs, made when first asked for."""
    made = {}

    def run(name):
        if name not in made:
            out = tmp_path_factory.mktemp(name) / "out"
            made[name] = out, finetune(out, data, name)
        return made[name]

    return run


def finetune(out, data, name, **changes):
    return api.finetune(out=str(out), data=data, **({"vit": VIT, "cvt": CVT}[name] | KEYS | changes))


def tensors(out):
    return {
        f"{folder}/{name}": value
        for folder in ("weights", "weights-last")
        for name, value in load_file(out / folder / "model.safetensors").items()
    }


def figures(out):
    series = read_metrics(out / "metrics.csv")
    return {name: [x.tolist() for x in pair] for name, pair in series.items() if not name.startswith("perf/")}


def facts(summary):
    metrics = {name: value for name, value in summary["metrics"].items() if not name.startswith("perf/")}
    return {key: summary[key] for key in ("status", "steps", "best_step", "best_value")} | metrics


def assert_same_run(out, summary, wanted_out, wanted):
    found, other = tensors(out), tensors(wanted_out)
    assert found.keys() == other.keys()
    assert not [name for name in other if not torch.equal(found[name], other[name])]
    assert facts(summary) == facts(wanted)
    assert figures(out) == figures(wanted_out)


class Killed(BaseException):
    """Ends a run at once, without a word, as SIGKILL does."""


def signalled_at(step, monkeypatch):
    monkeypatch.setattr(Checkpoints, "_agreed", lambda self, trainer, now: (143 * (now == step), False))


def killed_in_validation_of(step, monkeypatch):
    right = Checkpoints.on_validation_end

    def kill(self, trainer, module):
        if trainer.global_step == step:
            raise Killed
        right(self, trainer, module)

    monkeypatch.setattr(Checkpoints, "on_validation_end", kill)


def killed_after_training(_, monkeypatch):
    def kill(*_):
        raise Killed

    monkeypatch.setattr(training, "write_results", kill)


@pytest.mark.parametrize("name", ["vit", "cvt"])
def test_a_run_repeats_to_the_bit(name, whole, data, tmp_path):
    wanted_out, wanted = whole(name)
    assert_same_run(tmp_path / "out", finetune(tmp_path / "out", data, name), wanted_out, wanted)


@pytest.mark.parametrize(
    ("name", "end", "step", "committed"),
    [
        ("vit", signalled_at, 6, 6),
        ("cvt", signalled_at, 6, 6),
        ("vit", signalled_at, 8, 8),  # a step that validates
        ("vit", killed_in_validation_of, 8, 4),
        ("vit", killed_after_training, None, 12),
        ("cvt", killed_in_validation_of, 12, 8),
    ],
)
def test_an_interrupted_run_goes_on_to_the_bit(name, end, step, committed, whole, data, tmp_path):
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        end(step, patch)
        if end is signalled_at:
            stopped = finetune(out, data, name)
            assert (stopped["exit_code"], stopped["status"], stopped["steps"]) == (143, "interrupted", step)
        else:
            with pytest.raises(Killed):
                finetune(out, data, name)
    assert json.loads((out / "checkpoints" / "latest.json").read_text())["step"] == committed
    resumed = api.finetune(out=str(out), resume=True)
    assert_same_run(out, resumed, *whole(name))


def test_a_second_signal_does_not_keep_a_stopped_run_from_its_summary(data, tmp_path, monkeypatch):
    """As where a process learns from several sides that it must stop; before and after the run it is ours."""
    heard, finish = [], training.write_results

    def late(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(*arguments)

    signalled_at(6, monkeypatch)
    monkeypatch.setattr(training, "write_results", late)
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        stopped = finetune(tmp_path / "out", data, "vit")
        assert (stopped["exit_code"], stopped["status"], heard) == (143, "interrupted", [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("name", ["vit", "cvt"])
def test_the_first_of_the_best_validations_is_in_the_summary_and_in_the_weights(name, whole):
    out, summary = whole(name)
    steps, values = (column[1:] for column in figures(out)["val/top1"])
    assert (summary["best_value"], summary["best_step"]) == (max(values), steps[values.index(max(values))])
    found = tensors(out)
    last = {k: v for k, v in found.items() if k.startswith("weights-last/")}
    equal = all(torch.equal(found[k.replace("-last", "")], v) for k, v in last.items())
    assert equal == (summary["best_step"] == 12)


def test_a_finished_run_resumes_to_the_same(whole):
    out, wanted = whole("vit")
    before, series = tensors(out), figures(out)
    code = app.run_guarded(lambda: int(api.finetune(out=str(out), resume=True).get("exit_code", 0)), "finetune")
    assert code == 0
    assert all(torch.equal(before[name], value) for name, value in tensors(out).items())
    assert facts(json.loads((out / "summary.json").read_text())) == facts(wanted)
    assert figures(out) == series


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("label_fraction", 0.5), ("objective.mixup", 0.2), ("freeze", 1), ("class_weights", "balanced")),
        *(("layer_decay", 0.5), ("objective.ema", 0.5), ("head.pool", "mean"), ("augment.erasing", 0.1)),
    ],
)
def test_resuming_refuses_what_would_change_the_result(key, value, whole):
    with pytest.raises(InputError, match=f"resume=true cannot change {key}: the run has ") as error:
        api.finetune(out=str(whole("vit")[0]), resume=True, **{key: value})
    assert "\n" not in str(error.value)


def test_a_finished_run_goes_on_with_more_steps(data, tmp_path):
    out = tmp_path / "out"
    first = finetune(out, data, "vit", steps=4)
    more = api.finetune(out=str(out), resume=True, steps=8)
    assert (first["steps"], more["steps"]) == (4, 8)
    assert figures(out)["val/top1"][0] == [0, 4, 8]
    assert more["best_value"] == max(figures(out)["val/top1"][1][1:])
