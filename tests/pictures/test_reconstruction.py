"""Reconstructions: which pictures a sheet gets in each mode, and that they know nothing of hidden pixels."""

import math

import numpy as np
import pytest
import torch

from mimsuite.errors import InputError
from mimsuite.masked.losses import masked_error
from mimsuite.masked.modes import MODES
from mimsuite.masked.normalization import Normalize
from mimsuite.masked.targets import TARGETS, hog
from mimsuite.metrics.psnr import hidden_psnr
from mimsuite.models import CvtConfig, CvtForMaskedImageModeling, ViTConfig, ViTForMaskedImageModeling
from mimsuite.pictures import sheets
from mimsuite.pictures.display import Components, hog_glyphs, principal_components, to_display
from mimsuite.pictures.reconstruction import ERROR, PASTE, WORDS, Reconstruction, colour_words, compare, reconstruct

NAMES = tuple(TARGETS)
MODE_OF = {"pixels": "raw", "norm_pixels": "predicted_stats", "hog": "orientations"}
PAIRS = [(name, mode) for name, modes in MODES.items() for mode in modes]
BLIND = [pair for pair in PAIRS if pair[1] != "oracle_stats"]
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SIZE, CELL, UNIT = (32, 48), (8, 8), 16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=3, seed=0):
    return torch.randint(256, (count, 3, *SIZE), generator=generator(seed), dtype=torch.uint8)


