"""What becomes of transparency is kept with a model, and images that no index speaks of are read in the same way."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from tables import read_rows

from mimsuite import api
from mimsuite.data.open import open_data
from mimsuite.models import AutoImageProcessor, CenterCropImageProcessor
from mimsuite.pictures import contact
from mimsuite.weights.init import find_weights

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = {
    **{"model": "vit_nano", "model.hidden_size": 16, "model.num_hidden_layers": 1, "model.num_attention_heads": 2},
    **{"model.intermediate_size": 32, "model.patch_size": 8, "image_size": 16},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of two classes whose transparency changes what they show."""
    folder, draw = tmp_path_factory.mktemp("photos") / "src", np.random.default_rng(0)
    for number in range(40):
        place = folder / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 255, (16, 16, 4), dtype=np.uint8)
        Image.fromarray(pixels, "RGBA").save(place / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module", params=["drop", "channel"])
def run(request, photos, tmp_path_factory):
    """A run on packed data; how they were packed, the data, the run."""
    place = tmp_path_factory.mktemp(request.param)
    data, out = place / "shards", place / "run"
    api.pack(src=str(photos), out=str(data), alpha=request.param, val_fraction=0.25)
    api.pretrain(data=str(data), out=str(out), batch=8, steps=1, val_every=1, workers=0, precision="32-true", **VIT)
    return request.param, data, out


def features(out):
    with np.load(out) as table:
        return dict(zip(table["file"].tolist(), table["features"], strict=True))


def test_a_run_keeps_what_became_of_transparency(run):
    alpha, _, out = run
    assert json.loads((out / "weights" / "preprocessor_config.json").read_text())["alpha"] == alpha
    assert find_weights(str(out)).alpha == alpha
    (out / "weights").rename(out / "elsewhere")
    try:
        assert find_weights(str(out)).alpha == alpha  # of a checkpoint, too
    finally:
        (out / "elsewhere").rename(out / "weights")


def test_a_folder_and_a_single_image_are_embedded_as_the_packed_data(run, photos, tmp_path):
    _, data, out = run
    tables = {}
    for name, source in (("shards", data), ("folder", photos), ("image", photos / "dog" / "01.png")):
        keys = {"split": "all", "map": False, "workers": 0}
        api.embed(init=str(out), data=str(source), out=str(tmp_path / f"{name}.npz"), **keys)
        tables[name] = features(tmp_path / f"{name}.npz")
    assert len(tables["shards"]) == 40
    for file, row in tables["folder"].items():
        assert np.array_equal(row, tables["shards"][file]), file
    assert np.array_equal(tables["image"]["01.png"], tables["shards"]["dog/01.png"])


def test_a_probe_predicts_a_folder_as_the_packed_data(run, photos, tmp_path):
    alpha, data, out = run
    quick = {"baselines": False, "workers": 0, "preset.epochs": 2, "layers": "last", "pool": "mean"}
    api.probe(init=str(out), data=str(data), out=str(tmp_path / "probe"), **quick)
    assert json.loads((tmp_path / "probe" / "head.json").read_text())["alpha"] == alpha
    rows = []
    for name, source in (("a", data), ("b", photos)):
        file = tmp_path / f"{name}.csv"
        api.predict(init=str(tmp_path / "probe"), data=str(source), out=str(file), split="all", workers=0)
        rows.append({row["file"]: (row["class"], row["probability"]) for row in read_rows(file)})
    assert rows[0] == rows[1]


def test_reconstruct_reads_files_as_the_run_did(run, photos, tmp_path):
    from mimsuite.pictures.scene import Scene
    from mimsuite.settings.hiding import read_masked_model

    scene = Scene(read_masked_model(str(run[2]), "auto"), str(photos / "dog" / "01.png"), count=1)
    with Image.open(photos / "dog" / "01.png") as picture:
        wanted = np.asarray(picture)[..., : 3 + (run[0] == "channel")]
    assert np.array_equal(scene.images[0].permute(1, 2, 0).cpu().numpy(), wanted)


def test_the_saved_processor_prepares_pictures_and_files_as_evaluation_does(run, photos):
    alpha, _, out = run
    processor = AutoImageProcessor.from_pretrained(out / "weights")
    about = json.loads((out / "weights" / "preprocessor_config.json").read_text())
    assert about["image_processor_type"] == "CenterCropImageProcessor"  # transformers would lay the pictures on white
    file = photos / "dog" / "01.png"
    with Image.open(file) as picture:
        wanted = np.asarray(picture).transpose(2, 0, 1)[: 3 + (alpha == "channel")] / 255
        wanted = (wanted - np.reshape(about["image_mean"], (-1, 1, 1))) / np.reshape(about["image_std"], (-1, 1, 1))
        for given in (picture, str(file)):
            found = np.asarray(processor(given)["pixel_values"][0])
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_transparency_is_laid_on_white_in_files_too(photos, tmp_path):
    processor = CenterCropImageProcessor(size=16)
    file = photos / "dog" / "01.png"
    with Image.open(file) as picture:
        by_name, by_picture = (np.asarray(processor(given)["pixel_values"][0]) for given in (str(file), picture))
    assert np.array_equal(by_name, by_picture)
    assert "alpha" not in processor.to_dict()


def shown(data, monkeypatch):
    """The small pictures on a contact sheet of a data set, and their keys."""
    monkeypatch.setattr(contact, "contact_sheet", lambda pictures, captions, **_: (pictures, captions))
    return contact.draw_data(open_data(str(data)), 4)


def test_the_contact_sheet_shows_what_training_sees(run, photos, monkeypatch):
    for picture, name in zip(*shown(run[1], monkeypatch), strict=True):
        (file,) = [f for f in photos.rglob("*.png") if np.array_equal(np.asarray(Image.open(f))[..., :3], picture)]
        assert file.parent.name == name


@pytest.mark.parametrize("alpha", ["channel", "drop"])
def test_the_contact_sheet_of_16_bits_with_transparency_is_not_grey(alpha, tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    (tmp_path / "src").mkdir()
    for number in range(4):
        pixels = draw.integers(0, 60000, (16, 16, 4), dtype=np.uint16)
        tifffile.imwrite(tmp_path / "src" / f"{number}.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    api.pack(src=str(tmp_path / "src"), out=str(tmp_path / "shards"), alpha=alpha)
    for picture in shown(tmp_path / "shards", monkeypatch)[0]:
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200


def test_data_that_an_index_reads_otherwise_are_named(run, photos, tmp_path, capsys):
    if run[0] == "channel":
        pytest.skip("refused: the numbers of channels differ")
    api.pack(src=str(photos), out=str(tmp_path / "white"), val_fraction=0.25)
    for name, data in (("x", tmp_path / "white"), ("y", run[1])):
        api.embed(init=str(run[2]), data=str(data), out=str(tmp_path / f"{name}.npz"), map=False, workers=0)
    said = capsys.readouterr().out
    white, drop = features(tmp_path / "x.npz"), features(tmp_path / "y.npz")
    assert white.keys() == drop.keys()
    assert not any(
        np.array_equal(white[file], drop[file]) for file in white
    )  # stored features are those of one of them
    assert f"is read with alpha=white, and init={run[2]} was trained on images with alpha=drop" in said
