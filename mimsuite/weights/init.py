"""What `init=` names: a run folder, a Hugging Face style folder, `hf:ORG/NAME`, `demo:NAME`, another library's file.

Needs no torch to look.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mimsuite.errors import InputError, reading
from mimsuite.types import DisplayRange
from mimsuite.weights.channels import ChannelFit, Statistics, check_rule
from mimsuite.weights.folder import read_foreign_folder
from mimsuite.weights.formats.format import Found, Read
from mimsuite.weights.formats.known import is_foreign, read_foreign
from mimsuite.weights.keras_presets import find_preset, is_handle
from mimsuite.weights.source import DECODER, ENDINGS, PROBE_HEAD, find_folder, plain_names
from mimsuite.weights.tensors import Tensors, as_tensors, in_memory
from mimsuite.words import ALPHAS, Alpha, ChannelRule, PositionRule

if TYPE_CHECKING:
    from torch import Tensor


AVERAGED = "averaged.module."  # names of a run's averaged weights in its checkpoints


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where `init=` leads.

    Attributes:
        init: what the user gave.
        folder: a Hugging Face style folder, or None.
        checkpoint: a committed checkpoint of ours, or None.
        config: the model's config as JSON holds it.
        preprocessor: `preprocessor_config.json`, empty where there is none.
        tensors: those of a model in memory, or of another library's file, read when they are asked for; else None.
        trusted: classes of the user's own that the config may name.
        foreign: what is known of another library's weights; None for a folder of Hugging Face's form.
        channels: how they come to take the images' channels; None where they take them as they are.
        position: how their table of positions is resized.
        part: how their names begin in the checkpoint; None: those of the model that the run itself judges.
    """

    init: str
    folder: Path | None
    checkpoint: Path | None
    config: dict[str, Any]
    preprocessor: dict[str, Any]
    tensors: Mapping[str, Tensor] | None = None
    trusted: tuple[str, ...] = ()
    foreign: Read | None = None
    channels: ChannelFit | None = None
    position: PositionRule = "bicubic"
    part: str | None = None

    def fitted(
        self,
        position: PositionRule,
        rule: ChannelRule | None,
        channels: int,
        statistics: Statistics,
    ) -> Self:
        """The same for images of so many channels.

        Args:
            position: how the table of positions is resized.
            rule: what makes kernels for other channels; None: nothing does.
            channels: of the images.
            statistics: mean and deviation of their channels, for those that have nothing of the weights.

        Raises:
            InputError: other channels and no rule, or one that does not lead there.
        """
        same = dataclasses.replace(self, position=position)
        old, own = int(self.config.get("num_channels", 3)), self.statistics
        if channels == old:
            return same
        rule = check_rule(rule, self.init, old, channels)
        fit = ChannelFit(rule, old, channels, None if own is None else Statistics(*own), statistics)
        about = {key: value for key, value in self.preprocessor.items() if not key.startswith("display_")}
        if (after := fit.after) is not None:
            about |= {"image_mean": list(after.mean), "image_std": list(after.std)}
        config = self.config | {"num_channels": channels}
        return dataclasses.replace(same, channels=fit, config=config, preprocessor=about)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """`(H, W)` that the weights were trained at, where the config, or else the preprocessing, has it.

        The other way round where positions are interpolated anyway: then the config has the size of their table.
        """
        written = self.preprocessor.get("size")
        if self.preprocessor.get("do_center_crop"):
            written = self.preprocessor.get("crop_size", written)
        sizes = [self.config.get("image_size"), written]
        size = next((one for one in sizes[:: -1 if self.config.get("interpolate_positions") else 1] if one), None)
        if isinstance(size, dict):
            size = [size.get(side, size.get("shortest_edge")) for side in ("height", "width")]
        sides: list[Any] = list(size) if isinstance(size, list | tuple) else [size, size]
        whole = len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)
        return (sides[0], sides[1]) if whole else None

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation per channel that the weights were trained with, where they are written down.

        Raises:
            InputError: they are not numbers, or not one per channel.
        """
        if "image_mean" not in self.preprocessor:
            return None
        with self._reading():
            mean, std = (self._per_channel(name) for name in ("image_mean", "image_std"))
        return mean, std

    @property
    def maximum(self) -> int:
        """The pixel value that becomes 1; 255 where it is not written down.

        Raises:
            InputError: `rescale_factor` is not a number from 0 to 1.
        """
        with self._reading():
            factor: float = self.preprocessor.get("rescale_factor", 1 / 255)
            if not 0 < factor <= 1:
                raise ValueError(f"rescale_factor={factor}")
            return round(1 / factor)

    def _per_channel(self, name: str) -> tuple[float, ...]:
        values, channels = tuple(map(float, self.preprocessor[name])), int(self.config.get("num_channels", 3))
        if len(values) not in (1, channels):
            raise ValueError(f"{name} has {len(values)} values for {channels} channels")
        return values if len(values) == channels else values * channels

    def _reading(self) -> AbstractContextManager[None]:
        return reading(f"init={self.init}: preprocessor_config.json", "restore the file")

    @property
    def display(self) -> DisplayRange | None:
        """The range that pictures show of the data that the weights were trained on, where it is written down."""
        low, high = (self.preprocessor.get(key) for key in ("display_low", "display_high"))
        channels = self.config.get("num_channels", 3)
        if not all(isinstance(values, list) and len(values) == channels for values in (low, high)):
            return None
        return DisplayRange(tuple(low or ()), tuple(high or ()))

    @property
    def alpha(self) -> Alpha | None:
        """What became of transparency in the data that the weights were trained on, where it is written down."""
        found = self.preprocessor.get("alpha")
        return found if found in ALPHAS else None

    @property
    def bands(self) -> tuple[str, ...]:
        """The names of the channels, where they are written down; else empty."""
        found = self.preprocessor.get("bands")
        good = isinstance(found, list) and len(found) == self.config.get("num_channels", 3)
        return tuple(map(str, found)) if good and found else ()

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The values of the files that were 0 and the maximum in training, where it is written down."""
        found = self.preprocessor.get("value_range")
        good = isinstance(found, list) and len(found) == 2 and all(type(end) in (int, float) for end in found)
        return (float(found[0]), float(found[1])) if good and found else None

    def trusting(self, targets: Collection[str]) -> Self:
        """The same weights, whose config may name these classes of the user's own."""
        return dataclasses.replace(self, trusted=tuple(targets))

    @property
    def has_decoder(self) -> bool:
        """Whether a decoder lies beside an encoder, as after pretraining with MAE."""
        if self.folder is not None:
            return (self.folder / DECODER).is_file()
        return self.foreign is not None and any(name.startswith("decoder.") for name in self.foreign.tensors)

    def state(self) -> Tensors:
        """The tensors, by their names in the model; each is read when it is asked for.

        Raises:
            InputError: damaged files.
        """
        if self.tensors is not None:
            return as_tensors(self.tensors)
        if self.folder is not None:
            from mimsuite.weights.files import read_decoder, read_folder

            return read_folder(self.folder) | read_decoder(self.folder)
        from mimsuite.weights.checkpoints import load_checkpoint

        assert self.checkpoint is not None
        state = load_checkpoint(self.checkpoint)["state_dict"]
        averaged = any(name.startswith(AVERAGED) for name in state)  # then these are what the run itself judges
        prefix = self.part or (AVERAGED if averaged else "model.")
        return in_memory({n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)})


