"""Image processors as programs written for Hugging Face use them: files, lists, moving, keywords, the torch forms."""

import json
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mimsuite import models
from mimsuite.errors import InputError
from mimsuite.models import AutoImageProcessor, BatchFeature, ViTImageProcessor, ViTImageProcessorFast
from mimsuite.processors.resize import center_crop
from mimsuite.processors.tensors import center_crop_tensor, resize_tensor

NAMES = ("ViTImageProcessor", "BitImageProcessor", "ConvNextImageProcessor")
FORMS = [getattr(models, f"{name}{form}") for name in NAMES for form in ("", "Fast")]
EACH = pytest.mark.parametrize("cls", FORMS)
PAIRS = pytest.mark.parametrize("name", NAMES)
RAW = {"do_rescale": False, "do_normalize": False}


def noise(height=40, width=30, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def picture(height=120, width=90):
    """A smooth image, as photographs are, with some noise."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([np.sin(x / 17) + np.cos(y / 19), np.sin((x + y) / 21) * 2, np.cos(x * y / 2000) * 2], -1)
    return np.clip(128 + 60 * base + noise(height, width) / 16, 0, 255).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    """Two images of different sizes as files."""
    for i in range(2):
        Image.fromarray(noise(20 + i, 30, seed=i)).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(2)]


# --- what comes in -------------------------------------------------------------------------------------------


@EACH
def test_names_of_files_are_opened(cls, files):
    processor = cls(size=16)
    expected = processor([Image.open(name) for name in files], return_tensors="pt").pixel_values
    assert torch.equal(processor(files, return_tensors="pt").pixel_values, expected)
    assert torch.equal(processor(Path(files[1]), return_tensors="pt").pixel_values[0], expected[1])
    mixed = [files[0], noise(21, 30, seed=1)]
    assert torch.equal(processor(images=mixed, return_tensors="pt").pixel_values, expected)


def test_files_come_upright_and_in_rgb(tmp_path):
    image = Image.fromarray(noise(20, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    plain = ViTImageProcessor(do_resize=False, **RAW)
    out = plain(str(tmp_path / "turned.png"))["pixel_values"][0]
    assert np.array_equal(out, np.rot90(noise(20, 30), -1).transpose(2, 0, 1))
    for mode in ("L", "P", "RGBA", "LA", "1", "CMYK"):
        suffix = "tif" if mode == "CMYK" else "png"
        image.convert(mode).save(tmp_path / f"{mode}.{suffix}")
        expected = np.asarray(image.convert(mode).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(plain(str(tmp_path / f"{mode}.{suffix}"))["pixel_values"][0], expected), mode


def test_files_equal_hugging_faces(tmp_path):
    cls = theirs("ViTImageProcessorPil")
    alpha = np.concatenate([noise(), noise(channels=1, seed=1)], -1)
    Image.fromarray(alpha).save(tmp_path / "a.png")
    ours = ViTImageProcessor(size=16)(str(tmp_path / "a.png"), return_tensors="np").pixel_values
    np.testing.assert_array_equal(ours, cls(size=16)(str(tmp_path / "a.png"), return_tensors="np")["pixel_values"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://example.org/cat.png", r"https://example\.org/cat\.png is not downloaded; fetch it first, as in PIL"),
        ("no/cat.png", "'no/cat.png' is not an image file; give PIL images, numpy arrays"),
        (__file__, r"test_processor_interface\.py cannot be read .*give an image that Pillow opens"),
    ],
)
def test_what_is_no_image_file_is_refused_in_one_line(name, said):
    with pytest.raises(InputError, match=said) as caught:
        ViTImageProcessor()([name])
    assert "\n" not in str(caught.value)


@EACH
def test_lists_of_lists_and_of_batches_are_flattened_in_order(cls):
    processor = cls(size=16)
    images = [noise(seed=i) for i in range(4)]
    expected = processor(images, return_tensors="pt").pixel_values
    for nested in (
        [[images[0]], images[1:]],
        [[images[0], images[1]], [], (images[2], Image.fromarray(images[3]))],
        [np.stack(images[:2]), np.stack(images[2:])],
        [torch.from_numpy(np.stack(images[:3])), images[3]],
    ):
        assert torch.equal(processor(nested, return_tensors="pt").pixel_values, expected)
    with pytest.raises(InputError, match="no images"):
        processor([[], []])


@EACH
def test_channels_become_rgb_alike_in_arrays_tensors_and_images(cls):
    processor = cls(do_resize=False, do_convert_rgb=True, **RAW)
    gray, alpha = noise(224, 224, 1), noise(224, 224, 4)
    for array in (gray, alpha):
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
        image = Image.fromarray(array[..., 0] if array is gray else array)
        outs = [processor(one, return_tensors="pt").pixel_values.int() for one in (array, tensor, image)]
        assert outs[0].shape == (1, 3, 224, 224)
        assert all((out - outs[0]).abs().max() <= 1 for out in outs)
    truth = processor(np.eye(224, dtype=bool), return_tensors="pt").pixel_values
    assert torch.equal(truth[0, 1], torch.eye(224, dtype=torch.uint8) * 255)


# --- what comes out ------------------------------------------------------------------------------------------


def test_a_result_moves_and_is_cast_as_tensors_are():
    out = ViTImageProcessor(size=8)(noise(), return_tensors="pt")
    out["labels"] = torch.tensor([3])
    assert out.to("cpu", torch.bfloat16) is out
    assert out.pixel_values.dtype == torch.bfloat16
    assert out.labels.dtype == torch.int64
    assert out.to(device="cpu", dtype=torch.float16, non_blocking=True).pixel_values.dtype == torch.float16
    assert out.to(torch.float32).pixel_values.dtype == torch.float32
    assert out.to("meta").labels.device.type == "meta"
    with pytest.raises(TypeError):
        out.to(torch.float16, "cpu")
    with pytest.raises(InputError, match="give a device, a dtype"):
        out.to(2.5)


def test_lists_of_tensors_move_too():
    out = ViTImageProcessorFast(size=8)([noise(), noise(seed=1)]).to(torch.float16)
    assert [image.dtype for image in out.pixel_values] == [torch.float16] * 2


def test_a_result_can_be_made_and_completed():
    out = BatchFeature({"pixel_values": [np.zeros((3, 2, 2)), np.ones((3, 2, 2))], "names": ["a", "b"]}, "pt")
    assert out.pixel_values.shape == (2, 3, 2, 2)
    assert out.names == ["a", "b"]
    out.update({"labels": [1]})
    assert out.labels == [1]


@EACH
def test_every_form_gives_lists_arrays_tensors_and_layouts(cls):
    processor = cls(size=16)
    kind = torch.Tensor if cls.backend == "torchvision" else np.ndarray
    out = processor([noise(), noise(seed=1)])
    assert isinstance(out.pixel_values, list)
    assert all(isinstance(image, kind) for image in out.pixel_values)
    first = processor(noise(), return_tensors="np").pixel_values
    last = processor(noise(), data_format="channels_last", return_tensors="np").pixel_values
    assert isinstance(first, np.ndarray)
    assert np.array_equal(last, first.transpose(0, 2, 3, 1))


@EACH
def test_model_input_names_and_the_form_are_said(cls):
    assert cls().model_input_names == ["pixel_values"]
    assert cls().backend == ("torchvision" if cls.__name__.endswith("Fast") else "pil")


@EACH
def test_the_names_of_the_options_can_be_asked_for(cls):
    assert list(cls.valid_kwargs.__annotations__) == [f.name for f in fields(cls)]


# --- options -------------------------------------------------------------------------------------------------


def test_sides_of_a_size_are_attributes():
    size = ViTImageProcessor(size=(8, 9)).size
    assert (size.height, size.width, size.shortest_edge) == (8, 9, None)
    assert size == {"height": 8, "width": 9}
    with pytest.raises(AttributeError):
        _ = size.depth


@EACH
@pytest.mark.parametrize("value", [0, "nearest", "nearest-exact", Image.Resampling.NEAREST])
def test_filters_have_names(cls, value):
    assert cls(resample=value).resample == 0


@EACH
def test_none_switches_a_step_off(cls):
    out = cls(do_resize=None, do_center_crop=None)(noise(), do_rescale=None, do_normalize=None, return_tensors="np")
    assert np.array_equal(out.pixel_values[0], noise().transpose(2, 0, 1))


@EACH
def test_a_step_that_is_off_needs_no_values(cls):
    off = {f"do_{step}": False for step in ("resize", "rescale", "normalize", "center_crop")}
    nothing = dict.fromkeys(["size", "resample", "rescale_factor", "image_mean", "image_std"])
    out = cls(**off, **nothing)(noise(), return_tensors="np").pixel_values
    assert np.array_equal(out[0], noise().transpose(2, 0, 1))
    for name in nothing:
        with pytest.raises(InputError, match=name):
            cls(**{name: None})


@pytest.mark.parametrize("name", ["image_mean", "image_std", "rescale_factor"])
@pytest.mark.parametrize("wrong", ["0.5", ["a"], [], {}, [[0.5]], True, float("nan"), float("inf")])
def test_statistics_are_numbers(name, wrong):
    with pytest.raises(InputError, match=f"{name}=.* is not a number"):
        ViTImageProcessor(**{name: wrong})
    assert ViTImageProcessor(image_mean=np.array([0.5, 0.1, 0.2])).image_mean == [0.5, 0.1, 0.2]


@EACH
def test_fields_can_be_set_later(cls):
    processor = cls(size=16)
    processor(noise())
    processor.size, processor.do_center_crop, processor.image_mean = 20, None, (0.1, 0.2, 0.3)
    expected = cls(size=20, do_center_crop=None, image_mean=[0.1, 0.2, 0.3])
    outs = [one(noise(), return_tensors="pt").pixel_values for one in (processor, expected)]
    assert torch.equal(*outs)
    processor.size = "20"
    with pytest.raises(InputError, match="size='20' is not a size"):
        processor(noise())


@EACH
@pytest.mark.parametrize("step", ["do_resize", "do_convert_rgb"])
def test_steps_are_on_or_off(cls, step):
    for make in (lambda: cls(**{step: "no"}), lambda: cls()(noise(), **{step: 0.5})):
        with pytest.raises(InputError, match=f"{step}=.* is not one of True, False, None"):
            make()


@pytest.mark.parametrize("cls", FORMS[:4])
def test_images_can_be_fitted_into_a_frame(cls):
    processor = cls(size={"max_height": 25, "max_width": 16}, do_center_crop=False, resample="bilinear")
    assert processor(noise(), return_tensors="pt").pixel_values.shape == (1, 3, 21, 16)
    reference = theirs(f"{cls.__name__.removesuffix('Fast')}Pil")(size={"max_height": 25, "max_width": 16})
    assert reference(noise(), do_center_crop=False)["pixel_values"][0].shape == (3, 21, 16)


@EACH
def test_what_has_no_effect_is_taken(cls):
    plain = cls(size=16)(noise(), return_tensors="pt").pixel_values
    assert torch.equal(
        cls(size=16)(noise(), return_tensors="pt", disable_grouping=True, device="cpu").pixel_values, plain
    )


@pytest.mark.parametrize("cls", FORMS[:4])
def test_the_centre_is_cropped_in_every_family(cls):
    options = {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 20, "width": 12}}
    out = cls(**options, **RAW)(noise(), return_tensors="np").pixel_values
    assert np.array_equal(out[0], noise()[10:30, 9:21].transpose(2, 0, 1))


@pytest.mark.parametrize("cls", FORMS[:4])
def test_images_can_be_filled_up(cls):
    processor = cls(do_resize=False, do_center_crop=None)
    images = [noise(20, 30), noise(24, 10)]
    out = processor(images, do_pad=True, return_tensors="np").pixel_values
    assert out.shape == (2, 3, 24, 30)
    np.testing.assert_array_equal(out[1, :, :, :10], processor(images[1], return_tensors="np").pixel_values[0])
    assert (out[0, :, 20:] == 0).all()
    assert (out[1, :, :, 10:] == 0).all()
    assert processor(images, do_pad=True, pad_size=(40, 50), return_tensors="np").pixel_values.shape == (2, 3, 40, 50)
    with pytest.raises(InputError, match="pad_size=22x30 is smaller than an image of 24x10"):
        processor(images, do_pad=True, pad_size=(22, 30))


# --- files ---------------------------------------------------------------------------------------------------


@EACH
def test_arguments_have_the_names_of_transformers_too(cls, tmp_path):
    cls(image_mean=[0.1, 0.2, 0.3]).save_pretrained(save_directory=tmp_path)
    for read in (cls, AutoImageProcessor):
        found = read.from_pretrained(pretrained_model_name_or_path=tmp_path)
        assert cls.from_dict(image_processor_dict=found.to_dict()).image_mean == [0.1, 0.2, 0.3]
    found.to_json_file(json_file_path=tmp_path / "a.json")
    assert cls.from_json_file(json_file=tmp_path / "a.json").image_mean == [0.1, 0.2, 0.3]


@EACH
def test_a_processor_goes_to_text_and_files_and_back(cls, tmp_path):
    processor = cls(size=16, do_resize=None, image_mean=[0.1, 0.2, 0.3])
    assert json.loads(processor.to_json_string()) == processor.to_dict()
    processor.to_json_file(tmp_path / "any.json")
    assert cls.from_json_file(str(tmp_path / "any.json")) == processor
    assert AutoImageProcessor.from_pretrained(tmp_path / "any.json") == processor
    assert processor.save_pretrained(tmp_path / "new" / "folder") == [
        str(tmp_path / "new" / "folder" / "preprocessor_config.json")
    ]
    again = cls.from_pretrained(tmp_path / "new" / "folder")
    assert again == processor
    assert again.do_resize is None
    with pytest.raises(InputError, match="push_to_hub=True: mimsuite uploads nothing"):
        processor.save_pretrained(tmp_path, push_to_hub=True)


def test_what_a_processor_writes_is_not_the_processor_itself():
    processor = ViTImageProcessor()
    processor.to_dict()["size"]["height"] = 1
    processor.to_dict()["image_mean"][0] = 9
    assert processor == ViTImageProcessor()
    assert type(processor.to_dict()["size"]) is dict


@EACH
def test_the_forms_read_each_other_s_files(cls, tmp_path):
    other = next(c for c in FORMS if c is not cls and (issubclass(c, cls) or issubclass(cls, c)))
    cls(size=16, resample=0).save_pretrained(tmp_path)
    assert other.from_pretrained(tmp_path) == other(size=16, resample=0)


@EACH
def test_keywords_of_the_hub_are_taken(cls, tmp_path):
    cls(size=16).save_pretrained(tmp_path / "inner")
    hub = {"cache_dir": None, "revision": "main", "token": None, "local_files_only": True, "force_download": False}
    for reader in (cls, AutoImageProcessor):
        found = reader.from_pretrained(tmp_path, subfolder="inner", trust_remote_code=False, proxies=None, **hub)
        assert found == cls(size=16)


def test_keywords_that_are_no_options_are_named_or_returned(tmp_path):
    ViTImageProcessor().save_pretrained(tmp_path)
    for reader in (ViTImageProcessor, AutoImageProcessor):
        found, unused = reader.from_pretrained(tmp_path, foo=1, size=8, return_unused_kwargs=True)
        assert (found.size.height, unused) == (8, {"foo": 1})
        with pytest.warns(UserWarning, match="ViTImageProcessor has no option 'foo': ignored"):
            assert reader.from_pretrained(tmp_path, foo=1) == ViTImageProcessor()
    content, unused = ViTImageProcessor.get_image_processor_dict(tmp_path, foo=1, revision="main")
    assert (content, unused) == (ViTImageProcessor().to_dict(), {"foo": 1})


def test_entries_of_a_file_that_are_not_known_are_kept_and_written_again(tmp_path):
    entries = {
        "crop_pct": 0.9,
        "valid": [1, 2],
        "size": 8,
        "preprocess": "no method",
        "processor_class": "CLIPProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(entries))
    found = ViTImageProcessor.from_pretrained(tmp_path)
    assert (found.crop_pct, found.valid) == (0.9, [1, 2])
    assert found.to_dict() == ViTImageProcessor(size=8).to_dict() | {"crop_pct": 0.9, "valid": [1, 2]}
    assert found(noise(), return_tensors="np").pixel_values.shape == (1, 3, 8, 8)


@EACH
def test_a_constructor_keeps_what_it_does_not_know(cls):
    processor = cls(**cls(size=16).to_dict(), seen=3)
    assert processor == cls(size=16)
    assert processor.to_dict() == cls(size=16).to_dict() | {"seen": 3}
    with pytest.warns(
        UserWarning, match=r"not fields, kept and without effect: do_resise \(did you mean do_resize\?\)"
    ):
        cls(do_resise=False)
    with pytest.raises(InputError, match=f"do_thumbnail: {cls.__name__} has no such step"):
        cls(do_thumbnail=True)


def test_what_a_processor_was_given_of_a_call_is_the_default_of_its_calls():
    processor = ViTImageProcessorFast(size=8, return_tensors="pt", device="meta", data_format="channels_last")
    out = processor(noise()).pixel_values
    assert (out.shape, out.device.type) == ((1, 8, 8, 3), "meta")
    assert isinstance(processor(noise(), return_tensors="pt", device="cpu").pixel_values, torch.Tensor)


def test_files_are_read_with_what_a_call_is_given(tmp_path):
    ViTImageProcessor(size=8, data_format="channels_first").save_pretrained(tmp_path)
    options = {"data_format": "channels_last", "device": "cpu", "return_tensors": "np", "disable_grouping": True}
    for reader in (ViTImageProcessor, AutoImageProcessor):
        assert reader.from_pretrained(tmp_path, **options)(noise()).pixel_values.shape == (1, 8, 8, 3)
    edge = AutoImageProcessor.from_pretrained(tmp_path, size=9, default_to_square=False).size
    assert edge == {"shortest_edge": 9}


def test_whether_a_number_is_a_square_can_be_said():
    edge = {"shortest_edge": 9}
    assert ViTImageProcessor(size=9, default_to_square=False).size == edge
    assert ViTImageProcessor()(noise(), size=9, default_to_square=False)["pixel_values"][0].shape == (3, 12, 9)
    assert ViTImageProcessor.default_to_square
    assert not models.BitImageProcessor.default_to_square


def test_a_class_of_a_user_s_own_is_made_from_files(tmp_path):
    class Own(ViTImageProcessor):
        def __init__(self, margin=1, **fields):
            super().__init__(**fields)
            self.margin = margin

        def fit(self, image):
            return super().fit(image)[:, self.margin :]

    Own(margin=2, size=8).save_pretrained(tmp_path)
    found = Own.from_pretrained(tmp_path)
    assert found.margin == 2
    assert found(noise(), return_tensors="pt").pixel_values.shape == (1, 3, 6, 8)


def test_a_file_of_several_processors_holds_one(tmp_path):
    inner = {"image_processor_type": "BitImageProcessorFast", "size": {"shortest_edge": 9}}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": inner, "processor_class": "X"}))
    assert AutoImageProcessor.from_pretrained(tmp_path) == models.BitImageProcessorFast(size=9)


def test_a_config_names_the_processor_of_a_file_without_type(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"size": 9}')
    found = AutoImageProcessor.from_pretrained(tmp_path, config=models.CvtConfig())
    assert type(found) is models.ConvNextImageProcessor


# --- torch against Pillow, and against Hugging Face ----------------------------------------------------------

OPTIONS = {
    "ViTImageProcessor": [{}, {"size": (50, 70), "resample": 3}, {"size": {"shortest_edge": 40, "longest_edge": 50}}],
    "BitImageProcessor": [{"size": 60, "crop_size": 48}, {"size": 40, "crop_size": (57, 33)}, {"do_resize": False}],
    "ConvNextImageProcessor": [{"size": 64}, {"size": 57, "crop_pct": 0.7, "resample": 2}, {"size": 384}],
}
CASES = pytest.mark.parametrize(("name", "options"), [(n, o) for n, found in OPTIONS.items() for o in found])


@CASES
@pytest.mark.parametrize(
    "make", [picture, lambda: torch.from_numpy(picture()).permute(2, 0, 1)], ids=["array", "tensor"]
)
def test_torch_and_pillow_agree_as_hugging_faces_forms_do(name, options, make):
    slow, fast = (
        getattr(models, name + form)(**options)(make(), return_tensors="pt").pixel_values for form in ("", "Fast")
    )
    torch.testing.assert_close(slow, fast, atol=1e-1, rtol=1e-3)
    assert (slow - fast).abs().mean() <= 5e-3


@PAIRS
def test_mixed_sizes_are_prepared_as_each_alone(name):
    fast = getattr(models, f"{name}Fast")(size=20)
    images = [noise(40, 30), noise(22, 60, seed=1), noise(40, 30, seed=2), noise(22, 60, seed=3)]
    out = fast(images, return_tensors="pt").pixel_values
    for image, prepared in zip(images, out, strict=True):
        torch.testing.assert_close(fast(image, return_tensors="pt").pixel_values[0], prepared)


def theirs(name):
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's imports
        return getattr(transformers, name)


@CASES
@pytest.mark.parametrize("form", ["array", "tensor", "list", "fractions"])
def test_torch_forms_equal_hugging_faces(name, options, form):
    pytest.importorskip("torchvision")
    image = {
        "array": picture,
        "tensor": lambda: torch.from_numpy(picture()).permute(2, 0, 1),
        "list": lambda: [picture(), picture(67, 131), picture(131, 67)],
        "fractions": lambda: torch.from_numpy(picture()).permute(2, 0, 1) / 255,
    }[form]()
    call = {"do_rescale": False} if form == "fractions" else {}
    ours = getattr(models, f"{name}Fast")(**options)(image, **call)["pixel_values"]
    reference = theirs(name)(**options)(image, **call)["pixel_values"]
    for mine, other in zip(ours, reference, strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("extent", [(4, 4), (5, 3), (9, 4), (4, 11), (8, 9)])
def test_an_odd_margin_lies_at_the_bottom_and_right_in_torch(extent):
    image = torch.arange(1, 31).reshape(1, 1, 5, 6)
    out = center_crop_tensor(image, extent)
    assert out.shape == (1, 1, *extent)
    turned = center_crop(image.flip(2, 3).numpy(), extent)[..., ::-1, ::-1]
    if all(want >= have for have, want in zip((5, 6), extent, strict=True)):
        assert np.array_equal(out.numpy(), turned)
    if extent == (8, 9):
        assert torch.equal(out[..., 1:6, 1:7], image)


def test_views_turned_and_flipped_are_read_as_they_look():
    processor = ViTImageProcessorFast(size=16)
    for view in (noise()[::-1], noise()[:, ::-1], noise().transpose(1, 0, 2), noise()[::2, 1::3]):
        expected = processor(np.ascontiguousarray(view), return_tensors="pt").pixel_values
        assert torch.equal(processor(view, return_tensors="pt").pixel_values, expected)


def test_short_floats_are_resized_as_float32():
    image = torch.rand(1, 3, 20, 30)
    out = resize_tensor(image.to(torch.float16), (10, 12), 2)
    assert out.dtype == torch.float16
    assert torch.equal(out, resize_tensor(image.half().float(), (10, 12), 2).half())


def test_tensors_stay_where_they_are_and_keep_their_gradient():
    image = torch.rand(3, 20, 30, requires_grad=True)
    ViTImageProcessorFast(size=8, do_rescale=False)(image, return_tensors="pt").pixel_values.sum().backward()
    assert image.grad is not None
    out = ViTImageProcessorFast(size=8)(noise(), device="meta", return_tensors="pt").pixel_values
    assert out.device.type == "meta"
