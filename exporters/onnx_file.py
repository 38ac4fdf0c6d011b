"""An existing ONNX file of a text encoder, with its tokenizer in its folder or in the one above."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError, PassError
from edgeq.exporters.encoders import ARCHITECTURES
from edgeq.exporters.equivalence import (
    DEFAULT_HEADS,
    HALF_TOLERANCE,
    TOLERANCE,
    check_equivalence,
    longest_that_fits,
    unchecked_lengths,
)
from edgeq.exporters.exported_model import ExportedModel, ModelFacts, Progress
from edgeq.exporters.facts import detect_task, parse_task, read_config, read_problem_type
from edgeq.exporters.naming import PARAMETER_INPUT, SCOPES
from edgeq.exporters.onnx_fixed import free_dimensions
from edgeq.exporters.onnx_floats import widen_floats
from edgeq.exporters.onnx_fusions import EXACT, HALF, fuse_spelled_out
from edgeq.exporters.onnx_mask import drop_softmax_guards, replace_mask
from edgeq.exporters.onnx_opsets import lower_opset, opset_refusal, raise_opset
from edgeq.exporters.onnx_quantized import quantized_by
from edgeq.exporters.onnx_signature import (
    ROLES,
    FileSignature,
    plain_name,
    read_signature,
    run_file,
    take_our_inputs,
)
from edgeq.exporters.provenance import hub_revision, public_name, read_license, source_files
from edgeq.exporters.text_encoder import OUTPUTS
from edgeq.exporters.tokenizer import (
    check_seq_len,
    load_tokenizer,
    longest_text,
    text_preprocessor,
    tokenizer_notices,
)
from edgeq.exporters.torch_onnx import quiet
from edgeq.graph.component import CANONICAL_OPSET, text_component
from edgeq.graph.passes.in_place import in_place
from edgeq.onnx_references import check_references
from edgeq.samples import Text
from edgeq.types import Feeds, Outputs, Role, SourceInfo, Task, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir


def companion_folder(path: Path) -> Path:
    """The folder with the tokenizer: the file's own, or its parent (a Hub repository keeps `onnx/model.onnx`)."""
    own, above = path.parent, path.parent.parent
    return above if not (own / "tokenizer.json").is_file() and (above / "tokenizer.json").is_file() else own


def inspect_onnx(path: Path, task: str | None) -> ModelFacts:
    """Facts about an ONNX file, from its inputs, its outputs and the config beside it.

    Raises:
        ModelError: the file is missing or cannot be read.
    """
    return _inspect(read_onnx(path), path, task)


def _inspect(model: ir.Model, path: Path, task: str | None) -> ModelFacts:
    names = [plain_name(str(value.name)) for value in model.graph.outputs]
    config = _config(companion_folder(path))
    chosen = parse_task(task) if task else _task_of(names, config)
    tasks = tuple(one for one in OUTPUTS if _picked_outputs(names, one) is not None)
    architecture = str(config.get("model_type", "onnx"))
    return ModelFacts(
        str(path), path.parent, architecture, chosen, tasks, _refusal(model, chosen, tasks, path)
    )


def read_onnx(path: Path) -> ir.Model:
    """Parse an ONNX file; weights in other files are read when they are used.

    Raises:
        ModelError: it is missing, truncated or not ONNX.
    """
    import onnx_ir as ir

    if not path.is_file():
        raise ModelError(f"there is no file `{path}`")
    check_references(path)
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf and onnx_ir raise many kinds for a broken file
        raise ModelError(f"`{path}` is not a readable ONNX file, perhaps truncated: {error}") from error
    if not model.graph.inputs or not model.graph.outputs:
        raise ModelError(f"`{path}` holds no graph with inputs and outputs, perhaps it is truncated")
    return model


def _config(folder: Path) -> Mapping[str, Any]:
    return read_config(folder) if (folder / "config.json").is_file() else {}


def _task_of(names: list[str], config: Mapping[str, Any]) -> Task | None:
    for task in (Task.SENTENCE_EMBEDDING, Task.QUESTION_ANSWERING, Task.FEATURE_EXTRACTION):
        if all(name in names for name in OUTPUTS[task]):
            return task
    return detect_task(config) if config and "logits" in names else None


