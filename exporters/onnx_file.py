"""An existing ONNX file of a text encoder, with its tokenizer in its folder or in the one above."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.base import ExportedModel, ModelFacts, Progress
from edgeq.exporters.facts import detect_task, parse_task, read_config, read_problem_type
from edgeq.exporters.text_encoder import OUTPUTS
from edgeq.onnx_references import check_references
from edgeq.onnx_runtime import session_options
from edgeq.types import Feeds, Outputs, Role, SourceInfo, Task, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

ROLES = {
    "input_ids": Role.TOKEN_IDS,
    "attention_mask": Role.ATTENTION_MASK,
    "token_type_ids": Role.TOKEN_TYPE_IDS,
}
QUANTIZED = ("QLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "MatMulNBits")
"""Beginnings of operator names that only quantized models have."""


def companion_folder(path: Path) -> Path:
    """The folder with the tokenizer: the file's own, or its parent (a Hub repository keeps `onnx/model.onnx`)."""
    own, above = path.parent, path.parent.parent
    return above if not (own / "tokenizer.json").is_file() and (above / "tokenizer.json").is_file() else own


def inspect_onnx(path: Path, task: str | None) -> ModelFacts:
    """Facts about an ONNX file, from its inputs, its outputs and the config beside it.

    Raises:
        ModelError: the file is missing or cannot be read.
    """
    model = read_onnx(path)
    names = [str(value.name) for value in model.graph.outputs]
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
    if all(name in names for name in wanted):
        return {name: name for name in wanted}
    # An export with one output often calls it `output` or `output_0`.
    return {wanted[0]: names[0]} if len(wanted) == len(names) == 1 else None


def _refusal(model: ir.Model, task: Task | None, tasks: tuple[Task, ...], path: Path) -> ModelError | None:
    inputs, outputs = (
        [str(value.name) for value in side] for side in (model.graph.inputs, model.graph.outputs)
    )
    unknown = [name for name in inputs if name not in ROLES]
    if unknown or "input_ids" not in inputs or "attention_mask" not in inputs:
        return ModelError(
            f"`{path}` has the inputs {', '.join(inputs)}, expected input_ids, attention_mask and perhaps "
            "token_type_ids",
            hint="export the original model instead: edgeq takes its folder or Hub id",
        )
    if task is None:
        return ModelError(
            f"the outputs of `{path}` ({', '.join(outputs)}) do not say what it computes",
            hint=f"name it with --task: {', '.join(tasks)}" if tasks else None,
        )
    if task not in tasks:
        return ModelError(
            f"`{path}` has the outputs {', '.join(outputs)}, expected {', '.join(OUTPUTS[task])} for {task}"
        )
    return _refuse_graph(model, path)


def _refuse_graph(model: ir.Model, path: Path) -> ModelError | None:
    quantized = sorted({node.op_type for node in model.graph if node.op_type.startswith(QUANTIZED)})
    if quantized:
        return ModelError(
            f"`{path}` is already quantized ({', '.join(quantized)}), expected a float32 model",
            hint="export the model it was made from",
        )
    for value in model.graph.inputs:
        shape = list(value.shape or ())
        if len(shape) != 2 or any(isinstance(dim, int) for dim in shape):
            return ModelError(
                f"input {value.name} of `{path}` has shape {shape}, expected two free dimensions, batch and sequence"
            )
        if value.dtype is None or value.dtype.name != "INT64":
            return ModelError(f"input {value.name} of `{path}` is {value.dtype}, expected INT64")
    return None


def load_onnx(facts: ModelFacts, seq_len: int | None, say: Progress) -> ExportedModel:
    """Bring an ONNX file as close to the canonical graph as its operators allow.

    The reference is the file itself, run as it is in ONNX Runtime.

    Raises:
        ModelError: the graph cannot be converted, or computes something else afterwards.
    """
    from edgeq.exporters.equivalence import check_equivalence
    from edgeq.exporters.loading import check_seq_len
    from edgeq.exporters.tokenizer import load_tokenizer, longest_text, text_preprocessor
    from edgeq.graph.canonical import CanonicalModel

    path, task = Path(facts.model), facts.task
    assert task is not None
    say("loading the model")
    folder = companion_folder(path)
    tokenizer = load_tokenizer(folder)
    positions = _positions(folder, tokenizer)
    check_seq_len(seq_len, positions)
    length = longest_text(tokenizer, positions, seq_len)
    model = read_onnx(path)
    picked = _picked_outputs([str(value.name) for value in model.graph.outputs], task)
    assert picked is not None
    reference = _run_file(path, picked)
    say("canonicalizing the graph")
    _canonicalize_file(model, picked, path)
    inputs = tuple(
        TensorSpec(str(v.name), "int64", ("batch", "sequence"), ROLES[str(v.name)])
        for v in model.graph.inputs
    )
    preprocessor = text_preprocessor(tokenizer, max_length=length, input_names=[spec.name for spec in inputs])
    outputs = _measure_outputs(reference(preprocessor(["a", "a b"])), task, picked)
    _state_shapes(model, outputs)
    canonical = CanonicalModel(model, inputs, outputs, task, facts.architecture, length)
    say("checking the graph against the file")
    check_equivalence(canonical, preprocessor, reference)
    return ExportedModel(canonical, _source(facts, path, folder, model), preprocessor, reference)


