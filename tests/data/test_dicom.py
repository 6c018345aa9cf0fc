"""DICOM becomes grey or colour through its own tables, and nothing that names a person goes into shards."""

import contextlib
import io
import re
import sys

import numpy as np
import pytest
from pictures import pixels, refusal, remarks
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
    RTStructureSetStorage,
)
from scans import NAME, NUMBER, scan, steps, table

from mimsuite.data.checks.inspect import raw_samples
from mimsuite.data.images.decode import DecodeError, open_image
from mimsuite.data.images.value_range import ValueRange
from mimsuite.data.open import open_data
from mimsuite.data.packing.pack import pack
from mimsuite.data.packing.plan import Choice, plan_pack
from mimsuite.errors import InputError

STEPS = np.arange(256)


def row(data):
    return pixels(data)[0, :, 0]


def full(fractions, top=65535):
    return np.rint(np.clip(fractions, 0, 1) * top)


# ---- grey


def test_without_a_window_all_that_the_bits_can_hold_is_kept():
    assert np.array_equal(row(scan(steps(), bits=12)), full(STEPS / 4095))
    assert np.array_equal(row(scan(steps())), STEPS)
    assert np.array_equal(row(scan(steps(dtype=np.uint8))), STEPS)
    signed = steps().astype(np.int16) - 128
    assert np.array_equal(row(scan(signed, signed=True, bits=12)), full((STEPS - 128 + 2048) / 4095))
    rescaled = scan(signed, signed=True, bits=12, RescaleSlope=2, RescaleIntercept=-1000)
    assert np.array_equal(row(rescaled), full((STEPS - 128 + 2048) / 4095))
    assert remarks(rescaled) == ["no window is given, and all values that its bits can hold are kept"]


@pytest.mark.parametrize("signed", [False, True])
def test_the_ends_of_the_window_are_black_and_white_after_the_rescale(signed):
    """DICOM PS3.3 C.11.2.1.2: LINEAR, from c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2."""
    stored = steps().astype(np.int16 if signed else np.uint16)
    data = scan(
        stored,
        signed=signed,
        bits=12,
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=[100, 0],
        WindowWidth=[201, 9],
    )
    expected = full((STEPS * 2 - 100 - (99.5 - 100)) / 200)
    assert np.array_equal(row(data), expected)
    assert (expected == 0).sum() > 40
    assert (expected == 65535).sum() > 40


def test_exact_and_sigmoid_windows_and_windows_of_8_bits():
    window = {"WindowCenter": 100, "WindowWidth": 50}
    exact = row(scan(steps(), VOILUTFunction="LINEAR_EXACT", **window))
    assert np.allclose(exact, full((STEPS - 75) / 50), atol=1)
    sigmoid = row(scan(steps(), VOILUTFunction="SIGMOID", **window))
    assert np.allclose(sigmoid, full(1 / (1 + np.exp(-4 * (STEPS - 100) / 50))), atol=1)
    eight = row(scan(steps(dtype=np.uint8), VOILUTFunction="LINEAR_EXACT", **window))
    assert np.allclose(eight.astype(int), full((STEPS - 75) / 50, 255), atol=1)


def test_tables_of_modality_and_of_values_of_interest_are_looked_up():
    squares = (STEPS**2).tolist()
    assert np.array_equal(row(scan(steps(), ModalityLUTSequence=[table(squares, 0, 16)])), squares)
    ramp = (STEPS[::-1] * 16).tolist()
    assert np.array_equal(row(scan(steps(), VOILUTSequence=[table(ramp, 0, 12)])), full(STEPS[::-1] * 16 / 4095))


def test_in_monochrome1_white_is_zero():
    for more in ({}, {"WindowCenter": 100, "WindowWidth": 50}):
        for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
            plain, turned = (
                row(scan(steps(dtype=dtype), PhotometricInterpretation=kind, **more))
                for kind in ("MONOCHROME2", "MONOCHROME1")
            )
            assert np.array_equal(turned, top - plain)


def test_a_declared_range_stands_for_the_window():
    data = scan(steps(), RescaleSlope=1, RescaleIntercept=-100, WindowCenter=0, WindowWidth=2)
    found = open_image(data, value_range=ValueRange(-50, 50)).pixels()[0, :, 0]
    assert np.array_equal(found, full((STEPS - 50) / 100))
    for signed in (False, True):
        stored = steps().astype(np.int16 if signed else np.uint16)
        turned = scan(stored, signed=signed, PhotometricInterpretation="MONOCHROME1")
        wanted = 65535 - STEPS * 257
        wanted[7] = 0  # has no value
        assert np.array_equal(open_image(turned, value_range=ValueRange(0, 255, 7)).pixels()[0, :, 0], wanted)
    eight = open_image(scan(steps(dtype=np.uint8)), value_range=ValueRange(0, 255))
    assert eight.deep
    assert np.array_equal(eight.pixels()[0, :, 0], STEPS * 257)


