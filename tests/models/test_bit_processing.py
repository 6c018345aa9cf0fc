"""Image processors of BiT and CvT: geometry, options, files, and Hugging Face's processors bit for bit."""

import json
import math
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite.errors import InputError
from mimsuite.models import (
    AutoImageProcessor,
    BitImageProcessor,
    BitImageProcessorFast,
    ConvNextImageProcessor,
    ConvNextImageProcessorFast,
)
from mimsuite.processors.resize import center_crop, resize_pil, resized_extent

os.environ["HF_HUB_OFFLINE"] = "1"

pytestmark = pytest.mark.slow
RAW = {"do_rescale": False, "do_normalize": False}  # leaves the grey levels to look at
EACH = pytest.mark.parametrize("cls", [BitImageProcessor, ConvNextImageProcessor])


def noise(height=40, width=30, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def first(image):
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def levels(processor, image, **options):
    return processor(image, **RAW, **options)["pixel_values"][0]


# --- BiT -----------------------------------------------------------------------------------------------------


def test_bit_defaults():
    processor = BitImageProcessor()
    assert processor.to_dict() == {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
    }


def test_bit_resizes_the_short_side_and_cuts_the_centre():
    image = Image.fromarray(noise(480, 640))
    resized = np.asarray(image.resize((298, 224), Image.Resampling.BICUBIC))  # int(224 * 640 / 480) = 298
    assert np.array_equal(levels(BitImageProcessor(), image), first(resized[:, 37:261]))
    assert np.array_equal(levels(BitImageProcessor(do_center_crop=False), image), first(resized))


def test_bit_values_follow_the_formula():
    processor = BitImageProcessor(do_resize=False, do_center_crop=False)
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    out = processor(noise(), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(out, (torch.from_numpy(first(noise())) / 255 - mean) / std)


def test_bit_crops_without_resizing_too():
    assert np.array_equal(levels(BitImageProcessor(do_resize=False, crop_size=(11, 20)), noise()), crop(11, 20))


def crop(height, width, image=None):
    """The centre by the rule, written out pixel by pixel."""
    image = noise() if image is None else image
    out = np.zeros((3, height, width), np.uint8)
    top, left = math.floor((image.shape[0] - height) / 2), math.floor((image.shape[1] - width) / 2)
    for y in range(height):
        for x in range(width):
            if 0 <= top + y < image.shape[0] and 0 <= left + x < image.shape[1]:
                out[:, y, x] = image[top + y, left + x]
    return out


@pytest.mark.parametrize("height", [7, 40, 43, 44])
@pytest.mark.parametrize("width", [8, 30, 31, 36])
def test_smaller_images_are_padded_to_exactly_the_crop(height, width):
    out = levels(BitImageProcessor(do_resize=False, crop_size=(height, width)), noise())
    assert np.array_equal(out, crop(height, width))


def test_padding_is_black_before_normalisation():
    processor = BitImageProcessor(do_resize=False, crop_size=50)
    corner = processor(noise())["pixel_values"][0][:, 0, 0]
    np.testing.assert_allclose(corner, -np.array(processor.image_mean) / processor.image_std, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(9, (9, 9)), ((9, 12), (9, 12)), ([9, 12], (9, 12)), ({"height": 9, "width": 12}, (9, 12))],
)
def test_crop_sizes_in_every_form(given, expected):
    processor = BitImageProcessor(size=20, crop_size=given)
    assert processor.crop_size == {"height": expected[0], "width": expected[1]}
    assert levels(processor, noise()).shape == (3, *expected)


@pytest.mark.parametrize("wrong", [0, True, 9.5, "9", (1, 2, 3), {"shortest_edge": 9}, {"height": 9}, None])
def test_wrong_crop_sizes_are_refused(wrong):
    with pytest.raises(InputError, match=r"crop_size=.* use pixels as an int, \(h, w\) or \{height, width\}$"):
        BitImageProcessor(crop_size=wrong)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (20, (26, 20)),
        ({"shortest_edge": 20}, (26, 20)),
        ({"shortest_edge": 20, "longest_edge": 23}, (23, 17)),
        ((9, 12), (9, 12)),
        ({"height": 9, "width": 12}, (9, 12)),
    ],
)
def test_bit_sizes_in_every_form(size, expected):
    assert levels(BitImageProcessor(size=size, do_center_crop=False), noise()).shape == (3, *expected)


