"""How each format is written and loaded back: the table behind `mimsuite export to=...`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from mimsuite.encoders.config_form import json_text
from mimsuite.models.exporting.check import Call, Opened
from mimsuite.models.exporting.exported import Exported
from mimsuite.models.exporting.folders import open_hf, write_hf
from mimsuite.models.exporting.graph import open_onnx, open_pt2, write_onnx, write_pt2
from mimsuite.models.exporting.others import (
    open_jax,
    open_ours,
    open_timm,
    write_flax,
    write_jax,
    write_keras,
    write_timm,
)
from mimsuite.models.exporting.targets import PREPROCESSOR


class Format(NamedTuple):
    """How a format is written and read.

    Attributes:
        write: writes a model into an empty folder; its third argument is the text of `preprocessor_config.json`. Gives
            back whether the file takes images of any height and width.
        read: loads what was written; its third argument is the part of the model.
    """

    write: Callable[[Exported, Path, str], bool]
    read: Callable[[Exported, Path, str], Opened]


def _graph(
    name: str, write: Callable[[Exported, Path, Mapping[str, str]], bool], read: Callable[[Path], tuple[str, Call]]
) -> Format:
    """A format of one file that holds the computation, and the facts of the model with it."""

    def write_graph(exported: Exported, folder: Path, preprocessor: str) -> bool:
        facts = {"config.json": json_text(exported.model.config.to_dict()), PREPROCESSOR: preprocessor}
        return write(exported, folder / name, facts)

    def read_graph(exported: Exported, folder: Path, part: str) -> Opened:
        library, theirs = read(folder / name)
        return Opened(library, theirs, exported.graph)

    return Format(write_graph, read_graph)


FORMATS = {
    "hf": Format(write_hf, open_hf),
    "timm": Format(write_timm, open_timm),
    "jax": Format(write_jax, open_jax),
    "keras": Format(write_keras, open_ours),
    "flax": Format(write_flax, open_ours),
    "onnx": _graph("model.onnx", write_onnx, open_onnx),
    "pt2": _graph("model.pt2", write_pt2, open_pt2),
}
