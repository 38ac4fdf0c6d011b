"""What a model's files say before any work: headers cost milliseconds, and an export that fails late costs an hour."""

from __future__ import annotations

from edgeq.exporters.causal_lm.headers import check_language_headers
from edgeq.exporters.checkpoint import check_shapes, check_weights
from edgeq.exporters.encoders import ARCHITECTURES
from edgeq.exporters.exported_model import ModelFacts
from edgeq.exporters.sentence import read_sentence_model
from edgeq.exporters.source import is_gguf_file, is_onnx_file, local_folder
from edgeq.types import Task


def check_headers(facts: ModelFacts, seq_len: int | None) -> tuple[str, ...]:
    """Check the files of a local model folder by their headers; other models are checked when they are loaded.

    Values are read only where the answer is in them: of a language model's head that is stored beside the table it is
    tied to, and of biases that its layers have no place for.

    Args:
        facts: of a model that is supported.
        seq_len: asked for; a language model's context.

    Returns:
        What the user should know about the files.

    Raises:
        ModelError: the export would fail on these files.
        ConfigError: `seq_len` does not fit.
    """
    if is_onnx_file(facts.model) or is_gguf_file(facts.model) or local_folder(facts.model) is None:
        return facts.notices
    if facts.task is Task.TEXT_GENERATION:
        return check_language_headers(facts.folder, seq_len)
    _check_encoder(facts)
    return facts.notices


def _check_encoder(facts: ModelFacts) -> None:
    assert facts.task is not None
    sentence = read_sentence_model(facts.folder)
    folder = sentence.transformer if sentence else facts.folder
    check_weights(folder)
    check_shapes(folder, ARCHITECTURES[facts.architecture].head(facts.task))
