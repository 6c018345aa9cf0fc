"""Turns a checked config into the objects of a run."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mimsuite.errors import InputError
from mimsuite.init_weights import Weights
from mimsuite.instantiate import instantiate
from mimsuite.settings import Budget, Geometry

if TYPE_CHECKING:
    from lightning import Trainer
    from torch import nn

    from mimsuite.callbacks.checkpoints import Checkpoints
    from mimsuite.data.datamodule import ImageData
    from mimsuite.data.index import DataIndex
    from mimsuite.loggers import FileLogger, WandbLogger
    from mimsuite.models.tasks import ForMaskedImageModeling
    from mimsuite.normalize import Normalize
    from mimsuite.objectives.mim import MIMObjective
    from mimsuite.run import RunFolder
    from mimsuite.weights.huggingface import Pretrained

log = logging.getLogger("mimsuite")

IMAGES_PER_GIB = 4  # of 224 x 224 pixels, for a ViT-Base in bfloat16 on a GPU
IMAGES_ON_CPU = 64


@dataclasses.dataclass(frozen=True)
class Device:
    """What a run computes on: Lightning's accelerator (`cpu`, `gpu`, `mps`) and a name for people."""

    accelerator: str
    name: str
    memory_gib: float
    fast_bf16: bool


def device(accelerator: str) -> Device:
    """The device that `trainer.accelerator` means here."""
    import torch

    if accelerator not in ("auto", "cpu", "gpu", "cuda", "mps"):
        raise InputError(f"trainer.accelerator={accelerator} is unknown; it takes auto, cpu, gpu, mps")
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        return Device(
            "gpu",
            facts.name,
            facts.total_memory / 2**30,
            torch.cuda.is_bf16_supported(including_emulation=False),
        )
    if accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return Device("mps", "Apple GPU", 8.0, False)
    if accelerator not in ("auto", "cpu"):
        raise InputError(f"trainer.accelerator={accelerator}, but this machine has none; use trainer.accelerator=cpu")
    amx = torch.backends.cpu.get_cpu_capability() == "AMX" or torch.cpu._is_amx_tile_supported()
    return Device("cpu", f"CPU, {torch.get_num_threads()} threads{', AMX' if amx else ''}", 0.0, amx)


def torch_device() -> str:
    """The name by which torch knows the device that `auto` means here."""
    return {"gpu": "cuda"}.get(found := device("auto").accelerator, found)


def precision(asked: str, on: Device) -> tuple[str, str]:
    """Lightning's name of the precision and the reason for it."""
    if asked != "auto":
        return asked, "as asked"
    if on.fast_bf16:
        return "bf16-mixed", f"{on.name} is fast at bfloat16"
    return "32-true", f"{on.name} is not fast at bfloat16"


def micro_limit(on: Device, image_size: tuple[int, int]) -> int:
    """The most images that `micro_batch=auto` puts through at once: by memory, for a ViT-Base."""
    images = IMAGES_ON_CPU if on.accelerator == "cpu" else on.memory_gib * IMAGES_PER_GIB
    return max(1, int(images * 224 * 224 / (image_size[0] * image_size[1])))


def auto_workers() -> int:
    """Loader processes: one per core that this process may use but one, at most 8."""
    return max(
        1,
        min(
            8,
            len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2) - 1,
        ),
    )


