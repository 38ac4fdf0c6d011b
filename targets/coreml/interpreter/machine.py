"""Executes a saved package in numpy.

The arithmetic model: a value whose declared type is float16 is rounded to float16 after the operator that
makes it; inside an operator everything is float32 (products, sums, statistics, exponentials). Apple documents
neither the Neural Engine's nor the GPU's accumulators, so this is a model of Core ML and not a copy:
differences of a few float16 roundings remain possible, and only a run on a device (`executed`) settles them.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeq.errors import DataError, IntegrityError, UnsupportedError
from edgeq.targets.coreml.interpreter.half import round_half
from edgeq.targets.coreml.interpreter.ops_layout import LAYOUT
from edgeq.targets.coreml.interpreter.ops_math import MATH, Operator
from edgeq.targets.coreml.interpreter.program import (
    Constant,
    Feature,
    Literal,
    Operation,
    TensorType,
    read_package,
)
from edgeq.types import Array, Feeds, Outputs, Verification

OPERATORS: dict[str, Operator] = {**MATH, **LAYOUT}
"""MIL operator -> numpy function whose parameters are the operator's."""

_TUPLES = {"concat": "values"}
"""Operators with a parameter of any number of values."""


class MilInterpreter:
    """A package ready to run.

    Args:
        path: the `.mlpackage`.
        rounding: round float16 values as Core ML stores them; False computes the same program in float32
            throughout, which separates rounding from mistakes.
        seed: of random last bits: each float16 result that is rounded is moved by up to half a float16 step before, as
            other accumulators may move it. None moves nothing.

    Raises:
        IntegrityError: the package is damaged.
        UnsupportedError: it holds an operator or an argument this interpreter does not know.
    """

    verification = Verification.SIMULATED

    def __init__(self, path: Path, *, rounding: bool = True, seed: int | None = None) -> None:
        self.package = read_package(path)
        self.rounding = rounding
        self._noise = None if seed is None else np.random.default_rng(seed)
        self._constants: dict[str, Constant] = {}
        self._steps: list[Operation] = []
        for operation in self.package.operations:
            _check(operation)
            if operation.kind == "const":
                self._store_constant(operation)
            elif operation.kind.startswith("constexpr_"):
                self._constants.update(self._apply(operation, {}))
            else:
                self._steps.append(operation)
        self._last_use = _last_uses(self._steps, self.package.result_names)

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The declared inputs."""
        return self.package.inputs

    def run(self, feeds: Feeds) -> Outputs:
        """Execute the program.

        Args:
            feeds: an array per declared input, in one of its declared shapes; integers of any width.

        Raises:
            DataError: an input is missing, unknown or of a shape that was not declared.
        """
        values: dict[str, Constant] = dict(self._check_feeds(feeds))
        for number, step in enumerate(self._steps):
            values.update(self._apply(step, values))
            for name in self._last_use[number]:
                values.pop(name, None)
        return {name: _array(self._value(name, values)) for name in self.package.result_names}

    def trace(self, feeds: Feeds) -> dict[str, Array]:
        """Every value of a run by its MIL name, for finding where two runs part."""
        values: dict[str, Constant] = dict(self._check_feeds(feeds))
        for step in self._steps:
            values.update(self._apply(step, values))
        return {name: value for name, value in values.items() if not isinstance(value, str)}

    def operator_counts(self) -> dict[str, int]:
        """How often each operator occurs."""
        return dict(Counter(operation.kind for operation in self.package.operations))

    def _check_feeds(self, feeds: Feeds) -> Mapping[str, Array]:
        declared = {feature.name: feature for feature in self.package.inputs}
        if set(feeds) != set(declared):
            raise DataError(f"inputs {sorted(feeds)} were given; the package declares {sorted(declared)}")
        return {name: _feed(feature, feeds[name], self.rounding) for name, feature in declared.items()}

    def _store_constant(self, operation: Operation) -> None:
        (name, kind) = operation.outputs[0]
        value = operation.operands["val"][0]
        if not isinstance(value, Literal):
            raise IntegrityError(f"constant `{name}` has no value")
        self._constants[name] = value.value
        if not isinstance(value.value, str) and value.value.shape != kind.shape:
            raise IntegrityError(f"constant `{name}` has shape {value.value.shape}, declared {kind.shape}")

    def _value(self, name: str, values: Mapping[str, Constant]) -> Constant:
        found = values.get(name)
        found = self._constants.get(name) if found is None else found
        if found is None:
            raise IntegrityError(f"value `{name}` is used before anything defines it")
        return found

    def _apply(self, operation: Operation, values: Mapping[str, Constant]) -> dict[str, Constant]:
        arguments = {}
        for parameter, operands in operation.operands.items():
            given = [
                item.value if isinstance(item, Literal) else self._value(item, values) for item in operands
            ]
            many = _TUPLES.get(operation.kind) == parameter
            arguments[parameter] = tuple(given) if many else given[0]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
            result = OPERATORS[operation.kind](**arguments)
            results = result if isinstance(result, tuple) else (result,)
            return {
                name: self._finish(operation, name, kind, value)
                for (name, kind), value in zip(operation.outputs, results, strict=True)
            }

    def _finish(self, operation: Operation, name: str, kind: TensorType, value: Array) -> Array:
        """Check a result against its declared type, and round it if that is float16."""
        fits = len(value.shape) == len(kind.shape) and all(
            want in (None, have) for have, want in zip(value.shape, kind.shape, strict=True)
        )
        if not fits:
            raise IntegrityError(
                f"`{name}` ({operation.kind}) has shape {value.shape}, declared {kind.shape}"
            )
        if kind.dtype == "fp16" and self.rounding:
            return round_half(value if self._noise is None else _moved(value, self._noise))
        return (
            value.astype(np.float32)
            if kind.dtype in ("fp16", "fp32") and value.dtype != np.float32
            else value
        )


def _moved(value: Array, noise: np.random.Generator) -> Array:
    """Each value by up to half a float16 step of its own, uniformly, but for those that float16 holds exactly.

    No accumulator rounds those: a value that is carried on, or the 1 of a mask, of which a last bit times -10,000
    would hide a token.
    """
    spread = noise.uniform(-(2.0**-11), 2.0**-11, value.shape)
    spread[round_half(value) == value] = 0
    return np.asarray(value * (1 + spread), np.float32)


def _check(operation: Operation) -> None:
    """Refuse an operator or a parameter that has no function here."""
    if operation.kind == "const":
        return
    function = OPERATORS.get(operation.kind)
    if function is None:
        raise UnsupportedError(f"MIL operator `{operation.kind}` at `{operation.name}` is not interpreted")
    try:
        inspect.signature(function).bind(**operation.operands)
    except TypeError as error:
        raise UnsupportedError(f"MIL operator `{operation.kind}` at `{operation.name}`: {error}") from error
    for parameter, operands in operation.operands.items():
        if len(operands) != 1 and _TUPLES.get(operation.kind) != parameter:
            raise UnsupportedError(
                f"`{operation.kind}` at `{operation.name}` has {len(operands)} values of {parameter}"
            )


def _last_uses(steps: list[Operation], results: tuple[str, ...]) -> list[list[str]]:
    """Values each step is the last to read, so that memory stays flat."""
    last: dict[str, int] = {}
    for number, step in enumerate(steps):
        for operands in step.operands.values():
            last.update({item: number for item in operands if isinstance(item, str)})
    ends: list[list[str]] = [[] for _ in steps]
    for name, number in last.items():
        if name not in results:
            ends[number].append(name)
    return ends


def _feed(feature: Feature, value: Array, rounding: bool) -> Array:
    if value.shape not in feature.shapes:
        raise DataError(f"input `{feature.name}` has shape {value.shape}; the package takes {feature.shapes}")
    if feature.dtype == "int32":
        if not np.issubdtype(value.dtype, np.integer):
            raise DataError(f"input `{feature.name}` is {value.dtype}; the package takes integers")
        return value.astype(np.int32)
    exact = value.astype(np.float32)
    return round_half(exact) if feature.dtype == "fp16" and rounding else exact


def _array(value: Constant) -> Array:
    if isinstance(value, str):
        raise IntegrityError("a result of the program is a string")
    return value
