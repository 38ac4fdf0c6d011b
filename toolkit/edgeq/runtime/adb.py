"""Runs a model on an Android phone that is attached over adb: push, run, pull.

Android has no Python, so a small native program runs the model there: `samples/android/runner` has its
source and how to build it with the NDK. `runtime/raw_exchange.py` describes what it reads and writes.
"""

from __future__ import annotations

import secrets
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from edgeq.errors import ConfigError, EdgeqError, ModelError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.runtime.raw_exchange import read_response, write_request
from edgeq.types import Feeds, Outputs, Verification

DEVICE_FOLDER = "/data/local/tmp"
"""Where the shell user may write and execute on every Android."""

_LIST_SECONDS = 20
"""`adb devices` starts adb's server first, and hangs when that is broken."""

_ARM64_ABI = "arm64-v8a"
_BUILD_HINT = "samples/android/runner/README.md says how to build it"


@dataclass(frozen=True, slots=True)
class AdbOptions:
    """What runs on which phone.

    Attributes:
        runner: the native program, built for arm64-v8a.
        libraries: shared libraries it needs, usually libonnxruntime.so.
        serial: which device, where several are attached.
    """

    runner: Path
    libraries: tuple[Path, ...] = ()
    serial: str | None = None


def open_adb(options: AdbOptions | None) -> AdbExecutor:
    """The executor on the attached phone.

    Raises:
        ConfigError: no runner is named, or a file of it does not exist.
        EdgeqError: no adb, no phone, several phones and no serial, or not an ARM64 phone.
    """
    if options is None:
        raise ConfigError("running on a phone needs a runner program: got none", hint=_BUILD_HINT)
    for path in (options.runner, *options.libraries):
        if not path.is_file():
            raise ConfigError(f"the phone's runner: no file `{path}`", hint=_BUILD_HINT)
    adb = _Adb(_find_adb())
    serial = _choose_device(adb.devices(), options.serial)
    device = _Adb(adb.program, serial)
    abi = device.property("ro.product.cpu.abi")
    if abi != _ARM64_ABI:
        raise EdgeqError(f"the device `{serial}` is `{abi}`, expected {_ARM64_ABI}")
    return AdbExecutor(device, options)


def attached_devices() -> dict[str, str] | None:
    """State by serial of the devices adb sees; None without adb."""
    try:
        return _Adb(_find_adb()).devices()
    except EdgeqError:
        return None


