"""`mimsuite embed`: the table, in three forms, the map, and what is refused before torch is imported."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from tables import read_rows

import mimsuite
from mimsuite.data.datamodule import eval_loader
from mimsuite.data.index import Selection
from mimsuite.data.open import EMBEDDED, open_index
from mimsuite.errors import InputError
from mimsuite.evaluation.features.tables import write_table
from mimsuite.models import (
    BitConfig,
    BitForImageClassification,
    CvtConfig,
    CvtForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
)
from mimsuite.pictures.maps import draw_map, principal_plane
from mimsuite.settings import embed as settings_module

MODELS = {
    "vit": lambda: ViTForMaskedImageModeling(
        ViTConfig(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            patch_size=16,
            encoder_stride=16,
            image_size=32,
        )
    ),
    "cvt": lambda: CvtForMaskedImageModeling(
        CvtConfig(embed_dim=[4, 8, 12], num_heads=[1, 2, 3], depth=[1, 1, 1], mlp_ratio=[2, 2, 2])
    ),
    "bit": lambda: BitForImageClassification(
        BitConfig(embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 1, 1], num_groups=4, num_labels=3)
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for name, make in MODELS.items():
        torch.manual_seed(0)
        make().eval().save_pretrained(place / name)
    return place


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Nine images of three classes, of which two are test images."""
    place, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(9):
        file = place / ("test" if i < 2 else "train") / f"c{i % 3}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    out = tmp_path_factory.mktemp("shards")
    mimsuite.pack(src=str(place), out=str(out / "s"))
    return out / "s"


def embed(folders, photos, out, family="vit", **more):
    settings = {"image_size": 32, "workers": 0, "batch": 4, **more}
    return mimsuite.embed(init=str(folders / family), data=str(photos), out=str(out), **settings)


@pytest.mark.parametrize(("family", "width"), [("vit", 12), ("cvt", 12), ("bit", 16)])
def test_features_are_those_of_the_models_encoder(folders, photos, tmp_path, family, width):
    out = tmp_path / "new" / "x.npz"
    result = embed(folders, photos, out, family)
    index = open_index(str(photos))
    batch = next(iter(eval_loader(index, "test", image_size=(32, 32), batch=9, workers=0, labels=True, keys=True)))
    pixels = (batch.images / 255 - torch.tensor(index.mean).view(3, 1, 1)) / torch.tensor(index.std).view(3, 1, 1)
    with torch.no_grad():
        expected = mimsuite.load(str(folders / family)).encoder.forward_features(pixels).grid.mean((2, 3))
    with np.load(out) as found:
        assert sorted(found.files) == ["features", "file", "keys", "labels"]
        assert found["features"].dtype == np.float32
        np.testing.assert_allclose(found["features"], expected, atol=2e-3, rtol=2e-3)
        assert found["labels"].tolist() == batch.labels.tolist()
        assert found["keys"].tolist() == batch.keys
    assert (result["samples"], result["width"], result["split"]) == (2, width, "test")
    with Image.open(tmp_path / "new" / "x.png") as picture:
        assert picture.width > 400


def test_the_three_forms_hold_the_same(folders, photos, tmp_path):
    for ending in ("npz", "parquet", "csv"):
        embed(folders, photos, tmp_path / f"x.{ending}", split="train", map=False)
    with np.load(tmp_path / "x.npz") as stored:
        npz = dict(stored)
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["keys", "file", "labels", "features"]
    assert table["keys"].to_pylist() == npz["keys"].tolist()
    assert table["labels"].to_pylist() == npz["labels"].tolist()
    assert np.array_equal(np.array(table["features"].to_pylist(), dtype=np.float32), npz["features"])
    head, *rows = [line.split(",") for line in (tmp_path / "x.csv").read_text().splitlines()]
    assert head == ["keys", "file", "labels", *(f"features_{i}" for i in range(12))]
    assert [row[0] for row in rows] == npz["keys"].tolist()
    assert [row[1] for row in rows] == table["file"].to_pylist() == npz["file"].tolist()
    assert np.array_equal(np.array([row[3:] for row in rows], dtype=np.float32), npz["features"])
    assert not list(tmp_path.glob("*.png"))


