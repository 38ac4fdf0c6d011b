"""Options of every ONNX Runtime session edgeq opens, and what integer arithmetic this CPU's kernels do by themselves.

On x86-64 without VNNI the kernels for uint8 activations and int8 weights add pairs of products in 16 bits and
saturate: 255 * 127 + 255 * 127 comes out as 32767. VNNI and ARM64 add in 32 bits. `session.x64quantprecision` makes
ONNX Runtime store such weights as uint8, whose kernels are exact (and somewhat slower). It is applied by the extended
optimizations, so a session without them keeps whatever kernels its graph names.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from edgeq.errors import IntegrityError

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

OptimizationLevel: TypeAlias = Literal[
    "ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"
]
LEVELS: tuple[OptimizationLevel, ...] = (
    "ORT_DISABLE_ALL",
    "ORT_ENABLE_BASIC",
    "ORT_ENABLE_EXTENDED",
    "ORT_ENABLE_ALL",
)
"""Graph optimization levels as bundles name them, least first."""
DEFAULT_LEVEL: OptimizationLevel = "ORT_ENABLE_ALL"
"""What ONNX Runtime does when it is not told."""

EXACT_SUMS = "session.x64quantprecision"
_LEVEL_KEY = "graph_optimization_level"
_ERRORS_ONLY = 4  # errors come as exceptions; the log would only repeat them


class Arithmetic(StrEnum):
    """How products of uint8 activations and int8 weights are added.

    `exact`: in 32 bits by the kernels themselves. `exact-by-option`: the CPU's own kernels saturate, and others were
    asked for. `saturating`: pairs of products saturate in 16 bits.
    """

    EXACT = "exact"
    BY_OPTION = "exact-by-option"
    SATURATING = "saturating"


ARITHMETIC_TITLES = {
    Arithmetic.EXACT: "exact integer sums",
    Arithmetic.BY_OPTION: f"exact integer sums by {EXACT_SUMS}",
    Arithmetic.SATURATING: "uint8 x int8 sums saturate in 16 bits",
}


def session_options(
    *,
    exact: bool = True,
    level: OptimizationLevel = DEFAULT_LEVEL,
    threads: int | None = None,
    spin: bool = True,
) -> SessionOptions:
    """Options of a session on the CPU.

    Args:
        exact: integer sums as the mathematics has them, on every CPU. False runs the kernels that an app gets, which
            only a measurement of speed should want.
        level: graph optimizations. Below `ORT_ENABLE_EXTENDED` ONNX Runtime ignores `exact`.
        threads: intra-op threads; None lets ONNX Runtime choose.
        spin: let idle threads spin for a moment, as ONNX Runtime does by itself.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.add_session_config_entry(EXACT_SUMS, str(int(exact)))
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def ordered_options(level: OptimizationLevel) -> dict[str, str]:
    """`requirements.session_options` of a variant whose sessions are opened at a level."""
    return {_LEVEL_KEY: level}


def ordered_level(requirements: Mapping[str, Any]) -> OptimizationLevel:
    """The level at which a variant's own `requirements` have its sessions opened.

    Raises:
        IntegrityError: they order an option that edgeq does not know, which it would therefore not obey.
    """
    ordered = requirements.get("session_options") or {}
    unknown = sorted(set(ordered) - {_LEVEL_KEY})
    if unknown:
        raise IntegrityError(
            f"the variant orders the session option `{unknown[0]}`, which edgeq does not know"
        )
    wanted = ordered.get(_LEVEL_KEY, DEFAULT_LEVEL)
    for level in LEVELS:
        if level == wanted:
            return level
    raise IntegrityError(f"the variant orders the level `{wanted}`, expected one of {', '.join(LEVELS)}")


def arithmetic(
    *, exact: bool = True, level: OptimizationLevel = DEFAULT_LEVEL, safe: bool = False
) -> Arithmetic:
    """What sessions with these options do on this CPU.

    Args:
        exact: as for `session_options`.
        level: as for `session_options`.
        safe: the graph's weights are known not to overflow 16 bits (`edgeq.saturation`).
    """
    if safe or not kernels_saturate():
        return Arithmetic.EXACT
    honoured = exact and LEVELS.index(level) >= LEVELS.index("ORT_ENABLE_EXTENDED")
    return Arithmetic.BY_OPTION if honoured else Arithmetic.SATURATING


@cache
def kernels_saturate() -> bool:
    """Whether this CPU's kernels for uint8 x int8 saturate in 16 bits: tried, once per process, not looked up."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        _PROBE, session_options(exact=False), providers=["CPUExecutionProvider"]
    )
    (product,) = session.run(None, {"a": np.full((1, 2), 255, np.uint8)})
    return int(product[0, 0]) != 2 * 255 * 127


_PROBE = bytes.fromhex(
    "08083a560a180a01610a0162120179220d4d61744d756c496e74656765721201702a0d0802080110034201624a027f7f"
    "5a130a0161120e0a0c080212080a0208010a02080262130a0179120e0a0c080612080a0208010a02080142040a00100d"
)
"""`y = MatMulInteger(a, b)`, b = [[127], [127]], as an ONNX file: a light install has no package that writes one."""