def test_the_longest_edge_wins_and_the_short_one_follows():
    assert resized_extent({"shortest_edge": 30, "longest_edge": 29}, 10, 13) == (22, 29)  # 29 * 10 / 13 = 22.3
    assert resized_extent({"shortest_edge": 30, "longest_edge": 29}, 19, 11) == (29, 17)  # 29 * 11 / 19 = 16.8
    assert resized_extent({"shortest_edge": 30, "longest_edge": 29}, 1, 900) == (1, 29)
    assert resized_extent({"shortest_edge": 302, "longest_edge": 363}, 621, 851) == (265, 363)  # Hugging Face: 362


# --- CvT -----------------------------------------------------------------------------------------------------


def test_convnext_defaults():
    assert ConvNextImageProcessor().to_dict() == {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 384},
        "resample": 3,
        "crop_pct": 0.875,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": None,
    }


def test_convnext_below_384_enlarges_and_crops():
    image = Image.fromarray(noise(480, 640))
    resized = np.asarray(image.resize((341, 256), Image.Resampling.BICUBIC))  # 224 / 0.875 = 256
    assert np.array_equal(levels(ConvNextImageProcessor(size=224), image), first(resized[16:240, 58:282]))
    resized = np.asarray(image.resize((318, 239), Image.Resampling.BICUBIC))  # int(223 / 0.93) = 239
    out = levels(ConvNextImageProcessor(size=223, crop_pct=0.93), image)
    assert np.array_equal(out, first(resized[8:231, 47:270]))


@pytest.mark.parametrize("side", [384, 385])
def test_convnext_from_384_on_squashes(side):
    image = Image.fromarray(noise(480, 640))
    resized = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    assert np.array_equal(levels(ConvNextImageProcessor(size=side, crop_pct=0.5), image), first(resized))


def test_convnext_crops_only_when_it_resizes():
    assert np.array_equal(levels(ConvNextImageProcessor(size=8, do_resize=False), noise()), first(noise()))


def test_convnext_takes_no_notice_of_the_longest_edge():
    both = ConvNextImageProcessor(size={"shortest_edge": 20, "longest_edge": 21})
    assert np.array_equal(levels(both, noise()), levels(ConvNextImageProcessor(size=20), noise()))


@pytest.mark.parametrize("wrong", [(9, 9), {"height": 9, "width": 9}, {"longest_edge": 9}, 0, True, None, {}])
def test_convnext_needs_a_shortest_edge(wrong):
    fix = r"use pixels as an int, \{shortest_edge\} or \{shortest_edge, longest_edge\}$"
    with pytest.raises(InputError, match=fix):
        ConvNextImageProcessor(size=wrong)
    if wrong is not None:  # which means: not given
        with pytest.raises(InputError, match=fix):
            ConvNextImageProcessor()(noise(), size=wrong)


@pytest.mark.parametrize("wrong", [0, -0.5, 1.01, float("nan")])
def test_crop_parts_that_are_none_are_refused(wrong):
    with pytest.raises(InputError, match="crop_pct"):
        ConvNextImageProcessor(crop_pct=wrong)


def test_the_whole_short_side_can_be_kept():
    out = levels(ConvNextImageProcessor(size=20, crop_pct=1), noise())
    assert np.array_equal(out, center_crop(resize_pil(first(noise()), (26, 20), 3), (20, 20)))


# --- inputs and outputs of both ------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("resample", [-1, 6])
def test_unknown_filters_are_refused(cls, resample):
    with pytest.raises(InputError, match="resample"):
        cls(resample=resample)


