"""Runs a model in the emulated ARM64 ONNX Runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.errors import EdgeqError, ModelError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.runtime.arm64 import runner_script
from edgeq.runtime.arm64.clients import last_lines
from edgeq.runtime.arm64.cores import Core, emulator_model
from edgeq.runtime.arm64.lane import SETUP_COMMAND, Lane
from edgeq.runtime.arm64.lane_root import CPU_COUNT
from edgeq.types import Feeds, Outputs, Verification

_RUNNER_FAILED = 3
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class EmulatedArm64Executor:
    """The real ARM64 kernels under QEMU user-mode emulation. Never time it: emulated speed means nothing.

    Attributes:
        lane: a lane that is set up.
        core: the core to be.
        timeout_seconds: for one `run`; emulated fp32 is 50 to 100 times slower than native.
        compile_bytecode: let Python write .pyc files into the lane; only its set-up does.
    """

    lane: Lane
    core: Core
    timeout_seconds: float = 3600
    compile_bytecode: bool = False

    @property
    def verification(self) -> Verification:
        """Always `executed-arm64-emulated`."""
        return Verification.EXECUTED_ARM64_EMULATED

    @property
    def environment(self) -> dict[str, str]:
        """What ran: onnxruntime version, architecture, cpu, provider."""
        model = emulator_model(self.core, frozenset(self.lane.emulator_models))
        instructions = "" if model == self.core.name else f" with the instructions of {model}"
        return {
            "onnxruntime": self.lane.onnxruntime,
            "architecture": "arm64",
            "cpu": f"{self.core.name}{instructions}, emulated by QEMU {self.lane.emulator_version}",
            "provider": "CPUExecutionProvider",
        }

    def run(
        self, model_path: Path, batches: Sequence[Feeds], level: OptimizationLevel = DEFAULT_LEVEL
    ) -> list[Outputs]:
        """Outputs of every batch, in order.

        Args:
            model_path: a `.onnx` file.
            batches: its inputs by name.
            level: graph optimizations.

        Raises:
            ModelError: the ARM64 runtime refuses the model or its inputs.
            EdgeqError: the emulated program crashed or took too long.
        """
        with tempfile.TemporaryDirectory(prefix="edgeq-arm64-") as name:
            folder = Path(name)
            _write_request(folder, model_path, batches, level)
            self._start(folder, model_path)
            return _read_response(folder, len(batches))

    def save_optimized(self, model_path: Path, optimized_path: Path) -> None:
        """Save the graph as the ARM64 runtime executes it, which is not always as x86-64 does.

        Raises:
            ModelError: the ARM64 runtime refuses the model.
        """
        with tempfile.TemporaryDirectory(prefix="edgeq-arm64-") as name:
            _write_request(Path(name), model_path, [], DEFAULT_LEVEL, optimized_path)
            self._start(Path(name), model_path)

    def _start(self, folder: Path, model_path: Path) -> None:
        script = str(Path(runner_script.__file__).resolve())
        try:
            done = subprocess.run(
                [*self._python(), script, str(folder)],
                env=self._environment_variables(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EdgeqError(
                f"`{model_path.name}` took more than {self.timeout_seconds:.0f} s under emulation",
                hint="validate fewer or shorter samples on ARM64",
            ) from error
        if done.returncode:
            raise _failure(model_path, done.returncode, done.stderr)

    def _python(self) -> list[str]:
        root = self.lane.core_root(self.core.name)
        model = emulator_model(self.core, frozenset(self.lane.emulator_models))
        python = root / "usr" / "bin" / f"python{self.lane.python}"
        options = () if self.compile_bytecode else ("-B",)
        return [str(self.lane.emulator), "-L", str(root), "-cpu", model, str(python), *options]

    def _environment_variables(self) -> dict[str, str]:
        # Nothing of ours: the emulated loader and Python would take LD_* and PYTHON* for theirs.
        return {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONHOME": str(self.lane.core_root(self.core.name) / "usr"),
            "PYTHONPATH": str(self.lane.site),
            "PYTHONNOUSERSITE": "1",
            "ORT_DISABLE_TELEMETRY": os.environ.get("ORT_DISABLE_TELEMETRY", "1"),
            "TMPDIR": tempfile.gettempdir(),
        }


def _write_request(
    folder: Path,
    model_path: Path,
    batches: Sequence[Feeds],
    level: OptimizationLevel,
    optimized: Path | None = None,
) -> None:
    request = {
        "model": str(model_path.resolve()),
        "level": level,
        "threads": min(CPU_COUNT, os.cpu_count() or 1),
        "optimized": str(optimized.resolve()) if optimized else None,
        "inputs": [list(feeds) for feeds in batches],
    }
    (folder / "request.json").write_text(json.dumps(request))
    arrays = {
        f"{batch}.{index}": np.asarray(value)
        for batch, feeds in enumerate(batches)
        for index, value in enumerate(feeds.values())
    }
    # savez types its keyword `allow_pickle`, which no array of ours is called.
    np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]


def _read_response(folder: Path, count: int) -> list[Outputs]:
    response = json.loads((folder / "response.json").read_text())
    if response["machine"] != "aarch64":
        raise EdgeqError(f"the lane ran on `{response['machine']}`, expected aarch64", hint=SETUP_COMMAND)
    with np.load(folder / "outputs.npz") as arrays:
        return [
            {name: arrays[f"{batch}.{index}"] for index, name in enumerate(response["outputs"])}
            for batch in range(count)
        ]


def _failure(model_path: Path, status: int, stderr: str) -> EdgeqError:
    if status == _RUNNER_FAILED:
        return ModelError(
            f"the ARM64 ONNX Runtime cannot run `{model_path}`: {stderr.strip().splitlines()[-1]}",
            hint="edgeq run on the desktop says whether it is only ARM64 that refuses it",
        )
    number = -status if status < 0 else status - _SIGNALLED
    try:
        what = f"was ended by {signal.Signals(number).name}"
    except ValueError:
        what = f"ended with status {status}"
    return EdgeqError(
        f"the emulated ONNX Runtime {what} while running `{model_path}`\n{last_lines(stderr)}",
        hint=f"{SETUP_COMMAND} checks the lane; a newer QEMU on PATH may help",
    )
