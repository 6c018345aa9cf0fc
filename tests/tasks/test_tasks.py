"""The tasks beside pretraining, each on real pictures: what they print, write and return."""

import json

import numpy as np
import pytest
from PIL import Image

from mimsuite import api
from mimsuite.data.packing.pack import pack
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling, ViTImageProcessor, ViTModel

pytestmark = pytest.mark.slow

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
CONFIG = ViTConfig(**SIZES, image_size=32, patch_size=8, encoder_stride=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A masked image model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    ViTForMaskedImageModeling(CONFIG).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Red-ish and blue-ish pictures in two folders: any encoder tells them apart."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for label, colour in (("blue", (30, 30, 200)), ("red", (200, 30, 30))):
        (folder / label).mkdir()
        for i in range(20):
            noise = random.integers(-25, 25, (40, 48, 3))
            Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def shards(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    assert api.pack(src=str(images), out=str(out), val_fraction=0.25) == {
        "splits": {"train": 30, "val": 10},
        "classes": ["blue", "red"],
    }
    return out


def test_probe_writes_its_table_with_baselines(model, shards, tmp_path):
    summary = api.probe(init=str(model), data=str(shards), out=str(tmp_path / "out"), workers=0)
    assert summary["metrics"]["probe/top1"] == 1.0
    assert summary["metrics"]["8x8/probe/top1"] == 1.0
    rows = json.loads((tmp_path / "out" / "probe.json").read_text())["rows"]
    assert [row["features"] for row in rows] == ["pretrained", "random initialisation", "8x8 pixels"]
    assert (tmp_path / "out" / "probe.csv").read_text().startswith("features,probe,layer,pool,norm,lr,k,shots,metric,")


def test_probe_takes_a_bare_encoder_at_another_size(shards, tmp_path):
    ViTModel(CONFIG).save_pretrained(tmp_path / "vit")
    summary = api.probe(
        init=str(tmp_path / "vit"),
        data=str(shards),
        out=str(tmp_path / "out"),
        image_size=48,
        pool="cls",
        workers=0,
        baselines=False,
    )
    assert summary["image_size"] == [48, 48]
    assert set(summary["metrics"]) == {"knn/top1", "probe/top1"}


@pytest.mark.parametrize("source", ["file", "folder", "shards", "emoji"])
def test_reconstruct_draws_a_sheet_of(source, model, images, shards, tmp_path):
    where = {"file": images / "red" / "0.png", "folder": images, "shards": shards, "emoji": None}[source]
    values = {"images": str(where)} if where else {}
    result = api.reconstruct(init=str(model), out=str(tmp_path / "sheet.png"), count=3, **values)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > picture.height / 3
    assert 0 < result["masked_loss"] < 10
    assert 0 < result["psnr"] < 40


def test_reconstruct_repeats_and_another_seed_differs(model, images, tmp_path):
    losses = [
        api.reconstruct(init=str(model), images=str(images), out=str(tmp_path / f"{i}.png"), seed=seed)["masked_loss"]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_reconstruct_refuses_an_encoder_without_decoder(images, tmp_path):
    from mimsuite.errors import InputError

    ViTModel(CONFIG).save_pretrained(tmp_path / "vit")
    with pytest.raises(InputError, match="has no decoder, so it predicts no pixels"):
        api.reconstruct(init=str(tmp_path / "vit"), images=str(images), out=str(tmp_path / "x.png"))


def test_inspect_counts_and_draws(shards, tmp_path):
    facts = api.inspect(data=str(shards), out=str(tmp_path / "out"))
    assert facts["splits"]["train"]["labels"] == {"0": 15, "1": 15}
    assert facts["splits"]["train"]["height"] == [40, 40, 40]
    assert facts == json.loads((tmp_path / "out" / "inspect.json").read_text())
    with Image.open(tmp_path / "out" / "contact_sheet.png") as picture:
        assert picture.width > 300


def test_inspect_prints_what_it_counts(shards, tmp_path, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    api.inspect(data=str(shards), out=str(tmp_path / "out"))
    for words in (
        "train     30 images in 1 shard; height 40, width 48; kinds png; 3 channels, 8 bits; 0 of 30 broken",
        "(30 images; 1 = largest value of uint8)",
        "          2 classes: blue 15, red 15",
        "classes   2: blue, red",
        "duplicates: none across splits, none in all",
    ):
        assert words in caplog.text


def test_inspect_verifies_a_whole_set(shards, tmp_path, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    facts = api.inspect(data=str(shards), out=str(tmp_path / "out"), verify=True)
    assert facts["problems"] == []
    assert "exit_code" not in facts
    assert "every image can be decoded, every known checksum is right" in caplog.text


def test_inspect_writes_an_index_beside_foreign_shards(shards, tmp_path):
    (tmp_path / "copy").mkdir()
    for path in shards.glob("*.tar"):
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    api.inspect(data=str(tmp_path / "copy"), out=str(tmp_path / "out"), index=True, verify=True)
    theirs, ours = (json.loads((folder / "index.json").read_text()) for folder in (tmp_path / "copy", shards))
    assert theirs == ours | {"classes": None}


def test_pack_takes_labels_from_a_csv_and_a_dry_run_writes_nothing(images, tmp_path, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    (tmp_path / "my labels.csv").write_text(
        "image,grade,who\n" + "".join(f"{c}/{i}.png,{i % 2}.5,p{i % 10}\n" for c in ("blue", "red") for i in range(20))
    )
    keys = {
        "src": str(images),
        "out": str(tmp_path / "out"),
        "labels": str(tmp_path / "my labels.csv"),
        "labels_column": "grade",
        "group_by": "who",
        "val_fraction": 0.2,
        "image_size": 16,
    }
    told = api.pack(**keys, dry_run=True)
    assert not (tmp_path / "out").exists()
    assert told["splits"] == {"train": 32, "val": 8}
    assert "before images are made smaller; nothing was written" in caplog.text
    done = api.pack(**keys)
    assert done == {"splits": {"train": 32, "val": 8}, "classes": []}
    facts = api.inspect(data=str(tmp_path / "out"), out=str(tmp_path / "look"))
    assert facts["splits"]["train"]["label_range"][::2] == [0.5, 1.5]
    assert facts["splits"]["train"]["height"] == [16, 16, 16]


def test_an_image_folder_is_packed_to_the_cache_once(images, tmp_path, caplog):
    caplog.set_level("INFO", logger="mimsuite")
    for i in range(2):
        api.inspect(data=str(images), out=str(tmp_path / str(i)))
    assert sum("packing it to" in record.getMessage() for record in caplog.records) == 1


def test_load_gives_the_model_in_evaluation_mode(model):
    loaded = api.load(str(model))
    assert type(loaded).__name__ == "ViTForMaskedImageModeling"
    assert not loaded.training


def test_grey_16_bit_tiffs_stay_16_bit(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(4):
        values = np.full((16, 16), 1000 * i + 500, np.uint16)
        Image.fromarray(values).save(tmp_path / "images" / f"{i}.tif")
    index = pack(tmp_path / "images", tmp_path / "out")
    assert (index.dtype, index.channels) == ("uint16", 1)


def test_reconstruct_reads_16_bit_images_for_a_16_bit_model(tmp_path):
    config = ViTConfig(**SIZES, image_size=16, patch_size=8, encoder_stride=8, num_channels=1)
    ViTForMaskedImageModeling(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(
        size={"height": 16, "width": 16}, rescale_factor=1 / 65535, image_mean=[0.5], image_std=[0.5]
    ).save_pretrained(tmp_path / "vit")
    Image.fromarray(np.full((16, 16), 65535, np.uint16)).save(tmp_path / "white.tif")
    api.reconstruct(init=str(tmp_path / "vit"), images=str(tmp_path / "white.tif"), out=str(tmp_path / "x.png"))
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.convert("RGB").getpixel((40, 100)) == (255, 255, 255)