def _positions(folder: Path, tokenizer: Any) -> int:
    """Longest sequence: from the config where its architecture is known, else the tokenizer's limit, else 512."""
    from types import SimpleNamespace

    from edgeq.exporters import ARCHITECTURES

    config = _config(folder)
    known = ARCHITECTURES.get(str(config.get("model_type")))
    if known and isinstance(config.get("max_position_embeddings"), int):
        return known.positions(SimpleNamespace(**{"pad_token_id": 0, **config}))
    return int(min(tokenizer.model_max_length, 512))


def _run_file(path: Path, picked: Mapping[str, str]) -> Callable[[Feeds], Outputs]:
    import onnxruntime as ort

    try:
        session = ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    except (
        Exception
    ) as error:  # onnxruntime raises a family of its own for broken files and unknown operators
        raise ModelError(f"ONNX Runtime cannot run `{path}`: {error}") from error

    def run(feeds: Feeds) -> Outputs:
        try:
            values = session.run(list(picked.values()), dict(feeds))
        except Exception as error:  # the same family
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise ModelError(
                f"`{path}` cannot run inputs of shapes {shapes}: {error}",
                hint="the tokenizer beside it may be that of another model",
            ) from error
        return dict(zip(picked, values, strict=True))

    return run


def _canonicalize_file(model: ir.Model, picked: Mapping[str, str], path: Path) -> None:
    from edgeq.exporters.canonicalize import canonicalize
    from edgeq.exporters.onnx_mask import replace_mask
    from edgeq.exporters.torch_onnx import quiet

    try:
        with quiet():
            _convert(model)
    except ModelError:
        raise
    except Exception as error:  # the converters raise bare exceptions for operators they do not know
        raise ModelError(f"`{path}` cannot be converted to the canonical opset: {error}") from error
    _keep_outputs(model, picked)
    replace_mask(model)
    _forget_unknown_shapes(model)
    _scope_by_names(model)
    canonicalize(model, _name_prefixes(model))


def _convert(model: ir.Model) -> None:
    import onnxscript.optimizer
    from onnxscript import version_converter

    from edgeq.exporters.onnx_fusions import fuse_spelled_out
    from edgeq.graph.canonical import CANONICAL_OPSET

    ours = model.opset_imports.get("", 0)
    if ours > CANONICAL_OPSET:
        raise ModelError(f"the file uses opset {ours}, expected {CANONICAL_OPSET} or older")
    if ours < CANONICAL_OPSET:
        version_converter.convert_version(model, CANONICAL_OPSET, fallback=True)
    # First the fusions: the optimizer takes a small epsilon for zero and drops it.
    fuse_spelled_out(model)
    onnxscript.optimizer.optimize(model)


def _forget_unknown_shapes(model: ir.Model) -> None:
    """Drop shapes with dimensions that inference made up names for: no shape says the same, honestly."""
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and any("unk__" in str(dim) for dim in value.shape):
                value.shape = None


def _keep_outputs(model: ir.Model, picked: Mapping[str, str]) -> None:
    """Leave the outputs of the task, under our names."""
    by_name = {value.name: value for value in model.graph.outputs}
    kept = [by_name[theirs] for theirs in picked.values()]
    model.graph.outputs.clear()
    for value, name in zip(kept, picked, strict=True):
        value.name = name
        model.graph.outputs.append(value)


def _scope_by_names(model: ir.Model) -> None:
    """Give nodes the module path that older exporters hide in their names and in those of their weights."""
    from edgeq.exporters.naming import PARAMETER_INPUT, SCOPES

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


def _name_prefixes(model: ir.Model) -> tuple[str, ...]:
    """The module that holds the encoder itself, by the names of the embedding tables."""
    for name in model.graph.initializers:
        head, found, _ = str(name).partition("embeddings.")
        if found:
            return (head.rstrip("."),) if head else ()
    return ()


def _measure_outputs(outputs: Outputs, task: Task, picked: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """Output specs from a run: exporters often leave shapes out."""
    per_token = task not in (Task.SENTENCE_EMBEDDING, Task.SEQUENCE_CLASSIFICATION)
    free = ("batch", "sequence") if per_token else ("batch",)
    return tuple(
        TensorSpec(name, "float32", (*free, *outputs[name].shape[len(free) :]), Role(name)) for name in picked
    )


def _state_shapes(model: ir.Model, outputs: tuple[TensorSpec, ...]) -> None:
    import onnx_ir as ir

    for value, spec in zip(model.graph.outputs, outputs, strict=True):
        value.shape = ir.Shape(spec.shape)


def _source(facts: ModelFacts, path: Path, folder: Path, model: ir.Model) -> SourceInfo:
    from edgeq.exporters.provenance import hub_revision, public_name, read_license, source_files

    assert facts.task is not None
    external = {path.parent / location for location in _external_locations(path)}
    labelled = facts.task in (Task.SEQUENCE_CLASSIFICATION, Task.TOKEN_CLASSIFICATION)
    return SourceInfo(
        model=public_name(facts.model),
        revision=hub_revision(folder),
        files=source_files(folder, folder, {path, *external}),
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


def _external_locations(path: Path) -> set[str]:
    import onnx_ir as ir

    tensors = (value.const_value for value in read_onnx(path).graph.initializers.values())
    return {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}


def _count_parameters(model: ir.Model) -> int:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.size for tensor in tensors if tensor is not None and tensor.dtype.is_floating_point())
