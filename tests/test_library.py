"""mimsuite as a library: the parts of a run in one's own Trainer, and one's own objects in the tasks."""

import inspect
import json

import lightning
import pytest
import torch
from coloured import write_shards
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import mimsuite
from mimsuite.data.augment.crop import CenterCrop
from mimsuite.errors import InputError
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling
from mimsuite.pictures.curves import read_metrics

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),  # Lightning against torch 2.13
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONFIG = ViTConfig(**SIZES, image_size=32, patch_size=8, encoder_stride=8)
KEYS = {"batch": 8, "steps": 4, "val_every": 2, "workers": 0, "precision": "32-true", "image_size": 32}
OFTEN = {"callbacks.monitor.log_every": 2}
SILENT = {"enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 24, "val": 12}, side=32)


class Checkerboard:
    """Hides every second unit."""

    def __call__(self, grid, generator):
        rows, columns = (torch.arange(side) for side in grid)
        return (rows[:, None] + columns) % 2 == 0


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert not [name for name, value in ours.items() if not torch.equal(value, theirs[name])]


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_built_parts_give_the_numbers_of_the_command_in_ones_own_trainer(task, data, tmp_path):
    keys = KEYS | OFTEN | {"data": data, "model": CONFIG}
    summary = getattr(mimsuite, task)(out=tmp_path / "run", logger=CSVLogger(tmp_path), **keys)
    module, loaders, arguments = mimsuite.build(task, **keys)
    kept = ModelCheckpoint(dirpath=tmp_path / "mine", monitor="val/loss")
    log = CSVLogger(tmp_path, name="log")
    trainer = lightning.Trainer(**arguments, **SILENT, callbacks=[kept, EarlyStopping("val/loss")], logger=log)
    trainer.fit(module, datamodule=loaders)
    place = tmp_path / "run" / ("weights" if task == "pretrain" else "weights-last")
    same(weights(module.model), weights(mimsuite.load(str(place))))
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"train/loss", "optim/lr", "optim/grad_norm", "val/loss"} <= found.keys()
    wanted = {name: summary["metrics"][name] for name in found}
    assert found == pytest.approx(wanted, rel=1e-6)
    assert kept.best_model_score == min(read_metrics(tmp_path / "run" / "metrics.csv")["val/loss"][1][1:])
    module.save_pretrained(tmp_path / "saved")
    same(weights(mimsuite.load(str(tmp_path / "saved"))), weights(module.model))
    files = [json.loads((folder / "preprocessor_config.json").read_text()) for folder in (tmp_path / "saved", place)]
    assert files[0] == files[1]


def test_metrics_reach_lightning_at_log_points_only(data, monkeypatch):
    module, loaders, arguments = mimsuite.build(data=data, model=CONFIG, **KEYS | OFTEN)
    logged, plain, report = [], type(module).log_dict, type(module).report_training

    def count(self, metrics, **options):
        logged.append((self.trainer.global_step, self.trainer.sanity_checking, sorted(metrics)[0]))
        plain(self, metrics, **options)

    def count_training(self, loss):
        metrics = report(self, loss)
        assert {name: float(self.trainer.callback_metrics[name]) for name in metrics} == pytest.approx(metrics)
        logged.append((self.trainer.global_step, self.trainer.sanity_checking, sorted(metrics)[0]))

    monkeypatch.setattr(type(module), "log_dict", count)
    monkeypatch.setattr(type(module), "report_training", count_training)
    lightning.Trainer(**arguments, **SILENT, logger=False, enable_checkpointing=False).fit(module, datamodule=loaders)
    train, val = "optim/grad_norm", "val/loss"
    assert logged == [(0, True, val), (2, False, train), (2, False, val), (4, False, train), (4, False, val)]


