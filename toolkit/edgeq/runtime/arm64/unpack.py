"""Unpacking Debian packages and wheels without privileges and without installing them."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from edgeq.errors import EdgeqError
from edgeq.runtime.arm64.clients import Clients, last_lines
from edgeq.runtime.arm64.downloads import EMULATOR_NAMES

_WANTED = ("./lib/", "./usr/lib/", "./usr/bin/python3")


def unpack_root(clients: Clients, packages: Iterable[Path], root: Path) -> None:
    """Libraries and Python of ARM64 packages into a fresh `root` (with /lib merged into /usr/lib)."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "usr" / "lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    for package in packages:
        unpack_package(clients, package, root, lambda name: name.startswith(_WANTED))


def unpack_emulator(clients: Clients, package: Path, folder: Path) -> Path | None:
    """The emulator out of its package into `folder`; None when the package has no such program."""
    wanted = {f"./usr/bin/{name}" for name in EMULATOR_NAMES}
    unpack_package(clients, package, folder, lambda name: name in wanted)
    candidates = (folder / "usr" / "bin" / name for name in EMULATOR_NAMES)
    return next((path for path in candidates if path.is_file()), None)


def unpack_package(clients: Clients, package: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Members of a Debian package whose name (`./usr/...`) is wanted, into `folder`.

    Raises:
        EdgeqError: the package cannot be read.
    """
    command = [*clients.dpkg_deb, "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        problem = _extract(process.stdout, folder, wanted)
        # Reading to the end lets dpkg-deb finish instead of dying of a closed pipe.
        while process.stdout.read(1 << 20):
            pass
        stderr = process.stderr.read().decode(errors="replace")
    if process.returncode != 0 or problem:
        raise EdgeqError(
            f"cannot unpack `{package.name}`: {problem or f'dpkg-deb ended with {process.returncode}'}\n"
            f"{last_lines(stderr)}",
            hint="run the same command again; if it persists, remove the cache folder and start over",
        )


def unpack_wheels(wheels: Iterable[Path], site: Path) -> None:
    """All wheels into a fresh `site`."""
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def _extract(stream: object, folder: Path, wanted: Callable[[str], bool]) -> str | None:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                if wanted(member.name if member.name.startswith("./") else f"./{member.name}"):
                    archive.extract(member, folder, filter="tar")
    except (tarfile.TarError, OSError) as error:
        return str(error)
    return None
