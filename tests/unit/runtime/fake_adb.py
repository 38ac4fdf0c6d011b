"""A fake `adb`: its phone is a folder of this machine, its shell is this machine's.

Environment: FAKE_PHONE (the folder), FAKE_DEVICES (lines of `adb devices`), FAKE_ABI, FAKE_UNPLUG (a command
that fails).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PHONE = Path(os.environ["FAKE_PHONE"])
PROPERTIES = {
    "ro.product.cpu.abi": os.environ.get("FAKE_ABI", "arm64-v8a"),
    "ro.product.model": "Fake Phone",
    "ro.build.version.release": "16",
    "ro.soc.model": "FAKE1000",
}


def here(path: str) -> Path:
    assert path.startswith("/data/local/tmp/"), path
    return PHONE / path.lstrip("/")


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target / source.name if target.is_dir() else target)
    else:
        shutil.copy(source, target)


def shell(command: str) -> int:
    if match := re.fullmatch(r"getprop (\S+)", command):
        print(PROPERTIES.get(match[1], ""))
        return 0
    # The phone's folders are ours, below PHONE.
    local = command.replace("/data/local/tmp", f"{PHONE}/data/local/tmp")
    return subprocess.run(["/bin/sh", "-c", local], check=False).returncode


def main(arguments: list[str]) -> int:
    with (PHONE / "calls.log").open("a") as log:
        log.write(" ".join(arguments) + "\n")
    if arguments[0] == "devices":
        print("List of devices attached")
        print(os.environ.get("FAKE_DEVICES", "SERIAL1\tdevice"))
        return 0
    if arguments[0] == "-s":
        arguments = arguments[2:]
    if arguments[0] == os.environ.get("FAKE_UNPLUG"):
        print("error: device 'SERIAL1' not found", file=sys.stderr)
        return 1
    if arguments[0] == "push":
        copy(Path(arguments[1]), here(arguments[2]))
        return 0
    if arguments[0] == "pull":
        copy(here(arguments[1]), Path(arguments[2]))
        return 0
    return shell(arguments[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
