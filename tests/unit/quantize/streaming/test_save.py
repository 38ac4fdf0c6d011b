"""Graphs written with their weights beside them: numbers through onnxruntime, crashes and refusals."""

from __future__ import annotations

import errno

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeq.errors import ModelError, OutputError
from edgeq.quantize.streaming import Checkpoint, external_data
from edgeq.quantize.streaming.save import save_beside

K, HIDDEN, VOCAB = 64, 96, 50
FLOAT, INT64 = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    shapes = {"embed": (VOCAB, K), "up": (HIDDEN, K), "down": (K, HIDDEN), "norm": (K,)}
    return {name: (rng.normal(0, 0.05, shape).astype(np.float32), "F32") for name, shape in shapes.items()}


def build_graph(references):
    """Embed -> Gemm (transB) -> MatMul behind a Transpose -> Add -> the tied table as head, weights by reference."""
    ids = ir.Value(name="ids", shape=ir.Shape(["tokens"]), type=INT64)
    values = {
        name: ir.Value(name=name, shape=reference.shape, type=FLOAT, const_value=reference)
        for name, reference in references.items()
    }
    lookup = ir.node("Gather", [values["embed"], ids], name="lookup")
    up = ir.node("Gemm", [lookup.outputs[0], values["up"]], {"transB": 1}, name="up_proj")
    turn = ir.node("Transpose", [values["down"]], {"perm": [1, 0]}, name="turn")
    down = ir.node("MatMul", [up.outputs[0], turn.outputs[0]], name="down_proj")
    add = ir.node("Add", [down.outputs[0], values["norm"]], name="add")
    turn_head = ir.node("Transpose", [values["embed"]], {"perm": [1, 0]}, name="turn_head")
    head = ir.node("MatMul", [add.outputs[0], turn_head.outputs[0]], name="head")
    nodes = [lookup, up, turn, down, add, turn_head, head]
    for node in nodes:
        node.outputs[0].name, node.outputs[0].type = f"{node.name}_out", FLOAT
    head.outputs[0].shape = ir.Shape(["tokens", VOCAB])
    graph = ir.Graph(
        [ids], head.outputs, nodes=nodes, initializers=list(values.values()), opset_imports={"": 20}, name="g"
    )
    return ir.Model(graph, ir_version=10)


@pytest.fixture
def model(tmp_path, weights, write_checkpoint):
    path = write_checkpoint(tmp_path / "model.safetensors", weights)
    checkpoint = Checkpoint.open(path)
    return build_graph({name: checkpoint[name].reference() for name in checkpoint.names()})


def run(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": np.arange(VOCAB)})[0]


def expected(weights):
    values = {name: array for name, (array, _) in weights.items()}
    hidden = values["embed"] @ values["up"].T @ values["down"].T + values["norm"]
    return hidden @ values["embed"].T


def error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def initializers(path):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_weights_are_copied(model, weights, tmp_path):
    save_beside(model, tmp_path / "m.onnx")
    # float32 sums of up to 96 products in another order.
    assert error(run(tmp_path / "m.onnx"), expected(weights)) < 1e-5


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_half_precision_checkpoints_feed_a_float32_graph(weights, tmp_path, write_checkpoint, dtype):
    halves = {name: (array, dtype) for name, (array, _) in weights.items()}
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "model.safetensors", halves))
    model = build_graph({name: checkpoint[name].reference() for name in checkpoint.names()})
    save_beside(model, tmp_path / "m.onnx")
    # bfloat16 has 8 bits of mantissa: each weight within 2^-9, four of them in a chain.
    assert error(run(tmp_path / "m.onnx"), expected(weights)) < 0.01
    assert initializers(tmp_path / "m.onnx")["norm"].dtype == np.float32


def test_large_tensors_are_aligned(model, tmp_path, monkeypatch):
    monkeypatch.setattr(external_data, "LARGE_BYTES", 2000)
    save_beside(model, tmp_path / "m.onnx")
    stored = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    places = [{e.key: e.value for e in tensor.external_data} for tensor in stored if tensor.external_data]
    assert all(int(p["offset"]) % 64 == 0 for p in places)
    assert all(int(p["offset"]) % (1 << 16) == 0 for p in places if int(p["length"]) >= 2000)
    assert any(int(p["offset"]) > 1 << 16 for p in places)


# Refusals and crashes: whatever happens, no file is left, and an older model stays.


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(b"older")
    (folder / "m.onnx.data").write_bytes(b"older")
    return folder


def check_untouched(out):
    assert files_of(out) == ["m.onnx", "m.onnx.data"]
    assert all((out / name).read_bytes() == b"older" for name in files_of(out))


def test_success_replaces_and_leaves_nothing_else(model, out):
    save_beside(model, out / "m.onnx")
    assert files_of(out) == ["m.onnx", "m.onnx.data"] and run(out / "m.onnx").shape == (VOCAB, VOCAB)


def test_a_checkpoint_cut_while_it_is_read(model, tmp_path, out):
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="ends inside"):
        save_beside(model, out / "m.onnx")
    check_untouched(out)


def test_disk_full_while_writing(model, out, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(external_data, "_write_all", full)
    with pytest.raises(OutputError, match="the disk is full"):
        save_beside(model, out / "m.onnx")
    check_untouched(out)


def test_disk_too_small_is_found_before_the_work(model, out, monkeypatch):
    monkeypatch.setattr("edgeq.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    monkeypatch.setattr(external_data, "_write_all", lambda *_: pytest.fail("nothing is written"))
    with pytest.raises(OutputError, match="not enough space"):
        save_beside(model, out / "m.onnx")
    check_untouched(out)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_interruption(model, out, monkeypatch, kind):
    written = []

    def stop(file, view):
        written.append(file.write(view))
        if len(written) == 3:
            raise kind

    monkeypatch.setattr(external_data, "_write_all", stop)
    with pytest.raises(kind):
        save_beside(model, out / "m.onnx")
    check_untouched(out)


def test_the_graph_given_is_not_changed(model, tmp_path):
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    save_beside(model, tmp_path / "m.onnx")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_unfilled_regions_are_not_committed(tmp_path):
    writer = external_data.ExternalDataWriter(tmp_path / "d")
    with writer, pytest.raises(ValueError, match="0 of 8 bytes"):
        writer.reserve(8)
        writer.commit()
    with writer, pytest.raises(ValueError, match="8 bytes for a region of 4"):
        writer.reserve(4).write(np.zeros(8, np.uint8))
    assert files_of(tmp_path) == []
