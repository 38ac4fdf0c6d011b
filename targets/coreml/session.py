"""A package as a session that takes canonical feeds: interpreted, or run by Core ML on a Mac."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.runtime.adapter import FeedAdapter, HasSignature, Signature
from edgeq.runtime.host import cpu_name, host_architecture
from edgeq.targets.coreml.interpreter.machine import MilInterpreter
from edgeq.targets.coreml.interpreter.program import Operation, Package, read_package
from edgeq.targets.coreml.predict import CoreMLRunner
from edgeq.targets.target import Twin
from edgeq.types import Feeds, Outputs, TensorSpec, Verification
from edgeq.version import __version__

if TYPE_CHECKING:
    from edgeq.targets.coreml.predict import CoreMLRunner, Units

UNITS = {"all": "all compute units", "cpu": "CPU only"}
"""What may run a package on a Mac, as reports name it."""
UNIT_ROUNDOFF = 2.0**-11
"""Largest relative error of rounding one value to float16."""


class PackageSession:
    """A Core ML package that takes any batch, and any length up to its longest.

    A package has a batch of one and one or several lengths: samples run one by one, padded to the smallest
    length that holds them. On a Mac Core ML runs it, elsewhere edgeq's interpreter.

    Args:
        path: the `.mlpackage`.
        signature: its inputs and outputs, as the manifest declares them.
        pad_id: what token ids are padded with.
        units: what Core ML may use on a Mac: `all`, where it places each operator itself, or the `cpu` only.
        runner: an interpreter to use instead, on a Mac too.
    """

    def __init__(
        self,
        path: Path,
        signature: HasSignature,
        *,
        pad_id: int = 0,
        units: Units = "all",
        runner: MilInterpreter | None = None,
    ) -> None:
        self._path, self._signature, self._pad_id, self._units = path, signature, pad_id, units
        self._runner = runner or _runner(path, units)
        package = self._runner.package if isinstance(self._runner, MilInterpreter) else read_package(path)
        self._adapters = {
            length: FeedAdapter(_at(signature, length), pad_id=pad_id) for length in lengths_of(package)
        }
        self._rounded = rounded_values(package)

    @property
    def static_length(self) -> int | None:
        """The longest sequence."""
        return max(self._adapters)

    @property
    def verification(self) -> Verification:
        """`simulated` by the interpreter, `executed` by Core ML."""
        return self._runner.verification

    @property
    def environment(self) -> Mapping[str, str]:
        """The interpreter, or Core ML."""
        machine = {"architecture": host_architecture(), "cpu": cpu_name()}
        if self.verification is Verification.SIMULATED:
            return {"edgeq interpreter": __version__, "numpy": f"numpy {version('numpy')}", **machine}
        return {"coremltools": version("coremltools"), **machine, "provider": UNITS[self._units]}

    @property
    def also(self) -> tuple[PackageSession, ...]:
        """Core ML on the CPU only: where its numbers differ from those of all units, the accelerators did it."""
        if self.verification is Verification.SIMULATED or self._units == "cpu":
            return ()
        return (PackageSession(self._path, self._signature, pad_id=self._pad_id, units="cpu"),)

    @property
    def rounding_noise(self) -> float:
        """2^-11 times the square root of the number of values rounded to float16.

        Independent rounding errors add up as a random walk; that a model may amplify some of them is not in it,
        nor that a rounding error is less than half of 2^-11 on average.
        """
        return UNIT_ROUNDOFF * math.sqrt(self._rounded)

    def twins(self, seeds: int) -> Iterator[Twin]:
        """The program in float32 throughout, and draws of float16's last bits in every result."""
        yield self._twin("float32 throughout", MilInterpreter(self._path, rounding=False))
        for seed in range(seeds):
            yield self._twin("draws of float16 last bits", MilInterpreter(self._path, seed=seed))

    def louder_twins(self, seeds: int, last_bits: int) -> Iterator[Twin]:
        """None: float16's last bits move codes already."""
        return iter(())

    def _twin(self, kind: str, runner: MilInterpreter) -> Twin:
        session = PackageSession(self._path, self._signature, pad_id=self._pad_id, runner=runner)
        return Twin(kind, lambda batches: [session.run(feeds) for feeds in batches])

    def run(self, feeds: Feeds) -> Outputs:
        """All outputs, `[batch, ...]`; per-token ones of the feeds' own length.

        Raises:
            DataError: the feeds do not fit, or are longer than the longest sequence.
        """
        longest = max((array.shape[1] for array in feeds.values() if array.ndim > 1), default=1)
        length = min((size for size in self._adapters if size >= longest), default=max(self._adapters))
        adapter = self._adapters[length]
        return adapter.join([self._runner.run(piece) for piece in adapter.pieces(feeds)], feeds)


def lengths_of(package: Package) -> tuple[int, ...]:
    """Sequence lengths of the inputs `[1, sequence]`, ascending."""
    return tuple(sorted({shape[1] for feature in package.inputs for shape in feature.shapes}))


def rounded_values(package: Package) -> int:
    """How many results of operations are stored as float16; constants are not among them."""
    return sum(
        kind.dtype == "fp16"
        for operation in package.operations
        if not is_constant(operation)
        for _, kind in operation.outputs
    )


def is_constant(operation: Operation) -> bool:
    """Whether an operation is a stored value, dense or compressed, and not computed."""
    return operation.kind == "const" or operation.kind.startswith("constexpr_")


def _runner(path: Path, units: Units) -> MilInterpreter | CoreMLRunner:
    if sys.platform == "darwin":
        return CoreMLRunner(path, units)
    return MilInterpreter(path)


def _at(signature: HasSignature, length: int) -> Signature:
    return Signature(tuple(_fixed(spec, length) for spec in signature.inputs), signature.outputs)


def _fixed(spec: TensorSpec, length: int) -> TensorSpec:
    return replace(spec, shape=(1, length))
