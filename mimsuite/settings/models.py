"""What `models` reads. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mimsuite.config.folder import conf_dir
from mimsuite.config.hints import unknown_choice
from mimsuite.errors import InputError
from mimsuite.settings.read import read, read_int, read_size, read_text

WITHOUT_SIZES = ("external",)  # configs of models that other libraries have


@dataclass(frozen=True)
class ModelsSettings:
    """The table's values.

    Attributes:
        files: YAML files of the models.
        image_size: `(H, W)` pixels; None: each model's own.
        channels: of the images.
    """

    files: tuple[Path, ...]
    image_size: tuple[int, int] | None
    channels: int


def read_models(cfg: DictConfig) -> ModelsSettings:
    """Reads and checks every key.

    Raises:
        InputError: a wrong value, or an unknown model.
    """
    name, size = read_text(cfg, "name"), read(cfg, "image_size")
    files = model_files()
    names = [file.stem for file in files]
    if name is not None and name not in names:
        raise InputError(unknown_choice(f"model/{name}", names).replace("model=", "name="))
    return ModelsSettings(
        files=tuple(file for file in files if name in (None, file.stem)),
        image_size=None if size is None else read_size(size),
        channels=read_int(cfg, "channels"),
    )


def model_files() -> list[Path]:
    """The YAML files of models with sizes of their own, by name."""
    return sorted(file for file in (conf_dir() / "model").glob("*.yaml") if file.stem not in WITHOUT_SIZES)


def model_node(file: Path) -> DictConfig:
    """A model's YAML with the one that its defaults list names, as Hydra would compose them."""
    node = OmegaConf.load(file)
    assert isinstance(node, DictConfig)
    parents = [name for name in node.pop("defaults", []) if name != "_self_"]
    for name in parents:
        node = DictConfig(OmegaConf.merge(model_node(file.with_name(f"{name}.yaml")), node))
    return node
