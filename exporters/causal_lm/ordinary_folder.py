"""Whatever the user names as an ordinary folder: a config, a tokenizer and float weights of one language model.

A Hub id is downloaded first. Of a GGUF file, a quantized checkpoint, or one of images and text, a folder is made, which
goes when nobody needs it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.exporters.causal_lm.facts import inspect_language_model, read_lm_facts
from edgeq.exporters.causal_lm.text_part import unpack_text_part
from edgeq.exporters.exported_model import Progress
from edgeq.exporters.gguf import inspect_gguf
from edgeq.exporters.gguf import unpack as unpack_gguf
from edgeq.exporters.gptq_awq.folder import open_checkpoint, unpack
from edgeq.exporters.language_model_facts import LanguageModelFacts
from edgeq.exporters.provenance import hub_revision, read_license, source_files
from edgeq.exporters.source import fetch, is_gguf_file, local_folder
from edgeq.files import sha256_file
from edgeq.scratch import ScratchFolder
from edgeq.types import SourceFile, SourceInfo

if TYPE_CHECKING:
    from edgeq.exporters.gptq_awq.folder import UnpackedFolder
    from edgeq.quantize.checkpoint_codes import PackedWeights


def _as_it_is(source: SourceInfo) -> SourceInfo:
    return source


@dataclass(frozen=True, slots=True, eq=False)
class OrdinaryFolder:
    """The folder, while it is open.

    Attributes:
        facts: of the folder, under the name of what it was made of.
        provenance: of what it was made of, from that of the folder.
        packed: weights that came quantized; None where they came as floats.
        is_torn: layers that one fused matrix of the builder's graph reads have their inputs in different orders.
        scratch: that it lies in; None where it was there before.
    """

    facts: LanguageModelFacts
    provenance: Callable[[SourceInfo], SourceInfo] = _as_it_is
    packed: PackedWeights | None = None
    is_torn: bool = False
    scratch: ScratchFolder | None = None

    def keep_for(self, owner: object) -> None:
        """Let it stay after the block, until nobody has `owner` any more."""
        if self.scratch is not None:
            self.scratch.keep_for(owner)


@contextmanager
def ordinary_folder(
    model: str | Path, revision: str | None = None, say: Progress = lambda _: None
) -> Iterator[OrdinaryFolder]:
    """The folder of a model, for the time of a block.

    Args:
        model: a local Hugging Face folder, a Hub id, or a GGUF file.
        revision: commit, tag or branch on the Hub.
        say: told each stage.

    Raises:
        ModelError: the model cannot be read, or is not supported.
        OutputError: no room for its weights.
    """
    if is_gguf_file(model):
        yield from _of_gguf(Path(model).expanduser(), say)
        return
    facts = inspect_language_model(model, revision=revision).require_supported()
    if local_folder(model) is None:
        say("downloading the model")
        facts = read_lm_facts(str(model), fetch(str(model), revision, config_only=False)).require_supported()
    if facts.is_unpacked:
        yield from _of_checkpoint(facts, say)
    else:
        yield OrdinaryFolder(facts)


def _of_gguf(path: Path, say: Progress) -> Iterator[OrdinaryFolder]:
    inspect_gguf(path).require_supported()
    say("unpacking the GGUF file")
    with ScratchFolder("gguf") as scratch:
        unpacked = unpack_gguf(path, scratch.path)
        facts = read_lm_facts(str(path), unpacked.folder).require_supported()
        yield OrdinaryFolder(facts, partial(_gguf_source, path=path), unpacked.packed, scratch=scratch)


def _of_checkpoint(facts: LanguageModelFacts, say: Progress) -> Iterator[OrdinaryFolder]:
    say("unpacking the checkpoint")
    with ScratchFolder("packed") as scratch:
        unpacked = _unpack_checkpoint(facts, scratch.path)
        found = read_lm_facts(facts.model, unpacked.folder).require_supported()
        yield OrdinaryFolder(
            replace(found, notices=facts.notices),
            partial(_checkpoint_source, facts=facts),
            unpacked.packed,
            unpacked.is_torn,
            scratch,
        )


def _unpack_checkpoint(facts: LanguageModelFacts, folder: Path) -> UnpackedFolder:
    """Write the ordinary folder of a checkpoint that is none: a quantized one, or one of images and text.

    Raises:
        EdgeqError: see `gptq_awq.folder.unpack` and `text_part.unpack_text_part`.
    """
    return (unpack_text_part if facts.is_text_part else unpack)(facts.folder, folder)


def _gguf_source(source: SourceInfo, path: Path) -> SourceInfo:
    """Provenance of what was unpacked from a GGUF file."""
    return replace(source, files=(SourceFile(path.name, sha256_file(path)),), license=None)


def _checkpoint_source(source: SourceInfo, facts: LanguageModelFacts) -> SourceInfo:
    """Provenance of what was unpacked from a checkpoint that is no ordinary folder."""
    weights = {tensor.path for tensor in open_checkpoint(facts.folder).tensors.values()}
    return replace(
        source,
        revision=hub_revision(facts.folder),
        files=source_files(facts.folder, facts.folder, weights),
        license=read_license(facts.folder),
    )