def test_early_stopping_of_a_config_ends_a_run_as_done(data, tmp_path, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    stopping = {
        "+callbacks.es._target_": "lightning.pytorch.callbacks.EarlyStopping",
        "+callbacks.es.monitor": "val/loss",
        "+callbacks.es.patience": 1,
        "+callbacks.es.min_delta": 99.0,  # nothing is ever this much better
    }
    summary = mimsuite.pretrain(out=tmp_path / "run", data=data, model=CONFIG, **KEYS | stopping | {"steps": 20})
    assert (summary["status"], summary["steps"]) == ("done", 4)
    assert "stopped early at step 4 of 20: Monitored metric val/loss did not improve in the last 1" in caplog.text
    assert "done: 4 steps" in caplog.text
    assert json.loads((tmp_path / "run" / "checkpoints" / "latest.json").read_text())["step"] == 4


def test_objects_take_the_place_of_config_nodes(data, tmp_path, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    kept, log = ModelCheckpoint(dirpath=tmp_path / "mine"), CSVLogger(tmp_path, name="log")
    summary = mimsuite.pretrain(
        out=tmp_path / "run",
        data=data,
        model=CONFIG,
        mask=Checkerboard(),
        augment=CenterCrop([32, 32]),
        callbacks=kept,
        logger=[log],
        **KEYS,
        **{"mask.unit": 8},
    )
    assert summary["status"] == "done"
    assert "masks     units of 8 px: 8 of 16 hidden, 8 visible\n" in f"{caplog.text}\n"
    assert [path.name for path in (tmp_path / "mine").glob("*.ckpt")] == ["epoch=0-step=4.ckpt"]
    assert not (tmp_path / "run" / "wandb").exists()
    stored = (tmp_path / "run" / "config.yaml").read_text()
    assert f"_target_: {__name__}.Checkerboard" in stored
    assert "_target_: mimsuite.data.augment.crop.CenterCrop" in stored


def test_a_run_with_objects_goes_on_when_they_are_given_again(data, tmp_path):
    keys = KEYS | {"data": data, "mask.unit": 8}
    given = {"model": CONFIG, "mask": Checkerboard(), "augment": CenterCrop([32, 32])}
    mimsuite.pretrain(out=tmp_path / "run", **given, **keys)
    assert "hidden_size: 16" in (tmp_path / "run" / "config.yaml").read_text()
    summary = mimsuite.pretrain(out=tmp_path / "run", resume=True, steps=6, **given)
    assert (summary["status"], summary["steps"]) == ("done", 6)
    with pytest.raises(InputError, match=r"^_target_=.*Checkerboard is not allowed"):
        mimsuite.pretrain(out=tmp_path / "run", resume=True, steps=8)


def test_a_model_in_memory_is_a_start_like_saved_weights(data, tmp_path):
    torch.manual_seed(3)
    model = ViTForMaskedImageModeling(CONFIG)
    model.save_pretrained(tmp_path / "saved")
    before = weights(model)
    for name, start in (("a", {"model": model}), ("b", {"init": tmp_path / "saved"})):
        mimsuite.pretrain(out=tmp_path / name, data=data, **KEYS | {"steps": 1, "val_every": 1}, **start)
    same(*(weights(mimsuite.load(str(tmp_path / name))) for name in "ab"))
    same(weights(model), before)
    with pytest.raises(InputError, match=r"^init=demo:vit and model=ViTForMaskedImageModeling both have weights"):
        mimsuite.pretrain(out=tmp_path / "c", data=data, model=model, init="demo:vit", **KEYS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask": Checkerboard}, "^mask=.* draws no masks; give an object"),
        ({"mask": 3}, "^mask=3 draws no masks"),
        ({"augment": len}, "^augment=.* is not an augmentation; give an object with size, box"),
        ({"augment": CenterCrop([16, 16])}, r"^augment= makes images of \(16, 16\) pixels, the run's are 32x32"),
        ({"callbacks": [3]}, r"^callbacks=3 is not a lightning.pytorch Callback"),
        ({"logger": 3}, r"^logger=3 is not a lightning.pytorch Logger"),
        ({"model": torch.nn.Linear(1, 1)}, r"^model=Linear is neither a config nor a model of mimsuite.models"),
        ({"mask": lambda grid, generator: torch.zeros(grid)}, r"^mask: function returns torch\.float32"),
        ({"mask": lambda grid, generator: torch.zeros(grid, dtype=torch.bool)}, "hides nothing"),
        ({"mask": Checkerboard(), "devices": 2}, "^mask= is an object, which the processes .* do not get"),
    ],
)
def test_an_object_that_will_not_do_is_refused_before_out_is_touched(values, message, data, tmp_path):
    with pytest.raises(InputError, match=message):
        mimsuite.pretrain(out=tmp_path / "run", data=data, **{"model": CONFIG, **KEYS, **values})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mimsuite.evaluate(init="x", out="y", mask=Checkerboard()), "only pretrain, bench take objects"),
        (lambda: mimsuite.finetune(out="y", callbacks=3), "^callbacks=3 is not"),
        (lambda: mimsuite.build("probe"), "only pretrain and finetune train"),
        (lambda: mimsuite.build(out="x"), "^build takes no out="),
    ],
)
def test_what_takes_no_objects_says_so(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_functions_complete_their_keys():
    assert {"steps", "lr", "mask", "val_every", "overrides"} <= inspect.signature(mimsuite.pretrain).parameters.keys()
    assert "batch: images per optimizer step" in mimsuite.pretrain.__doc__


def test_listing_models_returns_rows_and_prints_nothing(capsys, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    (row,) = mimsuite.list_models(name="vit_nano")
    assert (row["name"], row["parameters"]) == ("vit_nano", 491136)
    assert (capsys.readouterr().out, caplog.text) == ("", "")
    assert mimsuite.api.call("models", {"name": "vit_nano"})["models"] == [row]
    assert "GFLOPs" in caplog.text
