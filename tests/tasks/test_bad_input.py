"""Bad input of every kind: exit code 2, one line that says what, the value, and the fix; `out` stays untouched."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mimsuite import api, app
from mimsuite.data.open import open_data
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError


def outcome(capsys, task, **values):
    """Exit code and stderr of a task, run in this process."""
    code = app.run_guarded(lambda: int(api.call(task, values).get("exit_code", 0)), task)
    return code, capsys.readouterr().err


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twenty-four pictures in two classes."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir()
        for i in range(12):
            pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def shards(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(images, out, shard_size=20_000)
    return out


def copy_of(shards, tmp_path):
    """The shards without their index, so that the headers are scanned."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in shards.glob("*.tar"):
        shutil.copy(path, folder)
    return folder


def cut_shard(shards, tmp_path):
    folder = copy_of(shards, tmp_path)
    path = min(folder.glob("*.tar"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])
    return folder


def cut_indexed_shard(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "copy")
    path = min((tmp_path / "copy").glob("*.tar"))
    path.write_bytes(path.read_bytes()[:-2000])
    return tmp_path / "copy"


def text_as_tar(shards, tmp_path):
    (tmp_path / "train-000000.tar").write_text("not a tar file, " * 200)
    return tmp_path


def empty_tar(shards, tmp_path):
    (tmp_path / "train-000000.tar").touch()
    return tmp_path


def broken_images(shards, tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.jpg").write_bytes(b"\xff\xd8\xff" + os.urandom(50))
    return tmp_path


def empty_folder(shards, tmp_path):
    return tmp_path


def missing_folder(shards, tmp_path):
    return tmp_path / "nowhere"


def no_image(shards, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (missing_folder, "does not exist or cannot be accessed"),
        (empty_folder, "data="),
        (no_image, "data="),
        (cut_shard, "train-000000.tar"),
        (cut_indexed_shard, "train-000000.tar"),
        (text_as_tar, "train-000000.tar"),
        (empty_tar, "train-000000.tar"),
        (broken_images, "image"),
    ],
)
def test_bad_data_is_named(make, says, shards, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    data = make(shards, tmp_path / "data")
    code, err = outcome(capsys, "pretrain", data=str(data), out=str(tmp_path / "out"), model="vit_nano", batch=8)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("closed", ["folder", "parent"])
def test_an_unreadable_folder_is_named(closed, shards, tmp_path):
    data = tmp_path / "parent" / "secret"
    shutil.copytree(shards, data)
    (data if closed == "folder" else data.parent).chmod(0)
    was, who = os.geteuid(), 65534
    if was == 0:  # root may read everything, so be nobody for a moment
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        os.seteuid(who)
    try:
        with pytest.raises(InputError, match="secret") as error:
            open_data(str(data))
        assert len(str(error.value).splitlines()) == 1
    finally:
        os.seteuid(was)
        (data if closed == "folder" else data.parent).chmod(0o755)


def test_config_errors_answer_within_two_seconds_without_torch(tmp_path, processor_seconds):
    code = (
        "import sys, mimsuite\n"
        "try: mimsuite.pretrain(out=sys.argv[1], model='vit_nano', image_size=100)\n"
        "except ValueError as error: print(error)\n"
        "print([name for name in ('torch', 'lightning', 'wandb') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines()[-2:] == [
        "image height 100 is not a multiple of the model's stride 8; use image_size=96 or 104",
        "[]",
    ]
    assert processor_seconds() < 2


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"image_size": 100}, "image height 100 is not a multiple of the model's stride 8"),
        ({"image_size": 64, "mask.unit": 24}, "image height 64 is not a multiple of mask.unit 24"),
        ({"mask.unit": 12}, "mask.unit 12 is not a multiple of the model's mask cell 8"),
        ({"mask.ratio": 0}, "mask.ratio=0 is not in (0, 1]; SimMIM uses mask.ratio=0.6"),
        ({"mask.ratio": 1.2}, "mask.ratio=1.2 is not in (0, 1]"),
        ({"batch": 64}, "batch=64 is larger than the 22 training images; use batch=16"),
        ({"channels": 4}, "channels=4 but the images have 3; use channels=3"),
        ({"steps": 0}, "steps=0 is not a whole number of at least 1"),
        ({"steps": 5, "epochs": 2}, "steps=5 and epochs=2 are both set"),
        ({"lr": -1}, "lr=-1 is not a number above 0"),
        ({"micro_batch": 3}, "micro_batch=3 does not divide batch 8"),
        ({"precision": "fp8"}, "precision=fp8 is unknown"),
        ({"objective.loss": "l3"}, "objective.loss=l3 is unknown; objective.loss takes l1, mse, smooth_l1"),
        ({"devices": 0}, "devices=0 is not a whole number of at least 1"),
        ({"seed": "x"}, "seed=x is not a whole number"),
        ({"resume": "yes"}, "resume=yes is not true or false"),
        ({"image_size": [64]}, "image_size=[64] is not a size"),
        ({"model.hidden_size": 100}, "hidden_size=100 is not a multiple of num_attention_heads"),
        ({"init": "nowhere"}, "init=nowhere does not exist"),
        ({"model": "vit_nan"}, "did you mean model=vit_nano?"),
        ({"objective": "simmin"}, "did you mean objective=simmim?"),
        ({"stepz": 3}, "did you mean steps?"),
        ({"augment.scale": [0.5, 2]}, "augment.scale=[0.5, 2] is not a range"),
        ({"optim.betas": [2, 0]}, "Invalid beta"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(map(str, value)),
)
def test_bad_values_are_named_with_a_fix(values, says, shards, tmp_path, capsys):
    values = {"data": str(shards), "out": str(tmp_path / "out"), "model": "vit_nano", "batch": 8, **values}
    code, err = outcome(capsys, "pretrain", **values)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out" / "weights").exists()