def _picked_outputs(names: list[str], task: Task) -> dict[str, str] | None:
    """Our output name to the file's, or None when the file has not what the task returns."""
    wanted = OUTPUTS[task]
    own = {plain_name(name): name for name in names}
    if all(name in own for name in wanted):
        return {name: own[name] for name in wanted}
    # An export with one output often calls it `output` or `output_0`; what has the name of another task's is that.
    is_open = len(wanted) == len(names) == 1 and not any(
        set(own) & set(others) for others in OUTPUTS.values()
    )
    return {wanted[0]: names[0]} if is_open else None


def _refusal(model: ir.Model, task: Task | None, tasks: tuple[Task, ...], path: Path) -> ModelError | None:
    outputs = [str(value.name) for value in model.graph.outputs]
    try:
        read_signature(model, path)
    except ModelError as error:
        return error
    if task is None:
        return ModelError(
            f"the outputs of `{path}` ({', '.join(outputs)}) do not say what it computes",
            hint=f"name it with --task: {', '.join(tasks)}" if tasks else None,
        )
    if task not in tasks:
        return ModelError(
            f"`{path}` has the outputs {', '.join(outputs)}, expected {', '.join(OUTPUTS[task])} for {task}",
            hint=f"as it is, it can be exported with --task {' or '.join(tasks)}" if tasks else None,
        )
    return _refuse_graph(model, path)


def _refuse_graph(model: ir.Model, path: Path) -> ModelError | None:
    quantized = quantized_by(model)
    if quantized:
        return ModelError(
            f"`{path}` is already quantized ({', '.join(quantized)}), expected a float model",
            hint="export the model it was made from",
        )
    return _refuse_hidden_weights(model, path) or opset_refusal(model)


def _refuse_hidden_weights(model: ir.Model, path: Path) -> ModelError | None:
    """Operators of ONNX Runtime's own that hold a matrix: it would stay in float, whatever was asked for."""
    hidden = sorted(
        {
            node.op_type
            for node in model.graph.all_nodes()
            if node.domain not in ("", "ai.onnx", *(key[0] for key in model.functions))
            and any(_is_matrix(value) for value in node.inputs)
        }
    )
    if not hidden:
        return None
    return ModelError(
        f"`{path}` was optimized for ONNX Runtime: its weights are inside {', '.join(hidden)}, where they cannot be "
        "quantized",
        hint="export the file it was optimized from, or the checkpoint; edgeq fuses what its target runs fused",
    )


