"""ONNX files as other tools write them, each held against the torch model that the file was made of."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ConfigError, EdgeqError, ModelError
from edgeq.exporters import inspect_model, load_model
from edgeq.exporters.equivalence import run_graph
from edgeq.exporters.onnx_opsets import lower_opset, opset_refusal
from edgeq.exporters.onnx_quantized import quantized_by
from edgeq.exporters.onnx_signature import plain_name
from edgeq.samples import as_samples
from edgeq.types import Task

NAMES = ("input_ids", "attention_mask", "token_type_ids")
LENGTH, BATCH = 16, 2


def write_file(model, path: Path, *, free: str = "bs", inputs: int = 3, opset: int = 17) -> Path:
    """Trace a transformers encoder into an ONNX file; `free` names the dimensions that are not fixed."""
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.m = model

        def forward(self, ids, mask, types=None):
            types = {} if types is None else {"token_type_ids": types}
            return self.m(input_ids=ids, attention_mask=mask, **types).last_hidden_state

    ids = torch.full((BATCH, LENGTH), 7)
    args = (ids, torch.ones_like(ids), torch.zeros_like(ids))[:inputs]
    axes = {index: name for index, (key, name) in enumerate((("b", "n"), ("s", "t"))) if key in free}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Encoder().eval(), args, str(path), dynamo=False, opset_version=opset,
            input_names=list(NAMES[:inputs]), output_names=["last_hidden_state"],
            dynamic_axes={name: dict(axes) for name in (*NAMES[:inputs], "last_hidden_state")} if axes else None,
        )  # fmt: skip
    return path


def torch_model(folder: Path, attention: str = "sdpa"):
    import transformers

    return transformers.AutoModel.from_pretrained(folder, attn_implementation=attention).eval()


@pytest.fixture(scope="module")
def bert(tiny_model):
    """A tiny BERT of torch, and its folder."""
    folder = tiny_model("bert")
    return torch_model(folder), folder


@pytest.fixture(scope="module")
def stock(bert, tmp_path_factory) -> onnx.ModelProto:
    """The file that torch writes of it, with torch's own guard behind every softmax."""
    return onnx.load(write_file(bert[0], tmp_path_factory.mktemp("stock") / "model.onnx"))


@pytest.fixture
def place(bert, tmp_path):
    """Writes a file beside the tokenizer of the model, without its weights."""

    def write(proto: onnx.ModelProto, where: str = "model.onnx") -> Path:
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            (tmp_path / name).write_bytes((bert[1] / name).read_bytes())
        path = tmp_path / where
        path.parent.mkdir(exist_ok=True)
        onnx.save(proto, path)
        return path

    return write


def copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def by_torch(model, feeds) -> np.ndarray:
    import torch

    with torch.no_grad():
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        return model(**tensors).last_hidden_state.numpy()