def test_of_several_frames_the_first_is_taken_with_the_tables_of_its_own():
    frames = np.stack([steps() + n for n in range(30)])
    assert np.array_equal(row(scan(frames)), STEPS)
    assert remarks(scan(frames))[0] == "of 30 frames the first is taken"
    assert len(remarks(scan(frames[:1]))) == 1
    shared, own, rescale, window = Dataset(), Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -100
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 0, 100, "LINEAR_EXACT"
    shared.PixelValueTransformationSequence, own.FrameVOILUTSequence = [rescale], [window]
    enhanced = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": [own, own]}
    assert np.allclose(row(scan(frames[:2], **enhanced)), full((STEPS - 50) / 100), atol=1)


# ---- colours


def test_colours_of_every_kind_become_rgb():
    rgb = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    assert np.array_equal(pixels(scan(rgb)), rgb)
    grey = np.stack([steps(dtype=np.uint8), np.full((8, 256), 128, np.uint8), np.full((8, 256), 128, np.uint8)], -1)
    assert np.array_equal(pixels(scan(grey, PhotometricInterpretation="YBR_FULL"))[0, :, 0], STEPS)
    names = ("Red", "Green", "Blue")
    colours = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in names}
    for number, name in enumerate(names):
        colours[f"{name}PaletteColorLookupTableData"] = ((STEPS * 257) >> number).astype("<u2").tobytes()
    found = pixels(scan(steps(dtype=np.uint8), PhotometricInterpretation="PALETTE COLOR", **colours))
    assert found.dtype == np.uint8
    assert np.allclose(found[0], np.stack([STEPS, STEPS / 2, STEPS / 4], -1), atol=0.6)


def test_a_range_is_refused_for_colours():
    with pytest.raises(DecodeError, match=r"DICOM: value_range= is for grey values, and these are colours \(RGB\)"):
        open_image(scan(np.zeros((8, 8, 3), np.uint8)), value_range=ValueRange(0, 1))


# ---- compression, and what is refused


def encapsulated(syntax):
    from pydicom.encaps import encapsulate

    return scan(steps(), syntax=syntax, PixelData=encapsulate([b"\0" * 64]))


def test_a_compression_without_its_library_names_the_line_for_pip():
    assert refusal(encapsulated(JPEGLSLossless)) == (
        'DICOM: JPEG-LS Lossless Image Compression needs a decoder; pip install "pylibjpeg[all]"'
    )
    assert refusal(encapsulated(JPEG2000)).startswith("DICOM: ")  # Pillow reads this kind


def test_runs_of_equal_values_need_no_library():
    from pydicom import dcmread

    found = dcmread(io.BytesIO(scan(steps())))
    found.compress(RLELossless)
    stream = io.BytesIO()
    found.save_as(stream)
    assert np.array_equal(row(stream.getvalue()), STEPS)


