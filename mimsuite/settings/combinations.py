"""Which encoder, objective, head, mask and target go together; a misfit is refused by name. Imports no torch."""

from __future__ import annotations

import math

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.instantiate import current_name
from mimsuite.errors import InputError
from mimsuite.masked.geometry import HOG_CELL, Pair, hidden_units, nearest_multiples
from mimsuite.models.load import SIMMIM_HEAD
from mimsuite.settings.read import is_int, is_number, read, read_choice, read_int
from mimsuite.types import EncoderConfig
from mimsuite.words import LOSSES, MASK_MODES, PENALTIES, TARGETS

MAE_HEAD = "mimsuite.heads.mae.MAEDecoder"
PREDICTOR, LATENT = "mimsuite.encoders.predictor_config.PredictorConfig", "mimsuite.objectives.latent.LatentObjective"
UNET_HEAD = "mimsuite.heads.unet.UNetDecoder"
NO_MASK = "mimsuite.masked.samplers.NoMask"
MULTI_BLOCK = "mimsuite.masked.multi_block.MultiBlockMask"
MAE_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
HEAD_KEYS: dict[str, tuple[str, ...]] = {
    SIMMIM_HEAD: (),
    MAE_HEAD: MAE_KEYS,
    PREDICTOR: MAE_KEYS,
    UNET_HEAD: ("hidden_size",),
}


def check_combination(cfg: DictConfig, config: EncoderConfig) -> None:
    """Checks everything but sizes.

    Args:
        cfg: the task's config; read are `objective`, `head`, `mask`.
        config: the model's config object.

    Raises:
        InputError: parts that do not go together; the message names some that do.
    """
    read_choice(cfg, "objective.loss", LOSSES)
    target = read_choice(cfg, "objective.target", TARGETS)
    check_penalties(cfg)
    check_fourier(cfg, "features of a teacher" if is_latent(cfg) else target)
    mask_mode = read_choice(cfg, "objective.mask_mode", MASK_MODES)
    head = str(read(cfg, "head._target_"))
    if mask_mode == "sparse" and config.sparse_obstacle is not None:
        raise InputError(config.sparse_obstacle)
    check_mask_layer(cfg, config, mask_mode)
    if is_latent(cfg) or head == PREDICTOR:
        check_latent(cfg, config, head, target, drops=mask_mode == "drop")
    elif mask_mode == "drop":
        check_dropping(config, head)
    elif head == MAE_HEAD:
        raise InputError(
            f"head {head} is for dropped patches, and objective.mask_mode={mask_mode} keeps them; use head=simmim, or "
            "objective=mae with objective.mask_mode=drop"
        )
    if head == UNET_HEAD:
        check_unet(config, target)
    check_head(cfg, head)
    mask = current_name(str(read(cfg, "mask._target_")))
    if mask == NO_MASK:
        raise InputError("mask=none hides nothing, so there is nothing to predict; use mask=random")
    if mask == MULTI_BLOCK and "ratio" in cfg.mask:  # mae, spark and some experiments bring one
        raise InputError(
            f"mask.ratio={read(cfg, 'mask.ratio')}: mask=multi_block has no ratio, but the objective or the experiment "
            "brings one; use ~mask.ratio, or mask=random"
        )
    if target == "hog":
        check_hog(cfg, config)


def is_latent(cfg: DictConfig) -> bool:
    """Whether the objective predicts the features of a teacher."""
    return current_name(str(read(cfg, "objective._target_"))) == LATENT


def check_latent(cfg: DictConfig, config: EncoderConfig, head: str, target: str, *, drops: bool) -> None:
    """Checks that a predictor of features and a latent objective go together, and that the encoder can drop patches.

    Raises:
        InputError: one without the other, an encoder that cannot, or HOG in place of the pixels beside features.
    """
    if head != PREDICTOR:
        raise InputError(f"head {head} predicts no features of a teacher (objective=latent); use head=predictor")
    if not is_latent(cfg):
        raise InputError("head=predictor predicts features of a teacher; use objective=latent, or head=simmim")
    if target == "hog":
        raise InputError(
            "objective.target=hog: objective=latent predicts features, and pixels beside them (objective.warm_start, "
            "objective.pixels); use objective.target=norm_pixels or pixels"
        )
    if drops and not config.can_drop:
        raise InputError(str(config.drop_obstacle))


