"""The functions that train. Written by `python tests/test_signatures.py` from `conf/`; change the YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimsuite.api.calls import call

if TYPE_CHECKING:
    from lightning import Callback
    from lightning.pytorch.loggers import Logger
    from torch.nn import Module

    from mimsuite.data.augment.crop import Transform
    from mimsuite.encoders.config import ModelConfig
    from mimsuite.masked.samplers import MaskSampler


def pretrain(
    *,
    out: str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    init: str | Path | None = None,
    init_channels: str | None = None,
    init_position: str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch: int | str | None = None,
    micro_batch: int | str | None = None,
    lr: float | str | None = None,
    image_size: int | Sequence[int] | str | None = None,
    channels: int | str | None = None,
    seed: int | None = None,
    workers: int | str | None = None,
    precision: str | None = None,
    devices: int | str | None = None,
    val_every: int | str | None = None,
    online_probe: bool | str | None = None,
    save_every: int | str | None = None,
    resume: bool | None = None,
    overwrite: bool | None = None,
    model: str | ModelConfig | Module | None = None,
    head: str | None = None,
    mask: str | MaskSampler | None = None,
    objective: str | None = None,
    augment: str | Transform | None = None,
    optim: str | None = None,
    schedule: str | None = None,
    logger: str | Logger | Sequence[str] | Sequence[Logger] | None = None,
    callbacks: str | Callback | Sequence[Callback] | None = None,
    experiment: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Masked image modeling: pretrains an encoder on images without labels.

    Args:
        out: run folder to write; must be absent or empty
        data: images: packed folder, shards (a folder, or train-{000..012}.tar) or image folder, or a list of them
            (default: the embedded emoji-64)
        init: weights to start from: a run folder, a Hugging Face folder, hf:ORG/NAME, demo:NAME, or a file of another
            library (default: random weights)
        init_channels: makes kernels of init= for images of other channels: mean (averaged), repeat (cycled) or zero
            (zero-filled) (default: refuse them)
        init_position: how the table of positions of init= is resized: bicubic, timm (bicubic with antialiasing) or jax
            (linear) (default: bicubic)
        steps: optimizer steps (default: a default, which is printed)
        epochs: passes over the training images; give this or steps
        batch: images per optimizer step, summed over all devices and micro-batches (auto: at most 256, a power of two
            on each device)
        micro_batch: images per forward pass on one device (auto: on a GPU what fits into its memory, else by the image
            size)
        lr: peak learning rate, used as given (auto: optim.base_lr x batch / optim.base_batch)
        image_size: pixels: a side or [height,width] (auto: the model's size, or less if the images are smaller)
        channels: image channels (auto: as many as the data has)
        seed: random seed of weights, order, crops and masks (default: 0)
        workers: loader processes (auto: one per CPU core but one, at most 8)
        precision: 32-true or bf16-mixed (auto: bf16-mixed where the device computes it fast, else 32-true)
        devices: number of GPUs, or of CPU processes without a GPU (auto: all GPUs, or one CPU process)
        val_every: optimizer steps between validations (auto: a tenth of the run)
        online_probe: also measure kNN, linear probe, RankMe and alpha-ReQ during the run: true, false (auto: where the
            loss selects nothing, as of objective=latent)
        save_every: optimizer steps between checkpoints (auto: as val_every, at most 500 steps or five minutes)
        resume: continue the run in out (default: false)
        overwrite: replace the run in out (default: false)
        model: a choice of `conf/model`: bit_101x1, bit_101x3, bit_152x2, bit_152x4, bit_50x1, bit_50x3, bit_nano,
            cvt_13, cvt_21, cvt_nano, cvt_w24, external, vit_base, vit_base_patch16_384, vit_base_patch32_224,
            vit_base_patch32_384, vit_huge, vit_large, vit_large_patch16_384, vit_large_patch32_224,
            vit_large_patch32_384, vit_nano, vit_small, vit_tiny (default: vit_tiny); or a config or a model of
            `mimsuite.models`
        head: a choice of `conf/head`: classifier, dec1, dec8, predictor, simmim, unet (default: simmim)
        mask: a choice of `conf/mask`: block, grid, inverse_block, multi_block, none, random (default: random); or a
            sampler of your own
        objective: a choice of `conf/objective`: classify, latent, mae, simmim, spark (default: simmim)
        augment: a choice of `conf/augment`: crop, none, supervised (default: crop); or an augmentation of your own
        optim: a choice of `conf/optim`: adamw, lamb, lars, sgd (default: adamw)
        schedule: a choice of `conf/schedule`: cosine, hyperrule, linear, milestones (default: cosine)
        logger: a choice of `conf/logger`: default, mlflow, none, tensorboard, wandb (default: default); or Lightning
            loggers instead
        callbacks: a choice of `conf/callbacks`: finetune, pretrain (default: pretrain); or Lightning callbacks, in
            addition
        experiment: a choice of `conf/experiment`: data2vec2_vit_base, emoji_nano, finetune_bit_hyperrule,
            finetune_mae_vit_base, finetune_mae_vit_large, finetune_simmim_vit_base, finetune_small, finetune_vit,
            ijepa_vit_base, mae_vit_base_800ep, mae_vit_large_800ep, maskfeat_vit_base, scratch, scratch_cvt_13,
            scratch_vit_large, simmim_bit_50x1, simmim_cvt_13, simmim_vit_base_800ep, simmim_vit_tiny_32,
            simmim_vit_tiny_96, small_conv, small_data
        overrides: further keys, as `**{"group.key": value}`; `mimsuite pretrain --help` lists them.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("pretrain", locals())


def finetune(
    *,
    out: str | Path,
    data: str | Path | Sequence[str | Path] | None = None,
    labels: str | Path | None = None,
    labels_file: str | Path | None = None,
    labels_column: str | None = None,
    labels_kind: str | None = None,
    init: str | Path | None = None,
    init_channels: str | None = None,
    init_position: str | None = None,
    label_fraction: float | None = None,
    class_weights: str | Sequence[float] | None = None,
    layer_decay: float | str | None = None,
    drop_path: float | None = None,
    freeze: int | str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch: int | str | None = None,
    micro_batch: int | str | None = None,
    lr: float | str | None = None,
    image_size: int | Sequence[int] | str | None = None,
    channels: int | str | None = None,
    seed: int | None = None,
    workers: int | str | None = None,
    precision: str | None = None,
    devices: int | str | None = None,
    val_every: int | str | None = None,
    save_every: int | str | None = None,
    resume: bool | None = None,
    overwrite: bool | None = None,
    model: str | ModelConfig | Module | None = None,
    head: str | None = None,
    objective: str | None = None,
    augment: str | Transform | None = None,
    optim: str | None = None,
    schedule: str | None = None,
    logger: str | Logger | Sequence[str] | Sequence[Logger] | None = None,
    callbacks: str | Callback | Sequence[Callback] | None = None,
    experiment: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Supervised fine-tuning of a pretrained encoder; without init= training from scratch.

    Args:
        out: run folder to write; must be absent or empty
        data: labelled images: packed folder, shards (a folder, or train-{000..012}.tar) or image folder, or a list of
            them (default: the embedded emoji-64)
        labels: table of labels, .csv or .tsv, for the images it names (default: the labels in the data)
        labels_file: its column with the path of the image, or its key (default: file, path, filename, image or key)
        labels_column: its column with the label (default: label or class)
        labels_kind: what its labels are: classes, multilabel or regression (auto: a;b is multilabel, 0.5 regression,
            else classes)
        init: weights to start from: a run folder, a Hugging Face folder, hf:ORG/NAME, demo:NAME, or a file of another
            library (default: random weights)
        init_channels: makes kernels of init= for images of other channels: mean (averaged), repeat (cycled) or zero
            (zero-filled) (default: refuse them)
        init_position: how the table of positions of init= is resized: bicubic, timm (bicubic with antialiasing) or jax
            (linear) (default: bicubic)
        label_fraction: share of the training labels to use: the same share of each class, chosen by seed (default: 1.0)
        class_weights: weight of each class in the loss: a list, or balanced (default: 1 for all)
        layer_decay: learning rate of a block as a multiple of the next block's (auto: 0.75 with init=, else 1)
        drop_path: drop path (stochastic depth) at the last block, rising linearly to it (default: the model's rate)
        freeze: number of first blocks to freeze, with the embeddings (0: embeddings only; all: whole encoder; null:
            nothing)
        steps: optimizer steps (default: a default, which is printed)
        epochs: passes over the training images; give this or steps
        batch: images per optimizer step, summed over all devices and micro-batches (auto: at most 256, a power of two
            on each device)
        micro_batch: images per forward pass on one device (auto: on a GPU what fits into its memory, else by the image
            size)
        lr: peak learning rate, used as given (auto: optim.base_lr x batch / optim.base_batch)
        image_size: pixels: a side or [height,width] (auto: that of the weights or the model; less if the images are
            smaller)
        channels: image channels (auto: as many as the data has)
        seed: random seed of the choice of labels, weights, order, crops and mixing (default: 0)
        workers: loader processes (auto: one per CPU core but one, at most 8)
        precision: 32-true or bf16-mixed (auto: bf16-mixed where the device computes it fast, else 32-true)
        devices: number of GPUs, or of CPU processes without a GPU (auto: all GPUs, or one CPU process)
        val_every: optimizer steps between validations (auto: a tenth of the run)
        save_every: optimizer steps between checkpoints (auto: as val_every, at most 500 steps or five minutes)
        resume: continue the run in out (default: false)
        overwrite: replace the run in out (default: false)
        model: a choice of `conf/model`: bit_101x1, bit_101x3, bit_152x2, bit_152x4, bit_50x1, bit_50x3, bit_nano,
            cvt_13, cvt_21, cvt_nano, cvt_w24, external, vit_base, vit_base_patch16_384, vit_base_patch32_224,
            vit_base_patch32_384, vit_huge, vit_large, vit_large_patch16_384, vit_large_patch32_224,
            vit_large_patch32_384, vit_nano, vit_small, vit_tiny (default: vit_tiny); or a config or a model of
            `mimsuite.models`
        head: a choice of `conf/head`: classifier, dec1, dec8, predictor, simmim, unet (default: classifier)
        objective: a choice of `conf/objective`: classify, latent, mae, simmim, spark (default: classify)
        augment: a choice of `conf/augment`: crop, none, supervised (default: supervised); or an augmentation of your
            own
        optim: a choice of `conf/optim`: adamw, lamb, lars, sgd (default: adamw)
        schedule: a choice of `conf/schedule`: cosine, hyperrule, linear, milestones (default: cosine)
        logger: a choice of `conf/logger`: default, mlflow, none, tensorboard, wandb (default: default); or Lightning
            loggers instead
        callbacks: a choice of `conf/callbacks`: finetune, pretrain (default: finetune); or Lightning callbacks, in
            addition
        experiment: a choice of `conf/experiment`: data2vec2_vit_base, emoji_nano, finetune_bit_hyperrule,
            finetune_mae_vit_base, finetune_mae_vit_large, finetune_simmim_vit_base, finetune_small, finetune_vit,
            ijepa_vit_base, mae_vit_base_800ep, mae_vit_large_800ep, maskfeat_vit_base, scratch, scratch_cvt_13,
            scratch_vit_large, simmim_bit_50x1, simmim_cvt_13, simmim_vit_base_800ep, simmim_vit_tiny_32,
            simmim_vit_tiny_96, small_conv, small_data
        overrides: further keys, as `**{"group.key": value}`; `mimsuite finetune --help` lists them.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("finetune", locals())


def bench(
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    init: str | Path | None = None,
    init_channels: str | None = None,
    init_position: str | None = None,
    out: str | Path | None = None,
    seconds: float | None = None,
    batch: int | str | None = None,
    micro_batch: int | str | None = None,
    image_size: int | Sequence[int] | str | None = None,
    channels: int | str | None = None,
    seed: int | None = None,
    workers: int | str | None = None,
    precision: str | None = None,
    devices: int | str | None = None,
    model: str | ModelConfig | Module | None = None,
    head: str | None = None,
    mask: str | MaskSampler | None = None,
    objective: str | None = None,
    augment: str | Transform | None = None,
    optim: str | None = None,
    schedule: str | None = None,
    experiment: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Measures the steps of `mimsuite pretrain` with the same keys on this machine: speed, MFU, waiting for data,
    memory, largest micro_batch.

    Args:
        data: images: packed folder, shards (a folder, or train-{000..012}.tar) or image folder, or a list of them
            (default: the embedded emoji-64)
        init: weights to start from: a run folder, a Hugging Face folder, hf:ORG/NAME, demo:NAME, or a file of another
            library (default: random weights)
        init_channels: makes kernels of init= for images of other channels: mean (averaged), repeat (cycled) or zero
            (zero-filled) (default: refuse them)
        init_position: how the table of positions of init= is resized: bicubic, timm (bicubic with antialiasing) or jax
            (linear) (default: bicubic)
        out: a .json file for what is printed (default: none); an existing file is replaced
        seconds: how long steps are timed, after the first two (default: 12)
        batch: images per optimizer step, summed over all devices and micro-batches (auto: at most 256, a power of two
            on each device)
        micro_batch: images per forward pass on one device (auto: on a GPU what fits into its memory, else by the image
            size)
        image_size: pixels: a side or [height,width] (auto: the model's size, or less if the images are smaller)
        channels: image channels (auto: as many as the data has)
        seed: random seed of weights, order, crops and masks (default: 0)
        workers: loader processes (auto: one per CPU core but one, at most 8)
        precision: 32-true or bf16-mixed (auto: bf16-mixed where the device computes it fast, else 32-true)
        devices: number of GPUs that share the batch; one of them is measured, with its part (auto: all GPUs, or one CPU
            process)
        model: a choice of `conf/model`: bit_101x1, bit_101x3, bit_152x2, bit_152x4, bit_50x1, bit_50x3, bit_nano,
            cvt_13, cvt_21, cvt_nano, cvt_w24, external, vit_base, vit_base_patch16_384, vit_base_patch32_224,
            vit_base_patch32_384, vit_huge, vit_large, vit_large_patch16_384, vit_large_patch32_224,
            vit_large_patch32_384, vit_nano, vit_small, vit_tiny (default: vit_tiny); or a config or a model of
            `mimsuite.models`
        head: a choice of `conf/head`: classifier, dec1, dec8, predictor, simmim, unet (default: simmim)
        mask: a choice of `conf/mask`: block, grid, inverse_block, multi_block, none, random (default: random); or a
            sampler of your own
        objective: a choice of `conf/objective`: classify, latent, mae, simmim, spark (default: simmim)
        augment: a choice of `conf/augment`: crop, none, supervised (default: crop); or an augmentation of your own
        optim: a choice of `conf/optim`: adamw, lamb, lars, sgd (default: adamw)
        schedule: a choice of `conf/schedule`: cosine, hyperrule, linear, milestones (default: cosine)
        experiment: a choice of `conf/experiment`: data2vec2_vit_base, emoji_nano, finetune_bit_hyperrule,
            finetune_mae_vit_base, finetune_mae_vit_large, finetune_simmim_vit_base, finetune_small, finetune_vit,
            ijepa_vit_base, mae_vit_base_800ep, mae_vit_large_800ep, maskfeat_vit_base, scratch, scratch_cvt_13,
            scratch_vit_large, simmim_bit_50x1, simmim_cvt_13, simmim_vit_base_800ep, simmim_vit_tiny_32,
            simmim_vit_tiny_96, small_conv, small_data
        overrides: further keys, as `**{"group.key": value}`; `mimsuite bench --help` lists them.

    Returns:
        What it prints, speeds per device.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("bench", locals())


def plan(
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    init: str | Path | None = None,
    init_channels: str | None = None,
    init_position: str | None = None,
    out: str | Path | None = None,
    hours: float | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch: int | str | None = None,
    micro_batch: int | str | None = None,
    lr: float | str | None = None,
    image_size: int | Sequence[int] | str | None = None,
    channels: int | str | None = None,
    seed: int | None = None,
    workers: int | str | None = None,
    precision: str | None = None,
    devices: int | str | None = None,
    val_every: int | str | None = None,
    online_probe: bool | str | None = None,
    save_every: int | str | None = None,
    overwrite: bool | None = None,
    model: str | None = None,
    head: str | None = None,
    mask: str | None = None,
    objective: str | None = None,
    augment: str | None = None,
    optim: str | None = None,
    schedule: str | None = None,
    logger: str | None = None,
    callbacks: str | None = None,
    experiment: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """What to run on some data: looks at it, times a few steps here, and prints a recipe with its reasons, hours,
    memory and command.

    Args:
        data: images: packed folder, shards (a folder, or train-{000..012}.tar) or image folder, or a list of them
            (default: the embedded emoji-64)
        init: weights to start from: a run folder, a Hugging Face folder, hf:ORG/NAME, demo:NAME, or a file of another
            library (default: random weights)
        init_channels: makes kernels of init= for images of other channels: mean (averaged), repeat (cycled) or zero
            (zero-filled) (default: refuse them)
        init_position: how the table of positions of init= is resized: bicubic, timm (bicubic with antialiasing) or jax
            (linear) (default: bicubic)
        out: a .json file for what is printed (default: none)
        hours: hours that the run may take on this machine: decides model and epochs (default: by the data alone)
        steps: optimizer steps (default: a default, which is printed)
        epochs: passes over the training images; give this or steps
        batch: images per optimizer step, summed over all devices and micro-batches (auto: at most 256, a power of two
            on each device)
        micro_batch: images per forward pass on one device (auto: on a GPU what fits into its memory, else by the image
            size)
        lr: peak learning rate, used as given (auto: optim.base_lr x batch / optim.base_batch)
        image_size: pixels: a side or [height,width] (auto: the model's size, or less if the images are smaller)
        channels: image channels (auto: as many as the data has)
        seed: random seed of weights, order, crops and masks (default: 0)
        workers: loader processes (auto: one per CPU core but one, at most 8)
        precision: 32-true or bf16-mixed (auto: bf16-mixed where the device computes it fast, else 32-true)
        devices: number of GPUs, or of CPU processes without a GPU (auto: all GPUs, or one CPU process)
        val_every: optimizer steps between validations (auto: a tenth of the run)
        online_probe: also measure kNN, linear probe, RankMe and alpha-ReQ during the run: true, false (auto: where the
            loss selects nothing, as of objective=latent)
        save_every: optimizer steps between checkpoints (auto: as val_every, at most 500 steps or five minutes)
        overwrite: replace the file in out (default: false)
        model: a choice of `conf/model`: bit_101x1, bit_101x3, bit_152x2, bit_152x4, bit_50x1, bit_50x3, bit_nano,
            cvt_13, cvt_21, cvt_nano, cvt_w24, external, vit_base, vit_base_patch16_384, vit_base_patch32_224,
            vit_base_patch32_384, vit_huge, vit_large, vit_large_patch16_384, vit_large_patch32_224,
            vit_large_patch32_384, vit_nano, vit_small, vit_tiny (default: vit_tiny)
        head: a choice of `conf/head`: classifier, dec1, dec8, predictor, simmim, unet (default: simmim)
        mask: a choice of `conf/mask`: block, grid, inverse_block, multi_block, none, random (default: random)
        objective: a choice of `conf/objective`: classify, latent, mae, simmim, spark (default: simmim)
        augment: a choice of `conf/augment`: crop, none, supervised (default: crop)
        optim: a choice of `conf/optim`: adamw, lamb, lars, sgd (default: adamw)
        schedule: a choice of `conf/schedule`: cosine, hyperrule, linear, milestones (default: cosine)
        logger: a choice of `conf/logger`: default, mlflow, none, tensorboard, wandb (default: default)
        callbacks: a choice of `conf/callbacks`: finetune, pretrain (default: pretrain)
        experiment: a choice of `conf/experiment`: data2vec2_vit_base, emoji_nano, finetune_bit_hyperrule,
            finetune_mae_vit_base, finetune_mae_vit_large, finetune_simmim_vit_base, finetune_small, finetune_vit,
            ijepa_vit_base, mae_vit_base_800ep, mae_vit_large_800ep, maskfeat_vit_base, scratch, scratch_cvt_13,
            scratch_vit_large, simmim_bit_50x1, simmim_cvt_13, simmim_vit_base_800ep, simmim_vit_tiny_32,
            simmim_vit_tiny_96, small_conv, small_data
        overrides: further keys, as `**{"group.key": value}`; `mimsuite plan --help` lists them.

    Returns:
        What it prints, with the command as `command` and its keys as `overrides`.

    Raises:
        InputError: a key or value that the task does not take, or bad input.
    """
    return call("plan", locals())
