"""The functions for data and curves. Written by `python tests/test_signatures.py` from `conf/`; change the YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimsuite.api.calls import call


def plot(
    *,
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    metrics: str | Sequence[Any] | None = None,
    overwrite: bool | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Curves of one or several runs in one picture: loss, PSNR, learning rate, gradient norm, speed, wait for data.

    Args:
        runs: a run folder, or several: [runs/a,runs/b]
        out: picture to write (.png, .pdf or .svg)
        metrics: columns of metrics.csv to draw: one, or a list (default: all that have a panel)
        overwrite: replace an existing picture in out (default: false)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite plot --help` lists them.

    Returns:
        The last metrics of each run by its name.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("plot", locals())


def report(
    *,
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    overwrite: bool | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """One HTML file about one or several runs: verdicts, curves, reconstructions over time, probes, configs, cost.

    Args:
        runs: run folders of any task, or folders that hold some
        out: file to write (.html)
        overwrite: replace an existing file in out (default: false)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite report --help` lists them.

    Returns:
        What it says of each run, by its name.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("report", locals())


def pack(
    *,
    src: str | Path,
    out: str | Path,
    labels: str | Path | None = None,
    labels_file: str | Path | None = None,
    labels_column: str | None = None,
    labels_kind: str | None = None,
    labels_missing: str | None = None,
    group_by: str | None = None,
    image_size: int | Sequence[int] | str | None = None,
    alpha: str | None = None,
    bands: Sequence[str | int] | None = None,
    band_names: str | Sequence[str] | None = None,
    value_range: Sequence[float] | None = None,
    nodata: float | None = None,
    shard_size: int | None = None,
    splits: str | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    exclude: str | None = None,
    channels: int | str | None = None,
    seed: int | None = None,
    dry_run: bool | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Image folder or shards -> WebDataset shards and an index.

    Args:
        src: folder of images, with or without sub-folders, or shards (a folder, or train-{000..012}.tar)
        out: folder for the shards: absent, empty, or with an unfinished pack of the same source and options
        labels: folder (each sub-folder is a class), none, FILE.csv, or auto (folder if every image is in a sub-folder,
            else none) (default: auto)
        labels_file: CSV column with the path of the image below src (default: file, path, filename or image)
        labels_column: CSV column with the label (default: label or class)
        labels_kind: what the CSV's labels are: classes, multilabel or regression (auto: a;b is multilabel, 0.5
            regression, else classes)
        labels_missing: images without a row or with an empty label: unlabelled (pack them without), skip (leave them
            out) or error (default: unlabelled)
        group_by: images of one group stay in one split: a CSV column, folder, folder:N (N-th part of the path), or
            dicom:FIELD (dicom:PatientID)
        image_size: reduce larger images to this short side in pixels (Lanczos); JPEG stays JPEG (quality 95), others
            stay lossless
        alpha: transparency, when the images are read: white (laid on white; of shards, as their index.json says), drop,
            or channel (the last channel) (default: white)
        bands: bands to keep, in this order, by name or by number from 0, such as [B4,B3,B2] (default: all, as they are)
        band_names: names of the bands of every file, such as [B2,B3,B4]; none; or auto (from the TIFF's metadata, where
            it names them) (default: auto)
        value_range: values that become 0 and 65535, such as [0,1]: for float and signed data, or in place of a DICOM
            window (default: 8 and 16 bits as they are)
        nodata: with value_range: a number, or nan, that stands for no value; such pixels become 0 (default: none)
        shard_size: MiB of images per shard (default: 256)
        splits: folder (train/, val/ and test/ at the top of src), none (all images are train), or auto (folder, if
            there are any) (default: auto)
        val_fraction: share of the images that goes from train to the split val, the same share of each class (default:
            0.0)
        test_fraction: the same for the split test (default: 0.0)
        exclude: images to leave out: a pattern (*_thumb.*, unlabeled, train/bad/*) of names, folders or paths, or a
            list
        channels: leave out images with another number of channels (default: all must go together; grey goes with 3)
        seed: random seed of the drawn splits and of the order in the shards (default: 0)
        dry_run: only print what would be written (default: false)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite pack --help` lists them.

    Returns:
        Counts.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("pack", locals())


def inspect(
    *,
    out: str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    count: int | None = None,
    verify: bool | None = None,
    index: bool | None = None,
    alpha: str | None = None,
    overwrite: bool | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """What a data set holds: counts, classes, labels, sizes, file types, pixel statistics, duplicates, a contact sheet.

    Args:
        out: folder for contact_sheet.png and inspect.json; must be absent or empty
        data: packed folder, shards (a folder, or train-{000..012}.tar) or image folder, or a list of them (default: the
            embedded emoji-64)
        count: images on the contact sheet (default: 40)
        verify: read everything: check the sha256 of each shard that has one, decode each image, read each label
            (default: false)
        index: write index.json and .idx.npy beside shards that have none (into out, where they lie on a machine that
            takes no files) (default: false)
        alpha: with index=true: transparency, when the images are read: white (laid on white), drop, or channel
            (default: white)
        overwrite: replace the files of an earlier inspect in out (default: false)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite inspect --help` lists them.

    Returns:
        What `inspect.json` holds.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("inspect", locals())


def demo(
    *,
    out: str | Path | None = None,
    steps: int | None = None,
    batch: int | str | None = None,
    seed: int | None = None,
    precision: str | None = None,
    workers: int | str | None = None,
    overwrite: bool | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Every step once, on the embedded data set: pack, inspect, pretrain, probe, reconstruct, load the weights again,
    report.

    Args:
        out: folder for everything that the demo writes (default: runs/demo)
        steps: optimizer steps of the pretraining: enough to see shapes and colours, too few for good features (default:
            120)
        batch: images per optimizer step (default: 64)
        seed: random seed of weights, order, crops and masks (default: 0)
        precision: 32-true or bf16-mixed (auto: bf16-mixed where the device computes it fast, else 32-true)
        workers: loader processes (auto: one per CPU core but one, at most 8)
        overwrite: replace an earlier demo in out (default: false)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite demo --help` lists them.

    Returns:
        The metrics that it prints.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("demo", locals())


def doctor(
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    clean: str | None = None,
    out: str | Path | None = None,
    strict: bool | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Checks this environment: versions, devices and known problems.

    Args:
        data: a data set whose index is checked as well (default: none)
        clean: empty the cache: old (copies of folders that changed or are gone, and unfinished ones), all, or null
            (only show it)
        out: a .json file for everything that is printed (default: none); an existing file is replaced
        strict: exit code 1 also for what only slows a run (default: false)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite doctor --help` lists them.

    Returns:
        The findings, and `exit_code` 1 where one is a fault.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("doctor", locals())
