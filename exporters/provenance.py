"""Where a model came from: revision, license, and a SHA-256 of every file that was read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from edgeq.errors import MissingExtraError
from edgeq.exporters.samples import SAMPLE_MODEL, sample_model_path
from edgeq.files import sha256_file
from edgeq.types import SourceFile

METADATA_FILES = (
    "config.json",
    "quantize_config.json",
    "quant_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
)
"""Files besides the weights that decide what a model computes."""


def source_files(root: Path, folder: Path, weights: Iterable[Path]) -> tuple[SourceFile, ...]:
    """Every file that was read, sorted by path relative to `root`; `folder` in it holds the model itself."""
    paths = {place / name for place in (root, folder) for name in METADATA_FILES if (place / name).is_file()}
    paths |= set(weights) | {
        path for path in root.glob("*_*/config.json") if (root / "modules.json").is_file()
    }
    return tuple(SourceFile(path.relative_to(root).as_posix(), sha256_file(path)) for path in sorted(paths))


def read_license(folder: Path) -> str | None:
    """License named in the front matter of README.md, else the one whose text the LICENSE file holds."""
    readme = folder / "README.md"
    if readme.is_file():
        found = re.match(
            r"---\r?\n(.*?)\r?\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL
        )
        named = re.search(r"^license:\s*[\"']?([\w.+-]+)", found[1], re.MULTILINE) if found else None
        if named:
            return named[1]
    return _recognize(_first(folder, "LICENSE"))


LEGAL_FILES = ("LICENSE", "NOTICE", "USE_POLICY")
"""What has to travel with a model, by the name it has in a bundle; its source may write `.txt` or `.md` behind it."""


def legal_texts(folder: Path) -> dict[str, str]:
    """Licence, notices and terms of use that lie beside a model, by name without suffix; empty where there are none."""
    found = {name: _first(folder, name) for name in LEGAL_FILES}
    return {
        name: path.read_text(encoding="utf-8", errors="replace")
        for name, path in found.items()
        if path is not None
    }


def _first(folder: Path, name: str) -> Path | None:
    """`NAME`, `NAME.txt` or `NAME.md`."""
    paths = (folder / f"{name}{suffix}" for suffix in ("", ".txt", ".md"))
    return next((path for path in paths if path.is_file()), None)


LICENSE_PHRASES = {
    "apache-2.0": "Apache License",
    "mit": "Permission is hereby granted, free of charge",
    "bsd-3-clause": "Redistribution and use in source and binary forms",
}


def _recognize(path: Path | None) -> str | None:
    if path is None:
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    return next((name for name, phrase in LICENSE_PHRASES.items() if phrase in text), "other")


def public_name(model: str) -> str:
    """How a bundle names its source: the Hub id, or a local folder's or file's own name.

    A path would differ from machine to machine, and tell readers about the machine it was made on.
    """
    path = Path(model).expanduser()
    if not path.exists():
        return model
    try:
        is_sample = path.samefile(sample_model_path())
    except MissingExtraError:
        is_sample = False
    return SAMPLE_MODEL if is_sample else path.resolve().name


def hub_revision(folder: Path) -> str | None:
    """Commit of a folder inside the Hub's cache (`.../snapshots/<commit>`)."""
    return folder.name if folder.parent.name == "snapshots" else None