def test_layer_and_pool_are_obeyed(folders, photos, tmp_path):
    embed(folders, photos, tmp_path / "a.npz", layer="middle", pool="both", map=False)
    embed(folders, photos, tmp_path / "b.npz", layer=1, pool="cls", map=False)
    a, b = (np.load(tmp_path / name)["features"] for name in ("a.npz", "b.npz"))
    assert a.shape == (2, 24)
    assert np.array_equal(a[:, :12], b)


@pytest.mark.parametrize("labels", [np.array([[1.0, 0], [0, 1]], dtype=np.float32), None], ids=["several", "none"])
def test_tables_of_other_labels(tmp_path, labels):
    x, keys = np.ones((2, 3), dtype=np.float32), ["a", "b\udcff"]
    for ending in ("npz", "parquet", "csv"):
        columns = {"keys": keys} | ({} if labels is None else {"labels": labels}) | {"features": x}
        write_table(tmp_path / f"x.{ending}", columns)
    assert ("labels" in np.load(tmp_path / "x.npz").files) == (labels is not None)
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["keys", *["labels"] * (labels is not None), "features"]
    head = (tmp_path / "x.csv").read_text().splitlines()[0]
    assert head == "keys," + "labels_0,labels_1," * (labels is not None) + "features_0,features_1,features_2"
    assert labels is None or table["labels"].to_pylist() == labels.tolist()


