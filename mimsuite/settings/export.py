"""What `mimsuite export` writes: the values of `conf/export.yaml`, read once and checked. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from mimsuite.errors import InputError
from mimsuite.models.exporting.targets import CARD, CARD_TAG, check_target, written_names
from mimsuite.models.load import config_of
from mimsuite.settings.images import read_image_size
from mimsuite.settings.outputs import check_apart, check_folder, held_names
from mimsuite.settings.read import read, read_choice, read_flag, read_text
from mimsuite.settings.trained import CLASSIFIER, MASKED
from mimsuite.types import EncoderConfig
from mimsuite.weights.init import Weights, find_weights
from mimsuite.words import EXPORT_PARTS, EXPORT_TARGETS

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class ExportSettings:
    """What is written, decided and checked.

    Attributes:
        weights: the model's.
        config: the same as an object.
        target: the format, one of `words.EXPORT_TARGETS`.
        part: `encoder`, or `all` with the head.
        image_size: `(H, W)` pixels; of a graph without free size those that it takes.
        out: the folder to write.
        picture: whether the card shows the run's reconstructions.
        push: a repository of the Hugging Face hub, or None.
        overwrite: whether what is in `out` is replaced.
    """

    weights: Weights
    config: EncoderConfig
    target: str
    part: str
    image_size: tuple[int, int]
    out: Path
    picture: bool
    push: str | None
    overwrite: bool

    @property
    def run(self) -> Path | None:
        """The folder of the run that trained the weights, or None."""
        folder = Path(self.weights.init)
        return folder if (folder / "config.yaml").is_file() else None


def read_export(cfg: DictConfig) -> ExportSettings:
    """Reads and checks every key.

    Raises:
        InputError: a value that the task, the format or the model does not take; a library that is missing.
    """
    overwrite, picture = read_flag(cfg, "overwrite"), read_flag(cfg, "picture")
    target, push = read_choice(cfg, "to", EXPORT_TARGETS), read_push(cfg)
    init, out = str(read(cfg, "init")), str(read(cfg, "out"))
    weights = find_weights(init)
    config = config_of(weights)
    name = str((weights.config.get("architectures") or [""])[0])
    part = read_part(cfg, weights, config, name)
    check_target(target, config, part, is_classifier=name.endswith(CLASSIFIER))
    image_size = read_image_size(read(cfg, "image_size"), weights.image_size)
    check_size(config, image_size)
    check_apart(init, out)
    folder = check_folder(out, written_names(), overwrite=overwrite)
    check_export(folder)
    return ExportSettings(weights, config, target, part, image_size, folder, picture, push, overwrite)


def read_part(cfg: DictConfig, weights: Weights, config: EncoderConfig, name: str) -> str:
    """The part of the model: that which is asked for, else all of a classifier, and the encoder of anything else.

    Args:
        cfg: the config.
        weights: the model's.
        config: the same as an object.
        name: of their class.

    Raises:
        InputError: a word that is not a part, or a head that the weights do not have, or that predicts features.
    """
    part = read_choice(cfg, "part", ("auto", *EXPORT_PARTS))
    if part == "auto":
        return "all" if name.endswith(CLASSIFIER) else "encoder"
    if part == "all" and config.mim_predictor is not None:
        raise InputError(
            f"part=all: init={weights.init} predicts features of its teacher, and a program that has no teacher cannot "
            "use them; use part=encoder"
        )
    if part == "all" and not (
        name.endswith((CLASSIFIER, MASKED)) or weights.has_decoder or weights.checkpoint is not None
    ):
        raise InputError(f"part=all: init={weights.init} is an encoder without a head ({name}); use part=encoder")
    return part


def read_push(cfg: DictConfig) -> str | None:
    """The repository to upload to.

    Raises:
        InputError: it is not `ORG/NAME`, or huggingface_hub is not installed.
    """
    push = read_text(cfg, "push")
    if push is None:
        return None
    if not REPOSITORY.fullmatch(push):
        raise InputError(f"push={push} is not a repository of the Hugging Face hub; use push=ORG/NAME")
    if find_spec("huggingface_hub") is None:
        raise InputError('push= needs huggingface_hub, which is not installed; pip install "mimsuite[hub]"')
    return push


def check_export(folder: Path) -> None:
    """Refuses a folder with files that no export wrote, such as the weights of a run: overwriting would remove them.

    Raises:
        InputError: such a folder.
    """
    if not (held := held_names(folder)):
        return
    card = folder / CARD
    if not card.is_file() or CARD_TAG not in card.read_text(encoding="utf-8", errors="replace").splitlines():
        raise InputError(f"out={folder} holds {held[0]!r}, which no export wrote (no {CARD} of one); use another out=")


def check_size(config: EncoderConfig, size: tuple[int, int]) -> None:
    """Refuses images that do not consist of whole cells, for encoders that need that.

    Raises:
        InputError: such a size.
    """
    down, across = config.stride
    if config.needs_whole_cells and (size[0] % down or size[1] % across):
        raise InputError(
            f"image_size=[{size[0]},{size[1]}] is not a multiple of the encoder's cells of {down}x{across} pixels; "
            "use one that is"
        )
