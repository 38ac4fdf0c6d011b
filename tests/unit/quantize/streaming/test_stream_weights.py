"""Streamed models: the same bytes as quantizing in memory, numbers through onnxruntime, crashes and refusals."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeq.errors import ModelError, OutputError, UnsupportedError
from edgeq.graph.passes.sequence import edited
from edgeq.graph.passes.weight_only import lower_weight_only
from edgeq.quantize.recipes import LayerSpec
from edgeq.quantize.streaming import Checkpoint, external_data, rewrite, stored_tensor, stream_weights
from edgeq.quantize.weight_only import LayerStats, quantize
from edgeq.quantize.weight_only.matmul_nbits import to_block_weight

RTN = LayerSpec(method="rtn")
K, HIDDEN, VOCAB = 64, 96, 50
FLOAT, INT64 = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    shapes = {"embed": (VOCAB, K), "up": (HIDDEN, K), "down": (K, HIDDEN), "norm": (K,)}
    return {name: (rng.normal(0, 0.05, shape).astype(np.float32), "F32") for name, shape in shapes.items()}


def initializer(name, reference):
    return ir.Value(name=name, shape=reference.shape, type=FLOAT, const_value=reference)


def build_graph(references):
    """Embed -> Gemm (transB) -> MatMul behind a Transpose -> Add -> the tied table as head, weights by reference."""
    ids = ir.Value(name="ids", shape=ir.Shape(["tokens"]), type=INT64)
    values = {name: initializer(name, reference) for name, reference in references.items()}
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


def test_without_specs_the_model_is_copied(model, weights, tmp_path):
    written = stream_weights(model, {}, tmp_path / "m.onnx")
    # float32 sums of up to 96 products in another order.
    assert error(run(written.model), expected(weights)) < 1e-5
    assert written.nodes == () and written.data_bytes == written.data.stat().st_size


@pytest.mark.parametrize(
    "spec",
    [
        RTN,
        replace(RTN, symmetric=False),
        replace(RTN, bits=8, block_size=128),
        replace(RTN, bits=8, block_size=-1),
        replace(RTN, method="scale_search", block_size=16),
    ],
)
def test_the_bytes_of_quantizing_in_memory(model, weights, tmp_path, monkeypatch, spec):
    # Pieces of 3 rows: several per weight, the last one short.
    monkeypatch.setattr(
        stored_tensor.StoredTensor.rows, "__kwdefaults__", {"transposed": False, "max_elements": 192}
    )
    specs = dict.fromkeys(("embed", "up", "down"), spec)
    written = stream_weights(model, specs, tmp_path / "m.onnx", threads=2)
    found = initializers(written.model)
    whole = {
        name: to_block_weight(quantize(spec.method, weights[name][0].T, spec.weight_spec())) for name in specs
    }
    for name in specs:
        assert np.array_equal(found[f"{name}_q{spec.bits}"], whole[name].data), name
        assert np.array_equal(found[f"{name}_scales"], whole[name].scales), name
        if not spec.symmetric:
            assert np.array_equal(found[f"{name}_zero_points"], whole[name].zero_points), name
    assert {(node.bits, node.symmetric) for node in written.nodes} == {(spec.bits, spec.symmetric)}
    assert run(written.model) == pytest.approx(run_in_memory(model, whole, tmp_path), abs=1e-5)


def initializers(path):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def run_in_memory(model, weights, tmp_path):
    ir.save(edited(model, lower_weight_only(weights)), tmp_path / "memory.onnx")
    return run(tmp_path / "memory.onnx")


def test_columns_are_gathered_from_weights_stored_in_by_out(weights, tmp_path, write_checkpoint):
    values = np.ascontiguousarray(weights["up"][0].T)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "w.safetensors", {"w": (values, "F32")}))
    x = ir.Value(name="ids", shape=ir.Shape([3, K]), type=FLOAT)
    product = ir.node("MatMul", [x, initializer("w", checkpoint["w"].reference())], name="fc")
    product.outputs[0].name, product.outputs[0].type = "y", FLOAT
    graph = ir.Graph(
        [x], product.outputs, nodes=[product], initializers=[product.inputs[1]], opset_imports={"": 20}
    )
    written = stream_weights(ir.Model(graph, ir_version=10), {"w": RTN}, tmp_path / "m.onnx")
    whole = to_block_weight(quantize("rtn", values, RTN.weight_spec()))
    assert np.array_equal(initializers(written.model)["w_q4"], whole.data)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_half_precision_checkpoints_feed_a_float32_graph(weights, tmp_path, write_checkpoint, dtype):
    halves = {name: (array, dtype) for name, (array, _) in weights.items()}
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "model.safetensors", halves))
    model = build_graph({name: checkpoint[name].reference() for name in checkpoint.names()})
    written = stream_weights(model, {"up": replace(RTN, bits=8)}, tmp_path / "m.onnx")
    # bfloat16 has 8 bits of mantissa: each weight within 2^-9, four of them in a chain; int8 inputs add as much.
    assert error(run(written.model), expected(weights)) < 0.02
    assert initializers(written.model)["norm"].dtype == np.float32
    assert written.read_bytes == checkpoint.nbytes


def test_tables_shared_with_the_head_are_stored_once(model, tmp_path):
    written = stream_weights(model, {"embed": RTN}, tmp_path / "m.onnx")
    assert {node.op_type for node in written.nodes} == {"GatherBlockQuantized", "MatMulNBits"}
    codes = [name for name, array in initializers(written.model).items() if array.dtype == np.uint8]
    assert codes == ["embed_q4"]


def test_float16_behind_a_cast(model, weights, tmp_path):
    written = stream_weights(model, {"down": LayerSpec(format="fp16")}, tmp_path / "m.onnx")
    assert np.array_equal(initializers(written.model)["down.fp16"], weights["down"][0].astype(np.float16))
    # Each weight within 2^-11.
    assert error(run(written.model), expected(weights)) < 1e-3


def test_importance_changes_the_codes(model, weights, tmp_path):
    spec = {"up": replace(RTN, method="scale_search")}
    stats = LayerStats(np.geomspace(1e-3, 1e3, K).astype(np.float32), tokens=1000)
    weighted = stream_weights(model, spec, tmp_path / "a.onnx", stats={"up": stats})
    plain = stream_weights(model, spec, tmp_path / "b.onnx")
    assert not np.array_equal(initializers(weighted.model)["up_q4"], initializers(plain.model)["up_q4"])


def test_the_same_bytes_for_any_number_of_threads(model, tmp_path):
    files = [stream_weights(model, {"up": RTN}, tmp_path / f"{n}.onnx", threads=n).data for n in (1, 4)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_large_tensors_are_aligned(model, tmp_path, monkeypatch):
    monkeypatch.setattr(external_data, "LARGE_BYTES", 2000)
    written = stream_weights(model, {"up": RTN}, tmp_path / "m.onnx")
    stored = onnx.load(written.model, load_external_data=False).graph.initializer
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
    stream_weights(model, {"up": RTN}, out / "m.onnx")
    assert files_of(out) == ["m.onnx", "m.onnx.data"] and run(out / "m.onnx").shape == (VOCAB, VOCAB)


def test_nan_in_a_weight(weights, tmp_path, write_checkpoint, out):
    weights["down"][0][3, 7] = np.nan
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "model.safetensors", weights))
    model = build_graph({name: checkpoint[name].reference() for name in checkpoint.names()})
    with pytest.raises(ModelError, match=r"`down` of `model\.safetensors` holds NaN"):
        stream_weights(model, {"up": RTN, "down": RTN}, out / "m.onnx")
    check_untouched(out)


def test_a_checkpoint_cut_while_it_is_read(model, tmp_path, out):
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="ends inside"):
        stream_weights(model, {}, out / "m.onnx")
    check_untouched(out)


def test_disk_full_while_writing(model, out, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(external_data, "_write_all", full)
    with pytest.raises(OutputError, match="the disk is full"):
        stream_weights(model, {"up": RTN}, out / "m.onnx")
    check_untouched(out)


def test_disk_too_small_is_found_before_the_work(model, out, monkeypatch):
    monkeypatch.setattr("edgeq.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    seen = []
    with pytest.raises(OutputError, match="not enough space"):
        stream_weights(model, {"up": RTN}, out / "m.onnx", on_weight=seen.append)
    assert seen == []
    check_untouched(out)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_interruption(model, out, kind):
    def stop(name):
        if name == "norm":
            raise kind

    with pytest.raises(kind):
        stream_weights(model, {"up": RTN}, out / "m.onnx", on_weight=stop)
    check_untouched(out)


def test_a_file_that_does_not_read_back(model, out, monkeypatch):
    def refuse(*_):
        raise ModelError("was read back as something else")

    monkeypatch.setattr(rewrite, "verify_weight_only", refuse)
    with pytest.raises(ModelError, match="read back"):
        stream_weights(model, {"up": RTN}, out / "m.onnx")
    check_untouched(out)


@pytest.mark.parametrize(
    ("specs", "kind", "message"),
    [
        ({"pu": RTN}, ModelError, "no initializer named `pu`"),
        ({"up": LayerSpec(method="gptq")}, UnsupportedError, "gptq of `up` needs calibration"),
        ({"up": LayerSpec(format="int8-static")}, UnsupportedError, "int8-static, which needs calibration"),
        ({"norm": RTN}, ModelError, "expected a matrix"),
    ],
)
def test_refusals(model, out, specs, kind, message):
    with pytest.raises(kind, match=message):
        stream_weights(model, specs, out / "m.onnx")
    check_untouched(out)


def test_float16_overflow(weights, tmp_path, write_checkpoint, out):
    weights["down"][0][0, 0] = 7e4
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "model.safetensors", weights))
    model = build_graph({name: checkpoint[name].reference() for name in checkpoint.names()})
    with pytest.raises(UnsupportedError, match="7e\\+04, beyond float16's 65504"):
        stream_weights(model, {"down": LayerSpec(format="fp16")}, out / "m.onnx")
    check_untouched(out)


def test_the_graph_given_is_not_changed(model, tmp_path):
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    stream_weights(model, {"up": RTN, "down": LayerSpec(format="fp16")}, tmp_path / "m.onnx")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_unfilled_regions_are_not_committed(tmp_path):
    writer = external_data.ExternalDataWriter(tmp_path / "d")
    with writer, pytest.raises(ValueError, match="0 of 8 bytes"):
        writer.reserve(8)
        writer.commit()
    with writer, pytest.raises(ValueError, match="8 bytes for a region of 4"):
        writer.reserve(4).write(np.zeros(8, np.uint8))
    assert files_of(tmp_path) == []