def _is_matrix(value: ir.Value | None) -> bool:
    tensor = value.const_value if value is not None else None
    return tensor is not None and len(tensor.shape) > 1 and tensor.dtype.is_floating_point()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A file that is about to be converted.

    Attributes:
        facts: what it is.
        model: its graph, not changed yet.
        signature: how the file wants to be fed.
        picked: our output names, and the file's.
        tokenizer: that of the folder, by transformers.
        length: longest sequence in tokens.
        reference: runs the file as it is.
        files: the file, and those that hold weights for it.
    """

    facts: ModelFacts
    model: ir.Model
    signature: FileSignature
    picked: Mapping[str, str]
    tokenizer: Any
    length: int
    reference: Callable[[Feeds], Outputs]
    files: frozenset[Path]

    @property
    def path(self) -> Path:
        return Path(self.facts.model)


def _prepare(model: ir.Model, facts: ModelFacts, seq_len: int | None) -> _Prepared:
    path, task = Path(facts.model), facts.task
    assert task is not None
    folder = companion_folder(path)
    tokenizer = load_tokenizer(folder)
    signature = read_signature(model, path)
    positions = min(_positions(folder, tokenizer), signature.sequence or sys.maxsize)
    check_seq_len(seq_len, positions)
    length = longest_text(tokenizer, positions, seq_len)
    picked = _picked_outputs([str(value.name) for value in model.graph.outputs], task)
    assert picked is not None
    reference = run_file(path, signature, picked, _is_per_token(task))
    # Conversion takes the weights into the graph.
    files = frozenset({path, *(path.parent / location for location in _external_locations(model))})
    return _Prepared(facts, model, signature, picked, tokenizer, length, reference, files)


def load_onnx(path: Path, task: str | None, seq_len: int | None, say: Progress) -> ExportedModel:
    """Bring an ONNX file as close to the canonical graph as its operators allow.

    The reference is the file itself, run as it is in ONNX Runtime. A file that is fixed to a batch or a length is
    freed of it; no text is longer than its length.

    Raises:
        ModelError: the graph cannot be converted, or computes something else afterwards.
        ConfigError: `seq_len` is more than it takes.
    """
    say("loading the model")
    model = read_onnx(path)
    facts = _inspect(model, path, task).require_supported()
    prepared = _prepare(model, facts, seq_len)
    reference, task_of = prepared.reference, facts.task
    assert task_of is not None
    say("canonicalizing the graph")
    was_half = _canonicalize_file(prepared)
    inputs = tuple(
        TensorSpec(str(v.name), "int64", ("batch", "sequence"), ROLES[str(v.name)])
        for v in model.graph.inputs
    )
    preprocessor = text_preprocessor(
        prepared.tokenizer, max_length=prepared.length, input_names=[spec.name for spec in inputs]
    )
    outputs = _measure_outputs(reference(preprocessor([Text("a"), Text("a b")])), task_of, prepared.picked)
    _state_shapes(model, outputs)
    canonical = text_component(model, inputs, outputs, prepared.length)
    say("checking the graph against the file")
    longest = longest_that_fits(prepared.length, DEFAULT_HEADS)
    check_equivalence(
        canonical,
        preprocessor,
        reference,
        longest=longest,
        tolerance=HALF_TOLERANCE if was_half else TOLERANCE,
    )
    source = _source(facts, prepared.files, companion_folder(path), model)
    notices = (*tokenizer_notices(prepared.tokenizer), *unchecked_lengths(longest, prepared.length))
    return ExportedModel(
        components=(canonical,),
        source=source,
        preprocessor=preprocessor,
        reference=reference,
        notices=notices,
    )


def _positions(folder: Path, tokenizer: Any) -> int:
    """Longest sequence: from the config where its architecture is known, else the tokenizer's limit, else 512."""
    from types import SimpleNamespace

    config = _config(folder)
    known = ARCHITECTURES.get(str(config.get("model_type")))
    if known and isinstance(config.get("max_position_embeddings"), int):
        return known.positions(SimpleNamespace(**{"pad_token_id": 0, **config}))
    return int(min(tokenizer.model_max_length, 512))


def _canonicalize_file(prepared: _Prepared) -> bool:
    """Bring the graph of a file to the canonical form, in place; returns whether it computed in less than float32."""
    from edgeq.exporters.canonicalize import canonicalize
    from edgeq.graph.passes.sequence import run_passes

    model, signature = prepared.model, prepared.signature
    try:
        with quiet():
            was_half = _convert(model, signature)
    except PassError as error:  # the converters raise bare exceptions for operators they do not know
        raise ModelError(
            f"`{prepared.path}` cannot be converted to the canonical opset: {error}", hint=error.hint
        ) from error
    run_passes(
        model,
        _keep_outputs(prepared.picked),
        replace_mask(signature.sequence or prepared.length, signature.batch or 1),
        drop_softmax_guards(),
        free_dimensions(signature.batch, signature.sequence),
        _forget_unknown_shapes(),
        _scope_by_names(),
    )
    canonicalize(model, _name_prefixes(model))
    return was_half


def _convert(model: ir.Model, signature: FileSignature) -> bool:
    from onnx_ir.passes.common import InlinePass

    from edgeq.graph.passes.sequence import run_passes

    run_passes(model, InlinePass(), take_our_inputs(signature))
    was_half = run_passes(model, widen_floats()).modified
    ours = model.opset_imports.get("", 0)
    run_passes(
        model,
        *((lower_opset(),) if ours > CANONICAL_OPSET else ()),
        *((raise_opset(),) if ours < CANONICAL_OPSET else ()),
        # First the fusions: the optimizer takes a small epsilon for zero and drops it.
        fuse_spelled_out(HALF if was_half else EXACT),
        _fold(),
    )
    return was_half


WEIGHT_ARITHMETIC = (
    "Add",
    "Cast",
    "Div",
    "Identity",
    "Mul",
    "Neg",
    "Reshape",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
)
"""Operators that prepare a weight; of constants of any size they are computed here, or no layer is found."""


