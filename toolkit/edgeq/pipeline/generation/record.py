"""Records what a language model's tokenizer, template, settings and answers are, beside the golden cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.pipeline.generation.golden import record_language

if TYPE_CHECKING:
    from edgeq.bundle.language_golden import GreedyGolden, LanguageGolden
    from edgeq.bundle.writer import BundleWriter
    from edgeq.progress import Progress
    from edgeq.runtime.text import TextPreprocessor


def record_answers(
    writer: BundleWriter,
    preprocessor: TextPreprocessor,
    model: Path,
    greedy: GreedyGolden,
    progress: Progress,
) -> LanguageGolden:
    """Written after the files it describes.

    Args:
        writer: of the bundle.
        preprocessor: its tokenizer.
        model: the variant's file.
        greedy: its answers; what is doubtful about them is said.
        progress: takes the notice.
    """
    if greedy.doubt is not None:
        progress.notice(f"{greedy.variant}: {greedy.doubt}")
    relative = model.relative_to(writer.folder).as_posix()
    found = record_language(writer.folder, preprocessor.tokenizer_json, relative, greedy)
    found.save(writer.folder)
    return found
