"""A scene: the same pictures as the task, read once, and the same masks over other pixels."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite import api
from mimsuite.errors import InputError
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling, ViTImageProcessor
from mimsuite.pictures import scene as scene_module
from mimsuite.pictures.scene import Scene

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DECODER = {f"decoder_{key}": value for key, value in SIZES.items()}
OPTIONS = {
    "pixels": {},
    "norm_pixels": {"mim_target": "norm_pixels"},
    "mae": {"mask_mode": "drop", "mim_target": "norm_pixels", **DECODER},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small untrained models by name, each a Hugging Face folder."""
    made = {}
    for name, options in OPTIONS.items():
        made[name] = str(tmp_path_factory.mktemp(name))
        torch.manual_seed(0)
        config = ViTConfig(**SIZES, image_size=32, patch_size=8, encoder_stride=8, **options)
        ViTForMaskedImageModeling(config).save_pretrained(made[name])
        processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
        processor.save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def scenes(folders):
    return {name: Scene(folder, count=3) for name, folder in folders.items()}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_draws_what_the_task_draws(name, folders, scenes, tmp_path):
    out, table = tmp_path / "x.png", tmp_path / "x.csv"
    values = {"mask": "block", "mask.ratio": 0.3, "mask.unit": 8, "seed": 5}
    figures = api.reconstruct(init=folders[name], out=str(out), csv=str(table), count=3, **values)
    found = scenes[name].draw("block", 0.3, unit=8, seed=5)
    with Image.open(out) as sheet:
        np.testing.assert_array_equal(np.asarray(found.sheet(scenes[name].title)), np.asarray(sheet))
    assert (found.loss, found.psnr.mean()) == (figures["masked_loss"], figures["psnr"])
    with table.open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == scenes[name].names


def test_values_left_out_are_the_kind_s_own(scenes):
    scene = scenes["pixels"]
    assert scene.draw("grid").mask.mean() == 0.75
    assert scene.draw().mask.shape == scene.draw(unit=8).mask.shape
    np.testing.assert_array_equal(scene.draw().prediction, scene.draw("random", 0.6, seed=0, mode="raw").prediction)


def test_numbers_may_come_from_numpy(scenes):
    found = scenes["pixels"].draw("random", np.float32(0.5), unit=np.int64(8), seed=np.int32(4))
    np.testing.assert_array_equal(found.mask, scenes["pixels"].draw("random", 0.5, unit=8, seed=4).mask)


def test_seeds_and_kinds_hide_other_parts(scenes):
    drawn = [scenes["pixels"].draw(kind, 0.5, unit=8, seed=seed).mask for kind in ("random", "grid") for seed in (0, 1)]
    assert len({mask.tobytes() for mask in drawn}) == 4


def test_reads_model_and_images_once(folders, monkeypatch):
    read = []

    def watch(module, name):
        inner = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *values: read.append(name) or inner(*values))

    watch(scene_module, "find_images")
    watch(scene_module, "decode_image")
    watch(scene_module, "load_masked_model")
    scene = Scene(folders["pixels"], count=2)
    assert read == []
    for seed in range(3):
        scene.draw(seed=seed)
    assert sorted(read) == ["decode_image", "decode_image", "find_images", "load_masked_model"]


@pytest.mark.parametrize(
    ("name", "mode", "same"),
    [
        ("pixels", "raw", True),
        ("norm_pixels", "raw", True),
        ("norm_pixels", "predicted_stats", True),
        ("norm_pixels", "oracle_stats", False),
        ("mae", "predicted_stats", True),
    ],
)
def test_other_hidden_pixels_change_the_picture_only_where_the_mode_looks(name, mode, same, scenes):
    scene = scenes[name]
    before = scene.draw("random", 0.5, unit=8, mode=mode)
    hidden = torch.from_numpy(before.mask).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    other = scene.with_images(torch.where(hidden, 255 - scene.images, scene.images))
    after = other.draw("random", 0.5, unit=8, mode=mode)
    assert (after.original != before.original).any()
    np.testing.assert_array_equal(after.mask, before.mask)
    assert np.array_equal(after.prediction, before.prediction) == same
    np.testing.assert_array_equal(scene.draw("random", 0.5, unit=8, mode=mode).original, before.original)


def test_pixels_of_another_shape_or_type_are_refused(scenes):
    with pytest.raises(InputError, match=r"images of shape \[3, 3, 32, 16\] and type torch.uint8, and the scene has"):
        scenes["mae"].with_images(scenes["mae"].images[..., :16])
    with pytest.raises(InputError, match=r"and type torch.float32, and the scene has \[3, 3, 32, 32\] and torch.uint8"):
        scenes["mae"].with_images(scenes["mae"].images.float())


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "pixels",
            {"mask": "blok"},
            "^mask: blok is unknown; mask takes block, grid, inverse_block, multi_block, none, random$",
        ),
        ("pixels", {"mask": "none", "ratio": 0.5}, "^mask=none has no ratio, and ratio=0.5 is given; remove ratio$"),
        ("pixels", {"ratio": 1.5}, r"^ratio=1.5 is not in \(0, 1\]; SimMIM uses ratio=0.6$"),
        ("pixels", {"ratio": "half"}, r"^ratio=half is not in \(0, 1\]; SimMIM uses ratio=0.6$"),
        ("mae", {"ratio": 1}, "^ratio=1 hides all 16 units of an image.*use ratio=0.937 or less$"),
        ("pixels", {"unit": 12}, "unit 12 is not a multiple of .*8"),
        ("pixels", {"unit": 0.5}, "^unit=0.5 is not a whole number of at least 1; give one, or auto$"),
        ("pixels", {"seed": -1}, "^seed=-1 is not a whole number of at least 0"),
        ("pixels", {"mode": "oracle_stats"}, "^mode=oracle_stats is for a model that predicts norm_pixels"),
        ("pixels", {"mode": "nice"}, "^mode=nice is unknown; use mode=raw$"),
    ],
)
def test_wrong_values_are_refused_in_one_line(name, values, message, scenes):
    with pytest.raises(InputError, match=message) as error:
        scenes[name].draw(**values)
    assert "\n" not in str(error.value)
    assert "mask.unit" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"init": "nowhere"}, "^init=nowhere does not exist"),
        ({"count": 0}, "^count=0 is not a whole number of at least 1"),
        ({"image_size": [32]}, r"^image_size=\[32\] is not a size"),
    ],
)
def test_wrong_scenes_are_refused_at_once_in_one_line(values, message, folders):
    with pytest.raises(InputError, match=message) as error:
        Scene(**{"init": folders["pixels"]} | values)
    assert "\n" not in str(error.value)


def test_images_that_are_not_there_are_named(folders):
    with pytest.raises(InputError, match="images=nowhere"):
        Scene(folders["pixels"], "nowhere").draw()


def test_takes_any_size_that_fits(folders):
    scene = Scene(folders["pixels"], count=1, image_size=[32, 48])
    assert scene.draw(unit=16).original.shape == (1, 32, 48, 3)


def test_images_of_16_bits_for_a_model_of_8_are_named(folders, tmp_path, caplog):
    Image.fromarray(np.full((32, 32), 900, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((32, 32), 90, np.uint8)).save(tmp_path / "b.png")
    assert Scene(folders["pixels"], str(tmp_path)).images.shape[0] == 2
    assert "1 of 2 images has 16 bits, and the model was trained on 8" in caplog.text
