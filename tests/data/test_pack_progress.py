"""How far a pack is, on a terminal and elsewhere; and small pictures of sets that have many channels."""

import sys

import numpy as np
import pytest

from mimsuite.data import progress
from mimsuite.pictures.contact import class_caption, thumbnail


def test_without_a_terminal_a_line_comes_now_and_then(monkeypatch, caplog):
    caplog.set_level("INFO", "mimsuite")
    clock = iter([0.0, 1.0, 9.0, 11.0, 12.0, 25.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.report_progress("pack") as report:
        for done in (101, 180, 211, 250, 351):
            report(done, 1000)
    assert [record.getMessage() for record in caplog.records] == [
        "pack: 211 of 1000 images, 10 a second",
        "pack: 351 of 1000 images, 10 a second",
    ]


def test_no_line_tells_a_pace_before_there_is_one(monkeypatch, caplog):
    """A first image that comes late, after the import of a library, was told as 0.00 a second."""
    caplog.set_level("INFO", "mimsuite")
    clock = iter([0.0, 15.0, 16.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.report_progress("pack") as report:
        report(1, 24)
        assert not caplog.records
        report(17, 24)
    assert [record.getMessage() for record in caplog.records] == ["pack: 17 of 24 images, 1 a second"]


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys, caplog):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    caplog.set_level("INFO", "mimsuite")
    with progress.report_progress("pack") as report:
        report(7, 9)
    assert "7/9" in capsys.readouterr().out
    assert not caplog.records


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_thumbnail_shows_three_channels_at_most(dtype, channels):
    import io

    stream = io.BytesIO()
    np.save(stream, np.full((6, 7, channels), np.iinfo(dtype).max // 5, dtype))
    small = thumbnail(stream.getvalue())
    assert (small.shape, small.dtype) == ((6, 7, 3), np.uint8)
    assert (small == 51).all()


@pytest.mark.parametrize(
    ("label", "names", "text"),
    [
        (1, ("cat", "dog"), "dog"),
        ((0, 1), ("cat", "dog"), "cat, dog"),
        ((), ("cat", "dog"), "none"),
        (3, (), "3"),
        (2.5, (), "2.5"),
        (None, ("cat",), "bad\\xff"),
    ],
)
def test_captions_say_the_label_or_else_the_key(label, names, text):
    from mimsuite.data.checks.inspect import RawSample

    assert class_caption(RawSample("bad\udcff", "jpg", b"", label), names) == text
