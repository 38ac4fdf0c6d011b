"""One way in for every bundle."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgeq.runtime.generation.language_model import LanguageModel
from edgeq.runtime.model import LoadedModel, opened
from edgeq.runtime.runtime import OpenOther, Runtime
from edgeq.tasks import is_autoregressive

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle


def load(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    force: bool = False,
    threads: int | None = None,
    engine: str | None = None,
    open_other: OpenOther | None = None,
) -> LoadedModel:
    """Open and verify a bundle, and load one of its variants by what its task needs.

    Args:
        path: a bundle folder or a `.edgeq` archive.
        variant: its id; the first that this machine can run when left out.
        force: load it even if it failed its quality gate.
        threads: None lets the engine choose.
        engine: of a language model, as `LanguageModel` takes it.
        open_other: for variants of other runtimes than ONNX Runtime.

    Returns:
        A `LanguageModel` where the task is to generate text, else a `Runtime`.

    Raises:
        EdgeqError: see `LanguageModel`, `Runtime` and `opened`; also an engine for a model that has no choice of one.
    """

    def load_here(bundle: Bundle) -> LoadedModel:
        if is_autoregressive(bundle.manifest.source.task) or engine is not None:
            return LanguageModel(bundle, engine=engine, variant=variant, threads=threads)
        return Runtime(bundle, variant=variant, threads=threads, open_other=open_other)

    return opened(path, load_here, force=force)