def test_other_channel_counts_need_conversion():
    gray = Image.new("L", (6, 5))
    with pytest.raises(InputError, match="do_convert_rgb=True"):
        ConvNextImageProcessor()(gray)
    with pytest.raises(InputError, match="do_convert_rgb=True"):
        BitImageProcessor(do_convert_rgb=False)(gray)
    assert BitImageProcessor()(gray, return_tensors="pt").pixel_values.shape == (1, 3, 224, 224)
    out = ConvNextImageProcessor()(gray, do_convert_rgb=True, return_tensors="pt")
    assert out.pixel_values.shape == (1, 3, 384, 384)


@EACH
def test_the_same_image_in_every_form_gives_the_same_values(cls):
    array, processor = noise(), cls(size=20)
    tensor = torch.from_numpy(first(array))
    forms = [Image.fromarray(array), array, tensor, tensor.numpy(), [array], (tensor,), array[None], tensor[None]]
    outs = [processor(f, return_tensors="pt").pixel_values for f in forms]
    assert all(torch.equal(o, outs[0]) for o in outs)


@EACH
def test_images_of_mixed_sizes_make_a_batch(cls):
    images = [noise(40, 30), Image.fromarray(noise(20, 50)), torch.from_numpy(first(noise(9, 9)))]
    processor = cls(size=16)
    out = processor(images, return_tensors="pt").pixel_values
    for i, image in enumerate(images):
        assert torch.equal(out[i], processor(image, return_tensors="pt").pixel_values[0])


@EACH
def test_the_output_layout_is_honoured(cls):
    processor = cls(size=20)
    given = processor(noise(), return_tensors="np").pixel_values
    last = processor(noise(), data_format="channels_last", return_tensors="np").pixel_values
    assert np.array_equal(last, given.transpose(0, 2, 3, 1))
    assert np.array_equal(processor(noise(), data_format=None, return_tensors="np").pixel_values, last)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (BitImageProcessor, {"size": 30, "crop_size": 12, "resample": 2, "image_mean": [0.1, 0.2, 0.3]}),
        (BitImageProcessor, {"size": (30, 20), "do_center_crop": False, "do_rescale": False}),
        (ConvNextImageProcessor, {"size": 30, "crop_pct": 0.5, "resample": 0, "image_std": 0.25}),
    ],
)
def test_an_option_of_a_call_wins_and_does_not_stay(cls, options):
    processor = cls(size=20)
    before = processor.to_dict()
    assert np.array_equal(processor(noise(), **options)["pixel_values"], cls(**options)(noise())["pixel_values"])
    assert processor.to_dict() == before


def test_a_step_of_the_other_family_is_no_option():
    with pytest.raises(InputError, match="no option 'crop_pct'"):
        BitImageProcessor()(noise(), crop_pct=0.5)
    with pytest.raises(InputError, match="do_center_crop, do_pad: ConvNextImageProcessor crops by crop_pct"):
        ConvNextImageProcessor()(noise(), do_center_crop=True, crop_size=8)


# --- files ---------------------------------------------------------------------------------------------------


def write(folder, **data):
    (folder / "preprocessor_config.json").write_text(json.dumps(data))


@pytest.mark.parametrize("use_fast", [None, False])
@pytest.mark.parametrize(
    ("key", "named", "expected"),
    [
        ("image_processor_type", "BitImageProcessor", BitImageProcessor),
        ("image_processor_type", "BitImageProcessorFast", BitImageProcessorFast),
        ("image_processor_type", "BitImageProcessorPil", BitImageProcessor),
        ("image_processor_type", "ConvNextImageProcessor", ConvNextImageProcessor),
        ("image_processor_type", "ConvNextImageProcessorFast", ConvNextImageProcessorFast),
        ("image_processor_type", "ConvNextImageProcessorPil", ConvNextImageProcessor),
        ("feature_extractor_type", "ConvNextFeatureExtractor", ConvNextImageProcessor),
    ],
)
def test_files_name_their_processor(tmp_path, key, named, expected, use_fast):
    write(tmp_path, size=96, resample=2, **{key: named})
    found = AutoImageProcessor.from_pretrained(tmp_path, use_fast=use_fast)
    if use_fast is False and expected.backend == "torchvision":
        expected = expected.__base__
    assert type(found) is expected
    assert found == expected(size={"shortest_edge": 96}, resample=2)


