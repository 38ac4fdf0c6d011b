"""Variants of a finished bundle that ONNX Runtime does not run, opened by the target that made them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.onnx_runtime import ordered_level
from edgeq.targets import TARGETS, get_target
from edgeq.targets.target import Session, VariantSpec
from edgeq.types import ONNX_RUNTIME

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle


__all__ = ["ONNX_RUNTIME", "not_executable", "open_other", "open_variant", "variant_spec"]


def not_executable(bundle: Bundle, variant: Variant, place: str) -> str | None:
    """Why a variant cannot be executed in a place (`native`, `arm64`, `adb`); None where it can."""
    if variant.runtime == ONNX_RUNTIME:
        return None
    target = bundle.manifest.target
    known = get_target(target).own_runtimes if target in TARGETS else ()
    if variant.runtime not in known:
        return f"runs on {variant.runtime}, which this command cannot execute here"
    return None if place == "native" else f"runs on {variant.runtime}, which only --on native offers"


def open_variant(bundle: Bundle, variant: Variant, path: Path, pad_id: int) -> Session:
    """A session over a variant.

    Args:
        bundle: names the target.
        variant: its signature is the manifest's.
        path: of its model.
        pad_id: what token ids are padded with.
    """
    target = get_target(bundle.manifest.target)
    return target.open(variant_spec(variant), path, variant, pad_id=pad_id)


def variant_spec(variant: Variant) -> VariantSpec:
    """A finished variant as its target knew it."""
    return VariantSpec(
        id=variant.id,
        engine=variant.id.split("-", 1)[0],
        precision=variant.precision,
        runtime=variant.runtime,
        execution_provider=variant.execution_provider,
        architecture="arm64",
        level=ordered_level(variant.requirements),
    )


def open_other(bundle: Bundle, variant: Variant, pad_id: int) -> Session | None:
    """A variant that ONNX Runtime does not run, for `edgeq.runtime.runtime.load`; None where nothing here runs it."""
    if not_executable(bundle, variant, "native") is not None:
        return None
    return open_variant(bundle, variant, bundle.model_path(variant), pad_id)