def error_of(exported, model, rows: int = 3, tokens: int | None = None) -> float:
    """Largest difference to torch on tokens, relative to the scale, for ragged rows up to the longest length."""
    tokens = tokens or exported.canonical.max_length
    rng = np.random.default_rng(3)
    ids = rng.integers(5, 60, (rows, tokens))
    mask = (np.arange(tokens)[None, :] < np.array([tokens, max(tokens // 2, 1), 2])[:rows, None]).astype(
        np.int64
    )
    feeds = {spec.name: ids for spec in exported.canonical.inputs}
    feeds |= {"attention_mask": mask}
    if "token_type_ids" in feeds:
        feeds["token_type_ids"] = np.zeros_like(ids)
    expected, got = by_torch(model, feeds), run_graph(exported.canonical)(feeds)["last_hidden_state"]
    kept = mask.astype(bool)
    return float(np.abs(got[kept] - expected[kept]).max() / np.abs(expected[kept]).max())


def kinds(exported) -> Counter[str]:
    return Counter(node.op_type for node in exported.canonical.model.graph)


# The guard of torch's attention


def test_the_guard_behind_a_softmax_is_dropped_where_no_row_can_be_empty(stock, place, bert):
    assert Counter(node.op_type for node in stock.graph.node)["IsNaN"] == 2
    exported = load_model(place(stock))
    assert not {"IsNaN", "Where"} & set(kinds(exported))
    assert error_of(exported, bert[0]) < 1e-5


def guarded(low: float) -> ir.Model:
    """Softmax over scores of which a constant may take all, and the guard."""
    nodes = [
        helper.make_node("Add", ["scores", "low"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"]),
        helper.make_node("IsNaN", ["p"], ["bad"]),
        helper.make_node("Where", ["bad", "zero", "p"], ["out"]),
    ]
    value = helper.make_tensor_value_info
    constants = {"low": np.full(3, low, np.float32), "zero": np.float32(0)}
    graph = helper.make_graph(
        nodes,
        "guarded",
        [value("scores", TensorProto.FLOAT, ["n", 3])],
        [value("out", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


@pytest.mark.parametrize(("low", "dropped"), [(-1e4, 1), (-np.inf, 0), (np.finfo(np.float32).min, 0)])
def test_a_guard_that_can_act_stays(low, dropped):
    from edgeq.exporters.onnx_mask import drop_softmax_guards

    model = guarded(low)
    count = len(model.graph)
    assert drop_softmax_guards()(model).modified == bool(dropped)
    assert count - len(model.graph) == dropped


# Fixed sizes


@pytest.mark.parametrize("free", ["", "b", "s"])
def test_a_fixed_file_computes_the_same_for_any_batch_and_shorter_texts(bert, place, tmp_path, free):
    model, _ = bert
    exported = load_model(place(onnx.load(write_file(model, tmp_path / "fixed.onnx", free=free))))
    assert exported.canonical.max_length == (64 if "s" in free else LENGTH)
    assert exported.canonical.inputs[0].shape == ("batch", "sequence")
    for rows, tokens in ((1, 5), (3, 7), (3, LENGTH)):
        assert error_of(exported, model, rows, tokens) < 1e-5
    feeds = exported.preprocessor(as_samples(["a b c", "d", "e f"]))
    reference, ours = exported.reference(feeds), run_graph(exported.canonical)(feeds)
    mask = feeds["attention_mask"].astype(bool)
    np.testing.assert_allclose(
        reference["last_hidden_state"][mask], ours["last_hidden_state"][mask], atol=1e-4
    )


def test_more_tokens_than_a_fixed_file_takes(bert, place, tmp_path):
    path = place(onnx.load(write_file(bert[0], tmp_path / "fixed.onnx", free="b")))
    with pytest.raises(ConfigError, match=f"positions for 1 to {LENGTH}"):
        load_model(path, seq_len=LENGTH + 1)


def test_a_fixed_file_that_tells_its_rows_apart_is_refused(bert, place, tmp_path):
    """The negative twin: freeing takes the rows of a constant for alike, and the comparison finds that they are not."""
    proto = onnx.load(write_file(bert[0], tmp_path / "fixed.onnx", free=""))
    rows = np.arange(BATCH, dtype=np.float32).reshape(BATCH, 1, 1)
    proto.graph.initializer.append(numpy_helper.from_array(rows, "rows"))
    last = next(node for node in proto.graph.node if node.output[0] == "last_hidden_state")
    last.output[0] = "before"
    proto.graph.node.append(helper.make_node("Add", ["before", "rows"], ["last_hidden_state"]))
    with pytest.raises(ModelError, match=r"does not compute what the model does|does not work for others"):
        load_model(place(proto))


# Types and names


def test_other_input_types(stock, place, bert):
    """Int32 ids, and a float mask: fed as the file wants them, int64 in the bundle."""
    proto = copied(stock)
    casts = []
    for value, kind in zip(
        proto.graph.input, (TensorProto.INT32, TensorProto.FLOAT, TensorProto.INT32), strict=True
    ):
        for node in proto.graph.node:
            node.input[:] = [f"{name}_64" if name == value.name else name for name in node.input]
        casts.append(helper.make_node("Cast", [value.name], [f"{value.name}_64"], to=TensorProto.INT64))
        value.type.tensor_type.elem_type = kind
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    exported = load_model(place(proto))
    assert {spec.dtype for spec in exported.canonical.inputs} == {"int64"}
    assert error_of(exported, bert[0]) < 1e-5


def test_ids_that_are_no_integers_are_refused(stock, place):
    proto = copied(stock)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(ModelError, match=r"input_ids .* is FLOAT, expected INT64 or INT32"):
        load_model(place(proto))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("input_ids:0", "input_ids"),
        ("serving_default_input_mask:0", "attention_mask"),
        ("segment_ids", "token_type_ids"),
        ("pixel_values", "pixel_values"),
    ],
)
def test_names_of_other_tools(theirs, ours):
    assert plain_name(theirs) == ours


def test_a_file_with_other_names_is_taken(stock, place, bert):
    proto = copied(stock)
    for value in (*proto.graph.input, *proto.graph.output):
        for node in proto.graph.node:
            for names in (node.input, node.output):
                names[:] = [f"{name}:0" if name == value.name else name for name in names]
        value.name += ":0"
    exported = load_model(place(proto))
    assert [spec.name for spec in exported.canonical.inputs] == list(NAMES)
    assert error_of(exported, bert[0]) < 1e-5


@pytest.mark.parametrize("keeps_io", [True, False])
def test_half_precision_is_widened(stock, place, bert, keeps_io):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    exported = load_model(place(convert_float_to_float16(copied(stock), keep_io_types=keeps_io)))
    used = kinds(exported)
    assert (used["Gelu"], used["Erf"], used["Cast"]) == (2, 0, 1)
    assert {value.dtype for value in exported.canonical.model.graph.initializers.values()} <= {
        ir.DataType.FLOAT,
        ir.DataType.INT64,
    }
    # Beside torch in float32: what is left is the rounding of the weights to 11 bits.
    assert 1e-6 < error_of(exported, bert[0]) < 1e-2
    outputs = exported.reference(exported.preprocessor(as_samples(["a"])))
    assert outputs["last_hidden_state"].dtype == np.float32


# Operator sets


def attention(rank: int = 4, **attributes) -> onnx.ModelProto:
    shape = ["n", 2, "t", 8] if rank == 4 else ["n", "t", 16]
    value = helper.make_tensor_value_info
    node = helper.make_node("Attention", ["q", "k", "v", "mask"], ["out"], **attributes)
    graph = helper.make_graph(
        [node],
        "attention",
        [
            *(value(name, TensorProto.FLOAT, shape) for name in "qkv"),
            value("mask", TensorProto.BOOL, ["n", 1, "t", "t"]),
        ],
        [value("out", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


@pytest.mark.parametrize("attributes", [{}, {"scale": 0.5}])
def test_attention_of_opset_23_is_written_out(attributes):
    import onnxruntime as ort

    proto = attention(**attributes)
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(2, 2, 5, 8)).astype(np.float32) for name in "qkv"}
    kept = np.arange(5)[None, None, None, :] < np.array([5, 3])[:, None, None, None]
    feeds["mask"] = np.repeat(kept, 5, axis=2)
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, feeds)[0]
    model = ir.from_proto(proto)
    lower_opset()(model)
    model.ir_version = 10
    assert model.opset_imports[""] == 20
    got = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, feeds)[0]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("proto", "named"),
    [
        (attention(is_causal=1), "Attention with is_causal"),
        (attention(rank=3, q_num_heads=2, kv_num_heads=2), "not \\[batch, heads"),
    ],
)
def test_what_an_older_opset_cannot_say_is_named_with_a_way_out(proto, named):
    refusal = opset_refusal(ir.from_proto(proto))
    assert refusal is not None and "opset" in str(refusal.hint)
    with pytest.raises(ModelError, match=named):
        raise refusal


@pytest.mark.parametrize("opset", [21, 22])
def test_newer_opsets_without_new_operators_are_taken(stock, place, bert, opset):
    proto = copied(stock)
    proto.opset_import[0].version = opset
    proto.ir_version = 10
    assert error_of(load_model(place(proto)), bert[0]) < 1e-5


# Weights that are codes already


def with_codes(proto: onnx.ModelProto, *, zero_point: bool = False, kind=np.int8) -> onnx.ModelProto:
    """Matrices stored as integers: cast to float, perhaps shifted, times a scale."""
    proto = copied(proto)
    made = []
    for tensor in list(proto.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.ndim != 2 or array.dtype != np.float32:
            continue
        name, scale = tensor.name, np.abs(array).max(0, keepdims=True) / 127
        codes = np.round(array / scale) + (128 if zero_point else 0)
        proto.graph.initializer.remove(tensor)
        proto.graph.initializer.extend(
            numpy_helper.from_array(one, f"{name}_{key}")
            for key, one in (
                ("q", codes.astype(kind)),
                ("s", scale.astype(np.float32)),
                ("z", np.float32(128)),
            )
        )
        made.append(helper.make_node("Cast", [f"{name}_q"], [f"{name}_f"], to=TensorProto.FLOAT))
        if zero_point:
            made.append(helper.make_node("Sub", [f"{name}_f", f"{name}_z"], [f"{name}_c"]))
        made.append(helper.make_node("Mul", [f"{name}_{'c' if zero_point else 'f'}", f"{name}_s"], [name]))
    nodes = [*made, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


@pytest.mark.parametrize(("zero_point", "kind"), [(False, np.int8), (True, np.uint8)])
def test_codes_times_a_scale_are_seen_as_quantized(stock, place, zero_point, kind):
    path = place(with_codes(stock, zero_point=zero_point, kind=kind))
    refusal = inspect_model(path).refusal
    assert refusal is not None and refusal.hint
    with pytest.raises(ModelError, match=f"already quantized \\({np.dtype(kind).name.upper()} weights"):
        load_model(path)


def test_a_float_file_is_not_seen_as_quantized(stock):
    """The negative twin: ids, shapes and masks are integers too."""
    assert quantized_by(ir.from_proto(stock)) == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # its calibration divides by the range of a constant
@pytest.mark.parametrize("static", [False, True])
def test_what_onnx_runtime_quantized_is_named(stock, place, tmp_path, static):
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):
        left = 1

        def get_next(self):
            self.left -= 1
            ids = np.full((1, 4), 7)
            return None if self.left < 0 else dict(zip(NAMES, (ids, ids // 7, ids * 0), strict=True))

    before, after = tmp_path / "float.onnx", tmp_path / "codes.onnx"
    onnx.save(stock, before)
    quantize_static(before, after, Reader()) if static else quantize_dynamic(before, after)
    with pytest.raises(ModelError, match="already quantized"):
        load_model(place(onnx.load(after)))


def test_weights_inside_operators_of_onnx_runtime_are_named(stock, place):
    proto = copied(stock)
    matrix = next(one.name for one in proto.graph.initializer if len(one.dims) == 2)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.graph.node.append(
        helper.make_node("FusedMatMul", ["last_hidden_state", matrix], ["x"], domain="com.microsoft")
    )
    with pytest.raises(ModelError, match="weights are inside FusedMatMul") as found:
        load_model(place(proto))
    assert "checkpoint" in str(found.value.hint)


# Windows, and the longest length


@pytest.fixture(scope="module")
def windowed(tiny_model, tmp_path_factory):
    """ModernBERT with a window of 16 tokens at 64 positions, as a file."""
    folder = tiny_model("modernbert")
    model = torch_model(folder)
    place = tmp_path_factory.mktemp("windowed")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (place / name).write_bytes((folder / name).read_bytes())
    return model, write_file(model, place / "model.onnx", inputs=2)


def test_a_sliding_window_is_kept(windowed):
    model, path = windowed
    exported = load_model(path)
    assert not {"Where", "IsNaN"} & set(kinds(exported))
    assert exported.canonical.max_length == 64
    assert error_of(exported, model) < 1e-5


def test_a_window_that_was_lost_is_found_at_the_longest_length(windowed, monkeypatch):
    """The negative twin: the mask of padding alone, put in the place of the window."""
    monkeypatch.setattr("edgeq.exporters.onnx_mask._window", lambda *_: None)
    with pytest.raises(ModelError, match="does not compute what the model does"):
        load_model(windowed[1])


def test_files_are_compared_at_the_longest_length_they_take(stock, place, monkeypatch):
    """Beyond the 512 tokens of other comparisons too."""
    from edgeq.exporters import equivalence

    monkeypatch.setattr(equivalence, "LONG_TEXT_TOKENS", 8)
    seen: list[int] = []
    compare = equivalence.compare
    monkeypatch.setattr(equivalence, "compare", lambda *args: seen.append(args[3].shape[1]) or compare(*args))
    load_model(place(stock))
    assert max(seen) == 64


# Folders of the Hub


def test_a_folder_with_an_onnx_file_only(stock, place, bert):
    folder = place(stock, "onnx/model.onnx").parent.parent
    facts = inspect_model(folder)
    assert (facts.task, facts.architecture, Path(facts.model).name) == (
        Task.FEATURE_EXTRACTION, "bert", "model.onnx",
    )  # fmt: skip
    exported = load_model(folder)
    assert error_of(exported, bert[0]) < 1e-5
    assert "onnx/model.onnx" in [file.path for file in exported.source.files]


def test_a_file_without_the_pooling_that_its_folder_names(stock, place):
    folder = place(stock, "onnx/model.onnx").parent.parent
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"))
    modules = [
        {"idx": index, "type": f"sentence_transformers.models.{kind}", "path": path}
        for index, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    for task in (None, "sentence-embedding"):
        refusal = inspect_model(folder, task=task).refusal
        assert "the outputs last_hidden_state, expected sentence_embedding" in str(refusal)
        assert "--task feature-extraction" in str(refusal.hint)
        with pytest.raises(EdgeqError, match="expected sentence_embedding"):
            load_model(folder, task=task)
    assert inspect_model(folder, task="feature-extraction").is_supported


def test_a_checkpoint_comes_before_the_file_beside_it(stock, place, bert):
    folder = place(stock, "onnx/model.onnx").parent.parent
    (folder / "model.safetensors").write_bytes((bert[1] / "model.safetensors").read_bytes())
    assert inspect_model(folder).model == str(folder)


def test_a_folder_of_other_onnx_files_names_them(stock, place):
    folder = place(stock, "onnx/model_quantized.onnx").parent.parent
    place(stock, "onnx/model_fp16.onnx")
    with pytest.raises(EdgeqError, match=r"onnx/model_fp16.onnx, onnx/model_quantized.onnx") as found:
        inspect_model(folder)
    assert "model_fp16.onnx" in str(found.value.hint)
