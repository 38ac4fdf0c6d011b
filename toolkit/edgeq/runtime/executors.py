"""Where a model is executed: this machine's ONNX Runtime, the ARM64 one, or a phone."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from edgeq.errors import ModelError, UnsupportedError
from edgeq.onnx_runtime import (
    ARITHMETIC_TITLES,
    DEFAULT_LEVEL,
    OptimizationLevel,
    arithmetic,
    ordered_level,
    session_options,
)
from edgeq.runtime.adb import open_adb
from edgeq.runtime.arm64.cores import emulator_model, find_core
from edgeq.runtime.arm64.executor import EmulatedArm64Executor
from edgeq.runtime.arm64.lane import load_lane
from edgeq.runtime.host import cpu_name, host_architecture
from edgeq.types import Feeds, Outputs, Verification

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Variant
    from edgeq.runtime.adb import AdbOptions

Place: TypeAlias = Literal["native", "arm64", "adb"]
PLACES: tuple[Place, ...] = ("native", "arm64", "adb")
CAN_SATURATE = "can_saturate"
"""Key of a variant's `placement`: its layers whose integer sums are not exact on every CPU."""


class Executor(Protocol):
    """Runs ONNX models somewhere and says how much that proves."""

    @property
    def verification(self) -> Verification:
        """The level of a number obtained here."""

    @property
    def environment(self) -> dict[str, str]:
        """What ran: onnxruntime version, architecture, cpu, provider."""

    def run(
        self, model_path: Path, batches: Sequence[Feeds], level: OptimizationLevel = DEFAULT_LEVEL
    ) -> list[Outputs]:
        """Outputs by name of every batch, in order.

        Args:
            model_path: a `.onnx` file.
            batches: its inputs by name.
            level: graph optimizations.

        Raises:
            ModelError: the runtime refuses the model or its inputs.
        """


def open_executor(
    name: Place,
    *,
    cpu: str = "cortex-a76",
    target_arch: str = "arm64",
    cache: Path | None = None,
    adb: AdbOptions | None = None,
) -> Executor:
    """The executor called `name`, checked and ready.

    Args:
        name: `native` (this machine), `arm64` (this machine if it is one, else emulated), `adb` (a phone).
        cpu: the emulated core; ignored where nothing is emulated.
        target_arch: what the model was made for, `arm64` or `x86-64`; decides what `native`
            proves.
        cache: edgeq's cache folder.
        adb: which phone and runner, for `adb`.

    Raises:
        UnsupportedError: unknown place or core, or this machine cannot offer it.
        EdgeqError: the lane is not set up, or no phone is attached.
    """
    if name == "native":
        return NativeExecutor(target_arch)
    if name == "arm64":
        return _open_arm64(cpu, cache)
    if name == "adb":
        return open_adb(adb)
    raise UnsupportedError(f"unknown place to run: got `{name}`, expected one of {', '.join(PLACES)}")


def architecture_of(variant: Variant) -> str:
    """The architecture a variant of ONNX Runtime was made for."""
    abi = variant.requirements.get("abi")
    return "arm64" if isinstance(abi, Sequence) and "arm64-v8a" in abi else "x86-64"


def level_of(executor: Executor, variant: Variant) -> Verification:
    """What an executor's outputs of a variant prove: an accelerator's variant on the CPU is never the real thing."""
    if (
        variant.execution_provider != "CPUExecutionProvider"
        and executor.verification is Verification.EXECUTED
    ):
        return Verification.EXECUTED_OTHER_ARCH
    return executor.verification


def environment_of(executor: Executor, variant: Variant) -> dict[str, str]:
    """What runs a variant: the executor, and on this machine the integer arithmetic of its graph at its level."""
    level = ordered_level(variant.requirements)
    if isinstance(executor, NativeExecutor):
        return native_environment(level, safe=variant.placement.get(CAN_SATURATE) == [])
    return executor.environment | at_level(level)


def native_environment(
    level: OptimizationLevel = DEFAULT_LEVEL, *, safe: bool = False, exact: bool = True
) -> dict[str, str]:
    """What runs sessions of this process: onnxruntime version, architecture, cpu, provider, integer arithmetic.

    Args:
        level: graph optimizations of the sessions.
        safe: the graph's weights cannot overflow 16 bits.
        exact: the option that makes sums exact is set, and works on every weight of the graph.
    """
    title = ARITHMETIC_TITLES[arithmetic(exact=exact, level=level, safe=safe)]
    return _this_machine() | {"arithmetic": title} | at_level(level)


def _this_machine() -> dict[str, str]:
    """What is the same for every session of this process."""
    from importlib.metadata import version

    return {
        "onnxruntime": version("onnxruntime"),
        "architecture": host_architecture(),
        "cpu": cpu_name(),
        "provider": "CPUExecutionProvider",
    }


def at_level(level: OptimizationLevel) -> dict[str, str]:
    """The part of an environment that says at which level sessions were opened, where it is not the usual one."""
    return {} if level == DEFAULT_LEVEL else {"optimization": level}


def require_emulation_host() -> None:
    """This machine can emulate ARM64.

    Raises:
        UnsupportedError: it is not x86-64 Linux.
    """
    if sys.platform != "linux" or host_architecture() != "x86-64":
        raise UnsupportedError(
            f"the ARM64 lane is emulated on x86-64 Linux only, got {sys.platform} on {platform.machine()}",
            hint="use a Linux container, or an ARM64 machine, where nothing needs to be set up",
        )


def _open_arm64(cpu: str, cache: Path | None) -> Executor:
    core = find_core(cpu)
    if host_architecture() == "arm64":
        return NativeExecutor("arm64")
    require_emulation_host()
    lane = load_lane(cache)
    emulator_model(core, frozenset(lane.emulator_models))
    return EmulatedArm64Executor(lane, core)


@dataclass(frozen=True, slots=True)
class NativeExecutor:
    """ONNX Runtime in this process, on the CPU.

    Attributes:
        target_arch: what the model was made for.
        threads: intra-op threads; None lets ONNX Runtime choose.
    """

    target_arch: str
    threads: int | None = None

    @property
    def verification(self) -> Verification:
        """`executed` on the target's architecture, else `executed-other-arch`."""
        same = host_architecture() == self.target_arch
        return Verification.EXECUTED if same else Verification.EXECUTED_OTHER_ARCH

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of arithmetic, which graph and level decide: `environment_of` knows them."""
        return _this_machine()

    def run(
        self, model_path: Path, batches: Sequence[Feeds], level: OptimizationLevel = DEFAULT_LEVEL
    ) -> list[Outputs]:
        """Outputs by name of every batch, in order; integer sums are exact where the level lets kernels be chosen.

        Args:
            model_path: a `.onnx` file.
            batches: its inputs by name.
            level: graph optimizations.

        Raises:
            ModelError: ONNX Runtime refuses the model or its inputs.
        """
        import onnxruntime as ort

        options = session_options(level=level, threads=self.threads)
        try:
            session = ort.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
            names = [output.name for output in session.get_outputs()]
            return [dict(zip(names, session.run(names, dict(feeds)), strict=True)) for feeds in batches]
        except Exception as error:
            # ONNX Runtime's own exceptions share no base class but Exception.
            raise ModelError(f"ONNX Runtime cannot run `{model_path}`: {error}") from error
