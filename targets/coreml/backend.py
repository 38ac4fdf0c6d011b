"""The one place that imports coremltools, quietly, and hands its graph through to protobuf."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from edgeq.errors import MissingExtraError


def coremltools() -> Any:
    """The coremltools module.

    Its import warns about untested torch and scikit-learn versions, which edgeq never hands to it, and
    on Linux about the missing Core ML framework, which only `predict` needs.

    Raises:
        MissingExtraError: coremltools is not installed.
    """
    with quiet():
        try:
            import coremltools as ct
        except ImportError as error:
            raise MissingExtraError("the Core ML target", "coreml") from error
        # The builder fixes its operator set at import; converters must be loaded before it is used.
        import coremltools.converters.mil
    return ct


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence coremltools' logger, progress bars and warnings for the length of one of its calls."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            logger.setLevel(logging.CRITICAL)
            yield
        finally:
            logger.setLevel(level)


def deployment_target(ios: int) -> Any:
    """Coremltools' name of an iOS version."""
    return getattr(coremltools().target, f"iOS{ios}")


def to_package(program: Any, *, ios: int, inputs: list[Any]) -> Any:
    """Serialize a MIL program to an `MLModel` without graph rewriting: what was built is what ships.

    coremltools still runs its backend passes: constant deduplication, dead code and name checks.
    """
    ct = coremltools()
    with quiet():
        return ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=deployment_target(ios),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
            inputs=inputs,
        )
