"""Take a causal language model in: one graph with a KV cache, checked against the original."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError, PassError
from edgeq.exporters.base import Progress
from edgeq.exporters.causal_lm.base import ExportedLanguageModel, LanguageModelFacts
from edgeq.exporters.causal_lm.facts import context_length, inspect_language_model, read_lm_facts
from edgeq.exporters.causal_lm.families import (
    builder_refusal,
    freeze_positions,
    head_size,
    layer_windows,
)
from edgeq.exporters.causal_lm.graph_io import ATTENTION_MASK, INPUT_IDS, input_specs, output_specs
from edgeq.exporters.extras import TORCH_EXPORT, require_modules
from edgeq.exporters.source import fetch, is_gguf_file, local_folder
from edgeq.files import sha256_file
from edgeq.graph.component import Component, text_component
from edgeq.runtime.generation.settings import CacheShape, GenerationSettings
from edgeq.scratch import ScratchFolder
from edgeq.types import SourceFile, SourceInfo, Task

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporters.causal_lm.original import OriginalLanguageModel
    from edgeq.exporters.causal_lm.weights import DecoderWeights


def load_language_model(
    model: str | Path,
    *,
    revision: str | None = None,
    context: int | None = None,
    road: str | None = None,
    on_progress: Progress | None = None,
) -> ExportedLanguageModel:
    """Export a causal language model.

    Args:
        model: a local Hugging Face folder or a Hub id.
        revision: commit, tag or branch on the Hub.
        context: most tokens of prompt and answer; the model's own limit when left out.
        road: `builder` or `torch`; by default the builder where it covers the model.
        on_progress: told each stage.

    Raises:
        ModelError: the model cannot be read, is not supported, or its graph does not match the original.
        ConfigError: `context` is longer than the model's.
        MissingExtraError: torch or transformers are not installed.
    """
    say = on_progress or (lambda _: None)
    require_modules(TORCH_EXPORT)
    if is_gguf_file(model):
        return _load_gguf(Path(model).expanduser(), context, road, say)
    facts = inspect_language_model(model, revision=revision).require_supported()
    if local_folder(model) is None:
        say("downloading the model")
        facts = read_lm_facts(str(model), fetch(str(model), revision, config_only=False)).require_supported()
    if facts.is_unpacked:
        return _load_packed(facts, context, road, say)
    return _load(facts, context, road, say)


def _load_gguf(path: Path, context: int | None, road: str | None, say: Progress) -> ExportedLanguageModel:
    """A GGUF file, by way of a folder with its dequantized weights."""
    from edgeq.exporters.gguf import inspect_gguf, unpack

    inspect_gguf(path).require_supported()
    say("unpacking the GGUF file")
    with ScratchFolder("gguf") as scratch:
        unpacked = unpack(path, scratch.path)
        facts = replace(read_lm_facts(str(path), unpacked.folder), model=str(path))
        exported = _load(facts.require_supported(), context, road, say)
        scratch.keep_for(exported.weights)
    return replace(exported, source=_gguf_source(exported.source, path), packed=unpacked.packed)


def open_original(
    model: str | Path, *, revision: str | None = None, context: int | None = None
) -> OriginalLanguageModel:
    """A causal language model without a graph; its weights stay on disk.

    Args:
        model: a local Hugging Face folder, a Hub id, or a GGUF file.
        revision: commit, tag or branch on the Hub.
        context: most tokens of prompt and answer; the model's own limit when left out.

    Raises:
        ModelError: the model cannot be read, or is not supported.
        ConfigError: `context` is longer than the model's.
        MissingExtraError: torch or transformers are not installed.
    """
    require_modules(TORCH_EXPORT)
    if is_gguf_file(model):
        return _original_of_gguf(Path(model).expanduser(), context)
    facts = inspect_language_model(model, revision=revision).require_supported()
    if local_folder(model) is None:
        facts = read_lm_facts(str(model), fetch(str(model), revision, config_only=False)).require_supported()
    return _original_of_packed(facts, context) if facts.is_unpacked else _original(facts, context)


def _original_of_gguf(path: Path, context: int | None) -> OriginalLanguageModel:
    from edgeq.exporters.gguf import inspect_gguf, unpack

    inspect_gguf(path).require_supported()
    with ScratchFolder("gguf") as scratch:
        facts = replace(read_lm_facts(str(path), unpack(path, scratch.path).folder), model=str(path))
        original = _original(facts.require_supported(), context)
        scratch.keep_for(original.weights)
    return replace(original, source=_gguf_source(original.source, path))


def _original_of_packed(facts: LanguageModelFacts, context: int | None) -> OriginalLanguageModel:
    from edgeq.exporters.causal_lm.checkpoint import unpack_folder

    with ScratchFolder("packed") as scratch:
        plain = _plain(facts, unpack_folder(facts, scratch.path).folder)
        original = _original(plain, context)
        scratch.keep_for(original.weights)
    return replace(original, source=_packed_source(original.source, facts))


def _original(facts: LanguageModelFacts, context: int | None) -> OriginalLanguageModel:
    from edgeq.exporters.causal_lm.hollow import hollow_decoder
    from edgeq.exporters.causal_lm.original import OriginalLanguageModel
    from edgeq.exporters.causal_lm.own_library import check_reference
    from edgeq.exporters.causal_lm.streamed_forward import streamed_logits
    from edgeq.exporters.causal_lm.weights import float_bytes
    from edgeq.exporters.tokenizer import load_tokenizer, text_preprocessor
    from edgeq.graph.streamed_tensor import HELD_BYTES

    length = context_length(facts.config, context)
    tokenizer = load_tokenizer(facts.folder)
    model, weights = hollow_decoder(facts.folder)
    weights.check_finite()
    settings = _settings(facts, model, tokenizer, length, shares_buffer=False)
    check_reference(
        facts.folder,
        weights,
        streamed_logits(model, weights),
        is_small=float_bytes(facts.folder) <= HELD_BYTES,
    )
    return OriginalLanguageModel(
        source=_source(facts, model),
        preprocessor=text_preprocessor(tokenizer, max_length=length, input_names=(INPUT_IDS,)),
        settings=settings,
        weights=weights,
        model=model,
        notices=_notices(facts, weights, tokenizer, settings),
    )


def _load_packed(
    facts: LanguageModelFacts, context: int | None, road: str | None, say: Progress
) -> ExportedLanguageModel:
    """A checkpoint that is no ordinary folder (GPTQ, AWQ, images and text), by way of one that is made of it."""
    from edgeq.exporters.causal_lm.checkpoint import unpack_folder

    say("unpacking the checkpoint")
    with ScratchFolder("packed") as scratch:
        unpacked = unpack_folder(facts, scratch.path)
        plain = _plain(facts, unpacked.folder)
        # One fused matrix cannot read its input in two orders; the traced graph keeps the three apart.
        exported = _load(plain, context, "torch" if unpacked.is_torn else road, say)
        scratch.keep_for(exported.weights)
    return replace(exported, source=_packed_source(exported.source, facts), packed=unpacked.packed)


def _plain(facts: LanguageModelFacts, folder: Path) -> LanguageModelFacts:
    """The facts of the folder that a checkpoint was unpacked into, under the checkpoint's name."""
    found = read_lm_facts(facts.model, folder).require_supported()
    return replace(found, model=facts.model, notices=facts.notices)


