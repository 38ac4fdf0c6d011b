"""The Python verbs: `export`, `load`, `validate`. The command line does the same through the same functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.validation.report import ValidationReport
    from edgeq.progress import Progress
    from edgeq.runtime.runtime import Runtime


def export(
    model: str | Path | None = None,
    *,
    target: str = "android",
    precision: str | None = None,
    recipe: str | Path | None = None,
    calib: str | Path | None = None,
    calib_column: str | None = None,
    calib_samples: int | None = None,
    seq_len: int | Sequence[int] | None = None,
    ios: int | None = None,
    task: str | None = None,
    gates: Sequence[str] = (),
    output: str | Path | None = None,
    variants: Sequence[str] = (),
    archive: bool = False,
    slim: bool = False,
    force: bool = False,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export a model to one target as a verified bundle.

    Args:
        model: a local folder, a Hub id or an `.onnx` file; None takes the sample model.
        target: a name from `edgeq targets`.
        precision: name of a built-in recipe, as in `edgeq recipes`; `int8` when left out.
        recipe: a recipe file, instead of `precision`.
        calib: calibration texts or tensors; None takes the built-in texts.
        calib_column: column of a table, or `A,B` for pairs.
        calib_samples: how many samples to calibrate with (256, or 1024 for recipes with GPTQ or AWQ).
        seq_len: tokens of variants with a static shape (128); several for Core ML.
        ios: oldest iOS for Core ML; the precision sets the least.
        task: overrides what the config says.
        gates: as in `--gate`, `["cosine_mean>=0.99"]`.
        output: the bundle's folder; `NAME-TARGET` in the current folder when left out.
        variants: engines to keep, as in `["cpu"]`.
        archive: also write `NAME.edgeq`.
        slim: without golden cases, report and plan.
        force: replace an existing bundle.
        seed: of sampling (0).
        progress: told about stages.

    Returns:
        The bundle; `bundle.path` is its folder.

    Raises:
        GateError: its quality is below a gate; the bundle was kept, marked failed.
        EdgeqError: anything else the user can act on.
    """
    from edgeq.pipeline.export import run_export
    from edgeq.pipeline.request import request_from
    from edgeq.pipeline.verdict import require_passed

    options = {
        "model": None if model is None else str(model),
        "target": target,
        "precision": precision,
        "recipe": recipe,
        "calib": None if calib is None else str(calib),
        "calib_column": calib_column,
        "calib_samples": calib_samples,
        "seq_len": seq_len if seq_len is None or isinstance(seq_len, int) else list(seq_len),
        "ios": ios,
        "task": task,
        "gate": list(gates),
        "output": output,
        "variants": list(variants),
        "seed": seed,
        "slim": slim or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    request = request_from(given, archive=archive, force=force)
    [result] = run_export(request, progress)
    require_passed([result])
    return result.bundle


def load(
    path: str | Path, *, variant: str | None = None, force: bool = False, threads: int | None = None
) -> Runtime:
    """Open a bundle for running; every file is verified first.

    Args:
        path: a bundle's folder or `.edgeq` file.
        variant: its id; the first one this machine can run when left out.
        force: open a bundle that failed its gate.
        threads: intra-op threads.

    Raises:
        IntegrityError: a file is not the one the manifest lists.
        GateError: the bundle failed its gate.
    """
    from edgeq.pipeline.sessions import open_other
    from edgeq.runtime.runtime import load as load_runtime

    return load_runtime(path, variant=variant, force=force, threads=threads, open_other=open_other)


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
