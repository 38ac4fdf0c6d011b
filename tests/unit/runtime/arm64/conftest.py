"""Fake package clients: scripts on PATH that make packages, wheels and a fake emulator."""

from __future__ import annotations

import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

# The clients log each call, and fail once where a file `fail-NAME` tells them to.
_PRELUDE = """#!{python} {options}
import os, sys
from pathlib import Path
HERE = Path({here!r})
NAME = Path(sys.argv[0]).name
with (HERE / "calls.log").open("a") as log:
    log.write(NAME + " " + " ".join(sys.argv[1:]) + "\\n")
def fail_if_told(step):
    told = HERE / f"fail-{{step}}"
    if told.exists():
        print(f"{{step}}: no such thing, says the fake", file=sys.stderr)
        sys.exit(100)
"""

# The "packages" are tar files, which the fake dpkg-deb hands out as they are.
_APT_GET = """
import hashlib, io, tarfile
def tar(entries):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in entries.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text), 0o755
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()
python = "#!/bin/sh\\nexec {python} -I \\"$@\\"\\n"
PACKAGES = {{
    "root": {{
        "python3.11-minimal_3.11.2_arm64.deb": tar(
            {{"./usr/bin/python3.11": python, "./usr/share/doc/x": "no"}}
        ),
        "libc6_2.36_arm64.deb": tar({{"./lib/libc.so.6": "libc"}}),
    }},
    "qemu-user-static:amd64": {{
        "qemu-user-static_7.2_amd64.deb": tar(
            {{
                "./usr/bin/qemu-aarch64-static": (HERE / "emulator").read_text(),
                "./usr/bin/qemu-arm-static": "no",
            }}
        ),
    }},
}}
arguments = sys.argv[1:]
if "update" in arguments:
    fail_if_told("update")
    sys.exit(0)
wanted = next((name for name in PACKAGES if name in arguments), "root" if "install" in arguments else None)
if wanted is None:
    print(f"E: Unable to locate package {{arguments[-1]}}", file=sys.stderr)
    sys.exit(100)
fail_if_told("find-" + wanted.partition(":")[0])
files = PACKAGES[wanted]
if "--print-uris" in arguments:
    for name, data in files.items():
        print(f"'mirror/{{name}}' {{name}} {{len(data)}} SHA256:{{hashlib.sha256(data).hexdigest()}}")
    sys.exit(0)
fail_if_told("download-" + wanted.partition(":")[0])
for name, data in files.items():
    if not Path(name).exists():
        Path(name).write_bytes(data[:-1] if (HERE / "corrupt").exists() else data)
"""

_DPKG_DEB = """
assert sys.argv[1] == "--fsys-tarfile"
fail_if_told("unpack")
sys.stdout.buffer.write(Path(sys.argv[2]).read_bytes())
"""

_PIP = """
import zipfile
fail_if_told("pip")
while (HERE / "hang-pip").exists():
    import time
    time.sleep(0.05)
assert sys.argv[1] == "download"
target = Path(next(a for a in sys.argv if a.startswith("--dest=")).removeprefix("--dest="))
version = next(a for a in sys.argv if a.startswith("onnxruntime==")).removeprefix("onnxruntime==")
name = target / f"onnxruntime-{{version}}-cp311-cp311-manylinux_2_28_aarch64.whl"
if not name.exists():
    with zipfile.ZipFile(name, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo("onnxruntime/__init__.py"), "")
"""

# Answers what the set-up asks; as an "ARM64 Python" it computes the product that the self-test wants.
_EMULATOR = """
if "--version" in sys.argv:
    print("qemu-aarch64 version 7.2.22 (fake)")
elif "help" in sys.argv:
    print("Available CPUs:\\n  cortex-a35\\n  cortex-a76\\n  max")
    sys.exit(1)
else:
    fail_if_told("crash") if not (HERE / "fail-crash").exists() else os.kill(os.getpid(), 11)
    import json
    import numpy as np
    folder = Path(sys.argv[-1])
    request = json.loads((folder / "request.json").read_text())
    arrays = {{}}
    with np.load(folder / "inputs.npz") as inputs:
        for batch, names in enumerate(request["inputs"]):
            a, b = (inputs[f"{{batch}}.{{i}}"].astype(np.int32) for i in range(2))
            arrays[f"{{batch}}.0"] = a @ b + (HERE / "wrong").exists()
    np.savez(folder / "outputs.npz", **arrays)
    response = {{"outputs": ["y"], "onnxruntime": "1", "machine": "aarch64"}}
    (folder / "response.json").write_text(json.dumps(response))
"""


@dataclass(frozen=True, slots=True)
class FakeClients:
    """The folder of the fakes, which is all of PATH."""

    folder: Path

    def tell(self, file: str, present: bool = True) -> None:
        """Make a fake misbehave (`fail-STEP`, `corrupt`, `wrong`), or stop it."""
        if present:
            (self.folder / file).touch()
        else:
            (self.folder / file).unlink()

    def remove(self, name: str) -> None:
        """Take a client off PATH."""
        (self.folder / name).unlink()

    def calls(self, name: str) -> list[str]:
        """Arguments of every call of a client so far."""
        log = self.folder / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]

    def add(self, name: str, body: str) -> Path:
        """Put a program on PATH."""
        path = self.folder / name
        # Only the emulator needs site-packages; the others start faster without.
        options = "-I" if "numpy" in body else "-IS"
        text = (_PRELUDE + body).format(python=sys.executable, options=options, here=str(self.folder))
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeClients:
    """Fake apt-get, dpkg-deb and pip3 on an otherwise empty PATH, without emulator, on x86-64 Linux."""
    folder = tmp_path / "bin"
    folder.mkdir()
    fakes = FakeClients(folder)
    fakes.add("emulator", _EMULATOR)
    for name, body in {"apt-get": _APT_GET, "dpkg-deb": _DPKG_DEB, "pip3": _PIP}.items():
        fakes.add(name, body)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("EDGEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    # This environment has a pip of its own, which would be preferred and would go to the network.
    monkeypatch.setattr("edgeq.runtime.arm64.clients._own_pip", lambda: None)
    return fakes
