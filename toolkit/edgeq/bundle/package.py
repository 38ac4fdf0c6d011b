"""The ONNX Runtime Model Package files, with which `onnxruntime.ModelPackage` opens a bundle directly.

Format: Model Package schema 1.0 as ONNX Runtime 1.29 and later read it. Unknown keys are errors there, so
everything of ours lives in `edgeq.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgeq.bundle.manifest import Variant
from edgeq.files import atomic_write_text
from edgeq.types import COMPONENT, ONNX_RUNTIME

PACKAGE_FILE = "manifest.json"
COMPONENT_FILE = "model/component.json"


def write_model_package(folder: Path, name: str, variants: Sequence[Variant]) -> list[str]:
    """Write `manifest.json` and `model/component.json` for the ONNX Runtime variants, if there are any.

    Args:
        folder: the bundle's folder; each variant's model is `model/<id>/<file>`.
        name: of the model.
        variants: others than those of ONNX Runtime, and those of several graphs, are left out.

    Returns:
        The paths written.
    """
    packaged = [
        variant for variant in variants if variant.runtime == ONNX_RUNTIME and len(variant.models) == 1
    ]
    if not packaged:
        return []
    package = {
        "schema_version": "1.0",
        "layout": "portable",
        "package_name": name,
        "components": {COMPONENT: COMPONENT},
    }
    component = {"variants": {variant.id: _component_variant(variant) for variant in packaged}}
    (folder / COMPONENT).mkdir(exist_ok=True)
    for path, document in ((PACKAGE_FILE, package), (COMPONENT_FILE, component)):
        atomic_write_text(folder / path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return [PACKAGE_FILE, COMPONENT_FILE]


def _component_variant(variant: Variant) -> dict[str, Any]:
    model = PurePosixPath(variant.model_file)
    return {
        "ep": variant.execution_provider,
        "variant_directory": model.relative_to(COMPONENT).parent.as_posix(),
        "executor_info": {"ort": {"model_file": model.name}},
    }
