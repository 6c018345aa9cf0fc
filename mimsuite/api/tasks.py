"""The functions that use a model. Written by `python tests/test_signatures.py` from `conf/`; change the YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimsuite.api.calls import call


def probe(
    *,
    init: str | Path,
    out: str | Path,
    init_channels: str | None = None,
    init_position: str | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    labels: str | Path | None = None,
    labels_file: str | Path | None = None,
    labels_column: str | None = None,
    labels_kind: str | None = None,
    split: str | None = None,
    image_size: int | Sequence[int] | str | None = None,
    layers: str | Sequence[Any] | None = None,
    pool: str | Sequence[Any] | None = None,
    shots: Sequence[float] | None = None,
    attentive: bool | None = None,
    batch: int | str | None = None,
    baselines: bool | None = None,
    seed: int | None = None,
    workers: int | str | None = None,
    devices: int | str | None = None,
    overwrite: bool | None = None,
    preset: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """How good are the features of a frozen encoder?

    Args:
        init: encoder: a run folder, a Hugging Face folder, hf:ORG/NAME, demo:NAME, or a file of another library
        out: run folder to write; must be absent or empty
        init_channels: makes kernels of init= for images of other channels: mean (averaged), repeat (cycled) or zero
            (zero-filled) (default: refuse them)
        init_position: how the table of positions of init= is resized: bicubic, timm (bicubic with antialiasing) or jax
            (linear) (default: bicubic)
        data: labelled images: packed folder, shards or image folder, or a list of them (default: the embedded emoji-64)
        labels: table of labels, .csv or .tsv, for the images it names (default: the labels in the data)
        labels_file: its column with the path of the image, or its key (default: file, path, filename, image or key)
        labels_column: its column with the label (default: label or class)
        labels_kind: what its labels are: classes, multilabel or regression (auto: a;b is multilabel, 0.5 regression,
            else classes)
        split: split to report on; never what the heads learn from (auto: test, else val, else a part of train, held out
            by a hash)
        image_size: pixels: a side or [height,width] (auto: the encoder's size)
        layers: last, middle, quarters, all, or a list of numbers from 1 (auto: as the preset says)
        pool: mean, cls, both, or a list of them (auto: as the preset says)
        shots: also train on so many images per class, such as [1,5,10], at the layer that the linear probe chose by all
            labels: mean and standard deviation over five draws (default: [])
        attentive: also train a head that attends to all cells of the last layer (default: false)
        batch: images per forward pass (default: 256)
        baselines: also probe the encoder at random initialisation, and raw pixels at 8x8 (default: true)
        seed: random seed of the random initialisation and of the order of samples (default: 0)
        workers: loader processes (auto: one per CPU core but one, at most 8)
        devices: number of GPUs, or of CPU processes without a GPU, that share the images (auto: all GPUs, or one CPU
            process)
        overwrite: replace the run in out (default: false)
        preset: a choice of `conf/preset`: fast, mae, simmim (default: fast)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite probe --help` lists them.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("probe", locals())


def evaluate(
    *,
    init: str | Path,
    out: str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    labels: str | Path | None = None,
    labels_file: str | Path | None = None,
    labels_column: str | None = None,
    labels_kind: str | None = None,
    split: str | None = None,
    image_size: int | Sequence[int] | str | None = None,
    flip: bool | None = None,
    mistakes: int | None = None,
    batch: int | str | None = None,
    workers: int | str | None = None,
    devices: int | str | None = None,
    overwrite: bool | None = None,
    mask: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Metrics of a trained classifier or of a pretraining run on one split, with the details behind them.

    Args:
        init: a classifier, a probe or a masked image model: run folder, Hugging Face folder, hf:ORG/NAME or demo:NAME
        out: run folder to write; must be absent or empty
        data: images: packed folder, shards or image folder, or a list; with labels for a classifier (default: the
            embedded emoji-64)
        labels: table of labels, .csv or .tsv, for the images it names (default: the labels in the data)
        labels_file: its column with the path of the image, or its key (default: file, path, filename, image or key)
        labels_column: its column with the label (default: label or class)
        labels_kind: what its labels are: classes, multilabel or regression (auto: a;b is multilabel, 0.5 regression,
            else classes)
        split: split to evaluate (auto: test, else val, else a part of train, held out by a hash as in training)
        image_size: pixels: a side, [height,width], or several: [224,288,384], [[224,224],[288,288]] (auto: the size of
            the weights)
        flip: average the probabilities of each image and its mirror image; classifiers only (default: false)
        mistakes: number of images in the picture of the worst mistakes (0: no picture) (default: 24)
        batch: images per forward pass (auto: 64; for a pretraining run as in its validation)
        workers: loader processes (auto: one per CPU core but one, at most 8)
        devices: number of GPUs, or of CPU processes without a GPU, that share the images (auto: all GPUs, or one CPU
            process)
        overwrite: replace the run in out (default: false)
        mask: a choice of `conf/mask`: block, grid, inverse_block, multi_block, none, random (default: random)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite evaluate --help` lists them.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("evaluate", locals())


def predict(
    *,
    init: str | Path,
    out: str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    split: str | None = None,
    top: int | None = None,
    every_class: bool | None = None,
    image_size: int | Sequence[int] | str | None = None,
    flip: bool | None = None,
    batch: int | str | None = None,
    workers: int | str | None = None,
    overwrite: bool | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Writes what a classifier says of images without labels as a table: one row per image, with its key, its path, the
    class and the probability.

    Args:
        init: a classifier or a probe: run folder, Hugging Face folder or hf:ORG/NAME
        out: table to write: .csv or .parquet
        data: images: a folder, one image, packed folder or shards (default: the embedded emoji-64)
        split: which images: all, train, val, test, or auto (test, else val, else train) (default: all)
        top: number of classes named for each image, the most probable first (default: 1)
        every_class: also write the probability of every class (default: false)
        image_size: pixels: a side or [height,width] (auto: the size of the weights)
        flip: average the probabilities of each image and its mirror image (default: false)
        batch: images per forward pass (default: 64)
        workers: loader processes (auto: one per CPU core but one, at most 8)
        overwrite: replace an existing file in out (default: false)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite predict --help` lists them.

    Returns:
        Counts and places.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("predict", locals())


def embed(
    *,
    init: str | Path,
    out: str | Path,
    init_channels: str | None = None,
    init_position: str | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    split: str | None = None,
    layer: int | str | None = None,
    pool: str | Sequence[Any] | None = None,
    image_size: int | Sequence[int] | str | None = None,
    batch: int | str | None = None,
    workers: int | str | None = None,
    devices: int | str | None = None,
    map: str | Path | bool | None = None,
    overwrite: bool | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Writes the features of every image of a data set to a file, and a map of them as a PNG: each image at its first
    two principal components.

    Args:
        init: encoder: a run folder, a Hugging Face folder, hf:ORG/NAME, demo:NAME, or a file of another library
        out: file to write: .npz, .parquet or .csv
        init_channels: makes kernels of init= for images of other channels: mean (averaged), repeat (cycled) or zero
            (zero-filled) (default: refuse them)
        init_position: how the table of positions of init= is resized: bicubic, timm (bicubic with antialiasing) or jax
            (linear) (default: bicubic)
        data: packed folder, shards, image folder; or a list (default: the embedded emoji-64)
        split: which images (auto: test, else val, else train)
        layer: block or stage, counted from 1, or middle (auto: the last one, after the final norm)
        pool: mean (of the patch features), cls (class token), or both (one after the other) (default: mean)
        image_size: pixels: a side or [height,width] (auto: the encoder's size)
        batch: images per forward pass (default: 256)
        workers: loader processes (auto: one per CPU core but one, at most 8)
        devices: number of GPUs, or of CPU processes without a GPU, that share the images (auto: all GPUs, or one CPU
            process)
        map: file of the map, .png (auto: beside out; false: no map)
        overwrite: replace existing files in out and map (default: false)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite embed --help` lists them.

    Returns:
        Counts and places.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("embed", locals())


def export(
    *,
    init: str | Path,
    to: str,
    out: str | Path,
    part: str | None = None,
    image_size: int | Sequence[int] | str | None = None,
    picture: bool | None = None,
    push: str | None = None,
    overwrite: bool | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Writes a model in a format of other programs, loads it back, compares it with the original, and describes it in a
    model card.

    Args:
        init: model: a run folder, a Hugging Face folder, hf:ORG/NAME or demo:NAME
        to: format: hf (Hugging Face folder), timm, jax (.npz), keras, flax, onnx, pt2 (torch.export)
        out: folder to write; must be absent or empty
        part: encoder (alone) or all (with its head) (auto: all of a classifier, the encoder of anything else)
        image_size: pixels: a side or [height,width]; of an encoder with a size of its own the new one (auto: as it is)
        picture: show the run's last reconstructions, which are images of the data, in the model card (default: true)
        push: upload the folder to this repository of the Hugging Face hub, ORG/NAME (default: keep it here)
        overwrite: replace an export in out (default: false)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite export --help` lists them.

    Returns:
        Places, and the largest difference.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("export", locals())


def reconstruct(
    *,
    init: str | Path,
    out: str | Path,
    images: str | Path | None = None,
    count: int | None = None,
    seed: int | None = None,
    image_size: int | Sequence[int] | str | None = None,
    mode: str | None = None,
    channels_shown: str | Sequence[Any] | None = None,
    ratios: Sequence[float] | None = None,
    masks: str | Sequence[Any] | None = None,
    gif: bool | None = None,
    csv: str | Path | None = None,
    overwrite: bool | None = None,
    mask: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Picture of what a model predicts: original, masked input, prediction, prediction pasted into the hidden cells,
    error.

    Args:
        init: masked image model: a run folder, a Hugging Face folder, or demo:vit, demo:cvt, demo:bit; of a latent run
            the run folder
        out: picture to write (.png; with gif=true .gif)
        images: an image file, a folder of images, or a data set (default: the embedded emoji-64)
        count: images on the sheet; with gif=true rows of each picture (all if it is not given) (default: 8)
        seed: random seed of the masks (default: 0)
        image_size: pixels: a side or [height,width] (auto: the model's size)
        mode: how norm_pixels are shown: predicted_stats (auto), oracle_stats (uses hidden pixels) or raw (default:
            auto)
        channels_shown: channels shown as red, green, blue, by number or name, such as [3,1,0] or [B4,B3,B2], or pca
            (default: the first three; of two the first)
        ratios: mask ratios to compare side by side, such as [0.3,0.6,0.9] (default: one, mask.ratio)
        masks: masks to compare side by side, such as [random,block,inverse_block,grid]; with ratios every pair
            (default: one)
        gif: write an animation (.gif) of the pictures that the run in init wrote while it trained; its longer side has
            at most 1,200 pixels (default: false)
        csv: table to write (.csv): image, ratio, mask, masked_loss, psnr; of a latent run the cosine (default: none)
        overwrite: replace existing files in out and csv (default: false)
        mask: a choice of `conf/mask`: block, grid, inverse_block, multi_block, none, random (default: random)
        overrides: further keys, as `**{"group.key": value}`; `mimsuite reconstruct --help` lists them.

    Returns:
        Masked loss and PSNR.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("reconstruct", locals())
