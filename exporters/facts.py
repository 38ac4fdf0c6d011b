"""What a model is, from its config alone, and every reason to refuse it before long work."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeq.errors import ConfigError, ModelError
from edgeq.exporters.architecture import TextArchitecture
from edgeq.exporters.checkpoint import WEIGHT_FILES
from edgeq.exporters.config_keys import config_notices, refuse_keys
from edgeq.exporters.config_sizes import refusal_of_sizes
from edgeq.exporters.exported_model import ModelFacts
from edgeq.exporters.json_files import read_object
from edgeq.exporters.own_code import own_code
from edgeq.exporters.sentence import HEAD_FILE, SentenceModel, read_sentence_model
from edgeq.types import ProblemType, Task

HEAD_SUFFIXES = {
    "ForSequenceClassification": Task.SEQUENCE_CLASSIFICATION,
    "ForTokenClassification": Task.TOKEN_CLASSIFICATION,
    "ForQuestionAnswering": Task.QUESTION_ANSWERING,
    "ForMaskedLM": Task.FILL_MASK,
    # The heads of pretraining are not exported; what such a checkpoint is used for is its encoder.
    "ForPreTraining": Task.FEATURE_EXTRACTION,
    "Model": Task.FEATURE_EXTRACTION,
}
DECODER_SUFFIXES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def parse_task(name: str) -> Task:
    """The task of this name.

    Raises:
        ConfigError: there is none.
    """
    try:
        return Task(name)
    except ValueError:
        known = [task.value for task in Task]
        close = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"unknown task `{name}`, expected one of {', '.join(known)}",
            hint=f"--task {close[0]}" if close else None,
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder.

    Raises:
        ModelError: it is missing, malformed, or not that of a transformer.
    """
    refuse_adapter(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"`{folder}` has no config.json, so it is not a Hugging Face model",
            hint="name the folder that holds config.json, tokenizer.json and model.safetensors",
        )
    path = folder / "config.json"
    config = read_object(path)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"`{path}` names no `model_type`, so the model is not a transformers model")
    for key, kind in (("architectures", list), ("auto_map", dict)):
        if not isinstance(config.get(key), kind | None):
            raise ModelError(f"`{key}` in `{path}` is {config[key]!r:.40}, expected a {kind.__name__}")
    return config


ADAPTER_CONFIG = "adapter_config.json"


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder of PEFT: it holds changes to a model, not a model (transformers would load the base instead).

    Raises:
        ModelError: it is one, whatever else lies in it.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return
    described = read_object(path)
    base, kind = described.get("base_model_name_or_path"), str(described.get("peft_type") or "PEFT")
    holds_weights = any((folder / name).is_file() for name in WEIGHT_FILES)
    merge = (
        f"merge it first: AutoPeftModel.from_pretrained({str(folder)!r}).merge_and_unload().save_pretrained(MERGED), "
        "with the class of peft for its task, and export MERGED"
    )
    raise ModelError(
        f"`{folder}` is a {kind} adapter of {base or 'a model that it does not name'}: its matrices are changes to "
        "that model",
        hint=f"if the weights beside it are merged already, remove {ADAPTER_CONFIG}; else {merge}"
        if holds_weights
        else merge,
    )


def read_facts(
    model: str, folder: Path, table: Mapping[str, TextArchitecture], task: str | None
) -> ModelFacts:
    """Facts about a folder with `config.json`.

    Args:
        model: what the user named.
        folder: a model folder, perhaps one of sentence-transformers.
        table: the architectures there are exporters for.
        task: the task the user asked for.

    Raises:
        ModelError: the folder holds no transformer.
        ConfigError: there is no such task.
    """
    sentence = read_sentence_model(folder)
    config = read_config(sentence.transformer if sentence else folder)
    architecture = config["model_type"]
    wanted = parse_task(task) if task else None
    detected = sentence.task if sentence else detect_task(config)
    known = table.get(architecture)
    tasks = known.tasks if known else ()
    if sentence is None or sentence.task is not Task.SENTENCE_EMBEDDING:
        tasks = tuple(one for one in tasks if one is not Task.SENTENCE_EMBEDDING)
    chosen = wanted or detected
    named = (
        known.head(chosen if chosen is not None and chosen in known.tasks else Task.FEATURE_EXTRACTION)
        if known
        else None
    )
    refused_code, code_notice = own_code(config, named)
    refusal = (
        refused_code
        or _refuse_config(config, table)
        or _refuse_task(chosen, wanted, tasks, architecture, config)
        or _refuse_modules(folder, sentence, chosen, wanted)
    )
    notices = (
        *((code_notice,) if code_notice else ()),
        *_library_notices(sentence, chosen),
        *config_notices(config),
    )
    return ModelFacts(model, folder, architecture, chosen, tasks, refusal, notices=notices)