def find_weights(init: str) -> Weights:
    """Finds what `init=` names: a run folder (its `weights/`, else its newest checkpoint), a folder, or a file.

    The folder may be on this disk, on the hub (`hf:ORG/NAME`), or one of those that we ship (`demo:NAME`). Folders and
    files of other libraries are recognised by their content (`mimsuite.weights.formats`).

    Raises:
        InputError: nothing there that holds weights.
    """
    folder = Path(init)
    if is_handle(init) and not folder.exists():
        return in_folder(init, find_preset(init))
    if init.startswith(("hf:", "demo:")):
        return in_folder(init, find_folder(init))
    if not folder.exists():
        raise InputError(
            f"init={init} does not exist; give a run folder, a Hugging Face folder, a file of "
            "weights, hf:ORG/NAME or demo:NAME"
        )
    if not folder.is_dir():
        return in_file(init, folder)
    if (folder / "weights" / "config.json").is_file():
        return in_folder(init, folder / "weights")
    if (folder / "config.json").is_file():
        return in_folder(init, folder)
    if (folder / "checkpoints" / "latest.json").is_file():
        from mimsuite.weights.checkpoints import load_checkpoint, newest_checkpoint

        path = newest_checkpoint(folder / "checkpoints")
        assert path is not None
        content = load_checkpoint(path)
        with reading(f"init={init}: checkpoint {path}", "use another init= or an older checkpoint"):
            about = content["mimsuite"]
            return Weights(init, None, path, dict(about["config"]), dict(about["preprocessor"]))
    if (folder / PROBE_HEAD).is_file():
        raise InputError(f"init={init} is a probe, which has no encoder of its own; give the encoder that it measured")
    inside = sorted(file.name for file in folder.iterdir() if file.suffix in ENDINGS)
    raise InputError(
        f"init={init} holds no weights/, checkpoints/ or config.json; give a run folder, a Hugging Face folder, a file"
        + (f", such as init={folder / inside[0]}" if inside else " of weights")
    )


def weights_in_memory(model: Any) -> Weights:
    """The weights that a model of `mimsuite.models` has now; what happens to it later does not change them."""
    name = type(model).__name__
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    config = model.config.to_dict() | {"architectures": [name]}
    return Weights(f"model={name}", None, None, config, {}, state)


def in_folder(init: str, folder: Path) -> Weights:
    """Weights in a Hugging Face style folder."""
    config = read_object(init, folder / "config.json")
    if config is None:
        raise InputError(f"init={init}: {folder} has no config.json; give a run folder or a Hugging Face folder")
    preprocessor = read_object(init, folder / "preprocessor_config.json") or {}
    config = plain_names(config)
    if is_foreign(config):
        return as_ours(init, read_foreign_folder(f"init={init}", folder, config), preprocessor)
    return Weights(init, folder, None, config, preprocessor)


def in_file(init: str, path: Path) -> Weights:
    """Weights in a file of another library, recognised by its content.

    Raises:
        InputError: no file of weights, or of no known format.
    """
    from mimsuite.weights.containers.recognised import open_file

    whole = {"config.json": path.parent, "latest.json": path.parent.parent}  # beside it -> what to give instead
    if (folder := next((place for name, place in whole.items() if (path.parent / name).is_file()), None)) is not None:
        raise InputError(f"init={init} is one file of a folder that belongs together; give init={folder}")
    preprocessor = read_object(init, path.parent / "preprocessor_config.json") or {}  # as an export has it
    return as_ours(init, read_foreign(Found(f"init={init}", open_file(path))), preprocessor)


def as_ours(init: str, read: Read, preprocessor: dict[str, Any]) -> Weights:
    """Weights of another library; what lies beside them wins over what their format says of the preprocessing."""
    return Weights(init, None, None, read.config, read.preprocessor | preprocessor, tensors=read.tensors, foreign=read)


def read_object(init: str, path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no file."""
    if not path.is_file():
        return None
    with reading(f"init={init}: {path}", "restore the file"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"init={init}: {path} holds no JSON object; restore the file")
    return content