def test_init_that_is_no_run_is_named(tmp_path, capsys):
    for folder, holds in (("folder", "notes.txt"), ("export", "model.npz"), ("probe", "head.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / holds).write_text("{}")
    (tmp_path / "file").write_text("x")
    for name, says in (
        ("folder", "holds no weights/"),
        ("export", "model.npz"),
        ("probe", "is a probe, which has no encoder of its own; give the encoder"),
        ("file", "is not a file of weights; known are"),
    ):
        code, err = outcome(capsys, "probe", init=str(tmp_path / name), out=str(tmp_path / "out"))
        assert code == 2
        assert says in err


def test_weights_of_another_model_are_refused(shards, tmp_path, capsys):
    from mimsuite.models import ViTConfig, ViTForMaskedImageModeling

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(**sizes, image_size=64, patch_size=8, encoder_stride=8)
    ViTForMaskedImageModeling(config).save_pretrained(tmp_path / "small")
    code, err = outcome(
        capsys,
        "pretrain",
        data=str(shards),
        out=str(tmp_path / "out"),
        init=str(tmp_path / "small"),
        model="vit_nano",
        batch=8,
    )
    assert code == 2
    assert "shape" in err
    assert len(err.splitlines()) == 1


def test_a_damaged_config_of_weights_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    code, err = outcome(capsys, "probe", init=str(tmp_path), out=str(tmp_path / "out"))
    assert code == 2
    assert "config.json cannot be read" in err
    assert len(err.splitlines()) == 1


def test_an_unknown_model_type_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    code, err = outcome(capsys, "probe", init=str(tmp_path), out=str(tmp_path / "out"))
    assert code == 2
    assert "swin" in err


def test_a_full_out_is_refused_and_untouched(shards, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text("an earlier run")
    code, err = outcome(capsys, "pretrain", data=str(shards), out=str(out), model="vit_nano", batch=8)
    assert code == 2
    assert "is not empty" in err
    assert (out / "config.yaml").read_text() == "an earlier run"


def test_probing_unlabelled_data_is_refused(images, tmp_path, capsys):
    from mimsuite.models import ViTConfig, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path / "vit")
    pack(images, tmp_path / "plain", labels="none", val_fraction=0.2)
    code, err = outcome(
        capsys, "probe", init=str(tmp_path / "vit"), data=str(tmp_path / "plain"), out=str(tmp_path / "out")
    )
    assert code == 2
    assert "has no labels" in err


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"labels": "flder"}, "labels=flder is unknown; labels takes auto, folder, none, or a FILE.csv"),
        ({"labels": "nowhere.csv"}, "labels=nowhere.csv cannot be read (No such file or directory)"),
        ({"labels_column": "grade"}, "labels_column=grade names a column, but labels=auto; use labels=FILE.csv"),
        ({"group_by": "patient"}, "group_by=patient names a column, but labels=auto"),
        ({"group_by": "folder:2"}, "lies in 1 folders below src"),
        ({"group_by": "folder", "val_fraction": 0.1}, "val_fraction=0.1 cannot be reached with group_by=folder"),
        ({"val_fraction": 1.5}, "val_fraction=1.5 is not in [0, 1)"),
        ({"image_size": 0}, "image_size=0 is not a whole number of at least 1"),
        ({"image_size": 2.5}, "image_size=2.5 is not a whole number"),
        ({"shard_size": -1}, "shard_size=-1 is not a number above 0"),
        ({"seed": -1}, "seed=-1 is not a whole number of at least 0"),
        ({"dry_run": "yes"}, "dry_run=yes is not true or false"),
        ({"src": "nowhere"}, "src=nowhere is not a folder"),
        ({"out": "{full}"}, "exists and is not an empty folder"),
        ({"label": "none"}, "did you mean labels?"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
@pytest.mark.parametrize("dry", [False, True])
def test_pack_names_bad_values(dry, values, says, images, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    values = {
        key: value.replace("{full}", f"{tmp_path}/full") if key == "out" else value for key, value in values.items()
    }
    code, err = outcome(capsys, "pack", **({"src": str(images), "out": str(tmp_path / "out"), "dry_run": dry} | values))
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_verify_lists_what_is_wrong_and_exits_with_2(shards, tmp_path, capsys):
    shutil.copytree(shards, tmp_path / "copy")
    path = min((tmp_path / "copy").glob("*.tar"))
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT")
    data[at : at + 4] = b"XXXX"
    path.write_bytes(data)
    code = app.run_guarded(
        lambda: int(
            api.call("inspect", {"data": str(tmp_path / "copy"), "out": str(tmp_path / "out"), "verify": True}).get(
                "exit_code", 0
            )
        ),
        "inspect",
    )
    assert code == 2
    facts = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert [problem["offset"] >= 0 for problem in facts["problems"]] == [False, True]
    assert all(problem["shard"] == str(path) for problem in facts["problems"])
    assert facts["problems"][1]["key"]
    assert f"WRONG     {path}: its sha256 is not the one in index.json" in capsys.readouterr().out


@pytest.mark.parametrize("make", [cut_shard, cut_indexed_shard, text_as_tar, empty_tar])
def test_verify_names_shards_that_cannot_be_opened(make, shards, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    data = make(shards, tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "contact_sheet.png").write_bytes(b"of an earlier look")
    code, err = outcome(capsys, "inspect", data=str(data), out=str(tmp_path / "out"), verify=True, overwrite=True)
    assert (code, err) == (2, "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["inspect.json"]
    (problem,) = json.loads((tmp_path / "out" / "inspect.json").read_text())["problems"]
    assert problem["shard"].endswith("train-000000.tar")
    assert problem["reason"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"index": True}, "index=true needs data=FOLDER"),
        ({"index": True, "data": "{shards}"}, "has an index.json; move it away"),
        ({"index": True, "data": "{images}"}, "is not one; give their folder"),
        ({"verify": "yes"}, "verify=yes is not true or false"),
        ({"verify": True, "data": "nowhere"}, "data=nowhere does not exist"),
        ({"count": 0}, "count=0 is not a whole number of at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_inspect_names_bad_values(values, says, images, shards, tmp_path, capsys):
    places = {"{shards}": str(shards), "{images}": str(images)}
    values = {key: places.get(value, value) if isinstance(value, str) else value for key, value in values.items()}
    code, err = outcome(capsys, "inspect", **({"out": str(tmp_path / "out")} | values))
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["pack", "inspect"])
def test_every_key_of_the_task_is_documented(task):
    from mimsuite.config.folder import conf_dir

    text = (conf_dir() / f"{task}.yaml").read_text()
    keys = text.partition("_self_\n")[2].strip().splitlines()
    assert len(keys) >= 6
    assert all(" #: " in line for line in keys)
    assert text.count(f"#   mimsuite {task} ") >= 6


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"schedule": "null"}, "a config group cannot be null"),
        ({"optim._target_": "torch.optim.SGD"}, "torch.optim.SGD: "),
        ({"callbacks.monitor.log_every": 0}, "callbacks.monitor.log_every=0 is not a whole number"),
        ({"trainer.accelerator": "tpu"}, "trainer.accelerator=tpu is unknown"),
    ],
)
def test_values_that_only_a_library_judges_are_one_line_too(values, says, tmp_path, capsys):
    keys = {"out": str(tmp_path / "out"), "experiment": "emoji_nano", "steps": 2, "workers": 0}
    assert app.run_guarded(lambda: int(api.call("pretrain", keys | values).get("exit_code", 0)), "pretrain") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
