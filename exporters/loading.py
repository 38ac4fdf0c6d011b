"""The two verbs of this package: look at a model, and take it in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm import asks_for_generation, read_lm_facts
from edgeq.exporters.checkpoint import load_encoder, transformer_notices, weight_files
from edgeq.exporters.encoders import ARCHITECTURES
from edgeq.exporters.equivalence import DEFAULT_HEADS, check_equivalence, longest_that_fits, unchecked_lengths
from edgeq.exporters.exported_model import ExportedModel, ModelFacts, Progress
from edgeq.exporters.extras import TORCH_EXPORT, require_modules
from edgeq.exporters.facts import read_facts, read_problem_type
from edgeq.exporters.gguf import inspect_gguf
from edgeq.exporters.library import check_reading
from edgeq.exporters.onnx_file import inspect_onnx, load_onnx
from edgeq.exporters.onnx_folder import onnx_of_folder
from edgeq.exporters.provenance import hub_revision, public_name, read_license, source_files
from edgeq.exporters.reference import one_thread, original
from edgeq.exporters.sentence import SentenceModel, read_sentence_model
from edgeq.exporters.source import fetch, is_gguf_file, is_onnx_file, local_folder
from edgeq.exporters.text_encoder import build_text_encoder, input_specs, standard_activations
from edgeq.exporters.tokenizer import (
    check_seq_len,
    check_vocabulary,
    follow_types,
    load_tokenizer,
    longest_text,
    prompted,
    text_preprocessor,
    tokenizer_notices,
)
from edgeq.exporters.torch_onnx import export_encoder
from edgeq.graph.component import Component, text_component
from edgeq.types import Role, SourceInfo, Task, TensorSpec

if TYPE_CHECKING:
    from edgeq.exporters.architecture import TextArchitecture


def inspect_model(model: str | Path, *, task: str | None = None, revision: str | None = None) -> ModelFacts:
    """Read what a model is from its config alone; takes milliseconds for a local folder.

    Args:
        model: a local folder, a Hub id, or an `.onnx` file.
        task: overrides the task that the config names.
        revision: commit, tag or branch on the Hub.

    Returns:
        Facts; `facts.refusal` says why a model that could be read cannot be exported.

    Raises:
        ModelError: there is no such model, or it is not a transformer.
        ConfigError: there is no such task.
    """
    if is_onnx_file(model):
        return inspect_onnx(Path(model), task)
    if is_gguf_file(model):
        return inspect_gguf(Path(model)).as_model_facts()
    folder = local_folder(model) or fetch(str(model), revision, config_only=True)
    if asks_for_generation(folder, task):
        return read_lm_facts(str(model), folder).as_model_facts()
    if (file := onnx_of_folder(folder)) is not None:
        return inspect_onnx(file, _whole_task(folder, task))
    return read_facts(str(model), folder, ARCHITECTURES, task)


def load_model(
    model: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    seq_len: int | None = None,
    on_progress: Progress | None = None,
) -> ExportedModel:
    """Take a text encoder in: one canonical graph, checked against the original on real text.

    Args:
        model: a local Hugging Face or sentence-transformers folder, a Hub id, or an `.onnx` file with its
            tokenizer.
        task: overrides the task that the config names.
        revision: commit, tag or branch on the Hub.
        seq_len: longest sequence in tokens; the model's own limit when left out.
        on_progress: told each stage.

    Raises:
        ModelError: the model cannot be read, is not supported, or its export does not match the original.
        ConfigError: no such task, or `seq_len` is longer than the model's positions.
        MissingExtraError: torch or transformers are not installed.
    """
    say = on_progress or (lambda _: None)
    require_modules(TORCH_EXPORT)
    if is_onnx_file(model):
        return load_onnx(Path(model), task, seq_len, say)
    facts = inspect_model(model, task=task, revision=revision).require_supported()
    if facts.task is Task.TEXT_GENERATION:
        raise ModelError(f"`{model}` ({facts.architecture}) generates text, expected a text encoder")
    folder = local_folder(model)
    if folder is None:
        say("downloading the model")
        folder = fetch(str(model), revision, config_only=False)
        facts = read_facts(str(model), folder, ARCHITECTURES, task)
    if (file := onnx_of_folder(folder)) is not None:
        return load_onnx(file, _whole_task(folder, task), seq_len, say)
    return _load_folder(facts.require_supported(), seq_len, say)


def _whole_task(folder: Path, task: str | None) -> str | None:
    """The task that a folder's ONNX file must serve: where nobody asked, that of sentence-transformers' whole model."""
    sentence = read_sentence_model(folder)
    return task if task is not None or sentence is None else str(sentence.task)


def _load_folder(facts: ModelFacts, seq_len: int | None, say: Progress) -> ExportedModel:
    architecture, task = ARCHITECTURES[facts.architecture], facts.task
    assert task is not None
    sentence = read_sentence_model(facts.folder)
    folder = sentence.transformer if sentence else facts.folder
    whole = sentence if sentence is not None and sentence.serves(task) else None
    say("loading the model")
    tokenizer = load_tokenizer(folder, lower_case=whole is not None and whole.library.lower_case)
    notices = list(facts.notices)
    model = load_encoder(folder, architecture, _loaded_task(whole, task), notices.append)
    positions = architecture.positions(model.config)
    check_seq_len(seq_len, positions)
    check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings, folder)
    length = longest_text(tokenizer, positions, seq_len or (sentence.max_length if sentence else None))
    inputs = input_specs(architecture.token_types(model.config))
    types = follow_types(tokenizer, folder) if len(inputs) > 2 else ()
    preprocessor = text_preprocessor(tokenizer, max_length=length, input_names=[spec.name for spec in inputs])
    if whole is not None:
        preprocessor = prompted(preprocessor, whole.library)
    head = whole.head(task, positions) if whole is not None else None
    say("exporting the graph")
    canonical = _trace(model, architecture, task, head, length)
    reference = original(model, task, head)
    say("checking the graph against the original")
    longest = longest_that_fits(length, getattr(model.config, "num_attention_heads", DEFAULT_HEADS))
    check_equivalence(canonical, preprocessor, reference, longest=longest)
    say("checking what was read against the original's own library")
    read = check_reading(facts, preprocessor, reference, canonical.outputs)
    parts = [part.folder for part in whole.modules if part.has_weights] if whole else []
    source = _source(facts, [folder, *parts], model, has_own_labels=head is None)
    notices += (
        *tokenizer_notices(tokenizer),
        *types,
        *transformer_notices(model, folder),
        *unchecked_lengths(longest, length),
        *read,
    )
    return ExportedModel(
        components=(canonical,),
        source=source,
        preprocessor=preprocessor,
        reference=reference,
        notices=tuple(notices),
    )


def _loaded_task(sentence: SentenceModel | None, task: Task) -> Task:
    """Whose head the transformer itself has: modules that follow it read its hidden states."""
    return Task.SENTENCE_EMBEDDING if sentence is not None and sentence.modules else task


def _trace(model: Any, architecture: TextArchitecture, task: Task, head: Any, length: int) -> Component:
    from edgeq.exporters.canonicalize import canonicalize

    inputs = input_specs(architecture.token_types(model.config))
    encoder = build_text_encoder(model, architecture, task, head)
    # Constants that a patch computes must not depend on the number of threads.
    with one_thread(), architecture.patch(model), standard_activations(model):
        graph = export_encoder(encoder, [spec.name for spec in inputs], architecture.positions(model.config))
    canonicalize(graph, _prefixes(model))
    return text_component(graph, inputs, _output_specs(graph), length)


def _prefixes(model: Any) -> tuple[str, ...]:
    """Module paths left out of names: `encoder.layer.0` is the same layer in every head class."""
    base = model.base_model_prefix
    has_base = getattr(model, base, model) is not model
    return (f"model.{base}", "model") if has_base else ("model",)


def _output_specs(graph: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            str(value.name),
            "float32",
            tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape),
            Role(str(value.name)),
        )
        for value in graph.graph.outputs
    )


def _source(facts: ModelFacts, folders: list[Path], model: Any, *, has_own_labels: bool = True) -> SourceInfo:
    """Provenance of a model whose weights are in `folders`, the transformer's first.

    Labels are those of the transformer's own head; of scores made by other modules the config knows nothing.
    """
    assert facts.task is not None
    labelled = has_own_labels and facts.task in (Task.SEQUENCE_CLASSIFICATION, Task.TOKEN_CLASSIFICATION)
    id2label = model.config.id2label if labelled else {}
    return SourceInfo(
        model=public_name(facts.model),
        revision=hub_revision(facts.folder),
        files=source_files(
            facts.folder, folders[0], [path for folder in folders for path in weight_files(folder)]
        ),
        license=read_license(facts.folder),
        task=facts.task,
        architecture=facts.architecture,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        labels=tuple(str(id2label[index]) for index in sorted(id2label)),
        problem_type=read_problem_type(facts.task, model.config.to_dict()),
    )