def check_penalties(cfg: DictConfig) -> None:
    """Checks the weights of penalties on the features; a config of an older version has none.

    Raises:
        InputError: not a number from 0 on.
    """
    for name in PENALTIES:
        weight = OmegaConf.select(cfg, f"objective.{name}", default=0)
        if not is_number(weight) or not 0 <= float(weight) < math.inf:
            raise InputError(f"objective.{name}={weight} is not a weight; use 0 for none, or 0.01, say")


def check_fourier(cfg: DictConfig, target: str) -> None:
    """Checks the weight of the error of the spectrum, which needs pixels; a config of an older version has none.

    Args:
        cfg: read is `objective`.
        target: what is predicted, in words.

    Raises:
        InputError: not a number from 0 on, or a target without pixels.
    """
    weight = OmegaConf.select(cfg, "objective.fourier", default=0)
    if not is_number(weight) or not 0 <= float(weight) < math.inf:
        raise InputError(
            f"objective.fourier={weight} is not a weight; use objective.fourier=0.5 for a convnet, or "
            "objective.fourier=0.1 for a ViT"
        )
    if weight and target not in ("pixels", "norm_pixels"):
        raise InputError(
            f"objective.fourier={weight} is for predicted pixels, and here the target is {target}; use "
            "objective.target=pixels of objective=simmim, or objective.fourier=0"
        )


def check_mask_layer(cfg: DictConfig, config: EncoderConfig, mask_mode: str) -> None:
    """Checks the stage after which the mask token is added; a config of an older version has none.

    Raises:
        InputError: no such stage, an encoder without stages, or hidden cells that hold no token.
    """
    layer, allowed = OmegaConf.select(cfg, "objective.mask_layer"), config.mask_layers
    if layer is None:
        return
    if mask_mode != "replace":
        raise InputError(
            f"objective.mask_layer={layer} adds a mask token to hidden cells, and objective.mask_mode={mask_mode} has "
            "none; use objective.mask_mode=replace, or objective.mask_layer=null"
        )
    if not allowed:
        raise InputError(
            f"objective.mask_layer={layer} is for the stages of a CvT or BiT, and this is a {config.model_type}; use "
            "objective.mask_layer=null (added to a patch of the mean colour, a token is the same as in its place)"
        )
    if not is_int(layer) or layer not in allowed:
        raise InputError(
            f"objective.mask_layer={layer} is not a stage before the last, and this {config.model_type} has "
            f"{len(allowed) + 1}; use objective.mask_layer={allowed[-1]}"
        )


def check_unet(config: EncoderConfig, target: str) -> None:
    """Checks that an encoder has maps of several sizes for a U-Net, and that there are pixels to draw.

    Raises:
        InputError: it has not, or there are none.
    """
    if len(config.scales) < 2:
        raise InputError(
            f"head=unet looks at maps of several sizes, and a {config.model_type} has one; use head=simmim, "
            "model=cvt_13 or model=bit_50x1"
        )
    if config.sparse_obstacle is not None:
        raise InputError(config.sparse_obstacle)
    if target == "hog":
        raise InputError("head=unet draws pixels, and objective.target=hog has none; use head=simmim")


def check_compared(cfg: DictConfig, batch: int) -> None:
    """Refuses a penalty, which compares images, where a batch has one image.

    Raises:
        InputError: `batch` is 1, and a penalty is asked for.
    """
    asked = [name for name in PENALTIES if OmegaConf.select(cfg, f"objective.{name}", default=0)]
    if asked and batch < 2:
        raise InputError(
            f"objective.{asked[0]}={read(cfg, f'objective.{asked[0]}')} compares the images of a batch, and batch=1 "
            f"has one; use batch=2 or more, or objective.{asked[0]}=0"
        )