@dataclass(frozen=True, slots=True)
class AdbExecutor:
    """Runs models on one phone; everything there lies in one folder, removed after each run."""

    _device: _Adb
    _options: AdbOptions
    _runtime_version: list[str] = field(default_factory=list)

    @property
    def verification(self) -> Verification:
        """Always `executed`: it is the target itself."""
        return Verification.EXECUTED

    @property
    def environment(self) -> dict[str, str]:
        """What ran: onnxruntime version (known after the first run), architecture, cpu, device, provider."""
        device = self._device
        return {
            "onnxruntime": self._runtime_version[-1] if self._runtime_version else "unknown before a run",
            "architecture": "arm64",
            "cpu": device.property("ro.soc.model") or device.property("ro.board.platform") or "unknown",
            "device": device.property("ro.product.model"),
            "android": device.property("ro.build.version.release"),
            "provider": "CPUExecutionProvider",
        }

    def run(
        self, model_path: Path, batches: Sequence[Feeds], level: OptimizationLevel = DEFAULT_LEVEL
    ) -> list[Outputs]:
        """Outputs by name of every batch, in order.

        Args:
            model_path: a `.onnx` file.
            batches: its inputs by name.
            level: graph optimizations.

        Raises:
            ModelError: the runner on the phone refuses the model or its inputs.
            EdgeqError: adb failed.
        """
        with tempfile.TemporaryDirectory(prefix="edgeq-adb-") as name, self._remote_folder() as remote:
            local = Path(name)
            write_request(local / "exchange", batches, level)
            self._push(model_path, local / "exchange", remote)
            self._execute(model_path, remote)
            self._device.call("pull", f"{remote}/exchange", str(local / "result"))
            version, outputs = read_response(local / "result", len(batches))
        self._runtime_version.append(version)
        return outputs

    @contextmanager
    def _remote_folder(self) -> Iterator[str]:
        remote = f"{DEVICE_FOLDER}/edgeq-{secrets.token_hex(4)}"
        self._device.shell(f"mkdir -p {remote}")
        try:
            yield remote
        finally:
            # The phone may be gone by now; the error that matters is already on its way.
            with suppress(EdgeqError):
                self._device.shell(f"rm -rf {remote}")

    def _push(self, model_path: Path, exchange: Path, remote: str) -> None:
        for library in self._options.libraries:
            self._device.call("push", str(library), f"{remote}/{library.name}")
        self._device.call("push", str(self._options.runner), f"{remote}/runner")
        for file in (model_path, *_external_data(model_path)):
            self._device.call("push", str(file), f"{remote}/{file.name}")
        self._device.call("push", str(exchange), f"{remote}/exchange")

    def _execute(self, model_path: Path, remote: str) -> None:
        name = shlex.quote(model_path.name)
        command = f"cd {remote} && chmod 755 runner && LD_LIBRARY_PATH=. ./runner {name} exchange"
        done = self._device.start("shell", command)
        if done.returncode:
            told = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
            raise ModelError(
                f"the phone's ONNX Runtime cannot run `{model_path}`: {told.splitlines()[-1]}",
                hint="edgeq run --on arm64 says whether the desktop's ARM64 lane takes it",
            )


@dataclass(frozen=True, slots=True)
class _Adb:
    """The adb client, talking to one device when `serial` is given."""

    program: str
    serial: str | None = None

    def start(self, *arguments: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
        target = ("-s", self.serial) if self.serial else ()
        try:
            return subprocess.run(
                [self.program, *target, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EdgeqError(
                f"`adb {arguments[0]}` gave no answer in {seconds} s", hint="adb kill-server, then again"
            ) from error

    def call(self, *arguments: str, seconds: float | None = None) -> str:
        done = self.start(*arguments, seconds=seconds)
        if done.returncode:
            told = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
            raise EdgeqError(
                f"`adb {arguments[0]}` failed: {told.splitlines()[-1]}",
                hint="adb devices shows whether the phone is still attached and allows debugging",
            )
        return done.stdout

    def shell(self, command: str) -> str:
        return self.call("shell", command)

    def property(self, name: str) -> str:
        return self.shell(f"getprop {name}").strip()

    def devices(self) -> dict[str, str]:
        lines = self.call("devices", seconds=_LIST_SECONDS).splitlines()[1:]
        pairs = (line.split("\t") for line in lines if "\t" in line)
        return {serial: state.strip() for serial, state in pairs}


def _find_adb() -> str:
    path = shutil.which("adb")
    if path is None:
        raise EdgeqError(
            "`adb` is not on PATH", hint="install Android's platform-tools, or validate with --on arm64"
        )
    return path


def _choose_device(devices: dict[str, str], serial: str | None) -> str:
    listed = ", ".join(f"{name} ({state})" for name, state in devices.items()) or "none"
    ready = [name for name, state in devices.items() if state == "device"]
    if serial is not None:
        if serial not in ready:
            raise EdgeqError(f"no usable device `{serial}`: adb lists {listed}")
        return serial
    if len(ready) != 1:
        raise EdgeqError(
            f"expected one usable device, adb lists {listed}",
            hint="attach a phone and allow USB debugging on it, or name one of several by its serial",
        )
    return ready[0]


def _external_data(model_path: Path) -> list[Path]:
    """Weights beside the model, by the names that exporters give them."""
    names = (f"{model_path.name}.data", f"{model_path.name}_data", f"{model_path.stem}.data")
    return [path for name in names if (path := model_path.with_name(name)).is_file()]
