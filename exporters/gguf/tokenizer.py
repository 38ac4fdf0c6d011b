"""The tokenizer that a GGUF file's metadata describe, saved as tokenizer.json.

Byte-level vocabularies are built here, every token under the id and in the spelling that the file has; SentencePiece
ones by transformers, whose merges recovered from the scores give llama.cpp's tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.errors import EdgeqError, ModelError, UnsupportedError
from edgeq.exporters.checkpoint import quiet_transformers
from edgeq.exporters.gguf.special import CONTROL, USER_DEFINED, special_ids, tokens_of, types_of
from edgeq.exporters.gguf.splits import check_kind, split_of
from edgeq.families.gguf_file import GgufFile

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
"""`tokenizer.ggml.model`."""
PHI3_KEEPING = ("<unk>", "<s>", "<|endoftext|>")
"""Special tokens of Phi-3 that leave white space after them alone."""


def check_tokenizer(file: GgufFile) -> None:
    """Whether the tokenizer can be built, from the metadata alone.

    Raises:
        ModelError: there is none, or a damaged one.
        UnsupportedError: one of a kind that edgeq does not build.
    """
    types_of(file, tokens_of(file))
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind not in _BUILDERS:
        raise UnsupportedError(
            f"no tokenizer can be built from the `{kind}` vocabulary of `{file.path}`, expected one of "
            f"{', '.join(_BUILDERS)}"
        )
    if kind == BYTE_LEVEL:
        check_kind(file.metadata.get("tokenizer.ggml.pre"), file.path)


def save_tokenizer(file: GgufFile, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`.

    Raises:
        ModelError: the file has no tokenizer, or a damaged one.
        UnsupportedError: one of a kind that edgeq does not build.
    """
    check_tokenizer(file)
    with quiet_transformers():
        try:
            tokenizer = _build(file)
            tokenizer.save_pretrained(folder)
        except EdgeqError:
            raise
        except Exception as error:  # transformers and tokenizers raise whatever they trip over
            kind = file.metadata.get("tokenizer.ggml.model")
            raise ModelError(
                f"no tokenizer can be built from the `{kind}` vocabulary of `{file.path}`: {error}"
            ) from error


def _build(file: GgufFile) -> Any:
    from transformers import PreTrainedTokenizerFast

    backend, begins = _BUILDERS[file.metadata["tokenizer.ggml.model"]](file)
    tokens, ids = tokens_of(file), special_ids(file)
    special = {role: tokens[number] for role, number in ids.items()}
    wants = {
        "bos_token": bool(file.metadata.get("tokenizer.ggml.add_bos_token", begins)),
        "eos_token": bool(file.metadata.get("tokenizer.ggml.add_eos_token", False)),
    }
    around = {role: special[role] for role, is_wanted in wants.items() if is_wanted and role in special}
    backend.post_processor = _around(around, ids)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        add_bos_token="bos_token" in around,
        add_eos_token="eos_token" in around,
        **special,
    )
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        tokenizer.chat_template = template
    return tokenizer


def _around(tokens: Mapping[str, str], ids: Mapping[str, int]) -> Any:
    """BOS before and EOS after each text, where they are wanted."""
    from tokenizers.processors import TemplateProcessing

    def piece(name: str, kind: int) -> list[str]:
        pieces = [tokens.get("bos_token"), name, tokens.get("eos_token")]
        return [f"{piece}:{kind}" for piece in pieces if piece]

    return TemplateProcessing(
        single=piece("$A", 0),
        pair=[*piece("$A", 0), *piece("$B", 1)],
        special_tokens=[(token, ids[role]) for role, token in tokens.items()],
    )


def _byte_level(file: GgufFile) -> tuple[Any, bool]:
    """A vocabulary of bytes and merges, and whether texts begin with BOS where the file does not say."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    split = split_of(file.metadata["tokenizer.ggml.pre"])
    tokens = tokens_of(file)
    merges = file.metadata.get("tokenizer.ggml.merges") or []
    backend = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ", 1)) for merge in merges],
            ignore_merges=split.takes_whole,
        )
    )
    backend.pre_tokenizer = split.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    types = types_of(file, tokens)
    pairs = list(zip(tokens, types, strict=True))
    backend.add_special_tokens([AddedToken(t, normalized=False) for t, kind in pairs if kind == CONTROL])
    backend.add_tokens([AddedToken(t, normalized=False) for t, kind in pairs if kind == USER_DEFINED])
    return backend, split.begins


def _sentencepiece(file: GgufFile) -> tuple[Any, bool]:
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    architecture, described, _ = get_gguf_tokenizer(str(file.path))
    backend, _ = convert_gguf_tokenizer(architecture, described)
    if described.get("add_prefix_space", True):
        _prefix_every_text(backend)
    return _swallow_spaces(backend) if architecture == "phi3" else backend, True


def _swallow_spaces(backend: Any) -> Any:
    """Phi-3's turn tokens take the white space after them; a GGUF file does not say so, llama.cpp knows it too."""
    from tokenizers import Tokenizer

    document = json.loads(backend.to_str())
    for token in document["added_tokens"]:
        token["rstrip"] = token["content"] not in PHI3_KEEPING
    return Tokenizer.from_str(json.dumps(document))


def _prefix_every_text(backend: Any) -> None:
    """A space before every text, also before one that starts with a space.

    So do llama.cpp and the tokenizer.json of the older Llamas; transformers' own class leaves the second one out.
    """
    from tokenizers import normalizers

    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.pre_tokenizer = None


_BUILDERS = {BYTE_LEVEL: _byte_level, SENTENCEPIECE: _sentencepiece}