@in_place
def _fold(model: ir.Model) -> bool:
    from onnxscript import optimizer

    def prepares_a_weight(node: ir.Node) -> bool | None:
        constants = [value is not None and value.const_value is not None for value in node.inputs]
        return True if node.op_type in WEIGHT_ARITHMETIC and constants and all(constants) else None

    optimizer.optimize_ir(model, should_fold=prepares_a_weight)
    return True


@in_place
def _forget_unknown_shapes(model: ir.Model) -> bool:
    """Drop shapes with dimensions that inference made up names for: no shape says the same, honestly."""
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and any("unk__" in str(dim) for dim in value.shape):
                value.shape = None
    return True


@in_place
def _keep_outputs(model: ir.Model, picked: Mapping[str, str]) -> bool:
    """Leave the outputs of the task, under our names."""
    by_name = {value.name: value for value in model.graph.outputs}
    kept = [by_name[theirs] for theirs in picked.values()]
    model.graph.outputs.clear()
    for value, name in zip(kept, picked, strict=True):
        value.name = name
        model.graph.outputs.append(value)
    return True


@in_place
def _scope_by_names(model: ir.Model) -> bool:
    """Give nodes the module path that older exporters hide in their names and in those of their weights."""
    for node in model.graph:
        if SCOPES in node.metadata_props:
            continue
        index = PARAMETER_INPUT.get(node.op_type)
        weight = node.inputs[index] if index is not None else None
        name = str(weight.name) if weight is not None and weight.is_initializer() else ""
        if name.endswith(".weight"):
            path = name.removesuffix(".weight")
        elif node.name and node.name.startswith("/"):
            path = ".".join(node.name.strip("/").split("/")[:-1])
        else:
            continue
        node.metadata_props[SCOPES] = repr([path, node.op_type])
    return True


def _name_prefixes(model: ir.Model) -> tuple[str, ...]:
    """The module that holds the encoder itself, by the names of the embedding tables."""
    for name in model.graph.initializers:
        head, found, _ = str(name).partition("embeddings.")
        if found:
            return (head.rstrip("."),) if head else ()
    return ()


def _measure_outputs(outputs: Outputs, task: Task, picked: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """Output specs from a run: exporters often leave shapes out."""
    free = ("batch", "sequence") if _is_per_token(task) else ("batch",)
    return tuple(
        TensorSpec(name, "float32", (*free, *outputs[name].shape[len(free) :]), Role(name)) for name in picked
    )


def _is_per_token(task: Task) -> bool:
    return task not in (Task.SENTENCE_EMBEDDING, Task.SEQUENCE_CLASSIFICATION)


def _state_shapes(model: ir.Model, outputs: tuple[TensorSpec, ...]) -> None:
    import onnx_ir as ir

    for value, spec in zip(model.graph.outputs, outputs, strict=True):
        value.shape = ir.Shape(spec.shape)


def _source(facts: ModelFacts, files: frozenset[Path], folder: Path, model: ir.Model) -> SourceInfo:
    assert facts.task is not None
    labelled = facts.task in (Task.SEQUENCE_CLASSIFICATION, Task.TOKEN_CLASSIFICATION)
    return SourceInfo(
        model=public_name(facts.model),
        revision=hub_revision(folder),
        files=source_files(folder, folder, files),
        license=read_license(folder),
        task=facts.task,
        architecture=facts.architecture,
        parameters=_count_parameters(model),
        labels=_labels(_config(folder)) if labelled else (),
        problem_type=read_problem_type(facts.task, _config(folder)),
    )


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    labels = config.get("id2label") or {}
    try:
        return tuple(str(labels[key]) for key in sorted(labels, key=int))
    except (TypeError, ValueError) as error:
        raise ModelError(f"id2label in config.json is {labels!r:.60}, expected labels by number") from error


def _external_locations(model: ir.Model) -> set[str]:
    import onnx_ir as ir

    tensors = (value.const_value for value in model.graph.initializers.values())
    return {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}


def _count_parameters(model: ir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.size for tensor in tensors if tensor is not None and tensor.dtype.is_floating_point())