def _refuse_modules(
    folder: Path, sentence: SentenceModel | None, task: Task | None, wanted: Task | None
) -> ModelError | None:
    """What the model does after its transformer and a graph cannot."""
    if sentence is not None and sentence.serves(task) and sentence.refusal is not None:
        return sentence.refusal
    if (folder / HEAD_FILE).is_file() and wanted is None:
        return ModelError(
            f"`{folder}` has a classifier on top of its vectors in {HEAD_FILE}, a pickle that would run as code: "
            "edgeq does not load it",
            hint="--task sentence-embedding exports the vectors alone; the classifier is then yours to apply",
        )
    return None


def _library_notices(sentence: SentenceModel | None, task: Task | None) -> Iterator[str]:
    """What sentence-transformers does with the model that the bundle says or leaves out."""
    if sentence is None or not sentence.serves(task):
        return
    library = sentence.library
    yield from library.notices
    if library.prompts:
        named = ", ".join(f"{name} {text!r:.40}" for name, text in library.prompts.items())
        used = (
            f"{library.default_prompt} unless another is asked for"
            if library.default_prompt
            else "none by itself"
        )
        yield f"prompts in the bundle: {named}; used: {used}"
    if library.is_scorer and library.has_activation:
        yield (
            f"`predict` of sentence-transformers applies {library.activation} to the scores; the bundle gives the "
            "numbers before it"
        )


def detect_task(config: Mapping[str, Any]) -> Task | None:
    """The task of the head that a config names; the bare encoder where it names none."""
    names = config.get("architectures") or ["Model"]
    return next((task for suffix, task in HEAD_SUFFIXES.items() if str(names[0]).endswith(suffix)), None)


def read_problem_type(task: Task, config: Mapping[str, Any]) -> ProblemType | None:
    """What the logits of a sequence classifier mean, where its config says so; None for other tasks.

    Raises:
        ModelError: the config says something transformers does not know.
    """
    named = config.get("problem_type")
    if task is not Task.SEQUENCE_CLASSIFICATION or named is None:
        return None
    try:
        return ProblemType(named)
    except ValueError:
        known = ", ".join(ProblemType)
        raise ModelError(f"problem_type in config.json is {named!r:.60}, expected one of {known}") from None


def _refuse_config(config: Mapping[str, Any], table: Mapping[str, TextArchitecture]) -> ModelError | None:
    architecture = config["model_type"]
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else quantized
        return ModelError(
            f"the checkpoint is already quantized ({method}), expected float weights",
            hint="export the original model: edgeq quantizes it for the target",
        )
    if _is_decoder(config):
        return ModelError(
            f"`{architecture}` with {config.get('architectures')} generates text, expected a text encoder",
            hint="docs/models.md and docs/causal-lm.md list the families that are taken",
        )
    refused = refuse_keys(config)
    if refused is not None:
        return refused
    if architecture not in table:
        return ModelError(
            f"architecture `{architecture}` is not supported, expected one of {', '.join(sorted(table))}",
            hint="an .onnx file of a text encoder, made by another exporter, is taken: edgeq export model.onnx",
        )
    return refusal_of_sizes(config)


def _is_decoder(config: Mapping[str, Any]) -> bool:
    names = config.get("architectures") or []
    heads = any(str(name).endswith(DECODER_SUFFIXES) for name in names)
    return heads or bool(config.get("is_decoder")) or bool(config.get("is_encoder_decoder"))


def _refuse_task(
    task: Task | None,
    wanted: Task | None,
    tasks: tuple[Task, ...],
    architecture: str,
    config: Mapping[str, Any],
) -> ModelError | None:
    listed = ", ".join(tasks)
    if task is None:
        return ModelError(
            f"no exporter for the head {config.get('architectures')}, expected a model for one of {listed}",
            hint="export its encoder with --task feature-extraction",
        )
    if task is Task.SENTENCE_EMBEDDING and task not in tasks:
        return ModelError(
            "the model has no modules.json, so its pooling is not known",
            hint="use --task feature-extraction and pool in your app, or save it with sentence-transformers",
        )
    if task not in tasks:
        return ModelError(
            f"`{architecture}` cannot be exported for {task}{' (--task)' if wanted else ''}, "
            f"expected one of {listed}"
        )
    return None