def _gguf_source(source: SourceInfo, path: Path) -> SourceInfo:
    """Provenance of what was unpacked from a GGUF file."""
    return replace(source, files=(SourceFile(path.name, sha256_file(path)),), license=None)


def _packed_source(source: SourceInfo, facts: LanguageModelFacts) -> SourceInfo:
    """Provenance of what was unpacked from a quantized checkpoint."""
    from edgeq.exporters.packed.folder import open_checkpoint
    from edgeq.exporters.provenance import hub_revision, read_license, source_files

    weights = {tensor.path for tensor in open_checkpoint(facts.folder).tensors.values()}
    return replace(
        source,
        revision=hub_revision(facts.folder),
        files=source_files(facts.folder, facts.folder, weights),
        license=read_license(facts.folder),
    )


def _load(
    facts: LanguageModelFacts, context: int | None, road: str | None, say: Progress
) -> ExportedLanguageModel:
    """In this process, or apart where the model is large."""
    from edgeq.exporters.causal_lm.apart import load_apart
    from edgeq.exporters.causal_lm.weights import float_bytes
    from edgeq.graph.streamed_tensor import HELD_BYTES

    if float_bytes(facts.folder) <= HELD_BYTES:
        return load_here(facts, context, road, say)
    say("exporting the model in a process of its own")
    return load_apart(facts, context, road)


def load_here(
    facts: LanguageModelFacts, context: int | None, road: str | None, say: Progress = lambda _: None
) -> ExportedLanguageModel:
    """Export the model of a folder in this process; arguments and errors as `load_language_model`."""
    from edgeq.exporters.causal_lm.equivalence import check_decoder
    from edgeq.exporters.causal_lm.genai_config import traced_config, with_tokens
    from edgeq.exporters.causal_lm.hollow import hollow_decoder
    from edgeq.exporters.causal_lm.own_library import check_reference
    from edgeq.exporters.causal_lm.streamed_forward import streamed_logits
    from edgeq.exporters.causal_lm.text import chat_template, tokenizer_config
    from edgeq.exporters.causal_lm.weights import float_bytes
    from edgeq.exporters.tokenizer import load_tokenizer, text_preprocessor
    from edgeq.graph.streamed_tensor import HELD_BYTES

    length = context_length(facts.config, context)
    say("reading the weights")
    tokenizer = load_tokenizer(facts.folder)
    model, weights = hollow_decoder(facts.folder)
    weights.check_finite()
    use_builder = _uses_builder(facts, road)
    settings = _settings(facts, model, tokenizer, length, shares_buffer=use_builder)
    say("exporting the graph")
    # Both roads change the model they are given, and the original still has to run.
    twin, _ = hollow_decoder(facts.folder, weights)
    canonical, genai = (_built if use_builder else _traced)(facts, twin, weights, settings)
    reference = streamed_logits(model, weights)
    say("checking the graph against the original")
    check_reference(facts.folder, weights, reference, is_small=float_bytes(facts.folder) <= HELD_BYTES)
    check_decoder(canonical, settings, reference, facts.architecture)
    return ExportedLanguageModel(
        canonical=canonical,
        source=_source(facts, model),
        preprocessor=text_preprocessor(tokenizer, max_length=length, input_names=(INPUT_IDS, ATTENTION_MASK)),
        settings=settings,
        reference=reference,
        genai_config=with_tokens(genai, facts.config, settings, context)
        if genai
        else traced_config(facts.config, settings, context),
        tokenizer_config=tokenizer_config(facts.folder, tokenizer, chat_template(tokenizer)),
        graph_source="genai-builder" if use_builder else "torch",
        weights=weights,
        notices=_notices(facts, weights, tokenizer, settings),
    )


