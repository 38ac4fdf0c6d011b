"""What an export will do, known before any work, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.bundle.manifest import Gate
from edgeq.errors import MissingExtraError, UsageError
from edgeq.exporters.samples import SAMPLE_MODEL, sample_model_path
from edgeq.progress import Progress
from edgeq.targets.target import VariantSpec

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.calibration import CalibrationData
    from edgeq.exporters.exported_model import ModelFacts
    from edgeq.pipeline.measured import Measured
    from edgeq.pipeline.request import ExportRequest


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One bundle and what was measured on the way; latency is not in the bundle, whose bytes are reproducible.

    Attributes:
        compared_with: what the figures of fidelity are against.
        page: the report, which a slim bundle is without.
    """

    target: str
    bundle: Bundle
    measured: Mapping[str, Measured]
    fp32_bytes: int
    archive: Path | None = None
    compared_with: str = "the original"
    page: str = ""

    @property
    def failed_gates(self) -> list[Gate]:
        """Gates that did not hold."""
        return [gate for gate in self.bundle.manifest.gates if gate.passed is False]


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export will do, known before any work (`--dry-run`).

    Attributes:
        notices: what was said about the model's files.
    """

    request: ExportRequest
    facts: ModelFacts
    data: CalibrationData
    destinations: Mapping[str, Path]
    variants: Mapping[str, tuple[VariantSpec, ...]]
    notices: tuple[str, ...] = ()

    def say_new(self, notices: Sequence[str], progress: Progress) -> None:
        """What loading the model found out that its headers did not tell."""
        for notice in notices:
            if notice not in self.notices:
                progress.notice(notice)


def archive_path(destination: Path) -> Path:
    """`NAME.edgeq` beside the bundle's folder."""
    return destination.with_name(f"{destination.name}.edgeq")


def target_names(names: Sequence[str]) -> list[str]:
    """Each target once.

    Raises:
        UsageError: there is none.
    """
    if not names:
        raise UsageError("no target given", hint="edgeq targets lists them")
    return list(dict.fromkeys(names))


def bundle_folders(request: ExportRequest) -> dict[str, Path]:
    """The folder of each target's bundle."""
    name = model_name(request)
    targets = target_names(request.target)
    if request.output is not None and len(targets) == 1:
        return {targets[0]: request.output}
    parent = request.output or Path()
    return {target: parent / f"{name}-{target}" for target in targets}


def model_name(request: ExportRequest) -> str:
    """What bundles of a model are called."""
    try:
        is_sample = Path(str(request.model)) == sample_model_path()
    except MissingExtraError:
        is_sample = False
    return bundle_name(SAMPLE_MODEL if is_sample else str(request.model))


def bundle_name(model: str) -> str:
    """The last part of a path or Hub id, fit for a folder name."""
    name = Path(model.rstrip("/")).name
    name = name.removesuffix(".onnx").removesuffix(".gguf")
    cleaned = "".join(char if char.isalnum() or char in "-_." else "-" for char in name).strip(".-")
    return cleaned or "model"
