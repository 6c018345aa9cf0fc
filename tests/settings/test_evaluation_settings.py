"""What `probe`, `embed` and `evaluate` read: sizes and splits by one rule, and every check before torch is imported."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
import torch
from coloured import write_shards
from hydra import compose, initialize_config_dir

from mimsuite import api
from mimsuite.config.folder import conf_dir
from mimsuite.data.index import Selection
from mimsuite.data.open import open_data
from mimsuite.errors import InputError
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling
from mimsuite.settings.embed import read_embed
from mimsuite.settings.evaluate import read_evaluate
from mimsuite.settings.hiding import read_masked_model
from mimsuite.settings.images import choose_split, read_image_size, read_image_sizes
from mimsuite.settings.probe import read_probe

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", {"train": 30, "val": 12, "test": 12}, contrast=90)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=16, patch_size=8, encoder_stride=8)
    ViTForMaskedImageModeling(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def probe(model, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "probe"
    keys = {"workers": 0, "baselines": False, "preset.epochs": 1}
    api.call("probe", {"init": model, "data": shards, "out": str(out), **keys})
    return str(out)


def read(task, **values):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose(task, [f"{key}={value}" for key, value in values.items()])
    readers = {"probe": read_probe, "embed": read_embed, "evaluate": lambda cfg: read_evaluate(cfg, ())}
    return readers[task](cfg)


def test_masks_and_loss_are_those_of_the_run_and_named(model, shards, tmp_path):
    more = {"objective.loss": "mse", "mask": "multi_block"}
    run, sizes = (
        tmp_path / "run",
        {"image_size": 32, "model.patch_size": 4, "model": "vit_nano", "batch": 8, "steps": 1},
    )
    api.call("pretrain", {"out": str(run), "data": shards, "workers": 0, "online_probe": False, **sizes, **more})
    masking = read("evaluate", init=run, data=shards, out=tmp_path / "out").masking
    assert masking.note.startswith("MultiBlockMask, units of 4 px, as the run validated")
    assert (masking.loss, read_masked_model(str(run), "auto").loss) == ("mse", "mse")
    assert read_masked_model(model, "auto").loss == "l1"


def test_auto_is_the_size_of_the_weights_else_224():
    assert read_image_size("auto", (32, 48)) == (32, 48)
    assert read_image_size("auto", None) == (224, 224)
    assert read_image_size(96, (32, 48)) == (96, 96)
    assert read_image_size([96, 160], None) == (96, 160)


def test_two_numbers_are_one_size_and_three_or_lists_are_several():
    assert read_image_sizes("auto", None) == ((224, 224),)
    assert read_image_sizes([96, 160], None) == ((96, 160),)
    assert read_image_sizes([32, 48, 64], None) == ((32, 32), (48, 48), (64, 64))
    assert read_image_sizes([[32, 48], 32], None) == ((32, 48), (32, 32))
    with pytest.raises(InputError, match="names a size twice"):
        read_image_sizes([32, 48, 32], None)


@pytest.mark.parametrize(("splits", "expected"), [(("train", "val", "test"), "test"), (("train", "val"), "val")])
@pytest.mark.parametrize("otherwise", ["held_out", "train"])
def test_auto_is_test_else_val(splits, expected, otherwise, tmp_path):
    index = open_data(write_shards(tmp_path / "s", dict.fromkeys(splits, 12)))
    assert choose_split(index, "auto", otherwise=otherwise) == Selection(expected)
    assert choose_split(index, "train", otherwise=otherwise) == Selection("train")


def test_without_test_and_val_auto_does_what_the_task_says(tmp_path):
    index = open_data(write_shards(tmp_path / "s", {"train": 30}))
    assert choose_split(index, "auto", otherwise="train") == Selection("train")
    assert choose_split(index, "auto", otherwise="held_out") == Selection("train", "held")
    assert choose_split(index, "auto") == Selection("train", "held")
    with pytest.raises(InputError, match="split=dev is not in"):
        choose_split(index, "dev", otherwise="train")


@pytest.mark.parametrize("task", ["probe", "embed", "evaluate"])
def test_settings_are_frozen(task, model, shards, tmp_path):
    out = tmp_path / ("x.npz" if task == "embed" else "out")
    settings = read(task, init=model, data=shards, out=out)
    with pytest.raises(FrozenInstanceError):
        settings.batch = 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        ("probe", "attentive=1"),
        ("probe", "devices=0"),
        ("embed", "pool=cls,layer=7"),
        ("evaluate", "mistakes=-1"),
        ("evaluate", "workers=-1"),
        ("evaluate", "split=dev"),
    ],
)
def test_what_is_wrong_is_found_without_torch_and_before_writing(task, wrong, probe, model, shards, tmp_path):
    """Also of a probe, whose head is checked, but not loaded."""
    init = probe if task == "evaluate" else model
    out = tmp_path / ("x.npz" if task == "embed" else "out")
    values = {"init": init, "data": shards, "out": str(out)} | dict(pair.split("=") for pair in wrong.split(","))
    code = f"""if True:
        import sys
        from mimsuite import api
        from mimsuite.errors import InputError
        try:
            api.call({task!r}, {values!r})
        except InputError as error:
            print("torch" in sys.modules, error)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1].startswith("False "), result.stdout + result.stderr
    assert wrong.split(",")[-1].split("=")[0] in result.stdout
    assert list(tmp_path.iterdir()) == []


def labelled(folder, names, **splits):
    """Shards with the labels of each split."""
    labels = iter([label for split in splits.values() for label in split])
    counts = {split: len(found) for split, found in splits.items()}
    return write_shards(folder, counts, lambda *_: [("json", b'{"label": %s}' % next(labels))], names)


WRONG_LABELS = {
    "one class": (None, [b"1"] * 6, [b"1"], "class 1 is the only class of 6 training images"),
    "lists and numbers": (None, [b"1", b"[0]"] * 3, [b"1"], "labels are lists in some samples and single numbers"),
    "another kind": (None, [b"1", b"0"] * 3, [b"0.5"], "the training labels are classes, those of val are not"),
    "a class more": (None, [b"1", b"0"] * 3, [b"2"], "val has a label 2, but the training images have classes 0 to 1"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_labels_are_checked_before_a_probe_writes_anything(case, model, tmp_path):
    names, train, val, says = WRONG_LABELS[case]
    data = labelled(tmp_path / "data", names, train=train, val=val)
    with pytest.raises(InputError, match=says):
        read("probe", init=model, data=data, out=tmp_path / "out")


def test_a_class_without_training_images_is_named(model, tmp_path):
    splits = {"train": [b"1", b"0"] * 3, "val": [b"0", b"2", b"2", b"1"]}
    data = labelled(tmp_path / "data", ["ant", "bee", "cow"], **splits)
    says = ("2 of 4 images of val have a class without training images (cow), which no model can find",)
    assert read("probe", init=model, data=data, out=tmp_path / "out").warnings == says
