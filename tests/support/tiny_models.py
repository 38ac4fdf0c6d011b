"""Random models of a hundred kilobytes for every architecture and task, with tokenizers."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from edgeq.exporters import ARCHITECTURES
from edgeq.exporters.checkpoint import quiet_transformers
from edgeq.types import Task

LABELS = ("negative", "neutral", "positive")


def build_tiny_model(
    folder: Path, architecture: str, task: Task = Task.FEATURE_EXTRACTION, **config: Any
) -> Path:
    """Write a random model with two layers, and a tokenizer that splits any ASCII text into letters.

    Args:
        folder: created; holds config.json, model.safetensors, tokenizer.json.
        architecture: a key of `ARCHITECTURES`.
        task: decides the head; sentence embedding adds mean pooling and normalization.
        config: overrides of the architecture's tiny config; `layers` is their number under whichever name.
    """
    import torch
    import transformers

    spec = ARCHITECTURES[architecture]
    layers = config.pop("layers", None)
    settings = dict(spec.tiny_config) | config
    if layers is not None:
        settings["n_layers" if "n_layers" in settings else "num_hidden_layers"] = layers
    if task in (Task.SEQUENCE_CLASSIFICATION, Task.TOKEN_CLASSIFICATION):
        settings["id2label"] = dict(enumerate(LABELS))
        settings["label2id"] = {label: index for index, label in enumerate(LABELS)}
    torch.manual_seed(0)
    built = getattr(transformers, spec.config_class)(**settings)
    model = getattr(transformers, spec.head(task))(built)
    _spread(model)
    with quiet_transformers():
        model.save_pretrained(folder)
    write_tokenizer(folder, vocabulary_size=100, pad_id=built.pad_token_id or 0)
    if task is Task.SENTENCE_EMBEDDING:
        write_sentence_modules(folder, ("mean",), hidden=settings.get("hidden_size", 32))
    return folder


def _spread(model: Any) -> None:
    """Random biases and scales: the zeros and ones of a fresh model would hide a bias that got lost."""
    import torch

    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embeddings" not in name:
                parameter.mul_(5.0)


def write_tokenizer(folder: Path, *, vocabulary_size: int, pad_id: int = 0) -> None:
    """A lower-casing WordPiece tokenizer of letters, digits and punctuation with BERT's special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = string.ascii_lowercase + string.digits
    pieces = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
        *string.punctuation,
    ]
    pieces = pieces[: vocabulary_size - 1]
    pieces.insert(pad_id, "[PAD]")
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_sentence_modules(
    folder: Path,
    modes: tuple[str, ...],
    *,
    hidden: int = 32,
    dense: int | None = None,
    normalize: bool = True,
) -> None:
    """Turn a model folder into one of sentence-transformers."""
    from edgeq.exporters.sentence import POOLING_MODES

    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for path in paths[1:]:
        (folder / path).mkdir(exist_ok=True)
    pooling = {key: mode in modes for key, mode in POOLING_MODES.items()} | {
        "word_embedding_dimension": hidden
    }
    (folder / paths[1] / "config.json").write_text(json.dumps(pooling))
    if dense:
        _write_dense(folder / paths[2], hidden * len(modes), dense)


def _write_dense(folder: Path, inputs: int, outputs: int) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    settings = {"in_features": inputs, "out_features": outputs, "bias": True}
    (folder / "config.json").write_text(
        json.dumps(settings | {"activation_function": "torch.nn.modules.activation.Tanh"})
    )
    save_file(
        {"linear.weight": torch.randn(outputs, inputs), "linear.bias": torch.randn(outputs)},
        folder / "model.safetensors",
    )
