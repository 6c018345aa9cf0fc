"""What a Hugging Face folder holds, in our names, also where it is of a family that is read as one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mimsuite.weights.formats.format import Found, Read
from mimsuite.weights.formats.known import is_foreign, read_foreign
from mimsuite.weights.source import MissingFileError, read_config
from mimsuite.weights.tensors import Tensors


class FolderTensors(NamedTuple):
    """The tensors of a folder.

    Attributes:
        tensors: by our names, each read when it is asked for.
        foreign: whether they are of another family or library, and so a model gets no parts that they do not have.
    """

    tensors: Tensors
    foreign: bool


def read_our_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json` under our own names, or our config for one of another family.

    Raises:
        MissingFileError: no such file.
        InputError: it is not a JSON object, or of a variant that cannot be had.
    """
    config = read_config(folder)
    if not is_foreign(config):
        return config
    try:
        return read_foreign_folder(str(folder), folder, config).config
    except MissingFileError:  # a config alone
        return read_foreign(Found(str(folder), Tensors({}), config)).config


def read_weights(
    folder: Path, variant: str | None = None, files: str | None = None, *, with_decoder: bool
) -> FolderTensors:
    """Opens the tensors of a folder; arguments and errors as of `mimsuite.weights.files.read_folder`.

    Args:
        folder: with the files.
        variant: of the files.
        files: of `mimsuite.weights.source.SOURCES`: which are read.
        with_decoder: also those of a decoder beside the encoder.
    """
    from mimsuite.weights.files import read_decoder, read_folder

    config = read_config(folder) if (folder / "config.json").is_file() else {}
    if is_foreign(config):
        found = read_foreign_folder(str(folder), folder, config, variant, files).tensors
        names = (name for name in found if with_decoder or not name.startswith("decoder."))
        return FolderTensors(found.only(names), True)
    state = read_folder(folder, variant, files)
    return FolderTensors(state | read_decoder(folder, variant) if with_decoder else state, False)


def read_foreign_folder(
    where: str, folder: Path, config: dict[str, Any], variant: str | None = None, files: str | None = None
) -> Read:
    """Weights of another family or library as ours.

    Args:
        where: what errors call them.
        folder: with the files; KerasHub's have their own names, whatever `variant` and `files` say.
        config: the content of its `config.json`.
        variant: of the files.
        files: of `mimsuite.weights.source.SOURCES`: which are read.
    """
    from mimsuite.weights.files import read_folder
    from mimsuite.weights.keras_folder import found_in

    if "class_name" in config:
        return read_foreign(found_in(where, folder))
    return read_foreign(Found(where, read_folder(folder, variant, files), config))
