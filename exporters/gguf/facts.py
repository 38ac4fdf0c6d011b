"""What a GGUF file is, from its metadata alone."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError, UnsupportedError
from edgeq.exporters.gguf.reader import open_gguf
from edgeq.exporters.gguf.special import special_ids, stop_ids, tokens_of
from edgeq.exporters.gguf.tokenizer import check_tokenizer
from edgeq.exporters.language_model_facts import LanguageModelFacts, refusal_of
from edgeq.families import BY_GGUF_NAME, DecoderFamily
from edgeq.families.gguf_file import GgufFile
from edgeq.quantize.weight_only.gguf_import import FORMATS, UNREPRESENTABLE

FILE_TYPE = "general.file_type"


def inspect_gguf(path: Path) -> LanguageModelFacts:
    """Facts about a file; tensors are not read.

    Raises:
        ModelError: there is no such file, it is damaged, or its metadata lack what the model needs.
        UnsupportedError: an architecture or a kind of positions that edgeq does not take.
    """
    if path.expanduser().is_dir():
        raise ModelError(f"`{path}` is a folder, expected a GGUF file", hint="name the .gguf file in it")
    if not path.expanduser().is_file():
        raise ModelError(f"there is no file `{path}`")
    file = open_gguf(path.expanduser())
    config = config_of(file)
    return LanguageModelFacts(
        str(path),
        path.expanduser(),
        config["model_type"],
        config,
        refusal_of(config),
        None if is_float(file) else f"gguf-{label_of(file)}",
        lost_tensors(file),
    )


def is_float(file: GgufFile) -> bool:
    """Whether every matrix of a file is plain floats: then there is nothing to take over."""
    return all(tensor.is_float for tensor in file.tensors.values())


def label_of(file: GgufFile) -> str:
    """`q4_k_m`, from the file type that llama.cpp writes; `mixed` where it says nothing."""
    from gguf import LlamaFileType

    try:
        name = LlamaFileType(int(file.metadata[FILE_TYPE])).name
    except (KeyError, ValueError, TypeError):
        return "mixed"
    return str(name).removeprefix("MOSTLY_").removeprefix("ALL_").lower()


def lost_tensors(file: GgufFile) -> dict[str, str]:
    """Tensors of types that ONNX cannot hold, with the type and the reason."""
    return {
        tensor.name: f"{tensor.kind}: {UNREPRESENTABLE.get(tensor.kind, 'edgeq does not know it')}"
        for tensor in file.tensors.values()
        if not tensor.is_float and tensor.kind not in FORMATS
    }


def family_of(file: GgufFile) -> DecoderFamily:
    """The file's architecture.

    Raises:
        UnsupportedError: edgeq does not know it.
    """
    name = file.architecture
    if name not in BY_GGUF_NAME:
        close = difflib.get_close_matches(name, BY_GGUF_NAME, n=1, cutoff=0.75)
        raise UnsupportedError(
            f"GGUF models of architecture `{name}` are not supported, expected one of {', '.join(BY_GGUF_NAME)}",
            hint=f"did you mean {close[0]}?" if close else None,
        )
    return BY_GGUF_NAME[name]


def config_of(file: GgufFile) -> dict[str, Any]:
    """`config.json` for a file."""
    family = family_of(file)
    if "token_embd.weight" not in file.tensors:
        raise ModelError(f"`{file.path}` has no token embeddings (token_embd.weight)")
    check_tokenizer(file)
    rows, tokens = file.tensors["token_embd.weight"].shape[0], len(tokens_of(file))
    if tokens > rows:
        raise ModelError(f"`{file.path}` has {tokens} tokens and {rows} token embeddings")
    ids = special_ids(file)
    ends = stop_ids(file)
    return {
        "model_type": family.model_type,
        "architectures": [family.head],
        **family.gguf.config(file),
        "bos_token_id": ids.get("bos_token"),
        "pad_token_id": ids.get("pad_token"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
    }
