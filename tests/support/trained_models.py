"""Small models of every kind that have learned something: random heads are near ties, which say little of damage.

The texts are the built-in ones, the tokenizer knows their commonest words, and what is learned is a function of the
words, so that two layers and some hundred steps suffice.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.types import Array

WORDS = 600
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LENGTH = 48
HIDDEN = 64
GROUPS = 4
HEADS = {
    "single-label": "BertForSequenceClassification",
    "multi-label": "BertForSequenceClassification",
    "score": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "answers": "BertForQuestionAnswering",
    "words": "BertForMaskedLM",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "single-label": {"num_labels": GROUPS},
    "multi-label": {"num_labels": GROUPS, "problem_type": "multi_label_classification"},
    "score": {"num_labels": 1},
    "tokens": {"num_labels": GROUPS},
    "answers": {},
    "words": {},
}


def build_trained_model(folder: Path, kind: str, steps: int = 300) -> Path:
    """Train and write a model.

    Args:
        folder: created; holds config.json, model.safetensors, tokenizer.json.
        kind: a key of `HEADS`.
        steps: of 32 texts.
    """
    import torch
    import transformers

    from edgeq.calibration import load_samples
    from edgeq.exporters.checkpoint import quiet_transformers

    texts = [text for sample in load_samples(None, count=400, seed=5).samples for text in sample.texts]
    folder.mkdir(parents=True, exist_ok=True)
    write_word_tokenizer(folder, texts)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **SETTINGS[kind],
    )
    model = getattr(transformers, HEADS[kind])(config)
    with quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        _train(model, kind, _encode(tokenizer, kind, texts), steps)
        model.save_pretrained(folder)
    return folder


def _encode(tokenizer: Any, kind: str, texts: list[str]) -> dict[str, Any]:
    shape = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
    if kind == "answers":
        return dict(tokenizer(texts[1:] + texts[:1], texts, **shape))
    return dict(tokenizer(texts, **shape))


def _train(model: Any, kind: str, inputs: dict[str, Any], steps: int) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(0, len(inputs["input_ids"]), (32,), generator=generator)
        batch = {name: tensor[rows] for name, tensor in inputs.items()}
        loss = model(**batch | TARGETS[kind](batch, generator)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def word_groups(ids: Any) -> Any:
    """Group of each token: what every task asks of a word."""
    return (ids * 7919) % 101 % GROUPS


def group_counts(ids: Array) -> Array:
    """Words of each group in each row of token ids `[batch, sequence]`."""
    groups = np.where(ids >= len(SPECIAL), word_groups(ids), -1)
    return np.stack([(groups == group).sum(axis=1) for group in range(GROUPS)], axis=1)


def _counts(batch: dict[str, Any]) -> Any:
    import torch

    return torch.from_numpy(group_counts(batch["input_ids"].numpy()))


def _single_label(batch: dict[str, Any], _generator: Any) -> dict[str, Any]:
    return {"labels": _counts(batch).argmax(dim=1)}


def _multi_label(batch: dict[str, Any], _generator: Any) -> dict[str, Any]:
    counts = _counts(batch)
    return {"labels": (GROUPS * counts > counts.sum(dim=1, keepdim=True)).float()}


def _score(batch: dict[str, Any], _generator: Any) -> dict[str, Any]:
    counts = _counts(batch).float()
    return {"labels": (counts[:, 0] - counts[:, 1]) / counts.sum(dim=1).clamp(min=1) * 4}


def _tokens(batch: dict[str, Any], _generator: Any) -> dict[str, Any]:
    """The group of the word before: a token alone does not say it."""
    import torch

    before = torch.roll(word_groups(batch["input_ids"]), 1, dims=1)
    return {"labels": before.masked_fill(batch["attention_mask"] == 0, -100)}


def _answers(batch: dict[str, Any], _generator: Any) -> dict[str, Any]:
    """From the first word of group 0 in the second text to the first of group 1 behind it."""
    import torch

    groups, ids = word_groups(batch["input_ids"]), batch["input_ids"]
    word = (batch["token_type_ids"] == 1) & (ids >= len(SPECIAL))
    place = torch.arange(ids.shape[1])[None]
    start = _first(word & (groups == 0))
    end = torch.maximum(_first(word & (groups == 1) & (place >= start[:, None])), start)
    return {"start_positions": start, "end_positions": end}


def _first(chosen: Any) -> Any:
    return chosen.int().argmax(dim=1)


def _words(batch: dict[str, Any], generator: Any) -> dict[str, Any]:
    import torch

    ids = batch["input_ids"]
    masked = (torch.rand(ids.shape, generator=generator) < 0.15) & (ids >= len(SPECIAL))
    mask = torch.full_like(ids, SPECIAL.index("[MASK]"))
    return {"input_ids": torch.where(masked, mask, ids), "labels": ids.masked_fill(~masked, -100)}


TARGETS: dict[str, Callable[[dict[str, Any], Any], dict[str, Any]]] = {
    "single-label": _single_label,
    "multi-label": _multi_label,
    "score": _score,
    "tokens": _tokens,
    "answers": _answers,
    "words": _words,
}


def write_word_tokenizer(folder: Path, texts: list[str]) -> None:
    """A lower-casing tokenizer of the commonest words of some texts."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    counts = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words][:WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    settings: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
