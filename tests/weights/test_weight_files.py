"""Tensor files: formats, shards, damage, and that nothing in them is run."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mimsuite.errors import InputError
from mimsuite.weights.files import read_folder, write_folder
from mimsuite.weights.init import find_weights


def tensors():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4), "c": torch.zeros(())}


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_one_file_goes_round(tmp_path):
    write_folder(tmp_path, tensors(), 10**9)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    same(read_folder(tmp_path), tensors())


def test_the_header_says_pt(tmp_path):
    write_folder(tmp_path, tensors(), 10**9)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_others_may_read_the_weights_as_they_may_the_config(tmp_path):
    write_folder(tmp_path, {"a": torch.ones(2)}, 10**9)
    (tmp_path / "config.json").write_text("{}")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode


def test_shards_go_round_and_have_an_index(tmp_path):
    write_folder(tmp_path, tensors(), 20)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 44},
        "weight_map": {
            "a.weight": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors",
        },
    }
    same(read_folder(tmp_path), tensors())


def test_shards_replace_one_file_and_the_other_way_round(tmp_path):
    write_folder(tmp_path, {"old": torch.zeros(3)}, 10**9)
    write_folder(tmp_path, tensors(), 20)
    same(read_folder(tmp_path), tensors())
    write_folder(tmp_path, {"new": torch.zeros(3)}, 10**9)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_save_that_fails_keeps_the_old_file_and_leaves_no_rest(tmp_path, monkeypatch):
    write_folder(tmp_path, tensors(), 10**9)

    def fail(state, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path, {"new": torch.zeros(3)}, 10**9)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    same(read_folder(tmp_path), tensors())


def test_safetensors_come_before_torch_archives(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    torch.save({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    same(read_folder(tmp_path), tensors())


def test_a_torch_archive_is_read(tmp_path):
    torch.save(tensors(), tmp_path / "pytorch_model.bin")
    same(read_folder(tmp_path), tensors())


def test_torch_archives_in_shards_are_read(tmp_path):
    parts = {"pytorch_model-00001-of-00002.bin": ["a.weight"], "pytorch_model-00002-of-00002.bin": ["b", "c"]}
    for name, keys in parts.items():
        torch.save({k: tensors()[k] for k in keys}, tmp_path / name)
    weight_map = {k: name for name, keys in parts.items() for k in keys}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    same(read_folder(tmp_path), tensors())


class Bomb:
    def __reduce__(self):
        return (open, ("code-was-run", "w"))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, legacy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    if legacy:
        path.write_bytes(pickle.dumps({"a": Bomb()}, protocol=2))
    else:
        torch.save({"a": torch.zeros(1), "b": Bomb()}, path)
    with pytest.raises(
        InputError, match=r"pytorch_model\.bin cannot be read.*holds io\.open, which could run code"
    ) as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["pytorch_model.bin"]


def test_an_archive_of_something_else_is_refused(tmp_path):
    torch.save({"state": {"a": torch.zeros(1)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="not a flat map"):
        read_folder(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 60, -4])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, keep):
    path = tmp_path / name
    if name.endswith("bin"):
        torch.save(tensors(), path)
    else:
        save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=name) as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_shard_is_named(tmp_path):
    write_folder(tmp_path, tensors(), 20)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00002\.safetensors"):
        read_folder(tmp_path)


def test_a_shard_without_its_tensor_is_named(tmp_path):
    write_folder(tmp_path, tensors(), 20)
    save_file({"b": torch.ones(4)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match="'c', which its shard does not hold"):
        read_folder(tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(InputError, match="a file name in the same folder"):
        read_folder(tmp_path)


def test_an_index_without_map_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="weight_map"):
        read_folder(tmp_path)


def test_a_folder_of_another_format_says_what_was_asked_for(tmp_path):
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    with pytest.raises(InputError, match=r"only tf_model\.h5.*expected flax_model\.msgpack$"):
        read_folder(tmp_path, source="flax")


def test_a_folder_without_weights_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "attribute"),
    [("rescale_factor", value, "maximum") for value in (0, -1, 2, None, "x", float("nan"))]
    + [(key, value, "statistics") for key in ("image_mean", "image_std") for value in (None, "abc", [0.5] * 4, 0.5)],
)
def test_preprocessing_that_makes_no_sense_is_named_in_one_line(key, value, attribute):
    weights = find_weights("demo:vit")
    weights.preprocessor[key] = value
    with pytest.raises(
        InputError, match=r"^init=demo:vit: preprocessor_config\.json cannot be read \(.*restore the file"
    ):
        getattr(weights, attribute)


def test_one_mean_and_deviation_stand_for_all_channels():
    weights = find_weights("demo:vit")
    weights.preprocessor.update({"image_mean": [0.5], "image_std": [0.25]})
    assert weights.statistics == ((0.5,) * 3, (0.25,) * 3)