@EACH
@pytest.mark.parametrize("suffix", ["", "Fast", "Pil"])
def test_the_form_can_be_chosen(tmp_path, cls, suffix):
    write(tmp_path, image_processor_type=f"{cls.__name__}{suffix}")
    fast, slow = f"{cls.__name__}Fast", cls.__name__
    for options, expected in (
        ({"use_fast": True}, fast),
        ({"backend": "torchvision"}, fast),
        ({"backend": "pil"}, slow),
        ({"backend": "pil", "use_fast": True}, slow),
    ):
        found = AutoImageProcessor.from_pretrained(tmp_path, **options)
        assert type(found).__name__ == expected
        assert found.backend == ("torchvision" if expected == fast else "pil")
    with pytest.raises(InputError, match="backend='tv' is not one of 'torchvision'"):
        AutoImageProcessor.from_pretrained(tmp_path, backend="tv")


def test_a_form_that_is_not_there_is_replaced_with_a_word(tmp_path):
    write(tmp_path, image_processor_type="CenterCropImageProcessor")
    with pytest.warns(UserWarning, match="CenterCropImageProcessor has no form in torch; this is the Pillow form"):
        found = AutoImageProcessor.from_pretrained(tmp_path, use_fast=True)
    assert type(found).__name__ == "CenterCropImageProcessor"


@pytest.mark.parametrize(("model_type", "expected"), [("bit", BitImageProcessor), ("cvt", ConvNextImageProcessor)])
def test_a_file_without_type_goes_by_the_model(tmp_path, model_type, expected):
    write(tmp_path, size=32)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is expected


def test_an_old_file_of_cvt(tmp_path):
    write(
        tmp_path,
        crop_pct=0.9,
        do_normalize=True,
        do_resize=True,
        feature_extractor_type="ConvNextFeatureExtractor",
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
        size=224,
    )
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = ConvNextImageProcessor(size=224, crop_pct=0.9, image_mean=mean, image_std=std)
    assert AutoImageProcessor.from_pretrained(tmp_path) == expected
    assert AutoImageProcessor.from_pretrained(tmp_path, size=384).size == {"shortest_edge": 384}


# --- Hugging Face --------------------------------------------------------------------------------------------


def load(family, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's imports
        return getattr(pytest.importorskip(f"transformers.models.{family}.image_processing_pil_{family}"), name)


@pytest.fixture(scope="module")
def their_bit():
    return load("bit", "BitImageProcessorPil")


@pytest.fixture(scope="module")
def their_convnext():
    return load("convnext", "ConvNextImageProcessorPil")


def same(ours, theirs, image, **options):
    expected = theirs(image, return_tensors="np", **options)["pixel_values"]
    np.testing.assert_array_equal(ours(image, return_tensors="np", **options).pixel_values, expected, strict=True)


SHAPES = [(480, 640), (640, 480), (37, 29), (224, 224), (225, 223), (301, 1000), (1, 7), (200, 500)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_resize": False},
        {"do_resize": False, "crop_size": {"height": 211, "width": 233}},
        {"size": {"shortest_edge": 256}},
        {"size": {"shortest_edge": 57}, "crop_size": {"height": 33, "width": 90}, "resample": 2},
        {"size": {"height": 40, "width": 51}, "crop_size": 30, "resample": 0},
        {"size": 96, "crop_size": 97, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"size": 32, "crop_size": 32, "resample": 1, "do_normalize": False},
        {"size": 384, "crop_size": 384, "do_rescale": False},
    ],
)
def test_bit_equals_hugging_faces(their_bit, shape, options):
    same(BitImageProcessor(**options), their_bit(**options), Image.fromarray(noise(*shape)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"shortest_edge": 224}},
        {"size": {"shortest_edge": 224, "longest_edge": 300}, "do_rescale": False},
        {"size": 256, "crop_pct": 0.9, "resample": 2},
        {"size": 57, "crop_pct": 0.71, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        {"size": 383, "crop_pct": 1.0, "do_normalize": False},
        {"size": 385, "resample": 5},
        {"do_resize": False},
    ],
)
def test_convnext_equals_hugging_faces(their_convnext, shape, options):
    same(ConvNextImageProcessor(**options), their_convnext(**options), Image.fromarray(noise(*shape)))


