"""Fine-tuning as a whole: what is chosen, judged and read, the kinds of labels, and what is refused in one line."""

import json
import signal

import pytest
import torch
from coloured import as_class, as_json, write_shards
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from mimsuite import api, app
from mimsuite.config.folder import conf_dir
from mimsuite.data.reader import ImageReader
from mimsuite.errors import InputError
from mimsuite.metrics.scores import METRICS
from mimsuite.objectives.classify import ClassifyObjective
from mimsuite.pictures.curves import read_metrics
from mimsuite.tasks import finetune
from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = {
    **{"model": "vit_nano", "model.hidden_size": 16, "model.num_hidden_layers": 2, "model.num_attention_heads": 2},
    **{"model.intermediate_size": 32, "model.patch_size": 4},
}
KEYS = {
    **{"batch": 16, "steps": 6, "val_every": 2, "precision": "32-true", "workers": 0, "lr": 0.01, "image_size": 16},
    **VIT,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images to train and test on, none to validate on."""
    return write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 160, "test": 30}, as_class)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run with averaged weights, its summary, and the reads of images: `(shard, key)` in their order."""
    out, read = tmp_path_factory.mktemp("run") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        right = ImageReader.__getitem__

        def look(self, item):
            read.append((self._transform.__class__.__name__, *place(self, item)))
            return right(self, item)

        patch.setattr(ImageReader, "__getitem__", look)
        summary = api.finetune(out=str(out), data=data, **KEYS | {"objective.ema": 0.5})
    return out, summary, read


def test_how_many_images_choose_the_weights_is_said_and_that_their_metrics_are_too_high(tmp_path, caplog):
    data = write_shards(tmp_path / "shards", {"train": 32, "val": 30}, as_class)
    caplog.set_level("INFO", "mimsuite")
    keys = KEYS | {"steps": 1, "val_every": 1}
    for limit, said in ((30, False), (9, True)):
        caplog.clear()
        api.finetune(out=str(tmp_path / f"{limit}"), data=data, **keys | {"loader.val_limit": limit})
        assert ("val metrics, and the choice by them, are of 9 of 30 images" in caplog.text) == said
    other = write_shards(tmp_path / "other", {"val": 30}, as_class, contrast=12)
    for number, (place, said) in enumerate(((data, True), (other, False))):
        caplog.clear()
        api.evaluate(init=str(tmp_path / "9"), data=place, out=str(tmp_path / f"e{number}"), workers=0, mistakes=0)
        assert ("were chosen by these images, so the metrics are too high for new ones" in caplog.text) == said


def place(reader, item):
    shard, row = reader._samples[item[1]]
    return shard.path.rpartition("/")[2].partition("-")[0], int(row["key"])


def tensors(out, folder="weights"):
    return load_file(out / folder / "model.safetensors")


@pytest.mark.slow
def test_the_run_folder_and_the_figures_have_the_agreed_names(run):
    out, summary, _ = run
    assert {p.name for p in out.iterdir()} >= {
        *("config.yaml", "metrics.csv", "summary.json", "train.log", "checkpoints", "weights", "weights-last"),
    }
    assert summary == json.loads((out / "summary.json").read_text())
    assert (summary["task"], summary["status"], summary["steps"]) == ("finetune", "done", 6)
    figures = {name for name in summary["metrics"] if not name.startswith(("perf/", "optim/"))}
    assert figures == {"train/loss", *(f"{s}/{name}" for s in ("val", "test") for name in ("loss", "top1"))}
    assert read_metrics(out / "metrics.csv")["val/top1"][0].tolist() == [0, 2, 4, 6]


@pytest.mark.slow
def test_nothing_of_test_is_read_before_the_end_and_nothing_held_out_is_learnt_from(run):
    read = run[2]
    assert [split for _, split, _ in read[-30:]] == ["test"] * 30
    before = read[:-30]
    assert {split for _, split, _ in before} == {"train"}
    learnt = {key for transform, _, key in before if transform == "Supervised"}
    chosen = {key for transform, _, key in before if transform == "CenterCrop"}
    assert len(chosen) == 16
    assert learnt
    assert not learnt & chosen


@pytest.mark.slow
def test_the_test_figures_are_those_of_evaluate(run, data, tmp_path):
    out, summary, _ = run
    found = api.evaluate(init=str(out), data=data, out=str(tmp_path / "eval"), split="test", workers=0)["metrics"]
    for name in ("top1", "loss"):
        assert found[f"test/{name}"] == pytest.approx(summary["metrics"][f"test/{name}"], rel=1e-6)


@pytest.mark.slow
def test_the_averaged_weights_are_saved(run):
    out, _, _ = run
    state = load_checkpoint(newest_checkpoint(out / "checkpoints"))["state_dict"]
    last = tensors(out, "weights-last")
    for name, value in last.items():
        assert torch.equal(value, state[f"averaged.module.{name}"]), name
    assert not torch.equal(last["classifier.weight"], state["model.classifier.weight"])


@pytest.mark.slow
def test_the_best_step_by_validation_is_what_lies_in_weights(data, tmp_path, monkeypatch):
    """Metrics made up for steps 0, 2, 4 and 6: the first counts for nothing, of two equal ones the earlier is kept."""
    made, saved = iter([0.9, 0.2, 0.5, 0.5]), {}
    right = ClassifyObjective.on_validation_epoch_end

    def pretend(self):
        right(self)
        self.last_metrics["val/top1"] = next(made)
        saved[self.trainer.global_step] = {k: v.clone() for k, v in self.evaluated_model.state_dict().items()}

    monkeypatch.setattr(ClassifyObjective, "on_validation_epoch_end", pretend)
    summary = api.finetune(out=str(tmp_path / "out"), data=data, **KEYS | {"objective.ema": 0.5})
    assert (summary["best_step"], summary["best_value"]) == (4, 0.5)
    for folder, step in (("weights", 4), ("weights-last", 6)):
        found = tensors(tmp_path / "out", folder)
        assert all(torch.equal(found[name], saved[step][name]) for name in found)
    assert not torch.equal(saved[4]["classifier.weight"], saved[6]["classifier.weight"])


@pytest.mark.slow
def test_the_best_value_is_that_of_the_weights_on_val(tmp_path):
    data = write_shards(tmp_path / "shards", {"train": 48, "val": 30}, as_class)
    summary = api.finetune(out=str(tmp_path / "out"), data=data, **KEYS | {"objective.ema": 0.5})
    assert not [name for name in summary["metrics"] if name.startswith("test/")]
    again = api.evaluate(init=str(tmp_path / "out"), data=data, out=str(tmp_path / "eval"), split="val", workers=0)[
        "metrics"
    ]
    assert again["val/top1"] == summary["best_value"]


SETS = as_json(lambda kind, draw: [kind] if draw.random() < 0.5 else [kind, (kind + 1) % 3])
NUMBERS = as_json(lambda kind, draw: float(10 * kind + draw.normal()))


@pytest.mark.slow
@pytest.mark.parametrize(("label", "kind"), [(SETS, "multilabel"), (NUMBERS, "regression")])
def test_label_sets_and_numbers(label, kind, tmp_path):
    names = ("red", "green", "blue") if kind == "multilabel" else None
    data = write_shards(tmp_path / "shards", {"train": 48, "val": 20, "test": 20}, label, names)
    mixed = {"objective.mixup": 0.8, "objective.cutmix": 1.0}
    summary = api.finetune(out=str(tmp_path / "out"), data=data, **KEYS | mixed)
    found = {name for name in summary["metrics"] if name.startswith(("val/", "test/"))}
    assert found == {f"{split}/{name}" for split in ("val", "test") for name in (*METRICS[kind], "loss")}
    values = read_metrics(tmp_path / "out" / "metrics.csv")[f"val/{METRICS[kind][0]}"][1]
    assert summary["best_value"] == max(values[1:])
    config = json.loads((tmp_path / "out" / "weights" / "config.json").read_text())
    problem, outputs = {"multilabel": ("multi_label_classification", 3), "regression": ("regression", 1)}[kind]
    assert (config["problem_type"], len(config.get("id2label", [0]))) == (problem, outputs)
    for split in ("val", "test"):
        again = api.evaluate(init=str(tmp_path / "out"), data=data, out=str(tmp_path / split), split=split, workers=0)[
            "metrics"
        ][f"{split}/{METRICS[kind][0]}"]
        wanted = summary["best_value"] if split == "val" else summary["metrics"][f"test/{METRICS[kind][0]}"]
        assert again == pytest.approx(wanted, abs=1e-6)


def config(values, *more):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        overrides = [*(f"{k}={v}" for k, v in values.items()), *more]
        return compose("finetune", overrides), overrides


@pytest.mark.slow
def test_without_the_callback_the_last_weights_are_the_weights(data, tmp_path):
    out = tmp_path / "out"
    summary = finetune.run(*config({"out": out, "data": data, **KEYS}, "~callbacks.best_weights"))
    assert summary["status"] == "done"
    assert "best_step" not in summary
    found, last = tensors(out), tensors(out, "weights-last")
    assert all(torch.equal(found[name], last[name]) for name in last)
    assert "test/top1" in summary["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize(("ema", "prefix"), [(None, "model."), (0.5, "averaged.module.")])
def test_a_signal_leaves_a_checkpoint_that_loads_as_what_is_judged(data, ema, prefix, tmp_path, monkeypatch):
    out, right = tmp_path / "out", ClassifyObjective.training_step

    def step(self, batch, index):
        if self.trainer.global_step == 2:
            signal.raise_signal(signal.SIGTERM)
        return right(self, batch, index)

    monkeypatch.setattr(ClassifyObjective, "training_step", step)
    summary = api.finetune(out=str(out), data=data, **KEYS | {"val_every": 5, "objective.ema": ema})
    assert (summary["exit_code"], summary["status"], summary["steps"]) == (143, "interrupted", 3)
    assert not (out / "weights").exists()
    model = api.load(str(out))
    assert type(model).__name__ == "ViTForImageClassification"
    assert model.config.id2label == {0: "red", 1: "green", 2: "blue"}
    state = load_checkpoint(newest_checkpoint(out / "checkpoints"))["state_dict"]
    assert all(torch.equal(value, state[f"{prefix}{name}"]) for name, value in model.state_dict().items())


def outcome(capsys, **values):
    """Exit code and stderr of the task, run in this process."""
    code = app.run_guarded(lambda: int(api.call("finetune", values).get("exit_code", 0)), "finetune")
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model": "bit_nano", "head.pool": "cls"}, "head.pool=cls, but this encoder has no class token"),
        ({"head.pool": "max"}, "head.pool=max is unknown"),
        ({"head.std": -1}, "head.std=-1 is not a number from 0"),
        ({"freeze": 99}, "freeze=99: this encoder has 4 blocks; use a number from 0 to 4, or all"),
        ({"freeze": "none"}, "freeze=none: this encoder has 4 blocks"),
        ({"label_fraction": 0}, "label_fraction=0 is not a number above 0"),
        ({"class_weights": [1, 2]}, "class_weights=[1, 2] is not a list of 3 numbers"),
        ({"objective.mixup": -1}, "objective.mixup=-1 is not a number from 0"),
        ({"objective.smoothing": 2}, "objective.smoothing=2 is not a number from 0 to below 1"),
        ({"objective.ema": 1}, "objective.ema=1 is not a number from 0 to below 1"),
        ({"layer_decay": 1.5}, "layer_decay=1.5 is above 1"),
        ({"layer_decay": 0}, "layer_decay=0 is not a number above 0"),
        ({"drop_path": 1}, "drop_path=1 is not a number from 0 to below 1"),
        ({"image_size": 62}, "image height 62 is not a multiple of the model's stride 8"),
        ({"schedule.warmup": -1}, "schedule.warmup=-1 is neither a whole number of steps"),
        ({"optim.weight_decay": -0.1}, "optim.weight_decay=-0.1 is not a number from 0"),
        ({"optim.base_lr": "fast"}, "optim.base_lr=fast is not a number above 0"),
        ({"optim": "adamm"}, "did you mean optim=adamw?"),
        ({"schedule": "cosin"}, "did you mean schedule=cosine?"),
        ({"objective.mixupp": 1}, "mixup"),
        ({"batch": 500}, "batch=500 is larger than the 144 training images"),
        ({"steps": 5, "epochs": 2}, "steps=5 and epochs=2 are both set"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_bad_values_are_refused_in_one_line_and_out_is_not_touched(values, says, data, tmp_path, capsys):
    keys = {"data": data, "out": str(tmp_path / "out"), "model": "vit_nano", "batch": 16, "workers": 0}
    code, err = outcome(capsys, **keys | values)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"optim.betas": [2, 0]}, "Invalid beta"),
        ({"schedule.cooldown": -1}, "schedule.cooldown=-1 is neither a whole number"),
        ({"augment.erasing": 2}, "erasing"),
        ({"augment.rand_augment": {"layers": -1}}, "rand_augment"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_values_that_only_torch_can_judge_are_refused_in_one_line(values, says, data, tmp_path, capsys):
    code, err = outcome(capsys, **{"data": data, "out": str(tmp_path / "out"), **KEYS} | values)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out" / "weights").exists()


def unlabelled(folder):
    write_shards(folder, {"train": 30, "val": 5}, lambda *_: [])


def beyond_the_names(folder):
    write_shards(folder, {"train": 30, "val": 5}, as_class, ("red", "green"))


def new_in_val(folder):
    write_shards(folder, {"train": 30}, lambda kind, _: as_class(min(kind, 1), _), None)
    write_shards(folder / "more", {"val": 5}, as_class, None)
    (folder / "more" / "val-000000.tar").rename(folder / "val-000000.tar")
    (folder / "more").rmdir()


def empty_val(folder):
    write_shards(folder, {"train": 30, "val": 5}, as_class)
    api.inspect(data=str(folder), out=str(folder.parent / "inspected"), index=True)
    file = folder / "index.json"
    content = json.loads(file.read_text())
    content["splits"]["val"] = []
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (unlabelled, "has no labels, and finetune needs some"),
        (beyond_the_names, "allowed is 0 to 1 (the data set's classes)"),
        (new_in_val, "val has a label 2, but the training images have classes 0 to 1"),
        (empty_val, "names a split val that holds no images"),
    ],
)
def test_bad_labels_are_refused_in_one_line_and_out_is_not_touched(make, says, tmp_path, capsys):
    make(tmp_path / "shards")
    capsys.readouterr()
    code, err = outcome(capsys, **{"data": str(tmp_path / "shards"), "out": str(tmp_path / "out"), **KEYS, "batch": 8})
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_test_images_that_cannot_be_read_cost_no_weights(tmp_path):
    data = write_shards(tmp_path / "shards", {"train": 48, "val": 10, "test": 10}, as_class, broken=("test",))
    with pytest.raises(InputError, match="10 images in a row cannot be decoded"):
        api.finetune(out=str(tmp_path / "out"), data=data, **KEYS)
    assert tensors(tmp_path / "out").keys() == tensors(tmp_path / "out", "weights-last").keys()


def test_labels_of_shards_that_count_from_one_keep_their_numbers_and_are_named(tmp_path, capsys):
    """Runs that were trained on the same shards have an output for class 0, too."""
    source = write_shards(
        tmp_path / "shards", {"train": 40}, lambda kind, _: [("cls", str(kind + 1).encode())], names=None
    )
    out = tmp_path / "out"
    api.finetune(out=str(out), data=source, **KEYS | {"steps": 1, "val_every": 1, "batch": 8})
    assert load_file(out / "weights" / "model.safetensors")["classifier.weight"].shape[0] == 4
    assert capsys.readouterr().out.count("no image has class 0, so the labels seem to count from 1") == 1