def _notices(
    facts: LanguageModelFacts, weights: DecoderWeights, tokenizer: Any, settings: GenerationSettings
) -> tuple[str, ...]:
    from edgeq.exporters.causal_lm.text import tokens_beyond

    return (*facts.notices, *weights.notices, *tokens_beyond(tokenizer.get_vocab(), settings.vocabulary))


def _uses_builder(facts: LanguageModelFacts, road: str | None) -> bool:
    from edgeq.exporters.causal_lm.builder import is_installed

    refusal = builder_refusal(facts.config)
    if road == "builder" and refusal is not None:
        raise ModelError(f"no graph from the model builder: {refusal}")
    return road != "torch" and refusal is None and is_installed()


def _settings(
    facts: LanguageModelFacts, model: Any, tokenizer: Any, length: int, *, shares_buffer: bool
) -> GenerationSettings:
    from edgeq.exporters.causal_lm.text import chat_template, generation_config, sampling_defaults, stop_ids

    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    generation = generation_config(facts.folder)
    template = chat_template(tokenizer)
    return GenerationSettings(
        context_length=length,
        vocabulary=int(config.vocab_size),
        stop_ids=stop_ids(facts.config, generation, tokenizer, template),
        cache=CacheShape(
            config.num_hidden_layers, heads, head_size({**facts.config, **_defaults(config)}), shares_buffer
        ),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        chat_template=template,
        sampling=sampling_defaults(generation),
    )


def _defaults(config: Any) -> dict[str, Any]:
    """`head_dim` where the class has a default that config.json leaves out (Gemma)."""
    value = getattr(config, "head_dim", None)
    return {"head_dim": value} if value else {}


def _specs(settings: GenerationSettings) -> tuple[Any, Any]:
    cache = settings.cache
    return (
        input_specs(cache.layers, cache.heads, cache.size),
        output_specs(cache.layers, cache.heads, cache.size, settings.vocabulary),
    )


def _built(
    facts: LanguageModelFacts, model: Any, weights: DecoderWeights, settings: GenerationSettings
) -> tuple[Component, dict[str, Any]]:
    from edgeq.exporters.causal_lm.builder import build_decoder
    from edgeq.exporters.causal_lm.normalize import normalize_built

    graph, genai = build_decoder(facts.folder, model, weights)
    try:
        normalize_built(graph, layer_windows(model.config, settings.cache.layers))
    except PassError as error:
        raise ModelError(f"`{facts.architecture}` builds to an unexpected graph: {error}") from error
    return _canonical(graph, facts, settings), genai


def _traced(
    facts: LanguageModelFacts, model: Any, weights: DecoderWeights, settings: GenerationSettings
) -> tuple[Component, dict[str, Any]]:
    from edgeq.exporters.causal_lm.normalize import normalize_traced
    from edgeq.exporters.causal_lm.trace import trace_decoder

    cache = settings.cache
    freeze_positions(model)
    graph = trace_decoder(model, weights, cache.layers, cache.heads, cache.size, settings.context_length)
    normalize_traced(graph, (f"model.{model.base_model_prefix}", "model"))
    return _canonical(graph, facts, settings), {}


def _canonical(graph: ir.Model, facts: LanguageModelFacts, settings: GenerationSettings) -> Component:
    from edgeq.exporters.causal_lm.normalize import declare

    inputs, outputs = _specs(settings)
    try:
        declare(graph, inputs, outputs)
    except ValueError as error:
        raise ModelError(f"`{facts.architecture}` exports to an unexpected graph: {error}") from error
    return text_component(graph, inputs, outputs, settings.context_length)


def _source(facts: LanguageModelFacts, model: Any) -> SourceInfo:
    from edgeq.exporters.checkpoint import weight_files
    from edgeq.exporters.provenance import hub_revision, public_name, read_license, source_files

    return SourceInfo(
        model=public_name(facts.model),
        revision=hub_revision(facts.folder),
        files=source_files(facts.folder, facts.folder, weight_files(facts.folder)),
        license=read_license(facts.folder),
        task=Task.TEXT_GENERATION,
        architecture=facts.architecture,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
