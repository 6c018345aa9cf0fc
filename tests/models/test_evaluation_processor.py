"""The processor saved with a model reads files and PIL images as evaluation does: their channels, their depth."""

import io
import re

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mimsuite.data.augment.crop import CenterCrop
from mimsuite.data.images.decode import decode
from mimsuite.errors import InputError
from mimsuite.models import CenterCropImageProcessor

DRAW = np.random.default_rng(0)
GREY, DEEP, COLOUR = (
    DRAW.integers(0, top, shape).astype(dtype)
    for top, shape, dtype in ((256, (20, 24), "u1"), (65536, (20, 24), "u2"), (256, (20, 24, 3), "u1"))
)


def png(pixels, mode=None, **options):
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(stream, "PNG", **options)
    return stream.getvalue()


def tif(pixels, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, metadata=None, **options)
    return stream.getvalue()


FILES = {
    "grey": png(GREY),
    "grey of 16 bits": png(DEEP),
    "grey of 16 bits, big-endian": tif(DEEP, byteorder=">"),
    "grey of 16 bits in a PGM": b"P5 24 20 65535\n" + DEEP.astype(">u2").tobytes(),
    "black and white": png(GREY, "1"),
    "colour": png(COLOUR),
    "palette": png(COLOUR, "P"),
    "grey with alpha": png(GREY, "LA"),
}
OWN_READER = {
    "white is zero": tif(DEEP, photometric="miniswhite"),
    "colour of 16 bits": tif(np.stack([DEEP, DEEP.T.reshape(20, 24), DEEP], -1), photometric="rgb"),
}


def processor(channels, top):
    return CenterCropImageProcessor(
        size=10, rescale_factor=1 / top, image_mean=[0.5] * channels, image_std=[0.25] * channels
    )


def evaluated(data, channels, top):
    pixels = decode(data, channels, "uint8" if top == 255 else "uint16")
    crop = CenterCrop((10, 10))
    box = crop.box(*pixels.shape[:2], torch.Generator())
    part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    return (crop(part, torch.Generator()).numpy().astype(np.float64) / top - 0.5) / 0.25


@pytest.mark.parametrize("top", [255, 65535])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [*FILES, *OWN_READER])
def test_files_and_pictures_have_the_values_of_evaluation(name, channels, top, tmp_path):
    data = (FILES | OWN_READER)[name]
    (tmp_path / "image").write_bytes(data)
    given = [str(tmp_path / "image")]
    if name in FILES:  # of the others Pillow gives other values
        given.append(Image.open(io.BytesIO(data)))
    found = processor(channels, top)(given, return_tensors="np")["pixel_values"]
    for image in found:
        np.testing.assert_allclose(image, evaluated(data, channels, top), atol=1e-6)


def test_bands_of_an_array_file_are_read_where_the_model_has_as_many(tmp_path):
    pixels = DRAW.integers(0, 65536, (20, 24, 5)).astype(np.uint16)
    np.save(tmp_path / "a.npy", pixels)
    found = processor(5, 65535)(str(tmp_path / "a.npy"), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(found[0], evaluated((tmp_path / "a.npy").read_bytes(), 5, 65535), atol=1e-6)
    with pytest.raises(InputError, match="5 channels where the data set has 3"):
        processor(3, 65535)(str(tmp_path / "a.npy"))


def test_a_picture_without_the_channels_of_the_model_is_refused():
    words = "an image of mode RGB cannot be read (3 channels where the data set has 4)"
    with pytest.raises(InputError, match=re.escape(words)):
        processor(4, 255)(Image.fromarray(COLOUR))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.png", "is not an image file"),
        ("http://host/a.png", "is not downloaded"),
        ("a.txt", "not an image of a su"),
    ],
)
def test_what_is_no_image_is_refused(name, words, tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(InputError, match=words):
        processor(3, 255)(name if "://" in name else tmp_path / name)


def test_arrays_are_the_callers():
    deep = processor(1, 65535)(DEEP, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(deep, evaluated(png(DEEP), 1, 65535), atol=1e-6)
    dark = processor(1, 65535)(GREY, return_tensors="np")["pixel_values"][0]
    assert dark.max() < -1.98
