"""The model configs that ship: each composes, and has the published number of parameters."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from mimsuite import api
from mimsuite.config.folder import conf_dir
from mimsuite.config.instantiate import instantiate
from mimsuite.models import AutoModel, AutoModelForImageClassification, CvtForImageClassification
from mimsuite.settings.models import model_node

pytestmark = pytest.mark.slow

# Published: the bare encoder (ViT: without pooler), and with a classifier of 1,000 labels.
PUBLISHED = {
    "vit_tiny": (5_524_416, 5_717_416),
    "vit_small": (21_665_664, 22_050_664),
    "vit_base": (85_798_656, 86_567_656),
    "vit_base_patch16_384": (86_090_496, 86_859_496),
    "vit_base_patch32_224": (87_455_232, 88_224_232),
    "vit_base_patch32_384": (87_528_192, 88_297_192),
    "vit_large": (303_301_632, 304_326_632),
    "vit_large_patch16_384": (303_690_752, 304_715_752),
    "vit_large_patch32_224": (305_510_400, 306_535_400),
    "vit_large_patch32_384": (305_607_680, 306_632_680),
    "vit_huge": (630_764_800, 632_045_800),
    "cvt_13": (19_611_712, 19_997_480),
    "cvt_21": (31_236_928, 31_622_696),
    "cvt_w24": (276_169_344, 277_196_392),
    "bit_50x1": (23_500_352, 25_549_352),
    "bit_50x3": (211_174_080, 217_319_080),
    "bit_101x1": (42_492_480, 44_541_480),
    "bit_101x3": (381_789_888, 387_934_888),
    "bit_152x2": (232_238_208, 236_335_208),
    "bit_152x4": (928_340_224, 936_533_224),
}
OURS = {"vit_nano", "cvt_nano", "bit_nano"}
NAMES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml") if path.stem != "external")


def composed(name, **changes):
    return instantiate(model_node(conf_dir() / "model" / f"{name}.yaml"), **changes)


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_every_config_is_listed_here():
    assert set(NAMES) == PUBLISHED.keys() | OURS


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    config = composed(name, num_labels=1000)
    with torch.device("meta"):
        options = {"add_pooling_layer": False} if config.model_type == "vit" else {}
        found = (
            count(AutoModel.from_config(config, **options)),
            count(AutoModelForImageClassification.from_config(config)),
        )
    assert found == PUBLISHED[name]


def test_the_largest_cvt_has_its_published_head():
    with torch.device("meta"):
        assert count(CvtForImageClassification(composed("cvt_w24", num_labels=21_841))) == 298_558_417


@pytest.mark.parametrize("name", NAMES)
def test_hydra_composes_what_the_table_shows(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose(config_name="pretrain", overrides=[f"model={name}", "out=x"])
    assert instantiate(cfg.model) == composed(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_head_writes_whole_cells(name):
    config = composed(name)
    assert config.encoder_stride in (config.stride[0], list(config.stride))


def test_the_table_has_numbers_of_all():
    rows = {row["name"]: row for row in api.list_models()}
    assert set(rows) == set(NAMES)
    assert (rows["cvt_13"]["parameters"], rows["cvt_13"]["grid"], rows["cvt_13"]["stride"]) == (
        19_908_224,
        "14x14",
        "16x16",
    )
    assert (rows["bit_50x1"]["parameters"], rows["bit_50x1"]["grid"]) == (29_794_944, "7x7")
    assert rows["bit_50x1"]["gflops"] == pytest.approx(8.2, rel=0.02)  # the paper's network: 4.1 G multiply-adds
    assert rows["vit_tiny"]["parameters"] == 5_672_832
    assert rows["vit_huge"]["parameters"] == 631_519_308
    assert rows["vit_base"]["grid"] == "14x14"
    assert 17.5 < rows["vit_base"]["gflops"] / 2 < 17.7
    assert rows["vit_base_patch32_384"]["image_size"] == "384x384"
    assert {rows[name]["image_size"] for name in OURS} == {"64x64"}


def test_the_table_takes_another_size_and_channel_count():
    (row,) = api.call("models", {"name": "bit_nano", "image_size": [64, 96], "channels": 4})["models"]
    assert (row["image_size"], row["grid"]) == ("64x96", "8x12")
