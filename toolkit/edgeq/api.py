"""The Python verbs: `export`, `load`, `validate`. The command line does the same through the same functions."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.pipeline.flags import flag, with_keywords
from edgeq.pipeline.options import ExportOptions
from edgeq.pipeline.verdict import require_passed

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.validation.report import ValidationReport
    from edgeq.progress import Progress
    from edgeq.runtime.model import LoadedModel


@dataclass(frozen=True, slots=True)
class ExportKeywords(ExportOptions):
    """What `export` takes: the options, for one target, and who is told about stages."""

    _: KW_ONLY
    target: str = field(default="android", metadata=flag("A name from `edgeq targets`."))
    progress: Progress | None = field(default=None, metadata=flag("Told about stages."))


@with_keywords(ExportKeywords)
def export(asked: ExportKeywords) -> Bundle:
    """Export a model to one target as a verified bundle.

    The keywords are the flags of `edgeq export` and read the same; several values may be a sequence:
    `variants=["cpu"]`, `gates=["cosine_mean>=0.99"]`, `seq_len=(32, 128)`.

    Returns:
        The bundle; `bundle.path` is its folder.

    Raises:
        GateError: its quality is below a gate; the bundle was kept, marked failed.
        EdgeqError: anything else the user can act on.
    """
    from edgeq.pipeline.export import run_export
    from edgeq.pipeline.request import request_from

    [result] = run_export(request_from(asked), asked.progress)
    require_passed([result])
    return result.bundle


def load(
    path: str | Path,
    *,
    variant: str | None = None,
    force: bool = False,
    threads: int | None = None,
    engine: str | None = None,
) -> LoadedModel:
    """Open a bundle for running, whatever its task; every file is verified first.

    Args:
        path: a bundle's folder or `.edgeq` file.
        variant: its id; the first one this machine can run when left out.
        force: open a bundle that failed its gate.
        threads: intra-op threads.
        engine: of a language model: `onnxruntime`, `genai` or `llama.cpp`; the variant's own when left out.

    Returns:
        `generate` and `chat_prompt` work for language models, `run`, `answer` and `encode` for the others.

    Raises:
        IntegrityError: a file is not the one the manifest lists.
        GateError: the bundle failed its gate.
        UnsupportedError: nothing here runs the variant, or an engine was named for a model that generates nothing.
        MissingExtraError: the engine is not installed.
    """
    from edgeq.pipeline.sessions import open_other
    from edgeq.runtime.loading import load as load_bundle

    return load_bundle(
        path, variant=variant, force=force, threads=threads, engine=engine, open_other=open_other
    )


def validate(
    path: str | Path,
    *,
    against: str | Path | None = None,
    data: str | Path | None = None,
    labels: str | Path | None = None,
    on: str = "native",
    cpu: str = "cortex-a76",
    force: bool = False,
) -> ValidationReport:
    """Replay a bundle's golden vectors and, with `against`, compare it with the live original on held-out data.

    Args:
        path: a bundle's folder or `.edgeq` file.
        against: the original model.
        data: texts to compare on; the labelled or the built-in ones when left out.
        labels: labelled lines for the task's own metric, which decides with `against` unless there is `data`.
        on: `native`, `arm64` or `adb`.
        cpu: the emulated core for `arm64`.
        force: validate a bundle that failed its gate.

    Raises:
        EdgeqError: the bundle, the model or the data cannot be used. A gate that does not hold is no error here:
            look at `report.passed`.
    """
    from edgeq.pipeline.validation.request import ValidationRequest
    from edgeq.pipeline.validation.run import run_validation

    return run_validation(
        ValidationRequest(
            bundle=Path(path),
            against=None if against is None else str(against),
            data=None if data is None else str(data),
            labels=None if labels is None else Path(labels),
            on=on,
            cpu=cpu,
            force=force,
        )
    )
