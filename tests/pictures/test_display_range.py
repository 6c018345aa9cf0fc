"""Pictures of more than 8 bits show the range that the data use, say so, and measure PSNR against it."""

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from mimsuite.data.display_range import find_display
from mimsuite.data.images.stats import display_range, measure_images
from mimsuite.data.index_json import read_index, write_index
from mimsuite.data.open import open_data, open_index
from mimsuite.data.packing.pack import pack
from mimsuite.errors import InputError
from mimsuite.evaluation.judging.report import images_of
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.targets import TARGETS
from mimsuite.metrics.psnr import HiddenPSNR, hidden_psnr
from mimsuite.models import ViTConfig, ViTForMaskedImageModeling
from mimsuite.models.load import check_channels, load_normalizer, make_normalizer, save_weights
from mimsuite.pictures.contact import draw_data
from mimsuite.pictures.display import display_words, to_display
from mimsuite.pictures.mistakes import Caption, mistakes_sheet
from mimsuite.pictures.reconstruction import reconstruct
from mimsuite.pictures.scene import DrawnMasks, Scene
from mimsuite.types import DisplayRange
from mimsuite.weights.init import find_weights

SIDE = 16
LOW, HIGH = np.array([100, 100, 50, 0]), np.array([4000, 2000, 500, 65535])  # channels as a 12-bit camera fills them
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
SMALL = ViTConfig(**SIZES, image_size=SIDE, patch_size=8, encoder_stride=8, num_channels=4)
SPACE = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)


def scan(turn=0):
    """`(16, 16, 4)` uint16: a ramp in each channel over the values that it uses."""
    ramps = [np.roll(SPACE, turn, 0), SPACE.T, SPACE, SPACE[::-1]]
    return np.stack([low + ramp * (high - low) for ramp, low, high in zip(ramps, LOW, HIGH, strict=True)], -1).astype(
        np.uint16
    )


