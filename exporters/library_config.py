"""What sentence-transformers does around its modules, read from the two files that say it.

`config_sentence_transformers.json` (prompts, the dimension vectors are cut to, what kind of model it is) and
`sentence_bert_config.json` beside the transformer (longest text, lower-casing, which head is loaded). Every key is
taken, known to change nothing, or refused or named: a key that nobody reads is a wrong vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.json_files import read_object

LIBRARY_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
"""Names that the transformer's own settings have had, in the order the library looks for them."""

CROSS_ENCODER, EMBEDDER = "CrossEncoder", "SentenceTransformer"

LIBRARY_TAKEN = frozenset(
    ("model_type", "prompts", "default_prompt_name", "truncate_dim", "activation_fn", "similarity_fn_name")
)
LIBRARY_HARMLESS = frozenset(("__version__", "keep_in_fp32_modules", "requirements"))
TRANSFORMER_TAKEN = frozenset(("max_seq_length", "do_lower_case", "transformer_task"))
TRANSFORMER_HARMLESS = frozenset(("unpad_inputs", "model_name_or_path", "tokenizer_name_or_path", "backend"))
NESTED = frozenset(
    ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
)
NESTED_HARMLESS = frozenset(
    (
        "add_pooling_layer",
        "attn_implementation",
        "device_map",
        "dtype",
        "low_cpu_mem_usage",
        "torch_dtype",
        "trust_remote_code",
        "use_cache",
        "use_fast",
        "use_safetensors",
    )
)
"""Arguments of transformers that change where and how fast a model runs, and in which type: edgeq's is float32."""

TASKS = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
}
"""Heads that can be taken, with what the library reads of their output, and what it calls that."""


@dataclass(frozen=True, slots=True)
class LibraryConfig:
    """What the library does that the modules do not say.

    Attributes:
        kind: `SentenceTransformer` or `CrossEncoder`.
        transformer_task: whose head the transformer has.
        prompts: text put before a text, by name.
        default_prompt: name of the one used where none is asked for.
        truncate_dim: how many values of a vector are kept; None for all.
        max_length: longest text in tokens; None leaves it to the tokenizer.
        lower_case: texts are lower-cased before the tokenizer.
        activation: name of what a cross encoder applies to its scores; empty where the library decides: a sigmoid of
            one score, nothing of several.
        notices: what it does that is left out of a bundle, for people.
        refusals: what it does that changes the result and cannot be taken.
    """

    kind: str = EMBEDDER
    transformer_task: str = "feature-extraction"
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None
    max_length: int | None = None
    lower_case: bool = False
    activation: str = ""
    notices: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def has_activation(self) -> bool:
        """Whether a cross encoder's scores go through a function that its settings name."""
        return self.activation not in ("", "Identity")

    @property
    def is_scorer(self) -> bool:
        """Whether it gives scores for a text or a pair, not vectors."""
        return self.kind == CROSS_ENCODER or self.transformer_task == "sequence-classification"


def read_library_config(folder: Path, transformer: Path) -> LibraryConfig:
    """Read both files; what a missing one leaves out has the library's defaults.

    Args:
        folder: of the model, with `modules.json`.
        transformer: of its first module.

    Raises:
        ModelError: a file is malformed.
    """
    library, path = _read(folder, (LIBRARY_FILE,))
    own, own_path = _read(transformer, TRANSFORMER_FILES)
    prompts, default = _prompts(library, path)
    return LibraryConfig(
        kind=str(library.get("model_type") or EMBEDDER),
        transformer_task=str(own.get("transformer_task") or "feature-extraction"),
        prompts=prompts,
        default_prompt=default,
        truncate_dim=_count(library, "truncate_dim", path),
        max_length=_count(own, "max_seq_length", own_path),
        lower_case=bool(own.get("do_lower_case")),
        activation=str(library.get("activation_fn") or "").rsplit(".", 1)[-1],
        notices=tuple(_notices(library, own)),
        refusals=(*_library_refusals(library), *_transformer_refusals(own, own_path.name)),
    )


def _read(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, Any], Path]:
    path = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    return (read_object(path) if path.is_file() else {}), path


def _prompts(library: Mapping[str, Any], path: Path) -> tuple[dict[str, str], str | None]:
    prompts = library.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ModelError(f"`prompts` in `{path}` is {prompts!r:.60}, expected texts by name")
    default = library.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ModelError(
            f"default_prompt_name in `{path}` is {default!r:.60}, expected one of {', '.join(prompts) or 'none'}"
        )
    given = {name: text for name, text in prompts.items() if text}
    return given, default if default in given else None


def _count(config: Mapping[str, Any], key: str, path: Path) -> int | None:
    value = config.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ModelError(f"{key} in `{path}` is {value!r:.60}, expected a number from 1 up")
    return value


def _notices(library: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    similarity = library.get("similarity_fn_name")
    if similarity not in (None, "cosine"):
        yield f"its vectors are to be compared by `{similarity}` (similarity_fn_name), which an app has to do"
    unknown = sorted(set(library) - LIBRARY_TAKEN - LIBRARY_HARMLESS)
    if unknown:
        yield f"{LIBRARY_FILE} says {', '.join(unknown)}, which edgeq does not know and leaves out"
    known = TRANSFORMER_TAKEN | TRANSFORMER_HARMLESS | NESTED | {*_READ_BELOW}
    unknown = sorted(set(own) - known)
    if unknown:
        yield f"the transformer's settings say {', '.join(unknown)}, which edgeq does not know and leaves out"


_READ_BELOW = (
    "modality_config",
    "module_output_name",
    "query_length",
    "document_length",
    "query_expansion",
    "processing_kwargs",
)


def _library_refusals(library: Mapping[str, Any]) -> Iterator[str]:
    kind = library.get("model_type") or EMBEDDER
    if kind not in (EMBEDDER, CROSS_ENCODER):
        yield f"it is a {kind} of sentence-transformers (model_type in {LIBRARY_FILE})"


def _transformer_refusals(own: Mapping[str, Any], name: str) -> Iterator[str]:
    task = str(own.get("transformer_task") or "feature-extraction")
    if task not in TASKS:
        yield f"{name} asks for the head `{task}` (transformer_task)"
        return
    output, feature = TASKS[task]
    usual = {"method": "forward", "method_output_name": output}
    modalities = own.get("modality_config") or {"text": usual}
    text = modalities.get("text") if isinstance(modalities, dict) else None
    if not isinstance(text, dict) or {key: text.get(key) for key in usual} != usual:
        yield f"{name} reads a text otherwise than `{output}` of `forward` (modality_config: {text!r:.80})"
    if own.get("module_output_name") not in (None, feature):
        yield f"{name} names the transformer's output `{own['module_output_name']}` (module_output_name)"
    for key in ("query_length", "document_length", "query_expansion", "processing_kwargs"):
        if own.get(key):
            yield f"{name} sets {key}"
    for key in sorted(NESTED & set(own)):
        given = own[key] if isinstance(own[key], dict) else {}
        for argument in sorted(set(given) - NESTED_HARMLESS):
            yield f"{name} passes {argument}={given[argument]!r:.40} to transformers ({key})"
