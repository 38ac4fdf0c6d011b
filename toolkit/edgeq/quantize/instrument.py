"""A session that returns intermediate tensors of a graph."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError, OutputError
from edgeq.onnx_runtime import session_options
from edgeq.scratch import scratch_folder
from edgeq.types import Array, Feeds

if TYPE_CHECKING:
    import onnx_ir as ir


def with_outputs(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """A copy of the graph, weights shared, whose outputs are `tensors`.

    Raises:
        ModelError: a tensor is not computed by the graph.
    """
    import onnx_ir as ir

    copy = model.clone()
    computed = {value.name: value for node in copy.graph for value in node.outputs if value.name}
    computed |= {value.name: value for value in copy.graph.inputs if value.name}
    for name in tensors:
        if name not in computed:
            raise ModelError(f"no tensor `{name}` in the graph{_similar(name, computed)}")
    copy.graph.outputs.clear()
    for name in tensors:
        value = computed[name]
        if value.type is None:
            value.type = ir.TensorType(ir.DataType.FLOAT)
        copy.graph.outputs.append(value)
    return copy


def _similar(name: str, known: Iterable[str | None]) -> str:
    close = difflib.get_close_matches(name, [each for each in known if each], n=3)
    return f"; similar: {', '.join(f'`{each}`' for each in close)}" if close else ""


@contextmanager
def session_of(model: ir.Model | Path | str, tensors: Sequence[str], threads: int | None) -> Iterator[Any]:
    """An onnxruntime session whose outputs are `tensors`, over a temporary file that goes when it does."""
    import onnx_ir as ir
    import onnxruntime as ort

    graph = with_outputs(model if isinstance(model, ir.Model) else ir.load(model), tensors)
    options = session_options(threads=threads)
    # An arena keeps the largest block of every shape it ever saw; shapes vary here.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    with scratch_folder("calibration") as folder:
        path = folder / "model.onnx"
        _save(graph, path)
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"onnxruntime does not load the model to calibrate: {error}") from error
        yield session


def _save(graph: ir.Model, path: Path) -> None:
    import onnx_ir as ir

    try:
        ir.save(graph, path, external_data="weights.bin")
    except OSError as error:
        raise OutputError(
            f"no room for a copy of the model in `{path.parent}`: {error.strerror or error}",
            hint="free some space there, or choose another --output",
        ) from error


def run(session: Any, tensors: Sequence[str], feeds: Feeds) -> list[Array]:
    """The tensors of one batch; feeds the graph does not take are left out.

    Raises:
        ModelError: an input is missing, or the graph fails.
    """
    inputs = [spec.name for spec in session.get_inputs()]
    missing = [name for name in inputs if name not in feeds]
    if missing:
        raise ModelError(f"calibration feeds lack input `{missing[0]}`; got {', '.join(sorted(feeds))}")
    try:
        outputs: list[Array] = session.run(list(tensors), {name: feeds[name] for name in inputs})
    except Exception as error:
        raise ModelError(f"the model fails on calibration data: {error}") from error
    return outputs
