"""Models as graphs of operations, with free batch and where possible size: `torch.export` files and ONNX."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram, export

from mimsuite.models.exporting.check import Call
from mimsuite.models.exporting.exported import PIXELS, Exported

OPSET = 18  # of ONNX: what runtimes of 2023 and later read
IN_ONE_FILE = 1_500_000_000  # bytes of weights; an ONNX file of more than 2 GB cannot be read
CELLS = 3  # of the feature map, the fewest on a side of free length: fewer leave a single one somewhere, a constant
BATCH = 2  # of the example that is traced; a size of 1 would be taken for a constant


def trace(exported: Exported) -> tuple[ExportedProgram, bool]:
    """The operations of a model, for any batch, and for any height and width where it takes them.

    Where a padding depends on the sides (BiT's `SAME`), torch cannot prove a graph right for all: the size is fixed.

    Returns:
        The operations, and whether height and width are free.
    """
    shapes: dict[str, dict[int, Any]] = {name: {0: Dim("batch", min=1)} for name in exported.inputs}
    with torch.no_grad(), _quiet():
        if exported.any_size:
            (height, width), (down, across) = exported.image_size, exported.model.network().stride
            sides = {2: Dim("height", min=CELLS * down), 3: Dim("width", min=CELLS * across)}
            free = {PIXELS: shapes[PIXELS] | sides}
            size = (max(height, CELLS * down) + down, max(width, CELLS * across) + 2 * across)  # that are not equal
            with contextlib.suppress(UserError):
                return export(exported.graph, exported.example(BATCH, size), dynamic_shapes=free, strict=False), True
        return export(exported.graph, exported.example(BATCH), dynamic_shapes=shapes, strict=False), False


def write_pt2(exported: Exported, path: Path, facts: Mapping[str, str]) -> bool:
    """Writes a `torch.export` file, which `torch.export.load` reads without this package.

    Args:
        exported: the model.
        path: the file.
        facts: names and texts that are kept in it, as further files.

    Returns:
        Whether height and width are free.
    """
    program, any_size = trace(exported)
    with _quiet():
        torch.export.save(program, path, extra_files=dict(facts))
    return any_size


def open_pt2(path: Path) -> tuple[str, Call]:
    """The library that reads such a file, and a function of the inputs that gives a tuple of tensors."""
    with _quiet():
        module = torch.export.load(path).module()
    return f"torch.export {torch.__version__}", module


def write_onnx(exported: Exported, path: Path, facts: Mapping[str, str]) -> bool:
    """Writes an ONNX file, its weights beside it (`model.onnx.data`) where one file would be too large.

    Args:
        exported: the model.
        path: the file.
        facts: names and texts that are kept in it, as metadata.

    Returns:
        Whether height and width are free.
    """
    traced, any_size = trace(exported)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=list(exported.inputs),
            output_names=list(exported.outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    name_pooling_axes(program.model)
    program.model.metadata_props.update(facts)
    size = sum(tensor.nbytes for tensor in exported.model.state_dict().values())
    program.save(path, external_data=size > IN_ONE_FILE)
    return any_size


def name_pooling_axes(model: Any) -> None:
    """Gives every padding in front of a max pooling its axes in words, in an ONNX model.

    ONNX Runtime merges one without them into the pooling, which then pads with the lowest number in place of 0.
    """
    import onnx_ir as ir

    graph = model.graph
    for node in list(graph):
        if node.op_type != "Pad" or (len(node.inputs) > 3 and node.inputs[3] is not None):
            continue
        if not any(user.op_type == "MaxPool" for user, _ in node.outputs[0].uses()):
            continue
        axes = ir.tensor([0, 1, 2, 3], dtype=ir.DataType.INT64)
        named = ir.node("Constant", inputs=[], attributes={"value": axes})
        graph.insert_before(node, named)
        node.resize_inputs(4)
        node.replace_input_with(3, named.outputs[0])


def open_onnx(path: Path) -> tuple[str, Call]:
    """The library that reads such a file here, and a function of the inputs that gives a tuple of tensors.

    That is ONNX Runtime as it runs by default, or without it the slow reference of the `onnx` package.
    """
    if find_spec("onnxruntime") is None:
        from onnx.reference import ReferenceEvaluator

        session, library = ReferenceEvaluator(str(path)), "onnx"
        names = list(session.input_names)
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        library, names = "onnxruntime", [given.name for given in session.get_inputs()]

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return tuple(map(torch.from_numpy, session.run(None, given)))

    return f"{library} {metadata.version(library)}", call


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what torch warns of: its own code, and libraries that it would use."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
