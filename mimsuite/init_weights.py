"""What `init=` names: a run folder, a Hugging Face style folder, or `hf:ORG/NAME`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from mimsuite.errors import InputError


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where `init=` leads.

    Attributes:
        init: what the user gave.
        folder: a Hugging Face style folder, or None.
        checkpoint: a committed checkpoint of ours, or None.
        config: the model's config as JSON holds it.
        preprocessor: `preprocessor_config.json`, empty where there is none.
    """

    init: str
    folder: Path | None
    checkpoint: Path | None
    config: dict[str, Any]
    preprocessor: dict[str, Any]

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`(H, W)` that the weights were trained at, where it is written down."""
        size = self.config.get("image_size") or self.preprocessor.get("size", {}).get("height")
        if isinstance(size, list):
            return size[0], size[1]
        return (size, size) if isinstance(size, int) else None

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation per channel that the weights were trained with, where they are written down."""
        if "image_mean" not in self.preprocessor:
            return None
        return tuple(self.preprocessor["image_mean"]), tuple(self.preprocessor["image_std"])


def find_weights(init: str) -> Weights:
    """Finds what `init=` names: a run folder (its `weights/`, else its newest checkpoint), or a Hugging Face folder.

    Raises:
        InputError: nothing there that holds weights.
    """
    folder = Path(init)
    if init.startswith("hf:"):
        from mimsuite.weights.huggingface import hub_folder

        return in_folder(init, hub_folder(init))
    if not folder.exists():
        raise InputError(f"init={init} does not exist; give a run folder, a Hugging Face folder, or hf:ORG/NAME")
    if not folder.is_dir():
        raise InputError(f"init={init} is a file; give a run folder, a Hugging Face folder, or hf:ORG/NAME")
    if (folder / "weights" / "config.json").is_file():
        return in_folder(init, folder / "weights")
    if (folder / "config.json").is_file():
        return in_folder(init, folder)
    if (folder / "checkpoints" / "latest.json").is_file():
        from mimsuite.checkpoint import load_checkpoint, newest

        path = newest(folder / "checkpoints")
        assert path is not None
        about = load_checkpoint(path)["mimsuite"]
        return Weights(init, None, path, about["config"], about["preprocessor"])
    raise InputError(
        f"init={init} holds neither weights/, nor checkpoints/, nor config.json; give a run folder or a Hugging Face folder"
    )


def in_folder(init: str, folder: Path) -> Weights:
    """Weights in a Hugging Face style folder."""
    contents = []
    for name in ("config.json", "preprocessor_config.json"):
        path = folder / name
        try:
            contents.append(json.loads(path.read_text()) if path.is_file() else {})
        except ValueError as error:
            raise InputError(f"init={init}: {path} is no JSON ({error}); restore the file") from error
    return Weights(init, folder, None, *contents)