@pytest.mark.parametrize("form", ["pil", "last", "first", "tensor", "batch", "list", "fractions", "whole floats"])
def test_every_form_of_input_equals_hugging_faces(their_bit, their_convnext, form):
    image = {
        "pil": lambda: Image.fromarray(noise()),
        "last": noise,
        "first": lambda: first(noise()),
        "tensor": lambda: torch.from_numpy(first(noise())),
        "batch": lambda: np.stack([noise(), noise(seed=1)]),
        "list": lambda: [noise(), Image.fromarray(noise(20, 50)), first(noise(7, 90))],
        "fractions": lambda: noise() / 255,
        "whole floats": lambda: noise().astype(np.float32),
    }[form]()
    call = {"do_rescale": False} if form == "fractions" else {}
    same(BitImageProcessor(size=19, crop_size=25), their_bit(size=19, crop_size=25), image, **call)
    same(ConvNextImageProcessor(size=19), their_convnext(size=19), image, **call)


def test_options_of_a_call_equal_hugging_faces(their_bit, their_convnext):
    options = {"size": {"shortest_edge": 33}, "resample": 2, "image_mean": [0.1, 0.2, 0.3], "do_rescale": False}
    same(BitImageProcessor(), their_bit(), noise(), crop_size={"height": 20, "width": 40}, **options)
    same(BitImageProcessor(), their_bit(), noise(), do_center_crop=False, **options)
    same(ConvNextImageProcessor(), their_convnext(), noise(), crop_pct=0.6, **options)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "PA", "I", "F", "RGBX"])
def test_modes_equal_hugging_faces(their_bit, mode):
    colours = Image.fromarray(noise(channels=4), "RGBA") if mode == "RGBA" else Image.fromarray(noise())
    if mode in ("PA", "LA"):
        image = colours.convert("L").convert("LA" if mode == "LA" else "P")
        image = image.convert(mode)
        image.putalpha(Image.fromarray(noise(seed=1)[..., 0]))
    else:
        image = colours.convert(mode)
    same(BitImageProcessor(size=20), their_bit(size=20), image)


@pytest.mark.parametrize("mode", ["RGBa", "La", "LAB", "I;16"])
def test_modes_that_pillow_converts_badly_become_rgb(mode):
    image = Image.new(mode, (6, 5))
    assert BitImageProcessor()(image, return_tensors="pt").pixel_values.shape == (1, 3, 224, 224)


def test_a_transparent_colour_equals_hugging_faces(their_bit):
    image = Image.fromarray(noise()).quantize(9)
    image.info["transparency"] = 3
    same(BitImageProcessor(size=20), their_bit(size=20), image)


@pytest.mark.parametrize("saved", [{"size": 33, "crop_size": 30, "resample": 2}, {"do_center_crop": False}, {}])
def test_files_of_bit_go_both_ways(their_bit, tmp_path, saved):
    their_bit(**saved).save_pretrained(tmp_path / "theirs")
    assert AutoImageProcessor.from_pretrained(tmp_path / "theirs") == BitImageProcessor(**saved)
    BitImageProcessor(**saved).save_pretrained(tmp_path / "ours")
    same(BitImageProcessor(**saved), their_bit.from_pretrained(tmp_path / "ours"), noise())


@pytest.mark.parametrize("saved", [{"size": 33, "crop_pct": 0.7, "resample": 2}, {"do_resize": False}, {}])
def test_files_of_convnext_go_both_ways(their_convnext, tmp_path, saved):
    their_convnext(**saved).save_pretrained(tmp_path / "theirs")
    assert AutoImageProcessor.from_pretrained(tmp_path / "theirs") == ConvNextImageProcessor(**saved)
    ConvNextImageProcessor(**saved).save_pretrained(tmp_path / "ours")
    same(ConvNextImageProcessor(**saved), their_convnext.from_pretrained(tmp_path / "ours"), noise())