def some_mask(count=3):
    mask = torch.zeros(count, SIZE[0] // UNIT, SIZE[1] // UNIT, dtype=torch.bool)
    mask[:, 0, 1:] = True
    mask[1:, 1, 0] = True
    return mask


def on_pixels(mask, unit=UNIT):
    return mask.repeat_interleave(unit, 1).repeat_interleave(unit, 2)


def oracle(target, change=0.0):
    """Predicts the target itself, plus a number."""

    def run(pixels, mask, kind):
        found = target.dense(pixels, CELL)
        return masked_error(found + change, found, mask, kind), found + change

    return run


def draw(name, images=None, mask=None, run=None, **options):
    target = TARGETS[name]()
    images = pictures() if images is None else images
    mask = some_mask(len(images)) if mask is None else mask
    return reconstruct(run or oracle(target), target, CELL, Normalize(MEAN, STD), images, mask, **options)


def shown(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", NAMES)
def test_arrays_of_every_mode_have_their_shapes(name):
    found, scale = draw(name), 2 if name == "hog" else 1
    assert (found.target, found.mode) == (name, MODE_OF[name])
    assert found.original.shape == found.prediction.shape == (3, SIZE[0] * scale, SIZE[1] * scale, 3)
    assert found.original.dtype == found.prediction.dtype == np.uint8
    assert found.mask.dtype == np.bool_
    np.testing.assert_array_equal(found.mask, some_mask().numpy())
    assert found.unit == UNIT


@pytest.mark.parametrize("name", ["pixels", "norm_pixels"])
def test_pictures_of_pixels_are_the_images_and_their_psnr(name):
    found, images, mask = draw(name, run=oracle(TARGETS[name](), 0.1)), pictures(), some_mask()
    assert found.images is None
    np.testing.assert_array_equal(found.original, shown(images))
    drawn = torch.from_numpy(found.prediction).permute(0, 3, 1, 2) / 255
    np.testing.assert_allclose(found.psnr, hidden_psnr(drawn, images / 255, mask), atol=0.1)
    assert found.loss == pytest.approx(0.1, rel=1e-4)


def test_a_perfect_prediction_of_pixels_is_the_image():
    found = draw("pixels")
    np.testing.assert_array_equal(found.prediction, found.original)
    assert found.psnr.tolist() == [100.0] * 3
    assert found.loss == 0


def test_a_perfect_prediction_of_normalised_pixels_is_the_image_where_it_is_visible():
    found, visible = draw("norm_pixels"), ~on_pixels(some_mask()).numpy()
    np.testing.assert_array_equal(found.prediction[visible], found.original[visible])
    assert (found.prediction[~visible] != found.original[~visible]).any()
    assert (found.psnr < 40).all()


def test_of_orientations_the_glyphs_are_shown_beside_the_images():
    images = pictures()
    change = oracle(TARGETS["hog"](), 0.25)
    found = draw("hog", images, run=change)
    assert found.psnr is None
    np.testing.assert_array_equal(found.images, shown(images))
    histograms = hog(Normalize(MEAN, STD)(images))
    np.testing.assert_array_equal(found.original, hog_glyphs(histograms.numpy()))
    np.testing.assert_array_equal(found.prediction, hog_glyphs((histograms + 0.25).numpy()))
    assert found.loss == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_sheets_have_five_columns_and_with_orientations_six(name):
    found = draw(name)
    factor, columns = (2, 6) if name == "hog" else (4, 5)
    side = found.original.shape[2] * factor
    assert found.sheet("run").width == columns * (side + 6) - 6 + 2 * 16


@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_what_is_no_image_is_not_called_one(name, mode, monkeypatch):
    names = []
    monkeypatch.setattr(sheets, "lay_out", lambda groups, *_: names.extend(n for g in groups for n, _ in g.columns))
    monkeypatch.setattr(sheets, "draw_heat_bar", lambda *_: None)
    found = draw(name, mode=mode)
    found.sheet("")
    compare({"a": found}, "")
    made_of_it = name == "hog" or (name == "norm_pixels" and mode == "raw")
    first = ["image", "target", "masked target"] if made_of_it else ["original", "masked"]
    assert names == [*first, "prediction", "paste", "error", *first, "paste"]


def drawn_with(monkeypatch):
    """The words and images that the next sheet is drawn with, once it is drawn."""
    given = {}
    monkeypatch.setitem(
        Reconstruction.sheet.__globals__, "reconstruction_sheet", lambda *_, **options: given.update(options)
    )
    return given


@pytest.mark.parametrize("name", NAMES)
def test_the_footer_names_mode_mask_and_loss_and_captions_the_psnr(name, monkeypatch):
    given = drawn_with(monkeypatch)
    found = draw(name, run=oracle(TARGETS[name](), 0.1))
    found.sheet("the title")
    assert given["title"] == "the title"
    assert given["footer"].startswith(WORDS[name, MODE_OF[name]])
    assert f"; 44% hidden in units of 16 px; masked loss (L1) 0.1000 over 3 images; {PASTE}; {ERROR}" in given["footer"]
    psnr = [""] * 3 if name == "hog" else [f", PSNR {value:.1f} dB" for value in found.psnr]
    assert given["captions"] == [f"masked loss 0.1000{text}" for text in psnr]
    assert given["images"] is found.images


@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_the_footer_says_in_words_where_the_contrast_comes_from(name, mode, monkeypatch):
    given = drawn_with(monkeypatch)
    draw(name, mode=mode).sheet("")
    assert given["footer"].startswith(f"{WORDS[name, mode]}; 44% hidden")
    assert ("also where it is hidden: a part of the answer" in given["footer"]) == (mode == "oracle_stats")
    if len(MODES[name]) > 1:
        assert f"mode {mode} (" in given["footer"]


def test_loss_and_psnr_are_said_to_be_of_more_channels_than_are_shown():
    images = torch.randint(256, (1, 5, *SIZE), generator=generator(), dtype=torch.uint8)
    target, normalize = TARGETS["pixels"](), Normalize([0.5] * 5, [0.2] * 5)
    found = reconstruct(oracle(target), target, CELL, normalize, images, some_mask(1))
    assert found.colours == "channels 0, 1, 2 of 5 as red, green, blue; loss and PSNR over all 5 channels"
    assert draw("pixels").colours == ""


def test_every_mode_has_its_words():
    assert list(WORDS) == PAIRS


def test_an_image_of_which_nothing_is_hidden_has_no_psnr(monkeypatch):
    given = drawn_with(monkeypatch)
    mask = some_mask(2)
    mask[0] = False
    found = draw("pixels", pictures(2), mask)
    found.sheet("")
    assert math.isnan(found.psnr[0])
    assert given["captions"] == ["nothing hidden", "masked loss 0.0000, PSNR 100.0 dB"]


@pytest.mark.parametrize("kind", ["l1", "mse"])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_an_image_is_that_of_the_image_alone(name, kind):
    target, images, mask = TARGETS[name](), pictures(), some_mask()

    def run(pixels, mask, kind):
        wanted = target.dense(pixels, CELL)
        guess = wanted + torch.tensor([0.0, 0.5, 2.0])[:, None, None, None]
        return masked_error(guess, wanted, mask, kind), guess

    found = draw(name, images, mask, run, loss=kind)
    np.testing.assert_allclose(found.losses, [0.0, 0.5, 2.0] if kind == "l1" else [0.0, 0.25, 4.0], rtol=1e-5)
    counts = mask.sum((1, 2)).numpy()
    assert found.loss == pytest.approx((found.losses * counts).sum() / counts.sum(), rel=1e-5)
    alone = draw(name, images[1:2], mask[1:2], oracle(target, 0.5), loss=kind)
    assert alone.losses.tolist() == [alone.loss]
    assert draw(name, mask=torch.zeros_like(mask)).losses.tolist() == [0, 0, 0]


DECODER = {
    "mask_mode": "drop",
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}


def model(name, family):
    torch.manual_seed(0)
    if family == "cvt":
        config = CvtConfig(
            embed_dim=[8, 16, 16], num_heads=[1, 2, 2], depth=[1, 1, 1], mim_target=name, encoder_stride=16
        )
        return CvtForMaskedImageModeling(config).eval()
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=SIZE,
        patch_size=8,
        encoder_stride=8,
        mim_target=name,
        **(DECODER if family == "mae" else {}),
    )
    return ViTForMaskedImageModeling(config).eval()


def drawn_of_two(name, family, mode, colours=False):
    """Reconstructions of images that differ in nothing but their hidden pixels."""
    network, mask = model(name, family), some_mask()
    mask[0, 1, 2] = True  # the same number in every image, as dropping needs it

    one, hidden = pictures(), on_pixels(mask)[:, None]
    other = torch.where(hidden, pictures(seed=1) // 2, one)
    normalize = Normalize(MEAN, STD)

    def draw(images):
        shown = principal_components(normalize(images).numpy(), MEAN, STD, mask.numpy()) if colours else None
        return reconstruct(
            network.predict, network.target, network.head_stride, normalize, images, mask, mode=mode, shown=shown
        )

    return draw(one), draw(other)


@pytest.mark.parametrize("family", ["vit", "mae", "cvt"])
@pytest.mark.parametrize(("name", "mode"), BLIND)
def test_hidden_pixels_change_no_bit_of_what_a_model_makes_of_an_image(name, mode, family):
    drawn = drawn_of_two(name, family, mode)
    np.testing.assert_array_equal(drawn[0].prediction, drawn[1].prediction)
    assert drawn[0].prediction.std() > 0
    assert drawn[0].loss != drawn[1].loss
    assert (drawn[0].original != drawn[1].original).any()


@pytest.mark.parametrize(("name", "mode"), [pair for pair in BLIND if pair[0] != "hog"])
def test_hidden_pixels_change_no_bit_of_a_prediction_in_the_colours_of_visible_ones(name, mode):
    one, other = drawn_of_two(name, "mae", mode, colours=True)
    np.testing.assert_array_equal(one.prediction, other.prediction)
    assert (one.prediction != drawn_of_two(name, "mae", mode)[0].prediction).any()
    assert one.colours.startswith("first three principal components of the 3 channels of visible pixels")


@pytest.mark.parametrize("family", ["vit", "mae", "cvt"])
def test_only_hidden_cells_show_their_own_contrast_with_oracle_stats(family):
    drawn = drawn_of_two("norm_pixels", family, "oracle_stats")
    mask = on_pixels(torch.from_numpy(drawn[0].mask)).numpy()
    changed = (drawn[0].prediction != drawn[1].prediction).any(-1)
    assert changed[mask].mean() > 0.9
    assert not changed[~mask].any()


def test_a_perfect_prediction_of_normalised_pixels_is_the_image_with_oracle_stats():
    found = draw("norm_pixels", mode="oracle_stats")
    np.testing.assert_array_equal(found.prediction, found.original)
    np.testing.assert_array_equal(found.original, shown(pictures()))
    assert found.images is None
    assert (found.psnr > 90).all()


def test_normalised_pixels_are_shown_as_they_are_predicted_in_the_mode_raw():
    images = pictures()
    found = draw("norm_pixels", images, run=oracle(TARGETS["norm_pixels"](), 0.5), mode="raw")
    wanted = TARGETS["norm_pixels"]().dense(Normalize(MEAN, STD)(images), CELL).numpy()
    np.testing.assert_array_equal(found.images, shown(images))
    np.testing.assert_array_equal(found.original, to_display(wanted, MEAN, STD))
    np.testing.assert_array_equal(found.prediction, to_display(wanted + 0.5, MEAN, STD))
    assert found.psnr is None


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        (
            "pixels",
            "oracle_stats",
            "is for a model that predicts norm_pixels, and this one predicts pixels; use mode=raw",
        ),
        (
            "pixels",
            "predicted_stats",
            "is for a model that predicts norm_pixels, and this one predicts pixels; use mode",
        ),
        ("hog", "raw", "is for a model that predicts pixels, and this one predicts hog; use mode=auto"),
        (
            "norm_pixels",
            "orientations",
            "is for a model that predicts hog, .*; use mode=predicted_stats or oracle_stats or raw",
        ),
        ("norm_pixels", "oracle", "is unknown; use mode=predicted_stats or oracle_stats or raw"),
    ],
)
def test_a_mode_of_another_target_is_refused(name, mode, message):
    with pytest.raises(InputError, match=f"mode={mode} {message}") as error:
        draw(name, mode=mode)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_visible_pixels_of_the_picture_are_not_pasted_in(name):
    """The prediction is the model's, also where it could have seen the answer."""
    target = TARGETS[name]()

    def run(pixels, mask, kind):
        zero = torch.zeros_like(target.dense(pixels, CELL))
        return zero.sum(), zero

    found = draw(name, run=run)
    visible = ~on_pixels(some_mask()).repeat_interleave(found.original.shape[1] // SIZE[0], 1).repeat_interleave(
        found.original.shape[2] // SIZE[1], 2
    )
    assert (found.prediction[visible] != found.original[visible]).any()


