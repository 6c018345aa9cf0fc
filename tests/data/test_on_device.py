"""Crops that the device makes of decoded pixels are those that the loader makes, and batches reach it in order."""

import io
import signal
import types

import numpy as np
import pytest
import torch
from lightning import Callback, LightningDataModule
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from mimsuite import api
from mimsuite.data.augment.crop import CenterCrop, RandomResizedCrop
from mimsuite.data.augment.on_device import FILTERS, DeferredCrop, on_canvases, resampling
from mimsuite.data.augment.supervised import Supervised
from mimsuite.data.datamodule import ImageData
from mimsuite.data.images.decode import open_image
from mimsuite.data.open import open_index
from mimsuite.data.transfer import CopyStream
from mimsuite.errors import InputError
from mimsuite.masked.samplers import RandomMask
from mimsuite.types import Batch
from mimsuite.words import INTERPOLATIONS

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SIZE = (24, 32)
SIZES = [(40, 50), (31, 200), (24, 32), (9, 7), (400, 350), (64, 64), (47, 65), (150, 100)]
RANGE = 2  # grey levels between a picture of the loader and one of the device, smooth or not shrunk before


def smooth(height, width, seed, top=255):
    """Waves of a quarter of the image at least, different left and right."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in random.uniform(0.5, 3, (3, 3))]
    return ((np.stack(waves, -1) * 0.4 + 0.5) * top).round().astype(np.uint8 if top == 255 else np.uint16)


def encoded(seed, kind):
    stream = io.BytesIO()
    Image.fromarray(smooth(*SIZES[seed % len(SIZES)], seed)).save(stream, kind, quality=95)
    return stream.getvalue()


@pytest.fixture(scope="module")
def index(tar, tmp_path_factory):
    """Smooth pictures that are larger than a canvas, smaller than a picture, and in between."""
    folder = tmp_path_factory.mktemp("smooth")
    for name, first in (("train", 0), ("val", 32)):
        members = [(f"{n:04d}.{('jpg', 'png')[n % 2]}", encoded(n // 2, ("JPEG", "PNG")[n % 2])) for n in range(32)]
        tar(folder / f"{name}-000000.tar", [(f"{first}{key}", data) for key, data in members])
    return open_index(str(folder), tmp_path_factory.mktemp("cache"))


def module(index, on_device, *, done=0, transform=None, **changes):
    arguments = {"image_size": SIZE, "mask_unit": 8, "masks": (RandomMask(0.5),), "batch": 16, "micro_batch": 8}
    arguments |= {"train_transform": transform or RandomResizedCrop(SIZE), "steps": 4, "seed": 3, "workers": 0}
    data = ImageData(index, **(arguments | changes), crops_on_device=on_device)
    data.trainer = types.SimpleNamespace(global_rank=0, world_size=1, global_step=done)
    return data


def moved(data, loader=None):
    """Batches as a step gets them on a CPU."""
    cpu = torch.device("cpu")
    batches = data.train_dataloader() if loader is None else loader
    return [data.on_after_batch_transfer(data.transfer_batch_to_device(batch, cpu, 0), 0) for batch in batches]


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        for name, x, y in zip(Batch._fields, left, right, strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, name


@pytest.mark.parametrize("mode", INTERPOLATIONS)
@pytest.mark.parametrize("length", [1, 2, 7, 16, 17, 31, 32])
def test_weights_are_those_of_torchs_antialiased_resizing(mode, length):
    assert tuple(FILTERS) == INTERPOLATIONS
    pixels = torch.rand(1, 1, length, 5, generator=torch.Generator().manual_seed(length))
    wanted = F.interpolate(pixels, size=(16, 5), mode=mode, antialias=True)[0, 0]
    weights = resampling(torch.tensor([5, length]), 16, 32, mode)
    assert weights.shape == (2, 16, 32)
    found = weights[1, :, :length] @ pixels[0, 0]
    assert torch.allclose(found, wanted, atol=2e-6)
    assert weights[1, :, length:].abs().sum() == 0


@pytest.mark.parametrize(
    "transform",
    [
        RandomResizedCrop(SIZE),
        RandomResizedCrop(SIZE, interpolation="bilinear"),
        CenterCrop(SIZE),
        Supervised(SIZE, mean=[0.5] * 3, std=[0.2] * 3),
    ],
    ids=["crop", "bilinear", "none", "supervised"],
)
def test_the_device_makes_the_pictures_of_the_loader(index, transform):
    wanted, found = (moved(module(index, on_device, transform=transform)) for on_device in (False, True))
    for one, other in zip(wanted, found, strict=True):
        assert one.images.shape == other.images.shape == (8, 3, *SIZE)
        assert one.images.dtype == other.images.dtype == torch.uint8
        assert (one.images.int() - other.images.int()).abs().max() <= RANGE
    assert_same(*([batch._replace(images=None) for batch in batches] for batches in (wanted, found)))


def test_boxes_and_mirrors_are_drawn_as_in_the_loader():
    crop = RandomResizedCrop(SIZE)
    deferred, mirrored = DeferredCrop(crop), []
    for seed in range(40):
        one, two = (torch.Generator().manual_seed(seed) for _ in range(2))
        image = np.random.default_rng(seed).integers(0, 256, (48, 60, 3), np.uint8)
        box = crop.box(48, 60, one)
        assert deferred.box(48, 60, two) == box
        pixels = image[box.top : box.top + box.height, box.left : box.left + box.width]
        picture, (sent, mirror) = crop(pixels, one), deferred(pixels, two)
        mirrored.append(mirror)
        assert torch.equal(one.get_state(), two.get_state())
        made = deferred.make_pictures(*on_canvases([sent], [mirror]))[0]
        off = (made.int() - picture.int()).abs()
        assert off.max() <= RANGE
        assert (off > 0).float().mean() < 0.02
    assert 10 < sum(mirrored) < 30


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(index, workers):
    assert_same(moved(module(index, True)), moved(module(index, True, workers=workers)))


def test_a_run_goes_on_with_the_same_pictures(index):
    assert_same(moved(module(index, True))[4:], moved(module(index, True, done=2)))


def test_canvases_are_as_large_as_the_largest_box_and_never_larger_than_twice_the_picture(index):
    loader = module(index, True).train_dataloader()
    for batch in loader:
        height, width, mirrored = batch.windows.unbind(1)
        assert batch.images.shape == (8, height.max(), width.max(), 3)
        assert batch.images.shape[1] <= 2 * SIZE[0]
        assert batch.images.shape[2] <= 2 * SIZE[1]
        assert set(mirrored.tolist()) <= {0, 1}
    assert loader.dataset.sample_bytes == 4 * 3 * SIZE[0] * SIZE[1]


def test_validation_pictures_are_made_by_the_loader(index):
    one, other = (module(index, on_device) for on_device in (False, True))
    assert_same(moved(one, one.val_dataloader()), moved(other, other.val_dataloader()))


def test_sixteen_bit_pictures_stay_in_range():
    deferred = DeferredCrop(CenterCrop(SIZE))
    pixels = [smooth(40, 60, seed, 65535) for seed in range(3)] + [np.full((40, 60, 3), 65535, np.uint16)]
    sent = [deferred(image, torch.Generator())[0] for image in pixels]
    made = deferred.make_pictures(*on_canvases(sent, [False] * 4))
    wanted = torch.stack([CenterCrop(SIZE)(image, torch.Generator()) for image in pixels])
    assert made.dtype == wanted.dtype == torch.int32
    assert (made - wanted).abs().max() <= RANGE
    assert made[3].min() == made[3].max() == 65535


def test_the_loader_sends_pixels_of_turned_jpegs_as_they_are_upright():
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth(90, 60, 1)).save(stream, "JPEG", exif=exif)
    image = open_image(stream.getvalue())
    crop, deferred = CenterCrop(SIZE), DeferredCrop(CenterCrop(SIZE))
    box = crop.box(image.height, image.width, torch.Generator())
    pixels = image.pixels(box, SIZE)
    made = deferred.make_pictures(*on_canvases([deferred(pixels, torch.Generator())[0]], [False]))[0]
    assert (made.int() - crop(pixels, torch.Generator()).int()).abs().max() <= RANGE


class Half(Callback):
    """Asks the run to stop in its second step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert batch.images.shape[1:] == (3, 32, 32)
        assert batch.windows is None
        if trainer.global_step == 1:
            signal.raise_signal(signal.SIGTERM)