def as_tiff(pixels):
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, photometric="minisblack", planarconfig="contig")
    return stream.getvalue()


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """The index of eight scans of four channels, 12 bits in 16."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(8):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"{number}.tif").write_bytes(as_tiff(scan(number)))
    pack(folder / "images", folder / "shards")
    return open_index(str(folder / "shards"))


def in_units(display):
    return np.rint(np.array([display.low, display.high]) * 65535).astype(int)


def test_the_range_is_the_first_to_the_99th_percentile_of_each_channel(scans):
    every = np.stack([scan(number) for number in range(8)]).reshape(-1, 4)
    wanted = np.percentile(every, [1, 99], axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(in_units(scans.display), wanted)


def test_a_channel_that_is_almost_or_quite_constant_has_a_range_too():
    levels = np.zeros((2, 65536))
    levels[0, [7, 900]] = 999, 1  # a few bright spots on black
    levels[1, 7] = 1000
    assert in_units(display_range(levels)).T.tolist() == [[7, 900], [0, 65535]]


def test_an_index_keeps_the_range_and_an_older_one_is_measured(scans, tmp_path):
    write_index(tmp_path, scans)
    assert read_index(tmp_path, scans.root).display == scans.display == find_display(scans)
    content = json.loads((tmp_path / "index.json").read_text())
    del content["display"]
    (tmp_path / "index.json").write_text(json.dumps(content))
    old = read_index(tmp_path, scans.root)
    assert old.display is None
    assert find_display(old) == scans.display


@pytest.mark.parametrize(
    "damaged",
    [
        {"low": [0] * 4, "high": [0] * 4},
        {"low": [0] * 3, "high": [1] * 3},
        {"low": [0] * 4},
        [1],
        {"low": 0, "high": 1},
    ],
)
def test_a_damaged_range_is_refused_in_one_line(damaged, scans, tmp_path):
    write_index(tmp_path, scans)
    content = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(content | {"display": damaged}))
    with pytest.raises(InputError, match=r"index\.json is damaged .*; pack the data again"):
        read_index(tmp_path, scans.root)


def test_images_of_8_bits_have_no_range_and_their_pictures_say_nothing(tmp_path):
    index = open_data(None)
    assert find_display(index) is None
    normalize = make_normalizer(index, None)
    assert normalize.display is normalize.peak is None
    assert display_words(None, [0, 1, 2]) == ""
    plain = tmp_path / "weights"
    save_weights(plain, tiny(3), normalize, (SIDE, SIDE))
    assert not any("display" in key for key in json.loads((plain / "preprocessor_config.json").read_text()))


def test_of_mixed_depths_the_log_says_what_is_lost(caplog):
    eight, deep = np.full((8, 8), 9, np.uint8), np.arange(64, dtype=np.uint16).reshape(8, 8) * 40
    with caplog.at_level(logging.WARNING, logger="mimsuite"):
        found = measure_images([("a", as_grey(eight)), ("b", as_grey(deep))], "mixed")
    assert (found.dtype, found.display) == ("uint8", None)
    assert "1 of 2 sampled images have 16 bits" in caplog.text
    assert "values up to 2,520 become 0 to 10 of 255; pack each depth separately" in caplog.text


def as_grey(pixels):
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, photometric="minisblack")
    return stream.getvalue()


def test_the_contact_sheet_is_bright_and_names_the_range(scans, monkeypatch):
    from mimsuite.pictures import contact

    said = []
    draw = contact.contact_sheet
    monkeypatch.setattr(contact, "contact_sheet", lambda *a, **k: said.append((a[0], k["footer"])) or draw(*a, **k))
    draw_data(scans, 8)
    ((pictures, footer),) = said
    for picture in pictures:
        assert picture.min((0, 1)).tolist() == [0, 0, 0]
        assert picture.max((0, 1)).tolist() == [255, 255, 255]
    low, high = in_units(scans.display)
    ranges = " | ".join(f"{a:,} to {b:,}" for a, b in zip(low[:3], high[:3], strict=True))
    assert footer.startswith("channels 0, 1, 2 of 4 as red, green, blue, values shown: ")
    assert footer.endswith(f"shown: {ranges} of 65,535 (1st to 99th percentile of the data)")


def test_a_footer_makes_a_sheet_higher_and_changes_nothing_above():
    images, captions = [np.zeros((8, 8, 3), np.uint8)], [Caption(("a", ""), ("b", ""))]
    plain, named = (mistakes_sheet(images, captions, "a title of some width", text) for text in ("", "a b"))
    assert named.height - plain.height == 18
    above = np.asarray(plain)[:-16]
    np.testing.assert_array_equal(np.asarray(named)[: len(above)], above)
    assert (np.asarray(named)[len(above) :] < 200).any()


def test_mistakes_are_bright(scans):
    shown = images_of(scans, scans.records("train"), torch.tensor([3, 1]), (SIDE, SIDE), scans.display)
    assert [picture.max((0, 1)).tolist() for picture in shown] == [[255] * 3] * 2
    dark = images_of(scans, scans.records("train"), torch.tensor([3, 1]), (SIDE, SIDE))
    assert max(int(picture.max()) for picture in dark) < 20


def tiny(channels):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**sizes, image_size=SIDE, patch_size=8, encoder_stride=8, num_channels=channels)
    return ViTForMaskedImageModeling(config)


def test_weights_keep_the_range_of_a_run_so_that_its_pictures_stay_comparable(scans, tmp_path):
    normalize = make_normalizer(scans, None)
    save_weights(tmp_path, tiny(4), normalize, (SIDE, SIDE))
    found = load_normalizer(find_weights(str(tmp_path)))
    assert found.display == scans.display
    torch.testing.assert_close(found.peak.flatten(), normalize.peak.flatten())
    scene = Scene(str(tmp_path), scans.root, count=2)
    drawn = scene.draw("random", 0.5, unit=8)
    assert drawn.original.max((0, 1, 2)).tolist() == [255, 255, 255]
    assert "values shown: " in drawn.how()
    assert "of 65,535 (1st to 99th percentile of the data); loss and PSNR over all 4 channels" in drawn.how()


def test_weights_without_a_range_take_that_of_the_data_or_three_deviations(scans, tmp_path):
    save_weights(tmp_path, tiny(4), make_normalizer(scans, None), (SIDE, SIDE))
    file = tmp_path / "preprocessor_config.json"
    content = {key: value for key, value in json.loads(file.read_text()).items() if "display" not in key}
    file.write_text(json.dumps(content))
    weights = find_weights(str(tmp_path))
    assert load_normalizer(weights, scans).display == scans.display
    around = load_normalizer(weights).display
    assert around.source == "three deviations around the mean"
    mean, std = scans.mean[2], scans.std[2]
    assert (around.low[2], around.high[2]) == pytest.approx((max(0, mean - 3 * std), mean + 3 * std), abs=1e-6)
    file.write_text(json.dumps(content | {"image_mean": [7.0] * 4}))
    strange = load_normalizer(find_weights(str(tmp_path))).display
    assert all(low < high for low, high in zip(strange.low, strange.high, strict=True))


def test_psnr_is_relative_to_the_range(scans):
    images = torch.from_numpy(np.stack([scan(0), scan(1)]).astype(np.int32)).permute(0, 3, 1, 2)
    normalize = make_normalizer(scans, None)
    mask = torch.ones(2, 2, 2, dtype=torch.bool)
    off = 0.1 * normalize.peak  # every channel is wrong by a tenth of its range: 20 dB
    truth = normalize(images)
    guess = (normalize.undo(truth) - off).clamp_min(-1)

    def predict(pixels, mask, loss):
        return torch.zeros(()), (guess - normalize.mean) / normalize.std

    found = reconstruct(predict, TARGETS["pixels"](), (8, 8), normalize, images, mask)
    error = np.clip(guess.numpy(), 0, 1) - images.numpy() / 65535
    wanted = -10 * np.log10(((error / normalize.peak.numpy()) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(found.psnr, wanted, rtol=1e-4)
    assert 20 <= found.psnr.min() <= found.psnr.max() < 21
    metric = HiddenPSNR()
    metric.update(guess, normalize.undo(truth), mask, normalize.peak)
    assert float(metric.compute()) == pytest.approx(wanted.mean(), rel=1e-4)
    flattered = hidden_psnr(guess[:, :3], normalize.undo(truth)[:, :3], mask)
    assert flattered.min() > 40


def test_a_range_maps_its_ends_to_black_and_bright():
    pixels = np.array([0.0, 0.1, 0.2, 0.3, 1.0]).reshape(1, 1, 1, 5)
    drawn = to_display(pixels, [0.0], [1.0], display=DisplayRange((0.1,), (0.3,)))
    assert drawn[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    chosen = to_display(pixels.repeat(3, 1), [0.0] * 3, [1.0] * 3, [2, 1, 0], DisplayRange((0, 0, 0.1), (1, 1, 0.3)))
    assert chosen[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert chosen[0, 0, :, 1].tolist() == [0, 26, 51, 76, 255]


def test_normalised_images_are_as_before_with_a_range():
    images = torch.randint(0, 65536, (2, 1, 4, 4), dtype=torch.int32)
    plain, ranged = Normalize([0.1], [0.2], 65535), Normalize([0.1], [0.2], 65535, DisplayRange((0.1,), (0.2,)))
    assert torch.equal(plain(images), ranged(images))
    assert plain.state_dict() == ranged.state_dict() == {}


def test_a_contact_sheet_names_its_channels_and_holds_all_of_train(scans, monkeypatch):
    asked = {}

    def sheet(pictures, captions, *, title, footer):
        asked.update(captions=captions, footer=footer)

    monkeypatch.setattr("mimsuite.pictures.contact.contact_sheet", sheet)
    draw_data(scans, 40)
    assert sorted(asked["captions"]) == list("01234567")
    assert asked["footer"].startswith("channels 0, 1, 2 of 4 as red, green, blue, values shown: 1")


def test_no_percentile_is_named_where_a_channel_is_constant():
    levels = np.zeros((1, 65536))
    levels[0, 1000] = 1
    assert display_words(display_range(levels), [0]) == "values shown: 0 to 65,535 of 65,535"


def test_of_packed_numbers_the_values_of_the_files_are_named():
    display = DisplayRange((0.25, 0.0), (0.5, 1.0), "percentiles")
    assert display_words(display, [0]) == "values shown: 16,384 to 32,768 of 65,535 (percentiles)"
    words = display_words(display, [0, 1], value_range=(-1, 1))
    assert words == "values shown: -0.5 to 0 | -1 to 1 of value_range=[-1,1] (percentiles)"


def test_dark_images_of_16_bits_are_named_before_a_model_of_8_bits_takes_them(scans, tmp_path, caplog):
    ViTForMaskedImageModeling(SMALL).save_pretrained(tmp_path)
    dim = replace(scans, display=DisplayRange((0.0,) * 4, (0.05,) * 4))
    check_channels(scans, find_weights(str(tmp_path)))
    assert not caplog.messages
    check_channels(dim, find_weights(str(tmp_path)))
    assert "99% of their values are below 3,277 of 65,535" in caplog.text


def test_a_model_keeps_the_names_of_its_bands_and_pictures_are_asked_for_and_called_by_them(scans, tmp_path, caplog):
    named = replace(scans, bands=("B2", "B3", "B4", "B8"))
    model = ViTForMaskedImageModeling(SMALL)
    save_weights(tmp_path, model, make_normalizer(named, None), (SIDE, SIDE))
    weights = find_weights(str(tmp_path))
    assert weights.bands == load_normalizer(weights, named).bands == named.bands
    scene = Scene(str(tmp_path), scans.root, count=2)
    mask = DrawnMasks(torch.zeros(len(scene.names), 2, 2, dtype=torch.bool), None)
    by_name, by_number = (scene.show([mask], channels=shown)[0] for shown in (["B8", "B3", "B2"], [3, 1, 0]))
    assert np.array_equal(by_name.original, by_number.original)
    assert by_name.colours.startswith("channels B8, B3, B2 of 4 as red, green, blue, values shown: ")
    with pytest.raises(InputError, match="channels_shown: there is no band B5; there are B2, B3, B4, B8, or 0 to 3"):
        scene.show([mask], channels=["B5", "B3", "B2"])
    caplog.clear()
    check_channels(named, weights)
    check_channels(scans, weights)
    assert not caplog.messages
    check_channels(replace(scans, bands=("B8", "B4", "B3", "B2")), weights)
    assert "has the bands B8, B4, B3, B2, and init=" in caplog.text
    assert "was trained on B2, B3, B4, B8; pack the data with bands=[B2,B3,B4,B8] for the same order" in caplog.text


def test_a_model_keeps_the_range_of_its_values_and_data_with_another_one_are_named(scans, tmp_path, caplog):
    ranged = replace(scans, value_range=(0.0, 4095.0))
    folders = {}
    for name, index in (("ranged", ranged), ("plain", scans)):
        folders[name] = str(tmp_path / name)
        save_weights(tmp_path / name, ViTForMaskedImageModeling(SMALL), make_normalizer(index, None), (SIDE, SIDE))
    weights = {name: find_weights(folder) for name, folder in folders.items()}
    assert weights["ranged"].value_range == load_normalizer(weights["ranged"]).value_range == (0, 4095)
    check_channels(ranged, weights["ranged"])
    check_channels(scans, weights["plain"])
    assert not caplog.messages
    other, own = replace(scans, value_range=(0.0, 0.5)), "data with value_range=[0,4095], so equal numbers do not"
    for index, name, said in (
        (scans, "ranged", f"has no value_range, and init={folders['ranged']} was trained on {own}"),
        (other, "ranged", f"has value_range=[0,0.5], and init={folders['ranged']} was trained on {own}"),
        (ranged, "plain", "has value_range=[0,4095], and init=" + folders["plain"]),
    ):
        check_channels(index, weights[name])
        assert said in caplog.text
        caplog.clear()
    for images in (scans.root, str(Path(scans.root).parent / "images")):
        assert Scene(folders["ranged"], images, count=1).images.shape[0] == 1
        assert f"{images} has no value_range" in caplog.text
        caplog.clear()