def test_images_of_16_bits_are_shown_at_8():
    images = pictures().to(torch.int32) * 257
    found = reconstruct(
        oracle(TARGETS["pixels"]()), TARGETS["pixels"](), CELL, Normalize(MEAN, STD, 65535), images, some_mask()
    )
    np.testing.assert_array_equal(found.original, shown(pictures()))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_reconstruction_needs_a_gradient(name):
    weight = torch.nn.Parameter(torch.ones(()))

    def run(pixels, mask, kind):
        return weight, TARGETS[name]().dense(pixels, CELL) * weight

    found = draw(name, run=run)
    assert isinstance(found, Reconstruction)
    assert weight.grad is None


def edge(vertical):
    """An image of two halves with the border across cells."""
    image = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    if vertical:
        image[..., 20:] = 255
    else:
        image[:, :, 12:] = 255
    return image


def test_a_vertical_edge_is_drawn_as_vertical_strokes_and_a_horizontal_one_as_horizontal():
    cells = {}
    for vertical in (True, False):
        glyphs = draw("hog", edge(vertical)).original[0, :, :, 0]
        lit = glyphs.reshape(4, 16, 6, 16).max((1, 3)) > 0
        cells[vertical] = lit
        y, x = np.nonzero(glyphs[16:32, 32:48] > 127)  # the cell of rows 8 to 16 and columns 16 to 24
        tall, wide = np.ptp(y) + 1, np.ptp(x) + 1
        assert (tall, wide) == ((16, 4) if vertical else (2, 16))
    assert (cells[True] == np.array([0, 0, 1, 0, 0, 0], dtype=bool)).all()
    assert (cells[False] == np.array([0, 1, 0, 0], dtype=bool)[:, None]).all()


def test_what_is_shown_of_many_channels_is_said_in_words():
    assert colour_words(1, None) == colour_words(3, None) == ""
    assert colour_words(2, None) == "channel 0 of 2 as grey"
    assert colour_words(12, None) == "channels 0, 1, 2 of 12 as red, green, blue"
    assert colour_words(3, [2, 1, 0]) == "channels 2, 1, 0 of 3 as red, green, blue"
    assert "principal" in colour_words(4, Components(np.zeros((3, 4)), np.zeros(3)))


def test_original_and_prediction_are_shown_in_the_same_channels():
    found, images = draw("pixels", shown=[2, 2, 0]), shown(pictures())
    np.testing.assert_array_equal(found.original, images[..., [2, 2, 0]])
    np.testing.assert_array_equal(found.prediction, images[..., [2, 2, 0]])
