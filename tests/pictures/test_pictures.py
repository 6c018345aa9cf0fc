"""Pictures: what stands in which cell, and curves from a run's figures."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite import pictures
from mimsuite.errors import InputError
from mimsuite.masked.normalization import Normalize
from mimsuite.pictures.components import find_components
from mimsuite.pictures.display import hog_glyphs, principal_components, to_display
from mimsuite.pictures.palette import load_font
from mimsuite.pictures.sheets import Panel, contact_sheet, reconstruction_sheet, settings_sheet

RNG = np.random.default_rng(0)
MASK = np.array([[[1, 0], [0, 1]], [[0, 1], [0, 0]]], dtype=bool)


def images(n=2, height=64, width=64):
    return np.random.default_rng(1).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_display_undoes_normalisation_within_one_level(dtype):
    mean, std = [0.3, 0.5, 0.9], [0.1, 0.25, 0.4]
    shown = images()
    pixels = ((np.moveaxis(shown, -1, 1) / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))).astype(
        dtype
    )
    back = to_display(pixels, mean, std)
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - shown).max() <= 1


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (12, [0, 1, 2])])
def test_display_takes_the_first_channel_as_grey_or_the_first_three_as_colours(channels, shown):
    pixels = RNG.random((2, channels, 4, 5))
    got = to_display(pixels, [0.0] * channels, [1.0] * channels)
    np.testing.assert_array_equal(got, np.rint(np.moveaxis(pixels[:, shown], 1, -1) * 255))


def test_display_clips_and_shows_what_is_not_a_number_as_black():
    pixels = np.array([-3.0, 3.0, np.nan]).reshape(1, 1, 1, 3)
    assert to_display(pixels, [0.5], [1.0])[0, 0, :, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 2, 8, 8)])
def test_display_refuses_statistics_that_do_not_fit(shape):
    with pytest.raises(InputError, match="3 means and 3 deviations"):
        to_display(np.zeros(shape), [0.5] * 3, [0.5] * 3)


STATISTICS = {
    "plain": (0.0, 1.0),
    "usual": (0.45, 0.25),
    "narrow": (0.5, 0.003),
    "dark": (1e-4, 1e-5),
    "bright": (1.0, 0.02),
    "wide": (0.3, 3.0),
}


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32], ids=["uint8", "uint16"])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_normalising_and_its_inverse_agree_to_one_level(statistics, dtype, channels):
    most = 255 if dtype == torch.uint8 else 65535
    mean, std = ([value * (1 + k / 50) for k in range(channels)] for value in STATISTICS[statistics])
    levels = torch.linspace(0, most, 4096).round().to(dtype)
    images = torch.stack([levels.roll(97 * k) for k in range(channels)]).view(1, channels, 64, 64)
    normalize = Normalize(mean, std, most)
    pixels = normalize(images)
    back = (normalize.undo(pixels) * most).round()
    assert (back - images).abs().max() <= 1
    shown = images[0, [0, 1, 2] if channels > 2 else [0, 0, 0]].permute(1, 2, 0).numpy() * (255 / most)
    for chosen in (None, [channels - 1, 0, channels // 2]):
        drawn = to_display(pixels.numpy(), mean, std, chosen)[0]
        wanted = shown if chosen is None else images[0, chosen].permute(1, 2, 0).numpy() * (255 / most)
        assert np.abs(drawn - wanted).max() <= 1


def test_channels_are_shown_in_the_order_that_is_asked_for():
    pixels = RNG.random((2, 5, 4, 6))
    got = to_display(pixels, [0.0] * 5, [1.0] * 5, [3, 1, 0])
    np.testing.assert_array_equal(got, np.rint(np.moveaxis(pixels[:, [3, 1, 0]], 1, -1) * 255))


def some_channels(channels=6, seed=0):
    """Images of channels that vary together and unequally, normalised, with their statistics and a mask."""
    random = np.random.default_rng(seed)
    pixels = np.einsum(
        "nkhw,ck->nchw", random.normal(size=(2, channels, 8, 12)), random.normal(size=(channels, channels))
    )
    return pixels, random.random(channels), random.random(channels) / 5, random.random((2, 2, 3)) < 0.5


def test_principal_components_are_those_of_the_visible_pixels():
    pixels, mean, std, mask = some_channels()
    found = principal_components(pixels, mean, std, mask)
    seen = (np.moveaxis(pixels, 1, -1) * std + mean)[~np.kron(mask, np.ones((1, 4, 4), dtype=bool))]
    middle = seen.mean(0)
    _, lengths, axes = np.linalg.svd(seen - middle, full_matrices=False)
    sums = seen @ found.weights.T + found.shift
    np.testing.assert_allclose(sums.mean(0), 0.5, atol=1e-12)
    np.testing.assert_allclose(sums.std(0), 0.2, atol=1e-12)
    assert (found.weights[np.arange(3), np.abs(found.weights).argmax(1)] > 0).all()
    wanted = (seen - middle) @ axes[:3].T / lengths[:3] * len(seen) ** 0.5 / 5
    np.testing.assert_allclose(np.abs(sums - 0.5), np.abs(wanted), atol=1e-10)
    drawn = to_display(pixels, mean, std, found)
    np.testing.assert_array_equal(drawn[~np.kron(mask, np.ones((1, 4, 4), dtype=bool))], np.rint(sums.clip(0, 1) * 255))


@pytest.mark.parametrize("junk", [np.nan, 1e30])
def test_hidden_pixels_change_no_bit_of_the_principal_components(junk):
    pixels, mean, std, mask = some_channels()
    found = principal_components(pixels, mean, std, mask)
    hidden = np.kron(mask, np.ones((1, 4, 4), dtype=bool))
    other = principal_components(np.where(hidden[:, None], junk, pixels), mean, std, mask)
    np.testing.assert_array_equal(found.weights, other.weights)
    np.testing.assert_array_equal(found.shift, other.shift)


def test_components_without_variance_are_grey():
    pixels = np.zeros((1, 4, 8, 8))
    pixels[:, 2] = RNG.normal(size=(8, 8))
    found = principal_components(pixels, [0.5] * 4, [0.1] * 4, np.zeros((1, 2, 2), dtype=bool))
    drawn = to_display(pixels, [0.5] * 4, [0.1] * 4, found)
    assert drawn[..., 0].std() > 40
    assert (drawn[..., 1:] == 128).all()


def test_components_of_nothing_are_refused():
    with pytest.raises(InputError, match="takes its colours from visible pixels, and the masks leave none"):
        principal_components(np.zeros((1, 3, 4, 4)), [0.5] * 3, [0.5] * 3, np.ones((1, 2, 2), dtype=bool))


def cells(sheet, size, factor, *, rows=2, caption=0, title=0):
    """The five pictures of every row, cut out of the sheet and shrunk back to pixels."""
    sheet, (height, width) = np.asarray(sheet), size
    found = []
    for row in range(rows):
        y = 16 + title + 22 + row * (height * factor + caption + 6)
        xs = [16 + i * (width * factor + 6) for i in range(5)]
        found.append([sheet[y : y + height * factor, x : x + width * factor][::factor, ::factor] for x in xs])
    return found


@pytest.mark.parametrize(("size", "factor"), [((64, 64), 3), ((224, 224), 1), ((32, 48), 4), ((96, 96), 2)])
def test_sheet_shows_original_prediction_and_paste_pixel_by_pixel(size, factor):
    original, prediction = images(2, *size), images(4, *size)[2:]
    hidden = np.kron(MASK, np.ones((1, size[0] // 2, size[1] // 2))).astype(bool)
    for i, row in enumerate(cells(reconstruction_sheet(original, prediction, MASK), size, factor)):
        np.testing.assert_array_equal(row[0], original[i])
        np.testing.assert_array_equal(row[2], prediction[i])
        np.testing.assert_array_equal(row[3][hidden[i]], prediction[i][hidden[i]])
        np.testing.assert_array_equal(row[3][~hidden[i]], original[i][~hidden[i]])


def test_masked_column_shows_nothing_of_hidden_cells():
    hidden = np.kron(MASK, np.ones((1, 112, 112))).astype(bool)
    original = images(2, 224, 224)
    for i, row in enumerate(cells(reconstruction_sheet(original, original, MASK), (224, 224), 1)):
        np.testing.assert_array_equal(row[1][~hidden[i]], original[i][~hidden[i]])
        colours, counts = np.unique(row[1][hidden[i]], axis=0, return_counts=True)
        assert colours.tolist() == [[128] * 3, [158] * 3]
        assert 0.1 < counts[1] / counts.sum() < 0.25


def test_error_column_is_brighter_where_the_error_is_larger_and_ignores_visible_cells():
    original = np.full((1, 224, 224, 3), 100, dtype=np.uint8)
    prediction = original.copy()
    prediction[:, :56, :112] += 50
    prediction[:, 56:112, :112] += 100
    prediction[:, 112:, 112:] = 210
    prediction[:, :112, 112:] = 255  # visible
    mask = np.array([[[1, 0], [1, 1]]], dtype=bool)
    error = cells(reconstruction_sheet(original, prediction, mask), (224, 224), 1, rows=1)[0][4]
    slate = error[10, 150]
    assert (error[:112, 112:] == slate).all()
    assert not (error[112:] == slate).all(-1).any()
    brightness = [int(error[y, x].sum()) for y, x in ((150, 50), (10, 50), (80, 50), (150, 150))]
    assert brightness == sorted(set(brightness))
    assert error[150, 150].tolist() == [252, 255, 164]


def test_sheet_grows_for_title_captions_and_footer_and_stays_as_wide():
    bare = reconstruction_sheet(images(), images(), MASK)
    full = reconstruction_sheet(images(), images(), MASK, title="run", footer="words " * 60, captions=["a", "b" * 999])
    assert full.width == bare.width
    assert full.height > bare.height + 30 + 2 * 20
    for i, row in enumerate(cells(full, (64, 64), 3, caption=20, title=30)):
        np.testing.assert_array_equal(row[0], images()[i])


def test_sheet_of_a_perfect_prediction_can_be_drawn():
    error = cells(reconstruction_sheet(images(), images(), MASK), (64, 64), 3)[0][4]
    assert error[:32, :32].max() <= 4


def test_sheet_of_settings_shows_masked_and_paste_of_each_pixel_by_pixel():
    original, masks = images(2, 224, 224), [MASK, ~MASK, np.ones((2, 4, 4), dtype=bool)]
    predictions = [images(2 + i, 224, 224)[i:] for i in (2, 4, 6)]
    panels = [Panel(f"p{i}", p[-2:], m, ["a", "b"]) for i, (p, m) in enumerate(zip(predictions, masks, strict=True))]
    sheet = np.asarray(settings_sheet(original, panels, title="run", footer="how"))
    for row in range(2):
        y = 16 + 30 + 24 + 22 + row * (224 + 20 + 6)
        np.testing.assert_array_equal(sheet[y : y + 224, 16:240], original[row])
        for i, panel in enumerate(panels):
            hidden = panel.mask[row].repeat(224 // panel.mask.shape[1], 0).repeat(224 // panel.mask.shape[2], 1)
            x = 16 + 224 + 18 + i * (2 * 224 + 6 + 18)
            masked, paste = (sheet[y : y + 224, left : left + 224] for left in (x, x + 230))
            np.testing.assert_array_equal(masked[~hidden], original[row][~hidden])
            assert set(np.unique(masked[hidden])) == {128, 158}
            np.testing.assert_array_equal(paste, np.where(hidden[..., None], panel.prediction[row], original[row]))


def test_sheet_of_settings_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="does not fit 2 images of 64 x 64"):
        settings_sheet(images(), [Panel("a", images(), MASK, []), Panel("b", images(), MASK[:1], [])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": images(2, 64, 32)}, "expected two equal shapes"),
        ({"original": images(0), "prediction": images(0)}, "expected two equal shapes"),
        ({"mask": np.ones((2, 3, 2), dtype=bool)}, "does not fit 2 images of 64 x 64"),
        ({"mask": MASK[:1]}, "does not fit 2 images of 64 x 64"),
        ({"captions": ["one"]}, "1 captions for 2 images"),
    ],
)
def test_sheet_refuses_what_does_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        reconstruction_sheet(**({"original": images(), "prediction": images(), "mask": MASK} | change))


@pytest.mark.parametrize(("size", "factor", "times"), [((64, 64), 3, 2), ((96, 160), 1, 2), ((32, 48), 4, 1)])
def test_sheet_puts_images_of_their_own_size_before_the_other_columns(size, factor, times):
    original, prediction = images(2, *size), images(4, *size)[2:]
    small = images(2, size[0] // times, size[1] // times)
    sheet = reconstruction_sheet(original, prediction, MASK, images=small)
    bare = reconstruction_sheet(original, prediction, MASK)
    assert sheet.size == (bare.width + size[1] * factor + 6, bare.height)
    rows = cells(sheet, size, factor)
    for i, (row, plain) in enumerate(zip(rows, cells(bare, size, factor), strict=True)):
        np.testing.assert_array_equal(row[0], np.kron(small[i], np.ones((times, times, 1))))
        for found, wanted in zip(row[1:], plain[:4], strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "shape", [(1, 32, 32, 3), (2, 32, 64, 3), (2, 48, 48, 3), (2, 128, 128, 3), (2, 32, 32), (2, 32, 32, 1)]
)
def test_sheet_refuses_images_that_do_not_fit(shape):
    with pytest.raises(InputError, match="do not fit 2 originals of 64 x 64 pixels") as error:
        reconstruction_sheet(images(), images(), MASK, images=np.zeros(shape, dtype=np.uint8))
    assert "\n" not in str(error.value)


def histogram(number, strength=1.0):
    """One cell of one channel with one orientation."""
    values = np.zeros((1, 9, 1, 1))
    values[0, number] = strength
    return values


@pytest.mark.parametrize("side", [8, 16, 24])
def test_a_glyph_s_stroke_runs_across_the_gradient(side):
    for number in range(9):
        glyph = hog_glyphs(histogram(number), side)[0, :, :, 0].astype(float)
        assert glyph.max() == 255
        y, x = np.nonzero(glyph > 127)
        y, x = y - (side - 1) / 2, x - (side - 1) / 2
        assert np.hypot(y, x).max() > side / 2 - 1.5  # as long as the cell
        angle = np.pi * (20 * number + 10) / 180
        assert np.abs(np.cos(angle) * x + np.sin(angle) * y).max() <= 1  # thin
        np.testing.assert_array_equal(glyph, glyph[::-1, ::-1])


def test_an_upright_stroke_is_tall_and_a_level_one_is_wide():
    extents = {}
    for name, number in (("upright", 0), ("level", 4)):
        y, x = np.nonzero(hog_glyphs(histogram(number))[0, :, :, 0] > 127)
        extents[name] = (y.max() - y.min() + 1, x.max() - x.min() + 1)
    assert extents == {"upright": (16, 4), "level": (2, 16)}  # bin 0 is centred on 10 degrees


def test_glyphs_stand_in_their_cells_the_brighter_the_stronger_and_channels_are_averaged():
    values = np.zeros((2, 18, 2, 3))
    values[1, 4, 0, 2], values[1, 9 + 4, 0, 2] = 0.25, 0.75
    values[0, 0, 1, 0] = 1.0
    got = hog_glyphs(values, 16)
    assert got.shape == (2, 32, 48, 3)
    assert got.dtype == np.uint8
    wanted = np.zeros_like(got)
    wanted[1, :16, 32:] = hog_glyphs(histogram(4, 0.5))[0]
    wanted[0, 16:, :16] = hog_glyphs(histogram(0, 0.5))[0]
    np.testing.assert_array_equal(got, wanted)
    assert wanted.max() == 128


def test_where_strokes_cross_the_brightest_is_seen():
    both = hog_glyphs(histogram(4, 0.5) + histogram(1))
    np.testing.assert_array_equal(both, np.maximum(hog_glyphs(histogram(4, 0.5)), hog_glyphs(histogram(1))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predicted_histograms_outside_of_the_range_are_clipped(dtype):
    values = RNG.normal(0, 3, (2, 27, 3, 4)).astype(dtype)
    got = hog_glyphs(values, 8)
    assert got.shape == (2, 24, 32, 3)
    assert (got.min(), got.max()) == (0, 255)
    assert hog_glyphs(histogram(2, -1.0)).max() == 0
    assert hog_glyphs(histogram(2, np.nan)).max() == 0
    np.testing.assert_array_equal(hog_glyphs(histogram(2, 7.0)), hog_glyphs(histogram(2)))


def test_contact_sheet_keeps_proportions_and_order():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sizes = [(64, 64), (300, 100), (10, 40)]
    pictures = [Image.new("RGB", size, colour) for size, colour in zip(sizes, colours, strict=True)]
    sheet = np.asarray(contact_sheet(pictures, columns=2))
    boxes = []
    for colour in colours:
        y, x = np.nonzero((sheet == colour).all(-1))
        boxes.append((x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1))
    assert [box[2:] for box in boxes] == [(128, 128), (128, 43), (30, 120)]
    assert boxes[0][0] < boxes[1][0]
    assert boxes[0][1] < boxes[2][1]


def test_contact_sheet_takes_arrays_grey_and_transparent_pictures():
    sheet = contact_sheet(
        [images()[0], images()[0, :, :, 0], Image.new("LA", (5, 500))], ["a", "b", "a long caption" * 9]
    )
    assert (sheet.mode, sheet.width) == ("RGB", 2 * 16 + 3 * 128 + 2 * 6)


@pytest.mark.parametrize(("pictures", "captions"), [([], []), ([images()[0]], ["a", "b"])])
def test_contact_sheet_refuses_nothing_and_captions_that_do_not_fit(pictures, captions):
    with pytest.raises(InputError, match="a caption for each"):
        contact_sheet(pictures, captions)


def test_pictures_import_neither_torch_nor_matplotlib():
    code = "import sys, mimsuite.pictures.sheets; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_principal_components_are_those_of_the_covariance_with_positive_largest_weights():
    random = np.random.default_rng(3)
    values = random.normal(size=(500, 5)) @ random.normal(size=(5, 5)) + 7
    found = find_components(values.astype(np.float32), 3)
    centred = values.astype(np.float32) - values.astype(np.float32).mean(0, dtype=np.float64)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.variances, lengths**2 / 500, rtol=1e-10)
    np.testing.assert_allclose(np.abs(found.axes @ axes[:3].T), np.eye(3), atol=1e-8)
    assert (found.axes[np.arange(3), np.abs(found.axes).argmax(1)] > 0).all()
    np.testing.assert_allclose(found.scores, centred @ found.axes.T, atol=1e-12)
    np.testing.assert_allclose((found.scores * found.spread(1e-9)).std(0), 0.2, atol=1e-12)


def test_components_that_hardly_vary_are_not_spread():
    values = np.zeros((50, 3))
    values[:, 0] = RNG.normal(size=50)
    values[:, 1] = RNG.normal(size=50) * 1e-8
    assert (find_components(values, 3).spread(1e-6) > 0).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"load_default|truetype", "palette.py"),
        (r"#[0-9A-Fa-f]{6}|\(\d{2,3}, \d{2,3}, \d{2,3}\)", "palette.py"),
        (r"\beigh\b|\bsvd\b|pca_lowrank", "components.py"),
        (r"print_png|savefig|mkdir|\.save\((?!file)", "figures.py saving.py"),
    ],
)
def test_colours_fonts_components_and_files_have_one_home(pattern, home):
    """In a whole package of pictures; a colour that is written elsewhere would be a second palette."""
    folder = Path(pictures.__file__).parent
    found = {path.name for path in folder.glob("*.py") if re.search(pattern, path.read_text())}
    assert found == set(home.split())


@pytest.mark.parametrize("text", ["Käse", "Ελιά", "Кот"])
def test_letters_beyond_ascii_are_drawn_and_not_boxes(text):
    font = load_font(14, text)
    shapes = {bytes(font.getmask(letter)) for letter in text}
    assert len(shapes) == len(set(text))
    assert bytes(font.getmask("\uffff")) not in shapes
