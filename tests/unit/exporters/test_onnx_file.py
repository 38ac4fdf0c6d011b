"""ONNX files: read, refused, fused, and taken in with the file itself as the reference."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import EdgeqError, ModelError
from edgeq.exporters import inspect_model, load_model
from edgeq.exporters.onnx_fusions import fuse_spelled_out
from edgeq.exporters.onnx_mask import replace_mask
from edgeq.types import Task

HIDDEN = 16
TABLE_NAME, NORM_NAME = "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.LayerNorm"
RNG = np.random.default_rng(5)
TABLE = RNG.normal(size=(100, HIDDEN)).astype(np.float32)
WEIGHT = RNG.normal(size=(HIDDEN, HIDDEN)).astype(np.float32)
SCALE = RNG.normal(size=HIDDEN).astype(np.float32)


def spelled_out(
    opset: int = 14, *, seq: object = "tokens", ids: int = TensorProto.INT64, extra: str = ""
) -> onnx.ModelProto:
    """A one-layer encoder as an older exporter writes it: LayerNorm and Gelu in small operators, long names."""
    name = "/encoder/layer.0/{}".format
    nodes = [
        helper.make_node("Gather", [TABLE_NAME, "input_ids"], ["rows"], name="/embeddings/Gather"),
        helper.make_node("MatMul", ["rows", "onnx::MatMul_9"], ["product"], name=name("dense/MatMul")),
        helper.make_node("Div", ["product", "root"], ["scaled"], name=name("act/Div")),
        helper.make_node("Erf", ["scaled"], ["erf"], name=name("act/Erf")),
        helper.make_node("Add", ["erf", "one"], ["shifted"], name=name("act/Add")),
        helper.make_node("Mul", ["product", "shifted"], ["gated"], name=name("act/Mul")),
        helper.make_node("Mul", ["gated", "half"], ["gelu"], name=name("act/Mul_1")),
        helper.make_node("ReduceMean", ["gelu"], ["mean"], axes=[-1], name=name("LayerNorm/ReduceMean")),
        helper.make_node("Sub", ["gelu", "mean"], ["centred"], name=name("LayerNorm/Sub")),
        helper.make_node("Pow", ["centred", "two"], ["squared"], name=name("LayerNorm/Pow")),
        helper.make_node("ReduceMean", ["squared"], ["variance"], axes=[-1], name=name("LayerNorm/ReduceMean_1")),
        helper.make_node("Add", ["variance", "epsilon"], ["safe"], name=name("LayerNorm/Add")),
        helper.make_node("Sqrt", ["safe"], ["deviation"], name=name("LayerNorm/Sqrt")),
        helper.make_node("Div", ["centred", "deviation"], ["normal"], name=name("LayerNorm/Div")),
        helper.make_node("Mul", ["normal", f"{NORM_NAME}.weight"], ["stretched"], name=name("LayerNorm/Mul")),
        helper.make_node("Add", ["stretched", f"{NORM_NAME}.bias"], ["normed"], name=name("LayerNorm/Add_1")),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT, name="/Cast"),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"], name="/Unsqueeze"),
        helper.make_node("Mul", ["normed", "column"], ["last_hidden_state"], name="/Mul"),
    ]  # fmt: skip
    constants = {
        TABLE_NAME: TABLE,
        "onnx::MatMul_9": WEIGHT,
        "root": np.float32(np.sqrt(2)),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "two": np.float32(2),
        "epsilon": np.float32(1e-5),
        f"{NORM_NAME}.weight": SCALE,
        f"{NORM_NAME}.bias": SCALE * 0.1,
        "last": np.array([-1]),
    }
    inputs = [
        ("input_ids", ids),
        ("attention_mask", TensorProto.INT64),
        *([(extra, TensorProto.INT64)] if extra else []),
    ]
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info(one, kind, ["n", seq]) for one, kind in inputs],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", seq, HIDDEN])],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def place(tiny_models, tmp_path):
    """Writes a model beside a tokenizer and returns its path."""
    tiny_models.write_tokenizer(tmp_path, vocabulary_size=100)

    def write(proto: onnx.ModelProto | bytes, where: str = "model.onnx") -> Path:
        path = tmp_path / where
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
        return path

    return write


def test_spelled_out_operators_are_fused():
    model = ir.from_proto(spelled_out())
    from onnxscript import version_converter

    version_converter.convert_version(model, 20, fallback=True)
    assert fuse_spelled_out()(model).modified
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Gelu") == kinds.count("LayerNormalization") == 1
    assert not {"Erf", "Sqrt", "ReduceMean"} & set(kinds)


def test_a_gelu_of_another_kind_is_not_fused():
    """The negative twin: erf(x / 1.5) is no Gelu."""
    proto = spelled_out()
    root = next(one for one in proto.graph.initializer if one.name == "root")
    root.CopyFrom(numpy_helper.from_array(np.float32(1.5), "root"))
    model = ir.from_proto(proto)
    fuse_spelled_out()(model)
    assert "Erf" in [node.op_type for node in model.graph]


def masked_softmax(*, by_content: bool) -> ir.Model:
    """Scores with a mask made by comparison, as older exports do; perhaps one that looks at the scores too."""
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["kept", "axes"], ["wide"]),
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Where", ["wide", "zero", "low"], ["bias"]),
        helper.make_node("Mul", ["bias", "scores"], ["spoiled"]),
        helper.make_node("Add", ["scores", "spoiled" if by_content else "bias"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["logits"]),
    ]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
        for name in ("input_ids", "attention_mask")
    ]
    infos.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2, "t", "t"]))
    constants = {"axes": np.array([1, 2]), "zero": np.float32(0), "low": np.float32(-3e38)}
    graph = helper.make_graph(
        nodes,
        "mask",
        infos,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2, "t", "t"])],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def test_a_mask_made_by_comparison_becomes_a_product():
    import onnxruntime as ort

    scores = RNG.normal(size=(2, 2, 3, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    feeds = {"input_ids": mask, "attention_mask": mask, "scores": scores}
    model = masked_softmax(by_content=False)
    before, after = (
        ort.InferenceSession(ir.to_proto(one).SerializeToString()).run(None, feeds)[0]
        for one in (masked_softmax(by_content=False), model)
        if one is not model or replace_mask(3)(model).modified
    )
    np.testing.assert_allclose(after, before, atol=1e-7)
    added = next(node for node in model.graph if node.outputs[0].name == "masked")
    assert added.inputs[1].producer().op_type == "Mul"


def test_a_mask_made_of_more_than_the_mask_is_left_alone():
    assert not replace_mask(3)(masked_softmax(by_content=True)).modified


@pytest.mark.parametrize("where", ["model.onnx", "onnx/model.onnx"])
def test_a_file_is_taken_in(place, where):
    exported = load_model(place(spelled_out(), where))
    canonical = exported.canonical
    assert (exported.source.task, exported.source.architecture) == (Task.FEATURE_EXTRACTION, "onnx")
    assert dict(canonical.model.opset_imports) == {"": 20}
    assert [spec.name for spec in canonical.inputs] == ["input_ids", "attention_mask"]
    assert canonical.outputs[0].shape == ("batch", "sequence", HIDDEN)
    names = {node.op_type: node.name for node in canonical.model.graph}
    assert names["MatMul"] == "encoder.layer.0.dense"
    assert names["LayerNormalization"] == "encoder.layer.0.LayerNorm"
    assert "encoder.layer.0.dense.weight" in canonical.model.graph.initializers
    assert [file.path for file in exported.source.files] == sorted(
        [where, "tokenizer.json", "tokenizer_config.json"]
    )
    assert exported.source.parameters >= TABLE.size + WEIGHT.size + 2 * HIDDEN


def test_our_own_graph_is_taken_in_again(exported, tiny_model, tmp_path):
    first = exported("bert", "feature-extraction")
    folder = Path(shutil.copytree(tiny_model("bert", "feature-extraction"), tmp_path / "again"))
    ir.save(first.canonical.model.clone(), folder / "model.onnx")
    second = load_model(folder / "model.onnx")
    assert second.source.architecture == "bert"
    assert second.canonical.max_length == 64
    assert [spec.name for spec in second.canonical.inputs] == [spec.name for spec in first.canonical.inputs]
    one, two = (sorted(node.op_type for node in model.canonical.model.graph) for model in (first, second))
    assert one == two


def refused(path: Path, match: str, **options) -> EdgeqError:
    with pytest.raises(EdgeqError, match=match) as found:
        load_model(path, **options)
    return found.value


def test_a_missing_file(tmp_path):
    refused(tmp_path / "model.onnx", "there is no file")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_a_truncated_file(place, share):
    data = spelled_out().SerializeToString()
    error = refused(place(data[: int(len(data) * share)]), "model.onnx")
    assert isinstance(error, ModelError)


def test_not_an_onnx_file(place):
    refused(place(b"<html>404</html>" * 40), "model.onnx")


def test_unknown_inputs(place):
    refused(
        place(spelled_out(extra="pixel_values")), "inputs input_ids, attention_mask, pixel_values, expected"
    )


def test_no_tokenizer(place):
    path = place(spelled_out())
    (path.parent / "tokenizer.json").unlink()
    refused(path, "has no tokenizer")


def test_outputs_that_do_not_say_their_task(place):
    proto = spelled_out()
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "output_0"
    path = place(proto)
    error = refused(path, "do not say what it computes")
    assert "--task" in str(error.hint)
    assert inspect_model(path, task="token-classification").is_supported
    exported = load_model(path, task="token-classification")
    assert [spec.name for spec in exported.canonical.outputs] == ["logits"]


def test_a_task_with_other_outputs(place):
    refused(place(spelled_out()), "expected start_logits, end_logits", task="question-answering")


def test_a_quantized_file(place):
    proto = spelled_out()
    proto.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["rows"], ["q", "s", "z"]))
    refused(place(proto), r"already quantized \(DynamicQuantizeLinear\)")


def test_an_opset_that_onnx_runtime_does_not_have(place):
    assert refused(place(spelled_out(opset=99)), "cannot run|opset 99").hint