def test_data_without_labels_or_test_split_is_embedded_whole(folders, tmp_path):
    place = tmp_path / "photos"
    place.mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{i}.png")
    result = embed(folders, place, tmp_path / "x.npz")
    assert (result["samples"], result["labels"], result["split"]) == (3, False, "train")
    assert "labels" not in np.load(tmp_path / "x.npz").files
    assert (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("changes", "family", "words"),
    [
        ({"out": "x.txt"}, "vit", r"out=.*x.txt does not end in .npz, .parquet, .csv; use out=.*x.npz"),
        ({"layer": 3}, "vit", "layer=3: this encoder's layers are 1 to 2"),
        ({"layer": 0}, "cvt", "layer=0: this encoder's layers are 1 to 3"),
        ({"layer": "deep"}, "vit", "layer=deep: this encoder's layers are 1 to 2; use one of these, middle or auto"),
        ({"pool": "cls"}, "bit", "layer 3 of this encoder has no class token; use pool=mean"),
        ({"pool": "both", "layer": 1}, "cvt", "layer 1 of this encoder has no class token; use layer=3 or pool=mean"),
        ({"pool": "max"}, "vit", "pool=max is unknown; pool takes mean, cls, both"),
        ({"map": "x.jpg"}, "vit", r"map=x.jpg does not end in .png; use map=x.png; map=false draws none"),
        ({"split": "other"}, "vit", "split=other is not in"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(folders, photos, tmp_path, changes, family, words):
    out = tmp_path / changes.pop("out", "x.npz")
    with pytest.raises(InputError, match=words) as error:
        embed(folders, photos, out, family, **changes)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_other_channels_are_refused(tmp_path, photos):
    ViTForMaskedImageModeling(MODELS["vit"]().config.changed(num_channels=4)).save_pretrained(tmp_path / "four")
    with pytest.raises(InputError, match="takes 4 channels but the images have 3"):
        embed(tmp_path, photos, tmp_path / "x.npz", "four")


@pytest.mark.parametrize("name", ["x.npz", "m.png"])
def test_what_is_there_is_replaced_only_on_demand(folders, photos, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name} exists; use another .*=, or overwrite=true"):
        embed(folders, photos, tmp_path / "x.npz", map=str(tmp_path / "m.png"))
    assert (tmp_path / name).read_text() == "mine"
    embed(folders, photos, tmp_path / "x.npz", map=str(tmp_path / "m.png"), overwrite=True)
    assert (tmp_path / name).read_bytes()[:4] != b"mine"


def test_tables_of_one_name_have_maps_of_their_own_and_false_draws_none(folders, photos, tmp_path):
    maps = [embed(folders, photos, tmp_path / f"x.{ending}")["map"] for ending in ("npz", "csv")]
    assert maps == [str(tmp_path / "x.png"), str(tmp_path / "x.csv.png")]
    for number, word in enumerate(("false", "False", False)):  # the command line hands on text
        assert embed(folders, photos, tmp_path / f"{number}.csv", map=word)["map"] is None


def test_all_splits_together_and_a_single_image_are_embedded(folders, photos, tmp_path):
    whole = embed(folders, photos, tmp_path / "x.csv", split="all", map=False)
    rows = read_rows(tmp_path / "x.csv")
    assert whole["samples"] == len(rows) == 9
    assert {(row["split"], row["file"]) for row in rows} == {
        (split := "test" if i < 2 else "train", f"{split}/c{i % 3}/{i}.png") for i in range(9)
    }
    single = tmp_path / "folder of mine" / "a.b.png"
    single.parent.mkdir()
    Image.new("RGB", (50, 40), (9, 99, 200)).save(single)
    assert embed(folders, single, tmp_path / "y.csv", map=False)["samples"] == 1
    assert read_rows(tmp_path / "y.csv")[0]["file"] == "a.b.png"
    with pytest.raises(InputError, match="split=all is for embed and predict; name one of train, test"):
        mimsuite.probe(init=str(folders / "vit"), data=str(photos), out=str(tmp_path / "p"), split="all")


def test_a_parquet_without_pyarrow_names_the_fix(folders, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(settings_module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs pyarrow.*pip install "mimsuite\[parquet\]", or use out=.*x.npz'):
        embed(folders, photos, tmp_path / "x.parquet")


def test_wrong_input_is_said_without_importing_torch(folders, tmp_path):
    code = (
        "import sys, mimsuite\n"
        f"try: mimsuite.embed(init={str(folders / 'bit')!r}, out={str(tmp_path / 'x.npz')!r}, pool='cls')\n"
        "except mimsuite.errors.InputError as error: print('torch' in sys.modules, error)"
    )
    found = subprocess.run([sys.executable, "-c", f"import mimsuite.errors\n{code}"], capture_output=True, text=True)
    assert found.stdout.startswith("False pool=cls"), found.stderr


def test_the_plane_is_that_of_a_singular_value_decomposition():
    x = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32) * np.arange(1, 8, dtype=np.float32) + 50
    plane = principal_plane(x)
    u, s, vt = np.linalg.svd(x - x.mean(0, dtype=np.float64), full_matrices=False)
    signs = np.sign(vt[[0, 1], np.abs(vt[:2]).argmax(1)])
    np.testing.assert_allclose(plane.places, u[:, :2] * s[:2] * signs, atol=1e-4)
    np.testing.assert_allclose(plane.shares, (s**2 / (s**2).sum())[:2], atol=1e-6)


@pytest.mark.parametrize("x", [np.ones((1, 5)), np.ones((4, 5)), np.arange(4.0)[:, None]], ids=["one", "equal", "thin"])
def test_points_that_span_no_plane_have_one_all_the_same(x):
    plane = principal_plane(x.astype(np.float32))
    assert np.isfinite(plane.places).all()
    assert plane.places.shape == (len(x), 2)
    assert all(0 <= share <= 1 for share in plane.shares)


def colours(path):
    """Saturated colours of a picture's left three quarters, where points are and no legend, as a set."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))[:, : picture.width * 3 // 4].reshape(-1, 3).astype(int)
    return {tuple(p) for p in pixels[pixels.max(1) - pixels.min(1) > 60]}


@pytest.mark.parametrize("classes", [None, 3, 12, 40])
def test_the_map_has_a_colour_per_class(tmp_path, classes):
    plane = principal_plane(np.random.default_rng(0).normal(size=(200, 4)))
    labels = None if classes is None else np.arange(200) % classes
    names = ["_a$b", "\u6f22", "c" * 90, *map(str, range(3, 12))] if classes == 12 else None
    draw_map(plane, labels, names, "$title_", tmp_path / "m" / "x.png")
    found = colours(tmp_path / "m" / "x.png")
    one, other = ((68, 1, 84), (253, 231, 37)) if classes == 40 else ((0, 0x72, 0xB2), (0, 0x9E, 0x73))
    shown = [tuple(0.75 * c + 0.25 * 255 for c in colour) for colour in (one, other)]  # points are a bit transparent
    near = [min(max(abs(a - b) for a, b in zip(c, colour, strict=True)) for c in found) < 12 for colour in shown]
    assert near == ([True, False] if classes is None else [True, True])


def test_the_map_has_a_scale_of_numbers(tmp_path):
    plane = principal_plane(np.random.default_rng(0).normal(size=(200, 4)))
    labels = np.linspace(-3, 7, 200)
    labels[:20] = np.nan
    draw_map(plane, labels, None, "numbers", tmp_path / "x.png")
    found = colours(tmp_path / "x.png")
    for colour in ((68, 1, 84), (253, 231, 37)):
        shown = [0.75 * c + 0.25 * 255 for c in colour]
        assert min(max(abs(a - b) for a, b in zip(c, shown, strict=True)) for c in found) < 12
    draw_map(plane, np.full(200, np.nan), None, "nothing", tmp_path / "y.png")
    assert not colours(tmp_path / "y.png") & found


def test_the_embedded_data_is_used_without_data(folders, tmp_path):
    result = mimsuite.embed(init=str(folders / "vit"), out=str(tmp_path / "x.npz"), workers=0, map=False)
    assert result["samples"] == open_index(str(EMBEDDED)).num_samples(Selection("val"))


KINDS = {
    "classes": (lambda i: f"c{i % 2}", [0, 1, 0]),
    "sets": (lambda i: ("c0;c1", "none", "c1")[i % 3], [[1, 1], [0, 0], [0, 1]]),
    "numbers": (lambda i: f"{i}.5", [[0.5], [1.5], [2.5]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_a_label_have_empty_cells(kind, folders, tmp_path):
    """Of six images the first three have a label."""
    label, wanted = KINDS[kind]
    rng, rows = np.random.default_rng(0), ["file,label"]
    (tmp_path / "src").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "src" / f"{i}.png")
        rows += [f"{i}.png,{label(i)}"] * (i < 3)
    (tmp_path / "some.csv").write_text("\n".join(rows) + "\n")
    mimsuite.pack(src=str(tmp_path / "src"), out=str(tmp_path / "data"), labels=str(tmp_path / "some.csv"))
    for ending in ("npz", "csv", "parquet"):
        found = embed(folders, tmp_path / "data", tmp_path / f"x.{ending}", split="train", map="auto", overwrite=True)
        assert found["labels"]
    with np.load(tmp_path / "x.npz") as table:
        by_key = dict(zip(table["keys"].tolist(), table["labels"], strict=True))
    ranked = [by_key[key] for key in sorted(by_key)]
    assert [row.tolist() for row in ranked[:3]] == wanted
    assert all(np.isnan(row).all() if kind == "numbers" else (row == -1).all() for row in ranked[3:])
    texts = sorted(read_rows(tmp_path / "x.csv"), key=lambda row: row["file"])
    names = [name for name in texts[0] if name.startswith("labels")]
    assert len(names) == np.size(wanted[0])
    assert [[float(row[name]) for name in names] for row in texts[:3]] == [list(np.ravel(row)) for row in wanted]
    assert [[row[name] for name in names] for row in texts[3:]] == [[""] * len(names)] * 3
    column = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert [label for _, label in sorted(zip(column["file"], column["labels"], strict=True))] == [*wanted, *[None] * 3]
