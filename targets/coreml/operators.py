"""Which operators have a lowering, and what a graph holds that has none: known before anything is lowered."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from edgeq.errors import UnsupportedError
from edgeq.targets.coreml.ops_elementwise import ELEMENTWISE, Lowering
from edgeq.targets.coreml.ops_linear import LINEAR
from edgeq.targets.coreml.ops_reduce import REDUCE
from edgeq.targets.coreml.ops_shape import SHAPE

if TYPE_CHECKING:
    import onnx_ir as ir

LOWERINGS: dict[str, Lowering] = {**ELEMENTWISE, **SHAPE, **LINEAR, **REDUCE}
"""ONNX operator -> its lowering. `Shape`, `Size` and everything computed from them fold away instead."""
MEASURES = ("Shape", "Size")
_SHOWN = 5


def check_operators(model: ir.Model) -> None:
    """Refuse a graph that holds operators without a lowering.

    Raises:
        UnsupportedError: names every such operator and the first node of each.
    """
    found: dict[str, list[str]] = {}
    for node in missing(model):
        domain = f" of `{node.domain}`" if node.domain not in ("", "ai.onnx") else ""
        found.setdefault(f"operator `{node.op_type}`{domain}", []).append(str(node.name))
    if not found:
        return
    shown = [
        f"{what} at `{names[0]}`" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for what, names in list(found.items())[:_SHOWN]
    ]
    more = f", and {len(found) - _SHOWN} other operators" if len(found) > _SHOWN else ""
    raise UnsupportedError(f"no Core ML lowering for {', '.join(shown)}{more}", hint=_hint(model))


def missing(model: ir.Model) -> list[ir.Node]:
    """Nodes that neither fold away nor have a lowering, in graph order."""
    known = set(model.graph.initializers.values())
    found = []
    for node in model.graph:
        is_standard = node.domain in ("", "ai.onnx")
        folds = is_standard and (
            node.op_type in MEASURES or all(value is None or value in known for value in node.inputs)
        )
        if folds:
            known.update(node.outputs)
        elif not is_standard or node.op_type not in LOWERINGS:
            found.append(node)
    return found


def _hint(model: ir.Model) -> str | None:
    name = missing(model)[0].op_type
    near = difflib.get_close_matches(name, LOWERINGS, 1)
    return f"the nearest operator to {name} there is: {near[0]}" if near else None