RUN = {"model": "vit_nano", "batch": 8, "micro_batch": 4, "steps": 4, "image_size": 32, "loader.val_limit": 8}
RUN |= {"val_every": 4, "augment.device": "gpu"}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_an_interrupted_run_resumes_to_the_bit(tmp_path, caplog):
    whole, other = str(tmp_path / "whole"), str(tmp_path / "other")
    assert api.pretrain(out=whole, workers=1, **RUN)["steps"] == 4
    assert "augment.device=gpu (pictures are cropped on " in caplog.text
    stopped = api.pretrain(out=other, workers=0, **RUN, callbacks=[Half()])
    assert (stopped["status"], stopped["steps"]) == ("interrupted", 2)
    with pytest.raises(InputError, match=r"cannot change augment\.device: the run has gpu, the command line has cpu"):
        api.pretrain(out=other, resume=True, **{"augment.device": "cpu"})
    assert api.pretrain(out=other, resume=True, workers=0)["steps"] == 4
    one, two = (load_file(f"{out}/weights/model.safetensors") for out in (whole, other))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


class OwnCrop:
    """An augmentation of a user's own."""

    size = (32, 32)

    def box(self, height, width, generator):
        raise NotImplementedError

    def __call__(self, pixels, generator):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("pretrain", {"augment.device": "cuda"}, r"augment\.device=cuda is unknown; augment\.device takes cpu, gpu"),
        ("finetune", {"augment.erasing": 0.25}, r"would leave out augment\.erasing=0\.25; use augment\.device=cpu, or"),
        (
            "finetune",
            {"augment.rand_augment": {"layers": 2}},
            r"leave out augment\.rand_augment=\{'layers': 2\};",
        ),
        ("finetune", {"augment.rand_augment": {}}, r"leave out augment\.rand_augment=\{\};"),
        ("pretrain", {"augment": OwnCrop()}, r"would leave out an augmentation of your own; use augment\.device=cpu"),
    ],
)
def test_what_the_device_cannot_do_is_refused_by_name(task, changes, words, tmp_path):
    keys = {"out": str(tmp_path / "out"), "model": "vit_nano", "image_size": 32, "steps": 2}
    with pytest.raises(InputError, match=words):
        api.call(task, keys | {"augment.device": "gpu"} | changes)
    assert not (tmp_path / "out").exists()