def check_dropping(config: EncoderConfig, head: str) -> None:
    """Checks that an encoder can drop hidden patches, and that the head can fill their places.

    Raises:
        InputError: it cannot.
    """
    if not config.can_drop:
        raise InputError(str(config.drop_obstacle))
    if head != MAE_HEAD:
        raise InputError(
            f"head {head} cannot fill the places of dropped patches (objective=mae); use head=dec8 or head=dec1"
        )


def check_head(cfg: DictConfig, head: str) -> None:
    """Checks that the head has the keys that are set, and that heads of attention divide the decoder's width.

    Args:
        cfg: read is `head`.
        head: its target; one of the user's own is not checked here.

    Raises:
        InputError: an unknown key, or a value of the wrong kind.
    """
    keys = HEAD_KEYS.get(head)
    if keys is None:
        return
    for key in (str(name) for name in cfg.head if not str(name).startswith("_")):
        if key not in keys:
            takes = ", ".join(keys) or "no keys"
            raise InputError(f"head.{key} is unknown; {head} takes {takes}; remove head.{key}")
    if head != MAE_HEAD:
        return
    width, _, heads, _ = (read_int(cfg, f"head.{key}") for key in keys)
    if width % heads or width % 4:
        fits = " or ".join(str(size) for size in nearest_multiples(width, math.lcm(heads, 4)))
        raise InputError(
            f"head.hidden_size={width} is not a multiple of 4 and of head.num_attention_heads={heads}; "
            f"use head.hidden_size={fits}"
        )


def check_hog(cfg: DictConfig, config: EncoderConfig) -> None:
    """Checks that the model's cells, and the mask's units where they are given, are whole cells of HOG."""
    stride = config.stride
    if any(side % HOG_CELL for side in stride):
        fix = f"model.{config.stride_field}=8" if config.stride_field else "a model with a larger stride"
        raise InputError(
            f"objective.target=hog has cells of {HOG_CELL} pixels, and the model's stride {stride[0]}x{stride[1]} is "
            f"not a multiple of them; use {fix}, or objective.target=pixels"
        )
    unit = read(cfg, "mask.unit")
    if is_int(unit) and unit % HOG_CELL:
        raise InputError(
            f"objective.target=hog has cells of {HOG_CELL} pixels, and mask.unit={unit} is not a multiple of them; "
            "use mask.unit=auto"
        )


def mask_cell(mask_stride: Pair, target: str) -> Pair:
    """`(h, w)` pixels that divide every mask unit: the encoder's finest cell, and HOG's where it is used."""
    step = HOG_CELL if target == "hog" else 1
    return math.lcm(mask_stride[0], step), math.lcm(mask_stride[1], step)


def hidden_range(cfg: DictConfig, units: int, drops: bool) -> tuple[int, int]:
    """How many of `units` a mask hides, at least and at most, by `mask.ratio`; 0 and 0 for a mask without a ratio.

    A number, or in `[low, high]` a range; where hidden patches are dropped a list is one of choices.

    Raises:
        InputError: a value that is not a share, or masks that leave nothing to see where patches are dropped.
    """
    if "ratio" not in cfg.mask:
        return 0, 0
    ratio = read(cfg, "mask.ratio")
    values = ratio if isinstance(ratio, list) else [ratio]
    if not values or not all(is_number(v) and 0 < v <= 1 for v in values):
        uses = "MAE uses mask.ratio=0.75" if drops else "SimMIM uses mask.ratio=0.6"
        raise InputError(f"mask.ratio={ratio} is not in (0, 1]; {uses}")
    if isinstance(ratio, list) and not drops and (len(values) != 2 or values[0] > values[1]):
        raise InputError(f"mask.ratio={ratio} is not a range; use low and high, such as mask.ratio=[0.4,0.8]")
    counts = [hidden_units(units, v) for v in values]
    if drops and max(counts) == units:
        most = math.floor((units - 1) / units * 1000) / 1000
        fix = f"mask.ratio={most:g} or less" if units > 1 else "mask.unit=auto, or a larger image_size"
        raise InputError(
            f"mask.ratio={ratio} hides all {units} units of an image, and objective=mae needs one to see; use {fix}"
        )
    return min(counts), max(counts)
