"""Every architecture and task: the traced module against the original, without tracing, and the exported encoders."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgeq.errors import ModelError
from edgeq.exporters import ARCHITECTURES
from edgeq.exporters.checkpoint import load_encoder
from edgeq.exporters.equivalence import PROBES, TOLERANCE, check_equivalence, compare, run_graph
from edgeq.exporters.reference import original
from edgeq.exporters.sentence import build_sentence_head, read_sentence_model
from edgeq.exporters.text_encoder import build_text_encoder, input_specs, standard_activations
from edgeq.exporters.tokenizer import load_tokenizer, text_preprocessor
from edgeq.graph.component import CANONICAL_OPSET
from edgeq.samples import as_samples
from edgeq.types import Role, Task, TensorSpec

EVERY = [(name, task) for name, spec in ARCHITECTURES.items() for task in spec.tasks]

# What every target has a lowering for; Where, Equal, Expand, Range, CumSum, GatherElements and GatherND are not in it.
COMMON = {
    "Add", "Cast", "Clip", "Div", "Gather", "Gelu", "LayerNormalization", "MatMul", "Mul", "ReduceL2", "ReduceSum",
    "Relu", "Reshape", "Shape", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
}  # fmt: skip
EXTRA = {
    "deberta-v2": {"Concat", "Pad"},
    "modernbert": {"Abs", "Concat", "Cos", "Neg", "Sin"},
}


def test_every_architecture_has_a_tiny_model():
    for name, spec in ARCHITECTURES.items():
        assert spec.model_type == name
        assert spec.tiny_config["vocab_size"] == 100
        assert set(spec.heads) == set(Task) - {Task.SENTENCE_EMBEDDING, Task.TEXT_GENERATION}


def _eager(folder, architecture, task):
    """The wrapped module and the original on a ragged batch, as outputs by name, and the batch's mask."""
    spec = ARCHITECTURES[architecture]
    model = load_encoder(folder, spec, task)
    sentence = read_sentence_model(folder)
    head = build_sentence_head(sentence.modules, spec.positions(model.config)) if sentence else None
    names = [one.name for one in input_specs(spec.token_types(model.config))]
    feeds = text_preprocessor(load_tokenizer(folder), max_length=48, input_names=names)(as_samples(PROBES))
    with spec.patch(model), standard_activations(model), torch.inference_mode():
        encoder = build_text_encoder(model, spec, task, head)
        got = encoder(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    return original(model, task, head)(feeds), {name: value.numpy() for name, value in got.items()}, feeds


@pytest.mark.parametrize(("architecture", "task"), EVERY)
def test_the_traced_module_computes_what_the_original_does(tiny_model, architecture, task):
    _assert_equal(*_eager(tiny_model(architecture, task), architecture, task), task)


VARIANTS = [
    ("albert", Task.FEATURE_EXTRACTION, {"num_hidden_groups": 2, "hidden_act": "gelu"}),
    ("bert", Task.FEATURE_EXTRACTION, {"type_vocab_size": 1, "hidden_act": "relu"}),
    ("bert", Task.SEQUENCE_CLASSIFICATION, {"hidden_act": "gelu_new"}),
    (
        "deberta-v2",
        Task.FEATURE_EXTRACTION,
        {"share_att_key": False, "position_buckets": -1, "norm_rel_ebd": "none"},
    ),
    ("deberta-v2", Task.FEATURE_EXTRACTION, {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ("deberta-v2", Task.FEATURE_EXTRACTION, {"pos_att_type": ["c2p"], "type_vocab_size": 2}),
    ("deberta-v2", Task.FEATURE_EXTRACTION, {"relative_attention": False, "position_biased_input": True}),
    ("deberta-v2", Task.FILL_MASK, {"legacy": False}),
    ("distilbert", Task.FEATURE_EXTRACTION, {"sinusoidal_pos_embds": True, "activation": "relu"}),
    ("electra", Task.FEATURE_EXTRACTION, {"embedding_size": 32}),
    ("modernbert", Task.SEQUENCE_CLASSIFICATION, {"classifier_pooling": "mean"}),
    ("modernbert", Task.FEATURE_EXTRACTION, {"attention_bias": True, "mlp_bias": True, "norm_bias": True}),
    ("roberta", Task.FEATURE_EXTRACTION, {"pad_token_id": 0, "type_vocab_size": 2}),
    ("xlm-roberta", Task.FEATURE_EXTRACTION, {"hidden_act": "silu"}),
]


@pytest.mark.parametrize(("architecture", "task", "config"), VARIANTS)
def test_what_checkpoints_of_a_family_differ_in(tiny_models, tmp_path, architecture, task, config):
    folder = tiny_models.build_tiny_model(tmp_path, architecture, task, **config)
    _assert_equal(*_eager(folder, architecture, task), task)


def _assert_equal(expected, got, feeds, task):
    assert list(expected) == list(got)
    specs = tuple(
        TensorSpec(name, "float32", ("batch", "sequence")[: array.ndim], Role(name))
        for name, array in got.items()
    )
    if task in (Task.SENTENCE_EMBEDDING, Task.SEQUENCE_CLASSIFICATION):
        specs = tuple(replace(spec, shape=("batch", 3)) for spec in specs)
    # Both are float32 sums in another order: 2 layers of 32 wide leave errors near 1e-6 of the scale.
    assert max(found.relative for found in compare(specs, expected, got, feeds["attention_mask"])) < 1e-5
    if task is not Task.SENTENCE_EMBEDDING:
        assert max(np.abs(array).max() for array in expected.values()) > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_is_itself_again_after_the_trace(tiny_model, architecture):
    folder = tiny_model(architecture, Task.FEATURE_EXTRACTION)
    spec = ARCHITECTURES[architecture]
    model = load_encoder(folder, spec, Task.FEATURE_EXTRACTION)
    before = [(name, type(part)) for name, part in model.named_modules()]
    with spec.patch(model), standard_activations(model):
        pass
    assert sorted((name, type(part).__name__) for name, part in model.named_modules()) == sorted(
        (name, kind.__name__) for name, kind in before
    )


@pytest.fixture(params=sorted(ARCHITECTURES))
def encoder(request, exported):
    return exported(request.param, Task.FEATURE_EXTRACTION)


def test_the_graph_matches_on_ragged_and_single_batches(encoder):
    for found in check_equivalence(encoder.canonical, encoder.preprocessor, encoder.reference):
        assert found.relative < 1e-5 < TOLERANCE


def test_the_graph_is_clean(encoder):
    name, graph = encoder.source.architecture, encoder.canonical.model.graph
    assert {node.op_type for node in graph} <= COMMON | EXTRA.get(name, set())
    assert Counter(node.op_type for node in graph)["Cast"] == 1
    assert all(node.domain == "" for node in graph)
    assert dict(encoder.canonical.model.opset_imports) == {"": CANONICAL_OPSET}
    assert all(
        tensor.const_value.dtype in (ir.DataType.FLOAT, ir.DataType.INT64)
        for tensor in graph.initializers.values()
    )


def test_inputs_and_outputs_are_named_and_free(encoder):
    canonical = encoder.canonical
    names = [value.name for value in canonical.model.graph.inputs]
    assert names == [spec.name for spec in canonical.inputs] == list(encoder.preprocessor.input_names)
    for value in canonical.model.graph.inputs:
        assert [str(dim) for dim in value.shape] == ["batch", "sequence"]
    assert canonical.outputs == (
        TensorSpec("last_hidden_state", "float32", ("batch", "sequence", 32), Role.LAST_HIDDEN_STATE),
    )


def test_the_mask_is_read_by_one_cast_only(encoder):
    mask = encoder.canonical.model.graph.inputs[1]
    assert [node.op_type for node in mask.consumers()] == ["Cast"]


def test_linear_layers_are_named_by_their_module(encoder):
    graph = encoder.canonical.model.graph
    linears = [node for node in graph if node.op_type == "MatMul" and node.inputs[1].is_initializer()]
    assert len(linears) >= 12
    for node in linears:
        assert node.inputs[1].name == f"{node.name.split('@')[0]}.weight"
        assert "/" not in node.name
    assert all(len(set(names)) == len(names) for names in [[node.name for node in graph]])


def test_a_sentence_alone_gives_what_it_gives_in_a_batch(encoder):
    run = run_graph(encoder.canonical)
    batch = run(encoder.preprocessor(as_samples(list(PROBES))))["last_hidden_state"]
    for row in (0, 3):
        alone = run(encoder.preprocessor(as_samples([PROBES[row]])))["last_hidden_state"][0]
        # Float32 rounding over another batch layout; a mask that leaks gives differences near 1.
        np.testing.assert_allclose(batch[row, : len(alone)], alone, atol=2e-5)


def test_padding_to_any_length_changes_nothing(encoder):
    run = run_graph(encoder.canonical)
    short = run(encoder.preprocessor(as_samples(["Two owls."])))["last_hidden_state"]
    longest = run(encoder.preprocessor(as_samples(["Two owls."]), pad_to=encoder.canonical.max_length))[
        "last_hidden_state"
    ]
    np.testing.assert_allclose(longest[:, : short.shape[1]], short, atol=2e-5)


def test_a_changed_weight_is_found(encoder):
    """The negative twin: one weight of the last layer, one thousandth of its largest."""
    model = encoder.canonical.model.clone()
    name = [
        str(node.inputs[1].name)
        for node in model.graph
        if node.op_type == "MatMul" and node.inputs[1].is_initializer()
    ][-1]
    value = model.graph.initializers[name]
    weight = value.const_value.numpy().copy()
    weight[0, 0] += np.abs(weight).max()
    value.const_value = ir.tensor(weight, name=name)
    with pytest.raises(ModelError, match=r"last_hidden_state at \(\d+, \d+, \d+\)"):
        check_equivalence(replace(encoder.canonical, model=model), encoder.preprocessor, encoder.reference)


def test_a_lost_mask_is_found(encoder):
    """The negative twin of the mask: padding that is attended to."""
    model = encoder.canonical.model.clone()
    bias = model.graph.initializers["const.float32.-10000.0"]
    bias.const_value = ir.tensor(np.zeros_like(bias.const_value.numpy()), name=bias.name)
    with pytest.raises(ModelError, match="does not compute"):
        check_equivalence(replace(encoder.canonical, model=model), encoder.preprocessor, encoder.reference)


def test_albert_shares_its_layers(exported):
    graph = exported("albert", Task.FEATURE_EXTRACTION).canonical.model.graph
    readers = Counter(
        str(node.inputs[1].name)
        for node in graph
        if node.op_type == "MatMul" and node.inputs[1].is_initializer()
    )
    shared = {
        name: count for name, count in readers.items() if name.startswith("encoder.albert_layer_groups")
    }
    assert len(shared) == 6
    assert set(shared.values()) == {2}


def test_modernbert_looks_no_further_than_its_window(tiny_model):
    """Twin of equality: with the window opened the outputs differ, so the local mask is at work."""
    folder = tiny_model("modernbert", Task.FEATURE_EXTRACTION)
    spec = ARCHITECTURES["modernbert"]
    model = load_encoder(folder, spec, Task.FEATURE_EXTRACTION)
    ids = torch.arange(40)[None] % 90 + 5
    mask = torch.ones_like(ids)
    with spec.patch(model), torch.inference_mode():
        traced = build_text_encoder(model, spec, Task.FEATURE_EXTRACTION)
        narrow = traced(ids, mask)["last_hidden_state"]
        model.base_model.local_bias.window = 64.0
        wide = traced(ids, mask)["last_hidden_state"]
    assert (narrow - wide).abs().max() > 1e-2
    torch.testing.assert_close(narrow, model(ids, mask).last_hidden_state, atol=2e-5, rtol=0)


# The traced module of every pair is compared above; here every task and every family goes through the tracer once.
HEADS = [
    ("albert", Task.QUESTION_ANSWERING),
    ("bert", Task.SEQUENCE_CLASSIFICATION),
    ("deberta-v2", Task.FILL_MASK),
    ("distilbert", Task.TOKEN_CLASSIFICATION),
    ("electra", Task.SEQUENCE_CLASSIFICATION),
    ("modernbert", Task.FILL_MASK),
    # Its head has no bias: torch writes a Gemm of two inputs.
    ("modernbert", Task.SEQUENCE_CLASSIFICATION),
    ("mpnet", Task.SENTENCE_EMBEDDING),
    ("roberta", Task.QUESTION_ANSWERING),
    ("xlm-roberta", Task.TOKEN_CLASSIFICATION),
]


@pytest.mark.parametrize(("architecture", "task"), HEADS)
def test_heads_are_exported(exported, tiny_models, architecture, task):
    model = exported(architecture, task, layers=1)
    graph = model.canonical.model.graph
    assert {node.op_type for node in graph} <= COMMON | EXTRA.get(architecture, set())
    free = (
        ("batch",)
        if task in (Task.SENTENCE_EMBEDDING, Task.SEQUENCE_CLASSIFICATION)
        else ("batch", "sequence")
    )
    last = {
        Task.QUESTION_ANSWERING: (),
        Task.FILL_MASK: (100,),
        Task.SENTENCE_EMBEDDING: (32,),
    }.get(task, (len(tiny_models.LABELS),))
    assert {spec.shape for spec in model.canonical.outputs} == {(*free, *last)}
    labelled = task in (Task.SEQUENCE_CLASSIFICATION, Task.TOKEN_CLASSIFICATION)
    assert model.source.labels == (tiny_models.LABELS if labelled else ())
    assert (model.source.task, model.source.architecture) == (task, architecture)


@pytest.mark.parametrize("architecture", ["deberta-v2", "modernbert"])
def test_a_tied_head_stores_its_table_once(exported, architecture):
    graph = exported(architecture, Task.FILL_MASK, layers=1).canonical.model.graph
    shapes = [tuple(value.shape) for value in graph.initializers.values()]
    assert shapes.count((100, 32)) == 1
    assert (32, 100) not in shapes