class BrighterCrop(RandomResizedCrop):
    """Inherits what the device needs, and does more."""

    def __call__(self, pixels, generator):
        return super().__call__(pixels, generator) + 1


@pytest.mark.parametrize("crop", [OwnCrop(), BrighterCrop(SIZE)], ids=lambda crop: type(crop).__name__)
def test_an_augmentation_that_may_do_more_is_refused(crop, index):
    name = type(crop).__name__
    with pytest.raises(InputError, match=rf"with interpolation and mirrors\(generator\), which {name}"):
        module(index, True, transform=crop)


class Streams:
    """In place of CUDA's streams: notes what happens on which."""

    def __init__(self, monkeypatch):
        self.now, self.events = "computing", []
        for name in ("Stream", "stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: self.note(f"kept for {stream.name}"))
        monkeypatch.setattr(LightningDataModule, "transfer_batch_to_device", self.copy)

    def note(self, what):
        self.events.append((self.now, what))

    def made(self, name):
        return types.SimpleNamespace(name=name, wait_stream=lambda other: self.note(f"{name} waits for {other.name}"))

    def Stream(self, device):  # noqa: N802 - as torch calls it
        self.note("new stream")
        return self.made("copying")

    def current_stream(self, device):
        return self.made(self.now)

    def stream(self, stream):
        streams = self

        class Inside:
            def __enter__(self):
                self.before, streams.now = streams.now, stream.name

            def __exit__(self, *error):
                streams.now = self.before

        return Inside()

    def copy(self, batch, device, number):
        self.note(f"copy {batch.images.flatten()[0]}")
        if batch.images.flatten()[0] == 13:
            raise RuntimeError("copies fail")
        return batch


def test_batches_are_copied_in_order_beside_the_step_and_kept_until_it_has_read_them(index, monkeypatch):
    streams, data = Streams(monkeypatch), module(index, False)
    batches = [
        Batch(torch.full((2, 3, 4, 4), n), torch.arange(2), torch.ones(2, 1, 1), None, []) for n in (7, 8, 13, 9)
    ]
    found = []
    for batch in batches:
        try:
            found.append(data.transfer_batch_to_device(batch, torch.device("cuda"), 0))
        except RuntimeError as error:
            found.append(str(error))
    assert found[2] == "copies fail"
    assert_same([found[0], found[1], found[3]], [batches[0], batches[1], batches[3]])
    after = [("computing", "computing waits for copying"), *[("computing", "kept for computing")] * 2]
    assert streams.events == [
        ("computing", "new stream"),
        *[("copying", "copy 7"), *after],
        *[("copying", "copy 8"), *after],
        ("copying", "copy 13"),
        *[("copying", "copy 9"), *after],
    ]
    assert streams.now == "computing"


def test_on_a_cpu_there_is_no_stream(index, monkeypatch):
    monkeypatch.setattr(CopyStream, "__init__", lambda *_: pytest.fail("a stream on a CPU"))
    data = module(index, False)
    assert_same(moved(data), list(data.train_dataloader()))
