"""The graph of a folder's language model, checked against the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError, PassError
from edgeq.exporters.causal_lm.exported_language_model import ExportedLanguageModel
from edgeq.exporters.causal_lm.facts import context_length
from edgeq.exporters.causal_lm.genai_config import traced_config, with_tokens
from edgeq.exporters.causal_lm.graph_io import ATTENTION_MASK, INPUT_IDS, input_specs, output_specs
from edgeq.exporters.causal_lm.own_library import check_reference
from edgeq.exporters.causal_lm.positions import freeze_positions, layer_windows
from edgeq.exporters.causal_lm.roads import builder_refusal
from edgeq.exporters.causal_lm.text import (
    chat_template,
    generation_config,
    sampling_defaults,
    stop_ids,
    tokenizer_config,
    tokens_beyond,
)
from edgeq.exporters.causal_lm.weights import float_bytes
from edgeq.exporters.checkpoint import weight_files
from edgeq.exporters.exported_model import Progress
from edgeq.exporters.language_model_facts import LanguageModelFacts
from edgeq.exporters.provenance import hub_revision, public_name, read_license, source_files
from edgeq.exporters.tokenizer import load_tokenizer, text_preprocessor
from edgeq.families.rope import head_size
from edgeq.graph.component import Component, text_component
from edgeq.runtime.generation.settings import CacheShape, GenerationSettings
from edgeq.types import SourceInfo, Task

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporters.causal_lm.weights import DecoderWeights


def export_folder(
    facts: LanguageModelFacts, context: int | None, road: str | None, say: Progress = lambda _: None
) -> ExportedLanguageModel:
    """Export the model of a folder in this process; errors as `load_language_model`.

    Args:
        facts: of the folder.
        context: most tokens of prompt and answer; the model's own limit when left out.
        road: `builder` or `torch`; by default the builder where it covers the model.
        say: told each stage.
    """
    from edgeq.exporters.causal_lm.equivalence import check_decoder
    from edgeq.exporters.causal_lm.streamed_forward import streamed_logits
    from edgeq.exporters.causal_lm.without_matrices import decoder_without_matrices
    from edgeq.graph.streamed_tensor import HELD_BYTES

    length = context_length(facts.config, context)
    say("reading the weights")
    tokenizer = load_tokenizer(facts.folder)
    model, weights = decoder_without_matrices(facts.folder)
    weights.check_finite()
    use_builder = _uses_builder(facts, road)
    settings = settings_of(facts, model, tokenizer, length, shares_buffer=use_builder)
    say("exporting the graph")
    # Both roads change the model they are given, and the original still has to run.
    twin, _ = decoder_without_matrices(facts.folder, weights)
    canonical, genai = (_built if use_builder else _traced)(facts, twin, weights, settings)
    reference = streamed_logits(model, weights)
    say("checking the graph against the original")
    check_reference(facts.folder, weights, reference, is_small=float_bytes(facts.folder) <= HELD_BYTES)
    check_decoder(canonical, settings, reference, facts.architecture)
    return ExportedLanguageModel(
        components=(canonical,),
        source=source_of(facts, model),
        preprocessor=text_preprocessor(tokenizer, max_length=length, input_names=(INPUT_IDS, ATTENTION_MASK)),
        settings=settings,
        reference=reference,
        genai_config=with_tokens(genai, facts.config, settings, context)
        if genai
        else traced_config(facts.config, settings, context),
        tokenizer_config=tokenizer_config(facts.folder, tokenizer, chat_template(tokenizer)),
        graph_source="genai-builder" if use_builder else "torch",
        weights=weights,
        notices=notices_of(facts, weights, tokenizer, settings),
    )


def notices_of(
    facts: LanguageModelFacts, weights: DecoderWeights, tokenizer: Any, settings: GenerationSettings
) -> tuple[str, ...]:
    """What the user should know about a model's files."""
    return (*facts.notices, *weights.notices, *tokens_beyond(tokenizer.get_vocab(), settings.vocabulary))


def _uses_builder(facts: LanguageModelFacts, road: str | None) -> bool:
    from edgeq.exporters.causal_lm.builder import is_installed

    refusal = builder_refusal(facts.config)
    if road == "builder" and refusal is not None:
        raise ModelError(f"no graph from the model builder: {refusal}")
    return road != "torch" and refusal is None and is_installed()


def settings_of(
    facts: LanguageModelFacts, model: Any, tokenizer: Any, length: int, *, shares_buffer: bool
) -> GenerationSettings:
    """What generating needs, from the folder's files and the model that transformers made."""
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


def specs_of(settings: GenerationSettings) -> tuple[Any, Any]:
    """Inputs and outputs of the graph."""
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

    inputs, outputs = specs_of(settings)
    try:
        declare(graph, inputs, outputs)
    except ValueError as error:
        raise ModelError(f"`{facts.architecture}` exports to an unexpected graph: {error}") from error
    return text_component(graph, inputs, outputs, settings.context_length)


def source_of(facts: LanguageModelFacts, model: Any) -> SourceInfo:
    """Provenance of a folder's model."""
    return SourceInfo(
        model=public_name(facts.model),
        revision=hub_revision(facts.folder),
        files=source_files(facts.folder, facts.folder, weight_files(facts.folder)),
        license=read_license(facts.folder),
        task=Task.TEXT_GENERATION,
        architecture=facts.architecture,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