def model_config(
    cfg: DictConfig,
    weights: Weights | None,
    overrides: Sequence[str],
    trusted: Sequence[str],
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Any:
    """The model's config object; needs no torch.

    It comes from the weights, unless there are none or the command line names a model.

    Args:
        image_size: `(H, W)` of this run; None for the model's own.
        channels: of the data; None for the model's own.

    Raises:
        InputError: a field of the wrong value, or one that the model does not have; weights for other channels.
    """
    named = any(o.lstrip("+").startswith(("model=", "model.")) for o in overrides)
    if weights is not None and not named:
        config = config_of(weights)
        if channels not in (None, config.num_channels):
            raise InputError(
                f"init={weights.init} takes {config.num_channels} channels but the images have {channels}; "
                "use other weights or other data"
            )
        if image_size is not None and hasattr(config, "image_size"):
            config.image_size = side(image_size)
        return config
    sizes: dict[str, Any] = {}
    if image_size is not None and "image_size" in cfg.model:
        sizes["image_size"] = side(image_size)
    if channels is not None:
        sizes["num_channels"] = channels
    return instantiate(cfg.model, trusted, **sizes)


def side(size: tuple[int, int]) -> int | list[int]:
    """A size as Hugging Face's configs have it: one number for a square."""
    return size[0] if size[0] == size[1] else list(size)


def config_of(weights: Weights) -> Any:
    """The config object of weights, at their own image size; needs no torch."""
    from mimsuite.models import AutoConfig

    return AutoConfig.from_dict(weights.config)


def masked_model(
    config: Any, weights: Weights | None, head: DictConfig, trusted: Sequence[str]
) -> ForMaskedImageModeling:
    """A masked image model: fresh, or with the encoder (and the decoder, if there is one) of `init=`."""
    from mimsuite.models import AutoModelForMaskedImageModeling

    make_head = instantiate(head, trusted)
    if weights is None:
        fresh: ForMaskedImageModeling = AutoModelForMaskedImageModeling.from_config(config, head=make_head)
        return fresh
    model: ForMaskedImageModeling = AutoModelForMaskedImageModeling.from_config(
        at_native_size(config, weights), head=make_head
    )
    fill(model, weights)
    if hasattr(config, "image_size"):
        model.encoder.set_image_size(config.image_size)
    return model


def at_native_size(config: Any, weights: Weights) -> Any:
    """A copy of the config at the image size of the weights."""
    native = copy.copy(config)
    if hasattr(native, "image_size"):
        native.image_size = weights.config["image_size"]
    return native


def fill(model: Pretrained, weights: Weights) -> None:
    """Copies weights into a model; what is fresh or left over is said in one log line.

    Raises:
        InputError: weights of another model.
    """
    from mimsuite.weights.huggingface import load_state

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_state(model, weights.state(), weights.init)
    for warning in caught:
        log.info("weights   %s", warning.message)


def load_model(weights: Weights) -> Pretrained:
    """The model that a folder names in `architectures`, or the masked image model of a checkpoint."""
    from mimsuite import models

    config = config_of(weights)
    name = (weights.config.get("architectures") or [""])[0]
    known = name in models.__all__ and name.startswith(type(config).__name__.removesuffix("Config"))
    if known or weights.checkpoint is None:
        maker = getattr(models, name) if known else models.AutoModel
        model = maker(config) if known else maker.from_config(config)
    else:
        model = models.AutoModelForMaskedImageModeling.from_config(config)
    fill(model, weights)
    loaded: Pretrained = model
    return loaded


def trained_model(weights: Weights, config: Any, image_size: tuple[int, int]) -> ForMaskedImageModeling:
    """A trained masked image model, in evaluation mode, at `image_size = (H, W)` pixels.

    Raises:
        InputError: weights without a decoder.
    """
    from mimsuite.models import AutoModelForMaskedImageModeling

    if not any(name.startswith("decoder.") for name in weights.state()):
        raise InputError(f"init={weights.init} has no decoder, so it predicts no pixels; use a pretraining run")
    model: ForMaskedImageModeling = AutoModelForMaskedImageModeling.from_config(copy.copy(config))
    fill(model, weights)
    model.encoder.set_image_size(image_size)
    model.eval()
    return model


def encoder(weights: Weights | None, config: Any, image_size: tuple[int, int]) -> nn.Module:
    """A frozen encoder by the contract of `mimsuite.types`, with the weights, or at random initialisation for None.

    Args:
        config: the config of the weights, at their own image size.
        image_size: `(H, W)` pixels to encode at.
    """
    from mimsuite.models import AutoModelForMaskedImageModeling

    model = AutoModelForMaskedImageModeling.from_config(copy.copy(config))
    if weights is not None:
        fill(model, weights)
    model.encoder.set_image_size(image_size)
    found: nn.Module = model.encoder.requires_grad_(False).eval()
    return found


def normalizer(index: DataIndex, weights: Weights | None) -> Normalize:
    """Normalisation by the statistics of the weights, where they are written down, else of the data."""
    from mimsuite.normalize import Normalize

    mean, std = (weights and weights.statistics) or (index.mean, index.std)
    return Normalize(mean, std, 65535 if index.dtype == "uint16" else 255)


def normalizer_of(weights: Weights) -> Normalize:
    """Normalisation as the weights were trained with; 0.5 and 0.5 where nothing says more, as Hugging Face's ViT."""
    from mimsuite.normalize import Normalize

    half = (0.5,) * int(weights.config.get("num_channels", 3))
    mean, std = weights.statistics or (half, half)
    return Normalize(mean, std, round(1 / weights.preprocessor.get("rescale_factor", 1 / 255)))


def save_weights(folder: Path, model: nn.Module, normalize: Normalize, image_size: tuple[int, int]) -> None:
    """Writes a Hugging Face folder: `config.json`, `model.safetensors`, `preprocessor_config.json`."""
    model.save_pretrained(folder)  # type: ignore[operator]
    preprocessor(normalize, image_size).save_pretrained(folder)


def preprocessor(normalize: Normalize, image_size: tuple[int, int]) -> Any:
    """The image processor that prepares images as training did."""
    from mimsuite.models import ViTImageProcessor

    return ViTImageProcessor(
        size={"height": image_size[0], "width": image_size[1]},
        resample=3,
        rescale_factor=1 / normalize.maximum,
        image_mean=normalize.mean.flatten().tolist(),
        image_std=normalize.std.flatten().tolist(),
    )


def mim_objective(
    cfg: DictConfig,
    model: ForMaskedImageModeling,
    normalize: Normalize,
    geo: Geometry,
    pace: Budget,
    trusted: Sequence[str],
) -> MIMObjective:
    """The Lightning module of a pretraining run, with its optimizer and schedule to be."""
    from mimsuite.objectives.optim import param_groups

    fields = {k: v for k, v in cfg.optim.items() if k not in ("base_lr", "base_batch", "weight_decay")}
    decay_mask_token = model.config.model_type == "vit"  # as SimMIM's code does; its Swin spares the token
    groups = param_groups(model, weight_decay=cfg.optim.weight_decay, decay_mask_token=decay_mask_token)
    optimizer = instantiate(OmegaConf.create(fields), trusted, lr=pace.lr)
    schedule = instantiate(cfg.schedule, trusted, steps=pace.steps, warmup=pace.warmup)
    try:
        optimizer(groups)  # a bad value speaks now, in one line, and not from inside the trainer
    except ValueError as error:
        raise InputError(f"{cfg.optim._target_}: {error}") from error
    objective: MIMObjective = instantiate(
        cfg.objective,
        trusted,
        model=model,
        normalize=normalize,
        optimizer=optimizer,
        groups=groups,
        schedule=schedule,
        clip=cfg.trainer.clip,
        seed=cfg.seed,
        hidden_per_image=math.ceil(geo.units * cfg.mask.ratio),
        about={
            "config": model.config.to_dict(),
            "preprocessor": preprocessor(normalize, geo.image_size).to_dict(),
        },
    )
    return objective


def image_data(
    cfg: DictConfig,
    index: DataIndex,
    geo: Geometry,
    pace: Budget,
    micro: int,
    workers: int,
    trusted: Sequence[str],
) -> ImageData:
    """The loaders of a pretraining run."""
    from mimsuite.data.datamodule import ImageData

    mask = OmegaConf.create({k: v for k, v in cfg.mask.items() if k != "unit"})
    return ImageData(
        index,
        image_size=geo.image_size,
        mask_unit=geo.mask_unit,
        train_transform=instantiate(cfg.augment, trusted, size=list(geo.image_size)),
        mask=instantiate(mask, trusted),
        batch=pace.batch,
        micro_batch=micro,
        steps=pace.steps,
        seed=cfg.seed,
        workers=workers,
        lanes=cfg.loader.lanes,
        window=cfg.loader.window,
        val_limit=cfg.loader.val_limit,
    )


def started() -> float | None:
    """When the command was given that this process runs, or None where Python called."""
    return float(os.environ["MIMSUITE_STARTED"]) if "MIMSUITE_STARTED" in os.environ else None


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run asks for its results after training."""

    files: FileLogger
    wandb: WandbLogger | None
    checkpoints: Checkpoints


def trainer(
    cfg: DictConfig,
    folder: RunFolder,
    index: DataIndex,
    pace: Budget,
    micro: int,
    precision: str,
    on: Device,
    step: int,
    imports: float,
    trusted: Sequence[str],
) -> tuple[Trainer, Parts]:
    """Lightning's Trainer with our loggers, callbacks and checkpoints.

    Args:
        step: optimizer steps done before, for a resumed run.
        imports: seconds that importing torch, lightning and wandb took.
    """
    from mimsuite.callbacks.checkpoints import Checkpoints
    from mimsuite.checkpoint import CommittedCheckpointIO
    from mimsuite.loggers import FileLogger

    files = FileLogger(folder.path, step)
    run_config = OmegaConf.to_container(cfg, resolve=True)
    named = {
        name: instantiate(node, trusted, folder=folder.path, run_config=run_config) for name, node in cfg.logger.items()
    }
    checkpoints = Checkpoints(folder.path / "checkpoints", pace.save_every)
    filled: dict[str, dict[str, Any]] = {
        "monitor": {"batch": pace.batch, "started": started(), "imports": imports},
        "reconstructions": {"folder": folder.path / "pictures"},
        "bad_samples": {"folder": folder.path, "samples": index.num_samples(index.select("train"))},
    }
    callbacks = [instantiate(node, trusted, **filled.get(str(name), {})) for name, node in cfg.callbacks.items()]
    accumulate = pace.batch // micro
    built: Trainer = instantiate(
        OmegaConf.create({k: v for k, v in cfg.trainer.items() if k != "clip"}),
        trusted,
        accelerator=on.accelerator,
        devices=1,
        precision=precision,
        max_steps=pace.steps,
        accumulate_grad_batches=accumulate,
        val_check_interval=pace.val_every * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=-1,
        logger=[files, *named.values()],
        callbacks=[*callbacks, checkpoints],
        plugins=[CommittedCheckpointIO()],
        default_root_dir=str(folder.path),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )
    return built, Parts(files, named.get("wandb"), checkpoints)