WHOLE = scan(steps(), WindowCenter=100, WindowWidth=50)
REFUSED = {
    "contours": (scan(kind=RTStructureSetStorage), r"DICOM: a file without pixels \(RT Structure Set Storage\)"),
    "a directory": (scan(kind=MediaStorageDirectoryStorage), r"DICOM: a file without pixels \(Media Storage Directory"),
    "cut in its pixels": (WHOLE[:-300], "DICOM: The number of bytes of pixel data is less than expected"),
    "cut in its header": (WHOLE[:300], "DICOM: "),
    "cut before its header": (WHOLE[:140], "DICOM: a file without pixels"),
    "no header": (
        WHOLE[200:] if WHOLE[200:202] == b"\x08\0" else b"\x08\0\x05\0" + bytes(40),
        "a DICOM file without a",
    ),
    "a window without width": (
        scan(steps(), WindowCenter=1, WindowWidth=0),
        "DICOM: a window of width 0; use `mimsuite",
    ),
    "an endless slope": (scan(steps(), RescaleSlope="1e400", RescaleIntercept=0), "DICOM: values that are NaN or"),
    "an odd kind": (scan(steps(), PhotometricInterpretation="HSV"), "DICOM: pixels of kind HSV with 1 samples"),
    "no size": (scan(steps(), Rows=0), "0 x 256 pixels; at least 1 x 1"),
    "a size that is too large": (scan(steps(), Rows=65535, Columns=65535), "65535 x 65535 pixels; at most"),
    "floats": (
        scan(steps(), float_pixels=True, FloatPixelData=np.zeros((8, 256), "<f4").tobytes(), BitsAllocated=32),
        "DICOM: values of type float; use `mimsuite pack value_range",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(name):
    data, words = REFUSED[name]
    assert re.match(words, refusal(data)), refusal(data)


def test_damage_at_any_byte_gives_an_image_or_a_reason():
    random = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(WHOLE)
        for at in random.integers(132, len(data), 4):
            data[at] = random.integers(0, 256)
        with contextlib.suppress(DecodeError):
            open_image(bytes(data)).pixels()


def test_without_pydicom_the_line_for_pip_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.dcm").write_bytes(WHOLE)
    with pytest.raises(InputError, match=r'DICOM files need pydicom, .*; pip install "mimsuite\[dicom\]"$'):
        pack(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- folders


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Sixty scans of twenty patients, under names of every kind, and what else lies on such a disk."""
    src = tmp_path_factory.mktemp("hospital") / "scans"
    src.mkdir()
    for number in range(60):
        name = (f"{number}.dcm", f"IM{number:04d}", f"1.2.840.{number}")[number % 3]
        bits = {"WindowCenter": 120, "WindowWidth": 240, "patient": f"{NUMBER}-{number % 20}"}
        (src / name).write_bytes(scan(steps() + number, bits=12, **bits))
    (src / "DICOMDIR").write_bytes(scan(kind=MediaStorageDirectoryStorage))
    (src / "contours.dcm").write_bytes(scan(kind=RTStructureSetStorage, patient=f"{NUMBER}-3"))
    (src / "cut.dcm").write_bytes(scan(steps(), patient=f"{NUMBER}-4")[:-100])
    (src / "README").write_text("about")
    return src


def test_a_folder_of_scans_is_packed_and_nothing_in_it_names_a_person(hospital, tmp_path, caplog):
    out = tmp_path / "out"
    index = pack(hospital, out, group_by="dicom:PatientID", val_fraction=0.2)
    assert (index.channels, index.dtype, index.image_size) == (1, "uint16", (8, 256))
    assert sum(index.num_samples(split) for split in index.splits) == 60
    assert {s.ending for split in index.splits for s in raw_samples(index, split, 60)} == {"png"}
    assert "2 of 62 images were skipped" in caplog.text
    assert "contours.dcm (DICOM: a file without pixels (RT Structure Set Storage))" in caplog.text
    written = b"".join(path.read_bytes() for path in out.iterdir()) + caplog.text.encode()
    for secret in (NAME, "Mustermann", NUMBER, "4711"):
        assert secret.encode() not in written


def test_no_patient_is_in_two_splits(hospital):
    plan = plan_pack(hospital, Choice(group_by="dicom:PatientID", val_fraction=0.2, test_fraction=0.2))

    def patients(split):
        found = set()
        for picture in plan.pictures:
            if picture.split == split:
                found.add(
                    int(re.search(r"(\d+)(\.dcm)?$", picture.file).group(1)) % 20 if picture.file[0] != "c" else -1
                )
        return found - {-1}

    assert patients("train") | patients("val") | patients("test") == set(range(20))
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not patients(one) & patients(other)
    assert NUMBER not in str(plan)


def test_groups_that_lie_in_two_folders_of_splits_are_told_by_their_files(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.dcm").write_bytes(WHOLE)
    words = "group_by=dicom:PatientID: train/a.dcm and val/a.dcm are of one group, in train and val; move its images"
    with pytest.raises(InputError, match=words) as error:
        plan_pack(tmp_path, Choice(group_by="dicom:PatientID"))
    assert NUMBER not in str(error.value)


def test_groups_by_fields_that_are_missing_or_unknown_are_refused(tmp_path):
    (tmp_path / "a.dcm").write_bytes(WHOLE)
    (tmp_path / "b.dcm").write_bytes(scan(steps(), patient=""))
    with pytest.raises(InputError, match=r"1 image of 2 have no such field, or are not DICOM \(b.dcm\)"):
        plan_pack(tmp_path, Choice(group_by="dicom:PatientID"))
    with pytest.raises(InputError, match="DICOM has no field PatientNumber; use such as dicom:PatientID"):
        plan_pack(tmp_path, Choice(group_by="dicom:PatientNumber"))


def test_a_folder_and_one_file_are_data_as_they_are(hospital, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    index = open_data(str(hospital))
    assert (index.num_samples("train"), index.dtype) == (60, "uint16")
    assert open_data(str(hospital / "IM0001")).num_samples("train") == 1


def test_depths_that_differ_are_read_as_8_bits(tmp_path, caplog):
    src = tmp_path / "in"
    src.mkdir()
    for number in range(6):
        (src / f"{number}.dcm").write_bytes(
            scan(steps(dtype=(np.uint8, np.uint16)[number % 2]), bits=8 + number % 2 * 4)
        )
    assert pack(src, tmp_path / "out").dtype == "uint8"
    assert "3 of 6 sampled images have 16 bits, so all are read as 8 bits" in caplog.text
