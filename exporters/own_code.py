"""`auto_map`: code that a model repository brings along. It is never run; a family that transformers has needs none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.errors import ModelError


def own_code(config: Mapping[str, Any], known: str | None) -> tuple[ModelError | None, str | None]:
    """A refusal, or a notice that the code is not needed; neither where a config names none.

    Repositories published before transformers had their family name a copy of the class that it has now. A class of
    another name is another model, even where it claims the same `model_type`.

    Args:
        config: of the model.
        known: the class of transformers that the model will be run as; None where edgeq has none for it.
    """
    code = config.get("auto_map")
    if not code:
        return None, None
    named = {str(path).rpartition(".")[2] for head, path in code.items() if _is_model(head)}
    if known is not None and named <= {known, *_heads(known)}:
        return None, (
            f"the code that the repository brings along (auto_map: {', '.join(sorted(code))}) is not run: transformers "
            f"has `{known}`"
        )
    return (
        ModelError(
            f"the model needs code of its own (auto_map: {', '.join(sorted(code))}), which "
            "edgeq does not run: code from a model repository could do anything on this machine",
            hint="use a model whose architecture is part of transformers",
        ),
        None,
    )


def _is_model(head: str) -> bool:
    """`AutoConfig` and tokenizers decide nothing that is computed from token ids."""
    return str(head).startswith(("AutoModel", "TFAutoModel", "FlaxAutoModel"))


def _heads(known: str) -> set[str]:
    """The classes of the same family: `Phi3Model`, `Phi3ForSequenceClassification` beside `Phi3ForCausalLM`."""
    family = next((known[: known.index(mark)] for mark in ("For", "LMHead", "Model") if mark in known), known)
    suffixes = (
        "Model",
        "PreTrainedModel",
        "LMHeadModel",
        "ForCausalLM",
        "ForMaskedLM",
        "ForPreTraining",
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
        "ForMultipleChoice",
        "ForNextSentencePrediction",
    )
    return {f"{family}{suffix}" for suffix in suffixes}
