"""Image processors: inputs, options, files, and the slow against the fast form."""

import json
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite.errors import InputError
from mimsuite.models import (
    AutoImageProcessor,
    BitImageProcessor,
    ConvNextImageProcessor,
    ViTFeatureExtractor,
    ViTImageProcessor,
    ViTImageProcessorFast,
)
from mimsuite.processors.resize import center_crop, parse_size, resize_pil, resized_extent

os.environ["HF_HUB_OFFLINE"] = "1"
BOTH = pytest.mark.parametrize("cls", [ViTImageProcessor, ViTImageProcessorFast])
ALL = pytest.mark.parametrize(
    "cls", [ViTImageProcessor, ViTImageProcessorFast, BitImageProcessor, ConvNextImageProcessor]
)


def noise(height=40, width=30, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def picture(height=40, width=30):
    """A smooth image, as photographs are, with some noise."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([np.sin(x / 7) + np.cos(y / 9), np.sin((x + y) / 11) * 2, np.cos(x * y / 500) * 2], -1)
    return np.clip(128 + 60 * base + noise(height, width) / 16, 0, 255).astype(np.uint8)


# --- values --------------------------------------------------------------------------------------------------


@BOTH
def test_defaults_squash_to_224_between_minus_one_and_one(cls):
    out = cls()(Image.fromarray(noise()), return_tensors="pt").pixel_values
    assert out.shape == (1, 3, 224, 224)
    assert out.dtype == torch.float32
    assert -1 <= out.min() < -0.9
    assert 0.9 < out.max() <= 1


@BOTH
def test_without_resizing_the_values_follow_the_formula(cls):
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    out = cls(do_resize=False, image_mean=mean, image_std=std)(noise(), return_tensors="pt").pixel_values[0]
    expected = (torch.from_numpy(noise()).permute(2, 0, 1) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(
        std
    )[:, None, None]
    torch.testing.assert_close(out, expected)


def test_steps_can_be_left_out():
    plain = ViTImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    assert np.array_equal(plain(noise())["pixel_values"][0], noise().transpose(2, 0, 1))
    scaled = plain(noise(), do_rescale=True)["pixel_values"][0]
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, noise().transpose(2, 0, 1) / 255, rtol=1e-6)


def test_the_slow_form_resizes_as_pillow_does():
    plain = ViTImageProcessor(do_rescale=False, do_normalize=False, size=(20, 50), resample=3)
    expected = np.asarray(Image.fromarray(noise()).resize((50, 20), Image.Resampling.BICUBIC))
    assert np.array_equal(plain(noise())["pixel_values"][0], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("resample", range(6))
def test_channels_are_resized_each_for_itself(resample):
    image = noise(channels=5).transpose(2, 0, 1)
    alone = [resize_pil(image[i : i + 1], (11, 13), resample)[0] for i in range(5)]
    assert np.array_equal(resize_pil(image, (11, 13), resample), np.stack(alone))
    assert np.array_equal(resize_pil(image[:3], (11, 13), resample), np.stack(alone[:3]))


@pytest.mark.parametrize(("resample", "levels"), [(2, 1), (3, 2)])
@pytest.mark.parametrize("size", [(17, 23), (97, 64)])
@pytest.mark.parametrize("make", [noise, picture])
def test_fast_and_slow_agree_within_grey_levels(resample, levels, size, make):
    options = {"size": size, "resample": resample}
    image = make(64, 48)
    slow = ViTImageProcessor(**options)(image, return_tensors="pt").pixel_values
    fast = ViTImageProcessorFast(**options)(image, return_tensors="pt").pixel_values
    difference = slow - fast
    assert difference.abs().max() <= levels / 255 / 0.5 + 1e-5
    if make is picture:
        assert difference.mean().abs() < 1e-4


def test_fast_resizing_of_nearest_equals_pillows():
    options = {"size": (17, 23), "resample": 0}
    slow, fast = (cls(**options)(noise(), return_tensors="pt") for cls in (ViTImageProcessor, ViTImageProcessorFast))
    torch.testing.assert_close(slow.pixel_values, fast.pixel_values)


def test_fast_takes_floats_as_floats():
    image = torch.rand(3, 40, 30)
    out = ViTImageProcessorFast(do_rescale=False, size=20)(image).pixel_values[0]
    smooth = torch.nn.functional.interpolate(image[None], (20, 20), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(out, (smooth - 0.5) / 0.5)


def test_fast_rounds_and_clamps_whole_numbers_of_other_types():
    image = torch.from_numpy(noise()).permute(2, 0, 1)
    options = {"size": 17, "resample": 3, "do_rescale": False, "do_normalize": False}
    wide = ViTImageProcessorFast(**options)(image.to(torch.int32), return_tensors="pt").pixel_values
    narrow = ViTImageProcessorFast(**options)(image, return_tensors="pt").pixel_values
    assert wide.dtype == torch.int32
    assert (wide.clamp(0, 255) - narrow.int()).abs().max() <= 2


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_slow_floats_are_quantised_to_grey_levels(scale):
    image = noise().astype(np.float64) * scale
    out = ViTImageProcessor(do_rescale=False, do_normalize=False, size=20)(image)["pixel_values"][0]
    expected = resize_pil(
        (noise() if scale == 1 else (image * 255).astype(np.float32).astype(np.uint8)).transpose(2, 0, 1), (20, 20), 2
    )
    np.testing.assert_allclose(out, expected * scale, rtol=1e-6)


@pytest.mark.parametrize("image", [np.full((3, 8, 8), -1), np.full((3, 8, 8), 300), np.full((3, 8, 8), 1.5)])
def test_slow_values_out_of_range_are_refused(image):
    with pytest.raises(InputError, match="whole numbers from 0 to 255 or fractions from 0 to 1"):
        ViTImageProcessor()(image)


# --- inputs --------------------------------------------------------------------------------------------------

MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "RGBa",
    "La",
    "I;16",
]


@BOTH
@pytest.mark.parametrize("mode", MODES)
def test_pil_images_of_any_mode_become_rgb(cls, mode):
    out = cls(do_convert_rgb=True, size=8)(Image.new(mode, (6, 5)), return_tensors="pt").pixel_values
    assert out.shape == (1, 3, 8, 8)


@BOTH
def test_transparency_becomes_white(cls):
    for image in (Image.new("RGBA", (6, 5), (9, 9, 9, 0)), Image.new("LA", (6, 5), (9, 0))):
        assert (cls(do_convert_rgb=True)(image, return_tensors="pt").pixel_values == 1).all()
    array = np.zeros((5, 6, 4), dtype=np.uint8)
    assert (cls(do_convert_rgb=True)(array, return_tensors="pt").pixel_values == 1).all()


def test_sixteen_bit_grey_keeps_its_range():
    image = Image.fromarray(np.array([[0, 128 * 256, 65535]], dtype=np.uint16))
    out = ViTImageProcessor(do_convert_rgb=True, do_resize=False, do_rescale=False, do_normalize=False)(image)
    assert out["pixel_values"][0][0].tolist() == [[0, 128, 255]]


def test_one_channel_is_repeated():
    out = ViTImageProcessor(do_convert_rgb=True, do_resize=False, do_normalize=False, do_rescale=False)
    gray = noise(channels=1)
    assert np.array_equal(out(gray)["pixel_values"][0], np.repeat(gray.transpose(2, 0, 1), 3, 0))


@BOTH
@pytest.mark.parametrize("image", [Image.new("L", (6, 5)), Image.new("RGBA", (6, 5)), np.zeros((5, 6), np.uint8)])
def test_other_channel_counts_need_conversion(cls, image):
    with pytest.raises(InputError, match="do_convert_rgb=True"):
        cls()(image)


@ALL
def test_any_number_of_channels_with_its_own_statistics(cls):
    processor = cls(image_mean=[0.5] * 7, image_std=[0.5] * 7)
    out = processor(noise(channels=7), input_data_format="channels_last", return_tensors="pt").pixel_values
    assert out.shape[:2] == (1, 7)


@ALL
def test_one_number_serves_every_channel(cls):
    one = cls(image_mean=0.5, image_std=0.25)(noise(), return_tensors="pt").pixel_values
    each = cls(image_mean=[0.5] * 3, image_std=[0.25] * 3)(noise(), return_tensors="pt").pixel_values
    assert torch.equal(one, each)


@BOTH
def test_the_same_image_in_every_form_gives_the_same_values(cls):
    array, processor = noise(), cls(size=(20, 30))
    first = torch.from_numpy(array.transpose(2, 0, 1).copy())
    forms = [
        Image.fromarray(array),
        array,
        first,
        first.numpy(),
        [array],
        (first,),
        array[None],
        first[None],
    ]
    outs = [processor(f, return_tensors="pt").pixel_values for f in forms]
    assert all(torch.equal(o, outs[0]) for o in outs)
    assert outs[0].shape == (1, 3, 20, 30)


@BOTH
def test_images_of_mixed_sizes_make_a_batch(cls):
    images = [
        noise(40, 30),
        Image.fromarray(noise(20, 50, seed=1)),
        torch.from_numpy(noise(9, 9, seed=2)).permute(2, 0, 1),
    ]
    processor = cls(size=16)
    out = processor(images, return_tensors="pt").pixel_values
    assert out.shape == (3, 3, 16, 16)
    for i, image in enumerate(images):
        torch.testing.assert_close(out[i], processor(image, return_tensors="pt").pixel_values[0])


@BOTH
def test_sizes_that_differ_cannot_be_stacked(cls):
    processor = cls(do_resize=False)
    with pytest.raises(InputError, match="cannot be stacked"):
        processor([noise(40, 30), noise(20, 30)], return_tensors="pt")
    assert len(processor([noise(40, 30), noise(20, 30)], return_tensors=None)["pixel_values"]) == 2


def test_ambiguous_channels_are_taken_first_with_a_warning():
    with pytest.warns(UserWarning, match="taken as channels_first"):
        out = ViTImageProcessor(do_resize=False)(np.full((3, 8, 3), 7, np.uint8))
    assert out["pixel_values"][0].shape == (3, 8, 3)


def test_channels_that_cannot_be_told_are_refused():
    with pytest.raises(InputError, match="Unable to infer channel dimension format"):
        ViTImageProcessor()(np.zeros((5, 6, 7), np.uint8))


def test_four_channels_are_a_layout_only_when_converting():
    rgba = np.zeros((5, 6, 4), np.uint8)
    assert ViTImageProcessor()(rgba, do_convert_rgb=True)["pixel_values"][0].shape == (3, 224, 224)
    with pytest.raises(InputError, match="Unable to infer"):
        ViTImageProcessor()(rgba)


def test_the_layout_can_be_said():
    image = np.full((3, 8, 3), 7, np.uint8)
    out = ViTImageProcessor(do_resize=False)(image, input_data_format="channels_last")
    assert out["pixel_values"][0].shape == (3, 3, 8)
    gray = ViTImageProcessor(image_mean=0.5, image_std=0.5, do_resize=False)
    assert gray(image[0], input_data_format="none")["pixel_values"][0].shape == (1, 8, 3)
    for wrong in ("nchw", "none"):
        with pytest.raises(InputError, match="input_data_format"):
            gray(image, input_data_format=wrong)


@ALL
@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 3, 4, 4)), "cat.png", None, 3, [None], np.array(["a"])])
def test_what_is_no_image_is_refused(cls, nothing):
    with pytest.raises(InputError, match="image"):
        cls()(nothing)


@ALL
def test_values_that_look_rescaled_give_one_warning(cls):
    with pytest.warns(UserWarning, match="do_rescale=False") as caught:
        cls()([np.random.rand(3, 8, 8), np.random.rand(3, 8, 8)])
    assert len(caught) == 1


@ALL
def test_dark_uint8_images_give_no_warning(cls):
    cls()(np.zeros((3, 8, 8), np.uint8))


# --- outputs -------------------------------------------------------------------------------------------------


def test_the_result_is_a_dict_with_attributes():
    out = ViTImageProcessor(size=8)(noise(), return_tensors="pt")
    assert out["pixel_values"] is out.pixel_values
    assert list(out.keys()) == ["pixel_values"]
    assert dict(**out)["pixel_values"] is out.pixel_values
    assert out.to(torch.float16).pixel_values.dtype == torch.float16
    assert out.to("cpu").pixel_values.device.type == "cpu"
    assert torch.equal(pickle.loads(pickle.dumps(out)).pixel_values, out.pixel_values)
    with pytest.raises(AttributeError):
        _ = out.labels


def test_tensors_arrays_or_a_list_come_back():
    processor = ViTImageProcessor(size=8)
    assert isinstance(processor(noise()).pixel_values, list)
    assert isinstance(processor(noise(), return_tensors="np").pixel_values, np.ndarray)
    assert isinstance(processor(noise(), return_tensors="pt").pixel_values, torch.Tensor)


@pytest.mark.parametrize("wanted", ["tf", "jax", "pytorch"])
def test_other_frameworks_are_refused(wanted):
    with pytest.raises(InputError, match=f"return_tensors='{wanted}'"):
        ViTImageProcessor()(noise(), return_tensors=wanted)


def test_the_output_layout_is_honoured():
    processor = ViTImageProcessor(size=(8, 9))
    assert processor(noise(), data_format="channels_last", return_tensors="np").pixel_values.shape == (1, 8, 9, 3)
    assert processor(noise(), data_format=None, return_tensors="np").pixel_values.shape == (1, 8, 9, 3)
    first = noise().transpose(2, 0, 1)
    assert processor(first, data_format=None, return_tensors="np").pixel_values.shape == (1, 3, 8, 9)
    with pytest.raises(InputError, match="data_format"):
        processor(noise(), data_format="nhwc")


def test_the_fast_form_refuses_filters_that_torch_does_not_have():
    with pytest.raises(InputError, match=r'resample=1 \(lanczos\) is not in torch; .*backend="pil"'):
        ViTImageProcessorFast()(noise(), resample=1)


# --- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "square", "expected"),
    [
        (96, True, {"height": 96, "width": 96}),
        (96, False, {"shortest_edge": 96}),
        ((96, 64), True, {"height": 96, "width": 64}),
        ([96, 64], False, {"height": 96, "width": 64}),
        ({"shortest_edge": 9}, True, {"shortest_edge": 9}),
        ({"shortest_edge": 9, "longest_edge": 12}, True, {"shortest_edge": 9, "longest_edge": 12}),
    ],
)
def test_sizes_in_every_form(given, square, expected):
    assert parse_size(given, square=square) == expected


@pytest.mark.parametrize(
    "wrong", ["224", 0, -3, 1.5, True, (1, 2, 3), {"height": 3}, {"height": 3, "width": 0}, {"longest_edge": 9}, None]
)
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(InputError, match="is not a size"):
        ViTImageProcessor(size=wrong)


def test_a_shortest_edge_keeps_the_ratio():
    assert resized_extent({"shortest_edge": 224}, 480, 640) == (224, 298)
    assert resized_extent({"shortest_edge": 224}, 640, 480) == (298, 224)
    assert resized_extent({"shortest_edge": 224, "longest_edge": 256}, 480, 640) == (192, 256)
    assert ViTImageProcessor(size={"shortest_edge": 20})(noise(40, 30))["pixel_values"][0].shape == (3, 26, 20)


@pytest.mark.parametrize("extent", [(4, 4), (5, 3), (9, 4), (4, 11), (8, 9)])
def test_center_crop_has_exactly_its_size_and_pads_with_zeros(extent):
    image = np.arange(1, 31).reshape(1, 5, 6)
    out = center_crop(image, extent)
    assert out.shape == (1, *extent)
    assert set(out.flatten()) <= set(range(31))
    if extent == (5, 3):
        assert np.array_equal(out, image[:, :, 1:4])
    if extent == (8, 9):
        assert np.array_equal(out[:, 2:7, 2:8], image)
        assert out.sum() == image.sum()


def test_an_option_of_a_call_wins_and_does_not_stay():
    processor = ViTImageProcessor()
    assert processor(noise(), size=8)["pixel_values"][0].shape == (3, 8, 8)
    assert processor(noise())["pixel_values"][0].shape == (3, 224, 224)


def test_an_unknown_option_is_refused():
    with pytest.raises(InputError, match="no option 'sise'"):
        ViTImageProcessor()(noise(), sise=8)


@pytest.mark.parametrize(("name", "value"), [("resample", 6), ("image_std", [0.5, 0, 0.5])])
def test_other_wrong_options_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        ViTImageProcessor(**{name: value})


def test_the_wrong_number_of_means_is_refused():
    with pytest.raises(InputError, match="image has 3 channels but image_mean has 4 values"):
        ViTImageProcessor(image_mean=[0.5] * 4)(noise())


# --- files ---------------------------------------------------------------------------------------------------


@ALL
def test_a_processor_goes_round(tmp_path, cls):
    processor = cls(size=8, resample=3, image_mean=[0.1, 0.2, 0.3], do_convert_rgb=True, do_rescale=False)
    processor.save_pretrained(tmp_path)
    text = (tmp_path / "preprocessor_config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is cls
    assert again == processor


def write(folder, **data):
    (folder / "preprocessor_config.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("named", "use_fast", "expected"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, None, ViTImageProcessor),
        ({"image_processor_type": "ViTImageProcessor"}, True, ViTImageProcessorFast),
        ({"image_processor_type": "ViTImageProcessorPil"}, None, ViTImageProcessor),
        ({"image_processor_type": "ViTImageProcessorFast"}, None, ViTImageProcessorFast),
        ({"image_processor_type": "ViTImageProcessorFast"}, False, ViTImageProcessor),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, None, ViTImageProcessor),
    ],
)
def test_files_name_their_processor(tmp_path, named, use_fast, expected):
    write(tmp_path, size=384, **named)
    found = AutoImageProcessor.from_pretrained(tmp_path, use_fast=use_fast)
    assert type(found) is expected
    assert found.size == {"height": 384, "width": 384}


def test_a_file_without_type_goes_by_the_model(tmp_path):
    write(tmp_path, size=32)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is ViTImageProcessor


def test_an_unknown_processor_lists_the_known(tmp_path):
    write(tmp_path, image_processor_type="ClapProcessor")
    with pytest.raises(InputError, match=r"'ClapProcessor' is not one of .*ViTImageProcessor"):
        AutoImageProcessor.from_pretrained(tmp_path)


def test_a_step_that_is_not_done_here_is_refused(tmp_path):
    write(tmp_path, image_processor_type="ViTImageProcessor", do_center_crop=True, do_pad=False)
    with pytest.raises(InputError, match="crop_size=None is not a size"):
        AutoImageProcessor.from_pretrained(tmp_path)
    write(tmp_path, image_processor_type="ViTImageProcessor", do_flip_channel_order=True, do_thumbnail=False)
    with pytest.raises(InputError, match="do_flip_channel_order: ViTImageProcessor has no such step"):
        AutoImageProcessor.from_pretrained(tmp_path)


def test_no_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        AutoImageProcessor.from_pretrained(tmp_path)


def test_the_old_name_works_with_a_warning(tmp_path):
    with pytest.warns(FutureWarning, match="old name of ViTImageProcessor"):
        old = ViTFeatureExtractor(size=8)
    assert old(noise(), return_tensors="pt").pixel_values.shape == (1, 3, 8, 8)
    old.save_pretrained(tmp_path)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is ViTImageProcessor


# --- other numbers than uint8 --------------------------------------------------------------------------------


def test_sixteen_bits_with_alpha_are_laid_on_white():
    shown = np.dstack([noise(), np.full((40, 30), 128, np.uint8)])
    deep = shown.astype(np.uint16) * 257
    options = {"do_convert_rgb": True, "do_resize": False, "return_tensors": "np"}
    wanted = ViTImageProcessor()(shown, **options).pixel_values
    for given in (deep, torch.from_numpy(deep)):
        for cls in (ViTImageProcessor, ViTImageProcessorFast):
            found = cls()(given, rescale_factor=1 / 65535, **options).pixel_values
            np.testing.assert_allclose(found, wanted, atol=0.006)
    with pytest.raises(InputError, match="a whole image with alpha has values from 0 to 300; expected 0 to 255"):
        ViTImageProcessor()(np.dstack([noise(), np.full((40, 30), 300)]), do_convert_rgb=True)


def test_tensors_of_16_bits_are_read_as_arrays_are():
    deep = noise().astype(np.uint16)
    found = ViTImageProcessorFast()([torch.from_numpy(deep)] * 2, return_tensors="np").pixel_values
    assert np.array_equal(found, ViTImageProcessorFast()([deep, deep], return_tensors="np").pixel_values)


def test_tensors_with_a_gradient_give_arrays():
    given = torch.rand(3, 40, 30, requires_grad=True)
    found = ViTImageProcessorFast(do_rescale=False)(given, return_tensors="np").pixel_values
    assert found.shape == (1, 3, 224, 224)


@ALL
def test_complex_numbers_are_refused(cls):
    with pytest.raises(InputError, match=r"of complex128 .* is not an image"):
        cls()(np.zeros((40, 30, 3), complex))
    with pytest.raises(InputError, match="is not an image"):
        cls()(torch.zeros(3, 40, 30, dtype=torch.complex64))


# --- Hugging Face --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's imports
        module = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
        return module.ViTImageProcessorPil


INPUTS = {
    "pil": lambda: Image.fromarray(picture()),
    "array": picture,
    "tensor": lambda: torch.from_numpy(picture()).permute(2, 0, 1),
    "fractions": lambda: picture() / 255,
    "whole floats": lambda: picture().astype(np.float32),
    "list": lambda: [picture(), picture(20, 50)],
}


OPTIONS = [{}, {"size": {"height": 20, "width": 31}, "resample": 3}, {"do_resize": False}]
CASES = [(form, o) for form in INPUTS for o in OPTIONS if not (form == "list" and "do_resize" in o)]  # of two sizes


@pytest.mark.parametrize(("form", "options"), CASES)
def test_the_slow_form_equals_hugging_faces(theirs, form, options):
    call = {"do_rescale": False} if form == "fractions" else {}
    ours = ViTImageProcessor(**options)(INPUTS[form](), return_tensors="np", **call).pixel_values
    reference = theirs(**options)(INPUTS[form](), return_tensors="np", **call)["pixel_values"]
    np.testing.assert_allclose(ours, reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA"])
def test_conversion_equals_hugging_faces(theirs, mode):
    image = (
        Image.fromarray(picture()).convert("RGBA").convert(mode)
        if mode != "P"
        else Image.fromarray(picture()).quantize(9)
    )
    ours = ViTImageProcessor(do_convert_rgb=True)(image, return_tensors="np").pixel_values
    reference = theirs(do_convert_rgb=True)(image, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(ours, reference, rtol=1e-6, atol=1e-6)


def test_files_of_theirs_are_read(theirs, tmp_path):
    theirs(size={"height": 20, "width": 31}, resample=3, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    found = AutoImageProcessor.from_pretrained(tmp_path)
    assert found == ViTImageProcessor(size=(20, 31), resample=3, image_mean=[0.1, 0.2, 0.3])


def test_files_of_ours_are_read_there(theirs, tmp_path):
    ViTImageProcessor(size=(20, 31), resample=3, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    reference = theirs.from_pretrained(tmp_path)(picture(), return_tensors="np")["pixel_values"]
    ours = AutoImageProcessor.from_pretrained(tmp_path)(picture(), return_tensors="np").pixel_values
    np.testing.assert_allclose(ours, reference, rtol=1e-6, atol=1e-6)
