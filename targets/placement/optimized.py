"""ONNX Runtime's own level-1 optimizations, run with the installed version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.onnx_runtime import OptimizationLevel, session_options
from edgeq.scratch import scratch_folder

if TYPE_CHECKING:
    import onnx

HOLLOW_BYTES = 256 * 1024
"""Float weights from this size on are replaced by zeros in a sparse file: only their shapes matter here."""


class OptimizeError(Exception):
    """The installed ONNX Runtime cannot load this model."""


def optimize_level_1(proto: onnx.ModelProto, base_dir: Path | None) -> onnx.ModelProto:
    """The graph after `ORT_ENABLE_BASIC` with the CPU provider, large weights hollow.

    Raises:
        OptimizeError: ONNX Runtime refuses the model; the message is its own.
    """
    import onnx

    with scratch_folder("placement") as folder:
        source, result = folder / "model.onnx", folder / "optimized.onnx"
        source.write_bytes(_hollow(proto, base_dir, folder).SerializeToString())
        options = _session_options("ORT_ENABLE_BASIC")
        # Hollow weights stay references to the file of zeros: nothing of their size is read or written.
        options.optimized_model_filepath = str(result)
        _open_session(source, options)
        return onnx.load(str(result), load_external_data=False)


def outputs_as_loaded(
    proto: onnx.ModelProto, base_dir: Path | None
) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
    """Type (`tensor(float)`) and shape of every graph output, as ONNX Runtime infers them without optimizing.

    Raises:
        OptimizeError: ONNX Runtime refuses the model.
    """
    with scratch_folder("placement") as folder:
        source = folder / "model.onnx"
        source.write_bytes(_hollow(proto, base_dir, folder).SerializeToString())
        session = _open_session(source, _session_options("ORT_DISABLE_ALL"))
        return {value.name: (value.type, tuple(value.shape)) for value in session.get_outputs()}


def _session_options(level: OptimizationLevel) -> Any:
    options = session_options(exact=False, level=level, threads=1)
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _open_session(source: Path, options: Any) -> Any:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the bindings raise many unrelated types
        raise OptimizeError(f"ONNX Runtime {ort.__version__} cannot load the model: {error}") from error


def _hollow(proto: onnx.ModelProto, base_dir: Path | None, folder: Path) -> onnx.ModelProto:
    """A copy whose large weights all point into one sparse file of zeros inside `folder`."""
    import onnx

    hollow = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _assign(hollow, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            _assign(hollow.graph, field.name, value)
    largest = 0
    for tensor in proto.graph.initializer:
        size = _size_bytes(tensor)
        kept = hollow.graph.initializer.add()
        if size < HOLLOW_BYTES:
            kept.CopyFrom(_with_data(tensor, base_dir))
            continue
        largest = max(largest, size)
        kept.name, kept.data_type = tensor.name, tensor.data_type
        kept.dims.extend(tensor.dims)
        kept.data_location = onnx.TensorProto.EXTERNAL
        for key, entry in (("location", "zeros.bin"), ("offset", "0"), ("length", str(size))):
            kept.external_data.add(key=key, value=entry)
    with (folder / "zeros.bin").open("wb") as file:
        file.truncate(largest)
    return hollow


def _assign(message: object, name: str, value: object) -> None:
    target = getattr(message, name)
    if hasattr(target, "extend"):
        target.extend(value)
    elif hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
    else:
        setattr(message, name, value)


def _size_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of the tensor's data: dimensions times element width, 4-bit types packed two to a byte."""
    import onnx

    count = 1
    for dim in tensor.dims:
        count *= dim
    names = onnx.TensorProto.DataType
    if tensor.data_type in (names.Value("INT4"), names.Value("UINT4")):
        return (count + 1) // 2
    if tensor.data_type == names.Value("STRING"):
        return 0
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _with_data(tensor: onnx.TensorProto, base_dir: Path | None) -> onnx.TensorProto:
    """A small tensor with its values inside, read from its file when they lie outside."""
    if not tensor.external_data:
        return tensor
    from onnx import numpy_helper

    inside = numpy_helper.from_array(numpy_helper.to_array(tensor, str(base_dir or "")), tensor.name)
    inside.data_type = tensor.data_type
    return inside
